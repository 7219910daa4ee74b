//! An application that is called by its callers' addresses.

use crate::host::{FUSEWIRE, GROUP, SHOP, World, curl, intercept, talk};
use crate::rules::{status, without};
use fusewire_testkit::netns::{Host, Network};
use fusewire_testkit::{Process, eventually};
use std::collections::HashSet;
use std::os::unix::process::CommandExt;

const BACKENDS: [&str; 3] = ["nft", "iptables-nft", "iptables-legacy"];
const TPROXY: &str = "allow, tproxy: true";

/// The shop's world with a service that tells who called it, and callers in clear let in.
fn mesh() -> String {
    let who = |name: &str, ip: &str| {
        format!(
            "  {name}:\n    identity: shop\n    protocol: opaque\n    instances: [{{id: {name}-1, address: '{ip}:8085', sidecar: \
             '{ip}:15008'}}]\n"
        )
    };
    format!("policies: {{default: {{plain: allow}}}}\n{SHOP}{}{}", who("who", "10.77.0.2"), who("who6", "[fd77::2]"))
}

fn world() -> World {
    let world = World::with(&mesh(), TPROXY);
    world.intercept(1, &[]);
    world
}

#[test]
fn the_application_sees_its_callers_address_over_mtls_and_in_clear_whatever_puts_the_rules_in() {
    let world = world();
    for backend in BACKENDS {
        world.intercept(2, &["--tproxy", "--backend", backend]);
        for (n, v4, v6) in [(1, "10.77.0.1", "fd77::1"), (3, "10.77.0.3", "fd77::3")] {
            for (ip, url, from) in [("10.77.0.2", "10.77.0.2", v4), ("fd77::2", "[fd77::2]", v6)] {
                let fields = if n == 1 { "" } else { "x-forwarded-for" };
                for version in ["--http1.1", "--http2-prior-knowledge"] {
                    let path = format!("/{backend}/{from}{version}");
                    let answer = curl(world.host(n), &[version, &format!("http://{url}:8080{path}")]);
                    assert_eq!(answer, (200, format!("shop {path} from={from} fields={fields}\n")));
                    let peer = &World::logged(&world.shop, &path)["peer"];
                    assert_eq!(peer.is_string(), n == 1, "{backend}: {path} by {peer}");
                }
                assert_eq!(talk(world.host(n), &format!("{ip}:8085"), ""), format!("from {from}"), "{backend}: bytes");
            }
        }
        // the mesh does not know this port
        let answer = curl(world.host(3), &["-k", "https://10.77.0.2:8084/own-tls"]);
        assert_eq!(answer, (200, "shop /own-tls from=10.77.0.3 fields=\n".into()), "{backend}");
        intercept(world.host(2), &["down", "--backend", backend]);
    }
    assert_eq!(world.metric(2, "fusewire_intercept_refused_total"), 0.0);
}

#[test]
fn callers_do_not_share_connections_to_the_application_and_each_uses_its_own_again() {
    let world = world();
    world.intercept(2, &["--tproxy"]);
    let port_of = |n: usize, path: &str| {
        let url = format!("http://10.77.0.2:8080{path}");
        let (status, said) = curl(world.host(n), &["-D", "-", &url]);
        let port =
            said.lines().find_map(|line| line.strip_prefix("x-caller-port: ")).map(|port| port.trim().to_owned());
        let from = format!("from=10.77.0.{n} ");
        assert!(status == 200 && said.contains(&from), "{said}");
        port.unwrap()
    };
    let mut used = [HashSet::new(), HashSet::new()];
    for _ in 0..10 {
        for (n, ports) in [1, 3].into_iter().zip(&mut used) {
            ports.insert(port_of(n, "/mine"));
        }
    }
    let [of_web, of_other] = used;
    assert!(of_web.is_disjoint(&of_other), "{of_web:?} {of_other:?}");
    assert!(of_web.len() < 10 && of_other.len() < 10, "some are used again: {of_web:?} {of_other:?}");
}

