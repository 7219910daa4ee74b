//! How long a caller waits is known on the whole way: less at each hop, and nothing is sent that nobody waits for.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use fusewire_testkit::client::{App, get, send};
use fusewire_testkit::pair::{BOTH, Pair, Shape};
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Faulty, Mesh, Reply, eventually, h2c};
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");

/// A gRPC application that keeps the fields of each call, and answers.
fn grpc_app(seen: &Arc<Mutex<Vec<HeaderMap>>>) -> h2c::App {
    let seen = seen.clone();
    h2c::App::start(move |request, mut respond| {
        let seen = seen.clone();
        async move {
            seen.lock().unwrap().push(request.headers().clone());
            let done = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            let head = Response::builder().header("content-type", "application/grpc");
            h2c::answer(&mut respond, head, b"\0\0\0\0\0", Some(done));
        }
    })
}

/// The status of a gRPC call, and its reason.
fn call(port: u16, host: &str, timeout: Option<&str>) -> (String, Option<String>) {
    h2c::run(async {
        let client = h2c::client(port).await;
        let request = h2c::request("POST", &format!("{host}/shop.Shop/Buy")).header("content-type", "application/grpc");
        let request = match timeout {
            Some(timeout) => request.header("grpc-timeout", timeout),
            None => request,
        };
        let (response, mut up) = h2c::open(&client, request.header("te", "trailers")).await;
        let _ = up.send_data(Bytes::new(), true);
        let (head, mut body) = response.await.unwrap().into_parts();
        h2c::whole(&mut body).await.unwrap();
        let reason = head.headers.get("fusewire-reason").map(|r| r.to_str().unwrap().to_owned());
        let trailers = body.trailers().await.unwrap().unwrap_or(head.headers);
        (trailers["grpc-status"].to_str().unwrap().to_owned(), reason)
    })
}

#[test]
fn a_calls_deadline_shrinks_with_each_hop_and_what_is_over_is_not_sent() {
    let seen = Arc::default();
    let app = grpc_app(&seen);
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        assert_eq!(call(pair.port(), host, Some("5S")).0, "0");
        let fields = seen.lock().unwrap().pop().unwrap();
        let told = fields["grpc-timeout"].to_str().unwrap();
        let micros: u64 = told.strip_suffix('u').unwrap_or_else(|| panic!("{told}")).parse().unwrap();
        let hops = if host == "shop" { 2 } else { 1 };
        assert!(micros <= 5_000_000 - hops * 1000 && micros > 3_000_000, "{host}: {told}");
        assert!(!fields.keys().any(|name| name.as_str().starts_with("fusewire-")), "{fields:?}");
        assert_eq!(call(pair.port(), host, None).0, "0");
        assert!(!seen.lock().unwrap().pop().unwrap().contains_key("grpc-timeout"), "nobody set one");
        let (status, reason) = call(pair.port(), host, Some("1n"));
        assert_eq!((status.as_str(), reason.as_deref()), ("4", Some("deadline-exceeded")), "{host}");
        assert!(seen.lock().unwrap().is_empty(), "{host}: it was over before it could be sent");
    }
    let outcomes = ["hard", "soft", "ignored"].map(|outcome| {
        let series = format!("fusewire_attempts_total{{service=\"plain\",instance=\"plain-1\",outcome=\"{outcome}\"}}");
        pair.web.metric(&series)
    });
    assert_eq!(outcomes, [Some(0.0); 3], "and no instance was asked");
}

#[test]
fn a_routes_limit_is_told_to_sidecars_and_no_call_is_cut_by_it() {
    let seen = Arc::default();
    let app = grpc_app(&seen);
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: "timeout: {request: 2s}", ..Shape::default() });
    assert_eq!(call(pair.port(), "shop", None).0, "0");
    let fields = seen.lock().unwrap().pop().unwrap();
    assert!(!fields.contains_key("grpc-timeout"), "it is for the headers alone, and a stream may go on");
}

