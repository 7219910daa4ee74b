//! One of several: who writes what only one may write.
//!
//! It decides by a Lease who leads: who holds it renews it, and who does not takes it once it was not renewed for as long as it
//! says. When that is, is judged by the local clock since the last change that was seen, never by the holder's
//! timestamps: clocks of machines differ. It deliberately does not fence: what is written by it must bear being written twice
//! for a moment, and a leader that cannot renew stops before another begins.
//!
//! Invariant: whoever leads renewed the Lease less than two thirds of its time ago.

use crate::cluster::{Call, Cluster, ClusterError, call};
use crate::follow::jittered;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a Lease holds that says nothing sensible of it.
const SENSIBLE: std::ops::RangeInclusive<i32> = 1..=3_600;

/// How fast leadership changes hands.
#[derive(Clone, Copy, Debug)]
pub struct LeaderTiming {
    /// How long the Lease holds after a renewal; whole seconds, at least one. Default 9 s.
    pub duration: Duration,
    /// Between two looks, and two renewals. Default 2 s; less than a third of `duration`.
    pub retry: Duration,
}

impl Default for LeaderTiming {
    fn default() -> Self {
        Self { duration: Duration::from_secs(9), retry: Duration::from_secs(2) }
    }
}

/// One candidate.
#[derive(Debug)]
pub struct Leader {
    api: Api<Lease>,
    lease: String,
    holder: String,
    timing: LeaderTiming,
    leading: watch::Sender<bool>,
}

/// The last change of the Lease that was seen.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    spec: LeaseSpec,
    at: Instant,
}

/// What is to be done about a Lease.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create,
    Renew,
    Steal,
    Wait,
}

impl Leader {
    /// `holder`: this replica's name, another than all others'.
    pub fn new(cluster: &Cluster, lease: &str, holder: &str, timing: LeaderTiming) -> Self {
        Self {
            api: Api::namespaced(cluster.client.clone(), cluster.namespace()),
            lease: lease.into(),
            holder: holder.into(),
            timing,
            leading: watch::Sender::new(false),
        }
    }

    /// Told when this replica begins and ceases to lead.
    pub fn leading(&self) -> watch::Receiver<bool> {
        self.leading.subscribe()
    }

    /// Does `what` while this replica leads, anew each time that it begins to; until dropped.
    pub async fn while_leading<F: Future<Output = ()>>(mut leading: watch::Receiver<bool>, what: impl Fn() -> F) {
        loop {
            // an error would mean that the other end is gone, and this with it
            if leading.wait_for(|leads| *leads).await.is_err() {
                return std::future::pending().await;
            }
            tokio::select! {
                () = what() => {}
                _ = leading.wait_for(|leads| !leads) => {}
            }
        }
    }

    /// A candidate until dropped.
    ///
    /// # Drop behavior
    /// The Lease is held until it runs out; [`Leader::resign`] gives it up.
    pub async fn run(&self) {
        let mut seen: Option<Seen> = None;
        let mut renewed: Option<Instant> = None;
        let patience = self.timing.duration * 2 / 3;
        loop {
            let left = renewed.map(|at| patience.saturating_sub(at.elapsed()));
            let tried = tokio::time::timeout(left.unwrap_or(patience), self.once(&mut seen)).await;
            match tried {
                Ok(Ok(Some(at))) => renewed = Some(at),
                Ok(Ok(None)) => renewed = None,
                Ok(Err(error)) => tracing::debug!(%error, "the Lease of the leader cannot be looked at; trying again"),
                Err(_) => tracing::debug!("the Lease of the leader is not answered for; trying again"),
            }
            let leads = renewed.is_some_and(|at| at.elapsed() < patience);
            if !leads {
                renewed = None;
            }
            self.say(leads);
            let wait = jittered(self.timing.retry);
            let wait = renewed.map_or(wait, |at| wait.min(patience.saturating_sub(at.elapsed())));
            tokio::time::sleep(wait).await;
        }
    }

