//! Each limit with its answer, and what it leaves alone.

use crate::FUSEWIRE;
use fusewire_testkit::h2raw::*;
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Mesh, eventually};
use std::time::{Duration, Instant};

/// A sidecar alone before `app`, with these limits.
fn limited(app: u16, limits: &str) -> (Mesh, Sidecar) {
    let world = format!(
        "services:\n  plain: {{policy: p, instances: [{{id: plain-1, address: 127.0.0.1:{app}}}]}}\npolicies:\n  p: {{plain: allow}}\n"
    );
    let mesh = Mesh::without_control(FUSEWIRE);
    let sidecar = mesh.sidecar_alone("web-1", None, &format!("  limits: {{{limits}}}\n"), &world);
    sidecar.wait_ready();
    (mesh, sidecar)
}

/// Answers with the body's length.
fn measures() -> Server {
    Server::http(|conn, head| {
        let Ok(body) = conn.body(head) else { return false };
        let text = body.len().to_string();
        conn.try_say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())).is_ok()
    })
}

const GET: &str = "GET / HTTP/1.1\r\nhost: plain\r\n\r\n";

fn status_and_reason(conn: &mut Conn) -> (u16, String) {
    let (head, _) = conn.answer().unwrap();
    (head.status(), head.header("fusewire-reason").unwrap_or_default().to_owned())
}

#[test]
fn fields_and_targets_past_their_limits_are_answered_with_431_and_414() {
    let app = measures();
    let (_mesh, sidecar) = limited(app.port, "header_bytes: 4000, header_count: 20, target_bytes: 1000");
    let ask = |target: usize, count: usize, size: usize| {
        let fields: String = (0..count).map(|n| format!("x-{n}: {}\r\n", "v".repeat(size))).collect();
        let mut conn = Conn::connect(sidecar.outbound);
        conn.say(format!("GET /{} HTTP/1.1\r\nhost: plain\r\n{fields}\r\n", "t".repeat(target - 1)));
        status_and_reason(&mut conn)
    };
    assert_eq!(ask(1000, 19, 50), (200, String::new()), "all at their limits");
    assert_eq!(ask(1001, 0, 0), (414, "uri-too-long".into()));
    assert_eq!(ask(1, 20, 1), (431, "header-too-large".into()), "one field too many");
    assert_eq!(ask(1, 10, 400), (431, "header-too-large".into()), "fields too large");
    assert_eq!(ask(1, 1, 100_000), (431, "header-too-large".into()), "far too large");
}

#[test]
fn more_fields_than_a_hundred_pass_where_the_limit_allows_it() {
    let app = measures();
    let (_mesh, sidecar) = limited(app.port, "header_count: 1000");
    let fields: String = (0..999).map(|n| format!("x-{n}: v\r\n")).collect();
    let mut conn = Conn::connect(sidecar.outbound);
    conn.say(format!("GET / HTTP/1.1\r\nhost: plain\r\n{fields}\r\n"));
    assert_eq!(status_and_reason(&mut conn), (200, String::new()));
}

#[test]
fn a_head_that_trickles_is_answered_with_408_and_one_that_comes_in_time_is_not() {
    let app = measures();
    let (_mesh, sidecar) = limited(app.port, "header_timeout: 400ms");
    let begun = Instant::now();
    let mut slow = Conn::connect(sidecar.outbound);
    let mut bytes = "GET / HTTP/1.1\r\nhost: plain\r\nx: ".bytes().chain(std::iter::repeat(b'y'));
    while slow.is_silent() && begun.elapsed() < Duration::from_secs(20) {
        if slow.try_say([bytes.next().unwrap()]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20)); // bounded wait: the pace of a slow loris
    }
    assert_eq!(status_and_reason(&mut slow), (408, "request-timeout".into()));
    assert!(slow.rest().unwrap().is_empty());
    assert!(begun.elapsed() >= Duration::from_millis(400) && begun.elapsed() < Duration::from_secs(20));
    let (_mesh, patient) = limited(app.port, "header_timeout: 2s");
    let mut in_pieces = Conn::connect(patient.outbound);
    for byte in GET.bytes() {
        in_pieces.say([byte]);
    }
    assert_eq!(status_and_reason(&mut in_pieces), (200, String::new()));
}

