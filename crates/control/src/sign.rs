//! The Identity service: who is given a certificate.
//!
//! It decides that a join token, a Kubernetes service account's token or the present certificate proves what the request asks for. It deliberately signs
//! before it spends the token, so that a malformed request does not cost a use; the certificate leaves only after the
//! token was spent in the store. The control plane's own identity is never given away.
//!
//! Invariant: a token appears in no log line and no answer.

use crate::listen::Peer;
use crate::shared::{Shared, lock};
use crate::trust::TrustError;
use fusewire_api::v1::identity_server::Identity;
use fusewire_api::v1::{SignRequest, SignResponse};
use fusewire_identity::TokenError as JoinTokenError;
use fusewire_identity::{CONTROL_PATH, JoinToken, SignError, Signed, SpiffeId, UnixTime};
use fusewire_kubernetes::TokenError;
use std::sync::Arc;
use std::time::Instant;
use tonic::{Request, Response, Status};

/// Longer than any token can be.
const MAX_TOKEN: usize = 4_096;

#[derive(Clone)]
pub(crate) struct IdentityService {
    shared: Arc<Shared>,
}

impl IdentityService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn decide(&self, peer: &Peer, request: SignRequest) -> Result<(SpiffeId, Signed), Status> {
        if let Err(wait) = lock(&self.shared.signing).take(peer.address.ip(), Instant::now()) {
            return Err(Status::resource_exhausted(format!(
                "too many signing requests from {}; ask again in {} ms",
                peer.address.ip(),
                wait.as_millis()
            )));
        }
        if request.token.len() > MAX_TOKEN {
            return Err(token_status(&JoinTokenError::Malformed));
        }
        if self.shared.trust.is_behind() {
            return Err(Status::unavailable(
                "this control plane cannot read its store, and may not know who is still believed; ask again, or another",
            ));
        }
        if request.token.is_empty() {
            let id = peer.id.clone().ok_or_else(|| {
                Status::unauthenticated("a join token is needed, or for renewal the present certificate, not yet ended")
            })?;
            self.not_denied(&id)?;
            self.still_holds(peer)?;
            let signed = self.sign(&request.csr, &id)?;
            return Ok((id, signed));
        }
        if is_service_account_token(&request.token) {
            return self.by_account(&request).await;
        }
        let token = JoinToken::parse(&request.token).map_err(|e| token_status(&e))?;
        let id = token.id().clone();
        self.not_denied(&id)?;
        let signed = self.sign(&request.csr, &id)?;
        self.shared.trust.spend_token(&token, &id).await.map_err(|e| spend_status(&e))?;
        Ok((id, signed))
    }

    /// For whom the API server says that the token is, and for nobody else: the request's SPIFFE ID must be that one.
    async fn by_account(&self, request: &SignRequest) -> Result<(SpiffeId, Signed), Status> {
        let Some(kubernetes) = &self.shared.kubernetes else {
            return Err(Status::unauthenticated(
                "a service account token proves nothing here: start the control plane with --kubernetes, or use a join token",
            ));
        };
        let account = kubernetes.account(&request.token).await.map_err(|error| account_status(&error))?;
        let id = SpiffeId::of(self.shared.trust.domain(), &account.path());
        let id = id.map_err(|error| Status::permission_denied(error.to_string()))?;
        self.not_denied(&id)?;
        let signed = self.sign(&request.csr, &id)?;
        Ok((id, signed))
    }

    fn not_denied(&self, id: &SpiffeId) -> Result<(), Status> {
        self.shared.trust.refusal(id).map_or(Ok(()), |why| Err(Status::permission_denied(why)))
    }

    /// Whether the certificate that the peer showed when it connected still proves anything.
    fn still_holds(&self, peer: &Peer) -> Result<(), Status> {
        let believed = self.shared.trust.now().authority.bundle().root_hashes();
        let holds =
            peer.not_after > UnixTime::now().as_secs() && peer.root.as_ref().is_some_and(|r| believed.contains(r));
        let why =
            "the certificate of this connection has ended, or its root is no longer believed: connect again, or join";
        if holds { Ok(()) } else { Err(Status::unauthenticated(why)) }
    }

    fn sign(&self, csr: &[u8], id: &SpiffeId) -> Result<Signed, Status> {
        if id.path() == CONTROL_PATH {
            return Err(Status::permission_denied("the control plane's own identity is not given away"));
        }
        let trust = &self.shared.trust;
        trust.now().authority.sign(csr, id, trust.leaf_lifetime(), UnixTime::now()).map_err(|e| sign_status(&e))
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let Some(peer) = request.extensions().get::<Peer>().cloned() else {
            return Err(Status::internal("the connection has no peer"));
        };
        let how = match request.get_ref().token.as_str() {
            "" => "renewal",
            token if is_service_account_token(token) => "service account",
            _ => "join token",
        };
        match self.decide(&peer, request.into_inner()).await {
            Ok((id, signed)) => {
                self.shared.trust.counts.count_signed();
                tracing::info!(identity = %id, address = %peer.address, how, not_after = signed.not_after, "certificate signed");
                let Signed { chain_pem, bundle_pem, not_after } = signed;
                Ok(Response::new(SignResponse { chain_pem, bundle_pem, not_after }))
            }
            Err(status) => {
                self.shared.trust.counts.count_refused();
                let peer_id = peer.id.as_ref().map(SpiffeId::as_str).unwrap_or_default();
                tracing::warn!(address = %peer.address, peer = peer_id, code = ?status.code(), "certificate refused: {}", status.message());
                Err(status)
            }
        }
    }
}

