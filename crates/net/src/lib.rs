//! What touches the operating system's sockets: listeners, socket options, protocol detection, redirection.
//!
//! It decides how a connection is taken, where it was going, what its first bytes say it is, and by which rules it comes to
//! the sidecar. It deliberately knows nothing of services, identities or configuration. The only crate that may hold `unsafe`; so far it needs none.

#![forbid(unsafe_code)]

mod both;
mod descriptors;
mod detect;
mod mark;
mod opening;
mod original;
mod prefixed;
pub mod redirect;
mod socket;
mod splice;
mod transparent;

pub use both::{Moved, Socket, copy_both};
pub use descriptors::{MAX_DESCRIPTORS, receive_descriptors, send_descriptors};
pub use detect::{Detected, detect};
pub use mark::mark_all;
pub use opening::{Opening, opening};
pub use original::{canonical, original_destination};
pub use prefixed::Prefixed;
pub use socket::{connect, datagrams, dial, lacks_ipv6, listen, reset_on_close, tune};
pub use transparent::{connect_from, listen_transparent, make_transparent};
