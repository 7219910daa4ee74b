//! HTTP/2 as a weapon: every attack of docs/attacks.md against a real sidecar, from the application's side and from a
//! peer's sidecar, and by a server upstream. Beside it a well-behaved caller keeps asking on a connection of its own.
//!
//! Asserted: how far the sidecar's memory grew, what it spent in comparison with ordinary requests in the same run (ticks
//! of /proc/PID/stat, not the wall clock), and that each request of the other caller was answered rightly. How long those
//! took is printed.

#![allow(clippy::unwrap_used)]

use fusewire_identity::{ALPN_WIRE, Identity, client_config, unchecked_name};
use fusewire_testkit::Pair;
use fusewire_testkit::h2raw::*;
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::pair::Shape;
use fusewire_testkit::process::PATIENCE;
use fusewire_testkit::raw::{Conn, Server};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
const MIB: u64 = 1 << 10; // in KiB, as /proc counts
/// What the sidecar may spend beside what the attack's units allow, whatever came.
const SPARE_TICKS: f64 = 100.0;
/// The longest that another caller may wait, as a guard against a standstill; the figure itself is printed.
const STANDSTILL: Duration = Duration::from_secs(20);

/// From where, and at whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Application,
    Peer,
}

struct House {
    pair: Pair,
    app: Server,
    /// Ticks for one ordinary request, at each side.
    ordinary: [f64; 2],
}

/// `/big`: a mebibyte; `/unread`: never answers, never reads; anything else: a word, after the body.
fn application() -> Server {
    let unread = Arc::new(std::sync::Mutex::new(Vec::new()));
    Server::start(move |mut conn| {
        while let Ok(head) = conn.head() {
            if head.path() == "/unread" {
                unread.lock().unwrap().push(conn);
                return;
            }
            if conn.body(&head).is_err() {
                return;
            }
            let body = if head.path() == "/big" { vec![b'x'; 1 << 20] } else { b"hello".to_vec() };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            if conn.try_say([head.as_bytes(), &body].concat()).is_err() {
                return;
            }
        }
    })
}

impl House {
    fn new() -> Self {
        let app = application();
        // what is measured here are the bounds below those that an operator sets
        let policy = "breaker: off, limit: {requests: 100000, pending: 100000, connections: 100000}";
        let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy, ..Shape::default() });
        let mut house = Self { pair, app, ordinary: [0.0; 2] };
        for side in [Side::Application, Side::Peer] {
            house.ask_ordinarily(side, 500); // connections, caches, the allocator's first arenas
            let before = ticks(house.target(side));
            house.ask_ordinarily(side, 5_000);
            house.ordinary[side as usize] = (ticks(house.target(side)) - before) / 5_000.0;
        }
        house
    }
    fn target(&self, side: Side) -> &Sidecar {
        match side {
            Side::Application => &self.pair.web,
            Side::Peer => &self.pair.shop,
        }
    }
    fn ask_ordinarily(&self, side: Side, requests: u32) {
        let mut peer = self.enter(side, &[]);
        for n in 0..requests {
            peer.get(2 * n + 1);
            assert_eq!(peer.end(2 * n + 1), End::Answer(200, 5));
        }
    }
    fn enter(&self, side: Side, settings: &[(u16, u32)]) -> Peer {
        let mut peer = match side {
            Side::Application => Peer::connect(self.pair.port()),
            Side::Peer => {
                let identity = Identity::load(&self.pair.mesh.path("web-1")).unwrap();
                let config = client_config(&identity, &[ALPN_WIRE]).unwrap();
                let tls = rustls::ClientConnection::new(config, unchecked_name()).unwrap();
                Peer::over(rustls::StreamOwned::new(tls, tcp(self.pair.shop.inbound)))
            }
        };
        peer.authority = if side == Side::Application { "plain" } else { "shop" }.into();
        if side == Side::Peer {
            peer.extra.push(("fusewire-port".into(), self.app.port.to_string()));
        }
        peer.start(settings);
        peer.send(WINDOW_UPDATE, 0, 0, [0x3f, 0, 0, 0]); // what is passed over is never given back
        peer
    }
}

/// User and system time of a process, in ticks of 10 ms.
fn ticks(sidecar: &Sidecar) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", sidecar.process.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
}

/// Somebody who does nothing wrong, through both sidecars.
struct Other {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Duration>>,
}

