//! Who speaks first at a destination, learned from connections on which the caller was silent at first.
//!
//! The first such connection to a destination waits [`SILENCE`] before it goes on as bytes. What is heard on it then decides
//! for the next ones: where the server spoke first (MySQL, SMTP), nobody waits any more; where the caller did after all
//! (connections that are opened ahead of their first request), it is waited for. A connection is overheard again each time
//! it went on unheard, so that what was learned of an address's last owner does not stay.
//!
//! Only the application beside us is learned from, which harms nobody but itself. On the way in it is the server. Where requests
//! are checked it is asked by a connection of our own: callers could make it speak by being silent for long. What it did counts
//! for [`ASK_AGAIN`].
//!
//! Invariants: at most [`MAX_KNOWN`] destinations, then it begins anew; by what was learned nothing is held
//! up for longer than [`FIRST_BYTES`].

use super::{FIRST_BYTES, SILENCE};
use crate::mesh::Mesh;
use crate::upstream::tunnel::Io;
use fusewire_resilience::Time;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

const MAX_KNOWN: usize = 4096;
/// A greeting may come late once, and in time from then on.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// So long one question is enough.
const ASKING: Duration = Duration::from_secs(1);
/// For a greeting that is late, as where names are looked up first; what comes later may be a word about the silence.
const LATE: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Caller,
    Server,
    /// Somebody asks the server since then.
    Asking(Time),
    /// The server was asked then, and did.
    Asked {
        spoke: bool,
        at: Time,
    },
}

#[derive(Default)]
pub(crate) struct Speakers {
    known: Mutex<HashMap<SocketAddr, First>>,
    /// A peer's sidecar came by an application's port.
    peers: AtomicBool,
}

impl Speakers {
    /// How long a caller of `to` may be silent before it is taken to wait for the server.
    pub(super) fn patience(&self, to: SocketAddr) -> Duration {
        match self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&to) {
            None | Some(First::Asking(_) | First::Asked { .. }) => SILENCE,
            Some(First::Caller) => FIRST_BYTES,
            Some(First::Server) => Duration::ZERO,
        }
    }

    /// Whether the application at `to`, beside us, speaks first. `None`: it has to be asked.
    pub(super) fn is_server(&self, to: SocketAddr, now: Time) -> Option<bool> {
        match self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&to)? {
            First::Asked { spoke, at } => (now.since(*at) < ASK_AGAIN).then_some(*spoke),
            First::Caller | First::Server | First::Asking(_) => None,
        }
    }

    /// Whether nobody else asks it.
    fn begins_to_ask(&self, to: SocketAddr, now: Time) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = !matches!(known.get(&to), Some(First::Asking(since)) if now.since(*since) < ASKING);
        if is_first {
            put(&mut known, to, First::Asking(now));
        }
        is_first
    }

    /// What it was found to do when it was asked.
    pub(super) fn tell(&self, to: SocketAddr, server: bool, now: Time) {
        self.learn(to, First::Asked { spoke: server, at: now });
    }

    /// They have no port of their own here.
    pub(super) fn peer_came(&self) {
        self.peers.store(true, Ordering::Relaxed);
    }
    pub(super) fn peers_come(&self) -> bool {
        self.peers.load(Ordering::Relaxed)
    }

    fn learn(&self, to: SocketAddr, first: First) {
        put(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner), to, first);
    }
}

fn put(known: &mut HashMap<SocketAddr, First>, to: SocketAddr, first: First) {
    if known.len() >= MAX_KNOWN && !known.contains_key(&to) {
        known.clear();
    }
    known.insert(to, first);
}

/// Whether the application at `to`, beside us, speaks first: what it did not long ago, else what it does on a connection on which
/// we say nothing.
pub(super) async fn server_speaks_first(mesh: &Arc<Mesh>, to: SocketAddr) -> bool {
    let known = || mesh.speakers.is_server(to, mesh.clock.now());
    if let Some(known) = known() {
        return known;
    }
    if !mesh.speakers.begins_to_ask(to, mesh.clock.now()) {
        for _ in 0..2 {
            tokio::time::sleep(SILENCE).await;
            if let Some(known) = known() {
                return known;
            }
        }
        return false;
    }
    let Ok(Ok(asked)) = timeout(SILENCE, fusewire_net::connect(to)).await else { return false };
    let speaks = timeout(SILENCE, greets(&asked)).await.unwrap_or(false);
    mesh.speakers.tell(to, speaks, mesh.clock.now());
    if !speaks {
        let mesh = mesh.clone();
        tokio::spawn(async move {
            if let Ok(true) = timeout(LATE, greets(&asked)).await {
                mesh.speakers.tell(to, true, mesh.clock.now());
            }
        });
    }
    speaks
}

async fn greets(asked: &TcpStream) -> bool {
    let mut said = [0; 16];
    let length = asked.peek(&mut said).await.unwrap_or(0);
    is_greeting(&said[..length])
}

