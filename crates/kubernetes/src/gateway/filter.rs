//! Filters of rules and of backends, and the backends themselves.

use super::object::{self, BackendRef, Field, Filter, HeaderModifier, PathModifier, RequestMirror, RequestRedirect};
use super::{Input, Told, Translated, refs};
use fusewire_model::policy::{Ratio, is_field_value};
use fusewire_model::route::{
    Authority, Backend, Cors, CorsWords, Edits, Filters, HeaderEdits, List, MAX_CORS_AGE, MAX_EDITS, Mirror, PathEdit,
    REDIRECTS, Redirect, Scheme, is_replacement, may_edit,
};
use std::collections::BTreeSet;

/// What the rule at `path` does on the way. Filters of one kind that may stand only once, and stand there twice, are an object
/// that no API server lets in. `None`: one is of somebody else's kind, without which no request may go on (Gateway API).
pub(super) fn filters(input: &Input<'_>, of: &mut Translated<'_>, all: &[Filter], path: &str) -> Option<Filters> {
    let mut out = Filters::default();
    let mut is_known = true;
    for (index, filter) in all.iter().enumerate() {
        let path = format!("{path}.filters[{index}]");
        if edit(&mut of.told, filter, &mut out.edits, &path) {
            continue;
        }
        if is_extension(of, filter, &path) {
            is_known = false;
            continue;
        }
        if let ("CORS", Some(wanted)) = (filter.kind.as_str(), &filter.cors) {
            out.cors = cors(&mut of.told, wanted, &format!("{path}.cors"));
            continue;
        }
        match (filter.kind.as_str(), &filter.request_mirror, &filter.request_redirect, &filter.url_rewrite) {
            ("RequestMirror", Some(to), ..) => {
                let mirror = mirror(input, of, to, &format!("{path}.requestMirror"));
                out.mirrors.extend(mirror);
            }
            ("RequestRedirect", _, Some(to), _) => {
                out.redirect = Some(redirect(&mut of.told, to, &format!("{path}.requestRedirect")));
            }
            ("URLRewrite", .., Some(rewrite)) => {
                let path = format!("{path}.urlRewrite");
                of.told.unknown(&path, &rewrite.rest);
                out.host = host(&mut of.told, rewrite.hostname.as_deref(), &path);
                out.path = path_edit(&mut of.told, rewrite.path.as_ref(), &path);
            }
            (kind, ..) => of.told.unsupported(format_args!("{path}.type"), format_args!("{kind} is not supported")),
        }
    }
    if out.redirect.is_some() {
        out.edits.request = HeaderEdits::default(); // nobody is sent it
        if (Filters { redirect: None, ..out.clone() }) != Filters::default() {
            of.told.unsupported(format_args!("{path}.filters"), "others beside RequestRedirect are not supported");
        }
    }
    is_known.then_some(out)
}

/// Whether `filter` is of another project's kind; if so, that is told, and what needs it is never passed over.
fn is_extension(of: &mut Translated<'_>, filter: &Filter, path: &str) -> bool {
    let ("ExtensionRef", Some(object::ExtensionRef { group, kind, name })) =
        (filter.kind.as_str(), &filter.extension_ref)
    else {
        return false;
    };
    let why = format!(
        "{path}.extensionRef: {kind}.{group} {name} is no filter here, and what needs it is answered with an error"
    );
    of.told.unresolved.push(("InvalidKind", why));
    of.guards = true;
    true
}

/// Where requests go that must not go on: their share is answered with an error.
pub(super) fn nowhere() -> Backend {
    Backend { service: None, weight: 1, edits: None }
}

/// Whether `filter` edits headers; if so, `edits` has what it says.
fn edit(told: &mut Told, filter: &Filter, edits: &mut Edits, path: &str) -> bool {
    told.unknown(path, &filter.rest);
    let (modifier, into, name) = match filter.kind.as_str() {
        "RequestHeaderModifier" => (&filter.request_header_modifier, &mut edits.request, "requestHeaderModifier"),
        "ResponseHeaderModifier" => (&filter.response_header_modifier, &mut edits.response, "responseHeaderModifier"),
        _ => return false,
    };
    if let Some(modifier) = modifier {
        header_edits(told, modifier, into, &format!("{path}.{name}"));
    }
    true
}

