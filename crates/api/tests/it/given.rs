//! Arbitrary model values, within what the model allows.

mod policy;
mod routes;

use fusewire_model::health::{CheckKind, HealthCheck};
use fusewire_model::policy::{Plain, PlainDefaults};
use fusewire_model::resource::{
    Endpoints, Inbound, InboundPort, Overrides, Resource, ServiceSettings, Subscription, Subset, Trust,
};
use fusewire_model::route::Authority;
use fusewire_model::service::{Allow, Hold, Instance, Override, Protocol, Sidecar};
use fusewire_model::{PolicyName, ServiceName, SpiffeId};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

fn dns() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,5})?(\\.[a-z0-9]{1,6}){0,2}"
}
fn service_name() -> impl Strategy<Value = ServiceName> {
    dns().prop_map(|text| ServiceName::parse(&text).unwrap())
}
fn policy_name() -> impl Strategy<Value = PolicyName> {
    dns().prop_map(|text| PolicyName::parse(&text).unwrap())
}
fn spiffe_id() -> impl Strategy<Value = SpiffeId> {
    ("[a-z][a-z0-9.]{0,6}[a-z]", "[a-zA-Z0-9_-]{1,9}(/[a-zA-Z0-9_-]{1,9}){0,2}")
        .prop_filter_map("a SPIFFE ID", |(td, path)| SpiffeId::parse(&format!("spiffe://{td}/{path}")).ok())
}
fn authority() -> impl Strategy<Value = Authority> {
    (dns(), option::of(any::<u16>()))
        .prop_map(|(host, port)| port.map_or(host.clone(), |p| format!("{host}:{p}")))
        .prop_map(|text| Authority::parse(&text).unwrap())
}
fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), 1..=u16::MAX).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}
fn text() -> impl Strategy<Value = String> {
    "[ -~äö€]{0,20}"
}
fn ms(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}
fn labels() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    btree_map("[a-z][a-z0-9./_-]{0,10}", text(), 0..4)
}
fn protocol() -> impl Strategy<Value = Protocol> {
    select(Protocol::NAMES.map(|(_, protocol)| protocol).to_vec())
}

fn health() -> impl Strategy<Value = Option<HealthCheck>> {
    let kind = prop_oneof![
        "/[a-z/?=]{0,9}".prop_map(|path| CheckKind::Http { path }),
        "[a-zA-Z.]{0,12}".prop_map(|service| CheckKind::Grpc { service }),
        Just(CheckKind::Tcp)
    ];
    let counts = (1u32..=100, 1u32..=100);
    let check = (kind, option::of(1..=u16::MAX), ms(100..=3_600_000), ms(10..=60_000), counts).prop_map(
        |(kind, port, interval, timeout, (up, down))| HealthCheck { kind, port, interval, timeout, up, down },
    );
    option::of(check)
}

fn trust() -> impl Strategy<Value = Resource> {
    let pem = |body| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    (dns(), "[A-Za-z0-9+/]{4,64}", "[a-f0-9]{0,64}", vec(spiffe_id(), 0..3)).prop_map(
        move |(trust_domain, body, signer, denied)| {
            Resource::Trust(Trust { trust_domain, bundle: pem(body), signer, denied }.into())
        },
    )
}

fn service() -> impl Strategy<Value = Resource> {
    let subset = (labels(), policy_name()).prop_map(|(labels, policy)| Subset { labels, policy });
    let defaults = (plain(), plain()).prop_map(|(callers, instances)| PlainDefaults { callers, instances });
    (service_name(), protocol(), option::of(policy_name()), vec(subset, 0..3), health(), defaults, any::<bool>())
        .prop_map(|(name, protocol, policy, subsets, health, plain, direct)| {
            Resource::Service(ServiceSettings { name, protocol, policy, subsets, health, plain, direct }.into())
        })
}

pub(super) fn plain() -> impl Strategy<Value = Plain> {
    any::<bool>().prop_map(|allowed| if allowed { Plain::Allow } else { Plain::Deny })
}

fn instance() -> impl Strategy<Value = Instance> {
    let sidecar = (address(), spiffe_id()).prop_map(|(inbound, identity)| Sidecar { inbound, identity });
    let found = (option::of("[a-z0-9-]{1,9}"), any::<bool>());
    ("[a-d][a-f0-9:.]{0,2}", address(), option::of(sidecar), 1u32..=1000, labels(), found).prop_map(
        |(id, address, sidecar, weight, labels, (zone, down))| Instance {
            id,
            address,
            sidecar,
            weight,
            labels,
            zone,
            down,
        },
    )
}

/// Few enough ids that two of them often share some.
pub(crate) fn endpoints_of(service: &'static str) -> impl Strategy<Value = Endpoints> {
    vec(instance(), 0..12).prop_map(move |list| {
        let by_id: std::collections::BTreeMap<_, _> = list.into_iter().map(|i| (i.id.clone(), Arc::new(i))).collect();
        Endpoints { service: ServiceName::parse(service).unwrap(), instances: by_id.into_values().collect() }
    })
}

fn overrides() -> impl Strategy<Value = Resource> {
    let one = (option::of("[a-z0-9-]{1,9}"), any::<bool>(), text(), text(), option::of(any::<u64>()));
    (service_name(), vec(one, 0..4)).prop_map(|(service, list)| {
        let name = service.clone();
        let overrides = list.into_iter().map(|(instance, open, owner, reason, until)| Override {
            service: name.clone(),
            instance,
            breaker: if open { Hold::Open } else { Hold::Closed },
            owner,
            reason,
            until,
        });
        Resource::Override(Overrides { service, overrides: overrides.collect() }.into())
    })
}

fn inbound() -> impl Strategy<Value = Resource> {
    let allow = prop_oneof![Just(Allow::Mesh), vec(spiffe_id(), 0..3).prop_map(Allow::Only)];
    let ports = btree_map(
        1..=u16::MAX,
        (service_name(), protocol(), allow, health(), option::of("[a-z0-9-]{1,9}"), option::of(policy_name()), plain()),
        0..4,
    );
    (spiffe_id(), ports).prop_map(|(workload, ports)| {
        let port = |(port, (service, protocol, allow, health, instance, policy, plain))| InboundPort {
            policy,
            plain,
            port,
            service,
            protocol,
            allow,
            health,
            instance,
        };
        Resource::Inbound(Inbound { workload, ports: ports.into_iter().map(port).collect() }.into())
    })
}

pub(crate) fn resource() -> impl Strategy<Value = Resource> {
    let endpoints = endpoints_of("shop.catalog").prop_map(|e| Resource::Endpoints(e.into()));
    prop_oneof![trust(), policy::policy(), service(), endpoints, overrides(), inbound(), routes::route()]
}

pub(crate) fn subscription() -> impl Strategy<Value = Subscription> {
    prop_oneof![
        service_name().prop_map(Subscription::Service),
        authority().prop_map(Subscription::Authority),
        address().prop_map(Subscription::Address)
    ]
}
