//! Circuits that open and close, told as Events of their Services.
//!
//! It decides what is told and how often: a circuit that opened or closed since the last look, once however many callers have it,
//! at most [`BURST`] at once and one every [`REFILL`] afterwards; what went untold is counted in the next one. It deliberately does not
//! watch circuits: whoever calls says which are open.
//!
//! Invariant: what it keeps is bounded by the circuits that are open now.

use crate::cluster::{Call, Cluster, ClusterError, call};
use crate::crd;
use crate::known::ServiceId;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Events that may follow each other at once.
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_secs(3);
/// Callers that are named.
const NAMED: usize = 3;

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Service(ServiceId),
    ExternalService(ServiceId),
}

/// A circuit that is open, or that tests whether it may close.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenCircuit {
    /// What the mesh calls the service, which has the port.
    pub service: String,
    /// The pod's name, or the instance's id; empty: the service as a whole.
    pub instance: String,
}

/// Tells of circuits; for whoever leads.
pub struct Events {
    recorder: Recorder,
    /// Those that were open at the last look.
    open: BTreeMap<OpenCircuit, (Subject, Instant)>,
    budget: Budget,
    untold: u64,
    is_first: bool,
}

#[derive(Debug)]
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        let refill = now.duration_since(self.since).as_millis() / REFILL.as_millis();
        let refill = u32::try_from(refill).unwrap_or(u32::MAX);
        if refill > 0 {
            self.left = self.left.saturating_add(refill).min(BURST);
            self.since = now;
        }
        let had = self.left > 0;
        self.left = self.left.saturating_sub(1);
        had
    }
}

impl Events {
    /// `replica`: who tells.
    pub fn new(cluster: &Cluster, replica: &str) -> Self {
        let reporter = Reporter { controller: crd::GROUP.into(), instance: Some(replica.into()) };
        let budget = Budget { left: BURST, since: Instant::now() };
        let recorder = Recorder::new(cluster.client.clone(), reporter);
        Self { recorder, open: BTreeMap::new(), budget, untold: 0, is_first: true }
    }

    /// `open`: the circuits that are open now, whose they are, and the callers at which they are. What was open already at the first look
    /// is not told: whoever led before did.
    ///
    /// # Errors
    /// The first failure of the API server. What changed counts as told.
    pub async fn look(&mut self, open: BTreeMap<OpenCircuit, (Subject, Vec<String>)>) -> Result<(), ClusterError> {
        let now = Instant::now();
        let is_first = std::mem::take(&mut self.is_first);
        let mut due = Vec::new();
        for (circuit, (subject, callers)) in &open {
            if !self.open.contains_key(circuit) && !is_first {
                due.push((circuit.clone(), subject.clone(), opened(circuit, callers)));
            }
        }
        let closed: Vec<OpenCircuit> =
            self.open.keys().filter(|circuit| !open.contains_key(*circuit)).cloned().collect();
        for circuit in closed {
            if let Some((subject, since)) = self.open.remove(&circuit) {
                let event = self::closed(&circuit, now.duration_since(since));
                due.push((circuit, subject, event));
            }
        }
        for (circuit, (subject, _)) in open {
            self.open.entry(circuit).or_insert((subject, now));
        }
        for (circuit, subject, mut event) in due {
            if !self.budget.take(now) {
                self.untold += 1;
                continue;
            }
            let untold = std::mem::take(&mut self.untold);
            if untold > 0
                && let Some(note) = &mut event.note
            {
                note.push_str(&format!("; {untold} changes of other circuits were not told before it"));
            }
            event.secondary = pod(&subject, &circuit);
            let reference = reference(&subject);
            call(Call::Write, self.recorder.publish(&event, &reference)).await?;
        }
        Ok(())
    }
}

fn reference(subject: &Subject) -> ObjectReference {
    let (api_version, kind, (namespace, name)) = match subject {
        Subject::Service(id) => ("v1".to_owned(), "Service", id),
        Subject::ExternalService(id) => {
            (format!("{}/{}", crd::GROUP, crd::VERSION), crd::Kind::ExternalService.as_str(), id)
        }
    };
    ObjectReference {
        api_version: Some(api_version),
        kind: Some(kind.into()),
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
        ..ObjectReference::default()
    }
}

