//! A pipe in the kernel that bytes move through from one socket to another (splice(2), Linux): what is copied are references
//! to pages, and no byte comes into this process.
//!
//! It deliberately belongs to no connection: a pipe is taken for as long as it holds something, and a thread keeps a few for
//! whoever is next. So connections that are idle hold none.
//!
//! Invariant: a pipe that is spare is empty.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpStream;

/// Empty pipes that a thread keeps, with two descriptors each.
const MAX_SPARE: usize = 8;
/// Pipes of this process at once; beyond it bytes are copied, which takes no descriptors.
const MAX_OPEN: usize = 512;
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// One pipe's place among [`MAX_OPEN`].
#[derive(Debug)]
struct Place;

impl Place {
    fn take() -> io::Result<Self> {
        let place = Self; // counted by its end, whatever comes of it
        if OPEN.fetch_add(1, Ordering::Relaxed) < MAX_OPEN {
            Ok(place)
        } else {
            Err(io::ErrorKind::QuotaExceeded.into())
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What [`Pipe::fill`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    Bytes(usize),
    /// Nothing that splice can take: the end, urgent data, or no data at all. Who reads is told which.
    Dry,
    /// The kernel does not do it.
    Refused,
}

#[derive(Debug)]
pub(crate) struct Pipe {
    ends: Option<Ends>,
    held: usize,
}

thread_local! {
    static SPARE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

impl Pipe {
    /// A spare one, or a new one.
    pub(crate) fn take() -> io::Result<Self> {
        let spare = SPARE.with(|spare| spare.borrow_mut().pop());
        let ends = spare.map_or_else(Ends::new, Ok)?;
        Ok(Self { ends: Some(ends), held: 0 })
    }

    /// Bytes in it.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Takes in at most `most` bytes of what has come at `from`; only while it is empty, so that it cannot be what is full.
    pub(crate) fn fill(&mut self, from: &TcpStream, most: usize) -> io::Result<Filled> {
        let Some(ends) = self.ends.as_ref().filter(|_| self.held == 0) else { return Ok(Filled::Dry) };
        let filled = ends.fill(from, most)?;
        if let Filled::Bytes(n) = filled {
            self.held = n;
        }
        Ok(filled)
    }

    /// Gives `to` what it takes at once; `WouldBlock` where that is nothing.
    pub(crate) fn drain(&mut self, to: &TcpStream) -> io::Result<()> {
        let Some(ends) = &self.ends else { return Ok(()) };
        match ends.drain(to, self.held)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            n => {
                self.held = self.held.saturating_sub(n);
                Ok(())
            }
        }
    }
}

/// # Drop behavior
/// An empty one is kept for the next; one with bytes in it is closed, and they are lost with their connection.
impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take().filter(|_| self.held == 0) else { return };
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MAX_SPARE {
                spare.push(ends);
            }
        });
    }
}

#[cfg(target_os = "linux")]
#[derive(Debug)]
struct Ends {
    read: std::os::fd::OwnedFd,
    write: std::os::fd::OwnedFd,
    _place: Place,
}

#[cfg(target_os = "linux")]
mod linux {
    use super::{Ends, Filled, Place};
    use rustix::io::Errno;
    use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
    use std::io;
    use tokio::net::TcpStream;

    const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

    impl Ends {
        pub(super) fn new() -> io::Result<Self> {
            let place = Place::take()?;
            let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            Ok(Self { read, write, _place: place })
        }

        pub(super) fn fill(&self, from: &TcpStream, most: usize) -> io::Result<Filled> {
            match splice(from, None, &self.write, None, most, FLAGS) {
                Ok(0) | Err(Errno::AGAIN | Errno::INTR) => Ok(Filled::Dry),
                Ok(n) => Ok(Filled::Bytes(n)),
                Err(Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {
                    Ok(Filled::Refused)
                }
                Err(e) => Err(e.into()),
            }
        }

        pub(super) fn drain(&self, to: &TcpStream, held: usize) -> io::Result<usize> {
            loop {
                match splice(&self.read, None, to, None, held, FLAGS) {
                    Err(Errno::INTR) => {}
                    said => return Ok(said?),
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
struct Ends;

#[cfg(not(target_os = "linux"))]
impl Ends {
    fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn fill(&self, _: &TcpStream, _: usize) -> io::Result<Filled> {
        Ok(Filled::Refused)
    }
    fn drain(&self, _: &TcpStream, _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Spare pipes of this thread.
#[cfg(test)]
pub(crate) fn spare() -> usize {
    SPARE.with(|spare| spare.borrow().len())
}
