//! The crate as its callers see it, in virtual time.

#[cfg(not(loom))]
mod allocation;
mod balance;
mod circuit;
mod compat;
mod few;
mod field;
mod gray;
mod invariants;
mod migrate;
mod overload;
mod peers;
mod policies;
mod probing;
mod stress;
mod suspect;
mod told;
#[cfg(feature = "tower")]
mod tower;
mod vectors;
mod world;
