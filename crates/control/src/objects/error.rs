//! Why objects were not changed or not found, in the terms of whoever asked.

use crate::store::StoreError;
use fusewire_model::yaml::Fault;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectsError {
    /// Nothing was changed.
    #[error("{} faults, and nothing was changed:{}", .0.len(), lines(.0))]
    Faults(Vec<Fault>),
    /// `if_revision` did not hold.
    #[error("{0}")]
    Stale(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    OfAFile(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("others keep changing the configuration at the same time; ask again")]
    Busy,
    #[error("the store holds a value at {0} that this version cannot read; was it written by a newer one?")]
    Unreadable(String),
    #[error(transparent)]
    Store(StoreError),
    #[error("the change could not be judged; nothing was changed")]
    Broken,
}

impl From<StoreError> for ObjectsError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TooLarge(said) => Self::TooLarge(format!("the change is too large: {said}")),
            error => Self::Store(error),
        }
    }
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}
