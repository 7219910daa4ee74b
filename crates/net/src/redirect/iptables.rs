//! For `iptables-restore --noflush` and `ip6tables-restore --noflush`. One transaction for each family and
//! table.
//!
//! A rule for each port and network instead of `multiport`, which takes no more than 15, and is one more thing that a
//! kernel may lack.

use super::{ANSWERS, Cidr, Family, Inbound, Owner, PortRange, Ports, Rules, State, TAKEN, VIRTUAL};
use std::fmt::Write;

/// Those of which [`Jumps`] has to see what is there.
pub const TABLES: [&str; 2] = ["nat", "mangle"];

/// What is ours in one of the kernel's tables.
struct Ours {
    table: &'static str,
    /// In the order in which they can be taken out: who jumps goes before who is jumped to.
    chains: &'static [&'static str],
    /// As `iptables-save` writes them.
    jumps: &'static [&'static str],
}

const JUMP_IN: &str = "PREROUTING -p tcp -j FUSEWIRE_INBOUND";
const JUMP_OUT: &str = "OUTPUT -p tcp -j FUSEWIRE_OUTBOUND";
const JUMP_DNS: &str = "OUTPUT -p udp -m udp --dport 53 -j FUSEWIRE_DNS";
const JUMP_TPROXY: &str = "PREROUTING -p tcp -j FUSEWIRE_TPROXY";
const JUMP_ANSWERS: &str = "OUTPUT -p tcp -j FUSEWIRE_ANSWERS";

const NAT: Ours = Ours {
    table: "nat",
    chains: &[
        "FUSEWIRE_INBOUND",
        "FUSEWIRE_OUTBOUND",
        "FUSEWIRE_OUTBOUND_PORTS",
        "FUSEWIRE_INBOUND_PORTS",
        "FUSEWIRE_DNS",
    ],
    jumps: &[JUMP_IN, JUMP_OUT, JUMP_DNS],
};
/// The chains of `nat` that are about what leaves.
const OUTBOUND: &[&str] = &["FUSEWIRE_OUTBOUND", "FUSEWIRE_OUTBOUND_PORTS", "FUSEWIRE_DNS"];

const MANGLE: Ours = Ours {
    table: "mangle",
    chains: &["FUSEWIRE_TPROXY", "FUSEWIRE_TPROXY_PORTS", "FUSEWIRE_TAKEN", "FUSEWIRE_ANSWERS"],
    jumps: &[JUMP_TPROXY, JUMP_ANSWERS],
};

/// The rule of a chain without which nothing is led on from there.
const LEADS: [(&str, &str); 9] = [
    ("FUSEWIRE_INBOUND", "-j FUSEWIRE_INBOUND_PORTS"),
    ("FUSEWIRE_INBOUND_PORTS", "-j REDIRECT"),
    ("FUSEWIRE_OUTBOUND", "-o lo -j RETURN"), // only some networks may be led on, and none of this family
    ("FUSEWIRE_OUTBOUND_PORTS", "-j REDIRECT"),
    ("FUSEWIRE_DNS", "-j REDIRECT"),
    ("FUSEWIRE_TPROXY", "-j FUSEWIRE_TPROXY_PORTS"),
    ("FUSEWIRE_TPROXY_PORTS", "-j FUSEWIRE_TAKEN"),
    ("FUSEWIRE_TAKEN", "-j TPROXY"),
    ("FUSEWIRE_ANSWERS", "-j MARK"),
];

/// What is there of ours, from `iptables-save -t` of each of [`TABLES`], one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Jumps {
    jumps: Vec<&'static str>,
    chains: Vec<&'static str>,
    /// Those of them that lead on.
    leading: Vec<&'static str>,
}

