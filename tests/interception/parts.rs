//! Rules that are there in part, and what `up` leaves where it fails.

use crate::host::{FUSEWIRE, intercept};
use crate::rules::status;
use crate::tproxy::everything;
use fusewire_testkit::netns::{Host, Network};
use std::os::unix::fs::PermissionsExt;

const UP: [&str; 3] = ["up", "--gid", "1337"];
/// The exit code.
const IN_PART: i32 = 3;

fn in_place(host: &Host) -> bool {
    let out = host.command(FUSEWIRE).args(["intercept", "status", "-o", "json"]).output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    said["in_place"].as_bool().unwrap()
}

/// `broken`: a program and its arguments that take something away.
#[track_caller]
fn is_in_part(host: &Host, up: &[&str], broken: &str) {
    intercept(host, up);
    assert!(status(host).0 == 0 && in_place(host), "{up:?}");
    let (program, arguments) = broken.split_once(' ').unwrap();
    host.told(program, &arguments.split(' ').collect::<Vec<_>>());
    let (code, said) = status(host);
    assert!(code == IN_PART && !in_place(host) && said.contains("run `up` again"), "{broken}: {code} {said}");
    intercept(host, up);
    assert_eq!(status(host).0, 0, "{broken}: mended");
    intercept(host, &["down"]);
    assert_eq!(status(host).0, 1);
}

#[test]
fn what_is_there_in_part_is_not_in_place() {
    let network = Network::new(1);
    let host = network.host(1);
    let nft = ["up", "--gid", "1337", "--backend", "nft"];
    for broken in [
        "nft flush table inet fusewire",
        "nft flush chain inet fusewire outbound",
        "nft delete chain inet fusewire inbound",
    ] {
        is_in_part(host, &nft, broken);
    }
    is_in_part(host, &[&nft[..], &["--tproxy"]].concat(), "nft delete chain inet fusewire answers");
    is_in_part(host, &[&nft[..], &["--tproxy"]].concat(), "ip -6 rule del priority 1337");
    is_in_part(host, &[&nft[..], &["--tproxy"]].concat(), "ip -4 route flush table 61534");
    is_in_part(host, &[&nft[..], &["--dns-port", "15053"]].concat(), "ip rule del priority 1338");
    for variant in ["nft", "legacy"] {
        let backend = format!("iptables-{variant}");
        let up = [&UP[..], &["--backend", &backend]].concat();
        for broken in [
            format!("iptables-{variant} -t nat -D PREROUTING -p tcp -j FUSEWIRE_INBOUND"),
            format!("iptables-{variant} -t nat -F FUSEWIRE_OUTBOUND_PORTS"),
            format!("ip6tables-{variant} -t nat -F FUSEWIRE_OUTBOUND"),
            // nothing of one family is left but its chains
            format!("iptables-{variant} -t nat -F"),
        ] {
            is_in_part(host, &up, &broken);
        }
    }
}

/// `fusewire intercept` where the kernel has no NAT for IPv6, as that looks to it.
fn without_nat_for_ipv6(host: &Host, arguments: &[&str]) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("ip6tables-legacy-restore");
    let script = "#!/bin/sh\ncat > /dev/null\necho \"can't initialize ip6tables table 'nat'\" >&2\nexit 3\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let out = host.command(FUSEWIRE).arg("intercept").args(arguments).env("PATH", path).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn rules_that_cannot_be_had_in_one_family_are_put_in_in_none() {
    let network = Network::new(1);
    let host = network.host(1);
    let legacy = ["--backend", "iptables-legacy"];
    let wanted = ["up", "--gid", "1337", "--tproxy", "--dns-port", "15053"];
    let fails = || {
        let (done, said) = without_nat_for_ipv6(host, &[&legacy[..], &wanted].concat());
        assert!(!done && said.contains("as they were") && said.contains("ip6tables table"), "{said}");
    };
    let before = everything(host);
    fails();
    assert_eq!(everything(host), before);
    assert_eq!(status(host).0, 1);
    // and what was there is there again
    for old in [&["up", "--gid", "1", "--exclude-outbound-ports", "22"][..], &["up", "--uid", "2", "--tproxy"]] {
        intercept(host, &[&legacy[..], old].concat());
        let before = everything(host);
        fails();
        assert_eq!(everything(host), before, "{old:?}");
        assert_eq!(status(host).0, 0);
    }
}

#[test]
fn where_ipv6_is_switched_off_tproxy_does_without_its_routes() {
    let network = Network::new(1);
    let host = network.host(1);
    host.told("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"]);
    let before = everything(host);
    for backend in ["nft", "iptables-nft", "iptables-legacy"] {
        intercept(host, &["--backend", backend, "up", "--gid", "1337", "--tproxy", "--dns-port", "15053"]);
        let (code, said) = status(host);
        assert!(code == 0 && said.contains("answers over IPv4 come back"), "{backend}: {said}");
        intercept(host, &["down"]);
        assert_eq!(everything(host), before, "{backend}: down");
    }
}
