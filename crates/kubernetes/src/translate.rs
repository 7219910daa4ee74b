//! From a Service, its EndpointSlices and the pods behind them to services of the mesh: pure.
//!
//! It decides what a Service's ports are called (`web.shop` the first, `web.shop.9090` any other), by which authorities and
//! virtual addresses they are known, and which endpoints are offered: as kube-proxy does, those that are ready, and where none
//! is, those that end but still serve. It deliberately does not decide on policies; where none says, unmeshed pods may be
//! spoken to in clear and callers in clear stay out.
//!
//! A pod of a headless Service that has a name of its own there (`web-0.web.shop`, as StatefulSets give) is a service of its
//! own besides: who calls it means this one and no other. Of two pods with one name it is the one whose UID is first.
//!
//! Invariants: an instance is in a service once, whatever slices and address families it is in. No name, authority or virtual
//! address of a Service can be another's of another namespace: a pod's name is left out, or has its port, where it could be one
//! ([`has_two_meanings`]), and an address is a pod's where the API server says so too.

use crate::facts::{EndpointFacts, Id, NamespaceFacts, PodFacts, ServiceFacts, ServicePort, SliceFacts};
use crate::index::{Plain as PlainPods, Pods};
use crate::protocol::protocol;
use fusewire_model::policy::{Plain, PlainDefaults};
use fusewire_model::route::Authority;
use fusewire_model::service::{Dns, DnsRecords, Instance, Protocol, Service, Sidecar};
use fusewire_model::{ServiceName, SpiffeId, TrustDomain};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// Where an injected sidecar takes mTLS.
pub const SIDECAR_PORT: u16 = 15008;
/// The port that a name without one means, where the Service has it.
const DEFAULT_PORT: u16 = 80;
/// As for services in YAML.
const REFRESH: Duration = Duration::from_secs(30);

/// What is the same for all Services.
#[derive(Clone, Debug)]
pub struct Setting {
    pub trust_domain: TrustDomain,
    /// Such as `cluster.local`.
    pub cluster_domain: String,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Translated {
    pub service: Service,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    pub instance: Instance,
    pub standing: Standing,
}

/// Whether callers are told of it, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Ready,
    /// It ends, and still serves, and no other is ready.
    Last,
    NotReady,
    Terminating,
    /// Whether its pod has a sidecar is not known yet: it could be spoken to in clear and must not.
    Unknown,
}

impl Standing {
    pub fn is_offered(self) -> bool {
        matches!(self, Self::Ready | Self::Last)
    }

    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Last => "terminating, and the last that serves",
            Self::NotReady => "not ready",
            Self::Terminating => "terminating",
            Self::Unknown => "whether its pod has a sidecar is not known yet",
        }
    }
}

/// A Service as it was found, and what it is to be looked at with.
pub(crate) struct Found<'a> {
    pub(crate) id: &'a Id,
    pub(crate) service: &'a ServiceFacts,
    pub(crate) namespace: Option<&'a NamespaceFacts>,
    pub(crate) slices: Vec<&'a SliceFacts>,
    pub(crate) pods: &'a Pods,
    /// Pods that have no sidecar; `None`: all that are not in `pods`, wherever a slice says that they are.
    pub(crate) plain: Option<&'a PlainPods>,
}

/// How an endpoint is reached.
enum Reached {
    BySidecar(Sidecar),
    InClear,
    Unknown,
}

/// Every service that a Service is. What cannot be named in a mesh is left out.
pub(crate) fn translated(setting: &Setting, found: &Found<'_>) -> Vec<Translated> {
    let of = Of { setting, found };
    let ports = &found.service.ports;
    let default = ports.iter().find(|port| port.port == DEFAULT_PORT).or(ports.first()).map(|port| port.port);
    let mut all = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let is_default = default == Some(port.port);
        let Some(service) = of.service(port, index == 0, is_default) else { continue };
        let endpoints = of.endpoints(port);
        if found.service.is_headless {
            all.extend(of.named_pods(port, &service, &endpoints, is_default));
        }
        all.push(Translated { service, endpoints: endpoints.into_iter().map(|(_, endpoint)| endpoint).collect() });
    }
    all
}

/// Whether `HOST.SERVICE.NAMESPACE` could be a Service's there: the port `NAMESPACE` of `HOST.SERVICE`, or `HOST.SERVICE.svc`.
/// Who may make namespaces must not take names by it.
pub(crate) fn has_two_meanings(namespace: &str) -> bool {
    namespace == "svc" || namespace.parse::<u16>().is_ok_and(|port| port.to_string() == namespace)
}

