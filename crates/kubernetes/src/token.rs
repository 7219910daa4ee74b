//! Whom a service account's token proves.
//!
//! It decides that a token counts only where the API server says so now (TokenReview), and only if it was made for us: one for
//! the API server itself, which every pod may have, proves nothing here. It deliberately keeps no answer: a token is shown
//! once, for a certificate.
//!
//! Invariant: a token is in no error and no log line.

use crate::cluster::{Call, Cluster, ClusterError, call};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::{Api, PostParams};

/// For whom a pod's token must be made (`serviceAccountToken.audience` of its projected volume).
pub const AUDIENCE: &str = "fusewire";

/// Whose a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub namespace: String,
    pub name: String,
}

impl Account {
    /// The path of its SPIFFE ID.
    pub fn path(&self) -> String {
        format!("ns/{}/sa/{}", self.namespace, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error(
        "the service account token is not valid here ({0}): it must be a projected one with `audience: {AUDIENCE}`, of this \
         cluster, and not yet ended"
    )]
    Refused(String),
    #[error("the token is of {0}, which is no service account")]
    NoAccount(String),
    #[error("the token cannot be checked now: {0}")]
    Unavailable(ClusterError),
}

/// Asks the API server, for at most 5 s.
///
/// # Errors
/// [`TokenError`].
pub async fn review_token(cluster: &Cluster, token: &str) -> Result<Account, TokenError> {
    let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) };
    let asked = TokenReview { spec, ..TokenReview::default() };
    let api = Api::<TokenReview>::all(cluster.client.clone());
    // nothing is written by it, so that a failure leaves nothing open
    let answer = call(Call::Read, api.create(&PostParams::default(), &asked)).await.map_err(TokenError::Unavailable)?;
    let status = answer.status.unwrap_or_default();
    let for_us = status.audiences.unwrap_or_default().iter().any(|audience| audience == AUDIENCE);
    if status.authenticated != Some(true) || !for_us {
        let said = status.error.unwrap_or_else(|| "it was made for others".into());
        // a server that repeats what it was shown must not make us do so
        return Err(TokenError::Refused(said.replace(token, "...").chars().take(300).collect()));
    }
    let user = status.user.and_then(|user| user.username).unwrap_or_default();
    match *user.split(':').collect::<Vec<_>>() {
        ["system", "serviceaccount", namespace, name] if !namespace.is_empty() && !name.is_empty() => {
            Ok(Account { namespace: namespace.into(), name: name.into() })
        }
        _ => Err(TokenError::NoAccount(user)),
    }
}
