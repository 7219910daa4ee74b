//! `cargo xtask soak`: connections that come and go through both sidecars, 1,000 a second for a minute.
//!
//! It is the test of every run (`tests/interception/churn.rs`) for longer and at a pace; it prints what was held before, at
//! the end and after. Needs root.

use crate::{run, tools};
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long, for each of HTTP and bytes
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    tools::ready()?;
    let words = ["test", "--workspace", "--test", "interception", "--"];
    let mut command = run::cargo(&words);
    command.args(["leave_nothing_behind", "--nocapture", "--test-threads=1"]);
    run::step("the soak", command.env("FUSEWIRE_SOAK_SECONDS", args.seconds.to_string()))
}
