//! The last configuration that was in force, kept in the data directory.
//!
//! It decides nothing: it is there so that a control plane which restarts while the files are broken goes on as before.
//! Without it the choice would be to stay down, or to start empty and tell every sidecar that nothing exists any more.

use fusewire_model::yaml::Source;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const NAME: &str = "last-good.json";

#[derive(serde::Serialize, serde::Deserialize)]
struct Kept {
    name: String,
    text: String,
}

pub(crate) fn save(data_dir: &Path, sources: &[Source]) -> io::Result<()> {
    let kept: Vec<Kept> = sources.iter().map(|s| Kept { name: s.name.clone(), text: s.text.clone() }).collect();
    keep(data_dir, NAME, &serde_json::to_vec(&kept)?)
}

/// Writes a private file whole beside the old one, then in its place: a kill leaves one or the other.
pub(crate) fn keep(data_dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = data_dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, data_dir.join(name))?;
    File::open(data_dir)?.sync_all()
}

/// `None` where none was ever kept, or it cannot be read.
pub(crate) fn load(data_dir: &Path) -> Option<Vec<Source>> {
    let bytes = std::fs::read(data_dir.join(NAME)).ok()?;
    match serde_json::from_slice::<Vec<Kept>>(&bytes) {
        Ok(kept) => Some(kept.into_iter().map(|k| Source { name: k.name, text: k.text }).collect()),
        Err(error) => {
            tracing::warn!(%error, file = NAME, "the last good configuration cannot be read, and is not used");
            None
        }
    }
}
