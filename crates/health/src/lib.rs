//! Asks applications how they are: HTTP, grpc.health.v1 or TCP, again and again, and says when enough answers agree.
//!
//! It decides what a good answer is ([`judge`]), how many make a verdict ([`Watch`]) and when the next question goes out
//! ([`Checks`]). It deliberately does not know who is told: an instance's own sidecar runs it next to the application, and
//! the control plane for instances that have none.
//!
//! It speaks in clear, to one address, and holds no identity: no TLS is reachable from here.

mod ask;
mod checks;
mod question;
mod watch;

pub use ask::{Answer, ask};
pub use checks::{Asker, Checks, Finding, Subject};
pub use question::{judge, question};
pub use watch::{Watch, pause};
