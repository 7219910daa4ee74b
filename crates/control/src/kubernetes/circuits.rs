//! Tells of circuits that open and close as Events, at the replica that leads.
//!
//! It decides which circuits there are: what sidecars report that proved who they are, at all replicas, of pods and services that
//! exist. It deliberately does not ask sidecars: what it tells is as old as their last report.

use super::Kubernetes;
use crate::shared::Shared;
use crate::traces;
use fusewire_api::v1;
use fusewire_kubernetes::crd::{Kind, ObjectId};
use fusewire_kubernetes::{Events, OpenCircuit, Subject, SubjectKind};
use fusewire_model::ServiceName;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// As often as sidecars report.
const LOOK: Duration = Duration::from_secs(5);
/// Of one caller; more is no news.
const MAX_OF_ONE: usize = 20;

/// Until dropped.
pub(super) async fn run(kubernetes: &Kubernetes, shared: &Shared) {
    let mut events = Events::new(&kubernetes.cluster, shared.replicas.name(), Instant::now());
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // where a replica does not answer, what it would have said is not closed for that
        let Some(reporters) = traces::proven_reporters(shared).await else { continue };
        events.look(open(kubernetes, shared, &reporters), Instant::now()).await;
    }
}

/// The circuits that are not closed, and the callers at which they are not.
fn open(
    kubernetes: &Kubernetes,
    shared: &Shared,
    reporters: &[v1::Reporter],
) -> BTreeMap<OpenCircuit, BTreeSet<String>> {
    let mut all: BTreeMap<OpenCircuit, BTreeSet<String>> = BTreeMap::new();
    for reporter in reporters {
        for breaker in reporter.breakers.iter().take(MAX_OF_ONE) {
            if let Some(circuit) = circuit(kubernetes, shared, breaker) {
                all.entry(circuit).or_default().insert(reporter.workload.clone());
            }
        }
    }
    all
}

/// `None`: of no object that there is, such as a service of files.
fn circuit(kubernetes: &Kubernetes, shared: &Shared, breaker: &v1::BreakerReport) -> Option<OpenCircuit> {
    let service = ServiceName::parse(&breaker.service).ok()?;
    if let Some(((namespace, name), uid)) = kubernetes.discovery.service_of(&service) {
        let of = (namespace.clone(), name.clone());
        let instance = match breaker.instance.as_str() {
            "" => String::new(),
            instance => kubernetes.discovery.pod_of(&of, instance)?,
        };
        let subject = Subject { kind: SubjectKind::Service, namespace, name, uid };
        return Some(OpenCircuit { subject, service: breaker.service.clone(), instance });
    }
    let (name, namespace) = breaker.service.split_once('.')?;
    let id = ObjectId { kind: Kind::ExternalService, namespace: namespace.into(), name: name.into() };
    let in_force = shared.in_force.borrow().clone();
    let uid = in_force.standing.declared.objects.get(&id)?.uid.clone();
    let instances = &in_force.world.service(&service)?.endpoints.instances;
    if !breaker.instance.is_empty() && instances.iter().all(|instance| instance.id != breaker.instance) {
        return None;
    }
    let subject = Subject { kind: SubjectKind::ExternalService, namespace: id.namespace, name: id.name, uid };
    Some(OpenCircuit { subject, service: breaker.service.clone(), instance: breaker.instance.clone() })
}
