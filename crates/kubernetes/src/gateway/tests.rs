use super::*;
use crate::known::Port;
use expect_test::expect;
use fusewire_model::route::{Backend, Edits, Mirror, PathEdit, PathMatch, Scheme};
use serde_json::{Value, json};
use std::time::Duration;

/// The cluster that all tests look at: `shop/web` (80, 9090), `shop/cart` (80), `other/db` (5432).
fn services() -> BTreeMap<ServiceId, KnownService> {
    let ports = |ports: &[(&str, u16)]| {
        let port = |(name, number): &(&str, u16)| Port { name: (*name).into(), number: *number, is_opaque: false };
        KnownService { ports: ports.iter().map(port).collect(), ..KnownService::default() }
    };
    let all: [((&str, &str), KnownService); 3] = [
        (("shop", "web"), ports(&[("http", 80), ("admin", 9090)])),
        (("shop", "cart"), ports(&[("", 80)])),
        (("other", "db"), ports(&[("sql", 5432)])),
    ];
    all.into_iter().map(|((namespace, name), ports)| ((namespace.into(), name.into()), ports)).collect()
}

/// A policy whose name says whose it was, and with something to be kept.
fn policy(service: &ServiceName) -> Policy {
    let mut policy = Policy::built_in(PolicyName::from(service));
    policy.timeout.idle = Some(Duration::from_secs(7));
    policy
}

fn object(name: &str, spec: &Value) -> Value {
    let created = format!("2026-01-{:02}T00:00:00Z", 1 + name.bytes().map(usize::from).sum::<usize>() % 28);
    json!({"metadata": {"name": name, "namespace": "shop", "generation": 3, "creationTimestamp": created}, "spec": spec})
}

fn to_web(rules: Value) -> Value {
    json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}], "rules": rules})
}

fn all(http: &[Value], grpc: &[Value], grants: &[Value]) -> Output {
    among(&services(), (http, grpc, grants))
}

fn in_cluster(services: &BTreeMap<ServiceId, KnownService>, http: &[Value]) -> Output {
    among(services, (http, &[], &[]))
}

fn among(services: &BTreeMap<ServiceId, KnownService>, (http, grpc, grants): (&[Value], &[Value], &[Value])) -> Output {
    fn read<T: serde::de::DeserializeOwned>(objects: &[Value]) -> Vec<T> {
        objects.iter().map(|object| serde_json::from_value(object.clone()).expect("an object")).collect()
    }
    let (http, grpc, grants) = (read(http), read(grpc), read(grants));
    translate(&Input {
        http: &http,
        grpc: &grpc,
        grants: &grants,
        services,
        policy: &policy,
        rule_policy: &|_, _| None,
        is_routed: &|_| false,
        cluster_domain: "cluster.local",
    })
}

fn http(spec: &Value) -> Output {
    all(&[object("r", spec)], &[], &[])
}

/// The rules of a route of one rule, and no complaint.
fn rules(rule: Value) -> Vec<Rule> {
    let mut output = http(&to_web(json!([rule])));
    assert_eq!(said(&output), ["r: Accepted ResolvedRefs"]);
    output.routes.remove(0).rules
}

fn said(output: &Output) -> Vec<String> {
    let lines = output.statuses.iter().flat_map(|status| {
        status.parents.iter().map(|parent| {
            let kinds: Vec<&str> = parent.conditions.iter().map(|condition| condition.kind).collect();
            assert!(["Accepted", "ResolvedRefs", "PartiallyInvalid"].starts_with(&kinds) && kinds.len() > 1);
            let said = parent.conditions.iter().map(|condition| {
                let not = if condition.is_true { "" } else { "not " };
                let message =
                    if condition.message.is_empty() { String::new() } else { format!(" ({})", condition.message) };
                let said = if kinds.len() > 2 && condition.kind == kinds[2] { kinds[2] } else { condition.reason };
                format!("{not}{said}{message}")
            });
            format!("{}: {}", status.name, said.collect::<Vec<_>>().join(" "))
        })
    });
    lines.collect()
}

fn cart() -> Value {
    json!([{"name": "cart", "port": 80}])
}

