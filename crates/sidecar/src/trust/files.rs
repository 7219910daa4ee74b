//! An identity that somebody else keeps in files (cert-manager's CSI driver and the like), followed as they change.
//!
//! It decides when the three files belong together: when they can be used as they were seen twice alike. It deliberately
//! polls: a Kubernetes volume swaps a symlink, of which a watch on a file sees nothing.
//!
//! Invariant: files that cannot be used change nothing; what they replaced goes on until it ends.

use super::{BoxError, expect_workload, install};
use crate::mesh::Mesh;
use fusewire_identity::Identity;
use fusewire_model::node::{IdentityFiles, SidecarSettings};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

const POLL: Duration = Duration::from_millis(500);
const MAX_FILE: u64 = 256 << 10;

/// Device, inode, size and times of a file, all after following symlinks.
type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

pub(super) fn read(settings: &SidecarSettings, files: &IdentityFiles) -> Result<Identity, BoxError> {
    let read = |path: &Path| {
        let mut text = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text));
        read.map(|_| text).map_err(|e| format!("sidecar.identity: {}: {e}", path.display()))
    };
    if std::fs::metadata(&files.key).is_ok_and(|meta| meta.mode() & 0o077 != 0) {
        tracing::warn!("sidecar.identity.key: {}: others may read it; make its mode 0600", files.key.display());
    }
    let (chain, key, bundle) = (read(&files.certificate)?, read(&files.key)?, read(&files.bundle)?);
    let identity = Identity::from_pem(&chain, &key, &bundle).map_err(|e| format!("sidecar.identity: {e}"))?;
    expect_workload(settings, identity)
}

fn stamps(files: &IdentityFiles) -> [Stamp; 3] {
    [&files.certificate, &files.key, &files.bundle].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        let (modified, changed) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
        Some((meta.dev(), meta.ino(), meta.size(), modified.0, modified.1, changed.0, changed.1))
    })
}

/// Follows the files until the process ends.
pub(crate) async fn follow(mesh: Arc<Mesh>, files: IdentityFiles) {
    // whatever changed between boot and now is judged again
    let (mut seen, mut judged) = ([None; 3], [None; 3]);
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (of, settings) = (files.clone(), mesh.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let now = stamps(&of);
            let settled = now == seen && now != judged;
            let read = settled.then(|| read(&settings.settings, &of));
            // swapped while they were read: looked at again
            (now, read.filter(|_| stamps(&of) == now))
        });
        let Ok((now, read)) = looked.await else { continue };
        seen = now;
        let Some(read) = read else { continue };
        judged = now;
        if let Err(error) = read.and_then(|identity| replace(&mesh, identity)) {
            mesh.metrics.identity_rejected.inc();
            tracing::warn!("the identity's files cannot be used, what was read before stays in force: {error}");
        }
    }
}

fn replace(mesh: &Mesh, identity: Identity) -> Result<(), BoxError> {
    let expires = identity.not_after();
    install(mesh, identity)?;
    tracing::info!(expires, "identity taken over from its files");
    Ok(())
}
