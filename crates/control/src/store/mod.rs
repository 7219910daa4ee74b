//! What a control plane must not forget, kept in one of three engines behind one set of calls.
//!
//! It decides what the engines promise alike: entries with the revision that last wrote them, changes that happen whole
//! or not at all and only if what they expect still holds, lists that are one moment, watches that never lose silently.
//! By default that is a file of this process (`embedded`); with replicas it is etcd (`etcd`) or a Secret in Kubernetes
//! (`kubernetes`), engines that exist, instead of a consensus protocol of ours. It deliberately does not know what the values mean, and never splits a change.
//!
//! Invariants: what [`Store::commit`] has answered `Ok` for survives any kill; revisions only grow, but not one by one
//! (etcd counts the writes of its other users too); keys and values appear in no error and no `Debug` but for the key
//! that a conflict is about.

mod change;
mod embedded;
mod error;
mod etcd;
mod kubernetes;
mod presence;
mod settings;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use change::{Change, Entry, Expect, Limits, MAX_KEY};
pub use error::StoreError;
pub(crate) use presence::Presence;
pub use settings::{EtcdSettings, EtcdTls, EtcdUser, StoreSettings};
pub(crate) use watch::{Event, Watch};

use bytes::Bytes;
use embedded::Embedded;
use etcd::Etcd;
use kubernetes::Kubernetes;
use std::time::Duration;

/// A handle on the store; clones share it. It is closed when the last one is gone.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    Embedded(Embedded),
    Etcd(Etcd),
    Kubernetes(Kubernetes),
}

impl Store {
    /// Opens the file, creating it where there is none, or finds etcd or the API server and proves that it answers.
    ///
    /// # Errors
    /// Anything that [`StoreError`] names but a conflict. A damaged file is left as it is.
    pub(crate) async fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        match settings {
            StoreSettings::Embedded(path) => Ok(Self::Embedded(Embedded::open(path).await?)),
            StoreSettings::Etcd(settings) => Ok(Self::Etcd(Etcd::open(settings).await?)),
            StoreSettings::Kubernetes(settings) => Ok(Self::Kubernetes(Kubernetes::open(settings).await?)),
        }
    }

    pub(crate) fn engine(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "embedded",
            Self::Etcd(_) => "etcd",
            Self::Kubernetes(_) => "kubernetes",
        }
    }

    /// Whether other control planes may be reading and writing the same entries.
    pub(crate) fn is_shared(&self) -> bool {
        !matches!(self, Self::Embedded(_))
    }

    /// What one change may hold.
    pub(crate) fn limits(&self) -> Limits {
        match self {
            Self::Embedded(_) => embedded::LIMITS,
            Self::Etcd(_) => etcd::LIMITS,
            Self::Kubernetes(_) => kubernetes::LIMITS,
        }
    }

    /// The entry as of now: whatever was committed anywhere before the call is seen.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        match self {
            Self::Embedded(store) => store.get(key).await,
            Self::Etcd(store) => store.get(key).await,
            Self::Kubernetes(store) => store.get(key).await,
        }
    }

    /// All entries whose key begins with `prefix`, sorted by key, as they were at the one revision that is returned.
    pub(crate) async fn list(&self, prefix: &str) -> Result<(u64, Vec<Entry>), StoreError> {
        match self {
            Self::Embedded(store) => store.list(prefix).await,
            Self::Etcd(store) => store.list(prefix).await,
            Self::Kubernetes(store) => store.list(prefix).await,
        }
    }

    /// Does all of `change`, or nothing where an expectation does not hold; durable when it returns. The revision is the
    /// one that every entry of the change now carries. A change that changes nothing takes no revision of its own.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] names the first key that is not as expected. After [`StoreError::Uncertain`] it may have
    /// happened all the same, or still happen a moment after it is read that it has not: repeat it only with an
    /// expectation, which makes the second of the two a conflict. After any other error it has not and will not.
    ///
    /// # Drop behavior
    /// As [`StoreError::Uncertain`].
    pub(crate) async fn commit(&self, change: Change) -> Result<u64, StoreError> {
        change.check(&self.limits())?;
        match self {
            Self::Embedded(store) => store.commit(change).await,
            Self::Etcd(store) => store.commit(change).await,
            Self::Kubernetes(store) => store.commit(change).await,
        }
    }

    /// What happens below `prefix` from now on. Its first event is always [`Event::Resync`]: list then, and skip what
    /// comes with a revision that is not above the list's.
    ///
    /// # Drop behavior
    /// Ends it.
    pub(crate) fn watch(&self, prefix: &str) -> Watch {
        match self {
            Self::Embedded(store) => store.watch(prefix),
            Self::Etcd(store) => store.watch(prefix),
            Self::Kubernetes(store) => store.watch(prefix),
        }
    }

    /// Puts an entry that is gone when this process is: in etcd `ttl` after it died (at least two seconds), in Kubernetes a
    /// little later, in the file at the next start. While the process lives it is put back after the store was away for
    /// longer than `ttl`.
    ///
    /// # Errors
    /// Where it could not be put the first time.
    pub(crate) async fn put_while_alive(&self, key: &str, value: Bytes, ttl: Duration) -> Result<Presence, StoreError> {
        let change = Change::default().put(key, value);
        change.check(&self.limits())?;
        match self {
            Self::Embedded(store) => store.put_while_alive(key, change).await,
            Self::Etcd(store) => store.put_while_alive(change, ttl).await,
            Self::Kubernetes(store) => store.put_while_alive(key, change, ttl).await,
        }
    }

    /// Whether it answers now.
    pub(crate) async fn healthy(&self) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.healthy().await,
            Self::Etcd(store) => store.healthy().await,
            Self::Kubernetes(store) => store.healthy().await,
        }
    }
}
