//! Leases by which processes say that they are alive.
//!
//! It decides how a beat looks: a Lease with a label of ours, which its owner renews. Whether one is late is for whoever looks
//! to judge by its own clock: a stamp is compared with the one seen before, and never with a time.

use crate::cluster::{Call, Cluster, ClusterError, call};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use std::collections::BTreeMap;
use std::time::Duration;

const LABEL: &str = "fusewire.io/presence";

/// The Leases of one store.
#[derive(Clone, Debug)]
pub struct Presences {
    api: Api<Lease>,
    /// The value of the label.
    store: String,
}

/// What a Lease said when it was last looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    pub lease: String,
    /// Another with each renewal.
    pub stamp: String,
    /// How long it is to be believed after a renewal.
    pub holds: Duration,
}

impl Presences {
    pub fn new(cluster: &Cluster, store: &str) -> Self {
        Self { api: Api::namespaced(cluster.client.clone(), cluster.namespace()), store: store.into() }
    }

    /// All there are.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn look(&self) -> Result<Vec<Beat>, ClusterError> {
        let params = ListParams::default().labels(&format!("{LABEL}={}", self.store));
        let all = call(Call::Read, self.api.list(&params)).await?;
        let beat = |lease: Lease| {
            let spec = lease.spec?;
            let seconds = u64::try_from(spec.lease_duration_seconds?).ok()?.clamp(1, 3_600);
            let stamp = spec.renew_time.map(|time| time.0.to_string()).unwrap_or_default();
            Some(Beat { lease: lease.metadata.name?, stamp, holds: Duration::from_secs(seconds) })
        };
        Ok(all.items.into_iter().filter_map(beat).collect())
    }

    /// Renews `lease`, or makes it.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn beat(&self, lease: &str, holder: &str, holds: Duration) -> Result<(), ClusterError> {
        let seconds = i32::try_from(holds.as_secs().max(1)).unwrap_or(i32::MAX);
        let spec = LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        };
        let labels = BTreeMap::from([(LABEL.to_owned(), self.store.clone())]);
        let metadata = ObjectMeta { name: Some(lease.into()), labels: Some(labels), ..ObjectMeta::default() };
        let whole = Lease { metadata, spec: Some(spec) };
        let patch = Patch::Merge(&whole);
        match call(Call::Write, self.api.patch(lease, &PatchParams::default(), &patch)).await {
            Err(ClusterError::Absent(_)) => {}
            patched => return patched.map(drop),
        }
        match call(Call::Write, self.api.create(&PostParams::default(), &whole)).await {
            // made by ourselves a moment ago, or by one of the same name: the next beat renews it
            Err(ClusterError::Conflict(_)) => Ok(()),
            made => made.map(drop),
        }
    }

    /// # Errors
    /// [`ClusterError`]; it is no error that it is gone already.
    pub async fn end(&self, lease: &str) -> Result<(), ClusterError> {
        match call(Call::Write, self.api.delete(lease, &DeleteParams::default())).await {
            Ok(_) | Err(ClusterError::Absent(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
