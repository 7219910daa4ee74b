//! A caller's HTTP/1 connection as hyper may see it: whole heads that [`super::head`] found good, and their bodies.
//!
//! Bytes are looked at where hyper reads them to, and nothing is copied while heads come whole. What is not whole waits
//! here. A malformed head is replaced by a request of our own ([`STAND_IN`]), for which [`Line::refused`] has the fault: so
//! the answer takes the way of all answers, in its turn behind those to the requests before it, with its reason, count and
//! log line. Nothing that comes later is read.
//!
//! It keeps the time that a caller may take: over a head, over a body that is waited for, and between requests. One timer
//! a connection ticks and compares, so that a request costs no clock and no timer.
//!
//! When hyper ends a connection on which more lies or comes, what comes is thrown away for a moment before the socket is
//! closed: a close with unread bytes is a reset, which takes the answer along that the caller is about to read.
//!
//! Invariants: hyper gets the same bytes however they were split on their way; at most one head is kept, within the limits.

use super::chunks::{Chunks, Reached};
use super::head::{self, Body, Verdict};
use crate::drain::{Guard, SharedGuard};
use crate::fault::Fault;
use bytes::{Buf, BytesMut};
use fusewire_model::node::Limits;
use futures_util::task::AtomicWaker;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

/// What hyper gets for a head that was refused.
const STAND_IN: &[u8] = b"- * HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n";
/// What is read at once of a head that did not come whole.
const PIECE: usize = 4096;
/// Thrown away at the end of a connection, at most, and for how long.
const MAX_LINGER: usize = 1 << 20;
const LINGER: Duration = Duration::from_secs(2);

/// What a connection's two ends know of each other: the reader below hyper and the service above it. Over HTTP/2 there is
/// the service alone.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// Heads that hyper was given; requests that hyper made of them; those with an answer; those whose answer is over.
    given: AtomicU64,
    begun: AtomicU64,
    answered: AtomicU64,
    ended: AtomicU64,
    /// The last answer switched to another protocol.
    switched: AtomicBool,
    /// The reader, which holds bytes that the answer decides over: hyper itself does not read again for an answer.
    waiting: AtomicWaker,
    /// Part of a head is here.
    within_head: AtomicBool,
    head_over: Notify,
    /// Which of the heads given stands in for one that was refused, and why.
    refused: OnceLock<(u64, Fault)>,
    evicted: Notify,
    /// Held by the connection, and once more by each tunnel on it, where it carries many things at once.
    shared: Weak<Guard>,
}

impl Line {
    /// Of an HTTP/2 connection.
    pub(crate) fn shared(guard: &SharedGuard) -> Self {
        Self { shared: Arc::downgrade(guard), ..Self::default() }
    }
    /// One more is asked, of many at once.
    pub(crate) fn asked(&self) {
        self.given.fetch_add(1, Ordering::Relaxed);
    }
    /// The answer to one of these is over.
    pub(crate) fn over(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
    /// A request begins: its number.
    pub(crate) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed) + 1
    }
    /// Why the request with this number is not the caller's, but stands for one that was refused.
    pub(crate) fn refused(&self, number: u64) -> Option<&Fault> {
        self.refused.get().filter(|(n, _)| *n == number).map(|(_, fault)| fault)
    }
    pub(crate) fn switched(&self) {
        self.switched.store(true, Ordering::Release);
        self.waiting.wake();
    }
    pub(crate) fn answered(&self, number: u64) {
        self.answered.store(number, Ordering::Release);
        self.waiting.wake();
    }
    pub(crate) fn ended(&self, number: u64) {
        self.ended.fetch_max(number, Ordering::Relaxed);
    }
    /// Whether nothing is asked, and nothing about to be.
    pub(crate) fn is_idle(&self) -> bool {
        self.given.load(Ordering::Relaxed) == self.ended.load(Ordering::Relaxed)
            && !self.within_head.load(Ordering::Relaxed)
            && !self.switched.load(Ordering::Relaxed)
            && self.shared.strong_count() <= 1
    }
    /// Waits until nothing was asked for as long as `limit`, and half of it again at most: what passes by costs no clock.
    pub(crate) async fn idle_for(&self, limit: Duration) {
        let mut since: Option<(Instant, u64)> = Some((Instant::now(), 0));
        loop {
            tokio::time::sleep(limit / 2).await;
            let asked = self.given.load(Ordering::Relaxed);
            since = match since.filter(|(_, before)| *before == asked) {
                _ if !self.is_idle() => None,
                Some((since, _)) if since.elapsed() >= limit => return,
                Some(since) => Some(since),
                None => Some((Instant::now(), asked)),
            };
        }
    }
    /// Makes room for another connection.
    pub(crate) fn evict(&self) {
        self.evicted.notify_one();
    }
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
    /// Waits until no part of a head is here that hyper does not know of.
    pub(crate) async fn between_heads(&self) {
        loop {
            let over = self.head_over.notified();
            if !self.within_head.load(Ordering::Relaxed) {
                return;
            }
            over.await;
        }
    }
    fn set_within_head(&self, within: bool) {
        if self.within_head.swap(within, Ordering::Relaxed) && !within {
            self.head_over.notify_waiters();
        }
    }
}

