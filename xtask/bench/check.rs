//! Whether a path is worth measuring: it answers with the right body, and a pair takes nothing in clear.

use crate::backend::BODY;
use crate::contender::{ProxyPath, SERVICE};
use crate::scenario::Shape;
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;

const READY_WITHIN: Duration = Duration::from_secs(15);
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Waits until the path works, or says why it does not.
pub(crate) fn answers(path: &ProxyPath, shape: &Shape) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    if let Err(error) = runtime.block_on(until_it_answers(path, shape)) {
        bail!("{error:#}; its last words:{}", last_words(path));
    }
    match path.between {
        Some(between) => runtime.block_on(refuses_clear_text(between)),
        None => Ok(()),
    }
}

async fn until_it_answers(path: &ProxyPath, shape: &Shape) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        for process in &path.processes {
            if let Some(status) = process.ended()? {
                bail!("a proxy ended: {status}");
            }
        }
        let error = match timeout(ANSWER_WITHIN, ask(path.entry, shape)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => anyhow::anyhow!("no answer within {ANSWER_WITHIN:?}"),
        };
        if Instant::now() > deadline {
            return Err(error.context(format!("the path did not answer rightly within {READY_WITHIN:?}")));
        }
        // bounded wait: for the proxies to listen
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ask(entry: SocketAddr, shape: &Shape) -> Result<()> {
    let stream = TokioIo::new(TcpStream::connect(entry).await.context("nobody listens")?);
    let request = Request::builder();
    let response = if shape.http2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        let uri: Uri = format!("http://{SERVICE}/").parse().context("not a URI")?;
        sender.send_request(request.uri(uri).body(Empty::<Bytes>::new())?).await?
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        tokio::spawn(connection);
        sender.send_request(request.uri("/").header("host", SERVICE).body(Empty::<Bytes>::new())?).await?
    };
    let (head, body) = response.into_parts();
    let body = body.collect().await.context("the body ended early")?.to_bytes();
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    ensure!(head.status == StatusCode::OK, "answered {} with {:?}: {text}", head.status, head.headers);
    ensure!(body == BODY[..], "answered with another body of {} bytes: {text}", body.len());
    Ok(())
}

/// The second of a pair must not serve whoever brings no certificate.
async fn refuses_clear_text(between: SocketAddr) -> Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = TcpStream::connect(between).await.context("the second proxy does not listen")?;
    let request = format!("GET / HTTP/1.1\r\nhost: {SERVICE}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.context("the second proxy hung up at once")?;
    let mut answer = Vec::new();
    // However it refuses, by an alert, a reset or silence, is its own affair.
    let _ = timeout(ANSWER_WITHIN, stream.read_to_end(&mut answer)).await;
    ensure!(!answer.starts_with(b"HTTP/1.1 200"), "the second proxy served a request without TLS");
    Ok(())
}

fn last_words(path: &ProxyPath) -> String {
    let mut words = String::new();
    for log in &path.logs {
        let text = fs::read_to_string(log).unwrap_or_default();
        for line in text.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev() {
            words.push_str(&format!("\n  {line}"));
        }
    }
    if words.is_empty() { String::from(" none") } else { words }
}
