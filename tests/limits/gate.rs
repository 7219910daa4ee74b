//! The gate: who is shed, what is said, and for how long a slot is held.

use crate::FUSEWIRE;
use fusewire_testkit::client::{App, Gate, get};
use fusewire_testkit::pair::Shape;
use fusewire_testkit::raw::{Conn, Deaf, Server};
use fusewire_testkit::{Mesh, Pair, eventually, free_port, h2c};
use http::{Request, Response};
use http_body_util::Full;
use serde_json::Value;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// One at a time, whatever comes: the smallest gate there is.
const ONE: &str = "limit: {inbound: {algorithm: aimd, initial: 1, min: 1, max: 1}}";

fn one() -> Shape<'static> {
    Shape { policy: ONE, ..Shape::default() }
}

fn in_flight(pair: &Pair) -> Value {
    pair.shop.socket("/limits")["inbound"][0]["in_flight"].clone()
}

/// Answers `/hold` when told to, and everything else at once.
fn holding() -> (App, Gate) {
    let gate = Gate::shut();
    let held = gate.clone();
    let app = App::start_async(0, move |request: Request<bytes::Bytes>| {
        let held = held.clone();
        async move {
            if request.uri().path() == "/hold" {
                held.pass().await;
            }
            Response::new(Full::default())
        }
    });
    (app, gate)
}

fn hold(port: u16) -> Conn {
    let mut conn = Conn::connect(port);
    conn.say("GET /hold HTTP/1.1\r\nhost: shop\r\n\r\n");
    conn
}

#[test]
fn who_finds_no_place_at_the_application_is_told_so_and_may_go_elsewhere() {
    let (app, gate) = holding();
    let pair = Pair::shaped(FUSEWIRE, app.port, &one());
    let mut held = hold(pair.port());
    eventually("one is at the application", || gate.reached() == 1);
    let shed = get(pair.port(), "shop", "/shed").unwrap();
    assert_eq!((shed.status, shed.header("fusewire-reason")), (503, Some("overloaded")));
    assert_eq!(shed.header("fusewire-not-processed"), None, "that is for sidecars");
    let grpc = h2c::run(async {
        let request = h2c::request("POST", "shop/a.B/C").header("content-type", "application/grpc");
        h2c::call(&h2c::client(pair.port()).await, request).await.unwrap()
    });
    assert_eq!((grpc.status().as_u16(), grpc.headers()["grpc-status"].as_bytes()), (200, &b"14"[..]));
    let line = pair.logged(&pair.shop, "/shed");
    assert_eq!((&line["status"], &line["reason"], &line["attempts"]), (&503.into(), &"overloaded".into(), &0.into()));
    assert!(line["detail"].as_str().is_some_and(|d| d.starts_with("limit.inbound")), "{line}");
    assert_eq!(pair.web.circuit("shop-1").as_deref(), Some("closed"));
    eventually("the gauges show it", || {
        let of = |name: &str| pair.shop.metric(&format!("fusewire_{name}{{service=\"shop\",port="));
        of("inbound_limit") == Some(1.0) && of("inbound_in_flight") == Some(1.0) && of("inbound_phase") == Some(0.0)
    });
    let refused = "fusewire_limit_refused_total{direction=\"inbound\",service=\"shop\",limit=\"concurrency\"}";
    assert!(pair.shop.metric(refused) >= Some(2.0));
    gate.open();
    assert_eq!(held.answer().unwrap().0.status(), 200);
    assert_eq!(get(pair.port(), "shop", "/").unwrap().status, 200);
    let shown = pair.mesh.run(&["limits", "--socket", "shop-1/sidecar.sock"]);
    assert!(shown.lines().any(|l| l.starts_with("shop ") && l.contains("aimd")), "{shown}");
    let shown = pair.mesh.run(&["limits", "--socket", "web-1/sidecar.sock"]);
    assert!(shown.lines().any(|l| l.starts_with("shop ") && l.contains("/1024")), "{shown}");
}

#[test]
fn what_one_instance_sheds_another_answers() {
    let (slow, gate) = holding();
    let quick = App::saying(0, "quick");
    let (first, second) = (free_port(), free_port());
    let mesh = Mesh::new(
        FUSEWIRE,
        &format!(
            "policies:\n  one: {{{ONE}}}\nservices:\n  shop:\n    policy: one\n    allow: [web, cron]\n    instances:\n      \
             - {{id: shop-1, address: 127.0.0.1:{}, sidecar: 127.0.0.1:{first}}}\n      \
             - {{id: shop-2, address: 127.0.0.1:{}, sidecar: 127.0.0.1:{second}}}\n",
            slow.port, quick.port
        ),
    );
    let shops = [mesh.sidecar("shop", "shop-1", Some(first)), mesh.sidecar("shop", "shop-2", Some(second))];
    let (web, cron) = (mesh.sidecar("web", "web-1", None), mesh.sidecar("cron", "cron-1", None));
    let mut held = Vec::new();
    eventually("another caller holds the first", || {
        held.push(hold(cron.outbound));
        gate.reached() == 1
    });
    eventually("the first sheds, and nobody notices", || {
        assert_eq!(get(web.outbound, "shop", "/").unwrap().text(), "quick");
        shops[0].access_log().iter().any(|line| line["path"] == "/" && line["reason"] == "overloaded")
    });
    assert_eq!(web.circuit("shop-1").as_deref(), Some("closed"));
    eventually("its log says that two were asked", || {
        web.access_log().iter().any(|line| line["status"] == 200 && line["attempts"] == 2)
    });
    gate.open();
}

