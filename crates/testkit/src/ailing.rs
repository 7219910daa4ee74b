//! Servers that turn bad, each in its own way, and callers who count what reaches them.

use crate::process::loopback;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// What a bad replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ailment {
    /// Nobody listens any more.
    Refuse,
    /// RST after the request was read.
    Reset,
    /// Every second answer is 500.
    Half500,
    All503,
    /// A good answer after one second.
    Delay,
    Hang,
    /// Less of a body than was announced, and the end.
    Truncate,
    /// Less of a body than was announced, and silence.
    Stall,
    /// As [`Ailment::Refuse`], behind a sidecar.
    DeadApplication,
    /// gRPC status 14, trailers-only.
    GrpcUnavailable,
    /// gRPC status 13 in the trailers.
    GrpcInternal,
}

impl Ailment {
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::GrpcUnavailable | Self::GrpcInternal)
    }
    /// Whether callers see it where requests that no application saw are sent elsewhere, and nothing else is done.
    pub fn is_seen(self) -> bool {
        !self.closes()
    }
    fn closes(self) -> bool {
        matches!(self, Self::Refuse | Self::DeadApplication)
    }
}

impl fmt::Display for Ailment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Refuse => "connection refused",
            Self::Reset => "reset after the request",
            Self::Half500 => "500, every second answer",
            Self::All503 => "503",
            Self::Delay => "answers after a second",
            Self::Hang => "never answers",
            Self::Truncate => "body ends too early",
            Self::Stall => "body stands still",
            Self::DeadApplication => "application dead, sidecar alive",
            Self::GrpcUnavailable => "gRPC UNAVAILABLE",
            Self::GrpcInternal => "gRPC INTERNAL",
        })
    }
}

/// One server on 127.0.0.1, good until told otherwise; it ends with this handle.
#[derive(Debug)]
pub struct Replica {
    pub port: u16,
    shared: Arc<Shared>,
    turns: bool,
}

#[derive(Debug)]
struct Shared {
    ailment: Ailment,
    bad: AtomicBool,
    over: AtomicBool,
    answered: AtomicUsize,
    changed: tokio::sync::Notify,
}

impl Replica {
    /// `turns`: whether [`Replica::turn_bad`] does anything to it.
    pub fn start(ailment: Ailment, turns: bool) -> Self {
        let listener = std::net::TcpListener::bind(loopback(0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            ailment,
            bad: AtomicBool::new(false),
            over: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
            changed: tokio::sync::Notify::new(),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            rt.block_on(serve(TcpListener::from_std, listener, serving));
            rt.shutdown_background();
        });
        Self { port, shared, turns }
    }
    pub fn turn_bad(&self) {
        if self.turns {
            self.shared.bad.store(true, Ordering::SeqCst);
            self.shared.changed.notify_waiters();
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.changed.notify_waiters();
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn is_bad(&self) -> bool {
        self.bad.load(Ordering::SeqCst)
    }
    /// The server has come to its end: closed where the ailment is that, or its handle dropped.
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst) || (self.ailment.closes() && self.is_bad())
    }
}

async fn serve(
    adopt: fn(std::net::TcpListener) -> std::io::Result<TcpListener>,
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
) {
    let listener = adopt(listener).unwrap();
    let mut connections = tokio::task::JoinSet::new();
    while !shared.is_over() {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                stream.set_nodelay(true).unwrap();
                let shared = shared.clone();
                if shared.ailment.is_grpc() {
                    connections.spawn(grpc(stream, shared));
                } else {
                    connections.spawn(http(stream, shared));
                }
            }
            Some(_) = connections.join_next() => {}
            () = shared.changed.notified() => {}
        }
    }
    // listener and connections end here
}

async fn http(mut stream: TcpStream, shared: Arc<Shared>) {
    const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        while !seen.ends_with(b"\r\n\r\n") {
            match stream.read(&mut piece).await {
                Ok(read) if read > 0 => seen.extend_from_slice(&piece[..read]),
                _ => return,
            }
        }
        seen.clear();
        let number = shared.answered.fetch_add(1, Ordering::SeqCst);
        let answer: &[u8] = match shared.ailment {
            _ if !shared.is_bad() => GOOD,
            Ailment::Half500 if number.is_multiple_of(2) => b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
            Ailment::All503 => b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
            Ailment::Delay => {
                tokio::time::sleep(Duration::from_secs(1)).await; // bounded wait: that is the fault
                GOOD
            }
            Ailment::Hang => return std::future::pending().await,
            Ailment::Reset => {
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                return;
            }
            Ailment::Truncate | Ailment::Stall => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe",
            _ => GOOD,
        };
        if stream.write_all(answer).await.is_err() {
            return;
        }
        match shared.ailment {
            Ailment::Truncate if shared.is_bad() => return,
            Ailment::Stall if shared.is_bad() => return std::future::pending().await,
            _ => {}
        }
    }
}

