//! Files of manifests: every pod and pod template in them, injected by the same code as the webhook's.
//!
//! It decides where a kind keeps its pod, also in a list, whose items need not say what they are where it is of one kind. Who
//! runs `fusewire inject` asked for it, so that a namespace need not say so; a pod that says `disabled` is left alone all the
//! same. Namespaces that stand in the same file count for the pods in it. Whatever
//! else is in the file goes through unchanged.

use crate::inject::{Injected, Namespace, Settings, inject, uninject};
use crate::{PREFIX, yaml};
use serde_json::Value;
use std::collections::BTreeMap;

/// Of `List` in `List`; no tool writes one.
const MAX_LISTS: usize = 8;

/// What became of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// The file again, comments left out.
    pub text: String,
    /// What was injected, such as `Deployment shop/web`.
    pub injected: Vec<String>,
    /// Of whom, and what their author should know; also why somebody has no sidecar.
    pub warnings: Vec<String>,
    /// Of whom, and why there can be no sidecar. They go through unchanged.
    pub refused: Vec<String>,
}

/// Injects into every pod of `text`. `namespace`: of objects that name none, with the labels that are known of it.
///
/// # Errors
/// Where `text` is no YAML.
pub fn inject_manifests(text: &str, namespace: &Namespace, settings: &Settings) -> Result<Injection, yaml::YamlError> {
    let mut walk = Walk::new(text, namespace, Some(settings))?;
    walk.all();
    Ok(walk.done())
}

/// Takes out of every pod of `text` what was injected.
///
/// # Errors
/// Where `text` is no YAML.
pub fn uninject_manifests(text: &str) -> Result<String, yaml::YamlError> {
    let none = Namespace::default();
    let mut walk = Walk::new(text, &none, None)?;
    walk.all();
    Ok(walk.done().text)
}

struct Walk<'a> {
    documents: Vec<Value>,
    /// By name, as they stand in the file.
    namespaces: BTreeMap<String, Namespace>,
    default: &'a Namespace,
    /// `None`: out, not in.
    settings: Option<&'a Settings>,
    told: Injection,
}

impl<'a> Walk<'a> {
    fn new(text: &str, default: &'a Namespace, settings: Option<&'a Settings>) -> Result<Self, yaml::YamlError> {
        let documents = yaml::read(text)?;
        let mut namespaces = BTreeMap::new();
        documents.iter().for_each(|document| collect(document, "", 0, &mut namespaces));
        let told = Injection { text: String::new(), injected: Vec::new(), warnings: Vec::new(), refused: Vec::new() };
        Ok(Self { documents, namespaces, default, settings, told })
    }

    fn all(&mut self) {
        let mut documents = std::mem::take(&mut self.documents);
        for document in &mut documents {
            self.object(document, "", 0);
        }
        self.documents = documents;
    }

    fn done(mut self) -> Injection {
        self.told.text = yaml::write(&self.documents);
        self.told
    }

    /// `kind`: what it is where it does not say so.
    fn object(&mut self, object: &mut Value, kind: &str, depth: usize) {
        let kind = object["kind"].as_str().unwrap_or(kind).to_owned();
        if let Some(of) = kind.strip_suffix("List")
            && depth < MAX_LISTS
        {
            for item in items(object).into_iter().flatten() {
                self.object(item, of, depth + 1);
            }
            return;
        }
        let Some(path) = template(&kind) else { return };
        let metadata = object["metadata"].clone();
        if let Some(pod) = object.pointer_mut(path).filter(|pod| pod["spec"].is_object()) {
            self.pod(pod, &kind, &metadata);
        }
    }

    fn pod(&mut self, pod: &mut Value, kind: &str, owner: &Value) {
        let Some(settings) = self.settings else { return *pod = uninject(pod) };
        let namespace = owner["namespace"].as_str().filter(|name| *name != self.default.name);
        let mut namespace = match namespace {
            None => self.namespaces.get(&self.default.name).unwrap_or(self.default).clone(),
            Some(name) => self.namespaces.get(name).cloned().unwrap_or_else(|| named(name)),
        };
        // asked for by whoever runs this
        namespace.labels.insert(format!("{PREFIX}inject"), "enabled".into());
        let name = owner["name"].as_str().or_else(|| owner["generateName"].as_str()).unwrap_or("(unnamed)");
        let whole = match namespace.name.as_str() {
            "" => format!("{kind} {name}"),
            namespace => format!("{kind} {namespace}/{name}"),
        };
        // nobody's admission has been at a file: what stands in it of an earlier injection is not to stay
        match inject(&uninject(pod), &namespace, settings) {
            Injected::Pod { pod: injected, warnings } => {
                *pod = injected;
                self.told.warnings.extend(warnings.iter().map(|warning| format!("{whole}: {warning}")));
                self.told.injected.push(whole);
            }
            Injected::Skipped(why) => self.told.warnings.push(format!("{whole}: not injected: {why}")),
            Injected::Refused(why) => self.told.refused.push(format!("{whole}: {why}")),
        }
    }
}

/// Every namespace in `object`, by the same rules as pods are found by.
fn collect(object: &Value, kind: &str, depth: usize, into: &mut BTreeMap<String, Namespace>) {
    let kind = object["kind"].as_str().unwrap_or(kind);
    if let Some(of) = kind.strip_suffix("List")
        && depth < MAX_LISTS
    {
        let items = object["items"].as_array().into_iter().flatten();
        items.for_each(|item| collect(item, of, depth + 1, into));
    } else if kind == "Namespace" {
        let namespace = Namespace::of(object);
        into.insert(namespace.name.clone(), namespace);
    }
}

fn items(list: &mut Value) -> Option<&mut Vec<Value>> {
    list.get_mut("items")?.as_array_mut()
}

fn named(name: &str) -> Namespace {
    Namespace { name: name.into(), ..Namespace::default() }
}

/// Where a kind has its pod.
fn template(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
            Some("/spec/template")
        }
        "PodTemplate" => Some("/template"),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}
