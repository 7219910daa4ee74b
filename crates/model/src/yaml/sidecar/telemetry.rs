//! `sidecar.telemetry`: where traces and metrics go.
//!
//! It decides what an endpoint may be. An endpoint's text is never told back: where somebody wrote credentials into it, a
//! fault would put them into a log.

use crate::node::{Collector, Otlp, OtlpProtocol, Secret, Telemetry};
use crate::route::Authority;
use crate::yaml::cursor::Cursor;
use crate::yaml::policy::share;
use std::collections::BTreeMap;
use std::time::Duration;

/// Fields that go with every request.
const MAX_HEADERS: usize = 16;
/// Of one field's value, in bytes.
const MAX_VALUE: usize = 8 << 10;
const ENDPOINT: &str = "must be http://host:port or https://host:port";

pub(super) fn telemetry(cursor: &Cursor<'_>) -> Telemetry {
    let mut telemetry = Telemetry::default();
    let Some(mut fields) = cursor.map("a mapping such as {otlp: {endpoint: http://127.0.0.1:4317}}") else {
        return telemetry;
    };
    if let Some(otlp) = fields.get("otlp").and_then(|c| otlp(&c)) {
        telemetry.otlp = otlp;
    }
    let bounds = Duration::from_secs(1)..=Duration::from_secs(300);
    if let Some(interval) = fields.get("metrics_interval").and_then(|c| c.duration(bounds)) {
        telemetry.metrics_interval = interval;
    }
    if let Some(shown) = fields.get("per_instance_metrics").and_then(|c| c.boolean()) {
        telemetry.per_instance_metrics = shown;
    }
    telemetry.sample = fields.get("sample").and_then(|c| share(&c));
    fields.finish();
    telemetry
}

fn otlp(cursor: &Cursor<'_>) -> Option<Otlp> {
    match cursor.as_text() {
        Some("off") => return Some(Otlp::Off),
        Some("control") => return Some(Otlp::Control),
        Some(_) => {
            cursor.fault_with("must be off, control or a mapping", "name a receiver as {endpoint: http://host:port}");
            return None;
        }
        None => {}
    }
    let mut fields = cursor.map("off, control, or a mapping such as {endpoint: http://127.0.0.1:4317}")?;
    let protocols = [("grpc", OtlpProtocol::Grpc), ("http", OtlpProtocol::Http)];
    let protocol = fields.get("protocol").and_then(|c| c.choice(&protocols)).unwrap_or_default();
    let endpoint_at = fields.required("endpoint", "http://host:port of an OTLP receiver");
    let endpoint = endpoint_at.as_ref().and_then(|c| endpoint(c, protocol));
    let headers = fields.get("headers").map(|c| headers(&c)).unwrap_or_default();
    let ca_at = fields.get("ca");
    let ca = ca_at.as_ref().and_then(super::file);
    fields.finish();
    let Endpoint { tls, host, port, path } = endpoint?;
    match (&ca_at, &endpoint_at) {
        (None, Some(at)) if tls => at.fault_with(
            "https needs the certificates that the receiver's is verified against",
            "add ca: FILE; for a public authority that of the system, such as /etc/ssl/certs/ca-certificates.crt",
        ),
        (Some(at), _) if !tls => at.fault_with("is of no use without TLS", "write the endpoint with https://"),
        _ => {}
    }
    Some(Otlp::Collector(Collector { tls, host, port, path, protocol, headers, ca }))
}

struct Endpoint {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

fn endpoint(cursor: &Cursor<'_>, protocol: OtlpProtocol) -> Option<Endpoint> {
    let text = cursor.text("http://host:port")?;
    let parsed = parse(text, protocol);
    if parsed.is_none() {
        let credentials = text.contains('@');
        match protocol {
            _ if credentials => cursor.fault_with(
                "must not carry credentials",
                "write them as headers: {authorization: ...}; a base64 of name:password follows the word Basic",
            ),
            OtlpProtocol::Grpc => cursor.fault_with(ENDPOINT, "a path goes with protocol: http only"),
            OtlpProtocol::Http => cursor.fault_with(ENDPOINT, "a path may follow, a query may not"),
        }
    }
    parsed
}

fn parse(text: &str, protocol: OtlpProtocol) -> Option<Endpoint> {
    let (tls, rest) = match text.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("http://")?),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = path.trim_end_matches('/');
    let visible = |b: u8| b.is_ascii_graphic() && !b"?#\"\\<>".contains(&b);
    if authority.contains('@') || !path.bytes().all(visible) || (protocol == OtlpProtocol::Grpc && !path.is_empty()) {
        return None;
    }
    let authority = Authority::parse(authority)?;
    let default = if protocol == OtlpProtocol::Grpc { 4317 } else { 4318 };
    let port = authority.port().unwrap_or(default);
    (port > 0).then(|| Endpoint { tls, host: authority.host().into(), port, path: path.into() })
}

fn headers(cursor: &Cursor<'_>) -> BTreeMap<String, Secret> {
    let mut all = BTreeMap::new();
    if cursor.as_text().is_some() {
        cursor.fault("must be a mapping of header names to values");
        return all;
    }
    let entries = cursor.entries("a mapping of header names to values");
    if entries.len() > MAX_HEADERS {
        cursor.fault(format!("must be at most {MAX_HEADERS} headers, got {}", entries.len()));
    }
    for entry in entries {
        let name = entry.name.to_ascii_lowercase();
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        // what gRPC and HTTP themselves write is not to be written over
        let reserved = ["content-type", "content-length", "host", "te", "transfer-encoding", "connection"];
        if name.is_empty() || !name.bytes().all(token) || name.ends_with("-bin") || reserved.contains(&name.as_str()) {
            entry.fault("is not the name of a header that can be set");
            continue;
        }
        let value = match entry.value.as_text() {
            Some(text) if text.len() <= MAX_VALUE && text.bytes().all(|b| (0x20..0x7f).contains(&b)) => text,
            // the value is not told back: it may be a password with a line break
            _ => {
                entry.fault(format!("must be visible ASCII text of at most {MAX_VALUE} bytes"));
                continue;
            }
        };
        all.insert(name, Secret(value.into()));
    }
    all
}
