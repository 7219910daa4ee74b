//! Entries, and changes to them: what is expected, what is put, what is deleted.
//!
//! It decides what a well-formed change is, alike for both engines, before an engine sees it. It deliberately allows a key
//! to be written only once in a change: what the second write should mean is nothing that two engines agree about.

use super::StoreError;
use bytes::Bytes;
use std::collections::HashSet;
use std::fmt;

/// Bytes of a key.
pub(crate) const MAX_KEY: usize = 1024;

/// One key with its value. Whoever holds it may hold a secret, so `Debug` leaves the value out.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: Bytes,
    /// Of the commit that last wrote it.
    pub(crate) revision: u64,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} ({} bytes)", self.key, self.revision, self.value.len())
    }
}

/// What must hold for a change to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    Absent,
    /// There, and not written since.
    Revision(u64),
}

/// Writes that happen together or not at all.
#[derive(Clone, Default)]
pub(crate) struct Change {
    pub(crate) expect: Vec<(String, Expect)>,
    pub(crate) put: Vec<(String, Bytes)>,
    pub(crate) delete: Vec<String>,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let put: Vec<&str> = self.put.iter().map(|(key, _)| key.as_str()).collect();
        f.debug_struct("Change").field("expect", &self.expect).field("put", &put).field("delete", &self.delete).finish()
    }
}

/// How much one change may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Of expectations, and of puts and deletes together.
    pub(crate) operations: usize,
    /// Keys and values together.
    pub(crate) bytes: usize,
}

impl Change {
    pub(crate) fn expect(mut self, key: impl Into<String>, expect: Expect) -> Self {
        self.expect.push((key.into(), expect));
        self
    }

    pub(crate) fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.put.push((key.into(), value.into()));
        self
    }

    /// Deleting what is not there is no mistake.
    pub(crate) fn delete(mut self, key: impl Into<String>) -> Self {
        self.delete.push(key.into());
        self
    }

    /// Only if the key is absent.
    pub(crate) fn create(self, key: &str, value: impl Into<Bytes>) -> Self {
        self.expect(key, Expect::Absent).put(key, value)
    }

    /// Only if the entry is still the one that was read.
    pub(crate) fn replace(self, read: &Entry, value: impl Into<Bytes>) -> Self {
        self.expect(&read.key, Expect::Revision(read.revision)).put(&read.key, value)
    }

    /// Only if the entry is still the one that was read.
    pub(crate) fn remove(self, read: &Entry) -> Self {
        self.expect(&read.key, Expect::Revision(read.revision)).delete(&read.key)
    }

    pub(crate) fn bytes(&self) -> usize {
        let expect: usize = self.expect.iter().map(|(key, _)| key.len()).sum();
        let put: usize = self.put.iter().map(|(key, value)| key.len() + value.len()).sum();
        expect + put + self.delete.iter().map(String::len).sum::<usize>()
    }

    /// # Errors
    /// [`StoreError::Invalid`] for a key that cannot be one or is written twice, [`StoreError::TooLarge`].
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), StoreError> {
        let operations = self.expect.len().max(self.put.len() + self.delete.len());
        if operations > limits.operations {
            let said = format!(
                "{operations} operations, where this store takes {} at once: change fewer objects at a time",
                limits.operations
            );
            return Err(StoreError::TooLarge(said));
        }
        let bytes = self.bytes();
        if bytes > limits.bytes {
            let said = format!(
                "{bytes} bytes, where this store takes {} at once: change fewer or smaller objects at a time",
                limits.bytes
            );
            return Err(StoreError::TooLarge(said));
        }
        let mut written = HashSet::new();
        for key in self.put.iter().map(|(key, _)| key).chain(&self.delete) {
            check_key(key)?;
            if !written.insert(key) {
                return Err(StoreError::Invalid(format!("{key} is written twice in one change")));
            }
        }
        self.expect.iter().try_for_each(|(key, _)| check_key(key))
    }
}

fn check_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(StoreError::Invalid(format!("a key of {} bytes: 1 to {MAX_KEY} are allowed", key.len())));
    }
    Ok(())
}
