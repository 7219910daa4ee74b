//! Circuits that open and close, told as Events of their Services.
//!
//! It decides what is told and how often: a circuit that opened, once however many callers have it; that it closed, once it was open
//! at nobody for [`SETTLED`], so that a report which is late or went to another replica is no news; at most [`BURST`] at once and one every
//! [`REFILL`] afterwards, where what went untold is counted in the next one. It deliberately does not watch circuits: whoever calls
//! says which are open.
//!
//! Invariant: what it keeps is bounded by the circuits that were open lately.

use crate::cluster::{Call, Cluster, ClusterError, call};
use crate::crd;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Events that may follow each other at once.
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_secs(3);
/// Two reports of every sidecar.
const SETTLED: Duration = Duration::from_secs(11);
/// Callers that are named.
const NAMED: usize = 3;
/// Bytes of a note (events.k8s.io/v1).
const MAX_NOTE: usize = 1_024;
/// Bytes of who reports.
const MAX_INSTANCE: usize = 128;

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    pub kind: SubjectKind,
    pub namespace: String,
    pub name: String,
    /// By which `kubectl describe` finds its Events.
    pub uid: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubjectKind {
    Service,
    ExternalService,
}

/// A circuit that is open, or that tests whether it may close.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenCircuit {
    pub subject: Subject,
    /// What the mesh calls the service, which has the port.
    pub service: String,
    /// The pod's name, or the instance's id; empty: the service as a whole.
    pub instance: String,
}

/// Tells of circuits; for whoever leads.
pub struct Events {
    cluster: Cluster,
    replica: String,
    /// Those that were open lately: since when, and when last.
    open: BTreeMap<OpenCircuit, (Instant, Instant)>,
    budget: Budget,
    untold: u64,
    began: Instant,
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

enum News<'a> {
    Opened(&'a BTreeSet<String>),
    Closed { after: Duration },
}

impl Events {
    /// `replica`: who tells.
    pub fn new(cluster: &Cluster, replica: &str, now: Instant) -> Self {
        let replica = replica.chars().take(MAX_INSTANCE / 4).collect();
        let budget = Budget { left: BURST, since: now };
        Self { cluster: cluster.clone(), replica, open: BTreeMap::new(), budget, untold: 0, began: now }
    }

    /// `open`: the circuits that are open now, and the callers at which they are. Those that are first seen soon after the beginning are not
    /// told: whoever led before did. An Event that cannot be written is logged, and counts as untold.
    pub async fn look(&mut self, open: BTreeMap<OpenCircuit, BTreeSet<String>>, now: Instant) {
        let begins = now.duration_since(self.began) < SETTLED;
        for (circuit, callers) in &open {
            match self.open.get_mut(circuit) {
                Some((_, last)) => *last = now,
                None => {
                    self.open.insert(circuit.clone(), (now, now));
                    if !begins {
                        self.tell(circuit, News::Opened(callers), now).await;
                    }
                }
            }
        }
        let closed = self.open.iter().filter(|(_, (_, last))| now.duration_since(*last) >= SETTLED);
        let closed: Vec<(OpenCircuit, Duration)> =
            closed.map(|(circuit, (since, last))| (circuit.clone(), last.duration_since(*since))).collect();
        for (circuit, after) in closed {
            self.open.remove(&circuit);
            self.tell(&circuit, News::Closed { after }, now).await;
        }
    }

    async fn tell(&mut self, circuit: &OpenCircuit, news: News<'_>, now: Instant) {
        if !self.budget.take(now) {
            self.untold += 1;
            return;
        }
        let event = self.event(circuit, &news);
        match self.write(event).await {
            Ok(()) => self.untold = 0,
            Err(error) => {
                self.untold += 1;
                let (service, instance) = (&circuit.service, &circuit.instance);
                tracing::warn!(service, instance, %error, "the Event about a circuit is not written");
            }
        }
    }

    async fn write(&self, event: Event) -> Result<(), ClusterError> {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api = Api::<Event>::namespaced(self.cluster.client.clone(), &namespace);
        call(Call::Write, api.create(&PostParams::default(), &event)).await.map(drop)
    }

