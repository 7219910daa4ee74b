//! Bytes both ways between two streams, to the end of both.
//!
//! What is read is written from one buffer of the thread's, and a connection has one of its own only for as long as a write
//! has to wait. Where both streams are TCP sockets and much is on its way, it moves by [`Pipe`] instead, until the source
//! runs dry: below some 32 KiB at a time a pipe costs as much as the copy that it saves.
//!
//! What an end sent before it broke arrives, as it would without us between: an end that takes nothing more is still read
//! for what had come from it.
//!
//! It deliberately knows nothing of time: whoever waits for too long looks at [`Moved`], and now and then at [`Both::gone`].
//!
//! Invariants: bytes leave in the order in which they came; of each direction no more than [`BUFFER`] bytes, or [`MOST`] in a
//! pipe, are on the way; one end's half-close is the other's, after every byte before it, and no failure looks like one.

use crate::splice::{Filled, Pipe};
use std::cell::Cell;
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

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Near,
    Far,
}

/// Why the bytes ended before both ends had.
#[derive(Debug)]
pub struct Broken {
    /// Whose end failed.
    pub end: End,
    pub error: io::Error,
}

/// The two directions of one connection, and what was read of each and not yet written.
#[derive(Default)]
pub struct Both {
    there: Way,
    back: Way,
    /// An end takes nothing more; what had come from it is still on its way.
    broken: Option<Broken>,
}

impl Both {
    /// Copies until both ends have ended, or one has broken; between the same two streams each time.
    ///
    /// # Cancel safety
    /// It goes on where it was.
    pub fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        (near, near_socket): (&mut A, Socket<A>),
        (far, far_socket): (&mut B, Socket<B>),
        moved: &Moved,
    ) -> Poll<Result<(), Broken>>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        if self.takes(End::Far) {
            let (from, to) = ((&mut *near, near_socket), (&mut *far, far_socket));
            let there = self.there.poll(cx, from, to, (&moved.near, &moved.taken), self.broken.is_none());
            self.judge(cx, there, (End::Near, End::Far))?;
        }
        if self.takes(End::Near) {
            let (from, to) = ((&mut *far, far_socket), (&mut *near, near_socket));
            let back = self.back.poll(cx, from, to, (&moved.far, &moved.taken), self.broken.is_none());
            self.judge(cx, back, (End::Far, End::Near))?;
        }
        let (there, back) = (self.there.state == State::Done, self.back.state == State::Done);
        let is_over = (there || !self.takes(End::Far)) && (back || !self.takes(End::Near));
        match self.broken.take_if(|_| is_over) {
            Some(broken) => Poll::Ready(Err(broken)),
            None if is_over => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }

    fn takes(&self, end: End) -> bool {
        self.broken.as_ref().is_none_or(|broken| broken.end != end)
    }

    /// An end that cannot be read has nothing left; one that cannot be written to may.
    fn judge(
        &mut self,
        cx: &Context<'_>,
        polled: Poll<Result<(), Failed>>,
        (from, to): (End, End),
    ) -> Result<(), Broken> {
        let Poll::Ready(Err(failed)) = polled else { return Ok(()) };
        if let Some(broken) = self.broken.take() {
            return Err(broken); // and now the other, or the end of what had come
        }
        match failed {
            Failed::Read(error) => Err(Broken { end: from, error }),
            Failed::Write(error) => {
                self.broken = Some(Broken { end: to, error });
                cx.waker().wake_by_ref();
                Ok(())
            }
        }
    }

    /// Whether an end has said its last, so that nobody reads there.
    pub fn is_half_over(&self) -> bool {
        self.there.state != State::Open || self.back.state != State::Open
    }

    /// An end that has said its last and was reset since, by its socket. Only looking finds it: an ended socket is readable
    /// for ever, and wakes nobody.
    pub fn gone(&self, near: Option<&TcpStream>, far: Option<&TcpStream>) -> Option<End> {
        let is_gone = |way: &Way, socket: Option<&TcpStream>| {
            way.state != State::Open && socket.is_some_and(|socket| socket.peer_addr().is_err())
        };
        let near = is_gone(&self.there, near).then_some(End::Near);
        near.or_else(|| is_gone(&self.back, far).then_some(End::Far))
    }
}

/// On which side of a direction.
enum Failed {
    Read(io::Error),
    Write(io::Error),
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
    /// `says_end`: what follows the last byte is an end.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        (from, from_socket): (&mut R, Socket<R>),
        (to, to_socket): (&mut W, Socket<W>),
        (count, taken): (&AtomicU64, &AtomicU64),
        says_end: bool,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut turn = 0;
        while self.state == State::Open {
            ready!(self.poll_left(cx, to, taken)).map_err(Failed::Write)?;
            ready!(self.poll_drain(cx, to_socket(to), taken)).map_err(Failed::Write)?;
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let sockets = from_socket(from).filter(|_| self.is_bulk && to_socket(to).is_some());
            let read = match sockets {
                Some(socket) => ready!(self.poll_fill(cx, socket)).map_err(Failed::Read)?,
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
            ready!(self.poll_left(cx, to, taken)).map_err(Failed::Write)?;
            if says_end {
                ready!(Pin::new(to).poll_shutdown(cx)).map_err(Failed::Write)?;
            }
            self.state = State::Done;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads, and writes as much of it as goes at once.
    fn poll_copy<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<Result<usize, Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut scratch = SCRATCH.take();
        scratch.resize(BUFFER, 0); // once for each thread
        let mut buffer = ReadBuf::new(&mut scratch);
        let copied = match Pin::new(from).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(self.pass_on(cx, to, buffer.filled()).map_err(Failed::Write)),
            Poll::Ready(Err(e)) => Poll::Ready(Err(Failed::Read(e))),
            Poll::Pending => Poll::Pending,
        };
        SCRATCH.set(scratch);
        if copied.is_pending() && self.is_unflushed {
            ready!(Pin::new(to).poll_flush(cx)).map_err(Failed::Write)?;
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