#[test]
fn what_calls_for_itself_or_from_loopback_is_answered_as_ever() {
    let world = world();
    world.intercept(2, &["--tproxy"]);
    let shop = world.host(2);
    for url in ["http://10.77.0.2:8080/own", "http://127.0.0.1:8080/own", "http://[fd77::2]:8080/own"] {
        let (status, body) = curl(shop, &[url]);
        assert!(status == 200 && body.starts_with("shop /own"), "{url}: {status} {body}");
    }
    assert!(World::log_of(&world.shop).is_empty(), "it does not come to the sidecar");
    // by its service's name the mesh chooses the instance, which is itself
    shop.told("ip", &["route", "add", "default", "via", "10.77.0.3"]);
    let answer = curl(shop, &["--connect-to", "shop:80:10.77.9.9:80", "http://shop/self"]);
    assert_eq!(answer, (200, "shop /self from=10.77.0.2 fields=\n".into()));
    // and what it calls is nobody's answer
    assert_eq!(curl(shop, &["http://10.77.0.3:8080/out"]), (200, "world /out from=10.77.0.2 fields=\n".into()));
}

#[test]
fn what_leads_back_to_the_sidecar_or_is_for_another_machine_is_refused() {
    let world = world();
    world.intercept(2, &["--tproxy"]);
    let other = world.host(3);
    for address in ["10.77.0.2:15001", "10.77.0.2:15006", "[fd77::2]:15006"] {
        assert_eq!(curl(other, &[&format!("http://{address}/")]).0, 0, "{address}");
    }
    assert_eq!(world.metric(2, "fusewire_intercept_refused_total"), 3.0);
    assert_eq!(curl(other, &["http://10.77.0.2:8083/"]).0, 0, "what listens on loopback alone is not opened");
    other.told("ip", &["route", "add", "10.99.0.1", "via", "10.77.0.2"]);
    assert_eq!(curl(other, &["--max-time", "2", "http://10.99.0.1:8080/elsewhere"]).0, 0);
    assert_eq!(world.metric(2, "fusewire_intercept_refused_total"), 3.0, "the rules leave it alone");
}

/// Nothing comes past the sidecar because it and the rules do not fit together.
#[test]
fn rules_and_a_sidecar_that_mean_different_things_let_nobody_in() {
    let world = World::new(&mesh());
    for backend in BACKENDS {
        world.intercept(2, &["--tproxy", "--backend", backend]);
        let answer = curl(world.host(3), &["--max-time", "2", "http://10.77.0.2:8080/"]);
        assert_eq!(answer.0, 0, "{backend}: no socket that may have it: {answer:?}");
    }
    drop(world);
    let world = self::world();
    world.intercept(2, &[]);
    assert_eq!(curl(world.host(3), &["http://10.77.0.2:8080/"]).0, 0);
    let log = world.shop.output();
    assert!(log.contains("the rules have to be those of `fusewire intercept up --tproxy`"), "{log}");
}

/// The socket is the one before's, which was made for what was set then.
#[test]
fn a_sidecar_takes_over_whether_tproxy_is_set_anew_or_no_more() {
    let mut world = World::new(&mesh());
    let file = world.dir.path().join("shop.yaml");
    let without = std::fs::read_to_string(&file).unwrap();
    for (n, setting, wish, from) in [(0, TPROXY, &["--tproxy"][..], "10.77.0.3"), (1, "allow", &[], "127.0.0.1")] {
        std::fs::write(&file, without.replace("unknown: allow", &format!("unknown: {setting}"))).unwrap();
        let mut command = world.host(2).command(FUSEWIRE);
        command.current_dir(world.dir.path()).args(["sidecar", "--take-over", "--config", "shop.yaml"]).gid(GROUP);
        let next = Process::start(&mut command, world.dir.path().join(format!("next-{n}.log")));
        eventually("it has taken over", || next.output().contains("taken over: the sidecar before this one drains"));
        world.shop = next;
        world.intercept(2, wish);
        let answer = curl(world.host(3), &["http://10.77.0.2:8080/"]);
        assert_eq!(answer, (200, format!("shop / from={from} fields=x-forwarded-for\n")), "{setting}");
    }
}

