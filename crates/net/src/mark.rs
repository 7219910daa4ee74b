//! The mark of whatever this process sends (SO_MARK, Linux), by which the rules of [`crate::redirect`] leave it alone where it
//! has no user or group of its own. It needs CAP_NET_ADMIN, or from Linux 5.17 CAP_NET_RAW.
//!
//! It deliberately says nothing of dials from a caller's address: these bear [`crate::redirect::ANSWERS`], by which their
//! answers are known, and the rules leave that alone too.
//!
//! Invariant: a socket that cannot bear the mark is not used, since what it sends would come back.

use socket2::{Domain, SockRef, Socket, Type};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// 0: none.
static MARK: AtomicU32 = AtomicU32::new(0);

/// From here on every socket that dials bears `mark`.
///
/// # Errors
/// The kernel's, which is asked once: nothing is marked then.
pub fn mark_all(mark: u32) -> io::Result<()> {
    let tried =
        Socket::new(Domain::IPV4, Type::DGRAM, None).or_else(|_| Socket::new(Domain::IPV6, Type::DGRAM, None))?;
    set(&tried, mark)?;
    MARK.store(mark, Ordering::Relaxed);
    Ok(())
}

/// Of a socket that has sent nothing yet.
pub(crate) fn put(socket: &impl AsFd) -> io::Result<()> {
    match MARK.load(Ordering::Relaxed) {
        0 => Ok(()),
        mark => set(socket, mark),
    }
}

#[cfg(target_os = "linux")]
fn set(socket: &impl AsFd, mark: u32) -> io::Result<()> {
    SockRef::from(socket).set_mark(mark)
}

#[cfg(not(target_os = "linux"))]
fn set(_: &impl AsFd, _: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
