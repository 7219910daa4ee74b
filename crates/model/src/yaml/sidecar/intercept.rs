//! `intercept`: where a sidecar takes what was redirected to it.

use super::Listeners;
use crate::node::{Intercept, OWN_MARK, Unknown};
use crate::yaml::cursor::{Cursor, Fields};
use std::net::SocketAddr;

const UNKNOWN: [(&str, Unknown); 2] = [("allow", Unknown::Allow), ("refuse", Unknown::Refuse)];

pub(super) fn intercept(cursor: &Cursor<'_>, listeners: &mut Listeners) -> Intercept {
    let mut intercept =
        Intercept { outbound: Vec::new(), inbound: Vec::new(), tproxy: false, mark: None, unknown: Unknown::default() };
    let Some(mut fields) = cursor.map("a mapping such as {outbound: 127.0.0.1:15001, inbound: 0.0.0.0:15006}") else {
        return intercept;
    };
    let outbound = addresses(&mut fields, "outbound", listeners);
    let inbound = addresses(&mut fields, "inbound", listeners);
    if outbound.is_none() && inbound.is_none() {
        cursor.fault_with("must name a listener", "add `outbound: 127.0.0.1:15001` or `inbound: 0.0.0.0:15006`");
    }
    let written = fields.get("tproxy");
    intercept.tproxy = written.as_ref().and_then(Cursor::boolean).unwrap_or_default();
    if let Some(tproxy) = written.filter(|_| intercept.tproxy) {
        let reachable = |at: &SocketAddr| !at.ip().is_loopback();
        match &inbound {
            None => tproxy.fault_with("is for what comes in", "add `inbound: '[::]:15006'`"),
            Some(all) if !all.iter().all(reachable) => {
                tproxy.fault_with("does not lead to loopback", "listen on 0.0.0.0 or, for both families, on [::]");
            }
            Some(_) => {}
        }
    }
    if let Some(cursor) = fields.get("mark") {
        intercept.mark = cursor.parse("a mark such as 0x539", parse_mark);
        if intercept.mark == Some(OWN_MARK) {
            cursor.fault_with(format!("{OWN_MARK:#x} is what TPROXY's rules go by"), "take another");
        }
    }
    intercept.outbound = outbound.unwrap_or_default();
    intercept.inbound = inbound.unwrap_or_default();
    intercept.unknown = fields.get("unknown").and_then(|c| c.choice(&UNKNOWN)).unwrap_or_default();
    fields.finish();
    intercept
}

/// A mark of sockets (SO_MARK), such as 0x539 or 1337; 0 is none.
pub fn parse_mark(text: &str) -> Option<u32> {
    let mark = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    mark.ok().filter(|mark| *mark > 0)
}

/// `None`: not written.
fn addresses(fields: &mut Fields<'_>, name: &'static str, listeners: &mut Listeners) -> Option<Vec<SocketAddr>> {
    let list = fields.get(name)?.one_or_list("ip:port or a list of them");
    Some(list.iter().filter_map(|cursor| listeners.address(cursor)).collect())
}
