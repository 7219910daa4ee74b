//! From wire to model. Everything is checked again here, whoever sent it: names, addresses, bounds, references.
//!
//! It decides what a message must be to become model types, and says where in it the fault lies. It deliberately does
//! not compare a whole resource's hash with its content: a newer control plane may send fields that this build drops,
//! and its hash still names what is held. A change is different: its result is held against the sender's hash, because
//! a wrong base would otherwise go unnoticed for ever.
//!
//! Invariant: no input panics, and none allocates more than a small multiple of its own size.

mod parts;
mod policy;
mod routes;

use crate::{kind_from_wire, to_wire, v1};
use fusewire_model::resource::{Answer, Endpoints, Key, Resource, Subscription};
use fusewire_model::route::Authority;
use fusewire_model::service::Instance;
use fusewire_model::{PolicyName, ServiceName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A resource or target that cannot be put in force; what a `Nack` is made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {name:?}: {}{message}", kind_word(*kind), if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct WireError {
    /// `Unspecified` where the resource's body is of no kind that this build knows.
    pub kind: v1::Kind,
    pub name: String,
    /// Of the fault within the resource, such as `instances[3].address`.
    pub path: String,
    pub message: String,
}

impl WireError {
    /// What to answer for the resource that came with `hash`.
    pub fn nack(&self, hash: &str) -> v1::Nack {
        v1::Nack {
            kind: self.kind.into(),
            name: self.name.clone(),
            hash: hash.to_owned(),
            path: self.path.clone(),
            message: self.message.clone(),
            send_whole: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The change was made against other endpoints than those held: ask for the whole.
    #[error("endpoints of {service:?}: the change does not fit what is held; the whole set is needed")]
    BaseMismatch { service: String },
    #[error(transparent)]
    Wire(#[from] WireError),
}

pub fn resource_from_wire(resource: v1::Resource) -> Result<Resource, WireError> {
    let v1::Resource { name, hash: _, body } = resource;
    let kind = body.as_ref().map_or(v1::Kind::Unspecified, kind_of);
    let named = |fault: Fault| fault.of(kind, &name);
    let Some(body) = body else {
        return Err(named(Fault::new("the resource has no body that this build knows; send only kinds from `hello`")));
    };
    use v1::resource::Body;
    let resource = match body {
        Body::Trust(trust) => parts::trust(&name, trust).map(|v| Resource::Trust(v.into())),
        Body::Policy(policy) => policy::policy(&name, policy).map(|v| Resource::Policy(v.into())),
        Body::Service(service) => parts::service(&name, service).map(|v| Resource::Service(v.into())),
        Body::Endpoints(endpoints) => parts::endpoints(&name, endpoints).map(|v| Resource::Endpoints(v.into())),
        Body::Overrides(overrides) => parts::overrides(&name, overrides).map(|v| Resource::Override(v.into())),
        Body::Inbound(inbound) => parts::inbound(&name, inbound).map(|v| Resource::Inbound(v.into())),
        Body::Route(route) => routes::route(&name, route).map(|v| Resource::Route(v.into())),
    };
    resource.map_err(named)
}

/// The endpoints after `change`, and their hash.
///
/// A change that names another base, or whose result is not what its sender has, is a [`ChangeError::BaseMismatch`].
pub fn apply_change(
    base: &Endpoints,
    base_hash: &str,
    change: v1::EndpointsChange,
) -> Result<(Endpoints, String), ChangeError> {
    let v1::EndpointsChange { service, base_hash: wanted, hash, upserted, removed } = change;
    if wanted != base_hash || service != base.service.as_str() {
        return Err(ChangeError::BaseMismatch { service });
    }
    let named = |fault: Fault| fault.of(v1::Kind::Endpoints, &service);
    let mut instances: BTreeMap<&str, &Arc<Instance>> = base.instances.iter().map(|i| (i.id.as_str(), i)).collect();
    for id in &removed {
        instances.remove(id.as_str());
    }
    let new: Vec<_> = parts::instances(upserted, "upserted").map_err(named)?.into_iter().map(Arc::new).collect();
    instances.extend(new.iter().map(|i| (i.id.as_str(), i)));
    parts::at_most(parts::MAX_INSTANCES, instances.len(), "instances").map_err(named)?;
    let instances = instances.into_values().cloned().collect();
    let result = Endpoints { service: base.service.clone(), instances };
    let result_hash = to_wire::content_hash(&v1::resource::Body::Endpoints(to_wire::endpoints(&result)));
    if result_hash != hash {
        return Err(ChangeError::BaseMismatch { service });
    }
    Ok((result, hash))
}

pub fn target_from_wire(target: v1::Target) -> Result<Subscription, WireError> {
    use v1::target::Target;
    let shown = match &target.target {
        None => "",
        Some(Target::Service(text) | Target::Authority(text) | Target::Address(text)) => text,
    };
    let shown: String = shown.chars().take(80).collect();
    let subscription = match target.target {
        None => Err(Fault::new("the target is of no kind that this build knows")),
        Some(Target::Service(text)) => service_name(&text).map(Subscription::Service).at("service"),
        Some(Target::Authority(text)) => authority(&text).map(Subscription::Authority).at("authority"),
        Some(Target::Address(text)) => parts::address(&text).map(Subscription::Address).at("address"),
    };
    subscription.map_err(|fault| fault.of(v1::Kind::Unspecified, &shown))
}

pub fn answer_from_wire(answer: v1::Answer) -> Result<(Subscription, Answer), WireError> {
    let v1::Answer { target, found, kind, name } = answer;
    let subscription = target_from_wire(target.unwrap_or_default())?;
    if !found {
        return Ok((subscription, Answer::NotFound));
    }
    let Some(kind) = kind_from_wire(kind) else {
        return Err(
            Fault::new("the answer names a kind that this build does not know").of(v1::Kind::Unspecified, &name)
        );
    };
    Ok((subscription, Answer::Found(Key { kind, name })))
}

/// A fault on its way up; each level puts its own step before the path.
#[derive(Debug)]
struct Fault {
    path: String,
    message: String,
}

impl Fault {
    fn new(message: impl Into<String>) -> Self {
        Self { path: String::new(), message: message.into() }
    }

    fn of(self, kind: v1::Kind, name: &str) -> WireError {
        let name = name.chars().take(300).collect();
        WireError { kind, name, path: self.path, message: self.message }
    }
}

trait At {
    fn at(self, step: impl std::fmt::Display) -> Self;
}

impl<T> At for Result<T, Fault> {
    fn at(self, step: impl std::fmt::Display) -> Self {
        self.map_err(|fault| Fault {
            path: match fault.path.as_str() {
                "" => step.to_string(),
                below if below.starts_with('[') => format!("{step}{below}"),
                below => format!("{step}.{below}"),
            },
            message: fault.message,
        })
    }
}

/// Converts each item; the fault of one says which.
fn each<W, M>(items: Vec<W>, step: &str, max: usize, f: impl Fn(W) -> Result<M, Fault>) -> Result<Vec<M>, Fault> {
    parts::at_most(max, items.len(), step)?;
    items.into_iter().enumerate().map(|(i, item)| f(item).at(format_args!("{step}[{i}]"))).collect()
}

fn service_name(text: &str) -> Result<ServiceName, Fault> {
    ServiceName::parse(text).map_err(|e| Fault::new(e.to_string()))
}

/// Empty means none.
fn policy_name(text: &str) -> Result<Option<PolicyName>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    PolicyName::parse(text).map(Some).map_err(|e| Fault::new(e.to_string())).at("policy")
}

fn authority(text: &str) -> Result<Authority, Fault> {
    Authority::parse(text).ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        Fault::new(format!("{shown:?} is not an authority: write host or host:port, IPv6 in brackets"))
    })
}

fn kind_of(body: &v1::resource::Body) -> v1::Kind {
    use v1::resource::Body;
    match body {
        Body::Trust(_) => v1::Kind::Trust,
        Body::Policy(_) => v1::Kind::Policy,
        Body::Service(_) => v1::Kind::Service,
        Body::Endpoints(_) => v1::Kind::Endpoints,
        Body::Overrides(_) => v1::Kind::Override,
        Body::Inbound(_) => v1::Kind::Inbound,
        Body::Route(_) => v1::Kind::Route,
    }
}

fn kind_word(kind: v1::Kind) -> &'static str {
    match kind {
        v1::Kind::Unspecified => "resource or target",
        v1::Kind::Trust => "trust",
        v1::Kind::Policy => "policy",
        v1::Kind::Service => "service",
        v1::Kind::Endpoints => "endpoints",
        v1::Kind::Override => "override",
        v1::Kind::Inbound => "inbound",
        v1::Kind::Route => "route",
    }
}
