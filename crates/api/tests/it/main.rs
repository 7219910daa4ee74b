//! What one side says, the other understands: round trips of every kind, and refusals that say where.
#![allow(clippy::unwrap_used, reason = "a test that unwraps wrongly fails, as it should")]

mod changes;
mod faults;
mod given;
mod round_trip;
