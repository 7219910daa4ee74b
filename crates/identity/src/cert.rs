//! Reading a certificate: who it names, when it holds.
//!
//! It decides what counts as *the* SPIFFE ID of a leaf: exactly one URI name (X509-SVID, section 2). It deliberately
//! does not decide trust: a name read here means nothing until `verify` has followed the chain to a root.

use fusewire_model::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::error::IdentityError;
use crate::hex;

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        Ok(_) => Err(IdentityError::Certificate("bytes follow the certificate".into())),
        Err(e) => Err(IdentityError::Certificate(e.to_string())),
    }
}

fn uris<'a>(cert: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, IdentityError> {
    let san = cert.subject_alternative_name().map_err(|e| IdentityError::Certificate(e.to_string()))?;
    let names = san.map(|ext| ext.value.general_names.as_slice()).unwrap_or_default();
    Ok(names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect())
}

/// The one SPIFFE ID of a leaf.
pub(crate) fn spiffe_id(der: &[u8]) -> Result<SpiffeId, IdentityError> {
    let cert = parse(der)?;
    match uris(&cert)?.as_slice() {
        [uri] => SpiffeId::parse(uri).map_err(|e| IdentityError::BadSpiffeId(e.to_string())),
        other => Err(IdentityError::NoSpiffeId { found: other.len() }),
    }
}

/// The trust domain that a root names: `spiffe://<td>` without a path (X509-SVID, section 3.2).
pub(crate) fn root_domain(der: &[u8]) -> Result<TrustDomain, IdentityError> {
    let cert = parse(der)?;
    match uris(&cert)?.as_slice() {
        [uri] => uri
            .strip_prefix("spiffe://")
            .and_then(|domain| TrustDomain::parse(domain).ok())
            .ok_or_else(|| IdentityError::BadSpiffeId(format!("{uri:?} does not name a trust domain"))),
        other => Err(IdentityError::NoSpiffeId { found: other.len() }),
    }
}

/// Who is at the other end: the identity in the leaf that the finished handshake proved. Give it what
/// `CommonState::peer_certificates` returns.
pub fn peer_id(certs: Option<&[CertificateDer<'_>]>) -> Result<SpiffeId, IdentityError> {
    let leaf = certs.and_then(|chain| chain.first()).ok_or(IdentityError::NoCertificate)?;
    spiffe_id(leaf)
}

/// When the peer's leaf ends, in seconds since 1970. A handshake judges it once; a pooled connection that should not
/// outlive the proof is closed at this time.
pub fn peer_not_after(certs: Option<&[CertificateDer<'_>]>) -> Result<u64, IdentityError> {
    let leaf = certs.and_then(|chain| chain.first()).ok_or(IdentityError::NoCertificate)?;
    Ok(particulars(&parse(leaf)?).not_after)
}

/// When a certificate holds and how it is told apart; times in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Particulars {
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    pub(crate) serial: String,
}

pub(crate) fn particulars(cert: &X509Certificate<'_>) -> Particulars {
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    Particulars {
        not_before: seconds(cert.validity().not_before),
        not_after: seconds(cert.validity().not_after),
        serial: hex::encode(cert.raw_serial()),
    }
}
