//! Seeded simulations of a mesh in trouble: what the breakers, the balancer, the limits and the retries do to callers.
//!
//! It drives the real engine of `fusewire-resilience` with its real picker in virtual time and decides nothing about it: a
//! scenario says what instances and callers do, a band says what must come out, and the table says whether it did. Where a
//! band cannot be held the case says why, and that is shown. It is a crate of its own so that the engine stays without
//! dependencies and its tests stay quick; `cargo xtask simulate` builds it optimised and runs it.
//!
//! Reading order: `case`, `service` with `faults`, `application` with `guard`, `mesh` with `overload`, then `table` and `plot`.

mod application;
mod case;
mod faults;
mod guard;
mod mesh;
mod overload;
mod plot;
mod random;
mod service;
mod table;
#[cfg(test)]
mod tests;

pub use case::{Band, Case, Measured, Track};
pub use table::{Done, Verdict, print, run};

/// All scenarios, in the order of the table.
pub fn cases() -> Vec<Case> {
    let mut cases = faults::cases();
    cases.extend(overload::cases());
    cases.extend(guard::cases());
    cases
}

/// Draws one that has a track; `None` for the others.
pub fn draw(done: &Done) -> Option<String> {
    plot::draw(done)
}
