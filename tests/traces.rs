//! Traces and metrics as a receiver that is not ours gets them, over gRPC and HTTP, from real sidecars.

#![allow(clippy::unwrap_used)]

#[path = "traces/receiver.rs"]
mod receiver;

use bytes::Bytes;
use fusewire_testkit::client::{Answer, App, get, send};
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::raw::Conn;
use fusewire_testkit::{Mesh, eventually, free_port, h2c};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use receiver::{Receiver, events, one};
use serde_json::Value;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
const CALLER: &str = "00f067aa0ba902b7";
/// Of the requests' fields, those that an application which knows of traces sends on.
const PROPAGATED: [&str; 7] =
    ["traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-parentspanid"];

/// A trace id of this test's own; its lower half decides by which shares it is taken.
fn trace(n: u8) -> String {
    format!("4bf92f3577b34da6{n:02x}ce929d0e0e4736")
}

fn sampled(trace: &str) -> String {
    format!("00-{trace}-{CALLER}-01")
}

/// `web` calls `shop`, whose application calls `stock` (another authority of the same mesh) and sends the context on.
struct Town {
    web: Sidecar,
    shop: Sidecar,
    stock: Sidecar,
    /// What the two applications were sent last.
    at_shop: Arc<Mutex<HeaderMap>>,
    at_stock: Arc<Mutex<HeaderMap>>,
    receiver: Receiver,
    mesh: Mesh,
    _apps: [App; 2],
}

impl Town {
    /// `otlp`: of the sidecars' `telemetry`, with GRPC and HTTP for the receiver's ports. `policy`: of both services.
    fn new(otlp: &str, policy: &str) -> Self {
        let (at_shop, at_stock) = (Arc::<Mutex<HeaderMap>>::default(), Arc::<Mutex<HeaderMap>>::default());
        let out = Arc::new(AtomicU16::new(0));
        let stock_app = seen(&at_stock, |_| Response::new(Full::from("some")));
        let shop_app = {
            let (at, out) = (at_shop.clone(), out.clone());
            App::start_async(0, move |request| {
                *at.lock().unwrap() = request.headers().clone();
                let mut onward = Request::get("/items/7").header("host", "stock").body(Full::default()).unwrap();
                for name in PROPAGATED {
                    if let Some(value) = request.headers().get(name) {
                        onward.headers_mut().insert(name, value.clone());
                    }
                }
                let port = out.load(Ordering::SeqCst);
                async move {
                    let answer = tokio::task::spawn_blocking(move || send(port, onward)).await.unwrap();
                    Response::new(Full::from(answer.unwrap().body))
                }
            })
        };
        let inbound = [free_port(), free_port()];
        let yaml = Self::yaml([shop_app.port, stock_app.port], inbound, policy);
        let mesh = Mesh::new(FUSEWIRE, &yaml);
        let receiver = Receiver::start(&mesh, "");
        let more = telemetry(otlp, &receiver);
        let stock = mesh.sidecar_with("stock", "stock-1", Some(inbound[1]), &more);
        let shop = mesh.sidecar_with("shop", "shop-1", Some(inbound[0]), &more);
        out.store(shop.outbound, Ordering::SeqCst);
        let web = mesh.sidecar_with("web", "web-1", None, &more);
        Self { web, shop, stock, at_shop, at_stock, receiver, mesh, _apps: [shop_app, stock_app] }
    }

    fn yaml(apps: [u16; 2], inbound: [u16; 2], policy: &str) -> String {
        let service = |n: usize, name: &str| {
            format!(
                "  {name}: {{policy: both, instances: [{{id: {name}-1, address: 127.0.0.1:{}, sidecar: 127.0.0.1:{}}}]}}\n",
                apps[n], inbound[n]
            )
        };
        format!("policies:\n  both: {{{policy}}}\nservices:\n{}{}", service(0, "shop"), service(1, "stock"))
    }

    fn ask(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(path).header("host", "shop:8080");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let answer = send(self.web.outbound, request.body(Full::default()).unwrap()).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "some"));
        answer
    }

    fn at_shop(&self, name: &str) -> Option<String> {
        self.at_shop.lock().unwrap().get(name).map(|v| v.to_str().unwrap().into())
    }
    fn at_stock(&self, name: &str) -> Option<String> {
        self.at_stock.lock().unwrap().get(name).map(|v| v.to_str().unwrap().into())
    }
}

