//! Frames, streams, settings, windows: RFC 9113, sections 4 to 7.

use crate::{Case, DOORS, House, Want, try_all};
use fusewire_testkit::h2raw::*;

/// Opens stream 1 with a request whose body is to come.
fn post(p: &mut Peer) {
    p.ask(1, "POST", &[], 0);
}

/// A whole request on stream 1, and its answer.
fn done(p: &mut Peer) {
    p.get(1);
    p.end(1);
}

/// A request that is not answered to its end: its window is shut.
fn held(p: &mut Peer) {
    p.set(&[(INITIAL_WINDOW_SIZE, 0)]);
    p.get(1);
}

#[test]
fn frames_that_are_well_formed_are_taken_whatever_else_they_hold() {
    let cases: &[Case] = &[
        ("a request", |p| p.get(1), Want::Answer),
        ("HEAD", |p| p.ask(1, "HEAD", &[], END_STREAM), Want::Answer),
        (
            "a type that nobody knows",
            |p| {
                p.send(0xff, 0, 0, [0; 8]);
                p.get(1)
            },
            Want::Answer,
        ),
        (
            "flags that nobody knows",
            |p| {
                p.send(PING, 0x16, 0, [0; 8]);
                p.get(1)
            },
            Want::Answer,
        ),
        ("a reserved bit", |p| p.get(1 | 1 << 31), Want::Answer),
        (
            "an extension",
            |p| {
                p.send(0x16, 0, 1, [0; 8]);
                p.get(1)
            },
            Want::Answer,
        ),
        (
            "DATA",
            |p| {
                post(p);
                p.send(DATA, END_STREAM, 1, "data")
            },
            Want::Answer,
        ),
        (
            "DATA twice",
            |p| {
                post(p);
                p.send(DATA, 0, 1, "a");
                p.send(DATA, END_STREAM, 1, "b")
            },
            Want::Answer,
        ),
        (
            "padded DATA",
            |p| {
                post(p);
                p.send(DATA, END_STREAM | PADDED, 1, [2, b'a', 0, 0])
            },
            Want::Answer,
        ),
        (
            "the longest DATA",
            |p| {
                post(p);
                p.send(DATA, END_STREAM, 1, [0; 1 << 14])
            },
            Want::Answer,
        ),
        (
            "trailers",
            |p| {
                p.ask(1, "POST", &[("trailer", "sum")], 0);
                p.send(DATA, 0, 1, "data");
                p.send(HEADERS, END_STREAM | END_HEADERS, 1, block(&[("sum", "7")]));
            },
            Want::Answer,
        ),
        (
            "padded HEADERS",
            |p| {
                let head = [&[3][..], &p.head("GET", &[]), &[0; 3]].concat();
                p.send(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, head);
            },
            Want::Answer,
        ),
        (
            "HEADERS with a priority",
            |p| {
                let head = [&[0, 0, 0, 0, 255][..], &p.head("GET", &[])].concat();
                p.send(HEADERS, END_STREAM | END_HEADERS | WITH_PRIORITY, 1, head);
            },
            Want::Answer,
        ),
        (
            "one CONTINUATION",
            |p| {
                let head = p.head("GET", &[]);
                p.send(HEADERS, END_STREAM, 1, &head[..9]);
                p.send(CONTINUATION, END_HEADERS, 1, &head[9..]);
            },
            Want::Answer,
        ),
        (
            "several CONTINUATIONs",
            |p| {
                let head = p.head("GET", &[]);
                p.send(HEADERS, END_STREAM, 1, &head[..1]);
                p.send(CONTINUATION, 0, 1, &head[1..9]);
                p.send(CONTINUATION, 0, 1, []);
                p.send(CONTINUATION, END_HEADERS, 1, &head[9..]);
            },
            Want::Answer,
        ),
        (
            "PRIORITY of an idle stream",
            |p| {
                p.send(PRIORITY, 0, 1, [0, 0, 0, 0, 255]);
                p.get(1)
            },
            Want::Answer,
        ),
        (
            "an exclusive PRIORITY",
            |p| {
                p.send(PRIORITY, 0, 3, [0x80, 0, 0, 1, 0]);
                p.get(1)
            },
            Want::Answer,
        ),
        (
            "PRIORITY of a later stream",
            |p| {
                p.send(PRIORITY, 0, 7, [0, 0, 0, 1, 9]);
                p.get(1)
            },
            Want::Answer,
        ),
        (
            "PRIORITY when all was said",
            |p| {
                p.get(1);
                p.send(PRIORITY, 0, 1, [0, 0, 0, 0, 9])
            },
            Want::Answer,
        ),
        (
            "PRIORITY of a closed stream",
            |p| {
                done(p);
                p.send(PRIORITY, 0, 1, [0, 0, 0, 0, 9])
            },
            Want::Nothing,
        ),
        (
            "a window for all",
            |p| {
                p.send(WINDOW_UPDATE, 0, 0, [0, 0, 0, 9]);
                p.get(1)
            },
            Want::Answer,
        ),
        (
            "a window when all was said",
            |p| {
                p.get(1);
                p.send(WINDOW_UPDATE, 0, 1, [0, 0, 0, 9])
            },
            Want::Answer,
        ),
        (
            "RST_STREAM",
            |p| {
                post(p);
                p.send(RST_STREAM, 0, 1, [0, 0, 0, 8])
            },
            Want::Nothing,
        ),
        (
            "RST_STREAM when all was said",
            |p| {
                held(p);
                p.send(RST_STREAM, 0, 1, [0, 0, 0, 8]);
                p.set(&[(INITIAL_WINDOW_SIZE, 1 << 16)])
            },
            Want::Nothing,
        ),
        (
            "an error code that nobody knows",
            |p| {
                post(p);
                p.send(RST_STREAM, 0, 1, [0, 0, 0, 0xff])
            },
            Want::Nothing,
        ),
        (
            "a setting that nobody knows",
            |p| {
                p.set(&[(0xff, 1)]);
                p.get(1)
            },
            Want::Answer,
        ),
    ];
    try_all(cases);
}

