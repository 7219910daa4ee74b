//! What an operator's Prometheus gets: families that promtool accepts, and rate, errors and duration of each route and
//! each instance, whose number follows the configuration and not what clients send.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use fusewire_testkit::client::{self, Answer, App, get};
use fusewire_testkit::pair::Shape;
use fusewire_testkit::process::{loopback, tool};
use fusewire_testkit::{Pair, Process, eventually, free_port};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use std::io::Write as _;
use std::process::{Command, Stdio};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers by path: what it is asked to go wrong with.
fn app() -> App {
    App::start(0, |request| {
        let mut response = Response::new(Full::new(Bytes::from_static(b"hello")));
        match request.uri().path() {
            "/api/broken" => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
            "/api/missing" => *response.status_mut() = StatusCode::NOT_FOUND,
            "/rpc" => {
                *response.body_mut() = Full::default();
                response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
                response.headers_mut().insert("grpc-status", "13".parse().unwrap());
            }
            _ => {}
        }
        response
    })
}

fn asked(port: u16, accept: &str) -> Answer {
    let request = Request::get("/metrics").header("host", "admin").header("accept", accept);
    client::send(port, request.body(Full::default()).unwrap()).unwrap()
}

/// promtool's word on what `port` serves in the text format; silence is praise.
fn promtool(port: u16) {
    let answer = asked(port, "*/*");
    assert_eq!(answer.header("content-type"), Some(TEXT));
    let mut promtool = Command::new(tool("promtool"));
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&answer.body).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.is_empty(), "promtool says:\n{said}\nof\n{}", answer.text());
}

/// A mesh with a route of two rules before the pair's services, and its control plane's metrics' port.
fn pair(app: u16) -> (Pair, u16) {
    let more =
        "routes:\n  front:\n    rules:\n      - {match: {path: {prefix: /api}}, to: shop}\n      - {to: plain}\n";
    let policy = "breaker: {instance: {mode: observe}}"; // the application fails as often as a test wants
    let mut pair = Pair::shaped(FUSEWIRE, app, &Shape { policy, more, ..Shape::default() });
    let port = free_port();
    pair.mesh.kill_control();
    pair.mesh.start_control(&["--admin-listen", &loopback(port).to_string()]);
    eventually("the sidecars are connected again", || {
        [&pair.web, &pair.shop].iter().all(|s| s.metric("fusewire_config_connected") == Some(1.0))
    });
    (pair, port)
}

fn ask(pair: &Pair, host: &str, path: &str) -> u16 {
    get(pair.port(), host, path).unwrap().status
}

