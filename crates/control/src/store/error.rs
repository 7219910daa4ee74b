//! What can go wrong with the store, in the terms of whoever has to react.

use std::path::PathBuf;

/// Why the store did not do what was asked. Keys are named, values never.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Someone else was first. Nothing was changed; read again.
    #[error("{key} is not what it was when it was read: someone else changed it in between; read it again")]
    Conflict { key: String },
    /// Nothing was changed, and the same call may succeed later.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
    /// Whether the change happened is not known, and it may be under way still. Read again, and repeat it only with an
    /// expectation of what was read.
    #[error("the store failed in the middle of a change, which may or may not have happened: {0}")]
    Uncertain(String),
    #[error("the change is too large: {0}")]
    TooLarge(String),
    /// The file is left as it is.
    #[error(
        "the store {path} cannot be used: {detail}; it was left untouched: put back a copy of it, or move it away to start \
         with an empty store"
    )]
    Damaged { path: PathBuf, detail: String },
    #[error("the store {path} is open in another process: is another control plane running on this data directory?")]
    InUse { path: PathBuf },
    /// The store answered no, and will again: a user without rights, a certificate that is not trusted.
    #[error("the store refuses: {0}")]
    Refused(String),
    /// The caller's or the configuration's mistake.
    #[error("{0}")]
    Invalid(String),
}
