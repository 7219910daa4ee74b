//! Requests that turn into bytes: WebSocket over HTTP/1.1 and HTTP/2, and CONNECT.

use crate::FUSEWIRE;
use bytes::Bytes;
use fusewire_testkit::pair::BOTH;
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Pair, free_port, h2c};
use h2::ext::Protocol;
use http::Request;

/// The key and its answer of RFC 6455, section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// A close frame: status 1000.
const CLOSE: &[u8] = &[0x88, 2, 0x03, 0xe8];

/// Upgrades `/chat`, then sends back what comes, up to a close frame; refuses all else.
fn chat() -> Server {
    Server::http(|conn, head| {
        let asks = head.header("upgrade") == Some("websocket")
            && head.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("upgrade"))
            && head.header("sec-websocket-version") == Some("13")
            && head.method() == "GET";
        match head.path() {
            "/chat?a=b"
                if asks && head.header("sec-websocket-key").is_some_and(|k| k.len() == 24 && k.ends_with("==")) =>
            {
                conn.say(format!(
                    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                     sec-websocket-accept: {ACCEPT}\r\nsec-websocket-protocol: superchat\r\n\r\n"
                ));
                loop {
                    let Ok(frame) = conn.exact(4) else { return false };
                    if conn.try_say(&frame).is_err() || frame == CLOSE {
                        return false;
                    }
                }
            }
            "/plain" => conn.try_say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain").is_ok(),
            _ => {
                let body = format!("not you: {head:?}");
                conn.try_say(format!(
                    "HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\nx-why: because\r\n\r\n{body}",
                    body.len()
                ))
                .is_ok()
            }
        }
    })
}

fn ask(host: &str, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\nsec-websocket-protocol: superchat\r\n\r\n"
    )
}

#[test]
fn a_websocket_over_http1_carries_bytes_both_ways_until_its_close() {
    let app = chat();
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(ask(host, "/chat?a=b"));
        let head = conn.head().unwrap();
        assert_eq!(head.status(), 101, "{host} {head:?}");
        assert_eq!(head.header("sec-websocket-accept"), Some(ACCEPT));
        assert_eq!(head.header("sec-websocket-protocol"), Some("superchat"));
        assert_eq!(head.header("upgrade"), Some("websocket"));
        for n in 0..100u32 {
            let frame = n.to_be_bytes();
            conn.say(frame);
            assert_eq!(conn.exact(4).unwrap(), frame, "{host}");
        }
        conn.say(CLOSE);
        assert_eq!(conn.rest().unwrap(), CLOSE, "{host}: the close frame comes back, then the connection ends");
    }
    let line = pair.logged(&pair.web, "/chat");
    assert_eq!(
        (&line["status"], &line["bytes_in"], &line["bytes_out"]),
        (&101.into(), &404.into(), &404.into()),
        "{line}"
    );
}

#[test]
fn a_websocket_carries_what_was_sent_right_behind_its_request() {
    let app = chat();
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say([ask(host, "/chat?a=b").as_bytes(), b"fast", CLOSE].concat());
        assert_eq!(conn.head().unwrap().status(), 101, "{host}");
        assert_eq!(conn.rest().unwrap(), [b"fast", CLOSE].concat(), "{host}");
    }
}

#[test]
fn a_refused_upgrade_passes_with_its_body_and_leaves_the_connection_usable() {
    let app = chat();
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        for _ in 0..2 {
            conn.say(ask(host, "/private"));
            let (head, body) = conn.answer().unwrap();
            assert_eq!((head.status(), head.header("x-why")), (403, Some("because")), "{host} {head:?}");
            assert!(body.starts_with("not you"), "{host}: {body}");
            assert_eq!(head.header("fusewire-reason"), None);
        }
        conn.say(format!("GET /plain HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        assert_eq!(conn.answer().unwrap().1, "plain", "{host}");
    }
}

#[test]
fn an_upgrade_towards_a_dead_application_is_answered_with_the_reason() {
    let pair = Pair::new(FUSEWIRE, free_port());
    for (host, status, reason) in [("shop", 503, "app-unreachable"), ("plain", 502, "connect-failed")] {
        let mut conn = Conn::connect(pair.port());
        conn.say(ask(host, "/chat?a=b"));
        let (head, _) = conn.answer().unwrap();
        assert_eq!((head.status(), head.header("fusewire-reason")), (status, Some(reason)));
    }
}

#[test]
fn a_wish_to_upgrade_to_h2c_is_answered_as_if_it_had_not_been_asked() {
    let app = chat();
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!(
            "GET /plain HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n"
        ));
        assert_eq!(conn.answer().unwrap().1, "plain", "{host}");
    }
}

