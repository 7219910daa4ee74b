//! Configuration: what the operator writes is what happens, soon, and what is wrong never does.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use fusewire_testkit::client::{Answer, App, Gate, get, send};
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::{Mesh, eventually, free_port};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");

fn version(sidecar: &Sidecar) -> Value {
    sidecar.socket("/config")["version"].clone()
}

/// Writes `yaml` and waits until it is in force in `sidecar`.
#[track_caller]
fn change(mesh: &Mesh, sidecar: &Sidecar, yaml: &str) {
    let before = version(sidecar);
    mesh.configure(yaml);
    eventually("the change is in force", || version(sidecar) != before);
}

fn command(mesh: &Mesh, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = mesh.command().args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

fn status(mesh: &Mesh) -> (Option<i32>, String) {
    command(mesh, &["status", "--socket", "control/control.sock"])
}

#[track_caller]
fn ok(sidecar: &Sidecar, authority: &str, path: &str) -> String {
    let answer = get(sidecar.outbound, authority, path).unwrap();
    assert_eq!(answer.status, 200, "{authority}{path}: {}", answer.text());
    answer.text()
}

/// An application that counts its requests and answers with `status`.
fn counting(status: StatusCode) -> (App, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let app = App::start(0, move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        response
    });
    (app, count)
}

#[test]
fn a_changed_file_is_live_in_running_sidecars_and_open_circuits_stay_open() {
    let gate = Gate::shut();
    let held = gate.clone();
    let good = App::start_async(0, move |request: Request<Bytes>| {
        let held = held.clone();
        async move {
            if request.uri().path() == "/held" {
                held.pass().await;
            }
            Response::new(Full::default())
        }
    });
    let (bad, asked) = counting(StatusCode::INTERNAL_SERVER_ERROR);
    let yaml = |timeout: &str| {
        format!(
            "services:\n  shop:\n    policy: shop\n    instances:\n      - {{id: good, address: 127.0.0.1:{}}}\n      \
             - {{id: bad, address: 127.0.0.1:{}}}\npolicies:\n  shop:\n    plain: allow\n    timeout: {{request: {timeout}}}\n    \
             breaker: {{instance: {{consecutive: 3, open: {{base: 10m, max: 10m}}}}}}\n",
            good.port, bad.port
        )
    };
    let mesh = Mesh::new(FUSEWIRE, &yaml("20s"));
    let web = mesh.sidecar("web", "web-1", None);
    eventually("the failing instance's circuit opens", || {
        get(web.outbound, "shop", "/").unwrap();
        web.circuit("bad").as_deref() == Some("open")
    });
    let (before, asked_before) = (web.breaker("bad"), asked.load(Ordering::SeqCst));
    assert!(before["generation"].as_u64().unwrap() > 0, "{before:#}");

    change(&mesh, &web, &yaml("150ms"));

    let answer = get(web.outbound, "shop", "/held").unwrap();
    assert_eq!((answer.status, answer.header("fusewire-reason")), (504, Some("response-timeout")));
    for _ in 0..20 {
        ok(&web, "shop", "/");
    }
    let after = web.breaker("bad");
    for kept in ["circuit", "generation", "reason", "openings_in_a_row", "at_trip"] {
        assert_eq!(after[kept], before[kept], "{kept}");
    }
    assert!(after["open_remaining_ms"].as_u64() < before["open_remaining_ms"].as_u64(), "the opening began anew");
    assert_eq!(asked.load(Ordering::SeqCst), asked_before, "requests went to an instance whose circuit is open");
}

