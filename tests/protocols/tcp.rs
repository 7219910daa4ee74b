//! Opaque TCP: bytes through a listener that is for one service.

use crate::FUSEWIRE;
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::pair::Shape;
use fusewire_testkit::process::PATIENCE;
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Pair, eventually, free_port};
use std::io::Write;

fn opaque(app: u16, policy: &str) -> Pair {
    Pair::shaped(FUSEWIRE, app, &Shape { protocol: "opaque", policy, ..Shape::default() })
}

/// Sends back what comes until the caller's end.
fn echo() -> Server {
    Server::start(|mut conn| {
        let mut out = conn.writer();
        let _ = std::io::copy(&mut conn.reader(), &mut out);
    })
}

#[test]
fn bytes_come_back_as_they_went() {
    let app = echo();
    let pair = opaque(app.port, "");
    for port in pair.tcp {
        let mut conn = Conn::connect(port);
        for n in 0..100u32 {
            conn.say(n.to_be_bytes());
            assert_eq!(conn.exact(4).unwrap(), n.to_be_bytes());
        }
        let large: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut out = conn.writer();
        let sent = large.clone();
        let sender = std::thread::spawn(move || out.write_all(&sent).unwrap());
        assert!(conn.exact(large.len()).unwrap() == large, "the bytes are others");
        sender.join().unwrap();
        conn.finish();
        assert_eq!(conn.rest().unwrap(), b"");
    }
}

#[test]
fn bytes_are_counted_in_the_access_logs_of_both_sides() {
    let app = Server::start(|mut conn| {
        let asked = conn.rest().unwrap();
        conn.say(vec![b'x'; asked.len() * 10]);
    });
    let pair = opaque(app.port, "");
    for port in pair.tcp {
        let mut conn = Conn::connect(port);
        conn.say("1234567");
        conn.finish();
        assert_eq!(conn.rest().unwrap().len(), 70, "half-closed: the answer comes after the question's end");
    }
    eventually("each connection has its line", || {
        pair.web.access_log().len() == 2 && pair.shop.access_log().len() == 1
    });
    for line in pair.web.access_log().iter().chain(&pair.shop.access_log()) {
        assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&7.into(), &70.into()), "{line}");
        assert_eq!(line["reason"], serde_json::Value::Null, "{line}");
    }
    assert_eq!(pair.web.access_log()[0]["protocol"], "tcp");
}

#[test]
fn bytes_and_connections_are_counted_by_service_in_the_metrics_of_both_sides() {
    let app = Server::start(|mut conn| {
        let asked = conn.rest().unwrap();
        conn.say(vec![b'x'; asked.len() * 10]);
    });
    let pair = opaque(app.port, "");
    let sides = [(&pair.web, "outbound", "shop"), (&pair.web, "outbound", "plain"), (&pair.shop, "inbound", "shop")];
    let is = |name: &str, wanted: [f64; 3]| {
        eventually(&format!("{name} is {wanted:?}"), || {
            let of = |(sidecar, direction, service): (&Sidecar, &str, &str)| {
                sidecar.metric(&format!("fusewire_{name}{{direction=\"{direction}\",service=\"{service}\"}}"))
            };
            sides.map(of) == wanted.map(Some)
        });
    };
    let mut open: Vec<Conn> = pair.tcp.into_iter().chain(pair.tcp).map(Conn::connect).collect();
    open.iter_mut().for_each(|conn| conn.say("1234567"));
    is("requests_in_flight", [2.0; 3]);
    is("received_bytes_total", [14.0; 3]); // while they are open
    for conn in &mut open {
        conn.finish();
        assert_eq!(conn.rest().unwrap().len(), 70);
    }
    is("received_bytes_total", [14.0; 3]);
    is("sent_bytes_total", [140.0; 3]);
    is("request_duration_seconds_count", [2.0; 3]);
    is("requests_in_flight", [0.0; 3]);
    is("upstream_connections_total", [1.0, 2.0, 2.0]); // between sidecars they share one
}