fn header_edits(told: &mut Told, modifier: &HeaderModifier, edits: &mut HeaderEdits, path: &str) {
    told.unknown(path, &modifier.rest);
    edits.set.extend(fields(told, &modifier.set, &format!("{path}.set")));
    edits.add.extend(fields(told, &modifier.add, &format!("{path}.add")));
    for (index, name) in modifier.remove.iter().enumerate() {
        edits.remove.extend(editable(told, name, &format!("{path}.remove[{index}]")));
    }
    if [edits.set.len(), edits.add.len(), edits.remove.len()].into_iter().any(|count| count > MAX_EDITS) {
        told.unsupported(path, format_args!("is more than {MAX_EDITS} of one kind"));
    }
}

/// Of several for one name, whose case does not count, the first counts (Gateway API).
fn fields(told: &mut Told, fields: &[Field], path: &str) -> Vec<(String, String)> {
    let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
    for (index, field) in fields.iter().enumerate() {
        let path = format!("{path}[{index}]");
        told.unknown(&path, &field.rest);
        if !is_field_value(&field.value) {
            told.unsupported(format_args!("{path}.value"), "must be visible ASCII characters");
        } else if let Some(name) = editable(told, &field.name, &format!("{path}.name"))
            && seen.insert(name.clone())
        {
            all.push((name, field.value.clone()));
        }
    }
    all
}

fn editable(told: &mut Told, name: &str, path: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if !may_edit(&lower) {
        let ours = "frames a message, is for one connection, names the host, or is the mesh's own";
        told.unsupported(path, format_args!("{name} {ours}: a route may not change it"));
        return None;
    }
    Some(lower)
}

fn cors(told: &mut Told, wanted: &object::Cors, path: &str) -> Option<Cors> {
    told.unknown(path, &wanted.rest);
    let age = wanted.max_age.unwrap_or(Cors::DEFAULT_AGE);
    if !(1..=MAX_CORS_AGE).contains(&age) {
        told.unsupported(format_args!("{path}.maxAge"), format_args!("must be 1..{MAX_CORS_AGE}"));
    }
    let words = CorsWords {
        origins: wanted.allow_origins.clone(),
        methods: wanted.allow_methods.clone(),
        headers: wanted.allow_headers.clone(),
        expose: wanted.expose_headers.clone(),
    };
    let made = Cors::new(words, wanted.allow_credentials.unwrap_or(false), age);
    let told = |faults: Vec<(List, usize, &str)>| {
        for (list, at, why) in faults {
            let list = match list {
                List::Origins => "allowOrigins",
                List::Methods => "allowMethods",
                List::Headers => "allowHeaders",
                List::Expose => "exposeHeaders",
            };
            told.unsupported(format_args!("{path}.{list}[{at}]"), why);
        }
    };
    made.map_err(told).ok()
}

/// One that leads nowhere is told and left out.
fn mirror(input: &Input<'_>, of: &mut Translated<'_>, to: &RequestMirror, path: &str) -> Option<Mirror> {
    of.told.unknown(path, &to.rest);
    let share = match (to.percent, &to.fraction) {
        (Some(percent), _) => u64::from(percent) * 10_000,
        (None, Some(fraction)) => {
            of.told.unknown(&format!("{path}.fraction"), &fraction.rest);
            let whole = u64::from(fraction.denominator.unwrap_or(100)).max(1);
            u64::from(fraction.numerator) * u64::from(Ratio::WHOLE) / whole
        }
        (None, None) => u64::from(Ratio::WHOLE),
    };
    let share = u32::try_from(share).ok().and_then(Ratio::from_millionths);
    if share.is_none() {
        of.told.unsupported(path, "is more than all");
    }
    let backend = format!("{path}.backendRef");
    of.told.unknown(&backend, &to.backend_ref.rest);
    let service = refs::service(input, of, &to.backend_ref, &backend)?;
    Some(Mirror { service, share: share? })
}

