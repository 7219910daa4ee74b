//! Trust as a control plane finds it when it starts: from the store, from an older data directory, or new.
//!
//! It decides who is first: of several replicas that find an empty store one writes the authority, and the others take that.
//! It deliberately imports only once; the older files are kept beside, under another name.
//!
//! Invariant: nothing is signed before what signs is in the store.

use super::external::External;
use super::standing::Standing;
use super::{PREFIX, STATE, TrustError, read, tokens};
use crate::alerts::Alerts;
use crate::store::{Change, Expect, Store, StoreError};
use crate::trust::Trust;
use fusewire_identity::{Authority, Bundle, DEFAULT_LIFETIME, TokenRecord, TrustDomain, TrustState, UnixTime};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

const KEY: &str = "ca.key";
const CERTIFICATE: &str = "ca.pem";
const TOKENS: &str = "tokens.json";
/// Of a file of some 200 bytes a token.
const MAX_OLDER: u64 = 64 << 20;
/// Rounds against other replicas that start at the same moment.
const MAX_ROUNDS: usize = 10;

/// How trust is opened.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    pub(crate) data_dir: &'a Path,
    pub(crate) domain: &'a TrustDomain,
    pub(crate) leaf_lifetime: Duration,
    /// Of an external authority's files.
    pub(crate) ca_dir: Option<&'a Path>,
}

impl Trust {
    pub(crate) async fn open(store: Store, opening: &Opening<'_>, alerts: &Alerts) -> Result<Self, TrustError> {
        let Opening { data_dir, domain, leaf_lifetime, ca_dir } = *opening;
        let external = match ca_dir {
            Some(dir) => Some(External::open(dir, domain).await?),
            None => None,
        };
        let standing = first(&store, opening, external.as_ref()).await?;
        forget_older(data_dir, &standing);
        let trust = Self {
            store,
            domain: domain.clone(),
            leaf_lifetime,
            external,
            now: watch::Sender::new(standing.into()),
            refreshing: tokio::sync::Mutex::default(),
            read_at: Mutex::new(Instant::now()),
            tokens: tokens::Tokens::default(),
            counts: Default::default(),
        };
        trust.note_lifetime(alerts).await?;
        trust.sweep_tokens().await?;
        Ok(trust)
    }
}

async fn first(store: &Store, opening: &Opening<'_>, external: Option<&External>) -> Result<Standing, TrustError> {
    for _ in 0..MAX_ROUNDS {
        let (_, entries) = store.list(PREFIX).await?;
        let (state, denials) = read(&entries)?;
        let (entry, fresh) = (entries.iter().find(|entry| entry.key == STATE), Change::default());
        let change = match (state, entry, external) {
            (Some(state), Some(entry), external) => {
                of_domain(&state, opening.domain)?;
                match external.map(|external| external.replacing(&state)).transpose()?.flatten() {
                    Some(next) => fresh.replace(entry, next.to_json()?),
                    None => {
                        let authority = match external {
                            Some(external) => external.taking_over(&state)?,
                            None if state.is_external() => return Err(TrustError::FilesNeeded),
                            None => Authority::from_state(state)?,
                        };
                        return Ok(Standing::new(authority, denials, None));
                    }
                }
            }
            (_, _, Some(external)) => fresh.create(STATE, external.local().state().to_json()?),
            (_, _, None) => {
                let state = match older(store, opening).await? {
                    Some(older) => older,
                    None => TrustState::create(opening.domain, UnixTime::now())?,
                };
                fresh.create(STATE, state.to_json()?)
            }
        };
        match store.commit(change).await {
            // another replica was first, or this one was and does not know it: what is there counts
            Ok(_) | Err(StoreError::Conflict { .. } | StoreError::Uncertain(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(StoreError::Unavailable("the authority could not be written: the store does not keep what it takes".into())
        .into())
}

fn of_domain(state: &TrustState, configured: &TrustDomain) -> Result<(), TrustError> {
    if state.trust_domain() == configured {
        return Ok(());
    }
    Err(TrustError::Domain { stored: state.trust_domain().to_string(), configured: configured.to_string() })
}

/// The authority and the tokens of a data directory of an earlier release. Its tokens are in the store when this returns.
async fn older(store: &Store, opening: &Opening<'_>) -> Result<Option<TrustState>, TrustError> {
    let (Some(key), Some(certificate)) =
        (read_older(opening.data_dir, KEY)?, read_older(opening.data_dir, CERTIFICATE)?)
    else {
        return Ok(None);
    };
    // how long leaves lived was not recorded then; a longer time than the default was set by the same option as now
    let longest = opening.leaf_lifetime.max(DEFAULT_LIFETIME);
    let state = TrustState::import(&key, &certificate, longest)
        .map_err(|e| TrustError::Older { path: opening.data_dir.join(CERTIFICATE), why: e.to_string() })?;
    of_domain(&state, opening.domain)?;
    if let Some(book) = read_older(opening.data_dir, TOKENS)? {
        let path = opening.data_dir.join(TOKENS);
        let records = older_tokens(&book, state.root_hash()).map_err(|why| TrustError::Older { path, why })?;
        for (handle, record) in records {
            let key = format!("{}{handle}", tokens::TOKENS);
            match store
                .commit(Change::default().expect(&key, Expect::Absent).put(&key, tokens::to_value(&record)?))
                .await
            {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    tracing::info!(root_hash = state.root_hash(), "the authority of an earlier release is taken over into the store");
    Ok(Some(state))
}

fn older_tokens(book: &[u8], root: &str) -> Result<Vec<(String, TokenRecord)>, String> {
    #[derive(serde::Deserialize)]
    struct Book {
        tokens: Vec<TokenRecord>,
    }
    // serde's message could quote a hash
    let book: Book = serde_json::from_slice(book).map_err(|e| format!("is no list of tokens (line {})", e.line()))?;
    let pinned = book.tokens.into_iter().map(|mut record| {
        root.clone_into(&mut record.root);
        record
    });
    Ok(pinned.filter_map(|record| Some((record.handle()?, record))).collect())
}

fn read_older(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, TrustError> {
    let path = dir.join(name);
    let known = match std::fs::metadata(&path) {
        Ok(known) => known,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TrustError::File { path, source }),
    };
    if known.len() > MAX_OLDER {
        return Err(TrustError::Older { path, why: format!("has {} bytes", known.len()) });
    }
    std::fs::read(&path).map(Some).map_err(|source| TrustError::File { path, source })
}

/// What has been taken over is not taken over again. Files of another authority than the store's are left as they are.
fn forget_older(dir: &Path, standing: &Standing) {
    let Ok(Some(certificate)) = read_older(dir, CERTIFICATE) else { return };
    let root = Bundle::from_pem(standing.authority.trust_domain().clone(), &certificate);
    let known: Vec<String> = standing.authority.bundle().root_hashes();
    if !root.is_ok_and(|root| root.root_hashes().iter().all(|hash| known.contains(hash))) {
        tracing::warn!(dir = %dir.display(), "{CERTIFICATE} is not of the authority in the store, which counts; is the file left over?");
        return;
    }
    for name in [KEY, TOKENS, CERTIFICATE] {
        let (from, to): (PathBuf, PathBuf) = (dir.join(name), dir.join(format!("{name}.imported")));
        if let Err(error) = std::fs::rename(&from, to)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = %from.display(), %error, "cannot be renamed");
        }
    }
}
