//! Every way in which a handshake is refused, as both ends tell it.

use std::io;
use std::sync::Arc;

use fusewire_identity::{
    ALPN_WIRE, Authority, Clients, DEFAULT_LIFETIME, SpiffeId, client_config, refusal, refusal_in, unchecked_name,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::world::*;

/// Another control plane's authority of the *same* trust domain, so of the same name: the case that webpki calls a
/// bad signature.
fn namesake() -> Authority {
    authority()
}

#[tokio::test]
async fn a_client_of_a_foreign_authority_is_refused_and_learns_it_on_its_first_read() {
    let (ca, foreign) = (authority(), namesake());
    let web = issue(&foreign, "shop/web").with_bundle(foreign.bundle().clone()).unwrap();
    let mut believes_us = client(&issue(&ca, "shop/web"));
    believes_us.client_auth_cert_resolver = client(&web).client_auth_cert_resolver;
    let told = words(server(&issue(&ca, "shop/catalog")), believes_us).await;
    assert_eq!(told, [("unknown-ca", WE), ("unknown-ca", THEY)]);
}

#[tokio::test]
async fn a_server_of_a_foreign_authority_is_refused() {
    let (ca, foreign) = (authority(), namesake());
    let told = words(server(&issue(&foreign, "shop/catalog")), client(&issue(&ca, "shop/web"))).await;
    assert_eq!(told, [("unknown-ca", THEY), ("unknown-ca", WE)]);
}

#[tokio::test]
async fn an_authority_of_another_name_is_as_foreign() {
    let ca = authority();
    let other = Authority::create(&domain("other.test"), at(NOW - DAY)).unwrap();
    let stranger = other.issue(&SpiffeId::parse("spiffe://other.test/x").unwrap(), DEFAULT_LIFETIME, now()).unwrap();
    let told = words(server(&stranger), client(&issue(&ca, "shop/web"))).await;
    assert_eq!(told, [("unknown-ca", THEY), ("unknown-ca", WE)]);
}

#[tokio::test]
async fn a_client_whose_leaf_has_ended_is_refused() {
    let ca = authority();
    let told = words(server(&issue(&ca, "shop/catalog")), client(&issue_at(&ca, "shop/web", NOW - 2 * DAY))).await;
    assert_eq!(told, [("expired", WE), ("expired", THEY)]);
}

#[tokio::test]
async fn a_server_whose_leaf_has_ended_is_refused() {
    let ca = authority();
    let told = words(server(&issue_at(&ca, "shop/catalog", NOW - 2 * DAY)), client(&issue(&ca, "shop/web"))).await;
    assert_eq!(told, [("expired", THEY), ("expired", WE)]);
}

#[tokio::test]
async fn a_leaf_from_the_future_is_told_apart_by_the_refusing_side_only() {
    let ca = authority();
    let told = words(server(&issue(&ca, "shop/catalog")), client(&issue_at(&ca, "shop/web", NOW + DAY))).await;
    assert_eq!(told, [("not-yet-valid", WE), ("expired", THEY)]);
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let ca = authority();
    let mut bare = client(&issue(&ca, "shop/web"));
    bare.client_auth_cert_resolver = Arc::new(NoCertificate);
    let told = words(server(&issue(&ca, "shop/catalog")), bare).await;
    assert_eq!(told, [("no-certificate", WE), ("no-certificate", THEY)]);
}

#[tokio::test]
async fn names_other_than_one_spiffe_id_of_our_domain_are_refused_on_either_side() {
    let ca = authority();
    let one = "spiffe://mesh.test/shop/web";
    let cases: [(&[&str], &str, &str); 6] = [
        (&[], "no-spiffe-id", "bad-certificate"),
        (&[one, "spiffe://mesh.test/shop/admin"], "no-spiffe-id", "bad-certificate"),
        (&[one, "https://mesh.test/"], "no-spiffe-id", "bad-certificate"),
        (&["https://mesh.test/shop/web"], "no-spiffe-id", "bad-certificate"),
        (&["spiffe://mesh.test/../web"], "no-spiffe-id", "bad-certificate"),
        (&["spiffe://other.test/shop/web"], "wrong-trust-domain", "wrong-trust-domain"),
    ];
    for (uris, ours, theirs) in cases {
        let (catalog, web) = (issue(&ca, "shop/catalog"), issue(&ca, "shop/web"));
        let mut odd_client = client(&web);
        odd_client.client_auth_cert_resolver = odd_leaf(&ca, uris);
        assert_eq!(words(server(&catalog), odd_client).await, [(ours, WE), (theirs, THEY)], "client {uris:?}");

        let mut odd_server = server(&catalog);
        odd_server.cert_resolver = odd_leaf(&ca, uris);
        assert_eq!(words(odd_server, client(&web)).await, [(theirs, THEY), (ours, WE)], "server {uris:?}");
    }
}

#[tokio::test]
async fn the_authority_itself_is_no_workload() {
    let ca = authority();
    let root = ca.bundle().certs()[0].clone();
    let key = fusewire_identity::PrivateKey::from_pem(root_key(&ca).as_bytes()).unwrap();
    assert!(fusewire_identity::Identity::from_parts(vec![root], key, ca.bundle().clone()).is_err());
}

#[tokio::test]
async fn ends_without_a_protocol_in_common_part() {
    let ca = authority();
    let other = server_of(&issue(&ca, "shop/catalog"), Clients::Required, b"fusewire/9");
    let told = words(other, client(&issue(&ca, "shop/web"))).await;
    assert_eq!(told, [("alpn", WE), ("alpn", THEY)]);
}

#[tokio::test]
async fn a_client_of_tls_1_2_is_refused() {
    let ca = authority();
    let mut config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_WIRE.to_vec()];
    let told = words(server(&issue(&ca, "shop/catalog")), config).await;
    assert_eq!(told, [("handshake", WE), ("handshake", THEY)]);
}

