//! What trust does by itself while a control plane runs: it follows the store and the files, and looks at the calendar.
//!
//! It decides when roots that were replaced from outside stop being believed, how a new external authority takes over, and
//! when an end is near enough to say so. It deliberately takes no step of a rotation: those are an operator's.
//!
//! Invariant: an external authority signs only after its roots were announced, for [`ANNOUNCED`] at least and until every
//! connected sidecar has them, or for [`ANNOUNCED_AT_MOST`].

use super::{PREFIX, STATE, Trust, TrustError};
use crate::alerts::Alerts;
use crate::fleet::Fleet;
use crate::shared::Shared;
use crate::store::{Change, StoreError};
use fusewire_identity::{Authority, RootView, TrustState, UnixTime};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Sidecars that are just connecting again (at most every five seconds) are given the time to.
const ANNOUNCED: Duration = Duration::from_secs(10);
const ANNOUNCED_AT_MOST: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_secs(1);
/// How often a store that others write too is read, besides what it tells by itself: who cannot read it stops signing.
const READ: Duration = Duration::from_secs(3);
const SWEEP: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);
const ROOT_EXPIRES: &str = "root-expires";
const ISSUER_EXPIRES: &str = "issuer-expires";
const UNREADABLE: &str = "trust-unreadable";
/// An end is near when less than a tenth of the life is left, but not before this.
const NEAR: u64 = 30 * 24 * 3600;

/// Until dropped.
pub(crate) async fn run(shared: &Arc<Shared>) {
    tokio::join!(publish(shared), follow(shared), look(shared));
}

/// Tells sidecars what trust is now.
async fn publish(shared: &Shared) {
    let mut trust = shared.trust.subscribe();
    loop {
        let resource = trust.borrow_and_update().resource.clone();
        shared.put_trust(resource);
        if trust.changed().await.is_err() {
            return;
        }
    }
}

/// Takes over what is in the store, whoever wrote it.
async fn follow(shared: &Shared) {
    let mut changes = shared.trust.store.watch(PREFIX);
    loop {
        changes.next().await;
        while let Err(error) = shared.trust.refresh(&shared.alerts).await {
            shared.alerts.raise(UNREADABLE, "store", format!("{error}; what was read before stays in force"));
            tokio::time::sleep(RETRY).await;
        }
        shared.alerts.end(UNREADABLE, "store");
    }
}

async fn look(shared: &Shared) {
    let trust = &shared.trust;
    let mut announced = None;
    let (mut swept, mut read) = (Instant::now(), Instant::now());
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        trust.alert(&shared.alerts);
        // only what files say waits for sidecars here
        let waits = trust.external.is_some() && trust.files_wait();
        let fleet = if waits { shared.all_sidecars().await } else { Fleet::default() };
        let done = async {
            if trust.store.is_shared() && read.elapsed() >= READ {
                read = Instant::now();
                trust.refresh(&shared.alerts).await?;
            }
            trust.drop_ended(&shared.alerts).await?;
            trust.follow_files(&mut announced, &fleet, &shared.alerts).await?;
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                trust.sweep_tokens().await?;
            }
            Ok::<_, TrustError>(())
        };
        if let Err(error) = done.await {
            tracing::warn!(%error, "trust could not be looked after; trying again");
        }
    }
}

impl Trust {
    /// Notes in the store for how long leaves are signed, where that is not known yet.
    pub(super) async fn note_lifetime(&self, alerts: &Alerts) -> Result<(), TrustError> {
        self.restate(alerts, |state| state.with_lifetime(self.leaf_lifetime)).await
    }

    async fn drop_ended(&self, alerts: &Alerts) -> Result<(), TrustError> {
        if self.now().authority.state().without_ended(UnixTime::now()).is_none() {
            return Ok(());
        }
        tracing::info!("a root that was replaced has ended its time, and is no longer believed");
        self.restate(alerts, |state| state.without_ended(UnixTime::now())).await
    }

