//! The crate as its callers see it, in virtual time.

mod balance;
mod invariants;
mod peers;
mod probing;
mod scenarios;
mod stress;
mod world;
