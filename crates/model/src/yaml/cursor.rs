//! Reading a tree: a cursor knows its value, its place and where faults go.
//!
//! It decides how a value of a wrong shape is told, and that every key nobody asked for is a fault. It deliberately does
//! not know any key: those are in the modules that read a section. Whoever reads goes on after a fault, with whatever
//! default, since nothing that was read is used once there is one.

use super::place::{Place, Sink, Step, Trail};
use super::scalar::{self, shown};
use super::tree::{Key, Node, Value};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

/// A value being read.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    node: &'a Node,
    file: &'a Rc<str>,
    trail: Trail,
    sink: &'a Sink,
}

impl<'a> Cursor<'a> {
    pub(super) fn top(node: &'a Node, file: &'a Rc<str>, sink: &'a Sink) -> Self {
        Self { node, file, trail: None, sink }
    }

    fn child(&self, node: &'a Node, step: Step) -> Self {
        Self { node, trail: Step::below(&self.trail, step), ..self.clone() }
    }

    pub(super) fn place(&self) -> Place {
        let Node { line, column, .. } = *self.node;
        Place { file: self.file.clone(), line, column, trail: self.trail.clone() }
    }

    pub(super) fn sink(&self) -> &'a Sink {
        self.sink
    }

    pub(super) fn fault(&self, message: impl Into<String>) {
        self.sink.fault(&self.place(), message.into(), None);
    }

    pub(super) fn fault_with(&self, message: impl Into<String>, remedy: impl Into<String>) {
        self.sink.fault(&self.place(), message.into(), Some(remedy.into()));
    }

    /// The value is not what it should be; `wanted` completes "must be ...".
    fn must_be(&self, wanted: &str) {
        self.must_be_or(wanted, None);
    }

    pub(super) fn must_be_or(&self, wanted: &str, remedy: Option<String>) {
        let got = match &self.node.value {
            Value::Bad => return,
            Value::Null => "nothing".into(),
            Value::Text(text) => shown(text),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
        };
        self.sink.fault(&self.place(), format!("must be {wanted}, got {got}"), remedy);
    }

    /// Where `path` below this mapping stands, as far as it was written.
    pub(super) fn place_of(&self, path: &[&str]) -> Place {
        let Some((first, rest)) = path.split_first() else { return self.place() };
        let entries = if let Value::Map(entries) = &self.node.value { &entries[..] } else { &[] };
        match entries.iter().find(|(key, _)| *key.text == **first) {
            Some((key, node)) => self.child(node, Step::Key(key.text.clone())).place_of(rest),
            None => path.iter().fold(self.place(), |place, key| place.below(key)),
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.value, Value::Null)
    }
    /// Nothing, or a mapping without keys.
    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.node.value, Value::Map(entries) if entries.is_empty()) || self.is_null()
    }
    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }
    /// The text, if it is one; no fault if not.
    pub(super) fn as_text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A mapping with known keys. `None` has its fault.
    pub(super) fn map(&self, wanted: &str) -> Option<Fields<'a>> {
        let Value::Map(entries) = &self.node.value else {
            self.must_be(wanted);
            return None;
        };
        Some(Fields { at: self.clone(), entries, asked: Vec::new() })
    }

    /// A mapping whose keys are names. Nothing written is an empty one.
    pub(super) fn entries(&self, wanted: &str) -> Vec<Entry<'a>> {
        match &self.node.value {
            Value::Map(entries) => entries.iter().map(|(key, node)| self.entry(key, node)).collect(),
            Value::Null => Vec::new(),
            _ => {
                self.must_be(wanted);
                Vec::new()
            }
        }
    }

    fn entry(&self, key: &'a Key, node: &'a Node) -> Entry<'a> {
        let value = self.child(node, Step::Key(key.text.clone()));
        let place = Place { line: key.line, column: key.column, ..value.place() };
        Entry { name: &key.text, place, value }
    }

    /// A list. Nothing written is an empty one.
    pub(super) fn list(&self, wanted: &str) -> Vec<Cursor<'a>> {
        match &self.node.value {
            Value::List(items) => items.iter().enumerate().map(|(i, node)| self.child(node, Step::Index(i))).collect(),
            Value::Null => Vec::new(),
            _ => {
                self.must_be(wanted);
                Vec::new()
            }
        }
    }

    /// A list, or one value in place of a list of one.
    pub(super) fn one_or_list(&self, wanted: &str) -> Vec<Cursor<'a>> {
        match &self.node.value {
            Value::Text(_) | Value::Map(_) => vec![self.clone()],
            _ => self.list(wanted),
        }
    }

    /// A text of whatever content. `None` has its fault.
    pub(super) fn text(&self, wanted: &str) -> Option<&'a str> {
        let text = self.as_text();
        if text.is_none() {
            self.must_be(wanted);
        }
        text
    }

    /// What `parse` makes of the text; `wanted` completes "must be ...".
    pub(super) fn parse<T>(&self, wanted: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let parsed = parse(self.text(wanted)?);
        if parsed.is_none() {
            self.must_be(wanted);
        }
        parsed
    }

    /// What `parse` makes of the text, with the error's own words. A `NameError` says the text, the kind and the remedy.
    pub(super) fn name<T>(&self, parse: impl FnOnce(&str) -> Result<T, crate::name::NameError>) -> Option<T> {
        match parse(self.text("a name")?) {
            Ok(name) => Some(name),
            Err(error) => {
                self.fault(error.to_string());
                None
            }
        }
    }

    pub(super) fn integer(&self, allowed: RangeInclusive<u64>) -> Option<u64> {
        let wanted = format!("{}..{}", allowed.start(), allowed.end());
        let text = self.text(&wanted)?;
        match text.parse::<u64>() {
            Ok(number) if allowed.contains(&number) => Some(number),
            _ if is_number(text) => {
                self.fault(format!("must be {wanted}, got {}", scalar::clipped(text)));
                None
            }
            _ => {
                self.must_be(&format!("a whole number {wanted}"));
                None
            }
        }
    }

    /// `50` or `50%`.
    pub(super) fn percent(&self, allowed: RangeInclusive<u64>) -> Option<u8> {
        let wanted = format!("a percentage {}..{}", allowed.start(), allowed.end());
        let number = |text: &str| text.strip_suffix('%').unwrap_or(text).parse::<u8>().ok();
        self.parse(&wanted, |text| number(text).filter(|n| allowed.contains(&u64::from(*n))))
    }

    pub(super) fn duration(&self, allowed: RangeInclusive<Duration>) -> Option<Duration> {
        let bounds = format!("{}..{}", scalar::duration_text(*allowed.start()), scalar::duration_text(*allowed.end()));
        let text = self.text(&format!("a duration {bounds}"))?;
        match scalar::parse_duration(text) {
            Some(duration) if allowed.contains(&duration) => Some(duration),
            Some(_) => {
                self.fault(format!("must be {bounds}, got {}", scalar::clipped(text)));
                None
            }
            None if is_number(text) => {
                let message = format!("must be a duration {bounds}, got {} without a unit", scalar::clipped(text));
                self.fault_with(message, format!("write {0}s or {0}ms", scalar::clipped(text)));
                None
            }
            None => {
                let remedy = "write it like 250ms, 5s, 1m30s or 2h";
                self.must_be_or(&format!("a duration {bounds}"), Some(remedy.into()));
                None
            }
        }
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let wanted = words.join(" | ");
        let text = self.text(&wanted)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        self.must_be_or(&wanted, scalar::did_you_mean(text, words));
        None
    }

    /// `true` or `false` and nothing else.
    pub(super) fn boolean(&self) -> Option<bool> {
        self.choice(&[("true", true), ("false", false)])
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// A name and what it names.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    /// Of the name.
    pub(super) place: Place,
    pub(super) value: Cursor<'a>,
}

