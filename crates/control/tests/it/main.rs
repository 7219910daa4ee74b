//! A control plane on loopback, and sidecars that are only their end of the wire.
#![allow(clippy::unwrap_used, reason = "a test that unwraps wrongly fails, as it should")]

mod admin;
mod configuration;
mod harness;
mod joining;
mod lifecycle;
mod objects;
mod streaming;
mod traces;
mod trust;
mod wire;
