//! Small files that must survive a crash: written beside, synced, then renamed.
//!
//! It decides how a set of files that belong together (key, certificate, bundle) is replaced so that a reader after
//! a crash finds either the old set or the new one. It deliberately does not lock: one process owns a directory.
//!
//! Invariant: no file here is ever readable by others, not even for the instant between creation and chmod.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::IdentityError;

/// More than any key, chain or bundle that we handle; a larger file is not what the caller thinks it is.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

fn at(path: &Path) -> impl FnOnce(io::Error) -> IdentityError + '_ {
    move |source| IdentityError::File { path: path.to_owned(), source }
}

fn beside(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.new"))
}

/// Creates the directory, for its owner alone, if it is not there.
fn ensure_dir(dir: &Path) -> Result<(), IdentityError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))
}

fn sync_dir(dir: &Path) -> Result<(), IdentityError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(at(dir))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A leftover of an earlier crash may have another mode; a fresh inode has the one asked for.
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Replaces several files as one: all are written and synced as `<name>.new` before the first rename, so that
/// [`read_set`] can finish what a crash between two renames left undone.
pub(crate) fn write_set(dir: &Path, files: &[(&str, &[u8])]) -> Result<(), IdentityError> {
    ensure_dir(dir)?;
    for (name, bytes) in files {
        let path = beside(dir, name);
        write_synced(&path, bytes).map_err(at(&path))?;
    }
    sync_dir(dir)?;
    for (name, _) in files {
        let path = dir.join(name);
        fs::rename(beside(dir, name), &path).map_err(at(&path))?;
    }
    sync_dir(dir)
}

/// Reads a set written by [`write_set`] and hands it to `accept`. When the plain names do not make an acceptable
/// set and a crash left `.new` files, those are preferred name by name: a crash among the renames leaves each new
/// file under exactly one of its two names. A crash before the renames leaves the plain set whole, tried first.
pub(crate) fn read_set<T, const N: usize>(
    dir: &Path,
    names: [&str; N],
    accept: impl Fn([Vec<u8>; N]) -> Result<T, IdentityError>,
) -> Result<T, IdentityError> {
    let plain = read_all(names.map(|name| dir.join(name))).and_then(&accept);
    let left_over = names.iter().any(|name| beside(dir, name).exists());
    match plain {
        Err(first) if left_over => {
            let paths = names.map(|name| {
                let new = beside(dir, name);
                if new.exists() { new } else { dir.join(name) }
            });
            // The plain set's complaint is the one that an operator can act on.
            read_all(paths).and_then(&accept).map_err(|_| first)
        }
        other => other,
    }
}

fn read_all<const N: usize>(paths: [PathBuf; N]) -> Result<[Vec<u8>; N], IdentityError> {
    let mut all = [const { Vec::new() }; N];
    for (slot, path) in all.iter_mut().zip(&paths) {
        *slot = read(path)?;
    }
    Ok(all)
}

/// One file, bounded.
fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let size = fs::metadata(path).map_err(at(path))?.len();
    if size > MAX_FILE_BYTES {
        return Err(at(path)(io::Error::other(format!("{size} bytes is too large to be what is expected here"))));
    }
    fs::read(path).map_err(at(path))
}

/// Warns when others may read a secret. It does not refuse: volume mounts often decide the mode, and a mesh that
/// stops at the next restart because of a mode is worse than a line in the log.
pub(crate) fn warn_if_readable_by_others(path: &Path) {
    if let Ok(meta) = fs::metadata(path) {
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), mode = format_args!("{mode:03o}"), "others than the owner may use this secret: chmod 600");
        }
    }
}
