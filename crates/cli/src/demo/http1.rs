//! HTTP/1.1 to one address over kept connections, for the demo's client and applications.
//!
//! It sends a request again only if hyper gave it back unwritten, because a kept connection had closed meanwhile; it
//! deliberately never retries anything that may have been received.

use anyhow::{Result, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::net::TcpStream;

const MAX_KEPT: usize = 64;
const MAX_ANSWER: usize = 1 << 20;
/// Kept connections that may turn out to be closed, before something else must be wrong.
const MAX_STALE: usize = MAX_KEPT + 1;

pub(crate) struct Client {
    address: SocketAddr,
    host: HeaderValue,
    kept: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, host: &str) -> Result<Self> {
        Ok(Self { address, host: HeaderValue::from_str(host)?, kept: Mutex::default() })
    }

    /// The whole answer. The caller limits the time.
    pub(crate) async fn send(&self, method: Method, path: &str, body: &'static str) -> Result<(StatusCode, Bytes)> {
        self.send_with(&HeaderMap::new(), method, path, body).await
    }

    /// The same, with fields beside `Host`.
    pub(crate) async fn send_with(
        &self,
        fields: &HeaderMap,
        method: Method,
        path: &str,
        body: &'static str,
    ) -> Result<(StatusCode, Bytes)> {
        for _ in 0..MAX_STALE {
            let mut sender = self.connection().await?;
            let mut request =
                Request::builder().method(&method).uri(path).body(Full::new(Bytes::from_static(body.as_bytes())))?;
            request.headers_mut().clone_from(fields);
            request.headers_mut().insert(http::header::HOST, self.host.clone());
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let status = response.status();
                    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
                    let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
                    self.keep(sender);
                    return Ok((status, body));
                }
                Err(mut e) => {
                    if e.take_message().is_none() {
                        return Err(e.into_error().into());
                    }
                }
            }
        }
        bail!("{}: every connection closes at once", self.address)
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>> {
        while let Some(mut sender) = self.take() {
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_KEPT {
            kept.push(sender);
        }
    }
}
