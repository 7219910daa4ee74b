use crate::admin_client::ask_now;
use crate::output::{Output, table};
use anyhow::Result;
use clap::Args;
use http::Method;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show what a control plane on this machine serves: its configuration, its faults, and which sidecar runs which version.
///
/// Exit code 0: the configuration is valid and every connected sidecar runs it; 1 otherwise.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The control plane's admin socket.
    #[arg(long, default_value = "fusewire-control/control.sock")]
    socket: PathBuf,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let status = ask_now(&arguments.socket, Method::GET, "/status", None)?;
    match arguments.output {
        Output::Json => println!("{status:#}"),
        Output::Table => print!("{}", shown(&status)),
    }
    let valid = status["configuration"]["valid"] == true;
    let current = sidecars(&status).iter().all(|s| s["current"] == true);
    Ok(if valid && current { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn sidecars(status: &Value) -> &[Value] {
    status["sidecars"].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(s) if s.is_empty() => "-".into(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

fn shown(status: &Value) -> String {
    let configuration = &status["configuration"];
    let mut out = format!("trust domain   {}\n", text(&status["trust_domain"]));
    out += &format!(
        "configuration  version {}, taken over {}\n",
        text(&configuration["version"]),
        text(&configuration["loaded_at"])
    );
    if configuration["valid"] != true {
        out += "the files have faults; this version, the last good one, stays in force:\n";
        for f in configuration["faults"].as_array().into_iter().flatten() {
            let remedy = f["remedy"].as_str().map(|r| format!(" ({r})")).unwrap_or_default();
            out += &format!(
                "  {}:{}:{}: {}: {}{remedy}\n",
                text(&f["file"]),
                f["line"],
                f["column"],
                text(&f["path"]),
                text(&f["message"])
            );
        }
    }
    let head = ["WORKLOAD", "INSTANCE", "ADDRESS", "PROGRAM", "VERSION", "CURRENT", "SUBSCRIPTIONS"];
    let mut rows = vec![head.map(String::from).to_vec()];
    let mut nacks = String::new();
    for s in sidecars(status) {
        let current = if s["current"] == true { "yes" } else { "no" };
        rows.push(vec![
            text(&s["workload"]),
            text(&s["instance"]),
            text(&s["address"]),
            text(&s["program_version"]),
            text(&s["acked_version"]),
            current.into(),
            text(&s["subscriptions"]),
        ]);
        for n in s["nacks"].as_array().into_iter().flatten() {
            nacks += &format!(
                "{} refused {} {}: {}: {}\n",
                text(&s["workload"]),
                text(&n["kind"]),
                text(&n["name"]),
                text(&n["path"]),
                text(&n["message"])
            );
        }
    }
    out += "\n";
    out += &if rows.len() == 1 { "no sidecar is connected\n".into() } else { table(&rows) };
    out + &nacks
}
