//! Beginnings and ends: what restarts, stops, crashes and stalls costs the traffic, which is nothing where it can be.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use fusewire_testkit::client::{Answer, App, Gate, get, get_unix, send};
use fusewire_testkit::load::Load;
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::process::accepts;
use fusewire_testkit::raw::Conn;
use fusewire_testkit::{Mesh, Pair, eventually, free_port, h2c};
use http::{Request, Response};
use http_body_util::Full;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");

/// Service `shop` of three instances, each an application behind its sidecar, and `web` that calls it.
struct Fleet {
    web: Sidecar,
    shops: Vec<Sidecar>,
    apps: Vec<Option<App>>,
    ports: Vec<u16>,
    asked: Vec<Arc<AtomicUsize>>,
    _mesh: Mesh,
}

/// Answers with the request's body, and counts.
fn echo(port: u16, asked: &Arc<AtomicUsize>) -> App {
    let asked = asked.clone();
    App::start(port, move |request: Request<Bytes>| {
        asked.fetch_add(1, Ordering::SeqCst);
        Response::new(Full::new(request.into_body()))
    })
}

impl Fleet {
    fn new() -> Self {
        let asked: Vec<_> = (0..3).map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let apps: Vec<_> = asked.iter().map(|asked| Some(echo(0, asked))).collect();
        let ports: Vec<u16> = apps.iter().flatten().map(|app| app.port).collect();
        let inbound: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let mut yaml = String::from(
            "policies:\n  shop:\n    breaker: {instance: {consecutive: 3, open: {base: 200ms, max: 400ms}, slow_start: 0s}}\nservices:\n  shop:\n    \
             policy: shop\n    allow: [web]\n    instances:\n",
        );
        for (n, (port, inbound)) in ports.iter().zip(&inbound).enumerate() {
            yaml += &format!("      - {{id: shop-{n}, address: 127.0.0.1:{port}, sidecar: 127.0.0.1:{inbound}}}\n");
        }
        let mesh = Mesh::new(FUSEWIRE, &yaml);
        let shops: Vec<Sidecar> = inbound
            .iter()
            .enumerate()
            .map(|(n, port)| mesh.sidecar("shop", &format!("shop-{n}"), Some(*port)))
            .collect();
        let web = mesh.sidecar("web", "web-1", None);
        let fleet = Self { web, shops, apps, ports, asked, _mesh: mesh };
        eventually("every instance is asked", || {
            fleet.get();
            fleet.asked.iter().all(|n| n.load(Ordering::SeqCst) > 0)
        });
        fleet
    }
    fn get(&self) -> Answer {
        get(self.web.outbound, "shop", "/").unwrap()
    }
    fn start_app(&mut self, n: usize) {
        self.apps[n] = Some(echo(self.ports[n], &self.asked[n]));
    }
    /// Waits until instance `n` is asked once more, by load that is there already.
    #[track_caller]
    fn is_asked_again(&self, n: usize) {
        let before = self.asked[n].load(Ordering::SeqCst);
        eventually(&format!("shop-{n} is asked again"), || self.asked[n].load(Ordering::SeqCst) > before);
        let name = format!("shop-{n}");
        eventually(&format!("{name}'s circuit is closed"), || self.web.circuit(&name).as_deref() == Some("closed"));
    }
}

fn a_get(_: usize) -> Request<Full<Bytes>> {
    Request::get("/").header("host", "shop").body(Full::default()).unwrap()
}

fn a_post(number: usize) -> Request<Full<Bytes>> {
    let body = format!("order {number}: {}", "x".repeat(number % 500));
    Request::post("/orders").header("host", "shop").body(Full::new(body.into())).unwrap()
}

fn load(web: &Sidecar, make: fn(usize) -> Request<Full<Bytes>>) -> Load {
    Load::start(web.outbound, 4, Duration::from_millis(4), make)
}

#[track_caller]
fn no_failures(load: Load) {
    let answered = load.answered();
    let failed = load.stop();
    assert!(failed.is_empty(), "{} of some {answered} failed: {:#?}", failed.len(), &failed[..failed.len().min(10)]);
}

// -- the control plane

