//! The socket below an HTTP/1.1 connection to an application: how much may come before an answer's head is whole, and how
//! it ends.
//!
//! hyper bounds a single head and reads past interim answers (1xx) without a word, each time afresh: an application that
//! never says anything else would be read forever. What it sends until the head is there is counted here instead.
//!
//! Whoever closes first waits for a minute with the port in hand (TIME_WAIT). Callers that give up in their thousands, and
//! answers behind which a connection cannot be used again ([`Gauge::spend`]), would use up the ports to the application so,
//! under everybody else: these connections are reset, and to an application that is still at work that is the plainer word.
//! Where the application ended first, the wait is its own.
//!
//! One on another machine may be gone without a word. While an answer's head is waited for, it is looked at once a second whether
//! that machine still says that it got what was sent ([`Silence`]).

use crate::bounds::Room;
use fusewire_net::{Heard, Silence};
use futures_util::task::AtomicWaker;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Interim answers and the head. Several times what a head may have, since a read takes the beginning of the body along.
const MAX_BEFORE_HEAD: usize = 512 << 10;

/// Between two looks at the other machine.
const LOOK: Duration = Duration::from_secs(1);

/// One connection's.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    waiting: AtomicBool,
    read: AtomicUsize,
    spent: AtomicBool,
    /// Nobody waits for the answer any more.
    left: AtomicBool,
    reader: AtomicWaker,
}

impl Gauge {
    /// A request is sent: from here on it counts.
    pub(crate) fn begin(&self) {
        self.read.store(0, Ordering::Relaxed);
        self.waiting.store(true, Ordering::Relaxed);
    }
    /// The head has come.
    pub(crate) fn end(&self) {
        self.waiting.store(false, Ordering::Relaxed);
    }
    /// The caller has gone: our half of the connection ends, and the application has its own to answer, or to close.
    pub(crate) fn hang_up(&self) {
        self.left.store(true, Ordering::Release);
        self.reader.wake();
    }
    /// Nothing that may still come is wanted: the connection ends with a reset.
    pub(crate) fn spend(&self) {
        self.spent.store(true, Ordering::Relaxed);
    }
}

/// # Drop behavior
/// Resets the connection if it is spent, or if something was written since something last came; never where the
/// application ended its half.
pub(crate) struct Metered {
    inner: TcpStream,
    gauge: Arc<Gauge>,
    /// Its place among the service's connections.
    _room: Option<Room>,
    is_far: bool,
    /// Of one that is far, since it was first waited for.
    watch: Option<Box<Watch>>,
    is_asked: bool,
    has_ended: bool,
    has_hung_up: bool,
}

struct Watch {
    next: Pin<Box<Sleep>>,
    silence: Silence,
}

