//! The rustls configurations: between sidecars, to the control plane, and for joining.
//!
//! It decides version (TLS 1.3 alone), suites, groups (X25519MLKEM768 first: traffic recorded today stays closed to a
//! quantum computer of tomorrow) and that nothing is resumed. It deliberately does not dial, accept or time out.
//!
//! Invariant: every connection is judged by its certificates. Session resumption is off on both sides, because a
//! resumed session skips the certificate checks, so an expired or denied identity would live on in its tickets;
//! sidecars pool their connections, so handshakes are rare and full ones are affordable. 0-RTT goes with it.

use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{CipherSuite, ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName};

use crate::error::IdentityError;
use crate::hex;
use crate::verify::{self, MeshClients, Servers};
use crate::workload::Identity;

/// Whether a client must prove itself before it is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Between sidecars: no certificate, no connection.
    Required,
    /// The control plane's port: a joiner has no certificate yet, and `Sign` is callable without. A certificate that
    /// is presented is judged all the same. This port also presents its root, for joiners who know only its hash.
    Optional,
}

/// aws-lc-rs, cut down to what a mesh of our own sidecars speaks.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            use aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
            let mut provider = aws_lc_rs::default_provider();
            // AES-128 first: as safe as the exchange of keys before it, and cheaper than AES-256 for every byte
            let preferred = [
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS13_AES_256_GCM_SHA384,
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            ];
            provider.cipher_suites.retain(|suite| preferred.contains(&suite.suite()));
            provider.cipher_suites.sort_by_key(|suite| preferred.iter().position(|p| *p == suite.suite()));
            provider.kx_groups = vec![X25519MLKEM768, X25519, SECP256R1];
            Arc::new(provider)
        })
        .clone()
}

fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.to_vec()).collect()
}

/// Presents `identity`, and believes clients that its bundle believes.
pub fn server_config(
    identity: &Identity,
    alpn: &[&[u8]],
    clients: Clients,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let verifier = Arc::new(MeshClients::new(identity.bundle(), clients)?);
    let mut chain = identity.chain().to_vec();
    if clients == Clients::Optional {
        chain.extend(anchors(identity)?);
    }
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, identity.key().der())?;
    config.alpn_protocols = owned(alpn);
    // no resumption: see the invariant above
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The roots that this identity's own leaf leads to: one, and while a root is being replaced, two (directly, and by the
/// cross certificate), so that joiners find whichever their token pins.
fn anchors(identity: &Identity) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let mut found = Vec::new();
    let (leaf, intermediates) = identity.chain().split_first().ok_or(IdentityError::NoCertificate)?;
    for root in identity.bundle().certs() {
        if verify::alone(leaf, intermediates, root, identity.moment()).is_ok() {
            found.push(root.clone());
        }
    }
    Ok(found)
}

/// Presents `identity`, and believes servers whose chain leads to its bundle and whose one SPIFFE ID is of its trust
/// domain. *Which* ID the caller meant is checked after the handshake, with [`crate::expect_peer`].
pub fn client_config(identity: &Identity, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, IdentityError> {
    let verifier = Arc::new(Servers::of_mesh(identity.bundle().clone()));
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // rustls' word for any verifier but its own; ours only adds to webpki's checks
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(identity.chain().to_vec(), identity.key().der())?;
    Ok(finish(config, alpn))
}

/// For one who has no identity yet: believes only the control plane whose presented chain holds the root with this
/// SHA-256 (from a join token). Presents nothing.
pub fn joining_client_config(root_hash: &str, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, IdentityError> {
    joining_under(std::slice::from_ref(&root_hash), alpn)
}

/// The same under any of these roots.
///
/// # Errors
/// A hash that is none.
pub fn joining_under(root_hashes: &[impl AsRef<str>], alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, IdentityError> {
    let decoded =
        |hash: &str| hex::decode32(hash).ok_or_else(|| IdentityError::RootHash(hash.chars().take(80).collect()));
    let roots = root_hashes.iter().map(|hash| decoded(hash.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Servers::control_under(roots)))
        .with_no_client_auth();
    Ok(finish(config, alpn))
}

fn finish(mut config: ClientConfig, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    config.alpn_protocols = owned(alpn);
    config.resumption = Resumption::disabled(); // see the invariant above
    config.enable_sni = false; // names are SPIFFE IDs; a host name in clear would only inform the network
    Arc::new(config)
}

/// What to give a connector that insists on a server name: these configurations neither send nor check it.
pub fn unchecked_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
}
