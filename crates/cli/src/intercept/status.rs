//! What is in place, for people and for programs.
//!
//! It decides in which words it is said; what is there the tools say, and the kernel through them.

use super::{Backend, Tools, there, tool};
use crate::output::Output;
use anyhow::Result;
use fusewire_net::redirect::{Family, Jumps};
use serde_json::json;
use std::process::ExitCode;
use tool::Xtables;

/// What one tool has in place of ours.
struct Found {
    by: String,
    state: State,
    /// As the tool prints them.
    rules: String,
}

enum State {
    Whole,
    Part,
    /// Our chains are there, and nothing leads to them.
    Unused,
}

impl State {
    const fn word(&self) -> &'static str {
        match self {
            Self::Whole => "in place",
            Self::Part => "in part",
            Self::Unused => "not in place",
        }
    }

    const fn remedy(&self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::Part | Self::Unused => " (run `up` again, or `down`)",
        }
    }
}

pub(super) fn run(backend: Backend, output: Output) -> Result<ExitCode> {
    let mut all = Vec::new();
    for (tools, _) in there(backend)?.iter().filter(|(_, there)| !there.is_empty()) {
        match tools {
            Tools::Nft(nft) => {
                let rules = nft.table()?.unwrap_or_default();
                all.push(Found { by: tools.name(), state: State::Whole, rules: rules.trim_end().to_owned() });
            }
            Tools::Xtables(xtables) => {
                for family in tool::families() {
                    all.push(found(xtables, family)?);
                }
            }
        }
    }
    match output {
        Output::Json => println!("{:#}", as_json(&all)),
        Output::Table if all.is_empty() => println!("nothing is redirected by fusewire here"),
        Output::Table => {
            all.iter().for_each(|f| println!("{}{}, by {}:\n{}", f.state.word(), f.state.remedy(), f.by, f.rules));
        }
    }
    Ok(if all.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn found(xtables: &Xtables, family: Family) -> Result<Found> {
    let saved = xtables.saved(family)?;
    let state = match Jumps::of(&saved) {
        there if there.is_whole() => State::Whole,
        there if there.is_empty() => State::Unused,
        _ => State::Part,
    };
    let ours: Vec<&str> = saved.lines().filter(|line| line.contains("FUSEWIRE_")).collect();
    Ok(Found { by: xtables.program(family, "restore"), state, rules: ours.join("\n") })
}

fn as_json(all: &[Found]) -> serde_json::Value {
    let one = |f: &Found| json!({"by": f.by, "state": f.state.word(), "rules": f.rules.lines().collect::<Vec<_>>()});
    let whole = all.iter().any(|f| matches!(f.state, State::Whole));
    json!({"in_place": whole, "by": all.iter().map(one).collect::<Vec<_>>()})
}
