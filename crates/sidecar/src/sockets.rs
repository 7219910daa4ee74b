//! The sockets that a sidecar listens on: bound before anything else, or taken over from the sidecar that it replaces.
//!
//! It decides which socket of a predecessor is which of ours: the one with the same transport and the same address in the
//! configuration, port 0 included. It deliberately accepts nothing.

use crate::boot::{Bound, SidecarError, not_transparent};
use crate::dns;
use crate::doors::Doors;
use crate::listener::Outbound;
use fusewire_model::node::SidecarSettings;
use fusewire_telemetry::metrics::Direction;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

pub(crate) struct Sockets {
    pub(crate) outbound: Vec<(TcpListener, Outbound)>,
    pub(crate) inbound: Option<TcpListener>,
    pub(crate) dns: Vec<dns::Sockets>,
    /// For redirected connections.
    pub(crate) intercept: Vec<(TcpListener, Direction, Arc<Doors>)>,
    pub(crate) admin: Option<tokio::net::TcpListener>,
}

/// What a predecessor handed over, and nobody took yet. Empty for a sidecar that begins by itself.
#[derive(Default)]
pub(crate) struct Inherited(Vec<(String, OwnedFd)>);

impl Inherited {
    pub(crate) fn new(sockets: Vec<(String, OwnedFd)>) -> Self {
        Self(sockets)
    }

    /// The one of this name.
    pub(crate) fn take(&mut self, transport: &str, field: &str, address: SocketAddr) -> Option<OwnedFd> {
        let index = self.0.iter().position(|(name, _)| *name == named(transport, field, address))?;
        Some(self.0.remove(index).1)
    }

    fn tcp(&mut self, field: &str, address: SocketAddr) -> io::Result<TcpListener> {
        match self.take("tcp", field, address) {
            Some(socket) => Ok(socket.into()),
            None => fusewire_net::listen(address),
        }
    }

    /// One that takes connections for any address, also where the predecessor's did not. It stays so: for who comes redirected it
    /// is a socket like any other.
    fn transparent(&mut self, field: &str, address: SocketAddr) -> io::Result<TcpListener> {
        match self.take("tcp", field, address) {
            Some(socket) => {
                let listener = socket.into();
                fusewire_net::make_transparent(&listener)?;
                Ok(listener)
            }
            None => fusewire_net::listen_transparent(address),
        }
    }
}

/// Of port 0 there may be several, which only their field tells apart.
fn named(transport: &str, field: &str, address: SocketAddr) -> String {
    if address.port() == 0 { format!("{transport} {address} {field}") } else { format!("{transport} {address}") }
}

impl Sockets {
    /// All that `settings` name.
    ///
    /// # Errors
    /// The first that cannot be had, by its field.
    pub(crate) async fn bind(settings: &SidecarSettings, inherited: &mut Inherited) -> Result<Self, SidecarError> {
        let listen = |inherited: &mut Inherited, field, address| {
            inherited.tcp(field, address).map_err(|source| SidecarError::Listen { field, address, source })
        };
        let mut outbound = Vec::new();
        for o in &settings.outbound {
            let doors = Doors::new(settings.limits.connections);
            let to = Outbound { service: o.service.clone(), protocol: o.protocol, doors };
            outbound.push((listen(inherited, "outbound", o.listen)?, to));
        }
        let inbound = settings.inbound.as_ref().map(|i| listen(inherited, "inbound", i.listen)).transpose()?;
        let tproxy = settings.intercept.as_ref().is_some_and(|intercept| intercept.tproxy);
        let mut intercept = Vec::new();
        for (direction, field, at) in redirected(settings) {
            let listener = match direction {
                Direction::Inbound if tproxy => {
                    inherited.transparent(field, at).map_err(|source| not_transparent(at, source))?
                }
                _ => listen(inherited, field, at)?,
            };
            intercept.push((listener, direction, Doors::new(settings.limits.connections)));
        }
        let admin = match settings.admin.listen {
            Some(address) => {
                let failed = |source| SidecarError::Listen { field: "admin.listen", address, source };
                Some(tokio::net::TcpListener::from_std(listen(inherited, "admin.listen", address)?).map_err(failed)?)
            }
            None => None,
        };
        let mut dns = Vec::new();
        for address in settings.dns.iter().flat_map(|dns| dns.listen.iter().copied()) {
            let failed = |source| SidecarError::Listen { field: "dns.listen", address, source };
            dns.push(dns::Sockets::bind(address, inherited).await.map_err(failed)?);
        }
        Ok(Self { outbound, inbound, dns, intercept, admin })
    }

