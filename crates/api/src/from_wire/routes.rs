//! Route tables from the wire. References to services and policies are names here; whoever holds the resources checks
//! that they are there.

use super::parts::{MAX_TEXT, at_most, text};
use super::{At, Fault, authority, each, policy_name, service_name};
use crate::v1;
use fusewire_model::route::{Backend, HeaderMatch, HeaderValueMatch, Match, PathMatch, RouteTable, Rule};

const MAX_RULES: usize = 10_000;
const MAX_BACKENDS: usize = 1_000;
const MAX_CONDITIONS: usize = 1_000;
const MAX_BACKEND_WEIGHT: u32 = 1_000_000;

pub(super) fn route(name: &str, route: v1::Route) -> Result<RouteTable, Fault> {
    let parsed = authority(name)?;
    if parsed.as_str() != name {
        return Err(Fault::new(format!("the name must be in its normal form, {:?}", parsed.as_str())));
    }
    Ok(RouteTable { authority: parsed, rules: each(route.rules, "rules", MAX_RULES, rule)? })
}

fn rule(rule: v1::Rule) -> Result<Rule, Fault> {
    let backends = each(rule.backends, "backends", MAX_BACKENDS, backend)?;
    if backends.is_empty() {
        return Err(Fault::new("at least one backend is needed")).at("backends");
    }
    if backends.iter().all(|b| b.weight == 0) {
        return Err(Fault::new("at least one weight must be above 0")).at("backends");
    }
    Ok(Rule {
        name: text(rule.name, MAX_TEXT).at("name")?,
        matches: matches(rule.r#match.unwrap_or_default()).at("match")?,
        backends,
        policy: policy_name(&rule.policy)?,
    })
}

fn backend(backend: v1::Backend) -> Result<Backend, Fault> {
    let service = service_name(&backend.service).at("service")?;
    if backend.weight > MAX_BACKEND_WEIGHT {
        let message = format!("must be 0..={MAX_BACKEND_WEIGHT}, got {}", backend.weight);
        return Err(Fault::new(message)).at("weight");
    }
    Ok(Backend { service, weight: backend.weight })
}

fn matches(matches: v1::Match) -> Result<Match, Fault> {
    let path = match matches.path {
        None => PathMatch::Any,
        Some(v1::r#match::Path::Exact(path)) => PathMatch::Exact(url_path(path).at("exact")?),
        Some(v1::r#match::Path::Prefix(path)) => PathMatch::Prefix(url_path(path).at("prefix")?),
    };
    let methods = each(matches.methods, "methods", MAX_CONDITIONS, method)?;
    Ok(Match { path, methods, headers: each(matches.headers, "headers", MAX_CONDITIONS, header)? })
}

fn url_path(path: String) -> Result<String, Fault> {
    if !path.starts_with('/') {
        return Err(Fault::new("must begin with '/'"));
    }
    text(path, MAX_TEXT)
}

fn method(method: String) -> Result<String, Fault> {
    at_most(64, method.len(), "bytes")?;
    if method.is_empty() || !method.bytes().all(|b| is_token(b) && !b.is_ascii_lowercase()) {
        return Err(Fault::new("must be an upper-case HTTP method"));
    }
    Ok(method)
}

fn header(header: v1::HeaderMatch) -> Result<HeaderMatch, Fault> {
    let v1::HeaderMatch { name, value } = header;
    at_most(MAX_TEXT, name.len(), "bytes").at("name")?;
    if name.is_empty() || !name.bytes().all(|b| is_token(b) && !b.is_ascii_uppercase()) {
        return Err(Fault::new("must be a lower-case header name")).at("name");
    }
    let value = match value {
        None => return Err(Fault::new("the condition is of no kind that this build knows")).at("value"),
        Some(v1::header_match::Value::Exact(value)) => HeaderValueMatch::Exact(text(value, MAX_TEXT).at("exact")?),
        Some(v1::header_match::Value::Present(true)) => HeaderValueMatch::Present,
        Some(v1::header_match::Value::Present(false)) => HeaderValueMatch::Absent,
    };
    Ok(HeaderMatch { name, value })
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
