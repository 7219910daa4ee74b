//! `cargo xtask bench`: builds the bench and becomes it.
//!
//! The bench is a target of its own (`bench/main.rs`) because it needs an HTTP stack and certificates, which nobody
//! should compile to run a test. We replace ourselves with it instead of waiting for it: a signal meant for the bench
//! then reaches it, and it takes its proxies down.
//!
//! `cargo xtask bench resilience` is another one: what a call costs the breaker, in nanoseconds and in atomic additions. It
//! fails where a bound is broken, or where a call allocates.
//!
//! `cargo xtask bench detect` is a third: what interception adds to the first byte of an answer, by protocol, on this machine
//! (`tests/interception/delay.rs`). Needs root.

use crate::{run, tools};
use anyhow::{Context as _, Result, bail};
use std::io::BufReader;
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// `resilience` for the breaker alone, and the words after it for its bench; `detect` for the delay that interception
    /// adds, by protocol; everything else is passed on, and `--help`
    /// lists it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let [first, rest @ ..] = &args.rest[..]
        && first == "resilience"
    {
        let words = ["bench", "--quiet", "--package", "fusewire-resilience", "--bench", "hot", "--"];
        return run::step("the breaker's bench", run::cargo(&words).args(rest));
    }
    if args.rest == ["detect"] {
        tools::ready()?;
        let words = ["test", "--workspace", "--test", "interception", "--", "--ignored", "--nocapture"];
        return run::step("the delay by protocol", run::cargo(&words).arg("added_delay_by_protocol"));
    }
    let program = build()?;
    let mut command = Command::new(program);
    command.args(&args.rest).current_dir(run::root());
    become_it(command)
}

/// In the dev profile, whose dependencies are optimised: backend and load cost no more than they must, and nothing is
/// compiled twice for it.
fn build() -> Result<PathBuf> {
    let words = ["bench", "--no-run", "--profile", "dev", "--package", "xtask", "--bench", "proxies"];
    let mut command = run::cargo(&words);
    let mut child = command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped()).spawn();
    let child = child.as_mut().map_err(|error| anyhow::anyhow!("cannot start cargo: {error}"))?;
    let output = child.stdout.take().context("cargo's output is not piped")?;
    let mut program = None;
    for message in cargo_metadata::Message::parse_stream(BufReader::new(output)) {
        if let cargo_metadata::Message::CompilerArtifact(artifact) = message.context("cannot read cargo's messages")? {
            // The commands' own binary is built beside it.
            program = artifact.executable.filter(|_| artifact.target.name == "proxies").or(program);
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    match program {
        Some(program) if status.success() => Ok(program.into()),
        _ => bail!("the bench does not compile; cargo's output above says why"),
    }
}

#[cfg(unix)]
fn become_it(mut command: Command) -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    Err(command.exec()).context("cannot start the bench")
}

#[cfg(not(unix))]
fn become_it(_command: Command) -> Result<()> {
    bail!("the bench counts CPU time from /proc and runs on Linux only")
}

// The bench has no test harness of its own; what of it can be wrong quietly is tested from here.
#[cfg(test)]
#[path = "../bench/cpu.rs"]
mod cpu;
#[cfg(test)]
#[path = "../bench/figures.rs"]
mod figures;

#[cfg(test)]
mod tests {
    use super::cpu::{machine, of_ended_children, of_process, resident};
    use super::figures::{Sample, limit, median_and_best, parse_h2load};

    #[test]
    fn this_process_has_used_some_cpu_and_memory() {
        assert!(of_process(std::process::id()).expect("we exist") > 0);
        assert!(resident(std::process::id()).expect("we exist") > 100);
        assert!(of_process(u32::MAX).is_err());
        of_ended_children().expect("the kernel's format");
        assert!(machine().expect("the kernel's format").contains("cores, kernel "));
    }

    #[test]
    fn median_and_best_stand_side_by_side() {
        assert_eq!(median_and_best([3.0, 1.0, 2.0].into_iter()), Some((2.0, 1.0)));
        assert_eq!(median_and_best([4.0, 1.0, 2.0, 3.0].into_iter()), Some((2.5, 1.0)));
        assert_eq!(median_and_best([].into_iter()), None);
    }

    #[test]
    fn whatever_is_not_2xx_is_an_error() {
        let text = "finished in 1.41s, 709.22 req/s, 27.70KB/s\n\
                    requests: 1000 total, 1000 started, 998 done, 990 succeeded, 8 failed, 2 errored, 0 timeout\n\
                    status codes: 990 2xx, 0 3xx, 0 4xx, 8 5xx\n";
        let (rate, errors) = parse_h2load(text, 1000).expect("the format");
        let sample = Sample { rate, errors, ..Sample::default() };
        assert_eq!((sample.rate.round(), sample.errors), (709.0, 10));
        assert!(parse_h2load("could not connect", 1000).is_err());
    }

    #[test]
    fn cost_is_cpu_over_requests_and_the_limit_is_who_was_busy() {
        let sample = Sample { requests: 1000, proxy_ns: 20_000_000, wall_ns: 100_000_000, ..Sample::default() };
        assert_eq!(sample.cost(), 20.0);
        assert_eq!(limit(&sample, 1), None);
        assert_eq!(limit(&Sample { load_ns: 95_000_000, ..sample }, 1), Some("load"));
        assert_eq!(limit(&Sample { load_ns: 95_000_000, proxy_ns: 95_000_000, ..sample }, 1), None);
    }
}
