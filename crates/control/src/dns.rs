//! Names in DNS, as services have them: asked, remembered on disk, and told to whoever merges the sources.
//!
//! It decides which names are asked (those of the services in force) and that the last known answers outlive this process:
//! a control plane that starts while DNS is away tells callers what it knew, not that nothing is there. It deliberately
//! does not merge, and decides nothing about answers ([`fusewire_discovery::dns`] does).

use crate::assembly::Marks;
use crate::last_good;
use crate::shared::{InForce, lock};
use fusewire_discovery::dns::{DnsAnswer, Names};
use fusewire_model::ServiceName;
use fusewire_model::service::Instance;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

const FILE: &str = "dns.json";
/// How often ages are brought up to date, and what is known is written where it changed.
const TICK: Duration = Duration::from_secs(1);

/// What is known of each service's name.
#[derive(Debug)]
pub(crate) struct Answers {
    known: Mutex<BTreeMap<ServiceName, DnsAnswer>>,
    marks: Arc<Marks>,
    began: Instant,
}

/// How old what is known of a service's name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Age {
    pub(crate) service: ServiceName,
    /// Since it was last confirmed; since the start, where it was not yet.
    pub(crate) age: Duration,
    /// Why the last question had no good answer.
    pub(crate) failing: Option<String>,
}

impl Answers {
    /// What an earlier process kept is known from the start. `marks`: told of the services with other instances, or whose
    /// questions began or ceased to fail.
    pub(crate) fn open(data_dir: &Path, marks: Arc<Marks>) -> Self {
        let known = load(data_dir).into_iter().map(|(name, instances)| (name, DnsAnswer::remembered(instances)));
        Self { known: Mutex::new(known.collect()), marks, began: Instant::now() }
    }

    pub(crate) fn get(&self, service: &ServiceName) -> Option<DnsAnswer> {
        lock(&self.known).get(service).cloned()
    }

    /// For the metric `fusewire_discovery_age_seconds{source="dns"}`, and for alerts.
    pub(crate) fn ages(&self) -> Vec<Age> {
        let age = |(service, answer): (&ServiceName, &DnsAnswer)| Age {
            service: service.clone(),
            age: self.age(answer),
            failing: answer.failing.clone(),
        };
        lock(&self.known).iter().map(age).collect()
    }

    /// Since `answer` was last confirmed.
    pub(crate) fn age(&self, answer: &DnsAnswer) -> Duration {
        answer.confirmed_at.unwrap_or(self.began).elapsed()
    }

    fn put(&self, service: ServiceName, answer: DnsAnswer) {
        let before = lock(&self.known).insert(service.clone(), answer.clone());
        let failed = before.and_then(|before| before.failing);
        match (&failed, &answer.failing) {
            (None, Some(why)) => {
                let kept = answer.instances.len();
                tracing::warn!(%service, why, kept, "DNS fails: what was last known stays in force");
            }
            (Some(_), None) => tracing::info!(%service, instances = answer.instances.len(), "DNS answers again"),
            _ => {}
        }
        self.marks.mark([service]);
    }

    /// Confirmations change nothing but the age. What is no longer asked for is forgotten.
    fn refresh(&self, names: &Names) {
        let now: BTreeMap<_, _> = names.confirmed().collect();
        let mut gone = Vec::new();
        lock(&self.known).retain(|service, known| match now.get(service) {
            Some(confirmed_at) => {
                known.confirmed_at = *confirmed_at;
                true
            }
            None => {
                gone.push(service.clone());
                false
            }
        });
        if !gone.is_empty() {
            self.marks.mark(gone);
        }
    }
}

