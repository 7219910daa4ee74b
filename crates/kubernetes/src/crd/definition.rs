//! The custom resource definitions around the schemas: names, columns, and the status that all kinds share.

use super::schema::{Schema, integer, object, optional, required, text};
use super::target::LABEL_RULE;
use super::{GROUP, Kind, VERSION, authorization, external, hold, policy};
use serde_json::{Value, json};

impl Kind {
    pub(crate) fn spec(self) -> Schema {
        match self {
            Self::ResiliencePolicy => policy::spec(),
            Self::ExternalService => external::spec(),
            Self::AuthorizationPolicy => authorization::spec(),
            Self::BreakerOverride => hold::spec(),
        }
    }

    /// Whether its name is part of a name in the mesh.
    fn is_named_in_the_mesh(self) -> bool {
        matches!(self, Self::ResiliencePolicy | Self::ExternalService)
    }

    fn what(self) -> &'static str {
        match self {
            Self::ResiliencePolicy => {
                "When circuits open, what is tried again, how much there may be at once, and how long it may take."
            }
            Self::ExternalService => "A service outside the cluster, for the applications of the mesh.",
            Self::AuthorizationPolicy => "Who may call a Service over mTLS.",
            Self::BreakerOverride => "Holds the circuits of a Service open or closed.",
        }
    }

    /// The definition, as an API server takes it.
    pub fn definition(self) -> Value {
        let mut labels = json!({"app.kubernetes.io/part-of": "fusewire"});
        if matches!(self, Self::ResiliencePolicy | Self::AuthorizationPolicy) {
            // what finds the policies of a cluster (GEP-713); nothing is inherited
            labels["gateway.networking.k8s.io/policy"] = "Direct".into();
        }
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{}.{GROUP}", self.plural()), "labels": labels},
            "spec": {
                "group": GROUP,
                "scope": "Namespaced",
                "names": {
                    "kind": self.as_str(),
                    "listKind": format!("{}List", self.as_str()),
                    "plural": self.plural(),
                    "singular": self.as_str().to_ascii_lowercase(),
                    "shortNames": [self.short()],
                    "categories": ["fusewire"],
                },
                "versions": [{
                    "name": VERSION,
                    "served": true,
                    "storage": true,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": self.columns(),
                    "schema": {"openAPIV3Schema": self.schema()},
                }],
            },
        })
    }

    /// Of the whole object.
    fn schema(self) -> Value {
        let fields = vec![required("spec", self.spec()), optional("status", status())];
        let mut whole = object(self.what(), fields);
        if self.is_named_in_the_mesh() {
            whole = whole.rule(LABEL_RULE.0, LABEL_RULE.1);
        }
        let mut schema = whole.json();
        // known to every API server, and without descriptions of ours
        for (name, shape) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
            schema["properties"][name] = json!({"type": shape});
        }
        // one entry for each type, so that writers of different conditions do not undo each other
        let conditions = &mut schema["properties"]["status"]["properties"]["conditions"];
        *conditions = conditions_schema();
        schema
    }

    fn columns(self) -> Value {
        let column = |name: &str, path: &str, kind: &str| json!({"name": name, "type": kind, "jsonPath": path});
        let condition =
            |name: &str| column(name, &format!(".status.conditions[?(@.type==\"{name}\")].status"), "string");
        let wide =
            |name: &str, path: &str, kind: &str| json!({"name": name, "type": kind, "jsonPath": path, "priority": 1});
        let mut columns = match self {
            Self::ResiliencePolicy | Self::AuthorizationPolicy => vec![column("Targets", ".status.targets", "string")],
            Self::ExternalService => vec![column("Protocol", ".spec.protocol", "string")],
            Self::BreakerOverride => vec![
                column("Targets", ".status.targets", "string"),
                column("Breaker", ".spec.breaker", "string"),
                column("Until", ".spec.until", "string"),
                column("Owner", ".spec.owner", "string"),
            ],
        };
        columns.extend([
            condition("Accepted"),
            condition("Enforced"),
            wide("Enforcing", ".status.sidecars.enforcing", "integer"),
            wide("Connected", ".status.sidecars.connected", "integer"),
            wide("Reason", ".status.conditions[?(@.type==\"Accepted\")].reason", "string"),
            column("Age", ".metadata.creationTimestamp", "date"),
        ]);
        columns.into()
    }
}

fn status() -> Schema {
    let count = |what: &str| integer(0, i32::MAX.into(), what);
    let sidecars = vec![
        required("enforcing", count("That run with it, as it is now.")),
        required("connected", count("That it concerns.")),
    ];
    let fields = vec![
        // its schema is put in as it is
        optional("conditions", object("", Vec::new())),
        optional("targets", text((0, 1024), "", "What it is about, in few words.")),
        optional("sidecars", object("How many sidecars.", sidecars)),
    ];
    object("What became of it; written by the control plane.", fields)
}

/// As `metav1.Condition`.
fn conditions_schema() -> Value {
    json!({
        "description": "Accepted, ResolvedRefs, Enforced; and Conflicted while an older object goes before this one.",
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "description": "One thing that is so, or not.",
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"description": "What it is about.", "type": "string", "maxLength": 316},
                "status": {"description": "Whether it is so.", "type": "string", "enum": ["True", "False", "Unknown"]},
                "observedGeneration": {
                    "description": "The metadata.generation that it is about.", "type": "integer", "format": "int64", "minimum": 0,
                },
                "lastTransitionTime": {
                    "description": "When status last changed.", "type": "string", "format": "date-time",
                },
                "reason": {
                    "description": "Why, in one word.", "type": "string", "minLength": 1, "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {"description": "Why, in words; with the field's path and what to do.", "type": "string", "maxLength": 32768},
            },
        },
    })
}
