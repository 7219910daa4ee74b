use crate::admin_client::ask_now;
use crate::output::{Output, table};
use anyhow::Result;
use clap::Args;
use http::Method;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show what a sidecar on this machine bounds: the guard before its application, and what it may use of each service.
///
/// Exit code 0: nothing is limited right now; 1: the guard limits what the application gets.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The sidecar's admin socket: sidecar.sock in its data_dir, or sidecar.admin.socket.
    #[arg(long)]
    socket: PathBuf,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let answer = ask_now(&arguments.socket, Method::GET, "/limits", None)?;
    match arguments.output {
        Output::Json => println!("{answer:#}"),
        Output::Table => print!("{}", shown(&answer)),
    }
    let limits = |gate: &Value| gate["phase"] == "test" || gate["phase"] == "engaged";
    Ok(if rows(&answer, "inbound").iter().any(limits) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn rows<'a>(answer: &'a Value, of: &str) -> &'a [Value] {
    answer[of].as_array().map_or(&[], Vec::as_slice)
}

fn shown(answer: &Value) -> String {
    let text = |v: &Value| v.as_str().map_or_else(|| "-".to_owned(), str::to_owned);
    let number = |v: &Value| v.as_u64().map_or_else(|| "none".to_owned(), |n| n.to_string());
    let mut out = String::new();
    let mut inbound = vec![
        ["INBOUND", "PORT", "ALGORITHM", "PHASE", "LIMIT", "IN FLIGHT", "QUEUED", "SHED", "ABANDONED"]
            .map(String::from)
            .to_vec(),
    ];
    for gate in rows(answer, "inbound") {
        inbound.push(vec![
            text(&gate["service"]),
            gate["port"].to_string(),
            text(&gate["algorithm"]),
            text(&gate["phase"]),
            number(&gate["limit"]),
            number(&gate["in_flight"]),
            number(&gate["queued"]),
            number(&gate["shed"]),
            number(&gate["abandoned"]),
        ]);
    }
    if inbound.len() > 1 {
        out += &table(&inbound);
    }
    let mut outbound =
        vec![["OUTBOUND", "REQUESTS", "PENDING", "CONNECTIONS", "REFUSED", "RATE KEYS"].map(String::from).to_vec()];
    for service in rows(answer, "outbound") {
        let of = |limit: &str| format!("{}/{}", service[limit]["used"], service[limit]["max"]);
        let bulkheads = ["requests", "pending", "connections"];
        let refused: u64 = bulkheads.iter().filter_map(|limit| service[limit]["refused"].as_u64()).sum();
        let mut row = vec![text(&service["service"])];
        row.extend(bulkheads.map(of));
        row.extend([refused.to_string(), number(&service["rate_keys"])]);
        outbound.push(row);
    }
    if outbound.len() > 1 {
        out += if out.is_empty() { "" } else { "\n" };
        out += &table(&outbound);
    }
    if out.is_empty() {
        out = "this sidecar takes nobody in, and has called nobody yet\n".into();
    }
    out
}
