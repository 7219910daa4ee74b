//! What failed is made again where that helps and harms nobody: real sidecars, and services that fail as they are told.

#![allow(clippy::unwrap_used)]

#[path = "retries/grpc.rs"]
mod grpc;
#[path = "retries/layers.rs"]
mod layers;

use bytes::Bytes;
use fusewire_testkit::client::{Answer, get, send};
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::{Faulty, Mesh, Reply, eventually};
use http::Request;
use http_body_util::Full;
use std::time::{Duration, Instant};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");

/// A caller's sidecar, and the service `shop` behind it, in clear.
struct Shop {
    web: Sidecar,
    shop: Faulty,
    mesh: Mesh,
}

impl Shop {
    /// `policy`: more of it; one line.
    fn new(instances: usize, policy: &str) -> Self {
        let shop = Faulty::new(instances);
        let mesh = Mesh::new(FUSEWIRE, &world(&shop, policy));
        let web = mesh.sidecar("web", "web-1", None);
        Self { web, shop, mesh }
    }
    fn get(&self, path: &str) -> Answer {
        get(self.web.outbound, "shop", path).unwrap()
    }
    fn send(&self, method: &str, fields: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let mut request = Request::builder().method(method).uri("/orders").header("host", "shop");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        send(self.web.outbound, request.body(Full::new(Bytes::from(body))).unwrap()).unwrap()
    }
    fn metric(&self, line: &str) -> f64 {
        self.web.metric(line).unwrap_or(0.0)
    }
}

fn world(shop: &Faulty, policy: &str) -> String {
    let comma = if policy.is_empty() { "" } else { ", " };
    format!(
        "policies:\n  shop: {{plain: allow{comma}{policy}}}\nservices:\n  shop: {{policy: shop, instances: {}}}\n",
        shop.instances("shop")
    )
}

#[test]
fn a_get_that_failed_is_made_again_on_another_instance_and_the_log_says_how_often() {
    let town = Shop::new(3, "retry: {per_try_timeout: 300ms}");
    for (n, (failure, cause)) in
        [(Reply::Reset, "reset"), (Reply::Hang, "timeout"), (Reply::Status(503), "gateway-error")]
            .into_iter()
            .enumerate()
    {
        town.shop.then([failure.clone(), failure.clone()]);
        let answer = town.get(&format!("/{cause}"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "fine"), "{failure:?}");
        let mut seen: Vec<_> = town.shop.seen().iter().map(|s| s.instance).collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2], "{failure:?}: each on another instance");
        let series = format!("fusewire_retries_total{{service=\"shop\",cause=\"{cause}\"}}");
        assert_eq!(town.metric(&series), 2.0, "{series}");
        eventually("the log has it", || town.web.access_log().len() == n + 1);
        let line = town.web.access_log().pop().unwrap();
        assert_eq!((&line["attempts"], &line["retries"]), (&3.into(), &2.into()), "{line}");
    }
    town.shop.then([Reply::Status(503), Reply::Status(503), Reply::Status(503)]);
    assert_eq!(town.get("/spent").status, 503, "three attempts, and then the caller gets the answer");
    assert_eq!(town.shop.seen().len(), 3);
    eventually("the log has it", || town.web.access_log().len() == 4);
    let line = town.web.access_log().pop().unwrap();
    assert_eq!((&line["retries"], &line["retry_denied"]), (&2.into(), &"attempts".into()), "{line}");
}

#[test]
fn what_is_no_failure_that_another_attempt_mends_is_not_made_again() {
    let town = Shop::new(3, "breaker: {classify: {ok: 503}}");
    for status in [500, 404, 429, 501, 503] {
        town.shop.then([Reply::Status(status)]);
        assert_eq!(town.get("/").status, status);
        assert_eq!(town.shop.seen().len(), 1, "{status}");
    }
}