fn telemetry(otlp: &str, receiver: &Receiver) -> String {
    telemetry_every("1s", otlp, receiver)
}

fn telemetry_every(metrics_interval: &str, otlp: &str, receiver: &Receiver) -> String {
    let otlp = otlp.replace("GRPC", &receiver.grpc.to_string()).replace("HTTP", &receiver.http.to_string());
    format!("  telemetry: {{otlp: {otlp}, metrics_interval: {metrics_interval}}}\n")
}

/// An application that remembers the fields it was sent.
fn seen(at: &Arc<Mutex<HeaderMap>>, answer: fn(&Request<Bytes>) -> Response<Full<Bytes>>) -> App {
    let at = at.clone();
    App::start(0, move |request| {
        *at.lock().unwrap() = request.headers().clone();
        answer(&request)
    })
}

/// The line of `sidecar`'s access log of a trace, once it is written.
fn logged(sidecar: &Sidecar, trace: &str, direction: &str) -> Value {
    let mut found = None;
    eventually(&format!("{} logs {trace}", sidecar.name), || {
        let mut lines = sidecar.access_log().into_iter();
        found = lines.find(|l| l["trace_id"] == trace && l["direction"] == direction);
        found.is_some()
    });
    found.unwrap()
}

const GRPC: &str = "{endpoint: 'http://127.0.0.1:GRPC'}";

fn a_request_over_two_hops(otlp: &str, via: &str) {
    let town = Town::new(otlp, "trace: {sample: 0}");
    let id = trace(1);
    town.ask("/order?card=4111", &[("traceparent", &sampled(&id)), ("tracestate", "rojo=1,congo=t61")]);
    let spans = town.receiver.trace(&id, 8);
    let chain = [
        one(&spans, "web", 1, "GET shop"),
        one(&spans, "web", 3, "GET shop"),
        one(&spans, "shop", 2, "GET shop"),
        one(&spans, "shop", 3, "GET shop"),
        one(&spans, "shop", 1, "GET stock"),
        one(&spans, "shop", 3, "GET stock"),
        one(&spans, "stock", 2, "GET stock"),
        one(&spans, "stock", 3, "GET stock"),
    ];
    let mut parent = Value::from(CALLER);
    for span in chain {
        assert_eq!(span["parent"], parent, "{span:#}");
        assert!(span["start"].as_u64() <= span["end"].as_u64() && span["via"] == via && span["status"] == 0);
        assert!(span["schema"].as_str().unwrap().starts_with("https://opentelemetry.io/schemas/"));
        parent = span["id"].clone();
    }
    let text = serde_json::to_string(&spans).unwrap();
    assert!(!text.contains("4111"), "a query string was recorded: {text}");

    let [out, attempt, inbound] = [0, 1, 2].map(|n| &chain[n]["attributes"]);
    assert_eq!(
        (&out["http.request.method"], &out["url.path"], &out["url.scheme"]),
        (&"GET".into(), &"/order".into(), &"http".into())
    );
    assert_eq!((&out["server.address"], &out["server.port"]), (&"shop".into(), &8080.into()));
    assert_eq!((&out["network.protocol.name"], &out["network.protocol.version"]), (&"http".into(), &"1.1".into()));
    assert_eq!((&out["http.response.status_code"], &out["fusewire.attempts"]), (&200.into(), &1.into()));
    assert_eq!((&out["fusewire.direction"], &out["fusewire.service"]), (&"outbound".into(), &"shop".into()));
    assert_eq!(out["fusewire.peer"], "spiffe://fusewire.local/shop");
    assert!(out["fusewire.snapshot"].as_str().is_some_and(|v| !v.is_empty()), "{out:#}");
    assert_eq!((&attempt["fusewire.instance"], &attempt["fusewire.outcome"]), (&"shop-1".into(), &"ok".into()));
    assert_eq!(
        (&attempt["network.peer.address"], &attempt["network.peer.port"]),
        (&"127.0.0.1".into(), &town.shop.inbound.into())
    );
    assert_eq!(attempt["http.request.resend_count"], Value::Null);
    assert_eq!(
        (&inbound["fusewire.direction"], &inbound["fusewire.peer"]),
        (&"inbound".into(), &"spiffe://fusewire.local/web".into())
    );

    let resource = &chain[0]["resource"];
    assert_eq!((&resource["service.name"], &resource["service.namespace"]), (&"web".into(), &"fusewire.local".into()));
    assert_eq!(
        (&resource["service.instance.id"], &resource["fusewire.workload"]),
        (&"web-1".into(), &"spiffe://fusewire.local/web".into())
    );
    assert_eq!(resource["fusewire.version"], env!("CARGO_PKG_VERSION"));

    for (sidecar, direction, span) in [
        (&town.web, "outbound", 0),
        (&town.shop, "inbound", 2),
        (&town.shop, "outbound", 4),
        (&town.stock, "inbound", 6),
    ] {
        let line = logged(sidecar, &id, direction);
        assert_eq!((&line["span_id"], &line["sampled"]), (&chain[span]["id"], &true.into()), "{line:#}");
    }
    assert_eq!(town.at_shop("traceparent").unwrap(), format!("00-{id}-{}-01", chain[3]["id"].as_str().unwrap()));
}

