//! Listening sockets, dials, and the options that every connection gets.

use crate::mark;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream, ToSocketAddrs, UdpSocket, lookup_host};

/// Pending connections the kernel holds for us; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How long sent bytes may stay unacknowledged before the connection is dead: the time after which a blackholed peer is
/// noticed even with a request in flight.
pub(crate) const UNANSWERED: Duration = Duration::from_secs(13);

/// EAFNOSUPPORT, for which `io::ErrorKind` has no name.
const NO_SUCH_FAMILY: i32 = 97;

/// Whether `address` cannot be had because this machine, or this pod, has no IPv6.
pub fn lacks_ipv6(address: SocketAddr, error: &io::Error) -> bool {
    let gone = error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(NO_SUCH_FAMILY);
    address.is_ipv6() && (address.ip().is_loopback() || address.ip().is_unspecified()) && gone
}

/// A non-blocking listening socket, to be shared by all workers: one accept queue, so that none is dropped with a worker.
/// `[::]` is every address of both families; where a kernel has no IPv6, of the other.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    listen_on(address, |_| Ok(()))
}

/// The same; `prepared` is called before a socket has its address.
pub(crate) fn listen_on(
    address: SocketAddr,
    prepared: impl Fn(&Socket) -> io::Result<()>,
) -> io::Result<std::net::TcpListener> {
    match bound(address, &prepared) {
        Err(e) if address.ip().is_unspecified() && lacks_ipv6(address, &e) => {
            bound(SocketAddr::from(([0, 0, 0, 0], address.port())), &prepared)
        }
        done => done,
    }
}

fn bound(address: SocketAddr, prepared: impl Fn(&Socket) -> io::Result<()>) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != std::net::IpAddr::from([0u16; 8]))?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    prepared(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// When a dial that has no answer yet is made again beside the first. A kernel repeats a SYN after a second only, which is
/// all the time that many callers give; a full backlog drops it for a moment.
const AGAIN: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(600)];

/// Dials; the caller bounds the time.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = first(|| dial_one(address)).await?;
    tune(&stream);
    Ok(stream)
}

/// Dials what a name stands for, each address once, until one takes it; the caller bounds the time.
pub async fn dial(name: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let mut said = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for address in lookup_host(name).await? {
        said = dial_one(address).await;
        if said.is_ok() {
            break;
        }
    }
    let stream = said?;
    tune(&stream);
    Ok(stream)
}

async fn dial_one(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    mark::put(&socket)?;
    socket.connect(address).await
}

/// Datagrams to and from `peer`, by a port that the kernel chooses; it drops what comes from elsewhere.
pub async fn datagrams(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any = if peer.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).await?;
    mark::put(&socket)?;
    socket.connect(peer).await?;
    Ok(socket)
}

/// What the first that ends says; none is given up for another, since the way may be long.
pub(crate) async fn first<T, F: Future<Output = T>>(dial: impl Fn() -> F) -> T {
    let later = async |wait| {
        tokio::time::sleep(wait).await;
        dial().await
    };
    tokio::select! {
        biased;
        said = dial() => said,
        said = later(AGAIN[0]) => said,
        said = later(AGAIN[1]) => said,
    }
}

/// No Nagle, and keepalive, which finds an idle connection to nobody within a minute. An option that the platform lacks is
/// left out: the connection works without it.
///
/// There is no TCP_USER_TIMEOUT: since Linux 5.11 it ends a connection whose reader is paused, though each probe of its
/// closed window is answered. [`crate::Silence`] tells the two apart.
pub fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    let keepalive = keepalive.with_retries(3);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

/// Besides [`tune`], to a process of ours, which reads whatever comes: a bound on unacknowledged bytes.
pub fn tune_peer(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(UNANSWERED));
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

/// Its close will be an RST, so that the peer learns of a failure rather than of an end.
pub fn reset_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Its close will be an end again.
pub fn end_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::{Instant, sleep};

    /// How long it takes, and how often is dialled, where the dials take so long.
    async fn dialled(long: [Duration; 3]) -> (Duration, usize) {
        let (count, began) = (AtomicUsize::new(0), Instant::now());
        first(|| sleep(long[count.fetch_add(1, Ordering::Relaxed)])).await; // paused clock
        (began.elapsed(), count.into_inner())
    }

    #[test]
    fn only_our_own_addresses_of_ipv6_may_be_missing() {
        let missing = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let lacks = |address: &str| lacks_ipv6(address.parse().unwrap(), &missing);
        assert!(lacks("[::1]:1") && lacks("[::]:1") && !lacks("[fd00::1]:1") && !lacks("127.0.0.1:1"));
        let unknown = io::Error::from_raw_os_error(NO_SUCH_FAMILY);
        assert!(lacks_ipv6("[::]:1".parse().unwrap(), &unknown));
        assert!(!lacks_ipv6("[::]:1".parse().unwrap(), &io::Error::from(io::ErrorKind::AddrInUse)));
    }

    /// Which would end a connection whose reader pauses.
    #[tokio::test]
    async fn only_to_processes_of_ours_are_unacknowledged_bytes_bounded() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            assert_eq!(socket.tcp_user_timeout().unwrap(), None);
            tune_peer(&stream);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNANSWERED));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_that_is_not_answered_is_made_again_beside_the_first() {
        const NEVER: Duration = Duration::from_secs(9999);
        const SOON: Duration = Duration::from_millis(3);
        assert_eq!(dialled([SOON, NEVER, NEVER]).await, (SOON, 1));
        assert_eq!(dialled([NEVER, SOON, NEVER]).await, (AGAIN[0] + SOON, 2));
        assert_eq!(dialled([NEVER, NEVER, SOON]).await, (AGAIN[1] + SOON, 3));
        let far = Duration::from_millis(350);
        assert_eq!(dialled([far, far, far]).await, (far, 2), "a long way costs nothing more");
    }
}