#[test]
fn faulty_yaml_changes_nothing_and_status_says_where_the_fault_is() {
    let app = App::saying(0, "hello");
    let yaml = |consecutive: &str| {
        format!(
            "services:\n  shop:\n    instances: [\"127.0.0.1:{}\"]\npolicies:\n  default:\n    plain: allow\n    breaker:\n      \
             instance:\n        consecutive: {consecutive}\n",
            app.port
        )
    };
    let mesh = Mesh::new(FUSEWIRE, &yaml("5"));
    let web = mesh.sidecar("web", "web-1", None);
    assert_eq!(ok(&web, "shop", "/"), "hello");
    eventually("all is well", || status(&mesh).0 == Some(0));
    let good = version(&web);

    mesh.configure(&yaml("300"));
    let wanted = "config/mesh.yaml:9:22: policies.default.breaker.instance.consecutive: ";
    let mut seen = (None, String::new());
    eventually("status names the fault", || {
        seen = status(&mesh);
        seen.1.contains(wanted)
    });
    assert_eq!(seen.0, Some(1), "{}", seen.1);
    assert!(seen.1.contains("300") && seen.1.contains("stays in force"), "{}", seen.1);
    // the same code says the same beforehand
    let checked = command(&mesh, &["check", "config"]);
    assert_eq!((checked.0, checked.1.contains(wanted)), (Some(1), true), "{}", checked.1);
    // not YAML at all
    mesh.configure("services: [\n");
    eventually("status names the other fault", || {
        let (code, text) = status(&mesh);
        code == Some(1) && text.contains("config/mesh.yaml:") && !text.contains("consecutive")
    });
    assert_eq!((ok(&web, "shop", "/").as_str(), version(&web)), ("hello", good.clone()));
    // also for a sidecar that comes now
    let late = mesh.sidecar("web", "web-2", None);
    assert_eq!((ok(&late, "shop", "/").as_str(), version(&late)), ("hello", good));

    mesh.configure(&yaml("7"));
    eventually("status recovers", || status(&mesh).0 == Some(0));
}

#[test]
fn an_authority_that_is_unknown_is_found_once_it_is_configured_and_gone_once_it_is_not() {
    let app = App::saying(0, "hello");
    let with = |name: &str| {
        format!(
            "services:\n  {name}: {{instances: [\"127.0.0.1:{}\"]}}\npolicies:\n  default: {{plain: allow}}\n",
            app.port
        )
    };
    let mesh = Mesh::new(FUSEWIRE, &with("shop"));
    let web = mesh.sidecar("web", "web-1", None);
    let answer = get(web.outbound, "bank", "/").unwrap();
    assert_eq!((answer.status, answer.header("fusewire-reason")), (404, Some("no-route")));
    assert_eq!(web.socket("/config")["authorities"]["bank"], "not-found");
    change(&mesh, &web, &with("bank"));
    assert_eq!(ok(&web, "bank", "/"), "hello");
    change(&mesh, &web, &with("shop"));
    let answer = get(web.outbound, "bank", "/").unwrap();
    assert_eq!((answer.status, answer.header("fusewire-reason")), (404, Some("no-route")));
}

/// Applications that answer with their names, and routes to them.
struct Routed {
    yaml: String,
    _apps: Vec<App>,
}

