//! Connections that the kernel redirected to us: where each was going, and what becomes of it.
//!
//! It decides by the original destination. Outbound: an instance's address is its service; any other may still be HTTP for an
//! authority that the mesh knows; what is left goes on as bytes to where it was going, or is refused (`unknown`). Inbound: the
//! port is the application's; peers' sidecars prove themselves as at the mTLS port, and callers without one are let in where
//! the policy says `plain: allow` and the service does not name who may call it. It deliberately opens no TLS but the mesh's
//! own, and rewrites nothing of what the mesh does not know.
//!
//! What came by an unknown port goes on to the address that it was for and not to loopback: redirection must not open what
//! listens there alone.
//!
//! Invariant: no connection leads back here. One whose destination is one of these listeners is refused, and so is one that
//! we made ourselves.

mod beyond;
mod hello;
mod inbound;
mod outbound;
mod passing;
mod speakers;

pub(crate) use beyond::Original;
pub(crate) use inbound::{admit_plain, enter};
pub(crate) use outbound::leave;
pub(crate) use passing::Passing;
pub(crate) use speakers::Speakers;

use crate::dns;
use crate::fault::Fault;
use crate::mesh::Mesh;
use fusewire_model::node::Unknown;
use fusewire_net::{canonical, original_destination};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

/// A caller that says nothing for so long waits for the server to speak first.
const SILENCE: Duration = Duration::from_millis(300);
/// How long a control plane that is away may hold up a connection that the mesh may know nothing about.
const AWAY: Duration = Duration::from_secs(1);
/// How long a connection may take to say what it speaks.
const FIRST_BYTES: Duration = Duration::from_secs(10);

/// Where `stream` was going. `None`: it was refused, and that is said.
fn destination(mesh: &Mesh, stream: &TcpStream, inbound: bool) -> Option<SocketAddr> {
    let (Ok(local), Ok(peer)) = (stream.local_addr().map(canonical), stream.peer_addr().map(canonical)) else {
        return None; // gone already
    };
    let by_tproxy = inbound && mesh.settings.intercept.as_ref().is_some_and(|intercept| intercept.tproxy);
    let original = if by_tproxy { Ok(local) } else { original_destination(stream) };
    let why = match original {
        Ok(to) if by_tproxy && is_own(mesh, to, local, inbound) => {
            "its destination is this listener: the rules have to be those of `fusewire intercept up --tproxy`"
        }
        Ok(to) if is_own(mesh, to, local, inbound) => "its destination is this listener",
        Ok(to) if inbound && !is_here(to.ip()) => "it came in for another machine, or for loopback from outside",
        Ok(to) if mesh.passing.has(peer, to) => {
            "it is the sidecar's own, which the rules must leave alone (fusewire intercept up --uid, --gid or --mark)"
        }
        Ok(to) => return Some(to),
        Err(_) => "it was not redirected",
    };
    mesh.metrics.intercept_refused.inc();
    if mesh.passing.may_log(mesh.clock.now()) {
        tracing::warn!(%peer, listener = %local, "an intercepted connection is refused: {why}");
    }
    fusewire_net::reset_on_close(stream);
    None
}

/// Whether it is an address of this machine that others reach it by: redirection comes before the kernel's own checks. The
/// kernel says so by letting a socket have it.
fn is_here(ip: IpAddr) -> bool {
    !ip.is_loopback() && !ip.is_unspecified() && std::net::UdpSocket::bind((ip, 0)).is_ok()
}

/// Whether a connection to `to` comes to one of our own listeners for redirected ones. Inbound every destination is an
/// address of this machine.
fn is_own(mesh: &Mesh, to: SocketAddr, local: SocketAddr, inbound: bool) -> bool {
    let Some(intercept) = &mesh.settings.intercept else { return false };
    let mut listeners = intercept.outbound.iter().chain(&intercept.inbound);
    let at_listener = to == local && !(inbound && intercept.tproxy); // by TPROXY every connection has the address it was for
    at_listener || listeners.any(|l| l.port() == to.port() && (inbound || to.ip().is_loopback() || l.ip() == to.ip()))
}

/// Whether there is nobody to ask. Before the first configuration that is no excuse: what the policy wants is not known.
pub(crate) fn is_away(mesh: &Mesh) -> bool {
    mesh.metrics.config_connected.get() == 0 && !mesh.snapshot.load().version.is_empty()
}

/// What `asked` says. A control plane that is away cuts nobody off from what the mesh never knew, and is not waited for long;
/// one that is slow is waited for, and what it does not say in time is not sent in clear instead.
pub(crate) async fn unless_away<T>(mesh: &Mesh, asked: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    if !is_away(mesh) {
        return asked.await;
    }
    match tokio::time::timeout(AWAY, asked).await {
        Ok(Err(Fault::DiscoveryTimeout)) | Err(_) => Err(Fault::NoRoute),
        Ok(said) => said,
    }
}

/// Whether a connection to `to`, which means nothing to the mesh, goes on there. Nobody is at a virtual address: its name has left
/// the mesh.
fn passes_unknown(mesh: &Mesh, to: SocketAddr) -> bool {
    let is_virtual = matches!(to.ip(), IpAddr::V4(ip) if dns::is_virtual(ip));
    !is_virtual && mesh.settings.intercept.as_ref().is_some_and(|intercept| intercept.unknown == Unknown::Allow)
}
