//! What a replica is called: as configured, else after the host, with a few letters that are made once and kept.

use crate::ControlError;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const FILE: &str = "replica";
const MAX: usize = 100;

/// The name, which is kept in `data_dir` where it was made up.
///
/// # Errors
/// A configured name that cannot be one; a file that cannot be read or written.
pub(crate) fn name(configured: Option<&str>, data_dir: &Path) -> Result<String, ControlError> {
    if let Some(name) = configured {
        return if is_name(name) { Ok(name.to_owned()) } else { Err(ControlError::Replica(name.to_owned())) };
    }
    let path = data_dir.join(FILE);
    let failed = |source| ControlError::DataDir { path: path.clone(), source };
    match std::fs::read_to_string(&path) {
        Ok(text) if is_name(text.trim()) => Ok(text.trim().to_owned()),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
        Ok(_) | Err(_) => {
            let name = format!("{}-{:06x}", host(), RandomState::new().build_hasher().finish() & 0xff_ffff);
            let mut options = std::fs::OpenOptions::new();
            let made = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
            made.and_then(|mut file| file.write_all(name.as_bytes())).map_err(failed)?;
            Ok(name)
        }
    }
}

fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    (1..=MAX).contains(&text.len()) && text.bytes().all(fits)
}

fn host() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let text = kernel.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    let host: String = text.trim().chars().take(64).collect();
    if is_name(&host) { host } else { "control".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_once_and_a_configured_one_is_judged() {
        let dir = tempfile::tempdir().unwrap();
        let made = name(None, dir.path()).unwrap();
        assert!(is_name(&made), "{made}");
        assert_eq!(name(None, dir.path()).unwrap(), made);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(name(None, other.path()).unwrap(), made, "two on one host");
        assert_eq!(name(Some("a"), dir.path()).unwrap(), "a");
        for bad in ["", "a/b", "a b", &"x".repeat(101)] {
            assert!(matches!(name(Some(bad), dir.path()), Err(ControlError::Replica(_))), "{bad}");
        }
    }
}
