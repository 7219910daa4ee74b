//! The Identity service: who is given a certificate.
//!
//! It decides that a join token, or the present certificate, proves what the request asks for. It deliberately signs
//! before it spends the token, so that a malformed request does not cost a use; the certificate leaves only after the
//! token was spent on disk. The control plane's own identity is never given away.
//!
//! Invariant: a token appears in no log line and no answer.

use crate::listen::Peer;
use crate::shared::{Shared, lock};
use fusewire_api::v1::identity_server::Identity;
use fusewire_api::v1::{SignRequest, SignResponse};
use fusewire_identity::{CONTROL_PATH, JoinToken, SignError, Signed, SpiffeId, TokenError, UnixTime};
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
            return Err(token_status(&TokenError::Malformed));
        }
        if request.token.is_empty() {
            let id = peer.id.clone().ok_or_else(|| {
                Status::unauthenticated("a join token is needed, or for renewal the present certificate, not yet ended")
            })?;
            let signed = self.sign(&request.csr, &id)?;
            return Ok((id, signed));
        }
        let id = JoinToken::parse(&request.token).map_err(|e| token_status(&e))?.id().clone();
        let signed = self.sign(&request.csr, &id)?;
        self.redeem(request.token, id.clone()).await?;
        Ok((id, signed))
    }

    fn sign(&self, csr: &[u8], id: &SpiffeId) -> Result<Signed, Status> {
        if id.path() == CONTROL_PATH {
            return Err(Status::permission_denied("the control plane's own identity is not given away"));
        }
        let lifetime = self.shared.leaf_lifetime;
        self.shared.authority.sign(csr, id, lifetime, UnixTime::now()).map_err(|e| sign_status(&e))
    }

    async fn redeem(&self, token: String, id: SpiffeId) -> Result<(), Status> {
        let shared = self.shared.clone();
        let redeem = move || lock(&shared.tokens).redeem(&token, &id, UnixTime::now());
        match tokio::task::spawn_blocking(redeem).await {
            Ok(redeemed) => redeemed.map_err(|e| token_status(&e)),
            Err(_) => Err(Status::internal("the token could not be checked")),
        }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let Some(peer) = request.extensions().get::<Peer>().cloned() else {
            return Err(Status::internal("the connection has no peer"));
        };
        let joining = !request.get_ref().token.is_empty();
        match self.decide(&peer, request.into_inner()).await {
            Ok((id, signed)) => {
                let how = if joining { "join token" } else { "renewal" };
                tracing::info!(identity = %id, address = %peer.address, how, not_after = signed.not_after, "certificate signed");
                let Signed { chain_pem, bundle_pem, not_after } = signed;
                Ok(Response::new(SignResponse { chain_pem, bundle_pem, not_after }))
            }
            Err(status) => {
                let peer_id = peer.id.as_ref().map(SpiffeId::as_str).unwrap_or_default();
                tracing::warn!(address = %peer.address, peer = peer_id, code = ?status.code(), "certificate refused: {}", status.message());
                Err(status)
            }
        }
    }
}

/// `<word>: <why>`: the word is the same as in metrics.
fn token_status(error: &TokenError) -> Status {
    let message = format!("{}: {error}", error.word());
    match error {
        TokenError::Malformed | TokenError::Useless => Status::invalid_argument(message),
        TokenError::Unknown | TokenError::Expired | TokenError::Spent => Status::unauthenticated(message),
        TokenError::WrongIdentity => Status::permission_denied(message),
        TokenError::Full => Status::resource_exhausted(message),
        // the path is the operator's, not the joiner's
        TokenError::Storage(inner) => {
            tracing::error!(error = %inner, "the token book cannot be written; is the disk full?");
            Status::unavailable("token-storage: the control plane cannot write its token book; ask again")
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
