//! Odd requests, each with a name and with what must become of it. `HOST` stands for the authority.

/// What must become of one.
#[derive(Debug, Clone)]
pub(crate) enum Want {
    /// Answered with this status and reason; the origin sees no whole request.
    Refused(u16, &'static str),
    /// The origin gets exactly this method and target, and this body.
    Passes(String, Vec<u8>),
}

#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) want: Want,
}

#[derive(Default)]
pub(crate) struct Table(pub(crate) Vec<Case>);

impl Table {
    fn add(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>, want: Want) {
        self.0.push(Case { name: name.into(), bytes: bytes.as_ref().to_vec(), want });
    }
    fn refused(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>) {
        self.add(name, bytes, Want::Refused(400, "bad-request"));
    }
    fn passes(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>, first: &str, body: &str) {
        self.add(name, bytes, Want::Passes(first.into(), body.into()));
    }
}

/// One with these fields and this body; each field ends with CRLF.
fn post(fields: &str, body: &str) -> String {
    format!("POST /p HTTP/1.1\r\nhost: HOST\r\n{fields}\r\n{body}")
}

pub(crate) fn all() -> Vec<Case> {
    let mut t = Table::default();
    lengths(&mut t);
    codings(&mut t);
    both(&mut t);
    names(&mut t);
    values(&mut t);
    lines(&mut t);
    targets(&mut t);
    hosts(&mut t);
    chunks(&mut t);
    expectations(&mut t);
    t.0
}

fn lengths(t: &mut Table) {
    let wrong = [
        "5, 5",
        "5,5",
        "5 5",
        "+5",
        "-5",
        "0x5",
        "5x",
        "5.0",
        "5e0",
        " ",
        "",
        ",",
        "5,",
        ",5",
        "\"5\"",
        "٥",
        "5;",
        "0b101",
        "1_0",
        "18446744073709551616",
        "9223372036854775808",
        "99999999999999999999999999",
        "five",
        "5\t5",
        "5\\",
        "NaN",
        "0x",
        "05, 5",
    ];
    for value in wrong {
        t.refused(format!("length {value:?}"), post(&format!("content-length: {value}\r\n"), "hello"));
    }
    for (a, b) in [("5", "5"), ("5", "6"), ("0", "5"), ("5", "0"), ("5", ""), ("5", "x")] {
        let fields = format!("content-length: {a}\r\nContent-Length: {b}\r\n");
        t.refused(format!("lengths {a:?} and {b:?}"), post(&fields, "hello"));
        let apart = format!("content-length: {a}\r\nx: y\r\nCONTENT-LENGTH: {b}\r\n");
        t.refused(format!("lengths {a:?} and {b:?} apart"), post(&apart, "hello"));
    }
    for value in ["5", "05", "0000000000000000000005", "\t5", "5 \t ", "  5"] {
        t.passes(
            format!("length {value:?}"),
            post(&format!("Content-Length:{value}\r\n"), "hello"),
            "POST /p",
            "hello",
        );
    }
    t.passes("length 0", post("content-length: 0\r\n", ""), "POST /p", "");
    t.passes("length 00", post("content-length: 00\r\n", ""), "POST /p", "");
    t.passes("no length", post("", ""), "POST /p", "");
    t.passes("a body of a GET", "GET /g HTTP/1.1\r\nhost: HOST\r\ncontent-length: 5\r\n\r\nhello", "GET /g", "hello");
    t.passes(
        "a body of a DELETE",
        "DELETE /g HTTP/1.1\r\nhost: HOST\r\ncontent-length: 2\r\n\r\nhi",
        "DELETE /g",
        "hi",
    );
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: smuggler\r\n\r\n";
    let length = format!("content-length: {}\r\n", smuggled.len());
    t.passes("a body that looks like a request", post(&length, smuggled), "POST /p", smuggled);
}

