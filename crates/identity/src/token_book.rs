//! Join tokens, the book: who may still join as whom.
//!
//! It decides whether a token is good: known, not ended, not used up, and for the identity asked. It deliberately
//! keeps no secret, only SHA-256 of secrets (they have 256 random bits, so a slow hash would add nothing), and does
//! no locking: one process owns the file, one caller at a time holds the book.
//!
//! Invariant: a use is on disk before it counts, so that no crash gives a spent token back. The reverse can happen: a
//! crash after the write but before the answer spends a use for nothing.
//!
//! Each change rewrites the file (some 200 bytes a token): right for the dozens alive at a time that joining needs,
//! and bounded for the rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use fusewire_model::SpiffeId;
use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};

use crate::error::IdentityError;
use crate::token::{JoinToken, SECRET_BYTES, handle};
use crate::{files, hex};

const MAX_TOKENS: usize = 100_000;
/// Ended tokens are kept this long, so that their late users hear "expired" or "spent" instead of "unknown".
const KEEP_ENDED: u64 = 24 * 3600;

/// Why a token was not made, or not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error(
        "the join token is not known here: was it made by another control plane, revoked, or ended over a day ago?"
    )]
    Unknown,
    #[error("the join token has expired: make a new one")]
    Expired,
    #[error("the join token is used up: make a new one, or one with more uses")]
    Spent,
    #[error("the join token is for another identity than the one asked for")]
    WrongIdentity,
    #[error("this is not a join token: expected fwj1.<root hash>.<SPIFFE ID>.<secret>, copied whole")]
    Malformed,
    #[error("a join token needs at least one use and a time to live of at least one second")]
    Useless,
    #[error("{MAX_TOKENS} join tokens exist already: revoke some, or give them shorter lives")]
    Full,
    #[error(transparent)]
    Storage(#[from] IdentityError),
}

impl TokenError {
    /// The label for logs and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unknown => "token-unknown",
            Self::Expired => "token-expired",
            Self::Spent => "token-spent",
            Self::WrongIdentity => "token-wrong-identity",
            Self::Malformed => "token-malformed",
            Self::Useless => "token-useless",
            Self::Full => "token-book-full",
            Self::Storage(_) => "token-storage",
        }
    }
}

/// One token, as its operator may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEntry {
    /// What [`TokenBook::revoke`] takes.
    pub handle: String,
    pub id: String,
    pub uses_left: u32,
    /// Seconds since 1970.
    pub expires: u64,
}

/// As on disk.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    sha256: String,
    id: String,
    uses_left: u32,
    expires: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Book {
    tokens: Vec<Record>,
}

/// The tokens of one authority, kept in one file.
pub struct TokenBook {
    path: PathBuf,
    root: [u8; 32],
    records: BTreeMap<String, Record>,
}

impl std::fmt::Debug for TokenBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenBook").field("path", &self.path).field("tokens", &self.records.len()).finish()
    }
}

impl TokenBook {
    /// The book in `path` (such as `tokens.json` beside the authority), empty if there is none; its tokens will carry
    /// `root_hash`.
    pub fn open(path: &Path, root_hash: &str) -> Result<Self, IdentityError> {
        let root =
            hex::decode32(root_hash).ok_or_else(|| IdentityError::RootHash(root_hash.chars().take(80).collect()))?;
        let bad = |why: String| IdentityError::File { path: path.to_owned(), source: std::io::Error::other(why) };
        if path.file_name().and_then(|name| name.to_str()).is_none() {
            return Err(bad("a token book needs a file name".into()));
        }
        let mut records = BTreeMap::new();
        if let Some(text) = files::read_if_there(path)? {
            files::warn_if_readable_by_others(path);
            let book: Book = serde_json::from_slice(&text)
                .map_err(|e| bad(format!("not a token book ({e}): restore it, or remove it and make new tokens")))?;
            for record in book.tokens {
                let hash = hex::decode32(&record.sha256).ok_or_else(|| bad("a token's hash is not one".into()))?;
                records.insert(handle(&hash), record);
            }
        }
        Ok(Self { path: path.to_owned(), root, records })
    }