/// The samples of `families` that are not 0, without what depends on time, in order.
fn samples(text: &str, families: &[&str]) -> String {
    let told = |line: &&str| {
        families.iter().any(|family| line.starts_with(family))
            && !line.contains("_bucket{")
            && !line.contains("_sum{")
            && !line.ends_with(" 0")
    };
    let mut lines: Vec<&str> = text.lines().filter(told).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn each_request_counts_for_its_route_its_service_and_its_instance_and_promtool_has_no_complaint() {
    let app = app();
    let (pair, control) = pair(app.port);
    for (host, path, status) in [
        ("front", "/api/a", 200),
        ("front", "/api/b", 200),
        ("front", "/api/missing", 404),
        ("front", "/api/broken", 500),
        ("front", "/elsewhere", 200),
        ("shop", "/", 200),
        ("nobody.example", "/", 404),
    ] {
        assert_eq!(ask(&pair, host, path), status, "{host}{path}");
    }
    let rpc = Request::post("/rpc").header("host", "front").header("content-type", "application/grpc");
    let rpc = client::send(pair.port(), rpc.body(Full::default()).unwrap()).unwrap();
    assert_eq!((rpc.status, rpc.header("grpc-status")), (200, Some("13")));
    let families = ["fusewire_route_", "fusewire_attempt", "fusewire_responses_total", "fusewire_request_errors_total"];
    let mut told = String::new();
    eventually("everything is counted", || {
        told = samples(&pair.web.get("/metrics").unwrap().1, &families);
        told.contains("fusewire_attempt_duration_seconds_count{service=\"shop\",instance=\"shop-1\"} 5")
            && told.contains("fusewire_route_responses_total{route=\"front[1]\",class=\"5xx\"} 1")
    });
    expect_test::expect![[r#"
        fusewire_attempt_duration_seconds_count{service="plain",instance="plain-1"} 2
        fusewire_attempt_duration_seconds_count{service="shop",instance="shop-1"} 5
        fusewire_attempts_total{service="plain",instance="plain-1",outcome="hard"} 1
        fusewire_attempts_total{service="plain",instance="plain-1",outcome="ok"} 1
        fusewire_attempts_total{service="shop",instance="shop-1",outcome="hard"} 1
        fusewire_attempts_total{service="shop",instance="shop-1",outcome="ok"} 4
        fusewire_request_errors_total{direction="outbound",service="",reason="no-route"} 1
        fusewire_responses_total{direction="outbound",service="",class="4xx"} 1
        fusewire_responses_total{direction="outbound",service="plain",class="2xx"} 1
        fusewire_responses_total{direction="outbound",service="plain",class="5xx"} 1
        fusewire_responses_total{direction="outbound",service="shop",class="2xx"} 3
        fusewire_responses_total{direction="outbound",service="shop",class="4xx"} 1
        fusewire_responses_total{direction="outbound",service="shop",class="5xx"} 1
        fusewire_route_request_duration_seconds_count{route="front[0]"} 4
        fusewire_route_request_duration_seconds_count{route="front[1]"} 2
        fusewire_route_request_duration_seconds_count{route="shop"} 1
        fusewire_route_responses_total{route="front[0]",class="2xx"} 2
        fusewire_route_responses_total{route="front[0]",class="4xx"} 1
        fusewire_route_responses_total{route="front[0]",class="5xx"} 1
        fusewire_route_responses_total{route="front[1]",class="2xx"} 1
        fusewire_route_responses_total{route="front[1]",class="5xx"} 1
        fusewire_route_responses_total{route="shop",class="2xx"} 1"#]]
    .assert_eq(&told);
    promtool(pair.web.admin);
    promtool(pair.shop.admin);
    promtool(control);
}

#[test]
fn who_asks_for_openmetrics_gets_it_and_everybody_else_the_text_format() {
    let app = App::saying(0, "hello");
    let (pair, control) = pair(app.port);
    assert_eq!(ask(&pair, "shop", "/"), 200);
    for port in [pair.web.admin, control] {
        let open = asked(port, "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1");
        assert_eq!(open.header("content-type"), Some(OPENMETRICS));
        assert!(open.text().ends_with("# EOF\n"));
        let text = asked(port, "text/plain");
        assert_eq!(text.header("content-type"), Some(TEXT));
        assert!(!text.text().contains("# EOF") && text.text().contains("_total counter\n"), "{}", text.text());
    }
}

#[test]
fn names_that_clients_make_up_and_rules_that_are_gone_have_no_series() {
    let app = App::saying(0, "hello");
    let (pair, _) = pair(app.port);
    assert_eq!(ask(&pair, "front", "/api/x"), 200);
    let series = || {
        let text = asked(pair.web.admin, "*/*").text();
        (text.lines().filter(|line| !line.starts_with('#')).count(), text)
    };
    assert_eq!(ask(&pair, "made-up", "/"), 404); // its reason has a series from now on
    let (before, text) = series();
    assert!(text.contains("route=\"front[0]\""));
    for n in 0..50 {
        assert_eq!(ask(&pair, &format!("made-up-{n}.example"), "/"), 404);
        assert_eq!(ask(&pair, "front", &format!("/api/{n}?q={n}")), 200);
    }
    let (after, text) = series();
    assert_eq!(before, after, "{text}");
    let yaml = std::fs::read_to_string(pair.mesh.path("config/mesh.yaml")).unwrap();
    pair.mesh.configure(&yaml.replace("      - {match: {path: {prefix: /api}}, to: shop}\n", ""));
    eventually("a rule that is gone takes its series along", || {
        ask(&pair, "front", "/") == 200 && !series().1.contains("route=\"front[1]\"")
    });
    assert!(series().1.contains("route=\"front[0]\""));
}

#[test]
fn prometheus_scrapes_a_sidecar_and_answers_the_readmes_questions() {
    let app = app();
    let (pair, control) = pair(app.port);
    let port = free_port();
    let config = format!(
        "global: {{scrape_interval: 200ms}}\nscrape_configs:\n  - job_name: fusewire\n    static_configs:\n      \
         - targets: ['127.0.0.1:{}', '127.0.0.1:{control}']\n",
        pair.web.admin
    );
    std::fs::write(pair.mesh.path("prometheus.yml"), config).unwrap();
    let mut command = Command::new(tool("prometheus"));
    command.current_dir(pair.mesh.dir.path()).args(["--config.file=prometheus.yml", "--storage.tsdb.path=prometheus"]);
    command.args(["--enable-feature=exemplar-storage", &format!("--web.listen-address=127.0.0.1:{port}")]);
    let _prometheus = Process::start(&mut command, pair.mesh.path("prometheus.log"));
    let query = |text: &str| {
        let path = format!("/api/v1/query?query={}", encoded(text));
        let answer = get(port, "prometheus", &path).ok()?;
        serde_json::from_slice::<serde_json::Value>(&answer.body).ok()
    };
    eventually("both are scraped without an error", || {
        query("count(up == 1)").is_some_and(|answer| answer["data"]["result"][0]["value"][1] == "2")
    });
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let questions: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("    promql: ")).collect();
    assert_eq!(questions.len(), 6, "{questions:?}");
    eventually("each question has an answer about traffic", || {
        assert_eq!((ask(&pair, "front", "/api/a"), ask(&pair, "front", "/api/broken")), (200, 500));
        questions.iter().all(|question| {
            let answer = query(&question.replace("[5m]", "[10s]")).unwrap_or_default();
            assert_ne!(answer["status"], "error", "{question}: {answer}");
            let results = answer["data"]["result"].as_array().cloned().unwrap_or_default();
            results
                .iter()
                .any(|one| one["value"][1].as_str().and_then(|v| v.parse::<f64>().ok()).is_some_and(|v| v > 0.0))
        })
    });
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}
