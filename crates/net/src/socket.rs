//! Listening sockets and the options that every connection gets.

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Pending connections the kernel holds for us; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How long sent bytes may stay unacknowledged before the connection is dead (TCP_USER_TIMEOUT): the time after which a
/// blackholed peer is noticed even with a request in flight.
const USER_TIMEOUT: Duration = Duration::from_secs(13);

/// A non-blocking listening socket, to be shared by all workers: one accept queue, so that none is dropped with a worker.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != std::net::IpAddr::from([0u16; 8]))?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Dials; the caller bounds the time.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    tune(&stream);
    Ok(stream)
}

/// No Nagle, keepalive, and a bound on unacknowledged data. An option that the platform lacks is left out: the
/// connection works without it.
pub fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
    #[cfg(not(target_os = "linux"))]
    let _ = USER_TIMEOUT;
}

/// Its close will be an RST, so that the peer learns of a failure rather than of an end.
pub fn reset_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
