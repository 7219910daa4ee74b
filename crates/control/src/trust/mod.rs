//! Who is believed and who is shut out, kept in the store and followed there.
//!
//! It decides which authority signs now and which identities are denied: what the store says, wherever it was written,
//! here or by another replica. It deliberately changes nothing by itself; `steps`, `denials`, `tokens` and `external` write
//! to the store, by comparing with what they read, and what they wrote comes back through here.
//!
//! Keys: `trust/state` (the authority, with its private keys), `trust/denied/<identity>`, `tokens/<handle>`.
//!
//! Invariants: what is in force was in the store first; what was read last is in force last.

pub(crate) mod admin;
mod denials;
mod error;
mod external;
mod keep;
mod metrics;
mod open;
mod standing;
mod steps;
mod tokens;

pub(crate) use denials::Denial;
pub use error::TrustError;
pub(crate) use keep::run;
pub(crate) use open::Opening;
pub(crate) use standing::Standing;

use crate::alerts::Alerts;
use crate::shared::lock;
use crate::store::{Entry, Store};
use crate::trust::external::External;
use crate::trust::metrics::Counts;
use crate::trust::tokens::Tokens;
use fusewire_identity::{Authority, SETTLE_SECONDS, TrustDomain, TrustState};
use fusewire_model::SpiffeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) const PREFIX: &str = "trust/";
pub(crate) const STATE: &str = "trust/state";

/// The desk where trust is asked for and changed.
#[derive(Debug)]
pub(crate) struct Trust {
    store: Store,
    domain: TrustDomain,
    leaf_lifetime: Duration,
    external: Option<External>,
    now: watch::Sender<Arc<Standing>>,
    refreshing: tokio::sync::Mutex<()>,
    /// When the store was last read.
    read_at: Mutex<Instant>,
    pub(crate) tokens: Tokens,
    pub(crate) counts: Counts,
}

impl Trust {
    pub(crate) fn now(&self) -> Arc<Standing> {
        self.now.borrow().clone()
    }

    /// Whether this replica may be behind: cut off from the store that others share, it would go on signing under a root that
    /// they retire, and for identities that they denied.
    pub(crate) fn is_behind(&self) -> bool {
        self.store.is_shared() && lock(&self.read_at).elapsed() > Duration::from_secs(SETTLE_SECONDS)
    }

    /// Told of every change of authority or denials.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Standing>> {
        self.now.subscribe()
    }

    pub(crate) fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    pub(crate) fn leaf_lifetime(&self) -> Duration {
        self.leaf_lifetime
    }

    /// Identities that are shut out; changes are told by [`Trust::subscribe`].
    pub(crate) fn denied(&self) -> Arc<BTreeSet<SpiffeId>> {
        self.now.borrow().denied().clone()
    }

    /// Why `id` is shut out, where it is.
    pub(crate) fn refusal(&self, id: &SpiffeId) -> Option<String> {
        self.now.borrow().denials.get(id).map(|denial| format!("{id} is denied: {}", denial.reason))
    }

    /// Reads the store, and puts in force what it says.
    pub(crate) async fn refresh(&self, alerts: &Alerts) -> Result<Arc<Standing>, TrustError> {
        // one at a time, so that what was read last is in force last, whatever a restored store's revisions are
        let _turn = self.refreshing.lock().await;
        let (_, entries) = self.store.list(PREFIX).await?;
        let (state, denials) = read(&entries)?;
        let Some(state) = state else { return Err(TrustError::Vanished) };
        let before = self.now();
        let authority = self.authority(&before, &state, alerts)?;
        let standing = Standing::new(authority, denials, Some(&before));
        self.now.send_replace(Arc::new(standing));
        *lock(&self.read_at) = Instant::now();
        Ok(self.now())
    }

    /// What signs, when `state` is in the store.
    fn authority(&self, before: &Standing, state: &TrustState, alerts: &Alerts) -> Result<Authority, TrustError> {
        if !state.is_external() {
            return Ok(Authority::from_state(state.clone())?);
        }
        let external = self.external.as_ref().ok_or(TrustError::FilesNeeded)?;
        match external.signing(state) {
            Ok(authority) => Ok(authority),
            // another replica is ahead by more than one root
            Err(error) if before.authority.state().is_external() => {
                alerts.raise(external::BEHIND, external.about(), format!("{error}: are the new files not here yet?"));
                Ok(before.authority.clone())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What a listing of [`PREFIX`] says.
fn read(entries: &[Entry]) -> Result<(Option<TrustState>, BTreeMap<SpiffeId, Denial>), TrustError> {
    let mut state = None;
    let mut denials = BTreeMap::new();
    for entry in entries {
        if entry.key == STATE {
            state = Some(TrustState::from_json(&entry.value)?);
        } else if let Some((id, denial)) = denials::read(entry) {
            denials.insert(id, denial);
        }
    }
    Ok((state, denials))
}