#[derive(Debug)]
enum State {
    /// A head is next.
    Head,
    Length(u64),
    Chunked(Chunks),
    /// Behind a head that may switch protocols: whose bytes come next is known with the answer.
    Undecided,
    /// Another protocol.
    Bytes,
    /// A head was refused: nothing more is read.
    Refused,
    /// hyper is told that the caller is done.
    End,
    /// hyper is told that what came of a body is no body.
    Broken,
}

/// What a reader waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Request,
    Head,
    Body,
    /// For something that the caller does not owe.
    Other,
}

#[derive(Debug)]
pub(crate) struct Strict<T> {
    inner: T,
    line: Arc<Line>,
    limits: Limits,
    state: State,
    /// Read, and not given yet; its first `ready` bytes may be.
    held: BytesMut,
    ready: usize,
    /// Counts what moves: heads and reads of bodies.
    moves: u64,
    ticker: Ticker,
    linger: Option<Linger>,
}

impl<T> Strict<T> {
    pub(crate) fn new(inner: T, line: Arc<Line>, limits: Limits) -> Self {
        let ticker = Ticker::new(limits.header_timeout.min(limits.idle_timeout).min(limits.body_timeout) / 2);
        Self {
            inner,
            line,
            limits,
            state: State::Head,
            held: BytesMut::new(),
            ready: 0,
            moves: 0,
            ticker,
            linger: None,
        }
    }

    fn heads(&self) -> u64 {
        self.line.given.load(Ordering::Relaxed)
    }