    fn say(&self, leads: bool) {
        let changed = self.leading.send_if_modified(|now| std::mem::replace(now, leads) != leads);
        if changed {
            let (lease, holder) = (&self.lease, &self.holder);
            tracing::info!(lease, holder, leads, "leadership changed");
        }
    }

    /// One look: when it was renewed, where it is ours now.
    async fn once(&self, seen: &mut Option<Seen>) -> Result<Option<Instant>, ClusterError> {
        let found = call(Call::Read, self.api.get_opt(&self.lease)).await?;
        let now = Instant::now();
        let spec = found.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        match (&spec, &seen) {
            (Some(spec), Some(before)) if before.spec == *spec => {}
            (Some(spec), _) => *seen = Some(Seen { spec: spec.clone(), at: now }),
            (None, _) => *seen = None,
        }
        let step = step(seen.as_ref(), &self.holder, now);
        let mut lease = found.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.lease.clone()), ..ObjectMeta::default() },
            spec: None,
        });
        lease.spec = Some(self.spec(spec.as_ref(), &step));
        // it counts from before the write, which may take its time
        let begun = Instant::now();
        let post = PostParams::default();
        let written = match step {
            Step::Wait => return Ok(None),
            Step::Create => call(Call::Write, self.api.create(&post, &lease)).await,
            Step::Renew | Step::Steal => call(Call::Write, self.api.replace(&self.lease, &post, &lease)).await,
        };
        match written {
            Ok(_) => Ok(Some(begun)),
            Err(ClusterError::Conflict(_)) => Ok(None), // somebody else was first
            Err(error) => Err(error),
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>, step: &Step) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let acquired = before.and_then(|spec| spec.acquire_time.clone()).filter(|_| *step == Step::Renew);
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: Some(i32::try_from(self.timing.duration.as_secs().max(1)).unwrap_or(i32::MAX)),
            acquire_time: acquired.or_else(|| now.clone()),
            renew_time: now,
            lease_transitions: Some(transitions.saturating_add(i32::from(*step == Step::Steal))),
            ..LeaseSpec::default()
        }
    }

    /// Gives the Lease up, where it is ours: the next need not wait for its end.
    pub async fn resign(&self) {
        self.say(false);
        let Ok(Some(mut lease)) = call(Call::Read, self.api.get_opt(&self.lease)).await else { return };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.holder)) else {
            return;
        };
        spec.holder_identity = Some(String::new());
        // who comes first may have it
        let _ = call(Call::Write, self.api.replace(&self.lease, &PostParams::default(), &lease)).await;
    }
}

fn step(seen: Option<&Seen>, holder: &str, now: Instant) -> Step {
    let Some(Seen { spec, at }) = seen else { return Step::Create };
    match spec.holder_identity.as_deref() {
        Some(who) if who == holder => Step::Renew,
        None | Some("") => Step::Steal,
        Some(_) => {
            let said = spec.lease_duration_seconds.unwrap_or(0).clamp(*SENSIBLE.start(), *SENSIBLE.end());
            let held = Duration::from_secs(u64::from(said.unsigned_abs()));
            if now.saturating_duration_since(*at) > held { Step::Steal } else { Step::Wait }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(holder: &str, seconds: i32, at: Instant) -> Seen {
        let spec = LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        };
        Seen { spec, at }
    }

    #[test]
    fn a_lease_is_taken_when_nobody_has_it_or_it_was_not_changed_for_as_long_as_it_holds() {
        let at = Instant::now();
        let after = |seconds| at + Duration::from_secs(seconds);
        assert_eq!(step(None, "a", at), Step::Create);
        assert_eq!(step(Some(&seen("a", 9, at)), "a", after(100)), Step::Renew);
        assert_eq!(step(Some(&seen("", 9, at)), "a", at), Step::Steal);
        assert_eq!(step(Some(&seen("b", 9, at)), "a", after(9)), Step::Wait);
        assert_eq!(step(Some(&seen("b", 9, at)), "a", after(10)), Step::Steal);
        // one that says nothing sensible is not waited for for ever
        assert_eq!(step(Some(&seen("b", -5, at)), "a", after(2)), Step::Steal);
    }
}
