//! What a request may hold, and how it is compressed: RFC 9113, section 8, and RFC 7541.

use crate::{Case, DOORS, Door, FUSEWIRE, House, Want, try_all};
use fusewire_testkit::Pair;
use fusewire_testkit::h2raw::*;
use fusewire_testkit::raw::Server;

const MALFORMED: Want = Want::Stream(1, &[PROTOCOL_ERROR]);
/// A name or value that cannot be one: h2 takes it for a fault of the compression, which all streams share.
const ENDS: Want = Want::Connection(&[PROTOCOL_ERROR]);

/// Sends these fields, and no others but the door's own, as a whole request.
fn only(p: &mut Peer, fields: &[(&str, &str)]) {
    let mut fields = fields.to_vec();
    let extra = p.extra.clone();
    fields.extend(extra.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    p.send(HEADERS, END_STREAM | END_HEADERS, 1, block(&fields));
}

fn get_with(p: &mut Peer, name: &str, value: &str) {
    p.ask(1, "GET", &[(name, value)], END_STREAM);
}

#[test]
fn a_request_that_is_malformed_is_reset_and_never_forwarded() {
    let cases: &[Case] = &[
        ("an upper-case name", |p| get_with(p, "X-Test", "1"), ENDS),
        (
            "an unknown pseudo-header",
            |p| {
                only(
                    p,
                    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "shop"), (":test", "1")],
                )
            },
            ENDS,
        ),
        (
            "a response's pseudo-header",
            |p| {
                only(
                    p,
                    &[
                        (":method", "GET"),
                        (":scheme", "http"),
                        (":path", "/"),
                        (":authority", "shop"),
                        (":status", "200"),
                    ],
                )
            },
            MALFORMED,
        ),
        (
            "a pseudo-header after another field",
            |p| only(p, &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("x", "1"), (":authority", "shop")]),
            MALFORMED,
        ),
        (
            "a pseudo-header among the trailers, which h2 drops",
            |p| {
                p.ask(1, "POST", &[], 0);
                p.send(HEADERS, END_STREAM | END_HEADERS, 1, block(&[(":method", "200")]));
            },
            Want::Answer,
        ),
        ("no :method", |p| only(p, &[(":scheme", "http"), (":path", "/"), (":authority", "shop")]), MALFORMED),
        ("no :scheme", |p| only(p, &[(":method", "GET"), (":path", "/"), (":authority", "shop")]), MALFORMED),
        ("no :path", |p| only(p, &[(":method", "GET"), (":scheme", "http"), (":authority", "shop")]), MALFORMED),
        (
            "an empty :path",
            |p| only(p, &[(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "shop")]),
            MALFORMED,
        ),
        (
            ":method twice",
            |p| {
                only(
                    p,
                    &[
                        (":method", "GET"),
                        (":method", "GET"),
                        (":scheme", "http"),
                        (":path", "/"),
                        (":authority", "shop"),
                    ],
                )
            },
            MALFORMED,
        ),
        (
            ":scheme twice",
            |p| {
                only(
                    p,
                    &[
                        (":method", "GET"),
                        (":scheme", "http"),
                        (":scheme", "http"),
                        (":path", "/"),
                        (":authority", "shop"),
                    ],
                )
            },
            MALFORMED,
        ),
        (
            ":path twice",
            |p| {
                only(
                    p,
                    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":path", "/"), (":authority", "shop")],
                )
            },
            MALFORMED,
        ),
        (
            ":authority twice",
            |p| {
                only(
                    p,
                    &[
                        (":method", "GET"),
                        (":scheme", "http"),
                        (":path", "/"),
                        (":authority", "shop"),
                        (":authority", "shop"),
                    ],
                )
            },
            MALFORMED,
        ),
        (
            "CONNECT with :path",
            |p| only(p, &[(":method", "CONNECT"), (":path", "/"), (":authority", "shop:80")]),
            MALFORMED,
        ),
        (
            "CONNECT with :scheme",
            |p| only(p, &[(":method", "CONNECT"), (":scheme", "http"), (":authority", "shop:80")]),
            MALFORMED,
        ),
        (
            ":protocol without CONNECT",
            |p| {
                only(
                    p,
                    &[
                        (":method", "GET"),
                        (":scheme", "http"),
                        (":path", "/"),
                        (":authority", "shop"),
                        (":protocol", "websocket"),
                    ],
                )
            },
            MALFORMED,
        ),
        ("connection", |p| get_with(p, "connection", "keep-alive"), MALFORMED),
        ("proxy-connection", |p| get_with(p, "proxy-connection", "keep-alive"), MALFORMED),
        ("keep-alive", |p| get_with(p, "keep-alive", "timeout=5"), MALFORMED),
        ("transfer-encoding", |p| get_with(p, "transfer-encoding", "chunked"), MALFORMED),
        ("upgrade", |p| get_with(p, "upgrade", "websocket"), MALFORMED),
        ("te that is not trailers", |p| get_with(p, "te", "trailers, deflate"), MALFORMED),
        ("a line break in a value", |p| get_with(p, "x", "a\r\nb: c"), ENDS),
        ("a Content-Length that is no number", |p| get_with(p, "content-length", "x"), MALFORMED),
        ("a Content-Length with a sign", |p| get_with(p, "content-length", "+4"), MALFORMED),
        (
            "two Content-Lengths",
            |p| p.ask(1, "POST", &[("content-length", "4"), ("content-length", "5")], 0),
            MALFORMED,
        ),
        ("a Content-Length without a body", |p| p.ask(1, "POST", &[("content-length", "4")], END_STREAM), MALFORMED),
        (
            "more than Content-Length",
            |p| {
                p.ask(1, "POST", &[("content-length", "1")], 0);
                p.send(DATA, END_STREAM, 1, "test");
            },
            MALFORMED,
        ),
        (
            "less than Content-Length",
            |p| {
                p.ask(1, "POST", &[("content-length", "9")], 0);
                p.send(DATA, END_STREAM, 1, "test");
            },
            MALFORMED,
        ),
        (
            "more than Content-Length in pieces",
            |p| {
                p.ask(1, "POST", &[("content-length", "5")], 0);
                p.send(DATA, 0, 1, "test");
                p.send(DATA, END_STREAM, 1, "test");
            },
            MALFORMED,
        ),
        (
            "less than Content-Length, and trailers",
            |p| {
                p.ask(1, "POST", &[("content-length", "9")], 0);
                p.send(DATA, 0, 1, "test");
                p.send(HEADERS, END_STREAM | END_HEADERS, 1, block(&[("sum", "1")]));
            },
            MALFORMED,
        ),
        (
            "trailers that do not end the stream",
            |p| {
                p.ask(1, "POST", &[], 0);
                p.send(DATA, 0, 1, "test");
                p.send(HEADERS, END_HEADERS, 1, block(&[("sum", "1")]));
            },
            MALFORMED,
        ),
        ("a Host that is not :authority", |p| get_with(p, "host", "another"), Want::Status(400)),
        (
            "user information in :authority",
            |p| only(p, &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "me@shop")]),
            Want::Status(400),
        ),
        ("CONNECT to nobody", |p| only(p, &[(":method", "CONNECT")]), Want::Status(400)),
        ("te: trailers", |p| get_with(p, "te", "trailers"), Want::Answer),
        (
            "a body without a Content-Length",
            |p| {
                p.ask(1, "POST", &[], 0);
                p.send(DATA, END_STREAM, 1, "test");
            },
            Want::Answer,
        ),
        (
            "as much as Content-Length",
            |p| {
                p.ask(1, "POST", &[("content-length", "8")], 0);
                p.send(DATA, 0, 1, "test");
                p.send(DATA, END_STREAM, 1, "test");
            },
            Want::Answer,
        ),
    ];
    try_all(cases);
}

