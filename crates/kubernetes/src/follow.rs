//! Follows one kind of object: a list, then a watch that goes on from it.
//!
//! It decides when a watch goes on where it ended (a connection that broke, a server that was away), when everything is listed
//! again (410: the server no longer has what lies between), and how long a silence is believed. It deliberately waits
//! little between two tries: what is found is to be true within a second of the server's return, and few ask.
//!
//! kube's own `watcher` does not say when a watch is whole again after a failure, which ages and [`crate::Discovery`] need.
//!
//! Invariants: what is told is a list, and after it every change in order, or another list; from the end of a watch until another
//! has held for [`CATCH_UP`] it says that it may be behind.

use crate::cluster::{CALL, chain};
use crate::facts::Id;
use futures_util::{StreamExt, pin_mut};
use kube::api::{Api, ListParams, Resource, ResourceExt, WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Objects in one answer; each is reduced before the next is asked for.
const PAGE: u32 = 500;
/// A watch ends after so long and goes on with another, so that one whose server is gone without a word is found out.
const WATCH: u32 = 60;
/// What a server may take longer than that.
const MARGIN: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// What a watch missed comes at once, when it goes on.
const CATCH_UP: Duration = Duration::from_millis(150);
/// A watch that held for so long was a good one.
const GOOD: Duration = Duration::from_secs(1);
/// Between two looks for a kind that is not installed.
const ABSENT: Duration = Duration::from_secs(5);
/// A kind of which there were objects is gone once that was said for so long.
const GONE: Duration = Duration::from_secs(10);

/// What is told.
pub(crate) enum Told<T> {
    /// All there is.
    All(Vec<(Id, T)>),
    Put(Id, T),
    Gone(Id),
}

/// How a kind is being followed.
#[derive(Debug)]
pub(crate) struct Health {
    kind: &'static str,
    /// It may not be installed, and then there is none of it.
    is_optional: bool,
    state: Mutex<State>,
    /// Told to make its watches anew: what they stand on may be dead.
    renew: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    /// Listed at least once.
    listed: bool,
    /// A watch is open, and what was missed before it has had the time to come.
    caught_up: bool,
    /// Since when, and why not.
    failing: Option<(Instant, String)>,
    /// Since when it is said that there is no such kind.
    absent: Option<Instant>,
}

impl Health {
    /// Of a kind that every API server has.
    pub(crate) fn new(kind: &'static str) -> Self {
        Self::of(kind, false)
    }

    /// Of one that may not be installed.
    pub(crate) fn optional(kind: &'static str) -> Self {
        Self::of(kind, true)
    }

    fn of(kind: &'static str, is_optional: bool) -> Self {
        let failing = Some((Instant::now(), "not asked yet".to_owned()));
        let state = State { listed: false, caught_up: false, failing, absent: None };
        Self { kind, is_optional, state: Mutex::new(state), renew: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_listed(&self) -> bool {
        self.lock().listed
    }

    /// Whether what happened up to now is known: a watch is open, and what was missed before it has had the time to come.
    pub(crate) fn is_steady(&self) -> bool {
        self.lock().caught_up
    }

    /// Since when it is failing, and why.
    pub(crate) fn failing(&self) -> Option<(Instant, String)> {
        self.lock().failing.as_ref().map(|(since, why)| (*since, format!("{}: {why}", self.kind)))
    }

    /// The API server answers again, and watches from before may never.
    pub(crate) fn renew(&self) {
        self.renew.send_modify(|n| *n += 1);
    }

    fn failed(&self, why: String) {
        let kind = self.kind;
        let mut state = self.lock();
        match &mut state.failing {
            Some((_, before)) => *before = why,
            None => {
                tracing::warn!(kind, why, "the watch in Kubernetes ended; what was last known stays in force");
                state.failing = Some((Instant::now(), why));
            }
        }
    }

    /// A watch ended: nobody tells what happens until the next.
    fn behind(&self) {
        self.lock().caught_up = false;
    }

    fn well(&self) {
        let failed = {
            let mut state = self.lock();
            (state.caught_up, state.absent) = (true, None);
            state.failing.take()
        };
        if let Some((since, _)) = failed {
            tracing::debug!(kind = self.kind, after = ?since.elapsed(), "watching in Kubernetes");
        }
    }

    /// The API server says that there is no such kind. Whether that is to be believed: of a kind that was there only once it was
    /// said for [`GONE`], since a server that only just begins may not know it yet.
    fn is_absent(&self) -> bool {
        let mut state = self.lock();
        let since = *state.absent.get_or_insert_with(Instant::now);
        let believed = self.is_optional && (!state.listed || state.failing.is_none() || since.elapsed() >= GONE);
        if believed {
            (state.caught_up, state.failing) = (true, None);
        }
        believed
    }
}

/// Which objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chosen {
    pub(crate) labels: Option<String>,
    pub(crate) fields: Option<String>,
}

enum Ended {
    /// In order: it goes on at once.
    Over,
    /// Everything must be listed again.
    Expired,
    Failed(String),
    /// There is no such kind, and so no object of it.
    Absent,
}

/// Why a list was not to be had.
enum Unlisted {
    NoSuchKind(String),
    Failed(String),
}

/// Until dropped. `reduce` gives `None` for what is not to be known.
pub(crate) async fn follow<K, T>(
    api: &Api<K>,
    chosen: &Chosen,
    health: &Health,
    reduce: impl Fn(K) -> Option<(Id, T)>,
    mut tell: impl FnMut(Told<T>),
) where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut from: Option<String> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        let mut listed = |all| {
            health.lock().listed = true;
            tell(Told::All(all));
        };
        let version = match from.take() {
            Some(version) => Ok(version),
            None => match list(api, chosen, &reduce).await {
                Ok((version, all)) => {
                    listed(all);
                    Ok(version)
                }
                Err(Unlisted::NoSuchKind(_)) if health.is_absent() => {
                    listed(Vec::new());
                    Err(Ended::Absent)
                }
                Err(Unlisted::NoSuchKind(why) | Unlisted::Failed(why)) => Err(Ended::Failed(why)),
            },
        };
        let ended = match version {
            Ok(mut version) => {
                let ended = stream(api, chosen, health, &mut version, &reduce, &mut tell).await;
                health.behind();
                if !matches!(ended, Ended::Expired) {
                    from = Some(version);
                }
                ended
            }
            Err(ended) => ended,
        };
        match ended {
            Ended::Over => {}
            Ended::Expired => health.failed("what happened meanwhile is no longer known there".into()),
            Ended::Failed(why) => health.failed(why),
            Ended::Absent => {
                tokio::time::sleep(jittered(ABSENT)).await;
                continue;
            }
        }
        if began.elapsed() >= GOOD {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn list<K, T>(
    api: &Api<K>,
    chosen: &Chosen,
    reduce: &impl Fn(K) -> Option<(Id, T)>,
) -> Result<(String, Vec<(Id, T)>), Unlisted>
where
    K: Clone + DeserializeOwned + Debug,
{
    let (labels, fields) = (chosen.labels.clone(), chosen.fields.clone());
    let mut params = ListParams { label_selector: labels, field_selector: fields, ..ListParams::default() }.limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = timeout(CALL * 2, api.list(&params)).await;
        let page = page.map_err(|_| Unlisted::Failed("no answer to a list".into()))?.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == 404 => Unlisted::NoSuchKind(said(&error)),
            error => Unlisted::Failed(said(error)),
        })?;
        all.extend(page.items.into_iter().filter_map(reduce));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok((page.metadata.resource_version.unwrap_or_default(), all)),
        }
    }
}

