//! Which engine keeps the store, and how it is reached.

use crate::kubernetes::KubernetesSettings;
use std::fmt;
use std::path::PathBuf;

/// Where a control plane keeps what it must not forget.
#[derive(Clone, Debug)]
pub enum StoreSettings {
    /// In this file. One process at a time.
    Embedded(PathBuf),
    /// In etcd, shared by replicas.
    Etcd(EtcdSettings),
    /// In a Secret of the cluster, shared by replicas.
    Kubernetes(KubernetesSettings),
}

/// How etcd (3.4 or newer) is reached.
#[derive(Clone, Debug)]
pub struct EtcdSettings {
    /// URLs such as `http://10.0.0.1:2379`, `https://` with [`EtcdSettings::tls`]. At least one; they are of one cluster,
    /// and the next is tried where one does not answer.
    pub endpoints: Vec<String>,
    /// What every key begins with. Ends with `/`; default `/fusewire/`.
    pub prefix: String,
    pub tls: Option<EtcdTls>,
    /// Needed where etcd has authentication enabled by password.
    pub user: Option<EtcdUser>,
}

impl EtcdSettings {
    /// The default prefix, neither TLS nor user.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self { endpoints, prefix: "/fusewire/".into(), tls: None, user: None }
    }
}

/// PEM files, read again for each connection, so that they may be renewed in place.
#[derive(Clone, Debug)]
pub struct EtcdTls {
    /// The roots that etcd's certificate must lead to. The system's roots are never used.
    pub ca: PathBuf,
    /// Certificate chain and key to show to etcd, where it asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone)]
pub struct EtcdUser {
    pub name: String,
    pub password: String,
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdUser").field("name", &self.name).finish_non_exhaustive()
    }
}
