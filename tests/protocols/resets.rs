//! Connections of bytes that break: who learns of it, what still arrives, and what it says of an instance.

use crate::FUSEWIRE;
use fusewire_testkit::pair::Shape;
use fusewire_testkit::process::PATIENCE;
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Mesh, Pair, eventually, free_port};
use std::io::{ErrorKind, Read};
use std::sync::mpsc::channel;

/// Greets, and waits for the caller's end.
fn good() -> Server {
    Server::start(|mut conn| {
        if conn.line().is_ok() {
            conn.say("good\n");
            let _ = conn.rest();
        }
    })
}

/// Its process takes connections and nothing else.
fn bad() -> Server {
    Server::start(Conn::reset)
}

/// What one caller hears, who asks.
fn heard(port: u16) -> std::io::Result<String> {
    let mut conn = Conn::connect(port);
    conn.try_say("who is there\n")?;
    conn.line()
}

#[test]
fn an_instance_that_accepts_and_resets_is_found_by_its_circuit_in_clear_and_through_its_sidecar() {
    let (good, bad) = (good(), bad());
    let (inbound, tcp) = ([free_port(), free_port()], [free_port(), free_port()]);
    let instance = |id: &str, app: u16, more: &str| format!("{{id: {id}, address: 127.0.0.1:{app}{more}}}");
    let by = |inbound: u16| format!(", sidecar: 127.0.0.1:{inbound}");
    let yaml = format!(
        "policies:\n  default: {{plain: allow, lb: round_robin, breaker: {{instance: {{open: {{base: 10m, max: 10m}}}}}}}}\nservices:\n  \
         shop: {{protocol: opaque, instances: [{}, {}]}}\n  plain: {{protocol: opaque, instances: [{}, {}]}}\n",
        instance("shop-good", good.port, &by(inbound[0])),
        instance("shop-bad", bad.port, &by(inbound[1])),
        instance("plain-good", good.port, ""),
        instance("plain-bad", bad.port, ""),
    );
    let mesh = Mesh::new(FUSEWIRE, &yaml);
    let _shop = mesh.sidecar("shop", "shop-good", Some(inbound[0]));
    let _broken = mesh.sidecar("shop", "shop-bad", Some(inbound[1]));
    let listeners: String = ["shop", "plain"]
        .iter()
        .zip(tcp)
        .map(|(service, port)| format!(", {{listen: 127.0.0.1:{port}, service: {service}, protocol: opaque}}"))
        .collect();
    let web = mesh.sidecar_listening("web", "web-1", None, &listeners, "");
    for (service, port) in ["shop", "plain"].into_iter().zip(tcp) {
        let of = |which: &str| web.circuit(&format!("{service}-{which}")).unwrap_or_default();
        let mut resets = 0;
        eventually(&format!("the circuit of {service}-bad opens"), || {
            match heard(port) {
                Ok(word) => assert_eq!(word, "good"),
                Err(e) if e.kind() == ErrorKind::ConnectionReset || e.kind() == ErrorKind::BrokenPipe => resets += 1,
                Err(e) => panic!("{service}: {e}"),
            }
            of("bad") == "open"
        });
        assert!(resets < 30, "{service}: {resets} callers before anybody noticed");
        for _ in 0..20 {
            assert_eq!(heard(port).expect("only the good one is left"), "good", "{service}");
        }
        assert_eq!(of("good"), "closed", "{service}");
    }
}

#[test]
fn callers_that_reset_and_instances_that_answered_first_open_no_circuit() {
    let app = Server::start(|mut conn| {
        if let Ok(line) = conn.line() {
            conn.say("answered\n");
            if line == "answer and reset" {
                conn.reset();
            } else {
                let _ = conn.rest();
            }
        }
    });
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { protocol: "opaque", ..Shape::default() });
    for (port, instance) in pair.tcp.into_iter().zip(["shop-1", "plain-1"]) {
        for n in 0..15 {
            let mut conn = Conn::connect(port);
            match n % 3 {
                0 => {
                    conn.say("answer and reset\n");
                    assert_eq!(conn.line().unwrap(), "answered");
                }
                1 => {
                    conn.say("never whole");
                    conn.reset();
                }
                _ => conn.reset(),
            }
        }
        assert_eq!(pair.web.circuit(instance).as_deref(), Some("closed"), "{instance}");
    }
    eventually("all are logged", || pair.web.access_log().len() == 30);
    for instance in ["shop-1", "plain-1"] {
        assert_eq!(pair.web.circuit(instance).as_deref(), Some("closed"), "{instance}");
    }
}

/// The application would keep its end of the connection, and the sidecars two descriptors, until it speaks.
#[test]
fn a_caller_that_resets_after_its_half_close_is_noticed_while_the_server_is_silent() {
    let (tell, told) = channel();
    let app = Server::start(move |mut conn| {
        tell.send(conn.rest().unwrap()).unwrap();
        eventually("the connection is gone", || conn.stream().peer_addr().is_err());
        tell.send(b"gone".to_vec()).unwrap();
    });
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { protocol: "opaque", ..Shape::default() });
    for port in pair.tcp {
        let mut conn = Conn::connect(port);
        conn.say("a long question");
        conn.finish();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), b"a long question");
        conn.reset();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), b"gone");
    }
    eventually("both are logged", || pair.web.access_log().len() == 2);
}

#[test]
fn a_server_s_last_words_arrive_though_it_resets_with_what_the_caller_says_unread() {
    let app = Server::start(|mut conn| {
        conn.line().unwrap();
        conn.say("ERR too many\n");
        conn.reset();
    });
    let pair =
        Pair::shaped(FUSEWIRE, app.port, &Shape { protocol: "opaque", policy: "breaker: off", ..Shape::default() });
    for port in pair.tcp {
        for n in 0..30 {
            let mut conn = Conn::connect(port);
            conn.say("begin\n");
            let mut out = conn.writer();
            let talks = std::thread::spawn(move || while std::io::Write::write_all(&mut out, &[b'x'; 512]).is_ok() {});
            assert_eq!(conn.line().unwrap_or_else(|e| panic!("round {n}: {e}")), "ERR too many");
            talks.join().unwrap();
        }
    }
}

/// Many protocols take an end without a word for an answer.
#[test]
fn a_connection_for_which_there_is_no_room_is_reset() {
    let app = Server::start(|mut conn| {
        conn.say("hello\n");
        let _ = conn.rest();
    });
    let tcp = free_port();
    let yaml = format!(
        "policies:\n  default: {{plain: allow}}\nservices:\n  \
         echo: {{protocol: opaque, instances: [{{id: echo-1, address: 127.0.0.1:{}}}]}}\n",
        app.port
    );
    let mesh = Mesh::new(FUSEWIRE, &yaml);
    let listener = format!(", {{listen: 127.0.0.1:{tcp}, service: echo, protocol: opaque}}");
    let web = mesh.sidecar_listening("web", "web-1", None, &listener, "  limits: {connections: 1}\n");
    let mut only = Conn::connect(tcp);
    assert_eq!(only.line().unwrap(), "hello");
    // which may be as soon as it is dialled
    let more = std::net::TcpStream::connect(("127.0.0.1", tcp)).and_then(|mut more| more.read(&mut [0]));
    assert_eq!(more.unwrap_err().kind(), ErrorKind::ConnectionReset);
    only.say("and this one goes on");
    drop(web);
}