#[test]
fn a_request_over_two_hops_is_one_trace_over_grpc() {
    a_request_over_two_hops(GRPC, "grpc");
}

#[test]
fn a_request_over_two_hops_is_one_trace_over_http() {
    a_request_over_two_hops("{endpoint: 'http://127.0.0.1:HTTP/otlp/', protocol: http}", "http");
}

#[test]
fn b3_callers_get_b3_further_on_and_w3c_beside_it() {
    let town = Town::new(GRPC, "trace: {sample: 0}");
    let id = trace(2);
    town.ask("/", &[("b3", &format!("{id}-{CALLER}-1-05e3ac9a4f6e3b90"))]);
    let spans = town.receiver.trace(&id, 8);
    let last = one(&spans, "stock", 3, "GET stock");
    let (own, above) = (last["id"].as_str().unwrap(), last["parent"].as_str().unwrap());
    assert_eq!(town.at_stock("b3").unwrap(), format!("{id}-{own}-1-{above}"));
    assert_eq!(town.at_stock("traceparent").unwrap(), format!("00-{id}-{own}-01"));
    assert_eq!(town.at_stock("x-b3-traceid"), None, "that form did not come");
    assert_eq!(one(&spans, "web", 1, "GET shop")["parent"], CALLER);

    let id = trace(3);
    town.ask("/", &[("x-b3-traceid", &id), ("x-b3-spanid", CALLER), ("x-b3-sampled", "1")]);
    let spans = town.receiver.trace(&id, 8);
    let last = one(&spans, "stock", 3, "GET stock");
    let multi =
        ["x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "b3"].map(|name| town.at_stock(name));
    let text = |v: &Value| Some(v.as_str().unwrap().to_owned());
    assert_eq!(multi, [Some(id.clone()), text(&last["id"]), text(&last["parent"]), Some("1".into()), None]);

    // not sampled is not sampled, with ids and without
    let id = trace(4);
    town.ask("/", &[("b3", &format!("{id}-{CALLER}-0"))]);
    assert!(town.at_stock("b3").unwrap().starts_with(&format!("{id}-")));
    town.ask("/", &[("b3", "0")]);
    assert!(town.at_stock("traceparent").unwrap().ends_with("-00"));
    assert!(town.receiver.spans().iter().all(|s| s["trace"] != id.as_str()));
}

#[test]
fn what_a_caller_does_not_record_is_not_recorded_and_still_has_ids_in_the_log() {
    let town = Town::new(GRPC, "trace: {sample: 1}");
    let id = trace(5);
    town.ask("/", &[("traceparent", &format!("00-{id}-{CALLER}-00"))]);
    for (sidecar, direction) in
        [(&town.web, "outbound"), (&town.shop, "inbound"), (&town.shop, "outbound"), (&town.stock, "inbound")]
    {
        let line = logged(sidecar, &id, direction);
        assert_eq!((line["span_id"].as_str().map(str::len), &line["sampled"]), (Some(16), &false.into()));
    }
    let received = town.at_stock("traceparent").unwrap();
    assert!(received.starts_with(&format!("00-{id}-")) && received.ends_with("-00"), "{received}");

    // what breaks the specification is replaced by a trace of our own, which the policy takes whole
    town.ask("/own", &[("traceparent", "00-zz"), ("tracestate", "rojo=1")]);
    let own = town.at_stock("traceparent").unwrap();
    let spans = town.receiver.trace(&own[3..35], 8);
    assert_eq!(one(&spans, "web", 1, "GET shop")["parent"], "");
    assert!(!town.at_stock("tracestate").unwrap().contains("rojo"), "it belonged to another trace");
    assert!(town.receiver.spans().iter().all(|s| s["trace"] != id.as_str()));
}

#[test]
fn the_policys_share_decides_where_no_caller_did_and_every_sidecar_agrees() {
    let town = Town::new(GRPC, "trace: {sample: 50%}");
    let mut asked = Vec::new();
    for _ in 0..60 {
        town.ask("/", &[]);
        asked.push(town.at_stock("traceparent").unwrap());
    }
    // as OpenTelemetry's SDKs decide it: by the lower half of the id
    let taken = |parent: &String| u64::from_str_radix(&parent[19..35], 16).unwrap() < 1 << 63;
    assert!(asked.iter().all(|p| p.ends_with("-01") == taken(p)), "{asked:?}");
    let recorded: Vec<_> = asked.iter().filter(|p| taken(p)).collect();
    assert!((10..50).contains(&recorded.len()), "{}", recorded.len());
    for parent in &recorded {
        town.receiver.trace(&parent[3..35], 8);
    }
    assert_eq!(town.receiver.spans().len(), recorded.len() * 8);
    let yaml = std::fs::read_to_string(town.mesh.path("config/mesh.yaml")).unwrap();
    town.mesh.configure(&yaml.replace("sample: 50%", "sample: 0.0"));
    eventually("the new share is in force", || {
        (0..20).all(|_| {
            town.ask("/", &[]);
            town.at_stock("traceparent").unwrap().ends_with("-00")
        })
    });
}

#[test]
fn the_origin_travels_in_tracestate_and_what_an_application_says_of_it_is_not_believed() {
    let town = Town::new(GRPC, "trace: {sample: 0}");
    let id = trace(6);
    let forged = "rojo=1,fusewire=r9;o:evil,congo=t61";
    town.ask("/", &[("traceparent", &sampled(&id)), ("tracestate", forged)]);
    let wanted = "fusewire=f2;o:fusewire.local/web,rojo=1,congo=t61";
    assert_eq!(town.at_shop("tracestate").unwrap(), wanted);
    assert_eq!(town.at_stock("tracestate").unwrap(), wanted, "the second hop knows where it all began");
    // an application that starts a trace of its own begins a new story, whatever it says
    let fields = [("traceparent", sampled(&trace(7))), ("tracestate", "fusewire=r1;o:fusewire.local/web".into())];
    let mut request = Request::get("/").header("host", "stock");
    for (name, value) in fields {
        request = request.header(name, value);
    }
    assert_eq!(send(town.shop.outbound, request.body(Full::default()).unwrap()).unwrap().status, 200);
    assert_eq!(town.at_stock("tracestate").unwrap(), "fusewire=f2;o:fusewire.local/shop");
    town.ask("/", &[]);
    assert_eq!(town.at_stock("tracestate").unwrap(), "fusewire=f2;o:fusewire.local/web");
}

/// `web` alone, before plain instances of `shop` at these ports.
fn alone(ports: &[u16], policy: &str) -> (Mesh, Receiver, Sidecar) {
    let instances: Vec<String> = ports.iter().map(|p| format!("{{id: shop-{p}, address: 127.0.0.1:{p}}}")).collect();
    let world = format!(
        "policies:\n  default: {{plain: allow, trace: {{sample: 1}}{policy}}}\nservices:\n  shop: {{instances: [{}]}}\n",
        instances.join(", ")
    );
    let mesh = Mesh::without_control(FUSEWIRE);
    let receiver = Receiver::start(&mesh, "");
    let more = format!("  workload: web\n{}", telemetry(GRPC, &receiver));
    let web = mesh.sidecar_alone("web-1", None, &more, &world);
    web.wait_ready();
    (mesh, receiver, web)
}

#[test]
fn a_request_that_was_sent_elsewhere_tells_of_both_attempts() {
    let (app, dead) = (App::saying(0, "hello"), free_port());
    let (_mesh, receiver, web) = alone(&[app.port, dead], ", breaker: off");
    let mut found = None;
    eventually("a request finds the dead instance first", || {
        assert_eq!(get(web.outbound, "shop", "/").unwrap().status, 200);
        found = receiver.spans().into_iter().find(|s| events(s).contains(&"fusewire.redial"));
        found.is_some()
    });
    let exchange = found.unwrap();
    let id = exchange["trace"].as_str().unwrap();
    let spans = receiver.trace(id, 3);
    assert_eq!((&exchange["attributes"]["fusewire.attempts"], &exchange["status"]), (&2.into(), &0.into()));
    let dead_id = format!("shop-{dead}");
    let event = &exchange["events"][0]["attributes"];
    assert_eq!(
        (&event["fusewire.instance"], &event["fusewire.reason"]),
        (&dead_id.as_str().into(), &"connect-failed".into())
    );
    let of = |instance: &str| spans.iter().find(|s| s["attributes"]["fusewire.instance"] == instance).unwrap();
    let (first, second) = (of(&dead_id), of(&format!("shop-{}", app.port)));
    let told = |s: &Value, key: &str| s["attributes"][key].clone();
    assert_eq!((told(first, "error.type"), told(first, "fusewire.outcome")), ("connect-failed".into(), "hard".into()));
    assert_eq!((&first["status"], &second["status"]), (&2.into(), &0.into()));
    assert_eq!(
        (told(first, "http.request.resend_count"), told(second, "http.request.resend_count")),
        (Value::Null, 1.into())
    );
    assert!(first["end"].as_u64() <= second["start"].as_u64());
    let log = web.access_log();
    assert!(log.iter().any(|l| l["trace_id"] == id && l["span_id"] == exchange["id"]));
}

#[test]
fn a_rejection_and_a_probe_are_events_of_the_exchange() {
    let app = App::failing(0, StatusCode::INTERNAL_SERVER_ERROR);
    let policy = ", breaker: {instance: {consecutive: 2, min_calls: 2, open: {base: 500ms, max: 500ms}}}";
    let (_mesh, receiver, web) = alone(&[app.port], policy);
    let mut rejected = None;
    let mut probe = None;
    eventually("a request is rejected, and one tests the circuit", || {
        get(web.outbound, "shop", "/some/path").unwrap();
        let spans = receiver.spans();
        rejected =
            rejected.clone().or(spans.iter().find(|s| events(s).contains(&"fusewire.circuit_rejected")).cloned());
        probe = probe.clone().or(spans.iter().find(|s| events(s).contains(&"fusewire.probe")).cloned());
        rejected.is_some() && probe.is_some()
    });
    let (rejected, probe) = (rejected.unwrap(), probe.unwrap());
    let event = &rejected["events"][0]["attributes"];
    assert_eq!(event["fusewire.service"], "shop");
    assert!(event["fusewire.retry_after_ms"].as_u64().is_some_and(|ms| ms <= 700), "{event}");
    let told = |key: &str| &rejected["attributes"][key];
    assert_eq!((told("fusewire.reason"), told("error.type")), (&"circuit-open".into(), &"circuit-open".into()));
    assert_eq!((told("http.response.status_code"), told("fusewire.attempts")), (&503.into(), &0.into()));
    assert!(told("fusewire.detail").as_str().is_some_and(|d| d.contains("scope=instance")));
    assert_eq!(rejected["status"], 2);
    let attempt = receiver.spans().into_iter().find(|s| s["parent"] == probe["id"]).unwrap();
    let told = |key: &str| &attempt["attributes"][key];
    assert_eq!((told("fusewire.probe"), told("fusewire.outcome")), (&true.into(), &"hard".into()));
    assert_eq!((told("error.type"), &attempt["status"]), (&"500".into(), &2.into()));
    assert_eq!(get(web.outbound, "nobody", "/").unwrap().status, 404);
}

#[test]
fn grpc_is_told_in_grpcs_own_words() {
    let app = App::start(0, |_| {
        let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", "14");
        head.body(Full::default()).unwrap()
    });
    let (_mesh, receiver, web) = alone(&[app.port], ", breaker: off");
    let id = trace(8);
    h2c::run(async {
        let client = h2c::client(web.outbound).await;
        let request = h2c::request("POST", "shop/shop.v1.Catalog/Get");
        let request = request.header("content-type", "application/grpc").header("traceparent", sampled(&id));
        let answer = h2c::call(&client, request).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "14");
    });
    for span in receiver.trace(&id, 2) {
        let told = |key: &str| &span["attributes"][key];
        assert_eq!((told("rpc.system.name"), told("rpc.method")), (&"grpc".into(), &"shop.v1.Catalog/Get".into()));
        assert_eq!(
            (told("rpc.response.status_code"), told("error.type")),
            (&"UNAVAILABLE".into(), &"UNAVAILABLE".into())
        );
        assert_eq!((&span["span"], &span["status"]), (&"POST shop".into(), &2.into()));
        assert_eq!((told("network.protocol.version"), told("http.response.status_code")), (&"2".into(), &200.into()));
    }
}

