//! Kubernetes: what is written there, and what it means in a mesh.

pub mod gateway;
