//! The sidecars that are connected now, for whoever asks.
//!
//! It decides what counts as the same sidecar: workload and instance. A new stream of the same takes the old one's place
//! (the old one is most likely a connection whose death has not been noticed). Sidecars that give no instance cannot be
//! told apart, so each of their streams is one. It deliberately keeps nothing of sidecars that have gone.
//!
//! Invariant: a stream's entry is gone when the stream is.

use crate::listen::Peer;
use crate::shared::lock;
use fusewire_api::v1;
use fusewire_kubernetes::Concern;
use fusewire_model::node::Node;
use fusewire_model::resource::Key;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Debug, Default)]
pub(crate) struct Sidecars {
    connected: Mutex<BTreeMap<Slot, Arc<Sidecar>>>,
    next: AtomicU64,
}

/// Workload, instance, and a number where there is no instance.
type Slot = (String, Option<String>, u64);

#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) workload: String,
    pub(crate) instance: Option<String>,
    pub(crate) program_version: String,
    pub(crate) address: SocketAddr,
    pub(crate) connected_since: Timestamp,
    /// Hash of the root that the certificate of its connection leads to.
    pub(crate) root: Option<String>,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Of the last `Synced`.
    pub(crate) sent_version: Option<String>,
    pub(crate) acked_version: Option<String>,
    /// Hash of the Trust resource that was in force there when it last acknowledged anything.
    pub(crate) acked_trust: Option<String>,
    pub(crate) subscriptions: usize,
    /// The change of what the cluster declares ([`crate::kubernetes::Standing`]) that it was last compared with, and the last
    /// one that it is known to run.
    pub(crate) aimed: u64,
    pub(crate) runs: u64,
    /// By what objects of the cluster concern it, and how it stands to that.
    pub(crate) concerns: BTreeMap<Concern, Stance>,
    /// What it refused and still would be sent.
    pub(crate) nacks: BTreeMap<Key, v1::Nack>,
}

/// How a sidecar stands to what it should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stance {
    /// It is not known to have it.
    New,
    Held,
    Refused,
}

impl State {
    /// Takes over what concerns it, each with whether it refuses it. `settled`: it has acknowledged everything.
    pub(crate) fn concerned(&mut self, concerns: BTreeMap<Concern, bool>, settled: bool) {
        let before = std::mem::take(&mut self.concerns);
        let one = |(concern, refuses)| {
            let stance = match (refuses, before.get(&concern)) {
                (true, _) => Stance::Refused,
                (false, Some(Stance::Held)) => Stance::Held,
                (false, _) if settled => Stance::Held,
                (false, _) => Stance::New,
            };
            (concern, stance)
        };
        self.concerns = concerns.into_iter().map(one).collect();
    }
}

impl Sidecar {
    /// What `look` makes of its state.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&lock(&self.state))
    }

    pub(crate) fn state(&self) -> State {
        lock(&self.state).clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.state));
    }
}

impl Sidecars {
    pub(crate) fn list(&self) -> Vec<Arc<Sidecar>> {
        lock(&self.connected).values().cloned().collect()
    }
}

/// A stream's place among the connected; gives it up when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    all: Arc<Sidecars>,
    slot: Slot,
    pub(crate) sidecar: Arc<Sidecar>,
}

impl Place {
    pub(crate) fn take(all: &Arc<Sidecars>, node: &Node, program_version: String, peer: &Peer) -> Self {
        let number = if node.instance.is_some() { 0 } else { all.next.fetch_add(1, Ordering::Relaxed) };
        let slot = (node.workload.to_string(), node.instance.clone(), number);
        let sidecar = Arc::new(Sidecar {
            workload: slot.0.clone(),
            instance: slot.1.clone(),
            program_version,
            address: peer.address,
            connected_since: Timestamp::now(),
            root: peer.root.clone(),
            state: Mutex::default(),
        });
        lock(&all.connected).insert(slot.clone(), sidecar.clone());
        Self { all: all.clone(), slot, sidecar }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connected = lock(&self.all.connected);
        if connected.get(&self.slot).is_some_and(|there| Arc::ptr_eq(there, &self.sidecar)) {
            connected.remove(&self.slot);
        }
    }
}