#[test]
fn a_server_that_speaks_first_is_heard_before_the_caller_says_anything() {
    let app = Server::start(|mut conn| {
        conn.say("220 welcome\r\n");
        let line = conn.line().unwrap();
        conn.say(format!("250 {line}\r\n"));
    });
    let pair = opaque(app.port, "");
    for port in pair.tcp {
        let mut conn = Conn::connect(port);
        assert_eq!(conn.line().unwrap(), "220 welcome");
        conn.say("EHLO\r\n");
        assert_eq!(conn.line().unwrap(), "250 EHLO");
        assert_eq!(conn.rest().unwrap(), b"", "the server's end arrives");
    }
}

#[test]
fn a_server_that_ends_first_still_hears_the_caller() {
    let (tell, told) = std::sync::mpsc::channel();
    let app = Server::start(move |mut conn| {
        conn.say("done\n");
        conn.finish();
        tell.send(conn.rest().unwrap()).unwrap();
    });
    let pair = opaque(app.port, "");
    for port in pair.tcp {
        let mut conn = Conn::connect(port);
        assert_eq!(conn.rest().unwrap(), b"done\n");
        conn.say("thanks");
        conn.finish();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), b"thanks");
    }
}

#[test]
fn a_refused_application_is_seen_as_a_reset() {
    let pair = opaque(free_port(), "");
    for port in pair.tcp {
        let mut conn = Conn::connect(port);
        assert_eq!(conn.rest().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    let reasons = || -> Vec<_> { pair.web.access_log().iter().map(|l| l["reason"].clone()).collect() };
    eventually("both are logged with their reason", || reasons() == ["app-unreachable", "connect-failed"]);
}

#[test]
fn a_reset_of_the_application_is_a_reset_for_the_caller() {
    let app = Server::start(|mut conn| {
        conn.line().unwrap();
        conn.reset();
    });
    let pair = opaque(app.port, "");
    for port in pair.tcp {
        let mut conn = Conn::connect(port);
        conn.say("go\n");
        assert_eq!(conn.rest().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    eventually("both are logged", || pair.web.access_log().len() == 2);
    assert!(pair.web.access_log().iter().all(|l| l["reason"] == "reset"), "{:?}", pair.web.access_log());
}

#[test]
fn a_reset_of_the_caller_ends_the_application_s_connection() {
    let (tell, told) = std::sync::mpsc::channel();
    let app = Server::start(move |mut conn| {
        conn.say("ready\n");
        tell.send(conn.rest().is_err()).unwrap();
    });
    let pair = opaque(app.port, "");
    for port in pair.tcp {
        let mut conn = Conn::connect(port);
        assert_eq!(conn.line().unwrap(), "ready");
        conn.reset();
        assert!(told.recv_timeout(PATIENCE).unwrap(), "the application sees a reset, not a clean end");
    }
    eventually("both connections end", || pair.web.access_log().len() == 2);
}

#[test]
fn a_silent_connection_ends_after_the_idle_timeout_and_a_busy_one_does_not() {
    let app = echo();
    let pair = opaque(app.port, "timeout: {idle: 300ms}");
    for port in pair.tcp {
        let mut conn = Conn::connect(port);
        let begun = std::time::Instant::now();
        let mut n = 0u32;
        while begun.elapsed().as_millis() < 900 {
            conn.say(n.to_be_bytes());
            assert_eq!(conn.exact(4).unwrap(), n.to_be_bytes());
            n += 1;
        }
        let silent = std::time::Instant::now();
        let _ = conn.rest();
        let took = silent.elapsed().as_millis();
        assert!((250..5_000).contains(&took), "it ended after {took} ms");
    }
    eventually("both are logged", || pair.web.access_log().len() == 2);
    assert!(pair.web.access_log().iter().all(|l| l["reason"] == "response-timeout"), "{:?}", pair.web.access_log());
}