    /// A token for `id`. Its text is shown once, here; the book can never show it again.
    pub fn create(&mut self, id: &SpiffeId, uses: u32, ttl: Duration, now: UnixTime) -> Result<JoinToken, TokenError> {
        if uses == 0 || ttl < Duration::from_secs(1) {
            return Err(TokenError::Useless);
        }
        let mut records = self.alive(now);
        if records.len() >= MAX_TOKENS {
            return Err(TokenError::Full);
        }
        let token = loop {
            let mut secret = [0_u8; SECRET_BYTES];
            aws_lc_rs::rand::fill(&mut secret)
                .map_err(|_| TokenError::Storage(IdentityError::Crypto("no random numbers".into())))?;
            let token = JoinToken::new(self.root, id, &secret);
            if !records.contains_key(&token.handle()) {
                break token;
            }
        };
        let record = Record {
            sha256: hex::encode(token.secret_hash()),
            id: id.to_string(),
            uses_left: uses,
            expires: now.as_secs().saturating_add(ttl.as_secs()),
        };
        records.insert(token.handle(), record);
        self.commit(records)?;
        Ok(token)
    }

    /// Spends one use of the token, if it is good for `id`. A refusal spends nothing.
    pub fn redeem(&mut self, text: &str, id: &SpiffeId, now: UnixTime) -> Result<(), TokenError> {
        let token = JoinToken::parse(text)?;
        let handle = token.handle();
        // The lookup is by hash, of which a guesser learns nothing useful; what decides is compared in constant time.
        let record = self.records.get(&handle).ok_or(TokenError::Unknown)?;
        let stored = hex::decode32(&record.sha256).ok_or(TokenError::Unknown)?;
        verify_slices_are_equal(&stored, token.secret_hash()).map_err(|_| TokenError::Unknown)?;
        if record.id != id.as_str() || token.id() != id {
            return Err(TokenError::WrongIdentity);
        }
        if now.as_secs() >= record.expires {
            return Err(TokenError::Expired);
        }
        let left = record.uses_left.checked_sub(1).ok_or(TokenError::Spent)?;
        let mut records = self.alive(now);
        if let Some(record) = records.get_mut(&handle) {
            record.uses_left = left;
        }
        self.commit(records)
    }

    /// All tokens, spent and lately ended ones included, by handle.
    pub fn list(&self) -> Vec<TokenEntry> {
        self.records
            .iter()
            .map(|(handle, record)| TokenEntry {
                handle: handle.clone(),
                id: record.id.clone(),
                uses_left: record.uses_left,
                expires: record.expires,
            })
            .collect()
    }

    /// Forgets the token with this handle.
    pub fn revoke(&mut self, handle: &str) -> Result<(), TokenError> {
        let mut records = self.records.clone();
        records.remove(handle).ok_or(TokenError::Unknown)?;
        self.commit(records)
    }

    fn alive(&self, now: UnixTime) -> BTreeMap<String, Record> {
        let mut records = self.records.clone();
        records.retain(|_, record| now.as_secs() < record.expires.saturating_add(KEEP_ENDED));
        records
    }

    /// Disk first, memory second: if the disk refuses, nothing has changed.
    fn commit(&mut self, records: BTreeMap<String, Record>) -> Result<(), TokenError> {
        let refused = |why: String| IdentityError::File { path: self.path.clone(), source: std::io::Error::other(why) };
        let book = Book { tokens: records.values().cloned().collect() };
        let text = serde_json::to_vec_pretty(&book).map_err(|e| refused(e.to_string()))?;
        if text.len() as u64 > files::MAX_FILE_BYTES {
            return Err(TokenError::Full); // what is written must be readable at the next start
        }
        let dir = match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let name = self.path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| refused("a token book needs a file name".into()))?;
        files::write_set(dir, &[(name, &text)])?;
        self.records = records;
        Ok(())
    }
}
