//! `cargo xtask ci`: all that a change must pass, cheapest first, tests last.
//!
//! Every step runs even when one before it failed, so that one run shows everything. Clippy and the documentation share
//! what they compile, and so do all kinds of tests: no step changes flags or features of another's build.

use crate::{run, test, tidy};
use anyhow::Result;

const STEPS: [&str; 6] = ["fmt", "tidy", "clippy", "doc", "deny", "test"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave a step out; may be given more than once
    #[arg(long, value_name = "STEP", value_parser = STEPS)]
    skip: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut failures = Vec::new();
    for name in STEPS {
        if args.skip.iter().any(|skipped| skipped == name) {
            continue;
        }
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
