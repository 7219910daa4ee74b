//! The `fusewire` command: everything a person, or a process manager, asks of the mesh.
//!
//! Each command is one file. It decides what people see; it deliberately decides nothing about traffic.

mod admin_client;
mod breaker;
mod check;
mod control;
mod demo;
mod output;
mod sidecar;
mod status;
mod token;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Half of mimalloc's memory per idle connection, and 5 MB less at start, at no CPU cost worth naming.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A service mesh whose heart is the circuit breaker.
///
/// Start with `fusewire demo`: a whole mesh on this machine, one instance going bad, and its circuit opening.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Arguments),
    Control(control::Arguments),
    Sidecar(sidecar::Arguments),
    Check(check::Arguments),
    Status(status::Arguments),
    Breaker(breaker::Arguments),
    Token(token::Arguments),
    /// An application of the demo.
    #[command(hide = true)]
    DemoApp(demo::app::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let is_app = matches!(arguments.command, Command::DemoApp(_)); // ends with its parent by itself, after tidying up
    if !is_app && std::env::var_os(demo::process::EXIT_WITH_PARENT).is_some() {
        demo::process::exit_with_parent(None);
    }
    let done = match arguments.command {
        Command::Demo(a) => demo::run(&a),
        Command::DemoApp(a) => demo::app::run(a),
        Command::Control(a) => control::run(a),
        Command::Sidecar(a) => sidecar::run(a),
        Command::Check(a) => check::run(&a),
        Command::Status(a) => status::run(&a),
        Command::Breaker(a) => breaker::run(&a),
        Command::Token(a) => token::run(&a),
    };
    done.unwrap_or_else(|e| {
        eprintln!("fusewire: {e:#}");
        ExitCode::FAILURE
    })
}
