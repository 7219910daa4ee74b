//! Nothing healthy is refused by default, however long it takes and however many come at once.

use crate::FUSEWIRE;
use bytes::Bytes;
use fusewire_testkit::client::App;
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Pair, eventually, h2c};
use futures_util::future::join_all;
use http::Response;
use http_body_util::Full;
use std::time::{Duration, Instant};

/// Time is compressed: what takes an hour in life takes the guard's several windows here, some 4 s.
const LONG: Duration = Duration::from_secs(4);

fn asked(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n")
}

/// Streams without an end, WebSockets, long polls of [`LONG`], uploads at their own pace, and quick answers.
fn everything() -> Server {
    Server::http(|conn, head| match head.path() {
        "/events" => {
            let opened = conn.try_say("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n");
            opened.is_ok() && conn.rest().is_ok_and(|_| false)
        }
        "/socket" => {
            let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                          sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            conn.say(switch);
            while let Ok(frame) = conn.exact(4) {
                if conn.try_say(frame).is_err() {
                    break;
                }
            }
            false
        }
        path => {
            if path == "/poll" {
                std::thread::sleep(LONG); // bounded wait: what the application waits for
            }
            let got = conn.body(head).unwrap_or_default().len().to_string();
            conn.try_say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{got}", got.len())).is_ok()
        }
    })
}

fn socket(port: u16) -> Conn {
    let mut conn = Conn::connect(port);
    conn.say(
        "GET /socket HTTP/1.1\r\nhost: shop\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(conn.head().unwrap().status(), 101);
    conn
}

fn begin(port: u16, path: &str) -> Conn {
    let mut conn = Conn::connect(port);
    conn.say(asked(path));
    conn
}

/// What both sidecars refused by any limit.
fn refused(pair: &Pair) -> Vec<String> {
    let lines = [&pair.web, &pair.shop].map(|s| s.get("/metrics").unwrap().1);
    let of = |text: &String| -> Vec<String> {
        text.lines().filter(|l| l.starts_with("fusewire_limit_refused_total")).map(str::to_owned).collect()
    };
    lines.iter().flat_map(of).collect()
}

#[test]
fn streams_sockets_long_polls_and_uploads_are_in_nobodys_way() {
    let app = everything();
    let pair = Pair::new(FUSEWIRE, app.port);
    let port = pair.port();
    let mut sockets: Vec<Conn> = (0..100).map(|_| socket(port)).collect();
    let mut streams: Vec<Conn> = (0..100).map(|_| begin(port, "/events")).collect();
    for stream in &mut streams {
        assert_eq!(stream.head().unwrap().status(), 200);
    }
    let mut polls: Vec<Conn> = (0..50).map(|_| begin(port, "/poll")).collect();
    let mut upload = Conn::connect(port);
    upload.say("POST /upload HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut quick = Conn::connect(port);
    let (began, mut chunks) = (Instant::now(), 0);
    while began.elapsed() < LONG {
        quick.say(asked("/quick"));
        assert_eq!(quick.answer().unwrap().0.status(), 200);
        upload.say_chunk("x");
        chunks += 1;
        std::thread::sleep(Duration::from_millis(5)); // bounded wait: the pace of a slow uploader
    }
    upload.say("0\r\n\r\n");
    assert_eq!(upload.answer().unwrap().1, chunks.to_string());
    for poll in &mut polls {
        assert_eq!(poll.answer().unwrap().0.status(), 200);
    }
    for socket in &mut sockets {
        socket.say("ping");
        assert_eq!(socket.exact(4).unwrap(), b"ping");
    }
    assert_eq!(refused(&pair), [""; 0]);
    let gate = &pair.shop.socket("/limits")["inbound"][0];
    let fields = ["algorithm", "phase", "limit", "in_flight", "queued", "shed"].map(|f| gate[f].clone());
    let expected = serde_json::json!(["queue_guard", "free", null, 0, 0, 0]);
    assert_eq!(serde_json::Value::from(fields.to_vec()), expected);
    let requests = &pair.web.socket("/limits")["outbound"][0]["requests"];
    assert_eq!((&requests["used"], &requests["refused"]), (&200.into(), &0.into()), "a stream counts while it lasts");
    drop((sockets, streams));
    eventually("their places are free again", || pair.web.socket("/limits")["outbound"][0]["requests"]["used"] == 0);
}

#[test]
fn five_hundred_and_twelve_at_start_all_pass() {
    let app = App::start_async(0, |_| async {
        tokio::time::sleep(Duration::from_millis(300)).await; // bounded wait: a slow first answer
        Response::new(Full::new(Bytes::from_static(b"ok")))
    });
    let pair = Pair::new(FUSEWIRE, app.port);
    let statuses = h2c::run(async {
        let client = h2c::client(pair.port()).await;
        join_all((0..512).map(|_| h2c::call(&client, h2c::request("GET", "shop/start")))).await
    });
    let mut bad: Vec<_> = statuses.iter().filter(|s| s.as_ref().is_ok_and(|r| r.status() != 200)).collect();
    let count = bad.len();
    bad.truncate(3);
    assert_eq!((count, refused(&pair)), (0, vec![]), "{bad:?}");
    assert!(statuses.iter().all(Result::is_ok));
}
