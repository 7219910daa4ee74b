//! What a Service's port speaks.
//!
//! It decides by `appProtocol` first, which is meant for it, then by the prefix of the port's name, as other meshes do. What
//! says nothing is `http`: the sidecar looks at the first bytes then, and what is no HTTP goes on as bytes. It deliberately
//! knows no port numbers: 3306 may carry anything.

use fusewire_model::service::Protocol;

/// Of `appProtocol`, as Kubernetes (its own prefix), Gateway API and IANA name them.
const BY_APP_PROTOCOL: [(&str, Protocol); 23] = [
    ("http", Protocol::Http),
    ("kubernetes.io/ws", Protocol::Http),
    ("ws", Protocol::Http),
    ("websocket", Protocol::Http),
    ("http1", Protocol::Http1),
    ("http/1.1", Protocol::Http1),
    ("http2", Protocol::Http2),
    ("h2c", Protocol::Http2),
    ("kubernetes.io/h2c", Protocol::Http2),
    ("grpc", Protocol::Http2),
    ("https", Protocol::Opaque),
    ("kubernetes.io/wss", Protocol::Opaque),
    ("wss", Protocol::Opaque),
    ("tls", Protocol::Opaque),
    ("tcp", Protocol::Opaque),
    ("mysql", Protocol::Opaque),
    ("redis", Protocol::Opaque),
    ("mongo", Protocol::Opaque),
    ("mongodb", Protocol::Opaque),
    ("postgres", Protocol::Opaque),
    ("postgresql", Protocol::Opaque),
    ("kafka", Protocol::Opaque),
    ("amqp", Protocol::Opaque),
];

/// Of a port's name: the whole, or what stands before its first `-`.
const BY_NAME: [(&str, Protocol); 14] = [
    ("http", Protocol::Http),
    ("grpc", Protocol::Http2),
    ("http2", Protocol::Http2),
    ("h2c", Protocol::Http2),
    ("tcp", Protocol::Opaque),
    ("tls", Protocol::Opaque),
    ("https", Protocol::Opaque),
    ("mysql", Protocol::Opaque),
    ("redis", Protocol::Opaque),
    ("mongo", Protocol::Opaque),
    ("mongodb", Protocol::Opaque),
    ("postgres", Protocol::Opaque),
    ("postgresql", Protocol::Opaque),
    ("kafka", Protocol::Opaque),
];

pub(crate) fn protocol(app_protocol: Option<&str>, port_name: &str) -> Protocol {
    let found = |table: &[(&str, Protocol)], word: &str| {
        table.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, protocol)| *protocol)
    };
    let by_name = || found(&BY_NAME, port_name.split('-').next().unwrap_or_default());
    app_protocol.and_then(|word| found(&BY_APP_PROTOCOL, word)).or_else(by_name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_port_speaks_is_said_by_its_app_protocol_else_by_its_name() {
        let cases = [
            (None, "", Protocol::Http),
            (None, "web", Protocol::Http),
            (None, "http", Protocol::Http),
            (None, "http-admin", Protocol::Http),
            (None, "grpc-api", Protocol::Http2),
            (None, "https", Protocol::Opaque),
            (None, "tcp-x", Protocol::Opaque),
            (None, "httpx", Protocol::Http),
            (None, "tcpx", Protocol::Http),
            (Some("kubernetes.io/h2c"), "tcp", Protocol::Http2),
            (Some("kubernetes.io/ws"), "tcp", Protocol::Http),
            (Some("HTTPS"), "http", Protocol::Opaque),
            (Some("postgresql"), "", Protocol::Opaque),
            // not known here: the name may say
            (Some("example.com/own"), "grpc", Protocol::Http2),
        ];
        for (app_protocol, name, wanted) in cases {
            assert_eq!(protocol(app_protocol, name), wanted, "{app_protocol:?} {name}");
        }
    }
}
