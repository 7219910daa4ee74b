//! Who this sidecar is, whom it believes, and whom it shuts out.
//!
//! It decides what every handshake from now on is made with: the newest certificate (`renew`, `files`), judged against the
//! roots that the control plane told last, and without the identities that it told to refuse. It deliberately leaves
//! running connections alone when a certificate or a root changes; only a denied identity's are closed.
//!
//! Invariants: a certificate, a bundle or a file that cannot be used changes nothing; whoever is denied stays so whichever
//! certificate is in force, and over a restart.

mod belief;
mod channel;
mod files;
mod renew;

pub(crate) use belief::{Belief, until_denied};
pub(crate) use channel::channel;
pub(crate) use files::follow as follow_files;
pub(crate) use renew::keep_current;

use crate::mesh::{Mesh, Tls};
use fusewire_identity::{
    ALPN_CONTROL, ALPN_WIRE, Clients, Identity, IdentityError, UnixTime, client_config, server_config,
};
use fusewire_model::node::SidecarSettings;
use fusewire_model::resource::Trust;
use std::sync::Arc;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The identity that is there at boot, if there is one: configured files, or what an earlier run kept.
pub(crate) fn at_boot(settings: &SidecarSettings) -> Result<Option<Identity>, BoxError> {
    if let Some(files) = &settings.identity {
        return files::read(settings, files).map(Some);
    }
    let Some(dir) = settings.data_dir.as_deref().filter(|dir| dir.join("cert.pem").exists()) else { return Ok(None) };
    match Identity::load(dir) {
        Ok(identity) if identity.remaining(UnixTime::now()).is_zero() => {
            tracing::warn!("{}: the kept certificate has expired; a new one is needed", dir.display());
            Ok(None)
        }
        Ok(identity) => expect_workload(settings, identity).map(Some),
        Err(e) => {
            tracing::warn!("{}: the kept identity cannot be used, a new one is needed: {e}", dir.display());
            Ok(None)
        }
    }
}

fn expect_workload(settings: &SidecarSettings, identity: Identity) -> Result<Identity, BoxError> {
    if identity.id == settings.workload {
        Ok(identity)
    } else {
        Err(format!("the certificate is for {}, but sidecar.workload is {}", identity.id, settings.workload).into())
    }
}

/// Puts an identity in force for every handshake from here on; running connections go on.
pub(crate) fn install(mesh: &Mesh, identity: Identity) -> Result<(), IdentityError> {
    mesh.belief.with(|told| {
        let identity = belief::judging_by(told, identity)?;
        let server = server_config(&identity, &[ALPN_WIRE], Clients::Required)?;
        let client = client_config(&identity, &[ALPN_WIRE])?;
        mesh.metrics.identity_expiry.set(i64::try_from(identity.not_after()).unwrap_or(i64::MAX));
        mesh.tls.store(Some(Arc::new(Tls { identity, server, client })));
        Ok(())
    })
}

pub(crate) fn control_client(identity: &Identity) -> Result<Arc<rustls::ClientConfig>, IdentityError> {
    client_config(identity, &[ALPN_CONTROL])
}

/// The control plane says whom to believe and whom not; in force for every handshake from here on.
pub(crate) fn take(mesh: &Mesh, trust: &Trust) -> Result<(), String> {
    let news = mesh.belief.take(trust)?;
    if news && let Some(tls) = mesh.tls() {
        install(mesh, tls.identity.clone()).map_err(|e| e.to_string())?;
    }
    let Some(tls) = mesh.tls() else { return Ok(()) };
    if news {
        keep(mesh, &tls.identity);
    }
    let (ours, told) = (tls.identity.bundle().root_hashes(), mesh.belief.roots());
    if told.is_some_and(|told| told != ours) {
        return Err("our own certificate does not lead to any of these roots; the old ones stay in force".into());
    }
    Ok(())
}

/// What files give is theirs to keep.
fn keep(mesh: &Mesh, identity: &Identity) {
    if mesh.settings.identity.is_none()
        && let Some(dir) = &mesh.settings.data_dir
        && let Err(e) = identity.save(dir)
    {
        tracing::warn!("{}: the identity could not be kept: {e}", dir.display());
    }
}
