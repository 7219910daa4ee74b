//! Exchanges that end early: timeouts, callers that leave, applications that break off.

use crate::FUSEWIRE;
use fusewire_testkit::pair::{BOTH, Shape};
use fusewire_testkit::process::PATIENCE;
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Pair, h2c};
use std::sync::mpsc::channel;

/// Reads the request and says nothing until the caller is gone; tells of both.
fn silent() -> (Server, std::sync::mpsc::Receiver<&'static str>) {
    let (tell, told) = channel();
    let app = Server::start(move |mut conn| {
        if conn.head().is_ok() {
            tell.send("asked").unwrap();
            let _ = conn.rest();
            tell.send("gone").unwrap();
        }
    });
    (app, told)
}

#[test]
fn an_application_that_does_not_answer_within_timeout_request_gives_504() {
    let (app, told) = silent();
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: "timeout: {request: 300ms}", ..Shape::default() });
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!("GET /{host} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        let (head, _) = conn.answer().unwrap();
        assert_eq!((head.status(), head.header("fusewire-reason")), (504, Some("response-timeout")), "{host}");
        assert_eq!([told.recv_timeout(PATIENCE), told.recv_timeout(PATIENCE)], [Ok("asked"), Ok("gone")]);
        // and with a body, over HTTP/2
        h2c::run(async {
            let client = h2c::client(pair.port()).await;
            let (response, mut up) = h2c::open(&client, h2c::request("POST", &format!("{host}/"))).await;
            up.send_data("hello".into(), true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(
                (response.status().as_u16(), response.headers()["fusewire-reason"].as_bytes()),
                (504, &b"response-timeout"[..])
            );
        });
        assert_eq!([told.recv_timeout(PATIENCE), told.recv_timeout(PATIENCE)], [Ok("asked"), Ok("gone")]);
        assert_eq!(pair.logged(&pair.web, &format!("/{host}"))["reason"], "response-timeout");
    }
}

/// Answers with one chunk, then says nothing.
fn stalls() -> Server {
    Server::start(|mut conn| {
        while let Ok(head) = conn.head() {
            if head.path() == "/never" {
                let _ = conn.rest();
                return;
            }
            conn.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            conn.say_chunk("begun");
            let _ = conn.rest();
        }
    })
}

#[test]
fn a_stream_without_a_byte_for_timeout_idle_is_broken_off() {
    let app = stalls();
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: "timeout: {idle: 300ms}", ..Shape::default() });
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!("GET /{host} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        assert_eq!(conn.head().unwrap().status(), 200);
        assert_eq!(conn.chunk().unwrap(), b"begun");
        assert!(conn.chunk().is_err(), "{host}: an end, and not a clean one");
        let line = pair.logged(&pair.web, &format!("/{host}"));
        assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"response-timeout".into()), "{line}");
        h2c::run(async {
            let client = h2c::client(pair.port()).await;
            let (response, mut up) = h2c::open(&client, h2c::request("GET", &format!("{host}/h2"))).await;
            up.send_data("".into(), true).unwrap();
            let mut down = response.await.unwrap().into_body();
            assert_eq!(h2c::exactly(&mut down, 5).await, "begun");
            h2c::piece(&mut down).await.expect_err("a reset");
        });
        // before the headers: an answer
        let mut conn = Conn::connect(pair.port());
        conn.say(format!("GET /never HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        let (head, _) = conn.answer().unwrap();
        assert_eq!((head.status(), head.header("fusewire-reason")), (504, Some("response-timeout")), "{host}");
    }
}

#[test]
fn an_upload_that_goes_on_is_not_idle() {
    let app = Server::http(|conn, head| {
        let n = conn.body(head).unwrap().len();
        conn.try_say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{n}", n.to_string().len())).is_ok()
    });
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: "timeout: {idle: 400ms}", ..Shape::default() });
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!("POST / HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: chunked\r\n\r\n"));
        let begun = std::time::Instant::now();
        let mut sent = 0;
        while begun.elapsed().as_millis() < 1200 {
            conn.say_chunk("x");
            sent += 1;
            std::thread::sleep(std::time::Duration::from_millis(20)); // bounded wait: the pace of a slow uploader
        }
        conn.say("0\r\n\r\n");
        assert_eq!(conn.answer().unwrap().1, sent.to_string(), "{host}");
    }
}

#[test]
fn callers_that_leave_before_the_answer_are_logged_and_nobody_else_is_blamed() {
    let (app, told) = silent();
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        for n in 0..12 {
            let mut conn = Conn::connect(pair.port());
            conn.say(format!("GET /{host}/{n} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            assert_eq!(told.recv_timeout(PATIENCE), Ok("asked"));
            drop(conn);
            assert_eq!(told.recv_timeout(PATIENCE), Ok("gone"), "the application's connection ends too");
            let line = pair.logged(&pair.web, &format!("/{host}/{n}"));
            assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client-gone".into()), "{line}");
        }
        assert_eq!(pair.web.circuit(&format!("{host}-1")).as_deref(), Some("closed"), "{host}");
    }
}

#[test]
fn callers_that_leave_within_the_answer_are_logged_and_nobody_else_is_blamed() {
    let app = stalls();
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        for n in 0..12 {
            let path = format!("/{host}/{n}");
            if n % 2 == 0 {
                let mut conn = Conn::connect(pair.port());
                conn.say(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
                assert_eq!(conn.head().unwrap().status(), 200);
                assert_eq!(conn.chunk().unwrap(), b"begun");
            } else {
                h2c::run(async {
                    let client = h2c::client(pair.port()).await;
                    let (response, mut up) = h2c::open(&client, h2c::request("GET", &format!("{host}{path}"))).await;
                    up.send_data("".into(), true).unwrap();
                    let mut down = response.await.unwrap().into_body();
                    assert_eq!(h2c::exactly(&mut down, 5).await, "begun");
                });
            }
            let line = pair.logged(&pair.web, &path);
            assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"client-gone".into()), "{line}");
        }
        assert_eq!(pair.web.circuit(&format!("{host}-1")).as_deref(), Some("closed"), "{host}");
    }
}