#[test]
fn a_slot_is_held_until_the_application_answers_though_its_caller_has_gone() {
    let (tell, told) = channel();
    let (answer, may) = channel::<()>();
    let may = std::sync::Mutex::new(may);
    // an application that does not notice that nobody waits any more
    let app = Server::http(move |conn, head| {
        if head.path() == "/work" {
            tell.send(()).unwrap();
            let _ = may.lock().unwrap().recv();
        }
        conn.try_say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_ok()
    });
    let pair = Pair::shaped(FUSEWIRE, app.port, &one());
    let mut leaves = Conn::connect(pair.port());
    leaves.say("GET /work HTTP/1.1\r\nhost: shop\r\n\r\n");
    told.recv().unwrap();
    leaves.reset();
    assert_eq!(pair.logged(&pair.shop, "/work")["reason"], "client-gone");
    assert_eq!(get(pair.port(), "shop", "/").unwrap().status, 503, "it still works on what was abandoned");
    let gate = pair.shop.socket("/limits")["inbound"][0].clone();
    assert_eq!((&gate["in_flight"], &gate["abandoned"]), (&1.into(), &1.into()), "{gate}");
    answer.send(()).unwrap();
    eventually("the slot is free", || in_flight(&pair) == 0);
    assert_eq!(get(pair.port(), "shop", "/").unwrap().status, 200);
    assert_eq!(pair.shop.socket("/limits")["inbound"][0]["abandoned"], 0);
}

#[test]
fn an_application_that_can_stop_is_told_that_its_caller_has_gone() {
    let (tell, told) = channel();
    let app = Server::start(move |mut conn| {
        let head = conn.head();
        if head.is_ok_and(|h| h.path() == "/work") {
            tell.send("asked").unwrap();
            let _ = conn.rest();
            tell.send("left alone").unwrap();
        }
    });
    let pair = Pair::shaped(FUSEWIRE, app.port, &one());
    let mut leaves = Conn::connect(pair.port());
    leaves.say("GET /work HTTP/1.1\r\nhost: shop\r\n\r\n");
    assert_eq!(told.recv(), Ok("asked"));
    drop(leaves);
    assert_eq!(told.recv(), Ok("left alone"));
    eventually("the slot is free", || in_flight(&pair) == 0);
}

#[test]
fn settings_change_in_flight_and_what_is_counted_stays() {
    let (app, gate) = holding();
    let inbound = free_port();
    let yaml = |most: u32| {
        format!(
            "policies:\n  p: {{limit: {{inbound: {{algorithm: aimd, initial: {most}, min: {most}, max: {most}}}}}}}\n\
             services:\n  shop: {{policy: p, allow: [web], instances: [{{id: shop-1, address: 127.0.0.1:{}, \
             sidecar: 127.0.0.1:{inbound}}}]}}\n",
            app.port
        )
    };
    let mesh = Mesh::new(FUSEWIRE, &yaml(1));
    let shop = mesh.sidecar("shop", "shop-1", Some(inbound));
    let web = mesh.sidecar("web", "web-1", None);
    let limit_is = |most: u32| {
        eventually(&format!("the limit is {most}"), || shop.socket("/limits")["inbound"][0]["limit"] == most);
    };
    let mut first = hold(web.outbound);
    eventually("one is at the application", || gate.reached() == 1);
    mesh.configure(&yaml(2));
    limit_is(2);
    let mut second = hold(web.outbound);
    eventually("two are at the application", || gate.reached() == 2);
    assert_eq!(get(web.outbound, "shop", "/").unwrap().status, 503, "the first still counts");
    gate.open();
    assert_eq!((first.answer().unwrap().0.status(), second.answer().unwrap().0.status()), (200, 200));
    let shed = shop.socket("/limits")["inbound"][0]["shed"].clone();
    mesh.configure(&yaml(1).replace("{algorithm: aimd, initial: 1, min: 1, max: 1}", "off"));
    eventually("there is no guard", || shop.socket("/limits")["inbound"][0]["algorithm"] == "off");
    assert_eq!(get(web.outbound, "shop", "/").unwrap().status, 200);
    assert_eq!(shop.socket("/limits")["inbound"][0]["shed"], shed);
}

#[test]
fn an_application_that_takes_no_more_connections_is_overloaded_and_not_dead() {
    let mut deaf = Deaf::new();
    let pair = Pair::new(FUSEWIRE, deaf.port);
    let mut first = Conn::connect(pair.port());
    first.say("GET /first HTTP/1.1\r\nhost: shop\r\n\r\n");
    deaf.answer_one();
    assert_eq!(first.answer().unwrap().0.status(), 200);
    deaf.fill();
    let began = Instant::now();
    let answer = get(pair.port(), "shop", "/").unwrap();
    assert_eq!((answer.status, answer.header("fusewire-reason")), (503, Some("overloaded")));
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(pair.web.circuit("shop-1").as_deref(), Some("closed"));
    assert_eq!(pair.logged(&pair.shop, "/")["detail"], "the application takes no more connections");
}
