//! From model to wire. Total: what the model holds can always be said.
//!
//! It decides how a value is written, and therefore what its content hash covers. It deliberately leaves out what the
//! receiver has no use for: a policy's `target`, which `compile` has already turned into `Service.policy` and `subsets`.
//!
//! Invariant: the same value always becomes the same bytes (no maps in the protos; labels go in the order of their
//! names), so that a content hash means the same on both sides and across restarts.

mod policy;
mod routes;

pub(crate) use policy::CAUSES;

use crate::{kind_to_wire, v1};
use fusewire_model::health::{CheckKind, HealthCheck};
use fusewire_model::policy::Plain;
use fusewire_model::resource::{
    Answer, Endpoints, Inbound, InboundPort, Overrides, Resource, ServiceSettings, Subscription, Trust,
};
use fusewire_model::service::{Allow, Hold, Instance, Override, Protocol};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

pub fn resource_to_wire(resource: &Resource) -> v1::Resource {
    let body = body(resource);
    v1::Resource { name: resource.key().name, hash: content_hash(&body), body: Some(body) }
}

/// The first 16 hex characters of the SHA-256 of the body's encoding. The kind is part of it, the name is not.
pub fn content_hash(body: &v1::resource::Body) -> String {
    let mut bytes = Vec::with_capacity(body.encoded_len());
    body.encode(&mut bytes);
    let digest = Sha256::digest(&bytes);
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What turns `old` into `new`. Both are in the order of their ids, as the model promises.
pub fn change_between(old: &Endpoints, base_hash: &str, new: &Endpoints, hash: &str) -> v1::EndpointsChange {
    let before: BTreeMap<&str, &Instance> = old.instances.iter().map(|i| (i.id.as_str(), &**i)).collect();
    let after: BTreeMap<&str, &Instance> = new.instances.iter().map(|i| (i.id.as_str(), &**i)).collect();
    let changed = after.iter().filter(|(id, instance)| before.get(*id) != Some(*instance));
    let gone = before.keys().filter(|id| !after.contains_key(*id));
    v1::EndpointsChange {
        service: new.service.to_string(),
        base_hash: base_hash.to_owned(),
        hash: hash.to_owned(),
        upserted: changed.map(|(_, i)| instance_to_wire(i)).collect(),
        removed: gone.map(|id| (*id).to_owned()).collect(),
    }
}

pub fn target_to_wire(subscription: &Subscription) -> v1::Target {
    use v1::target::Target;
    let target = match subscription {
        Subscription::Service(name) => Target::Service(name.to_string()),
        Subscription::Authority(authority) => Target::Authority(authority.to_string()),
        Subscription::Address(address) => Target::Address(address.to_string()),
    };
    v1::Target { target: Some(target) }
}

pub fn answer_to_wire(subscription: &Subscription, answer: &Answer) -> v1::Answer {
    let target = Some(target_to_wire(subscription));
    match answer {
        Answer::Found(key) => {
            v1::Answer { target, found: true, kind: kind_to_wire(key.kind).into(), name: key.name.clone() }
        }
        Answer::NotFound => {
            v1::Answer { target, found: false, kind: v1::Kind::Unspecified.into(), name: String::new() }
        }
    }
}

pub(crate) fn body(resource: &Resource) -> v1::resource::Body {
    use v1::resource::Body;
    match resource {
        Resource::Trust(t) => Body::Trust(trust(t)),
        Resource::Policy(p) => Body::Policy(policy::policy(p)),
        Resource::Service(s) => Body::Service(service(s)),
        Resource::Endpoints(e) => Body::Endpoints(endpoints(e)),
        Resource::Override(o) => Body::Overrides(overrides(o)),
        Resource::Inbound(i) => Body::Inbound(inbound(i)),
        Resource::Route(r) => Body::Route(routes::route(r)),
    }
}

fn trust(trust: &Trust) -> v1::Trust {
    v1::Trust {
        trust_domain: trust.trust_domain.clone(),
        bundle_pem: trust.bundle.clone(),
        signer: trust.signer.clone(),
        denied: trust.denied.iter().map(ToString::to_string).collect(),
    }
}

fn service(service: &ServiceSettings) -> v1::Service {
    let subset =
        |s: &fusewire_model::resource::Subset| v1::Subset { labels: labels(&s.labels), policy: s.policy.to_string() };
    v1::Service {
        protocol: protocol(service.protocol).into(),
        policy: service.policy.as_ref().map(ToString::to_string).unwrap_or_default(),
        subsets: service.subsets.iter().map(subset).collect(),
        health: service.health.as_ref().map(health_check),
        plain_callers: service.plain.callers == Plain::Allow,
        plain_instances: service.plain.instances == Plain::Allow,
        direct: service.direct,
    }
}

fn labels(labels: &BTreeMap<String, String>) -> Vec<v1::Label> {
    labels.iter().map(|(name, value)| v1::Label { name: name.clone(), value: value.clone() }).collect()
}

fn protocol(protocol: Protocol) -> v1::Protocol {
    match protocol {
        Protocol::Http => v1::Protocol::Http,
        Protocol::Http1 => v1::Protocol::Http1,
        Protocol::Http2 => v1::Protocol::Http2,
        Protocol::Opaque => v1::Protocol::Opaque,
    }
}

pub(crate) fn endpoints(endpoints: &Endpoints) -> v1::Endpoints {
    v1::Endpoints { instances: endpoints.instances.iter().map(|i| instance_to_wire(i)).collect() }
}

/// An instance by itself.
pub fn instance_to_wire(instance: &Instance) -> v1::Instance {
    let sidecar = instance.sidecar.as_ref();
    v1::Instance {
        id: instance.id.clone(),
        address: instance.address.to_string(),
        inbound: sidecar.map(|s| s.inbound.to_string()).unwrap_or_default(),
        identity: sidecar.map(|s| s.identity.to_string()).unwrap_or_default(),
        weight: instance.weight,
        labels: labels(&instance.labels),
        zone: instance.zone.clone().unwrap_or_default(),
        down: instance.down,
    }
}

fn health_check(check: &HealthCheck) -> v1::HealthCheck {
    use v1::health_check::Kind;
    v1::HealthCheck {
        kind: Some(match &check.kind {
            CheckKind::Http { path } => Kind::Http(v1::HttpCheck { path: path.clone() }),
            CheckKind::Grpc { service } => Kind::Grpc(v1::GrpcCheck { service: service.clone() }),
            CheckKind::Tcp => Kind::Tcp(v1::TcpCheck {}),
        }),
        port: check.port.map_or(0, u32::from),
        interval_ms: millis(check.interval),
        timeout_ms: millis(check.timeout),
        up: check.up,
        down: check.down,
    }
}

fn overrides(overrides: &Overrides) -> v1::Overrides {
    let one = |o: &Override| v1::Override {
        instance: o.instance.clone().unwrap_or_default(),
        hold: match o.breaker {
            Hold::Open => v1::r#override::Hold::Open,
            Hold::Closed => v1::r#override::Hold::Closed,
        }
        .into(),
        owner: o.owner.clone(),
        reason: o.reason.clone(),
        until: o.until,
    };
    v1::Overrides { overrides: overrides.overrides.iter().map(one).collect() }
}

fn inbound(inbound: &Inbound) -> v1::Inbound {
    let port = |p: &InboundPort| v1::InboundPort {
        port: p.port.into(),
        service: p.service.to_string(),
        protocol: protocol(p.protocol).into(),
        allow_mesh: p.allow == Allow::Mesh,
        allow: match &p.allow {
            Allow::Mesh => Vec::new(),
            Allow::Only(list) => list.iter().map(ToString::to_string).collect(),
        },
        health: p.health.as_ref().map(health_check),
        instance: p.instance.clone().unwrap_or_default(),
        policy: p.policy.as_ref().map(ToString::to_string).unwrap_or_default(),
        plain_callers: p.plain == Plain::Allow,
    };
    v1::Inbound { ports: inbound.ports.iter().map(port).collect() }
}

/// A part of a millisecond counts as a whole one, so that nothing becomes "at once".
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