#[test]
fn bytes_are_told_too_across_both_sidecars() {
    let echo = App::saying(0, "hello");
    let (inbound, tcp) = (free_port(), free_port());
    let mesh = Mesh::new(
        FUSEWIRE,
        &format!(
            "policies:\n  default: {{trace: {{sample: 1}}}}\nservices:\n  \
             db: {{protocol: opaque, instances: [{{id: db-1, address: 127.0.0.1:{}, sidecar: 127.0.0.1:{inbound}}}]}}\n",
            echo.port
        ),
    );
    let receiver = Receiver::start(&mesh, "");
    let more = telemetry(GRPC, &receiver);
    let _db = mesh.sidecar_with("db", "db-1", Some(inbound), &more);
    let listener = format!(", {{listen: 127.0.0.1:{tcp}, service: db, protocol: opaque}}");
    let web = mesh.sidecar_listening("web", "web-1", None, &listener, &more);
    assert_eq!(get(tcp, "any", "/").unwrap().text(), "hello");
    let mut out = None;
    eventually("the connection is told of", || {
        out = receiver.spans().into_iter().find(|s| s["span"] == "TCP db" && s["kind"] == 1);
        out.is_some()
    });
    let out = out.unwrap();
    let spans = receiver.trace(out["trace"].as_str().unwrap(), 4);
    let attempt = one(&spans, "web", 3, "TCP db");
    let served = one(&spans, "db", 2, "CONNECT db");
    assert_eq!((&attempt["parent"], &served["parent"]), (&out["id"], &attempt["id"]));
    assert_eq!(
        (&out["attributes"]["network.transport"], &attempt["attributes"]["fusewire.outcome"]),
        (&"tcp".into(), &"ok".into())
    );
    assert_eq!(logged(&web, out["trace"].as_str().unwrap(), "outbound")["protocol"], "tcp");
    drop(Conn::connect(web.outbound));
}

