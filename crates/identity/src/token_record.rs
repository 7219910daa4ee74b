//! Join tokens, the records: who may still join as whom.
//!
//! It decides whether a token is good: known, not ended, not used up, and for the identity asked; and what is recorded
//! when one is made or used. It deliberately keeps no secret, only SHA-256 of secrets (they have 256 random bits, so a
//! slow hash would add nothing), and stores nothing: the caller keeps each record under its handle, compares it when
//! it writes, and lets a use count only when that write was taken, so that no crash gives a spent token back.
//!
//! Invariant: a refusal changes no record.

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use fusewire_model::SpiffeId;
use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};

use crate::error::IdentityError;
use crate::hex;
use crate::token::{JoinToken, SECRET_BYTES, handle};

/// Ended tokens are kept this long, so that their late users hear "expired" or "spent" instead of "unknown".
const KEEP_ENDED: u64 = 24 * 3600;

/// How many records a store should hold at most; whoever keeps them refuses more with [`TokenError::Full`].
pub const MAX_TOKENS: usize = 100_000;

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
    /// No random numbers, or no usable root hash.
    #[error(transparent)]
    Internal(#[from] IdentityError),
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
            Self::Internal(_) => "token-internal",
        }
    }
}

/// One token as it is stored, under [`TokenRecord::handle`]. It holds nothing that a joiner could join with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// SHA-256 of the secret, hexadecimal.
    sha256: String,
    /// The SPIFFE ID that it is for.
    pub id: String,
    pub uses_left: u32,
    /// Seconds since 1970.
    pub expires: u64,
    /// The root that its text pins; empty in records of releases that had but one root.
    #[serde(default)]
    pub root: String,
}

/// A new token for `id`, good for `uses` joins within `ttl`, and its record. Its text is shown once, to whoever asked
/// for it; no record can show it again.
pub fn mint(
    root_hash: &str,
    id: &SpiffeId,
    uses: u32,
    ttl: Duration,
    now: UnixTime,
) -> Result<(JoinToken, TokenRecord), TokenError> {
    if uses == 0 || ttl < Duration::from_secs(1) {
        return Err(TokenError::Useless);
    }
    let root = hex::decode32(root_hash).ok_or_else(|| IdentityError::RootHash(root_hash.chars().take(80).collect()))?;
    let mut secret = [0_u8; SECRET_BYTES];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| IdentityError::Crypto("no random numbers".into()))?;
    let token = JoinToken::new(root, id, &secret);
    let record = TokenRecord {
        sha256: hex::encode(token.secret_hash()),
        id: id.to_string(),
        uses_left: uses,
        expires: now.as_secs().saturating_add(ttl.as_secs()),
        root: token.root_hash(),
    };
    Ok((token, record))
}

impl TokenRecord {
    /// The public name of this token, for storing, listing and revoking. A record whose hash is damaged has none, and
    /// accepts no token.
    pub fn handle(&self) -> Option<String> {
        hex::decode32(&self.sha256).map(|hash| handle(&hash))
    }

    /// The record after one use of `token`, if it is good for `id`. Look the record up by [`JoinToken::handle`].
    pub fn spend(&self, token: &JoinToken, id: &SpiffeId, now: UnixTime) -> Result<Self, TokenError> {
        // The lookup is by hash, of which a guesser learns nothing useful; what decides is compared in constant time.
        let stored = hex::decode32(&self.sha256).ok_or(TokenError::Unknown)?;
        verify_slices_are_equal(&stored, token.secret_hash()).map_err(|_| TokenError::Unknown)?;
        if self.id != id.as_str() || token.id() != id {
            return Err(TokenError::WrongIdentity);
        }
        if now.as_secs() >= self.expires {
            return Err(TokenError::Expired);
        }
        let uses_left = self.uses_left.checked_sub(1).ok_or(TokenError::Spent)?;
        Ok(Self { uses_left, ..self.clone() })
    }

    /// Whether a join with it could still work, as far as the record tells.
    pub fn is_usable(&self, now: UnixTime) -> bool {
        self.uses_left > 0 && now.as_secs() < self.expires
    }

    /// Whether the record may be dropped: it ended over a day ago.
    pub fn is_dead(&self, now: UnixTime) -> bool {
        now.as_secs() >= self.expires.saturating_add(KEEP_ENDED)
    }

    /// Whether its text pins this root. Records of releases that had but one root pin the one that was there: the
    /// caller says which.
    pub fn pins(&self, root_hash: &str, when_unrecorded: &str) -> bool {
        let pinned = if self.root.is_empty() { when_unrecorded } else { &self.root };
        pinned.eq_ignore_ascii_case(root_hash)
    }
}
