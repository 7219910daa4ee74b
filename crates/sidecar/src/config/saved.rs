//! The last configuration on disk, so that a restart needs nobody: `resources.pb` in the data directory, 0600.
//!
//! The same messages as on the wire, each with its length before it. A file that cannot be read is no configuration, with
//! a warning: the control plane will say it again.

use super::held::{Held, Standing, Stored};
use fusewire_api::{answer_from_wire, answer_to_wire, resource_from_wire, resource_to_wire, v1};
use fusewire_resilience::Time;
use prost::Message;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use v1::config_response::Message as Body;

/// A configuration larger than this is not believed.
const MAX_BYTES: u64 = 256 << 20;

fn path(dir: &Path) -> PathBuf {
    dir.join("resources.pb")
}

pub(crate) fn save(dir: &Path, held: &Held) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut add = |body| {
        let message = v1::ConfigResponse { message: Some(body) };
        message.encode_length_delimited(&mut bytes).map_err(io::Error::other)
    };
    for stored in held.resources.values() {
        let mut resource = resource_to_wire(&stored.resource);
        resource.hash.clone_from(&stored.hash);
        add(Body::Resource(resource))?;
    }
    for (subscription, standing) in &held.subscriptions {
        if let Some(answer) = &standing.answer {
            add(Body::Answer(answer_to_wire(subscription, answer)))?;
        }
    }
    add(Body::Synced(v1::Synced { version: held.version.clone() }))?;
    let temporary = dir.join(format!("resources.pb.{}.new", std::process::id()));
    // one that a killed process left behind may have another mode; another that runs has its own
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(temporary, path(dir))
}

/// `None` where nothing was saved.
pub(crate) fn load(dir: &Path, now: Time) -> Option<Held> {
    let path = path(dir);
    let known = std::fs::metadata(&path).ok()?;
    let read = if known.len() > MAX_BYTES { Err("too large".into()) } else { read(&path, now) };
    read.inspect_err(|e| tracing::warn!("{}: {e}; starting without it", path.display())).ok()
}

fn read(path: &Path, now: Time) -> Result<Held, Box<dyn std::error::Error>> {
    let bytes = std::fs::read(path)?;
    let mut rest = bytes.as_slice();
    let mut held = Held::default();
    let mut complete = false;
    while !rest.is_empty() {
        match v1::ConfigResponse::decode_length_delimited(&mut rest)?.message {
            Some(Body::Resource(resource)) => {
                let hash = resource.hash.clone();
                let resource = resource_from_wire(resource)?;
                held.resources.insert(resource.key(), Stored { hash, resource });
            }
            Some(Body::Answer(answer)) => {
                let (subscription, answer) = answer_from_wire(answer)?;
                let used = Arc::new(AtomicU64::new(now.0));
                held.subscriptions.insert(subscription, Standing { answer: Some(answer), used });
            }
            Some(Body::Synced(synced)) => {
                held.version = synced.version;
                complete = true;
            }
            _ => {}
        }
    }
    if complete { Ok(held) } else { Err("cut short".into()) }
}