    fn event(&self, circuit: &OpenCircuit, news: &News<'_>) -> Event {
        let OpenCircuit { subject, service, instance } = circuit;
        let what = match instance.as_str() {
            "" => format!("the circuit in front of {service}"),
            instance => format!("the circuit of {instance} in {service}"),
        };
        let (kind, reason, action, mut note) = match news {
            News::Opened(callers) => {
                let named = callers.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = callers.len().saturating_sub(NAMED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                ("Warning", "CircuitOpened", "Open", format!("{what} opened at {named}{more}"))
            }
            News::Closed { after } => {
                let note = format!("{what} is open at no caller any more, after {} s", after.as_secs());
                ("Normal", "CircuitClosed", "Close", note)
            }
        };
        if self.untold > 0 {
            note.push_str(&format!("; {} changes of other circuits were not told before it", self.untold));
        }
        while note.len() > MAX_NOTE {
            note.pop();
        }
        let (api_version, kind_of) = match subject.kind {
            SubjectKind::Service => ("v1".to_owned(), "Service"),
            SubjectKind::ExternalService => {
                (format!("{}/{}", crd::GROUP, crd::VERSION), crd::Kind::ExternalService.as_str())
            }
        };
        let reference = |kind: &str, name: &str, uid: Option<String>| ObjectReference {
            api_version: Some(if kind == "Pod" { "v1".to_owned() } else { api_version.clone() }),
            kind: Some(kind.into()),
            namespace: Some(subject.namespace.clone()),
            name: Some(name.into()),
            uid,
            ..ObjectReference::default()
        };
        let is_pod = subject.kind == SubjectKind::Service && !instance.is_empty();
        Event {
            metadata: ObjectMeta {
                namespace: Some(subject.namespace.clone()),
                // the name is told apart by the API server
                generate_name: Some(format!("{}.", subject.name.chars().take(200).collect::<String>())),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            reporting_controller: Some(format!("{}/control", crd::GROUP)),
            reporting_instance: Some(self.replica.clone()),
            action: Some(action.into()),
            reason: Some(reason.into()),
            regarding: Some(reference(kind_of, &subject.name, Some(subject.uid.clone()))),
            related: is_pod.then(|| reference("Pod", instance, None)),
            note: Some(note),
            type_: Some(kind.into()),
            ..Event::default()
        }
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
    use serde_json::Value;

    struct Bed {
        server: KubeApi,
        events: Events,
        now: Instant,
    }

    impl Bed {
        /// Past its beginning.
        async fn new(open: &[&str]) -> Self {
            let server = KubeApi::start();
            server.namespace("shop", serde_json::json!({}));
            let cluster = Cluster::by(&server.kubeconfig(), Some("fusewire")).await.unwrap();
            let now = Instant::now();
            let mut bed = Self { events: Events::new(&cluster, "a", now), server, now };
            bed.after(0, open).await;
            bed.after(10, open).await;
            bed.after(5, open).await;
            bed
        }

        async fn after(&mut self, seconds: u64, open: &[&str]) {
            self.now += Duration::from_secs(seconds);
            let one = |name: &&str| {
                let (namespace, of, uid) = ("shop".into(), "web".into(), "u".into());
                let subject = Subject { kind: SubjectKind::Service, namespace, name: of, uid };
                let circuit = OpenCircuit { subject, service: "web.shop".into(), instance: (*name).into() };
                (circuit, BTreeSet::from(["ns/shop/sa/front".to_owned()]))
            };
            self.events.look(open.iter().map(one).collect(), self.now).await;
        }

        /// Of each Event what it says, in the order of writing.
        fn told(&self) -> Vec<String> {
            let mut all = self.server.all("events.k8s.io/v1/events");
            let version =
                |event: &Value| event["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok());
            all.sort_by_key(version);
            let text = |event: &Value| {
                assert_eq!((&event["regarding"]["uid"], &event["reportingInstance"]), (&"u".into(), &"a".into()));
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                format!("{} {}: {}", text(&event["regarding"]["name"]), text(&event["reason"]), text(&event["note"]))
            };
            all.iter().map(text).collect()
        }
    }

    #[tokio::test]
    async fn a_circuit_is_told_when_it_opens_and_when_it_closes_and_not_between() {
        let mut bed = Bed::new(&["old"]).await;
        assert_eq!(bed.told(), [""; 0], "open since before");
        for _ in 0..3 {
            bed.after(5, &["old", "web-0"]).await;
        }
        let opened = "web CircuitOpened: the circuit of web-0 in web.shop opened at ns/shop/sa/front";
        assert_eq!(bed.told(), [opened]);
        bed.after(5, &["old"]).await;
        bed.after(5, &["old", "web-0"]).await;
        assert_eq!(bed.told(), [opened], "a report was late");
        for _ in 0..3 {
            bed.after(5, &["old"]).await;
        }
        let closed = "web CircuitClosed: the circuit of web-0 in web.shop is open at no caller any more, after 20 s";
        assert_eq!(bed.told(), [opened, closed]);
    }

    #[tokio::test]
    async fn a_storm_is_cut_short_and_what_was_not_told_is_counted() {
        let mut bed = Bed::new(&[]).await;
        let names: Vec<String> = (0..100).map(|n| format!("web-{n:03}")).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        bed.after(5, &names).await;
        assert_eq!(bed.told().len(), 20);
        names.push("web-last");
        bed.after(5, &names).await;
        let told = bed.told();
        assert!(told[20].contains("web-last") && told[20].contains("; 80 changes of other circuits"), "{}", told[20]);
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_counted_and_what_is_long_is_cut() {
        let mut bed = Bed::new(&[]).await;
        bed.server.refuse(&["POST /apis/events.k8s.io"]);
        bed.after(5, &["web-0"]).await;
        bed.server.refuse(&[]);
        let long = "x".repeat(2_000);
        bed.after(5, &["web-0", "web-1", &long]).await;
        let told = bed.told();
        assert!(
            told[0].contains("web-1") && told[0].ends_with("; 1 changes of other circuits were not told before it")
        );
        assert_eq!(told[1].len(), "web CircuitOpened: ".len() + MAX_NOTE);
    }
}
