//! Trust at one moment: what signs, who is shut out, and what sidecars are told of both.

use super::Denial;
use fusewire_identity::Authority;
use fusewire_model::SpiffeId;
use fusewire_model::resource::{Resource, Trust};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) authority: Authority,
    pub(crate) denials: BTreeMap<SpiffeId, Denial>,
    denied: Arc<BTreeSet<SpiffeId>>,
    /// For every sidecar alike. The same allocation for as long as the content is the same.
    pub(crate) resource: Resource,
}

impl Standing {
    pub(super) fn new(authority: Authority, denials: BTreeMap<SpiffeId, Denial>, before: Option<&Self>) -> Self {
        let trust = Resource::Trust(Arc::new(Trust {
            trust_domain: authority.trust_domain().to_string(),
            bundle: authority.bundle().to_pem(),
            signer: authority.root_hash().to_owned(),
            denied: denials.keys().cloned().collect(),
        }));
        let resource = match before {
            Some(before) if before.resource == trust => before.resource.clone(),
            _ => trust,
        };
        let denied = match before {
            Some(before) if before.denied.iter().eq(denials.keys()) => before.denied.clone(),
            _ => Arc::new(denials.keys().cloned().collect()),
        };
        Self { authority, denials, denied, resource }
    }

    /// The hash of what sidecars are told, as they acknowledge it.
    pub(crate) fn told(&self) -> String {
        fusewire_api::resource_to_wire(&self.resource).hash
    }

    pub(crate) fn denied(&self) -> &Arc<BTreeSet<SpiffeId>> {
        &self.denied
    }
}
