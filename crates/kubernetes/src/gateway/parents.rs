//! Which ports of which Service a parent of a route means.

use super::object::ParentRef;
use super::{Input, Translated};
use crate::known::{CARRIES_BYTES, KnownService, Port, ServiceId};

/// Why a parent has no part of it: the condition's reason, and what is to be said.
pub(super) type Refused = (&'static str, String);

/// Whether a route was written elsewhere for this port.
pub(super) fn is_routed(input: &Input<'_>, id: &ServiceId, port: u16) -> bool {
    let name = input.services.get(id).and_then(|known| known.name_of(id, port));
    name.is_some_and(|name| (input.is_routed)(&name))
}

/// The Service, and its ports: all but those that are declared to carry bytes, or the one of that number or name.
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
    // GEP-1294: neither is to be a parent
    let unfit = match known {
        KnownService { is_headless: true, .. } => {
            Some("is headless: its callers call an instance, whatever a route says")
        }
        KnownService { is_external: true, .. } => Some("is another's name (ExternalName)"),
        _ => None,
    };
    if let Some(why) = unfit {
        return Err(("UnsupportedValue", format!("Service {namespace}/{} {why}", parent.name)));
    }
    let wanted = known.ports.iter().filter(|port| {
        parent.port.is_none_or(|number| number == port.number)
            && parent.section_name.as_ref().is_none_or(|name| *name == port.name)
    });
    let wanted: Vec<&Port> = wanted.collect();
    let ports: Vec<u16> = wanted.iter().filter(|port| !port.is_opaque).map(|port| port.number).collect();
    match (ports.is_empty(), wanted.is_empty()) {
        (false, _) => Ok((id, ports)),
        (true, true) => Err(missing("has no TCP port of that name and number")),
        (true, false) => Err(missing(&format!("has only a port that is {CARRIES_BYTES}"))),
    }
}