#[test]
fn a_caller_that_leaves_within_its_upload_is_logged_and_nobody_else_is_blamed() {
    let (tell, told) = channel();
    let app = Server::start(move |mut conn| {
        if let Ok(head) = conn.head() {
            tell.send(true).unwrap();
            tell.send(conn.body(&head).is_err()).unwrap();
        }
    });
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        for n in 0..12 {
            let mut conn = Conn::connect(pair.port());
            let path = format!("/{host}/{n}");
            conn.say(format!("POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 1000\r\n\r\nhello"));
            told.recv_timeout(PATIENCE).unwrap();
            drop(conn);
            assert!(told.recv_timeout(PATIENCE).unwrap(), "the application never takes half a body for a whole one");
            let line = pair.logged(&pair.web, &path);
            assert_eq!(line["reason"], "client-gone", "{line}");
        }
        assert_eq!(pair.web.circuit(&format!("{host}-1")).as_deref(), Some("closed"), "{host}");
    }
}

/// Breaks off in different places, by path.
fn breaks() -> Server {
    Server::start(|mut conn| {
        while let Ok(head) = conn.head() {
            match head.path() {
                "/ok" => conn.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
                "/length" => {
                    conn.say("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbegun");
                    return conn.reset();
                }
                "/chunked" => {
                    conn.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n");
                    return conn.reset();
                }
                "/short" => return conn.say("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbegun"),
                "/nothing" => return,
                "/garbage" => return conn.say("SSH-2.0-OpenSSH\r\n\r\n"),
                _ => return conn.reset(),
            }
        }
    })
}

#[test]
fn an_answer_that_breaks_off_never_looks_whole() {
    let app = breaks();
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: "breaker: off", ..Shape::default() });
    for host in BOTH {
        for path in ["/length", "/chunked", "/short"] {
            let mut conn = Conn::connect(pair.port());
            conn.say(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            // the reset may overtake the beginning: then there is no answer, or one with its reason
            if let Ok(head) = conn.head() {
                match head.status() {
                    200 => assert!(conn.body(&head).is_err(), "{host}{path}: half a body looked whole"),
                    502 => assert_eq!(head.header("fusewire-reason"), Some("reset")),
                    other => panic!("{other} {head:?}"),
                }
            }
            let line = pair.logged(&pair.web, path);
            assert_eq!(line["reason"], "reset", "{line}");
            h2c::run(async {
                let client = h2c::client(pair.port()).await;
                let answer = h2c::call(&client, h2c::request("GET", &format!("{host}{path}"))).await;
                if let Ok(answer) = answer {
                    assert_eq!(answer.status(), 502, "{host}{path}: half a body looked whole over HTTP/2: {answer:?}");
                }
            });
        }
    }
}

#[test]
fn a_connection_that_ends_before_the_answer_is_a_502_with_the_reason() {
    let app = breaks();
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: "breaker: off", ..Shape::default() });
    for host in BOTH {
        for path in ["/nothing", "/garbage", "/reset"] {
            for method in ["GET", "POST"] {
                let mut conn = Conn::connect(pair.port());
                conn.say(format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n"));
                let (head, _) = conn.answer().unwrap();
                assert_eq!(
                    (head.status(), head.header("fusewire-reason")),
                    (502, Some("reset")),
                    "{host} {method} {path}"
                );
                conn.say(format!("GET /ok HTTP/1.1\r\nhost: {host}\r\n\r\n"));
                assert_eq!(conn.answer().unwrap().1, "ok", "{host} after {method} {path}");
            }
        }
    }
}

#[test]
fn a_stream_reset_of_an_http2_application_is_one_for_the_caller() {
    let app = h2c::App::start(|request, mut respond| async move {
        if request.uri().path() == "/begun" {
            let mut out = respond.send_response(http::Response::new(()), false).unwrap();
            out.send_data("begun".into(), false).unwrap();
            let _ = h2c::whole(&mut request.into_body()).await;
            out.send_reset(h2::Reason::INTERNAL_ERROR);
        } else {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    });
    let pair =
        Pair::shaped(FUSEWIRE, app.port, &Shape { protocol: "http2", policy: "breaker: off", ..Shape::default() });
    h2c::run(async {
        let client = h2c::client(pair.port()).await;
        for host in BOTH {
            let (response, mut up) = h2c::open(&client, h2c::request("POST", &format!("{host}/begun"))).await;
            let mut down = response.await.unwrap().into_body();
            assert_eq!(h2c::exactly(&mut down, 5).await, "begun", "{host}");
            up.send_data("".into(), true).unwrap();
            h2c::piece(&mut down).await.expect_err("a reset");
            let answer = h2c::call(&client, h2c::request("GET", &format!("{host}/at-once"))).await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), answer.headers()["fusewire-reason"].as_bytes()),
                (502, &b"reset"[..]),
                "{host}"
            );
        }
    });
}
