//! Odd answers of an application: each is passed on as the one that it is or becomes a 502, and none shifts the next.

use crate::FUSEWIRE;
use fusewire_testkit::pair::{BOTH, Shape};
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Pair, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

enum Want {
    /// A 502 with reason `reset`, or a connection that breaks off within the body.
    Broken,
    /// This status and body.
    Answer(u16, &'static str),
}
use Want::{Answer, Broken};

struct Case {
    name: String,
    method: &'static str,
    /// Written at once, and then `late` once the caller has its answer.
    bytes: Vec<u8>,
    late: Vec<u8>,
    want: Want,
}

#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    fn add(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>, want: Want) {
        let (bytes, late) = (bytes.as_ref().to_vec(), Vec::new());
        self.0.push(Case { name: name.into(), method: "GET", bytes, late, want });
    }
    fn late(&mut self, name: &str, method: &'static str, bytes: &str, late: &str, want: Want) {
        self.0.push(Case { name: name.into(), method, bytes: bytes.into(), late: late.into(), want });
    }
}

/// What would be the next answer, had somebody asked.
const EXTRA: &str = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned";

fn ok(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}")
}

fn all() -> Vec<Case> {
    let mut t = Table::default();
    framing(&mut t);
    heads(&mut t);
    chunks(&mut t);
    bodiless(&mut t);
    interim(&mut t);
    t.0
}

fn framing(t: &mut Table) {
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    for value in
        ["5, 5", "5,5", "+5", "-5", "0x5", "five", "", "5 5", "18446744073709551616", "5;", "5.0", "5,", "5, 6"]
    {
        t.add(format!("length {value:?}"), ok(&format!("content-length: {value}\r\n"), "hello"), Broken);
    }
    for (a, b) in [("5", "5"), ("5", "6"), ("0", "5"), ("5", "0"), ("5", "x")] {
        let fields = format!("content-length: {a}\r\nContent-Length: {b}\r\n");
        t.add(format!("lengths {a} and {b}"), ok(&fields, "hello"), Broken);
    }
    for length in ["0", "5", "15", "999"] {
        let fields = format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n");
        t.add(format!("length {length} before chunks"), ok(&fields, chunked), Broken);
        let fields = format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n");
        t.add(format!("length {length} behind chunks"), ok(&fields, chunked), Broken);
    }
    for value in [
        "xchunked",
        "identity",
        "gzip, chunked",
        "chunked, chunked",
        "chunked, identity",
        "gzip",
        "chunked;",
        "",
        "\"chunked\"",
    ] {
        t.add(format!("coding {value:?}"), ok(&format!("transfer-encoding: {value}\r\n"), chunked), Broken);
    }
    for (a, b) in [("chunked", "chunked"), ("identity", "chunked"), ("chunked", "identity")] {
        let fields = format!("transfer-encoding: {a}\r\ntransfer-encoding: {b}\r\n");
        t.add(format!("codings {a} and {b}"), ok(&fields, chunked), Broken);
    }
    t.add("chunks in HTTP/1.0", format!("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunked}"), Broken);
    t.add("length 5", ok("content-length: 5\r\n", "hello"), Answer(200, "hello"));
    t.add("length 005", ok("Content-Length:\t005 \r\n", "hello"), Answer(200, "hello"));
    t.add("chunks", ok("Transfer-Encoding: Chunked\r\n", chunked), Answer(200, "hello"));
    t.add("more than the length", ok("content-length: 5\r\n", &format!("hello{EXTRA}")), Answer(200, "hello"));
    t.add(
        "more than the chunks",
        ok("transfer-encoding: chunked\r\n", &format!("{chunked}{EXTRA}")),
        Answer(200, "hello"),
    );
    t.add("garbage behind the length", ok("content-length: 5\r\n", "hello\0\0\0\0"), Answer(200, "hello"));
    t.add("CRLF behind the length", ok("content-length: 5\r\n", "hello\r\n"), Answer(200, "hello"));
    t.late(
        "an answer that nobody asked for",
        "GET",
        &ok("content-length: 5\r\n", "hello"),
        EXTRA,
        Answer(200, "hello"),
    );
    t.late(
        "an answer behind chunks",
        "GET",
        &ok("transfer-encoding: chunked\r\n", chunked),
        EXTRA,
        Answer(200, "hello"),
    );
}

