//! `sidecar`: how one sidecar boots.

use super::cursor::{Cursor, Fields};
use super::mesh::Draft;
use super::place::Place;
use super::service::instance_id;
use crate::name::SpiffeId;
use crate::node::{AccessLog, AdminSettings, IdentityFiles, InboundListener, OutboundListener, SidecarSettings};
use crate::route::Authority;
use crate::service::Protocol;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// `None` has its fault.
pub(super) fn sidecar(cursor: &Cursor<'_>, draft: &mut Draft) -> Option<SidecarSettings> {
    let mut fields = cursor.map("a mapping")?;
    let mut listeners = Listeners::default();
    let workload = fields.get("workload").and_then(|c| c.name(|text| draft.identity(text)));
    let control = fields.get("control").and_then(|c| c.parse("host:port of the control plane", host_port));
    let outbound = fields.get("outbound");
    let settings = SidecarSettings {
        workload: match workload {
            Some(workload) => workload,
            None => default_workload(cursor, draft)?,
        },
        instance: fields.get("instance").and_then(|c| c.parse("the id of an instance", instance_id)),
        token_file: path(&mut fields, "token_file"),
        identity: fields.get("identity").and_then(|c| identity(&c)),
        data_dir: path(&mut fields, "data_dir"),
        outbound: outbound.map(|c| outbounds(&c, control.is_none(), &mut listeners, draft)).unwrap_or_default(),
        inbound: fields.get("inbound").and_then(|c| inbound(&c, &mut listeners)),
        admin: fields.get("admin").map(|c| admin(&c, &mut listeners)).unwrap_or_default(),
        access_log: fields.get("access_log").and_then(|c| c.choice(&ACCESS_LOGS)).unwrap_or_default(),
        discovery_timeout: duration(&mut fields, "discovery_timeout", 5_000, 10, 60_000),
        drain_timeout: duration(&mut fields, "drain_timeout", 30_000, 0, 3_600_000),
        workers: fields.get("workers").and_then(|c| usize::try_from(c.integer(1..=64)?).ok()).unwrap_or(1),
        control,
    };
    fields.finish();
    Some(settings)
}

const ACCESS_LOGS: [(&str, AccessLog); 4] =
    [("off", AccessLog::Off), ("errors", AccessLog::Errors), ("text", AccessLog::Text), ("json", AccessLog::Json)];

fn default_workload(cursor: &Cursor<'_>, draft: &Draft) -> Option<SpiffeId> {
    draft.identity("workload").map_err(|error| cursor.fault(error.to_string())).ok()
}

fn duration(fields: &mut Fields<'_>, name: &'static str, default: u64, least: u64, most: u64) -> Duration {
    let ms = Duration::from_millis;
    fields.get(name).and_then(|c| c.duration(ms(least)..=ms(most))).unwrap_or(ms(default))
}

fn host_port(text: &str) -> Option<String> {
    let authority = Authority::parse(text)?;
    authority.port().is_some_and(|port| port > 0).then(|| authority.to_string())
}

fn path(fields: &mut Fields<'_>, name: &'static str) -> Option<PathBuf> {
    fields.get(name).and_then(|c| file(&c))
}

fn file(cursor: &Cursor<'_>) -> Option<PathBuf> {
    cursor.parse("a path", |text| (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text)))
}

fn identity(cursor: &Cursor<'_>) -> Option<IdentityFiles> {
    let mut fields = cursor.map("a mapping of certificate, key and bundle")?;
    let certificate = fields.required("certificate", "the certificate chain, PEM").and_then(|c| file(&c));
    let key = fields.required("key", "the certificate's private key, PEM").and_then(|c| file(&c));
    let bundle = fields.required("bundle", "the certificates to verify peers against, PEM").and_then(|c| file(&c));
    fields.finish();
    Some(IdentityFiles { certificate: certificate?, key: key?, bundle: bundle? })
}

/// The addresses listened on so far. Port 0 is any free port, and never the same one.
#[derive(Default)]
struct Listeners(BTreeMap<SocketAddr, Place>);

impl Listeners {
    fn address(&mut self, cursor: &Cursor<'_>) -> Option<SocketAddr> {
        let address = cursor.parse("ip:port, such as 127.0.0.1:15001", |text| text.parse::<SocketAddr>().ok())?;
        match self.0.get(&address) {
            Some(first) if address.port() != 0 => {
                cursor.fault(format!("{address} is already listened on, see {}", first.line_text()));
                None
            }
            _ => {
                self.0.insert(address, cursor.place());
                Some(address)
            }
        }
    }
}

fn outbounds(cursor: &Cursor<'_>, alone: bool, listeners: &mut Listeners, draft: &mut Draft) -> Vec<OutboundListener> {
    let list = cursor.one_or_list("ip:port or a list of listeners");
    list.iter().filter_map(|cursor| outbound(cursor, alone, listeners, draft)).collect()
}

fn outbound(
    cursor: &Cursor<'_>,
    alone: bool,
    listeners: &mut Listeners,
    draft: &mut Draft,
) -> Option<OutboundListener> {
    if !cursor.is_map() {
        let listen = listeners.address(cursor)?;
        return Some(OutboundListener { listen, service: None, protocol: Protocol::default() });
    }
    let mut fields = cursor.map("a listener")?;
    let listen = fields.required("listen", "ip:port").and_then(|c| listeners.address(&c));
    let named = fields.get("service");
    let protocol = fields.get("protocol").and_then(|c| c.choice(&Protocol::NAMES)).unwrap_or_default();
    fields.finish();
    if named.is_none() && protocol == Protocol::Opaque {
        cursor.fault_with("must name a service, since bytes do not say where they go", "add `service: name`");
    }
    // with a control plane, services are defined there
    let service =
        named.and_then(|c| if alone { draft.service_ref(&c) } else { c.name(crate::name::ServiceName::parse) });
    Some(OutboundListener { listen: listen?, service, protocol })
}

fn inbound(cursor: &Cursor<'_>, listeners: &mut Listeners) -> Option<InboundListener> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if !cursor.is_map() {
        return Some(InboundListener { listen: listeners.address(cursor)?, app: loopback });
    }
    let mut fields = cursor.map("a listener")?;
    let listen = fields.required("listen", "ip:port").and_then(|c| listeners.address(&c));
    let app = fields.get("app").and_then(|c| c.parse("an IP address, such as 127.0.0.1", |text| text.parse().ok()));
    fields.finish();
    Some(InboundListener { listen: listen?, app: app.unwrap_or(loopback) })
}

fn admin(cursor: &Cursor<'_>, listeners: &mut Listeners) -> AdminSettings {
    let Some(mut fields) = cursor.map("a mapping of listen and socket") else { return AdminSettings::default() };
    let listen = fields.get("listen").and_then(|c| listeners.address(&c));
    let socket = path(&mut fields, "socket");
    fields.finish();
    AdminSettings { listen, socket }
}
