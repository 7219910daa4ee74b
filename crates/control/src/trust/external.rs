//! An authority that belongs to someone else, in a folder of three files as cert-manager and Kubernetes secrets have them.
//!
//! It decides which set of files counts: the last good one, seen alike twice, so that half a swap is not judged. What
//! changed roots means is decided in `keep`: first they are announced, then the new authority signs. It deliberately polls,
//! for the reasons that `files` has, and never writes a key to the store.
//!
//! Invariant: a bad set of files never replaces a good one.

use super::TrustError;
use crate::alerts::Alerts;
use crate::shared::lock;
use fusewire_identity::{Authority, IdentityError, TrustDomain, TrustState, UnixTime};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub(super) const BEHIND: &str = "ca-files-behind";
pub(super) const REJECTED: &str = "ca-files-rejected";
const FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
const MAX_FILE: u64 = 256 << 10;

#[derive(Debug)]
pub(crate) struct External {
    dir: PathBuf,
    about: String,
    domain: TrustDomain,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    seen: Vec<Stamp>,
    judged: Vec<Stamp>,
    /// Of the last good files.
    local: Authority,
    /// Of the good files before, while their successor is announced.
    before: Option<Authority>,
    /// The files changed, and the store does not say so yet: an operator's act, rather than a replica that is behind.
    changed: bool,
}

/// Device, inode, size, and times of one file, all after following symlinks.
type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

impl External {
    pub(super) async fn open(dir: &Path, domain: &TrustDomain) -> Result<Self, TrustError> {
        let (dir, domain) = (dir.to_owned(), domain.clone());
        let (of, named) = (dir.clone(), domain.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let seen = stamps(&of);
            read(&of, &named).map(|local| Inner { judged: seen.clone(), seen, local, before: None, changed: false })
        });
        let inner = opened.await.map_err(|e| TrustError::Invalid(e.to_string()))??;
        Ok(Self { about: dir.display().to_string(), dir, domain, inner: Arc::new(Mutex::new(inner)) })
    }

    pub(super) fn about(&self) -> &str {
        &self.about
    }

    /// As the files alone make it.
    pub(super) fn local(&self) -> Authority {
        lock(&self.inner).local.clone()
    }

    pub(super) fn changed(&self) -> bool {
        lock(&self.inner).changed
    }

    /// The root of the store is that of the files.
    pub(super) fn settled(&self) {
        let mut inner = lock(&self.inner);
        (inner.before, inner.changed) = (None, false);
    }

    /// What can sign for `state`: the files' authority or, while that is only announced, the one before; failing both, the
    /// files' own under a root that `state` still believes, or believes already.
    pub(super) fn signing(&self, state: &TrustState) -> Result<Authority, IdentityError> {
        let inner = lock(&self.inner);
        let mut candidates = std::iter::once(&inner.local).chain(&inner.before);
        let root = state.root_hash();
        candidates.find(|authority| authority.root_hash() == root).unwrap_or(&inner.local).adopting(state)
    }

    /// At the start, when nothing is in force yet and there is no earlier authority to sign with.
    pub(super) fn taking_over(&self, state: &TrustState) -> Result<Authority, TrustError> {
        let believed = state.roots();
        let known = believed.iter().find(|root| root.hash == self.local().root_hash());
        // unless it was believed before, in which case another replica has newer files
        lock(&self.inner).changed = known.is_none_or(|root| root.keep_until.is_none());
        if state.is_external() {
            return Ok(self.signing(state)?);
        }
        // the change from an authority of our own: that one signs until the files' is announced
        Ok(Authority::from_state(state.clone())?)
    }

    /// The state after `stored`, where that does not know the files' root and its own can no longer sign.
    pub(super) fn replacing(&self, stored: &TrustState) -> Result<Option<TrustState>, TrustError> {
        let local = self.local();
        if !stored.is_external() || stored.roots().iter().any(|root| root.hash == local.root_hash()) {
            return Ok(None);
        }
        tracing::warn!(
            ca_dir = self.about,
            root_hash = local.root_hash(),
            "the root was replaced while this control plane was away, and sidecars do not know the new one: those that \
             refuse it have to join again; next time leave the old root in ca.crt, or replace it while a control plane runs"
        );
        Ok(Some(local.succeeding(stored, UnixTime::now())?.to_state()))
    }

    /// Looks once; true where a new good set has come.
    pub(super) async fn poll(&self, alerts: &Alerts) -> bool {
        let (inner, dir, domain) = (self.inner.clone(), self.dir.clone(), self.domain.clone());
        let looked = tokio::task::spawn_blocking(move || look(&inner, &dir, &domain)).await;
        match looked {
            Ok(None) => false,
            Ok(Some(Ok(()))) => {
                alerts.end(REJECTED, &self.about);
                tracing::info!(ca_dir = self.about, "new files of the external authority");
                true
            }
            Ok(Some(Err(error))) => {
                alerts.raise(REJECTED, &self.about, format!("{error}; the last good files stay in force"));
                false
            }
            Err(error) => {
                tracing::error!(%error, "the files of the external authority could not be looked at; trying again");
                false
            }
        }
    }
}

fn look(inner: &Mutex<Inner>, dir: &Path, domain: &TrustDomain) -> Option<Result<(), TrustError>> {
    let now = stamps(dir);
    {
        let mut inner = lock(inner);
        let settled = inner.seen == now;
        inner.seen.clone_from(&now);
        if !settled || inner.judged == now {
            return None;
        }
    }
    let read = read(dir, domain);
    if stamps(dir) != now {
        return None; // swapped while we read
    }
    let mut inner = lock(inner);
    inner.judged = now;
    Some(read.map(|authority| {
        let before = std::mem::replace(&mut inner.local, authority);
        if inner.local.root_hash() != before.root_hash() {
            // of two swaps in a row the first that signed counts
            inner.before.get_or_insert(before);
            inner.changed = true;
        }
    }))
}

fn stamps(dir: &Path) -> Vec<Stamp> {
    let stamp = |name: &&str| {
        let meta = std::fs::metadata(dir.join(name)).ok()?;
        let (modified, changed) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
        Some((meta.dev(), meta.ino(), meta.size(), modified.0, modified.1, changed.0, changed.1))
    };
    FILES.iter().map(stamp).collect()
}

fn read(dir: &Path, domain: &TrustDomain) -> Result<Authority, TrustError> {
    let [certificate, key, roots] = FILES.map(|name| {
        let path = dir.join(name);
        let mut text = Vec::new();
        let read = std::fs::File::open(&path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text));
        read.map(|_| text).map_err(|source| TrustError::File { path, source })
    });
    Authority::external(domain, &certificate?, &key?, &roots?, UnixTime::now())
        .map_err(|source| TrustError::External { path: dir.to_owned(), source })
}
