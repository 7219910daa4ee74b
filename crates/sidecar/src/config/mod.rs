//! Where the snapshot comes from: what requests ask for, what the control plane (or the file) answers, and the fold.
//!
//! One task owns everything held; requests only read the snapshot and, on first use, wait for the next one. What is
//! held is never waited for (invariant 6), and memory follows what this sidecar calls.

mod control;
mod fold;
mod held;
mod local;
mod saved;
mod series;

use crate::dns;
use crate::fault::Fault;
use crate::mesh::Mesh;
use crate::snapshot::{Route, Snapshot, Target};
use fusewire_model::resource::Subscription;
use fusewire_model::route::Authority;
use fusewire_model::{ServiceName, World};
use fusewire_resilience::Time;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

pub(crate) use control::Control;

/// First uses that may wait for the configuration task's attention.
const ASKS: usize = 256;

/// The requests' side: finds what a name means, asking for it on first use.
pub(crate) struct Directory {
    asks: mpsc::Sender<Subscription>,
    folded: watch::Receiver<u64>,
    timeout: Duration,
}

/// The configuration task's side of the same.
pub(crate) struct Desk {
    pub(crate) asks: mpsc::Receiver<Subscription>,
    folded: watch::Sender<u64>,
}

impl Desk {
    fn publish(&self, mesh: &Mesh, snapshot: Snapshot) {
        mesh.snapshot.store(Arc::new(snapshot));
        self.folded.send_modify(|n| *n += 1);
    }
}

pub(crate) fn directory(timeout: Duration) -> (Directory, Desk) {
    let (asks, asked) = mpsc::channel(ASKS);
    let (folded, folds) = watch::channel(0);
    (Directory { asks, folded: folds, timeout }, Desk { asks: asked, folded })
}

impl Directory {
    /// Changes with every snapshot that is put in force.
    pub(crate) fn folds(&self) -> watch::Receiver<u64> {
        let mut folds = self.folded.clone();
        folds.mark_changed();
        folds
    }

    /// The route that `text` (a request's authority) means.
    pub(crate) async fn authority(&self, mesh: &Mesh, text: &str, now: Time) -> Result<Arc<Route>, Fault> {
        let held = |key: &str, s: &Snapshot, now: Time| s.authorities.get(key).map(|known| known.touch(now).cloned());
        if let Some(found) = held(text, &mesh.snapshot.load(), now) {
            return match found {
                Some(route) => Ok(route),
                None => self.address_in(mesh, text).await,
            };
        }
        let authority = Authority::parse(text).ok_or(Fault::BadRequest("the authority is not host[:port]".into()))?;
        let key = authority.as_str().to_owned();
        match self.find(mesh, || Subscription::Authority(authority.clone()), |s, now| held(&key, s, now)).await {
            Err(Fault::NoRoute) => self.address_in(mesh, text).await,
            found => found,
        }
    }

    /// What is no name may be an instance's own address.
    async fn address_in(&self, mesh: &Mesh, text: &str) -> Result<Arc<Route>, Fault> {
        self.address(mesh, text.parse().map_err(|_| Fault::NoRoute)?).await
    }

    /// Everything to the service that has an instance at `address`.
    async fn address(&self, mesh: &Mesh, address: SocketAddr) -> Result<Arc<Route>, Fault> {
        let held = |s: &Snapshot, now: Time| s.addresses.get(&address).map(|known| known.touch(now).cloned());
        self.find(mesh, || Subscription::Address(address), held).await
    }

    /// What an application means that connects to `address`: by a virtual address a name, by any other an instance.
    pub(crate) async fn destination(&self, mesh: &Mesh, address: SocketAddr) -> Result<Arc<Route>, Fault> {
        match address.ip() {
            IpAddr::V4(ip) if dns::is_virtual(ip) => {
                let name = mesh.book.name(ip).ok_or(Fault::NoRoute)?;
                self.authority(mesh, &name, mesh.clock.now()).await
            }
            _ => self.address(mesh, address).await,
        }
    }

    /// The service of a listener that is for one service.
    pub(crate) async fn service(&self, mesh: &Mesh, name: &ServiceName) -> Result<Target, Fault> {
        let held = |s: &Snapshot, now: Time| {
            let target = |upstream| Target::service(upstream, s.others.clone());
            s.services.get(name).map(|known| known.touch(now).map(target))
        };
        self.find(mesh, || Subscription::Service(name.clone()), held).await
    }

    /// What is held, at once; else asks, and waits for the snapshot that has the answer, at most for `discovery_timeout`.
    async fn find<T>(
        &self,
        mesh: &Mesh,
        subscription: impl Fn() -> Subscription,
        held: impl Fn(&Snapshot, Time) -> Option<Option<T>>,
    ) -> Result<T, Fault> {
        if let Some(found) = held(&mesh.snapshot.load(), mesh.clock.now()) {
            return found.ok_or(Fault::NoRoute);
        }
        let mut folded = self.folded.clone();
        let waiting = async {
            let mut asked = false;
            loop {
                folded.borrow_and_update();
                if let Some(found) = held(&mesh.snapshot.load(), mesh.clock.now()) {
                    return found.ok_or(Fault::NoRoute);
                }
                if !asked {
                    asked = true;
                    self.asks.send(subscription()).await.map_err(|_| Fault::Draining)?;
                }
                folded.changed().await.map_err(|_| Fault::Draining)?;
            }
        };
        tokio::time::timeout(self.timeout, waiting).await.unwrap_or(Err(Fault::DiscoveryTimeout))
    }
}

/// Where answers come from.
pub(crate) enum Source {
    Control(Box<Control>),
    /// The file's own services and routes.
    Local(Box<World>),
}

/// Puts in force what is known already, on disk or in the file, and then keeps the snapshot current until the process ends.
///
/// Nobody may be let in before it returns: a peer that comes back at once would be told that it may not.
pub(crate) fn start(mesh: Arc<Mesh>, source: Source, desk: Desk) {
    match source {
        Source::Control(control) => {
            let state = control.begin(mesh, &desk);
            tokio::spawn(control.run(state, desk));
        }
        Source::Local(world) => {
            let local = local::Local::begin(mesh, *world, &desk);
            tokio::spawn(local.run(desk));
        }
    }
}