impl Entry<'_> {
    pub(super) fn fault(&self, message: impl Into<String>) {
        self.value.sink.fault(&self.place, message.into(), None);
    }
}

/// The keys of a mapping: each is asked for by name, and what nobody asked for is a fault in the end.
#[must_use = "call finish, or unknown keys go unnoticed"]
pub(super) struct Fields<'a> {
    at: Cursor<'a>,
    entries: &'a [(Key, Node)],
    asked: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub(super) fn get(&mut self, name: &'static str) -> Option<Cursor<'a>> {
        self.asked.push(name);
        let (key, node) = self.entries.iter().find(|(key, _)| *key.text == *name)?;
        Some(self.at.child(node, Step::Key(key.text.clone())))
    }

    /// Like [`Fields::get`], but not to be left out.
    pub(super) fn required(&mut self, name: &'static str, what: &str) -> Option<Cursor<'a>> {
        let found = self.get(name);
        if found.is_none() {
            self.at.sink.fault(&self.at.place().below(name), format!("must be given: {what}"), None);
        }
        found
    }

    pub(super) fn finish(self) {
        for (key, node) in self.entries.iter().filter(|(key, _)| !self.asked.contains(&&*key.text)) {
            if self.at.sink.is_full() {
                self.at.fault("unknown key");
                continue;
            }
            let entry = self.at.entry(key, node);
            let remedy = scalar::did_you_mean(&key.text, self.asked.iter().copied())
                .unwrap_or_else(|| format!("known here: {}", self.asked.join(", ")));
            self.at.sink.fault(&entry.place, "unknown key".into(), Some(remedy));
        }
    }
}
