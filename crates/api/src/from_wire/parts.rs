//! Every resource but routes, from the wire; and the small checks that all of them share.

use super::{At, Fault, each, policy_name, service_name};
use crate::v1;
use fusewire_model::health::{CheckKind, HealthCheck};
use fusewire_model::policy::{Plain, PlainDefaults};
use fusewire_model::resource::{Endpoints, Inbound, InboundPort, Overrides, ServiceSettings, Subset, Trust};
use fusewire_model::service::{Allow, Hold, Instance, Override, Protocol, Sidecar};
use fusewire_model::{ServiceName, SpiffeId, TrustDomain};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Of one service: some 13 MB on the wire, under [`crate::MAX_MESSAGE_BYTES`].
pub(super) const MAX_INSTANCES: usize = 65_536;
/// Of any one free text.
pub(super) const MAX_TEXT: usize = 8_192;
const MAX_ID: usize = 1_024;
const MAX_LABELS: usize = 256;
const MAX_SUBSETS: usize = 1_000;
const MAX_OVERRIDES: usize = 10_000;
const MAX_ALLOWED: usize = 10_000;
const MAX_BUNDLE: usize = 1 << 20;
const MAX_INSTANCE_WEIGHT: u32 = 1_000;
/// Of any duration: far above what anyone means, far below what overflows when it is added to a clock.
const MAX_SPAN: Duration = Duration::from_secs(366 * 24 * 3600);

pub(super) fn trust(name: &str, trust: v1::Trust) -> Result<Trust, Fault> {
    let domain = TrustDomain::parse(&trust.trust_domain).map_err(|e| Fault::new(e.to_string())).at("trust_domain")?;
    if domain.as_str() != name {
        return Err(Fault::new(format!("must be the resource's name, got {domain}"))).at("trust_domain");
    }
    at_most(MAX_BUNDLE, trust.bundle_pem.len(), "bytes").at("bundle_pem")?;
    if !trust.bundle_pem.contains("-----BEGIN CERTIFICATE-----") {
        return Err(Fault::new("must hold at least one PEM certificate")).at("bundle_pem");
    }
    let denied = each(trust.denied, "denied", MAX_ALLOWED, |text| spiffe_id(&text))?;
    let signer = text(trust.signer, MAX_ID).at("signer")?;
    Ok(Trust { trust_domain: trust.trust_domain, bundle: trust.bundle_pem, signer, denied })
}

pub(super) fn narrow<T: TryFrom<u32>>(value: u32, step: &str) -> Result<T, Fault> {
    T::try_from(value).map_err(|_| Fault::new(format!("{value} is out of range"))).at(step)
}

pub(super) fn span(ms: u64, step: &str) -> Result<Duration, Fault> {
    let duration = Duration::from_millis(ms);
    if duration > MAX_SPAN {
        return Err(Fault::new(format!("must be at most {} ms, got {ms}", MAX_SPAN.as_millis()))).at(step);
    }
    Ok(duration)
}

pub(super) fn timeout(ms: u64, step: &str) -> Result<Duration, Fault> {
    if ms == 0 {
        return Err(Fault::new("must be at least 1 ms")).at(step);
    }
    span(ms, step)
}

pub(super) fn service(name: &str, service: v1::Service) -> Result<ServiceSettings, Fault> {
    let subset = |s: v1::Subset| {
        let policy = policy_name(&s.policy)?.ok_or_else(|| Fault::new("is missing")).at("policy")?;
        Ok(Subset { labels: labels(s.labels)?, policy })
    };
    Ok(ServiceSettings {
        name: service_name(name)?,
        protocol: protocol(service.protocol)?,
        policy: policy_name(&service.policy)?,
        subsets: each(service.subsets, "subsets", MAX_SUBSETS, subset)?,
        health: service.health.map(health_check).transpose().at("health")?,
        plain: PlainDefaults { callers: plain(service.plain_callers), instances: plain(service.plain_instances) },
        direct: service.direct,
    })
}

pub(super) fn plain(allowed: bool) -> Plain {
    if allowed { Plain::Allow } else { Plain::Deny }
}

