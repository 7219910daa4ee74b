//! What a bound must not hit: much traffic, many streams, callers that change their mind.

use crate::FUSEWIRE;
use bytes::Bytes;
use fusewire_testkit::client::{App, Gate};
use fusewire_testkit::load::Load;
use fusewire_testkit::pair::{BOTH, Shape};
use fusewire_testkit::{Pair, h2c};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use std::time::Duration;

#[test]
fn ten_thousand_requests_on_one_connection_are_answered() {
    let app = App::saying(0, "hello");
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        h2c::run(async {
            let client = h2c::client(pair.port()).await;
            for n in 0..5_000 {
                let answer = h2c::call(&client, h2c::request("GET", &format!("{host}/"))).await;
                assert_eq!(answer.unwrap_or_else(|e| panic!("{host}, request {n}: {e}")).status(), 200, "{host}");
            }
        });
    }
}

#[test]
fn five_hundred_and_twelve_streams_at_once_are_answered() {
    let gate = Gate::shut();
    let held = gate.clone();
    let app = App::start_async(0, move |_| {
        let gate = held.clone();
        async move {
            gate.pass().await;
            Response::new(Full::new(Bytes::from_static(b"hello")))
        }
    });
    // over HTTP/1.1 each would be a connection to the application, and how fast that accepts is not the matter here
    let shape = Shape { protocol: "http2", ..Shape::default() };
    let pair = Pair::shaped(FUSEWIRE, app.port, &shape);
    h2c::run(async {
        let client = h2c::client(pair.port()).await;
        let mut all = tokio::task::JoinSet::new();
        for n in 0..512 {
            let (client, host) = (client.clone(), BOTH[n % 2]);
            all.spawn(async move { h2c::call(&client, h2c::request("GET", &format!("{host}/"))).await });
        }
        while gate.reached() < 512 {
            if let Some(early) = all.try_join_next() {
                panic!("answered before the application was: {:?}", early.unwrap().map(|a| a.headers().clone()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await; // bounded wait: h2c::run is
        }
        gate.open();
        for answer in all.join_all().await {
            assert_eq!(answer.unwrap().status(), 200);
        }
    });
}

fn from_others(_: usize) -> Request<Full<Bytes>> {
    Request::get("/others").header("host", "shop").body(Full::default()).unwrap()
}

/// An application, of which others ask at the same time, that answers `/slow` never.
fn slow_app() -> App {
    App::start_async(0, |request: Request<Bytes>| async move {
        if request.uri().path() == "/slow" {
            std::future::pending::<()>().await;
        }
        Response::new(Full::new(Bytes::from_static(b"hello")))
    })
}

#[test]
fn callers_that_give_up_at_once_in_their_hundreds_harm_nobody_else_on_the_wire() {
    let app = slow_app();
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: "breaker: off", ..Shape::default() });
    let others = Load::start(pair.port(), 4, Duration::from_millis(1), from_others);
    h2c::run(async {
        for round in 0..15 {
            let client = h2c::client(pair.port()).await;
            let mut waiting = Vec::new();
            for _ in 0..200 {
                waiting.push(h2c::open(&client, h2c::request("GET", "shop/slow")).await.0);
            }
            drop(waiting); // which resets them all
            let answer = h2c::call(&client, h2c::request("GET", "shop/")).await;
            assert_eq!(answer.unwrap_or_else(|e| panic!("round {round}: {e}")).status(), 200);
        }
    });
    assert_eq!(others.stop(), Vec::<String>::new());
}

#[test]
fn a_browser_that_cancels_most_of_what_it_asked_for_keeps_its_connection() {
    let app = slow_app();
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: "breaker: off", ..Shape::default() });
    h2c::run(async {
        let client = h2c::client(pair.port()).await;
        for n in 0..1_000 {
            for _ in 0..3 {
                drop(h2c::open(&client, h2c::request("GET", "plain/slow")).await.0);
            }
            let answer = h2c::call(&client, h2c::request("GET", "plain/")).await;
            assert_eq!(answer.unwrap_or_else(|e| panic!("round {n}: {e}")).status(), 200);
        }
    });
}

#[test]
fn uploads_that_are_answered_before_they_end_do_not_use_up_the_connection() {
    let app = h2c::App::start(|request, mut respond| async move {
        let early = Response::builder().status(StatusCode::PAYLOAD_TOO_LARGE);
        h2c::answer(&mut respond, early, b"", None);
        drop(request);
    });
    let pair =
        Pair::shaped(FUSEWIRE, app.port, &Shape { protocol: "http2", policy: "breaker: off", ..Shape::default() });
    for (host, status) in [("nowhere", 404), ("plain", 413), ("shop", 413)] {
        h2c::run(async {
            let client = h2c::client(pair.port()).await;
            for round in 0..40 {
                let mut all = tokio::task::JoinSet::new();
                for _ in 0..100 {
                    let (answer, mut up) = h2c::open(&client, h2c::request("POST", &format!("{host}/"))).await;
                    all.spawn(async move {
                        for last in [false, false, false, true] {
                            // an error where the answer has come already, and was heeded
                            if up.send_data(Bytes::from_static(&[7; 4 << 10]), last).is_err() {
                                break;
                            }
                            tokio::task::yield_now().await;
                        }
                        answer.await.map(|a| a.status().as_u16())
                    });
                }
                for answer in all.join_all().await {
                    let got = answer.unwrap_or_else(|e| panic!("{host}, round {round}: {e}"));
                    assert_eq!(got, status, "{host}, round {round}");
                }
            }
        });
    }
}

#[test]
fn tens_of_thousands_of_tiny_frames_both_ways_are_carried() {
    let app = h2c::App::start(|request, mut respond| async move {
        let mut body = request.into_body();
        let mut out = respond.send_response(Response::new(()), false).unwrap();
        while let Some(data) = h2c::piece(&mut body).await.unwrap() {
            out.send_data(data, false).unwrap();
        }
        out.send_data(Bytes::new(), true).unwrap();
    });
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { protocol: "http2", ..Shape::default() });
    // no more are under way than an application bears that keeps to the defaults of its library
    const AT_ONCE: usize = 64;
    h2c::run(async {
        for host in BOTH {
            let client = h2c::client(pair.port()).await;
            let (answer, mut up) = h2c::open(&client, h2c::request("POST", &format!("{host}/"))).await;
            let mut body = answer.await.unwrap().into_body();
            for _ in 0..20_000 / AT_ONCE {
                for _ in 0..AT_ONCE {
                    up.send_data(Bytes::from_static(b"x"), false).unwrap();
                }
                assert_eq!(h2c::exactly(&mut body, AT_ONCE).await.len(), AT_ONCE, "{host}");
            }
            up.send_data(Bytes::new(), true).unwrap();
            assert_eq!(h2c::piece(&mut body).await.unwrap(), None, "{host}");
        }
    });
}
