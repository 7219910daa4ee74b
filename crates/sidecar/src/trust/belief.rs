//! What the control plane said last of whom to believe.
//!
//! It decides which roots an identity judges others by: those that were told, unless the identity itself does not lead to
//! them, and then its own. It deliberately holds no certificate of ours.
//!
//! Invariant: denied identities are denied under whichever roots.

use crate::mesh::Mesh;
use fusewire_identity::{Bundle, Identity, IdentityError};
use fusewire_model::resource::Trust;
use fusewire_model::{SpiffeId, TrustDomain};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// What was told.
#[derive(Debug)]
pub(crate) struct Told {
    bundle: Bundle,
    /// Hash of the root that signs now; empty where nobody said.
    signer: String,
    denied: Arc<BTreeSet<SpiffeId>>,
}

#[derive(Debug)]
pub(crate) struct Belief {
    told: Mutex<Option<Told>>,
    denied: watch::Sender<Arc<BTreeSet<SpiffeId>>>,
    any_denied: AtomicBool,
    /// Counts what was told, and identities that were put in force.
    changes: watch::Sender<u64>,
}

impl Default for Belief {
    fn default() -> Self {
        Self {
            told: Mutex::default(),
            denied: watch::Sender::default(),
            any_denied: AtomicBool::new(false),
            changes: watch::Sender::default(),
        }
    }
}

impl Belief {
    /// True where it says something new.
    pub(super) fn take(&self, trust: &Trust) -> Result<bool, String> {
        let domain = TrustDomain::parse(&trust.trust_domain).map_err(|e| e.to_string())?;
        let bundle = Bundle::from_pem(domain, trust.bundle.as_bytes()).map_err(|e| e.to_string())?;
        let denied: Arc<BTreeSet<SpiffeId>> = Arc::new(trust.denied.iter().cloned().collect());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let same = told.as_ref().is_some_and(|told| {
            told.bundle.certs() == bundle.certs() && told.signer == trust.signer && told.denied == denied
        });
        if same {
            return Ok(false);
        }
        let bundle = bundle.denying(denied.clone());
        *told = Some(Told { bundle, signer: trust.signer.clone(), denied: denied.clone() });
        drop(told);
        self.any_denied.store(!denied.is_empty(), Ordering::Relaxed);
        self.denied.send_if_modified(|now| {
            let changed = *now != denied;
            *now = denied;
            changed
        });
        self.changes.send_modify(|n| *n += 1);
        Ok(true)
    }

    /// Does `change` while nothing else is told, and says that something changed.
    pub(super) fn with<T>(&self, change: impl FnOnce(Option<&Told>) -> T) -> T {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let done = change(told.as_ref());
        drop(told);
        self.changes.send_modify(|n| *n += 1);
        done
    }

    pub(super) fn roots(&self) -> Option<Vec<String>> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.as_ref().map(|told| told.bundle.root_hashes())
    }

    /// Whether certificates are signed under another root now than this one's.
    pub(super) fn is_outdated(&self, identity: &Identity) -> bool {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match told.as_ref().map(|told| told.signer.as_str()) {
            None | Some("") => !identity.is_under_signing_root(),
            Some(signer) => identity.root_hash() != signer,
        }
    }

    /// Told of every new certificate and of everything that the control plane says.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn denies(&self, id: &SpiffeId) -> bool {
        self.any_denied.load(Ordering::Relaxed) && self.denied.borrow().contains(id)
    }
}

/// `identity`, judging others by what was told.
pub(super) fn judging_by(told: Option<&Told>, identity: Identity) -> Result<Identity, IdentityError> {
    let Some(told) = told else { return Ok(identity) };
    if let Ok(judging) = identity.with_bundle(told.bundle.clone()) {
        return Ok(judging);
    }
    let own = identity.bundle().clone().denying(told.denied.clone());
    identity.with_bundle(own)
}

/// Waits until `id` is denied.
pub(crate) async fn until_denied(mesh: &Mesh, id: &SpiffeId) {
    let mut denied = mesh.belief.denied.subscribe();
    let over = denied.wait_for(|denied| denied.contains(id)).await.is_err();
    if over {
        std::future::pending().await
    }
}
