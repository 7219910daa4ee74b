//! What is kept of Kubernetes' objects: the few fields that are used, and nothing else.
//!
//! It decides which fields those are. It deliberately decides nothing about what they mean.

use fusewire_model::policy::Plain;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The label of pods that have a sidecar.
pub const INJECTED: &str = "fusewire.io/injected";
/// On a Service or a Namespace: `allow` or `deny`, of callers and instances without identity alike.
pub const PLAIN: &str = "fusewire.io/plain";
/// On a Service or a Namespace: ports that carry bytes, whatever they are called, with commas between.
pub const OPAQUE_PORTS: &str = "fusewire.io/opaque-ports";

/// The label by which an EndpointSlice names its Service.
const OF_SERVICE: &str = "kubernetes.io/service-name";
/// Where a cluster IP would be, in a headless Service.
const HEADLESS: &str = "None";

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
}

impl Id {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// What annotations say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub(crate) plain: Option<Plain>,
    pub(crate) opaque: Box<[u16]>,
}

impl Wishes {
    fn of(annotations: Option<&BTreeMap<String, String>>) -> Self {
        let text = |key: &str| annotations.and_then(|all| all.get(key)).map(|text| text.trim());
        let plain = match text(PLAIN) {
            Some("allow") => Some(Plain::Allow),
            Some("deny") => Some(Plain::Deny),
            _ => None,
        };
        let ports = text(OPAQUE_PORTS).into_iter().flat_map(|list| list.split(','));
        Self { plain, opaque: ports.filter_map(|port| port.trim().parse().ok()).collect() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    pub(crate) uid: Box<str>,
    /// Of TCP, in the order of the Service.
    pub(crate) ports: Box<[ServicePort]>,
    /// Virtual addresses; none where it is headless.
    pub(crate) ips: Box<[IpAddr]>,
    /// Whether its instances' IPv6 addresses go before their IPv4 ones.
    pub(crate) prefers_v6: bool,
    pub(crate) is_headless: bool,
    pub(crate) external: Option<Box<str>>,
    pub(crate) wishes: Wishes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// Empty where it is the only one.
    pub(crate) name: Box<str>,
    pub(crate) port: u16,
    pub(crate) app_protocol: Option<Box<str>>,
}

impl ServiceFacts {
    pub(crate) fn of(service: Service) -> Option<(Id, Self)> {
        let id = id(&service.metadata.namespace, &service.metadata.name)?;
        let wishes = Wishes::of(service.metadata.annotations.as_ref());
        let spec = service.spec.unwrap_or_default();
        let ports = spec.ports.unwrap_or_default().into_iter().filter(|port| is_tcp(port.protocol.as_deref()));
        let ports = ports.filter_map(|port| {
            let number = u16::try_from(port.port).ok().filter(|port| *port > 0)?;
            let (name, app_protocol) = (port.name.unwrap_or_default().into(), port.app_protocol.map(Into::into));
            Some(ServicePort { name, port: number, app_protocol })
        });
        let is_headless = spec.cluster_ip.as_deref() == Some(HEADLESS);
        let listed = spec.cluster_ips.unwrap_or_default();
        let ips = listed.iter().chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok());
        let mut ips: Vec<IpAddr> = ips.collect();
        ips.sort_unstable();
        ips.dedup();
        let is_external = spec.type_.as_deref() == Some("ExternalName");
        Some((
            id,
            Self {
                uid: service.metadata.uid.unwrap_or_default().into(),
                ports: ports.collect(),
                ips: ips.into(),
                prefers_v6: spec.ip_families.is_some_and(|families| families.first().is_some_and(|f| f == "IPv6")),
                is_headless,
                external: spec.external_name.filter(|_| is_external).map(Into::into),
                wishes,
            },
        ))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceFacts {
    pub(crate) service: Box<str>,
    /// Name and port where the pods listen, of TCP.
    pub(crate) ports: Box<[(Box<str>, u16)]>,
    pub(crate) endpoints: Box<[EndpointFacts]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointFacts {
    /// The first: those who read slices are to use no other.
    pub(crate) ip: IpAddr,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) zone: Option<Box<str>>,
    /// The pod, in the namespace of the slice.
    pub(crate) pod: Option<PodRef>,
    /// By which it is known below its service, as pods of a StatefulSet are.
    pub(crate) hostname: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodRef {
    pub(crate) uid: Box<str>,
    pub(crate) name: Box<str>,
}

impl SliceFacts {
    /// Without endpoints that name a pod of another namespace: whoever may write slices here has no say there.
    pub(crate) fn of(slice: EndpointSlice) -> Option<(Id, Self)> {
        let id = id(&slice.metadata.namespace, &slice.metadata.name)?;
        let service = slice.metadata.labels?.remove(OF_SERVICE)?;
        let ports = slice.ports.unwrap_or_default().into_iter().filter(|port| is_tcp(port.protocol.as_deref()));
        let ports = ports.filter_map(|p| Some((p.name.unwrap_or_default().into(), u16::try_from(p.port?).ok()?)));
        let endpoints = slice.endpoints.into_iter().filter_map(|endpoint| {
            let conditions = endpoint.conditions.unwrap_or_default();
            // "In general, consumers should interpret unknown state as ready", and serving as ready
            let ready = conditions.ready.unwrap_or(true);
            let pod = endpoint.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
            let elsewhere =
                pod.as_ref().and_then(|pod| pod.namespace.as_deref()).is_some_and(|at| at != &*id.namespace);
            if elsewhere {
                return None;
            }
            let pod = pod.and_then(|pod| Some(PodRef { uid: pod.uid?.into(), name: pod.name?.into() }));
            Some(EndpointFacts {
                ip: endpoint.addresses.first()?.parse().ok()?,
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
                zone: endpoint.zone.map(Into::into),
                pod,
                hostname: endpoint.hostname.map(Into::into),
            })
        });
        let endpoints = endpoints.collect();
        Some((id, Self { service: service.into(), ports: ports.collect(), endpoints }))
    }
}

/// Of a pod that has a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub(crate) uid: Box<str>,
    pub(crate) account: Box<str>,
    /// None before it has any, and once it has ended: another may have them then.
    pub(crate) ips: Box<[IpAddr]>,
}

impl PodFacts {
    pub(crate) fn of(pod: Pod) -> Option<(Id, Self)> {
        let id = id(&pod.metadata.namespace, &pod.metadata.name)?;
        let account = pod.spec.and_then(|spec| spec.service_account_name).unwrap_or_else(|| "default".into());
        let status = pod.status.unwrap_or_default();
        let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let listed = status.pod_ips.unwrap_or_default().into_iter().map(|ip| ip.ip);
        let ips = listed.chain(status.pod_ip).filter(|_| !has_ended).filter_map(|ip| ip.parse().ok());
        let mut ips: Vec<IpAddr> = ips.collect();
        ips.sort_unstable();
        ips.dedup();
        Some((id, Self { uid: pod.metadata.uid?.into(), account: account.into(), ips: ips.into() }))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamespaceFacts {
    pub(crate) is_active: bool,
    pub(crate) wishes: Wishes,
}

impl NamespaceFacts {
    pub(crate) fn of(namespace: Namespace) -> Option<(Id, Self)> {
        let id = Id::new("", &namespace.metadata.name?);
        let phase = namespace.status.and_then(|status| status.phase);
        let is_active = namespace.metadata.deletion_timestamp.is_none() && phase.as_deref() != Some("Terminating");
        Some((id, Self { is_active, wishes: Wishes::of(namespace.metadata.annotations.as_ref()) }))
    }
}

/// What says nothing is TCP.
fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

fn id(namespace: &Option<String>, name: &Option<String>) -> Option<Id> {
    Some(Id::new(namespace.as_deref()?, name.as_deref()?))
}
