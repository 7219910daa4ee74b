//! Questions to real servers on loopback, and many instances in paused time.

#![allow(clippy::unwrap_used)]

mod asking;
mod many;
