//! `fusewire breaker open | close | reset`: an operator takes a circuit in hand, and lets go of it.

use super::words::{span, word};
use super::{Asked, Name};
use crate::admin_client::ask_now;
use crate::output::{Output, duration};
use anyhow::{Result, bail};
use clap::Args;
use http::Method;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// Hold a circuit: open keeps every request away from the instance, close lets all of them through, whatever happens.
///
/// It is in force for the next request, survives changes of the configuration, and ends by itself. Events, list and explain
/// name who holds it, as the kernel knows it, and why.
///
/// Exit code 0: it is held; 2: it is not, and the message says why and what exists.
#[derive(Args)]
pub(super) struct Hold {
    /// SERVICE/INSTANCE, as `fusewire breaker list` shows them; SERVICE alone: its own circuit, before all instances.
    name: Name,
    /// Why, for those who find it held; at most 256 characters.
    #[arg(long)]
    reason: String,
    /// How long; at most 720h, which is 30 days. 0: until `fusewire breaker reset`.
    #[arg(long, default_value = "1h", value_parser = ttl)]
    ttl: Duration,
    #[command(flatten)]
    asked: Asked,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Let go of a circuit and start it from scratch: closed, an empty window, no openings in a row.
///
/// Also for one that opened by itself. Exit code 0: done; 2: not, and the message says why and what exists.
#[derive(Args)]
pub(super) struct Reset {
    /// SERVICE/INSTANCE, as `fusewire breaker list` shows them; SERVICE alone: its own circuit, before all instances.
    name: Name,
    #[command(flatten)]
    asked: Asked,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Open,
    Closed,
}

/// `0` has no unit to be wrong about.
pub(super) fn ttl(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { duration(text) }
}

pub(super) fn hold(hold: &Hold, to: To) -> Result<ExitCode> {
    if !hold.ttl.is_zero() && hold.ttl < Duration::from_secs(1) {
        bail!("--ttl: must be 1s to 720h, or 0 for no end");
    }
    let to = if to == To::Open { "open" } else { "closed" };
    let body = json!({ "to": to, "ttl_seconds": hold.ttl.as_secs(), "reason": hold.reason });
    let answer = sent(&hold.asked, Method::PUT, &hold.name, Some(&body))?;
    said(&answer, hold.output);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn reset(reset: &Reset) -> Result<ExitCode> {
    let answer = sent(&reset.asked, Method::DELETE, &reset.name, None)?;
    said(&answer, reset.output);
    Ok(ExitCode::SUCCESS)
}

fn sent(asked: &Asked, method: Method, name: &Name, body: Option<&Value>) -> Result<Value> {
    ask_now(&asked.socket, method, &name.held_path(), body)
}

fn said(circuit: &Value, output: Output) {
    match output {
        Output::Json => println!("{circuit:#}"),
        Output::Table => print!("{}", outcome(circuit)),
    }
}

pub(super) fn outcome(circuit: &Value) -> String {
    let name = match circuit["instance"].as_str() {
        Some(instance) => format!("{}/{instance}", word(&circuit["service"])),
        None => format!("{}, as a whole", word(&circuit["service"])),
    };
    let over = &circuit["override"];
    let mut text = if over.is_object() {
        let end = match over["remaining_ms"].as_u64() {
            Some(ms) => format!("for {}", span(ms.next_multiple_of(1_000))),
            None => "until it is reset".into(),
        };
        format!("{name}: circuit held {} by {} {end}\n", word(&over["to"]), word(&over["owner"]))
    } else {
        format!("{name}: circuit {}, from scratch\n", word(&circuit["circuit"]))
    };
    if circuit["mode"] == "disabled" {
        text += "its breaker is disabled by the policy: requests pass all the same\n";
    }
    text
}