impl Routed {
    fn new() -> Self {
        let mut yaml = String::from("services:\n");
        let mut apps = Vec::new();
        for name in ["api", "exact", "canary", "stable"] {
            let app = App::saying(0, name);
            yaml += &format!("  {name}: {{instances: [\"127.0.0.1:{}\"]}}\n", app.port);
            apps.push(app);
        }
        yaml += r#"
routes:
  shop.example:
    authority: [shop.example, "www.shop.example:8080"]
    rules:
      - match: {path: {prefix: /api}, method: [GET, PUT]}
        to: api
      - match: {path: /exact}
        to: exact
      - match: {headers: {x-track: canary, x-never: {present: false}}}
        to: canary
      - match: {path: {prefix: /split}}
        to: [{service: stable, weight: 70}, {service: canary, weight: 30}]
policies:
  default: {plain: allow}
"#;
        Self { yaml, _apps: apps }
    }
    #[track_caller]
    fn work_in(&self, web: &Sidecar) {
        let ask = |method: Method, authority: &str, path: &str, fields: &[(&str, &str)]| -> Answer {
            let mut request = Request::builder().method(method).uri(path).header("host", authority);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            send(web.outbound, request.body(Full::default()).unwrap()).unwrap()
        };
        let (get, post) = (Method::GET, Method::POST);
        let canary = ("x-track", "canary");
        for (method, path, fields, wanted) in [
            (&get, "/api", &[][..], "api"),
            (&get, "/api/v1?q=1", &[], "api"),
            (&Method::PUT, "/api", &[canary], "api"),
            (&get, "/exact", &[], "exact"),
            (&get, "/else", &[canary], "canary"),
            (&post, "/api", &[canary], "canary"),
        ] {
            for authority in ["shop.example", "SHOP.example", "www.shop.example:8080"] {
                let answer = ask(method.clone(), authority, path, fields);
                assert_eq!(
                    (answer.status, answer.text().as_str()),
                    (200, wanted),
                    "{method} {authority}{path} {fields:?}"
                );
            }
        }
        for (method, authority, path, fields) in [
            (&post, "shop.example", "/api", &[][..]),
            (&get, "shop.example", "/apix", &[]),
            (&get, "shop.example", "/exact/", &[]),
            (&get, "shop.example", "/else", &[("x-track", "stable")]),
            (&get, "shop.example", "/else", &[canary, ("x-never", "")]),
            (&get, "www.shop.example", "/api", &[]),
        ] {
            let answer = ask(method.clone(), authority, path, fields);
            let seen = (answer.status, answer.header("fusewire-reason"));
            assert_eq!(seen, (404, Some("no-route")), "{method} {authority}{path} {fields:?}");
        }
        let of_stable = (0..200).filter(|_| ask(Method::GET, "shop.example", "/split", &[]).text() == "stable").count();
        // 140 expected; 6.5 a standard deviation, so that chance alone fails once in 10^9 runs
        assert!((100..=180).contains(&of_stable), "{of_stable} of 200 went to the backend with 70 %");
    }
}

#[test]
fn routes_choose_by_authority_path_method_and_header_and_split_by_weight() {
    let routed = Routed::new();
    let mesh = Mesh::new(FUSEWIRE, &routed.yaml);
    routed.work_in(&mesh.sidecar("web", "web-1", None));
}

#[test]
fn a_sidecar_without_a_control_plane_does_the_same_with_the_same_yaml() {
    let routed = Routed::new();
    let mesh = Mesh::without_control(FUSEWIRE);
    let web = mesh.sidecar_alone("web-1", None, "  workload: web\n", &routed.yaml);
    web.wait_ready();
    routed.work_in(&web);
    assert_eq!(web.socket("/config")["control"], Value::Null);
}

#[test]
fn a_policy_for_labelled_instances_applies_to_them_alone() {
    let app = App::saying(0, "hello");
    // nobody listens at two of the three
    let yaml = format!(
        "services:\n  shop:\n    instances:\n      - 127.0.0.1:{}\n      \
         - {{id: canary, address: 127.0.0.1:{}, labels: {{track: canary}}}}\n      \
         - {{id: old, address: 127.0.0.1:{}, labels: {{track: stable}}}}\npolicies:\n  \
         shop: {{target: {{service: shop}}, plain: allow, breaker: {{instance: {{consecutive: 0, min_calls: 60000}}}}}}\n  \
         canary: {{target: {{service: shop, labels: {{track: canary}}}}, breaker: {{instance: {{consecutive: 1, open: {{base: 10m, max: 10m}}}}}}}}\n",
        app.port,
        free_port(),
        free_port()
    );
    let mesh = Mesh::new(FUSEWIRE, &yaml);
    let web = mesh.sidecar("web", "web-1", None);
    eventually("the canary's circuit opens at its first failure, the other's not at its third", || {
        ok(&web, "shop", "/");
        web.circuit("canary").as_deref() == Some("open")
            && web.breaker("old")["failures_in_a_row"].as_u64().is_some_and(|n| n >= 3)
    });
    assert_eq!(web.circuit("old").as_deref(), Some("closed"));
    assert_eq!(web.breaker("canary")["at_trip"]["hard"], 1);
}

