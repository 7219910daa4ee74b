//! Names: questions to a scripted name server on loopback, and the loops in paused time.

#![allow(clippy::unwrap_used)]

mod names;
mod questions;
