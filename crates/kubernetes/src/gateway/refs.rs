//! What a reference to a backend leads to: a service of the mesh, or the reason why to none.

use super::object::{BackendRef, ReferenceGrant};
use super::{Input, Translated};
use crate::known::CARRIES_BYTES;
use fusewire_model::ServiceName;

/// The service; what is wrong is told, with `path`.
pub(super) fn service(
    input: &Input<'_>,
    of: &mut Translated<'_>,
    backend: &BackendRef,
    path: &str,
) -> Option<ServiceName> {
    let found = found(input, of, backend);
    found.map_err(|(reason, why)| of.told.unresolved.push((reason, format!("{path}: {why}")))).ok()
}

fn found(input: &Input<'_>, of: &Translated<'_>, backend: &BackendRef) -> Result<ServiceName, (&'static str, String)> {
    let (group, kind) = (backend.group.as_deref().unwrap_or_default(), backend.kind.as_deref().unwrap_or("Service"));
    if !group.is_empty() || kind != "Service" {
        let dot = if group.is_empty() { "" } else { "." };
        return Err(("InvalidKind", format!("{kind}{dot}{group} is no backend here: name a Service")));
    }
    let own = of.metadata.namespace.as_str();
    let (namespace, name) = (backend.namespace.as_deref().unwrap_or(own), backend.name.as_str());
    if namespace != own && !input.grants.iter().any(|grant| permits(grant, of, namespace, name)) {
        let why = format!("Service {namespace}/{name} is in another namespace, and no ReferenceGrant there permits it");
        return Err(("RefNotPermitted", why));
    }
    let missing = |what: String| ("BackendNotFound", format!("Service {namespace}/{name} {what}"));
    let id = (namespace.to_owned(), name.to_owned());
    let known = input.services.get(&id).ok_or_else(|| missing("does not exist".into()))?;
    let port = backend.port.ok_or_else(|| missing("needs a port here".into()))?;
    if known.ports.iter().any(|known| known.number == port && known.is_opaque) {
        let why = format!("port {port} of Service {namespace}/{name} is {CARRIES_BYTES}");
        return Err(("UnsupportedProtocol", why));
    }
    known.name_of(&id, port).ok_or_else(|| missing(format!("has no TCP port {port}")))
}

fn permits(grant: &ReferenceGrant, of: &Translated<'_>, namespace: &str, name: &str) -> bool {
    grant.metadata.namespace == namespace
        && grant.spec.from.iter().any(|from| {
            from.group == "gateway.networking.k8s.io"
                && from.kind == of.kind.as_str()
                && from.namespace == of.metadata.namespace
        })
        && grant.spec.to.iter().any(|to| {
            to.group.is_empty() && to.kind == "Service" && to.name.as_deref().is_none_or(|wanted| wanted == name)
        })
}
