//! Everything that can be written, and what it then means.

use crate::{lines, parsed, source};
use expect_test::expect;
use fusewire_model::health::{CheckKind, HealthCheck};
use fusewire_model::policy::Probe;
use fusewire_model::route::{PathEdit, PathMatch, Redirect, Scheme, ValueMatch};
use fusewire_model::service::{Allow, Dns, DnsRecords, Hold, Protocol};
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
fn checks_and_names_start_from_the_defaults() {
    let mesh = parsed(EXAMPLE).mesh;
    let service = |name: &str| mesh.services.values().find(|s| s.name.as_str() == name).expect("the service");
    let (inventory, db) = (service("inventory"), service("db"));
    assert_eq!(inventory.instances[2].zone.as_deref(), Some("eu-1a"));
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    let kind = CheckKind::Http { path: "/ready?deep=1".into() };
    let wanted = HealthCheck { kind, port: Some(9000), interval: s(2), timeout: ms(500), up: 3, down: 5 };
    assert_eq!(inventory.health, Some(wanted));
    let grpc = CheckKind::Grpc { service: "shop.v1.Catalog".into() };
    assert_eq!(service("catalog").health, Some(HealthCheck::new(grpc)));
    assert_eq!(db.health, Some(HealthCheck::new(CheckKind::Tcp)));
    assert_eq!(service("catalog-v2").health, None);

    let server = Some("127.0.0.1:5353".parse().expect("an address"));
    let name = "inventory.shop.example".into();
    assert_eq!(inventory.dns, Some(Dns { name, records: DnsRecords::Address { port: 8080 }, server, refresh: s(10) }));
    let name = "_pg._tcp.shop.example".into();
    assert_eq!(db.dns, Some(Dns { name, records: DnsRecords::Srv, server: None, refresh: s(30) }));
    let probes: Vec<_> = mesh.policies.values().filter(|p| p.probe == Probe::Check).map(|p| p.name.as_str()).collect();
    assert_eq!(probes, ["inventory"]);
}

/// For writers that give each key one type, such as custom resources of Kubernetes.
#[test]
fn what_a_word_says_a_mapping_can_say_too() {
    for (word, mapping) in [
        ("breaker: {service: {throttle: off}}", "breaker: {service: {throttle: {k: 0}}}"),
        ("breaker: {service: {open: off}}", "breaker: {service: {open: {on: off}}}"),
        ("breaker: {instance: {peer: off}}", "breaker: {instance: {peer: {delta: 0}}}"),
        ("lb: {policy: maglev, key: path}", "lb: {policy: maglev, key: {type: path}}"),
        ("limit: {rate: {requests: 1, key: peer}}", "limit: {rate: {requests: 1, key: {type: peer}}}"),
        ("retry: off", "retry: {attempts: 1}"),
        ("fallback: empty", "fallback: [{type: empty}]"),
    ] {
        let of = |policy: &str| parsed(&format!("policies: {{p: {{{policy}}}}}")).mesh;
        assert_eq!(of(word), of(mapping), "{word}");
    }
    let of = |health: &str| parsed(&format!("services: {{s: {{health: {health}}}}}")).mesh;
    assert_eq!(of("tcp"), of("{tcp: {}}"));
}

#[test]
fn a_check_is_written_in_few_words() {
    for (text, kind) in [
        ("tcp", CheckKind::Tcp),
        ("{tcp: }", CheckKind::Tcp),
        ("{grpc: }", CheckKind::Grpc { service: String::new() }),
        ("{grpc: \"\"}", CheckKind::Grpc { service: String::new() }),
        ("{http: /}", CheckKind::Http { path: "/".into() }),
    ] {
        let mesh = parsed(&format!("services: {{a: {{health: {text}}}}}")).mesh;
        let found: Vec<_> = mesh.services.values().map(|s| s.health.clone()).collect();
        assert_eq!(found, [Some(HealthCheck::new(kind))], "{text}");
    }
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
    let wanted =
        [("x-canary", ValueMatch::Exact("1".into())), ("x-debug", ValueMatch::Present), ("x-old", ValueMatch::Absent)];
    assert_eq!(headers, wanted);
    assert_eq!(checkout.rules[1].matches.path, PathMatch::Exact("/health".into()));
    assert_eq!(lines(&mesh.routes[1].authorities), "catalog.example\n");
    assert_eq!(mesh.routes[1].rules.len(), 1);
}

