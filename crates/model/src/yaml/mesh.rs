//! The top of a file: `trust_domain`, `services`, `routes`, `policies`, `overrides`, `sidecar`; and the overrides themselves.
//!
//! It decides how many texts become one mesh, and whose name a name is. What a name refers to is noted in the draft and
//! checked in [`super::refs`], once everything has been read.

use super::cursor::{Cursor, Entry, Fields};
use super::place::{Place, Sink};
use super::{Parsed, policy, route, service, sidecar, tree};
use crate::name::{NameError, PolicyName, ServiceName, SpiffeId, TrustDomain};
use crate::node::SidecarSettings;
use crate::policy::Policy;
use crate::route::{Authority, Route, Size};
use crate::service::{Hold, Override, Service};
use crate::world::Mesh;
use std::collections::BTreeMap;

/// What has been read so far, each name with the place where it was first written.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) domain: TrustDomain,
    pub(super) services: BTreeMap<ServiceName, Named<Service>>,
    pub(super) policies: BTreeMap<PolicyName, Named<Policy>>,
    pub(super) routes: Vec<Route>,
    /// Of all routes for each authority together.
    pub(super) sizes: BTreeMap<Authority, Size>,
    route_places: BTreeMap<String, Place>,
    pub(super) overrides: Vec<(Place, Override)>,
    sidecar: Option<(Place, SidecarSettings)>,
    pub(super) service_refs: Vec<(Place, ServiceName)>,
    pub(super) policy_refs: Vec<(Place, PolicyName)>,
}

#[derive(Debug)]
pub(super) struct Named<T> {
    pub(super) place: Place,
    pub(super) value: T,
    /// `false`: it has a fault of its own, so what it lacks says nothing.
    pub(super) whole: bool,
}

impl Draft {
    pub(super) fn finish(self) -> Parsed {
        let services = self.services.into_iter().map(|(name, named)| (name, named.value)).collect();
        let policies = self.policies.into_iter().map(|(name, named)| (name, named.value)).collect();
        let overrides = self.overrides.into_iter().map(|(_, held)| held).collect();
        let mesh = Mesh { trust_domain: self.domain, services, routes: self.routes, policies, overrides };
        Parsed { mesh, sidecar: self.sidecar.map(|(_, settings)| settings) }
    }

    /// A path within the trust domain, or a full SPIFFE ID.
    pub(super) fn identity(&self, text: &str) -> Result<SpiffeId, NameError> {
        if text.starts_with("spiffe:") { SpiffeId::parse(text) } else { SpiffeId::of(&self.domain, text) }
    }

    /// A service's name, to be checked once all have been read.
    pub(super) fn service_ref(&mut self, cursor: &Cursor<'_>) -> Option<ServiceName> {
        let name = cursor.name(ServiceName::parse)?;
        self.service_refs.push((cursor.place(), name.clone()));
        Some(name)
    }

    /// A policy's name, to be checked once all have been read.
    pub(super) fn policy_ref(&mut self, cursor: &Cursor<'_>) -> Option<PolicyName> {
        let name = cursor.name(PolicyName::parse)?;
        self.policy_refs.push((cursor.place(), name.clone()));
        Some(name)
    }
}

/// Reads every document of every file.
pub(super) fn draft(files: &[tree::File], sink: &Sink) -> Draft {
    let mut documents = Vec::new();
    for file in files {
        for node in &file.documents {
            let top = Cursor::top(node, &file.name, sink);
            // nothing between two `---` is a document without keys
            documents.extend(if top.is_null() { None } else { top.map("a mapping") });
        }
    }
    let mut draft = Draft {
        domain: trust_domain(&mut documents),
        services: BTreeMap::new(),
        policies: BTreeMap::new(),
        routes: Vec::new(),
        sizes: BTreeMap::new(),
        route_places: BTreeMap::new(),
        overrides: Vec::new(),
        sidecar: None,
        service_refs: Vec::new(),
        policy_refs: Vec::new(),
    };
    for fields in documents {
        document(fields, &mut draft);
    }
    draft
}

