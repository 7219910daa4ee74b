//! An application that reads as strictly as RFC 9112 allows, and remembers every byte.

use fusewire_testkit::raw::{Conn, Server};
use std::sync::{Arc, Mutex};

/// One request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Got {
    pub(crate) first: String,
    /// Names in lower case, values as they were.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// What is ambiguous or wrong about it.
    pub(crate) wrong: Option<String>,
    /// It came to its end.
    pub(crate) whole: bool,
}

impl Got {
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }
    fn say(&mut self, wrong: impl Into<String>) {
        self.wrong.get_or_insert(wrong.into());
    }
}

pub(crate) struct Origin {
    pub(crate) port: u16,
    got: Arc<Mutex<Vec<Got>>>,
    _server: Server,
}

impl Origin {
    /// Answers 200 with method and target.
    pub(crate) fn start() -> Self {
        let got = Arc::<Mutex<Vec<Got>>>::default();
        let log = got.clone();
        let server = Server::start(move |mut conn| {
            while let Some(request) = read(&mut conn) {
                let text = request.first.strip_suffix(" HTTP/1.1").unwrap_or("?").to_owned();
                let more = request.whole && request.wrong.is_none();
                log.lock().unwrap().push(request);
                let body = if text.starts_with("HEAD ") { "" } else { &text };
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", text.len());
                if !more || conn.try_say(answer).is_err() {
                    return;
                }
            }
        });
        Self { port: server.port, got, _server: server }
    }
    /// What came since the last time.
    pub(crate) fn take(&self) -> Vec<Got> {
        std::mem::take(&mut *self.got.lock().unwrap())
    }
}

/// The next request; `None` at the end of the connection.
fn read(conn: &mut Conn) -> Option<Got> {
    let mut got = Got::default();
    let first = line(conn)?;
    let Some(first) = text(&first, &mut got) else { return Some(got) };
    got.first = first;
    if got.first.split(' ').count() != 3 || !got.first.ends_with(" HTTP/1.1") {
        got.say("the request line is not three words");
    }
    match fields(conn, &mut got) {
        Some(fields) => got.fields = fields,
        None => return got.wrong.is_some().then_some(got),
    }
    let (hosts, lengths, codings) =
        (got.values("host").len(), got.values("content-length").len(), got.values("transfer-encoding").len());
    let length = got.values("content-length").first().map(|l| l.to_string());
    let chunked = got.values("transfer-encoding") == ["chunked"];
    match (hosts, lengths, codings) {
        (1, 0 | 1, 0) | (1, 0, 1) => {}
        _ => got.say(format!("{hosts} Host, {lengths} Content-Length, {codings} Transfer-Encoding")),
    }
    if codings > 0 && !chunked {
        got.say("a transfer coding that is not chunked");
    }
    let whole = if chunked { chunks(conn, &mut got) } else { counted(conn, length, &mut got) };
    got.whole = whole.is_some();
    Some(got)
}

fn counted(conn: &mut Conn, length: Option<String>, got: &mut Got) -> Option<()> {
    let Some(length) = length else { return Some(()) };
    let canonical = length.parse::<usize>().ok().filter(|n| n.to_string() == length);
    let Some(n) = canonical else {
        got.say(format!("Content-Length: {length}"));
        return None;
    };
    got.body = conn.exact(n).ok()?;
    Some(())
}

fn chunks(conn: &mut Conn, got: &mut Got) -> Option<()> {
    loop {
        let size = line(conn)?;
        let size = text(&size, got)?;
        let Ok(n) = usize::from_str_radix(&size, 16) else {
            got.say(format!("chunk size {size:?}"));
            return None;
        };
        if n == 0 {
            got.trailers = fields(conn, got)?;
            return Some(());
        }
        got.body.extend(conn.exact(n).ok()?);
        if conn.exact(2).ok()? != b"\r\n" {
            got.say("a chunk's data is not followed by CRLF");
        }
    }
}

fn fields(conn: &mut Conn, got: &mut Got) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = line(conn)?;
        let line = text(&line, got)?;
        if line.is_empty() {
            return Some(fields);
        }
        let (name, value) = line.split_once(':').unwrap_or(("", ""));
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(is_token) {
            got.say(format!("a field line {line:?}"));
        }
        fields.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
}

/// With its end, byte by byte.
fn line(conn: &mut Conn) -> Option<Vec<u8>> {
    let (mut line, reader) = (Vec::new(), conn.reader());
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        if reader.read(&mut byte).ok()? == 0 {
            return None;
        }
        line.push(byte[0]);
    }
    Some(line)
}

/// The line without its CRLF; anything else is said to be wrong.
fn text(line: &[u8], got: &mut Got) -> Option<String> {
    let Some(line) = line.strip_suffix(b"\r\n") else {
        got.say("a line that ends with LF alone");
        return None;
    };
    if line.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
        got.say("a control character");
        return None;
    }
    Some(String::from_utf8_lossy(line).into_owned())
}
