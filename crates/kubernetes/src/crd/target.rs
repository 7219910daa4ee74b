//! `targetRefs`: what an object is about, in its own namespace (GEP-713).
//!
//! It decides how a target is written and read, not whether it exists. The group may be left out: each kind has one.

use super::schema::{Schema, list, object, optional, required, text, word};
use serde::Deserialize;
use std::fmt;

/// What a policy may target.
pub(super) const POLICY: [TargetKind; 4] =
    [TargetKind::Service, TargetKind::ExternalService, TargetKind::HttpRoute, TargetKind::GrpcRoute];
/// What is no route.
pub(super) const SERVICES: [TargetKind; 2] = [TargetKind::Service, TargetKind::ExternalService];

/// RFC 1123, one label.
const NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// RFC 1123, labels with dots: routes are named so.
const DOTTED: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A service of the mesh.
pub(super) const SERVICE: &str = DOTTED;
const MAX_TARGETS: u64 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetKind {
    Service,
    ExternalService,
    HttpRoute,
    GrpcRoute,
}

impl TargetKind {
    const ALL: [Self; 4] = [Self::Service, Self::ExternalService, Self::HttpRoute, Self::GrpcRoute];

    /// As `kind` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::ExternalService => "ExternalService",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
        }
    }

    /// As `group` has it; empty for the core.
    pub fn group(self) -> &'static str {
        match self {
            Self::Service => "",
            Self::ExternalService => super::GROUP,
            Self::HttpRoute | Self::GrpcRoute => "gateway.networking.k8s.io",
        }
    }
}

/// One target, within the object's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetRef {
    pub kind: TargetKind,
    pub name: String,
    /// The name of a port, or of a rule.
    pub section: Option<String>,
}

impl fmt::Display for TargetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.name)?;
        match &self.section {
            Some(section) => write!(f, ":{section}"),
            None => Ok(()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    group: Option<String>,
    kind: String,
    name: String,
    section_name: Option<String>,
}

/// # Errors
/// What is wrong with it, without its path.
pub(super) fn read(value: &serde_json::Value, allowed: &[TargetKind]) -> Result<TargetRef, String> {
    let written = Written::deserialize(value).map_err(|_| "must have kind and name, as texts".to_owned())?;
    let kind = TargetKind::ALL.into_iter().find(|kind| kind.as_str() == written.kind && allowed.contains(kind));
    let kind = kind.ok_or_else(|| {
        let words: Vec<&str> = allowed.iter().map(|kind| kind.as_str()).collect();
        format!("kind must be {}, got {:?}", words.join(" | "), clipped(&written.kind))
    })?;
    if written.group.as_deref().is_some_and(|group| group != kind.group()) {
        return Err(format!("group must be {:?} for {}, or be left out", kind.group(), kind.as_str()));
    }
    Ok(TargetRef { kind, name: written.name, section: written.section_name })
}

/// What people wrote is shown, never at length.
fn clipped(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A list of targets of one kind, each once.
pub(super) fn refs(kinds: &[TargetKind], description: &str) -> Schema {
    list(one(kinds, "One target."), (1, MAX_TARGETS), description)
        .rule("self.all(t, t.kind == self[0].kind)", "all targets must be of one kind: make an object for each kind")
        .rule(
            "self.all(a, self.exists_one(b, b.kind == a.kind && b.name == a.name && (has(b.sectionName) ? b.sectionName : '') == \
             (has(a.sectionName) ? a.sectionName : '')))",
            "each target must be listed once",
        )
}

pub(super) fn one(kinds: &[TargetKind], description: &str) -> Schema {
    let words: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
    let fields = vec![
        optional(
            "group",
            text(
                (0, 253),
                "",
                "May be left out: \"\" for Service, gateway.networking.k8s.io for routes, fusewire.io for ExternalService.",
            ),
        ),
        required("kind", word(&words, "What it is.")),
        required("name", text((1, 253), DOTTED, "Its name, in this object's namespace.")),
        optional(
            "sectionName",
            text((1, 253), DOTTED, "The name of a Service's port, or of a route's rule. Default all of them."),
        ),
    ];
    object(description, fields)
        .rule(
            "!has(self.group) || self.group == (self.kind in ['HTTPRoute', 'GRPCRoute'] ? 'gateway.networking.k8s.io' : \
             self.kind == 'ExternalService' ? 'fusewire.io' : '')",
            "group must fit the kind: leave it out",
        )
        .rule("self.kind != 'ExternalService' || !has(self.sectionName)", "an ExternalService has no sections")
}

/// Whether `name` is one label, so that `NAME.NAMESPACE` means one thing.
pub(super) fn is_label(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let bytes = name.as_bytes();
    bytes.len() <= 63 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| inside(*b))
}

/// Of an object's `metadata.name`, for the whole schema: CEL's `self.metadata` has nothing else.
pub(super) const LABEL_RULE: (&str, &str) = (
    "size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",
    "metadata.name must be a DNS label of at most 63 characters, since NAME.NAMESPACE is what it is called in the mesh",
);

/// A namespace, or a service account without dots.
pub(super) const LABEL: &str = NAME;
/// A service account.
pub(super) const ACCOUNT: &str = DOTTED;
