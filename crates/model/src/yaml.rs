//! YAML in, types or faults out.
//!
//! It decides whether what operators wrote is a mesh, and says everything that is wrong with it at once: every fault of
//! every file, each with its file, line, column and path, and what is allowed there. It deliberately does not read files,
//! and does not go through serde, whose parsers stop at the first fault and lose where it was.
//!
//! Several files, and several documents in one, are one mesh. Anchors without aliases mean nothing; aliases, merge keys
//! and tags are refused: what a file says is what stands there, and eight lines cannot grow to a gigabyte.
//!
//! `tests/it/example.yaml` writes each key of the schema at least once; what a key means stands at the field it becomes.
//!
//! Invariant: no input panics, overflows the stack or takes more memory than a fixed multiple of its size: [`MAX_SIZE`],
//! [`MAX_DEPTH`], [`MAX_NODES`] and [`MAX_FAULTS`] bound it.

mod cursor;
mod emit;
mod health;
mod mesh;
mod objects;
mod place;
mod policy;
mod refs;
mod route;
mod scalar;
mod service;
mod sidecar;
mod tree;

use crate::node::SidecarSettings;
use crate::world::Mesh;
use std::fmt;

pub use objects::{Applied, Definition, Merged, ObjectKind, ObjectName, Objects, apply, definitions, merge};
pub use scalar::{duration_text, parse_duration};
pub use sidecar::parse_mark;

/// The largest source: 4 MiB, some 30,000 instances with labels.
pub const MAX_SIZE: usize = 4 << 20;
/// How deep values may nest; the schema needs 8.
pub const MAX_DEPTH: usize = 64;
/// The most values in one source.
pub const MAX_NODES: usize = 500_000;
/// The most faults that are told one by one; the last then says how many more there are.
pub const MAX_FAULTS: usize = 200;

/// One file, or whatever else a text came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The name to show in faults, such as `mesh.yaml`.
    pub name: String,
    pub text: String,
}

/// What is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Such as `services.checkout.breaker.instance.consecutive`; empty for a whole file.
    pub path: String,
    /// Lower case, says what is allowed.
    pub message: String,
    /// Such as `did you mean "instances"?`.
    pub remedy: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, " ({remedy})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

/// What the sources say together.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    pub mesh: Mesh,
    /// The `sidecar:` section, if one of the sources has it.
    pub sidecar: Option<SidecarSettings>,
}

/// Reads `sources` as one mesh. Nothing written is an empty mesh.
///
/// # Errors
/// Every fault of every source, in the order of sources and lines.
pub fn parse(sources: &[Source]) -> Result<Parsed, Vec<Fault>> {
    let sink = place::Sink::default();
    let files: Vec<tree::File> = sources.iter().map(|source| tree::read(source, &sink)).collect();
    let draft = mesh::draft(&files, &sink);
    // With a file or half of one unread, "not defined" would be a guess.
    if files.iter().all(|file| file.whole) {
        refs::check(&draft, &sink);
    }
    let order: Vec<&str> = sources.iter().map(|s| s.name.as_str()).collect();
    let faults = sink.into_faults(&order);
    if faults.is_empty() { Ok(draft.finish()) } else { Err(faults) }
}
