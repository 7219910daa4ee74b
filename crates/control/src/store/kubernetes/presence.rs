//! Entries that go with their process: each names a Lease, which its process renews.
//!
//! It decides when such an entry is over: when its Lease was not renewed for as long as it holds, judged by the clock of whoever
//! looks, since the last renewal that it saw, with the API server there all the while. Everybody looks, and whoever finds one over removes it; that two do is no harm,
//! since the entry is removed only if it is still the same. The Secret itself is written at the begin and at the end alone.

use super::{Shared, refused};
use crate::shared::lock;
use crate::store::{Change, Expect, Presence, StoreError};
use fusewire_kubernetes::Beat;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

/// What a Lease is called before the name of the replica.
const LEASE: &str = "fusewire-replica-";
/// Keys of replicas begin so.
const REPLICAS: &str = "replicas/";
/// Whole seconds are what a Lease counts in.
const MIN_TTL: Duration = Duration::from_secs(2);
/// How often Leases are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// One that is not there is believed for so long: it may just be being made.
const UNSEEN: Duration = Duration::from_secs(5);

pub(super) async fn hold(
    shared: &Arc<Shared>,
    key: &str,
    change: Change,
    ttl: Duration,
) -> Result<Presence, StoreError> {
    let mut held = Held { shared: shared.clone(), key: key.into(), change, ttl: ttl.max(MIN_TTL), revision: 0 };
    held.beat().await?;
    held.put().await?;
    let (stay, left) = oneshot::channel();
    let task = tokio::spawn(async move {
        tokio::select! {
            // fails, which is the signal
            _ = left => {}
            () = held.keep() => {}
        }
        held.end().await;
    });
    Ok(Presence::new(stay, task))
}

struct Held {
    shared: Arc<Shared>,
    key: String,
    change: Change,
    ttl: Duration,
    /// At which the entry was put.
    revision: u64,
}

impl Held {
    async fn beat(&self) -> Result<(), StoreError> {
        self.shared.presences.beat(&lease(&self.key), &self.key, self.ttl).await.map_err(refused)
    }

    async fn put(&mut self) -> Result<(), StoreError> {
        self.revision = self.shared.commit(&self.change, Some(&lease(&self.key))).await?;
        Ok(())
    }

    /// Does not end.
    async fn keep(&mut self) {
        loop {
            tokio::time::sleep(self.ttl / 3).await;
            let kept = match self.beat().await {
                // others may have thought this process gone
                Ok(()) if lock(&self.shared.told).get(&self.key).is_none() => self.put().await,
                beaten => beaten,
            };
            if let Err(error) = kept {
                tracing::warn!(%error, "an entry of this process in the store could not be kept alive; trying again");
            }
        }
    }

    async fn end(&self) {
        let own = Change::default().expect(&self.key, Expect::Revision(self.revision)).delete(&self.key);
        let ended = match self.shared.commit(&own, None).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {
                self.shared.presences.end(&lease(&self.key)).await.map_err(refused)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "an entry of this process in the store stays until its time to live is over");
        }
    }
}

/// Removes what is over, whoever's it was; until dropped.
pub(super) async fn sweep(shared: &Shared) {
    let mut seen: BTreeMap<String, (String, Instant)> = BTreeMap::new();
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let contents = lock(&shared.told).clone();
        if contents.leased().next().is_none() {
            continue;
        }
        // what cannot be looked at is not over; and who could not be seen may not have been able to renew either
        let Ok(beats) = shared.presences.look().await else {
            seen.clear();
            continue;
        };
        let beats: BTreeMap<String, Beat> = beats.into_iter().map(|beat| (beat.lease.clone(), beat)).collect();
        let now = Instant::now();
        seen.retain(|lease, _| contents.leased().any(|(_, _, of)| of == lease));
        for (key, revision, lease) in contents.leased() {
            let (stamp, holds) = beats.get(lease).map_or((String::new(), UNSEEN), |b| (b.stamp.clone(), b.holds));
            let (known, since) = seen.entry(lease.to_owned()).or_insert_with(|| (stamp.clone(), now));
            if *known != stamp {
                (*known, *since) = (stamp, now);
            }
            if now.duration_since(*since) <= holds {
                continue;
            }
            tracing::info!(key, "its process is silent: its entry is removed");
            let gone = Change::default().expect(key, Expect::Revision(revision)).delete(key);
            if shared.commit(&gone, None).await.is_ok() {
                // one that stays holds nothing
                let _ = shared.presences.end(lease).await;
            }
        }
    }
}

/// One name for each key: what a name may not hold is replaced, and then a hash tells keys apart.
fn lease(key: &str) -> String {
    let own = key.strip_prefix(REPLICAS).unwrap_or(key);
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let name: String = own.chars().take(100).map(|c| if ok(c) { c } else { '-' }).collect();
    if name == own && key.starts_with(REPLICAS) && name.ends_with(|c: char| ok(c)) {
        return format!("{LEASE}{name}");
    }
    let hash = Sha256::digest(key.as_bytes());
    format!("{LEASE}{name}-{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3])
}
