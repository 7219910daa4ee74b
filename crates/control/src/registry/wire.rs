//! Registrations between the wire, the registry and the store.
//!
//! It decides what a well-formed registration is, and tells all of its faults at once, each with its field.

use super::persist::Record;
use fusewire_api::v1;
use fusewire_discovery::registry::{Key, Registered, Registration, State, Stored};
use fusewire_model::health::Health;
use fusewire_model::{ServiceName, SpiffeId};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const MAX_PORTS: usize = 64;
const MAX_LABEL_BYTES: usize = 4_096;
const MAX_LABELS: usize = 64;
const MAX_ID: usize = 253;
const DEFAULT_TTL_MS: u64 = 15_000;
const TTL_MS: std::ops::RangeInclusive<u64> = 1_000..=600_000;

/// `field: what is wrong and what would be right`, one for each fault.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Faults(pub(super) Vec<String>);

impl Faults {
    pub(super) fn add(&mut self, field: &str, what: impl std::fmt::Display) {
        self.0.push(format!("{field}: {what}"));
    }
}

pub(super) fn id_ok(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
}

/// The id beside it.
pub(super) fn registration(wire: v1::Registration) -> Result<(String, Registration), Faults> {
    let mut faults = Faults::default();
    if !id_ok(&wire.id) {
        faults.add("id", format_args!("must be 1..{MAX_ID} visible ASCII characters, such as a pod's UID"));
    }
    let host = wire.host.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
    if host.is_none() {
        faults.add("host", "must be an IP address that can be connected to, such as 10.0.0.7; names are not resolved");
    }
    let ports = ports(&wire.ports, &mut faults);
    let sidecar = match wire.sidecar.as_str() {
        "" => None,
        text => {
            let address = text.parse::<SocketAddr>().ok();
            let address = address.filter(|a| a.port() != 0 && !a.ip().is_unspecified() && !a.ip().is_multicast());
            if address.is_none() {
                faults.add(
                    "sidecar",
                    "must be IP:port where the sidecar takes mTLS, such as 10.0.0.7:15006; empty where there is none",
                );
            }
            address
        }
    };
    if wire.weight > 1_000 {
        faults.add("weight", format_args!("must be 1..1000, got {}", wire.weight));
    }
    if wire.zone.len() > MAX_ID || wire.zone.chars().any(char::is_control) {
        faults.add("zone", format_args!("must be at most {MAX_ID} bytes, without control characters"));
    }
    let labels = labels(wire.metadata, &mut faults);
    let ttl = if wire.ttl_ms == 0 { DEFAULT_TTL_MS } else { wire.ttl_ms };
    if !TTL_MS.contains(&ttl) {
        faults.add("ttl_ms", format_args!("must be {}..{}, got {ttl}", TTL_MS.start(), TTL_MS.end()));
    }
    match host {
        Some(host) if faults.0.is_empty() => {
            let zone = Some(wire.zone).filter(|zone| !zone.is_empty());
            let (weight, ttl) = (wire.weight.max(1), Duration::from_millis(ttl));
            Ok((wire.id, Registration { host, ports, sidecar, weight, zone, labels, ttl }))
        }
        _ => Err(faults),
    }
}

fn ports(wire: &[v1::Port], faults: &mut Faults) -> BTreeMap<ServiceName, u16> {
    let mut ports = BTreeMap::new();
    if !(1..=MAX_PORTS).contains(&wire.len()) {
        faults.add("ports", format_args!("must be 1..{MAX_PORTS} ports, each with its service, got {}", wire.len()));
    }
    for (i, entry) in wire.iter().take(MAX_PORTS).enumerate() {
        let port = u16::try_from(entry.port).ok().filter(|port| *port != 0);
        if port.is_none() {
            faults.add(&format!("ports[{i}].port"), format_args!("must be 1..65535, got {}", entry.port));
        }
        match ServiceName::parse(&entry.service) {
            Err(error) => faults.add(&format!("ports[{i}].service"), error),
            Ok(name) if ports.contains_key(&name) => faults.add(
                &format!("ports[{i}].service"),
                format_args!("{name} is named twice; an instance has one port: register the other under another id"),
            ),
            Ok(name) => drop(ports.insert(name, port.unwrap_or(1))),
        }
    }
    ports
}