    /// Where they listen: what port 0 became.
    pub(crate) fn addresses(&self) -> Bound {
        Bound {
            outbound: self.outbound.iter().filter_map(|(l, _)| l.local_addr().ok()).collect(),
            inbound: self.inbound.as_ref().and_then(|l| l.local_addr().ok()),
            dns: self.dns.iter().filter_map(|s| s.address().ok()).collect(),
            intercept: [Direction::Outbound, Direction::Inbound].map(|direction| {
                let of = self.intercept.iter().filter(|(_, d, _)| *d == direction);
                of.filter_map(|(l, ..)| l.local_addr().ok()).collect()
            }),
            admin: self.admin.as_ref().and_then(|l| l.local_addr().ok()),
            socket: None,
        }
    }

    /// Handles of all of them for a successor, by the names that its [`Inherited`] looks for. `settings`: those they were
    /// bound by.
    pub(crate) fn handles(&self, settings: &SidecarSettings) -> io::Result<Vec<(String, OwnedFd)>> {
        let mut handles = Vec::new();
        let mut keep = |(transport, field), address, socket: BorrowedFd<'_>| {
            handles.push((named(transport, field, address), socket.try_clone_to_owned()?));
            io::Result::Ok(())
        };
        for (o, (listener, _)) in settings.outbound.iter().zip(&self.outbound) {
            keep(("tcp", "outbound"), o.listen, listener.as_fd())?;
        }
        for (i, listener) in settings.inbound.iter().zip(&self.inbound) {
            keep(("tcp", "inbound"), i.listen, listener.as_fd())?;
        }
        for ((_, field, at), (listener, ..)) in redirected(settings).zip(&self.intercept) {
            keep(("tcp", field), at, listener.as_fd())?;
        }
        for (address, listener) in settings.admin.listen.iter().zip(&self.admin) {
            keep(("tcp", "admin.listen"), *address, listener.as_fd())?;
        }
        for (address, sockets) in settings.dns.iter().flat_map(|dns| &dns.listen).zip(&self.dns) {
            for (transport, socket) in sockets.both() {
                keep((transport, dns::FIELD), *address, socket)?;
            }
        }
        Ok(handles)
    }
}

/// The listeners for redirected connections, in the order in which they are bound.
fn redirected(settings: &SidecarSettings) -> impl Iterator<Item = (Direction, &'static str, SocketAddr)> {
    settings.intercept.iter().flat_map(|intercept| {
        let outbound = intercept.outbound.iter().map(|at| (Direction::Outbound, "intercept.outbound", *at));
        outbound.chain(intercept.inbound.iter().map(|at| (Direction::Inbound, "intercept.inbound", *at)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_taken_once_and_only_by_its_transport_and_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let handle = || listener.as_fd().try_clone_to_owned().unwrap();
        let names = [named("tcp", "admin.listen", at(0)), named("tcp", "outbound", at(0)), named("udp", "dns", at(53))];
        let mut inherited = Inherited::new(names.into_iter().map(|name| (name, handle())).collect());
        assert!(inherited.take("tcp", "dns", at(53)).is_none());
        assert!(inherited.take("tcp", "outbound", at(0)).is_some(), "port 0 is a name like any other, of its field");
        assert!(inherited.take("tcp", "outbound", at(0)).is_none());
        assert!(inherited.take("udp", "dns", at(53)).is_some());
    }
}