const SIZE: &[u32] = &[FRAME_SIZE_ERROR, PROTOCOL_ERROR];
const CLOSED: &[u32] = &[STREAM_CLOSED, PROTOCOL_ERROR];
const PROTOCOL: &[u32] = &[PROTOCOL_ERROR];
const FLOW: &[u32] = &[FLOW_CONTROL_ERROR, PROTOCOL_ERROR];

#[test]
fn frames_that_are_malformed_end_the_connection() {
    let cases: &[Case] = &[
        (
            "DATA that is too long",
            |p| {
                post(p);
                p.send(DATA, END_STREAM, 1, [0; (1 << 14) + 1])
            },
            Want::Connection(SIZE),
        ),
        ("HEADERS that are too long", |p| p.send(HEADERS, 5, 1, [0; (1 << 14) + 1]), Want::Connection(SIZE)),
        ("DATA on stream 0", |p| p.send(DATA, 0, 0, "data"), Want::Connection(PROTOCOL)),
        ("HEADERS on stream 0", |p| p.get(0), Want::Connection(PROTOCOL)),
        ("PRIORITY on stream 0", |p| p.send(PRIORITY, 0, 0, [0, 0, 0, 1, 9]), Want::Connection(PROTOCOL)),
        ("RST_STREAM on stream 0", |p| p.send(RST_STREAM, 0, 0, [0; 4]), Want::Connection(PROTOCOL)),
        ("SETTINGS on stream 1", |p| p.send(SETTINGS, 0, 1, []), Want::Connection(PROTOCOL)),
        ("PING on stream 1", |p| p.send(PING, 0, 1, [0; 8]), Want::Connection(PROTOCOL)),
        ("GOAWAY on stream 1", |p| p.send(GOAWAY, 0, 1, [0; 8]), Want::Connection(PROTOCOL)),
        (
            "CONTINUATION on stream 0",
            |p| {
                p.send(HEADERS, 1, 1, [0x82]);
                p.send(CONTINUATION, 4, 0, [0x84])
            },
            Want::Connection(PROTOCOL),
        ),
        (
            "padding longer than DATA",
            |p| {
                post(p);
                p.send(DATA, END_STREAM | PADDED, 1, [9, 0, 0])
            },
            Want::Connection(PROTOCOL),
        ),
        ("padding longer than HEADERS", |p| p.send(HEADERS, 5 | PADDED, 1, [9, 0x82]), Want::Connection(PROTOCOL)),
        ("PRIORITY of four bytes", |p| p.send(PRIORITY, 0, 1, [0; 4]), Want::Connection(SIZE)),
        (
            "RST_STREAM of three bytes",
            |p| {
                post(p);
                p.send(RST_STREAM, 0, 1, [0; 3])
            },
            Want::Connection(SIZE),
        ),
        ("SETTINGS of three bytes", |p| p.send(SETTINGS, 0, 0, [0; 3]), Want::Connection(SIZE)),
        ("an acknowledgement with settings", |p| p.send(SETTINGS, ACK, 0, [0; 6]), Want::Connection(SIZE)),
        ("PING of six bytes", |p| p.send(PING, 0, 0, [0; 6]), Want::Connection(SIZE)),
        ("WINDOW_UPDATE of three bytes", |p| p.send(WINDOW_UPDATE, 0, 0, [0; 3]), Want::Connection(SIZE)),
        ("a push that is neither on nor off", |p| p.set(&[(ENABLE_PUSH, 2)]), Want::Connection(PROTOCOL)),
        ("a window above the limit", |p| p.set(&[(INITIAL_WINDOW_SIZE, 1 << 31)]), Want::Connection(FLOW)),
        ("frames below the least size", |p| p.set(&[(MAX_FRAME_SIZE, (1 << 14) - 1)]), Want::Connection(PROTOCOL)),
        ("frames above the greatest size", |p| p.set(&[(MAX_FRAME_SIZE, 1 << 24)]), Want::Connection(PROTOCOL)),
        ("a window that grows by nothing", |p| p.send(WINDOW_UPDATE, 0, 0, [0; 4]), Want::Connection(PROTOCOL)),
        (
            "a stream's window that grows by nothing",
            |p| {
                post(p);
                p.send(WINDOW_UPDATE, 0, 1, [0; 4])
            },
            Want::Connection(PROTOCOL),
        ),
        (
            "a window that overflows",
            |p| {
                for _ in 0..2 {
                    p.send(WINDOW_UPDATE, 0, 0, [0x7f, 0xff, 0xff, 0xff]);
                }
            },
            Want::Connection(FLOW),
        ),
        (
            "a window that settings overflow",
            |p| {
                p.set(&[(INITIAL_WINDOW_SIZE, 0)]);
                post(p);
                p.send(WINDOW_UPDATE, 0, 1, [0x7f, 0xff, 0xff, 0xff]);
                p.set(&[(INITIAL_WINDOW_SIZE, 0x7fff_ffff)]);
            },
            Want::Connection(FLOW),
        ),
        ("DATA on an idle stream", |p| p.send(DATA, END_STREAM, 1, "data"), Want::Connection(PROTOCOL)),
        ("RST_STREAM of an idle stream", |p| p.send(RST_STREAM, 0, 1, [0; 4]), Want::Connection(PROTOCOL)),
        ("WINDOW_UPDATE of an idle stream", |p| p.send(WINDOW_UPDATE, 0, 1, [0, 0, 0, 9]), Want::Connection(PROTOCOL)),
        ("CONTINUATION of nothing", |p| p.send(CONTINUATION, END_HEADERS, 1, [0x82]), Want::Connection(PROTOCOL)),
        (
            "CONTINUATION after a whole block",
            |p| {
                p.get(1);
                p.send(CONTINUATION, END_HEADERS, 1, [0x82])
            },
            Want::Connection(CLOSED),
        ),
        (
            "CONTINUATION after DATA",
            |p| {
                post(p);
                p.send(DATA, 0, 1, "a");
                p.send(CONTINUATION, 4, 1, [0x82])
            },
            Want::Connection(PROTOCOL),
        ),
        (
            "CONTINUATION of a closed stream",
            |p| {
                done(p);
                p.send(CONTINUATION, END_HEADERS, 1, [0x82])
            },
            Want::Connection(CLOSED),
        ),
        (
            "PRIORITY within a block",
            |p| {
                p.send(HEADERS, 1, 1, [0x82]);
                p.send(PRIORITY, 0, 1, [0; 5])
            },
            Want::Connection(PROTOCOL),
        ),
        (
            "another stream within a block",
            |p| {
                p.send(HEADERS, 1, 1, [0x82]);
                p.get(3)
            },
            Want::Connection(PROTOCOL),
        ),
        (
            "an extension within a block",
            |p| {
                p.send(HEADERS, 1, 1, [0x82]);
                p.send(0x16, 0, 1, [0])
            },
            Want::Connection(PROTOCOL),
        ),
        ("an even stream", |p| p.get(2), Want::Connection(PROTOCOL)),
        (
            "a stream before the last",
            |p| {
                p.get(5);
                p.get(3)
            },
            Want::Connection(PROTOCOL),
        ),
        (
            "a push from a client",
            |p| {
                post(p);
                let head = [&[0, 0, 0, 2][..], &p.head("GET", &[])].concat();
                p.send(PUSH_PROMISE, END_HEADERS, 1, head);
            },
            Want::Connection(PROTOCOL),
        ),
    ];
    try_all(cases);
}