    /// How many of the first of `bytes` hyper may have now.
    fn scan(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match &mut self.state {
                State::Head => match head::check(rest, &self.limits) {
                    Verdict::Partial => break,
                    Verdict::Good(head) => {
                        at += head.len;
                        self.moves += 1;
                        self.line.given.fetch_add(1, Ordering::Relaxed);
                        self.state = match head.body {
                            Body::Length(0) if head.may_switch => State::Undecided,
                            Body::Length(0) => State::Head,
                            Body::Length(length) => State::Length(length),
                            Body::Chunked => State::Chunked(Chunks::default()),
                        };
                    }
                    Verdict::Bad(fault) => {
                        self.refuse(fault);
                        break;
                    }
                },
                State::Length(left) => {
                    let data = (rest.len() as u64).min(*left);
                    *left -= data;
                    at += data as usize;
                    if *left == 0 {
                        self.state = State::Head;
                    }
                }
                State::Chunked(chunks) => {
                    let (taken, reached) = chunks.advance(rest);
                    at += taken;
                    match reached {
                        Reached::Within => {}
                        Reached::End => self.state = State::Head,
                        Reached::Broken => self.state = State::Broken,
                    }
                }
                State::Bytes => at = bytes.len(),
                State::Undecided | State::Refused | State::End | State::Broken => break,
            }
        }
        at
    }

    /// From here on hyper gets the request that stands in, and nothing else.
    fn refuse(&mut self, fault: Fault) {
        let number = self.line.given.fetch_add(1, Ordering::Relaxed) + 1;
        let _ = self.line.refused.set((number, fault));
        self.state = State::Refused;
    }

    /// What `held` may give after more came or more became known.
    fn rescan(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.ready = self.scan(&held);
        self.held = held;
        self.settle();
    }

    /// After a scan: what a refusal leaves, and what `Line` should know.
    fn settle(&mut self) {
        if matches!(self.state, State::Refused | State::End | State::Broken) {
            self.held.truncate(self.ready);
        }
        if matches!(self.state, State::Refused) {
            self.held.extend_from_slice(STAND_IN);
            self.ready = self.held.len();
        }
        self.line.set_within_head(matches!(self.state, State::Head) && self.has_head_begun());
    }

    /// Empty lines begin nothing: some clients send one behind a body.
    fn has_head_begun(&self) -> bool {
        self.held.iter().skip(self.ready).any(|b| !matches!(b, b'\r' | b'\n'))
    }

    fn wait(&self) -> Wait {
        match self.state {
            State::Head if self.has_head_begun() => Wait::Head,
            State::Head if self.line.ended.load(Ordering::Relaxed) >= self.heads() => Wait::Request,
            State::Length(_) | State::Chunked(_) if self.line.answered.load(Ordering::Relaxed) < self.heads() => {
                Wait::Body
            }
            _ => Wait::Other,
        }
    }

    /// Nothing came: hyper waits, or the time is over. `None`: look again.
    fn nothing_came(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<()>>> {
        let wait = self.wait();
        let limit = match wait {
            Wait::Request => self.limits.idle_timeout,
            Wait::Head => self.limits.header_timeout,
            Wait::Body => self.limits.body_timeout,
            Wait::Other => Duration::MAX, // and yet it ticks: nobody else looks again when an answer is over
        };
        if self.ticker.poll(cx, (wait, self.moves)) < limit {
            return Some(Poll::Pending);
        }
        match wait {
            Wait::Head => {
                self.held.clear();
                self.ready = 0;
                self.refuse(Fault::CallerSlow("the request's head did not come within limits.header_timeout"));
                self.settle();
                None
            }
            Wait::Body => {
                self.state = State::End;
                Some(Poll::Ready(Err(io::ErrorKind::TimedOut.into())))
            }
            Wait::Request | Wait::Other => {
                self.state = State::End;
                Some(Poll::Ready(Ok(())))
            }
        }
    }

    /// The caller sends no more, in the middle of a head. Empty lines are none.
    fn cut_off(&mut self) {
        self.rescan(); // it may be wrong already, in a line that did not end
        if self.ready > 0 || !matches!(self.state, State::Head) {
            return;
        }
        if self.has_head_begun() {
            self.refuse(Fault::BadRequest("the request ended within its head".into()));
        } else {
            self.state = State::End;
        }
        self.held.clear();
        self.settle();
    }
}

