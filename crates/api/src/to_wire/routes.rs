//! Route tables to the wire.

use crate::v1;
use fusewire_model::route::{
    Backend, Cors, CorsWords, Filters, HeaderEdits, HeaderMatch, Match, Mirror, PathEdit, PathMatch, QueryMatch,
    Redirect, RouteTable, Rule, Scheme, ValueMatch,
};

pub(super) fn route(table: &RouteTable) -> v1::Route {
    v1::Route {
        rules: table.rules.iter().map(rule).collect(),
        service: table.service.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn rule(rule: &Rule) -> v1::Rule {
    v1::Rule {
        name: rule.name.clone(),
        r#match: Some(matches(&rule.matches)),
        backends: rule.backends.iter().map(backend).collect(),
        policy: rule.policy.as_ref().map(ToString::to_string).unwrap_or_default(),
        filters: rule.filters.as_deref().map(filters),
    }
}

fn backend(backend: &Backend) -> v1::Backend {
    let edits = backend.edits.as_deref();
    v1::Backend {
        service: backend.service.as_ref().map(ToString::to_string).unwrap_or_default(),
        weight: backend.weight,
        request_headers: edits.and_then(|edits| header_edits(&edits.request)),
        response_headers: edits.and_then(|edits| header_edits(&edits.response)),
    }
}

fn matches(matches: &Match) -> v1::Match {
    use v1::r#match::Path;
    let path = match &matches.path {
        PathMatch::Any => None,
        PathMatch::Exact(path) => Some(Path::Exact(path.clone())),
        PathMatch::Prefix(path) => Some(Path::Prefix(path.clone())),
        PathMatch::Regex(pattern) => Some(Path::Regex(pattern.to_string())),
    };
    v1::Match {
        path,
        methods: matches.methods.clone(),
        headers: matches.headers.iter().map(header).collect(),
        query: matches.query.iter().map(parameter).collect(),
    }
}

fn header(header: &HeaderMatch) -> v1::HeaderMatch {
    use v1::header_match::Value;
    let value = match &header.value {
        ValueMatch::Exact(value) => Value::Exact(value.clone()),
        ValueMatch::Present => Value::Present(true),
        ValueMatch::Absent => Value::Present(false),
        ValueMatch::Regex(pattern) => Value::Regex(pattern.to_string()),
    };
    v1::HeaderMatch { name: header.name.clone(), value: Some(value) }
}

fn parameter(parameter: &QueryMatch) -> v1::QueryMatch {
    use v1::query_match::Value;
    let value = match &parameter.value {
        ValueMatch::Exact(value) => Value::Exact(value.clone()),
        ValueMatch::Present => Value::Present(true),
        ValueMatch::Absent => Value::Present(false),
        ValueMatch::Regex(pattern) => Value::Regex(pattern.to_string()),
    };
    v1::QueryMatch { name: parameter.name.clone(), value: Some(value) }
}

fn filters(filters: &Filters) -> v1::Filters {
    v1::Filters {
        request_headers: header_edits(&filters.edits.request),
        response_headers: header_edits(&filters.edits.response),
        host: filters.host.as_ref().map(ToString::to_string).unwrap_or_default(),
        path: filters.path.as_ref().map(path_edit),
        redirect: filters.redirect.as_ref().map(redirect),
        mirrors: filters.mirrors.iter().map(mirror).collect(),
        cors: filters.cors.as_ref().map(cors),
    }
}

fn cors(cors: &Cors) -> v1::Cors {
    let CorsWords { origins, methods, headers, expose } = cors.words();
    v1::Cors { origins, methods, headers, expose, credentials: cors.credentials, max_age_s: cors.max_age }
}

/// `None` where there is nothing to do.
fn header_edits(edits: &HeaderEdits) -> Option<v1::HeaderEdits> {
    let field = |(name, value): &(String, String)| v1::Label { name: name.clone(), value: value.clone() };
    (!edits.is_empty()).then(|| v1::HeaderEdits {
        set: edits.set.iter().map(field).collect(),
        add: edits.add.iter().map(field).collect(),
        remove: edits.remove.clone(),
    })
}

fn path_edit(edit: &PathEdit) -> v1::PathEdit {
    use v1::path_edit::Edit;
    let edit = match edit {
        PathEdit::Whole(path) => Edit::Whole(path.clone()),
        PathEdit::Prefix(path) => Edit::Prefix(path.clone()),
    };
    v1::PathEdit { edit: Some(edit) }
}

fn redirect(redirect: &Redirect) -> v1::Redirect {
    v1::Redirect {
        scheme: redirect.scheme.map(Scheme::as_str).unwrap_or_default().into(),
        host: redirect.host.as_ref().map(ToString::to_string).unwrap_or_default(),
        port: redirect.port.map_or(0, u32::from),
        path: redirect.path.as_ref().map(path_edit),
        status: redirect.status.into(),
    }
}

fn mirror(mirror: &Mirror) -> v1::Mirror {
    v1::Mirror { service: mirror.service.to_string(), share_millionths: mirror.share.millionths() }
}
