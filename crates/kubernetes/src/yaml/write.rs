//! Values as YAML for people: block style, two spaces, texts of several lines as they are.
//!
//! Invariant: whatever reader of YAML 1.1 or 1.2 reads it has the same values; where readers differ there are quotes.

use serde_json::{Map, Value};

/// The documents, `---` between them.
pub fn write(documents: &[Value]) -> String {
    let mut out = String::new();
    for (n, document) in documents.iter().enumerate() {
        if n > 0 {
            out.push_str("---\n");
        }
        node(document, 0, &mut out);
    }
    out
}

/// The value, where `indent` columns are written already, and its line break.
fn node(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(entries) if !entries.is_empty() => map(entries, indent, out),
        Value::Array(items) if !items.is_empty() => {
            for (n, item) in items.iter().enumerate() {
                margin(n, indent, out);
                out.push_str("- ");
                node(item, indent + 2, out);
            }
        }
        Value::Object(_) => out.push_str("{}\n"),
        Value::Array(_) => out.push_str("[]\n"),
        Value::String(text) if is_block(text) => block(text, indent, out),
        Value::String(text) => {
            out.push_str(&scalar(text));
            out.push('\n');
        }
        other => {
            out.push_str(&other.to_string());
            out.push('\n');
        }
    }
}

fn map(entries: &Map<String, Value>, indent: usize, out: &mut String) {
    for (n, (key, value)) in entries.iter().enumerate() {
        margin(n, indent, out);
        out.push_str(&scalar(key));
        out.push(':');
        match value {
            Value::Object(below) if !below.is_empty() => {
                out.push('\n');
                margin(1, indent + 2, out);
                node(value, indent + 2, out);
            }
            // as kubectl writes it: a list stands below its key, not further in
            Value::Array(below) if !below.is_empty() => {
                out.push('\n');
                margin(1, indent, out);
                node(value, indent, out);
            }
            _ => {
                out.push(' ');
                node(value, indent + 2, out);
            }
        }
    }
}

/// The first line's margin has been written by whoever stands before it.
fn margin(n: usize, indent: usize, out: &mut String) {
    if n > 0 {
        out.extend(std::iter::repeat_n(' ', indent));
    }
}

/// Whether it can stand as it is, below `|`.
fn is_block(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let printable = |c: char| c == '\n' || !(c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}'));
    body.contains('\n')
        && !body.starts_with([' ', '\n'])
        && !body.ends_with(['\n', ' '])
        && text.chars().all(printable)
        && !body.lines().any(|line| !line.is_empty() && line.trim().is_empty())
}

fn block(text: &str, indent: usize, out: &mut String) {
    out.push_str(if text.ends_with('\n') { "|\n" } else { "|-\n" });
    let indent = indent.max(2); // a document that is a text
    for line in text.lines() {
        if !line.is_empty() {
            margin(1, indent, out);
            out.push_str(line);
        }
        out.push('\n');
    }
}

fn scalar(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

/// Stricter than YAML: no reader differs here.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 10] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan"];
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"_-./+%=() ".contains(&b);
    let first = |b: u8| b.is_ascii_alphabetic() || b"_/".contains(&b);
    let colons = text.bytes().zip(text.bytes().skip(1)).all(|(a, b)| a != b':' || !b" \t".contains(&b));
    text.as_bytes().first().is_some_and(|b| first(*b))
        && text.bytes().all(|b| inside(b) || b == b':')
        && colons
        && !text.ends_with([' ', ':'])
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

fn quoted(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') => {
                let _ = write!(out, "\\U{:08x}", u32::from(c)); // writing to a String cannot fail
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = String> {
        let odd = [
            "",
            " ",
            "~",
            "null",
            "on",
            "y",
            "0644",
            "1e3",
            "1_0",
            ".5",
            "a: b",
            "a:",
            "a #b",
            "#a",
            "- a",
            "? a",
            "&a",
            "*a",
            "!a",
            "%a",
            "|",
            ">",
            "a\nb",
            "a\nb\n",
            "a\n\n",
            "\na\nb",
            " a\nb",
            "a\n \nb",
            "a\n\tb",
            "\t",
            "\u{85}",
            "\u{2028}",
            "\u{feff}",
            "<<",
            "=",
            "2026-11-22",
            "\r\n",
            "a\r\nb",
            "---\nb",
            "k: v\n- x\n",
            "a \nb",
        ];
        prop_oneof![prop::sample::select(odd.to_vec()).prop_map(String::from), "[ -~]{0,12}", any::<String>()]
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            6 => text().prop_map(Value::String),
            1 => Just(Value::Null),
            1 => any::<bool>().prop_map(Value::Bool),
            1 => any::<i64>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                prop::collection::btree_map(text(), inner, 0..5).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_as_the_same(values in prop::collection::vec(value(), 1..3)) {
            let written = write(&values);
            let wanted: Vec<Value> = values.into_iter().filter(|value| !value.is_null()).collect();
            prop_assert_eq!(read(&written), Ok(wanted), "{}", written);
        }
    }
}
