//! Single requests and their answers: versions, methods, fields, bodies that are not there.

use crate::FUSEWIRE;
use bytes::Bytes;
use fusewire_testkit::pair::{BOTH, Shape};
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Pair, client, h2c};
use http::Response;
use http_body_util::Full;

/// Answers with what it got: version, method, host, path, body.
fn mirror() -> client::App {
    client::App::start(0, |request| {
        let host = request.uri().authority().map(|a| a.as_str().to_owned());
        let host = host.or_else(|| request.headers().get("host").map(|h| h.to_str().unwrap().to_owned()));
        let text = format!(
            "{:?} {} {} {} {}",
            request.version(),
            request.method(),
            host.unwrap_or_default(),
            request.uri().path_and_query().unwrap(),
            String::from_utf8_lossy(request.body())
        );
        Response::new(Full::new(Bytes::from(text)))
    })
}

fn calls_arrive_as(protocol: &str, version: &str) {
    let app = mirror();
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { protocol, ..Shape::default() });
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!("POST /a/b?c=d&e HTTP/1.1\r\nhost: {host}\r\ncontent-length: 5\r\n\r\nhello"));
        let (head, body) = conn.answer().unwrap();
        assert_eq!((head.status(), body), (200, format!("{version} POST {host} /a/b?c=d&e hello")));
        // absolute form, as clients speak to a proxy
        conn.say(format!("GET http://{host}/x HTTP/1.1\r\nhost: other\r\n\r\n"));
        assert_eq!(conn.answer().unwrap().1, format!("{version} GET {host} /x "));
        h2c::run(async {
            let client = h2c::client(pair.port()).await;
            let answer = h2c::call(&client, h2c::request("DELETE", &format!("{host}/y?z"))).await.unwrap();
            assert_eq!(answer.body(), format!("{version} DELETE {host} /y?z ").as_bytes());
            let (response, mut body) = h2c::open(&client, h2c::request("PUT", &format!("{host}/z"))).await;
            body.send_data("hello".into(), true).unwrap();
            let whole = h2c::whole(response.await.unwrap().body_mut()).await.unwrap();
            assert_eq!(whole, format!("{version} PUT {host} /z hello").as_bytes());
        });
    }
}

#[test]
fn http1_and_http2_callers_reach_an_http1_application() {
    calls_arrive_as("http1", "HTTP/1.1");
}

#[test]
fn http1_and_http2_callers_reach_an_http2_application() {
    calls_arrive_as("http2", "HTTP/2.0");
}

/// Answers by path what has no body.
fn bodiless() -> Server {
    Server::http(|conn, head| {
        let answer = match (head.method(), head.path()) {
            ("HEAD", _) => "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\nx-a: b\r\n\r\n",
            (_, "/204") => "HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n",
            (_, "/304") => "HTTP/1.1 304 Not Modified\r\netag: \"v1\"\r\nx-a: b\r\n\r\n",
            (_, "/empty") => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-a: b\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx-a: b\r\n\r\nbody",
        };
        conn.try_say(answer).is_ok()
    })
}

#[test]
fn answers_without_a_body_leave_the_connection_usable() {
    let app = bodiless();
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        let mut ask = |method: &str, path: &str| {
            conn.say(format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            let head = conn.head().unwrap();
            assert_eq!(head.header("x-a"), Some("b"), "{host} {method} {path} {head:?}");
            if !(method == "HEAD" || matches!(head.status(), 204 | 304)) {
                let body = conn.body(&head).unwrap();
                assert_eq!(body, if path == "/empty" { &b""[..] } else { b"body" });
            }
            head
        };
        for _ in 0..2 {
            let head = ask("HEAD", "/");
            assert_eq!((head.status(), head.header("content-length")), (200, Some("1234")), "{host}");
            assert_eq!(ask("GET", "/204").status(), 204);
            let unchanged = ask("GET", "/304");
            assert_eq!((unchanged.status(), unchanged.header("etag")), (304, Some("\"v1\"")));
            assert_eq!(ask("GET", "/empty").status(), 200);
            assert_eq!(ask("GET", "/").status(), 200);
        }
        h2c::run(async {
            let client = h2c::client(pair.port()).await;
            for (method, path, status) in
                [("HEAD", "/", 200), ("GET", "/204", 204), ("GET", "/304", 304), ("GET", "/empty", 200)]
            {
                let answer = h2c::call(&client, h2c::request(method, &format!("{host}{path}"))).await.unwrap();
                assert_eq!((answer.status().as_u16(), answer.body().len()), (status, 0), "{host} {method} {path}");
                assert_eq!(answer.headers()["x-a"], "b");
            }
        });
    }
}

#[test]
fn a_caller_that_expects_100_continue_is_told_to_go_on_before_it_sends_its_body() {
    let app = mirror();
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        for _ in 0..2 {
            conn.say(format!("POST /up HTTP/1.1\r\nhost: {host}\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"));
            assert_eq!(conn.head().unwrap().status(), 100, "{host}");
            conn.say("hello");
            let (head, body) = conn.answer().unwrap();
            assert_eq!((head.status(), body), (200, format!("HTTP/1.1 POST {host} /up hello")));
        }
    }
}

#[test]
fn a_refusal_reaches_a_caller_that_waits_for_100_continue_with_its_body_unsent() {
    let app = Server::http(|conn, _| {
        let _ = conn.try_say("HTTP/1.1 413 Too Large\r\ncontent-length: 9\r\nconnection: close\r\n\r\ntoo large");
        false
    });
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!(
            "POST /up HTTP/1.1\r\nhost: {host}\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n"
        ));
        let (head, body) = conn.answer().unwrap();
        assert_eq!((head.status(), body.as_str()), (413, "too large"), "{host}");
    }
}

