//! Health checks: what an application's own sidecar, or the control plane, finds of it is what callers do, soon.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use fusewire_testkit::client::{App, get};
use fusewire_testkit::load::Load;
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::{Mesh, eventually, free_port};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
/// From a verdict to what callers do.
const SOON: Duration = Duration::from_secs(2);

/// What an application is like, in the test's hand.
#[derive(Clone, Default)]
struct Mood {
    /// `/ready` answers 503, and gRPC's health NOT_SERVING.
    unready: Arc<AtomicBool>,
    /// Everything else answers 500.
    broken: Arc<AtomicBool>,
    /// Requests that were no question for its health.
    served: Arc<AtomicUsize>,
    questions: Arc<AtomicUsize>,
}

impl Mood {
    fn app(&self, port: u16) -> App {
        let mood = self.clone();
        App::start(port, move |request: Request<Bytes>| {
            let grpc = request.uri().path() == "/grpc.health.v1.Health/Check";
            let question = grpc || request.uri().path() == "/ready";
            let (count, ill) = if question { (&mood.questions, &mood.unready) } else { (&mood.served, &mood.broken) };
            count.fetch_add(1, Ordering::SeqCst);
            if grpc {
                return serving(!ill.load(Ordering::SeqCst));
            }
            let mut response = Response::new(Full::new(request.into_body()));
            if ill.load(Ordering::SeqCst) {
                let code = if question { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::INTERNAL_SERVER_ERROR };
                *response.status_mut() = code;
            }
            response
        })
    }
    fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

/// A `HealthCheckResponse` in its frame.
fn serving(yes: bool) -> Response<Full<Bytes>> {
    let message = vec![0, 0, 0, 0, 2, 8, if yes { 1 } else { 2 }];
    let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", "0");
    head.body(Full::new(message.into())).unwrap()
}

const CHECK: &str = "health: {http: /ready, interval: 100ms, timeout: 500ms, up: 2, down: 2}";

/// `shop` of two instances, each with an application, and a caller.
struct Town {
    web: Sidecar,
    shops: Vec<Sidecar>,
    moods: [Mood; 2],
    apps: Vec<App>,
    mesh: Mesh,
}

impl Town {
    /// `sidecars`: the instances have some; otherwise they are plain.
    fn new(sidecars: bool, service: &str, policy: &str) -> Self {
        let moods = [Mood::default(), Mood::default()];
        let apps: Vec<App> = moods.iter().map(|mood| mood.app(0)).collect();
        let inbound = [free_port(), free_port()];
        let mut yaml = format!(
            "policies:\n  default: {{plain: allow{policy}}}\nservices:\n  shop:\n    {service}\n    instances:\n"
        );
        for n in 0..2 {
            let sidecar = if sidecars { format!(", sidecar: 127.0.0.1:{}", inbound[n]) } else { String::new() };
            yaml += &format!("      - {{id: shop-{n}, address: 127.0.0.1:{}{sidecar}}}\n", apps[n].port);
        }
        let mesh = Mesh::new(FUSEWIRE, &yaml);
        let shop = |n: usize| mesh.sidecar("shop", &format!("shop-{n}"), Some(inbound[n]));
        let shops = if sidecars { vec![shop(0), shop(1)] } else { Vec::new() };
        let web = mesh.sidecar("web", "web-1", None);
        let town = Self { web, shops, moods, apps, mesh };
        eventually("both are asked", || {
            get(town.web.outbound, "shop", "/").unwrap();
            town.moods.iter().all(|mood| mood.served() > 0)
        });
        town
    }
    /// What the caller's sidecar knows of an instance's health.
    fn known(&self, id: &str) -> serde_json::Value {
        let all = self.web.socket("/config");
        let services = all["services"].as_array().unwrap();
        let shop = services.iter().find(|s| s["name"] == "shop").unwrap();
        let found = shop["instances"].as_array().unwrap().iter().find(|i| i["id"] == id).unwrap();
        found["health"].clone()
    }
    fn load(&self) -> Load {
        Load::start(self.web.outbound, 4, Duration::from_millis(4), |_| {
            Request::get("/").header("host", "shop").body(Full::default()).unwrap()
        })
    }
    /// Instance 0 gets nothing while `load` goes on.
    #[track_caller]
    fn rests(&self, load: &Load) {
        // requests that were on their way
        let mut before = self.moods[0].served();
        eventually("the last requests have left", || {
            let answered = load.answered();
            eventually("the load goes on", || load.answered() > answered + 50);
            std::mem::replace(&mut before, self.moods[0].served()) == before
        });
        let answered = load.answered();
        eventually("the load goes on", || load.answered() > answered + 200);
        assert_eq!(self.moods[0].served(), before, "it is still asked");
    }
    #[track_caller]
    fn comes_back(&self) {
        let before = self.moods[0].served();
        eventually("it is asked again", || self.moods[0].served() > before + 20);
        assert!(self.known("shop-0").is_null());
    }
}

#[track_caller]
fn no_failures(load: Load) {
    let failed = load.stop();
    assert!(failed.is_empty(), "{}: {:#?}", failed.len(), &failed[..failed.len().min(10)]);
}

#[test]
fn an_application_that_fails_its_check_rests_within_two_seconds_and_no_request_fails() {
    let town = Town::new(true, CHECK, "");
    let verdict = || {
        let (_, text) = town.shops[0].get("/metrics").unwrap();
        let line = text.lines().find(|l| l.starts_with("fusewire_health{"))?.to_owned();
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    eventually("its own sidecar finds it up", || verdict() == Some(1.0));
    let load = town.load();
    eventually("traffic flows", || load.answered() > 50);
    town.moods[0].unready.store(true, Ordering::SeqCst);
    eventually("its own sidecar finds it down", || verdict() == Some(0.0));
    let found = Instant::now();
    eventually("the caller knows", || town.known("shop-0") == "down");
    let took = found.elapsed();
    println!("from the verdict to the caller: {took:?}");
    assert!(took < SOON, "{took:?}");
    town.rests(&load);
    let shown = town.shops[0].socket("/config");
    assert_eq!(shown["inbound"][0]["health"], "down", "{shown:#}");
    assert_eq!(shown["inbound"][0]["health_detail"], "GET /ready: 503");
    assert!(town.known("shop-1").is_null());

    town.moods[0].unready.store(false, Ordering::SeqCst);
    town.comes_back();
    no_failures(load);
}

#[test]
fn the_control_plane_asks_those_that_have_no_sidecar() {
    let town = Town::new(false, CHECK, "");
    let load = town.load();
    let asked = || town.moods[0].questions.load(Ordering::SeqCst);
    eventually("it is asked how it is", || asked() > 3);
    let (begun, before) = (Instant::now(), asked());
    town.moods[0].unready.store(true, Ordering::SeqCst);
    eventually("the caller knows", || town.known("shop-0") == "down");
    // two bad answers 100 ms apart, and the way to the caller
    assert!(begun.elapsed() < SOON, "{:?} and {} questions", begun.elapsed(), asked() - before);
    town.rests(&load);
    town.moods[0].unready.store(false, Ordering::SeqCst);
    town.comes_back();
    no_failures(load);
}

#[test]
fn where_all_are_down_all_are_used() {
    let town = Town::new(true, CHECK, "");
    town.moods.iter().for_each(|mood| mood.unready.store(true, Ordering::SeqCst));
    eventually("the caller knows of both", || town.known("shop-0") == "down" && town.known("shop-1") == "down");
    let before: Vec<usize> = town.moods.iter().map(Mood::served).collect();
    eventually("both are used", || {
        assert_eq!(get(town.web.outbound, "shop", "/").unwrap().status, 200);
        town.moods.iter().zip(&before).all(|(mood, before)| mood.served() > *before)
    });
}

#[test]
fn an_instance_that_comes_back_up_kept_its_breaker_meanwhile() {
    let breaker = ", lb: round_robin, breaker: {instance: {consecutive: 3, open: {base: 10m, max: 10m}}}";
    let town = Town::new(true, CHECK, breaker);
    town.moods[0].broken.store(true, Ordering::SeqCst);
    eventually("its circuit opens", || {
        // the balancer seldom asks the one that fails
        for _ in 0..20 {
            get(town.web.outbound, "shop", "/").unwrap();
        }
        town.web.circuit("shop-0").as_deref() == Some("open")
    });
    let generation = town.web.breaker("shop-0")["generation"].clone();
    town.moods[0].unready.store(true, Ordering::SeqCst);
    eventually("it rests", || town.known("shop-0") == "down");
    town.moods[0].unready.store(false, Ordering::SeqCst);
    eventually("it is back", || town.known("shop-0").is_null());
    assert_eq!(town.web.circuit("shop-0").as_deref(), Some("open"));
    assert_eq!(town.web.breaker("shop-0")["generation"], generation);
}

#[test]
fn a_sidecar_that_lost_the_control_plane_tells_it_again_what_it_found() {
    let mut town = Town::new(true, CHECK, "");
    town.moods[0].unready.store(true, Ordering::SeqCst);
    eventually("the caller knows", || town.known("shop-0") == "down");
    town.mesh.kill_control();
    assert_eq!(town.known("shop-0"), "down", "what it was told holds without the control plane");
    town.mesh.start_control(&[]);
    eventually("the sidecars are back", || {
        let all: Vec<&Sidecar> = town.shops.iter().chain([&town.web]).collect();
        all.iter().all(|s| s.metric("fusewire_config_connected") == Some(1.0))
    });
    eventually("the caller knows again", || town.known("shop-0") == "down");
}

/// Opens the circuit of instance 0 by requests, and sees it closed again by questions alone.
fn probed_by_the_check(sidecars: bool, service: &str) {
    let breaker =
        ", lb: round_robin, breaker: {instance: {consecutive: 3, probe: check, open: {base: 200ms, max: 200ms}}}";
    let town = Town::new(sidecars, service, breaker);
    town.moods[0].broken.store(true, Ordering::SeqCst);
    // at first the check says no: the circuit goes on being tested, and stays open. `down: 100` keeps it in the set
    town.moods[0].unready.store(true, Ordering::SeqCst);
    eventually("its circuit opens", || {
        // the balancer seldom asks the one that fails
        for _ in 0..20 {
            get(town.web.outbound, "shop", "/").unwrap();
        }
        town.web.circuit("shop-0").as_deref() == Some("open")
    });
    let probes = || {
        let counted = |result: &str| {
            let name = "fusewire_breaker_probes_total{direction=\"outbound\",service=\"shop\",result=";
            town.web.metric(&format!("{name}\"{result}\"}}")).unwrap_or(0.0)
        };
        counted("ok") + counted("failed")
    };
    let load = town.load();
    let (served, tested) = (town.moods[0].served(), probes());
    let answered = load.answered();
    eventually("it is tested", || probes() >= tested + 3.0 && load.answered() > answered + 200);
    assert_eq!(town.moods[0].served(), served, "a request tested it");
    assert_ne!(town.web.circuit("shop-0").as_deref(), Some("closed"));

    town.moods[0].broken.store(false, Ordering::SeqCst);
    town.moods[0].unready.store(false, Ordering::SeqCst);
    eventually("its circuit closes", || town.web.circuit("shop-0").as_deref() == Some("closed"));
    eventually("that is told", || {
        let events = town.web.socket("/breakers/events");
        let last = events.as_array().unwrap().last().unwrap();
        last["to"] == "closed" && last["reason"] == "recovered"
    });
    eventually("it is used again", || town.moods[0].served() > served);
    no_failures(load);
    drop(town.apps);
}

#[test]
fn an_open_circuit_is_tested_by_the_check_through_the_mesh_and_by_no_request() {
    probed_by_the_check(true, "health: {http: /ready, interval: 1h, down: 100}");
}

#[test]
fn an_open_circuit_is_tested_by_grpc_health_through_the_mesh() {
    probed_by_the_check(true, "health: {grpc: \"\", interval: 1h, down: 100}");
}

#[test]
fn an_open_circuit_of_a_plain_instance_is_tested_by_the_check_too() {
    probed_by_the_check(false, "health: {http: /ready, interval: 1h, down: 100}");
}

#[test]
fn a_check_of_tcp_tests_a_circuit_by_a_connection_through_to_the_application() {
    let breaker =
        ", lb: round_robin, breaker: {instance: {consecutive: 3, probe: check, open: {base: 200ms, max: 200ms}}}";
    let mut town = Town::new(true, "health: {tcp: , interval: 1h}", breaker);
    let port = town.apps[0].port;
    drop(town.apps.remove(0)); // a crash: nothing listens
    eventually("its circuit opens", || {
        // the balancer seldom asks the one that fails
        for _ in 0..20 {
            get(town.web.outbound, "shop", "/").unwrap();
        }
        town.web.circuit("shop-0").as_deref() == Some("open")
    });
    let mut halves = 0;
    eventually("it is tested in vain", || {
        let events = town.web.socket("/breakers/events");
        halves = events.as_array().unwrap().iter().filter(|e| e["to"] == "half-open").count();
        halves >= 2
    });
    let again = town.moods[0].app(port);
    let served = town.moods[0].served();
    eventually("its circuit closes", || town.web.circuit("shop-0").as_deref() == Some("closed"));
    assert_eq!(town.moods[0].served(), served, "no request was needed");
    drop(again);
}
