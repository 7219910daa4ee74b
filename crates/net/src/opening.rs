//! What a caller that knows nothing of us says first, and to whom, where no configuration says what to expect.
//!
//! It reads the head of an HTTP/1 request up to its authority, and no further; what surely is no HTTP is [`Opening::Other`],
//! whose bytes are not to be touched. What a lenient server could take for HTTP is HTTP here, or a caller who writes it badly
//! would get round whoever checks it. It deliberately judges no request: whether it is well-formed is for whoever serves it.
//!
//! Invariant: as in `detect`, the verdict depends on the bytes and on how long the caller paused behind them, never on how they
//! were cut; and every byte is given back.

use crate::Prefixed;
use crate::detect::H2_PREFACE;
use bytes::BytesMut;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What is longer before it says for whom it is, is not looked at.
const MAX_HEAD: usize = 16 << 10;
/// No method in use is as long.
const MAX_METHOD: usize = 32;
/// Nor a first word; but a lenient server may take one for a method.
const WORDS: usize = 64;
/// RFC 9110, section 9.3, and RFC 5789.
const METHODS: [&[u8]; 9] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// With the authority of the first request; empty where it names nobody, or is no request as it should be.
    Http1(String),
    Http2,
    Tls,
    /// Nothing: servers of some protocols speak first.
    Silent,
    /// No HTTP, or nothing at all before the end.
    Other,
}

/// How long a caller is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To its first byte.
    pub silence: Duration,
    /// To the next byte, behind a first word that no method of HTTP is: then it is [`Opening::Other`]. `None`: as long as all,
    /// and what does not end is HTTP, so that a pause is no way round whoever checks requests.
    pub pause: Option<Duration>,
    pub all: Duration,
}

pub async fn opening<T: AsyncRead + Unpin>(mut io: T, patience: Patience) -> io::Result<(Opening, Prefixed<T>)> {
    let mut head = BytesMut::with_capacity(1024);
    let reading = async {
        match tokio::time::timeout(patience.silence, io.read_buf(&mut head)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return Ok(Opening::Other),
            Err(_) => return Ok(Opening::Silent),
        }
        let mut seen = 0;
        loop {
            // behind its first words the verdict waits for the end of a line
            let new = &head[seen..];
            if (seen <= WORDS || head.len() >= MAX_HEAD || new.contains(&b'\n'))
                && let Some(verdict) = verdict(&head)
            {
                return io::Result::Ok(verdict);
            }
            seen = head.len();
            let is_strange = patience.pause.is_some() && is_strange(&head);
            let pause = patience.pause.filter(|_| is_strange).unwrap_or(patience.all);
            match tokio::time::timeout(pause, io.read_buf(&mut head)).await {
                Ok(Ok(1..)) => {}
                Ok(Err(error)) => return Err(error),
                Ok(Ok(0)) | Err(_) => return Ok(unfinished(is_strange)),
            }
        }
    };
    let read = tokio::time::timeout(patience.all, reading).await;
    let is_strange = patience.pause.is_some() && is_strange(&head);
    let verdict = read.unwrap_or_else(|_| Ok(unfinished(is_strange)))?;
    Ok((verdict, Prefixed::new(head.freeze(), io)))
}

/// A beginning that was not enough for a verdict.
fn unfinished(is_strange: bool) -> Opening {
    if is_strange { Opening::Other } else { Opening::Http1(String::new()) }
}

/// Whether it is a line without its end, and begins with what no method is: a message of another protocol, most likely.
fn is_strange(head: &[u8]) -> bool {
    let word = head.split(|byte| !is_letter(byte)).next().unwrap_or_default();
    let is_method = |method: &&[u8]| if word.len() == head.len() { method.starts_with(word) } else { *method == word };
    !head.contains(&b'\n') && !METHODS.iter().any(is_method) && !H2_PREFACE.starts_with(head)
}