fn metrics_arrive(otlp: &str, via: &str) {
    let town = Town::new(otlp, "trace: {sample: 0}");
    for _ in 0..5 {
        town.ask("/", &[]);
    }
    let with = |m: &Value, wanted: &[(&str, &str)]| {
        let points = m["points"].as_array().unwrap().clone();
        points.into_iter().find(|p| wanted.iter().all(|(k, v)| p["attributes"][k] == *v))
    };
    let service = [("direction", "outbound"), ("service", "shop")];
    let mut responses = Value::Null;
    eventually("five answers are told", || {
        responses = town.receiver.metric("web", "fusewire_responses").unwrap_or_default();
        let point = responses.is_object().then(|| with(&responses, &[&service[..], &[("class", "2xx")]].concat()));
        point.flatten().is_some_and(|p| p["value"] == 5)
    });
    assert_eq!(
        (&responses["kind"], &responses["monotonic"], &responses["temporality"]),
        (&"sum".into(), &true.into(), &2.into())
    );
    assert_eq!((&responses["via"], &responses["resource"]["service.instance.id"]), (&via.into(), &"web-1".into()));
    let point = with(&responses, &service).unwrap();
    assert!(point["start"].as_u64() > Some(0) && point["start"].as_u64() < point["time"].as_u64());
    let seconds = town.receiver.metric("web", "fusewire_request_duration_seconds").unwrap();
    assert_eq!((&seconds["kind"], &seconds["unit"]), (&"histogram".into(), &"s".into()));
    let point = with(&seconds, &service).unwrap();
    assert_eq!(point["count"], 5);
    let counts: u64 = point["counts"].as_array().unwrap().iter().filter_map(Value::as_u64).sum();
    assert_eq!((counts, point["counts"].as_array().unwrap().len()), (5, point["bounds"].as_array().unwrap().len() + 1));
    assert_eq!(town.receiver.metric("web", "fusewire_requests_in_flight").unwrap()["kind"], "gauge");
    // the same families as /metrics has
    let (_, text) = town.web.get("/metrics").unwrap();
    for line in text.lines().filter(|l| l.starts_with("fusewire_")) {
        let name = line.split(['{', ' ']).next().unwrap();
        let name =
            ["_total", "_bucket", "_count", "_sum"].iter().fold(name, |n, end| n.trim_end_matches(end)).to_owned();
        eventually(&format!("{name} arrives"), || town.receiver.metric("web", &name).is_some());
    }
}

