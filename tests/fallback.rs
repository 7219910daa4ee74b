//! What callers get where the service gives nothing, in which order, and what they get all the same.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use fusewire_testkit::client::{Answer, get, send};
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::{Faulty, Mesh, Reply, eventually, h2c};
use http::Request;
use http_body_util::Full;
use serde_json::Value;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");

/// A caller's sidecar before `shop`, which fails as it is told, and `spare`.
struct Town {
    web: Sidecar,
    shop: Faulty,
    spare: Faulty,
    _mesh: Mesh,
}

impl Town {
    /// `shop`'s `fallback`, on one line; `protocol` of both.
    fn new(protocol: &str, fallback: &str) -> Self {
        let (shop, spare) = (Faulty::new(1), Faulty::new(1));
        let yaml = format!(
            "policies:\n  shop: {{plain: allow, retry: off, fallback: {fallback}}}\n  spare: {{plain: allow}}\nservices:\n  \
             shop: {{protocol: {protocol}, policy: shop, instances: {}}}\n  \
             spare: {{protocol: {protocol}, policy: spare, instances: {}}}\n",
            shop.instances("shop"),
            spare.instances("spare")
        );
        let mesh = Mesh::new(FUSEWIRE, &yaml);
        let web = mesh.sidecar("web", "web-1", None);
        Self { web, shop, spare, _mesh: mesh }
    }
    fn get(&self, path: &str) -> Answer {
        get(self.web.outbound, "shop", path).unwrap()
    }
    fn counted(&self, of: &str, cause: &str) -> f64 {
        let series = format!("fusewire_fallback_total{{service=\"shop\",type=\"{of}\",cause=\"{cause}\"}}");
        self.web.metric(&series).unwrap_or(0.0)
    }
    fn logged(&self, path: &str) -> Value {
        let mut found = None;
        eventually("the log has it", || {
            found = self.web.access_log().into_iter().find(|l| l["path"] == path);
            found.is_some()
        });
        found.unwrap()
    }
    /// A gRPC call: the message, if there was one, and the status.
    fn call(&self) -> (Bytes, String) {
        h2c::run(async {
            let client = h2c::client(self.web.outbound).await;
            let request = h2c::request("POST", "shop/shop.Shop/Buy").header("content-type", "application/grpc");
            let (response, mut up) = h2c::open(&client, request.header("te", "trailers")).await;
            let _ = up.send_data(Bytes::from_static(b"\0\0\0\0\0"), true);
            let (head, mut body) = response.await.unwrap().into_parts();
            assert_eq!(head.headers["content-type"], "application/grpc");
            assert!(head.headers.contains_key("fusewire-fallback"), "{head:?}");
            let message = h2c::whole(&mut body).await.unwrap();
            let trailers = body.trailers().await.unwrap().unwrap_or(head.headers);
            (message, trailers["grpc-status"].to_str().unwrap().to_owned())
        })
    }
}

fn said(answer: &Answer) -> (u16, Option<&str>, Option<&str>, String) {
    (answer.status, answer.header("fusewire-fallback"), answer.header("fusewire-reason"), answer.text())
}

#[test]
fn a_static_answer_stands_in_for_failures_and_refusals_and_not_for_what_the_caller_did_wrong() {
    let mut town = Town::new(
        "http",
        "{type: static, status: 203, headers: {content-type: application/json}, body: '{\"items\":[]}'}",
    );
    assert_eq!(said(&town.get("/")), (200, None, None, "fine".into()));
    town.shop.then([Reply::Status(404), Reply::Status(429)]);
    assert_eq!(said(&town.get("/")), (404, None, None, "no".into()));
    assert_eq!(town.get("/").status, 429);
    town.shop.then([Reply::Status(500)]);
    let answer = town.get("/failed");
    let wanted = (203, Some("static"), Some("fallback"), "{\"items\":[]}".into());
    assert_eq!((said(&answer), answer.header("content-type")), (wanted, Some("application/json")));
    let line = town.logged("/failed");
    assert_eq!(
        (&line["status"], &line["fallback"], &line["reason"]),
        (&203.into(), &"static".into(), &"fallback".into())
    );
    assert_eq!(town.counted("static", "status"), 1.0);
    town.shop.then([Reply::Reset, Reply::Reset]); // the kept connection breaks, and the new one
    assert_eq!(said(&town.get("/")).2, Some("reset"));
    town.shop.crash();
    assert_eq!(said(&town.get("/")), (203, Some("static"), Some("connect-failed"), "{\"items\":[]}".into()));
    eventually("the circuit is open", || said(&town.get("/")).2 == Some("circuit-open"));
    assert!(town.counted("static", "circuit-open") >= 1.0 && town.counted("static", "connect-failed") >= 1.0);
    let head = Request::head("/").header("host", "shop").body(Full::default()).unwrap();
    let head = send(town.web.outbound, head).unwrap();
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (203, Some("12"), 0));
}

