//! Where a redirected connection was going, as the kernel's connection tracking remembers it (SO_ORIGINAL_DST).

use socket2::SockRef;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::TcpStream;

/// The destination that the caller named, before a REDIRECT changed it. An error of kind `NotFound` where the connection
/// was never seen by connection tracking, and so was not redirected.
///
/// A dual-stack socket has IPv4 callers too, whose addresses are asked for as IPv4's.
pub fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let local = canonical(stream.local_addr()?);
    let socket = SockRef::from(stream);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() }?;
    let original = original.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok(canonical(original))
}

/// IPv4 addresses that came in IPv6's clothes, as themselves; flow and scope left out.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => address, // means nothing without its scope
        ip => SocketAddr::new(ip, address.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_form() {
        for (text, wanted) in [
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("[fd00::1%3]:80", "[fd00::1]:80"),
            ("[fe80::1%3]:80", "[fe80::1%3]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
        ] {
            assert_eq!(canonical(text.parse().unwrap()), wanted.parse().unwrap(), "{text}");
        }
    }
}
