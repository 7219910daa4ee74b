//! `dns`: a resolver beside the application.

use super::Listeners;
use crate::node::Dns;
use crate::yaml::cursor::Cursor;
use std::net::{IpAddr, SocketAddr};

/// As many as the C library asks.
const MAX_SERVERS: usize = 3;
const PORT: u16 = 53;

/// `ip:port` or a list, or `{listen: ip:port or a list, upstream: [ip]}`. `None` has its fault.
/// `takes`: whether there is a listener at which its addresses lead anywhere.
pub(super) fn dns(cursor: &Cursor<'_>, takes: bool, listeners: &mut Listeners) -> Option<Dns> {
    if !takes {
        cursor.fault_with(
            "its addresses lead nowhere without `intercept.outbound`",
            "add `intercept: {outbound: 127.0.0.1:15001}`",
        );
    }
    let mut addresses = |cursor: &Cursor<'_>| -> Vec<SocketAddr> {
        let list = cursor.one_or_list("ip:port, such as 127.0.0.1:15053, or a list");
        list.iter().filter_map(|one| own(one, listeners)).collect()
    };
    if !cursor.is_map() {
        return Some(Dns { listen: addresses(cursor), upstream: Vec::new() });
    }
    let mut fields = cursor.map("ip:port or a mapping of listen and upstream")?;
    let listen = fields.required("listen", "ip:port, such as 127.0.0.1:15053").map(|c| addresses(&c));
    let upstream = fields.get("upstream").map(|c| servers(&c)).unwrap_or_default();
    fields.finish();
    Some(Dns { listen: listen?, upstream })
}

/// For the workload alone: a resolver for others is abused sooner or later.
fn own(cursor: &Cursor<'_>, listeners: &mut Listeners) -> Option<SocketAddr> {
    let address = listeners.address(cursor)?;
    if !address.ip().is_loopback() {
        cursor.fault_with(format!("must be a loopback address, got {}", address.ip()), "listen on 127.0.0.1 and [::1]");
        return None;
    }
    Some(address)
}

fn servers(cursor: &Cursor<'_>) -> Vec<SocketAddr> {
    let list = cursor.one_or_list("the resolvers that are asked first: an IP address or ip:port, or a list");
    if list.len() > MAX_SERVERS {
        cursor.fault(format!("must name at most {MAX_SERVERS} resolvers, got {}", list.len()));
    }
    list.iter().filter_map(|one| one.parse("an IP address or ip:port, such as 10.0.0.10", server)).collect()
}

fn server(text: &str) -> Option<SocketAddr> {
    let ip = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, PORT));
    text.parse().ok().or_else(ip)
}
