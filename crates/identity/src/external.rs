//! An authority that belongs to someone else, given as three files (the layout of cert-manager and of Kubernetes TLS
//! secrets): `tls.crt`, `tls.key`, `ca.crt`.
//!
//! It decides whether the three can sign for a mesh, by signing a leaf on trial and judging it as a peer would. It
//! deliberately reads no file, and asks nothing of the CA's own names: a CA of a company has no SPIFFE ID, so the trust
//! domain is a parameter.
//!
//! Invariant: an external key stays in memory; [`TrustState`] never holds it.

use std::fmt;
use std::sync::Arc;

use fusewire_model::{SpiffeId, TrustDomain};
use rcgen::{Issuer, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::authority::{Authority, MIN_LIFETIME, Signer};
use crate::bundle::Bundle;
use crate::error::IdentityError;
use crate::root::Root;
use crate::trust_state::{StageTimes, TrustState};
use crate::{CONTROL_PATH, cert, pem, verify};

const MAX_CERTIFICATES: usize = 16;

/// One of the three files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalFile {
    /// The issuing certificate, then those above it.
    Certificate,
    Key,
    /// The roots.
    Roots,
}

impl fmt::Display for ExternalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "tls.crt",
            Self::Key => "tls.key",
            Self::Roots => "ca.crt",
        })
    }
}

/// Which file of an external authority cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} of the external authority: {why}")]
pub struct ExternalError {
    pub file: ExternalFile,
    pub why: String,
}

fn fault(file: ExternalFile) -> impl Fn(String) -> ExternalError {
    move |why| ExternalError { file, why }
}

impl Authority {
    /// Signs with an external CA: `tls_crt` holds the issuing certificate and then those between it and the root,
    /// `tls_key` its key, `ca_crt` the roots. The issuing certificate may be the root itself.
    ///
    /// Keys: ECDSA P-256, P-384 or P-521, Ed25519, RSA of 2048 to 8192 bits; in PKCS#8, SEC1 (`EC PRIVATE KEY`) or
    /// PKCS#1 (`RSA PRIVATE KEY`), not encrypted.
    pub fn external(
        domain: &TrustDomain,
        tls_crt: &[u8],
        tls_key: &[u8],
        ca_crt: &[u8],
        now: UnixTime,
    ) -> Result<Self, ExternalError> {
        let in_roots = fault(ExternalFile::Roots);
        let issuing = issuing_chain(tls_crt, now)?;
        let issuer = issuer(tls_key, &issuing)?;
        let roots = pem::certificates("this file", ca_crt).map_err(|e| in_roots(e.to_string()))?;
        if roots.len() > MAX_CERTIFICATES {
            return Err(in_roots(format!("it holds {} certificates, more than {MAX_CERTIFICATES}", roots.len())));
        }
        let bundle = Bundle::new(domain.clone(), roots.clone()).map_err(|e| in_roots(e.to_string()))?;
        let mut above = issuing;
        above.retain(|cert| !is_self_issued(cert)); // a root is not sent along
        let hash = trial(&issuer, &above, &bundle, now)?;

        let (mut signing, mut kept, mut not_after) = (None, Vec::new(), u64::MAX);
        for cert in roots {
            let root = Root::of(cert, None).map_err(|e| in_roots(e.to_string()))?;
            if root.hash == hash && signing.is_none() {
                signing = Some(root);
            } else if kept.iter().all(|other: &Root| other.hash != root.hash) && root.hash != hash {
                kept.push(root);
            }
        }
        let root = signing.ok_or_else(|| in_roots("the root that the leaf leads to is not in it".into()))?;
        for cert in above.iter().chain([&root.cert]) {
            not_after = not_after.min(ends(cert).map_err(|e| in_roots(e.to_string()))?);
        }
        let times = StageTimes { stable: now.as_secs(), prepared: None, switched: None };
        let domain = domain.clone();
        let state = TrustState { domain, times, signer: root, other: None, kept, issuing: Some(above.clone()) };
        let signer = Arc::new(Signer { issuer, above, not_after });
        Self::with(state, signer.clone(), signer).map_err(|e| in_roots(e.to_string()))
    }
}

fn ends(cert: &CertificateDer<'_>) -> Result<u64, IdentityError> {
    Ok(cert::particulars(&cert::parse(cert)?).not_after)
}

fn is_self_issued(cert: &CertificateDer<'_>) -> bool {
    cert::parse(cert).is_ok_and(|parsed| parsed.subject().as_raw() == parsed.issuer().as_raw())
}

