//! `sidecar`: how one sidecar boots.

mod dns;
mod intercept;
mod limits;
mod probes;
mod register;
mod telemetry;

use super::cursor::{Cursor, Fields};
use super::mesh::Draft;
use super::place::Place;
use super::service::instance_id;
use crate::name::SpiffeId;
use crate::node::{AccessLog, AdminSettings, IdentityFiles, InboundListener, OutboundListener, SidecarSettings};
use crate::route::Authority;
use crate::service::Protocol;
pub use intercept::parse_mark;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What else `register` needs.
struct Peers {
    control: bool,
    /// `None`: not written; `Some(None)`: written, with a fault.
    inbound: Option<Option<SocketAddr>>,
}

/// `None` has its fault.
pub(super) fn sidecar(cursor: &Cursor<'_>, draft: &mut Draft) -> Option<SidecarSettings> {
    let mut fields = cursor.map("a mapping")?;
    let mut listeners = Listeners::default();
    let workload = fields.get("workload").and_then(|c| c.name(|text| draft.identity(text)));
    let control = fields.get("control").map(|c| controls(&c));
    let alone = control.is_none();
    let outbound = fields.get("outbound").map(|c| outbounds(&c, alone, &mut listeners, draft)).unwrap_or_default();
    let inbound = fields.get("inbound").map(|c| inbound(&c, &mut listeners));
    let intercept = fields.get("intercept").map(|c| intercept::intercept(&c, &mut listeners));
    let takes = intercept.as_ref().is_some_and(|intercept| !intercept.outbound.is_empty());
    let dns = fields.get("dns").and_then(|c| dns::dns(&c, takes, &mut listeners));
    let peers = Peers { control: control.is_some(), inbound: inbound.as_ref().map(|i| i.as_ref().map(|i| i.listen)) };
    let register = fields.get("register").and_then(|c| register::register(&c, &peers));
    // empty where a pod's node has no zone
    let zone = fields.get("zone").filter(|c| c.as_text() != Some(""));
    let zone = zone.and_then(|c| c.parse("1..253 characters", register::zone));
    let settings = SidecarSettings {
        workload: match workload {
            Some(workload) => workload,
            None => default_workload(cursor, draft)?,
        },
        instance: fields.get("instance").and_then(|c| c.parse("the id of an instance", instance_id)),
        zone: zone.or_else(|| register.as_ref()?.zone.clone()),
        token_file: path(&mut fields, "token_file"),
        trust_file: path(&mut fields, "trust_file"),
        identity: fields.get("identity").and_then(|c| identity(&c)),
        data_dir: path(&mut fields, "data_dir"),
        outbound,
        inbound: inbound.flatten(),
        dns,
        intercept,
        register,
        admin: fields.get("admin").map(|c| admin(&c, &mut listeners)).unwrap_or_default(),
        probes: fields.get("probes").map(|c| probes::probes(&c)).unwrap_or_default(),
        access_log: fields.get("access_log").and_then(|c| c.choice(&ACCESS_LOGS)).unwrap_or_default(),
        telemetry: fields.get("telemetry").map(|c| telemetry::telemetry(&c)).unwrap_or_default(),
        discovery_timeout: duration(&mut fields, "discovery_timeout", 5_000, 10, 60_000),
        drain_timeout: duration(&mut fields, "drain_timeout", 30_000, 0, 3_600_000),
        workers: fields.get("workers").and_then(|c| usize::try_from(c.integer(1..=64)?).ok()).unwrap_or(1),
        forwarded: fields.get("forwarded").and_then(|c| c.choice(&limits::FORWARDED)),
        limits: fields.get("limits").map(|c| limits::limits(&c)).unwrap_or_default(),
        control: control.unwrap_or_default(),
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

/// At most as many replicas.
const MAX_CONTROLS: usize = 64;

fn controls(cursor: &Cursor<'_>) -> Vec<String> {
    let list = cursor.one_or_list("host:port of the control plane, or a list of its replicas");
    if list.is_empty() || list.len() > MAX_CONTROLS {
        cursor.fault(format!("must name 1 to {MAX_CONTROLS} control planes, got {}", list.len()));
    }
    let mut all: Vec<String> = Vec::new();
    for one in list {
        let Some(address) = one.parse("host:port of the control plane", host_port) else { continue };
        if all.contains(&address) {
            one.fault(format!("{address} is in the list already"));
        } else {
            all.push(address);
        }
    }
    all
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
