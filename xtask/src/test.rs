//! `cargo xtask test`: makes the machine ready, then runs every test.
//!
//! With cargo-nextest each test is a process of its own and the runner's summary ends the log; documentation examples,
//! which nextest cannot run, go before it for that reason. Without it `cargo test` runs both. Neither stops at the first
//! failure: one run shows everything.

use crate::{python, run, tools};
use anyhow::Result;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Run only tests whose name contains one of these (documentation examples are then left out)
    filters: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    tools::ready()?;
    let python = python::ready()?;
    let test = |words: &[&str]| {
        let mut command = run::cargo(words);
        command.env("FUSEWIRE_TEST_PYTHON", &python);
        command
    };
    if !run::succeeds("cargo-nextest", &["nextest", "--version"]) {
        eprintln!("xtask: cargo-nextest is not installed; running cargo test, which is slower");
        let mut command = test(&["test", "--workspace", "--no-fail-fast"]);
        if !args.filters.is_empty() {
            command.args(["--lib", "--bins", "--tests", "--"]).args(&args.filters);
        }
        return run::step("cargo test", &mut command);
    }
    let documentation = match args.filters.is_empty() {
        true => run::step("cargo test --doc", &mut test(&["test", "--quiet", "--doc", "--workspace"])),
        false => Ok(()),
    };
    let mut command = test(&["nextest", "run", "--workspace", "--no-fail-fast"]);
    run::step("cargo nextest run", command.args(&args.filters))?;
    documentation
}