/// What a port is declared to speak.
pub(crate) fn speaks(service: &ServiceFacts, namespace: Option<&NamespaceFacts>, port: &ServicePort) -> Protocol {
    let wishes = [Some(&service.wishes), namespace.map(|namespace| &namespace.wishes)];
    if wishes.into_iter().flatten().any(|wishes| wishes.opaque.contains(&port.port)) {
        return Protocol::Opaque;
    }
    protocol(port.app_protocol.as_deref(), &port.name)
}

struct Of<'a> {
    setting: &'a Setting,
    found: &'a Found<'a>,
}

impl<'a> Of<'a> {
    fn service(&self, port: &ServicePort, is_first: bool, is_default: bool) -> Option<Service> {
        let Id { namespace, name } = self.found.id;
        let own = if is_first { format!("{name}.{namespace}") } else { format!("{name}.{namespace}.{}", port.port) };
        let own = ServiceName::parse(&own).ok()?;
        // nobody can prove it: what serves is for Kubernetes to say, and not to be registered
        let identity = SpiffeId::of(&self.setting.trust_domain, &format!("ns/{namespace}/svc/{name}")).ok()?;
        let facts = self.found.service;
        let mut service = Service::new(own.clone(), identity);
        service.protocol = speaks(self.found.service, self.found.namespace, port);
        service.plain = self.plain();
        service.direct = true; // as it is without a mesh: peers of a cluster, and who collects metrics, mean one pod
        service.authorities = self.authorities(&format!("{name}.{namespace}"), port.port, is_default);
        if !is_first {
            service.authorities.extend(Authority::parse(own.as_str()));
        }
        service.addresses = facts.ips.iter().map(|ip| SocketAddr::new(*ip, port.port)).collect();
        service.dns = facts.external.as_deref().map(|external| Dns {
            name: external.trim_end_matches('.').to_ascii_lowercase(),
            records: DnsRecords::Address { port: port.port },
            server: None,
            refresh: REFRESH,
        });
        Some(service)
    }

    fn plain(&self) -> PlainDefaults {
        let of_namespace = || self.found.namespace.and_then(|namespace| namespace.wishes.plain);
        match self.found.service.wishes.plain.or_else(of_namespace) {
            Some(both) => PlainDefaults { callers: both, instances: both },
            None => PlainDefaults { callers: Plain::Deny, instances: Plain::Allow },
        }
    }

    /// The longest with its port first: the one that routes are looked for under first.
    fn authorities(&self, short: &str, port: u16, is_default: bool) -> Vec<Authority> {
        let long = format!("{short}.svc.{}", self.setting.cluster_domain);
        let mut names = vec![long, format!("{short}.svc"), short.to_owned()];
        if has_two_meanings(&self.found.id.namespace) && short.split('.').count() > 2 {
            names.pop();
        }
        let with_port = names.iter().map(|name| format!("{name}:{port}"));
        let without = names.iter().filter(|_| is_default).cloned();
        with_port.chain(without).filter_map(|text| Authority::parse(&text)).collect()
    }

