//! What the mesh itself says, in HTTP and in gRPC.

use crate::FUSEWIRE;
use fusewire_testkit::pair::{BOTH, Shape};
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Pair, free_port, h2c};
use http::HeaderMap;

/// A GET over HTTP/1.1: status and fields of the answer.
fn http(port: u16, host: &str) -> (u16, HeaderMap) {
    let answer = fusewire_testkit::client::get(port, host, "/").unwrap();
    assert!(answer.text().starts_with("fusewire: "), "{}", answer.text());
    (answer.status, answer.headers)
}

/// A gRPC call: the fields of its trailers-only answer.
fn grpc(port: u16, host: &str) -> HeaderMap {
    h2c::run(async {
        let client = h2c::client(port).await;
        let request = h2c::request("POST", &format!("{host}/a.B/C"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let (response, mut up) = h2c::open(&client, request).await;
        let _ = up.send_data(vec![0u8; 5].into(), true); // refused early: the stream may be over already
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200, "a gRPC answer carries its status in grpc-status: {response:?}");
        assert!(response.body().is_end_stream(), "trailers-only: one HEADERS frame that ends the stream");
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert!(response.headers()["grpc-message"].to_str().unwrap().starts_with("fusewire: "), "{response:?}");
        response.headers().clone()
    })
}

fn both_forms(port: u16, host: &str, status: u16, grpc_status: &str, reason: &str) -> (HeaderMap, HeaderMap) {
    let (got, fields) = http(port, host);
    assert_eq!((got, fields["fusewire-reason"].to_str().unwrap()), (status, reason), "{host}: {fields:?}");
    let trailers = grpc(port, host);
    let got = [&trailers["grpc-status"], &trailers["fusewire-reason"]].map(|v| v.to_str().unwrap());
    assert_eq!(got, [grpc_status, reason], "{host}: {trailers:?}");
    (fields, trailers)
}

#[test]
fn what_is_nowhere_is_answered_with_no_route() {
    let pair = Pair::new(FUSEWIRE, free_port());
    both_forms(pair.port(), "nowhere", 404, "12", "no-route");
}

#[test]
fn a_service_without_instances_is_answered_with_no_instance() {
    let pair = Pair::shaped(FUSEWIRE, free_port(), &Shape { more: "  empty: {instances: []}\n", ..Shape::default() });
    both_forms(pair.port(), "empty", 503, "14", "no-instance");
}

#[test]
fn a_dead_application_is_answered_with_the_reason_of_who_found_out() {
    let pair = Pair::shaped(FUSEWIRE, free_port(), &Shape { policy: "breaker: off", ..Shape::default() });
    both_forms(pair.port(), "shop", 503, "14", "app-unreachable");
    both_forms(pair.port(), "plain", 502, "14", "connect-failed");
}

#[test]
fn a_plain_instance_is_denied_where_the_policy_does_not_allow_it() {
    let app = Server::http(|_, _| panic!("nothing may come"));
    let more = format!("  secret: {{instances: [127.0.0.1:{}]}}\n", app.port);
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { more: &more, ..Shape::default() });
    both_forms(pair.port(), "secret", 403, "7", "denied");
    assert_eq!(app.accepted(), 0);
}

#[test]
fn a_caller_that_is_not_on_the_list_is_denied_by_the_other_side() {
    let app = Server::http(|_, _| panic!("nothing may come"));
    let pair = Pair::new(FUSEWIRE, app.port);
    let stranger = pair.mesh.sidecar("stranger", "stranger-1", None);
    both_forms(stranger.outbound, "shop", 403, "7", "denied");
    assert_eq!(app.accepted(), 0);
}

#[test]
fn an_open_circuit_is_answered_at_once_with_the_time_to_come_back() {
    let app = Server::http(|conn, _| conn.try_say("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n").is_ok());
    let breaker = "breaker: {instance: {consecutive: 3, open: {base: 30s, max: 1m}}}";
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: breaker, ..Shape::default() });
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        for _ in 0..3 {
            conn.say(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            assert_eq!(conn.answer().unwrap().0.status(), 500);
        }
        let (fields, trailers) = both_forms(pair.port(), host, 503, "14", "circuit-open");
        let why = format!("scope=instance service={host}: the circuit of its only instance is open");
        for said in [&fields, &trailers] {
            assert_eq!(said["fusewire-detail"], *why);
        }
        let seconds: u64 = fields["retry-after"].to_str().unwrap().parse().unwrap();
        // where nobody is left the open time is cut short, so less than the policy's 30 s; never 0
        assert!((1..=40).contains(&seconds), "{host}: {seconds}");
        let millis: u64 = trailers["grpc-retry-pushback-ms"].to_str().unwrap().parse().unwrap();
        assert!((1..=40_000).contains(&millis), "{host}: {millis}");
        assert!(millis.div_ceil(1000) <= seconds, "{host}: rounded up, and asked later: {millis} ms, {seconds} s");
        assert_eq!(pair.web.circuit(&format!("{host}-1")).as_deref(), Some("open"));
    }
}

#[test]
fn a_grpc_application_that_is_silent_gives_deadline_exceeded() {
    let app = Server::start(|mut conn| drop(conn.rest()));
    let pair = Pair::shaped(
        FUSEWIRE,
        app.port,
        &Shape { policy: "timeout: {request: 300ms}", protocol: "http2", ..Shape::default() },
    );
    for host in BOTH {
        let trailers = grpc(pair.port(), host);
        assert_eq!(
            (&trailers["grpc-status"], &trailers["fusewire-reason"]),
            (&"4".parse().unwrap(), &"response-timeout".parse().unwrap())
        );
    }
}
