//! What touches the operating system's sockets: listeners, socket options, protocol detection.
//!
//! It decides how a connection is taken and what its first bytes say it is. It deliberately knows nothing of services,
//! identities or configuration. The only crate that may hold `unsafe`; so far it needs none.

#![forbid(unsafe_code)]

mod detect;
mod prefixed;
mod socket;

pub use detect::{Detected, detect};
pub use prefixed::Prefixed;
pub use socket::{connect, listen, reset_on_close, tune};
