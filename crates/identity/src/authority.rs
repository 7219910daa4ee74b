//! The authority: the trust domain's root, and the leaves under it.
//!
//! It decides what a leaf looks like, to the last extension: one SPIFFE URI, digitalSignature, server and client
//! authentication, and its times. It deliberately does not decide *who may have* a leaf: the caller proves the
//! identity (join token, Kubernetes token, the peer's present certificate) and passes it in.
//!
//! Invariant: nothing in a leaf but the public key comes from the request, and no leaf outlives the root.
//!
//! Two processes must not create an authority in one directory: the later would replace the earlier's key on disk.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use fusewire_model::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;

use crate::bundle::{Bundle, root_hash};
use crate::error::IdentityError;
use crate::request::{SignError, verified_key};
use crate::workload::{Identity, PrivateKey, csr};
use crate::{CONTROL_PATH, cert, files, pem};

const KEY_FILE: &str = "ca.key";
const CERT_FILE: &str = "ca.pem";

/// How long a leaf holds unless asked otherwise: long enough to outlive a control plane's bad night.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(24 * 3600);
pub const MIN_LIFETIME: Duration = Duration::from_secs(10);
pub const MAX_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

const ROOT_LIFETIME: Duration = Duration::from_secs(3652 * 24 * 3600); // ten years
/// Leaves hold a little into the past: clocks in a fleet differ.
const BACKDATE: u64 = 60;

/// Why there is no authority to sign with.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(
        "{dir} holds the authority of trust domain {found}, not {expected}: give another directory, or configure trust domain {found}"
    )]
    OtherTrustDomain { dir: String, found: String, expected: String },
    #[error(
        "{dir} holds only one of {KEY_FILE} and {CERT_FILE}: restore the other from a backup, or empty the directory to begin a new trust domain (every sidecar must then join again)"
    )]
    Half { dir: String },
    #[error(
        "the root certificate ended at {not_after} s after 1970: make a new authority, and let sidecars join again"
    )]
    Ended { not_after: u64 },
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// A leaf, with what its holder needs to use it.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Leaf first.
    pub chain_pem: String,
    pub bundle_pem: String,
    /// Seconds since 1970.
    pub not_after: u64,
}

/// The certificate authority of one trust domain.
pub struct Authority {
    key: PrivateKey,
    issuer: Issuer<'static, KeyPair>,
    bundle: Bundle,
    hash: String,
    not_after: u64,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", self.bundle.trust_domain())
            .field("root_hash", &self.hash)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new root, in memory.
    pub fn create(domain: &TrustDomain, now: UnixTime) -> Result<Self, IdentityError> {
        let key = PrivateKey::generate()?;
        let root = root_params(domain, now)?;
        let cert = root.self_signed(&key.pair()?)?;
        Self::from_parts(key, cert.der().clone())
    }

    /// From what [`Authority::key_pem`] and [`Authority::bundle`] gave, for an authority kept elsewhere than in files.
    pub fn from_pem(key_pem: &[u8], cert_pem: &[u8]) -> Result<Self, IdentityError> {
        let mut certs = pem::certificates("the authority's certificate", cert_pem)?;
        if certs.len() != 1 {
            return Err(IdentityError::Bundle("the authority's file must hold exactly one certificate".into()));
        }
        Self::from_parts(PrivateKey::from_pem(key_pem)?, certs.remove(0))
    }

