//! The head of an HTTP/1 request, byte by byte, before hyper sees it: is there exactly one way to read it?
//!
//! hyper's parser is lenient where RFC 9112 allows it to be, and silent about it: it takes bare LF for a line's end, drops a
//! Content-Length beside Transfer-Encoding, a second one that says the same, and a fragment. Others on the way may have
//! read the same bytes otherwise, which is how requests are smuggled, so all of it is refused here (RFC 9112, 2.2, 5.1,
//! 6.1, 6.3, 11.2). What passes is what hyper takes too: no answer to a malformed request is hyper's own, which would
//! carry no reason.
//!
//! It deliberately knows no meanings: hosts, expectations and the forms of targets are `check.rs`'s, for every version.
//!
//! Invariant: the verdict depends on the bytes alone, not on how many of them are there: what is [`Verdict::Partial`] stays
//! so, or becomes what the whole gives.

use crate::fault::Fault;
use fusewire_model::node::Limits;
use http::Uri;
use memchr::memchr;

/// Empty lines before a request: some clients end a body with one too many (RFC 9112, 2.2).
const MAX_EMPTY_LINES: usize = 8;
/// Around the target in the first line: method, spaces and version.
const MAX_AROUND_TARGET: usize = 64;
/// Lengths above are refused: sums with them must not overflow, here or anywhere else.
const MAX_LENGTH: u64 = 1 << 62;

/// How many bytes follow the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Length(u64),
    Chunked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its bytes, with the empty line.
    pub(crate) len: usize,
    pub(crate) body: Body,
    /// What follows may turn into another protocol.
    pub(crate) may_switch: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Partial,
    Good(Head),
    Bad(Fault),
}

fn bad(why: &'static str) -> Fault {
    Fault::BadRequest(why.into())
}

/// What `bytes` begin with.
pub(crate) fn check(bytes: &[u8], limits: &Limits) -> Verdict {
    match whole(bytes, limits) {
        Ok(Some(head)) => Verdict::Good(head),
        Ok(None) => Verdict::Partial,
        Err(fault) => Verdict::Bad(fault),
    }
}

/// The limit that a line has to end within.
#[derive(Clone, Copy)]
enum Most {
    Target(usize),
    Fields(usize),
}

impl Most {
    /// Whatever is found at `at` counts only within the limit, as if bytes came one by one.
    fn holds(self, at: usize) -> Result<(), Fault> {
        match self {
            Most::Target(most) if at >= most => Err(Fault::UriTooLong),
            Most::Fields(most) if at >= most => Err(Fault::TooLarge),
            Most::Target(_) | Most::Fields(_) => Ok(()),
        }
    }
}

/// Where the line ends that goes on at `at`, at its CRLF; `None` while it is not whole. No control character but HTAB may
/// come before.
fn line_end(bytes: &[u8], at: usize, most: Most) -> Result<Option<usize>, Fault> {
    let Some(end) = control(bytes, at) else {
        return most.holds(bytes.len().saturating_sub(1)).map(|()| None);
    };
    most.holds(end)?;
    match (bytes[end], bytes.get(end + 1)) {
        (b'\r', Some(b'\n')) => most.holds(end + 1).map(|()| Some(end)),
        (b'\r', None) => Ok(None),
        (b'\n', _) => Err(bad("a line ends with LF alone")),
        (b'\r', _) => Err(bad("CR without LF")),
        _ => Err(bad("a control character")),
    }
}

/// The first control character but HTAB, from `at` on; eight bytes at a time.
fn control(bytes: &[u8], at: usize) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let mut from = at;
    let mut rest = bytes.get(at..)?;
    while let Some(eight) = rest.first_chunk::<8>() {
        let x = u64::from_le_bytes(*eight);
        let y = x ^ (ONES * 0x7f);
        // the high bit of bytes below 0x20 or equal to 0x7f; the lowest that is set is set rightly
        let found = ((x.wrapping_sub(ONES * 0x20) & !x) | (y.wrapping_sub(ONES) & !y)) & (ONES * 0x80);
        let step = if found == 0 {
            8
        } else {
            let first = (found.trailing_zeros() / 8) as usize;
            if eight[first] != b'\t' {
                return Some(from + first);
            }
            first + 1
        };
        from += step;
        rest = &rest[step..];
    }
    rest.iter().position(|b| is_control(*b)).map(|found| from + found)
}

fn is_control(b: u8) -> bool {
    (b < b' ' && b != b'\t') || b == 0x7f
}

