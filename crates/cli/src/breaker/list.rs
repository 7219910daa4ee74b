use super::{Asked, closed, words};
use crate::output::{Output, table};
use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Show the circuit of every instance that a sidecar on this machine calls.
///
/// Exit code 0: all circuits are closed; 1: some are not; 2: nobody answered, or there is no such service.
#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    asked: Asked,
    /// Only this service.
    #[arg(long)]
    service: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(super) fn run(list: &List) -> Result<ExitCode> {
    let (mut all, mut wholes) = (list.asked.all("breakers")?, list.asked.all("scopes")?);
    if let Some(service) = &list.service {
        let known = words::services(&all);
        all.retain(|b| b["service"] == service.as_str());
        if all.is_empty() && !known.is_empty() {
            bail!("service {service:?} is not known here; this sidecar calls {}", known.join(", "));
        }
    }
    wholes.retain(|b| list.service.as_ref().is_none_or(|service| b["service"] == service.as_str()));
    match list.output {
        Output::Json => println!("{:#}", json!({ "breakers": all, "scopes": wholes })),
        Output::Table => print!("{}{}", shown(&all), as_a_whole(&wholes)),
    }
    all.append(&mut wholes);
    Ok(closed(&all))
}

/// Services and routes whose own circuit does not let everything pass.
pub(super) fn as_a_whole(wholes: &[Value]) -> String {
    let mut text = String::new();
    for b in wholes.iter().filter(|b| b.is_object()) {
        let (circuit, throttled) = (words::word(&b["circuit"]), b["throttle"]["probability"].as_f64().unwrap_or(0.0));
        let share = b["admitted_share"].as_f64().unwrap_or(1.0);
        let mut said = match b["override"]["owner"].as_str() {
            Some(owner) => format!("circuit {circuit}, held by {owner}"),
            None if circuit != "closed" => format!("circuit {circuit}, {}", words::word(&b["reason"])),
            None => String::new(),
        };
        if let Some(ms) = b["open_remaining_ms"].as_u64() {
            said += &format!(", for {}", words::span(ms));
        }
        if throttled > 0.0 {
            said += &format!("{}{:.0} % throttled", if said.is_empty() { "" } else { ", " }, throttled * 100.0);
        }
        if share < 1.0 {
            said += &format!("{}{:.0} % let in", if said.is_empty() { "" } else { ", " }, share * 100.0);
        }
        if !said.is_empty() {
            text += &format!("{} {} as a whole: {said}\n", words::word(&b["scope"]), words::word(&b["service"]));
        }
    }
    text
}

pub(super) fn shown(all: &[Value]) -> String {
    let head = [
        "SERVICE",
        "INSTANCE",
        "ADDRESS",
        "CIRCUIT",
        "WHY",
        "OPEN FOR",
        "CALLS",
        "HARD",
        "SOFT",
        "IN FLIGHT",
        "LATENCY",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    for b in all {
        let text = |v: &Value| v.as_str().map_or_else(|| "-".to_owned(), str::to_owned);
        let latency = b["latency_us"].as_u64().map_or("-".to_owned(), |us| format!("{:.1}ms", us as f64 / 1e3));
        let window = &b["window"];
        let mode = if b["mode"] == "enforce" { String::new() } else { format!(" ({})", text(&b["mode"])) };
        let why = match b["override"]["owner"].as_str() {
            Some(owner) => format!("held by {owner}"),
            None => text(&b["reason"]),
        };
        rows.push(vec![
            text(&b["service"]),
            text(&b["instance"]),
            text(&b["address"]),
            text(&b["circuit"]) + &mode,
            why,
            b["open_remaining_ms"].as_u64().map_or("-".to_owned(), words::span),
            window["total"].to_string(),
            window["hard"].to_string(),
            window["soft"].to_string(),
            b["in_flight"].to_string(),
            latency,
        ]);
    }
    if rows.len() == 1 {
        return "this sidecar has called nobody yet: circuits appear with the first request to a service\n".into();
    }
    table(&rows)
}
