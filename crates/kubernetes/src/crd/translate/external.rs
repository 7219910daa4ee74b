//! ExternalServices as services, and the routes by which their hosts lead to them.
//!
//! Nobody can take a name that is another's: not a Service's, in whatever form, not another ExternalService's, and not a host
//! that an older one has.

use super::{INVALID, Object, Output, Said, Setting, Verdict, read, target};
use crate::crd::object::ObjectId;
use fusewire_model::ServiceName;
use fusewire_model::route::{Authority, Route};
use fusewire_model::service::Service;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

pub(super) fn translate(setting: &mut Setting<'_>, objects: &[&Object], output: &mut Output) {
    let own = |object: &&Object| ServiceName::parse(&object.meta.id.mesh_name()).ok();
    let names: BTreeSet<ServiceName> = objects.iter().filter_map(own).collect();
    let mut hosts: BTreeMap<Authority, String> = BTreeMap::new();
    for object in objects {
        let id = &object.meta.id;
        let verdict = match one(setting, object) {
            Err(accepted) => Verdict { accepted, ..Verdict::accepted(String::new()) },
            Ok((service, route)) => {
                let mut verdict = Verdict::accepted(String::new());
                verdict.services.insert(service.name.clone());
                let free = route.and_then(|route| free(setting, route, id, (&names, &mut hosts), &mut verdict));
                verdict.hosts.extend(free.iter().flat_map(|route| route.authorities.iter().cloned()));
                output.routes.extend(free);
                setting.externals.insert(service.name.clone(), service.clone());
                output.services.push(service);
                verdict
            }
        };
        output.verdicts.insert(id.clone(), verdict);
    }
    setting.names.extend(setting.externals.keys().cloned());
}

fn one(setting: &Setting<'_>, object: &Object) -> Result<(Service, Option<Route>), Said> {
    let invalid = |message: String| Said::no(INVALID, message);
    let ObjectId { namespace, name, .. } = &object.meta.id;
    if !target::is_label(name) {
        return Err(invalid("metadata.name: must be a DNS label, since NAME.NAMESPACE is what it is called".into()));
    }
    if setting.input.services.contains_key(&(namespace.clone(), name.clone())) {
        return Err(Said::no("Conflicted", format!("Service {namespace}/{name} has this name: choose another")));
    }
    let own = object.meta.id.mesh_name();
    let settings = read::settings(&object.spec, &["hosts"], &["policy", "allow"]).map_err(invalid)?;
    let hosts = object.spec.get("hosts").cloned().unwrap_or(Value::Null);
    let mut document = json!({"services": {own.as_str(): settings}});
    if hosts.as_array().is_some_and(|hosts| !hosts.is_empty()) {
        document["routes"] = json!({own.as_str(): {"authority": hosts, "to": own}});
    }
    let (service_at, hosts_at) = (format!("services[{own:?}]"), format!("routes[{own:?}].authority"));
    let places = [(service_at.as_str(), "spec"), (hosts_at.as_str(), "spec.hosts")];
    let mesh = read::mesh(document, setting.input.trust_domain, &places).map_err(invalid)?;
    let route = mesh.routes.into_iter().next();
    for authority in route.iter().flat_map(|route| &route.authorities) {
        let host = authority.host();
        if !host.contains('.') || host.parse::<Ipv4Addr>().is_ok() || host.starts_with('[') {
            let why = "is no name of a host elsewhere: it must have a dot, and be no address";
            return Err(invalid(format!("spec.hosts: {authority} {why}")));
        }
    }
    let service = mesh.services.into_values().next().ok_or_else(|| invalid("spec: must be a service".into()))?;
    Ok((service, route))
}

fn is_taken(setting: &Setting<'_>, authority: &Authority, own: &str, externals: &BTreeSet<ServiceName>) -> bool {
    let host = authority.host();
    let cluster = host.ends_with(".svc") || host.ends_with(&format!(".svc.{}", setting.input.cluster_domain));
    let name = ServiceName::parse(host).ok();
    let mine = host == own;
    cluster
        || is_below(setting, host)
        || !mine && (setting.input.is_taken)(authority)
        || name.is_some_and(|name| !mine && (setting.names.contains(&name) || externals.contains(&name)))
}

/// Whether it could be a pod's: `POD.SERVICE.NAMESPACE`, or `POD.SERVICE` to callers of the same namespace. It is nobody else's while
/// the pod is away.
fn is_below(setting: &Setting<'_>, host: &str) -> bool {
    match *host.rsplitn(3, '.').collect::<Vec<_>>() {
        [namespace, service, _] => setting.input.services.contains_key(&(namespace.to_owned(), service.to_owned())),
        [service, _] => setting.input.services.keys().any(|(_, name)| name == service),
        _ => false,
    }
}

/// The route with those hosts that nobody else has.
fn free(
    setting: &Setting<'_>,
    mut route: Route,
    id: &ObjectId,
    (externals, hosts): (&BTreeSet<ServiceName>, &mut BTreeMap<Authority, String>),
    verdict: &mut Verdict,
) -> Option<Route> {
    let own = id.mesh_name();
    let mut lost = Vec::new();
    route.authorities.retain(|authority| {
        // who has a host for every port has it for each
        let older = [authority.clone(), authority.without_port()].into_iter().find_map(|host| hosts.get(&host));
        if is_taken(setting, authority, &own, externals) {
            lost.push(format!("spec.hosts: {authority} is the name of another service of this mesh"));
        } else if let Some(older) = older.filter(|older| **older != id.to_string()) {
            lost.push(format!("spec.hosts: {older} is older, and has the host {authority}"));
        } else {
            hosts.insert(authority.clone(), id.to_string());
            return true;
        }
        false
    });
    verdict.conflicted = (!lost.is_empty()).then(|| read::together(lost.into_iter()));
    (!route.authorities.is_empty()).then_some(route)
}