#[test]
fn what_comes_on_a_stream_after_its_end_is_refused() {
    let cases: &[Case] = &[
        (
            "DATA when all was said",
            |p| {
                held(p);
                p.send(DATA, END_STREAM, 1, "data")
            },
            Want::Connection(CLOSED),
        ),
        (
            "HEADERS when all was said",
            |p| {
                held(p);
                p.ask(1, "GET", &[], END_STREAM)
            },
            Want::Connection(CLOSED),
        ),
        (
            "CONTINUATION when all was said",
            |p| {
                held(p);
                p.send(CONTINUATION, 4, 1, [0x82])
            },
            Want::Connection(CLOSED),
        ),
        (
            "CONTINUATION after a reset",
            |p| {
                post(p);
                p.send(RST_STREAM, 0, 1, [0, 0, 0, 8]);
                p.send(CONTINUATION, 4, 1, [0x82]);
            },
            Want::Connection(CLOSED),
        ),
        (
            "DATA on a closed stream",
            |p| {
                done(p);
                p.send(DATA, END_STREAM, 1, "data")
            },
            Want::Stream(1, CLOSED),
        ),
    ];
    try_all(cases);
    let house = House::new();
    for door in DOORS {
        for (reset, kind) in [(true, HEADERS), (true, DATA), (false, HEADERS)] {
            let mut peer = house.enter(door);
            if reset {
                post(&mut peer);
                peer.send(RST_STREAM, 0, 1, [0, 0, 0, 8]);
            } else {
                done(&mut peer);
            }
            match kind {
                DATA => peer.send(DATA, END_STREAM, 1, "data"),
                _ => peer.get(1),
            }
            let end = peer.end(1);
            let refused = |code| CLOSED.contains(&code);
            assert!(
                matches!(end, End::Stream(code) | End::Connection(code) if refused(code)) || end == End::Closed,
                "{door:?}, kind {kind} again (reset: {reset}): {end:?}"
            );
        }
    }
}