/// A JSON web token in its compact form (RFC 7519): three parts of base64url. A join token has no dots between such.
fn is_service_account_token(token: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    token.split('.').count() == 3 && token.split('.').all(part)
}

fn account_status(error: &TokenError) -> Status {
    match error {
        TokenError::Refused(_) => Status::unauthenticated(error.to_string()),
        TokenError::NoAccount(_) => Status::permission_denied(error.to_string()),
        TokenError::Unavailable(cause) => {
            // how the cluster is reached is the operator's matter, not the joiner's
            tracing::error!(error = %cause, "a service account token cannot be checked");
            Status::unavailable(
                "the control plane cannot check the token with the Kubernetes API server now; ask again",
            )
        }
    }
}

/// `<word>: <why>`: the word is the same as in metrics.
fn token_status(error: &JoinTokenError) -> Status {
    let message = format!("{}: {error}", error.word());
    match error {
        JoinTokenError::Malformed | JoinTokenError::Useless => Status::invalid_argument(message),
        JoinTokenError::Unknown | JoinTokenError::Expired | JoinTokenError::Spent => Status::unauthenticated(message),
        JoinTokenError::WrongIdentity => Status::permission_denied(message),
        JoinTokenError::Full => Status::resource_exhausted(message),
        JoinTokenError::Internal(_) => Status::internal(message),
    }
}

fn spend_status(error: &TrustError) -> Status {
    match error {
        TrustError::Token(error) => token_status(error),
        // where the store is, is the operator's matter, not the joiner's
        error => {
            tracing::error!(%error, "a join token cannot be spent");
            Status::unavailable("token-storage: the control plane cannot write to its store; ask again")
        }
    }
}

fn sign_status(error: &SignError) -> Status {
    match error {
        SignError::TooLarge(_)
        | SignError::Malformed
        | SignError::BadSignature
        | SignError::Algorithm
        | SignError::Names { .. } => Status::invalid_argument(error.to_string()),
        SignError::Identity { .. } | SignError::TrustDomain { .. } => Status::permission_denied(error.to_string()),
        SignError::RootEnded { .. } => Status::failed_precondition(error.to_string()),
        SignError::Lifetime { .. } | SignError::Crypto(_) => Status::internal(error.to_string()),
    }
}
