//! Which ports of which Service a parent of a route means.

use super::object::ParentRef;
use super::{Input, Translated};
use crate::known::ServiceId;

/// Why a parent has no part of it: the condition's reason, and what is to be said.
pub(super) type Refused = (&'static str, String);

/// Whether a route was written elsewhere for this port.
pub(super) fn is_routed(input: &Input<'_>, id: &ServiceId, port: u16) -> bool {
    let name = input.services.get(id).and_then(|known| known.name_of(id, port));
    name.is_some_and(|name| (input.is_routed)(&name))
}

/// The Service, and its ports: all, or the one of that number or name.
pub(super) fn ports(
    input: &Input<'_>,
    of: &Translated<'_>,
    parent: &ParentRef,
) -> Result<(ServiceId, Vec<u16>), Refused> {
    let own = of.metadata.namespace.as_str();
    let namespace = parent.namespace.as_deref().unwrap_or(own);
    if namespace != own {
        let why = "routes for the callers of one namespace only are not supported: put it into the Service's own";
        return Err(("UnsupportedValue", format!("parentRef {namespace}/{}: {why}", parent.name)));
    }
    let id = (namespace.to_owned(), parent.name.clone());
    let missing = |what: &str| ("NoMatchingParent", format!("Service {namespace}/{} {what}", parent.name));
    let Some(known) = input.services.get(&id) else { return Err(missing("does not exist")) };
    let wanted = known.ports.iter().filter(|port| {
        parent.port.is_none_or(|number| number == port.number)
            && parent.section_name.as_ref().is_none_or(|name| *name == port.name)
    });
    let ports: Vec<u16> = wanted.map(|port| port.number).collect();
    if ports.is_empty() {
        return Err(missing("has no TCP port of that name and number"));
    }
    Ok((id, ports))
}