impl Other {
    fn start(port: u16) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let stop = over.clone();
        let thread = std::thread::spawn(move || {
            let mut conn = Conn::connect(port);
            let mut took = Vec::new();
            while !stop.load(Ordering::SeqCst) || took.is_empty() {
                let began = Instant::now();
                conn.say("GET / HTTP/1.1\r\nhost: shop\r\n\r\n");
                let (head, body) = conn.answer().unwrap();
                assert_eq!((head.status(), body.as_str()), (200, "hello"), "{head:?}");
                took.push(began.elapsed());
            }
            took
        });
        Self { over, thread }
    }
    fn stop(self) -> Vec<Duration> {
        self.over.store(true, Ordering::SeqCst);
        let mut took = self.thread.join().expect("the other caller was served throughout");
        took.sort();
        took
    }
}

/// What an attack did: frames (or requests) sent, and what it still holds open.
struct Done {
    units: usize,
    ended: End,
    held: Vec<Peer>,
}

/// How the attacker's connection should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// By GOAWAY with ENHANCE_YOUR_CALM (or the end of TCP, where that was lost).
    Calm,
    /// It does not: what it costs is in proportion.
    Not,
}

type Attack = fn(&House, Side) -> Done;

/// Runs `attack` at both sides. While it runs the sidecar may grow by `growth` KiB, and may spend on each of its units as
/// much as on `cost` ordinary requests.
fn bounded(name: &str, growth: u64, cost: f64, ends: Ends, attack: Attack) {
    let house = House::new();
    for side in [Side::Application, Side::Peer] {
        let target = house.target(side);
        let other = Other::start(house.pair.port());
        let (memory, spent) = (target.process.rss_kib(), ticks(target));
        let done = attack(&house, side);
        let grown = target.process.rss_kib().saturating_sub(memory);
        let spent = ticks(target) - spent;
        let took = other.stop();
        let ordinary = house.ordinary[side as usize];
        let allowed = ordinary * (done.units as f64 * cost + took.len() as f64 * 2.0) + SPARE_TICKS;
        let each = spent / ordinary / done.units.max(1) as f64;
        println!(
            "{name} | {side:?} | {} units, {:?} | +{:.1} MiB | {spent} ticks, {each:.2} requests a unit | others: {} \
             answered, median {:?}, worst {:?}",
            done.units,
            done.ended,
            grown as f64 / MIB as f64,
            took.len(),
            took[took.len() / 2],
            took[took.len() - 1],
        );
        assert!(grown <= growth, "{name}, {side:?}: grew by {grown} KiB, may by {growth}");
        assert!(spent <= allowed, "{name}, {side:?}: {spent} ticks, {allowed} allowed");
        assert!(took[took.len() - 1] < STANDSTILL, "{name}, {side:?}");
        match ends {
            Ends::Calm => assert!(
                matches!(done.ended, End::Connection(ENHANCE_YOUR_CALM) | End::Closed),
                "{name}, {side:?}: {:?}",
                done.ended
            ),
            Ends::Not => assert!(matches!(done.ended, End::Answer(200, _)), "{name}, {side:?}: {:?}", done.ended),
        }
        drop(done.held);
    }
}

/// Sends what `make` makes of 0, 1, 2..., in batches, each followed by a ping, until `units` or the connection's end.
fn flood(peer: &mut Peer, units: usize, mut make: impl FnMut(u32) -> Vec<u8>) -> (usize, End) {
    const BATCH: usize = 200;
    let mut sent = 0;
    while sent < units {
        let batch: Vec<u8> = (sent..sent + BATCH).flat_map(|n| make(u32::try_from(n).unwrap())).collect();
        if peer.try_raw(&batch).is_err() {
            return (sent, peer.ends());
        }
        sent += BATCH;
        peer.send(PING, 0, 0, [1; 8]);
        loop {
            match peer.read() {
                Some(f) if f.kind == PING && f.payload == [1; 8] => break,
                Some(f) if f.kind == GOAWAY => return (sent, End::Connection(f.code())),
                Some(_) => {}
                None => return (sent, End::Closed),
            }
        }
    }
    const LAST: u32 = 0x7fff_0001;
    peer.get(LAST);
    (sent, peer.end(LAST))
}

fn flooded(mut peer: Peer, units: usize, make: impl FnMut(u32) -> Vec<u8>) -> Done {
    let (units, ended) = flood(&mut peer, units, make);
    Done { units, ended, held: vec![peer] }
}

/// What the sidecar's memory may grow by where an attack makes it keep nothing: noise, and the other caller's.
const NOTHING: u64 = 16 * MIB;

