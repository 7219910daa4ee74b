//! Where a redirected connection was going, as an upstream for requests on it that no route is for. Bytes go there by
//! themselves (`tcp::pass`); this is for HTTP/2, whose requests can only be told apart by whoever serves them, and for a
//! later request of a connection whose first was for the mesh.

use crate::bounds::Bounds;
use crate::http::serve::Http;
use crate::mesh::Mesh;
use crate::upstream::instance::{Instance, InstanceKey};
use crate::upstream::ledger::Ledger;
use crate::upstream::service::Upstream;
use fusewire_model::policy::{Plain, PlainDefaults, PlainRules, Policy};
use fusewire_model::service::Protocol;
use fusewire_model::{PolicyName, ServiceName};
use fusewire_resilience::{InstanceSet, Mode, Prober, Slot};
use fusewire_telemetry::metrics::Direction;
use std::hash::RandomState;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

/// The name that it has in logs.
const NAME: &str = "passthrough";

pub(crate) struct Original {
    pub(crate) address: SocketAddr,
    protocol: Protocol,
    upstream: OnceLock<Option<Arc<Upstream>>>,
}

impl Original {
    pub(super) fn new(address: SocketAddr, http: Http) -> Self {
        let protocol = match http {
            Http::One => Protocol::Http1,
            Http::Two => Protocol::Http2,
        };
        Self { address, protocol, upstream: OnceLock::new() }
    }

    /// `None`: what the mesh does not know is refused.
    pub(crate) fn beyond(&self, mesh: &Mesh) -> Option<&Arc<Upstream>> {
        self.upstream
            .get_or_init(|| super::passes_unknown(mesh, self.address).then(|| self.make(mesh)).flatten())
            .as_ref()
    }

    fn make(&self, mesh: &Mesh) -> Option<Arc<Upstream>> {
        let now = mesh.clock.now();
        let name = ServiceName::parse(NAME).ok()?;
        let mut policy = Policy::built_in(PolicyName::from(&name));
        policy.plain = PlainRules::both(Plain::Allow);
        policy.breaker.mode = Mode::Disabled; // it is nobody's to stop
        policy.retry.policy.attempts = 1;
        let config = Arc::new(policy.breaker.clone());
        let bounds = Arc::new(Bounds::new(Direction::Outbound, mesh.clock, RandomState::new()));
        let key = InstanceKey { id: self.address.to_string(), address: self.address, sidecar: None };
        let (workers, noted) = (mesh.settings.workers, mesh.dials_noted());
        let member = Arc::new(Instance::new((key, None), workers, None, bounds.clone(), noted, now));
        Some(Arc::new(Upstream {
            name,
            protocol: self.protocol,
            ledger: Ledger::new(&policy.retry.budget, now),
            policy: Arc::new(policy),
            plain: PlainDefaults::default(),
            set: Arc::new(InstanceSet::new(vec![Slot { member, config, weight: 1, prober: Prober::Request }])),
            only: None,
            scope: None,
            metrics: mesh.unrouted[usize::from(true)].clone(),
            bounds,
            health: None,
            resting: Vec::new(),
            all_down: false,
            fingerprint: String::new(),
        }))
    }
}