fn issuing_chain(tls_crt: &[u8], now: UnixTime) -> Result<Vec<CertificateDer<'static>>, ExternalError> {
    let fault = fault(ExternalFile::Certificate);
    let chain = pem::certificates("this file", tls_crt).map_err(|e| fault(e.to_string()))?;
    if chain.len() > MAX_CERTIFICATES {
        return Err(fault(format!("it holds {} certificates, more than {MAX_CERTIFICATES}", chain.len())));
    }
    for (place, der) in chain.iter().enumerate() {
        let which =
            || if place == 0 { "the issuing certificate".to_owned() } else { format!("certificate {}", place + 1) };
        let parsed = cert::parse(der).map_err(|e| fault(format!("{}: {e}", which())))?;
        let usage = parsed.key_usage().map_err(|e| fault(format!("{}: {e}", which())))?;
        if !parsed.is_ca() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            let why = "may not sign others: ask the CA for one with `isCA: true` and the usage `cert sign`";
            return Err(fault(format!("{} {why}", which())));
        }
        let times = cert::particulars(&parsed);
        if times.not_after <= now.as_secs() {
            return Err(fault(format!("{} ended at {} s after 1970: renew it", which(), times.not_after)));
        }
        if times.not_before > now.as_secs() {
            let why = format!("{} holds only from {} s after 1970 on: is a clock wrong?", which(), times.not_before);
            return Err(fault(why));
        }
    }
    Ok(chain)
}

fn issuer(tls_key: &[u8], issuing: &[CertificateDer<'static>]) -> Result<Issuer<'static, KeyPair>, ExternalError> {
    let fault = fault(ExternalFile::Key);
    let accepted = "accepted are ECDSA P-256, P-384, P-521, Ed25519 and RSA of at least 2048 bits, as PKCS#8, SEC1 (EC PRIVATE KEY) or PKCS#1 (RSA PRIVATE KEY), without a passphrase";
    // no library's words here: they could quote the file
    let der = PrivateKeyDer::from_pem_slice(tls_key).map_err(|_| fault(format!("no private key in it; {accepted}")))?;
    let pair = KeyPair::try_from(&der).map_err(|_| fault(format!("its key cannot be used; {accepted}")))?;
    let belongs = |cert: &CertificateDer<'static>| {
        cert::parse(cert)
            .is_ok_and(|parsed| parsed.public_key().subject_public_key.data.as_ref() == pair.public_key_raw())
    };
    let why = match issuing.iter().position(belongs) {
        Some(0) => {
            let issuer = Issuer::from_ca_cert_der(&issuing[0], pair);
            return issuer.map_err(|e| ExternalError { file: ExternalFile::Certificate, why: e.to_string() });
        }
        Some(place) => format!(
            "its key belongs to certificate {} of tls.crt, not to the first: the issuing certificate must come first",
            place + 1
        ),
        None => "its key does not belong to the first certificate of tls.crt: were both files replaced?".into(),
    };
    Err(fault(why))
}

/// Signs a leaf on trial and judges it as a peer would; the answer is the root that it leads to.
fn trial(
    issuer: &Issuer<'static, KeyPair>,
    above: &[CertificateDer<'static>],
    bundle: &Bundle,
    now: UnixTime,
) -> Result<String, ExternalError> {
    let refused = |why: String| {
        let why = format!(
            "a leaf signed with tls.crt and tls.key does not lead to any root in it ({why}): does it hold the root of that CA, and tls.crt every certificate between?"
        );
        ExternalError { file: ExternalFile::Roots, why }
    };
    let leaf = trial_leaf(issuer, bundle.trust_domain(), now).map_err(&refused)?;
    verify::chain(&leaf, above, bundle.roots(), now).map_err(|e| refused(e.to_string()))?;
    verify::root_of(&leaf, above, bundle.certs(), now).map_err(|e| refused(e.to_string()))
}

/// A leaf that nobody will ever hold the key of.
pub(crate) fn trial_leaf(
    issuer: &Issuer<'static, KeyPair>,
    domain: &TrustDomain,
    now: UnixTime,
) -> Result<CertificateDer<'static>, String> {
    let id = SpiffeId::of(domain, CONTROL_PATH).map_err(|e| e.to_string())?;
    let key = KeyPair::generate().map_err(|e| e.to_string())?;
    let until = now.as_secs().saturating_add(MIN_LIFETIME.as_secs());
    let params = crate::shape::leaf(&id, now.as_secs(), until).map_err(|e| e.to_string())?;
    params.signed_by(&key, issuer).map(|leaf| leaf.der().clone()).map_err(|e| e.to_string())
}
