use crate::control_client::{Admin, Target, ask, block_on, refusal};
use crate::output::{self, Output, table};
use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use fusewire_api::v1;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often a step that has to wait is looked at again.
const LOOK: Duration = Duration::from_secs(1);

/// Show and replace the roots that the mesh believes; shut identities out, and let them in again.
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
    /// Which roots are believed and until when, how far a rotation has come, and who is denied.
    Status,
    /// Replace the root, without an outage: prepare, switch, retire. Without --step all that is left of it, waiting for
    /// sidecars and for old certificates to end; it may be stopped at any point, and goes on where it was.
    Rotate(Rotate),
    /// Shut a workload out at once: no sidecar accepts it or calls it any more, and its certificate is not renewed.
    Deny {
        /// The workload: a path in the trust domain, such as web, or a full SPIFFE ID.
        workload: String,
        /// Why: kept, shown by `trust status`, and told where a certificate is refused.
        #[arg(long)]
        reason: String,
    },
    /// Let a workload in again that was denied.
    Allow { workload: String },
}

#[derive(Args)]
struct Rotate {
    /// Say what would happen, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Only this step.
    #[arg(long, value_enum)]
    step: Option<Step>,
    /// Although sidecars are missing, or certificates under the old root still hold: those who are left behind have to
    /// join again. With --step only.
    #[arg(long, requires = "step")]
    force: bool,
    /// How long to wait for what a step needs, such as 10m; without --step the whole rotation [default: until it is done].
    #[arg(long, value_parser = output::duration)]
    wait: Option<Duration>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Step {
    /// A new root is believed; the old one signs.
    Prepare,
    /// The new root signs; the old one is believed.
    Switch,
    /// The old root is gone.
    Retire,
    /// One stage back.
    Abort,
}

impl Step {
    fn word(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Switch => "switch",
            Self::Retire => "retire",
            Self::Abort => "abort",
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { command, target, output } = arguments;
    match command {
        Command::Status => {
            let asked = async {
                Ok(target.admin().await?.trust(ask(v1::TrustRequest {})).await.map_err(refusal)?.into_inner())
            };
            let trust = block_on(asked)?;
            match output {
                Output::Json => println!("{:#}", as_json(&trust)),
                Output::Table => print!("{}", shown(trust)),
            }
        }
        Command::Rotate(rotate) => block_on(rotate.run(target, *output))?,
        Command::Deny { workload, reason } => deny(target, workload, Some(reason))?,
        Command::Allow { workload } => deny(target, workload, None)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn deny(target: &Target, workload: &str, reason: Option<&str>) -> Result<()> {
    let asked = v1::DenyRequest {
        identity: workload.into(),
        reason: reason.unwrap_or_default().into(),
        lift: reason.is_none(),
    };
    block_on(async { target.admin().await?.deny(ask(asked)).await.map_err(refusal) })?;
    println!("{workload} is {}", if reason.is_some() { "denied" } else { "let in again" });
    Ok(())
}

impl Rotate {
    async fn run(&self, target: &Target, output: Output) -> Result<()> {
        let mut rotation = Rotation {
            admin: target.admin().await?,
            step: self.step.map_or("next", Step::word),
            force: self.force,
            until: match (self.wait, self.step) {
                (Some(wait), _) => Some(Instant::now() + wait),
                (None, Some(_)) => Some(Instant::now()),
                (None, None) => None,
            },
        };
        if self.dry_run {
            let foretold = rotation.ask(true).await?;
            match output {
                Output::Json => println!("{:#}", step_as_json(&foretold)),
                Output::Table => print!("{}", rehearsed(&foretold)),
            }
            return Ok(());
        }
        loop {
            let took = rotation.take().await?;
            match output {
                Output::Json => println!("{}", step_as_json(&took)),
                Output::Table => println!("{}: {}", took.stage, took.did),
            }
            if self.step.is_some() || took.done {
                return Ok(());
            }
        }
    }
}

/// Steps that are asked for until they are taken.
struct Rotation {
    admin: Admin,
    step: &'static str,
    force: bool,
    until: Option<Instant>,
}

impl Rotation {
    async fn ask(&mut self, dry_run: bool) -> Result<v1::RotateResponse> {
        let asked = v1::RotateRequest { step: self.step.into(), dry_run, force: self.force };
        Ok(self.admin.rotate(ask(asked)).await.map_err(refusal)?.into_inner())
    }

    /// Takes the step when it needs to wait for nothing, and says meanwhile for what.
    async fn take(&mut self) -> Result<v1::RotateResponse> {
        let mut said = String::new();
        loop {
            let waiting = if self.force { Vec::new() } else { self.ask(true).await?.waiting_for };
            if waiting.is_empty() {
                match self.ask(false).await {
                    // what it waits for came back between the two questions
                    Err(_) if !self.force && !self.ask(true).await?.waiting_for.is_empty() => continue,
                    took => return took,
                }
            }
            if self.until.is_some_and(|until| Instant::now() >= until) {
                bail!(
                    "the step has to wait, and the time for it is over:\n  {}\nrun it again to go on, or take this step with --step and --force",
                    waiting.join("\n  ")
                );
            }
            // the seconds that are left change with every look
            let names: String = waiting.iter().flat_map(|line| line.chars().filter(|c| !c.is_ascii_digit())).collect();
            if names != said {
                eprintln!("waiting:\n  {}", waiting.join("\n  "));
                said = names;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn step_as_json(step: &v1::RotateResponse) -> Value {
    let v1::RotateResponse { stage, did, waiting_for, done } = step;
    json!({ "stage": stage, "did": did, "waiting_for": waiting_for, "done": done })
}

fn rehearsed(foretold: &v1::RotateResponse) -> String {
    let mut out = format!("stage: {}\n", foretold.stage);
    for line in foretold.did.lines() {
        out += &format!("  {line}\n");
    }
    if foretold.waiting_for.is_empty() {
        out += "it could be done now\n";
    } else {
        out += &format!("it would have to wait:\n  {}\n", foretold.waiting_for.join("\n  "));
    }
    out
}

fn as_json(trust: &v1::TrustResponse) -> Value {
    let root = |root: &v1::RootInfo| {
        let v1::RootInfo { hash, signs, not_after, remaining_seconds } = root;
        json!({ "hash": hash, "signs": signs, "not_after": not_after, "remaining_seconds": remaining_seconds })
    };
    let denied = |denied: &v1::Denied| {
        let v1::Denied { identity, reason, by, at } = denied;
        json!({ "identity": identity, "reason": reason, "by": by, "at": at })
    };
    json!({
        "trust_domain": trust.trust_domain,
        "stage": trust.stage,
        "next": trust.next,
        "roots": trust.roots.iter().map(root).collect::<Vec<_>>(),
        "denied": trust.denied.iter().map(denied).collect::<Vec<_>>(),
    })
}

fn shown(trust: v1::TrustResponse) -> String {
    let v1::TrustResponse { trust_domain, stage, roots, denied, next } = trust;
    let mut out = format!("trust domain  {trust_domain}\nstage         {stage}\nnext          {next}\n\n");
    let mut rows = vec![["ROOT", "SIGNS", "ENDS", "LEFT"].map(String::from).to_vec()];
    for v1::RootInfo { hash, signs, not_after, remaining_seconds } in roots {
        let signs = if signs { "yes" } else { "" };
        rows.push(vec![hash, signs.into(), not_after, format!("{} d", remaining_seconds / (24 * 3600))]);
    }
    out += &table(&rows);
    if !denied.is_empty() {
        let mut rows = vec![["DENIED", "SINCE", "BY", "REASON"].map(String::from).to_vec()];
        rows.extend(denied.into_iter().map(|d| vec![d.identity, d.at, d.by, d.reason]));
        out += "\n";
        out += &table(&rows);
    }
    out
}
