//! The Admin service as a program sees it: over mTLS, and over the Unix socket beside plain HTTP.

use crate::harness::Control;
use crate::wire::channel;
use fusewire_api::v1;
use fusewire_api::v1::admin_client::AdminClient;
use fusewire_identity::{ALPN_CONTROL, client_config};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use prost::Message;
use serde_json::Value;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

type Admin = AdminClient<Channel>;

const FILE: &str = "services:\n  bank:\n";

async fn over_socket(control: &Control) -> Admin {
    let path = control.socket();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    AdminClient::new(Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap())
}

async fn over_mtls(control: &Control, workload: &str) -> Admin {
    let identity = control.joined(workload).await;
    let tls = client_config(&identity, &[ALPN_CONTROL]).unwrap();
    AdminClient::new(channel(control.address, tls).await.unwrap())
}

fn request(text: &str) -> v1::ApplyRequest {
    let sources = vec![v1::SourceText { name: "new.yaml".into(), text: text.into() }];
    v1::ApplyRequest { sources, ..v1::ApplyRequest::default() }
}

#[tokio::test]
async fn the_socket_speaks_grpc_and_http_side_by_side() {
    let control = Control::start(FILE).await;
    let mut admin = over_socket(&control).await;
    let answer = admin.apply(request("services: {shop: }")).await.unwrap().into_inner();
    let status = control.status().await;
    // the answer came once it was in force
    assert_eq!((answer.revision, status["configuration"]["revision"].as_u64()), (1, Some(1)));
    assert_eq!(status["configuration"]["version"], answer.version.as_str());
    assert_eq!(control.ask("GET", "/live", Value::Null).await.0, 200);
    let history = admin.history(v1::HistoryRequest::default()).await.unwrap().into_inner().revisions;
    assert!(history[0].author.starts_with("local"), "{history:?}");
}

