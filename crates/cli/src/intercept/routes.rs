//! `ip` of iproute2: the routing rule by which an application's answers to its callers' addresses come back to the sidecar.

use super::tool::{families, find, run};
use anyhow::{Context, Result};
use fusewire_net::redirect::{Family, routes};
use std::path::PathBuf;
use std::process::Command;

pub(super) struct Routes(PathBuf);

impl Routes {
    /// `None`: there is no `ip`, and so nothing of ours by it.
    pub(super) fn find() -> Option<Self> {
        find("ip").map(Self)
    }

    /// For `--tproxy`, which does without nothing.
    pub(super) fn needed() -> Result<Self> {
        Self::find().context("--tproxy needs `ip`, which is not installed (install iproute2, or leave --tproxy out)")
    }

    fn ip(&self, arguments: &str) -> Result<String> {
        run(Command::new(&self.0).args(arguments.split(' ')), "")
    }

    /// Our rule, as it is shown; `None`: it is not there.
    pub(super) fn shown(&self, family: Family) -> Result<Option<String>> {
        Ok(routes::shown(&self.ip(&routes::ask(family))?).map(str::to_owned))
    }

    /// Puts it in where it is not, and its route, which a loopback device that was down has lost.
    pub(super) fn up(&self) -> Result<()> {
        for family in families() {
            let [route, rule] = routes::up(family);
            self.ip(&route)?;
            if self.shown(family)?.is_none() {
                self.ip(&rule)?;
            }
        }
        Ok(())
    }

    /// What takes it out where it is: the arguments of calls.
    pub(super) fn there(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for family in families() {
            all.extend(self.shown(family)?.map(|_| routes::down(family)).into_iter().flatten());
        }
        Ok(all)
    }

    pub(super) fn down(&self) -> Result<()> {
        for arguments in self.there()? {
            match self.ip(&arguments) {
                Err(e) if e.to_string().contains("does not exist") => {} // the route is gone already
                done => drop(done?),
            }
        }
        Ok(())
    }

    /// As people would type them.
    pub(super) fn written(calls: &[String]) -> String {
        calls.iter().map(|arguments| format!("# ip {arguments}\n")).collect()
    }
}