fn whole(bytes: &[u8], limits: &Limits) -> Result<Option<Head>, Fault> {
    let (mut at, mut empty) = (0, 0);
    let Start { connect, version_11 } = loop {
        let most = Most::Target(at + limits.target_bytes + MAX_AROUND_TARGET);
        let Some(end) = line_end(bytes, at, most)? else { return Ok(None) };
        let first = &bytes[at..end];
        at = end + 2;
        if !first.is_empty() || empty == MAX_EMPTY_LINES {
            break request_line(first, limits)?;
        }
        empty += 1;
    };
    let most = Most::Fields(at + limits.header_bytes);
    let mut facts = Facts::default();
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let name = rest.iter().take_while(|b| TOKEN[usize::from(**b)]).count();
        match rest.get(name) {
            Some(b':') if name > 0 => {}
            Some(b'\r') if name == 0 => {
                let Some(end) = line_end(bytes, at, most)? else { return Ok(None) };
                at = end + 2;
                break;
            }
            Some(_) => {
                most.holds(at + name)?;
                return Err(bad(not_a_field(rest, name)));
            }
            None => {
                return most.holds(bytes.len().saturating_sub(1)).map(|()| None);
            }
        }
        facts.count += 1;
        if facts.count > limits.header_count {
            return Err(Fault::TooLarge);
        }
        let value = at + name + 1;
        let Some(end) = line_end(bytes, value, most)? else { return Ok(None) };
        facts.field(&rest[..name], &bytes[value..end])?;
        at = end + 2;
    }
    let body = facts.body(version_11)?;
    if connect && body != Body::Length(0) {
        return Err(bad("CONNECT with content"));
    }
    Ok(Some(Head { len: at, body, may_switch: connect || (facts.upgrade && version_11) }))
}

fn not_a_field(line: &[u8], name: usize) -> &'static str {
    match line.get(name) {
        Some(b'\n') => "a line ends with LF alone",
        Some(b' ' | b'\t') if name == 0 => "a field is folded over two lines",
        _ => "a field's name is no token that a colon follows",
    }
}

struct Start {
    connect: bool,
    version_11: bool,
}

fn request_line(line: &[u8], limits: &Limits) -> Result<Start, Fault> {
    let malformed = || bad("the request line is not: method, target, version, with one space between");
    let space = memchr(b' ', line).ok_or_else(malformed)?;
    let (method, rest) = (&line[..space], &line[space + 1..]);
    let space = memchr(b' ', rest).ok_or_else(malformed)?;
    let (target, version) = (&rest[..space], &rest[space + 1..]);
    if method.is_empty() || target.is_empty() || !method.iter().all(|b| TOKEN[usize::from(*b)]) {
        return Err(malformed());
    }
    let version_11 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err(bad("the version is neither HTTP/1.1 nor HTTP/1.0")),
    };
    if target.len() > limits.target_bytes {
        return Err(Fault::UriTooLong);
    }
    let connect = method == b"CONNECT";
    if memchr(b'#', target).is_some() {
        return Err(bad("the target has a fragment"));
    }
    let plain = target[0] == b'/' && !connect && target.iter().all(|b| PLAIN_PATH[usize::from(*b)]);
    if !plain && !is_form(method, target, connect) {
        return Err(bad("the target is none that this method may have"));
    }
    Ok(Start { connect, version_11 })
}

/// RFC 9112, section 3.2: authority-form for CONNECT and nothing else, `*` for OPTIONS alone.
fn is_form(method: &[u8], target: &[u8], connect: bool) -> bool {
    let Ok(uri) = Uri::try_from(target) else { return false };
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(_)) => !connect,
        (None, Some(_)) => connect,
        (None, None) => !connect && (target[0] == b'/' || (target == b"*" && method == b"OPTIONS")),
        (Some(_), _) => false,
    }
}

#[derive(Default)]
struct Facts {
    count: usize,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

impl Facts {
    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(bad("more than one Content-Length"));
                }
                self.length = Some(length(trimmed(value)).ok_or_else(|| bad("Content-Length is no length"))?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || !trimmed(value).eq_ignore_ascii_case(b"chunked") {
                    return Err(bad("Transfer-Encoding is not `chunked` and that alone"));
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn body(&self, version_11: bool) -> Result<Body, Fault> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(bad("Content-Length and Transfer-Encoding at once")),
            (true, None) if !version_11 => Err(bad("HTTP/1.0 has no Transfer-Encoding")),
            (true, None) => Ok(Body::Chunked),
            (false, length) => Ok(Body::Length(length.unwrap_or(0))),
        }
    }
}

/// Optional whitespace is SP and HTAB, nothing else (RFC 9110, section 5.6.3).
fn trimmed(value: &[u8]) -> &[u8] {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !is_space(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !is_space(b)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// `1*DIGIT` and nothing else: no sign, no list, no whitespace within.
pub(crate) fn length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut n: u64 = 0;
    for digit in digits {
        n = n.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    (n <= MAX_LENGTH).then_some(n)
}

/// RFC 9110, section 5.6.2.
const TOKEN: [bool; 256] = table(b"!#$%&'*+-.^_`|~");
/// What stands in nearly every target, and is valid there whatever its form.
const PLAIN_PATH: [bool; 256] = table(b"!$%&'()*+,-./:;=?@[]_~");

const fn table(marks: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 128 {
        table[b] = (b as u8).is_ascii_alphanumeric();
        b += 1;
    }
    let mut n = 0;
    while n < marks.len() {
        table[marks[n] as usize] = true;
        n += 1;
    }
    table
}
