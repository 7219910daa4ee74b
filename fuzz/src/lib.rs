//! What any input must keep true: one function for each fuzz target.
//!
//! `fuzz_targets/` feeds them from libFuzzer; the workspace's `tests/fuzz_corpus.rs` feeds them every file of `corpus/` in each
//! test run, so that what was found once stays found.

pub mod targets;
