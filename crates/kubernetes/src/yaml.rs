//! Kubernetes manifests as text: YAML in, JSON values out, and back.
//!
//! It decides what a plain word means exactly as `kubectl` does (go-yaml, YAML 1.1): `0644` is octal, `on` is true. A reader
//! of YAML 1.2 would make another file mode of `defaultMode: 0644`. Anchors and merge keys work, since manifests have them.
//! It deliberately keeps neither comments nor places: what is wrong with a field the API server says.
//!
//! Invariant: no input takes more than [`MAX_NODES`] values or nests deeper than [`MAX_DEPTH`], aliases counted.

mod plain;
mod write;

use plain::resolve;
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub use write::write;

/// How deep values may nest.
pub const MAX_DEPTH: usize = 128;
/// The most values in one text.
pub const MAX_NODES: usize = 1_000_000;

/// Why a text is not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct YamlError {
    /// From 1.
    pub line: usize,
    pub message: String,
}

/// The documents of `text`; empty ones are left out.
///
/// # Errors
/// What is not YAML, or has tags, or is too much.
pub fn read(text: &str) -> Result<Vec<Value>, YamlError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| YamlError { line: e.marker().line(), message: e.info().to_owned() })?;
        builder.event(event).map_err(|message| YamlError { line: span.start.line(), message })?;
    }
    builder.documents.retain(|document| !document.is_null());
    Ok(builder.documents)
}

#[derive(Default)]
struct Builder {
    /// The collections that are open, outermost first.
    open: Vec<(Open, usize)>,
    documents: Vec<Value>,
    /// What was anchored in this document, and how many values it holds.
    anchors: BTreeMap<usize, (Value, usize)>,
    nodes: usize,
}

enum Open {
    List(Vec<Value>),
    /// With the key whose value comes next, and what is merged in at the end.
    Map(Map<String, Value>, Option<Key>, Vec<Value>),
}

enum Key {
    Named(String),
    Merge,
}

impl Builder {
    fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let value = match tag.as_deref() {
                    None if plain && self.awaits_key() => return self.key(&text, text == "<<"),
                    None if self.awaits_key() => return self.key(&text, false),
                    None if plain => resolve(&text),
                    None => Value::String(text.into_owned()),
                    Some(tag) if tag.suffix == "str" => Value::String(text.into_owned()),
                    Some(tag) => return Err(format!("the tag !{} is not supported: leave it out", tag.suffix)),
                };
                self.value(value, anchor)
            }
            Event::Alias(anchor) => {
                let (value, size) = self.anchors.get(&anchor).cloned().ok_or("an alias of nothing")?;
                self.count(size)?;
                self.value(value, 0)
            }
            Event::SequenceStart(anchor, _) => self.open(Open::List(Vec::new()), anchor),
            Event::MappingStart(anchor, _) => self.open(Open::Map(Map::new(), None, Vec::new()), anchor),
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => Ok(()),
        }
    }

    fn count(&mut self, more: usize) -> Result<(), String> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES { Err(format!("holds more than {MAX_NODES} values")) } else { Ok(()) }
    }

    fn awaits_key(&self) -> bool {
        matches!(self.open.last(), Some((Open::Map(_, None, _), _)))
    }

    fn key(&mut self, text: &str, merge: bool) -> Result<(), String> {
        self.count(1)?;
        if let Some((Open::Map(entries, key, _), _)) = self.open.last_mut() {
            if entries.contains_key(text) {
                return Err(format!("the key {text:?} is written twice"));
            }
            *key = Some(if merge { Key::Merge } else { Key::Named(text.to_owned()) });
        }
        Ok(())
    }

    fn open(&mut self, open: Open, anchor: usize) -> Result<(), String> {
        if self.awaits_key() {
            return Err("a key must be text".into());
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("nests deeper than {MAX_DEPTH} levels"));
        }
        self.open.push((open, anchor));
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let (open, anchor) = self.open.pop().ok_or("ends what has not begun")?;
        let value = match open {
            Open::List(items) => Value::Array(items),
            Open::Map(mut entries, _, merged) => {
                for more in merged {
                    merge(&mut entries, more)?;
                }
                Value::Object(entries)
            }
        };
        self.value(value, anchor)
    }

    fn value(&mut self, value: Value, anchor: usize) -> Result<(), String> {
        self.count(1)?;
        if anchor > 0 {
            let size = size(&value);
            self.anchors.insert(anchor, (value.clone(), size));
        }
        match self.open.last_mut() {
            None => self.documents.push(value),
            Some((Open::List(items), _)) => items.push(value),
            Some((Open::Map(entries, key, merged), _)) => match key.take() {
                Some(Key::Named(key)) => drop(entries.insert(key, value)),
                Some(Key::Merge) => merged.push(value),
                None => return Err("a key must be text".into()),
            },
        }
        Ok(())
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Object(entries) => 1 + entries.values().map(|value| 1 + size(value)).sum::<usize>(),
        _ => 1,
    }
}

/// What is written wins over what is merged in.
fn merge(entries: &mut Map<String, Value>, more: Value) -> Result<(), String> {
    match more {
        Value::Object(more) => {
            for (key, value) in more {
                entries.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(all) => all.into_iter().try_for_each(|one| merge(entries, one)),
        _ => Err("<< must be followed by a mapping".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_mean_what_kubectl_takes_them_for() {
        let read =
            read("{a: 0644, b: on, c: '0644', d: 1_000, e: 0.5, f: 10.0.0.1, g: ~, h: 1e3, i: 089, j: 0x10, k: -7}");
        let wanted = json!({
            "a": 420, "b": true, "c": "0644", "d": 1000, "e": 0.5, "f": "10.0.0.1", "g": null, "h": 1000.0, "i": 89.0,
            "j": 16, "k": -7
        });
        assert_eq!(read, Ok(vec![wanted]));
    }

    #[test]
    fn documents_anchors_and_merge_keys_are_read() {
        let text =
            "---\nbase: &b {x: 1, y: 2}\nmore:\n  <<: *b\n  y: 3\nsame: *b\n---\n---\nsecond: |\n  two\n  lines\n";
        let first = json!({"base": {"x": 1, "y": 2}, "more": {"y": 3, "x": 1}, "same": {"x": 1, "y": 2}});
        assert_eq!(read(text), Ok(vec![first, json!({"second": "two\nlines\n"})]));
    }

    #[test]
    fn a_few_lines_cannot_become_a_gigabyte() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let before = format!("*a{}, ", n - 1).repeat(10);
            text += &format!("a{n}: &a{n} [{before}]\n");
        }
        assert!(read(&text).unwrap_err().message.contains("more than"));
    }

    #[test]
    fn what_is_no_manifest_is_refused_with_its_line() {
        for (text, line) in [("a: 1\na: 2\n", 2), ("a: !!binary x\n", 1), ("a: [1\nb: 2", 2), ("? [a]\n: b\n", 1)] {
            assert_eq!(read(text).map_err(|e| e.line), Err(line), "{text}");
        }
        assert!(read(&"[".repeat(1_000)).is_err());
    }
}
