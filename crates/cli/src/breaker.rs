//! `fusewire breaker`: what operators see of a sidecar's circuits, and do to them.
//!
//! It decides words and exit codes. It deliberately decides nothing about circuits: whatever is asked for goes to the
//! sidecar's admin socket, which checks it, and whose refusals name what exists.

mod explain;
mod history;
mod list;
mod steer;
#[cfg(test)]
mod tests;
mod words;

use crate::admin_client::ask_now;
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

/// Look at circuit breakers, and hold them open or closed.
///
/// Names are SERVICE/INSTANCE, as `breaker list` shows them. SERVICE alone means every instance where something is shown; to
/// hold or reset it means the service's own circuit, before all of them.
///
/// Exit code 0: done, and what was shown is closed; 1: some circuit that was shown is not closed (list and explain); 2: it
/// could not be shown or done, and nothing was changed.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(list::List),
    Explain(explain::Explain),
    Open(steer::Hold),
    Close(steer::Hold),
    Reset(steer::Reset),
    History(history::History),
}

/// Whom to ask.
#[derive(Args)]
struct Asked {
    /// The sidecar's admin socket: sidecar.sock in its data_dir, or sidecar.admin.socket.
    #[arg(long)]
    socket: PathBuf,
}

impl Asked {
    fn get(&self, path: &str) -> Result<Value> {
        ask_now(&self.socket, Method::GET, path, None)
    }

    /// All circuits, in short: of instances, or of services and routes as a whole.
    fn all(&self, which: &str) -> Result<Vec<Value>> {
        let mut answer = self.get("/breakers")?;
        match answer[which].take() {
            Value::Array(all) => Ok(all),
            _ => bail!("{}: this is no sidecar's socket", self.socket.display()),
        }
    }
}

/// What a circuit is found by. The key of a circuit is `{scope}/{service}[/{instance}]`; people leave the scope out, since
/// whether an instance is named says it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    service: String,
    instance: Option<String>,
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, instance) = match text.split_once('/') {
            Some((service, instance)) => (service, Some(instance)),
            None => (text, None),
        };
        if service.is_empty() || instance.is_some_and(str::is_empty) {
            return Err("write SERVICE or SERVICE/INSTANCE, as `fusewire breaker list` shows them".into());
        }
        Ok(Self { service: service.into(), instance: instance.map(str::to_owned) })
    }
}

impl Name {
    /// On the admin socket.
    fn path(&self) -> String {
        let service = encoded(&self.service);
        match &self.instance {
            Some(instance) => format!("/breakers/instance/{service}/{}", encoded(instance)),
            None => format!("/breakers/instance/{service}"),
        }
    }

    /// Of the circuit that is held: SERVICE alone is the service's own.
    fn held_path(&self) -> String {
        match &self.instance {
            Some(_) => self.path() + "/override",
            None => format!("/breakers/service/{}/override", encoded(&self.service)),
        }
    }

    fn is_of(&self, circuit: &Value) -> bool {
        circuit["service"] == self.service.as_str()
            && self.instance.as_ref().is_none_or(|id| circuit["instance"] == id.as_str())
    }
}

/// RFC 3986: everything but the unreserved.
fn encoded(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let one = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    name.bytes().map(one).collect()
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let done = match &arguments.command {
        Command::List(list) => list::run(list),
        Command::Explain(explain) => explain::run(explain),
        Command::Open(hold) => steer::hold(hold, steer::To::Open),
        Command::Close(hold) => steer::hold(hold, steer::To::Closed),
        Command::Reset(reset) => steer::reset(reset),
        Command::History(history) => history::run(history),
    };
    done.unwrap_or_else(|error| {
        eprintln!("fusewire: {error:#}");
        ExitCode::from(2)
    })
}

/// 0 if all are closed, else 1.
fn closed(circuits: &[Value]) -> ExitCode {
    let all = circuits.iter().all(|b| b["circuit"] == "closed");
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
