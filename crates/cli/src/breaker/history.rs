//! `fusewire breaker history`: each transition with the evidence that caused it, newest last.

use super::words::{evidence, number, services, some, span, trip, word};
use super::{Asked, Name};
use crate::admin_client::follow;
use crate::output::Output;
use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;
use std::io::Write;
use std::process::ExitCode;

/// Show what happened to circuits, each time with the evidence that caused it; the sidecar keeps the last 4,096.
///
/// Exit code 0: shown; with --follow, the sidecar stopped. 2: there is no such circuit, or nobody answers any more.
#[derive(Args)]
pub(super) struct History {
    /// Only of SERVICE, or of SERVICE/INSTANCE.
    name: Option<Name>,
    /// Go on with what happens from now on. With -o json: one document a line.
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    asked: Asked,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(super) fn run(history: &History) -> Result<ExitCode> {
    let wanted = |event: &Value| history.name.as_ref().is_none_or(|name| name.is_of(event));
    let mut events = match history.asked.get("/breakers/events")? {
        Value::Array(events) => events,
        _ => bail!("{}: this is no sidecar's socket", history.asked.socket.display()),
    };
    if let Some(name) = &history.name {
        exists(name, &history.asked.all("breakers")?, &events)?;
    }
    if history.follow {
        return followed(history, wanted);
    }
    events.retain(wanted);
    match history.output {
        Output::Json => println!("{:#}", Value::Array(events)),
        Output::Table if events.is_empty() => println!("nothing happened to a circuit yet"),
        Output::Table => events.iter().for_each(|event| println!("{}", story(event))),
    }
    Ok(ExitCode::SUCCESS)
}

/// An instance that is gone has a history all the same.
pub(super) fn exists(name: &Name, circuits: &[Value], events: &[Value]) -> Result<()> {
    let mut all = circuits.iter().chain(events);
    if all.any(|one| name.is_of(one)) {
        return Ok(());
    }
    let everything: Vec<Value> = circuits.iter().chain(events).cloned().collect();
    let known = services(&everything);
    if known.contains(&name.service) {
        let mut instances: Vec<&str> = everything
            .iter()
            .filter(|one| one["service"] == name.service.as_str())
            .map(|one| word(&one["instance"]))
            .collect();
        instances.sort_unstable();
        instances.dedup();
        bail!(
            "{} has no instance {:?}; there are {}",
            name.service,
            word(&Value::from(name.instance.clone())),
            instances.join(", ")
        );
    }
    let known = if known.is_empty() { "nobody yet".to_owned() } else { known.join(", ") };
    bail!("service {:?} is not known here; this sidecar calls {known}", name.service)
}

fn followed(history: &History, wanted: impl Fn(&Value) -> bool) -> Result<ExitCode> {
    let mut ended = false;
    let mut out = std::io::stdout();
    follow(&history.asked.socket, "/breakers/events?follow=1", |line| {
        let event: Value = serde_json::from_str(line)?;
        if let Some(missed) = event["missed"].as_u64() {
            eprintln!("{} missed: this end read more slowly than they came", some(missed, "event"));
        } else if event["ended"].is_string() {
            ended = true;
        } else if wanted(&event) {
            match history.output {
                Output::Json => writeln!(out, "{line}")?,
                Output::Table => writeln!(out, "{}", story(&event))?,
            }
            out.flush()?;
        }
        Ok(())
    })?;
    if !ended {
        bail!("the stream broke off: ask again, and `fusewire breaker history` shows what was missed");
    }
    eprintln!("the sidecar stops");
    Ok(ExitCode::SUCCESS)
}

/// One transition in a line.
pub(super) fn story(event: &Value) -> String {
    let (from, to, reason) = (word(&event["from"]), word(&event["to"]), word(&event["reason"]));
    let opens = to == "open";
    let whose = match event["instance"].as_str() {
        Some("") => format!("{} {}", word(&event["scope"]), word(&event["service"])),
        _ => format!("{}/{}", word(&event["service"]), word(&event["instance"])),
    };
    let mut text = format!("{} {whose} {from} -> {to} ", word(&event["time"]));
    let (ok, failed) = (number(&event["probes_ok"]), number(&event["probes_failed"]));
    text += &match reason {
        "consecutive" | "rate" | "unresponsive" | "slow" | "peer" => {
            format!("{reason}: {}: {}", trip(reason), evidence(event, event))
        }
        "due" => format!("due: the open time is over; {} clean probes close it", number(&event["probes_needed"])),
        "recovered" => format!("recovered: {ok} clean probes, {failed} failed"),
        "probe_failed" => format!("probe_failed: {failed} failed, {ok} clean"),
        "probe_lost" => format!("probe_lost: a probe brought no answer in time; {ok} clean, {failed} failed before"),
        "released" => "released: its peers are no better than it was".into(),
        "manual" => manual(event),
        other => other.to_owned(),
    };
    if opens {
        text += &match event["open_ms"].as_u64() {
            Some(ms) if reason == "manual" => format!("; for {}", span(ms)),
            Some(ms) => {
                let (k, need) = (number(&event["k"]), number(&event["probes_needed"]));
                format!("; open for {}, opening {k} in a row; {need} clean probes close it", span(ms))
            }
            None => "; until it is reset".into(),
        };
    }
    if event["observed"] == true {
        text += " (observed: nothing was refused)";
    }
    text
}

fn manual(event: &Value) -> String {
    let who = event["actor"].as_str().map_or_else(String::new, |actor| format!(" by {actor}"));
    match event["note"].as_str() {
        Some(note) => format!("manual: held{who}: {note:?}"),
        None => format!("manual: let go{who}, from scratch"),
    }
}
