//! What applications speak passes through the mesh unharmed: HTTP/1.1, HTTP/2, upgrades, tunnels, bytes.
//!
//! Every way is tried between two sidecars (`shop`) and from one sidecar to a plain instance (`plain`), see
//! [`fusewire_testkit::pair`].

#![allow(clippy::disallowed_methods)] // scripted ends on threads of their own: they may block, and tell one thing each
#![allow(clippy::unwrap_used)]

#[path = "protocols/answers.rs"]
mod answers;
#[path = "protocols/connections.rs"]
mod connections;
#[path = "protocols/ends.rs"]
mod ends;
#[path = "protocols/messages.rs"]
mod messages;
#[path = "protocols/resets.rs"]
mod resets;
#[path = "protocols/streams.rs"]
mod streams;
#[path = "protocols/tcp.rs"]
mod tcp;
#[path = "protocols/upgrades.rs"]
mod upgrades;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
