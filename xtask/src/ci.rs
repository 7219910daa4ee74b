//! `cargo xtask ci`: all that a change must pass, cheapest first, tests last.
//!
//! Every step runs even when one before it failed, so that one run shows everything. Clippy and the documentation share
//! what they compile, and so do all kinds of tests: no step changes flags or features of another's build. The breaker's races
//! and fuzzing need flags of their own, and the simulations optimisation: they are built apart.

use crate::{fuzz, image, loom, run, simulate, test, tidy, tools};
use anyhow::Result;

const STEPS: [&str; 10] = ["fmt", "tidy", "clippy", "doc", "deny", "loom", "simulate", "fuzz", "image", "test"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave a step out; may be given more than once
    #[arg(long, value_name = "STEP", value_parser = STEPS)]
    skip: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let steps: Vec<&str> = STEPS.into_iter().filter(|name| !args.skip.iter().any(|skipped| skipped == name)).collect();
    if steps.iter().any(|name| ["fuzz", "image", "test"].contains(name)) {
        tools::ready()?;
    }
    let mut failures = Vec::new();
    for name in steps {
        eprintln!("\nxtask: == {name}");
        if let Err(error) = one(name) {
            eprintln!("xtask: {error:#}");
            failures.push((name, error));
        }
    }
    let names: Vec<&str> = failures.iter().map(|(name, _)| *name).collect();
    match failures.into_iter().next() {
        None => Ok(()),
        Some((_, first)) => Err(first.context(format!("failed: {}; the first", names.join(", ")))),
    }
}

fn one(name: &str) -> Result<()> {
    match name {
        "fmt" => run::step("cargo fmt; `cargo fmt` mends it", &mut run::cargo(&["fmt", "--all", "--check"])),
        "tidy" => tidy::run(),
        "clippy" => {
            let words = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
            run::step("cargo clippy", &mut run::cargo(&words))
        }
        "doc" => {
            let mut command = run::cargo(&["doc", "--no-deps", "--workspace"]);
            run::step("cargo doc", command.env("RUSTDOCFLAGS", "-D warnings"))
        }
        "deny" => deny(),
        "loom" => loom::run(),
        "simulate" => simulate::run(&simulate::Args::default()),
        "fuzz" => fuzz::run(&fuzz::Args { seed: Some(1), ..fuzz::Args::default() }),
        // of the binary that the tests drive, by their own build: what it needs beside it is the same
        "image" => {
            run::step("the tests' build", &mut run::cargo(&["test", "--workspace", "--no-run", "--quiet"]))?;
            image::run(&image::Args::smoke_of(run::target_dir()?.join("debug/fusewire")))
        }
        _ => test::run(&test::Args::default()),
    }
}

/// Licences, sources and bans follow from the lock file. Advisories do not: a commit that passed yesterday would fail
/// today, so they belong to a scheduled run (`cargo deny check advisories`).
fn deny() -> Result<()> {
    if !run::succeeds("cargo-deny", &["--version"]) {
        eprintln!("xtask: NOT CHECKED: cargo-deny is not installed (`cargo install --locked cargo-deny`)");
        return Ok(());
    }
    run::step("cargo deny", &mut run::cargo(&["deny", "check", "bans", "licenses", "sources"]))
}
