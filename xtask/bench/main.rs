//! CPU per request of the proxies, as ratios to a bare hyper loop measured in the same run.
//!
//! What it takes care of, because each once made a number wrong: contenders alternate in rounds and are started anew for
//! each, since they differ between starts; CPU is the kernel's count for every thread, not wall time; the path must
//! answer with the right body before anything is measured; medians stand beside best rounds; and where the load or the
//! backend was the limit, the table says so. It deliberately measures no latency: on a shared machine that measures the
//! machine.

mod backend;
mod certificates;
mod check;
mod children;
mod contender;
mod cpu;
mod figures;
mod idle;
mod load;
mod report;
mod scenario;

use anyhow::{Context as _, Result, bail};
use backend::Backend;
use children::Children;
use clap::Parser;
use contender::{Contender, Fleet};
use figures::Sample;
use scenario::{Scenario, Shape};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    bin_name = "cargo xtask bench",
    about = "CPU per request of the proxies, as ratios to a bare hyper loop"
)]
struct Args {
    /// What to measure; default: all but idle
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// Rounds; a claim needs five or more
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Two short rounds: shows that everything works, proves nothing
    #[arg(long)]
    quick: bool,
    /// Requests per round
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    requests: u64,
    /// Request threads of every contender
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// The profile that fusewire is built with: release, or dist as it ships
    #[arg(long, default_value = "release")]
    profile: String,
    /// Where the bare loop's source lies
    #[arg(long, value_name = "DIR", default_value = "../shared/bench/hyperfloor")]
    floor: PathBuf,
    /// Measure only the bare loop
    #[arg(long)]
    floor_only: bool,
    /// Cargo says that this is a bench
    #[arg(long, hide = true)]
    bench: bool,
    /// We are the backend of another bench
    #[arg(long, hide = true)]
    backend: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.backend {
        return end(backend::serve());
    }
    let children = Children::default();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(error.into())),
    };
    let guard = children.clone();
    let outcome = runtime.block_on(async move {
        let run = tokio::task::spawn_blocking(move || measure(&args, &children));
        let mut ended = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
        tokio::select! {
            outcome = run => outcome.context("the bench itself failed")?,
            _ = tokio::signal::ctrl_c() => bail!("interrupted; every proxy is stopped"),
            _ = ended.recv() => bail!("told to end; every proxy is stopped"),
        }
    });
    // On the way out of a signal the measuring thread still runs; it can start nothing from here on.
    guard.end_all();
    let code = end(outcome);
    runtime.shutdown_background();
    code
}

fn end(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args, children: &Children) -> Result<()> {
    let (rounds, requests) = if args.quick { (2, 10_000) } else { (args.rounds, args.requests) };
    let mut fleet = Fleet::new(children.clone(), args.workers)?;
    let contenders = fleet.build(&args.floor, (!args.floor_only).then_some(args.profile.as_str()))?;
    let backend = Backend::start(children, fleet.log("backend"))?;
    report::machine(args.workers, rounds, requests)?;
    let default = [Scenario::H1, Scenario::H2, Scenario::PairH1, Scenario::PairH2];
    let scenarios = if args.scenarios.is_empty() { &default[..] } else { &args.scenarios };
    for scenario in scenarios {
        match scenario.shape() {
            None => idle::measure(&fleet, &contenders, &backend)?,
            Some(shape) => {
                let samples = alternate(&fleet, &contenders, &backend, &shape, rounds, requests)?;
                report::scenario(&shape, &samples, args.workers);
            }
        }
    }
    Ok(())
}

/// A B, B A, A B, ...: whatever drifts, drifts for all.
fn alternate(
    fleet: &Fleet,
    contenders: &[Contender],
    backend: &Backend,
    shape: &Shape,
    rounds: u32,
    requests: u64,
) -> Result<Vec<(Contender, Vec<Sample>)>> {
    let mut samples: Vec<(Contender, Vec<Sample>)> = contenders.iter().map(|one| (*one, Vec::new())).collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..samples.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let (contender, taken) = &mut samples[at];
            let name = contender.name();
            eprintln!("bench: {}: round {} of {rounds}: {name}", shape.name, round + 1);
            let taking = one_round(fleet, *contender, backend, shape, requests);
            taken.push(taking.with_context(|| format!("{}: {name} in round {}", shape.name, round + 1))?);
        }
    }
    Ok(samples)
}

fn one_round(fleet: &Fleet, contender: Contender, backend: &Backend, shape: &Shape, requests: u64) -> Result<Sample> {
    let path = fleet.start(contender, shape, backend)?;
    check::answers(&path, shape)?;
    load::run(&fleet.children, path.entry, shape, requests / 5)?;
    let proxy = || path.processes.iter().map(|process| cpu::of_process(process.id())).sum::<Result<u64>>();
    let (proxy_before, backend_before) = (proxy()?, cpu::of_process(backend.id())?);
    let load = load::run(&fleet.children, path.entry, shape, requests)?;
    Ok(Sample {
        requests,
        rate: load.rate,
        errors: load.errors,
        proxy_ns: proxy()?.saturating_sub(proxy_before),
        backend_ns: cpu::of_process(backend.id())?.saturating_sub(backend_before),
        load_ns: load.cpu_ns,
        wall_ns: load.wall_ns,
    })
}