#[test]
fn the_inner_sidecar_gives_up_with_the_outer_one_and_the_instance_that_hung_is_to_blame() {
    let app = Server::http(|conn, _| {
        let _ = conn.rest();
        false
    });
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: "retry: off", ..Shape::default() });
    let began = Instant::now();
    let request = Request::get("/slow").header("host", "shop").header("x-envoy-expected-rq-timeout-ms", "400");
    let answer = send(pair.port(), request.body(Full::default()).unwrap()).unwrap();
    assert_eq!((answer.status, answer.header("fusewire-reason")), (504, Some("response-timeout")));
    let took = began.elapsed();
    assert!((Duration::from_millis(380)..Duration::from_millis(900)).contains(&took), "{took:?}");
    let inner = pair.logged(&pair.shop, "/slow");
    // it gives up a moment earlier, unless the way there took that moment
    assert!(["response-timeout", "client-gone"].contains(&inner["reason"].as_str().unwrap()), "{inner}");
    assert!(inner["duration_us"].as_u64().unwrap() < 600_000, "{inner}");
    let soft = pair.web.metric("fusewire_attempts_total{service=\"shop\",instance=\"shop-1\",outcome=\"soft\"}");
    assert_eq!(soft, Some(1.0));
}

#[test]
fn an_http_caller_may_say_how_long_it_waits_and_the_application_is_told_what_is_left() {
    let seen = Arc::<Mutex<HeaderMap>>::default();
    let app = {
        let seen = seen.clone();
        App::start(0, move |request| {
            *seen.lock().unwrap() = request.headers().clone();
            Response::new(Full::default())
        })
    };
    let pair = Pair::new(FUSEWIRE, app.port);
    let request = Request::get("/").header("host", "shop").header("x-envoy-expected-rq-timeout-ms", "5000");
    assert_eq!(send(pair.port(), request.body(Full::default()).unwrap()).unwrap().status, 200);
    let told: u64 = seen.lock().unwrap()["x-envoy-expected-rq-timeout-ms"].to_str().unwrap().parse().unwrap();
    assert!((3_000..=4_998).contains(&told), "{told}");
    assert_eq!(get(pair.port(), "shop", "/").unwrap().status, 200);
    assert!(!seen.lock().unwrap().contains_key("x-envoy-expected-rq-timeout-ms"));
    let forged = Request::get("/").header("host", "shop").header("fusewire-timeout", "1");
    assert_eq!(
        send(pair.port(), forged.body(Full::default()).unwrap()).unwrap().status,
        200,
        "it is not an application's to say"
    );
}

#[test]
fn an_upload_that_stalls_is_its_callers_fault_and_no_instances() {
    let app = Server::http(|conn, head| conn.body(head).is_ok());
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: "timeout: {request: 400ms}", ..Shape::default() });
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!("POST /up HTTP/1.1\r\nhost: {host}\r\ncontent-length: 10\r\n\r\nhalf"));
        let (head, _) = conn.answer().unwrap();
        assert_eq!((head.status(), head.header("fusewire-reason")), (408, Some("request-timeout")), "{host}");
        let bad = ["hard", "soft"].map(|outcome| {
            let labels = format!("service=\"{host}\",instance=\"{host}-1\",outcome=\"{outcome}\"");
            pair.web.metric(&format!("fusewire_attempts_total{{{labels}}}"))
        });
        assert_eq!(bad, [Some(0.0), Some(0.0)], "{host}");
    }
}

#[test]
fn retries_have_what_is_left_and_not_more() {
    let shop = Faulty::new(3);
    let mesh = Mesh::new(
        FUSEWIRE,
        &format!(
            "policies:\n  shop: {{plain: allow}}\nservices:\n  shop: {{policy: shop, instances: {}}}\n",
            shop.instances("shop")
        ),
    );
    let web = mesh.sidecar("web", "web-1", None);
    let ask = |timeout: &str| {
        let request = Request::get("/").header("host", "shop").header("x-envoy-expected-rq-timeout-ms", timeout);
        send(web.outbound, request.body(Full::default()).unwrap()).unwrap()
    };
    shop.then([Reply::With(503, "retry-after: 1\r\n".into(), "later")]);
    let answer = ask("800");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "it would be over by then");
    shop.seen();
    shop.then([Reply::Status(503)]);
    assert_eq!(ask("5000").status, 200);
    let told: Vec<u64> =
        shop.seen().iter().map(|s| s.head.header("x-envoy-expected-rq-timeout-ms").unwrap().parse().unwrap()).collect();
    assert!(told.len() == 2 && told[1] <= told[0] && told[0] < 5000, "{told:?}");
}

