//! How the application beside us is: asked port by port, as its services' `health` says.
//!
//! It decides whom to ask, from the inbound resource, and keeps the verdicts where others find them: the control plane is
//! told of them ([`crate::registration`]), `/config` and `fusewire_health` show them. It deliberately refuses nobody: a caller
//! that comes all the same is served, since a check can be wrong, and callers' breakers judge by real answers.
//!
//! The own sidecar asks, and not each caller: that is one asker for each instance instead of callers times instances, and
//! what it sees is the application, not the network between.

use crate::mesh::Mesh;
use fusewire_health::{Checks, Finding, Subject};
use fusewire_model::ServiceName;
use fusewire_model::health::{Health, HealthCheck};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// What is known of one of the application's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) service: ServiceName,
    /// Whose port it is; `None` where this sidecar named no instance, and then there is nobody to report on.
    pub(crate) instance: Option<String>,
    pub(crate) health: Health,
    /// The last answer that mattered, in words.
    pub(crate) detail: String,
}

/// By port; only those that are checked.
pub(crate) type Verdicts = BTreeMap<u16, Verdict>;

/// Where the verdicts stand.
#[derive(Default)]
pub(crate) struct Board {
    verdicts: watch::Sender<Arc<Verdicts>>,
    /// Services of ours that callers were told of.
    was_up: Mutex<BTreeSet<ServiceName>>,
}

impl Board {
    pub(crate) fn now(&self) -> Arc<Verdicts> {
        self.verdicts.borrow().clone()
    }

    pub(crate) fn was_up(&self) -> BTreeSet<ServiceName> {
        self.was_up.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn have_been_up(&self, services: &BTreeSet<ServiceName>) {
        self.was_up.lock().unwrap_or_else(PoisonError::into_inner).extend(services.iter().cloned());
    }

    /// All verdicts now, and again whenever one changes; who is slow sees only the newest.
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<Verdicts>> {
        self.verdicts.subscribe()
    }
}

/// Asks until the process ends.
pub(crate) async fn run(mesh: Arc<Mesh>) {
    let Some(inbound) = &mesh.settings.inbound else { return };
    let mut folds = mesh.directory.folds();
    let mut checks = Checks::new(crate::clock::unix_micros() ^ u64::from(std::process::id()));
    loop {
        tokio::select! {
            changed = folds.changed() => {
                if changed.is_err() {
                    return;
                }
                follow(&mesh, inbound.app, &mut checks);
            }
            finding = checks.next() => note(&mesh, finding),
        }
    }
}

/// The ports of the snapshot in force, and no others.
fn follow(mesh: &Mesh, app: std::net::IpAddr, checks: &mut Checks<u16>) {
    let snapshot = mesh.snapshot.load();
    let ports = snapshot.inbound.iter().flatten();
    let checked: BTreeMap<u16, _> = ports.filter_map(|(port, p)| Some((*port, (p, p.health.clone()?)))).collect();
    // what registers itself is hidden until it was up for the first time; what is written is in use already
    let was_up = mesh.health.was_up();
    let registers = |port: &u16| {
        let service = mesh.settings.register.as_ref().and_then(|it| it.ports.get(port));
        service.is_some_and(|service| !was_up.contains(service))
    };
    let subject = |(port, (_, check)): (&u16, &(_, HealthCheck))| {
        // a check that is added later finds an instance that is in use
        let from = if registers(port) { Health::Starting } else { Health::Unchecked };
        (*port, Subject { address: SocketAddr::new(app, *port), check: check.clone(), from })
    };
    checks.set(checked.iter().map(subject));
    let before = mesh.health.now();
    let mut now = Verdicts::new();
    for (port, (p, _)) in &checked {
        let health = checks.health(port).unwrap_or_default();
        let known = before.get(port).filter(|known| known.service == p.upstream.name && known.health == health);
        let detail = known.map_or("not asked yet".into(), |known| known.detail.clone());
        let verdict = Verdict { service: p.upstream.name.clone(), instance: p.instance.clone(), health, detail };
        now.insert(*port, verdict);
    }
    for (port, gone) in before.iter().filter(|(port, gone)| now.get(port).is_none_or(|v| v.service != gone.service)) {
        mesh.metrics.health(gone.service.as_str(), *port, None);
    }
    if *before != now {
        mesh.health.verdicts.send_replace(Arc::new(now));
    }
}

fn note(mesh: &Mesh, finding: Finding<u16>) {
    let Finding { key: port, health, detail } = finding;
    let mut now = Verdicts::clone(&mesh.health.now());
    let Some(verdict) = now.get_mut(&port) else { return };
    let service = verdict.service.as_str();
    if verdict.health != health {
        match health {
            Health::Down => tracing::warn!(service, port, detail, "the application is down by its health check"),
            _ => tracing::info!(service, port, detail, "the application is {}", health.as_str()),
        }
    }
    let value = match health {
        Health::Up => Some(1),
        Health::Down | Health::Starting => Some(0),
        Health::Unchecked => None,
    };
    mesh.metrics.health(service, port, value);
    (verdict.health, verdict.detail) = (health, detail);
    mesh.health.verdicts.send_replace(Arc::new(now));
}