#[test]
fn the_last_good_answer_outlives_the_service_and_says_how_old_it_is() {
    let mut town = Town::new("http", "{type: stale, max_age: 5m}");
    let kept = Reply::With(200, "content-type: text/x\r\nage: 7\r\n".into(), "a list");
    let secret = Reply::With(200, "set-cookie: a=b\r\n".into(), "mine");
    let fields = [("/list?page=2", kept), ("/me", secret)];
    for (path, reply) in fields {
        town.shop.then([reply]);
        assert_eq!(town.get(path).status, 200);
    }
    town.shop.then([Reply::Status(503)]);
    assert_eq!(town.get("/list?page=1").status, 503, "that was never asked for");
    town.shop.crash();
    let answer = town.get("/list?page=2");
    assert_eq!(said(&answer), (200, Some("stale"), Some("connect-failed"), "a list".into()));
    let more = ["age", "warning", "content-type"].map(|name| answer.header(name).unwrap().to_owned());
    assert!(more[0].parse::<u64>().unwrap() >= 7, "{more:?}");
    assert_eq!(more[1..], ["110 - \"Response is Stale\"", "text/x"]);
    assert_eq!(
        said(&town.get("/me")),
        (502, None, Some("connect-failed"), town.get("/me").text()),
        "it was somebody's"
    );
    let post = Request::post("/list?page=2").header("host", "shop").body(Full::default()).unwrap();
    assert_eq!(send(town.web.outbound, post).unwrap().status, 502);
    let mine = Request::get("/list?page=2").header("host", "shop").header("authorization", "Basic x");
    assert_eq!(send(town.web.outbound, mine.body(Full::default()).unwrap()).unwrap().status, 502);
}

#[test]
fn another_service_gets_the_same_request_once_and_a_fallback_that_fails_leaves_the_failure() {
    let mut town = Town::new("http", "[{type: service, service: spare}]");
    town.shop.then([Reply::Status(500)]);
    let put = Request::put("/orders/7").header("host", "shop").body(Full::new(Bytes::from_static(b"two"))).unwrap();
    let answer = send(town.web.outbound, put).unwrap();
    assert_eq!(said(&answer), (200, Some("service"), None, "fine".into()));
    let [first, second] = [town.shop.seen().remove(0), town.spare.seen().remove(0)];
    assert_eq!((&first.body, first.head.path()), (&second.body, second.head.path()));
    assert_eq!(second.head.method(), "PUT");
    town.spare.then([Reply::Status(503)]);
    town.shop.then([Reply::Status(500)]);
    assert_eq!(said(&town.get("/")), (500, None, None, "no".into()), "the service's own failure, not the spare's");
    assert_eq!(town.spare.seen().len(), 1, "nothing that stands in is made again");
    town.shop.crash();
    assert_eq!(said(&town.get("/gone")), (200, Some("service"), None, "fine".into()));
    assert_eq!(town.counted("service", "connect-failed"), 1.0);
    assert_eq!(town.logged("/gone")["fallback"], "service");
    town.spare.crash();
    assert_eq!(said(&town.get("/")).2, Some("connect-failed"));
}

#[test]
fn fallbacks_are_tried_in_their_order() {
    let chain =
        "[{type: stale, max_age: 1m}, {type: service, service: spare}, {type: fail, status: 504, retry_after: 5s}]";
    let town = Town::new("http", chain);
    assert_eq!(town.get("/known").status, 200);
    town.shop.always(Some(Reply::Status(503)));
    assert_eq!(said(&town.get("/known")).1, Some("stale"));
    assert_eq!(said(&town.get("/unknown")).1, Some("service"));
    town.spare.always(Some(Reply::Reset));
    let answer = town.get("/unknown");
    assert_eq!((said(&answer).0, said(&answer).1, said(&answer).2), (504, Some("fail"), Some("fallback")));
    assert_eq!(
        (answer.header("retry-after"), answer.header("fusewire-detail")),
        (Some("5"), Some("the service answered 503"))
    );
}

#[test]
fn empty_is_204() {
    let town = Town::new("http", "empty");
    town.shop.then([Reply::Status(502)]);
    assert_eq!(said(&town.get("/")), (204, Some("empty"), Some("fallback"), String::new()));
}

#[test]
fn grpc_callers_get_a_message_or_a_status() {
    let message = Bytes::from_static(b"\0\0\0\0\x02ok");
    for (fallback, wanted) in [
        ("{type: static, body: ok}", (message, "0")),
        ("{type: static, grpc_status: 9}", (Bytes::new(), "9")),
        ("empty", (Bytes::from_static(b"\0\0\0\0\0"), "0")),
        ("{type: fail, status: 403}", (Bytes::new(), "7")),
    ] {
        let mut town = Town::new("http2", fallback);
        town.shop.crash();
        let (message, status) = town.call();
        assert_eq!((message, status.as_str()), wanted, "{fallback}");
    }
}
