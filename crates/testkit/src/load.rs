//! Steady load from clients that keep their connections, and an account of what failed.

use crate::process::{PATIENCE, loopback};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;

/// Clients on a thread of their own, until [`Load::stop`].
#[derive(Debug)]
pub struct Load {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<Vec<String>>>,
}

impl Load {
    /// Each of `clients` sends what `make` makes over one HTTP/1.1 connection to `port`, waits for the answer, pauses,
    /// and again. It connects anew only when it was told to or nothing was on its way.
    pub fn start(port: u16, clients: usize, pause: Duration, make: fn(usize) -> Request<Full<Bytes>>) -> Self {
        let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stop, count) = (over.clone(), answered.clone());
        let thread = std::thread::spawn(move || {
            let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            rt.block_on(async {
                let mut all = tokio::task::JoinSet::new();
                for _ in 0..clients {
                    all.spawn(client(port, pause, make, stop.clone(), count.clone()));
                }
                all.join_all().await.concat()
            })
        });
        Self { over, answered, thread: Some(thread) }
    }
    /// Good answers so far.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }
    /// Ends it; what failed, in words.
    pub fn stop(mut self) -> Vec<String> {
        self.over.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

async fn client(
    port: u16,
    pause: Duration,
    make: fn(usize) -> Request<Full<Bytes>>,
    over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
) -> Vec<String> {
    let mut failed = Vec::new();
    let mut connection: Option<SendRequest<Full<Bytes>>> = None;
    let mut number = 0;
    while !over.load(Ordering::SeqCst) {
        number += 1;
        match tokio::time::timeout(PATIENCE, once(port, &mut connection, make(number))).await {
            Ok(Ok(())) => {
                answered.fetch_add(1, Ordering::SeqCst);
            }
            Ok(Err(what)) => failed.push(what),
            Err(_) => failed.push(format!("no answer within {PATIENCE:?}")),
        }
        tokio::time::sleep(pause).await; // bounded wait: the pace of the load
    }
    failed
}

async fn once(
    port: u16,
    kept: &mut Option<SendRequest<Full<Bytes>>>,
    request: Request<Full<Bytes>>,
) -> Result<(), String> {
    let usable = match kept.take() {
        Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
        None => None,
    };
    let mut sender = match usable {
        Some(sender) => sender,
        None => {
            let stream = TcpStream::connect(loopback(port)).await.map_err(|e| format!("connect: {e}"))?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
            tokio::spawn(connection);
            sender
        }
    };
    let wanted = request.body().clone().collect().await.map_err(|e| e.to_string())?.to_bytes();
    let (head, body) = sender.send_request(request).await.map_err(|e| format!("send: {e:?}"))?.into_parts();
    let body = body.collect().await.map_err(|e| format!("body: {e:?}"))?.to_bytes();
    *kept = Some(sender);
    if !head.status.is_success() {
        let field = |name| head.headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        return Err(format!("{} {:?} {:?}", head.status, field("fusewire-reason"), field("fusewire-detail")));
    }
    // an application under load echoes bodies
    if !wanted.is_empty() && wanted != body {
        return Err(format!("{} bytes were answered with other {} bytes", wanted.len(), body.len()));
    }
    Ok(())
}
