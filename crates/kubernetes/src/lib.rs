//! Kubernetes: what is put beside an application there, what is installed, and what the control plane finds, keeps and writes.
//!
//! It decides what an injected pod looks like ([`inject()`]), for the admission webhook ([`Review`]) and for files
//! ([`inject_manifests`]) alike; what `fusewire install` puts into a cluster ([`install`]); which pods should have a sidecar
//! and have none ([`injector::uninjected`]); how Services, EndpointSlices and Pods become services and instances of the mesh
//! ([`translate`], [`Discovery`]), what Gateway API's routes ([`gateway`]) and objects of our own kinds ([`crd`]) mean there; whom a
//! service account's token proves ([`review_token`]); which replica writes where only one may ([`Leader`]), and how it tells what
//! became of objects ([`StatusWriter`]) and of circuits ([`Events`]); and how a Secret is changed by one of several at a time
//! ([`Document`]). It deliberately serves nothing, and keeps of the objects of others only the few fields that are used, so that
//! memory follows what is used. What rights all this needs, and why, is in `deploy/kubernetes/base/rbac.yaml`.
//!
//! Invariant: what was last known stays in force while the API server is away, and its age is known.

mod bundle;
mod cluster;
pub mod crd;
mod declarations;
mod declared;
mod discovery;
mod document;
mod events;
mod facts;
mod follow;
pub mod gateway;
mod index;
pub mod inject;
pub mod injector;
pub mod install;
mod known;
mod leader;
mod manifests;
mod patch;
mod presence;
mod protocol;
mod review;
mod settle;
mod statuses;
mod token;
mod translate;
pub mod yaml;

pub use bundle::{BUNDLE, BUNDLE_KEY, publish_bundle};
pub use cluster::{Cluster, ClusterError};
pub use declarations::{Declarations, Snapshot};
pub use declared::{Around, Concern, Declared, Told, declared};
pub use discovery::{Age, Change, Discovery};
pub use document::{Document, Version};
pub use events::{Events, OpenCircuit, Subject, SubjectKind};
pub use facts::{INJECTED, OPAQUE_PORTS, PLAIN};
pub use inject::{Injected, Namespace, Settings, inject};
pub use known::{KnownService, Port, RouteId, RouteKind, ServiceId};
pub use kube::Client;
pub use leader::{Leader, LeaderTiming};
pub use manifests::{Injection, inject_manifests, uninject_manifests};
pub use presence::{Beat, Presences};
pub use review::{MAX_REVIEW, Review, ReviewError};
pub use statuses::{CONTROLLER, StatusWriter};
pub use token::{AUDIENCE, Account, TokenError, review_token};
pub use translate::{Endpoint, SIDECAR_PORT, Setting, Standing, Translated, translate};

/// The prefix of every annotation and label of ours.
pub const PREFIX: &str = "fusewire.io/";
/// Where it is installed unless something else is said.
pub const NAMESPACE: &str = "fusewire-system";
