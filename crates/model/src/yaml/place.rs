//! Where something stands, and where faults go.
//!
//! It decides how a path is written and how many faults are kept. A path is only put together for a fault.

use super::scalar::shown;
use super::{Fault, MAX_FAULTS};
use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::rc::Rc;

/// Where faults go.
#[derive(Debug, Default)]
pub(super) struct Sink {
    faults: RefCell<Vec<Fault>>,
    /// Those beyond [`MAX_FAULTS`].
    more: Cell<usize>,
}

/// Where a value stands.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: Rc<str>,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) trail: Trail,
}

/// The way from the top of a document to a value; empty for the document.
pub(super) type Trail = Option<Rc<Link>>;

#[derive(Debug)]
pub(super) struct Link {
    parent: Trail,
    step: Step,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Key(Rc<str>),
    Index(usize),
}

impl Step {
    pub(super) fn below(parent: &Trail, step: Step) -> Trail {
        Some(Rc::new(Link { parent: parent.clone(), step }))
    }
}

impl Place {
    /// `mesh.yaml:12`.
    pub(super) fn line_text(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// The place of key `name` in the mapping that stands here.
    pub(super) fn below(&self, name: &str) -> Self {
        Self { trail: Step::below(&self.trail, Step::Key(name.into())), ..self.clone() }
    }

    fn path(&self) -> String {
        let mut steps = Vec::new();
        let mut at = &self.trail;
        while let Some(link) = at {
            steps.push(&link.step);
            at = &link.parent;
        }
        let mut path = String::new();
        for step in steps.into_iter().rev() {
            // writing to a String cannot fail
            let _ = match step {
                Step::Index(index) => write!(path, "[{index}]"),
                Step::Key(key) if !is_word(key) => write!(path, "[{}]", shown(key)),
                Step::Key(key) if path.is_empty() => write!(path, "{key}"),
                Step::Key(key) => write!(path, ".{key}"),
            };
        }
        path
    }
}

/// Whether a key can stand in a path without quotes.
fn is_word(key: &str) -> bool {
    !key.is_empty() && key.len() <= 64 && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

impl Sink {
    pub(super) fn fault(&self, place: &Place, message: String, remedy: Option<String>) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() >= MAX_FAULTS {
            self.more.set(self.more.get() + 1);
            return;
        }
        let (file, line, column) = (place.file.to_string(), place.line, place.column);
        faults.push(Fault { file, line, column, path: place.path(), message, remedy });
    }

    /// How many faults there are, to find out whether reading something added any.
    pub(super) fn count(&self) -> usize {
        self.faults.borrow().len() + self.more.get()
    }

    /// Whether further faults are only counted, so that no remedy need be sought for them.
    pub(super) fn is_full(&self) -> bool {
        self.faults.borrow().len() >= MAX_FAULTS
    }

    /// Sorted by file, in the order given, and place.
    pub(super) fn into_faults(self, files: &[&str]) -> Vec<Fault> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_cached_key(|f| (files.iter().position(|name| *name == f.file), f.line, f.column));
        if let (more @ 1.., Some(last)) = (self.more.get(), faults.last()) {
            let message = format!("and {more} more faults");
            faults.push(Fault { path: String::new(), message, remedy: None, ..last.clone() });
        }
        faults
    }
}