/// A good request with `more` bytes at the end of its header block.
fn and(p: &mut Peer, more: &[u8]) {
    let head = [&p.head("GET", &[]), more].concat();
    p.send(HEADERS, END_STREAM | END_HEADERS, 1, head);
}

/// The same, `before` at the beginning.
fn after(p: &mut Peer, before: &[u8]) {
    let head = [before, &p.head("GET", &[])].concat();
    p.send(HEADERS, END_STREAM | END_HEADERS, 1, head);
}

const HPACK: Want = Want::Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]);

#[test]
fn every_form_of_a_field_is_understood_and_a_broken_table_ends_the_connection() {
    // `user-agent` is entry 58; `test` in Huffman codes is 49 50 9f; 62 is the first entry of the dynamic table
    let cases: &[Case] = &[
        ("an entry of the static table", |p| and(p, &[0x80 | 16]), Want::Answer),
        ("a literal, kept, its name known", |p| and(p, b"\x7a\x04test"), Want::Answer),
        ("the same in Huffman codes", |p| and(p, b"\x7a\x83\x49\x50\x9f"), Want::Answer),
        ("a literal, kept, its name new", |p| and(p, b"\x40\x04test\x04test"), Want::Answer),
        ("the same in Huffman codes, twice", |p| and(p, b"\x40\x83\x49\x50\x9f\x83\x49\x50\x9f"), Want::Answer),
        ("a literal, not kept, its name known", |p| and(p, b"\x0f\x2b\x04test"), Want::Answer),
        ("a literal, not kept, in Huffman codes", |p| and(p, b"\x0f\x2b\x83\x49\x50\x9f"), Want::Answer),
        ("a literal, not kept, its name new", |p| and(p, b"\x00\x83\x49\x50\x9f\x83\x49\x50\x9f"), Want::Answer),
        ("a literal, never kept, its name known", |p| and(p, b"\x1f\x2b\x04test"), Want::Answer),
        ("a literal, never kept, in Huffman codes", |p| and(p, b"\x1f\x2b\x83\x49\x50\x9f"), Want::Answer),
        ("a literal, never kept, its name new", |p| and(p, b"\x10\x04test\x04test"), Want::Answer),
        ("a literal, never kept, its new name in codes", |p| and(p, b"\x10\x83\x49\x50\x9f\x04test"), Want::Answer),
        ("what was kept", |p| and(p, b"\x40\x04test\x04test\xbe"), Want::Answer),
        ("a smaller table", |p| after(p, &[0x30]), Want::Answer),
        ("two sizes of the table", |p| after(p, &[0x20, 0x30]), Want::Answer),
        ("an entry that is not there", |p| and(p, &[0x80 | 70]), HPACK),
        ("a name that is not there", |p| and(p, b"\x7f\x07\x04test"), HPACK),
        ("entry 0", |p| and(p, &[0x80]), HPACK),
        ("a table larger than allowed", |p| after(p, &[0x3f, 0xe2, 0x1f]), HPACK),
        ("a size of the table after a field", |p| and(p, &[0x21]), HPACK),
        ("codes padded by more than seven bits", |p| and(p, b"\x00\x04test\x84\x49\x50\x9f\xff"), HPACK),
        ("codes padded by zeros", |p| and(p, b"\x00\x04test\x83\x49\x50\x90"), HPACK),
        ("the code of the end", |p| and(p, b"\x00\x04test\x87\x49\x50\x9f\xff\xff\xff\xff"), HPACK),
        ("a block that is cut", |p| and(p, b"\x00\x04test\x7fcut"), HPACK),
    ];
    try_all(cases);
}

