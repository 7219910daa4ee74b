//! Objects that operators apply by API: kept in the store, changed whole or not at all, with their history.
//!
//! It decides how a change becomes durable (objects, revision and history in one commit, which expects the revision it
//! read), what a stale writer is told, and how long history is kept. What is valid, and whose word counts, the model
//! decides ([`fusewire_model::yaml::apply`]); what is in force, [`crate::configuration`]. It deliberately has no lock: of two
//! writers one commits, the other looks again at what it is then about to change.
//!
//! Invariants: an answer that says "revision 7" is given only when revision 7 is on disk; a kill at any moment leaves all of
//! a change or nothing; revisions grow by one, so that history can be pruned by number.

mod error;
mod keys;
mod plan;
#[cfg(test)]
mod tests;

pub(crate) use error::ObjectsError;
pub(crate) use plan::{Changed, Wish};

use crate::store::{Change, Entry, Expect, Store, StoreError, Watch};
use fusewire_model::TrustDomain;
use fusewire_model::yaml::{ObjectName, Objects, Source};
use jiff::Timestamp;
use keys::{Happened, Head, Stored, TextChange, Texts};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many revisions back history goes, and a rollback can.
pub(crate) const KEPT_REVISIONS: u64 = 1_000;
/// The most objects that are kept; more belongs into files.
pub(crate) const MAX_OBJECTS: usize = 10_000;
/// Bytes of all objects' texts together: an answer with all of them fits into one message.
pub(crate) const MAX_TEXT: usize = 8 << 20;
/// How often a change is planned again because somebody else was first.
const ATTEMPTS: usize = 5;
/// Characters.
const MAX_MESSAGE: usize = 1_000;

/// A handle on the objects; clones share the store.
#[derive(Clone, Debug)]
pub(crate) struct ObjectStore {
    store: Store,
    domain: TrustDomain,
}

/// All objects at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// Of all objects together; 0 before the first change.
    pub(crate) revision: u64,
    pub(crate) objects: Objects,
    pub(crate) about: BTreeMap<ObjectName, About>,
    head: Option<Entry>,
}

/// An object's last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) revision: u64,
    pub(crate) author: String,
    /// RFC 3339.
    pub(crate) time: String,
}

/// On which terms a change is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    /// Only say what would change.
    pub(crate) dry_run: bool,
    /// Refuse if an object that the change is about has changed after this revision.
    pub(crate) if_revision: Option<u64>,
    /// For the history; at most 1,000 characters.
    pub(crate) message: String,
    /// A SPIFFE ID, or `local`.
    pub(crate) author: String,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// After it; as before where nothing changed.
    pub(crate) revision: u64,
    /// Of files and objects alone, without instances that were found elsewhere.
    pub(crate) version: String,
    /// In the order of names.
    pub(crate) changes: Vec<Changed>,
}

/// One revision of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) revision: u64,
    pub(crate) about: About,
    pub(crate) message: String,
    /// The texts only where one revision was asked for.
    pub(crate) changes: Vec<Changed>,
}

impl Snapshot {
    /// As [`ObjectStore::read`], before it is known which trust domain this is.
    ///
    /// # Errors
    /// As [`ObjectStore::read`].
    pub(crate) async fn read(store: &Store) -> Result<Self, ObjectsError> {
        let mut head = store.get(keys::HEAD).await?;
        for _ in 0..ATTEMPTS {
            let (_, entries) = store.list(keys::OBJECTS).await?;
            let after = store.get(keys::HEAD).await?;
            if head == after {
                return snapshot(head, entries);
            }
            head = after;
        }
        Err(ObjectsError::Busy)
    }
}

impl ObjectStore {
    pub(crate) fn new(store: Store, domain: TrustDomain) -> Self {
        Self { store, domain }
    }

    /// Told of every change, also by other replicas; after any event, [`ObjectStore::read`].
    ///
    /// # Drop behavior
    /// Ends it.
    pub(crate) fn watch(&self) -> Watch {
        self.store.watch(keys::HEAD)
    }

    /// All objects as they are now.
    ///
    /// # Errors
    /// [`ObjectsError::Store`], [`ObjectsError::Unreadable`], and [`ObjectsError::Busy`] where they never held still.
    pub(crate) async fn read(&self) -> Result<Snapshot, ObjectsError> {
        Snapshot::read(&self.store).await
    }

    /// Makes a change, with `files` as the files that are in force.
    ///
    /// # Errors
    /// Nothing was changed, but for [`StoreError::Uncertain`].
    pub(crate) async fn change(
        &self,
        files: &Arc<[Source]>,
        wish: &Wish,
        terms: &Terms,
    ) -> Result<Outcome, ObjectsError> {
        self.attempt(files, Ask::Wish(wish), terms).await
    }

    /// Makes all objects what they were at `revision`, as a new revision.
    ///
    /// # Errors
    /// As [`ObjectStore::change`]; [`ObjectsError::NotFound`] for a revision that is not kept any more, or not yet made.
    pub(crate) async fn roll_back(
        &self,
        files: &Arc<[Source]>,
        revision: u64,
        terms: &Terms,
    ) -> Result<Outcome, ObjectsError> {
        self.attempt(files, Ask::RollBack(revision), terms).await
    }