#[test]
fn many_headers_pass_and_too_large_ones_are_answered_with_431() {
    let app = client::App::start(0, |request| {
        let mut response = Response::builder().header("x-count", request.headers().len());
        for (name, value) in request.headers().iter().filter(|(n, _)| n.as_str().starts_with("x-")) {
            response = response.header(name, value);
        }
        response.body(Full::default()).unwrap()
    });
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        // hyper reads 100 fields at most by default: a mesh must not lower what its applications take
        let many: String = (0..95).map(|i| format!("x-{i}: {i}\r\n")).collect();
        conn.say(format!("GET /many HTTP/1.1\r\nhost: {host}\r\n{many}\r\n"));
        let (head, _) = conn.answer().unwrap();
        assert_eq!(head.status(), 200, "{host} {head:?}");
        assert!((0..95).all(|i| head.header(&format!("x-{i}")) == Some(i.to_string().as_str())), "{host}");
        // values of the same name stay in their order
        conn.say(format!("GET /same HTTP/1.1\r\nhost: {host}\r\nx-same: 1\r\nx-same: 2\r\nx-same: 3\r\n\r\n"));
        let (head, _) = conn.answer().unwrap();
        let same: Vec<&str> = head.fields.iter().filter(|(n, _)| n == "x-same").map(|(_, v)| v.as_str()).collect();
        assert_eq!(same, ["1", "2", "3"]);
        for size in [8_000, 15_000, 60_000, 300_000] {
            let mut conn = Conn::connect(pair.port());
            let large = "v".repeat(size);
            // a refusal may come before everything was read, and a close with unread bytes is a reset: then there is no answer
            if conn.try_say(format!("GET /large HTTP/1.1\r\nhost: {host}\r\nx-large: {large}\r\n\r\n")).is_err() {
                continue;
            }
            let Ok((head, _)) = conn.answer() else { continue };
            match head.status() {
                200 => assert_eq!(head.header("x-large").map(str::len), Some(size), "{host}"),
                431 => assert!(size > 15_000, "{host}: {size} bytes were refused"),
                other => panic!("{host}: {size} bytes of headers are answered with {other} {head:?}"),
            }
        }
        h2c::run(async {
            for size in [8_000, 15_000, 60_000] {
                let client = h2c::client(pair.port()).await;
                let request = h2c::request("GET", &format!("{host}/large")).header("x-large", "v".repeat(size));
                let answer = h2c::call(&client, request).await.unwrap();
                match answer.status().as_u16() {
                    200 => assert_eq!(answer.headers()["x-large"].len(), size),
                    431 => assert!(size > 15_000, "{host}: {size} bytes were refused"),
                    other => {
                        panic!("{host}: {size} bytes of headers are answered with {other} over HTTP/2: {answer:?}")
                    }
                }
            }
        });
    }
}

#[test]
fn an_http10_caller_gets_an_answer_that_ends_with_the_connection() {
    let app = Server::http(|conn, head| match head.path() {
        "/chunked" => {
            conn.try_say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").is_ok()
        }
        _ => conn.try_say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").is_ok(),
    });
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        for path in ["/", "/chunked"] {
            let mut conn = Conn::connect(pair.port());
            conn.say(format!("GET {path} HTTP/1.0\r\nhost: {host}\r\n\r\n"));
            let head = conn.head().unwrap();
            assert_eq!(head.status(), 200, "{host}");
            assert_eq!(head.header("transfer-encoding"), None, "HTTP/1.0 knows no chunks");
            assert_eq!(conn.rest().unwrap(), b"hello", "{host}");
        }
        // and one that keeps the connection
        let mut conn = Conn::connect(pair.port());
        for _ in 0..3 {
            conn.say(format!("GET / HTTP/1.0\r\nhost: {host}\r\nconnection: keep-alive\r\n\r\n"));
            assert_eq!(conn.answer().unwrap().1, "hello");
        }
    }
}

#[test]
fn names_of_ours_are_taken_out_of_what_applications_say() {
    let app = Server::http(|conn, head| {
        let got: Vec<&str> =
            head.fields.iter().map(|(n, _)| n.as_str()).filter(|n| n.starts_with("fusewire-")).collect();
        let body = got.join(",");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nfusewire-reason: denied\r\nfusewire-x: y\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        conn.try_say(answer).is_ok()
    });
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!("GET / HTTP/1.1\r\nhost: {host}\r\nfusewire-port: 22\r\nfusewire-upgrade: x\r\n\r\n"));
        let (head, body) = conn.answer().unwrap();
        assert_eq!((head.status(), body.as_str()), (200, ""), "{host}");
        assert!(!head.fields.iter().any(|(n, _)| n.starts_with("fusewire-")), "{host} {head:?}");
    }
}

#[test]
fn fields_of_one_connection_end_there() {
    let app = Server::http(|conn, head| {
        let got: Vec<&str> = head.fields.iter().map(|(n, _)| n.as_str()).collect();
        let body = got.join(",");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nconnection: x-mine\r\nx-mine: 1\r\nkeep-alive: timeout=5\r\nx-yours: 2\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        conn.try_say(answer).is_ok()
    });
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!(
            "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\nx-end: 2\r\nproxy-connection: close\r\n\r\n"
        ));
        let (head, body) = conn.answer().unwrap();
        let got: Vec<&str> = body.split(',').collect();
        assert!(got.contains(&"x-end") && got.contains(&"host"), "{host} {got:?}");
        assert!(!["x-hop", "keep-alive", "proxy-connection"].iter().any(|n| got.contains(n)), "{host} {got:?}");
        assert_eq!((head.header("x-yours"), head.header("x-mine"), head.header("keep-alive")), (Some("2"), None, None));
    }
}
