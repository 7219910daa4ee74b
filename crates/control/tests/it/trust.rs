use crate::harness::{Control, SOON};
use crate::wire::{self, Stream, hello, join};
use fusewire_identity::{ALPN_CONTROL, Identity, PrivateKey, client_config, csr};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use tonic::Code;

async fn step(control: &Control, step: &str) -> (u16, Value) {
    control.ask("POST", "/trust/rotate", json!({ "step": step })).await
}

async fn renewed(control: &Control, identity: &Identity) -> Result<Identity, tonic::Status> {
    let key = PrivateKey::generate().unwrap();
    let request = csr(&key, &identity.id).unwrap();
    let config = client_config(identity, &[ALPN_CONTROL]).unwrap();
    let signed = wire::sign(wire::channel(control.address, config).await?, request, "").await?;
    Ok(wire::identity(key, &signed))
}

/// Until it succeeds.
async fn done(control: &Control, word: &str) -> Value {
    let start = Instant::now();
    loop {
        let (code, answer) = step(control, word).await;
        if code == 200 {
            return answer;
        }
        assert!(start.elapsed() < SOON, "never: {word}: {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await; // bounded wait: by SOON
    }
}

#[tokio::test]
async fn a_root_is_rotated_by_steps_that_wait_for_connected_sidecars_by_name() {
    let control = Control::start("").await;
    let old = control.joined("web").await;
    let (mut stream, told) = Stream::synced(control.address, &old, hello(vec![])).await;
    stream.ack(&told).await;

    let (code, refused) = step(&control, "switch").await;
    assert_eq!(code, 409, "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("prepare"), "{refused}");

    let prepared = step(&control, "next").await.1;
    assert_eq!((prepared["stage"].as_str(), prepared["done"].as_bool()), (Some("prepared"), Some(false)));
    // it was told, and has not acknowledged
    let told = stream.until_synced().await;
    let (code, waiting) = step(&control, "switch").await;
    assert_eq!(code, 409, "{waiting}");
    assert!(waiting["error"].as_str().unwrap().contains("spiffe://fusewire.local/web"), "{waiting}");
    let rehearsed = control.ask("POST", "/trust/rotate", json!({"dry_run": true})).await.1;
    assert!(rehearsed["waiting_for"].to_string().contains("spiffe://fusewire.local/web"), "{rehearsed}");
    assert_eq!(rehearsed["stage"], "prepared", "a rehearsal changes nothing");

    stream.ack(&told).await;
    let switched = done(&control, "switch").await;
    assert_eq!(switched["stage"], "switched");
    // what the old root signed still opens the door, and the next certificate is under the new one
    let new = renewed(&control, &old).await.unwrap();
    let trust = control.ask("GET", "/trust", Value::Null).await.1;
    assert_eq!(new.root_hash(), trust["roots"][0]["hash"].as_str().unwrap());
    assert_ne!(old.root_hash(), new.root_hash());

    let (code, early) = step(&control, "retire").await;
    assert_eq!(code, 409, "{early}");
    let waits = control.ask("POST", "/trust/rotate", json!({"step": "retire", "dry_run": true})).await.1;
    let waits = waits["waiting_for"].to_string();
    assert!(waits.contains("leaves under it may hold"), "{waits}");
    assert!(waits.contains("spiffe://fusewire.local/web (one) is still under another root"), "{waits}");

    let (code, forced) = control.ask("POST", "/trust/rotate", json!({"step": "retire", "force": true})).await;
    assert_eq!((code, forced["done"].as_bool()), (200, Some(true)), "{forced}");
    assert_eq!(new.bundle().certs().len(), 2);
    let after = renewed(&control, &new).await.unwrap();
    assert_eq!(after.bundle().certs().len(), 1);
}

#[tokio::test]
async fn an_interrupted_rotation_is_there_after_a_restart_and_can_be_aborted() {
    let control = Control::start("").await;
    let identity = control.joined("web").await;
    done(&control, "prepare").await;
    done(&control, "switch").await;
    let control = Control::start_in(control.kill().await, |_| {}).await.unwrap();
    let trust = control.ask("GET", "/trust", Value::Null).await.1;
    assert_eq!(trust["stage"], "switched");
    assert_ne!(trust["roots"][0]["hash"].as_str().unwrap(), identity.root_hash());
    assert_eq!(done(&control, "abort").await["stage"], "prepared");
    assert_eq!(done(&control, "abort").await["stage"], "stable");
    let trust = control.ask("GET", "/trust", Value::Null).await.1;
    assert_eq!(trust["roots"][0]["hash"].as_str().unwrap(), identity.root_hash());
}

#[tokio::test]
async fn a_denied_identity_is_cut_off_at_once_and_let_in_again() {
    let control = Control::start("").await;
    let (bad, good) = (control.joined("bad").await, control.joined("good").await);
    let (stream, _) = Stream::synced(control.address, &bad, hello(vec![])).await;
    let (mut other, _) = Stream::synced(control.address, &good, hello(vec![])).await;
    let token = control.token("bad", 1, 60).await;

    let (code, answer) = control.ask("POST", "/trust/deny", json!({"identity": "bad", "reason": "key leaked"})).await;
    assert_eq!(code, 200, "{answer}");
    let end = stream.end().await;
    assert_eq!(end.code(), Code::PermissionDenied, "{end}");
    assert!(end.message().contains("key leaked"), "{end}");
    let refused = renewed(&control, &bad).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let refused = join(control.address, &token).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    // the others are told
    let told = wire::resources(&other.until_synced().await);
    let trust = told.iter().find_map(|resource| match &resource.body {
        Some(fusewire_api::v1::resource::Body::Trust(trust)) => Some(trust.clone()),
        _ => None,
    });
    assert_eq!(trust.unwrap().denied, ["spiffe://fusewire.local/bad"]);

    // a restart forgets nothing
    let control = Control::start_in(control.kill().await, |_| {}).await.unwrap();
    assert_eq!(renewed(&control, &bad).await.unwrap_err().code(), Code::PermissionDenied);
    let (code, _) = control.ask("POST", "/trust/deny", json!({"identity": "bad", "lift": true})).await;
    assert_eq!(code, 200);
    renewed(&control, &bad).await.unwrap();
    join(control.address, &token).await.unwrap();
    let (code, _) = control.ask("POST", "/trust/deny", json!({"identity": "bad", "lift": true})).await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn the_control_plane_and_strangers_cannot_be_denied() {
    let control = Control::start("").await;
    for (asked, why) in [
        (json!({"identity": "fusewire/control", "reason": "x"}), "control plane's own"),
        (json!({"identity": "spiffe://other.example/x", "reason": "x"}), "not of trust domain"),
        (json!({"identity": "web"}), "say why"),
        (json!({"identity": "a b", "reason": "x"}), "SPIFFE ID"),
    ] {
        let (code, answer) = control.ask("POST", "/trust/deny", asked.clone()).await;
        assert_eq!(code, 400, "{asked}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(why), "{asked}: {answer}");
    }
}

#[tokio::test]
async fn a_token_of_many_uses_is_spent_exactly_that_often_by_joiners_at_once() {
    let control = Control::start("").await;
    let token = control.token("web", 5, 60).await;
    let joins = (0..12).map(|_| join(control.address, &token));
    let joined = futures_util::future::join_all(joins).await;
    assert_eq!(joined.iter().filter(|joined| joined.is_ok()).count(), 5);
    let listed = control.ask("GET", "/tokens", Value::Null).await.1;
    assert_eq!((listed[0]["state"].as_str(), listed[0]["uses_left"].as_u64()), (Some("spent"), Some(0)));
    let trust = control.ask("GET", "/trust", Value::Null).await.1;
    assert_eq!(listed[0]["root_hash"], trust["roots"][0]["hash"]);
}

#[tokio::test]
async fn the_authority_and_tokens_of_an_earlier_release_are_taken_over_once() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("mesh")).unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let older = Older::write(&data);
    let control = Control::start_in(dir, |_| {}).await.unwrap();
    assert_eq!(control.status().await["root_hash"].as_str().unwrap(), older.root);
    for name in ["ca.key", "ca.pem", "tokens.json"] {
        assert!(!data.join(name).exists(), "{name}");
        let mode = std::fs::metadata(data.join(format!("{name}.imported"))).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
    assert_eq!(std::fs::metadata(data.join("store.redb")).unwrap().permissions().mode() & 0o077, 0);
    let listed = control.ask("GET", "/tokens", Value::Null).await.1;
    assert_eq!(
        (listed[0]["uses_left"].as_u64(), listed[0]["root_hash"].as_str()),
        (Some(2), Some(older.root.as_str()))
    );
    join(control.address, &older.token).await.unwrap();
    let control = Control::start_in(control.kill().await, |_| {}).await.unwrap();
    let listed = control.ask("GET", "/tokens", Value::Null).await.1;
    assert_eq!(listed[0]["uses_left"], 1, "what was spent stays spent");
}

struct Older {
    root: String,
    token: String,
}

impl Older {
    fn write(data: &std::path::Path) -> Self {
        use fusewire_identity::{TrustDomain, TrustState, UnixTime, mint};
        let state = TrustState::create(&TrustDomain::parse("fusewire.local").unwrap(), UnixTime::now()).unwrap();
        let json: Value = serde_json::from_str(&state.to_json().unwrap()).unwrap();
        let id = fusewire_identity::SpiffeId::parse("spiffe://fusewire.local/web").unwrap();
        let (token, record) = mint(state.root_hash(), &id, 2, Duration::from_secs(60), UnixTime::now()).unwrap();
        let mut record = serde_json::to_value(record).unwrap();
        record.as_object_mut().unwrap().remove("root");
        for (name, text) in [
            ("ca.key", json["signer"]["key"].as_str().unwrap().to_owned()),
            ("ca.pem", json["signer"]["certificate"].as_str().unwrap().to_owned()),
            ("tokens.json", json!({ "tokens": [record] }).to_string()),
        ] {
            std::fs::write(data.join(name), text).unwrap();
            std::fs::set_permissions(data.join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        Self { root: state.root_hash().to_owned(), token: token.to_string() }
    }
}

#[tokio::test]
async fn a_store_of_another_trust_domain_is_not_opened() {
    let control = Control::start("trust_domain: a.example").await;
    let dir = control.stop().await;
    let mesh = dir.path().join("mesh/mesh.yaml");
    std::fs::remove_file(dir.path().join("data/last-good.json")).unwrap();
    crate::harness::write(&mesh, "trust_domain: b.example");
    let refused = Control::start_in(dir, |_| {}).await.err().unwrap().to_string();
    assert!(refused.contains("a.example") && refused.contains("b.example"), "{refused}");
}