fn labels(list: Vec<v1::Label>) -> Result<BTreeMap<String, String>, Fault> {
    at_most(MAX_LABELS, list.len(), "labels")?;
    let mut labels = BTreeMap::new();
    for (i, label) in list.into_iter().enumerate() {
        let step = format!("labels[{i}]");
        let name = id(label.name).at("name").at(&step)?;
        let value = text(label.value, MAX_TEXT).at("value").at(&step)?;
        if labels.insert(name, value).is_some() {
            return Err(Fault::new("another label has the same name")).at("name").at(step);
        }
    }
    Ok(labels)
}

fn protocol(protocol: i32) -> Result<Protocol, Fault> {
    match v1::Protocol::try_from(protocol) {
        Ok(v1::Protocol::Http) => Ok(Protocol::Http),
        Ok(v1::Protocol::Http1) => Ok(Protocol::Http1),
        Ok(v1::Protocol::Http2) => Ok(Protocol::Http2),
        Ok(v1::Protocol::Opaque) => Ok(Protocol::Opaque),
        Ok(v1::Protocol::Unspecified) | Err(_) => {
            Err(Fault::new(format!("{protocol} is no protocol that this build knows"))).at("protocol")
        }
    }
}

pub(super) fn endpoints(name: &str, endpoints: v1::Endpoints) -> Result<Endpoints, Fault> {
    let service = service_name(name)?;
    let instances = instances(endpoints.instances, "instances")?;
    Ok(Endpoints { service, instances: instances.into_iter().map(Into::into).collect() })
}

/// In the order of their ids, whatever order they came in; no id twice.
pub(super) fn instances(list: Vec<v1::Instance>, step: &str) -> Result<Vec<Instance>, Fault> {
    let mut instances = each(list, step, MAX_INSTANCES, instance)?;
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    match instances.windows(2).find(|pair| pair[0].id == pair[1].id) {
        Some(pair) => Err(Fault::new(format!("two instances have the id {:?}", pair[0].id))).at(step),
        None => Ok(instances),
    }
}

fn instance(instance: v1::Instance) -> Result<Instance, Fault> {
    let address = address(&instance.address).at("address")?;
    let sidecar = match (instance.inbound.as_str(), instance.identity.as_str()) {
        ("", "") => None,
        ("", _) => return Err(Fault::new("is missing; an instance with an identity has both")).at("inbound"),
        (_, "") => return Err(Fault::new("is missing; an instance with a sidecar has both")).at("identity"),
        (inbound, identity) => Some(Sidecar {
            inbound: self::address(inbound).at("inbound")?,
            identity: spiffe_id(identity).at("identity")?,
        }),
    };
    if !(1..=MAX_INSTANCE_WEIGHT).contains(&instance.weight) {
        let message = format!("must be 1..={MAX_INSTANCE_WEIGHT}, got {}", instance.weight);
        return Err(Fault::new(message)).at("weight");
    }
    Ok(Instance {
        id: id(instance.id).at("id")?,
        address,
        sidecar,
        weight: instance.weight,
        labels: labels(instance.labels)?,
        zone: optional_text(instance.zone).at("zone")?,
        down: instance.down,
    })
}

pub(super) fn overrides(name: &str, overrides: v1::Overrides) -> Result<Overrides, Fault> {
    let service = service_name(name)?;
    let list = each(overrides.overrides, "overrides", MAX_OVERRIDES, |o| one_override(&service, o))?;
    Ok(Overrides { service, overrides: list })
}