#[test]
fn a_stream_that_breaks_its_own_rules_is_reset_alone() {
    let cases: &[Case] = &[
        (
            "HEADERS that depend on themselves",
            |p| {
                let head = [&[0, 0, 0, 1, 255][..], &p.head("GET", &[])].concat();
                p.send(HEADERS, 5 | WITH_PRIORITY, 1, head);
            },
            Want::Stream(1, PROTOCOL),
        ),
        ("PRIORITY that depends on itself", |p| p.send(PRIORITY, 0, 1, [0, 0, 0, 1, 255]), Want::Stream(1, PROTOCOL)),
        (
            "a stream's window that overflows",
            |p| {
                let mut all = frame(HEADERS, END_HEADERS, 1, &p.head("POST", &[]));
                for _ in 0..2 {
                    all.extend(frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]));
                }
                p.raw(&all);
            },
            Want::Stream(1, &[FLOW_CONTROL_ERROR]),
        ),
    ];
    try_all(cases);
}

#[test]
fn more_streams_than_allowed_are_refused_and_the_others_are_served() {
    let house = House::new();
    for door in DOORS {
        let mut peer = house.knock(door);
        peer.start(&[(INITIAL_WINDOW_SIZE, 0)]);
        let most = peer.settings.setting(MAX_CONCURRENT_STREAMS).expect("the limit is advertised");
        let all: Vec<u8> = (0..=most).flat_map(|n| frame(HEADERS, 5, 2 * n + 1, &peer.head("GET", &[]))).collect();
        peer.raw(&all);
        assert_eq!(peer.end(2 * most + 1), End::Stream(REFUSED_STREAM), "{door:?}");
        peer.send(WINDOW_UPDATE, 0, 0, [0, 0x10, 0, 0]);
        peer.set(&[(INITIAL_WINDOW_SIZE, 1 << 20)]);
        let last = 2 * most - 1;
        assert!(matches!(peer.end(last), End::Answer(status, _) if status == door.status()), "{door:?}");
    }
}

