//! The control plane's port, as joiners and members meet it.

use std::sync::Arc;

use fusewire_identity::{
    ALPN_CONTROL, Authority, CONTROL_PATH, Clients, Refusal, client_config, joining_client_config,
};

use crate::world::*;

fn control(ca: &Authority) -> rustls::ServerConfig {
    server_of(&issue(ca, CONTROL_PATH), Clients::Optional, ALPN_CONTROL)
}

fn joiner(hash: &str) -> rustls::ClientConfig {
    fixed(joining_client_config(hash, &[ALPN_CONTROL]).unwrap())
}

#[tokio::test]
async fn a_joiner_with_the_roots_hash_is_heard_without_a_certificate() {
    let ca = authority();
    let (served, called) = meet(control(&ca), joiner(ca.root_hash())).await;
    assert_eq!(served.unwrap().peer, None);
    assert_eq!(called.unwrap().peer, Some(id(CONTROL_PATH)));
    let (_, called) = meet(control(&ca), joiner(&ca.root_hash().to_uppercase())).await;
    assert!(called.is_ok());
}

#[tokio::test]
async fn a_joiner_refuses_a_control_plane_of_another_root() {
    let (ca, other) = (authority(), authority());
    let told = words(control(&ca), joiner(other.root_hash())).await;
    assert_eq!(told, [("unknown-ca", THEY), ("unknown-ca", WE)]);
}

#[tokio::test]
async fn a_joiner_refuses_a_workload_that_poses_as_the_control_plane() {
    let ca = authority();
    let web = server_of(&issue(&ca, "shop/web"), Clients::Optional, ALPN_CONTROL);
    let (served, called) = meet(web, joiner(ca.root_hash())).await;
    let expected = id(CONTROL_PATH).to_string();
    assert_eq!(called.unwrap_err(), Refusal::WrongIdentity { expected, got: id("shop/web").to_string() });
    assert_eq!(served.unwrap_err().word(), "bad-certificate");
}

/// Presenting a root proves nothing; the leaf must be signed by it.
#[tokio::test]
async fn a_joiner_refuses_the_right_root_beside_a_foreign_leaf() {
    let (ca, foreign) = (authority(), authority());
    let impostor = issue(&foreign, CONTROL_PATH);
    let key = rustls_pki_types::PrivateKeyDer::try_from(
        rcgen::KeyPair::from_pem(&impostor.key().to_pem()).unwrap().serialize_der(),
    )
    .unwrap();
    let key = fusewire_identity::provider().key_provider.load_private_key(key).unwrap();
    let chain = vec![impostor.chain()[0].clone(), ca.bundle().certs()[0].clone()];
    let mut config = control(&foreign);
    config.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(chain, key)));
    assert_eq!(words(config, joiner(ca.root_hash())).await, [("unknown-ca", THEY), ("unknown-ca", WE)]);
}

#[tokio::test]
async fn a_member_is_known_at_the_control_plane_and_a_bad_certificate_is_worse_than_none() {
    let ca = authority();
    let member = fixed(client_config(&issue(&ca, "shop/web"), &[ALPN_CONTROL]).unwrap());
    let (served, called) = meet(control(&ca), member).await;
    assert_eq!(served.unwrap().peer, Some(id("shop/web")));
    assert!(called.is_ok());

    let ended = fixed(client_config(&issue_at(&ca, "shop/web", NOW - 2 * DAY), &[ALPN_CONTROL]).unwrap());
    assert_eq!(words(control(&ca), ended).await, [("expired", WE), ("expired", THEY)]);
}

#[tokio::test]
async fn a_sidecars_port_presents_no_root_so_nobody_joins_there() {
    let ca = authority();
    let sidecar = server_of(&issue(&ca, CONTROL_PATH), Clients::Required, ALPN_CONTROL);
    assert_eq!(words(sidecar, joiner(ca.root_hash())).await, [("unknown-ca", THEY), ("unknown-ca", WE)]);
}