#[tokio::test]
async fn plain_bytes_are_not_tls_to_a_server() {
    let ca = authority();
    let greetings: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"SSH-2.0-x\r\n",
        &[0; 16],
        &[0x16, 9, 9, 9, 9],
    ];
    for greeting in greetings {
        let (mut near, far) = duplex(4096);
        near.write_all(greeting).await.unwrap();
        let config = Arc::new(server(&issue(&ca, "shop/catalog")));
        let error = TlsAcceptor::from(config).accept(far).await.err().unwrap();
        assert_eq!(refusal(&error).unwrap().word(), "not-tls", "{greeting:?}: {error}");
    }
}

#[tokio::test]
async fn a_plain_server_is_not_tls_to_a_client() {
    let ca = authority();
    let (mut near, far) = duplex(4096);
    near.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let config = Arc::new(client(&issue(&ca, "shop/web")));
    let error = TlsConnector::from(config).connect(unchecked_name(), far).await.err().unwrap();
    assert_eq!(refusal(&error).unwrap().word(), "not-tls");
}

#[tokio::test]
async fn a_connection_that_just_ends_is_not_a_tls_matter() {
    let ca = authority();
    let (near, far) = duplex(4096);
    drop(near);
    let config = Arc::new(server(&issue(&ca, "shop/catalog")));
    let error = TlsAcceptor::from(config).accept(far).await.err().unwrap();
    assert_eq!(refusal(&error), None, "{error}");
    for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::TimedOut, io::ErrorKind::UnexpectedEof] {
        assert_eq!(refusal(&io::Error::from(kind)), None);
        assert_eq!(refusal(&io::Error::new(kind, "by the application")), None);
    }
}

#[test]
fn a_refusal_is_found_under_layers_of_errors() {
    let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    let nested = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
    assert_eq!(refusal(&nested).unwrap().word(), "unknown-ca");
}

#[tokio::test]
async fn http2_on_top_keeps_the_word_of_the_alert() {
    let (ca, foreign) = (authority(), namesake());
    let server = Arc::new(server(&issue(&ca, "shop/catalog")));
    let mut config = client(&issue(&ca, "shop/web"));
    config.client_auth_cert_resolver = client(&issue(&foreign, "shop/web")).client_auth_cert_resolver;
    let (near, far) = duplex(64 * 1024);
    let serving = async {
        TlsAcceptor::from(server).accept(far).await.err().unwrap();
    };
    let calling = async {
        let tls = TlsConnector::from(Arc::new(config)).connect(unchecked_name(), near).await.unwrap();
        let (_requests, connection) = h2::client::handshake(tls).await.unwrap();
        connection.await.unwrap_err()
    };
    let ((), error) = tokio::join!(serving, calling);
    let found = refusal_in(&error).unwrap();
    assert_eq!((found.word(), found.by_peer()), ("unknown-ca", THEY), "{error:?}");
}

/// h2 keeps only text, so the text that rustls prints is part of what we rely on.
#[test]
fn every_alert_reads_the_same_as_an_error_and_as_its_text() {
    use rustls::AlertDescription as A;
    let alerts = [
        A::UnknownCA,
        A::CertificateExpired,
        A::CertificateRequired,
        A::NoApplicationProtocol,
        A::AccessDenied,
        A::BadCertificate,
        A::UnsupportedCertificate,
        A::CertificateUnknown,
        A::HandshakeFailure,
        A::DecryptError,
        A::InternalError,
    ];
    for alert in alerts {
        let error = rustls::Error::AlertReceived(alert);
        let text = io::Error::new(io::ErrorKind::InvalidData, error.to_string());
        let kept = io::Error::new(io::ErrorKind::InvalidData, error);
        assert_eq!(refusal(&text), refusal(&kept), "{alert:?}");
        assert!(refusal(&text).unwrap().by_peer());
    }
}

#[tokio::test]
async fn bytes_before_the_alert_do_not_hide_it() {
    // the refused client writes its request at once, as sidecars do, and only then reads
    let ca = authority();
    let mut bare = client(&issue(&ca, "shop/web"));
    bare.client_auth_cert_resolver = Arc::new(NoCertificate);
    let (near, far) = duplex(64 * 1024);
    let config = Arc::new(server(&issue(&ca, "shop/catalog")));
    let serving = async { TlsAcceptor::from(config).accept(far).await.err().unwrap() };
    let calling = async {
        let mut tls = TlsConnector::from(Arc::new(bare)).connect(unchecked_name(), near).await.unwrap();
        let _ = tls.write_all(b"request").await;
        let _ = tls.flush().await;
        tls.read_u8().await.unwrap_err()
    };
    let (_, error) = tokio::join!(serving, calling);
    assert_eq!(refusal(&error).unwrap().word(), "no-certificate");
}

#[test]
fn configurations_refuse_nonsense() {
    let ca = authority();
    assert!(client_config(&issue(&ca, "shop/web"), &[ALPN_WIRE]).is_ok());
    for hash in ["", "zz", &"0".repeat(63), &"g".repeat(64), &"é".repeat(32)] {
        assert!(fusewire_identity::joining_client_config(hash, &[ALPN_WIRE]).is_err(), "{hash:?}");
    }
}
