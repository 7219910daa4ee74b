//! `probes`: what the admin port asks the application in the kubelet's place.

use crate::node::{AppProbe, ProbeAsk, ProbeKind};
use crate::route::is_token;
use crate::yaml::cursor::{Cursor, Fields};
use std::time::Duration;

/// Three for each container of a pod that has more containers than any.
const MAX_PROBES: usize = 192;
const MAX_HEADERS: usize = 32;
/// Of a header's value, in bytes.
const MAX_VALUE: usize = 8 << 10;
const SECOND: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(600);
const ASKS: &str = "one of `http: /path`, `https: /path`, `grpc: service.Name` and `tcp:`";
const KINDS: [(&str, ProbeKind); 3] =
    [("liveness", ProbeKind::Liveness), ("readiness", ProbeKind::Readiness), ("startup", ProbeKind::Startup)];

pub(super) fn probes(cursor: &Cursor<'_>) -> Vec<AppProbe> {
    let list = cursor.list("a list of probes");
    if list.len() > MAX_PROBES {
        cursor.fault(format!("must be at most {MAX_PROBES} probes, got {}", list.len()));
    }
    list.iter().filter_map(probe).collect()
}

fn probe(cursor: &Cursor<'_>) -> Option<AppProbe> {
    let mut fields = cursor.map("a mapping such as {container: web, probe: readiness, port: 8080, http: /ready}")?;
    let container = fields.required("container", "the name of a container").and_then(|c| c.parse("a DNS label", label));
    let kind = fields.required("probe", "liveness, readiness or startup").and_then(|c| c.choice(&KINDS));
    let port = fields.required("port", "the application's port").and_then(|c| c.integer(1..=65_535));
    let timeout = fields.get("timeout").and_then(|c| c.duration(SECOND..=MOST)).unwrap_or(SECOND);
    let ask = ask(cursor, &mut fields);
    fields.finish();
    Some(AppProbe { container: container?, kind: kind?, port: u16::try_from(port?).ok()?, timeout, ask: ask? })
}

fn ask(cursor: &Cursor<'_>, fields: &mut Fields<'_>) -> Option<ProbeAsk> {
    let asks = [fields.get("http"), fields.get("https"), fields.get("grpc"), fields.get("tcp")];
    let headers_at = fields.get("headers");
    let headers = headers_at.as_ref().map(headers).unwrap_or_default();
    if let (Some(at), [None, None, ..]) = (&headers_at, &asks) {
        at.fault("go with http and https only");
    }
    let http = |c: &Cursor<'_>, tls| {
        c.parse("a path that begins with '/'", path).map(|path| ProbeAsk::Http { tls, path, headers })
    };
    match asks {
        [Some(c), None, None, None] => http(&c, false),
        [None, Some(c), None, None] => http(&c, true),
        [None, None, Some(c), None] => c
            .parse("a gRPC service's name, or \"\" for the whole server", service)
            .map(|service| ProbeAsk::Grpc { service }),
        [None, None, None, Some(_)] => Some(ProbeAsk::Tcp),
        _ => {
            cursor.fault(format!("must have exactly {ASKS}"));
            None
        }
    }
}

fn headers(cursor: &Cursor<'_>) -> Vec<(String, String)> {
    let list = cursor.list("a list such as [{name: X-Key, value: secret}]");
    if list.len() > MAX_HEADERS {
        cursor.fault(format!("must be at most {MAX_HEADERS} headers, got {}", list.len()));
    }
    let read = |cursor: &Cursor<'_>| {
        let mut fields = cursor.map("a mapping of name and value")?;
        let name = fields.required("name", "the header's name").and_then(|c| c.parse("a header's name", token));
        let value = fields.required("value", "what it says").and_then(|c| c.parse("visible ASCII text", visible));
        fields.finish();
        Some((name?, value?))
    };
    list.iter().filter_map(read).collect()
}

fn label(text: &str) -> Option<String> {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    ((1..=63).contains(&text.len()) && text.bytes().all(inside)).then(|| text.into())
}

/// As the kubelet asks it: with a query, and not encoded any further.
fn path(text: &str) -> Option<String> {
    let inside = |b: u8| b.is_ascii_graphic() && b != b'#';
    (text.starts_with('/') && text.len() <= 2_048 && text.bytes().all(inside)).then(|| text.into())
}

fn service(text: &str) -> Option<String> {
    (text.len() <= 253 && text.bytes().all(|b| b.is_ascii_graphic())).then(|| text.into())
}

fn token(text: &str) -> Option<String> {
    is_token(text).then(|| text.into())
}

fn visible(text: &str) -> Option<String> {
    (text.len() <= MAX_VALUE && text.bytes().all(|b| (0x20..0x7f).contains(&b))).then(|| text.into())
}
