//! nft and iptables as programs: where they are, and what they mean when they fail.

use anyhow::{Context, Result, bail};
use fusewire_net::redirect::{Family, TABLE, TABLES};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// CAP_NET_ADMIN (capabilities(7)).
const NET_ADMIN: u32 = 12;

const PERMISSION: &str = "needs CAP_NET_ADMIN in this network namespace: run it as root, or in Kubernetes as an init container with \
                          securityContext.capabilities.add: [NET_ADMIN, NET_RAW] and runAsUser: 0";

/// Said before anything is tried: what the tools say of it is hard to read.
pub(super) fn permitted() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let has = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    if has.is_some_and(|has| has & (1 << NET_ADMIN) == 0) {
        bail!("{PERMISSION}");
    }
    Ok(())
}

/// IPv6 where this namespace has it.
pub(super) fn families() -> Vec<Family> {
    let v6 = Path::new("/proc/net/if_inet6").exists();
    [Family::V4, Family::V6].into_iter().filter(|family| v6 || *family == Family::V4).collect()
}

/// Whether loopback takes routes of `family`: what is switched off by sysctl has rules as ever, and needs no routes.
pub(super) fn can_be_routed(family: Family) -> bool {
    let off = std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    family == Family::V4 || !off.is_ok_and(|off| off.trim() == "1")
}

pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    places.map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}

pub(super) struct Nft(PathBuf);

impl Nft {
    pub(super) fn find() -> Option<Self> {
        find("nft").map(Self)
    }

    pub(super) fn load(&self, text: &str) -> Result<()> {
        run(Command::new(&self.0).args(["-f", "-"]), text).map(drop)
    }

    /// Our table as it is; `None`: there is none.
    pub(super) fn table(&self) -> Result<Option<String>> {
        let tables = run(Command::new(&self.0).args(["list", "tables"]), "")?;
        if !tables.lines().any(|line| line.trim_end().strip_prefix("table ") == Some(TABLE)) {
            return Ok(None);
        }
        run(Command::new(&self.0).args(["list", "table"]).args(TABLE.split(' ')), "").map(Some)
    }
}

/// `iptables`, `iptables-nft` or `iptables-legacy`, and the same for IPv6.
pub(super) struct Xtables {
    variant: &'static str,
}

impl Xtables {
    /// `variant`: `-nft`, `-legacy`, or nothing for what the system means by it.
    pub(super) fn find(variant: &'static str) -> Option<Self> {
        let found = Self { variant };
        ["restore", "save"].iter().all(|what| find(&found.program(Family::V4, what)).is_some()).then_some(found)
    }

    pub(super) fn program(&self, family: Family, what: &str) -> String {
        let family = if family == Family::V4 { "iptables" } else { "ip6tables" };
        format!("{family}{}-{what}", self.variant)
    }

    fn command(&self, family: Family, what: &str) -> Result<Command> {
        let program = self.program(family, what);
        let path = find(&program).with_context(|| format!("{program} is not installed (install iptables)"))?;
        Ok(Command::new(path))
    }

    /// The tables that hold anything of ours, as they are.
    pub(super) fn saved(&self, family: Family) -> Result<String> {
        let mut all = String::new();
        for table in TABLES {
            // to ask the old tables is to make them
            if self.variant == "-legacy" && !legacy_has(family, table) {
                continue;
            }
            match run(self.command(family, "save")?.args(["-t", table]), "") {
                Ok(saved) => all += &saved,
                Err(_) if table != TABLES[0] => {} // a kernel without it has nothing of ours in it
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    pub(super) fn restore(&self, family: Family, text: &str) -> Result<()> {
        run(self.command(family, "restore")?.args(["--noflush", "--wait", "5"]), text).map(drop)
    }
}

/// What is ours of a table that was saved.
pub(super) fn ours(saved: &str) -> Vec<&str> {
    saved.lines().filter(|line| line.contains("FUSEWIRE_")).collect()
}

fn legacy_has(family: Family, table: &str) -> bool {
    let names = if family == Family::V4 { "/proc/net/ip_tables_names" } else { "/proc/net/ip6_tables_names" };
    std::fs::read_to_string(names).is_ok_and(|names| names.lines().any(|name| name == table))
}

/// Feeds `text`; what it printed, or an error with a remedy.
pub(super) fn run(command: &mut Command, text: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{program} does not start"))?;
    let fed = child.stdin.take().map(|mut input| input.write_all(text.as_bytes()));
    let out = child.wait_with_output().with_context(|| format!("{program} does not end"))?;
    if out.status.success() {
        fed.transpose().with_context(|| format!("{program} does not read"))?;
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    bail!("{program}: {said}\n{}", remedy(&said, text));
}

/// `fed`: what the tool was to do.
fn remedy(said: &str, fed: &str) -> &'static str {
    let says = |any: &[&str]| any.iter().any(|what| said.contains(what));
    if says(&["Operation not permitted", "Permission denied", "you must be root"]) {
        PERMISSION
    } else if says(&["evice is not up", "nexthop is not up", "Network is down"]) {
        "bring loopback up: `ip link set lo up`"
    } else if ["tproxy", "TPROXY"].iter().any(|name| fed.contains(name)) {
        "this kernel may lack TPROXY: load nft_tproxy (for iptables xt_TPROXY, xt_connmark and iptable_mangle) on the node, or leave \
         --tproxy out"
    } else if says(&["can't initialize", "Table does not exist", "do you need to insmod", "incompatible"]) {
        "this kernel has no NAT for iptables: load iptable_nat and ip6table_nat on the node, or use --backend nft"
    } else if says(&["No such file or directory", "not supported", "Invalid argument"]) {
        "this kernel lacks a part of nftables: load nft_chain_nat, nft_redir and nf_conntrack on the node (Linux 5.2 or newer), or \
         use --backend iptables"
    } else {
        "none of these rules are in force"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tools_say_has_a_remedy() {
        for (said, fed, wanted) in [
            ("Error: Could not process rule: Operation not permitted", "tproxy to :1", "CAP_NET_ADMIN"),
            ("iptables-restore v1.8.9 (legacy): can't initialize iptables table `nat'", "", "iptable_nat"),
            ("/dev/stdin:5:3-4: Error: Could not process rule: No such file or directory", "", "nft_chain_nat"),
            (
                "/dev/stdin:5:3-4: Error: Could not process rule: No such file or directory",
                "tproxy to :1",
                "nft_tproxy",
            ),
            ("iptables-restore: line 12 failed", "-j TPROXY --on-port 1", "xt_TPROXY"),
            ("Error: Device for nexthop is not up.", "", "ip link set lo up"),
            ("something else", "", "none of these rules"),
        ] {
            assert!(remedy(said, fed).contains(wanted), "{said}: {}", remedy(said, fed));
        }
    }
}
