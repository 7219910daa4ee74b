//! The authority: what signs leaves, from a [`TrustState`] or an external CA's files.
//!
//! It decides which root signs and which certificates travel with a leaf. It deliberately does not decide *who may
//! have* a leaf: the caller proves the identity (join token, Kubernetes token, the peer's present certificate) and
//! passes it in; nor where its state is kept.
//!
//! Invariant: nothing in a leaf but the public key comes from the request, and no leaf outlives what it is signed with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fusewire_model::{SpiffeId, TrustDomain};
use rcgen::{Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::Bundle;
use crate::error::IdentityError;
use crate::request::{SignError, verified_key};
use crate::server_leaf::ServerLeaf;
use crate::trust_state::TrustState;
use crate::workload::{Identity, PrivateKey, csr};
use crate::{CONTROL_PATH, pem, shape};

/// How long a leaf holds unless asked otherwise: long enough to outlive a control plane's bad night.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(24 * 3600);
pub const MIN_LIFETIME: Duration = Duration::from_secs(10);
pub const MAX_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// A leaf, with what its holder needs to use it.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Leaf first, then what leads from it to a root, without the root.
    pub chain_pem: String,
    pub bundle_pem: String,
    /// Seconds since 1970.
    pub not_after: u64,
}

/// What signs, and what travels with each leaf.
pub(crate) struct Signer {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    /// From the leaf's issuer upwards, without the root.
    pub(crate) above: Vec<CertificateDer<'static>>,
    /// The earliest end of what a leaf needs to lead to the root.
    pub(crate) not_after: u64,
}

/// The certificate authority of one trust domain. Cloning is cheap.
#[derive(Clone)]
pub struct Authority {
    state: TrustState,
    bundle: Bundle,
    signer: Arc<Signer>,
    /// Signs what the control plane itself presents; see [`Authority::issue_own`].
    own: Arc<Signer>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new root, in memory.
    pub fn create(domain: &TrustDomain, now: UnixTime) -> Result<Self, IdentityError> {
        Self::from_state(TrustState::create(domain, now)?)
    }

    /// Ready to sign. An external authority's state holds no key: see [`Authority::external`].
    pub fn from_state(state: TrustState) -> Result<Self, IdentityError> {
        if state.is_external() {
            return Err(IdentityError::State("an external authority's key is only in its files: read those".into()));
        }
        let sign_under = |root: &crate::root::Root| -> Result<Arc<Signer>, IdentityError> {
            let above = root.cross.iter().cloned().collect();
            Ok(Arc::new(Signer { issuer: root.issuer()?, above, not_after: root.not_after }))
        };
        let signer = sign_under(&state.signer)?;
        let own = match &state.other {
            Some(next) if next.cross.is_some() => sign_under(next)?,
            _ => signer.clone(),
        };
        Self::with(state, signer, own)
    }

    pub(crate) fn with(state: TrustState, signer: Arc<Signer>, own: Arc<Signer>) -> Result<Self, IdentityError> {
        Ok(Self { bundle: state.bundle()?, state, signer, own })
    }

    /// The same signer with other bookkeeping.
    pub(crate) fn restated(&self, state: TrustState) -> Result<Self, IdentityError> {
        Self::with(state, self.signer.clone(), self.own.clone())
    }

    pub(crate) fn signer(&self) -> &Signer {
        &self.signer
    }

    /// What to store; for an external authority without its key.
    pub fn state(&self) -> &TrustState {
        &self.state
    }

    pub fn to_state(&self) -> TrustState {
        self.state.clone()
    }

    /// [`TrustState::with_lifetime`], for an authority of either kind: store [`Authority::state`] of the answer before
    /// signing with it.
    pub fn with_lifetime(&self, lifetime: Duration) -> Option<Self> {
        self.state.with_lifetime(lifetime).map(|state| Self { state, ..self.clone() })
    }

    /// [`TrustState::without_ended`], for an authority of either kind.
    pub fn without_ended(&self, now: UnixTime) -> Result<Option<Self>, IdentityError> {
        self.state.without_ended(now).map(|state| self.restated(state)).transpose()
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        self.bundle.trust_domain()
    }

    /// What workloads believe; the root that signs comes first.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// What a join token carries, so that a joiner knows this authority when it meets it.
    pub fn root_hash(&self) -> &str {
        self.state.root_hash()
    }

    /// When leaves can no longer be signed, in seconds since 1970: the end of the root, or of an external issuing
    /// certificate.
    pub fn not_after(&self) -> u64 {
        self.signer.not_after
    }