#[test]
fn a_post_that_an_application_may_have_seen_is_never_sent_twice_unless_its_caller_says_so() {
    let town = Shop::new(3, "retry: {per_try_timeout: 300ms}");
    let statuses = [Reply::Status(503), Reply::Reset, Reply::Hang].map(|failure| {
        town.shop.then([failure]);
        let status = town.send("POST", &[], b"one".to_vec()).status;
        assert_eq!(town.shop.seen().len(), 1);
        status
    });
    assert_eq!(statuses, [503, 502, 504]);
    assert_eq!(town.metric("fusewire_retry_denied_total{service=\"shop\",reason=\"unsafe\"}"), 3.0);
    let hint = Reply::With(503, "retry-after: 0\r\n".into(), "later");
    town.shop.then([hint]);
    assert_eq!(town.send("POST", &[], b"one".to_vec()).status, 503, "it says when, not that nothing was done");
    assert_eq!(town.shop.seen().len(), 1);
    for failure in [Reply::Status(503), Reply::Reset, Reply::Hang] {
        town.shop.then([failure]);
        let answer = town.send("POST", &[("idempotency-key", "7")], b"one".to_vec());
        assert_eq!(answer.status, 200);
        let seen = town.shop.seen();
        assert_eq!(seen.iter().map(|s| s.body.as_slice()).collect::<Vec<_>>(), [b"one", b"one"]);
    }
}

#[test]
fn a_policy_can_say_what_may_be_repeated_and_what_not() {
    let town = Shop::new(2, "retry: {idempotent: true}");
    town.shop.then([Reply::Status(503)]);
    assert_eq!((town.send("POST", &[], Vec::new()).status, town.shop.seen().len()), (200, 2));
    town.mesh.configure(&world(&town.shop, "retry: {idempotent: false}"));
    eventually("the change is in force", || {
        town.shop.seen();
        town.shop.then([Reply::Status(503)]);
        let status = town.get("/").status;
        status == 503 && town.shop.seen().len() == 1
    });
    town.mesh.configure(&world(&town.shop, "retry: off"));
    let denied = || town.metric("fusewire_retry_denied_total{service=\"shop\",reason=\"unsafe\"}");
    eventually("nothing is judged any more", || {
        let before = denied();
        town.shop.then([Reply::Status(503)]);
        assert_eq!(town.get("/").status, 503);
        denied() == before
    });
}

#[test]
fn a_body_is_sent_again_to_the_byte_up_to_64_kib_and_not_beyond() {
    let town = Shop::new(2, "");
    let body = |length: usize| (0..length).map(|n| (n * 31 % 251) as u8).collect::<Vec<u8>>();
    for length in [1, 1000, 64 << 10] {
        town.shop.then([Reply::Status(503)]);
        assert_eq!(town.send("PUT", &[], body(length)).status, 200, "{length}");
        let seen = town.shop.seen();
        assert_eq!(seen.len(), 2, "{length}");
        assert!(seen.iter().all(|s| s.body == body(length)), "{length}");
    }
    town.shop.then([Reply::Status(503)]);
    let larger = body((64 << 10) + 1);
    assert_eq!(town.send("PUT", &[], larger.clone()).status, 503, "it is sent all the same, once");
    let seen = town.shop.seen();
    assert!(seen.len() == 1 && seen[0].body == larger);
    assert_eq!(town.metric("fusewire_retry_denied_total{service=\"shop\",reason=\"not-replayable\"}"), 1.0);
}

#[test]
fn retries_end_when_their_budget_does_and_successes_pay_for_new_ones() {
    let town = Shop::new(3, "retry: {budget: {ratio: 50%, min_per_second: 0, start: 3}}");
    town.shop.always(Some(Reply::Status(503)));
    for _ in 0..5 {
        assert_eq!(town.get("/").status, 503);
    }
    assert_eq!(town.shop.seen().len(), 5 + 3, "three tokens, three retries");
    assert_eq!(town.metric("fusewire_retry_denied_total{service=\"shop\",reason=\"budget\"}"), 4.0);
    eventually("the gauge says so", || {
        town.web.metric("fusewire_retry_budget{direction=\"outbound\",service=\"shop\"}") == Some(0.0)
    });
    town.shop.always(None);
    for _ in 0..2 {
        assert_eq!(town.get("/").status, 200);
    }
    town.shop.seen();
    // a change of the configuration is no fresh start
    let version = || town.web.socket("/config")["version"].clone();
    let before = version();
    town.mesh.configure(&world(&town.shop, "retry: {budget: {ratio: 40%, min_per_second: 0, start: 50}}"));
    eventually("the change is in force", || version() != before);
    town.shop.always(Some(Reply::Status(503)));
    assert_eq!(town.get("/").status, 503);
    assert_eq!(town.shop.seen().len(), 2, "two successes paid for one");
}

