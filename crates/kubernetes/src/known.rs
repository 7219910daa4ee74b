//! Services as references of other objects find them: by namespace and name, and by the names of their ports.
//!
//! It decides what a port is called in the mesh: `NAME.NAMESPACE` the first, `NAME.NAMESPACE.PORT` any other.

use fusewire_model::ServiceName;
use std::collections::BTreeMap;

/// Of [`Port::is_opaque`], in a status.
pub(crate) const CARRIES_BYTES: &str =
    "declared to carry bytes (appProtocol, the port's name, fusewire.io/opaque-ports, or a file)";

/// Of a Service: namespace and name.
pub type ServiceId = (String, String);

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Empty where it has none.
    pub name: String,
    pub number: u16,
    /// Declared to carry bytes: what is routed by requests has no part in it.
    pub is_opaque: bool,
}

/// A Service that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownService {
    /// In the order in which it lists them.
    pub ports: Vec<Port>,
    /// It has no address of its own: who calls it calls an instance.
    pub is_headless: bool,
    /// It is another's name (`ExternalName`).
    pub is_external: bool,
    /// The instances' ids by the names of their pods.
    pub instances: BTreeMap<String, String>,
}

impl KnownService {
    /// What its port `number` is called. `None`: it has none such, or no name that a mesh can have.
    pub(crate) fn name_of(&self, (namespace, name): &ServiceId, number: u16) -> Option<ServiceName> {
        let text = match self.ports.iter().position(|port| port.number == number)? {
            0 => format!("{name}.{namespace}"),
            _ => format!("{name}.{namespace}.{number}"),
        };
        ServiceName::parse(&text).ok()
    }

    /// Of each port, in its order; one without ports has its own name.
    pub(crate) fn names(&self, id: &ServiceId) -> Vec<ServiceName> {
        if self.ports.is_empty() {
            return ServiceName::parse(&format!("{}.{}", id.1, id.0)).into_iter().collect();
        }
        self.ports.iter().filter_map(|port| self.name_of(id, port.number)).collect()
    }
}

/// A kind of routes of the Gateway API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    Http,
    Grpc,
}

impl RouteKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }

    /// As URLs have it.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Http => "httproutes",
            Self::Grpc => "grpcroutes",
        }
    }
}

/// Of a route object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteId {
    pub kind: RouteKind,
    pub namespace: String,
    pub name: String,
}