/// What methods are made of (RFC 9110, section 5.6.2).
fn is_letter(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// `None`: more is needed.
fn verdict(head: &[u8]) -> Option<Opening> {
    let head = &head[..head.len().min(MAX_HEAD)]; // what is behind has not been seen where the bytes came one by one
    match head.first()? {
        0x16 => return Some(Opening::Tls),
        _ if head.starts_with(H2_PREFACE) => return Some(Opening::Http2),
        _ if H2_PREFACE.starts_with(head) => return None,
        _ => {}
    }
    let badly = || Some(Opening::Http1(String::new()));
    if head[0].is_ascii_whitespace() {
        // servers may pass over empty lines (RFC 9112, section 2.2); PROXY protocol's second version begins with some
        return match head.iter().take(WORDS + 1).find(|b| !b.is_ascii_whitespace()) {
            Some(byte) if !is_letter(byte) => Some(Opening::Other),
            None if head.len() <= WORDS => None,
            _ => badly(),
        };
    }
    let method = head.iter().take_while(|b| is_letter(b)).count();
    match head.get(method) {
        _ if method == 0 => return Some(Opening::Other),
        _ if method > WORDS => {
            return match line(head) {
                Some((line, _)) if !is_request(line) => Some(Opening::Other),
                None if head.len() < MAX_HEAD => None,
                _ => badly(),
            };
        }
        None => return None,
        Some(b' ' | b'\t') if method <= MAX_METHOD && &head[..method] != b"CONNECT" => {}
        Some(b' ' | b'\t') => return badly(),
        Some(_) => return Some(Opening::Other),
    }
    let long = || if head.len() >= MAX_HEAD { badly() } else { None };
    let Some((line, mut rest)) = line(head) else { return long() };
    let Some(target) = target(line) else { return if is_request(line) { badly() } else { Some(Opening::Other) } };
    if let Some((_, after)) = target.split_once("://") {
        let authority = after.split(['/', '?', '#']).next().unwrap_or_default();
        return Some(Opening::Http1(authority.to_owned()));
    }
    while let Some((field, after)) = self::line(rest) {
        if field.is_empty() {
            return Some(Opening::Http1(String::new()));
        }
        if field.len() > 5 && field[..5].eq_ignore_ascii_case(b"host:") {
            let host = std::str::from_utf8(field[5..].trim_ascii());
            return Some(Opening::Http1(host.unwrap_or_default().to_owned()));
        }
        rest = after;
    }
    long()
}

/// Whether a line that is no request line may be taken for one: by its version, or, where it has none, by what it asks for.
/// RTSP and ICAP have versions of their own.
fn is_request(line: &[u8]) -> bool {
    let mut words = line.split(|b| b.is_ascii_whitespace()).filter(|word| !word.is_empty()).skip(1);
    let target = words.next().unwrap_or_default();
    let is_target = target.starts_with(b"/") || target == b"*" || target.windows(3).any(|part| part == b"://");
    let is_http = |word: &[u8]| word.len() >= 5 && word[..5].eq_ignore_ascii_case(b"HTTP/");
    let version = words.next().unwrap_or_default();
    let is_foreign = version.iter().position(|b| *b == b'/').is_some_and(|slash| slash > 0) && !is_http(version);
    is_http(target) || is_http(version) || words.any(is_http) || (is_target && !is_foreign)
}

/// Up to the line's end, and what is behind it.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &bytes[end + 1..]))
}

