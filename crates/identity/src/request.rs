//! Reading a certificate signing request from someone who may be anyone.
//!
//! It decides whether the request is well formed, signed by the key that it names, and asks for exactly the name that
//! was proven by other means. It deliberately ignores everything else that a request may ask for (validity, CA
//! rights, usages, further names of other kinds): the leaf is built by the authority alone.
//!
//! Invariant: garbage yields an error, never a panic, and at most [`MAX_CSR_BYTES`] of it are looked at.

use fusewire_model::SpiffeId;
use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// An RSA-4096 request has some 1,200 bytes; this leaves room for extensions that we ignore.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// Why a request was not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error("the signing request has {0} bytes, more than {MAX_CSR_BYTES}: ask for one name only")]
    TooLarge(usize),
    #[error("the signing request cannot be parsed: is it DER, and whole?")]
    Malformed,
    #[error("the signing request is not signed by the key that it names: was it altered on the way?")]
    BadSignature,
    #[error(
        "the key or signature algorithm of the signing request is not accepted: use ECDSA P-256, Ed25519, or RSA of at least 2048 bits with SHA-2"
    )]
    Algorithm,
    #[error("the signing request holds {found} URI names instead of exactly one SPIFFE ID")]
    Names { found: usize },
    #[error(
        "the signing request asks for {asked:?}, but {proven} was proven: use the identity that the join token or certificate is for"
    )]
    Identity { asked: String, proven: String },
    #[error("{id} is not of trust domain {domain}, which is all that this authority signs for")]
    TrustDomain { id: String, domain: String },
    #[error("a lifetime of {asked} s is out of bounds: must be {min}..={max} s")]
    Lifetime { asked: u64, min: u64, max: u64 },
    #[error("the root certificate ends at {not_after} s after 1970, too soon to sign under it: make a new authority")]
    RootEnded { not_after: u64 },
    #[error("signing failed inside the cryptographic library: {0}")]
    Crypto(String),
}

/// The key of a request that asks for `id` and proves possession of the key.
pub(crate) fn verified_key(der: &[u8], id: &SpiffeId) -> Result<SubjectPublicKeyInfo, SignError> {
    if der.len() > MAX_CSR_BYTES {
        return Err(SignError::TooLarge(der.len()));
    }
    let Ok(([], csr)) = X509CertificationRequest::from_der(der) else {
        return Err(SignError::Malformed);
    };
    check_algorithm(&csr)?;
    csr.verify_signature().map_err(|_| SignError::BadSignature)?;
    match asked_names(&csr).as_slice() {
        [asked] if *asked == id.as_str() => {}
        [asked] => {
            let asked = asked.chars().take(256).collect();
            return Err(SignError::Identity { asked, proven: id.to_string() });
        }
        other => return Err(SignError::Names { found: other.len() }),
    }
    SubjectPublicKeyInfo::from_der(csr.certification_request_info.subject_pki.raw).map_err(|_| SignError::Algorithm)
}

/// Key and signature must be of one accepted kind. The verifier underneath would also take RSA-1024 with SHA-1, and
/// an Ed25519 signature under a key labelled otherwise.
fn check_algorithm(csr: &X509CertificationRequest<'_>) -> Result<(), SignError> {
    let spki = &csr.certification_request_info.subject_pki;
    let signature = &csr.signature_algorithm.algorithm;
    let key = &spki.algorithm;
    let accepted = if key.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.parameters.as_ref().and_then(|p| p.as_oid().ok());
        curve == Some(OID_EC_P256) && *signature == OID_SIG_ECDSA_WITH_SHA256
    } else if key.algorithm == OID_PKCS1_RSAENCRYPTION {
        let sha2 = [OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA];
        let bits = match spki.parsed() {
            Ok(PublicKey::RSA(rsa)) => rsa.key_size(),
            _ => 0,
        };
        sha2.contains(signature) && (2048..=8192).contains(&bits)
    } else {
        key.algorithm == OID_SIG_ED25519 && *signature == OID_SIG_ED25519
    };
    if accepted { Ok(()) } else { Err(SignError::Algorithm) }
}

fn asked_names<'a>(csr: &'a X509CertificationRequest<'_>) -> Vec<&'a str> {
    let mut names = Vec::new();
    for extension in csr.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(san) = extension {
            names.extend(san.general_names.iter().filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            }));
        }
    }
    names
}
