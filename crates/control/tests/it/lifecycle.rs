use crate::harness::{Control, soon};
use crate::wire::{Stream, hello, join};
use fusewire_control::ControlError;
use tonic::Code;

#[tokio::test]
async fn authority_and_tokens_survive_a_kill() {
    let control = Control::start("").await;
    let identity = control.joined("web").await;
    let token = control.token("db", 1, 60).await;
    let spent = control.token("cache", 1, 60).await;
    join(control.address, &spent).await.unwrap();
    let root = control.status().await["root_hash"].clone();

    let dir = control.kill().await;
    let control = Control::start_in(dir, |_| {}).await.unwrap();
    assert_eq!(control.status().await["root_hash"], root);
    Stream::synced(control.address, &identity, hello(vec![])).await;
    join(control.address, &token).await.unwrap();
    let refused = join(control.address, &spent).await.unwrap_err();
    assert!(refused.message().starts_with("token-spent: "), "{refused}");
}

#[tokio::test]
async fn streams_are_told_when_the_control_plane_stops() {
    let control = Control::start("").await;
    let identity = control.joined("web").await;
    let (stream, _) = Stream::synced(control.address, &identity, hello(vec![])).await;
    let address = control.address;
    let (_dir, status) = tokio::join!(control.stop(), stream.end());
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("stopping"), "{status}");
    assert!(soon("a refusal", tokio::net::TcpStream::connect(address)).await.is_err());
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let control = Control::start("").await;
    let taken = control.address;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("mesh")).unwrap();
    let refused = Control::start_in(dir, |s| s.listen = taken).await.err().unwrap();
    assert!(matches!(refused, ControlError::Listen { .. }), "{refused}");
    assert!(refused.to_string().contains(&taken.to_string()), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_runs_on_several_threads_as_well() {
    let control = Control::start("").await;
    let identity = control.joined("web").await;
    Stream::synced(control.address, &identity, hello(vec![])).await;
    control.stop().await;
}
