//! Names that exist only in the mesh, for applications that ask the resolver of `/etc/resolv.conf` and nobody else.

use crate::host::{SHOP, World, curl};
use std::net::IpAddr;

/// With a way to the resolver, as every host has, and to nowhere else.
fn named() -> World {
    let world = World::new(SHOP);
    let configuration = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    let servers = configuration.lines().filter_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok());
    for server in servers.filter(|server: &IpAddr| !server.is_loopback()) {
        let by = if server.is_ipv4() { "10.77.0.3" } else { "fd77::3" };
        world.host(1).told("ip", &["route", "add", &server.to_string(), "via", by]);
    }
    world
}

#[test]
fn a_name_of_the_mesh_resolves_and_leads_through_both_sidecars_whatever_puts_the_rules_in() {
    let world = named();
    for backend in ["nft", "iptables-nft", "iptables-legacy"] {
        world.intercept(1, &["--dns-port", "15053", "--backend", backend]);
        // the virtual address has every port; the instance has its own
        let path = format!("/{backend}");
        let (status, body) = curl(world.host(1), &[&format!("http://shop{path}")]);
        assert!(status == 200 && body.starts_with(&format!("shop {path} ")), "{backend}: {status} {body}");
        assert_eq!(World::logged(&world.shop, &path)["peer"], "spiffe://fusewire.local/web", "{backend}");
        let echo = "import socket\ns = socket.create_connection(('echo', 7), 20)\ns.sendall(b'hello')\nprint(s.recv(5).decode())";
        assert_eq!(world.host(1).told("python3", &["-c", echo]), "hello\n", "{backend}: bytes, by the service's name");
        let out = world.host(1).run("curl", &["-s", "--max-time", "20", "http://nowhere.example/"]);
        assert_eq!(out.status.code(), Some(6), "{backend}: a name that nobody knows does not resolve");
        crate::host::intercept(world.host(1), &["down", "--backend", backend]);
        let left = world.host(1).run("iptables-legacy-save", &["-t", "nat"]);
        assert!(!String::from_utf8_lossy(&left.stdout).contains("FUSEWIRE"), "{backend}");
    }
    assert!(world.metric(1, "fusewire_dns_queries_total{result=\"mesh\"}") >= 6.0);
}

#[test]
fn who_asks_the_resolver_is_told_the_same_address_each_time() {
    let world = named();
    world.host(1).told("ip", &["route", "add", "default", "via", "10.77.0.3"]);
    world.intercept(1, &["--dns-port", "15053"]);
    let ask = "import socket\nprint(sorted({a[4][0] for a in socket.getaddrinfo('shop', 80)}))";
    let first = world.host(1).told("python3", &["-c", ask]);
    assert!(first.starts_with("['240."), "{first}");
    assert_eq!(world.host(1).told("python3", &["-c", ask]), first);
}
