//! Circuits before a service and before one rule of a route, through real processes: what opens them, who is refused with
//! what words, who is not, and how they close again.

#![allow(clippy::unwrap_used)]

use fusewire_testkit::client::{Answer, App, get};
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::{Mesh, eventually};
use http::{Request, Response};
use http_body_util::Full;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");

/// A service that any failure opens, at once and for a second.
const ANY: &str = "{on: any, base: 1s, max: 2s}, min_calls: 20, stable: 10s, permits: 3, concurrency: 1";

/// Two instances that answer `/bad` with 500 while they are sick, and everything else well.
struct Shop {
    apps: [App; 2],
    sick: Arc<AtomicBool>,
    /// Requests that came to any of them.
    served: Arc<AtomicUsize>,
}

impl Shop {
    fn new() -> Self {
        let (sick, served) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let app = || {
            let (sick, served) = (sick.clone(), served.clone());
            App::start(0, move |request: Request<_>| {
                served.fetch_add(1, Ordering::SeqCst);
                let fails = sick.load(Ordering::SeqCst) && request.uri().path() == "/bad";
                Response::builder().status(if fails { 500 } else { 200 }).body(Full::default()).unwrap()
            })
        };
        Self { apps: [app(), app()], sick, served }
    }

    /// `service`: of the policy's `breaker`; `more`: routes.
    fn yaml(&self, service: &str, more: &str) -> String {
        let [one, two] = self.apps.each_ref().map(|app| app.port);
        format!(
            "policies:\n  shop: {{plain: allow, retry: off, breaker: {{service: {service}}}}}\nservices:\n  shop:\n    policy: \
             shop\n    instances:\n      - {{id: shop-1, address: 127.0.0.1:{one}}}\n      - {{id: shop-2, address: \
             127.0.0.1:{two}}}\n{more}"
        )
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

fn bad(web: &Sidecar) -> Answer {
    get(web.outbound, "shop", "/bad").unwrap()
}

fn is_refused(answer: &Answer) -> bool {
    answer.header("fusewire-reason") == Some("circuit-open")
}

/// The circuit of one scope, as the sidecar shows it.
fn whole(web: &Sidecar, scope: &str) -> Value {
    let all = web.socket("/breakers")["scopes"].take();
    all.as_array().unwrap().iter().find(|b| b["scope"] == scope).cloned().unwrap_or_default()
}

#[test]
fn a_service_that_fails_altogether_is_left_alone_as_a_whole_and_comes_back_when_its_probes_do() {
    let shop = Shop::new();
    let mesh = Mesh::new(FUSEWIRE, &shop.yaml(&format!("{{open: {ANY}, ramp: 0s}}"), ""));
    let web = mesh.sidecar("web", "web-1", None);
    // its rate is looked at from the twentieth request on
    for n in 0..20 {
        let answer = bad(&web);
        assert_eq!((answer.status, is_refused(&answer)), (500, false), "request {n}");
    }
    let served = shop.served();
    let refused = bad(&web);
    assert!(is_refused(&refused) && refused.status == 503, "{refused:?}");
    assert_eq!(refused.header("fusewire-detail"), Some("scope=service service=shop: its circuit is open"));
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&after), "{after}");
    assert!(is_refused(&get(web.outbound, "shop", "/good").unwrap()), "the service is one circuit");
    assert_eq!(shop.served(), served, "nothing reached it");
    let open = whole(&web, "service");
    assert_eq!((&open["circuit"], &open["opens_on"]), (&"open".into(), &"any".into()), "{open}");
    assert!(open["at_trip"]["hard"].as_u64() >= Some(10), "{open}");
    let is_closed = |instance: &&str| web.circuit(instance).as_deref() == Some("closed");
    assert_ne!(["shop-1", "shop-2"].iter().filter(|id| is_closed(id)).count(), 0, "it is the service that is refused");
    eventually("the metrics say so", || {
        web.metric("fusewire_breaker_state{scope=\"service\",service=\"shop\"") == Some(1.0)
    });

    shop.sick.store(false, Ordering::SeqCst);
    eventually("probes are let through, and close it", || {
        bad(&web);
        whole(&web, "service")["circuit"] == "closed"
    });
    (0..20).for_each(|_| assert_eq!(bad(&web).status, 200));
}

#[test]
fn by_default_a_service_that_answers_with_errors_is_asked_all_the_same() {
    let shop = Shop::new();
    let mesh = Mesh::new(FUSEWIRE, &shop.yaml("{min_calls: 20}", ""));
    let web = mesh.sidecar("web", "web-1", None);
    (0..60).for_each(|_| assert_eq!(bad(&web).status, 500));
    assert_eq!((shop.served(), &whole(&web, "service")["circuit"]), (60, &"closed".into()));
}

#[test]
fn one_rule_of_a_route_that_fails_leaves_the_others_alone() {
    let shop = Shop::new();
    let route = "routes:\n  shop:\n    rules:\n      - {match: {path: /bad}, to: shop}\n      - {to: shop}\n";
    let mesh = Mesh::new(FUSEWIRE, &shop.yaml(&format!("{{scope: route, open: {ANY}}}"), route));
    let web = mesh.sidecar("web", "web-1", None);
    (0..20).for_each(|_| assert_eq!(bad(&web).status, 500));
    let refused = bad(&web);
    assert!(is_refused(&refused), "{refused:?}");
    assert_eq!(
        refused.header("fusewire-detail"),
        Some("scope=route service=shop: the circuit of the route's rule is open")
    );
    (0..20).for_each(|_| assert_eq!(get(web.outbound, "shop", "/good").unwrap().status, 200));
    assert_eq!(whole(&web, "route")["circuit"], "open");
    let listed = mesh.command().args(["breaker", "list", "--socket", "web-1/sidecar.sock"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().any(|line| line.contains("route") && line.contains("open")), "{listed}");
}

#[test]
fn a_service_is_held_open_and_let_go_of_by_its_name() {
    let shop = Shop::new();
    let mesh = Mesh::new(FUSEWIRE, &shop.yaml("{ramp: 0s}", ""));
    let web = mesh.sidecar("web", "web-1", None);
    let good = || get(web.outbound, "shop", "/good").unwrap();
    assert_eq!(good().status, 200);
    let breaker =
        |arguments: &[&str]| mesh.run(&[&["breaker"], arguments, &["--socket", "web-1/sidecar.sock"]].concat());
    let held = breaker(&["open", "shop", "--reason", "a database moves", "--ttl", "5m"]);
    assert!(held.starts_with("shop, as a whole: circuit held open by ") && held.ends_with(" for 5m\n"), "{held}");
    let (refused, served) = (good(), shop.served());
    assert!(
        is_refused(&refused) && refused.header("fusewire-detail").unwrap().starts_with("scope=service"),
        "{refused:?}"
    );
    assert_eq!(served, 1, "nothing reached it");
    assert_eq!(whole(&web, "service")["override"]["reason"], "a database moves");
    breaker(&["reset", "shop"]);
    assert_eq!(good().status, 200);
    assert!(whole(&web, "service")["override"].is_null());
}
