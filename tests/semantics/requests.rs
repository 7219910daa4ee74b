//! The table of odd requests, both ways to the origin, with a canary behind each.

use crate::FUSEWIRE;
use crate::origin::{Got, Origin};
use crate::table::{self, Case, Want};
use fusewire_testkit::Pair;
use fusewire_testkit::pair::BOTH;
use fusewire_testkit::raw::Conn;

fn for_host(bytes: &[u8], host: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let marks = [(&b"HOST"[..], host.to_owned()), (b"UPPER", host.to_uppercase())];
        match marks.iter().find(|(mark, _)| rest.starts_with(mark)) {
            Some((mark, text)) => {
                out.extend_from_slice(text.as_bytes());
                rest = &rest[mark.len()..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// What the origin saw besides requests that broke off.
fn seen(origin: &Origin) -> Vec<Got> {
    origin.take().into_iter().filter(|got| got.whole || got.wrong.is_some()).collect()
}

/// `None`: as wanted.
fn fails(case: &Case, host: &str, pair: &Pair, origin: &Origin) -> Option<String> {
    let mut conn = Conn::connect(pair.port());
    let _ = conn.try_say(for_host(&case.bytes, host)); // a refusal may come before the last byte
    let head = match conn.head() {
        Ok(head) if head.status() == 100 => conn.head(),
        head => head,
    };
    let Ok(head) = head else { return Some("no answer".into()) };
    let reason = head.header("fusewire-reason").map(str::to_owned);
    if conn.body(&head).is_err() {
        return Some(format!("half an answer: {head:?}"));
    }
    if head.header("connection") == Some("close") && !matches!(conn.rest().as_deref(), Ok(b"")) {
        return Some("the connection did not end with its answer".into());
    }
    let got = seen(origin);
    match &case.want {
        Want::Refused(status, wanted) => {
            if (head.status(), reason.as_deref()) != (*status, Some(*wanted)) {
                return Some(format!("answered with {head:?}; the origin got {got:?}"));
            }
            (!got.is_empty()).then(|| format!("refused, and the origin got {got:?}"))
        }
        Want::Passes(first, body) => {
            if head.status() != 200 || reason.is_some() {
                return Some(format!("answered with {head:?}"));
            }
            let [one] = &got[..] else { return Some(format!("the origin got {} requests: {got:?}", got.len())) };
            let as_wanted = one.wrong.is_none()
                && one.first == format!("{first} HTTP/1.1")
                && one.body == *body
                && one.values("host").first().is_some_and(|h| h.to_lowercase().starts_with(host))
                && one.values("transfer-encoding").iter().all(|t| *t == "chunked")
                && !one.trailers.iter().any(|(n, _)| n != "x-sum");
            (!as_wanted).then(|| format!("the origin got {one:?}"))
        }
    }
}

/// The origin's connections are where they should be: the next request gets its own answer.
fn canary(n: usize, host: &str, pair: &Pair, origin: &Origin) -> Option<String> {
    let mut conn = Conn::connect(pair.port());
    conn.say(format!("GET /canary/{n} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    let answer = conn.answer().map(|(head, body)| (head.status(), body));
    let got = seen(origin);
    let own = matches!(&answer, Ok((200, body)) if *body == format!("GET /canary/{n}"));
    (!own || got.len() != 1).then(|| format!("the canary was answered with {answer:?}; the origin got {got:?}"))
}

#[test]
fn every_odd_request_is_refused_with_its_reason_or_arrives_as_the_one_that_it_is() {
    let origin = Origin::start();
    let pair = Pair::new(FUSEWIRE, origin.port);
    let cases = table::all();
    assert!(cases.len() >= 450, "{}", cases.len());
    for host in BOTH {
        assert_eq!(canary(0, host, &pair, &origin), None, "the way is open");
    }
    let mut failed = Vec::new();
    for host in BOTH {
        for (n, case) in cases.iter().enumerate() {
            for wrong in [fails(case, host, &pair, &origin), canary(n, host, &pair, &origin)].into_iter().flatten() {
                failed.push(format!("{host}, {}: {}", case.name, wrong.chars().take(600).collect::<String>()));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), 2 * cases.len(), failed.join("\n"));
}

#[test]
fn what_lies_before_a_malformed_request_is_answered_first_and_what_lies_behind_it_never() {
    let origin = Origin::start();
    let pair = Pair::new(FUSEWIRE, origin.port);
    for host in BOTH {
        let good = |n: u32| format!("POST /{n} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 2\r\n\r\nhi");
        let bad = format!("GET /bad HTTP/1.1\r\nhost: {host}\r\ncontent-length : 5\r\n\r\n");
        let mut conn = Conn::connect(pair.port());
        conn.say([good(1), good(2), bad, good(3)].concat());
        for n in [1, 2] {
            assert_eq!(conn.answer().unwrap().1, format!("POST /{n}"), "{host}");
        }
        let (head, body) = conn.answer().unwrap();
        assert_eq!((head.status(), head.header("fusewire-reason")), (400, Some("bad-request")), "{host}");
        assert_eq!(head.header("connection"), Some("close"));
        assert!(body.starts_with("fusewire: bad-request: "), "{body}");
        assert!(conn.rest().unwrap().is_empty(), "{host}: nothing comes behind the refusal");
        assert_eq!(seen(&origin).len(), 2, "{host}");
    }
}

#[test]
fn a_request_behind_an_upgrade_that_is_passed_over_gets_its_answer() {
    let origin = Origin::start();
    let pair = Pair::new(FUSEWIRE, origin.port);
    for host in BOTH {
        let mut conn = Conn::connect(pair.port());
        let upgrade = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n";
        conn.say(format!(
            "GET /u HTTP/1.1\r\nhost: {host}\r\n{upgrade}\r\nGET /behind HTTP/1.1\r\nhost: {host}\r\n\r\n"
        ));
        assert_eq!(conn.answer().unwrap().1, "GET /u", "{host}");
        assert_eq!(conn.answer().unwrap().1, "GET /behind", "{host}");
    }
}

#[test]
fn the_longest_field_there_may_be_does_not_end_the_connection_that_others_are_on() {
    let origin = Origin::start();
    let pair = Pair::new(FUSEWIRE, origin.port);
    let mut first = Conn::connect(pair.port());
    first.say("GET /first HTTP/1.1\r\nhost: shop\r\n\r\n");
    assert_eq!(first.answer().unwrap().1, "GET /first", "both sidecars are connected");
    let mut held = Conn::connect(pair.port());
    held.say("POST /held HTTP/1.1\r\nhost: shop\r\ncontent-length: 4\r\n\r\nhi");
    // nineteen bits each in Huffman's code, and so more CONTINUATION frames than its size asks for
    let long = "\\".repeat(60_000);
    first.say(format!("GET /long HTTP/1.1\r\nhost: shop\r\nx: {long}\r\n\r\n"));
    assert_eq!(first.answer().unwrap().1, "GET /long");
    held.say("ho");
    assert_eq!(held.answer().unwrap().1, "POST /held");
}

#[test]
fn a_refused_request_is_logged_and_counted_with_its_reason() {
    let origin = Origin::start();
    let pair = Pair::new(FUSEWIRE, origin.port);
    let mut conn = Conn::connect(pair.port());
    conn.say("GET /a#b HTTP/1.1\r\nhost: shop\r\n\r\n");
    assert_eq!(conn.answer().unwrap().0.status(), 400);
    let line = pair.logged(&pair.web, "*");
    assert_eq!((&line["status"], &line["reason"], &line["method"]), (&400.into(), &"bad-request".into(), &"-".into()));
    assert_eq!(line["detail"], "the target has a fragment");
}
