//! The objects, as far as they are read. What is not known by name is kept, to be told.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Fields that this build does not know.
pub(super) type Rest = BTreeMap<String, Value>;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    pub name: String,
    pub namespace: String,
    pub generation: i64,
    /// RFC 3339, in UTC and whole seconds, as API servers write it: in the order of time as text.
    pub creation_timestamp: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct HttpRoute {
    pub metadata: Metadata,
    pub(super) spec: Spec<HttpRule>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct GrpcRoute {
    pub metadata: Metadata,
    pub(super) spec: Spec<GrpcRule>,
}

impl HttpRoute {
    /// Of those rules that have one.
    pub(crate) fn rule_names(&self) -> Vec<String> {
        self.spec.rules.iter().filter_map(|rule| rule.name.clone()).collect()
    }
}

impl GrpcRoute {
    /// Of those rules that have one.
    pub(crate) fn rule_names(&self) -> Vec<String> {
        self.spec.rules.iter().filter_map(|rule| rule.name.clone()).collect()
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct ReferenceGrant {
    pub metadata: Metadata,
    pub(super) spec: GrantSpec,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct GrantSpec {
    #[serde(default)]
    pub(super) from: Vec<GrantFrom>,
    #[serde(default)]
    pub(super) to: Vec<GrantTo>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct GrantFrom {
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) namespace: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct GrantTo {
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec<R> {
    #[serde(default)]
    pub(super) parent_refs: Vec<ParentRef>,
    #[serde(default = "Vec::new")]
    pub(super) rules: Vec<R>,
    /// Read so that it is known, and not looked at.
    #[serde(default, rename = "hostnames")]
    pub(super) _hostnames: Vec<String>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

/// As it was written; its status repeats it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParentRef {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl ParentRef {
    /// Group and kind have other defaults than a backend's: a Gateway.
    pub(super) fn is_service(&self) -> bool {
        self.group.as_deref() == Some("") && self.kind.as_deref() == Some("Service")
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HttpRule {
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) matches: Vec<HttpMatch>,
    #[serde(default)]
    pub(super) filters: Vec<Filter>,
    #[serde(default)]
    pub(super) backend_refs: Vec<BackendRef>,
    pub(super) timeouts: Option<Timeouts>,
    pub(super) retry: Option<Retry>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HttpMatch {
    pub(super) path: Option<PathMatch>,
    #[serde(default)]
    pub(super) headers: Vec<Named>,
    #[serde(default)]
    pub(super) query_params: Vec<Named>,
    pub(super) method: Option<String>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct PathMatch {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) value: Option<String>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

/// A header's or a parameter's name, and what its value must be.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Named {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) name: String,
    #[serde(default)]
    pub(super) value: String,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Filter {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) request_header_modifier: Option<HeaderModifier>,
    pub(super) response_header_modifier: Option<HeaderModifier>,
    pub(super) request_mirror: Option<RequestMirror>,
    pub(super) request_redirect: Option<RequestRedirect>,
    pub(super) url_rewrite: Option<UrlRewrite>,
    pub(super) cors: Option<Cors>,
    pub(super) extension_ref: Option<ExtensionRef>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

/// All of it names an object of somebody else's.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ExtensionRef {
    #[serde(default)]
    pub(super) group: String,
    #[serde(default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) name: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct HeaderModifier {
    #[serde(default)]
    pub(super) set: Vec<Field>,
    #[serde(default)]
    pub(super) add: Vec<Field>,
    #[serde(default)]
    pub(super) remove: Vec<String>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Field {
    pub(super) name: String,
    #[serde(default)]
    pub(super) value: String,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RequestMirror {
    pub(super) backend_ref: BackendRef,
    pub(super) percent: Option<u32>,
    pub(super) fraction: Option<Fraction>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Fraction {
    pub(super) numerator: u32,
    pub(super) denominator: Option<u32>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RequestRedirect {
    pub(super) scheme: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) path: Option<PathModifier>,
    pub(super) status_code: Option<u16>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct UrlRewrite {
    pub(super) hostname: Option<String>,
    pub(super) path: Option<PathModifier>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cors {
    #[serde(default)]
    pub(super) allow_origins: Vec<String>,
    pub(super) allow_credentials: Option<bool>,
    #[serde(default)]
    pub(super) allow_methods: Vec<String>,
    #[serde(default)]
    pub(super) allow_headers: Vec<String>,
    #[serde(default)]
    pub(super) expose_headers: Vec<String>,
    pub(super) max_age: Option<u32>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PathModifier {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) replace_full_path: Option<String>,
    pub(super) replace_prefix_match: Option<String>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct BackendRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<u16>,
    pub(super) weight: Option<u32>,
    #[serde(default)]
    pub(super) filters: Vec<Filter>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Timeouts {
    pub(super) request: Option<String>,
    pub(super) backend_request: Option<String>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

/// Of the experimental channel (GEP-1731).
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Retry {
    #[serde(default)]
    pub(super) codes: Vec<u16>,
    pub(super) attempts: Option<u32>,
    pub(super) backoff: Option<String>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GrpcRule {
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) matches: Vec<GrpcMatch>,
    #[serde(default)]
    pub(super) filters: Vec<Filter>,
    #[serde(default)]
    pub(super) backend_refs: Vec<BackendRef>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct GrpcMatch {
    pub(super) method: Option<MethodMatch>,
    #[serde(default)]
    pub(super) headers: Vec<Named>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct MethodMatch {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) service: Option<String>,
    pub(super) method: Option<String>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}
