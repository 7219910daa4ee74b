//! Bytes both ways between two streams, to the end of both.
//!
//! What is read is written from one buffer of the thread's, and a connection has one of its own only for as long as a write
//! has to wait. Where both streams are TCP sockets and much is on its way, it moves by [`Pipe`] instead, until the source
//! runs dry: below some 32 KiB at a time a pipe costs as much as the copy that it saves.
//!
//! It deliberately knows nothing of time: whoever waits for too long looks at [`Moved`].
//!
//! Invariants: bytes leave in the order in which they came; of each direction no more than [`BUFFER`] bytes, or [`MOST`] in a
//! pipe, are on the way; one end's half-close is the other's, after every byte before it.

use crate::splice::{Filled, Pipe};
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Bytes read at once.
const BUFFER: usize = 64 << 10;
/// Bytes in a pipe: some 16 pages or fragments of them (pipe(7)), which on a fast network are larger than a page.
const MOST: usize = 256 << 10;
/// Before so much has come a connection is not worth a pipe.
const BEGINNING: u64 = 256 << 10;
/// A read of so much says that more is waiting.
const MUCH: usize = 32 << 10;
/// A direction lets others have their turn after so much.
const TURN: usize = 1 << 20;

/// Bytes read so far from each end, for whoever looks while they move.
#[derive(Debug, Default)]
pub struct Moved {
    pub near: AtomicU64,
    pub far: AtomicU64,
    /// How often somebody took something: a slow reader is not an idle one.
    pub taken: AtomicU64,
}

/// The socket below a stream, if bytes go there as they are and none waits above it.
pub type Socket<T> = fn(&T) -> Option<&TcpStream>;

/// Copies until both ends have ended, or one has broken.
///
/// # Cancel safety
/// Dropped, it loses what was read and not yet written.
pub async fn copy_both<A, B>(
    (near, near_socket): (&mut A, Socket<A>),
    (far, far_socket): (&mut B, Socket<B>),
    moved: &Moved,
) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Way::default(), Way::default());
    poll_fn(|cx| {
        let there = there.poll(cx, (&mut *near, near_socket), (&mut *far, far_socket), (&moved.near, &moved.taken))?;
        let back = back.poll(cx, (&mut *far, far_socket), (&mut *near, near_socket), (&moved.far, &moved.taken))?;
        if there.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Everything was written, and the end is to be said.
    Ending,
    Done,
}

/// One direction.
#[derive(Default)]
struct Way {
    state: State,
    /// Read and not yet written, from `at` on.
    left: Vec<u8>,
    at: usize,
    pipe: Option<Pipe>,
    moved: u64,
    /// Much is on its way.
    is_bulk: bool,
    /// The kernel has no pipe for us.
    is_refused: bool,
    is_unflushed: bool,
}

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Way {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        (from, from_socket): (&mut R, Socket<R>),
        (to, to_socket): (&mut W, Socket<W>),
        (count, taken): (&AtomicU64, &AtomicU64),
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut turn = 0;
        while self.state == State::Open {
            ready!(self.poll_left(cx, to, taken))?;
            ready!(self.poll_drain(cx, to_socket(to), taken))?;
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let sockets = from_socket(from).filter(|_| self.is_bulk && to_socket(to).is_some());
            let read = match sockets {
                Some(socket) => ready!(self.poll_fill(cx, socket))?,
                None => 0,
            };
            // what splice does not take, a read says more of
            let read = if read > 0 { read } else { ready!(self.poll_copy(cx, from, to))? };
            if read == 0 {
                self.state = State::Ending;
            }
            count.fetch_add(read as u64, Ordering::Relaxed);
            self.moved += read as u64;
            self.is_bulk = read >= MUCH && self.moved >= BEGINNING && !self.is_refused;
            turn += read;
        }
        if self.state == State::Ending {
            ready!(self.poll_left(cx, to, taken))?;
            ready!(Pin::new(to).poll_shutdown(cx))?;
            self.state = State::Done;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads, and writes as much of it as goes at once.
    fn poll_copy<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut scratch = SCRATCH.take();
        scratch.resize(BUFFER, 0); // once for each thread
        let mut buffer = ReadBuf::new(&mut scratch);
        let copied = match Pin::new(from).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(self.pass_on(cx, to, buffer.filled())),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => Poll::Pending,
        };
        SCRATCH.set(scratch);
        if copied.is_pending() && self.is_unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        copied
    }

    /// Writes what goes at once, and keeps the rest; how many bytes there were.
    fn pass_on<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W, bytes: &[u8]) -> io::Result<usize> {
        let mut left = bytes;
        while !left.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, left) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(taken) => left = &left[taken?..],
                Poll::Pending => break,
            }
        }
        self.left = left.to_vec();
        self.is_unflushed = true;
        Ok(bytes.len())
    }

    fn poll_left<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        taken: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        while self.at < self.left.len() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.left[self.at..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.at += n,
            }
            taken.fetch_add(1, Ordering::Relaxed);
        }
        (self.left, self.at) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// How much is in the pipe now; 0: it is for [`Self::poll_copy`].
    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
        ready!(from.poll_read_ready(cx))?;
        let Ok(mut pipe) = Pipe::take() else {
            self.is_refused = true;
            return Poll::Ready(Ok(0));
        };
        // a socket that is dry is still ready for the read that follows, which says why, and waits if it must
        match from.try_io(Interest::READABLE, || pipe.fill(from, MOST)) {
            Ok(Filled::Bytes(n)) => {
                self.pipe = Some(pipe);
                Poll::Ready(Ok(n))
            }
            Ok(Filled::Refused) => {
                self.is_refused = true;
                Poll::Ready(Ok(0))
            }
            Ok(Filled::Dry) => Poll::Ready(Ok(0)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poll::Ready(Ok(0)),
            Err(e) => Poll::Ready(Err(e)),
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, to: Option<&TcpStream>, taken: &AtomicU64) -> Poll<io::Result<()>> {
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held() > 0) {
            let Some(to) = to else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                drained => {
                    drained?;
                    taken.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.pipe = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
