use crate::harness::{Control, settings};
use crate::wire::join;
use fusewire_control::ControlError;
use fusewire_telemetry::admin::BindError;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn tokens_are_made_listed_without_secret_and_revoked() {
    let control = Control::start("").await;
    let asked = json!({"workload": "shop/web", "uses": 3, "ttl_seconds": 60});
    let (code, made) = control.ask("POST", "/tokens", asked).await;
    assert_eq!((code, made["workload"].as_str()), (201, Some("spiffe://fusewire.local/shop/web")));
    let token = made["token"].as_str().unwrap().to_owned();
    join(control.address, &token).await.unwrap();

    let (_, listed) = control.ask("GET", "/tokens", Value::Null).await;
    assert_eq!(listed[0]["uses_left"], 2);
    assert_eq!(listed[0]["id"], made["id"]);
    let secret = token.rsplit('.').next().unwrap();
    assert!(!listed.to_string().contains(secret));

    let path = format!("/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(control.ask("DELETE", &path, Value::Null).await.0, 200);
    assert_eq!(control.ask("DELETE", &path, Value::Null).await.0, 404);
    let refused = join(control.address, &token).await.unwrap_err();
    assert!(refused.message().starts_with("token-unknown: "), "{refused}");
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_with_a_reason() {
    let control = Control::start("").await;
    for (asked, why) in [
        (json!({"workload": "a b"}), "SPIFFE ID"),
        (json!({"workload": "web", "uses": 0}), "at least one use"),
        (json!({"workload": "web", "ttl_seconds": 0}), "ttl_seconds must be"),
        (json!({"workload": "web", "use": 1}), "unknown field"),
        (json!({"workload": "fusewire/control"}), "not given away"),
        (json!({"workload": "spiffe://other.example/web"}), "not of trust domain fusewire.local"),
        (json!({}), "missing field"),
    ] {
        let (code, answer) = control.ask("POST", "/tokens", asked.clone()).await;
        assert_eq!(code, 400, "{asked}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(why), "{asked}: {answer}");
    }
    assert_eq!(control.ask("GET", "/nothing", Value::Null).await.0, 404);
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_goes_with_the_control_plane() {
    let control = Control::start("").await;
    let mode = std::fs::metadata(control.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let socket = control.socket();
    let _dir = control.stop().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_second_control_plane_on_the_same_data_is_refused() {
    let control = Control::start("").await;
    let second = settings(&control.dir);
    let refused = Box::pin(fusewire_control::run(second, std::future::pending())).await.unwrap_err();
    assert!(matches!(refused, ControlError::AdminSocket(BindError::Busy { .. })), "{refused}");
    assert_eq!(control.ask("GET", "/live", Value::Null).await.0, 200, "the first one goes on");
}

#[tokio::test]
async fn the_socket_of_a_killed_control_plane_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("mesh")).unwrap();
    std::fs::create_dir_all(dir.path().join("data")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("data/control.sock")).unwrap());
    let control = Control::start_in(dir, |_| {}).await.unwrap();
    assert_eq!(control.ask("GET", "/live", Value::Null).await.0, 200);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("mesh")).unwrap();
    let precious = dir.path().join("precious");
    std::fs::write(&precious, "data").unwrap();
    let path = precious.clone();
    let refused = Control::start_in(dir, |s| s.admin_socket = Some(path)).await.err().unwrap();
    assert!(matches!(refused, ControlError::AdminSocket(BindError::NotASocket { .. })), "{refused}");
    // the folder has gone with the test's control plane; that it was refused is what counts
}
