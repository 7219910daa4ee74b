//! This sidecar's identity: from disk, from files, or by a join token; renewed before it ends.
//!
//! Signing is the only call to the control plane that is merely server-authenticated, and then the server must hold the
//! root whose hash the token brought. Everything after is mTLS.

use crate::clock;
use crate::mesh::{Mesh, Tls};
use fusewire_api::v1;
use fusewire_identity::{
    ALPN_CONTROL, ALPN_WIRE, Bundle, Clients, Identity, IdentityError, JoinToken, PrivateKey, UnixTime, client_config,
    csr, joining_client_config, server_config, unchecked_name,
};
use fusewire_model::node::SidecarSettings;
use fusewire_model::resource::Trust;
use fusewire_model::{SpiffeId, TrustDomain};
use hyper_util::rt::TokioIo;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long one call to the control plane may take.
const CALL: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// The identity that is there at boot, if there is one: configured files, or what an earlier run kept.
pub(crate) fn at_boot(settings: &SidecarSettings) -> Result<Option<Identity>, BoxError> {
    if let Some(files) = &settings.identity {
        let read = |path: &Path| std::fs::read(path).map_err(|e| format!("sidecar.identity: {}: {e}", path.display()));
        let (chain, key, bundle) = (read(&files.certificate)?, read(&files.key)?, read(&files.bundle)?);
        let identity = Identity::from_pem(&chain, &key, &bundle).map_err(|e| format!("sidecar.identity: {e}"))?;
        return expect_workload(settings, identity).map(Some);
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
    let server = server_config(&identity, &[ALPN_WIRE], Clients::Required)?;
    let client = client_config(&identity, &[ALPN_WIRE])?;
    mesh.metrics.identity_expires.set(i64::try_from(identity.not_after()).unwrap_or(i64::MAX));
    mesh.tls.store(Some(Arc::new(Tls { identity, server, client })));
    Ok(())
}

pub(crate) fn control_client(identity: &Identity) -> Result<Arc<rustls::ClientConfig>, IdentityError> {
    client_config(identity, &[ALPN_CONTROL])
}

/// The roots changed: peers are verified against the new ones.
pub(crate) fn renew_bundle(mesh: &Mesh, trust: &Trust) {
    let Some(tls) = mesh.tls() else { return };
    let renewed = TrustDomain::parse(&trust.trust_domain)
        .map_err(|e| e.to_string())
        .and_then(|domain| Bundle::from_pem(domain, trust.bundle.as_bytes()).map_err(|e| e.to_string()))
        .and_then(|bundle| {
            if bundle.certs() == tls.identity.bundle().certs() {
                return Ok(());
            }
            let identity = tls.identity.with_bundle(bundle).map_err(|e| e.to_string())?;
            keep(mesh, &identity);
            install(mesh, identity).map_err(|e| e.to_string())
        });
    if let Err(e) = renewed {
        tracing::warn!("the new trust bundle was refused, the old one stays in force: {e}");
    }
}

fn keep(mesh: &Mesh, identity: &Identity) {
    if let Some(dir) = &mesh.settings.data_dir
        && let Err(e) = identity.save(dir)
    {
        tracing::warn!("{}: the identity could not be kept: {e}", dir.display());
    }
}

/// Joins if there is no identity yet, then renews at two thirds of each certificate's life.
pub(crate) async fn keep_current(mesh: Arc<Mesh>, control: String) {
    let mut wait = RETRY;
    loop {
        let due = match mesh.tls() {
            None => Duration::ZERO,
            Some(tls) => {
                let identity = &tls.identity;
                let life = identity.not_after().saturating_sub(identity.not_before());
                let at = identity.not_before() + life * 2 / 3;
                // never at once: with a clock that is wrong every new certificate would be due
                Duration::from_secs(at.saturating_sub(clock::unix_seconds()).max(1))
            }
        };
        tokio::time::sleep(due).await;
        match obtain(&mesh, &control).await {
            Ok(identity) => {
                tracing::info!(id = %identity.id, expires = identity.not_after(), "certificate issued");
                keep(&mesh, &identity);
                if let Err(e) = install(&mesh, identity) {
                    tracing::error!("the certificate that the control plane issued cannot be used: {e}");
                }
                wait = RETRY;
            }
            Err(e) => {
                tracing::warn!(control, "no certificate yet, trying again: {e}");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(MAX_RETRY);
            }
        }
    }
}

async fn obtain(mesh: &Mesh, control: &str) -> Result<Identity, BoxError> {
    let (tls, token) = match mesh.tls().filter(|t| !t.identity.remaining(UnixTime::now()).is_zero()) {
        Some(tls) => (control_client(&tls.identity)?, String::new()),
        None => {
            let token = token(&mesh.settings)?;
            let parsed = JoinToken::parse(&token).map_err(|e| format!("sidecar.token_file: {e}"))?;
            (joining_client_config(&parsed.root_hash(), &[ALPN_CONTROL])?, token)
        }
    };
    let id: &SpiffeId = &mesh.settings.workload;
    let key = PrivateKey::generate()?;
    let request = v1::SignRequest { csr: csr(&key, id)?, token };
    let mut client = v1::identity_client::IdentityClient::new(channel(control, tls).await?);
    let signed = tokio::time::timeout(CALL, client.sign(request)).await??.into_inner();
    let identity =
        Identity::from_pem(signed.chain_pem.as_bytes(), key.to_pem().as_bytes(), signed.bundle_pem.as_bytes())?;
    expect_workload(&mesh.settings, identity)
}

fn token(settings: &SidecarSettings) -> Result<String, BoxError> {
    let Some(path) = &settings.token_file else {
        return Err(
            "sidecar.token_file is not set: make a token with `fusewire token create` at the control plane".into()
        );
    };
    let text = std::fs::read_to_string(path).map_err(|e| format!("sidecar.token_file: {}: {e}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// A gRPC channel to the control plane; whom it must prove to be, `tls` says.
pub(crate) async fn channel(address: &str, tls: Arc<rustls::ClientConfig>) -> Result<Channel, BoxError> {
    let uri: Uri = format!("http://{address}").parse()?; // TLS is the connector's; the scheme only names the authority
    let endpoint = Endpoint::from(uri)
        .connect_timeout(CALL)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true);
    let address = address.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (address, tls) = (address.clone(), tls.clone());
        async move {
            let stream = TcpStream::connect(&address).await?;
            fusewire_net::tune(&stream);
            let connector = tokio_rustls::TlsConnector::from(tls);
            let stream = connector.connect(unchecked_name(), stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    endpoint.connect_with_connector(connector).await.map_err(|e| {
        // tonic's own words stop at "transport error"
        let mut text = e.to_string();
        let mut source = std::error::Error::source(&e);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text.into()
    })
}
