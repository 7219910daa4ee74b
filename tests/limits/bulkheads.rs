//! `limit.requests`, `pending`, `connections`: what one sidecar may use of a service at once.

use crate::FUSEWIRE;
use fusewire_testkit::client::{App, Gate, get};
use fusewire_testkit::mesh::{Mesh, Sidecar};
use fusewire_testkit::raw::Conn;
use fusewire_testkit::{eventually, free_port};
use http::Response;
use http_body_util::Full;

/// Holds every answer back.
fn holding() -> (App, Gate) {
    let gate = Gate::shut();
    let held = gate.clone();
    let app = App::start_async(0, move |_| {
        let held = held.clone();
        async move {
            held.pass().await;
            Response::new(Full::default())
        }
    });
    (app, gate)
}

fn plain(apps: &[u16], limit: &str) -> String {
    let instances: Vec<String> =
        apps.iter().map(|port| format!("{{id: a-{port}, address: 127.0.0.1:{port}}}")).collect();
    format!(
        "policies:\n  p: {{plain: allow, limit: {{{limit}}}}}\nservices:\n  shop: {{policy: p, instances: [{}]}}\n",
        instances.join(", ")
    )
}

fn ask(port: u16) -> Conn {
    let mut conn = Conn::connect(port);
    conn.say("GET / HTTP/1.1\r\nhost: shop\r\n\r\n");
    conn
}

fn of(web: &Sidecar, limit: &str, field: &str) -> u64 {
    web.socket("/limits")["outbound"][0][limit][field].as_u64().unwrap_or(u64::MAX)
}

#[test]
fn requests_in_flight_are_bounded_and_a_changed_bound_counts_those_that_are_there() {
    let (app, gate) = holding();
    let mesh = Mesh::new(FUSEWIRE, &plain(&[app.port], "requests: 2"));
    let web = mesh.sidecar("web", "web-1", None);
    let mut held = vec![ask(web.outbound), ask(web.outbound)];
    eventually("two are at the application", || gate.reached() == 2);
    let over = get(web.outbound, "shop", "/over").unwrap();
    assert_eq!((over.status, over.header("fusewire-reason")), (503, Some("overloaded")));
    assert_eq!(over.header("fusewire-detail"), Some("limit.requests: all are taken"));
    mesh.configure(&plain(&[app.port], "requests: 3"));
    eventually("the bound is 3", || of(&web, "requests", "max") == 3);
    held.push(ask(web.outbound));
    eventually("three are at the application", || gate.reached() == 3);
    assert_eq!(get(web.outbound, "shop", "/over").unwrap().status, 503);
    assert_eq!((of(&web, "requests", "used"), of(&web, "requests", "refused")), (3, 2));
    let breaker = web.breaker(&format!("a-{}", app.port));
    assert_eq!((&breaker["window"]["total"], &breaker["in_flight"]), (&0.into(), &3.into()), "{breaker}");
    gate.open();
    for conn in &mut held {
        assert_eq!(conn.answer().unwrap().0.status(), 200);
    }
    assert_eq!(get(web.outbound, "shop", "/").unwrap().status, 200);
}

#[test]
fn who_finds_all_connections_taken_waits_for_one_and_not_too_many_wait() {
    let (app, gate) = holding();
    let mesh = Mesh::new(FUSEWIRE, &plain(&[app.port], "connections: 1, pending: 1"));
    let web = mesh.sidecar("web", "web-1", None);
    let mut first = ask(web.outbound);
    eventually("one is at the application", || gate.reached() == 1);
    let mut second = ask(web.outbound);
    eventually("one waits for a connection", || of(&web, "pending", "used") == 1);
    let over = get(web.outbound, "shop", "/over").unwrap();
    assert_eq!((over.status, over.header("fusewire-reason")), (503, Some("overloaded")));
    assert_eq!(over.header("fusewire-detail"), Some("limit.pending: all are taken"));
    gate.open();
    assert_eq!((first.answer().unwrap().0.status(), second.answer().unwrap().0.status()), (200, 200));
    assert_eq!((of(&web, "connections", "used"), of(&web, "pending", "used")), (1, 0));
    // idle where it is not needed, it makes room for one elsewhere
    let other = App::saying(free_port(), "other");
    mesh.configure(&plain(&[other.port], "connections: 1, pending: 1"));
    eventually("the other answers", || get(web.outbound, "shop", "/").unwrap().text() == "other");
    assert_eq!(of(&web, "connections", "used"), 1);
}

#[test]
fn nobody_waits_for_a_connection_longer_than_for_a_dial() {
    let (app, gate) = holding();
    let mesh = Mesh::new(
        FUSEWIRE,
        &plain(&[app.port], "connections: 1").replace("limit:", "timeout: {connect: 200ms}, limit:"),
    );
    let web = mesh.sidecar("web", "web-1", None);
    let _first = ask(web.outbound);
    eventually("one is at the application", || gate.reached() == 1);
    let over = get(web.outbound, "shop", "/over").unwrap();
    assert_eq!(over.header("fusewire-detail"), Some("limit.connections: all are taken"));
    assert_eq!((over.status, of(&web, "pending", "used")), (503, 0));
    let refused = "fusewire_limit_refused_total{direction=\"outbound\",service=\"shop\",limit=\"connections\"}";
    assert_eq!(web.metric(refused), Some(1.0));
    gate.open();
}
