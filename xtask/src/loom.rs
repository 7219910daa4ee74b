//! `cargo xtask loom`: the races of the circuit breaker, in every order of two threads.
//!
//! Built apart from everything else, because `--cfg loom` changes what all crates are compiled with.

use crate::run;
use anyhow::{Context as _, Result, bail};
use std::process::{Command, Stdio};

const MODULE: &str = "races";

pub(crate) fn run() -> Result<()> {
    // the runner is content where no test has the name
    let listed = races(&["--list"])?.stderr(Stdio::inherit()).output().context("cannot list the breaker's races")?;
    if listed.status.success() && !String::from_utf8_lossy(&listed.stdout).contains(": test") {
        bail!(
            "fusewire-resilience has no test in a module {MODULE:?} any more: name the one that has the races in xtask"
        );
    }
    run::step("the breaker's races", &mut races(&[])?)
}

fn races(more: &[&str]) -> Result<Command> {
    let mut command = run::cargo(&["test", "--package", "fusewire-resilience", "--lib", MODULE, "--"]);
    command.args(more).env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", run::target_dir()?.join("loom"));
    Ok(command)
}
