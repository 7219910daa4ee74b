//! PEM, the envelope: bytes to text and back. It decides nothing about what is inside.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::error::IdentityError;

/// One PEM block, 64 columns (RFC 7468, section 2).
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

pub(crate) fn encode_certificates<'a>(certs: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    certs.into_iter().map(|cert| encode("CERTIFICATE", cert)).collect()
}

/// Every certificate in the text, at least one.
pub(crate) fn certificates(what: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|e| IdentityError::Pem { what, why: e.to_string() })?;
    if certs.is_empty() {
        return Err(IdentityError::Pem { what, why: "no CERTIFICATE block in it".into() });
    }
    Ok(certs)
}