impl Metered {
    pub(crate) fn new(inner: TcpStream, gauge: Arc<Gauge>, room: Option<Room>) -> Self {
        let is_far = inner.peer_addr().is_ok_and(|peer| !peer.ip().is_loopback());
        Self { inner, gauge, _room: room, is_far, watch: None, is_asked: false, has_ended: false, has_hung_up: false }
    }
    /// Ready once the other machine is gone.
    fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_far {
            return Poll::Pending;
        }
        let first = || Box::new(Watch { next: Box::pin(sleep(LOOK)), silence: Silence::default() });
        let Watch { next, silence } = &mut **self.watch.get_or_insert_with(first);
        loop {
            ready!(next.as_mut().poll(cx));
            let now = Instant::now();
            if silence.look(&self.inner, now) == Heard::Nothing {
                return Poll::Ready(());
            }
            next.as_mut().reset(now + LOOK);
        }
    }
    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.is_asked |= matches!(written, Poll::Ready(Ok(n)) if n > 0);
        written
    }
    fn is_spent(&self) -> bool {
        self.has_hung_up || self.gauge.spent.load(Ordering::Relaxed)
    }
    fn poll_hang_up(&mut self, cx: &mut Context<'_>) {
        self.gauge.reader.register(cx.waker());
        if !self.has_hung_up && self.gauge.left.load(Ordering::Acquire) {
            self.has_hung_up = true;
            // a socket ends its half at once, or is broken, which the read tells
            let _ = Pin::new(&mut self.inner).poll_shutdown(cx);
        }
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        if (self.is_asked || self.is_spent()) && !self.has_ended {
            fusewire_net::reset_on_close(&self.inner);
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let waiting = self.gauge.waiting.load(Ordering::Relaxed);
        if waiting && self.gauge.read.load(Ordering::Relaxed) > MAX_BEFORE_HEAD {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        if waiting {
            self.poll_hang_up(cx);
        }
        let (before, room) = (buf.filled().len(), buf.remaining());
        match Pin::new(&mut self.inner).poll_read(cx, buf) {
            Poll::Ready(read) => read?,
            Poll::Pending if waiting => {
                ready!(self.poll_lost(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            Poll::Pending => return Poll::Pending,
        }
        let came = buf.filled().len() - before;
        self.is_asked = false;
        self.has_ended |= came == 0 && room > 0;
        if waiting {
            self.gauge.read.fetch_add(came, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(written)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_spent() {
            return Poll::Ready(Ok(())); // an application that answers our end with its own would leave us to wait
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (Metered, Arc<Gauge>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let gauge = Arc::<Gauge>::default();
        (Metered::new(near, gauge.clone(), None), gauge, listener.accept().await.unwrap().0)
    }

    /// How the connection ended for the application, behind what it was asked.
    async fn end(mut application: TcpStream) -> Result<(), io::ErrorKind> {
        application.read_to_end(&mut Vec::new()).await.map(|_| ()).map_err(|e| e.kind())
    }

    async fn exchange(near: &mut Metered, application: &mut TcpStream) {
        near.write_all(b"ask").await.unwrap();
        application.read_exact(&mut [0; 3]).await.unwrap();
        application.write_all(b"answer").await.unwrap();
        near.read_exact(&mut [0; 6]).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_answered_is_closed_and_what_was_not_is_reset() {
        let (mut near, _, mut application) = pair().await;
        exchange(&mut near, &mut application).await;
        drop(near);
        assert_eq!(end(application).await, Ok(()));
        let (mut near, _, mut application) = pair().await;
        exchange(&mut near, &mut application).await;
        near.write_all(b"again").await.unwrap();
        drop(near);
        assert_eq!(end(application).await, Err(io::ErrorKind::ConnectionReset));
    }

    #[tokio::test]
    async fn a_spent_connection_is_reset_though_it_was_answered_and_without_an_end_before() {
        let (mut near, gauge, mut application) = pair().await;
        exchange(&mut near, &mut application).await;
        gauge.spend();
        near.shutdown().await.unwrap();
        assert_eq!(application.try_read(&mut [0; 1]).map_err(|e| e.kind()), Err(io::ErrorKind::WouldBlock), "no end");
        drop(near);
        assert_eq!(end(application).await, Err(io::ErrorKind::ConnectionReset));
    }

    #[tokio::test]
    async fn after_we_hung_up_the_application_hears_our_end_and_may_still_answer() {
        let (mut near, gauge, mut application) = pair().await;
        near.write_all(b"ask").await.unwrap();
        gauge.begin();
        let mut heard = Vec::new();
        let mut answer = [0; 6];
        let (read, ()) = tokio::join!(near.read_exact(&mut answer), async {
            gauge.hang_up();
            application.read_to_end(&mut heard).await.expect("an end, not a reset");
            application.write_all(b"answer").await.unwrap();
        });
        assert_eq!((read.unwrap(), heard.as_slice(), &answer), (6, b"ask".as_slice(), b"answer"));
    }

    #[tokio::test]
    async fn last_words_to_an_application_that_ended_its_half_arrive() {
        let (mut near, _, mut application) = pair().await;
        exchange(&mut near, &mut application).await;
        application.shutdown().await.unwrap();
        assert_eq!(near.read(&mut [0; 1]).await.unwrap(), 0);
        near.write_all(b"last words").await.unwrap();
        near.shutdown().await.unwrap();
        drop(near);
        let mut heard = Vec::new();
        application.read_to_end(&mut heard).await.expect("an end, not a reset");
        assert_eq!(heard, b"last words");
    }
}
