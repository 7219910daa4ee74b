//! The control plane's own certificate: signed by itself, renewed at two thirds of its life.
//!
//! It decides what new connections are shown; connections that are open keep what they began with. It deliberately
//! keeps nothing on disk: a restart signs anew.
//!
//! Invariant: renewal follows the wall clock, as certificates do, so that a machine that slept renews when it wakes.

use crate::ControlError;
use crate::shared::Shared;
use arc_swap::ArcSwap;
use fusewire_identity::{ALPN_CONTROL, Clients, Identity, UnixTime, server_config};
use rustls::ServerConfig;
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
        let look = (shared.leaf_lifetime / 30).clamp(Duration::from_millis(100), Duration::from_secs(30));
        loop {
            tokio::time::sleep(look).await;
            if identity.remaining(UnixTime::now()) > shared.leaf_lifetime / 3 {
                continue;
            }
            match issue(shared) {
                Ok((new, config)) => {
                    tracing::info!(identity = %new.id, not_after = new.not_after(), "own certificate renewed");
                    self.config.store(config);
                    identity = new;
                }
                Err(error) => tracing::error!(%error, "own certificate not renewed; trying again"),
            }
        }
    }
}

fn issue(shared: &Shared) -> Result<(Identity, Arc<ServerConfig>), ControlError> {
    let id = shared.authority.control_id()?;
    let identity = shared.authority.issue(&id, shared.leaf_lifetime, UnixTime::now())?;
    // `Clients::Optional` also presents the root, which a joiner knows by its hash alone
    let config = server_config(&identity, &[ALPN_CONTROL], Clients::Optional)?;
    Ok((identity, config))
}
