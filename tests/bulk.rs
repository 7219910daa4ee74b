//! Large transfers: every byte arrives, and memory stays flat.

#![allow(clippy::unwrap_used)]

use fusewire_testkit::Pair;
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::pair::Shape;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
const GIB: u64 = 1 << 30;
const CHUNK: usize = 256 << 10;
/// What a sidecar may grow by while it carries one transfer, in KiB: windows and buffers, not the transfer.
const GROWTH: u64 = 24 << 10;

/// `GET /N`: N bytes down. `POST /`: counts the body and answers with its length and sum. Raw, so that it costs little.
fn application() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let stream = stream.unwrap();
                let mut out = stream.try_clone().unwrap();
                let mut input = BufReader::with_capacity(CHUNK, stream);
                while let Some((line, length)) = head(&mut input) {
                    if line.starts_with("GET") {
                        let n: u64 = line.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
                        write!(out, "HTTP/1.1 200 OK\r\ncontent-length: {n}\r\n\r\n").unwrap();
                        if send(&mut out, n).is_err() {
                            return; // the caller had enough
                        }
                    } else {
                        receive(&mut input, length);
                        let said = format!("{length} as they should be");
                        write!(out, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{said}", said.len()).unwrap();
                    }
                }
            });
        }
    });
    port
}

/// The first line and the content length of a head; `None` at the end.
fn head(input: &mut impl BufRead) -> Option<(String, u64)> {
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if input.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            return Some((first.to_ascii_uppercase(), length));
        }
        if let Some(n) = line.strip_prefix("content-length: ") {
            length = n.parse().unwrap();
        }
        if first.is_empty() {
            first = line;
        }
    }
}

/// A pattern that repeats at no power of two, so that a lost or repeated piece changes the sum.
fn pattern() -> Vec<u8> {
    (0..CHUNK).map(|i| (i % 251) as u8).collect()
}

fn send(out: &mut impl Write, mut n: u64) -> std::io::Result<()> {
    let chunk = pattern();
    while n > 0 {
        let piece = &chunk[..chunk.len().min(usize::try_from(n).unwrap_or(usize::MAX))];
        out.write_all(piece)?;
        n -= piece.len() as u64;
    }
    Ok(())
}

/// Reads `n` bytes and holds each against the pattern.
fn receive(input: &mut impl Read, n: u64) {
    let (mut left, mut at, mut buffer) = (n, 0, vec![0; CHUNK]);
    let twice = [pattern(), pattern()].concat();
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap());
        let got = input.read(&mut buffer[..want]).unwrap();
        assert!(got > 0, "cut short: {left} of {n} bytes are missing");
        let place = at % CHUNK;
        assert!(buffer[..got] == twice[place..place + got], "other bytes than were sent, from byte {at} on");
        at += got;
        left -= got as u64;
    }
}

/// Watches how far both sidecars grow until it is asked.
struct Growth {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    watch: std::thread::JoinHandle<()>,
}

impl Growth {
    fn of(sidecars: [&Sidecar; 2]) -> Self {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, highest) = (stop.clone(), peak.clone());
        let before = sidecars.map(|s| (s.process.id(), s.process.rss_kib()));
        let watch = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for (id, start) in before {
                    highest.fetch_max(fusewire_testkit::process::rss_kib(id).saturating_sub(start), Ordering::Relaxed);
                }
                std::thread::park_timeout(Duration::from_millis(20));
            }
        });
        Self { stop, peak, watch }
    }
    #[track_caller]
    fn stays_small(self, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        self.watch.join().unwrap();
        let peak = self.peak.load(Ordering::Relaxed);
        assert!(peak < GROWTH, "{what}: a sidecar grew by {peak} KiB, more than {GROWTH}");
    }
}

#[test]
fn a_gibibyte_down_and_a_gibibyte_up_leave_memory_flat() {
    let pair = Pair::new(FUSEWIRE, application());
    let mut stream = TcpStream::connect(("127.0.0.1", pair.port())).unwrap();
    write!(stream, "GET /1 HTTP/1.1\r\nhost: shop\r\n\r\n").unwrap();
    let mut input = BufReader::with_capacity(CHUNK, stream.try_clone().unwrap());
    assert_eq!(head(&mut input).unwrap().1, 1);
    receive(&mut input, 1);
    let growth = Growth::of([&pair.web, &pair.shop]);
    write!(stream, "GET /{GIB} HTTP/1.1\r\nhost: shop\r\n\r\n").unwrap();
    assert_eq!(head(&mut input).unwrap().1, GIB);
    receive(&mut input, GIB);
    growth.stays_small("down");
    let growth = Growth::of([&pair.web, &pair.shop]);
    write!(stream, "POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: {GIB}\r\n\r\n").unwrap();
    send(&mut stream, GIB).unwrap();
    let (_, length) = head(&mut input).unwrap();
    let mut said = String::new();
    input.take(length).read_to_string(&mut said).unwrap();
    assert_eq!(said, format!("{GIB} as they should be"));
    growth.stays_small("up");
}