#[tokio::test]
async fn each_call_needs_its_role() {
    let control = Control::start(FILE).await;
    let mut viewer = over_mtls(&control, "fusewire/viewer/eve").await;
    let mut operator = over_mtls(&control, "fusewire/operator/ada").await;
    let mut workload = over_mtls(&control, "fusewire/operators/ada").await;
    assert_eq!(workload.get(v1::GetRequest::default()).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(viewer.get(v1::GetRequest::default()).await.unwrap().into_inner().objects.len(), 1);
    let refused = viewer.apply(request("services: {shop: }")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("role operator"), "{refused}");
    operator.apply(request("services: {shop: }")).await.unwrap();
    let refused = operator.create_token(v1::CreateTokenRequest::default()).await.unwrap_err();
    assert!(refused.code() == Code::PermissionDenied && refused.message().contains("role admin"), "{refused}");
}

#[tokio::test]
async fn faults_are_in_the_details_as_many_as_the_caller_takes() {
    let control = Control::start(FILE).await;
    let mut admin = over_socket(&control).await;
    let many: String = (0..150).map(|n| format!("  r{n}: {{to: nowhere}}\n")).collect();
    let text = format!("routes:\n{many}");
    let faults = |status: &tonic::Status| v1::Faults::decode(status.details()).unwrap().faults;

    let refused = admin.apply(request(&text)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("150 faults"), "{}", refused.message());
    assert!(refused.details().len() + refused.message().len() < 6 << 10);
    let told = faults(&refused);
    let more = 150 - (told.len() - 1);
    assert_eq!(told.last().unwrap().message, format!("and {more} more faults"));
    assert_eq!((told[0].file.as_str(), told[0].line, told[0].path.as_str()), ("new.yaml", 2, "routes.r0.to"));

    let mut asking = Request::new(request(&text));
    asking.metadata_mut().insert("fusewire-details-bytes", "8000".parse().unwrap());
    let refused = admin.apply(asking).await.unwrap_err();
    assert!(faults(&refused).len() > told.len(), "{refused}");
}

#[tokio::test]
async fn what_a_file_defines_is_shown_with_its_owner_and_shadows() {
    let control = Control::start(FILE).await;
    let mut admin = over_socket(&control).await;
    admin.apply(request("services: {shop: }")).await.unwrap();
    control.write("services:\n  bank:\n  shop: {protocol: http2}\n");
    let status = control.status_when("shadowed", |s| !s["configuration"]["shadowed"]["service/shop"].is_null()).await;
    assert!(
        status["configuration"]["shadowed"]["service/shop"].as_str().unwrap().ends_with("mesh.yaml:3"),
        "{status:#}"
    );
    let objects = admin.get(v1::GetRequest::default()).await.unwrap().into_inner().objects;
    let [bank, shop] = &objects[..] else { panic!("{objects:?}") };
    assert!(bank.owner.ends_with("mesh.yaml:2") && bank.revision == 0 && bank.shadowed_by.is_empty(), "{bank:?}");
    assert!(shop.owner == "api" && shop.revision == 1 && shop.shadowed_by.ends_with("mesh.yaml:3"), "{shop:?}");
    // a file that goes takes nothing with it but its word
    let refused = admin.apply(request("services: {shop: }")).await.unwrap_err();
    assert!(refused.message().contains("mesh.yaml:3"), "{refused}");
    control.write(FILE);
    control.status_when("in force again", |s| s["configuration"]["shadowed"]["service/shop"].is_null()).await;
}

#[tokio::test]
async fn files_that_applied_objects_do_not_fit_are_a_fault_and_the_good_ones_stay() {
    let control = Control::start(FILE).await;
    let mut admin = over_socket(&control).await;
    let before = admin.apply(request("routes: {web: {to: bank}}")).await.unwrap().into_inner().version;
    control.write("services:\n  bonk:\n");
    let status = control.status_when("a fault", |s| s["configuration"]["valid"] == false).await;
    assert_eq!(status["configuration"]["faults"][0]["file"], "api:route/web", "{status:#}");
    assert_eq!(status["configuration"]["version"], before.as_str());
    // applied over the good files, while the bad ones are still there
    let after = admin.apply(request("services: {shop: }")).await.unwrap().into_inner();
    let status = control.status().await;
    assert_eq!(status["configuration"]["version"], after.version.as_str());
    assert_eq!(status["configuration"]["valid"], false);
    // what stood in the way goes, and the files are in force
    let names = vec![v1::ObjectName { kind: "route".into(), name: "web".into() }];
    admin.delete(v1::DeleteRequest { objects: names, ..v1::DeleteRequest::default() }).await.unwrap();
    let status = control.status_when("valid", |s| s["configuration"]["valid"] == true).await;
    assert_ne!(status["configuration"]["version"], after.version.as_str());
}

#[tokio::test]
async fn what_was_applied_is_in_force_after_a_restart() {
    let control = Control::start(FILE).await;
    let applied = over_socket(&control).await.apply(request("routes: {web: {to: bank}}")).await.unwrap().into_inner();
    let dir = control.kill().await;
    let control = Control::start_in(dir, |_| {}).await.unwrap();
    let status = control.status().await;
    assert_eq!(status["configuration"]["version"], applied.version.as_str());
    assert_eq!(status["configuration"]["revision"], 1);
}

#[test]
fn no_bytes_of_a_message_or_a_file_end_the_control_plane() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (control, admin) = runtime.block_on(async {
        let control = Control::start(FILE).await;
        let admin = over_socket(&control).await;
        (control, admin)
    });
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    let kind = prop::sample::select(vec!["service", "route", "policy", "override", "", "sidecar", "é"]);
    let strategy = (any::<Vec<u8>>(), any::<String>(), kind, any::<u64>(), any::<bool>());
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let tested = runner.run(&strategy, |(bytes, text, kind, number, flag)| {
        let mut admin = admin.clone();
        let object = v1::ObjectName { kind: kind.into(), name: text.clone() };
        runtime.block_on(async {
            // what no client sends is nearer to what one does when it was a message once
            let apply = v1::ApplyRequest::decode(&bytes[..]).unwrap_or_else(|_| {
                let text = if flag { format!("services:\n  {text}") } else { text.clone() };
                v1::ApplyRequest { dry_run: true, if_revision: flag.then_some(number), ..request(&text) }
            });
            let answers = [
                admin.apply(apply).await.err(),
                admin.get(v1::GetRequest { objects: vec![object.clone()] }).await.err(),
                admin
                    .delete(v1::DeleteRequest { objects: vec![object], message: text, ..Default::default() })
                    .await
                    .err(),
                admin.rollback(v1::RollbackRequest { revision: number, ..Default::default() }).await.err(),
                admin.history(v1::HistoryRequest { limit: 1, revision: flag.then_some(number) }).await.err(),
            ];
            for status in answers.into_iter().flatten() {
                let ours = [Code::Internal, Code::Unknown, Code::Unavailable];
                prop_assert!(!ours.contains(&status.code()), "{}", status);
            }
            Ok(())
        })
    });
    tested.unwrap();
    runtime.block_on(async {
        assert_eq!(control.ask("GET", "/live", Value::Null).await.0, 200);
        control.stop().await;
    });
}