/// First of all, and from all documents, since identities are written relative to it.
fn trust_domain(documents: &mut [Fields<'_>]) -> TrustDomain {
    let mut found: Option<(Place, TrustDomain)> = None;
    for cursor in documents.iter_mut().filter_map(|fields| fields.get("trust_domain")) {
        let Some(domain) = cursor.name(TrustDomain::parse) else { continue };
        match &found {
            None => found = Some((cursor.place(), domain)),
            Some((_, first)) if *first == domain => {}
            Some((place, first)) => {
                cursor.fault(format!("must be {first}, as in {}: a mesh has one trust domain", place.line_text()));
            }
        }
    }
    found.map_or_else(TrustDomain::default, |(_, domain)| domain)
}

fn document(mut fields: Fields<'_>, draft: &mut Draft) {
    for entry in fields.get("services").iter().flat_map(|c| c.entries("a mapping of services")) {
        named_service(&entry, draft);
    }
    for entry in fields.get("routes").iter().flat_map(|c| c.entries("a mapping of routes")) {
        if free(draft.route_places.get(entry.name), &entry) {
            draft.route_places.insert(entry.name.into(), entry.place.clone());
            let route = route::route(&entry, draft);
            draft.routes.extend(route);
        }
    }
    for entry in fields.get("policies").iter().flat_map(|c| c.entries("a mapping of policies")) {
        named_policy(&entry, draft);
    }
    for cursor in fields.get("overrides").iter().flat_map(|c| c.list("a list of overrides")) {
        let held = overriding(&cursor, draft);
        draft.overrides.extend(held.map(|held| (cursor.place(), held)));
    }
    if let Some(cursor) = fields.get("sidecar") {
        match &draft.sidecar {
            Some((place, _)) => cursor.fault(format!("is already defined in {}", place.line_text())),
            None => {
                draft.sidecar = sidecar::sidecar(&cursor, draft).map(|settings| (cursor.place(), settings));
            }
        }
    }
    fields.finish();
}

/// Whether nobody has taken the name yet; otherwise that is a fault.
fn free(taken: Option<&Place>, entry: &Entry<'_>) -> bool {
    if let Some(place) = taken {
        entry.fault(format!("is already defined in {}", place.line_text()));
    }
    taken.is_none()
}

fn named_policy(entry: &Entry<'_>, draft: &mut Draft) {
    let name = match PolicyName::parse(entry.name) {
        Ok(name) => name,
        Err(error) => return entry.fault(error.to_string()),
    };
    if free(draft.policies.get(&name).map(|named| &named.place), entry) {
        let before = entry.value.sink().count();
        let value = policy::policy(&entry.value, &name, draft);
        let whole = entry.value.sink().count() == before;
        draft.policies.insert(name, Named { place: entry.place.clone(), value, whole });
    }
}

fn named_service(entry: &Entry<'_>, draft: &mut Draft) {
    let name = match ServiceName::parse(entry.name) {
        Ok(name) => name,
        Err(error) => return entry.fault(error.to_string()),
    };
    if !free(draft.services.get(&name).map(|named| &named.place), entry) {
        return;
    }
    let before = entry.value.sink().count();
    let Some(value) = service::service(entry, &name, draft) else { return };
    let whole = entry.value.sink().count() == before;
    draft.services.insert(name, Named { place: entry.place.clone(), value, whole });
}

fn overriding(cursor: &Cursor<'_>, draft: &mut Draft) -> Option<Override> {
    let words = "1..200 characters";
    let words_of = |c: Cursor<'_>| c.parse(words, |text| words_in(text, 200));
    let mut fields = cursor.map("an override")?;
    let service = fields.required("service", "whose breakers are held").and_then(|c| draft.service_ref(&c));
    let instance = fields.get("instance").map(|c| c.parse("the id of an instance", service::instance_id));
    let holds = [("open", Hold::Open), ("closed", Hold::Closed)];
    let breaker = fields.required("breaker", "open | closed").and_then(|c| c.choice(&holds));
    let owner = fields.required("owner", "who answers for it").and_then(words_of);
    let reason = fields.required("reason", "why the breaker may not decide").and_then(words_of);
    let until = fields
        .get("until")
        .and_then(|c| c.parse("a time as RFC 3339 has it, such as 2026-11-22T18:00:00Z", super::scalar::parse_time));
    fields.finish();
    // an instance that is no id must not become every instance
    let instance = instance.map_or(Some(None), |id| id.map(Some))?;
    Some(Override { service: service?, instance, breaker: breaker?, owner: owner?, reason: reason?, until })
}

/// Some words on one line.
fn words_in(text: &str, most: usize) -> Option<String> {
    let fits = (1..=most).contains(&text.chars().count());
    (fits && !text.trim().is_empty() && !text.chars().any(char::is_control)).then(|| text.into())
}
