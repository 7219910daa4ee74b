//! Why trust could not be opened or changed.

use crate::store::StoreError;
use fusewire_identity::{ExternalError, IdentityError, RotateError, TokenError};
use std::path::PathBuf;

/// What is wrong with the authority, a step of its rotation, a token or a denial. Names and hashes at most, no secret.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(
        "the authority in the store is that of trust domain {stored}, but the configuration says {configured}: correct \
         `trust_domain`, or start with another --data-dir (with etcd, another prefix)"
    )]
    Domain { stored: String, configured: String },
    #[error("the authority in the store is an external one, whose key is in files: name their folder with --ca-dir")]
    FilesNeeded,
    #[error("{path}: {source}: does it hold tls.crt, tls.key and ca.crt, and may this user read them?")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    External { path: PathBuf, source: ExternalError },
    #[error("{path}: {why}: put back a copy of it, or move it away")]
    Older { path: PathBuf, why: String },
    #[error("the authority has vanished from the store: was the store emptied under a running control plane?")]
    Vanished,
    #[error(transparent)]
    Rotate(#[from] RotateError),
    #[error("the step has to wait: {}; or force it", .0.join("; "))]
    Waiting(Vec<String>),
    #[error(
        "someone else changed the trust at the same time: look at it again, and repeat the step if it is still meant"
    )]
    Changed,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Full(String),
}

impl TrustError {
    pub(crate) fn status(&self) -> tonic::Status {
        let text = self.to_string();
        match self {
            Self::Store(StoreError::Unavailable(_) | StoreError::Uncertain(_)) => tonic::Status::unavailable(text),
            Self::Rotate(RotateError::NoSuchStep(_)) | Self::Invalid(_) => tonic::Status::invalid_argument(text),
            Self::Rotate(_) | Self::Waiting(_) | Self::FilesNeeded => tonic::Status::failed_precondition(text),
            Self::Changed | Self::Store(StoreError::Conflict { .. }) => tonic::Status::aborted(text),
            Self::NotFound(_) | Self::Token(TokenError::Unknown) => tonic::Status::not_found(text),
            Self::Full(_) | Self::Token(TokenError::Full) => tonic::Status::resource_exhausted(text),
            Self::Token(TokenError::Internal(_)) => tonic::Status::internal(text),
            Self::Token(_) => tonic::Status::invalid_argument(text),
            _ => tonic::Status::internal(text),
        }
    }
}
