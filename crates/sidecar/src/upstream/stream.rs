//! A stream of bytes between sidecars: the two bodies of one HTTP/2 exchange.
//!
//! Not CONNECT, whose streams hyper ends alike whether they are over or have failed. A body can end badly, and HTTP/2 then
//! resets the stream, so that a reset of the application's connection arrives as one at the other end (RFC 9113, section 8.1);
//! and each body ends by itself, which is a half-close.
//!
//! Invariant: at most [`ROOM`] bytes wait in memory each way, however few were written at a time. Dropped before its end was said, a direction has failed.

use crate::http::unread::{Cut, Message, Unread};
use crate::upstream::tunnel::Io;
use bytes::{Buf, Bytes, BytesMut};
use http::Version;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const ROOM: usize = 64 << 10;

/// Both directions, as one of the two sidecars has them.
pub(crate) struct Stream {
    reads: Unread,
    /// Of the last frame.
    rest: Bytes,
    writes: Writes,
}

impl Stream {
    /// `of`: what the body that is read is the body of.
    pub(crate) fn new(reads: Incoming, of: Message, writes: Writes) -> Self {
        Self { reads: Unread::new(reads, Version::HTTP_2, of), rest: Bytes::new(), writes }
    }
}

/// What is written here is the body that is sent.
pub(crate) fn pipe() -> (Writes, Written) {
    let pipe = Arc::new(Mutex::default());
    (Writes(pipe.clone()), Written(pipe))
}

#[derive(Debug, Default)]
struct Pipe {
    bytes: BytesMut,
    end: Option<End>,
    /// A broken end was seen, and what came before it may leave.
    has_waited: bool,
    /// Nobody reads any more.
    unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    watcher: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Broken,
}

/// # Drop behavior
/// The body breaks off, unless it was ended.
#[derive(Debug)]
pub(crate) struct Writes(Arc<Mutex<Pipe>>);

/// # Drop behavior
/// The writer is told that nobody reads any more.
#[derive(Debug)]
pub(crate) struct Written(Arc<Mutex<Pipe>>);

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writes {
    /// The first word counts.
    fn end(&self, end: End) {
        let mut pipe = lock(&self.0);
        pipe.end.get_or_insert(end);
        let _ = pipe.reader.take().map(Waker::wake);
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        self.end(End::Broken);
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let mut pipe = lock(&self.0);
        pipe.unread = true;
        pipe.bytes = BytesMut::new();
        let _ = pipe.writer.take().map(Waker::wake);
        let _ = pipe.watcher.take().map(Waker::wake);
    }
}

impl Body for Written {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let mut pipe = lock(&self.0);
        if !pipe.bytes.is_empty() {
            let all = pipe.bytes.split().freeze();
            let _ = pipe.writer.take().map(Waker::wake);
            return Poll::Ready(Some(Ok(Frame::data(all))));
        }
        let end = pipe.end;
        match end {
            Some(End::Whole) => return Poll::Ready(None),
            // h2 throws away what a stream has not sent when it is reset, the answer's head too: the connection has a turn
            Some(End::Broken) if !std::mem::replace(&mut pipe.has_waited, true) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(End::Broken) => return Poll::Ready(Some(Err(Cut::Reset))),
            None => {}
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let pipe = lock(&self.0);
        pipe.end == Some(End::Whole) && pipe.bytes.is_empty()
    }
}

/// Resolves when the other side has let go of what is written before its end was said: it has reset the stream, or is gone,
/// which who only waits for somebody else would not notice.
#[derive(Debug)]
pub(crate) struct Gone(Arc<Mutex<Pipe>>);

impl Future for Gone {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut pipe = lock(&self.0);
        if pipe.unread && pipe.end != Some(End::Whole) {
            return Poll::Ready(());
        }
        pipe.watcher = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Io for Stream {
    fn abort(&self) {
        self.writes.end(End::Broken);
    }
    fn gone(&self) -> Option<Gone> {
        Some(Gone(self.writes.0.clone()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.reads.poll_frame(cx)) {
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
                Some(Err(cut)) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, cut))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let some = self.rest.len().min(into.remaining());
        into.put_slice(&self.rest[..some]);
        self.rest.advance(some);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut pipe = lock(&self.writes.0);
        if pipe.unread || pipe.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let some = bytes.len().min(ROOM - pipe.bytes.len());
        if some == 0 && !bytes.is_empty() {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if some > 0 {
            pipe.bytes.extend_from_slice(&bytes[..some]);
            let _ = pipe.reader.take().map(Waker::wake);
        }
        Poll::Ready(Ok(some))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writes.end(End::Whole);
        Poll::Ready(Ok(()))
    }
}