    /// Changes the stored state, as often as somebody else is faster.
    async fn restate(
        &self,
        alerts: &Alerts,
        change: impl Fn(&TrustState) -> Option<TrustState>,
    ) -> Result<(), TrustError> {
        loop {
            let entry = self.store.get(STATE).await?.ok_or(TrustError::Vanished)?;
            let Some(next) = change(&TrustState::from_json(&entry.value)?) else { break };
            match self.store.commit(Change::default().replace(&entry, next.to_json()?)).await {
                Ok(_) => break,
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.refresh(alerts).await.map(drop)
    }

    /// One step towards what the external authority's files say.
    async fn follow_files(
        &self,
        announced: &mut Option<(String, Instant)>,
        fleet: &Fleet,
        alerts: &Alerts,
    ) -> Result<(), TrustError> {
        let Some(external) = &self.external else { return Ok(()) };
        let new_files = external.poll(alerts).await;
        let standing = self.now();
        let (local, stored) = (external.local(), standing.authority.state().clone());
        if stored.root_hash() == local.root_hash() && stored.is_external() {
            *announced = None;
            alerts.end(super::external::BEHIND, external.about());
            external.settled();
            if new_files {
                self.refresh(alerts).await?; // another key or intermediate under the same root
            }
            return Ok(());
        }
        if !external.changed() {
            let why = "another control plane of this store has files of a newer root: are they not here yet?";
            alerts.raise(super::external::BEHIND, external.about(), why.into());
            return Ok(());
        }
        match self.next_external(&local, announced, fleet)? {
            Some(next) => self.put_external(&stored, &next, alerts).await,
            None => Ok(()),
        }
    }

    /// Whether files of another root wait for sidecars to know it.
    fn files_wait(&self) -> bool {
        let stored = self.now().authority.root_hash().to_owned();
        self.external.as_ref().is_some_and(|external| external.local().root_hash() != stored)
    }

    /// The state after this one on the way to `local`; `None` while it has to wait.
    fn next_external(
        &self,
        local: &Authority,
        announced: &mut Option<(String, Instant)>,
        fleet: &Fleet,
    ) -> Result<Option<TrustState>, TrustError> {
        let (standing, now) = (self.now(), UnixTime::now());
        let stored = standing.authority.state();
        let next = match stored.roots().into_iter().find(|root| root.hash == local.root_hash()) {
            None => {
                tracing::warn!(
                    root_hash = local.root_hash(),
                    "the roots of new files are announced; they sign when sidecars know them"
                );
                return Ok(Some(standing.authority.announcing(local)?.to_state()));
            }
            // still believed from before
            Some(RootView { keep_until: Some(_), .. }) => local.succeeding(stored, now)?.to_state(),
            Some(_) => {
                let known = announced.take_if(|(root, _)| root == local.root_hash());
                let since = known.map_or_else(Instant::now, |(_, since)| since);
                *announced = Some((local.root_hash().to_owned(), since));
                let missing = fleet.without_trust(&standing.told());
                if since.elapsed() < ANNOUNCED || (!missing.is_empty() && since.elapsed() < ANNOUNCED_AT_MOST) {
                    return Ok(None);
                }
                if !missing.is_empty() {
                    let missing = missing.join(", ");
                    tracing::warn!(missing, "the external authority signs, though some do not know its roots");
                }
                local.succeeding(stored, now)?.to_state()
            }
        };
        Ok(Some(next.with_lifetime(self.leaf_lifetime).unwrap_or(next)))
    }

    /// Unless somebody else was faster, in which case it is looked at again in a second.
    async fn put_external(&self, stored: &TrustState, next: &TrustState, alerts: &Alerts) -> Result<(), TrustError> {
        let entry = self.store.get(STATE).await?.ok_or(TrustError::Vanished)?;
        if TrustState::from_json(&entry.value)?.to_json()? != stored.to_json()? {
            return self.refresh(alerts).await.map(drop);
        }
        match self.store.commit(Change::default().replace(&entry, next.to_json()?)).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let standing = self.refresh(alerts).await?;
        tracing::warn!(root_hash = standing.authority.root_hash(), "the external authority's roots have changed");
        Ok(())
    }

    /// Ends that are near.
    fn alert(&self, alerts: &Alerts) {
        let now = UnixTime::now().as_secs();
        let standing = self.now();
        let mut near = Vec::new();
        let roots = standing.authority.state().roots();
        for root in roots.iter().filter(|root| root.keep_until.is_none()) {
            if is_near(now, root.not_before, root.not_after) {
                let left = root.not_after.saturating_sub(now) / 3600;
                let remedy = if standing.authority.state().is_external() {
                    "have its issuer replace it"
                } else {
                    "replace it with `fusewire trust rotate`"
                };
                near.push(root.hash.clone());
                alerts.raise(ROOT_EXPIRES, &root.hash, format!("the root ends in {left} h: {remedy}"));
            }
        }
        alerts.end_others(ROOT_EXPIRES, &near);
        // of an external authority the certificate that issues ends before the root
        let left = standing.authority.not_after().saturating_sub(now);
        let short = standing.authority.state().is_external() && left < 2 * self.leaf_lifetime.as_secs();
        let why = || {
            (String::new(), format!("certificates are cut to the {left} s that the issuing certificate still holds"))
        };
        alerts.put(ISSUER_EXPIRES, short.then(why));
    }
}

fn is_near(now: u64, not_before: u64, not_after: u64) -> bool {
    let life = not_after.saturating_sub(not_before);
    not_after.saturating_sub(now) < (life / 10).min(NEAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_near_in_the_last_tenth_of_a_life_and_in_the_last_month_of_a_long_one() {
        const DAY: u64 = 24 * 3600;
        assert!(!is_near(89 * DAY, 0, 100 * DAY));
        assert!(is_near(91 * DAY, 0, 100 * DAY));
        assert!(!is_near(3_600 * DAY, 0, 3_650 * DAY));
        assert!(is_near(3_621 * DAY, 0, 3_650 * DAY));
        assert!(is_near(4_000 * DAY, 0, 3_650 * DAY));
    }
}
