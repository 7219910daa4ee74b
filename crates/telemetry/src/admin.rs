//! The admin endpoints' server: small HTTP/1.1 answers over TCP or a Unix socket.
//!
//! It decides how a socket is bound and a request bounded. It deliberately does not decide what is served: the owner
//! passes one function. What changes or reveals more than health belongs on the Unix socket, whose file mode (0600)
//! says who may speak to it.

mod reply;

use crate::exposition::Format;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::WeakSender;

pub use reply::{ReaderGone, Reply, Writer, stream};

const MAX_BODY: usize = 64 << 10;
const MAX_CONNECTIONS: usize = 64;
const HEADERS: Duration = Duration::from_secs(5);
const BODY: Duration = Duration::from_secs(5);
/// After this a connection takes no further request, and soon after it is cut: a place cannot be held by one that neither
/// asks nor reads. A stream goes on for as long as it is written to and read.
const LIFE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(10);

/// A request with its body in memory.
#[derive(Debug)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    /// Without the question mark; empty where there is none.
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whose process asks, as the kernel knows it; `None` over TCP.
    pub uid: Option<u32>,
}

pub type Answer = Response<Reply>;

pub fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Reply::Whole(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// `/metrics`, in the form that was asked for.
pub fn metrics(asked: &Asked, openmetrics: String) -> Answer {
    let format = Format::accepted(&asked.headers);
    text(StatusCode::OK, format.content_type(), format.write(openmetrics))
}

pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec_pretty(value) {
        Ok(mut body) => {
            body.push(b'\n');
            text(status, "application/json", body)
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", e.to_string()),
    }
}

pub fn not_found(known: &str) -> Answer {
    text(StatusCode::NOT_FOUND, "text/plain", format!("no such page; there are {known}\n"))
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{path}: another process serves this socket: stop it first, or choose another path")]
    Busy { path: PathBuf },
    #[error("{path}: a file that is not a socket is there: remove it, or choose another path")]
    NotASocket { path: PathBuf },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// A listening Unix socket that only its owner may use.
///
/// What a killed process left behind is replaced; a socket that somebody answers on is not. At the path there is never a
/// socket that others may use: it is made beside, given its mode, and renamed.
///
/// # Drop behavior
/// The file is removed, unless another process has put its own there since.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { path: path.into(), source };
        match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
            Ok(known) if !known.file_type().is_socket() => return Err(BindError::NotASocket { path: path.into() }),
            Ok(_) if UnixStream::connect(path).await.is_ok() => return Err(BindError::Busy { path: path.into() }),
            Ok(_) => tracing::info!(path = %path.display(), "replacing the socket of a process that was killed"),
        }
        Self::replace(path).map_err(failed)
    }

    /// The same where somebody may still answer there, who is about to go: the file is this process's from here on.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn replacing(path: &Path) -> Result<Self, BindError> {
        Self::replace(path).map_err(|source| BindError::Io { path: path.into(), source })
    }

    fn replace(path: &Path) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        match std::fs::remove_file(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, path)?;
        Ok(Self { listener, path: path.to_owned(), inode: inode(path)? })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection, for a server of its own kind.
    ///
    /// # Errors
    /// As `accept(2)`: mostly too many open files, which passes.
    ///
    /// # Cancel safety
    /// A dropped future has accepted nothing.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    std::fs::symlink_metadata(path).map(|known| known.ino())
}

impl Drop for Socket {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|there| there == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What connections are accepted from.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(Socket),
}

/// Serves until it is dropped; at most 64 at once, bodies up to 64 KiB.
pub async fn serve<F, R>(listener: Listener, answer: F)
where
    F: Fn(Asked) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let answer = answer.clone();
        let accepted = match &listener {
            Listener::Tcp(l) => l.accept().await.map(|(s, _)| tokio::spawn(one(s, None, answer, place))),
            Listener::Unix(l) => l.listener.accept().await.map(|(s, _)| {
                let uid = s.peer_cred().ok().map(|peer| peer.uid());
                tokio::spawn(one(s, uid, answer, place))
            }),
        };
        if let Err(e) = accepted {
            tracing::warn!("an admin connection could not be accepted: {e}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn one<S, F, R>(stream: S, uid: Option<u32>, answer: F, _place: tokio::sync::OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Asked) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    // the answer that this connection ends with, if that is a stream
    let streaming: Arc<OnceLock<WeakSender<Bytes>>> = Arc::default();
    let streams = streaming.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (answer, streams) = (answer.clone(), streams.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = match tokio::time::timeout(BODY, Limited::new(body, MAX_BODY).collect()).await {
                Ok(Ok(body)) => body,
                Ok(Err(_)) => {
                    return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, "text/plain", "the body is over 64 KiB\n"));
                }
                Err(_) => return Ok(text(StatusCode::REQUEST_TIMEOUT, "text/plain", "the body did not come\n")),
            };
            let asked = Asked {
                method: head.method,
                path: head.uri.path().to_owned(),
                query: head.uri.query().unwrap_or("").to_owned(),
                headers: head.headers,
                body: body.to_bytes(),
                uid,
            };
            let answer = answer(asked).await;
            if let Some(writer) = answer.body().writer() {
                let _ = streams.set(writer);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    while tokio::time::timeout(LIFE, connection.as_mut()).await.is_err() {
        if streaming.get().is_some_and(|writer| writer.strong_count() > 0) {
            continue;
        }
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(GRACE, connection).await;
        return;
    }
}
