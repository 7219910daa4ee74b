//! What sidecars say of instances that are not registered but written in files.
//!
//! It decides that a word counts for as long as the stream it came on, that the newest stream has it, and that what is heard
//! here counts before what another replica heard. Invariant: words about at most [`MAX`] instances are kept.

use crate::shared::lock;
use fusewire_model::health::Health;
use fusewire_model::{ServiceName, SpiffeId};
use std::collections::BTreeMap;
use std::sync::Mutex;

const MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<BTreeMap<ServiceName, BTreeMap<String, Vec<Word>>>>);

/// Where a word came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// On a heartbeat stream of this replica.
    Stream(u64),
    /// At another.
    Replica(String),
}

#[derive(Debug)]
struct Word {
    identity: SpiffeId,
    speaker: Speaker,
    health: Health,
    detail: String,
}

impl Reports {
    /// Whether that is news.
    pub(super) fn put(
        &self,
        service: &ServiceName,
        id: &str,
        (identity, speaker): (&SpiffeId, Speaker),
        (health, detail): (Health, &str),
    ) -> bool {
        let mut all = lock(&self.0);
        let new = all.get(service).is_none_or(|of| !of.contains_key(id));
        if new && all.values().map(BTreeMap::len).sum::<usize>() >= MAX {
            return false;
        }
        let words = all.entry(service.clone()).or_default().entry(id.to_owned()).or_default();
        let before = counts(words).map(|word| (word.health, word.detail.clone()));
        words.retain(|word| match (&word.speaker, &speaker) {
            (Speaker::Stream(_), Speaker::Stream(_)) => false,
            (there, new) => there != new,
        });
        let detail: String = detail.chars().take(256).collect();
        words.push(Word { identity: identity.clone(), speaker, health, detail });
        counts(words).map(|word| (word.health, word.detail.clone())) != before
    }

    pub(super) fn get(&self, service: &ServiceName, id: &str, identity: &SpiffeId) -> Option<(Health, String)> {
        let all = lock(&self.0);
        let word = counts(all.get(service)?.get(id)?).filter(|word| word.identity == *identity)?;
        Some((word.health, word.detail.clone()))
    }

    /// What came in at this replica: of which instance, whose word, and what.
    pub(super) fn here(&self) -> Vec<(ServiceName, String, SpiffeId, (Health, String))> {
        let all = lock(&self.0);
        let words = all.iter().flat_map(|(service, of)| of.iter().map(move |(id, words)| (service, id, words)));
        let here = words.filter_map(|(service, id, words)| {
            let word = counts(words).filter(|word| matches!(word.speaker, Speaker::Stream(_)))?;
            Some((service.clone(), id.clone(), word.identity.clone(), (word.health, word.detail.clone())))
        });
        here.collect()
    }

    /// The instances that it spoke of.
    pub(super) fn forget(&self, speaker: &Speaker) -> Vec<(ServiceName, String)> {
        self.forget_those(|_, _, word| word.speaker == *speaker)
    }

    /// What it said of one instance.
    pub(super) fn forget_one(
        &self,
        speaker: &Speaker,
        service: &ServiceName,
        id: &str,
    ) -> Option<(ServiceName, String)> {
        let mut all = lock(&self.0);
        let of = all.get_mut(service)?;
        let words = of.get_mut(id)?;
        let before = words.len();
        words.retain(|word| word.speaker != *speaker);
        let forgot = words.len() != before;
        if words.is_empty() {
            of.remove(id);
        }
        if of.is_empty() {
            all.remove(service);
        }
        forgot.then(|| (service.clone(), id.to_owned()))
    }

    /// What other replicas said.
    pub(super) fn forget_others(&self) -> Vec<(ServiceName, String)> {
        self.forget_those(|_, _, word| matches!(word.speaker, Speaker::Replica(_)))
    }

    fn forget_those(&self, gone: impl Fn(&ServiceName, &str, &Word) -> bool) -> Vec<(ServiceName, String)> {
        let mut touched = Vec::new();
        lock(&self.0).retain(|service, of| {
            of.retain(|id, words| {
                let before = words.len();
                words.retain(|word| !gone(service, id, word));
                if words.len() != before {
                    touched.push((service.clone(), id.clone()));
                }
                !words.is_empty()
            });
            !of.is_empty()
        });
        touched
    }
}

/// The word that counts.
fn counts(words: &[Word]) -> Option<&Word> {
    let here = words.iter().rev().find(|word| matches!(word.speaker, Speaker::Stream(_)));
    here.or(words.last())
}
