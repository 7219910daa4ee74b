//! Join tokens in the store: made, listed, revoked, spent.
//!
//! It decides nothing about a token; the identity crate's records do. It keeps each under its handle, and compares what it
//! read when it writes. It deliberately counts by looking once in a while: several replicas may together make a few
//! more than the limit.
//!
//! Invariant: a use is in the store before it counts. The reverse can happen: a crash, or a store that does not say what
//! became of a change, may cost a use that gave nothing.

use super::{Trust, TrustError};
use crate::store::{Change, Entry, Expect, StoreError};
use fusewire_identity::{JoinToken, MAX_TOKENS, SpiffeId, TokenError, TokenRecord, UnixTime, mint};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;

pub(super) const TOKENS: &str = "tokens/";
/// Another replica may be spending the same token; each round somebody gets on.
const MAX_ROUNDS: usize = 100;

#[derive(Debug, Default)]
pub(crate) struct Tokens {
    /// Joiners of this replica take turns, so that they do not compare against each other in the store.
    turn: Mutex<()>,
    known: AtomicUsize,
    usable: AtomicUsize,
}

impl Tokens {
    /// As of the last look.
    pub(crate) fn usable(&self) -> usize {
        self.usable.load(Ordering::Relaxed)
    }
}

/// `None` for what is no record; it is left alone.
fn record(entry: &Entry) -> Option<TokenRecord> {
    let record: TokenRecord = serde_json::from_slice(&entry.value).ok()?;
    (record.handle()? == entry.key.strip_prefix(TOKENS)?).then_some(record)
}

pub(super) fn to_value(record: &TokenRecord) -> Result<Vec<u8>, TrustError> {
    serde_json::to_vec(record).map_err(|e| TrustError::Invalid(e.to_string()))
}

impl Trust {
    /// A new token; its text exists only in the answer.
    pub(crate) async fn make_token(
        &self,
        id: &SpiffeId,
        uses: u32,
        ttl: Duration,
    ) -> Result<(JoinToken, TokenRecord), TrustError> {
        if self.tokens.known.load(Ordering::Relaxed) >= MAX_TOKENS {
            return Err(TokenError::Full.into());
        }
        let root = self.now().authority.root_hash().to_owned();
        let (token, record) = mint(&root, id, uses, ttl, UnixTime::now())?;
        let change = Change::default().create(&format!("{TOKENS}{}", token.handle()), to_value(&record)?);
        self.store.commit(change).await?;
        self.tokens.known.fetch_add(1, Ordering::Relaxed);
        self.tokens.usable.fetch_add(1, Ordering::Relaxed);
        Ok((token, record))
    }

    /// By handle.
    pub(crate) async fn list_tokens(&self) -> Result<Vec<(String, TokenRecord)>, TrustError> {
        let (_, entries) = self.store.list(TOKENS).await?;
        Ok(entries.iter().filter_map(record).filter_map(|record| Some((record.handle()?, record))).collect())
    }

    pub(crate) async fn revoke_token(&self, handle: &str) -> Result<(), TrustError> {
        let well_formed = (1..=64).contains(&handle.len()) && handle.bytes().all(|b| b.is_ascii_hexdigit());
        let key = format!("{TOKENS}{handle}");
        let entry = if well_formed { self.store.get(&key).await? } else { None };
        if entry.is_none() {
            return Err(TokenError::Unknown.into());
        }
        // without a comparison: whatever is spent of it meanwhile, it is gone
        self.store.commit(Change::default().delete(key)).await?;
        Ok(())
    }

    /// Uses `token` once for `id`. After an error it may only have been used if the store is uncertain.
    pub(crate) async fn spend_token(&self, token: &JoinToken, id: &SpiffeId) -> Result<(), TrustError> {
        let _turn = self.tokens.turn.lock().await;
        let key = format!("{TOKENS}{}", token.handle());
        for _ in 0..MAX_ROUNDS {
            let entry = self.store.get(&key).await?.ok_or(TokenError::Unknown)?;
            let spent = record(&entry).ok_or(TokenError::Unknown)?.spend(token, id, UnixTime::now())?;
            match self.store.commit(Change::default().replace(&entry, to_value(&spent)?)).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Unavailable("too many joins with one token at once".into()).into())
    }

    /// Counts, and drops those that ended over a day ago.
    pub(super) async fn sweep_tokens(&self) -> Result<(), TrustError> {
        let now = UnixTime::now();
        let (_, entries) = self.store.list(TOKENS).await?;
        let (mut known, mut usable, mut dead) = (0, 0, Vec::new());
        for entry in &entries {
            match record(entry) {
                Some(record) if record.is_dead(now) => dead.push(entry),
                Some(record) => {
                    known += 1;
                    usable += usize::from(record.is_usable(now));
                }
                None => known += 1,
            }
        }
        self.tokens.known.store(known, Ordering::Relaxed);
        self.tokens.usable.store(usable, Ordering::Relaxed);
        for some in dead.chunks(self.store.limits().operations.min(100)) {
            let change = some.iter().fold(Change::default(), |change, entry| {
                change.expect(&entry.key, Expect::Revision(entry.revision)).delete(&entry.key)
            });
            match self.store.commit(change).await {
                // another replica sweeps too
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
