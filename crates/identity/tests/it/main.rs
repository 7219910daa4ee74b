//! Component tests of `identity`: real handshakes over an in-memory pipe, real files in temporary directories. Time
//! is fixed and passed in.
#![allow(clippy::unwrap_used, reason = "helpers of tests unwrap as tests do")]

mod authority;
mod external;
mod files;
mod garbage;
mod handshake;
mod joining;
mod records;
mod refusals;
mod renewal;
mod rotation;
mod rotation_walks;
mod world;
