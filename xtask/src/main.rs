//! The project's own commands: `cargo xtask <command>`.
//!
//! It decides what a machine needs, what a change must pass, and which shape the source keeps ([`tidy`]). It
//! deliberately holds no logic of the product, and it is light: what the bench needs is built only for the bench.

mod bench;
mod ci;
mod crds;
mod faults;
mod fuzz;
mod image;
mod loom;
mod python;
mod replay;
mod run;
mod simulate;
mod soak;
mod test;
mod tidy;
mod tools;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Fusewire's own commands: test, ci, tidy, fuzz, bench, replay, simulate, loom, faults, soak, image, crds",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make this machine ready, then run every test
    Test(test::Args),
    /// All that a change must pass: formatting, tidy, clippy, documentation, a short fuzzing, tests
    Ci(ci::Args),
    /// Hold the source against the rules of ARCHITECTURE.md
    Tidy,
    /// Play another breaker's test sequences against ours, and say where they part
    Replay(replay::Args),
    /// The mesh in trouble, in virtual time: prints what callers saw, and fails where a band is broken
    Simulate(simulate::Args),
    /// The circuit breaker's races, in every order of two threads
    Loom,
    /// What callers see of servers that fail, with the engine and without
    Faults,
    /// Write the custom resource definitions of deploy/kubernetes from their schemas
    Crds,
    /// Feed the parsers of what comes from outside with what a fuzzer makes up
    Fuzz(fuzz::Args),
    /// 1,000 connections a second that come and go through both sidecars, and what they leave behind
    Soak(soak::Args),
    /// The files of a container image, and the image
    Image(image::Args),
    /// CPU per request of the proxies, as a ratio to a bare hyper loop; `cargo xtask bench --help` says more
    #[command(disable_help_flag = true)]
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Test(args) => test::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Tidy => tidy::run(),
        Command::Replay(args) => replay::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Loom => loom::run(),
        Command::Faults => faults::run(),
        Command::Crds => crds::run(),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Image(args) => image::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            run::exit_code(&error)
        }
    }
}
