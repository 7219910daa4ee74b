use crate::control_client::{Target, ask, block_on, refusal};
use crate::output::{self, Output, table};
use anyhow::Result;
use clap::{Args, Subcommand};
use fusewire_api::v1;
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

/// Make, list and revoke join tokens: what a new sidecar proves itself with, once, to get its first certificate.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    target: Target,
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
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
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
    block_on(answer(arguments))
}

async fn answer(arguments: &Arguments) -> Result<ExitCode> {
    let json = arguments.output == Output::Json;
    match &arguments.command {
        Command::Create { workload, uses, ttl } => {
            let wish =
                v1::CreateTokenRequest { workload: workload.clone(), uses: *uses, ttl_seconds: ttl.as_secs().max(1) };
            let mut admin = arguments.target.admin_patiently().await?;
            let made = admin.create_token(ask(wish)).await.map_err(refusal)?.into_inner();
            if json {
                let v1::TokenInfo { id, workload, uses_left, expires, .. } = made.info.unwrap_or_default();
                let token = made.token;
                println!(
                    "{:#}",
                    json!({ "token": token, "id": id, "workload": workload, "uses": uses_left, "expires": expires })
                );
            } else {
                println!("{}", made.token);
            }
        }
        Command::List => {
            let mut admin = arguments.target.admin().await?;
            let known = admin.list_tokens(ask(v1::ListTokensRequest {})).await.map_err(refusal)?.into_inner();
            if json {
                println!("{:#}", serde_json::to_value(&known.tokens)?);
            } else {
                print!("{}", listed(&known));
            }
        }
        Command::Revoke { id } => {
            let mut admin = arguments.target.admin().await?;
            admin.revoke_token(ask(v1::RevokeTokenRequest { id: id.clone() })).await.map_err(refusal)?;
            if json {
                println!("{:#}", json!({ "revoked": id }));
            } else {
                println!("revoked {id}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(known: &v1::ListTokensResponse) -> String {
    let mut rows = vec![["ID", "WORKLOAD", "STATE", "USES LEFT", "EXPIRES"].map(String::from).to_vec()];
    for t in &known.tokens {
        rows.push(vec![t.id.clone(), t.workload.clone(), t.state.clone(), t.uses_left.to_string(), t.expires.clone()]);
    }
    table(&rows)
}
