//! What a sidecar tells about itself, and what may be told to it. `/live /ready /metrics`, and the application's probes in
//! Kubernetes (`/app-health/...`), to anybody who can reach the address; on the Unix socket, whose mode says who may speak to it, also `/config` and `/limits`, and `/breakers` to look at circuits
//! and to hold them.
//!
//! It decides which page is whose. It deliberately has no authentication of its own. Refusals on the socket are JSON:
//! what is wrong (`error`), where (`path`) and what to do (`remedy`), or what there is (`known`).

mod app_health;
mod breakers;
mod events;
mod overrides;
mod owner;
mod scopes;

use crate::clock;
use crate::mesh::Mesh;
use crate::snapshot::Whole;
use fusewire_identity::SpiffeId;
use fusewire_model::health::Health;
use fusewire_telemetry::admin::{Answer, Asked, json, metrics, not_found, text};
use fusewire_telemetry::metrics::Direction;
use http::{Method, StatusCode};
use serde_json::{Value, json as value};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// How much may be told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reveal {
    Health,
    All,
}

pub(crate) async fn answer(mesh: Arc<Mesh>, reveal: Reveal, asked: Asked) -> Answer {
    let circuit = asked.path.strip_prefix("/breakers/").and_then(Circuit::parse).filter(|_| reveal == Reveal::All);
    if asked.method != Method::GET && asked.method != Method::HEAD {
        return match &circuit {
            Some(circuit) => overrides::answer(&mesh, circuit, &asked),
            None => text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "read-only: use GET\n"),
        };
    }
    if let Some(path) = asked.path.strip_prefix("/app-health/") {
        let app = mesh.settings.inbound.as_ref().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |inbound| inbound.app);
        return app_health::answer(&mesh.settings.probes, app, path, &asked).await;
    }
    match (asked.path.as_str(), reveal) {
        ("/live", _) => text(StatusCode::OK, "text/plain", "live\n"),
        ("/ready", _) => ready(&mesh),
        ("/metrics", _) => metrics(&asked, mesh.metrics.encode()),
        ("/config", Reveal::All) => json(StatusCode::OK, &config(&mesh)),
        ("/limits", Reveal::All) => json(StatusCode::OK, &crate::bounds::view::limits(&mesh)),
        ("/breakers", Reveal::All) => json(StatusCode::OK, &breakers::all(&mesh)),
        ("/breakers/events", Reveal::All) => events::answer(&mesh, &asked),
        (_, Reveal::Health) => not_found("/live, /ready and /metrics"),
        (_, Reveal::All) => match circuit {
            Some(circuit) => breakers::explained(&mesh, &circuit),
            None => not_found(
                "/live, /ready, /metrics, /config, /limits, /breakers, /breakers/instance/SERVICE[/INSTANCE], \
                 /breakers/service/SERVICE, /breakers/route/RULE and \
                 /breakers/events?after=SEQ&follow=1",
            ),
        },
    }
}

/// What a path names: `{scope}/{service}[/{instance}]`, perhaps with `/override` after it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Circuit {
    scope: Scope,
    service: String,
    /// `None`: all of the service's.
    instance: Option<String>,
    part: Part,
}

/// Which kind of circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// One instance's, among its peers.
    Instance,
    /// Of a service or a rule of a route, which `service` then names.
    Whole(Whole),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Override,
}

impl Circuit {
    /// Names are percent-decoded: an instance may be called `10.0.0.7:80` or `a/b`.
    fn parse(path: &str) -> Option<Self> {
        let mut segments: Vec<&str> = path.split('/').collect();
        let part = if segments.len() > 2 && segments.last() == Some(&"override") {
            segments.pop();
            Part::Override
        } else {
            Part::Whole
        };
        let (scope, service, instance) = match segments[..] {
            [WORD, service] => (Scope::Instance, decoded(service)?, None),
            [WORD, service, instance] => (Scope::Instance, decoded(service)?, Some(decoded(instance)?)),
            ["service", service] => (Scope::Whole(Whole::Service), decoded(service)?, None),
            ["route", rule] => (Scope::Whole(Whole::Route), decoded(rule)?, None),
            _ => return None,
        };
        Some(Self { scope, service, instance, part })
    }
}

const WORD: &str = crate::watch::INSTANCE;

/// RFC 3986, 2.1. `None` for what is not percent-encoded UTF-8, or empty.
fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |b: u8| char::from(b).to_digit(16);
                u8::try_from(digit(rest.next()?)? * 16 + digit(rest.next()?)?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}

/// What is wrong with a request, where in it, and what to do.
struct Refusal<'a> {
    status: StatusCode,
    path: &'a str,
    error: String,
    remedy: &'a str,
}

fn refused(refusal: &Refusal<'_>) -> Answer {
    let Refusal { status, path, error, remedy } = refusal;
    let error = if path.is_empty() { error.clone() } else { format!("{path}: {error}") };
    json(*status, &value!({ "error": error, "path": path, "remedy": remedy }))
}

