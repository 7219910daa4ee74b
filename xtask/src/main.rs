//! The project's own commands: `cargo xtask <command>`.
//!
//! It decides what a machine needs, what a change must pass, and which shape the source keeps ([`tidy`]). It
//! deliberately holds no logic of the product, and it is light: what the bench needs is built only for the bench.

mod bench;
mod ci;
mod python;
mod run;
mod test;
mod tidy;
mod tools;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Fusewire's own commands: test, ci, tidy, bench",
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
    /// All that a change must pass: formatting, tidy, clippy, documentation, tests
    Ci(ci::Args),
    /// Hold the source against the rules of ARCHITECTURE.md
    Tidy,
    /// CPU per request of the proxies, as a ratio to a bare hyper loop; `cargo xtask bench --help` says more
    #[command(disable_help_flag = true)]
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Test(args) => test::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Tidy => tidy::run(),
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
