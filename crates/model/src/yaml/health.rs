//! `health` and `dns` of a service: how its instances are checked, and where more of them are found.
//!
//! It decides the bounds that keep a check from becoming a load and a question from being asked too often. It deliberately
//! resolves nothing: a name is only held against what DNS can carry (RFC 1035, section 2.3.4).

use super::cursor::{Cursor, Fields};
use super::route::path_text;
use super::service::reachable;
use crate::health::{CheckKind, HealthCheck};
use crate::service::{Dns, DnsRecords};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const REFRESH: RangeInclusive<Duration> = SECOND..=HOUR;
const KINDS: &str = "one of `http: /path`, `grpc: service.Name` and `tcp`";

/// `tcp`, or `{http: /ready, interval: 2s}`. `None` has its fault.
pub(super) fn health(cursor: &Cursor<'_>) -> Option<HealthCheck> {
    if let Some(text) = cursor.as_text() {
        if text == "tcp" {
            return Some(HealthCheck::new(CheckKind::Tcp));
        }
        cursor.must_be_or(KINDS, Some("write {http: /ready} or tcp".into()));
        return None;
    }
    let mut fields = cursor.map(KINDS)?;
    let kind = kind(cursor, &mut fields);
    let port = fields.get("port").and_then(|c| c.integer(1..=65_535));
    let interval = fields.get("interval").and_then(|c| c.duration(INTERVAL));
    let timeout = fields.get("timeout").and_then(|c| c.duration(TIMEOUT));
    let up = fields.get("up").and_then(|c| c.integer(1..=100));
    let down = fields.get("down").and_then(|c| c.integer(1..=100));
    fields.finish();
    let standard = HealthCheck::new(kind?);
    let count = |given: Option<u64>| given.and_then(|n| u32::try_from(n).ok());
    Some(HealthCheck {
        port: port.and_then(|p| u16::try_from(p).ok()),
        interval: interval.unwrap_or(standard.interval),
        timeout: timeout.unwrap_or(standard.timeout),
        up: count(up).unwrap_or(standard.up),
        down: count(down).unwrap_or(standard.down),
        ..standard
    })
}

fn kind(cursor: &Cursor<'_>, fields: &mut Fields<'_>) -> Option<CheckKind> {
    let (http, grpc, tcp) = (fields.get("http"), fields.get("grpc"), fields.get("tcp"));
    match (http, grpc, tcp) {
        (Some(http), None, None) => path_and_query(&http).map(|path| CheckKind::Http { path }),
        (None, Some(grpc), None) => {
            let wanted = "a gRPC service's name, or \"\" for the whole server";
            // the empty value of a key means the server as a whole too
            let service = if grpc.is_null() { Some(String::new()) } else { grpc.parse(wanted, grpc_service) };
            service.map(|service| CheckKind::Grpc { service })
        }
        (None, None, Some(tcp)) => {
            if !tcp.is_empty() {
                tcp.fault_with("must be left empty", "write `port: 5432` beside it for another port");
                return None;
            }
            Some(CheckKind::Tcp)
        }
        _ => {
            cursor.fault(format!("must have exactly {KINDS}"));
            None
        }
    }
}

/// A path, which may have a query: it is asked, not matched.
fn path_and_query(cursor: &Cursor<'_>) -> Option<String> {
    match cursor.as_text() {
        Some(text) if text.contains('?') && text.starts_with('/') => {
            let fits = |t: &str| t.len() <= 2048 && !t.contains('#') && t.bytes().all(|b| b.is_ascii_graphic());
            cursor.parse("percent-encoded, at most 2048 bytes, without '#'", |t| fits(t).then(|| t.into()))
        }
        _ => path_text(cursor),
    }
}

fn grpc_service(text: &str) -> Option<String> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    (text.len() <= 253 && text.bytes().all(ok)).then(|| text.into())
}

/// `{name: db.example.com, port: 5432}` or `{name: _pg._tcp.example.com, records: srv}`. `None` has its fault.
pub(super) fn dns(cursor: &Cursor<'_>) -> Option<Dns> {
    let mut fields = cursor.map("a mapping such as {name: db.example.com, port: 5432}")?;
    let name = fields.required("name", "what is asked for, such as db.example.com").and_then(|c| domain_name(&c));
    let srv = fields.get("records").map(|c| c.choice(&[("address", false), ("srv", true)]));
    let port_at = fields.get("port");
    let port = port_at.as_ref().map(|c| c.integer(1..=65_535));
    let server = fields.get("server").map(|c| reachable(&c));
    let refresh = fields.get("refresh").and_then(|c| c.duration(REFRESH));
    fields.finish();
    let records = match (srv.unwrap_or(Some(false))?, port) {
        (true, None) => DnsRecords::Srv,
        (false, Some(port)) => DnsRecords::Address { port: u16::try_from(port?).ok()? },
        (true, Some(_)) => {
            let remedy = "leave it out, or write `records: address`";
            port_at.as_ref().unwrap_or(cursor).fault_with("is not for SRV records, which name their own ports", remedy);
            return None;
        }
        (false, None) => {
            let remedy = "add `port: 5432`, or `records: srv` where the records name it";
            cursor.sink().fault(&cursor.place_of(&["port"]), "must be given".into(), Some(remedy.into()));
            return None;
        }
    };
    // a server that is no address must not become the system's
    let server = server.map_or(Some(None), |server| server.map(Some))?;
    Some(Dns { name: name?, records, server, refresh: refresh.unwrap_or(30 * SECOND) })
}

/// In lower case and without the dot at the end: it is always taken from the root, no search list applies.
fn domain_name(cursor: &Cursor<'_>) -> Option<String> {
    let text = cursor.text("a DNS name")?;
    if text.parse::<IpAddr>().is_ok() {
        cursor.fault_with("is an address, not a name", "write it under instances");
        return None;
    }
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(ok);
    cursor.parse("a DNS name of letters, digits, '-', '_' and '.', at most 253 characters", |text| {
        let name = text.strip_suffix('.').unwrap_or(text);
        ((1..=253).contains(&name.len()) && name.split('.').all(label)).then(|| name.to_ascii_lowercase())
    })
}

/// Where an instance runs: a label's value, but not empty.
pub(super) fn zone(cursor: &Cursor<'_>) -> Option<String> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let wanted = "1..63 letters, digits, '-', '_' and '.'";
    cursor.parse(wanted, |text| ((1..=63).contains(&text.len()) && text.bytes().all(ok)).then(|| text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_the_bounds() {
        let check = HealthCheck::new(CheckKind::Tcp);
        assert!(
            INTERVAL.contains(&check.interval) && TIMEOUT.contains(&check.timeout) && REFRESH.contains(&(30 * SECOND))
        );
    }
}
