use crate::harness::{Control, SOON};
use crate::wire::{self, Stream, hello, join, join_as};
use fusewire_identity::{ALPN_CONTROL, PrivateKey, SpiffeId, client_config, csr, joining_client_config, root_hash};
use serde_json::Value;
use std::time::{Duration, Instant};
use tonic::Code;

#[tokio::test]
async fn a_token_is_good_for_its_workload_once() {
    let control = Control::start("").await;
    let token = control.token("shop/web", 1, 60).await;
    let identity = join(control.address, &token).await.unwrap();
    assert_eq!(identity.id.as_str(), "spiffe://fusewire.local/shop/web");

    let again = join(control.address, &token).await.unwrap_err();
    assert_eq!(again.code(), Code::Unauthenticated, "{again}");
    assert!(again.message().starts_with("token-spent: "), "{again}");
}

#[tokio::test]
async fn a_token_for_one_workload_makes_no_other() {
    let control = Control::start("").await;
    let token = control.token("web", 1, 60).await;
    let other = join_as(control.address, &token, "spiffe://fusewire.local/admin").await.unwrap_err();
    assert_eq!(other.code(), Code::PermissionDenied, "{other}");
    // the refusal did not cost the use
    join(control.address, &token).await.unwrap();
}

#[tokio::test]
async fn a_token_ends() {
    let control = Control::start("").await;
    let token = control.token("web", 1000, 1).await;
    let start = Instant::now();
    let refused = loop {
        match join(control.address, &token).await {
            Err(refused) => break refused,
            Ok(_) => assert!(start.elapsed() < SOON, "the token never ended"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await; // bounded wait: by SOON
    };
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    assert!(refused.message().starts_with("token-expired: "), "{refused}");
}

#[tokio::test]
async fn without_token_or_certificate_nothing_is_signed() {
    let control = Control::start("").await;
    let status = control.status().await;
    let config = joining_client_config(status["root_hash"].as_str().unwrap(), &[ALPN_CONTROL]).unwrap();
    let key = PrivateKey::generate().unwrap();
    let request = csr(&key, &SpiffeId::parse("spiffe://fusewire.local/web").unwrap()).unwrap();
    let channel = wire::channel(control.address, config).await.unwrap();
    let refused = wire::sign(channel.clone(), request.clone(), "").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let refused = wire::sign(channel.clone(), request, "fwj1.nonsense").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    // nor does anybody get a configuration
    let mut client = fusewire_api::v1::config_client::ConfigClient::new(channel);
    let refused = client.stream(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
}

#[tokio::test]
async fn renewal_is_for_the_same_identity_only() {
    let control = Control::start("").await;
    let identity = control.joined("web").await;
    let renewal = |id: &str| {
        let (key, id) = (PrivateKey::generate().unwrap(), SpiffeId::parse(id).unwrap());
        let request = csr(&key, &id).unwrap();
        let config = client_config(&identity, &[ALPN_CONTROL]).unwrap();
        let at = control.address;
        async move {
            let signed = wire::sign(wire::channel(at, config).await.unwrap(), request, "").await?;
            Ok::<_, tonic::Status>(wire::identity(key, &signed))
        }
    };
    let renewed = renewal("spiffe://fusewire.local/web").await.unwrap();
    assert_ne!(renewed.serial(), identity.serial());
    let refused = renewal("spiffe://fusewire.local/db").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let garbage = wire::channel(control.address, client_config(&identity, &[ALPN_CONTROL]).unwrap()).await.unwrap();
    let refused = wire::sign(garbage, vec![0x30; 20_000], "").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

#[tokio::test]
async fn the_server_presents_its_identity_and_the_root() {
    let control = Control::start("trust_domain: shop.example").await;
    let identity = control.joined("web").await;
    let chain = wire::presented(control.address, &identity).await;
    assert_eq!(fusewire_identity::peer_id(Some(&chain)).unwrap().as_str(), "spiffe://shop.example/fusewire/control");
    let status = control.status().await;
    assert_eq!(root_hash(chain.last().unwrap()), status["root_hash"].as_str().unwrap());
}

#[tokio::test]
async fn a_peer_that_never_shakes_hands_holds_up_nobody() {
    let control = Control::start("").await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(tokio::net::TcpStream::connect(control.address).await.unwrap());
    }
    let identity = control.joined("web").await;
    let (_stream, told) = Stream::synced(control.address, &identity, hello(vec![])).await;
    assert_eq!(wire::lines(&told), ["trust fusewire.local", "inbound spiffe://fusewire.local/web", "synced"]);
    assert_eq!(control.ask("GET", "/live", Value::Null).await.0, 200);
}

#[tokio::test]
async fn the_own_certificate_is_renewed_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("mesh")).unwrap();
    let short = |settings: &mut fusewire_control::Settings| settings.leaf_lifetime = Duration::from_secs(10);
    let control = Control::start_in(dir, short).await.unwrap();
    let identity = control.joined("web").await;
    let first = wire::presented(control.address, &identity).await;
    let start = Instant::now();
    while wire::presented(control.address, &identity).await[0] == first[0] {
        assert!(start.elapsed() < Duration::from_secs(9), "not renewed within its life");
        tokio::time::sleep(Duration::from_millis(100)).await; // bounded wait: by the certificate's life
    }
}
