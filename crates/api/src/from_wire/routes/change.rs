//! What a rule changes, from the wire.

use super::url_path;
use crate::from_wire::{At, Fault, authority, each, service_name};
use crate::v1;
use fusewire_model::policy::{Ratio, is_field_value};
use fusewire_model::route::{
    Cors, CorsWords, Edits, Filters, HeaderEdits, List, MAX_CORS_AGE, MAX_EDITS, MAX_MIRRORS, Mirror, PathEdit,
    PathMatch, REDIRECTS, Redirect, Scheme, may_edit,
};

/// `matched`: what the rule's paths match.
pub(super) fn filters(wire: v1::Filters, matched: &PathMatch) -> Result<Filters, Fault> {
    let filters = Filters {
        edits: Edits {
            request: header_edits(wire.request_headers).at("request_headers")?,
            response: header_edits(wire.response_headers).at("response_headers")?,
        },
        host: host(&wire.host).at("host")?,
        path: wire.path.map(|edit| path_edit(edit, matched)).transpose().at("path")?,
        redirect: wire.redirect.map(|to| redirect(to, matched)).transpose().at("redirect")?,
        mirrors: each(wire.mirrors, "mirrors", MAX_MIRRORS, mirror)?,
        cors: wire.cors.map(cors).transpose().at("cors")?,
    };
    let redirect = Filters { redirect: filters.redirect.clone(), ..Filters::default() };
    if filters.redirect.is_some() && filters != redirect {
        return Err(Fault::new("nothing may stand beside a redirect")).at("redirect");
    }
    Ok(filters)
}

pub(super) fn header_edits(wire: Option<v1::HeaderEdits>) -> Result<HeaderEdits, Fault> {
    let Some(wire) = wire else { return Ok(HeaderEdits::default()) };
    let field = |label: v1::Label| {
        if !is_field_value(&label.value) {
            return Err(Fault::new("must be visible ASCII characters, at most 4096")).at("value");
        }
        Ok((editable(label.name).at("name")?, label.value))
    };
    Ok(HeaderEdits {
        set: each(wire.set, "set", MAX_EDITS, field)?,
        add: each(wire.add, "add", MAX_EDITS, field)?,
        remove: each(wire.remove, "remove", MAX_EDITS, editable)?,
    })
}

fn editable(name: String) -> Result<String, Fault> {
    if may_edit(&name) {
        return Ok(name);
    }
    Err(Fault::new("must be a lower-case header name that a route may change"))
}

/// Empty means none.
fn host(text: &str) -> Result<Option<fusewire_model::route::Authority>, Fault> {
    if text.is_empty() { Ok(None) } else { authority(text).map(Some) }
}

fn path_edit(wire: v1::PathEdit, matched: &PathMatch) -> Result<PathEdit, Fault> {
    use v1::path_edit::Edit;
    match wire.edit {
        None => Err(Fault::new("is of no kind that this build knows")),
        Some(Edit::Whole(path)) => replacement(path).at("whole").map(PathEdit::Whole),
        Some(Edit::Prefix(_)) if !matched.has_prefix() => {
            Err(Fault::new("replaces a prefix, and the rule matches none")).at("prefix")
        }
        Some(Edit::Prefix(path)) => replacement(path).at("prefix").map(PathEdit::Prefix),
    }
}

/// It goes into request lines as it is.
fn replacement(path: String) -> Result<String, Fault> {
    if !path.bytes().all(|b| b.is_ascii_graphic()) || path.contains(['?', '#']) {
        return Err(Fault::new("must be percent-encoded and without '?' and '#'"));
    }
    url_path(path)
}

fn redirect(wire: v1::Redirect, matched: &PathMatch) -> Result<Redirect, Fault> {
    let scheme = match wire.scheme.as_str() {
        "" => None,
        word => {
            let known = Scheme::ALL.into_iter().find(|(name, _)| *name == word);
            let (_, scheme) = known.ok_or_else(|| Fault::new("must be http or https")).at("scheme")?;
            Some(scheme)
        }
    };
    let host = host(&wire.host).at("host")?;
    if host.as_ref().is_some_and(|host| host.port().is_some()) {
        return Err(Fault::new("must be without a port")).at("host");
    }
    let port = u16::try_from(wire.port).map_err(|_| Fault::new("must be 0..=65535")).at("port")?;
    let status = u16::try_from(wire.status).ok().filter(|status| REDIRECTS.contains(status));
    Ok(Redirect {
        scheme,
        host,
        port: Some(port).filter(|port| *port != 0),
        path: wire.path.map(|edit| path_edit(edit, matched)).transpose().at("path")?,
        status: status.ok_or_else(|| Fault::new(format!("must be one of {REDIRECTS:?}"))).at("status")?,
    })
}

fn cors(wire: v1::Cors) -> Result<Cors, Fault> {
    let v1::Cors { origins, methods, headers, expose, credentials, max_age_s } = wire;
    if !(1..=MAX_CORS_AGE).contains(&max_age_s) {
        return Err(Fault::new(format!("must be 1..={MAX_CORS_AGE}"))).at("max_age_s");
    }
    Cors::new(CorsWords { origins, methods, headers, expose }, credentials, max_age_s).map_err(|faults| {
        let Some((list, at, why)) = faults.into_iter().next() else { return Fault::new("cannot be") };
        let list = match list {
            List::Origins => "origins",
            List::Methods => "methods",
            List::Headers => "headers",
            List::Expose => "expose",
        };
        Fault { path: format!("{list}[{at}]"), message: why.to_owned() }
    })
}

fn mirror(wire: v1::Mirror) -> Result<Mirror, Fault> {
    let service = service_name(&wire.service).at("service")?;
    let share = Ratio::from_millionths(wire.share_millionths);
    let share = share.ok_or_else(|| Fault::new("must be 0..=1000000")).at("share_millionths")?;
    Ok(Mirror { service, share })
}