fn heads(t: &mut Table) {
    for (name, head) in [
        ("a space before the colon", "x : y"),
        ("a tab before the colon", "x\t: y"),
        ("a fold", "x: y\r\n z"),
        ("a fold with a tab", "x: y\r\n\tz"),
        ("no colon", "xy"),
        ("an empty name", ": y"),
        ("a NUL in a value", "x: \0"),
        ("a CR in a value", "x: a\rb"),
        ("a DEL in a value", "x: \u{7f}"),
        ("a bell in a value", "x: \u{7}"),
        ("a NUL in a name", "x\0: y"),
        ("a space in a name", "x y: z"),
        ("a bracket in a name", "x[]: z"),
    ] {
        t.add(format!("a field with {name}"), ok(&format!("content-length: 5\r\n{head}\r\n"), "hello"), Broken);
    }
    for first in [
        "HTTP/2.0 200 OK",
        "HTTP/0.9 200 OK",
        "HTTP/1.2 200 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 abc OK",
        "HTTP/1.1 -20 OK",
        "ICY 200 OK",
        "HTTP/1.1",
        "200 OK",
        "HTTP/1.1  200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1 000 No",
        "HTTP/1.1 099 No",
        "HTTP/1.1 200\0OK",
        "GET / HTTP/1.1",
        "SSH-2.0-x",
        "\0\0\0\0",
        "HTTP/1.1 2\u{660}0 OK",
    ] {
        t.add(format!("first line {first:?}"), format!("{first}\r\ncontent-length: 5\r\n\r\nhello"), Broken);
    }
    t.add("LF for CRLF", "HTTP/1.1 200 OK\ncontent-length: 5\n\nhello", Answer(200, "hello"));
    t.add("no reason phrase", "HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nhello", Answer(200, "hello"));
    t.add("a phrase of its own", "HTTP/1.1 200 Fine, thanks\r\ncontent-length: 5\r\n\r\nhello", Answer(200, "hello"));
    t.add("status 599", "HTTP/1.1 599 What\r\ncontent-length: 5\r\n\r\nhello", Answer(599, "hello"));
    t.add("status 999", "HTTP/1.1 999 What\r\ncontent-length: 5\r\n\r\nhello", Answer(999, "hello"));
    t.add("fields without end", format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(600_000)), Broken);
    t.add("too many fields", ok(&"x: y\r\n".repeat(5000), ""), Broken);
    t.add("too large fields", ok(&format!("x: {}\r\ncontent-length: 5\r\n", "y".repeat(70_000)), "hello"), Broken);
}

