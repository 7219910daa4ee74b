//! Back from a tree to text: one object as a file of its own, in one canonical form.
//!
//! It decides how values are written: block style, two spaces, one value a line, in the order in which they were written,
//! quoted wherever any YAML reader could take the text for something else. It deliberately keeps no comments and no line
//! breaks: what is compared and kept is what was said.
//!
//! Invariant: reading what is written gives the same tree again.

use super::tree::{Node, Value};
use std::fmt::Write;

/// YAML 1.2, 7.4.2: an implicit key is at most 1,024 characters long; a longer one is written with `?`.
const MAX_IMPLICIT_KEY: usize = 1_000;

/// A file of one object: `section:`, below it `name:`, below that `value`.
pub(super) fn named(section: &str, name: &str, value: &Node) -> String {
    let mut out = format!("{section}:\n  ");
    entry(name, value, 2, &mut out);
    out
}

/// A file of one object in a list: `section:`, below it one item.
pub(super) fn listed(section: &str, value: &Node) -> String {
    let mut out = format!("{section}:\n  - ");
    node(value, 4, &mut out);
    out
}

/// The value, where `indent` columns are written; what follows the first line is indented by as much.
fn node(value: &Node, indent: usize, out: &mut String) {
    match &value.value {
        Value::Map(entries) if !entries.is_empty() => {
            for (number, (key, value)) in entries.iter().enumerate() {
                margin(number, indent, out);
                entry(&key.text, value, indent, out);
            }
        }
        Value::List(items) if !items.is_empty() => {
            for (number, item) in items.iter().enumerate() {
                margin(number, indent, out);
                out.push_str("- ");
                node(item, indent + 2, out);
            }
        }
        Value::Map(_) => out.push_str("{}\n"),
        Value::List(_) => out.push_str("[]\n"),
        // what is bad has its fault, and is never written
        Value::Null | Value::Bad => out.push_str("null\n"),
        Value::Text(text) => {
            scalar(text, value.quoted, out);
            out.push('\n');
        }
    }
}

/// The first line's margin has been written by whoever stands before it.
fn margin(number: usize, indent: usize, out: &mut String) {
    if number > 0 {
        spaces(indent, out);
    }
}

fn spaces(count: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', count));
}

fn entry(key: &str, value: &Node, indent: usize, out: &mut String) {
    let begin = out.len();
    scalar(key, true, out);
    if out.len() - begin > MAX_IMPLICIT_KEY {
        out.insert_str(begin, "? ");
        out.push('\n');
        spaces(indent, out);
        out.push_str(": ");
        return node(value, indent + 2, out);
    }
    out.push(':');
    match &value.value {
        Value::Map(entries) if !entries.is_empty() => out.push('\n'),
        Value::List(items) if !items.is_empty() => out.push('\n'),
        _ => {
            out.push(' ');
            return node(value, indent, out);
        }
    }
    spaces(indent + 2, out);
    node(value, indent + 2, out);
}

fn scalar(text: &str, quoted: bool, out: &mut String) {
    if !is_plain(text) || is_null(text) || (quoted && is_ambiguous(text)) {
        quote(text, out)
    } else {
        out.push_str(text)
    }
}

/// Whether a text without quotes is read as this text, wherever it stands. Stricter than YAML: no reader differs here.
fn is_plain(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"_-./:@+%=~ ".contains(&b);
    let first = |b: u8| b.is_ascii_alphanumeric() || b"_/".contains(&b);
    text.as_bytes().first().is_some_and(|b| first(*b))
        && text.bytes().all(inside)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
}

fn is_null(text: &str) -> bool {
    matches!(text, "null" | "Null" | "NULL" | "~")
}

