//! Objects, their versions, and what happened to them.

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where an object is: `core` or group with version, the plural, the namespace (empty: none), the name (empty: all).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path {
    pub(super) group: String,
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Path {
    pub(super) fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = text(&object["kind"]).to_lowercase();
        let resource = match kind.as_str() {
            "ingress" | "gatewayclass" => format!("{kind}es"),
            _ => match kind.strip_suffix('y') {
                Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
                _ => format!("{kind}s"),
            },
        };
        let group = text(&object["apiVersion"]);
        let metadata = &object["metadata"];
        Self { group, resource, namespace: text(&metadata["namespace"]), name: text(&metadata["name"]) }
    }

    /// `pods`, or `discovery.k8s.io/v1/endpointslices`.
    pub(super) fn named(resource: &str, namespace: &str, name: &str) -> Self {
        let (group, resource) = resource.rsplit_once('/').unwrap_or(("v1", resource));
        Self { group: group.into(), resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }

    fn is_same_resource(&self, other: &Self) -> bool {
        self.group == other.group && self.resource == other.resource
    }

    /// Whether an object of `other` is among those that a list of `self` holds.
    fn holds(&self, other: &Self) -> bool {
        self.is_same_resource(other)
            && (self.namespace.is_empty() || self.namespace == other.namespace)
            && (self.name.is_empty() || self.name == other.name)
    }
}

#[derive(Debug, Default)]
pub(super) struct Objects {
    all: BTreeMap<Path, Value>,
    version: u64,
    history: VecDeque<Happened>,
    /// Watches from before it are too old.
    oldest: u64,
    uids: u64,
    bookmarks: u64,
    /// Which entries of its lists each manager applied to an object.
    applied: BTreeMap<(Path, String), BTreeSet<String>>,
}

/// One write.
#[derive(Clone, Debug)]
struct Happened {
    version: u64,
    path: Path,
    before: Option<Value>,
    /// `None`: it is gone.
    after: Option<Value>,
}

/// Why a write did not happen: code, reason, message.
pub(super) type Refusal = (u16, &'static str, String);

impl Objects {
    pub(super) fn version(&self) -> u64 {
        self.version
    }
    pub(super) fn applied(&self, path: &Path, manager: &str) -> BTreeSet<String> {
        self.applied.get(&(path.clone(), manager.to_owned())).cloned().unwrap_or_default()
    }
    pub(super) fn set_applied(&mut self, path: &Path, manager: &str, entries: BTreeSet<String>) {
        self.applied.insert((path.clone(), manager.to_owned()), entries);
    }
    pub(super) fn bookmarks(&self) -> u64 {
        self.bookmarks
    }
    pub(super) fn oldest(&self) -> u64 {
        self.oldest
    }
    pub(super) fn get(&self, path: &Path) -> Option<&Value> {
        self.all.get(path)
    }
    pub(super) fn all<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Value> {
        self.all.iter().filter(|(at, _)| path.holds(at)).map(|(_, object)| object)
    }

    pub(super) fn expire(&mut self) {
        // a version that nobody has yet
        self.version += 1;
        self.oldest = self.version;
        self.history.clear();
    }

    pub(super) fn bookmark(&mut self) {
        self.version += 1;
        self.bookmarks += 1;
    }

    /// Creates or replaces.
    pub(super) fn put(&mut self, path: &Path, mut object: Value) -> Value {
        let before = self.all.get(path).cloned();
        let metadata = metadata(&mut object);
        match &before {
            Some(before) => {
                for key in ["uid", "creationTimestamp"] {
                    metadata.insert(key.into(), before["metadata"][key].clone());
                }
            }
            None => {
                self.uids += 1;
                let uid = format!("00000000-0000-4000-8000-{:012}", self.uids);
                metadata.entry("uid").or_insert(uid.into());
                metadata.insert("creationTimestamp".into(), "2026-11-22T18:00:00Z".into());
            }
        }
        if object.get("spec").is_some() {
            // what is wished for has a number, which what became of it refers to
            let number = before.as_ref().map_or(0, |before| before["metadata"]["generation"].as_u64().unwrap_or(0));
            let is_same = before.as_ref().is_some_and(|before| before["spec"] == object["spec"]);
            let number = if is_same { number } else { number + 1 };
            self::metadata(&mut object).insert("generation".into(), number.into());
        }
        if let Some(before) = &before {
            let metadata = self::metadata(&mut object);
            metadata.insert("resourceVersion".into(), before["metadata"]["resourceVersion"].clone());
            if *before == object {
                return object; // what changes nothing is no write
            }
        }
        self.version += 1;
        self::metadata(&mut object).insert("resourceVersion".into(), self.version.to_string().into());
        self.happened(path, before, Some(object.clone()));
        self.all.insert(path.clone(), object.clone());
        object
    }

    pub(super) fn remove(&mut self, path: &Path) -> Option<Value> {
        let mut gone = self.all.remove(path)?;
        self.version += 1;
        let before = gone.clone();
        metadata(&mut gone).insert("resourceVersion".into(), self.version.to_string().into());
        self.happened(path, Some(Value::clone(&before)), None);
        Some(gone)
    }

    fn happened(&mut self, path: &Path, before: Option<Value>, after: Option<Value>) {
        self.history.push_back(Happened { version: self.version, path: path.clone(), before, after });
    }

    /// Only if it is not there.
    pub(super) fn create(&mut self, path: &Path, mut object: Value) -> Result<Value, Refusal> {
        if self.all.contains_key(path) {
            let Path { resource, name, .. } = path;
            return Err((409, "AlreadyExists", format!("{resource} {name:?} already exists")));
        }
        let namespace = Path::named("namespaces", "", &path.namespace);
        if self.get(&namespace).is_some_and(|namespace| namespace["status"]["phase"] == "Terminating") {
            let said = "unable to create new content in the namespace because it is being terminated";
            return Err((403, "Forbidden", said.into()));
        }
        let metadata = metadata(&mut object);
        metadata.insert("name".into(), path.name.clone().into());
        if !path.namespace.is_empty() {
            metadata.insert("namespace".into(), path.namespace.clone().into());
        }
        Ok(self.put(path, object))
    }

    /// Only if it is the version that `object` names, where it names one. `only_status`: by the status subresource; else the
    /// status stays.
    pub(super) fn replace(&mut self, path: &Path, object: Value, part: Part) -> Result<Value, Refusal> {
        let Some(before) = self.all.get(path).cloned() else { return Err(absent(path)) };
        self.check(path, &object["metadata"]["resourceVersion"])?;
        let (mut whole, status) = match part {
            Part::Status => (before.clone(), object.get("status").cloned()),
            Part::Main => (object, before.get("status").cloned()),
        };
        let fields = whole.as_object_mut().unwrap();
        match status {
            Some(status) => drop(fields.insert("status".into(), status)),
            None => drop(fields.remove("status")),
        }
        if whole["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
            && !whole["metadata"]["deletionTimestamp"].is_null()
        {
            self.remove(path);
            return Ok(whole);
        }
        Ok(self.put(path, whole))
    }

    /// Whether the object is still the version `wanted`, where one is.
    fn check(&self, path: &Path, wanted: &Value) -> Result<(), Refusal> {
        let now = self.all.get(path).map(|object| object["metadata"]["resourceVersion"].clone()).unwrap_or_default();
        if wanted.as_str().is_none_or(str::is_empty) || *wanted == now {
            return Ok(());
        }
        let said = format!(
            "Operation cannot be fulfilled on {} {:?}: the object has been modified; please apply your changes to the latest \
             version and try again",
            path.resource, path.name
        );
        Err((409, "Conflict", said))
    }

    /// Marks what has finalizers.
    pub(super) fn delete(&mut self, path: &Path, options: &Value) -> Result<Value, Refusal> {
        let Some(object) = self.all.get(path).cloned() else { return Err(absent(path)) };
        self.check(path, &options["preconditions"]["resourceVersion"])?;
        if object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty()) {
            let mut marked = object;
            metadata(&mut marked).insert("deletionTimestamp".into(), "2026-11-22T19:00:00Z".into());
            return Ok(self.put(path, marked));
        }
        Ok(self.remove(path).unwrap_or_default())
    }

    /// What happened after `version` to what a watch of `path` and `selector` holds: the events, as they go over the wire.
    pub(super) fn since(&self, version: u64, path: &Path, selector: &Selector) -> Vec<Value> {
        let after = self.history.iter().filter(|h| h.version > version && path.holds(&h.path));
        let event = |h: &Happened| {
            let was = h.before.as_ref().filter(|object| selector.matches(object));
            let is = h.after.as_ref().filter(|object| selector.matches(object));
            match (was, is) {
                (None, None) => None,
                (None, Some(now)) => Some(json!({"type": "ADDED", "object": now})),
                (Some(_), Some(now)) => Some(json!({"type": "MODIFIED", "object": now})),
                (Some(before), None) => {
                    let mut gone = h.after.clone().unwrap_or_else(|| before.clone());
                    metadata(&mut gone).insert("resourceVersion".into(), h.version.to_string().into());
                    Some(json!({"type": "DELETED", "object": gone}))
                }
            }
        };
        after.filter_map(event).collect()
    }
}

/// What a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Main,
    Status,
}

pub(super) fn absent(path: &Path) -> Refusal {
    (404, "NotFound", format!("{} {:?} not found", path.resource, path.name))
}

fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    let fields = object.as_object_mut().unwrap();
    fields.entry("metadata").or_insert_with(|| json!({})).as_object_mut().unwrap()
}

/// `labelSelector` and `fieldSelector`: `a=b`, `a!=b`, `a`, `!a`, with commas between.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    pub(super) labels: String,
    pub(super) fields: String,
}

impl Selector {
    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let field = |path: &str| path.split('.').fold(object, |value, step| &value[step]).as_str().map(str::to_owned);
        all(&self.labels, |key| labels[key].as_str().map(str::to_owned)) && all(&self.fields, field)
    }
}

fn all(terms: &str, value: impl Fn(&str) -> Option<String>) -> bool {
    terms.split(',').filter(|term| !term.is_empty()).all(|term| {
        if let Some((key, wanted)) = term.split_once("!=") {
            return value(key).as_deref() != Some(wanted);
        }
        match term.split_once('=') {
            Some((key, wanted)) => value(key).as_deref() == Some(wanted.trim_start_matches('=')),
            None => term.strip_prefix('!').map_or_else(|| value(term).is_some(), |key| value(key).is_none()),
        }
    })
}