    /// Signs a leaf for `id`, which the caller has proven to be the asker's; the request must ask for it and nothing
    /// else, and prove possession of its key.
    pub fn sign(&self, csr_der: &[u8], id: &SpiffeId, lifetime: Duration, now: UnixTime) -> Result<Signed, SignError> {
        self.sign_by(&self.signer, csr_der, id, lifetime, now)
    }

    fn sign_by(
        &self,
        signer: &Signer,
        csr_der: &[u8],
        id: &SpiffeId,
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Signed, SignError> {
        if !(MIN_LIFETIME..=MAX_LIFETIME).contains(&lifetime) {
            let (min, max) = (MIN_LIFETIME.as_secs(), MAX_LIFETIME.as_secs());
            return Err(SignError::Lifetime { asked: lifetime.as_secs(), min, max });
        }
        if id.trust_domain() != self.trust_domain().as_str() {
            let domain = self.trust_domain().to_string();
            return Err(SignError::TrustDomain { id: id.to_string(), domain });
        }
        let public = verified_key(csr_der, id)?;
        let not_after = now.as_secs().saturating_add(lifetime.as_secs()).min(signer.not_after);
        if not_after < now.as_secs().saturating_add(MIN_LIFETIME.as_secs()) {
            return Err(SignError::RootEnded { not_after: signer.not_after });
        }
        let not_before = now.as_secs().saturating_sub(shape::backdate(lifetime.as_secs()));
        let leaf = shape::leaf(id, not_before, not_after)?
            .signed_by(&public, &signer.issuer)
            .map_err(|e| SignError::Crypto(e.to_string()))?;
        let chain_pem = pem::encode_certificates(std::iter::once(leaf.der()).chain(&signer.above));
        Ok(Signed { chain_pem, bundle_pem: self.bundle.to_pem(), not_after })
    }

    /// An identity with a key of its own, for whoever holds the authority.
    pub fn issue(&self, id: &SpiffeId, lifetime: Duration, now: UnixTime) -> Result<Identity, SignError> {
        self.issue_by(&self.signer, id, lifetime, now)
    }

    /// The control plane's own identity. While a root is being replaced it is under the newer root and carries the
    /// cross certificate, at every stage, so that joiners find it whichever of the two roots their token pins.
    pub fn issue_own(&self, lifetime: Duration, now: UnixTime) -> Result<Identity, SignError> {
        let id = self.control_id().map_err(inner)?;
        self.issue_by(&self.own, &id, lifetime, now)
    }

    /// A certificate for DNS names, of whoever calls the control plane and knows nothing of SPIFFE: the Kubernetes API server.
    /// Under the same root as [`Authority::issue_own`]. It names no workload, so that nobody in the mesh is it.
    pub fn issue_server(&self, names: &[String], lifetime: Duration, now: UnixTime) -> Result<ServerLeaf, SignError> {
        let not_after = now.as_secs().saturating_add(lifetime.as_secs()).min(self.own.not_after);
        if not_after < now.as_secs().saturating_add(MIN_LIFETIME.as_secs()) {
            return Err(SignError::RootEnded { not_after: self.own.not_after });
        }
        let not_before = now.as_secs().saturating_sub(shape::backdate(lifetime.as_secs()));
        let key = PrivateKey::generate().map_err(inner)?;
        let leaf = shape::server(names, not_before, not_after)?
            .signed_by(&key.pair().map_err(inner)?, &self.own.issuer)
            .map_err(|e| SignError::Crypto(e.to_string()))?;
        let chain = std::iter::once(leaf.der()).chain(&self.own.above).map(|der| der.clone().into_owned()).collect();
        Ok(ServerLeaf::new(chain, key, [not_before, not_after]))
    }

    fn issue_by(
        &self,
        signer: &Signer,
        id: &SpiffeId,
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Identity, SignError> {
        let key = PrivateKey::generate().map_err(inner)?;
        let request = csr(&key, id).map_err(inner)?;
        let signed = self.sign_by(signer, &request, id, lifetime, now)?;
        let chain = pem::certificates("the signed chain", signed.chain_pem.as_bytes()).map_err(inner)?;
        Identity::from_parts(chain, key, self.bundle.clone()).map_err(inner)
    }

    /// The control plane's own SPIFFE ID in this trust domain.
    pub fn control_id(&self) -> Result<SpiffeId, IdentityError> {
        SpiffeId::of(self.trust_domain(), CONTROL_PATH).map_err(|e| IdentityError::BadSpiffeId(e.to_string()))
    }
}

fn inner(error: IdentityError) -> SignError {
    SignError::Crypto(error.to_string())
}
