//! Pretends: real processes, scripted applications and bounded waits, for tests only.
//!
//! It decides how a test's processes live and die: each is killed with its handle, its output kept and shown when the
//! test fails. It deliberately sleeps nowhere but in [`eventually`], which waits on a condition.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

pub mod ailing;
pub mod browser;
pub mod client;
pub mod dns;
pub mod etcd;
pub mod faulty;
pub mod h2c;
pub mod h2raw;
pub mod kube;
pub mod load;
pub mod mesh;
pub mod netns;
pub mod pair;
pub mod process;
pub mod raw;

pub use etcd::Etcd;
pub use faulty::{Faulty, Reply};
pub use kube::KubeApi;
pub use mesh::Mesh;
pub use pair::Pair;
pub use process::{Process, eventually, free_port};
