//! Kubernetes: what is put beside an application there, and what is installed.
//!
//! It decides what an injected pod looks like ([`inject()`]), for the admission webhook ([`Review`]) and for files
//! ([`inject_manifests`]) alike; what `fusewire install` puts into a cluster ([`install`]); which pods should have a
//! sidecar and have none ([`cluster::uninjected`]); and what objects of our own kinds mean ([`crd`]). It deliberately serves
//! nothing and decides nothing about traffic: the control plane listens, and the sidecar carries.
//!
//! Invariant: only [`cluster`] and [`install`] talk to a cluster; everything else is a function of its arguments.

pub mod cluster;
pub mod crd;
pub mod inject;
pub mod install;
mod manifests;
mod patch;
mod review;
pub mod yaml;

pub use inject::{Injected, Namespace, Settings, inject};
pub use kube::Client;
pub use manifests::{Injection, inject_manifests, uninject_manifests};
pub use review::{MAX_REVIEW, Review, ReviewError};

/// The prefix of every annotation and label of ours.
pub const PREFIX: &str = "fusewire.io/";
/// Where it is installed unless something else is said.
pub const NAMESPACE: &str = "fusewire-system";