#[test]
fn traffic_goes_on_without_the_control_plane_and_a_change_arrives_after_its_return() {
    let app = App::start(0, |r: Request<Bytes>| Response::new(Full::new(r.into_body())));
    let yaml = |name: &str| {
        format!(
            "policies:\n  default: {{plain: allow}}\nservices:\n  shop: {{instances: [\"127.0.0.1:{0}\"]}}\n  {name}: {{instances: [\"127.0.0.1:{0}\"]}}\n",
            app.port
        )
    };
    let mut mesh = Mesh::new(FUSEWIRE, &yaml("cart"));
    let web = mesh.sidecar("web", "web-1", None);
    let load = load(&web, a_get);
    eventually("traffic flows", || load.answered() > 20);
    mesh.kill_control();
    eventually("the sidecar notices", || web.metric("fusewire_config_connected") == Some(0.0));
    let before = load.answered();
    eventually("traffic goes on", || load.answered() > before + 100);
    assert_eq!(web.get("/ready").unwrap().0, 200);
    mesh.configure(&yaml("bank"));
    mesh.start_control(&[]);
    eventually("the change arrives", || get(web.outbound, "bank", "/").unwrap().status == 200);
    assert_eq!(web.metric("fusewire_config_connected"), Some(1.0));
    no_failures(load);
}

#[test]
fn sidecars_that_restart_while_the_control_plane_is_away_serve_from_disk() {
    let app = App::saying(0, "hello");
    let mut pair = Pair::new(FUSEWIRE, app.port);
    for authority in fusewire_testkit::pair::BOTH {
        assert_eq!(get(pair.port(), authority, "/").unwrap().text(), "hello");
    }
    for (instance, word) in [("web-1", "plain-1"), ("shop-1", "spiffe://")] {
        let file = pair.mesh.path(&format!("{instance}/resources.pb"));
        eventually(&format!("{instance} has kept its configuration"), || {
            std::fs::read(&file).is_ok_and(|all| all.windows(word.len()).any(|w| w == word.as_bytes()))
        });
    }
    pair.mesh.kill_control();
    assert!(pair.shop.process.stop().success());
    pair.web.process.kill();
    for sidecar in [&mut pair.shop, &mut pair.web] {
        sidecar.restart();
        sidecar.wait_ready();
    }
    for authority in fusewire_testkit::pair::BOTH {
        assert_eq!(get(pair.port(), authority, "/").unwrap().text(), "hello", "{authority}");
    }
    let config = pair.web.socket("/config");
    assert_eq!((&config["connected"], &config["identity"]["id"].is_string()), (&false.into(), &true), "{config:#}");
}

#[test]
fn a_sidecar_that_stands_still_holds_back_no_other() {
    let app = App::saying(0, "hello");
    let yaml = |name: &str| {
        format!(
            "policies:\n  default: {{plain: allow}}\nservices:\n  {name}: {{instances: [\"127.0.0.1:{}\"]}}\n",
            app.port
        )
    };
    let mesh = Mesh::new(FUSEWIRE, &yaml("shop"));
    let (still, quick) = (mesh.sidecar("web", "web-1", None), mesh.sidecar("web", "web-2", None));
    for web in [&still, &quick] {
        assert_eq!(get(web.outbound, "shop", "/").unwrap().status, 200);
    }
    still.process.signal("STOP");
    for name in ["bank", "cart", "desk"] {
        mesh.configure(&yaml(name));
        eventually(&format!("{name} is known to the other"), || get(quick.outbound, name, "/").unwrap().status == 200);
    }
    let status = mesh.status();
    let current = |instance: &str| {
        let all = status["sidecars"].as_array().unwrap();
        all.iter().find(|s| s["instance"] == instance).map(|s| s["current"].clone())
    };
    assert_eq!((current("web-1"), current("web-2")), (Some(false.into()), Some(true.into())), "{status:#}");
    still.process.signal("CONT");
    eventually("it catches up", || get(still.outbound, "desk", "/").unwrap().status == 200);
}

// -- instances

/// GET and POST in turn.
fn mixed(n: usize) -> Request<Full<Bytes>> {
    if n.is_multiple_of(2) { a_get(n) } else { a_post(n) }
}

/// `crash`, under load: no request fails, the circuit opens on evidence of connecting alone, and closes after the return.
fn crash_and_return(crash: fn(&mut Fleet), back: fn(&mut Fleet)) {
    let mut fleet = Fleet::new();
    crash(&mut fleet);
    let load = load(&fleet.web, mixed);
    let mut event = Value::Null;
    eventually("the circuit opens", || {
        let events = fleet.web.socket("/breakers/events");
        let opened = |e: &&Value| e["instance"] == "shop-1" && e["from"] == "closed" && e["to"] == "open";
        event = events.as_array().and_then(|all| all.iter().find(opened).cloned()).unwrap_or_default();
        !event.is_null()
    });
    assert_eq!((&event["reason"], &event["soft"]), (&"consecutive".into(), &0.into()), "{event:#}");
    assert!(event["hard"].as_u64() >= Some(3), "{event:#}");
    back(&mut fleet);
    fleet.is_asked_again(1);
    no_failures(load);
}

