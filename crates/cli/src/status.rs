use crate::control_client::{Target, block_on};
use crate::output::{Output, table};
use anyhow::Result;
use clap::Args;
use serde_json::Value;
use std::process::ExitCode;

/// Show what is in force, what is wrong, and which sidecar runs which version.
///
/// Exit code 0: the configuration is valid, every connected sidecar runs it, and every replica of the control plane answered;
/// 1 otherwise. Alerts do not change it.
#[derive(Args)]
pub(crate) struct Arguments {
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let status = block_on(async { Ok(serde_json::to_value(arguments.target.status().await?)?) })?;
    match arguments.output {
        Output::Json => println!("{status:#}"),
        Output::Table => print!("{}", shown(&status)),
    }
    let valid = status["configuration"]["valid"] == true;
    let current = sidecars(&status).iter().all(|s| s["current"] == true);
    let whole = replicas(&status).iter().all(|r| r["answered"] == true);
    Ok(if valid && current && whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn sidecars(status: &Value) -> &[Value] {
    status["sidecars"].as_array().map_or(&[], Vec::as_slice)
}

fn replicas(status: &Value) -> &[Value] {
    status["replicas"].as_array().map_or(&[], Vec::as_slice)
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
    for alert in status["alerts"].as_array().into_iter().flatten() {
        let about = alert["about"].as_str().filter(|about| !about.is_empty()).map(|about| format!(" {about}"));
        out += &format!(
            "alert          {}{}: {}\n",
            text(&alert["name"]),
            about.unwrap_or_default(),
            text(&alert["message"])
        );
    }
    let registry = &status["registry"];
    if registry["registrations"].as_u64() > Some(0) {
        out += &format!("registry       {} registrations, {} silent\n", registry["registrations"], registry["silent"]);
    }
    let several = replicas(status).len() > 1;
    for replica in replicas(status).iter().filter(|_| several) {
        let (name, address) = (text(&replica["name"]), text(&replica["address"]));
        out += &match replica["answered"] == true {
            true => format!("replica        {name} at {address}\n"),
            false => format!(
                "replica        {name} does not answer: {} ({address}; its sidecars are not shown)\n",
                text(&replica["error"])
            ),
        };
    }
    let head = ["WORKLOAD", "INSTANCE", "ADDRESS", "PROGRAM", "VERSION", "CURRENT", "SUBSCRIPTIONS", "REPLICA"];
    let columns = if several { head.len() } else { head.len() - 1 };
    let mut rows = vec![head.iter().take(columns).copied().map(String::from).collect::<Vec<_>>()];
    let mut nacks = String::new();
    for s in sidecars(status) {
        let current = if s["current"] == true { "yes" } else { "no" };
        let mut row = vec![
            text(&s["workload"]),
            text(&s["instance"]),
            text(&s["address"]),
            text(&s["program_version"]),
            text(&s["acked_version"]),
            current.into(),
            text(&s["subscriptions"]),
            text(&s["replica"]),
        ];
        row.truncate(columns);
        rows.push(row);
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
