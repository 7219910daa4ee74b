//! Kubernetes: what the control plane finds, keeps and writes there.
//!
//! It decides how Services, EndpointSlices and Pods become services and instances of the mesh ([`translate`], [`Discovery`]);
//! whom a service account's token proves ([`review_token`]); which replica writes where only one may ([`Leader`]); and
//! how a Secret is changed by one of several at a time ([`Document`]). It deliberately holds no Kubernetes object: each is
//! reduced to the few fields that are used as it is read, so that memory follows what is used.
//!
//! Rights that the control plane's service account needs: get, list, watch of `services`, `pods`, `namespaces` and
//! `endpointslices` everywhere; get, list, watch, create, patch of `configmaps` everywhere (the roots); create of
//! `tokenreviews`; in its own namespace get, list, watch, create, update of `secrets` and get, list, watch, create, update,
//! patch, delete of `leases`.
//!
//! Invariant: what was last known stays in force while the API server is away, and its age is known.

mod bundle;
mod cluster;
mod discovery;
mod document;
mod facts;
mod follow;
mod index;
mod leader;
mod presence;
mod protocol;
mod token;
mod translate;

pub use bundle::{BUNDLE, BUNDLE_KEY, publish_bundle};
pub use cluster::{Cluster, ClusterError};
pub use discovery::{Age, Discovery};
pub use document::{Document, Version};
pub use facts::{INJECTED, OPAQUE_PORTS, PLAIN};
pub use leader::{Leader, LeaderTiming};
pub use presence::{Beat, Presences};
pub use token::{AUDIENCE, Account, TokenError, review_token};
pub use translate::{Endpoint, SIDECAR_PORT, Setting, Standing, Translated, translate};