#[test]
fn an_application_that_crashes_behind_its_sidecar_fails_no_request_and_is_used_again_after_its_return() {
    crash_and_return(|fleet| fleet.apps[1] = None, |fleet| fleet.start_app(1));
}

#[test]
fn an_instance_that_crashes_with_its_sidecar_fails_no_request_and_is_used_again_after_its_return() {
    crash_and_return(
        |fleet| {
            fleet.apps[1] = None;
            fleet.shops[1].process.kill();
        },
        |fleet| {
            fleet.start_app(1);
            fleet.shops[1].restart();
        },
    );
}

/// One after another, each application leaves, its sidecar is told to end, both return.
fn rolling_restart(make: fn(usize) -> Request<Full<Bytes>>, leave: fn(App)) {
    let mut fleet = Fleet::new();
    let load = load(&fleet.web, make);
    for n in 0..3 {
        leave(fleet.apps[n].take().unwrap());
        let status = fleet.shops[n].process.stop();
        assert!(status.success(), "shop-{n}'s sidecar: {status}");
        fleet.start_app(n);
        fleet.shops[n].restart();
        fleet.shops[n].wait_ready();
        fleet.is_asked_again(n);
    }
    no_failures(load);
}

#[test]
fn a_rolling_restart_of_instances_fails_no_get_even_if_applications_close_idle_connections_at_once() {
    rolling_restart(a_get, App::leave_in_haste);
}

/// A request that is on its way when its connection is closed may have been processed: only GETs and the like are sent
/// again then. So an application that wants to lose no POST says `connection: close` before it closes.
#[test]
fn a_rolling_restart_of_instances_fails_no_post() {
    rolling_restart(a_post, App::leave);
}

#[test]
fn a_rolling_restart_of_sidecars_alone_fails_no_request() {
    let mut fleet = Fleet::new();
    let load = load(&fleet.web, mixed);
    for n in 0..3 {
        let status = fleet.shops[n].process.stop();
        assert!(status.success(), "shop-{n}'s sidecar: {status}");
        fleet.shops[n].restart();
        fleet.shops[n].wait_ready();
        fleet.is_asked_again(n);
    }
    no_failures(load);
}

#[test]
fn a_body_too_large_to_be_sent_again_fails_with_the_reason_why_it_was_not_taken() {
    let pair = Pair::new(FUSEWIRE, free_port());
    for size in [10, 100 << 10] {
        let body = Full::new(Bytes::from(vec![b'x'; size]));
        let request = Request::post("/").header("host", "shop").body(body).unwrap();
        let answer = send(pair.port(), request).unwrap();
        assert_eq!((answer.status, answer.header("fusewire-reason")), (503, Some("app-unreachable")), "{size} bytes");
    }
}

// -- the drain

/// An application that answers at `/held` only when the gate opens, and a sidecar before it that knows nobody else.
struct Held {
    gate: Gate,
    web: Sidecar,
    _app: App,
    _mesh: Mesh,
}

fn holding(gate: &Gate) -> App {
    let gate = gate.clone();
    App::start_async(0, move |request: Request<Bytes>| {
        let gate = gate.clone();
        async move {
            if request.uri().path() == "/held" {
                gate.pass().await;
            }
            Response::new(Full::new(Bytes::from_static(b"done")))
        }
    })
}

impl Held {
    fn new(section: &str) -> Self {
        let gate = Gate::shut();
        let app = holding(&gate);
        let world = format!(
            "policies:\n  default: {{plain: allow}}\nservices:\n  shop: {{instances: [\"127.0.0.1:{}\"]}}\n",
            app.port
        );
        let mesh = Mesh::without_control(FUSEWIRE);
        let web = mesh.sidecar_alone("web-1", None, &format!("  workload: web\n{section}"), &world);
        web.wait_ready();
        Self { gate, web, _app: app, _mesh: mesh }
    }
    /// A connection with a request on it that waits at the gate.
    fn asked(&self) -> Conn {
        let mut conn = Conn::connect(self.web.outbound);
        let before = self.gate.reached();
        conn.say("GET /held HTTP/1.1\r\nhost: shop\r\n\r\n");
        eventually("the request is at the application", || self.gate.reached() > before);
        conn
    }
    #[track_caller]
    fn told_to_end(&self) {
        self.web.process.signal("TERM");
        eventually("it drains", || self.web.process.output().contains("draining"));
    }
    #[track_caller]
    fn code(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the sidecar ends", || {
            status = self.web.process.ended();
            status.is_some()
        });
        status.unwrap().code()
    }
}