async fn grpc(stream: TcpStream, shared: Arc<Shared>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let head = Response::builder().header("content-type", "application/grpc");
        let trailers = |status: &'static str| {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static(status));
            trailers
        };
        match shared.ailment {
            Ailment::GrpcUnavailable if shared.is_bad() => {
                let _ = respond.send_response(head.header("grpc-status", "14").body(()).unwrap(), true);
            }
            ailment => {
                let bad = ailment == Ailment::GrpcInternal && shared.is_bad();
                let status = if bad { "13" } else { "0" };
                crate::h2c::answer(&mut respond, head, &[0, 0, 0, 0, 0], Some(trailers(status)));
            }
        }
    }
}

/// What a service's callers saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    pub asked: usize,
    pub failed: usize,
}

impl Share {
    pub fn percent(&self) -> f64 {
        self.failed as f64 * 100.0 / self.asked.max(1) as f64
    }
}

/// Half a second of good replicas, then those that turn bad do, and from then on it is counted for `span`: so many callers,
/// each of which pauses between its requests.
pub async fn share(
    ailment: Ailment,
    port: u16,
    service: &str,
    replicas: Vec<Replica>,
    (callers, pause, span): (usize, Duration, Duration),
) -> Share {
    let begin = Instant::now() + Duration::from_millis(500);
    let end = begin + span;
    let mut all = tokio::task::JoinSet::new();
    for number in 0..callers {
        let service = service.to_owned();
        // not all at the same moment
        let first = Instant::now() + pause * u32::try_from(number).unwrap() / u32::try_from(callers).unwrap();
        all.spawn(async move {
            let mut caller = Caller { port, service, grpc: ailment.is_grpc(), h1: None, h2: None };
            let mut share = Share::default();
            tokio::time::sleep_until(first).await; // bounded wait: the pace of the load
            loop {
                let asked = Instant::now();
                if asked >= end {
                    return share;
                }
                let good = tokio::time::timeout(Duration::from_secs(5), caller.ask()).await.unwrap_or(false);
                if asked >= begin {
                    share.asked += 1;
                    share.failed += usize::from(!good);
                }
                tokio::time::sleep_until(asked + pause).await; // bounded wait: the pace of the load
            }
        });
    }
    tokio::time::sleep_until(begin).await; // bounded wait: good until then
    replicas.iter().for_each(Replica::turn_bad);
    let shares = all.join_all().await;
    drop(replicas);
    shares.iter().fold(Share::default(), |a, b| Share { asked: a.asked + b.asked, failed: a.failed + b.failed })
}

struct Caller {
    port: u16,
    service: String,
    grpc: bool,
    h1: Option<http1::SendRequest<Empty<Bytes>>>,
    h2: Option<http2::SendRequest<Empty<Bytes>>>,
}

impl Caller {
    /// Whether the answer was good, to its last byte.
    async fn ask(&mut self) -> bool {
        let asked = if self.grpc { self.call().await } else { self.get().await };
        if asked.is_none() {
            (self.h1, self.h2) = (None, None);
        }
        asked == Some(true)
    }

    /// `None`: the connection may be gone.
    async fn get(&mut self) -> Option<bool> {
        let mut sender = match self.h1.take() {
            Some(sender) => sender,
            None => {
                let stream = TcpStream::connect(loopback(self.port)).await.ok()?;
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
                tokio::spawn(connection);
                sender
            }
        };
        sender.ready().await.ok()?;
        let request = Request::get("/").header("host", &self.service).body(Empty::new()).ok()?;
        let (head, body) = sender.send_request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        self.h1 = Some(sender);
        Some(head.status == 200 && body == "hello")
    }

    async fn call(&mut self) -> Option<bool> {
        if self.h2.is_none() {
            let stream = TcpStream::connect(loopback(self.port)).await.ok()?;
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            self.h2 = Some(sender);
        }
        let sender = self.h2.as_mut()?;
        sender.ready().await.ok()?;
        let request = Request::post(format!("http://{}/shop.Shop/Get", self.service))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Empty::new())
            .ok()?;
        let (head, body) = sender.send_request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?;
        let status = body.trailers().and_then(|t| t.get("grpc-status")).or_else(|| head.headers.get("grpc-status"));
        Some(status.is_some_and(|s| s == "0"))
    }
}
