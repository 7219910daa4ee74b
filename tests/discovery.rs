//! Instances found by DNS: what callers use while answers flap, fail and end.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use fusewire_testkit::client::{App, get};
use fusewire_testkit::dns::{NameServer, Script};
use fusewire_testkit::load::Load;
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::{Mesh, eventually};
use http::{Request, Response};
use http_body_util::Full;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
const NAME: &str = "db.shop.example";

/// Applications on 127.0.0.1, 127.0.0.2 and so on, one port; each answers with its number.
struct Hosts {
    port: u16,
    apps: Vec<App>,
}

impl Hosts {
    fn start(count: u8) -> Self {
        let mut hosts = Self { port: 0, apps: Vec::new() };
        for n in 1..=count {
            let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, n), hosts.port));
            let app = App::start_at(address, move |_: Request<Bytes>| {
                std::future::ready(Response::new(Full::new(Bytes::from(n.to_string()))))
            });
            hosts.port = app.port;
            hosts.apps.push(app);
        }
        hosts
    }
}

fn script(hosts: &[u8]) -> Script {
    Script::Addresses(hosts.iter().map(|n| Ipv4Addr::new(127, 0, 0, *n).into()).collect(), 1)
}

fn mesh(server: &NameServer, dns: &str) -> (Mesh, Sidecar) {
    let yaml = format!(
        "policies:\n  default: {{plain: allow}}\nservices:\n  db:\n    dns: {{{dns}, server: {}, refresh: 1s}}\n",
        server.address
    );
    let mesh = Mesh::new(FUSEWIRE, &yaml);
    let web = mesh.sidecar("web", "web-1", None);
    (mesh, web)
}

/// The hosts that the caller's sidecar may use, by the last byte of their address.
fn known(web: &Sidecar) -> BTreeSet<u8> {
    let all = web.socket("/config");
    let services = all["services"].as_array().cloned().unwrap_or_default();
    let db = services.into_iter().find(|s| s["name"] == "db").unwrap_or(Value::Null);
    let instances = db["instances"].as_array().cloned().unwrap_or_default();
    let last = |i: &Value| match i["address"].as_str()?.parse().ok()? {
        SocketAddr::V4(v4) => Some(v4.ip().octets()[3]),
        SocketAddr::V6(_) => None,
    };
    instances.iter().filter_map(last).collect()
}

#[track_caller]
fn knows(web: &Sidecar, hosts: &[u8]) {
    eventually(&format!("the caller knows {hosts:?}"), || {
        // the first use subscribes
        let _ = get(web.outbound, "db", "/");
        known(web) == hosts.iter().copied().collect()
    });
}

fn load(web: &Sidecar) -> Load {
    Load::start(web.outbound, 4, Duration::from_millis(4), |_| {
        Request::get("/").header("host", "db").body(Full::default()).unwrap()
    })
}

#[track_caller]
fn no_failures(load: Load) {
    let failed = load.stop();
    assert!(failed.is_empty(), "{}: {:#?}", failed.len(), &failed[..failed.len().min(10)]);
}

#[test]
fn answers_that_flap_cost_no_request_and_subsets_add_up() {
    let hosts = Hosts::start(4);
    let server = NameServer::start();
    server.set_type(NAME, "AAAA", Script::Addresses(Vec::new(), 1));
    server.set_type(NAME, "A", script(&[1, 2, 3, 4]));
    let (_mesh, web) = mesh(&server, &format!("name: {NAME}, port: {}", hosts.port));
    knows(&web, &[1, 2, 3, 4]);
    let load = load(&web);
    // every kind of trouble in turn, between subsets of the same hosts
    let turns = vec![
        script(&[1, 2, 3]),
        script(&[4, 1, 2]),
        Script::ServFail,
        script(&[3, 4, 1]),
        Script::NxDomain,
        script(&[2, 3, 4]),
        Script::Addresses(Vec::new(), 1),
    ];
    server.set_type(NAME, "A", Script::Turns(turns));
    let asked = server.asked(NAME, "A");
    eventually("it was asked a whole turn", || {
        assert_eq!(known(&web), BTreeSet::from([1, 2, 3, 4]));
        server.asked(NAME, "A") >= asked + 8
    });
    no_failures(load);
}

#[test]
fn when_the_name_server_dies_the_last_answer_stays_in_force_also_over_a_restart() {
    let hosts = Hosts::start(2);
    let server = NameServer::start();
    server.set(NAME, script(&[1, 2]));
    let (mut mesh, web) = mesh(&server, &format!("name: {NAME}, port: {}", hosts.port));
    knows(&web, &[1, 2]);
    let load = load(&web);
    let address = server.address;
    drop(server);
    let log = |mesh: &Mesh| mesh.control.as_ref().unwrap().output();
    eventually("the control plane notices", || log(&mesh).contains("DNS fails"));
    assert_eq!(known(&web), BTreeSet::from([1, 2]));

    eventually("it is kept", || mesh.path("control/dns.json").exists());
    mesh.kill_control();
    mesh.start_control(&[]);
    eventually("the sidecar is back", || web.metric("fusewire_config_connected") == Some(1.0));
    // somebody who asks for the first time is told too
    let late = mesh.sidecar("web", "web-2", None);
    knows(&late, &[1, 2]);
    assert_eq!(known(&web), BTreeSet::from([1, 2]));

    let server = NameServer::start_on(address);
    server.set(NAME, script(&[2]));
    knows(&web, &[2]);
    no_failures(load);
}

#[test]
fn a_name_that_never_resolved_has_no_instances_until_it_does() {
    let hosts = Hosts::start(1);
    let server = NameServer::start();
    let (_mesh, web) = mesh(&server, &format!("name: {NAME}, port: {}", hosts.port));
    let answer = get(web.outbound, "db", "/").unwrap();
    assert_eq!((answer.status, answer.header("fusewire-reason")), (503, Some("no-instance")));
    server.set(NAME, script(&[1]));
    knows(&web, &[1]);
    assert_eq!(get(web.outbound, "db", "/").unwrap().text(), "1");
}

#[test]
fn srv_records_bring_ports_and_the_next_priority_takes_over_when_the_first_is_withdrawn() {
    let (primary, standby) = (App::saying(0, "primary"), App::saying(0, "standby"));
    let server = NameServer::start();
    let name = "_pg._tcp.shop.example";
    let records = |list: &[(u16, u16)]| {
        Script::Services(list.iter().map(|(p, port)| (*p, 1, *port, "host.shop.example".into())).collect(), 1)
    };
    server.set(name, records(&[(1, primary.port), (2, standby.port)]));
    server.set_type("host.shop.example", "A", script(&[1]));
    server.set_type("host.shop.example", "AAAA", Script::Addresses(Vec::new(), 1));
    let (_mesh, web) = mesh(&server, &format!("name: {name}, records: srv"));
    let said = |web: &Sidecar| get(web.outbound, "db", "/").unwrap().text();
    eventually("the primary answers", || said(&web) == "primary");
    for _ in 0..20 {
        assert_eq!(said(&web), "primary");
    }
    server.set(name, records(&[(2, standby.port)]));
    eventually("the standby alone answers", || (0..20).all(|_| said(&web) == "standby"));
}
