//! Getting and renewing an identity: for a sidecar, an operator, or an application without a sidecar.
//!
//! It decides what is proven to whom: a join token brings the hash of the root that the control plane must show, beside a
//! Kubernetes service account's token the roots lie in a file, and a certificate that holds renews itself. [`Enrolment`] also keeps one in a folder and renews it in time; the others keep
//! nothing and do not retry.
//!
//! Invariants: neither key nor token is in an error; what an [`Enrolment`] uses is on disk first, for the owner only.

use crate::clock;
use crate::controls::Controls;
use crate::registration::Credentials;
use crate::trust::{BoxError, channel as dial, control_client};
use fusewire_api::v1;
use fusewire_identity::{
    ALPN_CONTROL, Bundle, Identity, JoinToken, PrivateKey, SpiffeId, TrustDomain, UnixTime, csr, joining_client_config,
    trusting_client_config,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tonic::transport::Channel;

/// How long one call to the control plane may take.
const CALL: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// Why there is no identity, or no connection.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("the join token: {0}")]
    Token(String),
    #[error("the control plane {control}: {cause}; is it running there, and is it the one that made the token?")]
    Connect { control: String, cause: String },
    #[error("the control plane {control} gave no certificate: {cause}")]
    Refused { control: String, cause: String },
    #[error("no answer from the control plane {control} within {CALL:?}")]
    Timeout { control: String },
    #[error("{0}")]
    Identity(String),
}

/// A first certificate, for the identity that `token` was made for. `control` is `host:port`.
///
/// # Errors
/// A token that is none, a control plane that is not reached or not the token's, and its refusal.
pub async fn join(control: &str, token: &str) -> Result<Identity, EnrolError> {
    let id = parsed(token)?.id().clone();
    obtain(control, None, &id, || Ok(Proof::Join(token.to_owned()))).await
}

/// A new certificate for the same identity, with a new key. The present one must still hold.
///
/// # Errors
/// As [`join`], but for the token.
pub async fn renew(control: &str, present: &Identity) -> Result<Identity, EnrolError> {
    let needed = || Err(EnrolError::Identity("the certificate has ended: log in again with a join token".into()));
    obtain(control, Some(present), &present.id, needed).await
}

/// A gRPC channel to a control plane that proves itself to `own`, as `own`; it connects again by itself.
///
/// # Errors
/// Where the first connection fails.
pub async fn channel(control: &str, own: &Identity) -> Result<Channel, EnrolError> {
    let tls = control_client(own).map_err(identity)?;
    dial(control, tls).await.map_err(|cause| unreached(control, &cause))
}

/// What is shown where there is no certificate yet, and whom it makes believe.
pub(crate) enum Proof {
    /// Holds the hash of the root.
    Join(String),
    /// A service account's, which the control plane has reviewed. It says nothing of the root; the roots are these.
    Kubernetes { token: String, roots: Bundle },
}

impl Proof {
    /// By what the token looks like: a JWT is three parts of base64url, a join token begins otherwise.
    ///
    /// # Errors
    /// A JWT without roots, or with some that cannot be read.
    pub(crate) fn read(token: String, trust_file: Option<&Path>, id: &SpiffeId) -> Result<Self, EnrolError> {
        if !is_jwt(&token) {
            return Ok(Self::Join(token));
        }
        let missing =
            "it is a Kubernetes token, which names no root: name the file with the roots in sidecar.trust_file";
        let path = trust_file.ok_or_else(|| EnrolError::Token(missing.into()))?;
        let failed = |why: String| EnrolError::Token(format!("sidecar.trust_file: {}: {why}", path.display()));
        let pem = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
        let domain = TrustDomain::parse(id.trust_domain()).map_err(|e| failed(e.to_string()))?;
        let roots = Bundle::from_pem(domain, &pem).map_err(|e| failed(e.to_string()))?;
        Ok(Self::Kubernetes { token, roots })
    }

