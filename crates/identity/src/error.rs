//! What can be wrong with key material that we hold or were shown.

use std::path::PathBuf;

/// Why identity material was refused. Never carries secret bytes: at most names, paths and hashes.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{what} is not PEM that we can read ({why}): is it the right file, and whole?")]
    Pem { what: &'static str, why: String },
    #[error(
        "the private key is not a usable ECDSA P-256 key in PKCS#8 ({0}): convert it with `openssl pkcs8 -topk8 -nocrypt`, or make a new one"
    )]
    Key(String),
    #[error(
        "the private key does not belong to the certificate of {id}: key and certificate come from different signings"
    )]
    KeyMismatch { id: String },
    #[error("the certificate cannot be parsed: {0}")]
    Certificate(String),
    #[error("no certificate was presented: does the peer run a sidecar with an identity?")]
    NoCertificate,
    #[error("the certificate holds {found} URI names instead of exactly one SPIFFE ID: was it issued for a mesh?")]
    NoSpiffeId { found: usize },
    #[error("the certificate's URI name is not a SPIFFE ID: {0}")]
    BadSpiffeId(String),
    #[error(
        "the certificate of {id} does not chain to the trust bundle ({why}): was it signed by another control plane?"
    )]
    Untrusted { id: String, why: String },
    #[error("the trust bundle is unusable: {0}")]
    Bundle(String),
    #[error("the authority's stored state is unusable ({0}): restore it from a backup")]
    State(String),
    #[error("{0:?} is not the SHA-256 of a root certificate: expected 64 hexadecimal digits, copied whole")]
    RootHash(String),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("the TLS configuration cannot be built: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the cryptographic library failed: {0}")]
    Crypto(String),
}

impl From<rcgen::Error> for IdentityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}
