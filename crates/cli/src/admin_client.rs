//! Questions to a control plane or sidecar on this machine, over its Unix socket.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(5);
const MAX_ANSWER: usize = 64 << 20;

/// One request; the answer must be JSON, or a refusal in words.
pub(crate) async fn ask(socket: &Path, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    let asked = async {
        let stream = tokio::net::UnixStream::connect(socket).await.with_context(|| {
            format!("{}: nobody answers there; is it running, and may this user?", socket.display())
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "fusewire")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(anyhow::Error::from_boxed)?;
        let body = body.to_bytes();
        if !status.is_success() {
            let said = serde_json::from_slice::<Value>(&body).ok().and_then(|v| v["error"].as_str().map(str::to_owned));
            bail!("{}", said.unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned()));
        }
        Ok(serde_json::from_slice(&body)?)
    };
    tokio::time::timeout(ANSWER, asked)
        .await
        .with_context(|| format!("{}: no answer within {ANSWER:?}", socket.display()))?
}

/// The same, for up to three seconds while nobody answers there: right after `fusewire control &` it is just starting.
pub(crate) fn ask_patiently(socket: &Path, method: &Method, path: &str, body: Option<&Value>) -> Result<Value> {
    let until = std::time::Instant::now() + Duration::from_secs(3);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        while tokio::net::UnixStream::connect(socket).await.is_err() && std::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ask(socket, method.clone(), path, body).await
    })
}

/// The same, for a command that asks once.
pub(crate) fn ask_now(socket: &Path, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(socket, method, path, body))
}
