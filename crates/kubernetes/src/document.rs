//! One Secret as one value that several read and write: whole or not at all, and only over the version that was read.
//!
//! It decides how the value lies in the Secret. It deliberately does not know what it means, and repeats no write.

use crate::cluster::{Call, Cluster, ClusterError, call};
use crate::facts::Id;
use crate::follow::{Chosen, Health, Told, follow};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use std::collections::BTreeMap;

/// The Secret's one key.
const KEY: &str = "entries";
const MANAGED: (&str, &str) = ("app.kubernetes.io/managed-by", "fusewire");

/// Which write of the Secret it is; only ever compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(String);

/// A Secret of the control plane's namespace.
#[derive(Clone)]
pub struct Document {
    api: Api<Secret>,
    name: String,
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Document").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Document {
    pub fn new(cluster: &Cluster, name: &str) -> Self {
        Self { api: Api::namespaced(cluster.client.clone(), cluster.namespace()), name: name.into() }
    }

    /// As of now; `None` where there is none.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn read(&self) -> Result<Option<(Version, Vec<u8>)>, ClusterError> {
        let found = call(Call::Read, self.api.get_opt(&self.name)).await?;
        Ok(found.map(|secret| (version(&secret.metadata), value(secret))))
    }

    /// As of now, and without the value.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn version(&self) -> Result<Option<Version>, ClusterError> {
        let found = call(Call::Read, self.api.get_metadata_opt(&self.name)).await?;
        Ok(found.map(|secret| version(&secret.metadata)))
    }

    /// Writes over `read`; `None`: where there was none.
    ///
    /// # Errors
    /// [`ClusterError::Conflict`] where it is no longer what was read; [`ClusterError::Uncertain`] where that is not known.
    pub async fn write(&self, value: Vec<u8>, read: Option<&Version>) -> Result<Version, ClusterError> {
        let (key, who) = MANAGED;
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            labels: Some(BTreeMap::from([(key.to_owned(), who.to_owned())])),
            resource_version: read.map(|read| read.0.clone()),
            ..ObjectMeta::default()
        };
        let data = Some(BTreeMap::from([(KEY.to_owned(), ByteString(value))]));
        let secret = Secret { metadata, data, ..Secret::default() };
        let post = PostParams::default();
        let written = match read {
            Some(_) => call(Call::Write, self.api.replace(&self.name, &post, &secret)).await,
            None => call(Call::Write, self.api.create(&post, &secret)).await,
        };
        match written {
            // it was deleted: no longer what was read
            Err(ClusterError::Absent(said)) if read.is_some() => Err(ClusterError::Conflict(said)),
            written => Ok(version(&written?.metadata)),
        }
    }

    /// Told of every write, in order, or of the last; `None`: there is none. Until dropped.
    pub async fn follow(&self, mut told: impl FnMut(Option<(Version, Vec<u8>)>)) {
        let health = Health::new("Secrets");
        let chosen = Chosen { labels: None, fields: Some(format!("metadata.name={}", self.name)) };
        let reduce = |secret: Secret| {
            let id = Id::new("", secret.metadata.name.as_deref()?);
            Some((id, (version(&secret.metadata), value(secret))))
        };
        let tell = |seen| match seen {
            Told::All(all) => told(all.into_iter().next().map(|(_, found)| found)),
            Told::Put(_, found) => told(Some(found)),
            Told::Gone(_) => told(None),
        };
        follow(&self.api, &chosen, &health, reduce, tell).await;
    }
}

fn version(metadata: &ObjectMeta) -> Version {
    Version(metadata.resource_version.clone().unwrap_or_default())
}

fn value(secret: Secret) -> Vec<u8> {
    secret.data.and_then(|mut data| data.remove(KEY)).map(|bytes| bytes.0).unwrap_or_default()
}
