//! Sockets that bear others' addresses (IP_TRANSPARENT, Linux): a listener that is handed connections for any destination, and
//! dials that come from a caller's address. Both need CAP_NET_ADMIN, or from Linux 5.17 CAP_NET_RAW.
//!
//! It decides which port a dial comes from. It deliberately sees to no routes: without the rules of [`crate::redirect`] what is
//! sent to the address of somebody else goes to them.
//!
//! Invariant: a dial's port is none that its caller is likely to call from itself: the application would have two connections
//! from one address and port, and a packet of the one could end the other.

use crate::socket::{first, listen_on, tune};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use tokio::net::{TcpSocket, TcpStream};

/// Systems choose their own from 32768 (Linux) or 49152 (RFC 6335, section 6) up; those below 1024 say something to some.
const FIRST_PORT: u16 = 1024;
const PORTS: u16 = 32768 - FIRST_PORT;
/// Ports that are looked at for one that is free. They are taken in turn, so that one is used again as late as can be.
const TRIES: usize = 64;

/// A listening socket as [`crate::listen`] makes it, that TPROXY may hand connections to. The local address of each is where it
/// was going.
pub fn listen_transparent(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    listen_on(address, set_transparent)
}

/// Lets a listening socket have connections for any address from here on.
pub fn make_transparent(listener: &std::net::TcpListener) -> io::Result<()> {
    set_transparent(&SockRef::from(listener))
}

/// Dials `to` from `source`, whoever's address that is; the caller bounds the time. Both are of one family.
pub async fn connect_from(source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = first(async || bound(source)?.connect(to).await).await?;
    tune(&stream);
    Ok(stream)
}

fn bound(source: IpAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(source, 0)), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    set_transparent(&socket)?;
    mark(&socket)?;
    // the kernel does not give the same two ends out twice; a port that waits for its last packets is free for another end
    socket.set_reuse_address(true)?;
    let mut said = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..TRIES {
        said = socket.bind(&SocketAddr::new(source, next_port()).into());
        if !matches!(&said, Err(e) if e.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
    }
    said.map(|()| TcpSocket::from_std_stream(socket.into()))
}

fn next_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(RandomState::new().hash_one(PORTS) as u16));
    FIRST_PORT + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS
}

#[cfg(target_os = "linux")]
fn set_transparent(socket: &Socket) -> io::Result<()> {
    match socket.domain()? {
        Domain::IPV4 => socket.set_ip_transparent_v4(true),
        _ => socket.set_ip_transparent_v6(true), // of a dual-stack socket both
    }
}

#[cfg(not(target_os = "linux"))]
fn set_transparent(_: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// So that the rules know the connection, and its answers.
#[cfg(target_os = "linux")]
fn mark(socket: &Socket) -> io::Result<()> {
    socket.set_mark(crate::redirect::ANSWERS)
}

#[cfg(not(target_os = "linux"))]
fn mark(_: &Socket) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_taken_in_turn_and_below_those_that_systems_choose() {
        let ports: Vec<u16> = (0..1000).map(|_| next_port()).collect();
        assert!(ports.iter().all(|port| (FIRST_PORT..32768).contains(port)), "{ports:?}");
        let in_turn = ports.windows(2).filter(|pair| pair[0].wrapping_add(1) == pair[1]).count();
        assert!(in_turn > 900, "{ports:?}"); // other tests of this process may take some between
    }
}
