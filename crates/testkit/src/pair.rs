//! Two sidecars with one application between them, and the same application without: the shape of most traffic tests.
//!
//! Authority `shop` goes caller -> sidecar `web-1` -> mTLS -> sidecar `shop-1` -> application; `plain` goes through
//! `web-1` alone. Both share one policy.

use crate::mesh::{Mesh, Sidecar};
use crate::process::free_port;

/// The two authorities that lead to the application.
pub const BOTH: [&str; 2] = ["shop", "plain"];

#[derive(Debug)]
pub struct Pair {
    pub web: Sidecar,
    pub shop: Sidecar,
    /// Outbound listeners for bytes: to `shop`, and to `plain`. Only where the protocol is opaque.
    pub tcp: [u16; 2],
    pub mesh: Mesh,
}

/// What a test wants otherwise than by default.
#[derive(Debug, Clone, Default)]
pub struct Shape<'a> {
    /// The service's `protocol`; default http.
    pub protocol: &'a str,
    /// More of the policy that both have, such as `timeout: {request: 1s}`; one line.
    pub policy: &'a str,
    /// More lines of the mesh's YAML, under `services:` first.
    pub more: &'a str,
}

impl Pair {
    /// Before an application on `app`, with every default.
    pub fn new(binary: &str, app: u16) -> Self {
        Self::shaped(binary, app, &Shape::default())
    }
    pub fn shaped(binary: &str, app: u16, shape: &Shape<'_>) -> Self {
        let protocol = if shape.protocol.is_empty() { "http" } else { shape.protocol };
        let comma = if shape.policy.is_empty() { "" } else { ", " };
        let inbound = free_port();
        let yaml = format!(
            "policies:\n  both: {{plain: allow{comma}{policy}}}\nservices:\n  \
             shop: {{protocol: {protocol}, policy: both, allow: [web], instances: [{{id: shop-1, address: 127.0.0.1:{app}, sidecar: 127.0.0.1:{inbound}}}]}}\n  \
             plain: {{protocol: {protocol}, policy: both, instances: [{{id: plain-1, address: 127.0.0.1:{app}}}]}}\n{more}",
            policy = shape.policy,
            more = shape.more,
        );
        let mesh = Mesh::new(binary, &yaml);
        let shop = mesh.sidecar("shop", "shop-1", Some(inbound));
        let tcp = if protocol == "opaque" { [free_port(), free_port()] } else { [0, 0] };
        let listeners: String = BOTH
            .iter()
            .zip(tcp)
            .filter(|(_, port)| *port != 0)
            .map(|(service, port)| format!(", {{listen: 127.0.0.1:{port}, service: {service}, protocol: opaque}}"))
            .collect();
        let web = mesh.sidecar_listening("web", "web-1", None, &listeners, "");
        Self { web, shop, tcp, mesh }
    }
    /// The caller's port.
    pub fn port(&self) -> u16 {
        self.web.outbound
    }
    /// The line of `sidecar`'s access log for `path`, once it is written.
    pub fn logged(&self, sidecar: &Sidecar, path: &str) -> serde_json::Value {
        let mut found = None;
        crate::eventually(&format!("{} logs {path}", sidecar.name), || {
            found = sidecar.access_log().into_iter().find(|l| l["path"] == path);
            found.is_some()
        });
        found.unwrap_or_default()
    }
}
