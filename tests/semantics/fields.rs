//! Fields that belong to one connection, to the mesh, or to whoever made the request.

use crate::FUSEWIRE;
use crate::origin::Origin;
use fusewire_testkit::pair::BOTH;
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Mesh, Pair, h2c};

/// What the origin got of a request with these fields.
fn sent(pair: &Pair, origin: &Origin, host: &str, fields: &str) -> Vec<(String, String)> {
    origin.take();
    let mut conn = Conn::connect(pair.port());
    conn.say(format!("GET / HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n"));
    let (head, _) = conn.answer().unwrap();
    assert_eq!(head.status(), 200, "{host} {fields:?} {head:?}");
    let [one] = &origin.take()[..] else { panic!("{host} {fields:?}") };
    assert_eq!(one.wrong, None, "{host} {fields:?}");
    one.fields.clone()
}

#[test]
fn connection_takes_out_what_belongs_to_the_connection_and_nothing_that_belongs_to_the_request() {
    let origin = Origin::start();
    let pair = Pair::new(FUSEWIRE, origin.port);
    let hop = ["x-hop", "keep-alive", "proxy-connection", "te", "upgrade", "proxy-authorization", "http2-settings"];
    let end = [
        "cookie",
        "authorization",
        "content-type",
        "cache-control",
        "x-forwarded-for",
        "x-forwarded-proto",
        "forwarded",
        "x-real-ip",
        "origin",
        "traceparent",
        "via",
    ];
    for host in BOTH {
        for named in [false, true] {
            let all: String = hop.iter().chain(&end).map(|name| format!("{name}: value\r\n")).collect();
            let names = [&hop[..], &end[..]].concat().join(", ");
            let connection = if named {
                format!("connection: {names}, host, content-length\r\n")
            } else {
                "connection: x-hop\r\n".into()
            };
            let got = sent(&pair, &origin, host, &format!("{connection}{all}"));
            let got: Vec<&str> = got.iter().map(|(name, _)| name.as_str()).collect();
            assert!(end.iter().chain(&["host"]).all(|name| got.contains(name)), "{host} {named}: {got:?}");
            assert!(!hop.iter().any(|name| got.contains(name)), "{host} {named}: {got:?}");
        }
        let odd = sent(
            &pair,
            &origin,
            host,
            "connection: ,, close ,\u{e9}, x y, X-Hop\r\nconnection: x-two\r\nx-hop: 1\r\nx-two: 2\r\nx: 3\r\n",
        );
        let odd: Vec<&str> = odd.iter().map(|(name, _)| name.as_str()).collect();
        assert!(
            odd.contains(&"x") && !odd.contains(&"x-hop") && !odd.contains(&"x-two") && !odd.contains(&"connection"),
            "{odd:?}"
        );
    }
}

#[test]
fn names_of_ours_cannot_be_brought_in_by_any_way() {
    let origin = Origin::start();
    let pair = Pair::new(FUSEWIRE, origin.port);
    for host in BOTH {
        let ways = [
            "fusewire-port: 22\r\n",
            "Fusewire-Not-Processed: 1\r\n",
            "connection: fusewire-port, fusewire-protocol\r\nfusewire-port: 1\r\n",
            "connection: fusewire-upgrade\r\nfusewire-upgrade: websocket\r\nfusewire-path: /other\r\n",
        ];
        for way in ways {
            let got = sent(&pair, &origin, host, way);
            assert!(!got.iter().any(|(name, _)| name.starts_with("fusewire-")), "{host} {way:?}: {got:?}");
        }
        // and behind a body
        let mut conn = Conn::connect(pair.port());
        conn.say(format!(
            "POST / HTTP/1.1\r\nhost: {host}\r\nte: trailers\r\ntrailer: fusewire-reason, x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nfusewire-reason: denied\r\ncontent-length: 7\r\nhost: evil\r\nx-sum: 1\r\n\r\n"
        ));
        assert_eq!(conn.answer().unwrap().0.status(), 200, "{host}");
        let trailers = origin.take().remove(0).trailers;
        assert!(trailers.iter().all(|(name, _)| name == "x-sum"), "{host}: {trailers:?}");
    }
}

#[test]
fn trailers_of_an_http2_answer_keep_what_is_theirs_and_lose_what_may_not_be_there() {
    let app = h2c::App::start(|request, mut respond| async move {
        let _ = h2c::whole(&mut request.into_body()).await;
        let mut out = respond.send_response(http::Response::new(()), false).unwrap();
        out.send_data("x".into(), false).unwrap();
        let mut trailers = http::HeaderMap::new();
        for name in
            ["x-sum", "set-cookie", "content-length", "content-type", "fusewire-reason", "host", "cache-control"]
        {
            trailers.insert(name, http::HeaderValue::from_static("1"));
        }
        out.send_trailers(trailers).unwrap();
    });
    let shape = fusewire_testkit::pair::Shape { protocol: "http2", ..Default::default() };
    let pair = Pair::shaped(FUSEWIRE, app.port, &shape);
    h2c::run(async {
        let client = h2c::client(pair.port()).await;
        for host in BOTH {
            let (response, mut up) = h2c::open(&client, h2c::request("GET", &format!("{host}/"))).await;
            up.send_data("".into(), true).unwrap();
            let mut body = response.await.unwrap().into_body();
            while body.data().await.is_some() {}
            let trailers = body.trailers().await.unwrap().unwrap();
            let names: Vec<&str> = trailers.keys().map(|name| name.as_str()).collect();
            assert_eq!(names, ["x-sum"], "{host}");
        }
    });
}