/// One watch, from `version`, which goes with it.
async fn stream<K, T>(
    api: &Api<K>,
    chosen: &Chosen,
    health: &Health,
    version: &mut String,
    reduce: &impl Fn(K) -> Option<(Id, T)>,
    tell: &mut impl FnMut(Told<T>),
) -> Ended
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut renew = health.renew.subscribe();
    let params = WatchParams {
        label_selector: chosen.labels.clone(),
        field_selector: chosen.fields.clone(),
        timeout: Some(WATCH),
        ..WatchParams::default()
    };
    let events = match timeout(CALL, api.watch(&params, version)).await {
        Ok(Ok(events)) => events,
        // what there is, is to be listed again; of a kind that is not installed any more too
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 410) => return Ended::Expired,
        Ok(Err(error)) => return Ended::Failed(said(&error)),
        Err(_) => return Ended::Failed("no answer to a watch".into()),
    };
    // a server that no longer knows `version` says so in the stream: one that has only just begun proves nothing
    let caught_up = tokio::time::sleep(CATCH_UP);
    let mut is_caught_up = false;
    pin_mut!(events, caught_up);
    let until = Instant::now() + Duration::from_secs(WATCH.into()) + MARGIN;
    loop {
        let event = tokio::select! {
            biased;
            _ = renew.changed() => return Ended::Over,
            // what waits is taken in first
            event = tokio::time::timeout_at(until, events.next()) => event,
            () = &mut caught_up, if !is_caught_up => {
                health.well();
                is_caught_up = true;
                continue;
            }
        };
        match event {
            Err(_) => return Ended::Failed("silent beyond its time".into()),
            Ok(None) => return Ended::Over,
            Ok(Some(Err(error))) => return Ended::Failed(said(&error)),
            Ok(Some(Ok(WatchEvent::Error(status)))) if status.code == 410 => return Ended::Expired,
            Ok(Some(Ok(WatchEvent::Error(status)))) => return Ended::Failed(status.message.clone()),
            Ok(Some(Ok(WatchEvent::Bookmark(mark)))) => *version = mark.metadata.resource_version,
            Ok(Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)))) => {
                if !took(&object, version) {
                    return Ended::Expired;
                }
                let id = id(&object);
                match reduce(object) {
                    Some((id, facts)) => tell(Told::Put(id, facts)),
                    None => tell(Told::Gone(id)),
                }
            }
            Ok(Some(Ok(WatchEvent::Deleted(object)))) => {
                if !took(&object, version) {
                    return Ended::Expired;
                }
                tell(Told::Gone(id(&object)));
            }
        }
    }
}

