//! What hyper gets of a connection, and the verdict, whatever pieces it came in.

use super::head::{self, Body, Verdict};
use super::strict::{Line, Strict};
use fusewire_model::node::Limits;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, ReadBuf};

/// Hands out one piece for each read, then the end.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// All that hyper gets of these pieces, read into `room` bytes at a time, and why the last request was refused.
fn through(pieces: Vec<Vec<u8>>, room: usize, limits: Limits) -> (Vec<u8>, Option<String>) {
    let line = Arc::new(Line::default());
    line.answered(u64::MAX); // whatever might switch did not
    let mut strict = Strict::new(Pieces(pieces.into()), line.clone(), limits);
    let (mut all, mut cx) = (Vec::new(), Context::from_waker(Waker::noop()));
    loop {
        let mut buffer = vec![0; room];
        let mut buf = ReadBuf::new(&mut buffer);
        match Pin::new(&mut strict).poll_read(&mut cx, &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => all.extend_from_slice(buf.filled()),
            Poll::Ready(Ok(())) | Poll::Pending => break,
            Poll::Ready(Err(_)) => {
                all.extend_from_slice(b"<broken>");
                break;
            }
        }
    }
    let refused = (1..1000).find_map(|n| line.refused(n)).map(|fault| format!("{fault:?}"));
    (all, refused)
}

fn in_pieces(bytes: &[u8], random: &mut Random, most: usize) -> Vec<Vec<u8>> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((1 + random.below(most)).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = after;
    }
    pieces
}

const GOOD: [&str; 8] = [
    "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
    "\r\nPOST /x HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\n\r\n",
    "PUT /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n00a \r\n\r\n\r\n\r\n1234\r\n0\r\nx-t: GET / HTTP/1.1\r\n\r\n",
    "GET /up HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
    "OPTIONS * HTTP/1.0\r\n\r\n",
    "GET http://b/?q=%20 HTTP/1.1\r\nhost: a\r\nx-long: 0123456789012345678901234567890123456789\r\n\r\n",
];

const BAD: [&str; 16] = [
    "GET / HTTP/1.1\nhost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
    "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx",
    "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n",
    "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /#x HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n",
    "GET / HTTP/2.0\r\n\r\n",
    "GET a:80 HTTP/1.1\r\nhost: a\r\n\r\n",
    "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
    "GET / HT",
    "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\n",
];

#[test]
fn any_split_of_the_bytes_gives_hyper_the_same_and_the_same_verdict() {
    let mut random = Random(20_260_101);
    for round in 0..3000 {
        let mut stream: Vec<u8> = (0..random.below(5)).flat_map(|_| GOOD[random.below(GOOD.len())].bytes()).collect();
        if round % 3 > 0 {
            stream.extend_from_slice(BAD[random.below(BAD.len())].as_bytes());
            stream.extend_from_slice(GOOD[random.below(GOOD.len())].as_bytes());
        }
        let limits = Limits { target_bytes: 64, header_bytes: 200, ..Limits::default() };
        let whole = through(vec![stream.clone()], 4096, limits);
        assert_eq!(round % 3 == 0, whole.1.is_none() && whole.0 == stream, "{}", String::from_utf8_lossy(&stream));
        for most in [1, 3, 40, 200] {
            let room = 1 + random.below(100);
            let split = through(in_pieces(&stream, &mut random, most), room, limits);
            assert_eq!(split, whole, "round {round}: {}", String::from_utf8_lossy(&stream));
        }
    }
}

#[test]
fn random_damage_to_a_good_request_is_judged_alike_in_any_split() {
    let mut random = Random(7);
    for round in 0..5000 {
        let mut stream: Vec<u8> = (0..2).flat_map(|_| GOOD[random.below(GOOD.len())].bytes()).collect();
        let odd = [0u8, b'\t', b'\n', b'\r', b' ', b',', b':', b';', b'#', b'0', 0x7f, 0xff];
        for _ in 0..1 + random.below(3) {
            let at = random.below(stream.len());
            match random.below(3) {
                0 => stream[at] = odd[random.below(odd.len())],
                1 => drop(stream.remove(at)),
                _ => stream.insert(at, odd[random.below(odd.len())]),
            }
        }
        let whole = through(vec![stream.clone()], 4096, Limits::default());
        for most in [1, 30] {
            let split = through(in_pieces(&stream, &mut random, most), 64, Limits::default());
            assert_eq!(split, whole, "round {round}: {:?}", String::from_utf8_lossy(&stream));
        }
    }
}