#[test]
fn answers_lose_what_belongs_to_one_connection() {
    let app = Server::http(|conn, _| {
        let fields = "connection: x-hop, set-cookie\r\nx-hop: 1\r\nset-cookie: a=b\r\nkeep-alive: timeout=5\r\nproxy-authenticate: Basic\r\nupgrade: h2c\r\nproxy-connection: x\r\nfusewire-reason: denied\r\nx: y\r\n";
        conn.try_say(format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n")).is_ok()
    });
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        let (head, _) = conn.answer().unwrap();
        let mut names: Vec<&str> = head.fields.iter().map(|(n, _)| n.as_str()).filter(|n| *n != "date").collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "set-cookie", "x"], "{host}");
    }
}

#[test]
fn forwarded_is_kept_from_this_machine_by_default_and_done_as_the_sidecar_is_told() {
    let origin = Origin::start();
    let world = format!(
        "services:\n  plain: {{policy: p, instances: [{{id: plain-1, address: 127.0.0.1:{}}}]}}\npolicies:\n  p: {{plain: allow}}\n",
        origin.port
    );
    let claims = "forwarded: for=8.8.8.8\r\nx-forwarded-for: 8.8.8.8\r\nx-forwarded-for: 9.9.9.9\r\nx-forwarded-proto: https\r\nx-forwarded-user: root\r\n";
    let seen = |setting: &str| {
        let mesh = Mesh::without_control(FUSEWIRE);
        let sidecar = mesh.sidecar_alone("web-1", None, setting, &world);
        sidecar.wait_ready();
        origin.take();
        let mut conn = Conn::connect(sidecar.outbound);
        conn.say(format!("GET / HTTP/1.1\r\nhost: plain\r\n{claims}\r\n"));
        assert_eq!(conn.answer().unwrap().0.status(), 200, "{setting}");
        let got = origin.take().remove(0);
        ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-user"]
            .map(|name| got.values(name).join(" & "))
    };
    assert_eq!(seen(""), ["for=8.8.8.8", "8.8.8.8 & 9.9.9.9", "https", "", "root"], "kept");
    assert_eq!(seen("  forwarded: keep\n"), ["for=8.8.8.8", "8.8.8.8 & 9.9.9.9", "https", "", "root"]);
    assert_eq!(seen("  forwarded: remove\n"), ["", "", "", "", ""]);
    let replaced = ["for=127.0.0.1;host=plain;proto=http", "127.0.0.1", "http", "plain", ""];
    assert_eq!(seen("  forwarded: replace\n"), replaced);
    let appended =
        ["for=8.8.8.8, for=127.0.0.1;host=plain;proto=http", "8.8.8.8, 9.9.9.9, 127.0.0.1", "https", "plain", "root"];
    assert_eq!(seen("  forwarded: append\n"), appended);
}

#[test]
fn http2_requests_that_two_readers_could_understand_differently_are_refused() {
    let origin = Origin::start();
    let pair = Pair::new(FUSEWIRE, origin.port);
    h2c::run(async {
        for host in BOTH {
            let ask = |fields: &[(&str, &str)]| {
                fields.iter().fold(h2c::request("GET", &format!("{host}/")), |request, (n, v)| request.header(*n, *v))
            };
            for (fields, status) in [
                (&[("host", "a"), ("host", "b")][..], 400),
                (&[("host", "a,b")], 400),
                (&[("expect", "x")], 417),
                (&[("x", "y")], 200),
            ] {
                let client = h2c::client(pair.port()).await;
                let answer = h2c::call(&client, ask(fields)).await.unwrap();
                assert_eq!(answer.status(), status, "{host} {fields:?}");
            }
            // what h2 itself refuses is a reset stream; never a request
            for fields in [
                &[("content-length", "0"), ("content-length", "5")][..],
                &[("transfer-encoding", "chunked")],
                &[("connection", "x")],
            ] {
                let client = h2c::client(pair.port()).await;
                if let Ok(answer) = h2c::call(&client, ask(fields)).await {
                    assert_eq!(answer.status(), 400, "{host} {fields:?}");
                }
            }
        }
    });
    let wrong: Vec<_> =
        origin.take().into_iter().filter(|got| got.wrong.is_some() || got.values("content-length").len() > 1).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
