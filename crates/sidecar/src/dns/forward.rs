//! Questions that are not the mesh's, asked of the resolver that the workload has anyway.
//!
//! Every question over UDP has a socket of its own, and with it a port that nobody can guess (RFC 5452, section 4.5). The
//! next server is asked where one does not answer in time, as the C library does.

use super::answer::{Verdict, is_answer_to};
use super::{MAX_MESSAGE, read, write};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

/// For one server's answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Servers of `resolv.conf` that are asked; the C library's MAXNS.
const MAX_SERVERS: usize = 3;
const PORT: u16 = 53;

/// As it came, so it goes on: an answer over UDP may be cut short, and who was told so asks again over TCP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Udp,
    Tcp,
}

/// `None`: nobody answered.
pub(super) async fn ask(question: &[u8], way: Way, servers: &[SocketAddr]) -> Option<Vec<u8>> {
    for server in servers {
        let said = async {
            match way {
                Way::Udp => udp(question, *server).await,
                Way::Tcp => tcp(question, *server).await,
            }
        };
        if let Ok(Ok(said)) = tokio::time::timeout(PATIENCE, said).await {
            return Some(said);
        }
    }
    None
}

/// The first answer by which the name exists, of all at once; never, where none says so.
pub(super) async fn known_to_any(question: &[u8], way: Way, servers: &[SocketAddr]) -> Vec<u8> {
    let one = |server: &SocketAddr| {
        let server = [*server];
        async move { ask(question, way, &server).await }
    };
    let mut all: FuturesUnordered<_> = servers.iter().map(one).collect();
    while let Some(said) = all.next().await {
        if let Some(said) = said.filter(|said| Verdict::of(said) == Verdict::Known) {
            return said;
        }
    }
    std::future::pending().await
}

/// A connection to the first that takes one, on which the question has been asked.
pub(super) async fn asked_over_tcp(question: &[u8], servers: &[SocketAddr]) -> Option<TcpStream> {
    for server in servers {
        let asking = async {
            let mut stream = fusewire_net::dial(server).await?;
            write(&mut stream, question).await?;
            io::Result::Ok(stream)
        };
        if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, asking).await {
            return Some(stream);
        }
    }
    None
}

async fn udp(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let socket = fusewire_net::datagrams(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if is_answer_to(&buffer[..length], question) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn tcp(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = fusewire_net::dial(server).await?;
    write(&mut stream, question).await?;
    let said = read(&mut stream).await?;
    if is_answer_to(&said, question) { Ok(said) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Those that programs here ask. A resolver on this machine would have its own questions redirected to us, and ask us in turn;
/// where it is systemd's, it says whom it asks.
pub(super) fn of_this_host() -> Vec<SocketAddr> {
    let read = |path| servers(&std::fs::read_to_string(path).unwrap_or_default());
    let all = read("/etc/resolv.conf");
    if all.iter().all(|server| !server.ip().is_loopback()) {
        return all;
    }
    let behind = read("/run/systemd/resolve/resolv.conf");
    let all: Vec<SocketAddr> = if behind.is_empty() { all } else { behind };
    let away: Vec<SocketAddr> = all.iter().filter(|server| !server.ip().is_loopback()).copied().collect();
    if away.len() < all.len() {
        tracing::warn!(
            "a resolver of /etc/resolv.conf on this machine is not asked: name whom it asks in sidecar.dns.upstream"
        );
    }
    away
}

/// The servers of a `resolv.conf`.
fn servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        let ip: IpAddr = words.next().filter(|_| is_server)?.parse().ok()?;
        Some(SocketAddr::new(ip, PORT))
    };
    resolv_conf.lines().filter_map(address).take(MAX_SERVERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_servers_of_resolv_conf_are_asked() {
        let text = "# made by nobody\nsearch shop.local\nnameserver 10.0.0.10\n nameserver\tfd00::1 \nnameserver nonsense\noptions \
                    ndots:5\nnameserver 1.2.3.4\nnameserver 5.6.7.8\n";
        let all: Vec<SocketAddr> = ["10.0.0.10:53", "[fd00::1]:53", "1.2.3.4:53"].map(|a| a.parse().unwrap()).into();
        assert_eq!(servers(text), all);
        assert!(servers("").is_empty());
    }
}