#[test]
fn a_head_has_the_length_and_the_body_that_it_says() {
    let checked = |text: &str| match head::check(text.as_bytes(), &Limits::default()) {
        Verdict::Good(head) => (head.len, head.body, head.may_switch),
        other => panic!("{text:?}: {other:?}"),
    };
    assert_eq!(checked("GET / HTTP/1.1\r\n\r\nmore"), (18, Body::Length(0), false));
    assert_eq!(checked("GET / HTTP/1.1\r\nContent-Length:\t 7 \r\n\r\n").1, Body::Length(7));
    assert_eq!(checked("GET / HTTP/1.1\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n").1, Body::Chunked);
    assert!(checked("GET / HTTP/1.1\r\nupgrade: x\r\n\r\n").2);
    assert!(!checked("GET / HTTP/1.0\r\nupgrade: x\r\n\r\n").2, "HTTP/1.0 knows no upgrade");
    assert!(checked("CONNECT a:1 HTTP/1.1\r\n\r\n").2);
}

#[test]
fn limits_hold_however_little_has_come() {
    let limits = Limits { target_bytes: 1000, header_bytes: 2000, header_count: 20, ..Limits::default() };
    let reason = |bytes: &[u8]| match head::check(bytes, &limits) {
        Verdict::Partial => "partial",
        Verdict::Good(_) => "good",
        Verdict::Bad(fault) => fault.reason().word(),
    };
    let target = |n: usize| format!("GET /{} HTTP/1.1\r\n", "x".repeat(n - 1));
    assert_eq!(reason(format!("{}\r\n", target(1000)).as_bytes()), "good");
    assert_eq!(reason(format!("{}\r\n", target(1001)).as_bytes()), "uri-too-long");
    assert_eq!(reason(&target(2000).as_bytes()[..1100]), "uri-too-long");
    assert_eq!(reason(&[b'x'; 1000]), "partial");
    let field = |n: usize| format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(n));
    assert_eq!(reason(format!("{}\r\n\r\n", field(1900)).as_bytes()), "good");
    assert_eq!(reason(format!("{}\r\n\r\n", field(2100)).as_bytes()), "header-too-large");
    assert_eq!(reason(field(2100).as_bytes()), "header-too-large");
    let fields = |n: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(n));
    assert_eq!((reason(fields(20).as_bytes()), reason(fields(21).as_bytes())), ("good", "header-too-large"));
}

#[test]
fn what_passes_is_read_by_hypers_parser_in_the_same_way() {
    let heads = [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /x?y=z HTTP/1.1\r\nHost: a:80\r\ncontent-length: 5\r\nx-y: z w\r\n\r\n",
        "OPTIONS * HTTP/1.0\r\nA:b\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
        "GET http://b/?q=%20 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
    ];
    let odd = b" \t\r\n:,;#/@\0\x7f[]\x80\"{<|^";
    let (mut random, mut passed) = (Random(42), 0);
    for _ in 0..300_000 {
        let mut bytes = heads[random.below(heads.len())].as_bytes().to_vec();
        for _ in 0..1 + random.below(3) {
            let (at, any) = (random.below(bytes.len()), random.below(256) as u8);
            let byte = [any, odd[random.below(odd.len())]][random.below(2)];
            match random.below(3) {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Request::new(&mut fields);
        let (theirs, shown) = (parsed.parse(&bytes), String::from_utf8_lossy(&bytes));
        match head::check(&bytes, &Limits::default()) {
            Verdict::Good(ours) => {
                passed += 1;
                assert_eq!(theirs, Ok(httparse::Status::Complete(ours.len)), "{shown:?}");
                assert!(http::Uri::try_from(parsed.path.unwrap()).is_ok(), "{shown:?}");
                let values = |name: &str| -> Vec<&[u8]> {
                    parsed.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value).collect()
                };
                let body = match (&values("transfer-encoding")[..], &values("content-length")[..]) {
                    ([_], []) => Body::Chunked,
                    ([], []) => Body::Length(0),
                    ([], [one]) => Body::Length(std::str::from_utf8(one).unwrap().parse().unwrap()),
                    both => panic!("{shown:?}: {both:?}"),
                };
                assert_eq!(body, ours.body, "{shown:?}");
            }
            Verdict::Partial => assert!(!matches!(theirs, Ok(httparse::Status::Complete(_))), "{shown:?}"),
            Verdict::Bad(_) => {}
        }
    }
    assert!(passed > 10_000, "{passed}");
}
