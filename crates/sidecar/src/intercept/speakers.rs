//! Who speaks first at a destination, learned from connections on which the caller was silent at first.
//!
//! The first such connection to a destination waits [`SILENCE`] before it goes on as bytes. What is heard on it then decides
//! for the next ones: where the server spoke first (MySQL, SMTP), nobody waits any more; where the caller did after all
//! (connections that are opened ahead of their first request), it is waited for. A connection is overheard again each time
//! it went on unheard, so that what was learned of an address's last owner does not stay.
//!
//! Only the application beside us is learned from, which harms nobody but itself. On the way in it is the server, and is asked by
//! a connection of our own: callers could make it speak by being silent for long. What it said counts for [`ASK_AGAIN`].
//!
//! Invariants: at most [`MAX_KNOWN`] destinations, then it begins anew; nothing is held up by it for longer than
//! [`FIRST_BYTES`].

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

const MAX_KNOWN: usize = 4096;
/// A greeting may come late once, and in time from then on.
const ASK_AGAIN: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Caller,
    Server,
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
            None | Some(First::Asked { .. }) => SILENCE,
            Some(First::Caller) => FIRST_BYTES,
            Some(First::Server) => Duration::ZERO,
        }
    }

    /// Whether the application at `to`, beside us, speaks first. `None`: it has to be asked.
    pub(super) fn is_server(&self, to: SocketAddr, now: Time) -> Option<bool> {
        match self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&to)? {
            First::Asked { spoke, at } => (now.since(*at) < ASK_AGAIN).then_some(*spoke),
            First::Caller | First::Server => None,
        }
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
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN && !known.contains_key(&to) {
            known.clear();
        }
        known.insert(to, first);
    }
}

/// The caller's end of a connection on which nothing was said yet.
pub(super) struct Overheard<T> {
    inner: T,
    /// Until somebody has spoken.
    of: Option<(Arc<Mesh>, SocketAddr)>,
}

impl<T> Overheard<T> {
    pub(super) fn new(inner: T, mesh: Arc<Mesh>, to: SocketAddr) -> Self {
        Self { inner, of: Some((mesh, to)) }
    }

    fn heard(&mut self, first: First) {
        if let Some((mesh, to)) = self.of.take() {
            mesh.speakers.learn(to, first);
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
    fn so_many_destinations_are_remembered_and_no_more() {
        let speakers = Speakers::default();
        let at = |n: u32| SocketAddr::from((n.to_be_bytes(), 1));
        (0..2 * MAX_KNOWN as u32 + 1).for_each(|n| speakers.learn(at(n), First::Server));
        assert!(speakers.known.lock().unwrap().len() <= MAX_KNOWN);
        assert_eq!(speakers.patience(at(2 * MAX_KNOWN as u32)), Duration::ZERO);
    }
}