impl Jumps {
    pub fn of(saved: &str) -> Self {
        let ours = NAT.jumps.iter().chain(MANGLE.jumps).copied();
        let jumps = saved
            .lines()
            .filter_map(|line| line.strip_prefix("-A "))
            .filter_map(|rule| ours.clone().find(|jump| *jump == rule.trim_end()))
            .collect();
        let declares =
            |line: &str, chain: &str| line.strip_prefix(':').is_some_and(|l| l.split(' ').next() == Some(chain));
        let chains = NAT.chains.iter().chain(MANGLE.chains).copied();
        let chains = chains.filter(|chain| saved.lines().any(|line| declares(line, chain))).collect();
        let rules = |chain| appended_to(saved, chain);
        let leading = LEADS.iter().filter(|(chain, rule)| rules(chain).any(|of| of.contains(rule)));
        Self { jumps, chains, leading: leading.map(|(chain, _)| *chain).collect() }
    }
    pub fn state(&self) -> State {
        let has = |jump| self.jumps.contains(&jump);
        let leads = |chains: &[&str]| chains.iter().all(|chain| self.leading.contains(chain));
        let redirected = has(JUMP_IN) && leads(&["FUSEWIRE_INBOUND", "FUSEWIRE_INBOUND_PORTS"]);
        let taken = has(JUMP_TPROXY) && has(JUMP_ANSWERS) && leads(MANGLE.chains);
        let outbound = has(JUMP_OUT) && leads(&["FUSEWIRE_OUTBOUND", "FUSEWIRE_OUTBOUND_PORTS"]);
        let names = has(JUMP_DNS) == leads(&["FUSEWIRE_DNS"]);
        match outbound && names && (redirected || taken) {
            true => State::Whole,
            false if self.jumps.is_empty() => State::Unused,
            false => State::Part,
        }
    }
}

/// The rules of a chain, without its name.
fn appended_to<'a>(saved: &'a str, chain: &str) -> impl Iterator<Item = &'a str> {
    let begin = format!("-A {chain} ");
    saved.lines().filter_map(move |line| line.strip_prefix(&begin))
}