/// As the YAML has them.
fn labels(wire: std::collections::BTreeMap<String, String>, faults: &mut Faults) -> BTreeMap<String, String> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    if wire.len() > MAX_LABELS {
        faults.add("metadata", format_args!("must be at most {MAX_LABELS} labels, got {}", wire.len()));
        return BTreeMap::new();
    }
    let labels: BTreeMap<String, String> = wire.into_iter().collect();
    let bytes: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_LABEL_BYTES {
        // every caller is told of them: what is larger would not fit a service's message
        faults.add("metadata", format_args!("must be at most {MAX_LABEL_BYTES} bytes together, got {bytes}"));
    }
    for (name, value) in &labels {
        let shown: String = name.chars().take(80).collect();
        if !(1..=253).contains(&name.len()) || !name.bytes().all(ok) {
            faults.add(
                "metadata",
                format_args!("the name {shown:?} must be 1..253 letters, digits, '-', '_', '.' and '/'"),
            );
        }
        if value.len() > 63 || !value.bytes().all(|b| ok(b) && b != b'/') {
            let what = "must be 0..63 letters, digits, '-', '_' and '.'";
            faults.add("metadata", format_args!("the value of {shown:?} {what}"));
        }
    }
    labels
}

fn to_wire(key: &Key, registration: &Registration) -> v1::Registration {
    let port = |(service, port): (&ServiceName, &u16)| v1::Port { port: (*port).into(), service: service.to_string() };
    v1::Registration {
        id: key.id.clone(),
        host: registration.host.to_string(),
        ports: registration.ports.iter().map(port).collect(),
        sidecar: registration.sidecar.map(|address| address.to_string()).unwrap_or_default(),
        weight: registration.weight,
        zone: registration.zone.clone().unwrap_or_default(),
        metadata: registration.labels.clone().into_iter().collect(),
        ttl_ms: millis(registration.ttl),
        starting: false,
    }
}

fn report((service, state): (&ServiceName, &State)) -> v1::Report {
    v1::Report {
        service: service.to_string(),
        health: health_to_wire(state.health).into(),
        detail: state.detail.clone(),
        instance: String::new(),
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What the store keeps of it. `home`: this replica's name; `said`: when it heard that.
pub(super) fn record(it: &Registered<'_>, home: &str, said: u64) -> Record {
    Record {
        registration: Some(to_wire(it.key, it.registration)),
        identity: it.key.identity.to_string(),
        home: home.to_owned(),
        health: it.health.iter().map(report).collect(),
        said,
    }
}

/// `None`: of a build that meant something else.
pub(super) fn stored(record: Record) -> Option<(Stored, String)> {
    let identity = SpiffeId::parse(&record.identity).ok()?;
    let (id, registration) = registration(record.registration?).ok()?;
    let state = |report: v1::Report| {
        let state = State { health: health_from_wire(report.health)?, detail: report.detail };
        Some((ServiceName::parse(&report.service).ok()?, state))
    };
    let health = record.health.into_iter().filter_map(state).collect();
    Some((Stored { key: Key { identity, id }, registration, health }, record.home))
}

pub(crate) fn health_to_wire(health: Health) -> v1::Health {
    match health {
        Health::Unchecked => v1::Health::Unspecified,
        Health::Starting => v1::Health::Starting,
        Health::Up => v1::Health::Up,
        Health::Down => v1::Health::Down,
    }
}

/// `None`: unknown to this build.
pub(crate) fn health_from_wire(health: i32) -> Option<Health> {
    Some(match v1::Health::try_from(health).ok()? {
        v1::Health::Unspecified => Health::Unchecked,
        v1::Health::Starting => Health::Starting,
        v1::Health::Up => Health::Up,
        v1::Health::Down => Health::Down,
    })
}