#[test]
fn metrics_arrive_over_grpc_as_they_are_scraped() {
    metrics_arrive(GRPC, "grpc");
}

#[test]
fn metrics_arrive_over_http_as_they_are_scraped() {
    metrics_arrive("{endpoint: 'http://127.0.0.1:HTTP', protocol: http}", "http");
}

/// `web` before one plain application, its spans all recorded, for a receiver that behaves so.
fn ill(mode: &str, otlp: &str) -> (Mesh, Receiver, Sidecar, App) {
    let app = App::saying(0, "hello");
    let world = format!(
        "policies:\n  default: {{plain: allow, trace: {{sample: 1}}}}\nservices:\n  shop: {{instances: [127.0.0.1:{}]}}\n",
        app.port
    );
    let mesh = Mesh::without_control(FUSEWIRE);
    let receiver = Receiver::start(&mesh, mode);
    // no metrics meanwhile: where they cannot be sent, spans wait as well
    let telemetry = telemetry_every("5m", otlp, &receiver);
    let web = mesh.sidecar_alone("web-1", None, &format!("  workload: web\n{telemetry}"), &world);
    web.wait_ready();
    (mesh, receiver, web, app)
}

fn lost(web: &Sidecar, reason: &str) -> f64 {
    web.metric(&format!("fusewire_spans_dropped_total{{reason=\"{reason}\"}}")).unwrap()
}

