//! Route tables from the wire. References to services and policies are names here; whoever holds the resources checks
//! that they are there.

mod change;

use super::parts::{MAX_TEXT, at_most, text};
use super::{At, Fault, authority, each, policy_name, service_name};
use crate::v1;
use fusewire_model::route::{
    Backend, Edits, HeaderMatch, MAX_PATTERNS, MAX_RULES, Match, PathMatch, Pattern, QueryMatch, RouteTable, Rule,
    SOURCES, Size, ValueMatch, is_token,
};

const MAX_BACKENDS: usize = 1_000;
const MAX_CONDITIONS: usize = 1_000;
const MAX_BACKEND_WEIGHT: u32 = 1_000_000;

pub(super) fn route(name: &str, route: v1::Route) -> Result<RouteTable, Fault> {
    let parsed = authority(name)?;
    if parsed.as_str() != name {
        return Err(Fault::new(format!("the name must be in its normal form, {:?}", parsed.as_str())));
    }
    let service = match route.service.as_str() {
        "" => None,
        name => Some(service_name(name).at("service")?),
    };
    at_most(SOURCES * MAX_PATTERNS, route.rules.iter().map(patterns).sum(), "regular expressions").at("rules")?;
    let rules = each(route.rules, "rules", SOURCES * MAX_RULES, rule)?;
    let mut size = Size::default();
    rules.iter().for_each(|rule| size += Size::of(rule));
    match size.excess_of_all() {
        Some(excess) => Err(Fault::new(excess)).at("rules"),
        None => Ok(RouteTable { authority: parsed, service, rules }),
    }
}

/// Counted before any is compiled, which takes more than its text does.
fn patterns(rule: &v1::Rule) -> usize {
    let Some(matches) = &rule.r#match else { return 0 };
    let of_path = matches!(matches.path, Some(v1::r#match::Path::Regex(_)));
    let headers = matches.headers.iter().filter(|h| matches!(h.value, Some(v1::header_match::Value::Regex(_))));
    let query = matches.query.iter().filter(|q| matches!(q.value, Some(v1::query_match::Value::Regex(_))));
    usize::from(of_path) + headers.count() + query.count()
}

fn rule(rule: v1::Rule) -> Result<Rule, Fault> {
    let matches = matches(rule.r#match.unwrap_or_default()).at("match")?;
    let filters = rule.filters.map(|filters| change::filters(filters, &matches.path)).transpose().at("filters")?;
    let filters = filters.and_then(|filters| filters.boxed());
    let backends = each(rule.backends, "backends", MAX_BACKENDS, backend)?;
    if filters.as_ref().is_some_and(|filters| filters.redirect.is_some()) {
        if !backends.is_empty() {
            return Err(Fault::new("none may stand beside a redirect")).at("backends");
        }
    } else if backends.is_empty() {
        return Err(Fault::new("at least one backend is needed")).at("backends");
    } else if backends.iter().all(|b| b.weight == 0) {
        return Err(Fault::new("at least one weight must be above 0")).at("backends");
    }
    let policy = policy_name(&rule.policy)?;
    Ok(Rule { name: text(rule.name, MAX_TEXT).at("name")?, matches, backends, policy, filters })
}

fn backend(backend: v1::Backend) -> Result<Backend, Fault> {
    let service = match backend.service.as_str() {
        "" => None,
        name => Some(service_name(name).at("service")?),
    };
    if backend.weight > MAX_BACKEND_WEIGHT {
        let message = format!("must be 0..={MAX_BACKEND_WEIGHT}, got {}", backend.weight);
        return Err(Fault::new(message)).at("weight");
    }
    let edits = Edits {
        request: change::header_edits(backend.request_headers).at("request_headers")?,
        response: change::header_edits(backend.response_headers).at("response_headers")?,
    };
    Ok(Backend { service, weight: backend.weight, edits: edits.boxed() })
}

fn matches(matches: v1::Match) -> Result<Match, Fault> {
    use v1::r#match::Path;
    let path = match matches.path {
        None => PathMatch::Any,
        Some(Path::Exact(path)) => PathMatch::Exact(url_path(path).at("exact")?),
        Some(Path::Prefix(path)) => PathMatch::Prefix(url_path(path).at("prefix")?),
        Some(Path::Regex(text)) => PathMatch::Regex(pattern(&text).at("regex")?),
    };
    let methods = each(matches.methods, "methods", MAX_CONDITIONS, method)?;
    let headers = each(matches.headers, "headers", MAX_CONDITIONS, header)?;
    Ok(Match { path, methods, headers, query: each(matches.query, "query", MAX_CONDITIONS, parameter)? })
}

fn pattern(text: &str) -> Result<Pattern, Fault> {
    Pattern::parse(text).map_err(Fault::new)
}

fn url_path(path: String) -> Result<String, Fault> {
    if !path.starts_with('/') {
        return Err(Fault::new("must begin with '/'"));
    }
    text(path, MAX_TEXT)
}

fn method(method: String) -> Result<String, Fault> {
    at_most(64, method.len(), "bytes")?;
    if !is_token(&method) || method.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(Fault::new("must be an upper-case HTTP method"));
    }
    Ok(method)
}

fn header(header: v1::HeaderMatch) -> Result<HeaderMatch, Fault> {
    let v1::HeaderMatch { name, value } = header;
    at_most(MAX_TEXT, name.len(), "bytes").at("name")?;
    if !is_token(&name) || name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(Fault::new("must be a lower-case header name")).at("name");
    }
    use v1::header_match::Value;
    let value = match value {
        None => return Err(Fault::new(NO_CONDITION)).at("value"),
        Some(Value::Exact(value)) => ValueMatch::Exact(text(value, MAX_TEXT).at("exact")?),
        Some(Value::Present(true)) => ValueMatch::Present,
        Some(Value::Present(false)) => ValueMatch::Absent,
        Some(Value::Regex(text)) => ValueMatch::Regex(pattern(&text).at("regex")?),
    };
    Ok(HeaderMatch { name, value })
}

const NO_CONDITION: &str = "the condition is of no kind that this build knows";

fn parameter(parameter: v1::QueryMatch) -> Result<QueryMatch, Fault> {
    use v1::query_match::Value;
    let v1::QueryMatch { name, value } = parameter;
    if name.is_empty() {
        return Err(Fault::new("must not be empty")).at("name");
    }
    let value = match value {
        None => return Err(Fault::new(NO_CONDITION)).at("value"),
        Some(Value::Exact(value)) => ValueMatch::Exact(text(value, MAX_TEXT).at("exact")?),
        Some(Value::Present(true)) => ValueMatch::Present,
        Some(Value::Present(false)) => ValueMatch::Absent,
        Some(Value::Regex(text)) => ValueMatch::Regex(pattern(&text).at("regex")?),
    };
    Ok(QueryMatch { name: text(name, MAX_TEXT).at("name")?, value })
}
