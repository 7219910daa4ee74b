//! Whether it is this sidecar that cannot reach anybody: said in the log and in a metric. Circuits stay as they are.

use crate::mesh::Mesh;
use crate::upstream::service::Upstream;
use fusewire_model::ServiceName;
use fusewire_resilience::{SelfSuspicion, Suspected, Time, Transition, balance};
use std::collections::HashMap;

#[derive(Default)]
pub(crate) struct Doubt {
    suspicion: SelfSuspicion,
    /// Answers of each service so far.
    answered: HashMap<ServiceName, u64>,
}

impl Doubt {
    pub(crate) fn transition(&mut self, mesh: &Mesh, upstream: &Upstream, change: &Transition) {
        say(mesh, self.suspicion.transition(id(&upstream.name), upstream.set.len(), change));
    }

    /// Once a second, of all services that this sidecar calls.
    pub(crate) fn look<'a>(&mut self, mesh: &Mesh, upstreams: impl Iterator<Item = &'a Upstream>, now: Time) {
        let mut there = HashMap::new();
        for upstream in upstreams {
            let answered = upstream.metrics.requests.answered();
            let before = self.answered.get(&upstream.name).copied().unwrap_or(0);
            if answered > before {
                say(mesh, self.suspicion.used(id(&upstream.name), upstream.set.len(), now));
            }
            there.insert(upstream.name.clone(), answered);
        }
        for gone in self.answered.keys().filter(|name| !there.contains_key(*name)) {
            say(mesh, self.suspicion.forget(id(gone), now));
        }
        self.answered = there;
    }
}

fn id(service: &ServiceName) -> u64 {
    balance::hash(service.as_str().as_bytes())
}

fn say(mesh: &Mesh, suspected: Option<Suspected>) {
    match suspected {
        None => {}
        Some(Suspected::Began { tripped, instances, services }) => {
            mesh.metrics.local_suspect.set(1);
            tracing::warn!(
                tripped,
                instances,
                services,
                "nearly nobody can be reached: rather this machine's network or identity than all of them"
            );
        }
        Some(Suspected::Ended) => {
            mesh.metrics.local_suspect.set(0);
            tracing::info!("instances can be reached from here again");
        }
    }
}
