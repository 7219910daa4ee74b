use crate::admin_client::ask_now;
use crate::output::{Output, table};
use anyhow::Result;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;

/// Look at circuit breakers.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(List),
}

/// Show the circuit of every instance that a sidecar on this machine calls.
///
/// Exit code 0: all circuits are closed; 1: some are not.
#[derive(Args)]
struct List {
    /// The sidecar's admin socket: sidecar.sock in its data_dir, or sidecar.admin.socket.
    #[arg(long)]
    socket: PathBuf,
    /// Only this service.
    #[arg(long)]
    service: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Command::List(list) = &arguments.command;
    let mut answer = ask_now(&list.socket, Method::GET, "/breakers", None)?;
    if let (Some(service), Some(all)) = (&list.service, answer["breakers"].as_array_mut()) {
        all.retain(|b| b["service"] == service.as_str());
    }
    match list.output {
        Output::Json => println!("{answer:#}"),
        Output::Table => print!("{}", shown(&answer)),
    }
    let all_closed = rows(&answer).iter().all(|b| b["circuit"] == "closed");
    Ok(if all_closed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn rows(answer: &Value) -> &[Value] {
    answer["breakers"].as_array().map_or(&[], Vec::as_slice)
}

fn shown(answer: &Value) -> String {
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
    let mut table_rows = vec![head.map(String::from).to_vec()];
    for b in rows(answer) {
        let text = |v: &Value| v.as_str().map_or_else(|| "-".to_owned(), str::to_owned);
        let remaining = b["open_remaining_ms"].as_u64().map_or("-".to_owned(), |ms| format!("{:.1}s", ms as f64 / 1e3));
        let latency = b["latency_us"].as_u64().map_or("-".to_owned(), |us| format!("{:.1}ms", us as f64 / 1e3));
        let window = &b["window"];
        let mode = if b["mode"] == "enforce" { String::new() } else { format!(" ({})", text(&b["mode"])) };
        table_rows.push(vec![
            text(&b["service"]),
            text(&b["instance"]),
            text(&b["address"]),
            text(&b["circuit"]) + &mode,
            text(&b["reason"]),
            remaining,
            window["total"].to_string(),
            window["hard"].to_string(),
            window["soft"].to_string(),
            b["in_flight"].to_string(),
            latency,
        ]);
    }
    if table_rows.len() == 1 {
        return "this sidecar has called nobody yet: circuits appear with the first request to a service\n".into();
    }
    table(&table_rows)
}
