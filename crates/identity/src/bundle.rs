//! The trust bundle: the roots that one trust domain believes.
//!
//! It decides what may be a root and how a root is named by its hash. It deliberately does not merge trust domains:
//! federation would be a second bundle, never more roots in this one.
//!
//! Invariant: at least one root, each of them a CA certificate.

use std::collections::BTreeSet;
use std::sync::Arc;

use fusewire_model::{SpiffeId, TrustDomain};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::error::IdentityError;
use crate::{cert, hex, pem};

/// The roots of a trust domain.
#[derive(Clone, Debug)]
pub struct Bundle {
    trust_domain: TrustDomain,
    certs: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
    denied: Arc<BTreeSet<SpiffeId>>,
}

impl Bundle {
    pub fn new(trust_domain: TrustDomain, certs: Vec<CertificateDer<'static>>) -> Result<Self, IdentityError> {
        if certs.is_empty() {
            return Err(IdentityError::Bundle("it holds no certificate".into()));
        }
        let mut roots = RootCertStore::empty();
        for der in &certs {
            if !cert::parse(der)?.is_ca() {
                let hash = root_hash(der);
                return Err(IdentityError::Bundle(format!("certificate {hash} is not a CA: is it a leaf?")));
            }
            roots.add(der.clone()).map_err(|e| IdentityError::Bundle(e.to_string()))?;
        }
        Ok(Self { trust_domain, certs, roots: Arc::new(roots), denied: Arc::default() })
    }

    /// PEM carries no trust domain, so the caller says whose roots these are.
    pub fn from_pem(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, IdentityError> {
        Self::new(trust_domain, pem::certificates("the trust bundle", text)?)
    }

    pub fn to_pem(&self) -> String {
        pem::encode_certificates(&self.certs)
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn certs(&self) -> &[CertificateDer<'static>] {
        &self.certs
    }

    /// The hash of each root, in order.
    pub fn root_hashes(&self) -> Vec<String> {
        self.certs.iter().map(|cert| root_hash(cert)).collect()
    }

    /// The same roots, but whoever is in `denied` is refused whatever it can prove. PEM does not carry this.
    #[must_use]
    pub fn denying(self, denied: Arc<BTreeSet<SpiffeId>>) -> Self {
        Self { denied, ..self }
    }

    pub(crate) fn denies(&self, id: &SpiffeId) -> bool {
        self.denied.contains(id)
    }

    pub(crate) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }
}

/// SHA-256 of a certificate's DER, in hexadecimal: what a join token carries.
pub fn root_hash(der: &[u8]) -> String {
    hex::encode(&Sha256::digest(der))
}
