//! The resolver beside an application: names of the mesh get virtual addresses, everything else is upstream's to answer.

#![allow(clippy::unwrap_used)]

#[path = "dns/beyond.rs"]
mod beyond;
#[path = "dns/upstream.rs"]
mod upstream;

use fusewire_testkit::dns::{NameServer, Over, RecordType, ResponseCode, Script, ask};
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::{Mesh, eventually, free_port};
use std::net::{IpAddr, SocketAddr};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
const WORLD: &str = "services:\n  shop: {instances: [{id: shop-1, address: 127.0.0.1:9}]}\n  db: {protocol: opaque, instances: []}\n\
                     routes:\n  front:\n    authority: [front.example]\n    to: shop\n";

/// Where virtual addresses lead.
fn taken() -> String {
    format!("  intercept: {{outbound: 127.0.0.1:{}}}\n", free_port())
}

struct Town {
    upstream: NameServer,
    mesh: Mesh,
    web: Sidecar,
    resolver: SocketAddr,
}

impl Town {
    fn new() -> Self {
        let (upstream, mesh) = (NameServer::start(), Mesh::new(FUSEWIRE, WORLD));
        let resolver = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let more = format!("{}  dns: {{listen: {resolver}, upstream: {}}}\n", taken(), upstream.address);
        let web = mesh.sidecar_with("web", "web-1", None, &more);
        Self { upstream, mesh, web, resolver }
    }

    fn ask(&self, name: &str, kind: RecordType) -> (ResponseCode, Vec<IpAddr>) {
        ask(self.resolver, name, kind, Over::Udp).unwrap()
    }

    #[track_caller]
    fn virtual_address(&self, name: &str) -> IpAddr {
        let [udp, tcp] = [Over::Udp, Over::Tcp].map(|over| ask(self.resolver, name, RecordType::A, over).unwrap());
        assert_eq!(udp, tcp, "{name}");
        let (code, addresses) = udp;
        let [address] = addresses[..] else { panic!("{name}: {code} {addresses:?}") };
        assert!(matches!(address, IpAddr::V4(ip) if ip.octets()[0] == 240), "{name}: {address}");
        address
    }
}

#[test]
fn names_that_exist_only_in_the_mesh_have_virtual_addresses_that_outlive_restarts() {
    let mut town = Town::new();
    let names = ["shop.", "db.", "front.example.", "SHOP."];
    let addresses = names.map(|name| town.virtual_address(name));
    assert!(addresses[0] != addresses[1] && addresses[1] != addresses[2]);
    assert_eq!(addresses[0], addresses[3], "names know no case");
    let asked = town.upstream.asked("shop", "A");
    town.virtual_address("shop.");
    assert_eq!(town.upstream.asked("shop", "A"), asked, "what upstream has denied is not asked for again at once");
    assert_eq!(town.ask("shop.", RecordType::AAAA), (ResponseCode::NoError, vec![]), "it exists, not in IPv6");
    assert_eq!(town.ask("nowhere.", RecordType::A), (ResponseCode::NXDomain, vec![]));
    town.web.process.kill();
    town.web.restart();
    town.web.wait_ready();
    for (name, address) in names.into_iter().zip(addresses) {
        // it may not have heard of all of them again yet
        eventually("the same address", || town.ask(name, RecordType::A) == (ResponseCode::NoError, vec![address]));
    }
    let other = town.mesh.sidecar_with("web", "web-2", None, &format!("{}  dns: 127.0.0.1:{}\n", taken(), free_port()));
    assert!(other.get("/ready").is_some_and(|(status, _)| status == 200));
}

#[test]
fn what_upstream_knows_is_its_own_to_answer() {
    let town = Town::new();
    town.upstream.set("example.com", Script::addresses(&["192.0.2.7", "2001:db8::7"]));
    town.upstream.set("shop", Script::addresses(&["192.0.2.8"]));
    let ip = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
    let ask = |name, kind| town.ask(name, kind);
    assert_eq!(ask("example.com.", RecordType::A), (ResponseCode::NoError, ip("192.0.2.7")));
    assert_eq!(ask("example.com.", RecordType::AAAA), (ResponseCode::NoError, ip("2001:db8::7")));
    assert_eq!(ask("shop.", RecordType::A).1, ip("192.0.2.8"), "a name that exists outside is not taken over");
    assert_eq!(ask("db.", RecordType::SRV).0, ResponseCode::NXDomain, "the mesh has addresses only");
    eventually("both are counted", || {
        let count = |result: &str| town.web.metric(&format!("fusewire_dns_queries_total{{result=\"{result}\"}}"));
        count("forwarded") == Some(4.0) && count("mesh").is_none()
    });
}

#[test]
fn the_mesh_answers_while_upstream_is_silent_and_others_are_told_to_ask_again() {
    let town = Town::new();
    town.upstream.set("shop", Script::Silence);
    town.upstream.set("example.com", Script::Silence);
    town.upstream.set("db", Script::ServFail);
    town.virtual_address("shop.");
    town.virtual_address("db.");
    // it comes back, and knows one of them after all
    town.upstream.set("shop", Script::addresses(&["192.0.2.8"]));
    assert_eq!(town.ask("shop.", RecordType::A).1, ["192.0.2.8".parse::<IpAddr>().unwrap()]);
    assert_eq!(town.ask("example.com.", RecordType::A), (ResponseCode::ServFail, vec![]));
}

#[test]
fn a_service_that_leaves_the_mesh_leaves_the_resolver_and_finds_its_address_when_it_returns() {
    let town = Town::new();
    let address = town.virtual_address("shop.");
    town.mesh.configure("services: {other: {instances: []}}\n");
    eventually("it is gone", || town.ask("shop.", RecordType::A).0 == ResponseCode::NXDomain);
    town.mesh.configure(WORLD);
    eventually("it is back", || town.ask("shop.", RecordType::A) == (ResponseCode::NoError, vec![address]));
}