#[test]
fn rapid_reset() {
    bounded("rapid reset", 32 * MIB, 2.0, Ends::Calm, |house, side| {
        let peer = house.enter(side, &[]);
        let head = peer.head("GET", &[]);
        let crowd = if side == Side::Peer { 4 } else { 1 };
        flooded(peer, 30_000 * crowd, move |n| {
            let stream = 2 * n + 1;
            [frame(HEADERS, 5, stream, &head), frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat()
        })
    });
    bounded("rapid reset with a byte of DATA", 32 * MIB, 2.0, Ends::Calm, |house, side| {
        let peer = house.enter(side, &[]);
        let head = peer.head("POST", &[]);
        let crowd = if side == Side::Peer { 4 } else { 1 };
        flooded(peer, 30_000 * crowd, move |n| {
            let stream = 2 * n + 1;
            let take_back = frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
            [frame(HEADERS, END_HEADERS, stream, &head), frame(DATA, 0, stream, b"x"), take_back].concat()
        })
    });
}

/// CVE-2025-8671: the server is made to reset the streams itself.
#[test]
fn made_you_reset() {
    bounded("MadeYouReset", 32 * MIB, 2.0, Ends::Calm, |house, side| {
        let peer = house.enter(side, &[]);
        let head = peer.head("POST", &[("content-length", "1")]);
        flooded(peer, 60_000, move |n| {
            let stream = 2 * n + 1;
            [frame(HEADERS, END_HEADERS, stream, &head), frame(DATA, END_STREAM, stream, b"more")].concat()
        })
    });
}

#[test]
fn ping_flood() {
    bounded("PING flood, ten a unit", NOTHING, 0.5, Ends::Calm, |house, side| {
        flooded(house.enter(side, &[]), 100_000, |_| frame(PING, 0, 0, &[7; 8]).repeat(10))
    });
}

#[test]
fn settings_flood_over_many_streams() {
    bounded("SETTINGS flood", NOTHING * 2, 0.5, Ends::Calm, |house, side| {
        let mut peer = house.enter(side, &[(INITIAL_WINDOW_SIZE, 0)]);
        let held: Vec<u8> = (0..500).flat_map(|n| frame(HEADERS, 5, 2 * n + 1, &peer.head("GET", &[]))).collect();
        peer.raw(&held);
        flooded(peer, 100_000, |n| {
            let window = u32::from(n % 2 == 0).to_be_bytes();
            frame(SETTINGS, 0, 0, &[&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &window].concat())
        })
    });
}

#[test]
fn priority_flood() {
    bounded("PRIORITY flood", NOTHING, 0.5, Ends::Calm, |house, side| {
        flooded(house.enter(side, &[]), 600_000, |n| frame(PRIORITY, 0, 2 * (n % 1000) + 1, &[0, 0, 0, 0, 9]))
    });
}

#[test]
fn continuation_flood() {
    bounded("CONTINUATION flood", NOTHING, 0.5, Ends::Calm, |house, side| {
        let mut peer = house.enter(side, &[]);
        let head = peer.head("GET", &[]);
        peer.send(HEADERS, END_STREAM, 1, head);
        flooded(peer, 20_000, |_| frame(CONTINUATION, 0, 1, &[]))
    });
}

#[test]
fn empty_data_flood() {
    bounded("empty DATA flood", NOTHING, 0.5, Ends::Calm, |house, side| {
        let mut peer = house.enter(side, &[]);
        peer.ask(1, "POST", &[], 0);
        flooded(peer, 20_000, |_| frame(DATA, 0, 1, &[]))
    });
}

#[test]
fn padded_empty_data_flood() {
    bounded("padded empty DATA flood", NOTHING, 0.5, Ends::Calm, |house, side| {
        let mut peer = house.enter(side, &[]);
        peer.ask(1, "POST", &[], 0);
        flooded(peer, 20_000, |_| frame(DATA, PADDED, 1, &[3, 0, 0, 0]))
    });
}

/// One kept field of four kilobytes, named by one byte each time: up to the limit on each of many streams, all held.
#[test]
fn hpack_bomb() {
    bounded("HPACK bomb", 160 * MIB, 50.0, Ends::Not, |house, side| {
        let mut peer = house.enter(side, &[]);
        let mut head = peer.head("GET", &[]);
        let plain = head.clone();
        head.push(0x40);
        string(&mut head, b"x");
        string(&mut head, &[b'x'; 3900]);
        peer.send(HEADERS, 5, 1, &head);
        assert!(matches!(peer.end(1), End::Answer(200, _)));
        let bomb = [&plain[..], &[0xbe; 15]].concat();
        flooded(peer, 1_000, move |n| frame(HEADERS, 5, 2 * n + 3, &bomb))
    });
}

/// As many fields as fit, each the same small entry: the most book-keeping for the fewest bytes.
#[test]
fn hpack_bomb_of_small_fields() {
    bounded("HPACK bomb of small fields", 64 * MIB, 50.0, Ends::Not, |house, side| {
        let mut peer = house.enter(side, &[]);
        let plain = peer.head("GET", &[]);
        peer.send(HEADERS, 5, 1, [&plain[..], b"\x40\x01x\x01y"].concat());
        assert!(matches!(peer.end(1), End::Answer(200, _)));
        let bomb = [&plain[..], &[0xbe; 1_800]].concat();
        flooded(peer, 1_000, move |n| frame(HEADERS, 5, 2 * n + 3, &bomb))
    });
}

#[test]
fn table_size_flood() {
    bounded("table size flood", 2 * NOTHING, 5.0, Ends::Not, |house, side| {
        let peer = house.enter(side, &[]);
        let head = [&[0x20; 2_000][..], &peer.head("GET", &[])].concat();
        flooded(peer, 3_000, move |n| frame(HEADERS, 5, 2 * n + 1, &head))
    });
}

#[test]
fn data_on_closed_streams() {
    bounded("DATA on closed streams", NOTHING, 0.5, Ends::Not, |house, side| {
        let mut peer = house.enter(side, &[]);
        peer.get(1);
        peer.end(1);
        flooded(peer, 50_000, |_| frame(DATA, 0, 1, b"late"))
    });
}

/// A large answer that is taken byte by byte.
#[test]
fn windows_of_one_byte() {
    bounded("windows of one byte", NOTHING, 0.5, Ends::Not, |house, side| {
        let mut peer = house.enter(side, &[(INITIAL_WINDOW_SIZE, 0)]);
        ask_for(&mut peer, 1, "/big");
        let units = 20_000;
        let mut all = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(200);
        all.extend(frame(PING, 0, 0, &[1; 8]));
        for _ in 0..units / 200 {
            peer.raw(&all);
            assert!(peer.pong([2; 8]));
        }
        // or it would take what the connection's window has left
        peer.send(RST_STREAM, 0, 1, CANCEL.to_be_bytes());
        peer.set(&[(INITIAL_WINDOW_SIZE, 1 << 16)]);
        peer.get(3);
        Done { units, ended: peer.end(3), held: vec![peer] }
    });
}

fn ask_for(peer: &mut Peer, stream: u32, path: &str) {
    let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", &peer.authority)];
    fields.extend(peer.extra.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    let head = block(&fields);
    peer.send(HEADERS, 5, stream, head);
}

/// Large answers that nobody takes: each stream holds what its windows and buffers let in, and no more.
#[test]
fn answers_that_are_never_read() {
    bounded("answers never read", 160 * MIB, 50.0, Ends::Not, |house, side| {
        let mut peer = house.enter(side, &[(INITIAL_WINDOW_SIZE, 0)]);
        for n in 0..200 {
            ask_for(&mut peer, 2 * n + 1, "/big");
        }
        let mut begun = 0;
        while begun < 200 {
            begun += usize::from(peer.receive().unwrap().kind == HEADERS);
        }
        let mut another = house.enter(side, &[]);
        another.get(1);
        Done { units: 200, ended: another.end(1), held: vec![peer, another] }
    });
}

/// Uploads that the application never takes: each stream holds one window.
#[test]
fn bodies_that_are_never_read() {
    bounded("bodies never read", 160 * MIB, 2.0, Ends::Not, |house, side| {
        let mut peer = house.enter(side, &[]);
        let mut fields =
            vec![(":method", "POST"), (":scheme", "http"), (":path", "/unread"), (":authority", &peer.authority)];
        fields.extend(peer.extra.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        let head = block(&fields);
        // as much as the connection's window lets us: it opens again when a body is on its way to the application
        const BODY: u32 = 16 << 14;
        let mut window = 65_535;
        for n in 0..200 {
            while window < BODY {
                let frame = peer.read().expect("the connection goes on");
                if frame.kind == WINDOW_UPDATE && frame.stream == 0 {
                    window += u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
                }
            }
            window -= BODY;
            peer.send(HEADERS, END_HEADERS, 2 * n + 1, &head);
            for _ in 0..16 {
                peer.send(DATA, 0, 2 * n + 1, [7; 1 << 14]);
            }
        }
        assert!(peer.pong([5; 8]));
        let mut another = house.enter(side, &[]);
        another.get(1);
        Done { units: 200 * 16, ended: another.end(1), held: vec![peer, another] }
    });
}

/// Connections and streams that are opened and left alone.
#[test]
fn streams_that_are_left_alone() {
    bounded("streams left alone", 96 * MIB, 5.0, Ends::Not, |house, side| {
        let mut held = Vec::new();
        for _ in 0..20 {
            let mut peer = house.enter(side, &[]);
            let all: Vec<u8> =
                (0..100).flat_map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &peer.head("POST", &[]))).collect();
            peer.raw(&all);
            assert!(peer.pong([5; 8]));
            held.push(peer);
        }
        let mut another = house.enter(side, &[]);
        another.get(1);
        Done { units: 2_000, ended: another.end(1), held }
    });
}

#[test]
fn goaway_flood() {
    let house = House::new();
    for side in [Side::Application, Side::Peer] {
        let before = ticks(house.target(side));
        let mut peer = house.enter(side, &[(INITIAL_WINDOW_SIZE, 0)]);
        let held: Vec<u8> = (0..500).flat_map(|n| frame(HEADERS, 5, 2 * n + 1, &peer.head("GET", &[]))).collect();
        peer.raw(&held);
        let all = frame(GOAWAY, 0, 0, &[0; 8]).repeat(1_000);
        let sent = (0..100).take_while(|_| peer.try_raw(&all).is_ok()).count();
        assert!(matches!(peer.ends(), End::Connection(ENHANCE_YOUR_CALM) | End::Closed), "{side:?}");
        let spent = ticks(house.target(side)) - before;
        println!("GOAWAY flood | {side:?} | {} thousand | {spent} ticks", sent);
        house.ask_ordinarily(side, 10);
    }
}

/// What it does instead of answering.
type Deed = fn(&mut Peer) -> (usize, End);

fn malicious(deed: Deed) -> Server {
    Server::start(move |conn| {
        let mut peer = Peer::over(conn.writer());
        peer.begin(&[]);
        while let Some(frame) = peer.receive() {
            if frame.kind == HEADERS {
                deed(&mut peer);
            }
        }
    })
}

#[test]
fn a_server_that_floods_loses_its_connection_and_its_caller_gets_a_reason() {
    let deeds: [(&str, Deed); 4] = [
        ("PING", |p| flood(p, 100_000, |_| frame(PING, 0, 0, &[7; 8]).repeat(10))),
        ("SETTINGS", |p| {
            flood(p, 100_000, |n| {
                let window = (n % 2).to_be_bytes();
                frame(SETTINGS, 0, 0, &[&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &window].concat())
            })
        }),
        ("CONTINUATION", |p| {
            p.send(HEADERS, 0, 1, [0x88]);
            flood(p, 20_000, |_| frame(CONTINUATION, 0, 1, &[]))
        }),
        ("empty DATA", |p| {
            p.send(HEADERS, END_HEADERS, 1, [0x88]);
            flood(p, 20_000, |_| frame(DATA, 0, 1, &[]))
        }),
    ];
    let good = application();
    for (name, deed) in deeds {
        let bad = malicious(deed);
        let more = format!(
            "  bad: {{protocol: http2, policy: both, instances: [{{id: bad-1, address: 127.0.0.1:{}}}]}}\n",
            bad.port
        );
        let shape = Shape { policy: "breaker: off", more: &more, ..Shape::default() };
        let pair = Pair::shaped(FUSEWIRE, good.port, &shape);
        let mut conn = Conn::connect(pair.port());
        conn.say("GET / HTTP/1.1\r\nhost: shop\r\n\r\n");
        assert_eq!(conn.answer().unwrap().0.status(), 200);
        let other = Other::start(pair.port());
        let (memory, spent) = (pair.web.process.rss_kib(), ticks(&pair.web));
        let answer = fusewire_testkit::client::get(pair.port(), "bad", "/");
        let grown = pair.web.process.rss_kib().saturating_sub(memory);
        let took = other.stop();
        println!("{name} by a server | +{grown} KiB | {} ticks | others: {}", ticks(&pair.web) - spent, took.len());
        match answer {
            Ok(answer) => assert_eq!((answer.status, answer.header("fusewire-reason")), (502, Some("reset")), "{name}"),
            Err(_) => assert_eq!(name, "empty DATA", "an answer had begun"),
        }
        assert!(grown <= NOTHING, "{name}: grew by {grown} KiB");
        assert!(took[took.len() - 1] < PATIENCE);
    }
}
