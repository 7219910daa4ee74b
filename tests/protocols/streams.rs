//! Bodies in motion: both ways at once, trailers, server-sent events.

use crate::FUSEWIRE;
use fusewire_testkit::pair::{BOTH, Shape};
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Pair, h2c};
use http::{HeaderMap, Response};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

/// An HTTP/2 application that sends back each piece as it comes, and the trailers as `x-got-<name>` at the end.
fn echo_h2() -> h2c::App {
    h2c::App::start(|request, mut respond| async move {
        let mut body = request.into_body();
        let mut out = respond.send_response(Response::new(()), false).unwrap();
        while let Some(data) = h2c::piece(&mut body).await.unwrap() {
            out.send_data(data, false).unwrap();
        }
        let got = body.trailers().await.unwrap().unwrap_or_default();
        let back = got.iter().map(|(n, v)| (format!("x-got-{n}").parse().unwrap(), v.clone()));
        out.send_trailers(back.collect::<HeaderMap>()).unwrap();
    })
}

/// The same over HTTP/1.1, in chunks.
fn echo_h1() -> Server {
    Server::http(|conn, _| {
        conn.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-got-sum\r\n\r\n");
        loop {
            let Ok(chunk) = conn.chunk() else { return false };
            if chunk.is_empty() {
                let got = conn.trailers().unwrap();
                let back: String = got.iter().map(|(n, v)| format!("x-got-{n}: {v}\r\n")).collect();
                conn.say(format!("0\r\n{back}\r\n"));
                return true;
            }
            conn.say_chunk(chunk);
        }
    })
}

fn streams_from_http2(app: u16, protocol: &str) {
    let pair = Pair::shaped(FUSEWIRE, app, &Shape { protocol, ..Shape::default() });
    h2c::run(async {
        let client = h2c::client(pair.port()).await;
        for host in BOTH {
            let (response, mut up) = h2c::open(
                &client,
                h2c::request("POST", &format!("{host}/")).header("te", "trailers").header("trailer", "sum"),
            )
            .await;
            up.send_data("one".into(), false).unwrap();
            let mut down = response.await.unwrap().into_body();
            assert_eq!(h2c::exactly(&mut down, 3).await, "one", "{host}");
            for text in ["two", "three", "four"] {
                up.send_data(text.into(), false).unwrap();
                assert_eq!(h2c::exactly(&mut down, text.len()).await, text, "{host}");
            }
            let trailers = HeaderMap::from_iter([("sum".parse().unwrap(), "7".parse().unwrap())]);
            up.send_trailers(trailers).unwrap();
            assert_eq!(h2c::piece(&mut down).await.unwrap(), None, "{host}");
            let back = down.trailers().await.unwrap();
            assert_eq!(
                back.as_ref().and_then(|t| t.get("x-got-sum")).map(|v| v.as_bytes()),
                Some(&b"7"[..]),
                "{host} {back:?}"
            );
        }
    });
}

#[test]
fn both_bodies_and_trailers_stream_at_once_over_http2() {
    streams_from_http2(echo_h2().port, "http2");
}

#[test]
fn both_bodies_and_trailers_stream_at_once_from_http2_to_http1() {
    streams_from_http2(echo_h1().port, "http1");
}

fn streams_from_http1(app: u16, protocol: &str) {
    let pair = Pair::shaped(FUSEWIRE, app, &Shape { protocol, ..Shape::default() });
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        for _ in 0..2 {
            conn.say(format!(
                "POST / HTTP/1.1\r\nhost: {host}\r\nte: trailers\r\ntransfer-encoding: chunked\r\ntrailer: sum\r\n\r\n"
            ));
            conn.say_chunk("one");
            assert_eq!(conn.head().unwrap().status(), 200, "{host}");
            assert_eq!(conn.chunk().unwrap(), b"one", "{host}");
            for text in ["two", "three", "four"] {
                conn.say_chunk(text);
                assert_eq!(conn.chunk().unwrap(), text.as_bytes(), "{host}");
            }
            conn.say("0\r\nsum: 7\r\n\r\n");
            assert_eq!(conn.chunk().unwrap(), b"", "{host}");
            let back = conn.trailers().unwrap();
            // hyper writes only those trailers that the answer's own `trailer` field announced
            if protocol == "http1" {
                assert_eq!(back, [("x-got-sum".to_owned(), "7".to_owned())], "{host}");
            }
        }
    }
}

#[test]
fn both_bodies_and_trailers_stream_at_once_over_http1() {
    streams_from_http1(echo_h1().port, "http1");
}

#[test]
fn both_bodies_stream_at_once_from_http1_to_http2() {
    streams_from_http1(echo_h2().port, "http2");
}

/// Sends an event when the test says so, and never ends by itself.
fn events() -> (Server, Sender<String>) {
    let (tell, told) = channel::<String>();
    let told = Mutex::new(told);
    let app = Server::http(move |conn, _| {
        conn.say("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
        let told = told.lock().unwrap();
        while let Ok(event) = told.recv() {
            if event == "end" {
                conn.say("0\r\n\r\n");
                return true;
            }
            conn.say_chunk(format!("data: {event}\n\n"));
        }
        false
    });
    (app, tell)
}

#[test]
fn each_of_100_server_sent_events_arrives_while_the_stream_stays_open() {
    let (app, tell) = events();
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!("GET / HTTP/1.1\r\nhost: {host}\r\naccept: text/event-stream\r\n\r\n"));
        assert_eq!(conn.head().unwrap().header("content-type"), Some("text/event-stream"), "{host}");
        for n in 0..100 {
            tell.send(n.to_string()).unwrap();
            assert_eq!(conn.chunk().unwrap(), format!("data: {n}\n\n").as_bytes(), "{host}");
        }
        tell.send("end".into()).unwrap();
        assert_eq!(conn.chunk().unwrap(), b"");
        h2c::run(async {
            let client = h2c::client(pair.port()).await;
            let (response, mut up) = h2c::open(&client, h2c::request("GET", &format!("{host}/"))).await;
            up.send_data("".into(), true).unwrap();
            let mut down = response.await.unwrap().into_body();
            for n in 0..100 {
                tell.send(n.to_string()).unwrap();
                let event = format!("data: {n}\n\n");
                assert_eq!(h2c::exactly(&mut down, event.len()).await, event, "{host}");
            }
            tell.send("end".into()).unwrap();
            assert_eq!(h2c::piece(&mut down).await.unwrap(), None);
        });
    }
}

#[test]
fn a_stream_of_events_outlives_the_request_timeout() {
    let (app, tell) = events();
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: "timeout: {request: 200ms}", ..Shape::default() });
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        assert_eq!(conn.head().unwrap().status(), 200);
        let begun = std::time::Instant::now();
        let mut n = 0;
        while begun.elapsed() < std::time::Duration::from_millis(600) {
            tell.send(n.to_string()).unwrap();
            assert_eq!(conn.chunk().unwrap(), format!("data: {n}\n\n").as_bytes(), "{host}");
            n += 1;
        }
        tell.send("end".into()).unwrap();
        assert_eq!(conn.chunk().unwrap(), b"", "{host}");
    }
}
