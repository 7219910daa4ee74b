//! `services`: what is served, by which instances, and who may call it.
//!
//! It decides what each key of a service means and which defaults it has. It deliberately does not look up names: an
//! instance's address is an IP address and a port, and whoever knows names (discovery) writes those.

use super::cursor::{Cursor, Entry};
use super::health;
use super::mesh::Draft;
use super::place::Place;
use super::route;
use super::scalar::clipped;
use crate::name::{ServiceName, SpiffeId};
use crate::service::{Allow, Instance, Protocol, Service, Sidecar};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// `None` has its fault.
pub(super) fn service(entry: &Entry<'_>, name: &ServiceName, draft: &mut Draft) -> Option<Service> {
    let own = draft.identity(name.as_str()).map_err(|error| entry.fault(error.to_string())).ok()?;
    let mut service = Service::new(name.clone(), own);
    if entry.value.is_null() {
        return Some(service);
    }
    let Some(mut fields) = entry.value.map("a mapping") else { return Some(service) };
    service.protocol = fields.get("protocol").and_then(|c| c.choice(&Protocol::NAMES)).unwrap_or_default();
    service.policy = fields.get("policy").and_then(|c| draft.policy_ref(&c));
    if let Some(identity) = fields.get("identity").and_then(|c| c.name(|text| draft.identity(text))) {
        service.identity = identity;
    }
    service.health = fields.get("health").and_then(|c| health::health(&c));
    service.dns = fields.get("dns").and_then(|c| health::dns(&c));
    service.allow = fields.get("allow").map(|c| allow(&c, draft)).unwrap_or_default();
    if let Some(cursor) = fields.get("instances") {
        service.instances = instances(&cursor, &service.identity, draft);
    }
    if let Some(cursor) = fields.get("authorities") {
        service.authorities = route::authorities(&cursor);
    }
    for cursor in fields.get("addresses").iter().flat_map(|c| c.one_or_list("ip:port, or a list of them")) {
        service.addresses.extend(reachable(&cursor));
    }
    fields.finish();
    Some(service)
}

/// `mesh`, or a list of who may. Nothing written is a fault: it could be meant as everybody or as nobody.
fn allow(cursor: &Cursor<'_>, draft: &Draft) -> Allow {
    let wanted = "`mesh` or a list of identities";
    if cursor.is_null() {
        let remedy = "write [] to let nobody in, or mesh for every workload of the trust domain";
        cursor.must_be_or(wanted, Some(remedy.into()));
        return Allow::Only(Vec::new());
    }
    if let Some(text) = cursor.as_text() {
        if text != "mesh" {
            cursor.must_be_or(wanted, Some(format!("write [{}]", clipped(text))));
        }
        return Allow::Mesh;
    }
    let identity = |c: &Cursor<'_>| c.name(|text| draft.identity(text));
    let mut list: Vec<SpiffeId> = cursor.list(wanted).iter().filter_map(identity).collect();
    // a set: neither its order nor a repetition means anything
    list.sort();
    list.dedup();
    Allow::Only(list)
}

fn instances(cursor: &Cursor<'_>, identity: &SpiffeId, draft: &Draft) -> Vec<Instance> {
    let mut ids: BTreeMap<String, Place> = BTreeMap::new();
    let mut addresses: BTreeMap<SocketAddr, Place> = BTreeMap::new();
    let mut instances = Vec::new();
    for cursor in cursor.list("a list of instances") {
        let Some(instance) = instance(&cursor, identity, draft) else { continue };
        let place = cursor.place();
        if let Some(first) = ids.get(&instance.id) {
            let message = format!("has the id {}, as the instance in {}", instance.id, first.line_text());
            cursor.fault_with(message, "an id is unique within its service");
        } else if let Some(first) = addresses.get(&instance.address) {
            let message = format!("has the address {}, as the instance in {}", instance.address, first.line_text());
            cursor.fault_with(message, "an address is unique within its service");
        }
        ids.entry(instance.id.clone()).or_insert_with(|| place.clone());
        addresses.entry(instance.address).or_insert(place);
        instances.push(instance);
    }
    instances
}

fn instance(cursor: &Cursor<'_>, service: &SpiffeId, draft: &Draft) -> Option<Instance> {
    let plain = |address: SocketAddr| Instance {
        id: address.to_string(),
        address,
        sidecar: None,
        weight: 1,
        labels: BTreeMap::new(),
        zone: None,
        down: false,
    };
    if !cursor.is_map() {
        return reachable(cursor).map(plain);
    }
    let mut fields = cursor.map("an instance")?;
    let mut instance =
        fields.required("address", "where the application listens").and_then(|c| reachable(&c)).map(plain);
    let id = fields.get("id").and_then(|c| c.parse("1..253 visible ASCII characters", instance_id));
    let inbound = fields.get("sidecar").map(|c| (reachable(&c), c));
    let identity = fields.get("identity").map(|c| (c.name(|text| draft.identity(text)), c));
    let weight = fields.get("weight").and_then(|c| c.integer(1..=1000));
    let labels = fields.get("labels").map(|c| labels(&c));
    let zone = fields.get("zone").and_then(|c| health::zone(&c));
    fields.finish();
    if let (None, Some((_, cursor))) = (&inbound, &identity) {
        cursor.fault_with("needs a sidecar, which proves it", "add `sidecar: ip:port`, or leave the identity out");
    }
    let instance_of = instance.as_mut()?;
    if let Some((Some(inbound), _)) = inbound {
        let identity = identity.and_then(|(identity, _)| identity).unwrap_or_else(|| service.clone());
        instance_of.sidecar = Some(Sidecar { inbound, identity });
    }
    instance_of.id = id.unwrap_or_else(|| instance_of.id.clone());
    instance_of.weight = weight.and_then(|w| u32::try_from(w).ok()).unwrap_or(1);
    instance_of.labels = labels.unwrap_or_default();
    instance_of.zone = zone;
    instance
}

/// An address that can be connected to.
pub(super) fn reachable(cursor: &Cursor<'_>) -> Option<SocketAddr> {
    let address =
        cursor.parse("ip:port, such as 10.0.0.7:8080 or [::1]:8080", |text| text.parse::<SocketAddr>().ok())?;
    if address.port() == 0 || address.ip().is_unspecified() {
        cursor.fault(format!("must be an address that can be connected to, got {address}"));
        return None;
    }
    Some(address)
}

pub(super) fn instance_id(text: &str) -> Option<String> {
    ((1..=253).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())).then(|| text.into())
}

/// Label names and values, as Kubernetes has them: 1..253 and 0..63 characters.
pub(super) fn labels(cursor: &Cursor<'_>) -> BTreeMap<String, String> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    let mut labels = BTreeMap::new();
    for entry in cursor.entries("a mapping of labels") {
        if !(1..=253).contains(&entry.name.len()) || !entry.name.bytes().all(ok) {
            entry.fault("a label's name is 1..253 letters, digits, '-', '_', '.' and '/'");
        }
        let value = entry.value.parse("0..63 letters, digits, '-', '_' and '.'", |text| {
            (text.len() <= 63 && text.bytes().all(|b| ok(b) && b != b'/')).then(|| text.to_owned())
        });
        labels.extend(value.map(|value| (entry.name.to_owned(), value)));
    }
    labels
}