#[test]
fn a_route_of_a_service_is_a_route_for_each_of_its_ports() {
    let spec = json!({
        "parentRefs": [
            {"group": "", "kind": "Service", "name": "web"},
            {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"},
            {"name": "edge"},
        ],
        "hostnames": ["shop.example"],
        "rules": [{"name": "first", "matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [
            {"name": "cart", "port": 80, "weight": 9}, {"kind": "Service", "group": "", "name": "web", "port": 9090},
        ]}],
    });
    let output = http(&spec);
    let names: Vec<&str> = output.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["web.shop.svc.cluster.local:80", "web.shop.svc.cluster.local:9090"]);
    for route in &output.routes {
        assert_eq!(
            route.authorities.iter().map(ToString::to_string).collect::<Vec<_>>(),
            std::slice::from_ref(&route.name)
        );
        let [rule] = route.rules.as_slice() else { panic!("{route:?}") };
        let backends: Vec<_> = rule.backends.iter().map(|b| (b.service.as_ref().unwrap().as_str(), b.weight)).collect();
        assert_eq!(backends, [("cart.shop", 9), ("web.shop.9090", 1)]);
        assert_eq!((rule.name.as_str(), &rule.policy, &rule.filters), ("r.shop.httproute[0]", &None, &None));
    }
    assert_eq!(said(&output), ["r: Accepted ResolvedRefs"], "of the Service, and of no Gateway");
    let status = &output.statuses[0];
    assert_eq!((status.kind, status.namespace.as_str(), status.generation), (RouteKind::Http, "shop", 3));
    assert_eq!(serde_json::to_value(&status.parents[0].parent).unwrap(), spec["parentRefs"][0]);
    assert!(http(&json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": cart()}]})).statuses.is_empty());
}

#[test]
fn a_parent_means_its_port_or_says_why_not() {
    let of = |parent: Value| {
        let output = http(&json!({"parentRefs": [parent], "rules": [{"backendRefs": cart()}]}));
        let ports: Vec<_> = output.routes.iter().filter_map(|route| route.authorities[0].port()).collect();
        (ports, said(&output).join(""))
    };
    let parent = |more: Value| {
        let mut parent = json!({"group": "", "kind": "Service", "name": "web"});
        parent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parent
    };
    for (more, ports) in [
        (json!({"sectionName": "admin"}), vec![9090]),
        (json!({"port": 80}), vec![80]),
        (json!({"namespace": "shop", "port": 80, "sectionName": "http"}), vec![80]),
    ] {
        assert_eq!(of(parent(more)), (ports, "r: Accepted ResolvedRefs".into()));
    }
    let refused = [
        json!({"port": 81}),
        json!({"port": 80, "sectionName": "admin"}),
        json!({"name": "nowhere"}),
        json!({"name": "db", "namespace": "other"}),
    ];
    let refused: Vec<String> = refused
        .into_iter()
        .map(|more| of(parent(more)))
        .map(|(ports, said)| {
            assert!(ports.is_empty(), "{said}");
            said
        })
        .collect();
    expect![[r#"
        r: not NoMatchingParent (Service shop/web has no TCP port of that name and number) ResolvedRefs
        r: not NoMatchingParent (Service shop/web has no TCP port of that name and number) ResolvedRefs
        r: not NoMatchingParent (Service shop/nowhere does not exist) ResolvedRefs
        r: not UnsupportedValue (parentRef other/db: routes for the callers of one namespace only are not supported: put it into the Service's own) ResolvedRefs"#]].assert_eq(&refused.join("\n"));
}

#[test]
fn of_all_rules_for_one_port_the_most_specific_is_tried_first() {
    let of = |matches: Value| json!({"matches": [matches], "backendRefs": cart()});
    let path = |kind: &str, value: &str| json!({"path": {"type": kind, "value": value}});
    let header = |name: &str| json!({"name": name, "value": "1"});
    let routes = [
        // `a` is older than `b`
        object(
            "b",
            &to_web(json!([of(path("PathPrefix", "/")), of(path("PathPrefix", "/a/b")), of(path("Exact", "/a"))])),
        ),
        object(
            "a",
            &to_web(json!([
                of(json!({"path": {"type": "PathPrefix", "value": "/a/b"}, "headers": [header("x")]})),
                of(json!({"path": {"type": "PathPrefix", "value": "/a/b"}, "method": "GET"})),
                of(json!({"path": {"type": "PathPrefix", "value": "/a/b/"}, "headers": [header("x"), header("y")]})),
                of(json!({"path": {"type": "PathPrefix", "value": "/a/b"}, "queryParams": [header("q")]})),
                of(path("PathPrefix", "/a/b")),
                of(path("RegularExpression", "/a.*")),
                {"matches": [path("PathPrefix", "/a"), path("Exact", "/b")], "backendRefs": cart()},
            ])),
        ),
    ];
    let forwards = all(&routes, &[], &[]);
    let names: Vec<&str> = forwards.routes[0].rules.iter().map(|rule| rule.name.as_str()).collect();
    expect![[r#"
        a.shop.httproute[6]
        b.shop.httproute[2]
        a.shop.httproute[5]
        a.shop.httproute[1]
        a.shop.httproute[2]
        a.shop.httproute[0]
        a.shop.httproute[3]
        a.shop.httproute[4]
        b.shop.httproute[1]
        a.shop.httproute[6]
        b.shop.httproute[0]"#]]
    .assert_eq(&names.join("\n"));
    let turned: Vec<Value> = routes.iter().rev().cloned().collect();
    assert_eq!(all(&turned, &[], &[]).routes, forwards.routes, "whatever order they are listed in");
}

#[test]
fn matches_are_ours() {
    let rules = rules(json!({"matches": [
        {"path": {"value": "/a"}, "method": "PUT", "headers": [
            {"name": "X-One", "value": "1"}, {"name": "x-one", "value": "2"},
            {"type": "RegularExpression", "name": "x-two", "value": "a|b"},
        ], "queryParams": [{"name": "q", "value": "ä b"}, {"name": "Q", "type": "RegularExpression", "value": ".*"}]},
        {"path": {"type": "RegularExpression", "value": "/v[0-9]+"}},
        {},
    ], "backendRefs": cart()}));
    let matches: Vec<_> = rules.iter().map(|rule| &rule.matches).collect();
    expect![[r#"
        [
            Match {
                path: Regex(
                    Pattern(
                        "/v[0-9]+",
                    ),
                ),
                methods: [],
                headers: [],
                query: [],
            },
            Match {
                path: Prefix(
                    "/a",
                ),
                methods: [
                    "PUT",
                ],
                headers: [
                    HeaderMatch {
                        name: "x-one",
                        value: Exact(
                            "1",
                        ),
                    },
                    HeaderMatch {
                        name: "x-two",
                        value: Regex(
                            Pattern(
                                "a|b",
                            ),
                        ),
                    },
                ],
                query: [
                    QueryMatch {
                        name: "q",
                        value: Exact(
                            "ä b",
                        ),
                    },
                    QueryMatch {
                        name: "Q",
                        value: Regex(
                            Pattern(
                                ".*",
                            ),
                        ),
                    },
                ],
            },
            Match {
                path: Any,
                methods: [],
                headers: [],
                query: [],
            },
        ]
    "#]]
    .assert_debug_eq(&matches);
}

#[test]
fn filters_are_ours() {
    let rules = rules(json!({"matches": [{"path": {"value": "/a"}}], "filters": [
        {"type": "RequestHeaderModifier", "requestHeaderModifier":
            {"set": [{"name": "X-A", "value": "1"}], "add": [{"name": "x-b", "value": "2"}], "remove": ["X-C"]}},
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["server"]}},
        {"type": "URLRewrite", "urlRewrite":
            {"hostname": "v2.example", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": ""}}},
        {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "web", "port": 80}, "percent": 5}},
        {"type": "RequestMirror", "requestMirror":
            {"backendRef": {"name": "cart", "port": 80}, "fraction": {"numerator": 1, "denominator": 3}}},
        {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "web", "port": 9090}}},
    ], "backendRefs": [{"name": "cart", "port": 80, "filters": [
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-a", "value": "cart"}]}},
    ]}]}));
    let filters = rules[0].filters.as_deref().unwrap();
    let fields = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    assert_eq!(filters.edits.request.set, fields("x-a", "1"));
    assert_eq!(filters.edits.request.add, fields("x-b", "2"));
    assert_eq!(
        (&filters.edits.request.remove[..], &filters.edits.response.remove[..]),
        (&["x-c".into()][..], &["server".into()][..])
    );
    assert_eq!(filters.host.as_ref().map(Authority::as_str), Some("v2.example"));
    assert_eq!(filters.path, Some(PathEdit::Prefix("/".into())));
    let mirrors: Vec<_> =
        filters.mirrors.iter().map(|Mirror { service, share }| (service.as_str(), share.millionths())).collect();
    assert_eq!(mirrors, [("web.shop", 50_000), ("cart.shop", 333_333), ("web.shop.9090", 1_000_000)]);
    assert_eq!(rules[0].backends[0].edits.as_ref().unwrap().request.set, fields("x-a", "cart"));
}

#[test]
fn a_redirect_is_the_whole_rule() {
    let rules = rules(
        json!({"matches": [{"path": {"value": "/a"}}], "filters": [{"type": "RequestRedirect", "requestRedirect": {
        "scheme": "https", "hostname": "shop.example", "port": 8443, "statusCode": 301,
        "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}}}]}),
    );
    let redirect = rules[0].redirect().unwrap();
    assert_eq!((redirect.scheme, redirect.port, redirect.status), (Some(Scheme::Https), Some(8443), 301));
    assert_eq!(redirect.path, Some(PathEdit::Prefix("/b".into())));
    assert!(rules[0].backends.is_empty());
}

#[test]
fn a_redirect_without_scheme_and_port_leads_to_the_parents_port() {
    let spec = |redirect: Value| {
        let filter = json!({"type": "RequestRedirect", "requestRedirect": redirect});
        json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": [{"filters": [filter]}]})
    };
    let ports = |redirect: Value| {
        let output = http(&spec(redirect));
        let ports = output.routes.iter().map(|route| route.rules[0].redirect().unwrap().port);
        (ports.collect::<Vec<_>>(), said(&output).join(""))
    };
    let accepted = || "r: Accepted ResolvedRefs".to_owned();
    assert_eq!(ports(json!({"hostname": "x.example"})), (vec![Some(80), Some(9090)], accepted()));
    assert_eq!(ports(json!({"scheme": "https"})), (vec![None, None], accepted()));
    assert_eq!(ports(json!({"port": 81})), (vec![Some(81), Some(81)], accepted()));
}

#[test]
fn a_redirect_may_lead_to_where_the_request_came_from() {
    let filter = |redirect: Value| json!([{"filters": [{"type": "RequestRedirect", "requestRedirect": redirect}]}]);
    for redirect in [json!({"statusCode": 303}), json!({"statusCode": 301, "port": 80, "scheme": "http"})] {
        let output = http(&to_web(filter(redirect.clone())));
        assert_eq!(said(&output), ["r: Accepted ResolvedRefs"]);
        let made = output.routes[0].rules[0].redirect().expect("a redirect");
        assert_eq!(u64::from(made.status), redirect["statusCode"].as_u64().unwrap());
    }
}

#[test]
fn what_means_nothing_beside_a_redirect_is_no_fault() {
    let rule = json!({"filters": [
        {"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}},
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-a", "value": "1"}]}},
    ], "timeouts": {"request": "1s"}});
    let [rule] = &rules(rule)[..] else { panic!("one rule") };
    assert_eq!(rule.filters.as_ref().unwrap().edits, Edits::default());
}

#[test]
fn of_several_values_for_one_header_the_first_is_set() {
    let edits = |verb: &str| {
        let fields =
            json!([{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}, {"name": "x-b", "value": "3"}]);
        let filter = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {verb: fields}});
        let made = rules(json!({"filters": [filter], "backendRefs": cart()})).remove(0).filters.unwrap().edits.request;
        if verb == "set" { made.set } else { made.add }
    };
    let wanted = [("x-a", "1"), ("x-b", "3")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!((edits("set"), edits("add")), (wanted.to_vec(), wanted.to_vec()));
}

#[test]
fn where_some_rules_cannot_be_had_the_others_stay_in_force_and_their_requests_go_nowhere_else() {
    let shown = |bad: Value| {
        let output = http(&to_web(json!([{"backendRefs": cart()}, bad])));
        let rules = output.routes.iter().flat_map(|route| &route.rules);
        let backends =
            rules.map(|rule| (rule.name.clone(), rule.backends[0].service.as_ref().map(ToString::to_string)));
        (backends.collect::<Vec<_>>(), said(&output).join(""))
    };
    let admin = json!([{"path": {"value": "/admin"}}]);
    let to_cart = ("r.shop.httproute[0]".to_owned(), Some("cart.shop".to_owned()));
    let nowhere = ("r.shop.httproute[1]".to_owned(), None);

    let late = json!({"matches": admin, "backendRefs": cart(), "timeouts": {"request": "48h"}});
    let said = "r: Accepted ResolvedRefs PartiallyInvalid (Dropped Rule 1, its requests are answered with an error: spec.rules[1].timeouts.request: 48h is more than 86400 s)";
    assert_eq!(shown(late), (vec![nowhere.clone(), to_cart.clone()], said.to_owned()));

    let fuzzy = json!({"matches": [{"path": {"type": "Fuzzy", "value": "/admin"}}], "backendRefs": cart()});
    let said = "r: Accepted ResolvedRefs PartiallyInvalid (Dropped Rule 1, it matches nothing: spec.rules[1].matches[0].path.type: Fuzzy is not supported)";
    assert_eq!(shown(fuzzy), (vec![to_cart.clone()], said.to_owned()));

    let mixed = json!({"matches": [admin[0], {"path": {"type": "Fuzzy", "value": "/a"}}], "backendRefs": cart()});
    let said = "r: Accepted ResolvedRefs PartiallyInvalid (Dropped Rule 1, its requests are answered with an error: spec.rules[1].matches[1].path.type: Fuzzy is not supported)";
    assert_eq!(shown(mixed), (vec![nowhere.clone(), to_cart.clone()], said.to_owned()), "what can be read of it");

    let theirs = json!({"type": "ExtensionRef", "extensionRef": {"group": "x.example", "kind": "Auth", "name": "a"}});
    let extended = json!({"matches": admin, "filters": [theirs], "backendRefs": cart()});
    let said = "r: Accepted not InvalidKind (spec.rules[1].filters[0].extensionRef: Auth.x.example a is no filter here, and what needs it is answered with an error)";
    assert_eq!(shown(extended), (vec![nowhere, to_cart], said.to_owned()));
}

#[test]
fn a_filter_of_another_project_is_never_passed_over() {
    let theirs = json!({"type": "ExtensionRef", "extensionRef": {"group": "x.example", "kind": "Auth", "name": "a"}});
    for rule in [
        json!({"filters": [theirs], "backendRefs": cart()}),
        json!({"backendRefs": [{"name": "cart", "port": 80, "filters": [theirs]}]}),
        json!({"filters": [theirs], "backendRefs": cart(), "timeouts": {"request": "48h"}}),
        json!({"backendRefs": [{"name": "cart", "port": 80, "filters": [theirs]}], "timeouts": {"request": "48h"}}),
    ] {
        let output = http(&to_web(json!([rule])));
        assert_eq!(output.routes[0].rules[0].backends[0].service, None);
        assert!(said(&output)[0].starts_with("r: Accepted not InvalidKind"), "{:?}", said(&output));
    }
}

#[test]
fn what_carries_bytes_has_no_part_in_routes() {
    let mut services = services();
    let web = services.get_mut(&("shop".into(), "web".into())).unwrap();
    web.ports.push(Port { name: "tcp".into(), number: 7000, is_opaque: true });
    let of = |parent: Value, backend: Value| {
        let spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": [backend]}]});
        let output = in_cluster(&services, &[object("r", &spec)]);
        let authorities = output.routes.iter().map(|route| route.authorities[0].port().unwrap());
        (authorities.collect::<Vec<_>>(), said(&output).join(""))
    };
    let web = |port: Value| json!({"group": "", "kind": "Service", "name": "web", "port": port});
    let to = |name: &str, port: u16| json!({"name": name, "port": port});
    let accepted = "r: Accepted ResolvedRefs".to_owned();
    assert_eq!(of(web(Value::Null), to("cart", 80)), (vec![80, 9090], accepted));
    let (none, said) = of(web(7000.into()), to("cart", 80));
    assert!(none.is_empty() && said.contains("NoMatchingParent") && said.contains("declared to carry bytes"), "{said}");
    let (ports, said) = of(web(80.into()), to("web", 7000));
    assert!(ports == [80] && said.contains("Accepted not UnsupportedProtocol"), "{said}");
}

#[test]
fn neither_a_headless_service_nor_anothers_name_is_a_parent() {
    for (is_headless, is_external) in [(true, false), (false, true)] {
        let mut services = services();
        let web = services.get_mut(&("shop".into(), "web".into())).unwrap();
        (web.is_headless, web.is_external) = (is_headless, is_external);
        let output = in_cluster(&services, &[object("r", &to_web(json!([{"backendRefs": cart()}])))]);
        assert_eq!(output.routes, []);
        assert!(said(&output)[0].starts_with("r: not UnsupportedValue (Service shop/web is "), "{:?}", said(&output));
    }
}

/// `count` routes for port 80 of `web`, each older than the next, with these rules.
fn many(count: usize, rules: &Value) -> Vec<Value> {
    let one = |n: usize| {
        let mut route = object(&format!("r{n:04}"), &to_web(rules.clone()));
        route["metadata"]["creationTimestamp"] = format!("2026-01-01T{:02}:{:02}:00Z", n / 60, n % 60).into();
        route
    };
    (0..count).map(one).collect()
}

/// How many of them are in force, and what is said of the others, whatever order they are listed in.
fn in_force(mut routes: Vec<Value>) -> (usize, Vec<String>) {
    let wanted = all(&routes, &[], &[]);
    routes.reverse();
    assert_eq!(all(&routes, &[], &[]).routes, wanted.routes);
    let names: BTreeSet<&str> = wanted.routes[0].rules.iter().map(|rule| &rule.name[..5]).collect();
    let (good, bad): (Vec<String>, Vec<String>) =
        said(&wanted).into_iter().partition(|said| said.ends_with(": Accepted ResolvedRefs"));
    assert_eq!(names.len(), good.len());
    assert!(good.iter().zip(0..).all(|(said, n): (_, usize)| said.starts_with(&format!("r{n:04}:"))), "{good:?}");
    (good.len(), bad)
}

#[test]
fn the_newest_routes_give_way_where_all_together_are_too_much() {
    let pattern = |text: &str| json!({"path": {"type": "RegularExpression", "value": text}});
    let of = |matches: Vec<Value>| json!([{"matches": matches, "backendRefs": cart()}]);
    let (count, said) = in_force(many(17, &of((0..64).map(|n| pattern(&format!("/{n}/.*"))).collect())));
    expect![[r#"
        r0015: not LimitExceeded (with the older routes of port 80 of Service shop/web there are 1024 regular expressions, of which there may be 1000) ResolvedRefs
        r0016: not LimitExceeded (with the older routes of port 80 of Service shop/web there are 1024 regular expressions, of which there may be 1000) ResolvedRefs"#]]
    .assert_eq(&said.join("\n"));
    assert_eq!(count, 15);

    let (count, said) = in_force(many(9, &of(vec![pattern("[a-z]{700}"); 16])));
    assert_eq!(count, 8);
    assert!(
        said[0].contains("there are regular expressions that compile to 9216 KiB, of which there may be 8192"),
        "{said:?}"
    );

    let matches: Vec<Value> = (0..64).map(|n| json!({"path": {"value": format!("/{n}")}})).collect();
    let rules: Vec<Value> = (0..16).map(|_| json!({"matches": matches, "backendRefs": cart()})).collect();
    let (count, said) = in_force(many(11, &rules.into()));
    assert_eq!(count, 9);
    assert!(said[0].contains("there are 10240 rules (one for each match), of which there may be 10000"), "{said:?}");

    let set: Vec<Value> = (0..16).map(|n| json!({"name": format!("x-{n}"), "value": "x".repeat(2_000)})).collect();
    let filter = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": set}});
    let rule = json!([{"matches": matches, "filters": [filter], "backendRefs": cart()}]);
    let (count, said) = in_force(many(2, &rule));
    assert_eq!(count, 1);
    assert!(said[0].contains("there are rules that together take 4"), "{said:?}");
}

#[test]
fn a_route_of_the_longest_name_keeps_its_timeouts() {
    let long = "a".repeat(252);
    let rule = json!({"backendRefs": cart(), "timeouts": {"request": "3s"}});
    let spec = to_web(Value::Array(vec![rule; 16]));
    let output = all(&[object(&format!("{long}b"), &spec), object(&format!("{long}c"), &spec)], &[], &[]);
    assert_eq!(said(&output).iter().filter(|said| said.ends_with(": Accepted ResolvedRefs")).count(), 2);
    let rules = &output.routes[0].rules;
    let policies: BTreeMap<&PolicyName, &Policy> =
        output.policies.iter().map(|policy| (&policy.name, policy)).collect();
    assert_eq!((rules.len(), policies.len()), (32, 32), "each has its own");
    for rule in rules {
        let name = rule.policy.as_ref().unwrap();
        assert_eq!(policies[name].timeout.request, Some(Duration::from_secs(3)));
        let route = RouteId {
            kind: RouteKind::Http,
            namespace: "shop".into(),
            name: rule.name.split('.').next().unwrap().into(),
        };
        assert!(name.as_str().starts_with(&policy_prefix(&route)), "{name}");
    }
}

#[test]
fn whose_pages_may_read_the_answers_is_ours() {
    let of = |cors: Value| {
        let filter = json!({"type": "CORS", "cors": cors});
        rules(json!({"filters": [filter], "backendRefs": cart()})).remove(0).cors().cloned().unwrap()
    };
    let cors = of(json!({
        "allowOrigins": ["https://*.Shop.example:8443", "http://a"], "allowMethods": ["GET", "PUT"],
        "allowHeaders": ["X-A"], "exposeHeaders": ["X-B"], "allowCredentials": true, "maxAge": 60,
    }));
    let words = cors.words();
    assert_eq!(words.origins, ["https://*.shop.example:8443", "http://a"]);
    assert_eq!(
        (words.methods.join(","), words.headers.join(","), words.expose.join(",")),
        ("GET,PUT".into(), "x-a".into(), "x-b".into())
    );
    assert_eq!((cors.credentials, cors.max_age), (true, 60));
    let cors = of(json!({"allowOrigins": ["*"]}));
    assert_eq!((cors.credentials, cors.max_age, cors.varies()), (false, 5, false));
    let filter = json!({"type": "CORS", "cors": {"allowOrigins": ["*"]}});
    let output = all(&[], &[object("g", &to_web(json!([{"filters": [filter], "backendRefs": cart()}])))], &[]);
    assert_eq!(
        said(&output),
        ["g: not UnsupportedValue (spec.rules[0].filters[0].type: is none that a GRPCRoute has) ResolvedRefs"]
    );
}

#[test]
fn what_leads_nowhere_keeps_its_share_and_is_told() {
    let of = |backends: Value| {
        let output = http(&to_web(json!([{"backendRefs": backends}])));
        let shares: Vec<_> = output.routes[0].rules[0]
            .backends
            .iter()
            .map(|Backend { service, weight, .. }| (service.as_ref().map(|s| s.as_str().to_owned()), *weight))
            .collect();
        format!("{shares:?} {}", said(&output).join(""))
    };
    let lines = [
        of(json!([{"name": "cart", "port": 80, "weight": 3}, {"name": "nowhere", "port": 80, "weight": 2}])),
        of(json!([{"name": "cart", "port": 81}])),
        of(json!([{"name": "cart"}])),
        of(json!([{"name": "db", "namespace": "other", "port": 5432}])),
        of(json!([{"name": "bucket", "group": "storage.example", "kind": "Bucket"}])),
        of(json!([{"name": "cart", "port": 80, "weight": 0}])),
        of(json!([])),
    ];
    expect![[r#"
        [(Some("cart.shop"), 3), (None, 2)] r: Accepted not BackendNotFound (spec.rules[0].backendRefs[1]: Service shop/nowhere does not exist)
        [(None, 1)] r: Accepted not BackendNotFound (spec.rules[0].backendRefs[0]: Service shop/cart has no TCP port 81)
        [(None, 1)] r: Accepted not BackendNotFound (spec.rules[0].backendRefs[0]: Service shop/cart needs a port here)
        [(None, 1)] r: Accepted not RefNotPermitted (spec.rules[0].backendRefs[0]: Service other/db is in another namespace, and no ReferenceGrant there permits it)
        [(None, 1)] r: Accepted not InvalidKind (spec.rules[0].backendRefs[0]: Bucket.storage.example is no backend here: name a Service)
        [(None, 1)] r: Accepted ResolvedRefs
        [(None, 1)] r: Accepted ResolvedRefs"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn a_mirror_that_leads_nowhere_is_left_out_and_told() {
    let mirror = json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "nowhere", "port": 80}}});
    let output = http(&to_web(json!([{"backendRefs": cart(), "filters": [mirror]}])));
    assert!(output.routes[0].rules[0].filters.is_none());
    let wanted = "r: Accepted not BackendNotFound (spec.rules[0].filters[0].requestMirror.backendRef: Service shop/nowhere does not exist)";
    assert_eq!(said(&output), [wanted]);
}

#[test]
fn another_namespaces_service_is_a_backend_where_a_grant_permits_it() {
    let grant = |namespace: &str, from: Value, to: Value| json!({"metadata": {"name": "g", "namespace": namespace}, "spec": {"from": [from], "to": [to]}});
    let from = |kind: &str, namespace: &str| json!({"group": "gateway.networking.k8s.io", "kind": kind, "namespace": namespace});
    let to = json!({"group": "", "kind": "Service"});
    let route = object("r", &to_web(json!([{"backendRefs": [{"name": "db", "namespace": "other", "port": 5432}]}])));
    let permitted = |grant: Value| {
        let output = all(std::slice::from_ref(&route), &[], &[grant]);
        let service = output.routes[0].rules[0].backends[0].service.as_ref().map(|s| s.as_str().to_owned());
        assert_eq!(service.is_some(), said(&output) == ["r: Accepted ResolvedRefs"]);
        service.as_deref() == Some("db.other")
    };
    assert!(permitted(grant("other", from("HTTPRoute", "shop"), to.clone())));
    assert!(permitted(grant(
        "other",
        from("HTTPRoute", "shop"),
        json!({"group": "", "kind": "Service", "name": "db"})
    )));
    for (namespace, from, to) in [
        ("shop", from("HTTPRoute", "shop"), to.clone()),
        ("other", from("GRPCRoute", "shop"), to.clone()),
        ("other", from("HTTPRoute", "elsewhere"), to.clone()),
        ("other", from("HTTPRoute", "shop"), json!({"group": "", "kind": "Service", "name": "web"})),
        ("other", from("HTTPRoute", "shop"), json!({"group": "", "kind": "Secret"})),
    ] {
        assert!(!permitted(grant(namespace, from.clone(), to.clone())), "{namespace} {from} {to}");
    }
}

#[test]
fn timeouts_and_retries_are_a_policy_of_the_rules_own() {
    let output = http(&to_web(json!([
        {"backendRefs": cart(), "timeouts": {"request": "10s", "backendRequest": "1m1s500ms"},
         "retry": {"codes": [500, 503], "attempts": 2, "backoff": "300ms"}},
        {"backendRefs": cart(), "timeouts": {"request": "0s"}},
        {"backendRefs": cart(), "matches": [{"path": {"value": "/plain"}}]},
        {"backendRefs": [{"name": "nowhere", "port": 80}], "timeouts": {"request": "1s"}},
    ])));
    let named: Vec<_> = output.routes[0]
        .rules
        .iter()
        .map(|rule| (rule.name.as_str(), rule.policy.as_ref().map(PolicyName::as_str)))
        .collect();
    assert_eq!(
        named,
        [
            ("r.shop.httproute[2]", None),
            ("r.shop.httproute[0]", Some("r.shop.httproute.0")),
            ("r.shop.httproute[1]", Some("r.shop.httproute.1")),
            ("r.shop.httproute[3]", None),
        ]
    );
    let [first, second] = output.policies.as_slice() else { panic!("{:?}", output.policies) };
    assert_eq!(first.timeout.request, Some(Duration::from_secs(10)));
    assert_eq!(first.retry.per_try_timeout, Some(Duration::from_millis(61_500)));
    let retry = &first.retry.policy;
    let backoff = (retry.backoff.initial, retry.backoff.max);
    assert_eq!((retry.attempts, backoff), (3, (Duration::from_millis(300), Duration::from_millis(300))));
    assert!(retry.validate().is_ok());
    assert_eq!(
        (second.timeout.request, second.timeout.idle),
        (None, Some(Duration::from_secs(7))),
        "the service's own stays"
    );
}

#[test]
fn durations_are_those_of_gep_2257() {
    for (text, ms) in
        [("0s", 0), ("1h", 3_600_000), ("1h10m", 4_200_000), ("500ms", 500), ("1s1s", 2_000), ("99999ms", 99_999)]
    {
        assert_eq!(super::policy::duration(text), Some(Duration::from_millis(ms)), "{text}");
    }
    for text in ["", "1", "s", "1.5s", "-1s", "100000s", "1us", "1s ", "1s1s1s1s1s", "1d", "ü"] {
        assert_eq!(super::policy::duration(text), None, "{text}");
    }
}

#[test]
fn calls_are_posts_to_a_path() {
    let grpc = |matches: Value| object("g", &to_web(json!([{"matches": matches, "backendRefs": cart()}])));
    let method = |method: Value| json!({"method": method});
    let output = all(
        &[],
        &[grpc(json!([
            method(json!({"service": "shop.Cart", "method": "Add"})),
            method(json!({"service": "shop.Cart"})),
            method(json!({"type": "Exact", "method": "Add"})),
            method(json!({"type": "RegularExpression", "service": "shop\\.(Cart|Basket)", "method": "Get.*"})),
            method(json!({})),
            {"headers": [{"name": "X-Beta", "value": "1"}]},
        ]))],
        &[],
    );
    assert_eq!(said(&output), ["g: Accepted ResolvedRefs"]);
    let lines: Vec<String> = output.routes[0]
        .rules
        .iter()
        .map(|rule| {
            assert_eq!(
                (rule.name.as_str(), &rule.matches.methods[..]),
                ("g.shop.grpcroute[0]", &["POST".to_owned()][..])
            );
            format!("{:?} {}", rule.matches.path, rule.matches.headers.len())
        })
        .collect();
    expect![[r#"
        Regex(Pattern("/(?:shop\\.(Cart|Basket))/(?:Get.*)")) 0
        Exact("/shop.Cart/Add") 0
        Prefix("/shop.Cart") 0
        Regex(Pattern("/[^/]+/Add")) 0
        Any 1
        Any 0"#]]
    .assert_eq(&lines.join("\n"));
    let PathMatch::Regex(pattern) = &output.routes[0].rules[0].matches.path else { panic!("the regex is the longest") };
    assert!(pattern.matches(b"/shop.Basket/GetAll") && !pattern.matches(b"/shop.Cart/Add"));
}

#[test]
fn where_calls_have_a_port_requests_do_not() {
    let spec = |port: Value| json!({"parentRefs": [port], "rules": [{"backendRefs": cart()}]});
    let web = |port: Option<u16>| {
        let mut parent = json!({"group": "", "kind": "Service", "name": "web"});
        if let Some(port) = port {
            parent["port"] = port.into();
        }
        parent
    };
    let output = all(
        &[
            object("all", &spec(web(None))),
            object("one", &spec(web(Some(80)))),
            object("cart", &spec(json!({"group": "", "kind": "Service", "name": "cart"}))),
        ],
        &[object("g", &spec(web(Some(80))))],
        &[],
    );
    assert_eq!(
        said(&output),
        [
            "all: Accepted (a GRPCRoute has port 80 of Service shop/web) ResolvedRefs",
            "one: not Conflicted (a GRPCRoute has port 80 of Service shop/web) ResolvedRefs",
            "cart: Accepted ResolvedRefs",
            "g: Accepted ResolvedRefs",
        ]
    );
    let routes: Vec<String> = output
        .routes
        .iter()
        .map(|route| {
            let names: Vec<&str> = route.rules.iter().map(|rule| rule.name.as_str()).collect();
            format!("{} {}", route.name, names.join(" "))
        })
        .collect();
    assert_eq!(
        routes,
        [
            "cart.shop.svc.cluster.local:80 cart.shop.httproute[0]",
            "web.shop.svc.cluster.local:80 g.shop.grpcroute[0]",
            "web.shop.svc.cluster.local:9090 all.shop.httproute[0]",
        ]
    );
}

#[test]
fn what_cannot_be_had_is_told_with_its_place_and_a_route_of_nothing_else_is_not_used() {
    let rule = |more: Value| {
        let mut rule = json!({"backendRefs": cart()});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let output = http(&to_web(json!([rule])));
        assert!(output.routes.is_empty(), "{rule}");
        said(&output).join("")
    };
    let filter = |filter: Value| rule(json!({"filters": [filter]}));
    let edit = |edit: Value| filter(json!({"type": "RequestHeaderModifier", "requestHeaderModifier": edit}));
    let matches = |matches: Value| rule(json!({"matches": [matches]}));
    let lines = [
        rule(json!({"sessionPersistence": {"type": "Cookie"}})),
        filter(
            json!({"type": "CORS", "cors": {"allowOrigins": ["*", "shop"], "allowMethods": [""], "maxAge": 0, "x": 1}}),
        ),
        filter(
            json!({"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "x"}}}),
        ),
        rule(
            json!({"matches": [{"path": {"type": "Exact", "value": "/x"}}], "filters": [{"type": "URLRewrite", "urlRewrite":
            {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/y"}}}]}),
        ),
        rule(
            json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}], "timeouts": {"request": "1s"}}),
        ),
        edit(json!({"set": [{"name": "Host", "value": "x"}]})),
        edit(json!({"set": [{"name": "x-a", "value": "x", "when": "ever"}]})),
        filter(json!({"type": "RequestMirror", "requestMirror":
            {"backendRef": {"name": "cart", "port": 80, "zone": "a"}, "fraction": {"numerator": 1, "of": 2}}})),
        filter(json!({"type": "URLRewrite", "urlRewrite":
            {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/a<b>", "mode": "x"}}})),
        edit(json!({"add": [{"name": "fusewire-x", "value": "x"}], "remove": ["connection"]})),
        edit(json!({"set": [{"name": "x-a", "value": "ü"}]})),
        rule(
            json!({"backendRefs": [{"name": "cart", "port": 80, "filters": [{"type": "RequestMirror", "requestMirror":
            {"backendRef": {"name": "cart", "port": 80}}}]}]}),
        ),
        matches(json!({"path": {"type": "RegularExpression", "value": "("}})),
        matches(json!({"path": {"type": "Exact", "value": "/a?b"}})),
        matches(json!({"headers": [{"type": "Fuzzy", "name": "x", "value": "1"}]})),
        matches(json!({"queryParams": [{"name": "q", "value": "1", "weight": 1}], "cookies": []})),
        rule(json!({"timeouts": {"request": "1d", "backendRequest": "99999h"}})),
        rule(json!({"retry": {"attempts": 9, "codes": [429], "jitter": true}})),
    ];
    expect![[r#"
        r: not UnsupportedValue (spec.rules[0].sessionPersistence: is not supported) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].filters[0].cors.x: is not supported; spec.rules[0].filters[0].cors.maxAge: must be 1..2147483647; spec.rules[0].filters[0].cors.allowOrigins[0]: * means any, and stands alone; spec.rules[0].filters[0].cors.allowMethods[0]: is no method; spec.rules[0].filters[0].cors.allowOrigins[1]: is no origin: write *, https://shop.example or https://*.example:8443) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].filters[0].urlRewrite.path.replaceFullPath: must begin with '/', and be percent-encoded as a path is (RFC 3986, 3.3)) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].matches[0].path.type: must be PathPrefix where ReplacePrefixMatch is used) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].backendRefs: means nothing beside RequestRedirect) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].filters[0].requestHeaderModifier.set[0].name: Host frames a message, is for one connection, names the host, or is the mesh's own: a route may not change it) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].filters[0].requestHeaderModifier.set[0].when: is not supported) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].filters[0].requestMirror.fraction.of: is not supported; spec.rules[0].filters[0].requestMirror.backendRef.zone: is not supported) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].filters[0].urlRewrite.path.mode: is not supported; spec.rules[0].filters[0].urlRewrite.path.replaceFullPath: must begin with '/', and be percent-encoded as a path is (RFC 3986, 3.3)) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].filters[0].requestHeaderModifier.add[0].name: fusewire-x frames a message, is for one connection, names the host, or is the mesh's own: a route may not change it; spec.rules[0].filters[0].requestHeaderModifier.remove[0]: connection frames a message, is for one connection, names the host, or is the mesh's own: a route may not change it) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].filters[0].requestHeaderModifier.set[0].value: must be visible ASCII characters) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].backendRefs[0].filters[0].type: RequestMirror is not supported for one backend: move it to the rule) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].matches[0].path.value: is no regular expression: unclosed group) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].matches[0].path.value: must begin with '/', be percent-encoded, and be without '?' and '#') ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].matches[0].headers[0].type: Fuzzy is not supported) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].matches[0].cookies: is not supported; spec.rules[0].matches[0].queryParams[0].weight: is not supported) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].timeouts.request: 1d is no duration; spec.rules[0].timeouts.backendRequest: 99999h is more than 86400 s) ResolvedRefs
        r: not UnsupportedValue (spec.rules[0].retry.jitter: is not supported; spec.rules[0].retry.codes[0]: 429 is never tried again; spec.rules[0].retry.attempts: must be below 5) ResolvedRefs"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn many_complaints_are_cut() {
    let rules: Vec<Value> = (0..16).map(|_| json!({"backendRefs": cart(), "x": 1})).collect();
    let said = said(&http(&to_web(rules.into())));
    assert!(said[0].contains("spec.rules[7].x: is not supported; and 8 more"), "{said:?}");
}
