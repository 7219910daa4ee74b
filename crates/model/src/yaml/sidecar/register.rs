//! `sidecar.register`: what the registry is told of the application beside this sidecar.

use super::Peers;
use crate::name::ServiceName;
use crate::node::Register;
use crate::yaml::cursor::{Cursor, Entry};
use crate::yaml::service::{instance_id, labels};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

const MAX_PORTS: usize = 64;
const MAX_LABELS: usize = 64;

/// `None` has its fault.
pub(super) fn register(cursor: &Cursor<'_>, peers: &Peers) -> Option<Register> {
    let mut fields = cursor.map("a mapping of ports and more")?;
    if !peers.control {
        cursor.fault_with("needs a control plane, whose registry it is", "add sidecar.control");
    }
    if peers.inbound.is_none() {
        cursor.fault_with("needs sidecar.inbound, where peers reach the application", "add `inbound: ip:port`");
    }
    let written = fields.get("address").map(|c| c.parse("an IP address that peers can connect to", reachable));
    let address = written.unwrap_or_else(|| default_address(cursor, peers));
    let ports = fields.required("ports", "which port serves which service, such as {8080: shop}").map(|c| ports(&c));
    let id = fields.get("id").and_then(|c| c.parse("1..253 visible ASCII characters", instance_id));
    let weight = fields.get("weight").and_then(|c| c.integer(1..=1000));
    let zone = fields.get("zone").and_then(|c| c.parse("1..253 characters", zone));
    let labels = fields.get("labels").map(|c| bounded_labels(&c)).unwrap_or_default();
    let ttl = fields.get("ttl").and_then(|c| c.duration(Duration::from_secs(1)..=Duration::from_secs(600)));
    fields.finish();
    Some(Register {
        address: address?,
        ports: ports?,
        id,
        weight: weight.and_then(|w| u32::try_from(w).ok()).unwrap_or(1),
        zone,
        labels,
        ttl: ttl.unwrap_or(Duration::from_secs(15)),
    })
}

fn reachable(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
}

fn default_address(cursor: &Cursor<'_>, peers: &Peers) -> Option<IpAddr> {
    // without an inbound there is a fault already
    let inbound = peers.inbound??.ip();
    if inbound.is_unspecified() {
        let remedy = "add `address: ip`, the one that peers reach this host at";
        cursor.fault_with(format!("must say its address, since sidecar.inbound is {inbound}"), remedy);
        return None;
    }
    Some(inbound)
}

pub(super) fn zone(text: &str) -> Option<String> {
    ((1..=253).contains(&text.len()) && !text.chars().any(char::is_control)).then(|| text.into())
}

fn ports(cursor: &Cursor<'_>) -> BTreeMap<u16, ServiceName> {
    let mut ports: BTreeMap<u16, ServiceName> = BTreeMap::new();
    let entries = cursor.entries("a mapping of ports to services, such as {8080: shop}");
    if !(1..=MAX_PORTS).contains(&entries.len()) && (cursor.is_map() || cursor.is_null()) {
        cursor.fault(format!("must be 1..{MAX_PORTS} ports, got {}", entries.len()));
    }
    for entry in entries {
        let port = port(&entry);
        let Some(service) = entry.value.name(ServiceName::parse) else { continue };
        if ports.values().any(|other| *other == service) {
            let message = format!("service {service} has a port already; an instance has one");
            entry.value.fault_with(message, "register the other port by a sidecar of its own");
        }
        if let Some(port) = port {
            ports.insert(port, service);
        }
    }
    ports
}

fn port(entry: &Entry<'_>) -> Option<u16> {
    let port = entry.name.parse::<u16>().ok().filter(|port| *port != 0);
    if port.is_none() {
        entry.fault("a port is 1..65535");
    }
    port
}

fn bounded_labels(cursor: &Cursor<'_>) -> BTreeMap<String, String> {
    let labels = labels(cursor);
    if labels.len() > MAX_LABELS {
        cursor.fault(format!("must be at most {MAX_LABELS} labels, got {}", labels.len()));
    }
    labels
}