    /// The newest `limit` revisions, newest first, without texts.
    ///
    /// # Errors
    /// [`ObjectsError::Store`], [`ObjectsError::Unreadable`].
    pub(crate) async fn history(&self, limit: usize) -> Result<Vec<Past>, ObjectsError> {
        let (_, entries) = self.store.list(keys::HISTORY).await?;
        entries.iter().rev().take(limit).map(|entry| past(entry, Texts::default())).collect()
    }

    /// One revision with its texts.
    ///
    /// # Errors
    /// As [`ObjectStore::history`], and [`ObjectsError::NotFound`].
    pub(crate) async fn revision(&self, revision: u64) -> Result<Past, ObjectsError> {
        let missing = || ObjectsError::NotFound(format!("revision {revision} is not kept any more, or was never made"));
        let entry = self.store.get(&keys::history(revision)).await?.ok_or_else(missing)?;
        let texts = self.store.get(&keys::texts(revision)).await?.ok_or_else(missing)?;
        past(&entry, decode(&texts)?)
    }

    async fn attempt(&self, files: &Arc<[Source]>, ask: Ask<'_>, terms: &Terms) -> Result<Outcome, ObjectsError> {
        if terms.message.chars().count() > MAX_MESSAGE {
            return Err(ObjectsError::Invalid(format!("a message is at most {MAX_MESSAGE} characters long")));
        }
        let mut unsure: Option<(String, Outcome)> = None;
        for _ in 0..ATTEMPTS {
            let before = self.read().await?;
            // a try whose end nobody told may have come to be after all
            if let Some((id, outcome)) = &unsure
                && before.revision >= outcome.revision
                && self.is(outcome.revision, id).await?
            {
                return Ok(outcome.clone());
            }
            let wish = match ask {
                Ask::Wish(wish) => wish.clone(),
                Ask::RollBack(revision) => Wish::Restore(self.at(&before, revision).await?),
            };
            let (files, objects, domain) = (files.clone(), before.objects.clone(), self.domain.clone());
            // judging reads the whole configuration: off the runtime
            let judging = tokio::task::spawn_blocking(move || plan::plan(&files, &objects, &wish, &domain));
            let planned = judging.await.map_err(|_| ObjectsError::Broken)??;
            self.fresh(&before, &planned.touched, terms).await?;
            let (changes, version) = (planned.changes, planned.version);
            if changes.is_empty() || terms.dry_run {
                return Ok(Outcome { revision: before.revision, version, changes });
            }
            let committed = self.commit(&before, &changes, terms).await?;
            let outcome = Outcome { revision: before.revision + 1, version, changes };
            match committed {
                Committed::Yes => return Ok(outcome),
                Committed::No => {}
                Committed::Unsure(id) => unsure = Some((id, outcome)),
            }
        }
        Err(ObjectsError::Busy)
    }

    /// Refuses a writer who has not seen the newest of what it is about.
    async fn fresh(&self, now: &Snapshot, touched: &[ObjectName], terms: &Terms) -> Result<(), ObjectsError> {
        let Some(seen) = terms.if_revision else { return Ok(()) };
        if seen > now.revision {
            let said = format!("revision {seen} has not been made yet: the configuration is at {}", now.revision);
            return Err(ObjectsError::Invalid(said));
        }
        let mut newer: BTreeMap<String, About> = BTreeMap::new();
        // an object that was deleted since says nothing of itself, but the history does
        if touched.iter().any(|name| !now.about.contains_key(name)) && seen < now.revision {
            for past in self.history(usize::MAX).await?.into_iter().rev().filter(|past| past.revision > seen) {
                newer.extend(past.changes.into_iter().map(|change| (change.name.to_string(), past.about.clone())));
            }
        }
        newer.extend(now.about.iter().filter(|(_, a)| a.revision > seen).map(|(n, a)| (n.to_string(), a.clone())));
        let told: Vec<String> = touched
            .iter()
            .filter_map(|name| newer.get(&name.to_string()).map(|about| (name, about)))
            .map(|(name, a)| format!("{name} was changed by {} at {} (revision {})", a.author, a.time, a.revision))
            .collect();
        if told.is_empty() {
            return Ok(());
        }
        Err(ObjectsError::Stale(format!(
            "changed after revision {seen}, and so nothing was changed now: {}; get it again, and apply to that",
            told.join("; ")
        )))
    }

    /// Whether `revision` is the change `id`.
    async fn is(&self, revision: u64, id: &str) -> Result<bool, StoreError> {
        let found = self.store.get(&keys::history(revision)).await?;
        Ok(found.is_some_and(|entry| decode::<Happened>(&entry).is_ok_and(|found| found.id == id)))
    }

