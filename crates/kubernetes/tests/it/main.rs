//! Injection as people meet it: whole manifests in, whole manifests out, valid by Kubernetes' own schemas.

#![allow(clippy::unwrap_used)]

mod any_pod;
mod custom;
mod golden;
mod installed;
mod schema;