fn redirect(told: &mut Told, to: &RequestRedirect, path: &str) -> Redirect {
    told.unknown(path, &to.rest);
    let scheme = to.scheme.as_deref().and_then(|word| {
        let known = Scheme::ALL.into_iter().find(|(name, _)| *name == word).map(|(_, scheme)| scheme);
        if known.is_none() {
            told.unsupported(format_args!("{path}.scheme"), format_args!("{word} is not supported"));
        }
        known
    });
    let status = to.status_code.unwrap_or(302);
    if !REDIRECTS.contains(&status) {
        told.unsupported(format_args!("{path}.statusCode"), format_args!("{status} is not supported"));
    }
    let host = host(told, to.hostname.as_deref(), path);
    Redirect { scheme, host, port: to.port, path: path_edit(told, to.path.as_ref(), path), status }
}

fn host(told: &mut Told, hostname: Option<&str>, path: &str) -> Option<Authority> {
    let hostname = hostname?;
    let host = Authority::parse(hostname).filter(|host| host.port().is_none());
    if host.is_none() {
        told.unsupported(format_args!("{path}.hostname"), "is no host's name");
    }
    host
}

fn path_edit(told: &mut Told, modifier: Option<&PathModifier>, path: &str) -> Option<PathEdit> {
    let (modifier, path) = (modifier?, format!("{path}.path"));
    told.unknown(&path, &modifier.rest);
    match (modifier.kind.as_str(), &modifier.replace_full_path, &modifier.replace_prefix_match) {
        ("ReplaceFullPath", Some(whole), _) => {
            replacement(told, whole, format_args!("{path}.replaceFullPath")).map(PathEdit::Whole)
        }
        // nothing in place of the prefix
        ("ReplacePrefixMatch", _, Some(new)) if new.is_empty() => Some(PathEdit::Prefix("/".into())),
        ("ReplacePrefixMatch", _, Some(new)) => {
            replacement(told, new, format_args!("{path}.replacePrefixMatch")).map(PathEdit::Prefix)
        }
        (kind, ..) => {
            told.unsupported(format_args!("{path}.type"), format_args!("{kind} is not supported"));
            None
        }
    }
}

fn replacement(told: &mut Told, text: &str, path: impl std::fmt::Display) -> Option<String> {
    let fits = is_replacement(text);
    if !fits {
        told.unsupported(path, "must begin with '/', and be percent-encoded as a path is (RFC 3986, 3.3)");
    }
    fits.then(|| text.to_owned())
}

/// Where the rule's requests go, at least one with a weight. What leads nowhere keeps its share, and so does a rule without
/// backends: it is answered with 500.
pub(super) fn backends(input: &Input<'_>, of: &mut Translated<'_>, all: &[BackendRef], path: &str) -> Vec<Backend> {
    let mut out = Vec::new();
    for (index, backend) in all.iter().enumerate() {
        let path = format!("{path}.backendRefs[{index}]");
        of.told.unknown(&path, &backend.rest);
        let mut service = refs::service(input, of, backend, &path);
        let mut edits = Edits::default();
        for (index, filter) in backend.filters.iter().enumerate() {
            let path = format!("{path}.filters[{index}]");
            if is_extension(of, filter, &path) {
                service = None;
            } else if !edit(&mut of.told, filter, &mut edits, &path) {
                let why = format!("{} is not supported for one backend: move it to the rule", filter.kind);
                of.told.unsupported(format_args!("{path}.type"), why);
            }
        }
        let weight = backend.weight.unwrap_or(1);
        if weight > 1_000_000 {
            of.told.unsupported(format_args!("{path}.weight"), "must be at most 1000000");
        }
        out.push(Backend { service, weight, edits: edits.boxed() });
    }
    if out.iter().all(|backend| backend.weight == 0) {
        return vec![nowhere()];
    }
    out
}