#[test]
fn who_waits_less_than_an_answer_takes_blames_no_instance() {
    let app = App::start_async(0, |_| async {
        tokio::time::sleep(Duration::from_millis(40)).await; // bounded wait: the work
        Response::new(Full::default())
    });
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: "retry: off", ..Shape::default() });
    let ask = |timeout: &str| {
        let request = Request::get("/").header("host", "shop").header("x-envoy-expected-rq-timeout-ms", timeout);
        send(pair.port(), request.body(Full::default()).unwrap()).unwrap()
    };
    let soft = || pair.web.metric("fusewire_attempts_total{service=\"shop\",instance=\"shop-1\",outcome=\"soft\"}");
    // until the median is known: from then on it is the caller that asks for too much
    (0..40).for_each(|_| assert_eq!(ask("9000").status, 200));
    for _ in 0..10 {
        let answer = ask("15");
        assert_eq!((answer.status, answer.header("fusewire-reason")), (504, Some("deadline-exceeded")));
    }
    assert_eq!((soft(), pair.web.circuit("shop-1").as_deref()), (Some(0.0), Some("closed")));
    assert_eq!(ask("9000").status, 200);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the request waits meanwhile")]
fn the_time_that_a_request_waits_for_its_turn_is_taken_off() {
    let (release, held) = tokio::sync::watch::channel(());
    let told = Arc::<Mutex<Option<u64>>>::default();
    let app = {
        let told = told.clone();
        App::start_async(0, move |request: Request<Bytes>| {
            let (mut held, told) = (held.clone(), told.clone());
            held.mark_unchanged();
            async move {
                if request.uri().path() == "/hold" {
                    let _ = held.changed().await;
                } else {
                    let left = &request.headers()["x-envoy-expected-rq-timeout-ms"];
                    *told.lock().unwrap() = Some(left.to_str().unwrap().parse().unwrap());
                }
                Response::new(Full::default())
            }
        })
    };
    let one = "limit: {inbound: {algorithm: aimd, initial: 1, min: 1, max: 1}}";
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: one, ..Shape::default() });
    let gate = |field: &str| pair.shop.socket("/limits")["inbound"][0][field].clone();
    // a place in the queue lasts 50 ms: on a busy machine that may be over before the turn comes
    let taken_off = (0..100).find_map(|_| {
        let mut holds = Conn::connect(pair.port());
        holds.say("GET /hold HTTP/1.1\r\nhost: shop\r\n\r\n");
        eventually("one is at the application", || gate("in_flight") == 1);
        let mut waits = Conn::connect(pair.port());
        waits.say("GET / HTTP/1.1\r\nhost: shop\r\nx-envoy-expected-rq-timeout-ms: 5000\r\n\r\n");
        let shed = gate("shed");
        eventually("it waits, or has waited", || gate("queued") == 1 || gate("shed") != shed);
        let seen = Instant::now();
        std::thread::sleep(Duration::from_millis(20)); // bounded wait: what is to be taken off
        let waited = seen.elapsed();
        let _ = release.send(());
        let (head, _) = waits.answer().unwrap();
        assert_eq!(holds.answer().unwrap().0.status(), 200);
        (head.status() == 200).then(|| (told.lock().unwrap().unwrap(), waited))
    });
    let (told, waited) = taken_off.expect("one of a hundred gets its turn");
    assert!(u128::from(told) + waited.as_millis() <= 5000, "{told} ms left after {waited:?}");
}
