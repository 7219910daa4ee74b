//! What the mesh takes for a request and for an answer, against ends that write whatever bytes they like.
//!
//! A table of odd requests goes through two sidecars (`shop`) and through one (`plain`) to an origin that reads strictly and
//! remembers every byte: each is answered by the mesh with its reason, the origin having seen nothing, or arrives as
//! exactly one request that means the same. After each one a canary finds its own answer. Answers are treated alike.

#![allow(clippy::disallowed_methods)] // scripted ends on threads of their own: they may block, and tell one thing each
#![allow(clippy::unwrap_used)]

#[path = "semantics/answers.rs"]
mod answers;
#[path = "semantics/fields.rs"]
mod fields;
#[path = "semantics/limits.rs"]
mod limits;
#[path = "semantics/origin.rs"]
mod origin;
#[path = "semantics/requests.rs"]
mod requests;
#[path = "semantics/table.rs"]
mod table;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