/// Puts our chains in place of what there is of them (`--noflush` empties a chain that is declared again).
pub fn iptables_up(rules: &Rules, family: Family, there: &Jumps) -> String {
    let wanted = match rules.by {
        Inbound::Redirect => NAT.chains,
        Inbound::Tproxy => OUTBOUND,
    };
    let mut text = begun(&NAT, wanted, there);
    let mut add = |chain: &str, rule: &str| {
        let _ = writeln!(text, "-A {chain} {rule}"); // writing to a String cannot fail
    };
    if rules.by == Inbound::Redirect {
        not_ours_to_take(rules, family, &mut |rule| add("FUSEWIRE_INBOUND", rule));
        add("FUSEWIRE_INBOUND", "-j FUSEWIRE_INBOUND_PORTS");
        let redirect = format!("REDIRECT --to-ports {}", rules.inbound_port);
        included(&rules.inbound, &redirect, &mut |rule| add("FUSEWIRE_INBOUND_PORTS", &rule));
    }
    for owner in rules.left_alone() {
        add("FUSEWIRE_OUTBOUND", &owned(owner));
    }
    if let Some(port) = rules.dns_port {
        add("FUSEWIRE_OUTBOUND", &format!("-p tcp --dport 53 -j REDIRECT --to-ports {port}"));
        for owner in rules.left_alone() {
            add("FUSEWIRE_DNS", &owned(owner));
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
    let redirect = format!("REDIRECT --to-ports {}", rules.outbound_port);
    included(&rules.outbound, &redirect, &mut |rule| add("FUSEWIRE_OUTBOUND_PORTS", &rule));
    let inwards = (rules.by == Inbound::Redirect).then_some(JUMP_IN);
    for jump in inwards.into_iter().chain([JUMP_OUT]).chain(rules.dns_port.map(|_| JUMP_DNS)) {
        let _ = writeln!(text, "-A {jump}");
    }
    text.push_str("COMMIT\n");
    match rules.by {
        Inbound::Redirect => text + &taken_out(&MANGLE, there).unwrap_or_default(),
        Inbound::Tproxy => text + &tproxy(rules, family, there),
    }
}

/// What comes in as it is, and the answers to those that the application is called by.
fn tproxy(rules: &Rules, family: Family, there: &Jumps) -> String {
    let mut text = begun(&MANGLE, MANGLE.chains, there);
    let mut add = |chain: &str, rule: &str| {
        let _ = writeln!(text, "-A {chain} {rule}");
    };
    not_ours_to_take(rules, family, &mut |rule| add("FUSEWIRE_TPROXY", rule));
    add("FUSEWIRE_TPROXY", "-j FUSEWIRE_TPROXY_PORTS");
    included(&rules.inbound, "FUSEWIRE_TAKEN", &mut |rule| add("FUSEWIRE_TPROXY_PORTS", &rule));
    add("FUSEWIRE_TAKEN", &format!("-p tcp --syn -j CONNMARK --set-mark {TAKEN:#x}"));
    // drops what no socket is there for
    let port = rules.inbound_port;
    add("FUSEWIRE_TAKEN", &format!("-p tcp -m connmark --mark {TAKEN:#x} -j TPROXY --on-port {port}"));
    let answers = format!("{ANSWERS:#x}");
    let from_us = format!("-m mark --mark {answers} -m conntrack --ctdir ORIGINAL -j CONNMARK --set-mark {answers}");
    let to_us = format!("-m connmark --mark {answers} -m conntrack --ctdir REPLY -j MARK --set-mark {answers}");
    add("FUSEWIRE_ANSWERS", &from_us);
    add("FUSEWIRE_ANSWERS", &to_us);
    for jump in MANGLE.jumps {
        let _ = writeln!(text, "-A {jump}");
    }
    text + "COMMIT\n"
}

/// Takes out what is there of ours; `None`: nothing is.
pub fn iptables_down(there: &Jumps) -> Option<String> {
    let all: String = [NAT, MANGLE].iter().filter_map(|ours| taken_out(ours, there)).collect();
    (!all.is_empty()).then_some(all)
}

/// Puts back what there was of ours, from what `iptables-save` printed `before`. `None`: there was nothing, and is nothing.
pub fn iptables_back(before: &str, there: &Jumps) -> Option<String> {
    let was = Jumps::of(before);
    let one = |ours: &Ours| {
        let wanted: Vec<&str> = was.chains.iter().filter(|chain| ours.chains.contains(chain)).copied().collect();
        if wanted.is_empty() {
            return taken_out(ours, there);
        }
        let mut text = begun(ours, &wanted, there);
        for chain in &wanted {
            appended_to(before, chain).for_each(|rule| text += &format!("-A {chain} {rule}\n"));
        }
        for jump in was.jumps.iter().filter(|jump| ours.jumps.contains(jump)) {
            text += &format!("-A {jump}\n");
        }
        Some(text + "COMMIT\n")
    };
    let all: String = [NAT, MANGLE].iter().filter_map(one).collect();
    (!all.is_empty()).then_some(all)
}

/// The chains that are `wanted`, empty, and no other; nobody jumps to them yet.
fn begun(ours: &Ours, wanted: &[&str], there: &Jumps) -> String {
    let mut text = format!("*{}\n", ours.table);
    for chain in wanted {
        let _ = writeln!(text, ":{chain} - [0:0]");
    }
    for jump in there.jumps.iter().filter(|jump| ours.jumps.contains(jump)) {
        let _ = writeln!(text, "-D {jump}");
    }
    let old: Vec<_> = there.chains.iter().filter(|c| ours.chains.contains(c) && !wanted.contains(c)).collect();
    for flag in ["-F", "-X"] {
        for chain in &old {
            let _ = writeln!(text, "{flag} {chain}");
        }
    }
    text
}

fn taken_out(ours: &Ours, there: &Jumps) -> Option<String> {
    let is_there = there.jumps.iter().any(|jump| ours.jumps.contains(jump))
        || there.chains.iter().any(|chain| ours.chains.contains(chain));
    is_there.then(|| begun(ours, &[], there) + "COMMIT\n")
}

/// What comes in and stays as it is, but for ports that are not included.
fn not_ours_to_take(rules: &Rules, family: Family, rule: &mut impl FnMut(&str)) {
    rule("-i lo -j RETURN");
    if family == Family::V4 {
        rule("-d 127.0.0.0/8 -j RETURN");
    }
    rule("-m addrtype ! --dst-type LOCAL -j RETURN");
    except_ports(&rules.inbound, &mut |excluded| rule(&excluded));
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

fn included(ports: &Ports, target: &str, rule: &mut impl FnMut(String)) {
    if ports.only.is_empty() {
        rule(format!("-p tcp -j {target}"));
    }
    for range in PortRange::merged(&ports.only) {
        rule(format!("-p tcp --dport {} -j {target}", range.written(':')));
    }
}
