//! What is in place, for people and for programs.
//!
//! It decides in which words it is said; what is there the tools say, and the kernel through them.

use super::routes::Routes;
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
    tproxy: bool,
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
                let tproxy = rules.contains("tproxy to");
                all.push(Found { by: tools.name(), state: State::Whole, rules: rules.trim_end().to_owned(), tproxy });
            }
            Tools::Xtables(xtables) => {
                for family in tool::families() {
                    all.push(found(xtables, family)?);
                }
            }
        }
    }
    let routes = routed(all.iter().any(|found| found.tproxy))?;
    match output {
        Output::Json => println!("{:#}", as_json(&all, &routes)),
        Output::Table => {
            all.iter().for_each(|f| println!("{}{}, by {}:\n{}", f.state.word(), f.state.remedy(), f.by, f.rules));
            routes.iter().for_each(|line| println!("{line}"));
            if all.is_empty() {
                println!("nothing is redirected by fusewire here");
            }
        }
    }
    Ok(if all.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The routing rules, which belong to TPROXY and to nothing else, in words.
fn routed(by_tproxy: bool) -> Result<Vec<String>> {
    let Some(routes) = Routes::find() else { return Ok(Vec::new()) };
    let mut lines = Vec::new();
    for family in tool::families() {
        let version = if family == Family::V4 { "IPv4" } else { "IPv6" };
        lines.extend(match (routes.shown(family)?, by_tproxy) {
            (Some(rule), true) => Some(format!("answers over {version} come back, by ip rule {rule}")),
            (Some(rule), false) => Some(format!("without use (run `down`): ip rule {rule}")),
            (None, true) => {
                Some(format!("answers over {version} do not come back: the routing rule is gone (run `up` again)"))
            }
            (None, false) => None,
        });
    }
    Ok(lines)
}

fn found(xtables: &Xtables, family: Family) -> Result<Found> {
    let saved = xtables.saved(family)?;
    let there = Jumps::of(&saved);
    let state = match &there {
        there if there.is_whole() => State::Whole,
        there if there.is_empty() => State::Unused,
        _ => State::Part,
    };
    let ours: Vec<&str> = saved.lines().filter(|line| line.contains("FUSEWIRE_")).collect();
    Ok(Found { by: xtables.program(family, "restore"), state, rules: ours.join("\n"), tproxy: there.is_tproxy() })
}

fn as_json(all: &[Found], routes: &[String]) -> serde_json::Value {
    let one = |f: &Found| json!({"by": f.by, "state": f.state.word(), "rules": f.rules.lines().collect::<Vec<_>>()});
    let whole = all.iter().any(|f| matches!(f.state, State::Whole));
    json!({"in_place": whole, "by": all.iter().map(one).collect::<Vec<_>>(), "routes": routes})
}
