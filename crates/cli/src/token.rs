use crate::admin_client::{ask_now, ask_patiently};
use crate::output::{self, Output, table};
use anyhow::Result;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Make, list and revoke join tokens: what a new sidecar proves itself with, once, to get its first certificate.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The control plane's admin socket.
    #[arg(long, global = true, default_value = "fusewire-control/control.sock")]
    socket: PathBuf,
    #[arg(short, long, value_enum, global = true, default_value_t)]
    output: Output,
}

#[derive(Subcommand)]
enum Command {
    /// Make a token for one workload and print it. It is shown once: only its hash is kept.
    Create {
        /// The workload: a path in the trust domain, such as web, or a full SPIFFE ID.
        workload: String,
        /// How many sidecars may join with it.
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// How long it can be used, such as 1h.
        #[arg(long, default_value = "1h", value_parser = output::duration)]
        ttl: Duration,
    },
    /// List tokens, without their secrets.
    List,
    /// Make a token useless.
    Revoke { id: String },
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let socket = &arguments.socket;
    let answer = match &arguments.command {
        Command::Create { workload, uses, ttl } => {
            let wish = json!({ "workload": workload, "uses": uses, "ttl_seconds": ttl.as_secs() });
            ask_patiently(socket, &Method::POST, "/tokens", Some(&wish))?
        }
        Command::List => ask_now(socket, Method::GET, "/tokens", None)?,
        Command::Revoke { id } => ask_now(socket, Method::DELETE, &format!("/tokens/{id}"), None)?,
    };
    match (arguments.output, &arguments.command) {
        (Output::Json, _) => println!("{answer:#}"),
        (Output::Table, Command::Create { .. }) => println!("{}", answer["token"].as_str().unwrap_or_default()),
        (Output::Table, Command::List) => print!("{}", listed(&answer)),
        (Output::Table, Command::Revoke { id }) => println!("revoked {id}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(answer: &Value) -> String {
    let mut rows = vec![["ID", "WORKLOAD", "USES LEFT", "EXPIRES"].map(String::from).to_vec()];
    for t in answer["tokens"].as_array().or(answer.as_array()).into_iter().flatten() {
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        rows.push(vec![text(&t["id"]), text(&t["workload"]), text(&t["uses_left"]), text(&t["expires"])]);
    }
    table(&rows)
}
