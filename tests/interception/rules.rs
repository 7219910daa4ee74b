//! What `fusewire intercept` puts in place and takes out.

use crate::host::{FUSEWIRE, intercept};
use fusewire_testkit::netns::{Host, Network};
use std::os::unix::process::CommandExt;
use std::process::Output;

const BACKENDS: [&str; 3] = ["nft", "iptables-nft", "iptables-legacy"];
const UP: [&str; 9] = [
    "up",
    "--uid",
    "1337",
    "--exclude-inbound-ports",
    "15008,15020-15029",
    "--exclude-outbound-ports",
    "22",
    "--exclude-outbound-cidrs",
    "192.0.2.0/24,2001:db8::/32",
];

/// Everything that the kernel has, whichever tool put it there; counters left out.
fn ruleset(host: &Host) -> String {
    let mut text = String::new();
    for tool in ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"] {
        text += &format!("{tool}\n{}", host.told(tool, &["-t", "nat", "-S"]));
    }
    text + &host.told("nft", &["list", "ruleset"])
}

/// Rules of others, in our base chains and beside them, with names like ours.
fn others(host: &Host) {
    for tool in ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"] {
        host.told(tool, &["-t", "nat", "-N", "FUSEWIRED"]);
        host.told(tool, &["-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "7", "-j", "FUSEWIRED"]);
        host.told(tool, &["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "7", "-j", "RETURN"]);
    }
    host.told("nft", &["add", "table", "inet", "fusewired"]);
    host.told("nft", &["add", "table", "ip", "fusewire"]);
}

#[test]
fn up_twice_is_once_and_down_leaves_everything_as_it_was() {
    let network = Network::new(1);
    let host = network.host(1);
    others(host);
    let before = ruleset(host);
    assert_eq!(status(host), (1, "nothing is redirected by fusewire here\n".into()));
    for backend in BACKENDS {
        let with = |arguments: &[&str]| intercept(host, &[&["--backend", backend], arguments].concat());
        with(&UP);
        let once = ruleset(host);
        assert_ne!(once, before, "{backend}");
        with(&UP);
        assert_eq!(ruleset(host), once, "{backend}: up twice");
        let (code, said) = status(host);
        assert!(code == 0 && said.contains("in place") && said.contains("15001"), "{backend}: {said}");
        with(&["down"]);
        assert_eq!(ruleset(host), before, "{backend}: down");
        with(&["down"]);
        assert_eq!(ruleset(host), before, "{backend}: down twice");
    }
}

#[test]
fn status_says_the_same_to_programs() {
    let network = Network::new(1);
    let host = network.host(1);
    let told = || {
        let out = host.command(FUSEWIRE).args(["intercept", "status", "-o", "json"]).output().unwrap();
        let said: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        (out.status.code().unwrap(), said)
    };
    assert_eq!(told(), (1, serde_json::json!({"in_place": false, "by": [], "routes": []})));
    for (backend, tools) in [
        ("nft", &["nft"][..]),
        ("iptables-nft", &["iptables-nft-restore", "ip6tables-nft-restore"]),
        ("iptables-legacy", &["iptables-legacy-restore", "ip6tables-legacy-restore"]),
    ] {
        intercept(host, &[&["--backend", backend], &UP[..]].concat());
        let (code, said) = told();
        assert_eq!((code, &said["in_place"]), (0, &true.into()), "{said:#}");
        let by = said["by"].as_array().unwrap();
        let names: Vec<_> = by.iter().map(|one| one["by"].as_str().unwrap()).collect();
        assert_eq!(names, tools, "{said:#}");
        for one in by {
            assert_eq!(one["state"], "in place");
            assert!(
                one["rules"].as_array().unwrap().iter().any(|rule| rule.as_str().unwrap().contains("15001")),
                "{said:#}"
            );
        }
    }
    // somebody took one of the ways out
    host.told("iptables-legacy", &["-t", "nat", "-D", "OUTPUT", "-p", "tcp", "-j", "FUSEWIRE_OUTBOUND"]);
    let (code, said) = told();
    assert_eq!((code, &said["in_place"]), (3, &false.into()), "{said:#}");
    assert_eq!((&said["by"][0]["state"], &said["by"][1]["state"]), (&"in part".into(), &"in place".into()));
}

#[test]
fn up_replaces_what_another_tool_or_other_wishes_put_there() {
    let network = Network::new(1);
    let host = network.host(1);
    intercept(host, &["--backend", "nft", "up", "--uid", "1"]);
    let wanted = host.told("nft", &["list", "ruleset"]);
    for backend in BACKENDS {
        intercept(host, &[&["--backend", backend], &UP[..]].concat());
        let (_, said) = status(host);
        assert_eq!(said.matches("in place").count(), if backend == "nft" { 1 } else { 2 }, "{backend}: {said}");
        intercept(host, &["--backend", "nft", "up", "--uid", "1"]);
        assert_eq!(host.told("nft", &["list", "table", "inet", "fusewire"]), wanted, "{backend}");
        assert_eq!(status(host).1.matches("in place").count(), 1);
    }
    intercept(host, &["down"]);
    assert_eq!(status(host).0, 1);
}

#[test]
fn a_rehearsal_prints_the_rules_that_the_tools_take_and_changes_nothing() {
    let network = Network::new(1);
    let host = network.host(1);
    let printed = intercept(host, &[&["--dry-run", "--backend", "nft"], &UP[..]].concat());
    assert!(host.told("nft", &["list", "ruleset"]).is_empty());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &printed).unwrap();
    host.told("nft", &["-f", file.path().to_str().unwrap()]);
    let by_hand = host.told("nft", &["list", "ruleset"]);
    intercept(host, &UP);
    assert_eq!(host.told("nft", &["list", "ruleset"]), by_hand);
    let printed = intercept(host, &["--dry-run", "down"]);
    assert_eq!(printed, "table inet fusewire {\n}\ndelete table inet fusewire\n");
    assert_eq!(host.told("nft", &["list", "ruleset"]), by_hand);
    let printed = intercept(host, &[&["--dry-run", "--backend", "iptables"], &UP[..]].concat());
    assert!(printed.contains("# iptables-restore --noflush\n*nat\n"), "{printed}");
    assert!(
        printed.contains("# ip6tables-restore --noflush\n*nat\n") && printed.contains("-d 2001:db8::/32"),
        "{printed}"
    );
}

#[test]
fn without_the_permission_it_says_which_and_how_to_give_it() {
    let network = Network::new(1);
    for arguments in [&UP[..], &["down"]] {
        let mut command = network.host(1).command("setpriv");
        // as root without the capability, which is what a container without it is
        command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", FUSEWIRE, "intercept"]);
        let out = command.uid(0).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && said.contains("CAP_NET_ADMIN") && said.contains("NET_ADMIN"), "{said}");
    }
}

/// `fusewire intercept` where some programs are not installed.
pub(crate) fn without(host: &Host, programs: &[&str], arguments: &[&str]) -> Output {
    let hidden: String = programs.iter().map(|p| format!("mount --bind /dev/null $(command -v {p}) && ")).collect();
    let script = format!("{hidden} exec \"$0\" intercept \"$@\"");
    host.command("unshare").args(["-m", "sh", "-c", &script, FUSEWIRE]).args(arguments).output().unwrap()
}

#[test]
fn it_takes_iptables_where_there_is_no_nft_and_says_what_to_install_where_there_is_neither() {
    let network = Network::new(1);
    let host = network.host(1);
    let out = without(host, &["nft"], &UP);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("by iptables-restore"), "{said}");
    assert!(status(host).1.contains("ip6tables"), "both families: {}", status(host).1);
    intercept(host, &["down"]);
    let all = ["nft", "xtables-nft-multi", "xtables-legacy-multi"];
    for (backend, wanted) in [
        ("auto", "neither nft nor iptables is installed (install nftables"),
        ("nft", "nft is not installed (install nftables, or use --backend iptables)"),
        ("iptables-legacy", "iptables-legacy-restore is not installed"),
    ] {
        let out = without(host, &all, &[&["--backend", backend], &UP[..]].concat());
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && said.contains(wanted), "{backend}: {said}");
    }
    assert_eq!(status(host).0, 1);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_changed() {
    let network = Network::new(1);
    let host = network.host(1);
    let cases: [(&[&str], &str); 7] = [
        (&["up"], "--uid"),
        (&["up", "--uid", "1", "--inbound-port", "15001"], "two listeners"),
        (&["up", "--uid", "1", "--exclude-outbound-ports", "0"], "must be a port"),
        (&["up", "--uid", "1", "--include-outbound-cidrs", "10.0.0.0/33"], "must be a network"),
        (&["up", "--mark", "0x0"], "must be a mark"),
        (&["up", "--mark", "0xf05e"], "must be a mark"),
        (&["up", "--uid", "1", "--outbound-port", "0"], "outbound-port"),
    ];
    for (arguments, wanted) in cases {
        let out = host.command(FUSEWIRE).arg("intercept").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && said.contains(wanted), "{arguments:?}: {said}");
    }
    assert!(host.told("nft", &["list", "ruleset"]).is_empty());
}

pub(crate) fn status(host: &Host) -> (i32, String) {
    let out = host.command(FUSEWIRE).args(["intercept", "status"]).output().unwrap();
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap())
}
