//! For `iptables-restore --noflush` and `ip6tables-restore --noflush`. One transaction for each family.
//!
//! A rule for each port and network instead of `multiport`, which takes no more than 15, and is one more thing that a
//! kernel may lack.

use super::{Cidr, Family, Owner, PortRange, Ports, Rules, VIRTUAL};
use std::fmt::Write;

/// In the order in which they can be taken out: who jumps goes before who is jumped to.
const CHAINS: [&str; 5] =
    ["FUSEWIRE_INBOUND", "FUSEWIRE_OUTBOUND", "FUSEWIRE_OUTBOUND_PORTS", "FUSEWIRE_INBOUND_PORTS", "FUSEWIRE_DNS"];
const JUMPS: [&str; 2] = ["PREROUTING -p tcp -j FUSEWIRE_INBOUND", "OUTPUT -p tcp -j FUSEWIRE_OUTBOUND"];
/// As `iptables-save` writes it.
const JUMP_DNS: &str = "OUTPUT -p udp -m udp --dport 53 -j FUSEWIRE_DNS";

/// What is there of ours, from `iptables-save -t nat`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Jumps {
    jumps: Vec<&'static str>,
    chains: Vec<&'static str>,
}

impl Jumps {
    pub fn of(saved: &str) -> Self {
        let appended = saved.lines().filter_map(|line| line.strip_prefix("-A "));
        let ours = JUMPS.into_iter().chain([JUMP_DNS]);
        let jumps = appended.filter_map(|rule| ours.clone().find(|jump| *jump == rule.trim_end())).collect();
        let declares =
            |line: &str, chain: &str| line.strip_prefix(':').is_some_and(|l| l.split(' ').next() == Some(chain));
        let chains = CHAINS.into_iter().filter(|chain| saved.lines().any(|line| declares(line, chain))).collect();
        Self { jumps, chains }
    }
    pub fn is_empty(&self) -> bool {
        self.jumps.is_empty() && self.chains.is_empty()
    }
    /// Whether both directions are led to us.
    pub fn is_whole(&self) -> bool {
        JUMPS.iter().all(|jump| self.jumps.contains(jump))
    }
}

/// Puts our chains in place of what there is of them (`--noflush` empties a chain that is declared again).
pub fn iptables_up(rules: &Rules, family: Family, there: &Jumps) -> String {
    let mut text = String::from("*nat\n");
    for chain in CHAINS {
        let _ = writeln!(text, ":{chain} - [0:0]"); // writing to a String cannot fail
    }
    for jump in &there.jumps {
        let _ = writeln!(text, "-D {jump}");
    }
    let mut add = |chain: &str, rule: &str| {
        let _ = writeln!(text, "-A {chain} {rule}");
    };
    add("FUSEWIRE_INBOUND", "-i lo -j RETURN");
    if family == Family::V4 {
        add("FUSEWIRE_INBOUND", "-d 127.0.0.0/8 -j RETURN");
    }
    add("FUSEWIRE_INBOUND", "-m addrtype ! --dst-type LOCAL -j RETURN");
    except_ports(&rules.inbound, &mut |rule| add("FUSEWIRE_INBOUND", &rule));
    add("FUSEWIRE_INBOUND", "-j FUSEWIRE_INBOUND_PORTS");
    redirect(&rules.inbound, rules.inbound_port, &mut |rule| add("FUSEWIRE_INBOUND_PORTS", &rule));
    for owner in &rules.sidecar {
        add("FUSEWIRE_OUTBOUND", &owned(*owner));
    }
    if let Some(port) = rules.dns_port {
        add("FUSEWIRE_OUTBOUND", &format!("-p tcp --dport 53 -j REDIRECT --to-ports {port}"));
        for owner in &rules.sidecar {
            add("FUSEWIRE_DNS", &owned(*owner));
        }
        add("FUSEWIRE_DNS", &format!("-p udp -j REDIRECT --to-ports {port}"));
        if family == Family::V4 {
            add("FUSEWIRE_OUTBOUND", &format!("-d {VIRTUAL} -p tcp -j REDIRECT --to-ports {}", rules.outbound_port));
        }
    }
    add("FUSEWIRE_OUTBOUND", "-o lo -j RETURN");
    let v4 = family == Family::V4;
    for network in Cidr::merged(&rules.except_to, v4) {
        add("FUSEWIRE_OUTBOUND", &format!("-d {network} -j RETURN"));
    }
    except_ports(&rules.outbound, &mut |rule| add("FUSEWIRE_OUTBOUND", &rule));
    if rules.only_to.is_empty() {
        add("FUSEWIRE_OUTBOUND", "-j FUSEWIRE_OUTBOUND_PORTS");
    }
    for network in Cidr::merged(&rules.only_to, v4) {
        add("FUSEWIRE_OUTBOUND", &format!("-d {network} -j FUSEWIRE_OUTBOUND_PORTS"));
    }
    redirect(&rules.outbound, rules.outbound_port, &mut |rule| add("FUSEWIRE_OUTBOUND_PORTS", &rule));
    for jump in JUMPS.into_iter().chain(rules.dns_port.map(|_| JUMP_DNS)) {
        let _ = writeln!(text, "-A {jump}");
    }
    text + "COMMIT\n"
}

/// Takes out what is there of ours; `None`: nothing is.
pub fn iptables_down(there: &Jumps) -> Option<String> {
    if there.is_empty() {
        return None;
    }
    let mut text = String::from("*nat\n");
    for (flag, all) in [("-D", &there.jumps), ("-F", &there.chains), ("-X", &there.chains)] {
        for one in all {
            let _ = writeln!(text, "{flag} {one}");
        }
    }
    Some(text + "COMMIT\n")
}

fn owned(owner: Owner) -> String {
    match owner {
        Owner::User(id) => format!("-m owner --uid-owner {id} -j RETURN"),
        Owner::Group(id) => format!("-m owner --gid-owner {id} -j RETURN"),
        Owner::Mark(mark) => format!("-m mark --mark {mark:#x} -j RETURN"),
    }
}

fn except_ports(ports: &Ports, rule: &mut impl FnMut(String)) {
    for range in PortRange::merged(&ports.except) {
        rule(format!("-p tcp --dport {} -j RETURN", range.written(':')));
    }
}

fn redirect(ports: &Ports, to: u16, rule: &mut impl FnMut(String)) {
    if ports.only.is_empty() {
        rule(format!("-p tcp -j REDIRECT --to-ports {to}"));
    }
    for range in PortRange::merged(&ports.only) {
        rule(format!("-p tcp --dport {} -j REDIRECT --to-ports {to}", range.written(':')));
    }
}