#[test]
fn a_receiver_that_is_gone_costs_spans_that_are_counted_and_no_request() {
    let gone = free_port();
    let otlp = format!("{{endpoint: 'http://127.0.0.1:{gone}', headers: {{x-api-key: hunter2}}}}");
    let (_mesh, _receiver, mut web, _app) = ill("", &otlp);
    assert_eq!(lost(&web, "export-failed"), 0.0);
    for _ in 0..10 {
        assert_eq!(get(web.outbound, "shop", "/").unwrap().status, 200);
    }
    eventually("what could not be sent is counted", || lost(&web, "export-failed") >= 20.0);
    eventually("and told", || web.process.output().contains("telemetry does not arrive"));
    assert!(
        web.process.output().contains(&format!("receiver=\"http://127.0.0.1:{gone}\"")),
        "{}",
        web.process.output()
    );
    assert!(web.metric("fusewire_otlp_failed_total{signal=\"traces\"}").unwrap() >= 3.0);
    assert!(!web.process.output().contains("hunter2"));
    assert!(web.process.stop().success(), "nor does it keep the process from ending");
}

#[test]
fn a_receiver_that_is_slow_costs_spans_that_are_counted_and_no_request() {
    let (_mesh, _receiver, web, _app) = ill("slow", GRPC);
    let slowest = h2c::run(async {
        let client = h2c::client(web.outbound).await;
        let mut slowest = Duration::ZERO;
        for _ in 0..30 {
            let began = Instant::now();
            let calls = (0..100).map(|_| h2c::call(&client, h2c::request("GET", "shop/")));
            for answer in futures_util::future::join_all(calls).await {
                assert_eq!(answer.unwrap().status(), 200);
            }
            slowest = slowest.max(began.elapsed());
        }
        slowest
    });
    assert!(slowest < Duration::from_secs(8), "a hundred requests waited for the receiver: {slowest:?}");
    eventually("more came than could wait", || lost(&web, "queue-full") > 0.0);
}

