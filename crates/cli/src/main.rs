//! The `fusewire` command: everything a person, or a process manager, asks of the mesh.
//!
//! Each command is one file. It decides what people see; it deliberately decides nothing about traffic.

mod admin_client;
mod apply;
mod breaker;
mod check;
mod control;
mod control_client;
mod delete;
mod demo;
mod diff;
mod endpoints;
mod get;
mod history;
mod inject;
mod install;
mod intercept;
mod limits;
mod login;
mod objects;
mod output;
mod register;
mod rollback;
mod sidecar;
mod status;
mod token;
mod trust;
mod uninjected;
mod wait;

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
    Control(Box<control::Arguments>),
    Sidecar(sidecar::Arguments),
    Intercept(intercept::Arguments),
    Inject(inject::Arguments),
    Install(install::Arguments),
    Uninstall(install::Uninstall),
    Register(register::Arguments),
    Check(check::Arguments),
    Status(status::Arguments),
    Breaker(breaker::Arguments),
    Limits(limits::Arguments),
    Token(token::Arguments),
    Trust(trust::Arguments),
    Login(login::Arguments),
    Apply(apply::Arguments),
    Get(get::Arguments),
    Endpoints(endpoints::Arguments),
    Delete(delete::Arguments),
    Diff(diff::Arguments),
    History(history::Arguments),
    Rollback(rollback::Arguments),
    Wait(wait::Arguments),
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
        Command::Control(a) => control::run(*a),
        Command::Sidecar(a) => sidecar::run(a),
        Command::Intercept(a) => intercept::run(&a),
        Command::Inject(a) => inject::run(&a),
        Command::Install(a) => install::run(&a),
        Command::Uninstall(a) => install::uninstall(&a),
        Command::Register(a) => register::run(a),
        Command::Check(a) => check::run(&a),
        Command::Status(a) => status::run(&a),
        Command::Breaker(a) => Ok(breaker::run(&a)),
        Command::Limits(a) => limits::run(&a),
        Command::Token(a) => token::run(&a),
        Command::Trust(a) => trust::run(&a),
        Command::Login(a) => login::run(&a),
        Command::Apply(a) => apply::run(&a),
        Command::Get(a) => get::run(&a),
        Command::Endpoints(a) => endpoints::run(&a),
        Command::Delete(a) => delete::run(&a),
        Command::Diff(a) => diff::run(&a),
        Command::History(a) => history::run(&a),
        Command::Rollback(a) => rollback::run(&a),
        Command::Wait(a) => wait::run(&a),
    };
    done.unwrap_or_else(|e| {
        eprintln!("fusewire: {e:#}");
        ExitCode::FAILURE
    })
}