/// Takes the object's version as how far the watch is. False: it has none.
fn took<K: Resource>(object: &K, version: &mut String) -> bool {
    let at = object.resource_version().filter(|version| !version.is_empty());
    at.map(|at| *version = at).is_some()
}

fn id<K: Resource>(object: &K) -> Id {
    Id::new(&object.namespace().unwrap_or_default(), &object.name_any())
}

fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => chain(error),
    }
}

/// Half to whole, so that replicas do not ask in step.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8) % 1_000;
    pause / 2 + pause * u32::try_from(random).unwrap_or(0) / 2_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_testkit::KubeApi;
    use k8s_openapi::api::core::v1::ConfigMap;
    use std::sync::Arc;

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let looking = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(2)).await; // bounded wait
            }
        };
        timeout(Duration::from_secs(30), looking).await.unwrap_or_else(|_| panic!("not within 30 s: {what}"));
    }

    #[tokio::test]
    async fn between_the_end_of_a_watch_and_a_new_one_that_held_it_is_behind() {
        let server = KubeApi::start();
        let cluster = crate::Cluster::by(&server.kubeconfig(), Some("fusewire")).await.unwrap();
        let api = Api::<ConfigMap>::all(cluster.client.clone());
        let health = Arc::new(Health::new("ConfigMaps"));
        let following = health.clone();
        let reduce = |map: ConfigMap| Some((id(&map), ()));
        tokio::spawn(async move { follow(&api, &Chosen::default(), &following, reduce, |_| {}).await });
        until("it is steady", || health.is_steady()).await;
        assert!(health.failing().is_none());

        // the list that has to follow is refused, and the stream that only says 410 makes nothing well
        server.refuse(&["GET /api/v1/configmaps?&limit"]);
        server.expire();
        until("it is behind", || !health.is_steady() && health.failing().is_some()).await;
        let (since, _) = health.failing().unwrap();
        let asked = server.requests().len();
        until("it goes on asking", || server.requests().len() > asked + 3).await;
        assert!(!health.is_steady());
        assert_eq!(health.failing().unwrap().0, since);
        server.refuse(&[]);
        until("it is steady again", || health.is_steady() && health.failing().is_none()).await;

        // a watch that ends in order leaves a gap too
        server.refuse(&["GET /api/v1/configmaps?&watch"]);
        health.renew();
        until("it is behind once more", || !health.is_steady()).await;
    }
}
