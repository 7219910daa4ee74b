//! A pod with its sidecar: from what the API server or a file holds to what is put in its place.
//!
//! It decides whether a pod gets a sidecar (the namespace's word, and the pod's, which wins), in which form, and what is
//! refused because it could not work. It deliberately asks nobody and reads no clock: the same pod, namespace and settings
//! are the same answer. Pods are JSON values and not types, so that what this version does not know stays as it is.
//!
//! Two forms. *Redirected*: an init container puts in the rules that bring all TCP to the sidecar. *Proxied*: where the
//! namespace enforces the pod security standard `restricted` or `baseline`, which forbid NET_ADMIN, or where an annotation
//! wishes it so, applications are told of the sidecar by `HTTP_PROXY`.
//!
//! Invariant: to inject what is injected already changes nothing (the API server asks twice): what an earlier injection put
//! in is taken out first, whichever version did it, and what others did to it meanwhile is done to what takes its place.

mod configuration;
mod containers;
mod form;
mod others;
mod probes;
mod quantity;
mod restore;
mod wishes;

use crate::PREFIX;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use wishes::Wishes;

/// The sidecar's container.
pub const SIDECAR: &str = "fusewire";
/// The init container that puts in the rules.
pub const INTERCEPT: &str = "fusewire-intercept";
/// Whom sidecars run as, and nobody else may: the rules tell its connections from the application's by it. An unusual
/// number on purpose; 65532, which many images without a shell run as, would take their traffic past the sidecar.
pub const SIDECAR_UID: i64 = 15_008;
/// The ConfigMap with the roots, in every namespace.
pub const TRUST: &str = "fusewire-trust";
/// What a sidecar's service account token is for.
pub const AUDIENCE: &str = "fusewire";

/// Ports that the sidecar listens on.
pub mod ports {
    /// Redirected connections that leave.
    pub const OUTBOUND: u16 = 15_001;
    /// The explicit proxy.
    pub const PROXY: u16 = 15_002;
    /// Redirected connections that come in.
    pub const INBOUND: u16 = 15_006;
    /// Peers' sidecars.
    pub const MTLS: u16 = 15_008;
    /// `/live /ready /metrics`, and the application's probes.
    pub const ADMIN: u16 = 15_020;
    pub const ALL: [u16; 5] = [OUTBOUND, PROXY, INBOUND, MTLS, ADMIN];
}

/// What does not come from the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The image of the sidecar and of the init container.
    pub image: String,
    pub trust_domain: String,
    /// The control plane's own namespace, where nothing is injected.
    pub namespace: String,
    /// `host:port` of the control plane.
    pub control: String,
    /// Written to `fusewire.io/version`.
    pub version: String,
}