#[test]
fn crumbs_of_cookies_come_as_one_field_to_an_http1_application() {
    let app = Server::http(|conn, head| {
        let cookies: Vec<&str> = head.fields.iter().filter(|(n, _)| n == "cookie").map(|(_, v)| v.as_str()).collect();
        let said = cookies.join("|");
        conn.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{said}", said.len()));
        true
    });
    let pair = Pair::new(FUSEWIRE, app.port);
    for host in ["plain", "shop"] {
        let mut peer = Peer::connect(pair.port());
        peer.authority = host.into();
        peer.start(&[]);
        peer.ask(1, "GET", &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")], END_STREAM);
        let said = std::iter::from_fn(|| peer.receive()).find(|f| f.kind == DATA).unwrap();
        assert_eq!(String::from_utf8_lossy(&said.payload), "a=1; b=2; c=3", "{host}");
    }
}

/// An application that says whether a body came to its end.
fn counts_whole_bodies() -> (Server, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let tell = seen.clone();
    let app = Server::http(move |conn, head| {
        let whole = match conn.body(head) {
            Ok(body) => format!("whole {}", body.len()),
            Err(_) => "cut".into(),
        };
        tell.lock().unwrap().push(whole.clone());
        conn.try_say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_ok() && whole != "cut"
    });
    (app, seen)
}

#[test]
fn a_body_that_is_taken_back_never_reaches_an_application_as_a_whole_one_whatever_the_code() {
    let (app, seen) = counts_whole_bodies();
    let pair = Pair::new(FUSEWIRE, app.port);
    let mut expected = 0;
    for host in ["plain", "shop"] {
        for code in [NO_ERROR, CANCEL] {
            let mut peer = Peer::connect(pair.port());
            peer.authority = host.into();
            peer.start(&[]);
            peer.ask(1, "POST", &[], 0);
            peer.send(DATA, 0, 1, "half of it");
            fusewire_testkit::eventually("the request is on its way", || {
                app.accepted() > expected && peer.pong([0; 8])
            });
            peer.send(RST_STREAM, 0, 1, code.to_be_bytes());
            expected += 1;
            fusewire_testkit::eventually("the application sees the end", || seen.lock().unwrap().len() == expected);
            assert_eq!(seen.lock().unwrap().last().unwrap(), "cut", "{host}, code {code}");
        }
    }
}

#[test]
fn fields_that_add_up_to_too_much_get_431_and_far_too_much_ends_the_connection() {
    let house = House::new();
    for door in [Door::Plain, Door::Inbound] {
        let mut peer = house.enter(door);
        let value = "x".repeat(8000);
        // a peer's sidecar may send what an application may, and its own beside it; and far more before it is cut off
        let (some, many) = if door == Door::Inbound { (11, 45) } else { (9, 12) };
        let fields: Vec<(&str, &str)> = (0..some).map(|_| ("x-large", value.as_str())).collect();
        in_pieces(&mut peer, 1, &fields);
        assert!(matches!(peer.end(1), End::Answer(431, _)), "{door:?}: more than an application takes");
        let fields: Vec<(&str, &str)> = (0..many).map(|_| ("x-large", value.as_str())).collect();
        in_pieces(&mut peer, 3, &fields);
        let end = peer.end(3);
        assert!(matches!(end, End::Answer(431, 0)), "{door:?}: more than HTTP/2 takes: {end:?}");
        peer.get(5);
        assert!(matches!(peer.end(5), End::Answer(200, _)), "{door:?}: others go on");
    }
    for door in DOORS {
        let mut peer = house.enter(door);
        // one entry of four kilobytes, named a hundred times by one byte each
        let mut head = peer.head("GET", &[]);
        head.push(0x40);
        string(&mut head, b"x");
        string(&mut head, &[b'x'; 4000]);
        let often = if matches!(door, Door::Inbound | Door::Portless) { 400 } else { 100 };
        head.extend(std::iter::repeat_n(0xbe, often));
        peer.send(HEADERS, END_STREAM | END_HEADERS, 1, head);
        assert!(matches!(peer.ends(), End::Connection(ENHANCE_YOUR_CALM) | End::Closed), "{door:?}");
    }
}

/// A request over HEADERS and CONTINUATION.
fn in_pieces(peer: &mut Peer, stream: u32, fields: &[(&str, &str)]) {
    let head = peer.head("GET", fields);
    let pieces: Vec<&[u8]> = head.chunks(1 << 14).collect();
    for (n, piece) in pieces.iter().enumerate() {
        let last = if n + 1 == pieces.len() { END_HEADERS } else { 0 };
        let (kind, flags) = if n == 0 { (HEADERS, END_STREAM | last) } else { (CONTINUATION, last) };
        peer.send(kind, flags, stream, piece);
    }
}
