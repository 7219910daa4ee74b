//! Registrations on their way to the store.
//!
//! It decides that of several writes of one registration only the newest is made, that a failed write is made again until it
//! succeeds, and that whoever registers may wait until it is safe. Where other replicas write too, each write goes with the
//! revision that was known when it was asked for. It deliberately does not know the store: [`write`] is given what puts and
//! deletes.
//!
//! Invariant: what is pending is bounded by the registrations there are, and [`MAX_PENDING`].

use crate::shared::lock;
use bytes::Bytes;
use fusewire_api::v1;
use fusewire_discovery::registry::Key;
use fusewire_model::SpiffeId;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::watch;

/// Where registrations lie in the store: `registry/<SPIFFE ID without spiffe://>/<id, percent-encoded>`.
pub(crate) const PREFIX: &str = "registry/";
/// More than this and registering is refused until the store answers again.
const MAX_PENDING: usize = 200_000;
/// Writes of one change of the store.
const AT_ONCE: usize = 100;
/// The same in bytes: below what either store takes.
const BYTES_AT_ONCE: usize = 512 << 10;
const RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(5);

/// The value that the store keeps.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Record {
    #[prost(message, optional, tag = "1")]
    pub(crate) registration: Option<v1::Registration>,
    #[prost(string, tag = "2")]
    pub(crate) identity: String,
    /// The replica that it beats at.
    #[prost(string, tag = "3")]
    pub(crate) home: String,
    /// Of each service.
    #[prost(message, repeated, tag = "4")]
    pub(crate) health: Vec<v1::Report>,
    /// When the replica heard what this says; microseconds since 1970.
    #[prost(uint64, tag = "5")]
    pub(crate) said: u64,
}

impl Record {
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        Self::decode(value).ok()
    }

    pub(crate) fn encode(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

pub(crate) fn store_key(key: &Key) -> String {
    let identity = key.identity.as_str().trim_start_matches("spiffe://");
    format!("{PREFIX}{identity}/{}", encoded(&key.id))
}

/// Of an id, which is ASCII: without a slash.
pub(super) fn encoded(id: &str) -> String {
    id.replace('%', "%25").replace('/', "%2f")
}

pub(super) fn decoded(id: &str) -> String {
    id.replace("%2f", "/").replace("%25", "%")
}

pub(crate) fn key_of(store_key: &str) -> Option<Key> {
    let (identity, id) = store_key.strip_prefix(PREFIX)?.rsplit_once('/')?;
    let identity = SpiffeId::parse(&format!("spiffe://{identity}")).ok()?;
    Some(Key { identity, id: decoded(id) })
}

/// One registration to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) key: String,
    /// `None`: to be deleted.
    pub(crate) value: Option<Bytes>,
    /// The store's revision of it, as it was known when this was asked for.
    pub(crate) known: Option<u64>,
}

/// What is still to be written, the newest of each, and what is known of the store.
#[derive(Debug)]
pub(crate) struct Pending {
    queue: Mutex<Queue>,
    /// How many puts there were; the writer waits for it.
    asked: watch::Sender<u64>,
    /// Up to which of them everything is written.
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    writes: BTreeMap<String, Write>,
    asked: u64,
    /// The store's revision of each; only where others write too.
    known: HashMap<String, u64>,
}

impl Default for Pending {
    fn default() -> Self {
        Self { queue: Mutex::default(), asked: watch::Sender::new(0), written: watch::Sender::new(0) }
    }
}

impl Pending {
    /// `None`: to be deleted.
    pub(super) fn put(&self, key: &Key, value: Option<Bytes>) {
        self.put_at(store_key(key), value);
    }

    pub(super) fn put_at(&self, key: String, value: Option<Bytes>) {
        let mut queue = lock(&self.queue);
        let known = queue.known.get(&key).copied();
        queue.writes.insert(key.clone(), Write { key, value, known });
        queue.asked += 1;
        self.asked.send_replace(queue.asked);
    }

    pub(super) fn is_full(&self) -> bool {
        lock(&self.queue).writes.len() >= MAX_PENDING
    }

    /// Waits until everything that was put before is written; false where that takes longer than `limit`.
    pub(super) async fn safe(&self, limit: Duration) -> bool {
        let asked = lock(&self.queue).asked;
        let mut written = self.written.subscribe();
        tokio::time::timeout(limit, written.wait_for(|written| *written >= asked)).await.is_ok_and(|w| w.is_ok())
    }

    /// We wrote it ourselves, as this revision; none: it is gone.
    pub(super) fn wrote(&self, key: &str, revision: Option<u64>) {
        let mut queue = lock(&self.queue);
        match revision {
            Some(revision) => drop(queue.known.insert(key.to_owned(), revision)),
            None => drop(queue.known.remove(key)),
        }
        // what was asked for meanwhile comes after it
        if let Some(next) = queue.writes.get_mut(key) {
            next.known = revision;
        }
    }

    /// The store says that it was written as this revision; whether that is news.
    pub(super) fn saw(&self, key: &str, revision: u64) -> bool {
        let mut queue = lock(&self.queue);
        let news = queue.known.get(key).is_none_or(|known| *known < revision);
        if news {
            queue.known.insert(key.to_owned(), revision);
        }
        news
    }