#[test]
fn what_a_receiver_refuses_is_counted_with_its_words() {
    for (mode, otlp, words, least) in [
        ("refuse", GRPC, "InvalidArgument: not wanted here", 2.0),
        ("refuse", "{endpoint: 'http://127.0.0.1:HTTP', protocol: http}", "400 Bad Request not wanted here", 2.0),
        ("partial", GRPC, "one too many", 1.0),
    ] {
        let (_mesh, receiver, web, _app) = ill(mode, otlp);
        assert_eq!(get(web.outbound, "shop", "/").unwrap().status, 200);
        eventually("the loss is counted", || lost(&web, "refused") >= least);
        eventually("and told", || web.process.output().contains(words));
        if mode == "partial" {
            eventually("the other is taken", || web.metric("fusewire_spans_sent_total") == Some(1.0));
            assert_eq!(receiver.spans().len(), 2);
        }
    }
}

#[test]
fn what_was_recorded_before_the_end_still_arrives_and_keys_go_along() {
    let otlp = "{endpoint: 'http://127.0.0.1:HTTP', protocol: http, headers: {X-Api-Key: hunter2}}";
    let (_mesh, receiver, mut web, _app) = ill("", otlp);
    assert_eq!(get(web.outbound, "shop", "/").unwrap().status, 200);
    assert!(web.process.stop().success());
    let spans = receiver.spans();
    assert_eq!(spans.len(), 2, "{spans:#?}");
    assert_eq!(spans[0]["headers"]["x-api-key"], "hunter2");
    assert!(!web.process.output().contains("hunter2"));
}

#[test]
fn joining_and_each_configuration_are_told_too() {
    let town = Town::new(GRPC, "trace: {sample: 0}");
    let told = |name: &str| {
        let work = town.receiver.work().into_iter();
        work.filter(|s| s["span"] == name && s["resource"]["service.name"] == "web").collect::<Vec<_>>()
    };
    town.ask("/", &[]);
    eventually("both are told", || {
        told("fusewire.identity.join").iter().any(|s| s["status"] == 0)
            && !told("fusewire.configuration.apply").is_empty()
    });
    let control = format!("127.0.0.1:{}", town.mesh.control_port);
    assert_eq!(told("fusewire.identity.join")[0]["attributes"]["fusewire.control"], control.as_str());
    let before = told("fusewire.configuration.apply").len();
    let yaml = std::fs::read_to_string(town.mesh.path("config/mesh.yaml")).unwrap();
    town.mesh.configure(&yaml.replace("sample: 0", "sample: 1"));
    eventually("the new one is told", || told("fusewire.configuration.apply").len() > before);
    let applied = told("fusewire.configuration.apply").pop().unwrap();
    assert_eq!((&applied["parent"], &applied["kind"]), (&"".into(), &1.into()));
    assert!(applied["attributes"]["fusewire.snapshot"].as_str().is_some_and(|v| !v.is_empty()));
}

#[test]
fn telemetry_that_is_off_sends_nothing_and_contexts_go_on() {
    let town = Town::new("off", "trace: {sample: 1}");
    let id = trace(9);
    town.ask("/", &[("traceparent", &sampled(&id))]);
    let at = town.at_stock("traceparent").unwrap();
    assert!(at.starts_with(&format!("00-{id}-")) && at.ends_with("-01"), "{at}");
    assert_eq!(logged(&town.stock, &id, "inbound")["sampled"], true);
    assert_eq!(town.web.metric("fusewire_spans_sent_total"), Some(0.0));
    assert!(town.receiver.spans().is_empty());
}
