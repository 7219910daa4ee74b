//! What a workload owns: its key, the certificate that names it, and the roots that it believes.
//!
//! It decides when the three belong together, and keeps them on disk so that a restart needs nobody. It deliberately
//! does not decide whether the certificate holds *now*: an expired identity still loads, so that the sidecar can say
//! what it has and renew it; peers refuse it, with a reason.
//!
//! Invariant: an [`Identity`]'s leaf has exactly one SPIFFE ID, belongs to its key, and chains to its bundle.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fusewire_model::{SpiffeId, TrustDomain};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use crate::bundle::{Bundle, root_hash};
use crate::cert::{self, Particulars};
use crate::error::IdentityError;
use crate::{files, pem, verify};

const KEY_FILE: &str = "key.pem";
const CERT_FILE: &str = "cert.pem";
const BUNDLE_FILE: &str = "bundle.pem";

/// An ECDSA P-256 private key. Neither `Debug` nor any error shows it.
#[derive(Clone)]
pub struct PrivateKey(Arc<PrivatePkcs8KeyDer<'static>>);

impl PrivateKey {
    pub fn generate() -> Result<Self, IdentityError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Self(Arc::new(pair.serialize_der().into())))
    }

    pub fn from_pem(text: &[u8]) -> Result<Self, IdentityError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(text)
            .map_err(|e| IdentityError::Pem { what: "the private key", why: e.to_string() })?;
        let key = Self(Arc::new(der));
        key.pair()?;
        Ok(key)
    }

    /// The key itself, for a file that only its owner may read.
    pub fn to_pem(&self) -> String {
        pem::encode("PRIVATE KEY", self.0.secret_pkcs8_der())
    }

    /// What rcgen signs with.
    pub(crate) fn pair(&self) -> Result<KeyPair, IdentityError> {
        KeyPair::from_pkcs8_der_and_sign_algo(&self.0, &PKCS_ECDSA_P256_SHA256)
            .map_err(|e| IdentityError::Key(e.to_string()))
    }

    pub(crate) fn der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0.clone_key())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// A certificate signing request, DER: "this key asks to be called `id`". It asks for nothing else; the authority
/// would ignore it.
pub fn csr(key: &PrivateKey, id: &SpiffeId) -> Result<Vec<u8>, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    let request = params.serialize_request(&key.pair()?)?;
    Ok(request.der().to_vec())
}

/// A proven name: leaf and key, with the roots to judge others by.
#[derive(Clone, Debug)]
pub struct Identity {
    pub id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    bundle: Bundle,
    particulars: Particulars,
    root: String,
    moment: UnixTime,
}

impl Identity {
    /// `chain` is the leaf, then intermediates if there are any, without the root.
    pub fn from_parts(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKey,
        bundle: Bundle,
    ) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or(IdentityError::NoCertificate)?;
        let id = cert::spiffe_id(leaf)?;
        let parsed = cert::parse(leaf)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.pair()?.public_key_raw() {
            return Err(IdentityError::KeyMismatch { id: id.to_string() });
        }
        let particulars = cert::particulars(&parsed);
        if id.trust_domain() != bundle.trust_domain().as_str() {
            let why = format!("the bundle is that of {}", bundle.trust_domain());
            return Err(IdentityError::Untrusted { id: id.to_string(), why });
        }
        let moment = moment(&chain)?;
        let root = verify::chain(leaf, &chain[1..], bundle.roots(), moment)
            .and_then(|()| verify::root_of(leaf, &chain[1..], bundle.certs(), moment))
            .map_err(|e| IdentityError::Untrusted { id: id.to_string(), why: e.to_string() })?;
        Ok(Self { id, chain, key, bundle, particulars, root, moment })
    }

    pub fn from_pem(cert_chain_pem: &[u8], key_pem: &[u8], bundle_pem: &[u8]) -> Result<Self, IdentityError> {
        let chain = pem::certificates("the certificate chain", cert_chain_pem)?;
        let id = cert::peer_id(Some(&chain))?;
        let domain = TrustDomain::parse(id.trust_domain()).map_err(|e| IdentityError::BadSpiffeId(e.to_string()))?;
        Self::from_parts(chain, PrivateKey::from_pem(key_pem)?, Bundle::from_pem(domain, bundle_pem)?)
    }

    /// What [`Identity::save`] left in `dir`, after a crash too.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        files::warn_if_readable_by_others(&dir.join(KEY_FILE));
        files::read_set(dir, [KEY_FILE, CERT_FILE, BUNDLE_FILE], |[key, chain, bundle]| {
            Self::from_pem(&chain, &key, &bundle)
        })
    }

    /// Key, chain and bundle as files that only their owner may read; replaces what was there as one.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let (key, chain, bundle) = (self.key.to_pem(), self.chain_pem(), self.bundle.to_pem());
        files::write_set(
            dir,
            &[(KEY_FILE, key.as_bytes()), (CERT_FILE, chain.as_bytes()), (BUNDLE_FILE, bundle.as_bytes())],
        )
    }

    /// The same leaf and key, judging others by other roots.
    pub fn with_bundle(&self, bundle: Bundle) -> Result<Self, IdentityError> {
        Self::from_parts(self.chain.clone(), self.key.clone(), bundle)
    }

    /// How long the leaf still holds; zero when it has ended.
    pub fn remaining(&self, now: UnixTime) -> Duration {
        Duration::from_secs(self.particulars.not_after.saturating_sub(now.as_secs()))
    }

    /// Seconds since 1970.
    pub fn not_before(&self) -> u64 {
        self.particulars.not_before
    }

    /// Seconds since 1970.
    pub fn not_after(&self) -> u64 {
        self.particulars.not_after
    }

    /// The leaf's serial number, hexadecimal.
    pub fn serial(&self) -> &str {
        &self.particulars.serial
    }

    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The root whose key signed this leaf (or the topmost intermediate above it). When it is not the one that the
    /// authority signs under now, it is time to renew: the root is being replaced.
    pub fn root_hash(&self) -> &str {
        &self.root
    }

    /// Whether the leaf is under the bundle's first root, which is the one that signs.
    pub fn is_under_signing_root(&self) -> bool {
        self.bundle.certs().first().is_some_and(|first| root_hash(first) == self.root)
    }

    /// Leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(&self.chain)
    }

    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// A moment when all of the chain held.
    pub(crate) fn moment(&self) -> UnixTime {
        self.moment
    }
}

/// Identities are judged at a moment when all of the chain held: whether it still does is for the handshake to say.
fn moment(chain: &[CertificateDer<'static>]) -> Result<UnixTime, IdentityError> {
    let mut latest = 0;
    for der in chain {
        latest = latest.max(cert::particulars(&cert::parse(der)?).not_before);
    }
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(latest)))
}
