//! What the mesh configuration means: types that cannot hold nonsense, YAML in, errors with a path and a line out.
//!
//! It decides what is valid, what a name refers to, and which resources a sidecar needs for what it asked
//! ([`compile`]). It deliberately does not know the wire (`api`), files (`discovery`, `control`) or time.
//!
//! Invariant 1: no I/O, no task, no clock, no random source.

pub mod compile;
pub mod health;
pub mod name;
pub mod node;
pub mod policy;
pub mod resource;
pub mod route;
pub mod service;
pub mod world;
pub mod yaml;

pub use name::{PolicyName, ServiceName, SpiffeId, TrustDomain};
pub use world::World;
