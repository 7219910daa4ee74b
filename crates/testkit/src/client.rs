//! A small HTTP client, and a scripted application, over hyper.

use crate::process::loopback;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;

/// An answer in memory.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// GET over a new HTTP/1.1 connection to 127.0.0.1:`port`, with `host`; at most 30 s.
pub fn get(port: u16, host: &str, path: &str) -> std::io::Result<Answer> {
    send(port, Request::get(path).header("host", host).body(Full::default()).unwrap())
}

/// Any request over a new HTTP/1.1 connection, answered within 30 s.
pub fn send(port: u16, request: Request<Full<Bytes>>) -> std::io::Result<Answer> {
    send_within(Duration::from_secs(30), port, request)
}

/// The same, with another bound.
pub fn send_within(patience: Duration, port: u16, request: Request<Full<Bytes>>) -> std::io::Result<Answer> {
    runtime().block_on(async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let sent = one(stream, request);
        tokio::time::timeout(patience, sent).await.map_err(std::io::Error::other)?
    })
}

async fn one<S>(stream: S, request: Request<Full<Bytes>>) -> std::io::Result<Answer>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let other = std::io::Error::other::<hyper::Error>;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(other)?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.map_err(other)?.into_parts();
    let body = body.collect().await.map_err(other)?.to_bytes();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}

/// GET over a Unix socket, as JSON; null where it does not answer.
pub fn get_unix(socket: &Path, path: &str) -> Value {
    let request = Request::get(path).header("host", "admin").body(Full::default()).unwrap();
    let answered = runtime().block_on(async { one(tokio::net::UnixStream::connect(socket).await?, request).await });
    answered.ok().and_then(|a| serde_json::from_slice(&a.body).ok()).unwrap_or(Value::Null)
}

/// How long an application that leaves in peace still answers on the connections that it has.
const LAME: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Crash,
    Lame,
    Hasty,
}

/// An application on a thread of its own, HTTP/1.1 and h2c, that answers by `answer`. Dropped, it is gone at once, as in a
/// crash; [`App::leave`] is the other way.
#[derive(Debug)]
pub struct App {
    pub port: u16,
    stop: Option<tokio::sync::oneshot::Sender<Stop>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl App {
    /// On `port`, or any where it is 0.
    pub fn start<F>(port: u16, answer: F) -> Self
    where
        F: Fn(Request<Bytes>) -> Response<Full<Bytes>> + Send + Sync + 'static,
    {
        Self::start_async(port, move |request| std::future::ready(answer(request)))
    }
    /// The same, for answers that take their time.
    pub fn start_async<F, R>(port: u16, answer: F) -> Self
    where
        F: Fn(Request<Bytes>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Full<Bytes>>> + Send,
    {
        Self::start_at(loopback(port), answer)
    }
    /// The same, on any address of this machine, such as 127.0.0.2.
    pub fn start_at<F, R>(address: SocketAddr, answer: F) -> Self
    where
        F: Fn(Request<Bytes>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Full<Bytes>>> + Send,
    {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let rt = runtime();
            rt.block_on(async move {
                let listener = tokio::net::TcpListener::bind(address).await.unwrap();
                tell.send(listener.local_addr().unwrap().port()).unwrap();
                app(listener, Arc::new(answer), stopped).await;
            });
            rt.shutdown_background();
        });
        let port = told.recv().unwrap();
        Self { port, stop: Some(stop), thread: Some(thread) }
    }
    /// Answers 200 with `text`.
    pub fn saying(port: u16, text: &'static str) -> Self {
        Self::start(port, move |_| Response::new(Full::new(Bytes::from_static(text.as_bytes()))))
    }
    /// Answers with this status.
    pub fn failing(port: u16, status: StatusCode) -> Self {
        Self::start(port, move |_| {
            let mut response = Response::new(Full::default());
            *response.status_mut() = status;
            response
        })
    }
    /// Takes no new connection, says `connection: close` in its answers, closes those that are idle after `LAME`, and
    /// returns when all have ended: how a well-behaved server stops.
    pub fn leave(mut self) {
        self.end(Stop::Lame);
    }
    /// The same, but for idle connections, which it closes at once: how many servers stop. Requests that are on their way
    /// to it then meet a closed connection.
    pub fn leave_in_haste(mut self) {
        self.end(Stop::Hasty);
    }
    fn end(&mut self, how: Stop) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(how);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.end(Stop::Crash);
    }
}

async fn app<F, R>(listener: tokio::net::TcpListener, answer: Arc<F>, mut stopped: tokio::sync::oneshot::Receiver<Stop>)
where
    F: Fn(Request<Bytes>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Full<Bytes>>> + Send,
{
    let (lame, leaving) = (Arc::new(AtomicBool::new(false)), tokio::sync::watch::Sender::new(false));
    let mut connections = tokio::task::JoinSet::new();
    let how = loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            how = &mut stopped => break how.unwrap_or(Stop::Crash),
        };
        let (answer, lame, mut leave) = (answer.clone(), lame.clone(), leaving.subscribe());
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |r: Request<Incoming>| {
                let (answer, lame) = (answer.clone(), lame.clone());
                async move {
                    let (head, body) = r.into_parts();
                    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                    let is_http1 = head.version < http::Version::HTTP_2;
                    let mut response = answer(Request::from_parts(head, body)).await;
                    if is_http1 && lame.load(Ordering::SeqCst) {
                        response.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let mut served = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
            tokio::select! {
                _ = &mut served => return,
                _ = leave.wait_for(|l| *l) => served.as_mut().graceful_shutdown(),
            }
            let _ = served.await;
        });
    };
    drop(listener);
    if how == Stop::Crash {
        return;
    }
    lame.store(true, Ordering::SeqCst);
    if how == Stop::Lame {
        let _ = tokio::time::timeout(LAME, async { while connections.join_next().await.is_some() {} }).await;
    }
    leaving.send_replace(true);
    while connections.join_next().await.is_some() {}
}

/// Holds an application's answers back until it is opened.
#[derive(Debug, Clone)]
pub struct Gate(Arc<(tokio::sync::watch::Sender<bool>, AtomicUsize)>);

impl Gate {
    pub fn shut() -> Self {
        Self(Arc::new((tokio::sync::watch::Sender::new(false), AtomicUsize::new(0))))
    }
    pub async fn pass(&self) {
        self.0.1.fetch_add(1, Ordering::SeqCst);
        let _ = self.0.0.subscribe().wait_for(|open| *open).await;
    }
    pub fn open(&self) {
        self.0.0.send_replace(true);
    }
    /// How many have come to it so far.
    pub fn reached(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}