impl Settings {
    /// With what an installation in `namespace` uses.
    pub fn new(image: &str, namespace: &str, trust_domain: &str) -> Self {
        Self {
            image: image.into(),
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            control: format!("fusewire-control.{namespace}.svc:15010"),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

/// The pod's namespace, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Namespace {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl Namespace {
    /// From its manifest.
    pub fn of(object: &Value) -> Self {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        Self {
            name,
            labels: texts(&object["metadata"]["labels"]),
            annotations: texts(&object["metadata"]["annotations"]),
        }
    }

    /// The pod security standard that it enforces, where that forbids NET_ADMIN.
    fn forbids_net_admin(&self) -> Option<&str> {
        let enforced = self.labels.get("pod-security.kubernetes.io/enforce")?;
        matches!(enforced.as_str(), "restricted" | "baseline").then_some(enforced)
    }

    fn word(&self) -> Option<&str> {
        let key = format!("{PREFIX}inject");
        self.labels.get(&key).or_else(|| self.annotations.get(&key)).map(String::as_str)
    }
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Injected {
    /// The whole pod, with what its author should know.
    Pod { pod: Value, warnings: Vec<String> },
    /// It is to have no sidecar.
    Skipped(String),
    /// It is to have one and cannot; why, and what to do.
    Refused(String),
}

/// Injects into `pod`: any object with `metadata` and `spec` of a pod, such as a template.
pub fn inject(pod: &Value, namespace: &Namespace, settings: &Settings) -> Injected {
    match wanted(pod, namespace, &settings.namespace) {
        Ok(None) => {}
        Ok(Some(why)) => return Injected::Skipped(why),
        Err(why) => return Injected::Refused(why),
    }
    match with_sidecar(pod, namespace, settings) {
        Ok((pod, warnings)) => Injected::Pod { pod, warnings },
        Err(why) => Injected::Refused(why),
    }
}

/// Takes out what [`inject`] put in, in whichever version; probes are as they were, but for named ports, which are numbers.
/// Labels and annotations stay.
#[must_use]
pub fn uninject(pod: &Value) -> Value {
    let mut pod = pod.clone();
    restore::restore(&mut pod);
    pod
}

/// Whether the pod has our sidecar.
pub(crate) fn has_sidecar(pod: &Value) -> bool {
    restore::sidecar(pod).is_some()
}

/// Whether the pod is to have a sidecar. `Some`: why not. `own`: the control plane's namespace.
///
/// # Errors
/// A word that is neither `enabled` nor `disabled`.
fn wanted(pod: &Value, namespace: &Namespace, own: &str) -> Result<Option<String>, String> {
    let name = namespace.name.as_str();
    if name == "kube-system" || name == own {
        return Ok(Some(format!("nothing is injected in the namespace {name}")));
    }
    let metadata = &pod["metadata"];
    if metadata["annotations"].get("kubernetes.io/config.mirror").is_some() {
        return Ok(Some("it is a static pod, which the API server only mirrors".into()));
    }
    let key = format!("{PREFIX}inject");
    let said = |of: &str| metadata[of].get(&key).map(|word| word.as_str().unwrap_or_default());
    let (word, whose) = match said("labels").or_else(|| said("annotations")) {
        Some(word) => (Some(word), "the pod"),
        None => (namespace.word(), "the namespace"),
    };
    match word {
        Some("enabled") => Ok(None),
        Some("disabled") => Ok(Some(format!("{whose} says {key}: disabled"))),
        None => Ok(Some(format!("neither the namespace nor the pod says {key}: enabled"))),
        Some(other) => Err(format!("{whose} says {key}: {other}, which is neither enabled nor disabled")),
    }
}

fn with_sidecar(pod: &Value, namespace: &Namespace, settings: &Settings) -> Result<(Value, Vec<String>), String> {
    let mut pod = pod.clone();
    let earlier = restore::restore(&mut pod);
    let mut warnings = Vec::new();
    let wishes = Wishes::read(&namespace.annotations, &texts(&pod["metadata"]["annotations"]), &mut warnings)?;
    form::refuse(&pod, &wishes)?;
    form::warn(&pod, &wishes, &mut warnings);
    let unredirected = match wishes.redirect {
        Some(true) => None,
        Some(false) => Some(format!("{PREFIX}redirect is disabled")),
        None => namespace.forbids_net_admin().map(|standard| {
            format!("the namespace enforces the pod security standard {standard}, which forbids redirection")
        }),
    };
    let redirected = unredirected.is_none();
    let probes = match unredirected {
        Some(why) => {
            form::proxied(&mut pod, &why, &mut warnings);
            Vec::new()
        }
        None => probes::rewrite(&mut pod, &mut warnings)?,
    };
    let configuration = configuration::text(&pod, settings, &wishes, redirected, &probes);
    configuration::check(&configuration, &pod, namespace, &probes)?;
    let sum = containers::add(&mut pod, settings, &wishes, (redirected, &configuration), &earlier);
    mark(&mut pod, settings, sum);
    Ok((pod, warnings))
}

fn mark(pod: &mut Value, settings: &Settings, sum: String) {
    let app = pod["spec"]["containers"].as_array().into_iter().flatten();
    let app = app.filter_map(|c| c["name"].as_str()).find(|name| *name != SIDECAR).map(str::to_owned);
    let metadata = object(&mut pod["metadata"]);
    let labels = object(metadata.entry("labels").or_insert_with(|| json!({})));
    labels.insert(format!("{PREFIX}injected"), "true".into());
    let annotations = object(metadata.entry("annotations").or_insert_with(|| json!({})));
    annotations.insert(format!("{PREFIX}version"), settings.version.as_str().into());
    annotations.insert(format!("{PREFIX}{}", others::SUM), sum.into());
    if let Some(app) = app {
        annotations.entry("kubectl.kubernetes.io/default-container").or_insert_with(|| app.into());
    }
}

/// The mapping that `value` is, or becomes.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(entries) => entries,
        _ => unreachable!("made an object above"),
    }
}

/// The containers of one kind, if there are any; unlike an index this makes none.
fn containers_mut<'a>(pod: &'a mut Value, part: &str) -> impl Iterator<Item = &'a mut Value> {
    let all = pod.get_mut("spec").and_then(|spec| spec.get_mut(part)).and_then(Value::as_array_mut);
    all.into_iter().flatten()
}

/// The list that `value[key]` is, or becomes.
fn list<'a>(value: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    let entry = object(value).entry(key).or_insert_with(|| json!([]));
    if !entry.is_array() {
        *entry = json!([]);
    }
    match entry {
        Value::Array(items) => items,
        _ => unreachable!("made a list above"),
    }
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}