/// Events that differ in it are not counted as one.
fn pod(subject: &Subject, circuit: &OpenCircuit) -> Option<ObjectReference> {
    let Subject::Service((namespace, _)) = subject else { return None };
    (!circuit.instance.is_empty()).then(|| ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(namespace.clone()),
        name: Some(circuit.instance.clone()),
        ..ObjectReference::default()
    })
}

fn what(circuit: &OpenCircuit) -> String {
    match circuit.instance.as_str() {
        "" => format!("the circuit in front of {}", circuit.service),
        instance => format!("the circuit of {instance} in {}", circuit.service),
    }
}

fn opened(circuit: &OpenCircuit, callers: &[String]) -> Event {
    let named = callers.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = callers.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Event {
        type_: EventType::Warning,
        reason: "CircuitOpened".into(),
        note: Some(format!("{} opened at {named}{more}", what(circuit))),
        action: "Open".into(),
        secondary: None,
    }
}

fn closed(circuit: &OpenCircuit, after: Duration) -> Event {
    Event {
        type_: EventType::Normal,
        reason: "CircuitClosed".into(),
        note: Some(format!("{} is open at no caller any more, after {} s", what(circuit), after.as_secs())),
        action: "Close".into(),
        secondary: None,
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("open", &self.open.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_testkit::KubeApi;

    fn circuits(names: &[&str]) -> BTreeMap<OpenCircuit, (Subject, Vec<String>)> {
        let subject = Subject::Service(("shop".into(), "web".into()));
        let one = |name: &&str| {
            let circuit = OpenCircuit { service: "web.shop".into(), instance: (*name).into() };
            (circuit, (subject.clone(), vec!["ns/shop/sa/front".to_owned()]))
        };
        names.iter().map(one).collect()
    }

    fn told(server: &KubeApi) -> Vec<String> {
        let mut all = server.all("events.k8s.io/v1/events");
        all.sort_by_key(|event| event["metadata"]["creationTimestamp"].as_str().map(str::to_owned));
        let text = |event: &serde_json::Value| {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            format!("{} {}: {}", text(&event["regarding"]["name"]), text(&event["reason"]), text(&event["note"]))
        };
        let mut all: Vec<String> = all.iter().map(text).collect();
        all.sort();
        all
    }

    #[tokio::test]
    async fn a_circuit_is_told_when_it_opens_and_when_it_closes_and_not_between() {
        let server = KubeApi::start();
        server.namespace("shop", serde_json::json!({}));
        let cluster = Cluster::by(&server.kubeconfig(), Some("fusewire")).await.unwrap();
        let mut events = Events::new(&cluster, "a");
        // open since before
        events.look(circuits(&["old"])).await.unwrap();
        assert_eq!(told(&server), [""; 0]);
        for _ in 0..3 {
            events.look(circuits(&["old", "web-0"])).await.unwrap();
        }
        assert_eq!(told(&server), ["web CircuitOpened: the circuit of web-0 in web.shop opened at ns/shop/sa/front"]);
        events.look(circuits(&[])).await.unwrap();
        assert_eq!(told(&server).len(), 3, "{:?}", told(&server));
        assert!(told(&server)[0].starts_with("web CircuitClosed: the circuit of old in web.shop is open at no caller"));
    }

    #[tokio::test]
    async fn a_storm_is_cut_short_and_what_was_not_told_is_counted() {
        let server = KubeApi::start();
        server.namespace("shop", serde_json::json!({}));
        let cluster = Cluster::by(&server.kubeconfig(), Some("fusewire")).await.unwrap();
        let mut events = Events::new(&cluster, "a");
        events.look(circuits(&[])).await.unwrap();
        let names: Vec<String> = (0..100).map(|n| format!("web-{n:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        events.look(circuits(&names)).await.unwrap();
        let first = told(&server).len();
        assert!((20..30).contains(&first), "{first}");
        events.budget.left = 1;
        let mut more = names.clone();
        more.push("web-last");
        events.look(circuits(&more)).await.unwrap();
        let all = told(&server);
        let last = all.iter().find(|text| text.contains("web-last")).unwrap();
        assert!(last.contains("changes of other circuits were not told"), "{last}");
    }
}