/// Whether some reader takes it for a number, a date or a boolean (YAML 1.1 has `on`, `yes` and `y`).
fn is_ambiguous(text: &str) -> bool {
    const WORDS: [&str; 8] = ["true", "false", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_digit()) || WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// YAML 1.2, 7.3.1. What is not printable is escaped, and so are the characters that some readers take for line breaks.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // writing to a String cannot fail
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::super::place::Sink;
    use super::super::tree::{self, Key};
    use super::super::{MAX_DEPTH, Source};
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn of(value: Value, quoted: bool) -> Node {
        Node { line: 0, column: 0, quoted, value }
    }

    fn text() -> impl Strategy<Value = String> {
        let odd = vec![
            "",
            " ",
            "~",
            "null",
            "NULL",
            "true",
            "off",
            "1",
            "1.5",
            "0x10",
            "10.0.0.7:8080",
            "[::1]:80",
            "- a",
            "-",
            "--- ",
            "...",
            "a: b",
            "a:",
            "a #b",
            "#a",
            "? a",
            ": a",
            "&a",
            "*a",
            "!a",
            "%a",
            "@a",
            "`a",
            "{a}",
            "[a]",
            "a, b",
            "|",
            ">",
            "'",
            "\"",
            "\\",
            "a\nb",
            "\n",
            " a",
            "a ",
            "\t",
            "\u{0}",
            "\u{85}",
            "\u{2028}",
            "\u{feff}",
            "é",
            "😀",
            "<<",
            "=",
            "1:30",
            "2026-11-22",
            "\r\n",
            "a\u{7f}",
        ];
        prop_oneof![prop::sample::select(odd).prop_map(String::from), "[ -~]{0,12}", any::<String>()]
    }

    fn tree() -> impl Strategy<Value = Node> {
        let leaf = prop_oneof![
            4 => (text(), any::<bool>()).prop_map(|(text, quoted)| of(Value::Text(text.into()), quoted)),
            1 => Just(()).prop_map(|()| of(Value::Null, false)),
        ];
        leaf.prop_recursive(6, 40, 5, |inner| {
            let key = prop_oneof![8 => text(), 1 => "k{1005,1100}"];
            let entries = prop::collection::btree_map(key, inner.clone(), 0..5).prop_map(|entries| {
                let key = |text: String| Key { line: 0, column: 0, text: text.into() };
                of(Value::Map(entries.into_iter().map(|(text, node)| (key(text), node)).collect()), false)
            });
            prop_oneof![vec(inner, 0..5).prop_map(|items| of(Value::List(items), false)), entries]
        })
    }

    /// What a tree says, without places.
    fn said(node: &Node) -> String {
        match &node.value {
            Value::Text(text) => format!("{text:?}"),
            Value::Null => "null".into(),
            Value::Bad => "bad".into(),
            Value::List(items) => format!("[{}]", items.iter().map(|n| said(n) + ",").collect::<String>()),
            Value::Map(entries) => {
                format!("{{{}}}", entries.iter().map(|(k, n)| format!("{:?}:{},", k.text, said(n))).collect::<String>())
            }
        }
    }

    fn read(text: &str) -> Node {
        let sink = Sink::default();
        let mut file = tree::read(&Source { name: "x".into(), text: text.into() }, &sink);
        assert_eq!((file.documents.len(), sink.into_faults(&["x"])), (1, Vec::new()), "{text}");
        file.documents.remove(0)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_as_the_same(name in text(), value in tree()) {
            let written = named("services", &name, &value);
            prop_assert_eq!(said(&read(&written)), format!("{{\"services\":{{{name:?}:{},}},}}", said(&value)), "{}", written);
            let written = listed("overrides", &value);
            prop_assert_eq!(said(&read(&written)), format!("{{\"overrides\":[{},],}}", said(&value)), "{}", written);
        }

        #[test]
        fn what_is_written_again_is_written_alike(value in tree()) {
            let written = listed("a", &value);
            let again = read(&written);
            let Value::Map(entries) = &again.value else { panic!("no mapping") };
            let Value::List(items) = &entries[0].1.value else { panic!("no list") };
            prop_assert_eq!(listed("a", &items[0]), written);
        }
    }

    #[test]
    fn what_nests_as_deep_as_is_allowed_is_read_again() {
        let deep = (0..MAX_DEPTH - 2).fold(of(Value::Null, false), |inner, _| of(Value::List(vec![inner]), false));
        let written = listed("a", &deep);
        assert!(said(&read(&written)).contains("null"));
    }
}