/// Not so an answer to nothing, nor the SETTINGS that some servers of HTTP/2 send at once (RFC 9113, section 3.4).
fn is_greeting(said: &[u8]) -> bool {
    let is_settings = said.len() >= 9 && said[3] == 4 && said[5..9] == [0; 4];
    !said.is_empty() && !said.starts_with(b"HTTP/") && !is_settings
}

/// The caller's end of a connection on which nothing was said yet.
pub(super) struct Overheard<T> {
    inner: T,
    /// Until somebody has spoken.
    of: Option<(Arc<Mesh>, SocketAddr)>,
    /// The application is the server here, and the caller is not believed.
    is_application: bool,
}

impl<T> Overheard<T> {
    pub(super) fn new(inner: T, mesh: Arc<Mesh>, to: SocketAddr) -> Self {
        Self { inner, of: Some((mesh, to)), is_application: false }
    }

    /// Of a caller of the application at `to`, beside us, whose requests nobody checks.
    pub(super) fn of_application(inner: T, mesh: Arc<Mesh>, to: SocketAddr) -> Self {
        Self { inner, of: Some((mesh, to)), is_application: true }
    }

    fn heard(&mut self, first: First) {
        match self.of.take() {
            Some((mesh, to)) if !self.is_application => mesh.speakers.learn(to, first),
            Some((mesh, to)) if first == First::Server => mesh.speakers.tell(to, true, mesh.clock.now()),
            _ => {}
        }
    }
}

impl<T: Io> Io for Overheard<T> {
    fn abort(&self) {
        self.inner.abort();
    }
    fn socket(&self) -> Option<&TcpStream> {
        if self.of.is_some() { None } else { self.inner.socket() }
    }
}

impl<T: Io> AsyncRead for Overheard<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard(First::Caller);
        }
        read
    }
}

impl<T: Io> AsyncWrite for Overheard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !buf.is_empty() {
            self.heard(First::Server);
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_decides_how_long_the_next_caller_is_waited_for() {
        let speakers = Speakers::default();
        let [smtp, web] = ["10.0.0.1:25", "10.0.0.1:80"].map(|a| a.parse::<SocketAddr>().unwrap());
        assert_eq!(speakers.patience(smtp), SILENCE);
        speakers.learn(smtp, First::Server);
        speakers.learn(web, First::Caller);
        assert_eq!((speakers.patience(smtp), speakers.patience(web)), (Duration::ZERO, FIRST_BYTES));
        speakers.learn(smtp, First::Caller);
        assert_eq!(speakers.patience(smtp), FIRST_BYTES, "another moved in");
    }

    #[test]
    fn what_an_application_did_when_it_was_asked_counts_for_a_minute() {
        let speakers = Speakers::default();
        let smtp = "127.0.0.1:25".parse().unwrap();
        let at = |seconds| Time(0) + Duration::from_secs(seconds);
        assert_eq!(speakers.is_server(smtp, at(0)), None);
        speakers.tell(smtp, false, at(0));
        assert_eq!([59, 60].map(|now| speakers.is_server(smtp, at(now))), [Some(false), None]);
        assert_eq!(speakers.patience(smtp), SILENCE);
        speakers.tell(smtp, true, at(60));
        assert_eq!([119, 120].map(|now| speakers.is_server(smtp, at(now))), [Some(true), None]);
    }

    #[test]
    fn one_question_at_a_time_is_asked() {
        let speakers = Speakers::default();
        let to = "127.0.0.1:25".parse().unwrap();
        let at = |ms| Time(0) + Duration::from_millis(ms);
        assert_eq!([0, 999, 1_000].map(|now| speakers.begins_to_ask(to, at(now))), [true, false, true]);
        speakers.tell(to, true, at(1_100));
        assert_eq!(speakers.is_server(to, at(1_100)), Some(true));
    }

    #[test]
    fn what_servers_of_http_say_to_nothing_is_no_greeting() {
        for said in [&b"220 mail"[..], b"\x4a\0\0\0\x0a8.4.0", b"S"] {
            assert!(is_greeting(said), "{said:?}");
        }
        for said in [&b"HTTP/1.1 408 Req"[..], b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0\0", b""] {
            assert!(!is_greeting(said), "{said:?}");
        }
    }

    #[test]
    fn so_many_destinations_are_remembered_and_no_more() {
        let speakers = Speakers::default();
        let at = |n: u32| SocketAddr::from((n.to_be_bytes(), 1));
        (0..2 * MAX_KNOWN as u32 + 1).for_each(|n| speakers.learn(at(n), First::Server));
        assert!(speakers.known.lock().unwrap().len() <= MAX_KNOWN);
        assert_eq!(speakers.patience(at(2 * MAX_KNOWN as u32)), Duration::ZERO);
    }
}