/// Asks until dropped.
pub(crate) async fn run(answers: &Answers, mut in_force: watch::Receiver<Arc<InForce>>, data_dir: &Path) {
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos().into());
    let mut names = Names::new(u64::from(std::process::id()) << 32 ^ seed);
    let mut unsaved = false;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    in_force.mark_changed();
    loop {
        tokio::select! {
            biased; // first of all which names there are: what is not asked is forgotten
            changed = in_force.changed() => {
                if changed.is_err() {
                    return;
                }
                let world = in_force.borrow_and_update().world.clone();
                let services = world.mesh().services.values();
                let wanted = services.filter_map(|s| Some((s.name.clone(), s.dns.clone()?)));
                names.set(wanted, |service| answers.get(service).map(|known| known.instances).unwrap_or_default());
                answers.refresh(&names);
            }
            (service, answer) = names.next() => {
                unsaved |= answers.get(&service).is_none_or(|before| before.instances != answer.instances);
                answers.put(service, answer);
            }
            _ = ticks.tick() => {
                answers.refresh(&names);
                if unsaved {
                    unsaved = !save_aside(answers, data_dir).await;
                }
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    service: String,
    instances: Vec<(SocketAddr, u32)>,
}

/// Whether it was kept.
async fn save_aside(answers: &Answers, data_dir: &Path) -> bool {
    let kept = |(service, answer): (&ServiceName, &DnsAnswer)| Kept {
        service: service.to_string(),
        instances: answer.instances.iter().map(|i| (i.address, i.weight)).collect(),
    };
    let all: Vec<Kept> = lock(&answers.known).iter().map(kept).collect();
    let dir = data_dir.to_owned();
    let saved = tokio::task::spawn_blocking(move || last_good::keep(&dir, FILE, &serde_json::to_vec(&all)?)).await;
    let saved = saved.map_err(io::Error::other).flatten();
    if let Err(error) = &saved {
        tracing::warn!(%error, file = FILE, "what DNS said could not be kept; it would not outlive a restart");
    }
    saved.is_ok()
}

/// What an earlier process kept; nothing where there is none, or it cannot be read.
fn load(data_dir: &Path) -> BTreeMap<ServiceName, Vec<Instance>> {
    let Ok(bytes) = std::fs::read(data_dir.join(FILE)) else { return BTreeMap::new() };
    let all: Vec<Kept> = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, file = FILE, "what DNS once said cannot be read, and is not used");
        Vec::new()
    });
    let instance = |(address, weight): (SocketAddr, u32)| Instance {
        id: address.to_string(),
        address,
        sidecar: None,
        weight: weight.clamp(1, 1000),
        labels: BTreeMap::new(),
        zone: None,
        down: false,
    };
    let service = |kept: Kept| {
        Some((ServiceName::parse(&kept.service).ok()?, kept.instances.into_iter().map(instance).collect()))
    };
    all.into_iter().filter_map(service).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_nonsense_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path()).is_empty());
        let address = "10.0.0.1:5432".parse().unwrap();
        let kept = Kept { service: "db".into(), instances: vec![(address, 7)] };
        last_good::keep(dir.path(), FILE, &serde_json::to_vec(&[kept]).unwrap()).unwrap();
        let loaded = load(dir.path());
        let instance = &loaded[&ServiceName::parse("db").unwrap()][0];
        assert_eq!((instance.address, instance.weight, instance.id.as_str()), (address, 7, "10.0.0.1:5432"));
        std::fs::write(dir.path().join(FILE), "[{").unwrap();
        assert!(load(dir.path()).is_empty());
    }

    #[test]
    fn what_was_kept_is_known_before_anything_is_asked_and_has_no_confirmation() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept { service: "db".into(), instances: vec![("10.0.0.1:5432".parse().unwrap(), 7)] };
        last_good::keep(dir.path(), FILE, &serde_json::to_vec(&[kept]).unwrap()).unwrap();
        let answers = Answers::open(dir.path(), Arc::default());
        let known = answers.get(&ServiceName::parse("db").unwrap()).unwrap();
        assert_eq!((known.instances.len(), known.confirmed_at), (1, None));
        assert_eq!(answers.ages()[0].failing, None);
    }
}
