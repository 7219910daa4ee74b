//! The control plane's own certificate: signed by itself, renewed at two thirds of its life and when the roots change.
//!
//! It decides what new connections are shown; connections that are open keep what they began with. It deliberately
//! keeps nothing on disk: a restart signs anew.
//!
//! Invariant: renewal follows the wall clock, as certificates do, so that a machine that slept renews when it wakes.

use crate::ControlError;
use crate::shared::Shared;
use arc_swap::ArcSwap;
use fusewire_identity::{ALPN_CONTROL, Clients, Identity, UnixTime, renewal_at, server_config};
use rustls::ServerConfig;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct Own {
    config: ArcSwap<ServerConfig>,
}

impl Own {
    pub(crate) fn new(shared: &Shared) -> Result<(Self, Identity), ControlError> {
        let (identity, config) = issue(shared)?;
        Ok((Self { config: ArcSwap::new(config) }, identity))
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Never ends; dropped with the control plane.
    pub(crate) async fn renew(&self, shared: &Shared, mut identity: Identity) {
        let look = (shared.trust.leaf_lifetime() / 30).clamp(Duration::from_millis(100), Duration::from_secs(30));
        let mut trust = shared.trust.subscribe();
        let mut roots = trust.borrow_and_update().authority.bundle().root_hashes();
        let mut due = due(&identity);
        loop {
            tokio::select! {
                () = tokio::time::sleep(look) => {}
                _ = trust.changed() => {}
            }
            // a step of a rotation: other roots, or the same in another order
            let now = trust.borrow_and_update().authority.bundle().root_hashes();
            if now == roots && UnixTime::now().as_secs() < due {
                continue;
            }
            match issue(shared) {
                Ok((new, config)) => {
                    tracing::info!(identity = %new.id, not_after = new.not_after(), root_hash = new.root_hash(), "own certificate renewed");
                    self.config.store(config);
                    (identity, roots) = (new, now);
                    due = self::due(&identity);
                }
                Err(error) => {
                    tracing::error!(%error, not_after = identity.not_after(), "own certificate not renewed; trying again")
                }
            }
        }
    }
}

/// Replicas that were started at once do not renew at once.
fn due(identity: &Identity) -> u64 {
    let random = RandomState::new().build_hasher().finish();
    renewal_at(identity.not_before(), identity.not_after(), random)
}

fn issue(shared: &Shared) -> Result<(Identity, Arc<ServerConfig>), ControlError> {
    let identity = shared.trust.now().authority.issue_own(shared.trust.leaf_lifetime(), UnixTime::now())?;
    shared.trust.counts.note_own(identity.not_after());
    // `Clients::Optional` also presents the root, which a joiner knows by its hash alone
    let config = server_config(&identity, &[ALPN_CONTROL], Clients::Optional)?;
    shared.replicas.prove(&identity)?;
    Ok((identity, config))
}
