//! The admin socket's file: one control plane at a time, for its owner only.
//!
//! It decides whether a socket that is there already belongs to a living control plane (someone answers: an error) or to
//! one that was killed (nobody does: replaced). Invariant: at the socket's path there is never a socket that others than
//! the owner may use: it is made beside, given its mode, and renamed.

use crate::ControlError;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    pub(crate) async fn bind(path: &Path) -> Result<Self, ControlError> {
        let failed = |source: io::Error| ControlError::AdminSocket { path: path.to_owned(), source };
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(failed(io::Error::other("a file that is not a socket is there; name another path")));
            }
            Ok(_) if UnixStream::connect(path).await.is_ok() => {
                return Err(ControlError::AlreadyRunning { path: path.to_owned() });
            }
            Ok(_) => tracing::info!(path = %path.display(), "replacing the socket of a control plane that was killed"),
        }
        Self::replace(path).map_err(failed)
    }

    fn replace(path: &Path) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, path)?;
        Ok(Self { listener, path: path.to_owned(), inode: inode(path)? })
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    std::fs::symlink_metadata(path).map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
}

impl Drop for Socket {
    fn drop(&mut self) {
        // not if another control plane has put its own there
        if inode(&self.path).is_ok_and(|there| there == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
