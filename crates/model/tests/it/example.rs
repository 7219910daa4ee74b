//! Everything that can be written, and what it then means.

use crate::{lines, parsed, source};
use expect_test::expect;
use fusewire_model::route::{HeaderValueMatch, PathMatch};
use fusewire_model::service::{Allow, Hold, Protocol};
use fusewire_model::yaml;
use std::time::Duration;

/// Each key of the schema at least once.
pub(crate) const EXAMPLE: &str = include_str!("example.yaml");

#[test]
fn nothing_written_is_an_empty_mesh() {
    for text in ["", "# only a comment\n", "---\n---\n", "services:\nroutes: {}\n", "~", "\u{feff}services: {}"] {
        let parsed = parsed(text);
        assert_eq!(parsed.mesh.trust_domain.as_str(), "fusewire.local");
        assert!(parsed.mesh.services.is_empty() && parsed.mesh.routes.is_empty() && parsed.sidecar.is_none());
    }
    assert!(yaml::parse(&[]).is_ok());
}

#[test]
fn the_example_means_what_it_says() {
    let parsed = parsed(EXAMPLE);
    let mesh = &parsed.mesh;
    let service = |name: &str| mesh.services.values().find(|s| s.name.as_str() == name).expect("the service");
    let inventory = service("inventory");
    assert_eq!(inventory.identity.as_str(), "spiffe://shop.local/stock/inventory");
    let Allow::Only(allowed) = &inventory.allow else { panic!("a list") };
    expect![[r#"
        spiffe://partner.example/orders
        spiffe://shop.local/catalog
        spiffe://shop.local/web
    "#]]
    .assert_eq(&lines(allowed));
    assert_eq!(inventory.instances[0].id, "10.0.0.7:8080");
    assert!(inventory.instances[0].sidecar.is_none());
    let blue = &inventory.instances[1];
    let sidecar = blue.sidecar.as_ref().expect("a sidecar");
    assert_eq!((blue.weight, sidecar.identity.as_str()), (2, "spiffe://shop.local/inventory-blue"));
    let other = inventory.instances[2].sidecar.as_ref().expect("a sidecar");
    assert_eq!(other.identity, inventory.identity);
    assert_eq!((&service("db").protocol, &service("db").allow), (&Protocol::Opaque, &Allow::Only(Vec::new())));
    assert_eq!((&service("catalog").protocol, &service("catalog").allow), (&Protocol::Http, &Allow::Mesh));

    let held = &mesh.overrides[0];
    assert_eq!((held.breaker, held.until), (Hold::Open, Some(1_795_370_400)));
    assert_eq!((mesh.overrides[1].breaker, &mesh.overrides[1].instance), (Hold::Closed, &None));
}

#[test]
fn routes_keep_their_order_and_normalise_what_they_match() {
    let mesh = parsed(EXAMPLE).mesh;
    let checkout = &mesh.routes[0];
    assert_eq!(lines(&checkout.authorities), "shop.example\nshop.example:8443\n");
    let names: Vec<_> = checkout.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["checkout[0]", "checkout[1]", "checkout[2]"]);
    let matches = &checkout.rules[0].matches;
    assert_eq!(matches.path, PathMatch::Prefix("/api".into()));
    assert_eq!(matches.methods, ["GET", "HEAD"]);
    let headers: Vec<_> = matches.headers.iter().map(|h| (h.name.as_str(), h.value.clone())).collect();
    let wanted = [
        ("x-canary", HeaderValueMatch::Exact("1".into())),
        ("x-debug", HeaderValueMatch::Present),
        ("x-old", HeaderValueMatch::Absent),
    ];
    assert_eq!(headers, wanted);
    assert_eq!(checkout.rules[1].matches.path, PathMatch::Exact("/health".into()));
    assert_eq!(lines(&mesh.routes[1].authorities), "catalog.example\n");
    assert_eq!(mesh.routes[1].rules.len(), 1);
}

#[test]
fn policies_start_from_the_defaults() {
    let mesh = parsed(EXAMPLE).mesh;
    let policy = |name: &str| mesh.policies.values().find(|p| p.name.as_str() == name).expect("the policy");
    expect![[r#"
        Policy {
            name: PolicyName(
                "inventory",
            ),
            target: None,
            breaker: BreakerConfig {
                mode: Observe,
                window: 20s,
                buckets: 20,
                consecutive: 0,
                min_calls: 20,
                failure_rate: 60,
                open_base: 1s,
                open_max: 90s,
                stable: 60s,
                jitter_percent: 10,
                probe_timeout: 2s,
                probe_concurrency: 2,
                slow_start: 0ns,
                unresponsive: Unresponsive {
                    timeouts: 3,
                    span: 2s,
                },
            },
            timeout: Timeouts {
                connect: 1s,
                request: Some(
                    5s,
                ),
                idle: Some(
                    300s,
                ),
            },
            plain: Allow,
        }
    "#]]
    .assert_debug_eq(policy("inventory"));
    let canary = policy("canary");
    assert_eq!(canary.timeout.connect, Duration::from_millis(250));
    assert_eq!(canary.breaker.min_calls, policy("inventory").breaker.min_calls);
    expect![[r#"
        Disabled
    "#]]
    .assert_debug_eq(&policy("legacy").breaker.mode);
}

#[test]
fn the_sidecar_section_is_complete() {
    expect![[r#"
        Some(
            SidecarSettings {
                workload: SpiffeId {
                    text: "spiffe://shop.local/web",
                    domain_len: 10,
                },
                instance: Some(
                    "web-1",
                ),
                control: Some(
                    "control.shop.local:15010",
                ),
                token_file: Some(
                    "/run/fusewire/token",
                ),
                identity: Some(
                    IdentityFiles {
                        certificate: "/etc/fusewire/cert.pem",
                        key: "/etc/fusewire/key.pem",
                        bundle: "/etc/fusewire/bundle.pem",
                    },
                ),
                data_dir: Some(
                    "/var/lib/fusewire",
                ),
                outbound: [
                    OutboundListener {
                        listen: 127.0.0.1:15001,
                        service: None,
                        protocol: Http,
                    },
                    OutboundListener {
                        listen: 127.0.0.1:15432,
                        service: Some(
                            ServiceName(
                                "db",
                            ),
                        ),
                        protocol: Opaque,
                    },
                ],
                inbound: Some(
                    InboundListener {
                        listen: 0.0.0.0:15006,
                        app: 127.0.0.2,
                    },
                ),
                admin: AdminSettings {
                    listen: Some(
                        127.0.0.1:15020,
                    ),
                    socket: Some(
                        "/run/fusewire/web.sock",
                    ),
                },
                access_log: Json,
                discovery_timeout: 2s,
                drain_timeout: 60s,
                workers: 2,
            },
        )
    "#]]
    .assert_debug_eq(&parsed(EXAMPLE).sidecar);
    let bare = parsed("sidecar: {}").sidecar.expect("a sidecar");
    expect![[r#"
        SidecarSettings {
            workload: SpiffeId {
                text: "spiffe://fusewire.local/workload",
                domain_len: 14,
            },
            instance: None,
            control: None,
            token_file: None,
            identity: None,
            data_dir: None,
            outbound: [],
            inbound: None,
            admin: AdminSettings {
                listen: None,
                socket: None,
            },
            access_log: Off,
            discovery_timeout: 5s,
            drain_timeout: 30s,
            workers: 1,
        }
    "#]]
    .assert_debug_eq(&bare);
}

#[test]
fn files_and_documents_add_up_in_their_order() {
    let sources = [
        source("a.yaml", "routes: {x: {authority: shop, to: a}}\n---\nservices: {a: }"),
        source("b.yaml", "services: {b: }\nroutes: {y: {authority: [shop, other], to: b}}\ntrust_domain: t"),
    ];
    let mesh = yaml::parse(&sources).expect("two files").mesh;
    let names: Vec<_> = mesh.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["x", "y"]);
    let identities: Vec<_> = mesh.services.values().map(|s| s.identity.as_str()).collect();
    assert_eq!(identities, ["spiffe://t/a", "spiffe://t/b"]);
}

#[test]
fn single_values_stand_for_lists_of_one() {
    let one = parsed("services: {a: }\nroutes: {r: {to: a, match: {method: get, path: /x}}}").mesh;
    let list = "services: {a: {}}\nroutes: {r: {authority: [r], rules: [{to: [{service: a}], match: {method: [GET], path: {exact: /x}}}]}}";
    assert_eq!(one, parsed(list).mesh);
}
