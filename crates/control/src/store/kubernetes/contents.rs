//! What is in the Secret: entries, each with its revision, and the revision of the last commit.
//!
//! It decides how a change applies, and how entries lie in the Secret's bytes: as protobuf, packed with gzip where they
//! would not fit otherwise.

use crate::store::{Change, Entry, Expect, StoreError};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use prost::Message;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::ops::Bound;

/// A Secret holds 1 MiB; what is around the value needs some.
const MAX_BYTES: usize = 900 << 10;
/// Unpacked; more is no store of ours.
const MAX_UNPACKED: u64 = 64 << 20;
const GZIP: [u8; 2] = [0x1f, 0x8b];

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Contents {
    revision: u64,
    entries: BTreeMap<String, Kept>,
}

#[derive(Clone, PartialEq)]
struct Kept {
    value: Bytes,
    revision: u64,
    /// It lasts as long as this Lease; empty: for good.
    lease: String,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "@{} ({} bytes)", self.revision, self.value.len())
    }
}

#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<WireEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct WireEntry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
    #[prost(uint64, tag = "3")]
    revision: u64,
    #[prost(string, tag = "4")]
    lease: String,
}

/// What a change would do.
pub(super) enum Outcome {
    Next(Contents),
    /// It changes nothing.
    Nothing,
    /// The first key that is not as expected.
    Conflict(String),
}

impl Contents {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.entries.get(key).map(|kept| entry(key, kept))
    }

    /// Sorted by key.
    pub(super) fn below(&self, prefix: &str) -> Vec<Entry> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let below = self.entries.range::<str, _>(from).take_while(|(key, _)| key.starts_with(prefix));
        below.map(|(key, kept)| entry(key, kept)).collect()
    }

    /// Entries that last as long as a Lease: key, revision, Lease.
    pub(super) fn leased(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        let leased = self.entries.iter().filter(|(_, kept)| !kept.lease.is_empty());
        leased.map(|(key, kept)| (key.as_str(), kept.revision, kept.lease.as_str()))
    }

    pub(super) fn after(&self, change: &Change, lease: Option<&str>) -> Outcome {
        let holds = |(key, expect): &&(String, Expect)| match expect {
            Expect::Absent => !self.entries.contains_key(key),
            Expect::Revision(revision) => self.entries.get(key).is_some_and(|kept| kept.revision == *revision),
        };
        if let Some((key, _)) = change.expect.iter().find(|expected| !holds(expected)) {
            return Outcome::Conflict(key.clone());
        }
        if change.put.is_empty() && !change.delete.iter().any(|key| self.entries.contains_key(key)) {
            return Outcome::Nothing;
        }
        let mut next = self.clone();
        next.revision += 1;
        for (key, value) in &change.put {
            let lease = lease.unwrap_or_default().to_owned();
            next.entries.insert(key.clone(), Kept { value: value.clone(), revision: next.revision, lease });
        }
        for key in &change.delete {
            next.entries.remove(key);
        }
        Outcome::Next(next)
    }

    pub(super) fn decode(value: Vec<u8>) -> Result<Self, StoreError> {
        let damaged = |why: &dyn std::fmt::Display| {
            let said = "holds what is no store of Fusewire's";
            StoreError::Refused(format!(
                "the Secret {} {said} ({why}): put back a copy, or delete it to begin with an empty one",
                super::SECRET
            ))
        };
        let value = if value.starts_with(&GZIP) {
            let mut unpacked = Vec::new();
            let read = GzDecoder::new(&value[..]).take(MAX_UNPACKED).read_to_end(&mut unpacked);
            read.map_err(|error| damaged(&error))?;
            unpacked
        } else {
            value
        };
        let Wire { revision, entries } = Wire::decode(Bytes::from(value)).map_err(|error| damaged(&error))?;
        let kept = |WireEntry { key, value, revision, lease }| (key, Kept { value, revision, lease });
        Ok(Self { revision, entries: entries.into_iter().map(kept).collect() })
    }

    /// # Errors
    /// [`StoreError::TooLarge`].
    pub(super) fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let wire = |(key, kept): (&String, &Kept)| WireEntry {
            key: key.clone(),
            value: kept.value.clone(),
            revision: kept.revision,
            lease: kept.lease.clone(),
        };
        let whole = Wire { revision: self.revision, entries: self.entries.iter().map(wire).collect() }.encode_to_vec();
        if whole.len() <= MAX_BYTES {
            return Ok(whole);
        }
        let mut packing = GzEncoder::new(Vec::new(), Compression::default());
        let packed = packing.write_all(&whole).and_then(|()| packing.finish());
        let packed = packed.map_err(|error| StoreError::Invalid(error.to_string()))?;
        if packed.len() <= MAX_BYTES {
            return Ok(packed);
        }
        let (would, most) = (packed.len() >> 10, MAX_BYTES >> 10);
        Err(StoreError::TooLarge(format!(
            "the store would take {would} KiB, packed, and one Secret has {most}: delete objects that are applied and not \
             needed, keep configuration in files, or use --store etcd://"
        )))
    }
}

fn entry(key: &str, kept: &Kept) -> Entry {
    Entry { key: key.to_owned(), value: kept.value.clone(), revision: kept.revision }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(contents: &Contents, change: &Change) -> Contents {
        match contents.after(change, None) {
            Outcome::Next(next) => next,
            _ => panic!("no change"),
        }
    }

    #[test]
    fn what_is_written_is_read_again_packed_or_not() {
        let small = next(&Contents::default(), &Change::default().put("a/b", &b"\0\xff"[..]).put("c", ""));
        assert_eq!(Contents::decode(small.encode().unwrap()).unwrap(), small);
        let large = next(&small, &Change::default().put("large", vec![7; 2 << 20]));
        let bytes = large.encode().unwrap();
        assert!(bytes.starts_with(&GZIP) && bytes.len() < MAX_BYTES);
        assert_eq!(Contents::decode(bytes).unwrap(), large);
        assert_eq!(Contents::decode(Vec::new()).unwrap(), Contents::default());
        assert!(Contents::decode(b"no store".to_vec()).is_err());
    }

    #[test]
    fn what_does_not_fit_into_a_secret_is_refused_with_the_remedy() {
        let mut state = 1u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        });
        let change = Change::default().put("noise", noise.take(1 << 20).collect::<Vec<_>>());
        let error = next(&Contents::default(), &change).encode().unwrap_err();
        assert!(matches!(&error, StoreError::TooLarge(said) if said.contains("etcd://")), "{error}");
    }
}