#[test]
fn a_body_that_stalls_is_answered_with_408_and_one_that_is_slow_is_not() {
    let app = measures();
    let (_mesh, sidecar) = limited(app.port, "body_timeout: 500ms");
    for (fields, first) in [("content-length: 10", "hello"), ("transfer-encoding: chunked", "5\r\nhello\r\n")] {
        let mut stalled = Conn::connect(sidecar.outbound);
        stalled.say(format!("POST / HTTP/1.1\r\nhost: plain\r\n{fields}\r\n\r\n{first}"));
        assert_eq!(status_and_reason(&mut stalled), (408, "request-timeout".into()), "{fields}");
    }
    let (_mesh, patient) = limited(app.port, "body_timeout: 2s");
    let mut slow = Conn::connect(patient.outbound);
    slow.say("POST / HTTP/1.1\r\nhost: plain\r\ncontent-length: 20\r\n\r\n");
    for _ in 0..20 {
        slow.say("x");
        std::thread::sleep(Duration::from_millis(200)); // bounded wait: the pace of a slow upload, in all twice the limit
    }
    assert_eq!(slow.answer().unwrap().1, "20");
}

#[test]
fn an_idle_connection_is_closed_in_time_and_one_that_waits_for_its_answer_is_not() {
    let app = Server::http(|conn, head| {
        if head.path() == "/events" {
            let _ = conn.try_say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        }
        if head.path() != "/" {
            std::thread::sleep(Duration::from_millis(1500)); // bounded wait: a long poll, several times the limits
        }
        match head.path() {
            "/events" => conn.try_say("5\r\nevent\r\n0\r\n\r\n").is_ok(),
            _ => conn.try_say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok(),
        }
    });
    let (_mesh, sidecar) = limited(app.port, "idle_timeout: 300ms, header_timeout: 300ms, body_timeout: 300ms");
    let mut idle = Conn::connect(sidecar.outbound);
    let begun = Instant::now();
    idle.say(GET);
    assert_eq!(status_and_reason(&mut idle).0, 200);
    assert!(idle.rest().unwrap().is_empty(), "closed without a word");
    assert!(begun.elapsed() >= Duration::from_millis(250) && begun.elapsed() < Duration::from_secs(20));
    for path in ["/poll", "/events"] {
        let mut waiting = Conn::connect(sidecar.outbound);
        waiting.say(format!("GET {path} HTTP/1.1\r\nhost: plain\r\n\r\n"));
        let (head, body) = waiting.answer().unwrap();
        assert_eq!((head.status(), body.as_str()), (200, if path == "/poll" { "ok" } else { "event" }));
    }
}

#[test]
fn a_full_listener_closes_an_idle_connection_for_a_new_one_and_refuses_it_where_none_is_idle() {
    let app = Server::http(|conn, head| match head.path() {
        "/hold" => {
            conn.try_say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n").is_ok()
                && conn.rest().is_err()
        }
        _ => conn.try_say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok(),
    });
    let (_mesh, sidecar) = limited(app.port, "connections: 3");
    let held: Vec<Conn> = (0..2)
        .map(|_| {
            let mut conn = Conn::connect(sidecar.outbound);
            conn.say("GET /hold HTTP/1.1\r\nhost: plain\r\n\r\n");
            assert_eq!(conn.head().unwrap().status(), 200);
            assert_eq!(conn.chunk().unwrap(), b"begun");
            conn
        })
        .collect();
    let open = || sidecar.metric("fusewire_downstream_connections").unwrap_or_default();
    for _ in 0..3 {
        let mut third = Conn::connect(sidecar.outbound);
        third.say(GET);
        assert_eq!(status_and_reason(&mut third).0, 200);
        // the third is idle now: it makes room, and the two that are busy do not
        let mut fourth = Conn::connect(sidecar.outbound);
        fourth.say(GET);
        assert_eq!(status_and_reason(&mut fourth).0, 200);
        assert!(third.rest().unwrap().is_empty(), "closed without a word");
        drop(fourth);
        eventually("its place is free", || open() == 2.0);
    }
    let mut third = Conn::connect(sidecar.outbound);
    third.say("GET /hold HTTP/1.1\r\nhost: plain\r\n\r\n");
    assert_eq!(third.head().unwrap().status(), 200);
    let mut refused = Conn::connect(sidecar.outbound);
    refused.say(GET);
    assert_eq!(status_and_reason(&mut refused), (503, "overloaded".into()));
    drop((held, third));
    eventually("all places are free", || open() == 0.0);
    let mut again = Conn::connect(sidecar.outbound);
    again.say(GET);
    assert_eq!(status_and_reason(&mut again).0, 200);
}

