//! Questions to a control plane or sidecar on this machine, over its Unix socket.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(5);
const MAX_ANSWER: usize = 64 << 20;
const MAX_LINE: usize = 1 << 20;

/// One request; the answer must be JSON, or a refusal in words.
pub(crate) async fn ask(socket: &Path, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    let asked = async {
        let mut sender = connected(socket).await?;
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
            return Err(refusal(&body));
        }
        Ok(serde_json::from_slice(&body)?)
    };
    tokio::time::timeout(ANSWER, asked)
        .await
        .with_context(|| format!("{}: no answer within {ANSWER:?}", socket.display()))?
}

/// What comes line by line, for as long as it comes.
pub(crate) fn follow(socket: &Path, path: &str, mut line: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let followed = async {
        let mut body = tokio::time::timeout(ANSWER, open(socket, path))
            .await
            .with_context(|| format!("{}: no answer within {ANSWER:?}", socket.display()))??;
        let mut held = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            for byte in data {
                match byte {
                    b'\n' => line(&String::from_utf8_lossy(&std::mem::take(&mut held)))?,
                    byte if held.len() < MAX_LINE => held.push(byte),
                    _ => bail!("{}: a line is over {MAX_LINE} bytes", socket.display()),
                }
            }
        }
        Ok(())
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(followed)
}

async fn open(socket: &Path, path: &str) -> Result<hyper::body::Incoming> {
    let mut sender = connected(socket).await?;
    let request = Request::get(path).header("host", "fusewire").body(Full::default())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body();
    if !status.is_success() {
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(anyhow::Error::from_boxed)?;
        return Err(refusal(&body.to_bytes()));
    }
    Ok(body)
}

async fn connected(socket: &Path) -> Result<SendRequest<Full<Bytes>>> {
    let stream = tokio::net::UnixStream::connect(socket)
        .await
        .with_context(|| format!("{}: nobody answers there; is it running, and may this user?", socket.display()))?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// What was said no with: JSON with `error`, and perhaps a `remedy` beside it, or words.
fn refusal(body: &Bytes) -> anyhow::Error {
    let said = serde_json::from_slice::<Value>(body).unwrap_or_default();
    match (said["error"].as_str(), said["remedy"].as_str()) {
        (Some(error), Some(remedy)) => anyhow::anyhow!("{error} ({remedy})"),
        (Some(error), None) => anyhow::anyhow!("{error}"),
        _ => anyhow::anyhow!("{}", String::from_utf8_lossy(body).trim()),
    }
}

/// As [`ask`], for a command that asks once.
pub(crate) fn ask_now(socket: &Path, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(socket, method, path, body))
}
