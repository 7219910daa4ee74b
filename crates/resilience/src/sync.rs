//! The atomics and the lock of the state machine, which loom replaces by its own to try every order of two threads
//! (`breaker/races.rs`; `cargo xtask loom`).

#[cfg(not(all(loom, test)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

#[cfg(all(loom, test))]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};