#[test]
fn the_first_frame_is_settings_and_each_ping_and_setting_is_answered() {
    let house = House::new();
    for door in DOORS {
        let mut peer = house.enter(door); // which asserts the first
        assert!(peer.pong(*b"fusewire"), "{door:?}");
        peer.send(PING, ACK, 0, [9; 8]); // nobody asked: passed over
        peer.set(&[(INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1 << 16)]);
        let acknowledged = std::iter::from_fn(|| peer.read()).any(|f| f.kind == SETTINGS && f.has(ACK));
        assert!(acknowledged, "{door:?}");
        peer.send(GOAWAY, 0, 0, [0, 0, 0, 0, 0, 0, 0, 0xff]); // a code that nobody knows, and nothing to finish
        peer.send(PING, 0, 0, [3; 8]);
        let end = std::iter::from_fn(|| peer.read()).find(|f| f.kind == GOAWAY || f.kind == PING);
        assert!(end.is_none_or(|f| f.kind == PING || f.code() == NO_ERROR), "{door:?}");
    }
}

/// DATA frames on stream 1 up to `bytes` of body.
fn body(peer: &mut Peer, bytes: usize) -> Vec<usize> {
    let mut lengths = Vec::new();
    while lengths.iter().sum::<usize>() < bytes {
        let frame = peer.receive().expect("the connection goes on");
        if frame.kind == DATA {
            lengths.push(frame.payload.len());
        }
    }
    lengths
}

#[test]
fn windows_are_kept_to_the_byte_also_when_settings_change_them_below_nothing() {
    let house = House::new();
    for door in DOORS {
        let mut peer = house.knock(door);
        peer.start(&[(INITIAL_WINDOW_SIZE, 1)]);
        peer.get(1);
        assert_eq!(body(&mut peer, 1), [1], "{door:?}: a window of one byte");
        peer.set(&[(INITIAL_WINDOW_SIZE, 4)]); // three more
        assert_eq!(body(&mut peer, 3).iter().sum::<usize>(), 3, "{door:?}");
        peer.set(&[(INITIAL_WINDOW_SIZE, 2)]); // two less than nothing
        peer.send(WINDOW_UPDATE, 0, 1, [0, 0, 0, 3]);
        assert_eq!(body(&mut peer, 1), [1], "{door:?}: one of three is left");
        peer.send(WINDOW_UPDATE, 0, 1, [0, 0, 0xff, 0xff]);
        assert!(matches!(peer.end(1), End::Answer(_, rest) if rest >= 8), "{door:?}");
    }
}