fn one_override(service: &ServiceName, wire: v1::Override) -> Result<Override, Fault> {
    let breaker = match v1::r#override::Hold::try_from(wire.hold) {
        Ok(v1::r#override::Hold::Open) => Hold::Open,
        Ok(v1::r#override::Hold::Closed) => Hold::Closed,
        Ok(v1::r#override::Hold::Unspecified) | Err(_) => {
            return Err(Fault::new(format!("{} is no hold that this build knows", wire.hold))).at("hold");
        }
    };
    let instance = if wire.instance.is_empty() { None } else { Some(id(wire.instance).at("instance")?) };
    Ok(Override {
        service: service.clone(),
        instance,
        breaker,
        owner: text(wire.owner, MAX_TEXT).at("owner")?,
        reason: text(wire.reason, MAX_TEXT).at("reason")?,
        until: wire.until,
    })
}

pub(super) fn inbound(name: &str, inbound: v1::Inbound) -> Result<Inbound, Fault> {
    let workload = spiffe_id(name)?;
    let ports = each(inbound.ports, "ports", usize::from(u16::MAX), inbound_port)?;
    let mut seen = std::collections::BTreeSet::new();
    match ports.iter().find(|p| !seen.insert(p.port)) {
        Some(twice) => Err(Fault::new(format!("port {} is there twice", twice.port))).at("ports"),
        None => Ok(Inbound { workload, ports }),
    }
}

fn inbound_port(wire: v1::InboundPort) -> Result<InboundPort, Fault> {
    let port = u16::try_from(wire.port).ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| Fault::new(format!("must be 1..=65535, got {}", wire.port))).at("port")?;
    let allowed = each(wire.allow, "allow", MAX_ALLOWED, |text| spiffe_id(&text))?;
    Ok(InboundPort {
        port,
        service: service_name(&wire.service).at("service")?,
        protocol: protocol(wire.protocol)?,
        allow: if wire.allow_mesh { Allow::Mesh } else { Allow::Only(allowed) },
        health: wire.health.map(health_check).transpose().at("health")?,
        instance: optional_text(wire.instance).at("instance")?,
        policy: policy_name(&wire.policy)?,
        plain: plain(wire.plain_callers),
    })
}

fn health_check(wire: v1::HealthCheck) -> Result<HealthCheck, Fault> {
    use v1::health_check::Kind;
    let kind = match wire.kind {
        Some(Kind::Http(http)) => CheckKind::Http { path: text(http.path, MAX_TEXT).at("http.path")? },
        Some(Kind::Grpc(grpc)) => CheckKind::Grpc { service: text(grpc.service, MAX_TEXT).at("grpc.service")? },
        Some(Kind::Tcp(_)) => CheckKind::Tcp,
        None => return Err(Fault::new("is of no kind that this build knows")),
    };
    if wire.up == 0 || wire.down == 0 {
        return Err(Fault::new("up and down must be at least 1"));
    }
    Ok(HealthCheck {
        kind,
        port: Some(narrow(wire.port, "port")?).filter(|port| *port != 0),
        interval: timeout(wire.interval_ms, "interval_ms")?,
        timeout: timeout(wire.timeout_ms, "timeout_ms")?,
        up: wire.up,
        down: wire.down,
    })
}

/// Empty means none.
fn optional_text(value: String) -> Result<Option<String>, Fault> {
    let value = text(value, MAX_ID)?;
    Ok(Some(value).filter(|value| !value.is_empty()))
}

fn spiffe_id(text: &str) -> Result<SpiffeId, Fault> {
    SpiffeId::parse(text).map_err(|e| Fault::new(e.to_string()))
}

pub(super) fn address(text: &str) -> Result<SocketAddr, Fault> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        Ok(_) => Err(Fault::new("the port must not be 0")),
        Err(_) => {
            let shown: String = text.chars().take(80).collect();
            Err(Fault::new(format!("{shown:?} is not IP:port (IPv6 in brackets); names are not resolved here")))
        }
    }
}

fn id(id: String) -> Result<String, Fault> {
    if id.is_empty() { Err(Fault::new("must not be empty")) } else { text(id, MAX_ID) }
}

/// Free text that will be shown and compared: bounded, without control characters.
pub(super) fn text(text: String, max: usize) -> Result<String, Fault> {
    at_most(max, text.len(), "bytes")?;
    if text.chars().any(char::is_control) {
        return Err(Fault::new("must not hold control characters"));
    }
    Ok(text)
}

pub(super) fn at_most(max: usize, got: usize, of: &str) -> Result<(), Fault> {
    if got > max { Err(Fault::new(format!("at most {max} {of}, got {got}"))) } else { Ok(()) }
}
