//! What targets lead to: services of the mesh, or routes.

use super::{RouteTarget, Setting, TargetKind, TargetRef, target};
use crate::known::{RouteId, RouteKind};
use fusewire_model::ServiceName;
use serde_json::Value;

/// In the words of `kubectl get`.
const MAX_SHOWN: usize = 4;
const MAX_LENGTH: usize = 1_000;

/// What a target leads to.
pub(super) enum Found {
    Services(Vec<ServiceName>),
    Route(RouteTarget),
}

/// The list `spec.targetRefs`.
///
/// # Errors
/// What is wrong, with its path.
pub(super) fn targets(spec: &Value, allowed: &[TargetKind]) -> Result<Vec<TargetRef>, String> {
    let list = spec["targetRefs"].as_array().filter(|list| !list.is_empty());
    let list = list.ok_or("spec.targetRefs: must name at least one target")?;
    let mut refs: Vec<TargetRef> = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let read = target::read(value, allowed).map_err(|why| format!("spec.targetRefs[{index}]: {why}"))?;
        if refs.first().is_some_and(|first| first.kind != read.kind) {
            return Err("spec.targetRefs: all targets must be of one kind (make an object for each kind)".into());
        }
        if !refs.contains(&read) {
            refs.push(read);
        }
    }
    Ok(refs)
}

/// `Service/web, Service/shop:http and 3 more`.
pub(super) fn shown(refs: &[TargetRef]) -> String {
    let mut text = refs.iter().take(MAX_SHOWN).map(TargetRef::to_string).collect::<Vec<_>>().join(", ");
    if refs.len() > MAX_SHOWN {
        text.push_str(&format!(" and {} more", refs.len() - MAX_SHOWN));
    }
    text.chars().take(MAX_LENGTH).collect()
}

impl Setting<'_> {
    /// # Errors
    /// Why it leads nowhere.
    pub(super) fn find(&self, namespace: &str, wanted: &TargetRef) -> Result<Found, String> {
        let TargetRef { kind, name, section } = wanted;
        let missing = || format!("{} {namespace}/{name} does not exist", kind.as_str());
        let route = |kind: RouteKind| {
            let route = RouteId { kind, namespace: namespace.to_owned(), name: name.clone() };
            let rules = self.input.routes.get(&route).ok_or_else(missing)?;
            match section.as_ref().filter(|rule| !rules.contains(rule)) {
                Some(rule) => Err(format!("{} {namespace}/{name} has no rule named {rule}", kind.as_str())),
                None => Ok(Found::Route(RouteTarget { route, rule: section.clone() })),
            }
        };
        match kind {
            TargetKind::Service => self.ports(namespace, name, section.as_deref()).map(Found::Services),
            TargetKind::ExternalService => {
                let own = ServiceName::parse(&format!("{name}.{namespace}")).ok();
                let own = own.filter(|own| self.externals.contains_key(own)).ok_or_else(missing)?;
                match section {
                    Some(_) => {
                        Err(format!("ExternalService {namespace}/{name} has no sections: leave sectionName out"))
                    }
                    None => Ok(Found::Services(vec![own])),
                }
            }
            TargetKind::HttpRoute => route(RouteKind::Http),
            TargetKind::GrpcRoute => route(RouteKind::Grpc),
        }
    }

    fn ports(&self, namespace: &str, name: &str, section: Option<&str>) -> Result<Vec<ServiceName>, String> {
        let id = (namespace.to_owned(), name.to_owned());
        let known = self.input.services.get(&id).ok_or_else(|| format!("Service {namespace}/{name} does not exist"))?;
        let Some(section) = section else { return Ok(known.names(&id)) };
        let port = known.ports.iter().find(|port| port.name == section);
        port.and_then(|port| known.name_of(&id, port.number)).map(|own| vec![own]).ok_or_else(|| {
            let all: Vec<&str> = known.ports.iter().map(|port| port.name.as_str()).filter(|n| !n.is_empty()).collect();
            let has =
                if all.is_empty() { "its ports have no names".into() } else { format!("it has {}", all.join(", ")) };
            format!("Service {namespace}/{name} has no port named {section}: {has}")
        })
    }

    /// Those of several targets together, and why others lead nowhere.
    pub(super) fn services(&self, namespace: &str, refs: &[TargetRef]) -> (Vec<ServiceName>, Vec<String>) {
        let (mut all, mut missing) = (Vec::new(), Vec::new());
        for wanted in refs {
            match self.find(namespace, wanted) {
                Ok(Found::Services(services)) => all.extend(services),
                Ok(Found::Route(_)) => {}
                Err(why) => missing.push(why),
            }
        }
        (all, missing)
    }
}
