//! For `nft -f -`. One transaction: the table is there before, or as it should be after, and never half.

use super::{ANSWERS, Cidr, Inbound, Owner, PortRange, Ports, Rules, State, TAKEN, VIRTUAL};
use std::fmt::{Display, Write};

/// Ours, for both families.
pub const TABLE: &str = "inet fusewire";

/// Puts the table in place of what there is of it.
pub fn nft_up(rules: &Rules) -> String {
    let mut text = nft_down();
    let mut line = |indent: usize, line: &str| {
        let _ = writeln!(text, "{:indent$}{line}", "", indent = 4 * indent); // writing to a String cannot fail
    };
    line(0, &format!("table {TABLE} {{"));
    line(1, "chain inbound {");
    line(
        2,
        match rules.by {
            Inbound::Redirect => "type nat hook prerouting priority -100; policy accept;",
            Inbound::Tproxy => "type filter hook prerouting priority -150; policy accept;",
        },
    );
    line(2, "meta l4proto != tcp return");
    line(2, "iifname \"lo\" return");
    for elsewhere in ["ip daddr 127.0.0.0/8", "fib daddr type != local"] {
        line(2, &format!("{elsewhere} return"));
    }
    by_port(&rules.inbound, &mut |rule| line(2, &rule));
    match rules.by {
        Inbound::Redirect => line(2, &format!("meta l4proto tcp redirect to :{}", rules.inbound_port)),
        Inbound::Tproxy => {
            line(2, &format!("tcp flags & (fin | syn | rst | ack) == syn ct mark set {TAKEN:#x}"));
            line(2, &format!("ct mark {TAKEN:#x} meta l4proto tcp tproxy to :{} accept", rules.inbound_port));
            line(2, &format!("ct mark {TAKEN:#x} drop"));
        }
    }
    line(1, "}");
    if rules.by == Inbound::Tproxy {
        line(1, "chain answers {");
        line(2, "type route hook output priority -150; policy accept;");
        line(2, "meta l4proto != tcp return");
        line(2, &format!("ct direction original meta mark {ANSWERS:#x} ct mark set {ANSWERS:#x}"));
        line(2, &format!("ct direction reply ct mark {ANSWERS:#x} meta mark set {ANSWERS:#x}"));
        line(1, "}");
    }
    line(1, "chain outbound {");
    line(2, "type nat hook output priority -100; policy accept;");
    if rules.dns_port.is_none() {
        line(2, "meta l4proto != tcp return");
    }
    for owner in rules.left_alone() {
        line(2, &owned(owner));
    }
    if let Some(port) = rules.dns_port {
        line(2, &format!("meta l4proto {{ tcp, udp }} th dport 53 redirect to :{port}"));
        line(2, "meta l4proto != tcp return");
        line(2, &format!("ip daddr {VIRTUAL} meta l4proto tcp redirect to :{}", rules.outbound_port));
    }
    line(2, "oifname \"lo\" return");
    by_address(rules, &mut |rule| line(2, &rule));
    by_port(&rules.outbound, &mut |rule| line(2, &rule));
    line(2, &format!("meta l4proto tcp redirect to :{}", rules.outbound_port));
    line(1, "}");
    line(0, "}");
    text
}

/// Takes the table out; no error where there is none.
pub fn nft_down() -> String {
    format!("table {TABLE} {{\n}}\ndelete table {TABLE}\n")
}

/// Of our table as `nft list table` prints it.
pub fn nft_state(table: &str) -> State {
    // `rule`: without it nothing is led to us; the last of a chain begins a line, unlike those for names alone
    let leads = |chain: &str, hook: &str, rule: &str| {
        let begin = format!("chain {chain} {{");
        let lines = table.lines().map(str::trim).skip_while(|line| *line != begin).take_while(|line| *line != "}");
        let lines: Vec<&str> = lines.collect();
        lines.iter().any(|line| line.contains(hook)) && lines.join("\n").contains(rule)
    };
    let taken = leads("inbound", "hook prerouting", "tproxy to")
        && leads("answers", "hook output", "ct direction original")
        && leads("answers", "hook output", "ct direction reply");
    let inbound = leads("inbound", "hook prerouting", "\nmeta l4proto tcp redirect to :") || taken;
    let outbound = leads("outbound", "hook output", "\nmeta l4proto tcp redirect to :");
    match (inbound, outbound) {
        (true, true) => State::Whole,
        _ if !["redirect to", "tproxy to"].iter().any(|rule| table.contains(rule)) => State::Unused,
        _ => State::Part,
    }
}

fn owned(owner: Owner) -> String {
    match owner {
        Owner::User(id) => format!("meta skuid {id} return"),
        Owner::Group(id) => format!("meta skgid {id} return"),
        Owner::Mark(mark) => format!("meta mark {mark:#x} return"),
    }
}

fn by_port(ports: &Ports, rule: &mut impl FnMut(String)) {
    let set = |all: &[PortRange]| set(PortRange::merged(all).into_iter().map(|range| range.written('-')));
    if !ports.except.is_empty() {
        rule(format!("tcp dport {} return", set(&ports.except)));
    }
    if !ports.only.is_empty() {
        rule(format!("tcp dport != {} return", set(&ports.only)));
    }
}

fn by_address(rules: &Rules, rule: &mut impl FnMut(String)) {
    for (v4, family) in [(true, "ip"), (false, "ip6")] {
        let except = Cidr::merged(&rules.except_to, v4);
        if !except.is_empty() {
            rule(format!("{family} daddr {} return", set(except)));
        }
    }
    if rules.only_to.is_empty() {
        return;
    }
    for (v4, family, protocol) in [(true, "ip", "ipv4"), (false, "ip6", "ipv6")] {
        let only = Cidr::merged(&rules.only_to, v4);
        rule(match only.is_empty() {
            true => format!("meta nfproto {protocol} return"),
            false => format!("{family} daddr != {} return", set(only)),
        });
    }
}

fn set(all: impl IntoIterator<Item = impl Display>) -> String {
    let all: Vec<String> = all.into_iter().map(|one| one.to_string()).collect();
    format!("{{ {} }}", all.join(", "))
}
