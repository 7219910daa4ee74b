//! What the mesh says about itself: reasons, metrics, access log.
//!
//! It decides names, labels and formats. It deliberately blocks nobody: a reader that does not keep up loses lines, and
//! the loss is counted.

pub mod access_log;
pub mod admin;
pub mod metrics;
mod reason;

pub use reason::Reason;