#[test]
fn routes_say_what_is_changed_on_the_way() {
    let mesh = parsed(EXAMPLE).mesh;
    let [rule, moved] = mesh.routes[2].rules.as_slice() else { panic!("two rules") };
    expect![[r#"
        [
            QueryMatch {
                name: "debug",
                value: Exact(
                    "1",
                ),
            },
            QueryMatch {
                name: "lang",
                value: Regex(
                    Pattern(
                        "de|en",
                    ),
                ),
            },
            QueryMatch {
                name: "old",
                value: Absent,
            },
        ]
    "#]]
    .assert_debug_eq(&rule.matches.query);
    expect![[r#"
        Some(
            Filters {
                edits: Edits {
                    request: HeaderEdits {
                        set: [
                            (
                                "a",
                                "1",
                            ),
                            (
                                "x-via",
                                "mesh",
                            ),
                        ],
                        add: [
                            (
                                "x-tag",
                                "b",
                            ),
                        ],
                        remove: [
                            "cookie",
                            "x-secret",
                        ],
                    },
                    response: HeaderEdits {
                        set: [],
                        add: [],
                        remove: [
                            "server",
                        ],
                    },
                },
                host: Some(
                    Authority(
                        "catalog.example",
                    ),
                ),
                path: Some(
                    Prefix(
                        "/",
                    ),
                ),
                redirect: None,
                mirrors: [
                    Mirror {
                        service: ServiceName(
                            "inventory",
                        ),
                        share: Ratio(
                            25000,
                        ),
                    },
                    Mirror {
                        service: ServiceName(
                            "catalog-v2",
                        ),
                        share: Ratio(
                            1000000,
                        ),
                    },
                ],
                cors: Some(
                    Cors {
                        origins: [
                            Origin {
                                text: "https://*.shop.example",
                                parts: Some(
                                    (
                                        Https,
                                        "*.shop.example",
                                        443,
                                    ),
                                ),
                            },
                        ],
                        methods: [
                            "GET",
                            "PUT",
                        ],
                        headers: [
                            "x-a",
                        ],
                        expose: [
                            "x-b",
                        ],
                        credentials: true,
                        max_age: 3600,
                    },
                ),
            },
        )
    "#]]
    .assert_debug_eq(&rule.filters);
    expect![[r#"
        [
            Backend {
                service: Some(
                    ServiceName(
                        "catalog",
                    ),
                ),
                weight: 9,
                edits: Some(
                    Edits {
                        request: HeaderEdits {
                            set: [
                                (
                                    "x-track",
                                    "stable",
                                ),
                            ],
                            add: [],
                            remove: [],
                        },
                        response: HeaderEdits {
                            set: [],
                            add: [],
                            remove: [],
                        },
                    },
                ),
            },
            Backend {
                service: Some(
                    ServiceName(
                        "catalog-v2",
                    ),
                ),
                weight: 1,
                edits: Some(
                    Edits {
                        request: HeaderEdits {
                            set: [],
                            add: [],
                            remove: [],
                        },
                        response: HeaderEdits {
                            set: [],
                            add: [
                                (
                                    "x-track",
                                    "canary",
                                ),
                            ],
                            remove: [],
                        },
                    },
                ),
            },
            Backend {
                service: None,
                weight: 0,
                edits: None,
            },
        ]
    "#]]
    .assert_debug_eq(&rule.backends);
    let path = Some(PathEdit::Whole("/moved".into()));
    let host = fusewire_model::route::Authority::parse("new.example");
    let wanted = Redirect { scheme: Some(Scheme::Https), host, port: Some(8443), path, status: 308 };
    assert_eq!((moved.redirect(), moved.backends.len()), (Some(&wanted), 0));
    assert!(mesh.routes[..2].iter().flat_map(|route| &route.rules).all(|rule| rule.filters.is_none()));
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
                window_calls: 100,
                consecutive: 0,
                min_calls: 20,
                failure_rate: 60,
                open_base: 1s,
                open_factor: 1500,
                open_max: 90s,
                stable: 60s,
                jitter_percent: 10,
                probe_timeout: 2s,
                half_open: Rate(
                    Round {
                        permits: 10,
                        concurrency: 2,
                        max_wait: Some(
                            30s,
                        ),
                        then: Closed,
                    },
                ),
                probe_concurrency: 2,
                slow_start: 0ns,
                unresponsive: Unresponsive {
                    timeouts: 3,
                    span: 2s,
                },
                slow: Some(
                    SlowCalls {
                        over: 1s,
                        rate: 80,
                    },
                ),
                peer: PeerOutlier {
                    delta: 10,
                    z: 5,
                },
            },
            service: ServiceConfig {
                mode: Observe,
                throttle: Some(
                    ThrottleConfig {
                        k_percent: 150,
                    },
                ),
                open: Any,
                failure_rate: 60,
                min_calls: 50,
                window: 20s,
                recent_rate: 30,
                open_base: 1s,
                open_max: 60s,
                stable: 60s,
                jitter_percent: 10,
                permits: 20,
                concurrency: 5,
                probe_timeout: 5s,
                ramp: 20s,
            },
            scope: Route,
            exhausted: Spill(
                40,
            ),
            classify: ClassRules {
                hard: [
                    500..=500,
                    505..=511,
                ],
                soft: [
                    429..=429,
                ],
                ok: [
                    501..=501,
                ],
                grpc_hard: [
                    13,
                    2,
                ],
                grpc_soft: [
                    14,
                ],
                grpc_ok: [
                    15,
                ],
            },
            balancing: Balancing {
                algorithm: RingHash(
                    Header(
                        "x-user",
                    ),
                ),
                zone: Prefer,
                subset: Tenth,
            },
            limits: Limits {
                inbound: InboundLimits {
                    concurrency: QueueGuard(
                        GuardConfig {
                            target: 200ms,
                            queue: 20ms,
                            min: 8,
                        },
                    ),
                    rate: Some(
                        RateLimit {
                            rate: RateConfig {
                                requests: 1000,
                                per: 1s,
                                burst: 100,
                            },
                            key: Some(
                                Peer,
                            ),
                        },
                    ),
                },
                bulkhead: BulkheadConfig {
                    max_connections: 100,
                    max_pending: 50,
                    max_requests: 500,
                },
                rate: Some(
                    RateLimit {
                        rate: RateConfig {
                            requests: 10,
                            per: 60s,
                            burst: 5,
                        },
                        key: Some(
                            Header(
                                "x-tenant",
                            ),
                        ),
                    },
                ),
            },
            priority: Critical,
            retry: Retry {
                policy: Policy {
                    attempts: 4,
                    on: On(
                        127,
                    ),
                    backoff: BackoffPolicy {
                        initial: 10ms,
                        max: 1s,
                        jitter: Full,
                    },
                },
                per_try_timeout: Some(
                    1s,
                ),
                budget: BudgetConfig {
                    start: 5000,
                    cap: 50000,
                    per_success: 100,
                    per_second: 500,
                    active_percent: 30,
                    active_min: 5,
                },
                repeat: Some(
                    Idempotent,
                ),
                hedge: HedgePolicy {
                    extra: 1,
                    min_delay: 20ms,
                },
            },
            fallback: [
                Stale {
                    max_age: 300s,
                },
                Service(
                    ServiceName(
                        "catalog",
                    ),
                ),
                Static(
                    StaticAnswer {
                        status: 203,
                        headers: [
                            (
                                "content-type",
                                "application/json",
                            ),
                        ],
                        body: "{\"items\":[]}",
                        grpc_status: 14,
                    },
                ),
            ],
            timeout: Timeouts {
                connect: 1s,
                request: Some(
                    5s,
                ),
                idle: Some(
                    300s,
                ),
            },
            plain: PlainRules {
                callers: Some(
                    Allow,
                ),
                instances: Some(
                    Allow,
                ),
            },
            probe: Check,
            sample: Ratio(
                25000,
            ),
        }
    "#]]
    .assert_debug_eq(policy("inventory"));
    let summary = ["catalog", "fast", "legacy", "canary"].map(|name| {
        let p = policy(name);
        let retry = (p.retry.policy.attempts, p.retry.policy.on, p.retry.repeat, p.retry.hedge.extra);
        format!("{name}: {:?}; {:?}; {retry:?}; {:?}", p.balancing.algorithm, p.limits.inbound.concurrency, p.fallback)
    });
    expect![[r#"
        catalog: LeastRequest; Aimd(AimdConfig { initial: 30, min: 10, max: 300, backoff: 0.9, timeout: 2s }); (3, On(31), None, 1); [Fail { status: 504, retry_after: Some(5s) }]
        fast: Maglev(Path); Gradient2(Gradient2Config { initial: 30.0, min: 10.0, max: 300.0, smoothing: 0.2, queue: 4.0, long_window: 600, warmup: 10, tolerance: 1.5 }); (3, On(1), Some(Unsafe), 0); [Empty]
        legacy: RoundRobin; Off; (1, On(31), None, 0); []
        canary: PeakEwma; QueueGuard(GuardConfig { target: 100ms, queue: 50ms, min: 4 }); (3, On(31), None, 0); []
    "#]].assert_eq(&lines(&summary));
    let shares = ["inventory", "fast", "canary"].map(|name| policy(name).sample.millionths());
    assert_eq!(shares, [25_000, 1, 10_000]);
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
                zone: Some(
                    "eu-1b",
                ),
                control: [
                    "control-1.shop.local:15010",
                    "control-2.shop.local:15010",
                ],
                token_file: Some(
                    "/run/fusewire/token",
                ),
                trust_file: Some(
                    "/run/fusewire/ca.pem",
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
                dns: Some(
                    Dns {
                        listen: [
                            127.0.0.1:15053,
                        ],
                        upstream: [
                            10.0.0.10:53,
                            [fd00::10]:5353,
                        ],
                    },
                ),
                intercept: Some(
                    Intercept {
                        outbound: [
                            127.0.0.1:15011,
                            [::1]:15011,
                        ],
                        inbound: [
                            0.0.0.0:15016,
                        ],
                        tproxy: true,
                        mark: Some(
                            1337,
                        ),
                        unknown: Refuse,
                    },
                ),
                register: Some(
                    Register {
                        address: 10.0.0.9,
                        ports: {
                            8080: ServiceName(
                                "web",
                            ),
                            9090: ServiceName(
                                "web-admin",
                            ),
                        },
                        id: Some(
                            "web-1",
                        ),
                        weight: 3,
                        zone: Some(
                            "a",
                        ),
                        labels: {
                            "track": "stable",
                        },
                        ttl: 10s,
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
                probes: [
                    AppProbe {
                        container: "web",
                        kind: Liveness,
                        port: 8080,
                        timeout: 3s,
                        ask: Http {
                            tls: true,
                            path: "/live?a=1",
                            headers: [
                                (
                                    "Host",
                                    "web.example",
                                ),
                            ],
                        },
                    },
                    AppProbe {
                        container: "web",
                        kind: Readiness,
                        port: 8080,
                        timeout: 1s,
                        ask: Http {
                            tls: false,
                            path: "/ready",
                            headers: [],
                        },
                    },
                    AppProbe {
                        container: "db",
                        kind: Startup,
                        port: 5432,
                        timeout: 1s,
                        ask: Tcp,
                    },
                    AppProbe {
                        container: "api",
                        kind: Startup,
                        port: 9000,
                        timeout: 1s,
                        ask: Grpc {
                            service: "",
                        },
                    },
                ],
                access_log: Json,
                telemetry: Telemetry {
                    otlp: Collector(
                        Collector {
                            tls: true,
                            host: "collector.shop.example",
                            port: 4318,
                            path: "/otlp",
                            protocol: Http,
                            headers: {
                                "x-api-key": (not shown),
                            },
                            ca: Some(
                                "/etc/fusewire/collector.pem",
                            ),
                        },
                    ),
                    metrics_interval: 15s,
                    per_instance_metrics: true,
                    sample: Some(
                        Ratio(
                            50000,
                        ),
                    ),
                },
                discovery_timeout: 2s,
                drain_timeout: 60s,
                workers: 2,
                forwarded: Some(
                    Append,
                ),
                limits: Limits {
                    connections: 500,
                    header_bytes: 32768,
                    header_count: 200,
                    target_bytes: 8000,
                    header_timeout: 5s,
                    idle_timeout: 60s,
                    body_timeout: 30s,
                },
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
            zone: None,
            control: [],
            token_file: None,
            trust_file: None,
            identity: None,
            data_dir: None,
            outbound: [],
            inbound: None,
            dns: None,
            intercept: None,
            register: None,
            admin: AdminSettings {
                listen: None,
                socket: None,
            },
            probes: [],
            access_log: Off,
            telemetry: Telemetry {
                otlp: Control,
                metrics_interval: 5s,
                per_instance_metrics: false,
                sample: None,
            },
            discovery_timeout: 5s,
            drain_timeout: 30s,
            workers: 1,
            forwarded: None,
            limits: Limits {
                connections: 10000,
                header_bytes: 65536,
                header_count: 100,
                target_bytes: 32768,
                header_timeout: 20s,
                idle_timeout: 3600s,
                body_timeout: 300s,
            },
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