fn codings(t: &mut Table) {
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    let wrong = [
        "xchunked",
        "chunkedx",
        "chunked, identity",
        "identity, chunked",
        "identity",
        "gzip, chunked",
        "gzip",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "chunked;",
        "chunked; q=1",
        "\"chunked\"",
        "chunked chunked",
        "x chunked",
        "chunked\u{a0}",
        "",
        " ",
        "chunked\u{2028}",
        "ⅽhunked",
        "chun ked",
        "chunked=1",
        "deflate",
        "compress, chunked",
        "trailers",
        "c",
        "chunke",
        "hunked",
    ];
    for value in wrong {
        t.refused(format!("coding {value:?}"), post(&format!("transfer-encoding: {value}\r\n"), chunks));
    }
    for (a, b) in
        [("chunked", "chunked"), ("chunked", "identity"), ("identity", "chunked"), ("gzip", "chunked"), ("chunked", "")]
    {
        let fields = format!("transfer-encoding: {a}\r\nTransfer-Encoding: {b}\r\n");
        t.refused(format!("codings {a:?} and {b:?}"), post(&fields, chunks));
    }
    for control in [0x0b, 0x0c, 0x00, 0x08, 0x1f, 0x7f] {
        let control = char::from(control);
        for value in [format!("{control}chunked"), format!("chunked{control}"), format!("chun{control}ked")] {
            t.refused(format!("coding {value:?}"), post(&format!("transfer-encoding: {value}\r\n"), chunks));
        }
    }
    for (name, line) in [
        ("a space before the colon", "transfer-encoding : chunked"),
        ("a tab before the colon", "transfer-encoding\t: chunked"),
        ("a space before the name", " transfer-encoding: chunked"),
        ("a tab before the name", "\ttransfer-encoding: chunked"),
        ("a line break before the value", "transfer-encoding:\r\n chunked"),
        ("a line break within the name", "transfer\r\n-encoding: chunked"),
        ("no colon", "transfer-encoding chunked"),
        ("an equals sign", "transfer-encoding= chunked"),
        ("a vertical tab before the name", "\u{b}transfer-encoding: chunked"),
        ("a bare CR before the name", "x: y\rtransfer-encoding: chunked"),
        ("a bare LF before the name", "x: y\ntransfer-encoding: chunked"),
        ("a NUL in the name", "transfer-encoding\0: chunked"),
    ] {
        t.refused(format!("coding with {name}"), post(&format!("{line}\r\n"), chunks));
    }
    for value in ["chunked", "CHUNKED", "Chunked", "\tchunked", " \t chunked\t "] {
        let fields = format!("Transfer-Encoding:{value}\r\n");
        t.passes(format!("coding {value:?}"), post(&fields, chunks), "POST /p", "hello");
    }
    t.passes(
        "a coding with an underscore is none",
        post("transfer_encoding: chunked\r\ncontent-length: 5\r\n", "hello"),
        "POST /p",
        "hello",
    );
    t.refused(
        "a coding in HTTP/1.0",
        format!("POST /p HTTP/1.0\r\nhost: HOST\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"),
    );
    t.refused(
        "a coding in HTTP/1.0 that stays",
        format!(
            "POST /p HTTP/1.0\r\nhost: HOST\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"
        ),
    );
    t.refused(
        "a coding of a CONNECT",
        "CONNECT HOST HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    t.refused("a length of a CONNECT", "CONNECT HOST HTTP/1.1\r\nhost: HOST\r\ncontent-length: 5\r\n\r\nhello");
}

fn both(t: &mut Table) {
    let codings = [
        "transfer-encoding: chunked",
        "Transfer-Encoding: identity",
        "TRANSFER-ENCODING: CHUNKED",
        "transfer-encoding: x",
    ];
    for coding in codings {
        for length in ["0", "5", "15", "999999"] {
            let fields = format!("{coding}\r\ncontent-length: {length}\r\n");
            t.refused(format!("{coding} before length {length}"), post(&fields, "5\r\nhello\r\n0\r\n\r\n"));
            let fields = format!("Content-Length: {length}\r\nx: y\r\n{coding}\r\n");
            t.refused(format!("{coding} behind length {length}"), post(&fields, "5\r\nhello\r\n0\r\n\r\n"));
        }
    }
}

fn names(t: &mut Table) {
    for byte in (0..=0x20u8).chain(*b"\"(),/;<=>?@[\\]{}").chain([0x7f, 0x80, 0xff]) {
        let mut bytes = b"GET /n HTTP/1.1\r\nhost: HOST\r\nx".to_vec();
        bytes.push(byte);
        bytes.extend_from_slice(b"y: z\r\n\r\n");
        t.refused(format!("a name with {byte:#04x}"), bytes);
    }
    for (name, line) in [
        ("an empty name", ": value"),
        ("no colon", "value"),
        ("a space before the colon", "x : y"),
        ("a tab before the colon", "x\t: y"),
        ("folded with a space", "x: y\r\n z"),
        ("folded with a tab", "x: y\r\n\tz"),
        ("folded and empty", "x: y\r\n "),
    ] {
        t.refused(format!("a field with {name}"), format!("GET /n HTTP/1.1\r\nhost: HOST\r\n{line}\r\n\r\n"));
        t.refused(format!("a first field with {name}"), format!("GET /n HTTP/1.1\r\n{line}\r\nhost: HOST\r\n\r\n"));
    }
    for name in ["!#$%&'*+-.^_`|~", "0", "X-MiXeD", "a_b"] {
        t.passes(
            format!("the name {name}"),
            format!("GET /n HTTP/1.1\r\nhost: HOST\r\n{name}: x\r\n\r\n"),
            "GET /n",
            "",
        );
    }
}

fn values(t: &mut Table) {
    for byte in (0..0x20u8).filter(|b| *b != b'\t').chain([0x7f]) {
        let mut bytes = b"GET /v HTTP/1.1\r\nhost: HOST\r\nx: a".to_vec();
        bytes.push(byte);
        bytes.extend_from_slice(b"b\r\n\r\n");
        t.refused(format!("a value with {byte:#04x}"), bytes);
    }
    for byte in [b'\t', b' ', 0x80, 0xff, b'"', b','] {
        let mut bytes = b"GET /v HTTP/1.1\r\nhost: HOST\r\nx: a".to_vec();
        bytes.push(byte);
        bytes.extend_from_slice(b"b\r\n\r\n");
        t.passes(format!("a value with {byte:#04x}"), bytes, "GET /v", "");
    }
    t.passes("an empty value", "GET /v HTTP/1.1\r\nhost: HOST\r\nx:\r\ny: \t \r\n\r\n", "GET /v", "");
}

fn lines(t: &mut Table) {
    for (name, bytes) in [
        ("LF for CRLF everywhere", "GET /l HTTP/1.1\nhost: HOST\n\n"),
        ("LF behind the request line", "GET /l HTTP/1.1\nhost: HOST\r\n\r\n"),
        ("LF behind a field", "GET /l HTTP/1.1\r\nhost: HOST\nx: y\r\n\r\n"),
        ("LF for the empty line", "GET /l HTTP/1.1\r\nhost: HOST\r\n\n"),
        ("LF before the request", "\nGET /l HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("CR CR LF", "GET /l HTTP/1.1\r\nhost: HOST\r\r\n\r\n"),
        ("a bare CR in the request line", "GET /l\r HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("a bare CR behind the version", "GET /l HTTP/1.1\r\r\nhost: HOST\r\n\r\n"),
        ("a bare CR before the method", "\rGET /l HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("NUL before the method", "\0GET /l HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("NUL in the target", "GET /l\0 HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("NUL in the version", "GET /l HTTP/1.1\0\r\nhost: HOST\r\n\r\n"),
        ("a space before the method", " GET /l HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("a space behind the version", "GET /l HTTP/1.1 \r\nhost: HOST\r\n\r\n"),
        ("two spaces before the target", "GET  /l HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("two spaces behind the target", "GET /l  HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("a tab for a space", "GET\t/l HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("a tab behind the target", "GET /l\tHTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("a form feed for a space", "GET\u{c}/l HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("a vertical tab behind the target", "GET /l\u{b} HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("no target", "GET HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("an empty target", "GET  HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("no version", "GET /l\r\nhost: HOST\r\n\r\n"),
        ("a space in the target", "GET /l x HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("no method", "/l HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("a method with a colon", "GET: /l HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("a method with a slash", "GE/T /l HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("a method in quotes", "\"GET\" /l HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("many empty lines", "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET /l HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("TLS's first bytes in the wrong place", "GET\u{16}\u{3}\u{1} / HTTP/1.1\r\nhost: HOST\r\n\r\n"),
        ("the preface of HTTP/2, almost", "PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"),
        ("another protocol", "SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        ("mail", "EHLO example.com\r\nMAIL FROM:<a@b>\r\n\r\n"),
    ] {
        t.refused(name, bytes);
    }
    for version in [
        "HTTP/2.0",
        "HTTP/0.9",
        "HTTP/1.2",
        "HTTP/1.",
        "HTTP/1",
        "HTTP/11",
        "HTTP/1.10",
        "HTTP/01.1",
        "http/1.1",
        "HTTP 1.1",
        "HTTP/1,1",
        "HTTPS/1.1",
        "HTTP/+1.1",
        "HTTP/1.1x",
        "ICY",
        "HTTP/3",
        "HTTP/1.1.1",
        "HTTP/1.\u{0}1",
        "Http/1.1",
        "HTTP/1.1;x",
        "H",
        "HTTP/-1.1",
    ] {
        t.refused(format!("version {version:?}"), format!("GET /l {version}\r\nhost: HOST\r\n\r\n"));
    }
    t.passes("an empty line before", "\r\nGET /l HTTP/1.1\r\nhost: HOST\r\n\r\n", "GET /l", "");
    t.passes(
        "eight empty lines before",
        format!("{}GET /l HTTP/1.1\r\nhost: HOST\r\n\r\n", "\r\n".repeat(8)),
        "GET /l",
        "",
    );
    t.passes("HTTP/1.0", "GET /l HTTP/1.0\r\nhost: HOST\r\n\r\n", "GET /l", "");
    t.passes("a method of its own", "FROBNICATE /l HTTP/1.1\r\nhost: HOST\r\n\r\n", "FROBNICATE /l", "");
    t.passes("a method in lower case", "get /l HTTP/1.1\r\nhost: HOST\r\n\r\n", "get /l", "");
    t.passes("TRACE", "TRACE /l HTTP/1.1\r\nhost: HOST\r\n\r\n", "TRACE /l", "");
}

fn targets(t: &mut Table) {
    for target in [
        "/a#b",
        "#",
        "/#",
        "/a?b#c",
        "*",
        "a",
        "a/b",
        "?a",
        "HOST",
        "HOST:80",
        "//",
        "http://",
        "http:///a",
        "http:/a",
        "ftp://HOST/",
        "://HOST/",
        "javascript:alert(1)",
        "http://HOST/#x",
        "http://user@HOST/",
        "http://user:pw@HOST/",
        "http://HOST:99999/",
        "http://HOST:x/",
        "http://[::1/",
        "http://HOST,other/",
        "http://HOST\\@other/",
        "http://HO ST/",
        "http://HOST%2f/",
        "file:///etc/passwd",
        "/<",
        "/a`b",
    ] {
        if target == "//" {
            continue; // an empty segment, which is a path like others
        }
        t.refused(format!("target {target}"), format!("GET {target} HTTP/1.1\r\nhost: HOST\r\n\r\n"));
    }
    for (target, got) in [
        ("//", "//"),
        ("//other/x", "//other/x"),
        ("/a//b/../c/./d", "/a//b/../c/./d"),
        ("/%2e%2e/%00?%0d%0a", "/%2e%2e/%00?%0d%0a"),
        ("/?", "/?"),
        ("/??a=?", "/??a=?"),
        ("/a;b=c,d:e@f", "/a;b=c,d:e@f"),
        ("/a?http://x/", "/a?http://x/"),
        ("/[1]|{2}\"", "/[1]|{2}\""),
        ("/é", "/é"),
        ("/*", "/*"),
        ("/%zz", "/%zz"),
        ("http://HOST", "/"),
        ("http://HOST/", "/"),
        ("http://HOST/a?b", "/a?b"),
        ("http://HOST?b", "/?b"),
        ("HTTP://HOST/a", "/a"),
        ("https://HOST/a", "/a"),
    ] {
        t.passes(
            format!("target {target}"),
            format!("GET {target} HTTP/1.1\r\nhost: HOST\r\n\r\n"),
            &format!("GET {got}"),
            "",
        );
    }
    t.passes("OPTIONS *", "OPTIONS * HTTP/1.1\r\nhost: HOST\r\n\r\n", "OPTIONS *", "");
    t.refused("OPTIONS **", "OPTIONS ** HTTP/1.1\r\nhost: HOST\r\n\r\n");
    t.refused("CONNECT with a path", "CONNECT /a HTTP/1.1\r\nhost: HOST\r\n\r\n");
    t.refused("CONNECT with *", "CONNECT * HTTP/1.1\r\nhost: HOST\r\n\r\n");
    t.refused("CONNECT with a scheme", "CONNECT http://HOST:80/ HTTP/1.1\r\nhost: HOST\r\n\r\n");
    t.refused("CONNECT with user information", "CONNECT user@HOST:80 HTTP/1.1\r\nhost: HOST\r\n\r\n");
    let long = format!("/{}", "l".repeat(32 * 1024 - 1));
    t.passes("the longest target", format!("GET {long} HTTP/1.1\r\nhost: HOST\r\n\r\n"), &format!("GET {long}"), "");
    for longer in [32 * 1024, 60_000, 70_000, 500_000] {
        let bytes = format!("GET /{} HTTP/1.1\r\nhost: HOST\r\n\r\n", "l".repeat(longer));
        t.add(format!("a target of {longer} and one bytes"), bytes, Want::Refused(414, "uri-too-long"));
    }
}

fn hosts(t: &mut Table) {
    for host in [
        "HOST, HOST",
        "HOST,other",
        "user@HOST",
        "user:pw@HOST",
        "HOST/",
        "HOST/path",
        "http://HOST",
        "HOST?x",
        "HOST#x",
        "HOST:80:80",
        "HOST:x",
        "HOST:65536",
        "HOST:99999999999",
        "HOST:-1",
        "HOST:+80",
        "HOST: 80",
        "HO ST",
        "HOST\\",
        "HOST;",
        "[HOST]",
        "[::1",
        "::1",
        "[]",
        "[::1]x",
        "\"HOST\"",
        "<HOST>",
        "HOST%00",
        "HOST%2f",
        "(HOST)",
        "HOST:80/",
        "HOST\u{a0}",
        "hôst",
        ":80",
        ":",
        "HOST=x",
        "HOST*",
        "{HOST}",
        "HOST|x",
    ] {
        t.refused(format!("host {host:?}"), format!("GET /h HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        t.refused(
            format!("host {host:?} behind another target"),
            format!("GET http://HOST/h HTTP/1.1\r\nhost: {host}\r\n\r\n"),
        );
    }
    for (a, b) in [("HOST", "other"), ("other", "HOST"), ("HOST", ""), ("", "HOST")] {
        t.refused(
            format!("hosts {a:?} and {b:?}"),
            format!("GET /h HTTP/1.1\r\nhost: {a}\r\nx: y\r\nHost: {b}\r\n\r\n"),
        );
    }
    let twice = "GET /h HTTP/1.1\r\nHost: HOST\r\nx: y\r\nhost: HOST\r\n\r\n";
    t.passes("the same host twice, as h2load sends it", twice, "GET /h", "");
    t.refused("no host", "GET /h HTTP/1.1\r\n\r\n");
    t.refused("no host behind a target that has one", "GET http://HOST/h HTTP/1.1\r\n\r\n");
    t.refused("an empty host", "GET /h HTTP/1.1\r\nhost:\r\n\r\n");
    t.refused("no host in HTTP/1.0", "GET /h HTTP/1.0\r\n\r\n");
    for host in ["HOST:", "HOST.", "hOsT"] {
        let host = if host == "hOsT" { "UPPER" } else { host };
        t.passes(format!("host {host}"), format!("GET /h HTTP/1.1\r\nhost: {host}\r\n\r\n"), "GET /h", "");
    }
    t.passes("the target's host before another", "GET http://HOST/h HTTP/1.1\r\nhost: other\r\n\r\n", "GET /h", "");
    t.passes("the target's host before an empty one", "GET http://HOST/h HTTP/1.1\r\nhost:\r\n\r\n", "GET /h", "");
    t.passes("a target's host in HTTP/1.0", "GET http://HOST/h HTTP/1.0\r\n\r\n", "GET /h", "");
    for host in ["[::1]:80", "[::1]", "127.0.0.1:1", "nowhere"] {
        t.add(
            format!("host {host}, which is nowhere"),
            format!("GET /h HTTP/1.1\r\nhost: {host}\r\n\r\n"),
            Want::Refused(404, "no-route"),
        );
    }
}

fn chunks(t: &mut Table) {
    for (name, body) in [
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a minus", "-5\r\nhello\r\n0\r\n\r\n"),
        ("0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("an h", "5h\r\nhello\r\n0\r\n\r\n"),
        ("an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        ("a space before", " 5\r\nhello\r\n0\r\n\r\n"),
        ("a tab before", "\t5\r\nhello\r\n0\r\n\r\n"),
        ("a space within", "0 5\r\nhello\r\n0\r\n\r\n"),
        ("LF behind the size", "5\nhello\r\n0\r\n\r\n"),
        ("CR behind the size", "5\rhello\r\n0\r\n\r\n"),
        ("CR CR LF behind the size", "5\r\r\nhello\r\n0\r\n\r\n"),
        ("an overflow", "10000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("an overflow to 5", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("many digits", "fffffffffffffffffffffffffffffff5\r\nhello\r\n0\r\n\r\n"),
        ("data that is too long", "5\r\nhello!\r\n0\r\n\r\n"),
        ("data that is too short", "6\r\nhello\r\n0\r\n\r\n"),
        ("data without CRLF", "5\r\nhello0\r\n\r\n"),
        ("LF behind the data", "5\r\nhello\n0\r\n\r\n"),
        ("CR behind the data", "5\r\nhello\r0\r\n\r\n"),
        ("two bytes that are no CRLF", "5\r\nhelloXX0\r\n\r\n"),
        ("LF within an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("LF behind the last chunk", "5\r\nhello\r\n0\n\r\n"),
        ("a NUL behind the size", "5\0\r\nhello\r\n0\r\n\r\n"),
        ("a trailer with a space before its colon", "5\r\nhello\r\n0\r\nx : y\r\n\r\n"),
        ("a trailer without a colon", "5\r\nhello\r\n0\r\nxy\r\n\r\n"),
        ("a trailer with NUL", "5\r\nhello\r\n0\r\nx: \0\r\n\r\n"),
        ("a trailer with LF", "5\r\nhello\r\n0\r\nx: y\nz: w\r\n\r\n"),
        ("a trailer with CR", "5\r\nhello\r\n0\r\nx: y\rz\r\n\r\n"),
        ("a folded trailer", "5\r\nhello\r\n0\r\nx: y\r\n z\r\n\r\n"),
        ("LF for the end", "5\r\nhello\r\n0\r\nx: y\r\n\n\r\n\r\n"),
    ] {
        t.refused(format!("chunks with {name}"), post("transfer-encoding: chunked\r\n", body));
    }
    let long = "e".repeat(40_000);
    t.refused(
        "chunks with a long extension",
        post("transfer-encoding: chunked\r\n", &format!("5;{long}\r\nhello\r\n0\r\n\r\n")),
    );
    let many = format!("1;{}\r\nx\r\n", "e".repeat(200)).repeat(200);
    t.refused("chunks with many extensions", post("transfer-encoding: chunked\r\n", &format!("{many}0\r\n\r\n")));
    let large = format!("x: {}\r\n", "y".repeat(40_000));
    t.refused(
        "chunks with a large trailer",
        post("transfer-encoding: chunked\r\n", &format!("5\r\nhello\r\n0\r\n{large}\r\n")),
    );
    let many = "x: y\r\n".repeat(500);
    t.refused(
        "chunks with many trailers",
        post("transfer-encoding: chunked\r\n", &format!("5\r\nhello\r\n0\r\n{many}\r\n")),
    );
    for (name, body) in [
        ("one", "5\r\nhello\r\n0\r\n\r\n"),
        ("leading zeros", "0000005\r\nhello\r\n000\r\n\r\n"),
        ("an extension", "5;a=b\r\nhello\r\n0;c\r\n\r\n"),
        ("a quoted extension", "5; a=\"b;c\"\r\nhello\r\n0\r\n\r\n"),
        ("space behind the size", "5 \t\r\nhello\r\n0\r\n\r\n"),
        ("single bytes", "1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n"),
        ("trailers", "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"),
        (
            "trailers that are not allowed",
            "5\r\nhello\r\n0\r\ncontent-length: 9\r\ntransfer-encoding: x\r\nhost: evil\r\nauthorization: x\r\n\r\n",
        ),
    ] {
        t.passes(format!("chunks with {name}"), post("transfer-encoding: chunked\r\n", body), "POST /p", "hello");
    }
    t.passes("no chunks", post("transfer-encoding: chunked\r\n", "0\r\n\r\n"), "POST /p", "");
    t.passes(
        "a chunk in capitals",
        post("transfer-encoding: chunked\r\n", &format!("A\r\n{}\r\n0\r\n\r\n", "x".repeat(10))),
        "POST /p",
        "xxxxxxxxxx",
    );
}

fn expectations(t: &mut Table) {
    for value in
        ["", "200-ok", "100-continue, x", "100-continue,", "100", "\"100-continue\"", "100-continue;q=1", "nothing"]
    {
        let bytes = post(&format!("expect: {value}\r\ncontent-length: 0\r\n"), "");
        t.add(format!("expect {value:?}"), bytes, Want::Refused(417, "expectation-failed"));
    }
    let two = post("expect: 100-continue\r\nexpect: x\r\ncontent-length: 0\r\n", "");
    t.add("two expectations", two, Want::Refused(417, "expectation-failed"));
    t.passes("expect 100-Continue", post("Expect: 100-Continue\r\ncontent-length: 5\r\n", "hello"), "POST /p", "hello");
    t.passes(
        "expect in HTTP/1.0",
        "POST /p HTTP/1.0\r\nhost: HOST\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello",
        "POST /p",
        "hello",
    );
}
