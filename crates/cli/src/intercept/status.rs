//! What is in place, for people and for programs.
//!
//! It decides in which words it is said, and what is whole: every family's rules, and the routes that they need. What is there
//! the tools say, and the kernel through them.

use super::routes::Routes;
use super::{Backend, Tools, there, tool};
use crate::output::Output;
use anyhow::Result;
use fusewire_net::redirect::{Family, Jumps, State, VIRTUAL, Way, nft_state};
use serde_json::json;
use std::process::ExitCode;
use tool::Xtables;

/// 2 is taken by usage errors.
const IN_PART: u8 = 3;

/// What one tool has in place of ours.
struct Found {
    by: String,
    state: State,
    /// As the tool prints them.
    rules: String,
}

impl Found {
    fn needs(&self, way: Way) -> bool {
        match way {
            Way::Answers => ["tproxy to", "-j TPROXY"].iter().any(|rule| self.rules.contains(rule)),
            Way::Virtual => self.rules.contains(VIRTUAL),
        }
    }
}

const fn word(state: State) -> &'static str {
    match state {
        State::Whole => "in place",
        State::Part => "in part",
        State::Unused => "not in place",
    }
}

const fn remedy(state: State) -> &'static str {
    match state {
        State::Whole => "",
        State::Part | State::Unused => " (run `up` again, or `down`)",
    }
}

pub(super) fn run(backend: Backend, output: Output) -> Result<ExitCode> {
    let mut all = Vec::new();
    for (tools, _) in there(backend)?.iter().filter(|(_, there)| !there.is_empty()) {
        match tools {
            Tools::Nft(nft) => {
                let rules = nft.table()?.unwrap_or_default();
                all.push(Found { by: tools.name(), state: nft_state(&rules), rules: rules.trim_end().to_owned() });
            }
            Tools::Xtables(xtables) => {
                for family in tool::families() {
                    all.push(found(xtables, family)?);
                }
            }
        }
    }
    let (routes, routed) = routes(&all)?;
    let whole = routed && !all.is_empty() && all.iter().all(|found| found.state == State::Whole);
    match output {
        Output::Json => println!("{:#}", as_json(whole, &all, &routes)),
        Output::Table => {
            all.iter().for_each(|f| println!("{}{}, by {}:\n{}", word(f.state), remedy(f.state), f.by, f.rules));
            routes.iter().for_each(|line| println!("{line}"));
            if all.is_empty() {
                println!("nothing is redirected by fusewire here");
            }
        }
    }
    Ok(match whole {
        true => ExitCode::SUCCESS,
        false if all.is_empty() => ExitCode::FAILURE,
        false => ExitCode::from(IN_PART),
    })
}

/// The routing rules in words, and whether all that are needed are there, as far as can be seen.
fn routes(all: &[Found]) -> Result<(Vec<String>, bool)> {
    let Some(routes) = Routes::find() else { return Ok((Vec::new(), true)) };
    let (mut lines, mut whole) = (Vec::new(), true);
    for way in Way::ALL {
        let needed = all.iter().any(|found| found.needs(way));
        for family in tool::families().into_iter().filter(|family| way.is_of(*family)) {
            let what = match (way, family) {
                (Way::Answers, Family::V4) => "answers over IPv4 come back",
                (Way::Answers, Family::V6) => "answers over IPv6 come back",
                (Way::Virtual, _) => "virtual addresses have a way",
            };
            let rule = routes.shown(way, family)?;
            let has_route = routes.has_route(way, family);
            match (rule, needed) {
                (Some(rule), true) if has_route => lines.push(format!("{what}, by ip rule {rule}")),
                (_, true) if !tool::can_be_routed(family) => {}
                (_, true) => {
                    whole = false;
                    lines.push(format!(
                        "it is not so that {what}: the routing rule or its route is gone (run `up` again)"
                    ));
                }
                (Some(rule), false) => lines.push(format!("without use (run `down`): ip rule {rule}")),
                (None, false) => {}
            }
        }
    }
    Ok((lines, whole))
}

fn found(xtables: &Xtables, family: Family) -> Result<Found> {
    let saved = xtables.saved(family)?;
    let rules = tool::ours(&saved).join("\n");
    Ok(Found { by: xtables.program(family, "restore"), state: Jumps::of(&saved).state(), rules })
}

fn as_json(whole: bool, all: &[Found], routes: &[String]) -> serde_json::Value {
    let one = |f: &Found| json!({"by": f.by, "state": word(f.state), "rules": f.rules.lines().collect::<Vec<_>>()});
    json!({"in_place": whole, "by": all.iter().map(one).collect::<Vec<_>>(), "routes": routes})
}
