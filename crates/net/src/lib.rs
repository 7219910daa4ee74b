//! What touches the operating system's sockets: listeners, socket options, protocol detection, redirection.
//!
//! It decides how a connection is taken, where it was going, what its first bytes say it is, and by which rules it comes to
//! the sidecar. It deliberately knows nothing of services, identities or configuration. The only crate that may hold `unsafe`: one
//! call, in `silence`.

mod both;
mod descriptors;
mod detect;
mod mark;
mod opening;
mod original;
mod prefixed;
pub mod redirect;
mod silence;
mod socket;
mod splice;
#[cfg(test)]
mod splits;
mod transparent;

pub use both::{Both, Broken, End, Moved, Socket};
pub use descriptors::{MAX_DESCRIPTORS, receive_descriptors, send_descriptors};
pub use detect::{Detected, detect};
pub use mark::mark_all;
pub use opening::{Opening, Patience, opening};
pub use original::{canonical, original_destination};
pub use prefixed::Prefixed;
pub use silence::{Heard, Silence};
pub use socket::{connect, datagrams, dial, end_on_close, lacks_ipv6, listen, reset_on_close, tune, tune_peer};
pub use transparent::{connect_from, listen_transparent, make_transparent};
