//! How requests share connections: keep-alive, pipelining, many streams, and applications that hang up.

use crate::FUSEWIRE;
use fusewire_testkit::pair::{BOTH, Shape};
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Pair, eventually, h2c};
use http::Response;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Answers with the path.
fn paths() -> Server {
    Server::http(|conn, head| {
        let body = conn.body(head).unwrap();
        let answer = format!("{}{}", head.path(), String::from_utf8_lossy(&body));
        conn.try_say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())).is_ok()
    })
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let app = paths();
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        let requests: String = (0..50)
            .map(|n| match n % 3 {
                0 => format!("POST /{n} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 5\r\n\r\nhello"),
                _ => format!("GET /{n} HTTP/1.1\r\nhost: {host}\r\n\r\n"),
            })
            .collect();
        conn.say(requests);
        for n in 0..50 {
            let (head, body) = conn.answer().unwrap();
            let hello = if n % 3 == 0 { "hello" } else { "" };
            assert_eq!((head.status(), body), (200, format!("/{n}{hello}")), "{host}");
        }
    }
}

#[test]
fn one_connection_to_the_application_serves_many_requests() {
    let app = paths();
    let pair = Pair::new(FUSEWIRE, app.port);
    for (before, host) in BOTH.into_iter().enumerate() {
        let mut conn = Conn::connect(pair.port());
        for n in 0..100 {
            conn.say(format!("GET /{n} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            assert_eq!(conn.answer().unwrap().1, format!("/{n}"));
        }
        assert_eq!(app.accepted(), before + 1, "{host}");
    }
}

#[test]
fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
    let app = paths();
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        conn.say(format!("GET /1 HTTP/1.1\r\nhost: {host}\r\n\r\nGET /2 HTT"));
        assert_eq!(conn.answer().unwrap().1, "/1", "{host}");
        conn.say(format!("P/1.1\r\nhost: {host}\r\n\r\n"));
        assert_eq!(conn.answer().unwrap().1, "/2", "{host}");
    }
}

/// Hangs up after each third answer without having said so, and counts when it has.
fn hangs_up(hung_up: Arc<AtomicUsize>) -> Server {
    Server::start(move |mut conn| {
        for n in 1.. {
            let Ok(head) = conn.head() else { return };
            let Ok(body) = conn.body(&head) else { return };
            if conn.try_say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())).is_err()
                || conn.try_say(&body).is_err()
            {
                return;
            }
            if n % 3 == 0 {
                drop(conn);
                hung_up.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
    })
}

#[test]
fn a_post_is_never_written_to_a_connection_that_was_hung_up_before() {
    let hung_up = Arc::new(AtomicUsize::new(0));
    let app = hangs_up(hung_up.clone());
    let pair = Pair::new(FUSEWIRE, app.port);
    for (round, host) in BOTH.into_iter().enumerate() {
        let mut conn = Conn::connect(pair.port());
        for n in 0..300 {
            conn.say(format!("POST /{n} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 5\r\n\r\nhello"));
            let (head, body) = conn.answer().unwrap();
            assert_eq!((head.status(), body.as_str()), (200, "hello"), "{host} {n} {head:?}");
            if n % 3 == 2 {
                eventually("it hung up", || hung_up.load(Ordering::SeqCst) == round * 100 + (n + 1) / 3);
            }
        }
    }
}

#[test]
fn no_get_fails_when_the_application_hangs_up_at_any_time() {
    let app = hangs_up(Arc::default());
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in BOTH {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut conn = Conn::connect(pair.port());
                    for n in 0..300 {
                        conn.say(format!("GET /{n} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
                        let (head, body) = conn.answer().unwrap();
                        assert_eq!((head.status(), body.as_str()), (200, ""), "{host} {n} {head:?}");
                    }
                });
            }
        });
    }
}

#[test]
fn an_http2_application_that_says_goodbye_loses_no_request() {
    // each connection takes ten streams and says GOAWAY: what came later was not processed and goes elsewhere
    let app = goodbye();
    let pair = Pair::shaped(FUSEWIRE, app, &Shape { protocol: "http2", ..Shape::default() });
    h2c::run(async {
        let client = h2c::client(pair.port()).await;
        for host in BOTH {
            let calls = (0..200).map(|n| {
                let request = h2c::request("POST", &format!("{host}/{n}"));
                let client = &client;
                async move { h2c::call(client, request).await.unwrap().status().as_u16() }
            });
            let answers = futures_util::future::join_all(calls).await;
            assert_eq!(answers, vec![200; 200], "{host}");
        }
    });
}

fn goodbye() -> u16 {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap().port()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    for n in 1.. {
                        let Some(Ok((_, mut respond))) = connection.accept().await else { return };
                        h2c::answer(&mut respond, Response::builder(), b"ok", None);
                        if n == 10 {
                            connection.graceful_shutdown();
                        }
                    }
                });
            }
        });
    });
    told.recv().unwrap()
}

#[test]
fn none_of_512_streams_at_once_is_refused() {
    let app = h2c::App::start(|request, mut respond| async move {
        let body = h2c::whole(&mut request.into_body()).await.unwrap();
        h2c::answer(&mut respond, Response::builder(), &body, None);
    });
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { protocol: "http2", ..Shape::default() });
    for host in BOTH {
        h2c::run(async {
            // all of them before a byte of the other side has been read: what it allows is not known yet
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", pair.port())).await.unwrap();
            let mut builder = h2::client::Builder::new();
            let handshake = builder
                .initial_max_send_streams(512)
                .max_send_buffer_size(64 << 20)
                .handshake::<_, bytes::Bytes>(stream);
            let (mut client, connection) = handshake.await.unwrap();
            let mut answers = Vec::new();
            for n in 0..512u32 {
                let request = h2c::request("POST", &format!("{host}/{n}")).body(()).unwrap();
                let (answer, mut up) = client.send_request(request, false).unwrap();
                up.send_data(n.to_be_bytes().to_vec().into(), true).unwrap();
                answers.push(answer);
            }
            tokio::spawn(connection);
            for (n, answer) in answers.into_iter().enumerate() {
                let mut answer = answer.await.unwrap_or_else(|e| panic!("{host} stream {n}: {e}"));
                assert_eq!(answer.status(), 200, "{host} stream {n}: {answer:?}");
                assert_eq!(&h2c::whole(answer.body_mut()).await.unwrap()[..], &(n as u32).to_be_bytes());
            }
        });
    }
}
