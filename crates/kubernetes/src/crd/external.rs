//! `ExternalService`: what is served outside the cluster, as a service of the mesh.
//!
//! Its fields are those of a service in YAML, but for `policy` (a ResiliencePolicy targets it) and `allow` (an
//! AuthorizationPolicy does). A test holds them against the parser.

use super::schema::{Field, Schema, duration, integer, list, map, object, optional, required, text, word};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// `ip:port`; which are addresses the parser says.
const ADDRESS: &str = r"^([0-9.]{7,15}|\[[0-9A-Fa-f:.%]{2,45}\]):[0-9]{1,5}$";
/// A path within the trust domain, or a full SPIFFE ID.
const IDENTITY: &str = "^(spiffe://[a-z0-9.-]+/)?[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$";
const HOST: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?$";

pub(crate) fn spec() -> Schema {
    let host = text((1, 259), HOST, "A host, or host:port.");
    let mut fields = vec![optional(
        "hosts",
        list(
            host,
            (0, 16),
            "Further names by which the applications of all namespaces reach it, besides NAME.NAMESPACE. Names of Services \
             cannot be taken.",
        ),
    )];
    fields.extend(settings());
    object("A service outside the cluster, reachable as NAME.NAMESPACE.", fields).rule(
        "has(self.dns) || (has(self.instances) && size(self.instances) > 0)",
        "must have instances, or dns by which they are found",
    )
}

/// As a service's of YAML.
pub(crate) fn settings() -> Vec<Field> {
    vec![
        optional(
            "protocol",
            word(
                &["http", "http1", "http2", "opaque"],
                "What it speaks; http: HTTP/1.1 or HTTP/2, as the caller does. Default http.",
            ),
        ),
        optional(
            "identity",
            text(
                (1, 2048),
                IDENTITY,
                "Who its instances' sidecars must prove to be: a path such as partner/orders, or a SPIFFE ID. Default NAME.NAMESPACE.",
            ),
        ),
        optional("health", health()),
        optional("dns", dns()),
        optional("instances", list(instance(), (0, 256), "Its instances, besides those that dns finds.")),
    ]
}

fn instance() -> Schema {
    let value = text((0, 63), "^[A-Za-z0-9._-]*$", "The value.");
    let fields = vec![
        optional("id", text((1, 253), "^[!-~]+$", "Unique within the service. Default the address.")),
        required("address", text((1, 64), ADDRESS, "ip:port, where the application listens.")),
        optional(
            "sidecar",
            text(
                (1, 64),
                ADDRESS,
                "ip:port, where its sidecar takes mTLS. Default none: it is spoken to in clear, where the policy says plain: allow.",
            ),
        ),
        optional("identity", text((1, 2048), IDENTITY, "Whom its sidecar must prove to be. Default the service's.")),
        optional("weight", integer(1, 1_000, "Share of the traffic relative to its peers. Default 1.")),
        optional("labels", map(value, 32, "Labels, such as track: canary.")),
        optional("zone", text((1, 63), "^[A-Za-z0-9._-]+$", "Where it runs.")),
    ];
    object("One address that serves it.", fields)
        .rule("!has(self.identity) || has(self.sidecar)", "identity needs a sidecar, which proves it")
}

fn health() -> Schema {
    let fields = vec![
        optional("http", text((1, 2_048), "^/[!-~]*$", "The path that is asked; 2xx is well.")),
        optional(
            "grpc",
            text((0, 253), "^[A-Za-z0-9._/-]*$", "The gRPC service that is asked for; \"\" is the whole server."),
        ),
        optional("tcp", object("Whether it can be connected to; write {}.", Vec::new())),
        optional("port", integer(1, 65_535, "Default the instance's own.")),
        optional("interval", duration(Duration::from_millis(100), HOUR, "Between two checks. Default 5s.")),
        optional("timeout", duration(Duration::from_millis(10), 60 * SECOND, "When a check has failed. Default 1s.")),
        optional("up", integer(1, 100, "Good checks in a row until it is up. Default 2.")),
        optional("down", integer(1, 100, "Failed checks in a row until it is down. Default 3.")),
    ];
    object("How instances are checked. Default not at all.", fields).rule(
        "[has(self.http), has(self.grpc), has(self.tcp)].filter(x, x).size() == 1",
        "must have exactly one of http, grpc and tcp",
    )
}

fn dns() -> Schema {
    let fields = vec![
        required(
            "name",
            text((1, 254), "^[A-Za-z0-9_.-]+$", "What is asked for, such as db.example.com or _pg._tcp.example.com."),
        ),
        optional("records", word(&["address", "srv"], "A and AAAA, or SRV. Default address.")),
        optional("port", integer(1, 65_535, "The port of addresses; SRV records name their own.")),
        optional("server", text((1, 64), ADDRESS, "ip:port to ask. Default the system's.")),
        optional("refresh", duration(SECOND, HOUR, "The longest time between two questions. Default 30s.")),
    ];
    object("A name by which instances are found; they are spoken to in clear.", fields).rule(
        "(has(self.records) && self.records == 'srv') != has(self.port)",
        "port must be given, except with records: srv, which name their own",
    )
}
