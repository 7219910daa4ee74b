//! The registry and the store: what is read at the start, written, and learnt from other replicas.
//!
//! It decides whose word counts where two replicas write of one registration: that of the one that heard its client last, by
//! their clocks; and what another wrote since is not ours to delete: silence is judged where it is heard. It
//! deliberately writes nothing for a heartbeat.
//!
//! Invariants: where others write too, nothing is written over what was not read; what the store says is told to the
//! registry in the order of the store's revisions; whatever beats at a replica that is gone is judged here.

use super::Registrations;
use super::persist::{self, PREFIX, Pending, Record, Write};
use super::words;
use crate::replicas;
use crate::store::{Change, Entry, Event, Expect, Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::sleep;

/// After a failure of the store.
const RETRY: Duration = Duration::from_secs(1);
/// Another replica may be writing the same; each round somebody gets on.
const MAX_ROUNDS: usize = 20;

/// The replicas that are alive, each with the revision at which it said so.
pub(crate) type Alive = BTreeMap<String, u64>;

/// Everything that is stored, before anybody may register.
pub(crate) async fn load(registrations: &Registrations, store: &Store) -> Result<Alive, StoreError> {
    let alive = alive(store).await?;
    registrations.shared.fetch_or(store.is_shared(), Ordering::Relaxed);
    if registrations.is_shared() {
        // of our own earlier life
        words::sweep(store, &registrations.home).await?;
    }
    let (_, entries) = store.list(PREFIX).await?;
    let count = entries.len();
    for entry in entries {
        registrations.learn(&entry.value, &alive, true);
        if registrations.is_shared() {
            registrations.pending().saw(&entry.key, entry.revision);
        }
    }
    if count > 0 {
        tracing::info!(
            registrations = count,
            "registrations taken from the store; each has its TTL and grace to beat again"
        );
    }
    Ok(alive)
}

/// Writes, and listens to other replicas, until dropped. `alive`: as [`load`] found them.
pub(crate) async fn run(registrations: &Registrations, store: &Store, alive: Alive) {
    let (pending, home) = (registrations.pending(), registrations.home.as_str());
    if !registrations.is_shared() {
        return persist::write(pending, |writes| commit(store, writes)).await;
    }
    let write = persist::write(pending, |writes| commit_shared(store, pending, home, writes));
    tokio::join!(write, hear(registrations, store, alive));
}

async fn alive(store: &Store) -> Result<Alive, StoreError> {
    let (_, entries) = store.list(replicas::PREFIX).await?;
    let name = |entry: &Entry| Some((entry.key.strip_prefix(replicas::PREFIX)?.to_owned(), entry.revision));
    Ok(entries.iter().filter_map(name).collect())
}

async fn commit(store: &Store, writes: Vec<Write>) -> Result<(), String> {
    let change = writes.into_iter().fold(Change::default(), |change, Write { key, value, .. }| match value {
        Some(value) => change.put(key, value),
        None => change.delete(key),
    });
    store.commit(change).await.map(drop).map_err(|error| error.to_string())
}

/// All at once, if nobody else wrote any of them; else each by itself.
async fn commit_shared(store: &Store, pending: &Pending, home: &str, writes: Vec<Write>) -> Result<(), String> {
    let change = writes.iter().cloned().fold(Change::default(), |change, Write { key, value, known }| {
        let change = change.expect(&key, known.map_or(Expect::Absent, Expect::Revision));
        match value {
            Some(value) => change.put(key, value),
            None => change.delete(key),
        }
    });
    match store.commit(change).await {
        Ok(revision) => {
            for write in writes {
                pending.wrote(&write.key, write.value.map(|_| revision));
            }
            return Ok(());
        }
        Err(StoreError::Conflict { .. } | StoreError::Uncertain(_)) => {}
        Err(error) => return Err(error.to_string()),
    }
    for write in writes {
        one(store, pending, home, write).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

async fn one(store: &Store, pending: &Pending, home: &str, write: Write) -> Result<(), StoreError> {
    let Write { key, value, known } = write;
    for _ in 0..MAX_ROUNDS {
        let there = store.get(&key).await?;
        let change = match (&value, &there) {
            (Some(ours), None) => Change::default().create(&key, ours.clone()),
            (Some(ours), Some(there)) if *ours == there.value => {
                pending.wrote(&key, Some(there.revision)); // by a try that did not know
                return Ok(());
            }
            // it comes back through the watch
            (Some(ours), Some(there)) if outdated(ours, there, home) => return Ok(()),
            (Some(ours), Some(there)) => Change::default().replace(there, ours.clone()),
            (None, Some(there)) if known == Some(there.revision) || is_home(there, home) => {
                Change::default().remove(there)
            }
            // it beats at another replica by now
            (None, Some(_)) => return Ok(()),
            (None, None) => {
                pending.wrote(&key, None);
                return Ok(());
            }
        };
        match store.commit(change).await {
            Ok(revision) => {
                pending.wrote(&key, value.as_ref().map(|_| revision));
                return Ok(());
            }
            Err(StoreError::Conflict { .. } | StoreError::Uncertain(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::Unavailable(format!("{key} is written by others all the time")))
}

/// Whether another replica heard its client after we did.
fn outdated(ours: &[u8], there: &Entry, home: &str) -> bool {
    let said = |value| Record::parse(value).map_or(0, |record| record.said);
    !is_home(there, home) && said(&there.value) > said(ours)
}

fn is_home(entry: &Entry, home: &str) -> bool {
    Record::parse(&entry.value).is_some_and(|record| record.home == home)
}

/// What other replicas write, and which of them are alive: one task, so that nothing is believed to beat at a replica whose
/// end was already heard of.
async fn hear(registrations: &Registrations, store: &Store, mut alive: Alive) {
    let (mut said, mut came) = (store.watch(PREFIX), store.watch(replicas::PREFIX));
    let mut reported = store.watch(words::PREFIX);
    let (mut upto, mut reported_upto) = (0, 0);
    loop {
        let (event, words) = tokio::select! {
            event = said.next() => (Some(event), None),
            words = reported.next() => (None, Some(words)),
            _ = came.next() => (None, None),
        };
        alive = meet(registrations, store, alive).await;
        match event {
            Some(Event::Resync) => upto = read_again(registrations, store, &alive).await,
            Some(Event::Changed { revision, puts, deletes }) if revision > upto => {
                puts.iter().for_each(|entry| told(registrations, entry, &alive));
                for key in &deletes {
                    registrations.pending().saw_gone(key);
                    registrations.forget(key);
                }
            }
            Some(Event::Changed { .. }) | None => {}
        }
        match words {
            Some(Event::Resync) => reported_upto = words_again(registrations, store, &alive).await,
            Some(Event::Changed { revision, puts, deletes }) if revision > reported_upto => {
                puts.iter().filter(|entry| is_alive(entry, &alive)).for_each(|entry| registrations.told(entry));
                deletes.iter().for_each(|key| registrations.untold(key));
            }
            Some(Event::Changed { .. }) | None => {}
        }
    }
}

/// Who is alive now; what beat at those that are gone is ours to judge.
async fn meet(registrations: &Registrations, store: &Store, before: Alive) -> Alive {
    let now = loop {
        match alive(store).await {
            Ok(now) => break now,
            Err(_) => sleep(RETRY).await,
        }
    };
    let gone = |name: &&String| !now.contains_key(*name) && **name != registrations.home;
    for gone in before.keys().filter(gone) {
        registrations.adopt(gone);
        if let Err(error) = words::sweep(store, gone).await {
            tracing::warn!(%error, replica = gone, "what a replica that is gone had been told stays in the store for now");
        }
    }
    let ours = (before.get(&registrations.home), now.get(&registrations.home));
    if matches!(ours, (before, Some(now)) if before != Some(now)) {
        // others may have thought us gone, and have adopted what beats here
        registrations.restate();
    }
    now
}

async fn read_again(registrations: &Registrations, store: &Store, alive: &Alive) -> u64 {
    let (revision, entries) = loop {
        match store.list(PREFIX).await {
            Ok(listed) => break listed,
            Err(_) => sleep(RETRY).await,
        }
    };
    let there: BTreeSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    for gone in registrations.pending().missing(&there) {
        registrations.forget(&gone);
    }
    entries.iter().for_each(|entry| told(registrations, entry, alive));
    revision
}

async fn words_again(registrations: &Registrations, store: &Store, alive: &Alive) -> u64 {
    let (revision, entries) = loop {
        match store.list(words::PREFIX).await {
            Ok(listed) => break listed,
            Err(_) => sleep(RETRY).await,
        }
    };
    let (living, dead): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|entry| is_alive(entry, alive));
    registrations.told_anew(&living);
    let gone: BTreeSet<&str> = dead.iter().filter_map(|entry| words::replica_of(&entry.key)).collect();
    for replica in gone {
        // left over; whoever starts next tries again
        let _ = words::sweep(store, replica).await;
    }
    revision
}

fn is_alive(entry: &Entry, alive: &Alive) -> bool {
    words::replica_of(&entry.key).is_some_and(|replica| alive.contains_key(replica))
}

fn told(registrations: &Registrations, entry: &Entry, alive: &Alive) {
    if registrations.pending().saw(&entry.key, entry.revision) {
        registrations.learn(&entry.value, alive, false);
    }
}

#[cfg(test)]
mod tests;
