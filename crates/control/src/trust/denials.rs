//! Identities that are shut out at once, whatever they can prove.
//!
//! It decides who may be denied, and keeps reason, author and time. It deliberately does not revoke certificates: a denied
//! identity's certificate ends by itself, and until then nobody accepts it; its renewal is refused.

use super::{Trust, TrustError};
use crate::alerts::Alerts;
use crate::store::{Change, Entry, Expect, StoreError};
use fusewire_identity::CONTROL_PATH;
use fusewire_model::SpiffeId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

const DENIED: &str = "trust/denied/";
/// Every sidecar holds all of them. Short lives are the means against many.
const MAX_DENIED: usize = 1_000;
const MAX_REASON: usize = 1_024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Denial {
    pub(crate) identity: String,
    pub(crate) reason: String,
    pub(crate) by: String,
    /// RFC 3339.
    pub(crate) at: String,
}

/// `None` for what cannot be read, which is logged: one damaged denial must not keep the others from being enforced.
pub(super) fn read(entry: &Entry) -> Option<(SpiffeId, Denial)> {
    entry.key.strip_prefix(DENIED)?;
    let denial = serde_json::from_slice::<Denial>(&entry.value).ok();
    let id = denial.as_ref().and_then(|denial| SpiffeId::parse(&denial.identity).ok());
    match (id, denial) {
        (Some(id), Some(denial)) if key(&id) == entry.key => Some((id, denial)),
        _ => {
            tracing::error!(key = entry.key, "a denial in the store cannot be read, and is not enforced");
            None
        }
    }
}

/// A SPIFFE ID may be longer than a key; its hash is not.
fn key(id: &SpiffeId) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(id.as_str());
    let short = hash.iter().fold(String::with_capacity(64), |text, byte| text + &format!("{byte:02x}"));
    format!("{DENIED}{short}")
}

impl Trust {
    /// Shuts `id` out, or says why again.
    pub(crate) async fn deny(&self, id: &SpiffeId, reason: &str, by: &str, alerts: &Alerts) -> Result<(), TrustError> {
        if id.trust_domain() != self.domain.as_str() {
            return Err(TrustError::Invalid(format!("{id} is not of trust domain {}: nobody lets it in", self.domain)));
        }
        if id.path() == CONTROL_PATH {
            return Err(TrustError::Invalid(
                "the control plane's own identity cannot be denied: sidecars would be cut off".into(),
            ));
        }
        if reason.trim().is_empty() || reason.len() > MAX_REASON {
            return Err(TrustError::Invalid(format!(
                "say why, in 1 to {MAX_REASON} bytes: whoever is refused is told"
            )));
        }
        let standing = self.refresh(alerts).await?;
        if standing.denials.len() >= MAX_DENIED && !standing.denials.contains_key(id) {
            return Err(TrustError::Full(format!(
                "{MAX_DENIED} identities are denied already: let those in again whose certificates have ended"
            )));
        }
        let denial = Denial {
            identity: id.to_string(),
            reason: reason.trim().to_owned(),
            by: by.to_owned(),
            at: Timestamp::now().to_string(),
        };
        let value = serde_json::to_vec(&denial).map_err(|e| TrustError::Invalid(e.to_string()))?;
        self.store.commit(Change::default().put(key(id), value)).await?;
        tracing::warn!(identity = %id, by, reason = denial.reason, "identity denied");
        self.refresh(alerts).await.map(drop)
    }

    /// Lets `id` in again.
    pub(crate) async fn allow(&self, id: &SpiffeId, by: &str, alerts: &Alerts) -> Result<(), TrustError> {
        let not_denied = || TrustError::NotFound(format!("{id} is not denied"));
        let entry = self.store.get(&key(id)).await?.ok_or_else(not_denied)?;
        let change = Change::default().expect(&entry.key, Expect::Revision(entry.revision)).delete(&entry.key);
        match self.store.commit(change).await {
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => return Err(TrustError::Changed),
            Err(error) => return Err(error.into()),
        }
        tracing::warn!(identity = %id, by, "identity no longer denied");
        self.refresh(alerts).await.map(drop)
    }
}
