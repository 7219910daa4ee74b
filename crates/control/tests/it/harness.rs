//! Starts a control plane with a folder of its own, speaks to its admin socket, and waits for conditions.

use fusewire_control::{ControlError, Settings, run};
use fusewire_identity::Identity;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// For what must happen soon; generous, because two cores may be shared by many tests.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Control {
    pub(crate) dir: TempDir,
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ControlError>>,
}

pub(crate) fn settings(dir: &TempDir) -> Settings {
    Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        ..Settings::new(vec![dir.path().join("mesh")], dir.path().join("data"))
    }
}

impl Control {
    pub(crate) async fn start(yaml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mesh")).unwrap();
        write(&dir.path().join("mesh/mesh.yaml"), yaml);
        Self::start_in(dir, |_| {}).await.unwrap()
    }

    pub(crate) async fn start_in(dir: TempDir, change: impl FnOnce(&mut Settings)) -> Result<Self, ControlError> {
        let mut settings = settings(&dir);
        change(&mut settings);
        let (bound, told) = oneshot::channel();
        settings.bound = Some(bound);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(run(settings, async move {
            let _ = stopped.await;
        }));
        match told.await {
            Ok(address) => Ok(Self { dir, address, stop: Some(stop), task }),
            Err(_) => Err(task.await.unwrap().expect_err("ended without an error before it listened")),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("data/control.sock")
    }

    /// As an editor does: a new file, renamed over the old.
    pub(crate) fn write(&self, yaml: &str) {
        write(&self.dir.path().join("mesh/mesh.yaml"), yaml);
    }

    pub(crate) async fn stop(mut self) -> TempDir {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(SOON, &mut self.task).await.unwrap().unwrap().unwrap();
        self.dir
    }

    /// Without goodbye, as far as that can be done within one process.
    pub(crate) async fn kill(self) -> TempDir {
        self.task.abort();
        let _ = self.task.await;
        self.dir
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "control")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap())
    }

    pub(crate) async fn status(&self) -> Value {
        self.ask("GET", "/status", Value::Null).await.1
    }

    /// The first status that `holds`.
    pub(crate) async fn status_when(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let status = self.status().await;
            if holds(&status) {
                return status;
            }
            assert!(start.elapsed() < SOON, "never: {what}; last: {status:#}");
            tokio::time::sleep(Duration::from_millis(10)).await; // bounded wait: by SOON
        }
    }

    pub(crate) async fn token(&self, workload: &str, uses: u32, ttl_seconds: u64) -> String {
        let asked = json!({"workload": workload, "uses": uses, "ttl_seconds": ttl_seconds});
        let (code, made) = self.ask("POST", "/tokens", asked).await;
        assert_eq!(code, 201, "{made}");
        made["token"].as_str().unwrap().to_owned()
    }

    /// A workload that has joined.
    pub(crate) async fn joined(&self, workload: &str) -> Identity {
        let token = self.token(workload, 1, 60).await;
        crate::wire::join(self.address, &token).await.unwrap()
    }
}

pub(crate) fn write(path: &std::path::Path, text: &str) {
    let new = path.with_extension("tmp");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("never: {what}"))
}
