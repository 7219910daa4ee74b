//! A small trust domain at a fixed time, and two ends that meet.

use std::sync::Arc;
use std::time::Duration;

use fusewire_identity::{
    ALPN_WIRE, Authority, Clients, DEFAULT_LIFETIME, Identity, Refusal, SpiffeId, TrustDomain, UnixTime, client_config,
    provider, refusal, server_config, unchecked_name,
};
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) const NOW: u64 = 1_900_000_000;
pub(crate) const DAY: u64 = 24 * 3600;

pub(crate) fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

pub(crate) fn now() -> UnixTime {
    at(NOW)
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://mesh.test/{path}")).unwrap()
}

pub(crate) fn authority() -> Authority {
    Authority::create(&domain("mesh.test"), at(NOW - 30 * DAY)).unwrap()
}

pub(crate) fn issue(authority: &Authority, path: &str) -> Identity {
    issue_at(authority, path, NOW)
}

pub(crate) fn issue_at(authority: &Authority, path: &str, seconds: u64) -> Identity {
    authority.issue(&id(path), DEFAULT_LIFETIME, at(seconds)).unwrap()
}

/// The root's key, as a store has it.
pub(crate) fn root_key(authority: &Authority) -> String {
    let state: serde_json::Value = serde_json::from_str(&authority.state().to_json().unwrap()).unwrap();
    state["signer"]["key"].as_str().unwrap().to_owned()
}

/// A leaf such as our authority would never sign, signed by its root all the same.
pub(crate) fn odd_leaf(authority: &Authority, uris: &[&str]) -> Arc<SingleCertAndKey> {
    let root = &authority.bundle().certs()[0];
    let issuer = Issuer::from_ca_cert_der(root, KeyPair::from_pem(&root_key(authority)).unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap();
    presented(vec![cert.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}

fn presented(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Arc<SingleCertAndKey> {
    let key = provider().key_provider.load_private_key(key).unwrap();
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)))
}

#[derive(Debug)]
struct Fixed(UnixTime);

impl TimeProvider for Fixed {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

pub(crate) fn server(identity: &Identity) -> ServerConfig {
    server_of(identity, Clients::Required, ALPN_WIRE)
}

pub(crate) fn server_of(identity: &Identity, clients: Clients, alpn: &[u8]) -> ServerConfig {
    server_at(identity, clients, alpn, NOW)
}

pub(crate) fn server_at(identity: &Identity, clients: Clients, alpn: &[u8], seconds: u64) -> ServerConfig {
    let mut config = Arc::unwrap_or_clone(server_config(identity, &[alpn], clients).unwrap());
    config.time_provider = Arc::new(Fixed(at(seconds)));
    config
}

pub(crate) fn client(identity: &Identity) -> ClientConfig {
    fixed(client_config(identity, &[ALPN_WIRE]).unwrap())
}

pub(crate) fn fixed(config: Arc<ClientConfig>) -> ClientConfig {
    fixed_at(config, NOW)
}

pub(crate) fn fixed_at(config: Arc<ClientConfig>, seconds: u64) -> ClientConfig {
    let mut config = Arc::unwrap_or_clone(config);
    config.time_provider = Arc::new(Fixed(at(seconds)));
    config
}

#[derive(Debug)]
pub(crate) struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

/// What one end saw of a handshake that worked.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) group: NamedGroup,
    pub(crate) kind: HandshakeKind,
    pub(crate) alpn: Option<Vec<u8>>,
}

fn met(connection: &rustls::CommonState) -> Met {
    Met {
        peer: fusewire_identity::peer_id(connection.peer_certificates()).ok(),
        group: connection.negotiated_key_exchange_group().unwrap().name(),
        kind: connection.handshake_kind().unwrap(),
        alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
    }
}

fn why(error: std::io::Error) -> Refusal {
    refusal(&error).unwrap_or_else(|| panic!("not a TLS matter: {error:?}"))
}

async fn serve(pipe: DuplexStream, config: Arc<ServerConfig>) -> Result<Met, Refusal> {
    let mut tls = TlsAcceptor::from(config).accept(pipe).await.map_err(why)?;
    tls.write_all(b"hi").await.map_err(why)?;
    tls.flush().await.map_err(why)?;
    Ok(met(tls.get_ref().1))
}

/// Dials, then reads: only then does a TLS 1.3 client know whether it was believed.
async fn call(pipe: DuplexStream, config: Arc<ClientConfig>) -> Result<Met, Refusal> {
    let mut tls = TlsConnector::from(config).connect(unchecked_name(), pipe).await.map_err(why)?;
    let mut greeting = [0; 2];
    tls.read_exact(&mut greeting).await.map_err(why)?;
    assert_eq!(&greeting, b"hi");
    Ok(met(tls.get_ref().1))
}

/// Both ends' outcomes: the server's, then the client's.
pub(crate) async fn meet(
    server: impl Into<Arc<ServerConfig>>,
    client: impl Into<Arc<ClientConfig>>,
) -> (Result<Met, Refusal>, Result<Met, Refusal>) {
    let (near, far) = duplex(64 * 1024);
    tokio::join!(serve(far, server.into()), call(near, client.into()))
}

/// The words of a handshake that neither end completes, and that `by_peer` tells the two apart.
pub(crate) async fn words(
    server: impl Into<Arc<ServerConfig>>,
    client: impl Into<Arc<ClientConfig>>,
) -> [(&'static str, bool); 2] {
    let (server, client) = meet(server, client).await;
    let [server, client] = [server, client].map(|side| side.expect_err("a refusal"));
    [(server.word(), server.by_peer()), (client.word(), client.by_peer())]
}

pub(crate) const WE: bool = false;
pub(crate) const THEY: bool = true;
