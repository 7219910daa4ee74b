//! Who calls the application.

use crate::host::{GROUP, SHOP, World, curl, intercept, talk};

fn plain(more: &str) -> String {
    format!("policies: {{default: {{plain: allow}}}}\n{}", SHOP.replace("  shop:\n", &format!("  shop:\n{more}")))
}

#[test]
fn a_caller_without_a_sidecar_is_refused_by_default() {
    let world = World::new(SHOP);
    world.intercept(2, &[]);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let args = [version, "-D", "-", "-o", "/dev/null", "http://10.77.0.2:8080/strict"];
        let (status, head) = curl(world.host(3), &args);
        assert!(status == 403 && head.contains("fusewire-reason: denied"), "{version}: {head}");
    }
    let line = World::logged(&world.shop, "/strict");
    assert_eq!(line["detail"], "no identity, and the policy does not say `plain: allow`", "{line}");
    assert_eq!(talk(world.host(3), "10.77.0.2:8081", "ping"), "", "bytes are ended");
    assert_eq!(talk(world.host(3), "10.77.0.2:8082", ""), "", "also where the server would speak first");
}

#[test]
fn a_caller_without_a_sidecar_is_let_in_where_the_policy_says_so_and_is_believed_nothing() {
    let world = World::new(&plain(""));
    world.intercept(2, &[]);
    let forged = ["-H", "fusewire-port: 8083", "-H", "fusewire-timeout: 1", "-H", "fusewire-upgrade: websocket"];
    for (version, path) in [("--http1.1", "/one"), ("--http2-prior-knowledge", "/two")] {
        for address in ["10.77.0.2", "[fd77::2]"] {
            let url = format!("http://{address}:8080{path}");
            let answer = curl(world.host(3), &[&[version, &url], &forged[..]].concat());
            assert_eq!(
                answer,
                (200, format!("shop {path} from=127.0.0.1 fields=x-forwarded-for\n")),
                "{version} {url}"
            );
        }
        let line = World::logged(&world.shop, path);
        assert_eq!((&line["direction"], &line["peer"]), (&"inbound".into(), &serde_json::Value::Null), "{line}");
    }
    assert_eq!(talk(world.host(3), "10.77.0.2:8081", "ping"), "ping", "bytes");
    assert_eq!(talk(world.host(3), "10.77.0.2:8082", ""), "220 shop", "a server that speaks first");
    // callers with a sidecar still prove who they are
    world.intercept(1, &[]);
    assert_eq!(curl(world.host(1), &["http://10.77.0.2:8080/proven"]).0, 200);
    assert_eq!(World::logged(&world.shop, "/proven")["peer"], "spiffe://fusewire.local/web");
}

#[test]
fn a_service_that_names_its_callers_takes_nobody_without_a_name() {
    let world = World::new(&plain("    allow: [web]\n"));
    world.intercept(2, &[]);
    assert_eq!(curl(world.host(3), &["http://10.77.0.2:8080/nameless"]).0, 403);
    let detail = World::logged(&world.shop, "/nameless")["detail"].clone();
    assert_eq!(detail, "no identity, and shop names who may call it");
    world.intercept(1, &[]);
    assert_eq!(curl(world.host(1), &["http://10.77.0.2:8080/named"]).0, 200);
}

/// The instance's sidecar is known by the application's own port, and the kernel brings it there.
#[test]
fn peers_may_come_by_the_applications_own_port() {
    let world =
        World::new(&SHOP.replace("sidecar: '10.77.0.2:15008'}]\n  shop6", "sidecar: '10.77.0.2:8080'}]\n  shop6"));
    world.intercept(1, &[]);
    world.intercept(2, &[]);
    let answer = curl(world.host(1), &["http://10.77.0.2:8080/same"]);
    assert_eq!(answer, (200, "shop /same from=127.0.0.1 fields=\n".into()));
    assert_eq!(World::logged(&world.shop, "/same")["peer"], "spiffe://fusewire.local/web");
}

#[test]
fn ports_that_the_mesh_does_not_know_stay_as_open_as_they_were_and_no_more() {
    let world = World::new(SHOP);
    world.intercept(2, &[]);
    let answer = curl(world.host(3), &["-k", "https://10.77.0.2:8084/own-tls"]);
    assert_eq!(answer, (200, "shop /own-tls from=10.77.0.2 fields=\n".into()));
    assert_eq!(curl(world.host(3), &["http://10.77.0.2:8083/"]).0, 0, "what listens on loopback alone is not opened");
    assert_eq!(curl(world.host(3), &["http://10.77.0.2:15020/ready"]).0, 0, "nor the sidecar's own");
    world.intercept(2, &["--exclude-inbound-ports", "8084"]);
    let answer = curl(world.host(3), &["-k", "https://10.77.0.2:8084/direct"]);
    assert_eq!(answer, (200, "shop /direct from=10.77.0.3 fields=\n".into()), "excluded: straight from the caller");
}

#[test]
fn ports_that_the_mesh_does_not_know_are_refused_where_that_is_asked_for() {
    let world = World::with(SHOP, "refuse");
    world.intercept(2, &[]);
    assert_eq!(curl(world.host(3), &["-k", "https://10.77.0.2:8084/"]).0, 0);
    world.intercept(2, &["--include-inbound-ports", "8080,15008"]);
    assert_eq!(curl(world.host(3), &["-k", "https://10.77.0.2:8084/"]).0, 200, "not included: straight to it");
}

/// Redirection comes before the kernel decides what is for this machine at all.
#[test]
fn what_is_for_another_machine_or_for_loopback_is_not_let_in_by_the_redirection() {
    let world = World::new(SHOP);
    world.intercept(2, &[]);
    let other = world.host(3);
    assert_eq!(curl(other, &["http://10.77.0.2:8080/known"]).0, 403, "the way is there, and strict");
    other.told("ip", &["route", "add", "10.99.0.1", "via", "10.77.0.2"]);
    // a neighbour whose own loopback is out of the way can send packets for ours
    for command in [
        "ip addr del 127.0.0.1/8 dev lo",
        "ip route add 127.0.0.1/32 via 10.77.0.2",
        "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet",
    ] {
        other.told("sh", &["-c", command]);
    }
    let nobody_gets_in = || {
        for address in ["10.99.0.1:8080", "10.99.0.1:8081", "127.0.0.1:8080", "127.0.0.1:8083"] {
            let answer = curl(other, &["--max-time", "2", &format!("http://{address}/elsewhere")]);
            assert_eq!(answer.0, 0, "{address}: {answer:?}");
        }
    };
    nobody_gets_in();
    assert_eq!(world.metric(2, "fusewire_intercept_refused_total"), 0.0, "the rules leave them alone");
    // rules of other making may not: then the sidecar refuses them
    let rules = intercept(world.host(2), &["--dry-run", "up", "--gid", &GROUP.to_string()]);
    let open: Vec<&str> = rules.lines().filter(|l| !l.contains("fib daddr") && !l.contains("127.0.0.0/8")).collect();
    let file = world.dir.path().join("open.nft");
    std::fs::write(&file, open.join("\n") + "\n").unwrap();
    world.host(2).told("nft", &["-f", file.to_str().unwrap()]);
    nobody_gets_in();
    assert!(world.metric(2, "fusewire_intercept_refused_total") >= 4.0, "they came to it");
    assert!(World::log_of(&world.shop).iter().all(|line| line["path"] != "/elsewhere"));
}