    /// Each pod once, by its preferred address, with what its slice says of it.
    fn endpoints(&self, port: &ServicePort) -> Vec<(&'a EndpointFacts, Endpoint)> {
        let mut by_id: BTreeMap<String, (&'a EndpointFacts, u16)> = BTreeMap::new();
        for slice in &self.found.slices {
            let Some((_, target)) = slice.ports.iter().find(|(name, _)| *name == port.name) else { continue };
            for endpoint in &slice.endpoints {
                let id = match self.pod(endpoint) {
                    Some(uid) => uid.to_owned(),
                    None => SocketAddr::new(endpoint.ip, *target).to_string(),
                };
                let better = |before: &EndpointFacts| self.rank(endpoint) > self.rank(before);
                if by_id.get(&id).is_none_or(|(before, _)| better(before)) {
                    by_id.insert(id, (endpoint, *target));
                }
            }
        }
        let any_ready = by_id.values().any(|(endpoint, _)| endpoint.ready);
        let standing = |endpoint: &EndpointFacts, reached: &Reached| match (endpoint.ready, endpoint.terminating) {
            _ if matches!(reached, Reached::Unknown) => Standing::Unknown,
            (true, _) => Standing::Ready,
            (false, true) if endpoint.serving && !any_ready => Standing::Last,
            (false, true) => Standing::Terminating,
            (false, false) => Standing::NotReady,
        };
        let one = |(id, (endpoint, target)): (String, (&'a EndpointFacts, u16))| {
            let reached = self.reached(endpoint);
            let standing = standing(endpoint, &reached);
            let instance = Instance {
                id,
                address: SocketAddr::new(endpoint.ip, target),
                sidecar: match reached {
                    Reached::BySidecar(sidecar) => Some(sidecar),
                    Reached::InClear | Reached::Unknown => None,
                },
                weight: 1,
                labels: BTreeMap::new(),
                zone: endpoint.zone.as_deref().map(str::to_owned),
                down: false,
            };
            (endpoint, Endpoint { instance, standing })
        };
        by_id.into_iter().map(one).collect()
    }

    /// In the family that the Service prefers; a slice that is being moved to another may hold an older word.
    fn rank(&self, endpoint: &EndpointFacts) -> (bool, bool) {
        (endpoint.ip.is_ipv6() == self.found.service.prefers_v6, endpoint.ready)
    }

    /// UID of its pod: the one that it names, or one with a sidecar that has its address.
    fn pod(&self, endpoint: &'a EndpointFacts) -> Option<&'a str> {
        let named = endpoint.pod.as_ref().map(|pod| &*pod.uid);
        named.or_else(|| self.found.pods.at(&self.found.id.namespace, endpoint.ip))
    }

    /// A slice is only believed of a pod that is in its own namespace and has the address.
    fn reached(&self, endpoint: &'a EndpointFacts) -> Reached {
        let Some(uid) = self.pod(endpoint) else { return Reached::InClear };
        let Some((id, pod)) = self.found.pods.get(uid) else {
            let is_plain = self.found.plain.is_none_or(|plain| plain.contains_key(uid));
            return if is_plain { Reached::InClear } else { Reached::Unknown };
        };
        if id.namespace != self.found.id.namespace || !pod.ips.contains(&endpoint.ip) {
            return Reached::Unknown;
        }
        let path = format!("ns/{}/sa/{}", id.namespace, pod.account);
        match SpiffeId::of(&self.setting.trust_domain, &path) {
            Ok(identity) => {
                Reached::BySidecar(Sidecar { inbound: SocketAddr::new(endpoint.ip, SIDECAR_PORT), identity })
            }
            Err(_) => Reached::Unknown,
        }
    }

    /// Whether the pod that the slice names has the address, by another's word than the slice's.
    fn is_at(&self, facts: &EndpointFacts, endpoint: &Endpoint) -> bool {
        let is_there = |uid: &str| match self.found.plain {
            Some(plain) => plain.get(uid).is_some_and(|ips| ips.contains(&facts.ip)),
            None => endpoint.standing != Standing::Unknown,
        };
        endpoint.instance.sidecar.is_some() || facts.pod.as_ref().is_some_and(|pod| is_there(&pod.uid))
    }

    fn named_pods(
        &self,
        port: &ServicePort,
        whole: &Service,
        endpoints: &[(&EndpointFacts, Endpoint)],
        is_default: bool,
    ) -> Vec<Translated> {
        let Id { namespace, name } = self.found.id;
        let mut taken = BTreeSet::new();
        let named = endpoints.iter().filter_map(|(facts, endpoint)| {
            let host = facts.hostname.as_deref().filter(|host| taken.insert(*host))?;
            let short = format!("{host}.{name}.{namespace}");
            let is_short = is_default && !has_two_meanings(namespace);
            let own = if is_short { short.clone() } else { format!("{short}.{}", port.port) };
            let mut service = whole.clone();
            service.name = ServiceName::parse(&own).ok()?;
            service.authorities = self.authorities(&short, port.port, is_default);
            let address = self.is_at(facts, endpoint).then_some(endpoint.instance.address);
            service.addresses = address.into_iter().collect();
            Some(Translated { service, endpoints: vec![endpoint.clone()] })
        });
        named.collect()
    }
}

/// As [`crate::Discovery`] does, from whole objects: what a Service is to a mesh. Pods that are not in `injected` have no sidecar.
pub fn translate(
    setting: &Setting,
    service: k8s_openapi::api::core::v1::Service,
    slices: Vec<k8s_openapi::api::discovery::v1::EndpointSlice>,
    injected: Vec<k8s_openapi::api::core::v1::Pod>,
    namespace: Option<k8s_openapi::api::core::v1::Namespace>,
) -> Vec<Translated> {
    let Some((id, service)) = ServiceFacts::of(service) else { return Vec::new() };
    let slices: Vec<_> = slices.into_iter().filter_map(SliceFacts::of).map(|(_, slice)| slice).collect();
    let mut pods = Pods::default();
    injected.into_iter().filter_map(PodFacts::of).for_each(|(id, pod)| pods.put(id, pod));
    let namespace = namespace.and_then(NamespaceFacts::of).map(|(_, namespace)| namespace);
    let found = Found {
        id: &id,
        service: &service,
        namespace: namespace.as_ref(),
        slices: slices.iter().filter(|slice| slice.service == id.name).collect(),
        pods: &pods,
        plain: None,
    };
    translated(setting, &found)
}
