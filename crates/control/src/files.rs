//! Which files are the configuration, and whether they have changed.
//!
//! It decides by path, modification time, change time, size, device and inode, all after following symlinks: a
//! Kubernetes ConfigMap (which swaps the symlink `..data`) and an editor (which renames a new file over the old) are
//! seen as surely as a write in place. It deliberately polls instead of using inotify, which sees neither of these
//! reliably, nothing on network file systems, and costs an edge case for each editor.
//!
//! Invariant: what is read is bounded, in number and in size.

use fusewire_model::yaml::{Fault, MAX_SIZE, Source};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const MAX_FILES: usize = 10_000;

/// A file as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    path: PathBuf,
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
    inode: (u64, u64),
}

impl Stamp {
    fn of(path: PathBuf, meta: &std::fs::Metadata) -> Self {
        Self {
            path,
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            size: meta.size(),
            inode: (meta.dev(), meta.ino()),
        }
    }

    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// The files that `paths` mean now, folders in the order of their names.
pub(crate) fn scan(paths: &[PathBuf]) -> Result<Vec<Stamp>, Fault> {
    let mut stamps = Vec::new();
    for path in paths {
        let meta = std::fs::metadata(path).map_err(|e| missing(path, &e))?;
        if meta.is_dir() {
            folder(path, &mut stamps)?;
        } else if meta.is_file() {
            stamps.push(Stamp::of(path.clone(), &meta));
        } else {
            // reading a pipe would wait for its writer, and it can be read only once
            return Err(fault(path, "is neither a file nor a folder", "write the configuration to a file"));
        }
        if stamps.len() > MAX_FILES {
            let message = format!("must hold at most {MAX_FILES} files together");
            return Err(fault(path, message, "put several objects into one file"));
        }
    }
    Ok(stamps)
}

fn folder(path: &Path, stamps: &mut Vec<Stamp>) -> Result<(), Fault> {
    let first = stamps.len();
    for entry in std::fs::read_dir(path).map_err(|e| missing(path, &e))? {
        let entry = entry.map_err(|e| missing(path, &e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') || !(name.ends_with(".yaml") || name.ends_with(".yml")) {
            continue;
        }
        // follows symlinks; one that points nowhere is a file in the middle of being swapped, or a fault to tell
        let file = entry.path();
        let meta = std::fs::metadata(&file).map_err(|e| missing(&file, &e))?;
        if meta.is_file() {
            stamps.push(Stamp::of(file, &meta));
        }
    }
    stamps[first..].sort_by(|a, b| a.path.cmp(&b.path));
    Ok(())
}

/// The texts of `stamps`; every file that cannot be read is a fault of its own.
pub(crate) fn read(stamps: &[Stamp]) -> Result<Vec<Source>, Vec<Fault>> {
    let mut sources = Vec::with_capacity(stamps.len());
    let mut faults = Vec::new();
    for stamp in stamps {
        match read_one(stamp) {
            Ok(text) => sources.push(Source { name: stamp.name(), text }),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(sources) } else { Err(faults) }
}

fn read_one(stamp: &Stamp) -> Result<String, Fault> {
    let mut bytes = Vec::new();
    // it may have grown since it was looked at
    let read = File::open(&stamp.path).and_then(|file| file.take(MAX_SIZE as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|e| missing(&stamp.path, &e))?;
    if bytes.len() > MAX_SIZE {
        let message = format!("must be at most {} MiB", MAX_SIZE >> 20);
        return Err(fault(&stamp.path, message, "spread it over several files"));
    }
    String::from_utf8(bytes).map_err(|e| {
        fault(&stamp.path, format!("is not UTF-8 from byte {}", e.utf8_error().valid_up_to()), "save it as UTF-8")
    })
}

fn missing(path: &Path, error: &std::io::Error) -> Fault {
    let remedy = match error.kind() {
        std::io::ErrorKind::NotFound => "create it, or name the right file or folder with --config",
        std::io::ErrorKind::PermissionDenied => "let the control plane's user read it",
        _ => "make it readable",
    };
    fault(path, format!("cannot be read: {error}"), remedy)
}

/// A fault of a whole file or folder.
pub(crate) fn fault(path: &Path, message: impl Into<String>, remedy: &str) -> Fault {
    Fault {
        file: path.display().to_string(),
        line: 1,
        column: 1,
        path: String::new(),
        message: message.into(),
        remedy: Some(remedy.to_owned()),
    }
}