#[test]
fn a_wait_that_the_service_asks_for_is_kept_within_a_second_and_beyond_it_is_an_answer() {
    let town = Shop::new(3, "");
    let later = |seconds: u32| Reply::With(503, format!("retry-after: {seconds}\r\n"), "later");
    town.shop.then([later(1)]);
    let began = Instant::now();
    assert_eq!(town.get("/").status, 200);
    let took = began.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(2)).contains(&took), "{took:?}");
    town.shop.seen();
    town.shop.then([later(2)]);
    let answer = town.get("/");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")));
    assert_eq!(town.shop.seen().len(), 1);
    assert_eq!(town.metric("fusewire_retry_denied_total{service=\"shop\",reason=\"pushback\"}"), 1.0);
}

#[test]
fn a_connection_survives_an_answer_that_nobody_got() {
    let town = Shop::new(2, "retry: {budget: {start: 50}}");
    for _ in 0..20 {
        town.shop.then([Reply::Status(503)]);
        assert_eq!(town.get("/").status, 200);
    }
    assert!(town.shop.accepted() <= 4, "{} connections for 40 requests", town.shop.accepted());
}

#[test]
fn one_instance_alone_is_asked_again_only_where_it_could_not_be_reached() {
    let mut town = Shop::new(1, "");
    town.shop.then([Reply::Status(503)]);
    assert_eq!((town.get("/").status, town.shop.seen().len()), (503, 1));
    town.shop.crash();
    let answer = town.get("/gone");
    assert_eq!((answer.status, answer.header("fusewire-reason")), (502, Some("connect-failed")));
    assert_eq!(town.metric("fusewire_retries_total{service=\"shop\",cause=\"connect\"}"), 2.0);
}

#[test]
fn the_time_for_an_answer_is_for_all_attempts_together() {
    let town = Shop::new(3, "timeout: {request: 700ms}, retry: {per_try_timeout: 400ms}");
    town.shop.always(Some(Reply::Hang));
    let began = Instant::now();
    let answer = town.get("/");
    let took = began.elapsed();
    assert_eq!((answer.status, answer.header("fusewire-reason")), (504, Some("response-timeout")));
    assert!((Duration::from_millis(690)..Duration::from_millis(1100)).contains(&took), "{took:?}");
    assert_eq!(town.shop.seen().len(), 2);
}

#[test]
fn a_slow_answer_is_overtaken_by_a_second_copy_where_the_policy_says_so() {
    let hedge = "retry: {hedge: {extra: 1, min_delay: 50ms}}";
    let town = Shop::new(2, hedge);
    for _ in 0..25 {
        assert_eq!(town.get("/").status, 200);
    }
    let hedges = || town.metric("fusewire_retries_total{service=\"shop\",cause=\"hedge\"}");
    let before = hedges();
    town.shop.seen();
    town.shop.then([Reply::Hang]);
    let began = Instant::now();
    let answer = town.get("/overtaken");
    assert_eq!((answer.status, answer.text().as_str()), (200, "fine"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let seen: Vec<_> = town.shop.seen().iter().map(|s| s.instance).collect();
    assert!(seen.len() == 2 && seen[0] != seen[1], "{seen:?}");
    assert_eq!(hedges() - before, 1.0);
    let bad = ["hard", "soft"].map(|outcome| {
        let labels = |n: usize| format!("service=\"shop\",instance=\"shop-{n}\",outcome=\"{outcome}\"");
        (0..2).map(|n| town.metric(&format!("fusewire_attempts_total{{{}}}", labels(n)))).sum::<f64>()
    });
    assert_eq!(bad, [0.0, 0.0], "the loser is not to blame");
    town.shop.then([Reply::Hang]);
    let post = town.send("POST", &[("x-envoy-expected-rq-timeout-ms", "600")], Vec::new());
    assert_eq!((post.status, town.shop.seen().len()), (504, 1), "a POST is not sent twice");
}
