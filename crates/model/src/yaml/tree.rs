//! From text to a tree of values that know their place.
//!
//! It decides what is YAML at all, and refuses what this project does without: aliases, tags, keys that are not text, keys
//! written twice. It deliberately does not give scalars types: `off`, `1` and `10.0.0.7:8080` stay as written until someone
//! knows what they should be.
//!
//! Built from the parser's events rather than from its own loader, which descends recursively and so ends the process on
//! a few thousand brackets. Invariant: nesting never exceeds [`MAX_DEPTH`], so that whoever walks the tree may recurse.

use super::place::{Place, Sink, Step, Trail};
use super::{MAX_DEPTH, MAX_NODES, MAX_SIZE, Source};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) column: usize,
    /// Whether a text stood in quotes; that says nothing to us, but something to other readers of what is written back.
    pub(super) quoted: bool,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    /// As written; never null.
    Text(Box<str>),
    Null,
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
    /// Something that already has its fault.
    Bad,
}

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) text: Rc<str>,
}

/// The documents of one source.
#[derive(Debug)]
pub(super) struct File {
    pub(super) name: Rc<str>,
    pub(super) documents: Vec<Node>,
    /// `false`: it could not be read to its end.
    pub(super) whole: bool,
}

/// Reads `source` as far as it is YAML.
pub(super) fn read(source: &Source, sink: &Sink) -> File {
    let name: Rc<str> = source.name.as_str().into();
    let mut builder = Builder { file: &name, sink, frames: Vec::new(), documents: Vec::new(), nodes: 0 };
    let whole = if source.text.len() > MAX_SIZE {
        let message = format!("must be at most {} MiB, got {} bytes", MAX_SIZE >> 20, source.text.len());
        sink.fault(&builder.place(1, 1), message, Some("split it into several files".into()));
        false
    } else {
        // a byte order mark is no part of the text
        let text = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text);
        builder.run(text)
    };
    File { documents: builder.documents, whole, name }
}

struct Builder<'a> {
    file: &'a Rc<str>,
    sink: &'a Sink,
    /// The collections that are open, outermost first.
    frames: Vec<Frame>,
    documents: Vec<Node>,
    nodes: usize,
}

struct Frame {
    line: usize,
    column: usize,
    open: Open,
}

enum Open {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, lines: BTreeMap<Rc<str>, usize>, next: Next },
}

/// What a mapping waits for.
enum Next {
    Key,
    ValueOf(Key),
    /// The value of a key that already has its fault.
    Ignored,
}

impl Builder<'_> {
    /// `false` when the text ends before its end.
    fn run(&mut self, text: &str) -> bool {
        for event in Parser::new_from_str(text) {
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) => {
                    let place = self.place(error.marker().line(), error.marker().col() + 1);
                    self.sink.fault(&place, format!("is not YAML: {}", error.info()), None);
                    return false;
                }
            };
            if !self.event(event, span) {
                return false;
            }
        }
        true
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> bool {
        let (line, column) = (span.start.line(), span.start.col() + 1);
        match event {
            Event::Scalar(text, style, _, tag) => {
                let plain = style == ScalarStyle::Plain;
                if tag.is_some() {
                    self.refuse(line, column, "tags are not supported", "leave out what begins with !");
                }
                let null = plain && matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Text(text.into()) };
                self.value(Node { line, column, quoted: !plain, value })
            }
            Event::Alias(_) => {
                let remedy = "write the value out, or give it a name: a policy serves many services";
                self.refuse(line, column, "aliases are not supported", remedy);
                self.value(Node { line, column, quoted: false, value: Value::Bad })
            }
            Event::SequenceStart(_, tag) => self.open(line, column, tag.is_some(), Open::List(Vec::new())),
            Event::MappingStart(_, tag) => {
                let map = Open::Map { entries: Vec::new(), lines: BTreeMap::new(), next: Next::Key };
                self.open(line, column, tag.is_some(), map)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                true
            }
        }
    }

    fn open(&mut self, line: usize, column: usize, tagged: bool, open: Open) -> bool {
        if tagged {
            self.refuse(line, column, "tags are not supported", "leave out what begins with !");
        }
        if self.frames.len() >= MAX_DEPTH {
            let message = format!("nests deeper than {MAX_DEPTH} levels");
            self.sink.fault(&self.place(line, column), message, None);
            return false;
        }
        self.frames.push(Frame { line, column, open });
        true
    }

    fn close(&mut self) -> bool {
        let Some(Frame { line, column, open }) = self.frames.pop() else { return false };
        let value = match open {
            Open::List(items) => Value::List(items),
            Open::Map { entries, .. } => Value::Map(entries),
        };
        self.value(Node { line, column, quoted: false, value })
    }

    /// Puts a finished value where it belongs.
    fn value(&mut self, mut node: Node) -> bool {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("must hold at most {MAX_NODES} values");
            self.sink.fault(&self.place(node.line, node.column), message, Some("split it into several files".into()));
            return false;
        }
        let Some(frame) = self.frames.last_mut() else {
            self.documents.push(node);
            return true;
        };
        match &mut frame.open {
            Open::List(items) => items.push(node),
            Open::Map { entries, next, .. } => match std::mem::replace(next, Next::Key) {
                Next::Key => self.key(node),
                Next::Ignored => {}
                Next::ValueOf(key) => {
                    if matches!(node.value, Value::Null) {
                        // nothing was written: point at the key rather than at whatever follows
                        (node.line, node.column) = (key.line, key.column);
                    }
                    entries.push((key, node));
                }
            },
        }
        true
    }

    fn key(&mut self, node: Node) {
        let Node { line, column, value, .. } = node;
        let next = match value {
            Value::Bad => Next::Ignored,
            Value::Text(text) => self.named_key(Key { line, column, text: text.into() }),
            Value::Null | Value::List(_) | Value::Map(_) => {
                self.sink.fault(&self.place(line, column), "a key must be text".into(), None);
                Next::Ignored
            }
        };
        if let Some(Frame { open: Open::Map { next: slot, .. }, .. }) = self.frames.last_mut() {
            *slot = next;
        }
    }

    fn named_key(&mut self, key: Key) -> Next {
        let Some(Frame { open: Open::Map { lines, .. }, .. }) = self.frames.last_mut() else { return Next::Ignored };
        if let Some(first) = lines.get(&key.text) {
            let message = format!("is already written in line {first}");
            let mut place = self.place(key.line, key.column);
            place.trail = Step::below(&place.trail, Step::Key(key.text));
            self.sink.fault(&place, message, Some("keep one".into()));
            return Next::Ignored;
        }
        lines.insert(key.text.clone(), key.line);
        Next::ValueOf(key)
    }

    fn refuse(&self, line: usize, column: usize, message: &str, remedy: &str) {
        self.sink.fault(&self.place(line, column), message.into(), Some(remedy.into()));
    }

    /// A place within the collections that are open.
    fn place(&self, line: usize, column: usize) -> Place {
        let trail = self.frames.iter().fold(Trail::default(), |trail, frame| match &frame.open {
            Open::List(items) => Step::below(&trail, Step::Index(items.len())),
            Open::Map { next: Next::ValueOf(key), .. } => Step::below(&trail, Step::Key(key.text.clone())),
            Open::Map { .. } => trail,
        });
        Place { file: self.file.clone(), line, column, trail }
    }
}