fn chunks(t: &mut Table) {
    for (name, body) in [
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("LF", "5\nhello\r\n0\r\n\r\n"),
        ("an overflow", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("too much data", "5\r\nhello!\r\n0\r\n\r\n"),
        ("no CRLF", "5\r\nhello0\r\n\r\n"),
        ("LF behind the data", "5\r\nhello\n0\r\n\r\n"),
        ("LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("a bad trailer", "5\r\nhello\r\n0\r\nx : y\r\n\r\n"),
        ("a space before", " 5\r\nhello\r\n0\r\n\r\n"),
        ("letters", "5g\r\nhello\r\n0\r\n\r\n"),
    ] {
        t.add(format!("chunks with {name}"), ok("transfer-encoding: chunked\r\n", body), Broken);
    }
    let trailers = "5\r\nhello\r\n0\r\ncontent-length: 99\r\nset-cookie: a=b\r\n\r\n";
    t.add("trailers that are not allowed", ok("transfer-encoding: chunked\r\n", trailers), Answer(200, "hello"));
    let large = format!("5\r\nhello\r\n0\r\nx: {}\r\n\r\n", "y".repeat(300_000));
    t.add("a large trailer", ok("transfer-encoding: chunked\r\n", &large), Broken);
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(100_000));
    t.add("a large extension", ok("transfer-encoding: chunked\r\n", &extension), Broken);
}

fn bodiless(t: &mut Table) {
    let length = ok("content-length: 51\r\n", "");
    t.late("a HEAD's answer", "HEAD", &length, "", Answer(200, ""));
    t.late("a HEAD's answer with its body", "HEAD", &format!("{length}{EXTRA}"), "", Answer(200, ""));
    t.late("a HEAD's answer with its body later", "HEAD", &length, EXTRA, Answer(200, ""));
    t.late(
        "a HEAD's answer in chunks later",
        "HEAD",
        &ok("transfer-encoding: chunked\r\n", ""),
        EXTRA,
        Answer(200, ""),
    );
    t.late("a HEAD's answer without a length, its body later", "HEAD", &ok("", ""), EXTRA, Answer(200, ""));
    t.late("a HEAD's answer with two lengths", "HEAD", &ok("content-length: 5, 5\r\n", ""), "", Broken);
    for (status, code) in [("204 No Content", 204), ("304 Not Modified", 304)] {
        let head = |fields: &str| format!("HTTP/1.1 {status}\r\n{fields}\r\n");
        t.add(status, head(""), Answer(code, ""));
        t.add(format!("{status} with a body"), format!("{}{EXTRA}", head("content-length: 45\r\n")), Answer(code, ""));
        t.late(&format!("{status} with a body later"), "GET", &head("content-length: 45\r\n"), EXTRA, Answer(code, ""));
        t.late(
            &format!("{status} in chunks later"),
            "GET",
            &head("transfer-encoding: chunked\r\n"),
            EXTRA,
            Answer(code, ""),
        );
        t.add(format!("{status} with garbage"), format!("{}garbage", head("")), Answer(code, ""));
    }
}

fn interim(t: &mut Table) {
    let hello = ok("content-length: 5\r\n", "hello");
    for first in ["100 Continue", "102 Processing", "103 Early Hints", "104 What", "199 What"] {
        let answer = format!("HTTP/1.1 {first}\r\nlink: </a>; rel=preload\r\n\r\n{hello}");
        t.add(format!("{first} before the answer"), answer, Answer(200, "hello"));
    }
    t.add(
        "a few before the answer",
        format!("{}{hello}", "HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n".repeat(50)),
        Answer(200, "hello"),
    );
    t.add("interim answers without end", "HTTP/1.1 102 Processing\r\nx: y\r\n\r\n".repeat(100_000), Broken);
    t.add("only an interim answer", "HTTP/1.1 100 Continue\r\n\r\n", Broken);
    t.add(
        "a switch that nobody asked for",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        Broken,
    );
    t.add("a switch and an answer", format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n{hello}"), Broken);
    t.add(
        "a length in an interim answer",
        format!("HTTP/1.1 103 Early Hints\r\ncontent-length: 5\r\n\r\n{hello}"),
        Answer(200, "hello"),
    );
}

/// Answers `/N` as case N says, and `/canary/N` with its own path; counts what it said late.
fn app(cases: Arc<Vec<Case>>, late: Arc<AtomicUsize>) -> Server {
    Server::http(move |conn, head| {
        if head.path().starts_with("/canary") {
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", head.path().len(), head.path());
            return conn.try_say(answer).is_ok();
        }
        let case = &cases[head.path()[1..].parse::<usize>().unwrap()];
        if conn.try_say(&case.bytes).is_err() {
            return false;
        }
        if !case.late.is_empty() {
            // the answer has arrived long since; the connection is idle, kept or closed
            std::thread::sleep(std::time::Duration::from_millis(15)); // bounded wait: what makes it late
            let _ = conn.try_say(&case.late);
            late.fetch_add(1, Ordering::SeqCst);
        }
        matches!(case.want, Answer(..))
    })
}

fn fails(case: &Case, n: usize, host: &str, port: u16) -> Option<String> {
    let mut conn = Conn::connect(port);
    conn.say(format!("{} /{n} HTTP/1.1\r\nhost: {host}\r\n\r\n", case.method));
    let Ok(head) = conn.head() else {
        return matches!(case.want, Answer(..)).then(|| "no answer".into());
    };
    let bodiless = case.method == "HEAD" || matches!(head.status(), 204 | 304);
    let body = if bodiless { Ok(Vec::new()) } else { conn.body(&head) };
    let clean = [head.header("transfer-encoding"), head.header("content-length")].iter().flatten().count() <= 1;
    let good = match (&case.want, body) {
        (Answer(status, wanted), Ok(body)) => {
            clean && head.status() == *status && body == wanted.as_bytes() && head.header("fusewire-reason").is_none()
        }
        (Answer(..), Err(_)) => false,
        (Broken, Ok(_)) => (head.status(), head.header("fusewire-reason")) == (502, Some("reset")),
        (Broken, Err(_)) => head.status() == 200,
    };
    (!good).then(|| format!("{head:?}"))
}

#[test]
fn every_odd_answer_is_passed_on_as_what_it_is_or_becomes_a_502_and_never_answers_the_next_request() {
    let cases = Arc::new(all());
    assert!(cases.len() >= 130, "{}", cases.len());
    let late = Arc::<AtomicUsize>::default();
    let app = app(cases.clone(), late.clone());
    let pair = Pair::shaped(FUSEWIRE, app.port, &Shape { policy: "breaker: off", ..Shape::default() });
    let (mut failed, mut said_late) = (Vec::new(), 0);
    for host in BOTH {
        for (n, case) in cases.iter().enumerate() {
            failed.extend(fails(case, n, host, pair.port()).map(|why| format!("{host}, {}: {why}", case.name)));
            if !case.late.is_empty() {
                said_late += 1;
            }
            if case.method == "GET" && matches!(case.want, Answer(200, _)) {
                // what comes while a request is on its way would be its answer for every HTTP/1 client there is
                eventually("it is said", || late.load(Ordering::SeqCst) == said_late);
            }
            let until =
                std::time::Instant::now() + std::time::Duration::from_millis(if case.late.is_empty() { 0 } else { 30 });
            for round in 0.. {
                let mut conn = Conn::connect(pair.port());
                let path = format!("/canary/{n}/{round}");
                conn.say(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
                let answer = conn.answer().map(|(_, body)| body);
                if !matches!(&answer, Ok(body) if *body == path) {
                    failed.push(format!("{host}, {}: the canary was answered with {answer:?}", case.name));
                }
                if std::time::Instant::now() >= until {
                    break;
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}:\n{}", failed.len(), failed.join("\n"));
}
