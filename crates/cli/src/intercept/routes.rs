//! `ip` of iproute2: the routing rules by which an application's answers to its callers' addresses come back to the sidecar, and
//! virtual addresses have a way.

use super::tool::{can_be_routed, families, find, run};
use anyhow::{Context, Result};
use fusewire_net::redirect::{Family, Rules, Way, routes};
use std::path::PathBuf;
use std::process::Command;

pub(super) struct Routes(PathBuf);

impl Routes {
    /// `None`: there is no `ip`, and so nothing of ours by it.
    pub(super) fn find() -> Option<Self> {
        find("ip").map(Self)
    }

    /// For what `rules` need. Callers' addresses do without nothing; virtual ones have a way where there is a default route.
    pub(super) fn wanted(rules: &Rules) -> Result<Option<Self>> {
        let found = Self::find();
        let ways = rules.ways();
        if found.is_none() && ways.contains(&Way::Answers) {
            return found
                .map(Some)
                .context("--tproxy needs `ip`, which is not installed (install iproute2, or leave --tproxy out)");
        }
        if found.is_none() && ways.contains(&Way::Virtual) {
            eprintln!(
                "virtual addresses have no way here but a default route: `ip` is not installed (install iproute2, and run \
                 `up` again)"
            );
        }
        Ok(found)
    }

    fn ip(&self, arguments: &str) -> Result<String> {
        run(Command::new(&self.0).args(arguments.split(' ')), "")
    }

    /// The rule of `way`, as it is shown; `None`: it is not there.
    pub(super) fn shown(&self, way: Way, family: Family) -> Result<Option<String>> {
        Ok(way.shown(&self.ip(&routes::ask_rules(family))?).map(str::to_owned))
    }

    /// A loopback device that was down has lost it.
    pub(super) fn has_route(&self, way: Way, family: Family) -> bool {
        self.ip(&way.ask_route(family)).is_ok_and(|printed| !printed.trim().is_empty())
    }

    /// Those whose rule is there.
    pub(super) fn ways(&self) -> Result<Vec<Way>> {
        let mut all = Vec::new();
        for way in Way::ALL {
            if self.shown(way, Family::V4)?.is_some() {
                all.push(way);
            }
        }
        Ok(all)
    }

    /// Puts in what is `wanted` and not there, and takes out the rest.
    pub(super) fn set(&self, wanted: &[Way]) -> Result<()> {
        for way in wanted {
            for family in families().into_iter().filter(|family| way.is_of(*family) && can_be_routed(*family)) {
                self.ip(&way.put_route(family))?;
                if self.shown(*way, family)?.is_none() {
                    self.ip(&way.put_rule(family))?;
                }
            }
        }
        let others: Vec<Way> = Way::ALL.into_iter().filter(|way| !wanted.contains(way)).collect();
        self.there(&others)?.iter().try_for_each(|arguments| self.ip(arguments).map(drop))
    }

    /// What takes out what is there of `ways`: the arguments of calls.
    pub(super) fn there(&self, ways: &[Way]) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for way in ways {
            for family in families().into_iter().filter(|family| way.is_of(*family)) {
                all.extend(self.shown(*way, family)?.map(|_| way.take_rule(family)));
                all.extend(self.has_route(*way, family).then(|| way.take_route(family)));
            }
        }
        Ok(all)
    }

    /// As people would type them.
    pub(super) fn written(calls: &[String]) -> String {
        calls.iter().map(|arguments| format!("# ip {arguments}\n")).collect()
    }
}