    fn from_parts(key: PrivateKey, root: CertificateDer<'static>) -> Result<Self, IdentityError> {
        let domain = cert::root_domain(&root)?;
        let parsed = cert::parse(&root)?;
        let pair = key.pair()?;
        if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
            return Err(IdentityError::KeyMismatch { id: format!("the root of {domain}") });
        }
        let not_after = cert::particulars(&parsed).not_after;
        let issuer = Issuer::from_ca_cert_der(&root, pair)?;
        let hash = root_hash(&root);
        Ok(Self { key, issuer, bundle: Bundle::new(domain, vec![root])?, hash, not_after })
    }

    /// The authority kept in `dir`, or a new one written there.
    pub fn open_or_create(dir: &Path, domain: &TrustDomain, now: UnixTime) -> Result<Self, AuthorityError> {
        if files::is_there(&dir.join(KEY_FILE))? || files::is_there(&dir.join(CERT_FILE))? {
            return Self::open(dir, domain, now);
        }
        let new = Self::create(domain, now)?;
        let (key, cert) = (new.key_pem(), new.bundle.to_pem());
        files::write_set(dir, &[(KEY_FILE, key.as_bytes()), (CERT_FILE, cert.as_bytes())])?;
        Ok(new)
    }

    fn open(dir: &Path, domain: &TrustDomain, now: UnixTime) -> Result<Self, AuthorityError> {
        files::warn_if_readable_by_others(&dir.join(KEY_FILE));
        let names = [KEY_FILE, CERT_FILE];
        let found =
            files::read_set(dir, names, |[key, cert]| Self::from_pem(&key, &cert)).map_err(|error| match error {
                IdentityError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                    AuthorityError::Half { dir: dir.display().to_string() }
                }
                other => other.into(),
            })?;
        if found.trust_domain() != domain {
            return Err(AuthorityError::OtherTrustDomain {
                dir: dir.display().to_string(),
                found: found.trust_domain().to_string(),
                expected: domain.to_string(),
            });
        }
        if found.not_after <= now.as_secs() {
            return Err(AuthorityError::Ended { not_after: found.not_after });
        }
        Ok(found)
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        self.bundle.trust_domain()
    }

    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// What a join token carries, so that a joiner knows this authority when it meets it.
    pub fn root_hash(&self) -> &str {
        &self.hash
    }

    /// The root's key, for a store that keeps secrets.
    pub fn key_pem(&self) -> String {
        self.key.to_pem()
    }

    /// When the root ends, in seconds since 1970.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Signs a leaf for `id`, which the caller has proven to be the asker's; the request must ask for it and nothing
    /// else, and prove possession of its key.
    pub fn sign(&self, csr_der: &[u8], id: &SpiffeId, lifetime: Duration, now: UnixTime) -> Result<Signed, SignError> {
        if !(MIN_LIFETIME..=MAX_LIFETIME).contains(&lifetime) {
            let (min, max) = (MIN_LIFETIME.as_secs(), MAX_LIFETIME.as_secs());
            return Err(SignError::Lifetime { asked: lifetime.as_secs(), min, max });
        }
        if id.trust_domain() != self.trust_domain().as_str() {
            let domain = self.trust_domain().to_string();
            return Err(SignError::TrustDomain { id: id.to_string(), domain });
        }
        let public = verified_key(csr_der, id)?;
        let not_after = now.as_secs().saturating_add(lifetime.as_secs()).min(self.not_after);
        if not_after < now.as_secs().saturating_add(MIN_LIFETIME.as_secs()) {
            return Err(SignError::RootEnded { not_after: self.not_after });
        }
        let leaf = leaf_params(id, now.as_secs().saturating_sub(BACKDATE), not_after)?
            .signed_by(&public, &self.issuer)
            .map_err(|e| SignError::Crypto(e.to_string()))?;
        Ok(Signed { chain_pem: pem::encode("CERTIFICATE", leaf.der()), bundle_pem: self.bundle.to_pem(), not_after })
    }

    /// An identity with a key of its own, for whoever holds the authority: the control plane itself, and tests.
    pub fn issue(&self, id: &SpiffeId, lifetime: Duration, now: UnixTime) -> Result<Identity, SignError> {
        let inner = |e: IdentityError| SignError::Crypto(e.to_string());
        let key = PrivateKey::generate().map_err(inner)?;
        let request = csr(&key, id).map_err(inner)?;
        let signed = self.sign(&request, id, lifetime, now)?;
        let chain = pem::certificates("the signed chain", signed.chain_pem.as_bytes()).map_err(inner)?;
        Identity::from_parts(chain, key, self.bundle.clone()).map_err(inner)
    }

    /// The control plane's own SPIFFE ID in this trust domain.
    pub fn control_id(&self) -> Result<SpiffeId, IdentityError> {
        SpiffeId::of(self.trust_domain(), CONTROL_PATH).map_err(|e| IdentityError::BadSpiffeId(e.to_string()))
    }
}

fn calendar(seconds: u64) -> Result<OffsetDateTime, String> {
    i64::try_from(seconds)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
        .ok_or_else(|| format!("{seconds} s after 1970 is not a date: is the clock wrong?"))
}

/// 127 random bits, positive and never zero. rcgen would derive it from the key, so that two leaves of one key would
/// share it.
fn serial() -> Result<SerialNumber, String> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "no random numbers".to_owned())?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn root_params(domain: &TrustDomain, now: UnixTime) -> Result<CertificateParams, IdentityError> {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("Fusewire root {domain}"));
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial().map_err(IdentityError::Crypto)?);
    params.not_before = calendar(now.as_secs().saturating_sub(BACKDATE)).map_err(IdentityError::Crypto)?;
    params.not_after =
        calendar(now.as_secs().saturating_add(ROOT_LIFETIME.as_secs())).map_err(IdentityError::Crypto)?;
    Ok(params)
}

fn leaf_params(id: &SpiffeId, not_before: u64, not_after: u64) -> Result<CertificateParams, SignError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new(); // the name is the URI alone, which makes it critical
    let uri = id.as_str().try_into().map_err(|e: rcgen::Error| SignError::Crypto(e.to_string()))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial().map_err(SignError::Crypto)?);
    params.not_before = calendar(not_before).map_err(SignError::Crypto)?;
    params.not_after = calendar(not_after).map_err(SignError::Crypto)?;
    Ok(params)
}
