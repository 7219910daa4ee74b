//! One worker's connections to one instance.
//!
//! HTTP/1.1: a stack of idle connections, the warmest first. HTTP/2: a few shared connections, the first with room
//! first, and one dial at a time however many requests wait for it. It deliberately has no keys and no limits of its own:
//! it belongs to one instance, and the service bounds the connections to all of them (`crate::bounds`).
//!
//! Invariant 6: no lock here is held across an await.

use super::dials::Unanswered;
use super::instance::Instance;
use super::metered::Gauge;
use crate::fault::Fault;
use crate::http::body::SendBody;
use fusewire_resilience::Time;
use hyper::client::conn::{http1, http2};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Streams on one HTTP/2 connection to an application before the next is dialled: what many servers allow (RFC 9113,
/// 6.5.2, recommends no fewer).
pub(crate) const APPLICATION_STREAMS: u32 = 100;
/// The same to a peer's sidecar, which allows more: fewer connections mean fuller writes.
pub(crate) const WIRE_STREAMS: u32 = 512;
/// Idle HTTP/1.1 connections kept.
const MAX_IDLE: usize = 256;
/// An idle connection is closed after this; many applications close theirs at 60 s or more.
const IDLE: Duration = Duration::from_secs(50);

/// An HTTP/1.1 connection.
pub(crate) struct H1 {
    pub(crate) sender: http1::SendRequest<SendBody>,
    pub(crate) gauge: Arc<Gauge>,
    /// Until the first answer.
    pub(crate) unanswered: Option<Unanswered>,
    /// While it is in use: whose it is, where it comes from a caller's own address.
    pub(crate) home: Option<Arc<Instance>>,
}

/// An HTTP/2 connection and how many exchanges are on it.
pub(crate) struct H2 {
    sender: http2::SendRequest<SendBody>,
    active: AtomicU32,
    idle_since: AtomicU64,
    /// When the certificate ends that the peer proved itself with, in Unix seconds.
    until: Option<u64>,
}

/// A place on a shared HTTP/2 connection, given back when dropped.
pub(crate) struct Lease(Arc<H2>);

impl Lease {
    pub(crate) fn sender(&self) -> http2::SendRequest<SendBody> {
        self.0.sender.clone()
    }
    pub(crate) fn touch(&self, now: Time) {
        self.0.idle_since.store(now.0, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The outcome of a dial that several requests may wait for; `None` while it runs.
pub(crate) type Dial = watch::Receiver<Option<Result<(), Fault>>>;

#[derive(Default)]
struct State {
    h1: Vec<(H1, Time)>,
    h2: Vec<Arc<H2>>,
    dialling: Option<Dial>,
}

pub(crate) struct Pool {
    state: Mutex<State>,
    max_idle: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self::with_idle(MAX_IDLE)
    }
}

pub(crate) enum Found {
    Ready(Lease),
    /// Somebody is dialling: wait for it.
    Dialling(Dial),
    /// Dial, and tell the others through this.
    Dial(watch::Sender<Option<Result<(), Fault>>>, Dial),
}

impl Pool {
    /// One that keeps at most `max_idle` HTTP/1.1 connections.
    pub(crate) fn with_idle(max_idle: usize) -> Self {
        Self { state: Mutex::default(), max_idle }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_h1(&self) -> Option<H1> {
        let mut state = self.lock();
        // not ready: closed, or its last response has been read but its own task has not had its turn since
        let warmest = state.h1.iter().rposition(|(c, _)| c.sender.is_ready() && !c.sender.is_closed())?;
        Some(state.h1.remove(warmest).0)
    }

    /// One of them was closed by the other side: its siblings were most likely closed with it.
    pub(crate) fn drop_idle_h1(&self) {
        let idle = std::mem::take(&mut self.lock().h1);
        drop(idle);
    }

    /// The response's end was reached; hyper makes the connection ready in the same turn.
    pub(crate) fn give_h1(&self, connection: H1, now: Time) {
        if connection.sender.is_closed() {
            return;
        }
        let mut state = self.lock();
        if state.h1.len() < self.max_idle {
            state.h1.push((connection, now));
        }
    }

    /// A place on a connection, or a dial to wait for, or the duty to dial.
    pub(crate) fn lease_h2(&self, max_streams: u32) -> Found {
        let mut state = self.lock();
        state.h2.retain(|c| !c.sender.is_closed());
        if let Some(c) = state.h2.iter().find(|c| c.active.load(Ordering::Relaxed) < max_streams) {
            c.active.fetch_add(1, Ordering::Relaxed);
            return Found::Ready(Lease(c.clone()));
        }
        // a dial whose task was dropped without an outcome is over
        if let Some(dial) = state.dialling.as_ref().filter(|d| d.borrow().is_none() && d.has_changed().is_ok()) {
            return Found::Dialling(dial.clone());
        }
        let (tell, dial) = watch::channel(None);
        state.dialling = Some(dial.clone());
        Found::Dial(tell, dial)
    }

    /// Closes one connection that nothing is on; whether there was one.
    pub(crate) fn let_go_of_an_idle_one(&self) -> bool {
        let mut state = self.lock();
        if let Some(coldest) = (!state.h1.is_empty()).then(|| state.h1.remove(0)) {
            drop(state);
            drop(coldest);
            return true;
        }
        let idle = state.h2.iter().position(|c| c.active.load(Ordering::Relaxed) == 0);
        idle.map(|idle| state.h2.remove(idle)).is_some()
    }

    /// `until`: when the peer's certificate ends, in Unix seconds; no request begins on the connection after it.
    pub(crate) fn add_h2(&self, sender: http2::SendRequest<SendBody>, until: Option<u64>, now: Time) {
        let mut state = self.lock();
        state.dialling = None;
        let idle_since = AtomicU64::new(now.0);
        state.h2.push(Arc::new(H2 { sender, active: AtomicU32::new(0), idle_since, until }));
    }

    pub(crate) fn dial_failed(&self) {
        self.lock().dialling = None;
    }

    pub(crate) fn tidy(&self, now: Time) {
        let mut state = self.lock();
        let fresh = |since: Time| now.since(since) < IDLE;
        let unix = crate::clock::unix_seconds();
        state.h1.retain(|(c, since)| !c.sender.is_closed() && fresh(*since));
        state.h2.retain(|c| {
            let busy = c.active.load(Ordering::Relaxed) > 0;
            // what is on one that is let go of is finished
            !c.sender.is_closed()
                && c.until.is_none_or(|until| unix < until)
                && (busy || fresh(Time(c.idle_since.load(Ordering::Relaxed))))
        });
    }

    pub(crate) fn len(&self) -> usize {
        let state = self.lock();
        state.h1.len() + state.h2.len()
    }
}