/// Preface and SETTINGS, and nothing more: our farewell's PING has no answer either.
#[test]
fn an_http2_connection_on_which_nothing_is_asked_is_closed_in_time_and_one_that_waits_for_its_answer_is_not() {
    let app = Server::http(|conn, _| {
        std::thread::sleep(Duration::from_millis(1500)); // bounded wait: a long poll, several times the limit
        conn.try_say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok()
    });
    let (_mesh, sidecar) = limited(app.port, "idle_timeout: 300ms");
    let begun = Instant::now();
    let mut mute = Peer::connect(sidecar.outbound);
    mute.start(&[]);
    let mut waiting = Peer::connect(sidecar.outbound);
    waiting.authority = "plain".into();
    waiting.start(&[]);
    waiting.get(1);
    assert_eq!(waiting.end(1), End::Answer(200, 2));
    let farewell = std::iter::from_fn(|| mute.read()).filter(|f| f.kind == GOAWAY).map(|f| f.code());
    assert_eq!(farewell.collect::<Vec<_>>(), [NO_ERROR], "and then the end");
    assert!(begun.elapsed() >= Duration::from_millis(300) && begun.elapsed() < Duration::from_secs(20));
    while waiting.receive().is_some() {} // in its time this one ends too
}

#[test]
fn a_full_listener_closes_an_idle_http2_connection_for_a_new_one_and_leaves_a_busy_one() {
    let app = Server::http(|conn, head| match head.path() {
        "/hold" => {
            conn.try_say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_ok() && conn.rest().is_err()
        }
        _ => conn.try_say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok(),
    });
    let (_mesh, sidecar) = limited(app.port, "connections: 2");
    let open = || sidecar.metric("fusewire_downstream_connections").unwrap_or_default();
    let mut busy = Peer::connect(sidecar.outbound);
    busy.start(&[]);
    let head = [(":method", "GET"), (":scheme", "http"), (":path", "/hold"), (":authority", "plain")];
    busy.send(HEADERS, END_STREAM | END_HEADERS, 1, block(&head));
    assert_eq!(busy.receive().unwrap().status(), 200);
    for _ in 0..3 {
        let mut idle = Peer::connect(sidecar.outbound);
        idle.start(&[]);
        assert!(idle.pong([1; 8]));
        let mut another = Conn::connect(sidecar.outbound);
        another.say(GET);
        assert_eq!(status_and_reason(&mut another).0, 200, "the idle one makes room");
        assert!(std::iter::from_fn(|| idle.read()).any(|f| f.kind == GOAWAY && f.code() == NO_ERROR));
        while idle.read().is_some() {} // the end
        drop(another);
        eventually("its place is free", || open() == 1.0);
    }
    assert!(busy.pong([2; 8]), "it was there first, and is still");
}

#[test]
fn a_refusal_reaches_a_caller_that_goes_on_sending() {
    let app = measures();
    let (_mesh, sidecar) = limited(app.port, "");
    for n in 0..20 {
        let mut conn = Conn::connect(sidecar.outbound);
        let large = "v".repeat(400_000 + n);
        conn.say(format!("GET / HTTP/1.1\r\nhost: plain\r\nx: {large}\r\n\r\n"));
        assert_eq!(status_and_reason(&mut conn), (431, "header-too-large".into()), "no reset takes the answer along");
    }
    // and where the answer needs none of the body
    let mut conn = Conn::connect(sidecar.outbound);
    conn.say(format!("POST / HTTP/1.1\r\nhost: nowhere\r\ncontent-length: 500000\r\n\r\n{}", "v".repeat(500_000)));
    assert_eq!(status_and_reason(&mut conn), (404, "no-route".into()));
}
