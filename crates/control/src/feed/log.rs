//! One service's set, its recent changes, and what a watcher at some revision has missed.

use super::{Messages, PART, id};
use bytes::Bytes;
use fusewire_api::v1;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Changes that are remembered, and ids in all of them together.
const STEPS: usize = 256;
const IDS: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct State {
    revision: u64,
    current: BTreeMap<String, Arc<v1::Found>>,
    steps: VecDeque<Step>,
    ids: usize,
    /// The whole set as messages, made when first asked for and until the next change.
    whole: Option<Messages>,
    /// What those missed who fell behind, by where they were.
    sum: Option<(u64, Messages)>,
}

#[derive(Debug)]
struct Step {
    /// The revision before it.
    from: u64,
    ids: Vec<String>,
    messages: Messages,
}

impl State {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn current(&self) -> &BTreeMap<String, Arc<v1::Found>> {
        &self.current
    }

    /// The new revision, from `next`; `None`: nothing changed by it.
    pub(super) fn apply(
        &mut self,
        mut upserted: Vec<v1::Found>,
        mut removed: Vec<String>,
        next: impl FnOnce() -> u64,
    ) -> Option<u64> {
        upserted.retain(|found| self.current.get(id(found)).is_none_or(|old| **old != *found));
        removed.retain(|id| self.current.contains_key(id));
        if upserted.is_empty() && removed.is_empty() {
            return None;
        }
        let ids: Vec<String> = upserted.iter().map(|found| id(found).to_owned()).chain(removed.clone()).collect();
        let upserted: Vec<Arc<v1::Found>> = upserted.into_iter().map(Arc::new).collect();
        for id in &removed {
            self.current.remove(id);
        }
        for found in &upserted {
            self.current.insert(id(found).to_owned(), found.clone());
        }
        let (from, to) = (self.revision, next());
        self.revision = to;
        let messages = messages(to, false, &upserted, removed);
        self.ids += ids.len();
        self.steps.push_back(Step { from, ids, messages });
        while self.steps.len() > STEPS || self.ids > IDS {
            self.ids -= self.steps.pop_front().map_or(self.ids, |step| step.ids.len());
        }
        (self.whole, self.sum) = (None, None);
        Some(to)
    }

    /// What one that was told up to `position` has missed, and the revision after it.
    pub(super) fn since(&mut self, position: Option<u64>) -> Option<(Messages, u64)> {
        let messages = match position {
            Some(position) if position == self.revision => return None,
            Some(position) => self.sum_since(position).unwrap_or_else(|| self.whole()),
            None => self.whole(),
        };
        Some((messages, self.revision))
    }

    fn whole(&mut self) -> Messages {
        let (revision, current) = (self.revision, &self.current);
        let make = || messages(revision, true, &current.values().cloned().collect::<Vec<_>>(), Vec::new());
        self.whole.get_or_insert_with(make).clone()
    }

    /// `None`: the log does not reach back so far, or the whole set is smaller.
    fn sum_since(&mut self, position: u64) -> Option<Messages> {
        let first = self.steps.iter().position(|step| step.from == position)?;
        if first + 1 == self.steps.len() {
            return self.steps.back().map(|step| step.messages.clone());
        }
        if let Some((_, messages)) = self.sum.as_ref().filter(|(from, _)| *from == position) {
            return Some(messages.clone());
        }
        let ids: BTreeSet<&String> = self.steps.range(first..).flat_map(|step| &step.ids).collect();
        if ids.len() > self.current.len() {
            return None;
        }
        let upserted: Vec<_> = ids.iter().filter_map(|id| self.current.get(*id).cloned()).collect();
        let removed = ids.iter().filter(|id| !self.current.contains_key(**id)).map(|id| (*id).clone()).collect();
        let messages = messages(self.revision, false, &upserted, removed);
        self.sum = Some((position, messages.clone()));
        Some(messages)
    }
}

fn messages(revision: u64, whole: bool, upserted: &[Arc<v1::Found>], removed: Vec<String>) -> Messages {
    let mut left = (upserted, removed.as_slice());
    let mut all = Vec::new();
    loop {
        let (now, later) = left.0.split_at(left.0.len().min(PART));
        let (gone, gone_later) = left.1.split_at(left.1.len().min(PART - now.len()));
        left = (later, gone_later);
        let more = !later.is_empty() || !gone_later.is_empty();
        let message = v1::WatchResponse {
            revision,
            whole: whole && all.is_empty(),
            upserted: now.iter().map(|found| (**found).clone()).collect(),
            removed: gone.to_vec(),
            more,
        };
        all.push(Bytes::from(message.encode_to_vec()));
        if !more {
            return all.into();
        }
    }
}