/// A name that nothing has, and what there is.
struct Unknown {
    error: String,
    known: Vec<String>,
}

impl Unknown {
    fn answer(&self) -> Answer {
        json(StatusCode::NOT_FOUND, &value!({ "error": self.error, "known": self.known }))
    }
}

/// Ready: there is a configuration, and a certificate where one is needed, and no drain has begun. What is not so.
pub(crate) fn missing(mesh: &Mesh) -> Option<&'static str> {
    if mesh.inbound_drain.has_begun() {
        Some("draining")
    } else if mesh.needs_identity() && mesh.tls().is_none() {
        Some("no certificate yet")
    } else if mesh.snapshot.load().version.is_empty() {
        Some("no configuration yet")
    } else {
        None
    }
}

fn ready(mesh: &Mesh) -> Answer {
    match missing(mesh) {
        None => text(StatusCode::OK, "text/plain", "ready\n"),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("not ready: {why}\n")),
    }
}

fn config(mesh: &Mesh) -> Value {
    let snapshot = mesh.snapshot.load();
    let identity = mesh.tls().map(|tls| {
        let expires = tls.identity.not_after();
        value!({
            "id": tls.identity.id.as_str(),
            "serial": tls.identity.serial(),
            "expires": expires,
            "remaining_seconds": expires.saturating_sub(clock::unix_seconds()),
            "roots": tls.identity.bundle().root_hashes(),
        })
    });
    let known = |found: bool| if found { "found" } else { "not-found" };
    let authorities: serde_json::Map<String, Value> =
        snapshot.authorities.iter().map(|(name, k)| (name.to_string(), known(k.found.is_some()).into())).collect();
    let services: Vec<Value> = snapshot
        .upstreams
        .iter()
        .filter(|(direction, _)| *direction == Direction::Outbound)
        .map(|(_, u)| {
            let instances: Vec<Value> = u
                .set
                .members()
                .map(|i| (i, u.all_down))
                .chain(u.resting.iter().map(|i| (i, true)))
                .map(|(i, down)| {
                    let sidecar = i.key.sidecar.as_ref();
                    value!({
                        "id": i.key.id,
                        "address": i.key.address.to_string(),
                        "sidecar": sidecar.map(|s| s.inbound.to_string()),
                        "identity": sidecar.map(|s| s.identity.to_string()),
                        "connections": i.connections(),
                        "health": down.then_some(Health::Down.as_str()),
                    })
                })
                .collect();
            value!({
                "name": u.name.as_str(),
                "protocol": u.protocol.as_str(),
                "policy": u.policy.name.as_str(),
                "instances": instances,
            })
        })
        .collect();
    let health = mesh.health.now();
    let inbound = snapshot.inbound.as_ref().map(|ports| {
        let ports: Vec<Value> = ports
            .iter()
            .map(|(port, p)| {
                let allow = match &p.allow {
                    fusewire_model::service::Allow::Mesh => value!("mesh"),
                    fusewire_model::service::Allow::Only(ids) => ids.iter().map(SpiffeId::as_str).collect(),
                };
                let verdict = health.get(port);
                value!({
                    "port": port, "service": p.upstream.name.as_str(), "allow": allow, "instance": p.instance,
                    "health": verdict.map_or(Health::Unchecked, |v| v.health).as_str(),
                    "health_detail": verdict.map(|v| v.detail.as_str()),
                })
            })
            .collect();
        ports
    });
    value!({
        "workload": mesh.settings.workload.as_str(),
        "instance": mesh.settings.instance,
        "program": env!("CARGO_PKG_VERSION"),
        "version": snapshot.version,
        "control": Some(mesh.settings.control.join(", ")).filter(|all| !all.is_empty()),
        "connected": mesh.metrics.config_connected.get() == 1,
        "identity": identity,
        "draining": mesh.inbound_drain.has_begun(),
        "open_connections": mesh.inbound_drain.open() + mesh.outbound_drain.open(),
        "authorities": authorities,
        "services": services,
        "inbound": inbound,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_circuit_with_whatever_names_there_are() {
        let circuit = |service: &str, instance: Option<&str>, part| {
            let instance = instance.map(str::to_owned);
            Some(Circuit { scope: Scope::Instance, service: service.into(), instance, part })
        };
        assert_eq!(Circuit::parse("instance/shop"), circuit("shop", None, Part::Whole));
        assert_eq!(Circuit::parse("instance/shop/10.0.0.7:80"), circuit("shop", Some("10.0.0.7:80"), Part::Whole));
        assert_eq!(Circuit::parse("instance/shop/a%2fb/override"), circuit("shop", Some("a/b"), Part::Override));
        assert_eq!(Circuit::parse("instance/shop/override"), circuit("shop", None, Part::Override));
        for nothing in [
            "",
            "instance",
            "instance/",
            "instance//x",
            "gateway/shop",
            "instance/shop/a/b",
            "instance/a%2",
            "instance/%zz",
            "instance/%ff",
        ] {
            assert_eq!(Circuit::parse(nothing), None, "{nothing}");
        }
    }
}