/// Extended CONNECT (RFC 8441) on a connection whose SETTINGS have come.
fn extended(host: &str, path: &str) -> Request<()> {
    Request::builder()
        .method("CONNECT")
        .uri(format!("http://{host}{path}"))
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "superchat")
        .body(())
        .unwrap()
}

#[test]
fn a_websocket_over_http2_reaches_an_http1_application() {
    let app = chat();
    let pair = Pair::new(FUSEWIRE, app.port);
    h2c::run(async {
        let mut client = h2c::client(pair.port()).await;
        for host in BOTH {
            let plain = h2c::call(&client, h2c::request("GET", &format!("{host}/plain"))).await.unwrap();
            assert_eq!(plain.body(), "plain", "{host}");
            assert!(client.is_extended_connect_protocol_enabled());
            let (response, mut up) = client.send_request(extended(host, "/chat?a=b"), false).unwrap();
            let response = response.await.unwrap();
            let why = format!("{host} {response:?}");
            assert_eq!(response.status(), 200, "{why}");
            assert_eq!(response.headers()["sec-websocket-protocol"], "superchat", "{why}");
            assert!(!response.headers().contains_key("sec-websocket-accept"), "RFC 8441, section 5: {why}");
            assert!(!response.headers().contains_key("upgrade"), "{why}");
            let mut down = response.into_body();
            for n in 0..100u32 {
                up.send_data(Bytes::copy_from_slice(&n.to_be_bytes()), false).unwrap();
                assert_eq!(&h2c::exactly(&mut down, 4).await[..], &n.to_be_bytes(), "{host}");
            }
            up.send_data(Bytes::from_static(CLOSE), true).unwrap();
            assert_eq!(&h2c::whole(&mut down).await.unwrap()[..], CLOSE, "{host}");
            let (response, _up) = client.send_request(extended(host, "/private"), false).unwrap();
            let mut refused = response.await.unwrap();
            assert_eq!(refused.status(), 403, "{host}");
            assert!(h2c::whole(refused.body_mut()).await.unwrap().starts_with(b"not you"), "{host}");
        }
    });
}

/// Sends back what comes; after the caller's end, how many bytes there were.
fn echo() -> Server {
    Server::start(|mut conn| {
        conn.say("hello\n");
        let mut n = 0;
        while let Ok(line) = conn.line() {
            n += 1;
            conn.say(format!("{line}\n"));
        }
        conn.say(format!("{n} lines\n"));
    })
}

#[test]
fn connect_over_http1_opens_a_tunnel_of_bytes() {
    let app = echo();
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!("CONNECT {host}:80 HTTP/1.1\r\nhost: {host}:80\r\n\r\n"));
        let head = conn.head().unwrap();
        assert_eq!(head.status(), 200, "{host} {head:?}");
        assert_eq!((head.header("content-length"), head.header("transfer-encoding")), (None, None), "RFC 9110, 9.3.6");
        assert_eq!(conn.line().unwrap(), "hello", "{host}");
        for n in 0..10 {
            conn.say(format!("line {n}\n"));
            assert_eq!(conn.line().unwrap(), format!("line {n}"), "{host}");
        }
        conn.finish();
        assert_eq!(conn.rest().unwrap(), b"10 lines\n", "{host}");
    }
}

#[test]
fn connect_over_http2_opens_a_tunnel_of_bytes() {
    let app = echo();
    let pair = Pair::new(FUSEWIRE, app.port);
    h2c::run(async {
        let mut client = h2c::client(pair.port()).await;
        for host in BOTH {
            let request = Request::connect(format!("{host}:80")).body(()).unwrap();
            let (response, mut up) = client.send_request(request, false).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200, "{host} {response:?}");
            let mut down = response.into_body();
            assert_eq!(h2c::exactly(&mut down, 6).await, "hello\n", "{host}");
            up.send_data("a line\n".into(), false).unwrap();
            assert_eq!(h2c::exactly(&mut down, 7).await, "a line\n", "{host}");
            up.send_data("".into(), true).unwrap();
            assert_eq!(h2c::whole(&mut down).await.unwrap(), "1 lines\n", "{host}");
        }
    });
}

#[test]
fn connect_to_nowhere_is_answered_with_the_reason() {
    let pair = Pair::new(FUSEWIRE, free_port());
    for (host, status, reason) in
        [("nowhere", 404, "no-route"), ("shop", 503, "app-unreachable"), ("plain", 502, "connect-failed")]
    {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!("CONNECT {host}:80 HTTP/1.1\r\nhost: {host}:80\r\n\r\n"));
        let (head, _) = conn.answer().unwrap();
        assert_eq!((head.status(), head.header("fusewire-reason")), (status, Some(reason)), "{head:?}");
    }
}