#[test]
fn overrides_hold_a_circuit_open_or_closed_whatever_happens() {
    let (one, asked_one) = counting(StatusCode::OK);
    let (two, asked_two) = counting(StatusCode::OK);
    let dead = free_port();
    let yaml = |second: u16, overrides: &str| {
        format!(
            "services:\n  shop:\n    instances:\n      - {{id: shop-1, address: 127.0.0.1:{}}}\n      \
             - {{id: shop-2, address: 127.0.0.1:{second}, weight: 1000}}\npolicies:\n  default: {{plain: allow, breaker: {{instance: {{consecutive: 2}}}}}}\n\
             overrides: [{overrides}]\n",
            one.port
        )
    };
    // the weight makes the balancer prefer shop-2 whatever it does: what keeps requests away from it is the circuit alone
    let held = |what: &str, to: &str| format!("{{service: shop{what}, breaker: {to}, owner: ada, reason: bad disk}}");
    let mesh = Mesh::new(FUSEWIRE, &yaml(two.port, &held(", instance: shop-2", "open")));
    let web = mesh.sidecar("web", "web-1", None);
    for _ in 0..20 {
        ok(&web, "shop", "/");
    }
    assert_eq!((asked_one.load(Ordering::SeqCst), asked_two.load(Ordering::SeqCst)), (20, 0));
    let breaker = web.breaker("shop-2");
    assert_eq!(breaker["circuit"], "open");
    let over = &breaker["override"];
    assert_eq!((&over["to"], &over["owner"], &over["reason"]), (&"open".into(), &"ada".into(), &"bad disk".into()));

    change(&mesh, &web, &yaml(two.port, &held("", "open")));
    let answer = get(web.outbound, "shop", "/").unwrap();
    assert_eq!((answer.status, answer.header("fusewire-reason")), (503, Some("circuit-open")));
    assert!(answer.header("retry-after").is_some(), "{answer:?}");

    change(&mesh, &web, &yaml(two.port, ""));
    eventually("shop-2 is asked again", || {
        ok(&web, "shop", "/");
        asked_two.load(Ordering::SeqCst) > 0
    });
    assert_eq!(web.breaker("shop-2")["override"], Value::Null);

    // held closed over an instance that nobody listens at: it is tried again and again, and its failures cost nobody
    change(&mesh, &web, &yaml(dead, &held(", instance: shop-2", "closed")));
    eventually("a circuit held closed takes failure after failure", || {
        ok(&web, "shop", "/");
        web.breaker("shop-2")["window"]["hard"].as_u64().is_some_and(|n| n >= 5)
    });
    assert_eq!(web.circuit("shop-2").as_deref(), Some("closed"));
    change(&mesh, &web, &yaml(dead, ""));
    eventually("let go, it opens", || {
        ok(&web, "shop", "/");
        web.circuit("shop-2").as_deref() == Some("open")
    });
}

#[test]
fn a_thousand_services_that_it_does_not_call_cost_a_sidecar_nothing() {
    let app = App::saying(0, "hello");
    let yaml = |unused: usize| {
        let mut yaml = format!(
            "policies:\n  default: {{plain: allow}}\nservices:\n  shop: {{instances: [\"127.0.0.1:{}\"]}}\n",
            app.port
        );
        for n in 0..unused {
            yaml += &format!(
                "  unused-{n}: {{instances: [\"10.0.{}.{}:80\", \"10.1.{}.{}:80\"]}}\n",
                n / 250,
                n % 250,
                n / 250,
                n % 250
            );
        }
        yaml
    };
    let (small, large) = (Mesh::new(FUSEWIRE, &yaml(0)), Mesh::new(FUSEWIRE, &yaml(1000)));
    let sidecars = [small.sidecar("web", "web-1", None), large.sidecar("web", "web-1", None)];
    let resident = sidecars.each_ref().map(|web| {
        for _ in 0..20 {
            ok(web, "shop", "/");
        }
        let config = web.socket("/config");
        let names: Vec<&Value> = config["services"].as_array().unwrap().iter().map(|s| &s["name"]).collect();
        assert_eq!(names, ["shop"]);
        web.process.rss_kib()
    });
    println!("resident: {} KiB in a mesh of one service, {} KiB in one of 1,001", resident[0], resident[1]);
    assert!(resident[1].abs_diff(resident[0]) < 1024, "{resident:?} KiB");
    if !cfg!(debug_assertions) {
        assert!(resident[0] < 15 * 1024, "{resident:?} KiB");
    }
    assert!(large.run(&["status", "--socket", "control/control.sock"]).contains("web-1"));
}
