//! What is bounded, and what is not: the guard before the application, bulkheads, rates; through real processes.

#![allow(clippy::disallowed_methods)] // scripted ends on threads of their own: they may block, and tell one thing each
#![allow(clippy::unwrap_used)]

#[path = "limits/bulkheads.rs"]
mod bulkheads;
#[path = "limits/gate.rs"]
mod gate;
#[path = "limits/healthy.rs"]
mod healthy;
#[path = "limits/overload.rs"]
mod overload;
#[path = "limits/rates.rs"]
mod rates;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
