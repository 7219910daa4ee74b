//! The sidecars of all replicas, as far as trust and configuration wait for them.
//!
//! It decides how a sidecar is named, and who is missing: a replica that does not answer may have any. It deliberately asks
//! nobody itself; [`crate::replicas`] does.

use crate::replicas;
use crate::shared::Shared;
use fusewire_api::v1;

/// One connected sidecar.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// `<workload>`, or `<workload> (<instance>)`.
    pub(crate) name: String,
    /// Hash of the root that its certificate leads to.
    pub(crate) root: Option<String>,
    /// Hash of the Trust resource that it last acknowledged to have in force.
    pub(crate) trust: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Fleet {
    pub(crate) members: Vec<Member>,
    /// Replicas that did not say who is connected to them.
    pub(crate) unanswered: Vec<String>,
}

impl Shared {
    /// Everybody who is connected, to whichever replica.
    pub(crate) async fn all_sidecars(&self) -> Fleet {
        let v1::StatusResponse { sidecars, replicas, .. } = replicas::status(self).await;
        let silent = replicas.into_iter().filter(|replica| !replica.answered);
        Fleet {
            members: sidecars.into_iter().map(member).collect(),
            unanswered: silent.map(|replica| replica.name).collect(),
        }
    }
}

fn member(sidecar: v1::SidecarStatus) -> Member {
    let v1::SidecarStatus { workload, instance, root, trust, .. } = sidecar;
    let name = instance.map_or_else(|| workload.clone(), |instance| format!("{workload} ({instance})"));
    Member { name, root, trust }
}

impl Fleet {
    /// Who has not acknowledged this Trust resource.
    pub(crate) fn without_trust(&self, hash: &str) -> Vec<String> {
        let missing = self.members.iter().filter(|member| member.trust.as_deref() != Some(hash));
        missing.map(|member| format!("{} has not taken over the roots yet", member.name)).collect()
    }

    /// Whose certificate is under another root than this.
    pub(crate) fn outside_root(&self, hash: &str) -> Vec<String> {
        let outside = self.members.iter().filter(|member| member.root.as_deref() != Some(hash));
        outside.map(|member| format!("{} is still under another root", member.name)).collect()
    }
}