    async fn commit(&self, before: &Snapshot, changes: &[Changed], terms: &Terms) -> Result<Committed, ObjectsError> {
        let revision = before.revision + 1;
        let about = About { revision, author: terms.author.clone(), time: Timestamp::now().to_string() };
        let happened = Happened {
            id: unique(),
            time: about.time.clone(),
            author: about.author.clone(),
            message: terms.message.clone(),
            objects: changes.iter().map(|change| change.name.to_string()).collect(),
        };
        match self.store.commit(all_of(before, changes, &about, &happened)).await {
            Ok(_) => Ok(Committed::Yes),
            Err(StoreError::Conflict { .. }) => Ok(Committed::No),
            // it has happened if history says so; where that cannot be read either, it stays uncertain
            Err(error @ StoreError::Uncertain(_)) => match self.is(revision, &happened.id).await {
                Ok(true) => Ok(Committed::Yes),
                Ok(false) => Ok(Committed::Unsure(happened.id)),
                Err(_) => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// All objects as they were at `revision`: what has changed since, taken back change by change.
    async fn at(&self, now: &Snapshot, revision: u64) -> Result<Objects, ObjectsError> {
        if revision > now.revision {
            let said = format!("revision {revision} has not been made yet: the configuration is at {}", now.revision);
            return Err(ObjectsError::NotFound(said));
        }
        let mut objects = now.objects.clone();
        for later in (revision + 1..=now.revision).rev() {
            let texts = self.store.get(&keys::texts(later)).await?.ok_or_else(|| {
                let said = format!("revision {revision} is too long ago: the last {KEPT_REVISIONS} are kept");
                ObjectsError::NotFound(said)
            })?;
            for TextChange { object, before, .. } in decode::<Texts>(&texts)?.changes {
                let name = ObjectName::parse(&object).ok_or_else(|| ObjectsError::Unreadable(texts.key.clone()))?;
                match before {
                    Some(yaml) => objects.insert(name, yaml.into()),
                    None => objects.remove(&name),
                };
            }
        }
        Ok(objects)
    }
}

/// What became of one try.
enum Committed {
    Yes,
    /// Somebody else was first.
    No,
    /// It has not happened yet, and may still, under this id.
    Unsure(String),
}

/// A wish, or one that is known only when it is known what there is.
#[derive(Clone, Copy)]
enum Ask<'a> {
    Wish(&'a Wish),
    RollBack(u64),
}

/// The one commit of a change.
fn all_of(before: &Snapshot, changes: &[Changed], about: &About, happened: &Happened) -> Change {
    let revision = about.revision;
    let head = keys::encode(&Head { revision });
    let mut change = match &before.head {
        Some(read) => Change::default().replace(read, head),
        None => Change::default().expect(keys::HEAD, Expect::Absent).put(keys::HEAD, head),
    };
    for Changed { name, after, .. } in changes {
        let key = keys::object(name);
        let About { author, time, .. } = about.clone();
        change = match after {
            Some(yaml) => change.put(key, keys::encode(&Stored { yaml: yaml.to_string(), revision, author, time })),
            None => change.delete(key),
        };
    }
    let text = |change: &Changed| TextChange {
        object: change.name.to_string(),
        before: change.before.as_deref().map(Into::into),
        after: change.after.as_deref().map(Into::into),
    };
    let texts = Texts { changes: changes.iter().map(text).collect() };
    change =
        change.put(keys::history(revision), keys::encode(happened)).put(keys::texts(revision), keys::encode(&texts));
    match revision.checked_sub(KEPT_REVISIONS) {
        Some(old @ 1..) => change.delete(keys::history(old)).delete(keys::texts(old)),
        _ => change,
    }
}

fn snapshot(head: Option<Entry>, entries: Vec<Entry>) -> Result<Snapshot, ObjectsError> {
    let revision = head.as_ref().map(decode::<Head>).transpose()?.map_or(0, |head| head.revision);
    let mut found = Snapshot { revision, head, ..Snapshot::default() };
    for entry in entries {
        let name = keys::object_of(&entry.key).ok_or_else(|| ObjectsError::Unreadable(entry.key.clone()))?;
        let Stored { yaml, revision, author, time } = decode(&entry)?;
        found.objects.insert(name.clone(), yaml.into());
        found.about.insert(name, About { revision, author, time });
    }
    Ok(found)
}

fn past(entry: &Entry, texts: Texts) -> Result<Past, ObjectsError> {
    let unreadable = || ObjectsError::Unreadable(entry.key.clone());
    let revision = keys::revision_of(&entry.key).ok_or_else(unreadable)?;
    let Happened { time, author, message, objects, .. } = decode(entry)?;
    let mut changes = Vec::with_capacity(objects.len());
    for object in &objects {
        let name = ObjectName::parse(object).ok_or_else(unreadable)?;
        let text = texts.changes.iter().find(|change| change.object == *object);
        let (before, after) = text.map(|t| (t.before.as_deref(), t.after.as_deref())).unwrap_or_default();
        changes.push(Changed { name, before: before.map(Into::into), after: after.map(Into::into) });
    }
    Ok(Past { revision, about: About { revision, author, time }, message, changes })
}

fn decode<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T, ObjectsError> {
    keys::decode(&entry.value).ok_or_else(|| ObjectsError::Unreadable(entry.key.clone()))
}

/// Unlike that of any other change, of this process or another.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = Timestamp::now().as_nanosecond();
    format!("{now}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