#[test]
fn opaque_bytes_pass_the_pair_with_flat_memory() {
    const BYTES: u64 = 256 << 20;
    let pair = Pair::shaped(FUSEWIRE, application(), &Shape { protocol: "opaque", ..Shape::default() });
    let growth = Growth::of([&pair.web, &pair.shop]);
    let mut stream = TcpStream::connect(("127.0.0.1", pair.tcp[0])).unwrap();
    write!(stream, "GET /{BYTES} HTTP/1.1\r\nhost: any\r\n\r\n").unwrap();
    let mut input = BufReader::with_capacity(CHUNK, stream);
    assert_eq!(head(&mut input).unwrap().1, BYTES);
    receive(&mut input, BYTES);
    growth.stays_small("opaque down");
    let growth = Growth::of([&pair.web, &pair.shop]);
    let mut stream = input.into_inner();
    write!(stream, "POST / HTTP/1.1\r\nhost: any\r\ncontent-length: {BYTES}\r\n\r\n").unwrap();
    send(&mut stream, BYTES).unwrap();
    let mut input = BufReader::new(stream);
    let length = head(&mut input).unwrap().1;
    let mut said = String::new();
    input.take(length).read_to_string(&mut said).unwrap();
    assert_eq!(said, format!("{BYTES} as they should be"));
    growth.stays_small("opaque up");
}

/// The server is held up by its caller: it cannot send further ahead than the windows and the kernel's buffers allow.
#[test]
fn a_slow_reader_holds_up_its_server_and_gets_every_byte() {
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 128;
    let (tell, told) = std::sync::mpsc::sync_channel(PIECES);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        head(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", PIECE * PIECES).unwrap();
        let piece = pattern().repeat(PIECE / CHUNK);
        for _ in 0..PIECES {
            stream.write_all(&piece).unwrap();
            tell.send(()).unwrap();
        }
    });
    let pair = Pair::new(FUSEWIRE, port);
    let growth = Growth::of([&pair.web, &pair.shop]);
    let mut stream = TcpStream::connect(("127.0.0.1", pair.port())).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nhost: shop\r\n\r\n").unwrap();
    let mut input = BufReader::with_capacity(1 << 10, stream);
    assert_eq!(head(&mut input).unwrap().1, (PIECE * PIECES) as u64);
    // the server goes on until every buffer on the way is full: then a second passes without another piece
    let mut ahead = 0;
    while told.recv_timeout(Duration::from_secs(1)).is_ok() {
        ahead += 1;
    }
    assert!(ahead < 64, "the server could send {ahead} MiB to a caller that read 1 KiB");
    receive(&mut input, (PIECE * PIECES) as u64);
    growth.stays_small("slow reader");
}

#[test]
fn a_reader_that_stops_holds_no_more_than_the_windows_and_delays_nobody() {
    let pair = Pair::new(FUSEWIRE, application());
    let growth = Growth::of([&pair.web, &pair.shop]);
    let stalled: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", pair.port())).unwrap();
            write!(stream, "GET /{GIB} HTTP/1.1\r\nhost: shop\r\n\r\n").unwrap();
            stream.read_exact(&mut [0; 64]).unwrap(); // the head is there, the body waits
            stream
        })
        .collect();
    // the connection between the sidecars is theirs too
    let mut stream = TcpStream::connect(("127.0.0.1", pair.port())).unwrap();
    write!(stream, "GET /{} HTTP/1.1\r\nhost: shop\r\n\r\n", 32 << 20).unwrap();
    let mut input = BufReader::with_capacity(CHUNK, stream);
    assert_eq!(head(&mut input).unwrap().1, 32 << 20);
    receive(&mut input, 32 << 20);
    growth.stays_small("stalled readers");
    drop(stalled);
}