impl<T: AsyncRead + Unpin> Strict<T> {
    /// Reads to where hyper wants it, and takes back what it may not have yet. `None`: nothing that it may have.
    fn read_in_place(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Option<Poll<io::Result<()>>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.inner).poll_read(cx, buf) {
            Poll::Pending if matches!(self.state, State::Bytes) => return Some(Poll::Pending),
            Poll::Pending => return self.nothing_came(cx),
            Poll::Ready(Err(e)) => return Some(Poll::Ready(Err(e))),
            Poll::Ready(Ok(())) => {}
        }
        let came = buf.filled().len() - before;
        if came == 0 || matches!(self.state, State::Bytes) {
            return Some(Poll::Ready(Ok(())));
        }
        if matches!(self.state, State::Length(_) | State::Chunked(_)) {
            self.moves += 1;
        }
        let given = self.scan(&buf.filled()[before..]);
        if given < came || matches!(self.state, State::Refused) {
            self.held.extend_from_slice(&buf.filled()[before + given..]);
            buf.set_filled(before + given);
            self.settle();
        }
        (given > 0).then_some(Poll::Ready(Ok(())))
    }

    /// Reads more of what did not come whole. `None`: look again.
    fn read_aside(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<()>>> {
        let mut piece = [0; PIECE];
        let mut piece = ReadBuf::new(&mut piece);
        match Pin::new(&mut self.inner).poll_read(cx, &mut piece) {
            Poll::Pending => return self.nothing_came(cx),
            Poll::Ready(Err(e)) => return Some(Poll::Ready(Err(e))),
            Poll::Ready(Ok(())) if piece.filled().is_empty() => {
                self.cut_off();
                return None;
            }
            Poll::Ready(Ok(())) => {}
        }
        self.held.extend_from_slice(piece.filled());
        // a head becomes whole, or wrong, with the end of a line; or too large
        if piece.filled().contains(&b'\n') || self.held.len() > self.limits.target_bytes {
            self.rescan();
        }
        None
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Strict<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.ready > 0 {
                let n = this.ready.min(buf.remaining());
                buf.put_slice(&this.held[..n]);
                this.held.advance(n);
                this.ready -= n;
                if this.held.is_empty() {
                    this.held = BytesMut::new(); // lets go of the allocation for the life of the connection
                }
                return Poll::Ready(Ok(()));
            }
            match this.state {
                State::Refused => return Poll::Pending, // hyper closes when it has answered
                State::End => return Poll::Ready(Ok(())),
                State::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                State::Undecided if this.line.switched.load(Ordering::Relaxed) => {
                    this.state = State::Bytes;
                    this.ready = this.held.len();
                    continue;
                }
                State::Undecided if this.line.answered.load(Ordering::Relaxed) >= this.heads() => {
                    this.state = State::Head;
                    this.rescan();
                    continue;
                }
                State::Undecided if !this.held.is_empty() => {
                    this.line.waiting.register(cx.waker());
                    let answered = this.line.answered.load(Ordering::Acquire) >= this.heads();
                    if answered || this.line.switched.load(Ordering::Acquire) {
                        continue;
                    }
                    return Poll::Pending;
                }
                _ => {}
            }
            let read = if this.held.is_empty() { this.read_in_place(cx, buf) } else { this.read_aside(cx) };
            if let Some(read) = read {
                return read;
            }
        }
    }
}

/// Measures how long nothing moved, in ticks.
#[derive(Debug)]
struct Ticker {
    tick: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    seen: (Wait, u64),
    ticks: u32,
}

impl Ticker {
    fn new(tick: Duration) -> Self {
        Self { tick, sleep: None, seen: (Wait::Other, 0), ticks: 0 }
    }
    /// For how long, at least, `now` has been as it is.
    fn poll(&mut self, cx: &mut Context<'_>, now: (Wait, u64)) -> Duration {
        if now != self.seen {
            (self.seen, self.ticks) = (now, 0);
        }
        let sleep = match &mut self.sleep {
            // polled once since it was set: it wakes this connection's task, which stays the same
            Some(sleep) if !sleep.is_elapsed() => return self.whole_ticks(),
            Some(sleep) => {
                sleep.as_mut().reset(Instant::now() + self.tick);
                sleep
            }
            None => self.sleep.insert(Box::pin(tokio::time::sleep(self.tick))),
        };
        let _ = sleep.as_mut().poll(cx);
        self.ticks = self.ticks.saturating_add(1);
        self.whole_ticks()
    }
    /// The first began before what is measured.
    fn whole_ticks(&self) -> Duration {
        self.tick * self.ticks.saturating_sub(1)
    }
}

#[derive(Debug)]
struct Linger {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Strict<T> {
    /// Whether the caller may be sending what nobody will read.
    fn is_interrupted(&self) -> bool {
        match self.state {
            State::Head => !self.held.is_empty(),
            State::Length(_) | State::Chunked(_) | State::Undecided => true,
            State::Refused | State::End | State::Broken => true,
            State::Bytes => false,
        }
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger =
            self.linger.get_or_insert_with(|| Linger { until: Box::pin(tokio::time::sleep(LINGER)), left: MAX_LINGER });
        while linger.left > 0 {
            let mut piece = [0; PIECE];
            let mut piece = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.inner).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => {
                    linger.left = linger.left.saturating_sub(piece.filled().len());
                }
                Poll::Ready(_) => break,
                Poll::Pending => return linger.until.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Strict<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        }
        if self.is_interrupted() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