    /// How to meet the control plane, and what to send it.
    fn divided(self) -> Result<(Arc<rustls::ClientConfig>, String), EnrolError> {
        match self {
            Self::Join(token) => {
                let tls = joining_client_config(&parsed(&token)?.root_hash(), &[ALPN_CONTROL]).map_err(identity)?;
                Ok((tls, token))
            }
            Self::Kubernetes { token, roots } => {
                Ok((trusting_client_config(&roots, &[ALPN_CONTROL]).map_err(identity)?, token))
            }
        }
    }
}

/// RFC 7519: header, claims and signature, each in base64url.
fn is_jwt(token: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=".contains(&b));
    token.split('.').count() == 3 && token.split('.').all(part)
}

/// A certificate for `id`: asked for with the present one while it holds, else with a token. One that holds under roots that are
/// gone is nobody's any more: where it is not taken, a service account's token is, which can be shown again and again.
pub(crate) async fn obtain(
    control: &str,
    present: Option<&Identity>,
    id: &SpiffeId,
    proof: impl FnOnce() -> Result<Proof, EnrolError>,
) -> Result<Identity, EnrolError> {
    let Some(present) = present.filter(|identity| !identity.remaining(UnixTime::now()).is_zero()) else {
        return prove(control, id, proof()?).await;
    };
    let renewed = match channel(control, present).await {
        Ok(channel) => sign(control, channel, id, String::new()).await,
        Err(error) => Err(error),
    };
    match renewed {
        Err(error @ (EnrolError::Connect { .. } | EnrolError::Refused { .. })) => match proof() {
            Ok(proof @ Proof::Kubernetes { .. }) => {
                tracing::debug!(control, %error, "the certificate is not taken: trying with the service account's token");
                // what the certificate met is told: it is what is usual
                prove(control, id, proof).await.map_err(|_| error)
            }
            _ => Err(error),
        },
        renewed => renewed,
    }
}

async fn prove(control: &str, id: &SpiffeId, proof: Proof) -> Result<Identity, EnrolError> {
    let (tls, token) = proof.divided()?;
    let channel = dial(control, tls).await.map_err(|cause| unreached(control, &cause))?;
    sign(control, channel, id, token).await
}

async fn sign(control: &str, channel: Channel, id: &SpiffeId, token: String) -> Result<Identity, EnrolError> {
    let key = PrivateKey::generate().map_err(identity)?;
    let request = v1::SignRequest { csr: csr(&key, id).map_err(identity)?, token };
    let mut client = v1::identity_client::IdentityClient::new(channel);
    let signed = tokio::time::timeout(CALL, client.sign(request)).await;
    let signed = signed.map_err(|_| EnrolError::Timeout { control: control.into() })?;
    let refused =
        |status: tonic::Status| EnrolError::Refused { control: control.into(), cause: status.message().into() };
    let signed = signed.map_err(refused)?.into_inner();
    let issued = Identity::from_pem(signed.chain_pem.as_bytes(), key.to_pem().as_bytes(), signed.bundle_pem.as_bytes());
    let issued = issued.map_err(identity)?;
    if issued.id == *id {
        return Ok(issued);
    }
    Err(EnrolError::Identity(format!("the control plane {control} signed for {}, where {id} was asked for", issued.id)))
}

/// One identity of a program that is no sidecar, kept in a folder.
#[derive(Clone, Debug)]
pub struct Enrolment {
    pub controls: Controls,
    /// Where the join token lies; needed until the first certificate is in `data_dir`, and once one has ended.
    pub token_file: Option<PathBuf>,
    /// Key, certificate and bundle, 0600.
    pub data_dir: PathBuf,
    /// Who it must be; `None`: whom the token names.
    pub workload: Option<SpiffeId>,
}

impl Enrolment {
    /// The identity that is there, or a new one. Does not wait for a control plane that is away.
    ///
    /// # Errors
    /// As [`join`]; and where the folder holds another identity, or cannot be written.
    pub async fn begin(&self) -> Result<Arc<Identity>, EnrolError> {
        let identity = match self.kept().filter(|kept| !kept.remaining(UnixTime::now()).is_zero()) {
            Some(identity) => identity,
            None => self.ask(None).await?,
        };
        self.expect(identity).map(Arc::new)
    }

