//! What a handshake between sidecars is when it works.

use std::sync::Arc;

use fusewire_identity::{ALPN_WIRE, Clients, expect_alpn, expect_peer, peer_id, peer_not_after, provider};
use rustls::{HandshakeKind, NamedGroup};

use crate::world::*;

#[tokio::test]
async fn two_sidecars_prove_their_names_to_each_other_under_a_post_quantum_group() {
    let ca = authority();
    let (catalog, web) = (issue(&ca, "shop/catalog"), issue(&ca, "shop/web"));
    let (served, called) = meet(server(&catalog), client(&web)).await;
    let (served, called) = (served.unwrap(), called.unwrap());
    assert_eq!(served.peer, Some(id("shop/web")));
    assert_eq!(called.peer, Some(id("shop/catalog")));
    for side in [&served, &called] {
        assert_eq!(side.group, NamedGroup::X25519MLKEM768);
        assert_eq!(side.alpn.as_deref(), Some(ALPN_WIRE));
    }
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let ca = authority();
    let server = Arc::new(server(&issue(&ca, "shop/catalog")));
    let client = Arc::new(client(&issue(&ca, "shop/web")));
    for _ in 0..3 {
        let (served, called) = meet(server.clone(), client.clone()).await;
        assert_eq!(served.unwrap().kind, HandshakeKind::Full);
        assert_eq!(called.unwrap().kind, HandshakeKind::Full);
    }
    assert!(!server.session_storage.can_cache());
    assert_eq!(server.send_tls13_tickets, 0);
}

#[tokio::test]
async fn a_client_with_only_classical_groups_is_served_too() {
    let ca = authority();
    let mut classical = (*provider()).clone();
    classical.kx_groups.retain(|group| group.name() != NamedGroup::X25519MLKEM768);
    let identity = issue(&ca, "shop/web");
    // the same verifier and certificate, other groups
    let ours = client(&identity);
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(classical))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_client_cert_resolver(ours.client_auth_cert_resolver.clone());
    config.dangerous().set_certificate_verifier(Arc::new(AnyServer));
    config.alpn_protocols = ours.alpn_protocols.clone();
    config.time_provider = ours.time_provider.clone();
    let (served, _) = meet(server(&issue(&ca, "shop/catalog")), config).await;
    assert_eq!(served.unwrap().group, NamedGroup::X25519);
}

#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: fusewire_identity::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn a_rotated_identity_is_believed_beside_the_old_one() {
    let ca = authority();
    let old = issue_at(&ca, "shop/web", NOW - DAY / 2);
    let new = issue(&ca, "shop/web");
    let server = Arc::new(server(&issue(&ca, "shop/catalog")));
    assert_ne!(old.serial(), new.serial());
    for identity in [old, new] {
        assert!(meet(server.clone(), client(&identity)).await.1.is_ok());
    }
}

#[test]
fn the_caller_compares_the_peer_with_the_one_it_meant() {
    let ca = authority();
    let catalog = issue(&ca, "shop/catalog");
    assert_eq!(peer_id(Some(catalog.chain())).unwrap(), id("shop/catalog"));
    assert_eq!(peer_not_after(Some(catalog.chain())).unwrap(), catalog.not_after());
    assert_eq!(expect_peer(Some(catalog.chain()), &id("shop/catalog")), Ok(()));
    let wrong = expect_peer(Some(catalog.chain()), &id("shop/web")).unwrap_err();
    assert_eq!(wrong.word(), "wrong-identity");
    assert!(wrong.to_string().contains("spiffe://mesh.test/shop/catalog, not spiffe://mesh.test/shop/web"), "{wrong}");
    assert_eq!(expect_peer(None, &id("shop/web")).unwrap_err().word(), "no-certificate");
    assert!(peer_id(None).is_err());
    assert!(peer_id(Some(&[])).is_err());
}

#[tokio::test]
async fn a_peer_that_names_no_protocol_is_told_apart_by_the_caller() {
    let ca = authority();
    let mut silent = client(&issue(&ca, "shop/web"));
    silent.alpn_protocols.clear();
    let (served, _) = meet(server_of(&issue(&ca, "shop/catalog"), Clients::Required, ALPN_WIRE), silent).await;
    assert_eq!(served.unwrap().alpn, None); // rustls lets it through: hence `expect_alpn`
    let fresh =
        rustls::ClientConnection::new(Arc::new(client(&issue(&ca, "shop/web"))), fusewire_identity::unchecked_name());
    assert_eq!(expect_alpn(&fresh.unwrap(), ALPN_WIRE).unwrap_err().word(), "alpn");
}
