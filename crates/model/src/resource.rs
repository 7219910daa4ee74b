//! Resources: the named pieces of configuration that a sidecar is given. `api` carries them over the wire.

use crate::health::HealthCheck;
use crate::name::{PolicyName, ServiceName, SpiffeId};
use crate::policy::{Plain, PlainDefaults, Policy};
use crate::route::{Authority, RouteTable};
use crate::service::{Allow, Instance, Override, Protocol};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// The kinds, in the order in which they are sent: what something refers to goes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Trust,
    Policy,
    Service,
    Endpoints,
    Override,
    Inbound,
    Route,
}

/// What names a resource: its kind and its name within the kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub kind: Kind,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// Filled in by whoever holds the certificate authority; `compile` never makes one.
    Trust(Arc<Trust>),
    Policy(Arc<Policy>),
    Service(Arc<ServiceSettings>),
    Endpoints(Arc<Endpoints>),
    Override(Arc<Overrides>),
    Inbound(Arc<Inbound>),
    Route(Arc<RouteTable>),
}

/// The certificates that peers are verified against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    pub trust_domain: String,
    /// PEM, one or more certificates.
    pub bundle: String,
    /// Hash of the root that signs now; empty where that does not matter. A certificate under another root is renewed
    /// early.
    pub signer: String,
    /// Shut out, whatever they can prove. Sorted.
    pub denied: Vec<SpiffeId>,
}

/// A service without its instances.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSettings {
    pub name: ServiceName,
    pub protocol: Protocol,
    /// `None`: built-in defaults.
    pub policy: Option<PolicyName>,
    /// Policies for labelled subsets, those with more labels first, then by name; the first whose labels an instance
    /// carries applies to it.
    pub subsets: Vec<Subset>,
    /// For callers that test an open circuit by it.
    pub health: Option<HealthCheck>,
    /// Where its policy does not say.
    pub plain: PlainDefaults,
    /// Who calls an instance's own address means that one.
    pub direct: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    pub labels: BTreeMap<String, String>,
    pub policy: PolicyName,
}

/// A service's instances, in the order of their ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoints {
    pub service: ServiceName,
    pub instances: Vec<Arc<Instance>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Overrides {
    pub service: ServiceName,
    pub overrides: Vec<Override>,
}

/// What a workload's own sidecar lets in, by target port. Named after the workload's SPIFFE ID.
#[derive(Clone, Debug, PartialEq)]
pub struct Inbound {
    pub workload: SpiffeId,
    /// Sorted, each port once. Where services share the identity and the port, it lets in only who may call all of them.
    pub ports: Vec<InboundPort>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct InboundPort {
    /// The port that callers name (the port of the instance's address).
    pub port: u16,
    pub service: ServiceName,
    pub protocol: Protocol,
    pub allow: Allow,
    /// What the sidecar asks its application.
    pub health: Option<HealthCheck>,
    /// Whose port it is, for reports; `None` where the sidecar named no instance.
    pub instance: Option<String>,
    /// The service's, for what is bounded in front of the application. `None`: built-in defaults.
    pub policy: Option<PolicyName>,
    /// Whether callers without identity are let in, where the policy does not say.
    pub plain: Plain,
}

/// What a sidecar asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subscription {
    Service(ServiceName),
    Authority(Authority),
    Address(SocketAddr),
}

/// What a subscription turned out to mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The key of the route (authority, virtual address) or service (service, instance's address) that it names.
    Found(Key),
    NotFound,
}

impl Resource {
    /// Whether both are one allocation: equal without a look inside.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Trust(a), Self::Trust(b)) => Arc::ptr_eq(a, b),
            (Self::Policy(a), Self::Policy(b)) => Arc::ptr_eq(a, b),
            (Self::Service(a), Self::Service(b)) => Arc::ptr_eq(a, b),
            (Self::Endpoints(a), Self::Endpoints(b)) => Arc::ptr_eq(a, b),
            (Self::Override(a), Self::Override(b)) => Arc::ptr_eq(a, b),
            (Self::Inbound(a), Self::Inbound(b)) => Arc::ptr_eq(a, b),
            (Self::Route(a), Self::Route(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    pub fn key(&self) -> Key {
        let (kind, name) = match self {
            Resource::Trust(t) => (Kind::Trust, t.trust_domain.clone()),
            Resource::Policy(p) => (Kind::Policy, p.name.to_string()),
            Resource::Service(s) => (Kind::Service, s.name.to_string()),
            Resource::Endpoints(e) => (Kind::Endpoints, e.service.to_string()),
            Resource::Override(o) => (Kind::Override, o.service.to_string()),
            Resource::Inbound(i) => (Kind::Inbound, i.workload.to_string()),
            Resource::Route(r) => (Kind::Route, r.authority.to_string()),
        };
        Key { kind, name }
    }
}
