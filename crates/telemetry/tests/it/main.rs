#![allow(clippy::unwrap_used)]

mod context;
mod stream;