/// Everything that the kernel has, whichever tool put it there.
pub(crate) fn everything(host: &Host) -> String {
    let mut text = String::new();
    for tool in ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"] {
        for table in ["nat", "mangle"] {
            text += &format!("{tool}\n{}", host.told(tool, &["-t", table, "-S"]));
        }
    }
    for family in ["-4", "-6"] {
        text += &host.told("ip", &[family, "rule", "show"]);
        let routes = host.told("ip", &[family, "route", "show", "table", "all"]);
        // a link-local address is there when nobody else is found to have it
        text.extend(routes.lines().filter(|line| !line.contains("fe80:")).map(|line| format!("{line}\n")));
    }
    // what iptables-nft has, it has said above; its empty tables stay
    let tables = host.told("nft", &["list", "tables"]);
    for table in tables.lines().filter(|table| !table.ends_with(" nat") && !table.ends_with(" mangle")) {
        text += &host.told("nft", &[&["list"][..], &table.split(' ').collect::<Vec<_>>()].concat());
    }
    text
}

#[test]
fn up_twice_is_once_and_down_leaves_rules_and_routes_as_they_were() {
    let network = Network::new(1);
    let host = network.host(1);
    for family in ["-4", "-6"] {
        host.told("ip", &[family, "rule", "add", "fwmark", "0x539", "lookup", "133"]);
        host.told("ip", &[family, "route", "add", "local", "default", "dev", "lo", "table", "133"]);
    }
    // rules of others, without which the tools make base chains that they leave
    for tool in ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"] {
        for (table, chain) in [("nat", "PREROUTING"), ("nat", "OUTPUT"), ("mangle", "PREROUTING"), ("mangle", "OUTPUT")]
        {
            host.told(tool, &["-t", table, "-A", chain, "-p", "tcp", "--dport", "7", "-j", "RETURN"]);
        }
    }
    let before = everything(host);
    for backend in BACKENDS {
        let with = |arguments: &[&str]| intercept(host, &[&["--backend", backend], arguments].concat());
        let wishes = ["--exclude-inbound-ports", "22", "--include-inbound-ports", "80,443", "--dns-port", "15053"];
        let up = [&["up", "--gid", "1337", "--tproxy"], &wishes[..]].concat();
        with(&up);
        let once = everything(host);
        with(&up);
        assert_eq!(everything(host), once, "{backend}: up twice");
        let (code, said) = status(host);
        assert!(code == 0 && said.contains("in place"), "{backend}: {said}");
        assert_eq!(said.matches("come back, by ip rule 1337:").count(), 2, "{backend}: {said}");
        assert_eq!(said.matches("have a way, by ip rule 1338:").count(), 1, "{backend}: {said}");
        let rehearsed = with(&["--dry-run", "down"]);
        assert!(rehearsed.contains("# ip -4 rule del priority 1338 to 240.0.0.0/8 lookup 61535\n"), "{rehearsed}");
        assert!(rehearsed.contains("# ip -6 rule del priority 1337 fwmark 0xf05e lookup 61534\n"), "{rehearsed}");
        host.told("ip", &["rule", "del", "priority", "1337"]);
        let (code, said) = status(host);
        assert!(code == 3 && said.contains("not so that answers over IPv4 come back"), "{backend}: {said}");
        with(&up);
        assert_eq!(everything(host), once, "{backend}: mended");
        // the other form takes out what belongs to this one
        with(&["up", "--gid", "1337"]);
        let (code, said) = status(host);
        assert!(code == 0 && !said.contains("ip rule") && !said.contains("TPROXY"), "{backend}: {said}");
        with(&up);
        with(&["down"]);
        assert_eq!(everything(host), before, "{backend}: down");
        with(&["down"]);
        assert_eq!(everything(host), before, "{backend}: down twice");
        assert_eq!(status(host).0, 1);
    }
}

#[test]
fn what_is_lacking_is_said_with_its_remedy() {
    let network = Network::new(1);
    let host = network.host(1);
    let out = without(host, &["ip"], &["up", "--gid", "1", "--tproxy"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("install iproute2"), "{said}");
    assert!(host.told("nft", &["list", "ruleset"]).is_empty());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sidecar.yaml");
    std::fs::write(&file, "sidecar: {intercept: {inbound: '[::]:15006', tproxy: true}}\n").unwrap();
    let mut without_capability = host.command("setpriv");
    without_capability
        .args(["--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-net_admin,-net_raw"])
        .arg(FUSEWIRE);
    let out = without_capability.args(["sidecar", "--config"]).arg(&file).gid(GROUP).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("CAP_NET_ADMIN") && said.contains("tproxy"), "{said}");
}