/// The target of an HTTP/1 request line.
fn target(line: &[u8]) -> Option<&str> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (_method, target, version) = (words.next()?, words.next()?, words.next()?);
    (version.starts_with("HTTP/1.") && words.next().is_none()).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        silence: Duration::from_millis(300),
        pause: Some(Duration::from_millis(300)),
        all: Duration::from_secs(10),
    };

    fn http1(host: &str) -> Opening {
        Opening::Http1(host.into())
    }

    #[tokio::test(start_paused = true)]
    async fn any_split_of_the_first_bytes_gives_the_same_verdict_and_loses_nothing() {
        let cases: &[(&[u8], Opening)] = &[
            (b"CONNECTED / HTTP/1.1\r\nHost: shop\r\n", http1("shop")),
            (b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n", http1("shop")),
            (b"GET / HTTP/1.1\r\naccept: */*\r\nhost:shop:80 \r\n\r\n", http1("shop:80")),
            (b"M-SEARCH * HTTP/1.1\nHOST: shop\n\n", http1("shop")),
            (b"GET http://shop:81/x HTTP/1.1\r\nHost: other\r\n\r\n", http1("shop:81")),
            (b"GET / HTTP/1.0\r\n\r\n", http1("")),
            // what a lenient server may take for HTTP
            (b"CONNECT shop:443 HTTP/1.1\r\nHost: shop\r\n\r\n", http1("")),
            (b"GET /\r\n", http1("")),
            (b"GET  / HTTP/1.1\r\nHost: shop\r\n\r\n", http1("")),
            (b"GET\t/\tHTTP/1.1\r\nHost: shop\r\n\r\n", http1("")),
            (b"GET / HTTP/1.1 \r\nHost: shop\r\n\r\n", http1("")),
            (b"GET x HTTP/1.1 x http/1.1\r\nHost: shop\r\n\r\n", http1("")),
            (b"\r\nGET / HTTP/1.1\r\nHost: shop\r\n\r\n", http1("")),
            (b"GETGETGETGETGETGETGETGETGETGETGETGETGET / HTTP/1.1\r\nHost: shop\r\n", http1("")),
            (b"GET / HTTP/1.1\r\nHost: sh\xffop\r\n\r\n", http1("")),
            (b"GET / HTTP/1.1\r\nHost: sho", http1("")),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", Opening::Http2),
            (b"\x16\x03\x01\x02\x00", Opening::Tls),
            (b"\n GET / HTTP/1.1\r\nHost: shop\r\n\r\n", http1("")),
            (b"GET x y HTTP/9\r\n", http1("")),
            (b"GET /x HTTP/1.1 a/b\r\n", http1("")),
            (b"!X / HTTP/1.1\r\nHost: shop\r\n\r\n", http1("shop")),
            (b"G.ET / HTTP/1.1\r\nHost: shop\r\n\r\n", http1("shop")),
            (b"PO", http1("")),
            (b"DESCRIBE rtsp://shop/x RTSP/1.0\r\n", Opening::Other),
            (b"\r\n\r\n\0\r\nQUIT\n", Opening::Other),
            (b"\n\x05hello", Opening::Other),
            (b"ping", Opening::Other),
            (b"EHLO shop\r\n", Opening::Other),
            (b"set key 0 0 5\r\n", Opening::Other),
            (b"PING\r\n", Opening::Other),
            (b"*1\r\n$4\r\nPING\r\n", Opening::Other),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Opening::Other),
            (b"", Opening::Other),
        ];
        for (bytes, wanted) in cases {
            for at in 0..=bytes.len() {
                let (mut a, b) = tokio::io::duplex(4096);
                let (first, second) = (bytes[..at].to_vec(), bytes[at..].to_vec());
                let writer = tokio::spawn(async move {
                    for part in [first, second] {
                        tokio::io::AsyncWriteExt::write_all(&mut a, &part).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                });
                let ms = Duration::from_millis;
                let patience = Patience { silence: ms(500), pause: Some(ms(500)), all: ms(5_000) };
                let (verdict, mut io) = opening(b, patience).await.unwrap();
                writer.await.unwrap();
                let mut all = Vec::new();
                io.read_to_end(&mut all).await.unwrap();
                assert_eq!((&verdict, all.as_slice()), (wanted, *bytes), "split at {at}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_speaks_first_waits_no_longer_than_the_silence() {
        let (_a, b) = tokio::io::duplex(64);
        let began = tokio::time::Instant::now();
        let (verdict, _io) = opening(b, PATIENCE).await.unwrap();
        assert_eq!((verdict, began.elapsed()), (Opening::Silent, Duration::from_millis(300)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_of_one_word_waits_no_longer_than_a_pause_and_a_slow_request_does() {
        let pause = PATIENCE.pause.unwrap();
        for (said, wanted, waited) in [
            ("ping", Opening::Other, pause),
            ("GETS", Opening::Other, pause),
            ("GE", http1(""), PATIENCE.all),
            ("GET", http1(""), PATIENCE.all),
            ("PRI * HTTP", http1(""), PATIENCE.all),
            ("ping /", Opening::Other, pause),
            ("GET /", http1(""), PATIENCE.all),
            ("X / HTTP/1.1\r\n", http1(""), PATIENCE.all),
        ] {
            let (mut a, b) = tokio::io::duplex(64);
            tokio::io::AsyncWriteExt::write_all(&mut a, said.as_bytes()).await.unwrap();
            let began = tokio::time::Instant::now();
            let (verdict, _io) = opening(b, PATIENCE).await.unwrap();
            assert_eq!((verdict, began.elapsed()), (wanted, waited), "{said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_requests_are_checked_a_pause_makes_none_of_them_something_else() {
        for said in ["FOO", "PROPFIND /x", "!X"] {
            let (mut a, b) = tokio::io::duplex(64);
            tokio::io::AsyncWriteExt::write_all(&mut a, said.as_bytes()).await.unwrap();
            let (verdict, _io) = opening(b, Patience { pause: None, ..PATIENCE }).await.unwrap();
            assert_eq!(verdict, http1(""), "{said}");
        }
    }

    #[test]
    fn a_head_that_never_says_for_whom_it_is_is_let_go() {
        let mut head = b"GET / HTTP/1.1\r\n".to_vec();
        while head.len() < MAX_HEAD {
            assert_eq!(verdict(&head), None);
            head.extend_from_slice(b"x: y\r\n");
        }
        assert_eq!(verdict(&head), Some(http1("")));
        let word = [b'x'; WORDS + 1];
        let wanted = [("", None), (":", None), (":\n", Some(Opening::Other)), (" / HTTP/1.1\r\n", Some(http1("")))];
        for (after, wanted) in wanted {
            assert_eq!(verdict(&[&word, after.as_bytes()].concat()), wanted, "{after:?}");
        }
        assert_eq!(verdict(&[b'x'; MAX_HEAD]), Some(http1("")), "a server may take so long a one");
    }
}