#[test]
fn sigterm_finishes_what_runs_closes_what_is_idle_takes_nothing_new_and_exits_with_0() {
    let mut held = Held::new("");
    let mut idle = Conn::connect(held.web.outbound);
    idle.say("GET / HTTP/1.1\r\nhost: shop\r\n\r\n");
    let (head, _) = idle.answer().unwrap();
    assert_eq!((head.status(), head.header("connection")), (200, None), "{head:?}");
    let mut busy = held.asked();

    held.told_to_end();
    assert_eq!(idle.rest().unwrap(), b"", "an idle connection is closed at once, without a word");
    eventually("nothing new is taken", || !accepts(held.web.outbound));
    let (status, why) = held.web.get("/ready").unwrap();
    assert_eq!((status, why.contains("draining")), (503, true), "{why}");
    assert_eq!(held.web.get("/live").unwrap().0, 200);
    assert!(held.web.process.ended().is_none(), "it left a request behind");

    held.gate.open();
    let (head, body) = busy.answer().unwrap();
    assert_eq!((head.status(), body.as_str(), head.header("connection")), (200, "done", Some("close")), "{head:?}");
    assert_eq!(busy.rest().unwrap(), b"");
    assert_eq!(held.code(), Some(0));
}

#[test]
fn sigterm_says_goaway_on_http2_and_lets_its_streams_end() {
    let mut held = Held::new("");
    h2c::run(async {
        let client = h2c::client(held.web.outbound).await;
        let (response, _) = {
            let mut client = client.clone().ready().await.unwrap();
            client.send_request(h2c::request("GET", "shop/held").body(()).unwrap(), true).unwrap()
        };
        eventually("the request is at the application", || held.gate.reached() == 1);
        held.told_to_end();
        let mut goodbye = None;
        while goodbye.is_none() {
            goodbye = client.clone().ready().await.err();
            tokio::task::yield_now().await;
        }
        let goodbye = goodbye.unwrap();
        assert!(goodbye.is_go_away() && goodbye.reason() == Some(h2::Reason::NO_ERROR), "{goodbye:?}");
        held.gate.open();
        let (head, mut body) = response.await.unwrap().into_parts();
        assert_eq!((head.status.as_u16(), h2c::whole(&mut body).await.unwrap().as_ref()), (200, &b"done"[..]));
    });
    assert_eq!(held.code(), Some(0));
}

#[test]
fn an_instance_whose_sidecar_ends_still_answers_what_its_peers_have_asked() {
    let gate = Gate::shut();
    let app = holding(&gate);
    let mut pair = Pair::new(FUSEWIRE, app.port);
    let port = pair.port();
    let asked = std::thread::spawn(move || get(port, "shop", "/held").unwrap());
    eventually("the request is at the application", || gate.reached() == 1);
    pair.shop.process.signal("TERM");
    eventually("nothing new is taken", || !accepts(pair.shop.inbound));
    gate.open();
    let answer = asked.join().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
    let mut status = None;
    eventually("the sidecar ends", || {
        status = pair.shop.process.ended();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0));
}

#[test]
fn what_has_not_ended_by_the_drains_deadline_is_cut() {
    let mut held = Held::new("  drain_timeout: 300ms\n");
    let mut busy = held.asked();
    held.told_to_end();
    assert_eq!(held.code(), Some(0));
    assert!(busy.answer().is_err(), "no answer can have come");
    assert!(held.web.process.output().contains("what is left is cut"));
}

#[test]
fn a_second_sigterm_ends_a_drain_at_once() {
    let mut held = Held::new("  drain_timeout: 1h\n");
    let mut busy = held.asked();
    held.told_to_end();
    held.web.process.signal("TERM");
    assert_eq!(held.code(), Some(1));
    assert!(busy.answer().is_err(), "no answer can have come");
}

