//! One root of a trust domain, as the authority keeps it.
//!
//! It decides what belongs to a root: its certificate, its key while we have it, the certificate by which the root
//! before it vouches for it, and how long leaves under it may live. It deliberately does not decide which root signs.
//!
//! Invariant: key and cross certificate are the root's own; this is checked whenever a root comes from outside.

use std::fmt;

use fusewire_model::TrustDomain;
use rcgen::{Issuer, KeyPair};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::authority::MAX_LIFETIME;
use crate::bundle::root_hash;
use crate::error::IdentityError;
use crate::workload::PrivateKey;
use crate::{cert, pem, shape};

#[derive(Clone)]
pub(crate) struct Root {
    pub(crate) cert: CertificateDer<'static>,
    pub(crate) hash: String,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    /// None for a root of an external authority.
    pub(crate) key: Option<PrivateKey>,
    /// This root's name and key, signed by the root before it.
    pub(crate) cross: Option<CertificateDer<'static>>,
    /// No leaf under this root was signed for longer, in seconds; zero when nobody recorded it.
    pub(crate) longest_leaf: u64,
    /// When it leaves the bundle by itself.
    pub(crate) keep_until: Option<u64>,
}

/// As stored.
#[derive(Serialize, Deserialize)]
pub(crate) struct RootWire {
    certificate: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cross: Option<String>,
    #[serde(default)]
    longest_leaf_seconds: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keep_until: Option<u64>,
}

/// One root, as its operator may see it. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RootView {
    /// What join tokens carry.
    pub hash: String,
    pub not_before: u64,
    pub not_after: u64,
    /// Whether leaves are signed under it now.
    pub signs: bool,
    /// Whether the root before it vouches for it.
    pub cross_signed: bool,
    /// When it leaves the bundle by itself; only for roots that were replaced from outside.
    pub keep_until: Option<u64>,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root").field("hash", &self.hash).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Root {
    /// A new root with a new key.
    pub(crate) fn generate(domain: &TrustDomain, now: u64) -> Result<Self, IdentityError> {
        let key = PrivateKey::generate()?;
        let cert = shape::root(domain, now)?.self_signed(&key.pair()?)?;
        Self::of(cert.der().clone(), Some(key))
    }

    pub(crate) fn of(cert: CertificateDer<'static>, key: Option<PrivateKey>) -> Result<Self, IdentityError> {
        let parsed = cert::parse(&cert)?;
        let hash = root_hash(&cert);
        if let Some(key) = &key
            && parsed.public_key().subject_public_key.data.as_ref() != key.pair()?.public_key_raw()
        {
            return Err(IdentityError::KeyMismatch { id: format!("root {hash}") });
        }
        let cert::Particulars { not_before, not_after, .. } = cert::particulars(&parsed);
        drop(parsed);
        Ok(Self { cert, hash, not_before, not_after, key, cross: None, longest_leaf: 0, keep_until: None })
    }

    pub(crate) fn from_wire(wire: &RootWire) -> Result<Self, IdentityError> {
        let key = wire.key.as_ref().map(|text| PrivateKey::from_pem(text.as_bytes())).transpose()?;
        let mut root = Self::of(only("a root's certificate", &wire.certificate)?, key)?;
        root.cross = wire.cross.as_ref().map(|text| only("a cross certificate", text)).transpose()?;
        if let Some(cross) = &root.cross {
            let (cross, own) = (cert::parse(cross)?, cert::parse(&root.cert)?);
            if cross.public_key().raw != own.public_key().raw || cross.subject().as_raw() != own.subject().as_raw() {
                let why = format!("the cross certificate beside root {} is another root's", root.hash);
                return Err(IdentityError::State(why));
            }
        }
        root.longest_leaf = wire.longest_leaf_seconds;
        root.keep_until = wire.keep_until;
        Ok(root)
    }

    pub(crate) fn to_wire(&self) -> RootWire {
        RootWire {
            certificate: pem::encode("CERTIFICATE", &self.cert),
            key: self.key.as_ref().map(PrivateKey::to_pem),
            cross: self.cross.as_ref().map(|cross| pem::encode("CERTIFICATE", cross)),
            longest_leaf_seconds: self.longest_leaf,
            keep_until: self.keep_until,
        }
    }

    pub(crate) fn view(&self, signs: bool) -> RootView {
        RootView {
            hash: self.hash.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
            signs,
            cross_signed: self.cross.is_some(),
            keep_until: self.keep_until,
        }
    }

    /// What signs under this root's own key.
    pub(crate) fn issuer(&self) -> Result<Issuer<'static, KeyPair>, IdentityError> {
        let key = self.key.as_ref().ok_or_else(|| {
            IdentityError::State(format!("the key of root {} is not in it: read the external files again", self.hash))
        })?;
        Ok(Issuer::from_ca_cert_der(&self.cert, key.pair()?)?)
    }

    /// Lets this root vouch for `next`: name and key, until either ends.
    pub(crate) fn vouch_for(&self, next: &mut Self, domain: &TrustDomain) -> Result<(), IdentityError> {
        let key = next.key.as_ref().ok_or_else(|| IdentityError::State(format!("root {} has no key", next.hash)))?;
        let not_before = self.not_before.max(next.not_before);
        let params = shape::cross(domain, not_before, self.not_after.min(next.not_after))?;
        next.cross = Some(params.signed_by(&key.pair()?, &self.issuer()?)?.der().clone());
        Ok(())
    }

    /// How long the longest-lived leaf under this root may hold; when nobody recorded it, as long as a leaf ever can.
    pub(crate) fn longest_leaf(&self) -> u64 {
        if self.longest_leaf == 0 { MAX_LIFETIME.as_secs() } else { self.longest_leaf }
    }
}

fn only(what: &'static str, text: &str) -> Result<CertificateDer<'static>, IdentityError> {
    let mut certs = pem::certificates(what, text.as_bytes())?;
    match (certs.pop(), certs.is_empty()) {
        (Some(cert), true) => Ok(cert),
        _ => Err(IdentityError::State(format!("{what} must be exactly one certificate"))),
    }
}
