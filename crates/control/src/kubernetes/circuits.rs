//! Tells of circuits that open and close as Events, at the replica that leads.
//!
//! It decides which circuits there are: those of the service map, as sidecars with a proven identity report them, at all
//! replicas. It deliberately does not ask sidecars: what it tells is as old as their last report.

use super::Kubernetes;
use crate::shared::Shared;
use crate::traces;
use fusewire_api::v1;
use fusewire_kubernetes::crd::Kind;
use fusewire_kubernetes::{Events, OpenCircuit, Subject};
use fusewire_model::ServiceName;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

const LOOK: Duration = Duration::from_secs(2);

/// Until dropped.
pub(super) async fn run(kubernetes: &Kubernetes, shared: &Shared) {
    let mut events = Events::new(&kubernetes.cluster, shared.replicas.name());
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let map = traces::service_map(shared, v1::ServiceMapRequest::default()).await;
        if map.replicas.iter().any(|replica| !replica.answered) {
            continue; // what it would have said is not closed for that
        }
        if let Err(error) = events.look(open(kubernetes, shared, &map.nodes)).await {
            tracing::warn!(%error, "an Event about a circuit cannot be written");
        }
    }
}

/// The circuits that are not closed, whose they are, and at whom.
fn open(
    kubernetes: &Kubernetes,
    shared: &Shared,
    nodes: &[v1::MapNode],
) -> BTreeMap<OpenCircuit, (Subject, Vec<String>)> {
    let standing = shared.in_force.borrow().standing.clone();
    let mut all: BTreeMap<OpenCircuit, (Subject, Vec<String>)> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.proven) {
        let Ok(name) = ServiceName::parse(&node.name) else { continue };
        let external = |id: &&fusewire_kubernetes::crd::ObjectId| {
            id.kind == Kind::ExternalService && format!("{}.{}", id.name, id.namespace) == node.name
        };
        let subject = match kubernetes.discovery.service_of(&name) {
            Some(id) => Subject::Service(id),
            None => match standing.declared.objects.keys().find(external) {
                Some(id) => Subject::ExternalService((id.namespace.clone(), id.name.clone())),
                None => continue, // a service of files has no object that an Event could be about
            },
        };
        for circuit in &node.circuits {
            let instance = match &subject {
                Subject::Service(id) if !circuit.instance.is_empty() => {
                    kubernetes.discovery.pod_of(id, &circuit.instance)
                }
                _ => circuit.instance.clone(),
            };
            let circuit_of = OpenCircuit { service: node.name.clone(), instance };
            let (_, callers) = all.entry(circuit_of).or_insert_with(|| (subject.clone(), Vec::new()));
            callers.extend(circuit.callers.iter().cloned());
            callers.sort();
            callers.dedup();
        }
    }
    all
}