    /// The store says that it is gone.
    pub(super) fn saw_gone(&self, key: &str) {
        lock(&self.queue).known.remove(key);
    }

    /// Registrations that were known and are not `there` any more.
    pub(super) fn missing(&self, there: &BTreeSet<&str>) -> Vec<String> {
        let known = &mut lock(&self.queue).known;
        let is_gone = |key: &str| key.starts_with(PREFIX) && !there.contains(key);
        let gone = known.keys().filter(|key| is_gone(key)).cloned().collect();
        known.retain(|key, _| !is_gone(key));
        gone
    }

    async fn take(&self, asked: &mut watch::Receiver<u64>) -> (Vec<Write>, u64) {
        // the sender lives as long as `self`
        let _ = asked.wait_for(|asked| *asked > *self.written.borrow()).await;
        let mut queue = lock(&self.queue);
        (std::mem::take(&mut queue.writes).into_values().collect(), queue.asked)
    }

    /// What could not be written, unless there is a newer write of the same.
    fn back(&self, writes: Vec<Write>) {
        let mut queue = lock(&self.queue);
        for write in writes {
            queue.writes.entry(write.key.clone()).or_insert(write);
        }
    }
}

/// How many of the first make one change of the store: at least one, whose size is bounded where it is taken.
fn fitting(writes: &[Write]) -> usize {
    let size = |write: &Write| write.key.len() + write.value.as_ref().map_or(0, bytes::Bytes::len);
    let mut bytes = 0;
    let fits = writes.iter().take(AT_ONCE).take_while(|write| {
        bytes += size(write);
        bytes <= BYTES_AT_ONCE
    });
    fits.count().max(1)
}

/// Writes until dropped. `commit` makes all of the given writes, or says why not.
pub(crate) async fn write<F>(pending: &Pending, mut commit: impl FnMut(Vec<Write>) -> F)
where
    F: Future<Output = Result<(), String>>,
{
    let mut asked = pending.asked.subscribe();
    let mut wait = RETRY;
    loop {
        let (mut left, upto) = pending.take(&mut asked).await;
        while !left.is_empty() {
            let count = fitting(&left);
            let now = left[..count].to_vec();
            if let Err(error) = commit(now).await {
                tracing::error!(error, pending = left.len(), "registrations could not be stored; trying again");
                break;
            }
            left.drain(..count);
        }
        if left.is_empty() {
            pending.written.send_replace(upto);
            wait = RETRY;
        } else {
            pending.back(left);
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(MAX_RETRY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key { identity: SpiffeId::parse("spiffe://t/a/b").unwrap(), id: id.into() }
    }

    #[test]
    fn a_store_key_is_read_back_whatever_the_id() {
        for id in ["shop-1", "a/b", "%2f", "100%", "x%25/"] {
            assert_eq!(key_of(&store_key(&key(id))), Some(key(id)), "{id}");
        }
        assert_eq!(store_key(&key("a/b")), "registry/t/a/b/a%2fb");
        assert_eq!(key_of("registry/nonsense"), None);
    }

    #[test]
    fn a_write_goes_with_what_was_known_when_it_was_asked_for() {
        let pending = Pending::default();
        let store_key = store_key(&key("1"));
        let known = || lock(&pending.queue).writes[&store_key].known;
        assert!(pending.saw(&store_key, 5));
        assert!(!pending.saw(&store_key, 5), "its own echo");
        pending.put(&key("1"), None);
        assert!(pending.saw(&store_key, 7), "another replica writes it");
        assert_eq!(known(), Some(5), "and what was asked for before is not about that");
        pending.wrote(&store_key, Some(9));
        assert_eq!(known(), Some(9), "our own write before it");
        assert_eq!(pending.missing(&BTreeSet::new()), std::slice::from_ref(&store_key));
        pending.put(&key("1"), None);
        assert_eq!(known(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_is_written_and_failures_are_made_good() {
        let pending = Pending::default();
        let store: Mutex<BTreeMap<String, Bytes>> = Mutex::default();
        let (tries, fail) = (Mutex::new(0), Mutex::new(3));
        let commit = async |writes: Vec<Write>| {
            *lock(&tries) += 1;
            if *lock(&fail) > 0 {
                *lock(&fail) -= 1;
                return Err("etcd is away".to_owned());
            }
            for Write { key, value, .. } in writes {
                match value {
                    Some(value) => drop(lock(&store).insert(key, value)),
                    None => drop(lock(&store).remove(&key)),
                }
            }
            Ok(())
        };
        let story = async {
            pending.put(&key("1"), Some("old".into()));
            assert!(!pending.safe(Duration::from_millis(50)).await, "it is not safe while the store fails");
            pending.put(&key("1"), Some("new".into()));
            pending.put(&key("2"), Some("two".into()));
            assert!(pending.safe(Duration::from_secs(60)).await);
            pending.put(&key("2"), None);
            assert!(pending.safe(Duration::from_secs(60)).await);
            assert!(pending.safe(Duration::ZERO).await, "nothing is pending");
        };
        tokio::select! {
            () = write(&pending, commit) => {}
            () = story => {}
        }
        assert_eq!(*lock(&store), BTreeMap::from([(store_key(&key("1")), Bytes::from("new"))]));
        assert_eq!(*lock(&tries), 5);
    }
}
