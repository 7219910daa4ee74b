//! `cargo xtask faults`: what callers see of servers that fail, as a table.
//!
//! The system test of the same name measures it with real sidecars and real servers; here its rows are put together.

use crate::run;
use anyhow::{Context as _, Result, bail};
use std::process::Stdio;

pub(crate) fn run() -> Result<()> {
    let mut command = run::cargo(&["test", "--workspace", "--test", "faults", "--", "--nocapture", "--test-threads=2"]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot run the tests")?;
    let said = String::from_utf8_lossy(&output.stdout);
    // a row may stand behind the runner's own words
    let mut rows: Vec<&str> = said.lines().filter_map(|line| line.find("| ").map(|at| &line[at..])).collect();
    rows.sort_unstable();
    println!("Failed requests, from the moment at which some replicas turn bad:\n");
    println!(
        "| what the bad replicas do | bad | without | circuits alone | with retries too | |\n|---|---|---|---|---|---|"
    );
    rows.iter().for_each(|row| println!("{row}"));
    if !output.status.success() {
        let failed: Vec<&str> =
            said.lines().filter(|line| line.contains("at most") || line.contains("panicked")).collect();
        bail!("not every bound is held:\n{}", failed.join("\n"));
    }
    Ok(())
}