    /// Renews for ever; the newest is in `current`, which [`begin`](Self::begin) filled.
    pub async fn keep(&self, current: watch::Sender<Arc<Identity>>) {
        let mut wait = RETRY;
        loop {
            let (begin, end) = (current.borrow().not_before(), current.borrow().not_after());
            let at = fusewire_identity::renewal_at(begin, end, clock::unix_micros());
            // never at once: with a clock that is wrong every new certificate would be due
            tokio::time::sleep(Duration::from_secs(at.saturating_sub(clock::unix_seconds()).max(1))).await;
            let now = current.borrow().clone();
            match self.ask(Some(&now)).await.and_then(|identity| self.expect(identity)) {
                Ok(identity) => {
                    tracing::info!(id = %identity.id, expires = identity.not_after(), "certificate renewed");
                    current.send_replace(Arc::new(identity));
                    wait = RETRY;
                }
                Err(e) => {
                    tracing::warn!(
                        control = self.controls.now(),
                        "the certificate is not renewed yet, trying again: {e}"
                    );
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(MAX_RETRY);
                }
            }
        }
    }

    fn kept(&self) -> Option<Identity> {
        if !self.data_dir.join("cert.pem").exists() {
            return None;
        }
        let loaded = Identity::load(&self.data_dir);
        loaded.map_err(|e| tracing::warn!("{}: the kept identity cannot be used: {e}", self.data_dir.display())).ok()
    }

    async fn ask(&self, current: Option<&Identity>) -> Result<Identity, EnrolError> {
        let id = match (current, &self.workload) {
            (Some(identity), _) => identity.id.clone(),
            (None, Some(id)) => id.clone(),
            (None, None) => parsed(&self.token()?)?.id().clone(),
        };
        let mut issued = obtain(self.controls.now(), current, &id, || self.token().map(Proof::Join)).await;
        for _ in 1..self.controls.count() {
            if !matches!(issued, Err(EnrolError::Connect { .. } | EnrolError::Timeout { .. })) {
                break;
            }
            self.controls.pass();
            issued = obtain(self.controls.now(), current, &id, || self.token().map(Proof::Join)).await;
        }
        let issued = issued.inspect_err(|_| self.controls.pass())?;
        issued.save(&self.data_dir).map_err(identity)?;
        Ok(issued)
    }

    fn token(&self) -> Result<String, EnrolError> {
        let missing = "one is needed: make it with `fusewire token create`, and name its file with --token-file";
        let path = self.token_file.as_deref().ok_or_else(|| EnrolError::Token(missing.into()))?;
        read_token(path).map_err(|e| EnrolError::Token(format!("{}: {e}", path.display())))
    }

    fn expect(&self, identity: Identity) -> Result<Identity, EnrolError> {
        match &self.workload {
            Some(wanted) if identity.id != *wanted => {
                let (dir, found) = (self.data_dir.display(), &identity.id);
                let why = format!("{dir} holds the identity {found}, not {wanted}: give another --data-dir");
                Err(EnrolError::Identity(why))
            }
            _ => Ok(identity),
        }
    }
}

/// What a [`crate::Registrar`] proves itself with: the newest of `current`.
pub fn credentials(current: watch::Receiver<Arc<Identity>>) -> Credentials {
    Box::new(move || control_client(&current.borrow()).ok())
}

pub(crate) fn read_token(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned())
}

fn parsed(token: &str) -> Result<JoinToken, EnrolError> {
    JoinToken::parse(token).map_err(|e| EnrolError::Token(e.to_string()))
}

fn identity(error: impl std::fmt::Display) -> EnrolError {
    EnrolError::Identity(error.to_string())
}

fn unreached(control: &str, cause: &BoxError) -> EnrolError {
    EnrolError::Connect { control: control.into(), cause: cause.to_string() }
}

#[cfg(test)]
mod tests;