// -- what it tells

/// Field names in order, beside what they hold.
fn fields(line: &Value) -> Vec<&str> {
    line.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn every_request_writes_one_line_of_json_at_either_end_with_the_documented_fields() {
    let app = App::start(0, |_| Response::new(Full::new(Bytes::from_static(b"hello"))));
    let pair = Pair::new(FUSEWIRE, app.port);
    let request = Request::post("/orders?card=4111").header("host", "shop").body(Full::new(Bytes::from_static(b"abc")));
    assert_eq!(send(pair.port(), request.unwrap()).unwrap().status, 200);
    assert_eq!(get(pair.port(), "nowhere", "/lost").unwrap().status, 404);

    let out = pair.logged(&pair.web, "/orders");
    let wanted = [
        "time",
        "direction",
        "protocol",
        "method",
        "authority",
        "path",
        "status",
        "service",
        "instance",
        "attempts",
        "first_byte_us",
        "duration_us",
        "bytes_in",
        "bytes_out",
        "trace_id",
        "span_id",
        "sampled",
    ];
    assert_eq!(fields(&out), wanted);
    let of = |line: &Value, names: &[&str]| -> Vec<Value> { names.iter().map(|n| line[*n].clone()).collect() };
    let told = of(&out, &["direction", "protocol", "method", "authority", "path", "status", "service", "instance"]);
    assert_eq!(Value::from(told).to_string(), r#"["outbound","h1","POST","shop","/orders",200,"shop","shop-1"]"#);
    assert_eq!(Value::from(of(&out, &["attempts", "bytes_in", "bytes_out"])).to_string(), "[1,3,5]");
    let micros = |name: &str| out[name].as_u64().unwrap();
    assert!(0 < micros("first_byte_us") && micros("first_byte_us") <= micros("duration_us"), "{out}");
    let time = out["time"].as_str().unwrap();
    assert!(time.len() == "2026-01-01T00:00:00.000000Z".len() && time.ends_with('Z'), "{time}");

    let inner = pair.logged(&pair.shop, "/orders");
    assert_eq!(fields(&inner), [&wanted[..2], &["peer"], &wanted[2..]].concat());
    assert!(inner["peer"].as_str().unwrap().ends_with("/web"), "{inner}");
    let told = of(&inner, &["direction", "protocol", "service", "instance", "status", "bytes_in", "bytes_out"]);
    assert_eq!(Value::from(told).to_string(), r#"["inbound","h2","shop","app",200,3,5]"#);

    let lost = pair.logged(&pair.web, "/lost");
    assert_eq!((&lost["status"], &lost["reason"]), (&404.into(), &"no-route".into()), "{lost}");
    assert!(lost["detail"].is_string() && lost.get("service").is_none() && lost.get("instance").is_none(), "{lost}");
    assert_eq!((pair.web.access_log().len(), pair.shop.access_log().len()), (2, 1));
}

#[test]
fn health_and_metrics_are_for_everybody_and_the_rest_for_the_owner_of_the_socket() {
    let held = Held::new("");
    assert_eq!(get(held.web.outbound, "shop", "/").unwrap().status, 200);
    for (path, wanted) in
        [("/live", "live"), ("/ready", "ready"), ("/metrics", "# TYPE fusewire_responses_total counter")]
    {
        let (status, text) = held.web.get(path).unwrap();
        assert_eq!((status, text.contains(wanted)), (200, true), "{path}: {text}");
    }
    for path in ["/config", "/breakers", "/breakers/events", "/", "/config/", "//config"] {
        assert_eq!(held.web.get(path).unwrap().0, 404, "{path}");
    }
    let post = Request::post("/ready").header("host", "admin").body(Full::default()).unwrap();
    assert_eq!(send(held.web.admin, post).unwrap().status, 405);

    let socket = held._mesh.path("web-1/sidecar.sock");
    assert_eq!(get_unix(&socket, "/config")["services"][0]["name"], "shop");
    assert_eq!(get_unix(&socket, "/breakers")["breakers"][0]["circuit"], "closed");
    assert_eq!(get_unix(&socket, "/breakers/events"), Value::Array(Vec::new()));
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    // what a stopped sidecar leaves is not in the way of the next
    let mut web = held.web;
    web.process.kill();
    web.restart();
    web.wait_ready();
    assert!(web.process.stop().success());
    assert!(!socket.exists(), "a sidecar that ends takes its socket with it");
}
