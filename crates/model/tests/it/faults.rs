//! The words in which wrong configuration is told. A change here is a change for operators.

use crate::{lines, source};
use expect_test::{Expect, expect};
use fusewire_model::yaml::{self, MAX_DEPTH, MAX_SIZE, Source};

/// The faults of each text, one file after another.
fn told(texts: &[&str]) -> String {
    let told = |text: &&str| match yaml::parse(&[source("mesh.yaml", text)]) {
        Ok(_) => format!("no fault in {text}\n"),
        Err(faults) => lines(&faults),
    };
    texts.iter().map(told).collect::<Vec<_>>().join("--\n")
}

fn files(sources: &[Source], wanted: &Expect) {
    wanted.assert_eq(&yaml::parse(sources).err().map(|faults| lines(&faults)).unwrap_or_default());
}

#[test]
fn what_is_not_yaml_is_told_with_its_place() {
    let texts = [
        r"services: [a",
        r"services:
  a: {protocol: http
  b: {}",
        r"services:
	- a",
    ];
    expect![[r#"
        mesh.yaml:2:1: services[1]: is not YAML: while parsing a flow sequence, expected ',' or ']'
        --
        mesh.yaml:3:4: services.a: is not YAML: while parsing a flow mapping, did not find expected ',' or '}'
        --
        mesh.yaml:2:2: services: is not YAML: tabs disallowed within this context (block indentation)
    "#]]
    .assert_eq(&told(&texts));
}

#[test]
fn yaml_that_this_project_does_without_is_refused() {
    let texts = [
        r"policies:
  a: &a {plain: allow}
  b: *a",
        r"services:
  a: !!map {protocol: !word http}",
        r"services:
  {a: b}: {}",
        r"services:
  a:
    protocol: http
    protocol: opaque
  a: {}",
        r"policies:
  a:
    <<: {plain: allow}",
    ];
    expect![[r#"
        mesh.yaml:3:6: policies.b: aliases are not supported (write the value out, or give it a name: a policy serves many services)
        --
        mesh.yaml:2:6: services.a: tags are not supported (leave out what begins with !)
        mesh.yaml:2:23: services.a.protocol: tags are not supported (leave out what begins with !)
        --
        mesh.yaml:2:3: services: a key must be text
        --
        mesh.yaml:4:5: services.a.protocol: is already written in line 3 (keep one)
        mesh.yaml:5:3: services.a: is already written in line 2 (keep one)
        --
        mesh.yaml:3:5: policies.a["<<"]: unknown key (known here: target, breaker, timeout, plain)
    "#]].assert_eq(&told(&texts));
}

#[test]
fn wrong_shapes_say_what_was_wanted() {
    let texts = [
        r"[services]",
        r"services: [a]",
        r"services: {a: http}",
        r"services: {a: {instances: 10.0.0.1:80}}",
        r"routes: {a: {rules: {to: b}}}",
        r"routes: {a: {rules: [{to: b}], to: b, policy: p}}",
        r"overrides: {service: a}",
    ];
    expect![[r#"
        mesh.yaml:1:1: must be a mapping, got a list
        --
        mesh.yaml:1:11: services: must be a mapping of services, got a list
        --
        mesh.yaml:1:15: services.a: must be a mapping, got "http"
        --
        mesh.yaml:1:27: services.a.instances: must be a list of instances, got "10.0.0.1:80"
        --
        mesh.yaml:1:21: routes.a.rules: must be a list of rules, got a mapping
        --
        mesh.yaml:1:21: routes.a.rules: stands beside to (move to into a rule)
        mesh.yaml:1:21: routes.a.rules: stands beside policy (move policy into a rule)
        mesh.yaml:1:27: routes.a.rules[0].to: service b is not defined (add it under services, or correct the name)
        --
        mesh.yaml:1:12: overrides: must be a list of overrides, got a mapping
    "#]]
    .assert_eq(&told(&texts));
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    let texts = [
        r"service: {}",
        r"services: {a: {instnces: [], color: red}}",
        r"services: {a: {instances: [{address: 10.0.0.1:80, lables: {a: b}}]}}",
        r"policies: {a: {breaker: {instance: {mincalls: 5, open: {bse: 1s}}}}}",
        r"routes: {a: {to: [], matches: {}}}",
        r"sidecar: {adminn: {}, admin: {listener: 127.0.0.1:1}}",
    ];
    expect![[r#"
        mesh.yaml:1:1: service: unknown key (did you mean "services"?)
        --
        mesh.yaml:1:16: services.a.instnces: unknown key (did you mean "instances"?)
        mesh.yaml:1:30: services.a.color: unknown key (known here: protocol, policy, identity, allow, instances)
        --
        mesh.yaml:1:51: services.a.instances[0].lables: unknown key (did you mean "labels"?)
        --
        mesh.yaml:1:37: policies.a.breaker.instance.mincalls: unknown key (did you mean "min_calls"?)
        mesh.yaml:1:57: policies.a.breaker.instance.open.bse: unknown key (did you mean "base"?)
        --
        mesh.yaml:1:18: routes.a.to: must name at least one service
        mesh.yaml:1:22: routes.a.matches: unknown key (did you mean "match"?)
        --
        mesh.yaml:1:11: sidecar.adminn: unknown key (did you mean "admin"?)
        mesh.yaml:1:31: sidecar.admin.listener: unknown key (did you mean "listen"?)
    "#]]
    .assert_eq(&told(&texts));
}

#[test]
fn names_are_checked_where_they_enter() {
    let texts = [
        r"trust_domain: Shop.Local",
        r"services: {Inventory: {}, -a: {}}",
        r"policies: {a_b: {}}",
        r"routes: {a/b: {to: c}}
services: {c: }",
        r"services: {a: {identity: a//b}, b: {identity: 'spiffe://x'}, c: {allow: [a b]}}",
    ];
    expect![[r#"
        mesh.yaml:1:15: trust_domain: "Shop.Local" is not a trust domain: use lower-case letters, digits, '-' and '.', at most 253 bytes, beginning and ending with a letter or digit
        --
        mesh.yaml:1:12: services.Inventory: "Inventory" is not a service name: use lower-case letters, digits, '-' and '.', at most 253 bytes, beginning and ending with a letter or digit
        mesh.yaml:1:27: services.-a: "-a" is not a service name: use lower-case letters, digits, '-' and '.', at most 253 bytes, beginning and ending with a letter or digit
        --
        mesh.yaml:1:12: policies.a_b: "a_b" is not a policy name: use lower-case letters, digits, '-' and '.', at most 253 bytes, beginning and ending with a letter or digit
        --
        mesh.yaml:1:10: routes["a/b"]: "a/b" is not a route's name: use letters, digits, '-', '.' and ':port'
        --
        mesh.yaml:1:26: services.a.identity: "spiffe://fusewire.local/a//b" is not a SPIFFE ID: the path has one or more segments of letters, digits, '-', '.' and '_'
        mesh.yaml:1:47: services.b.identity: "spiffe://x" is not a SPIFFE ID: the path has one or more segments of letters, digits, '-', '.' and '_'
        mesh.yaml:1:74: services.c.allow[0]: "spiffe://fusewire.local/a b" is not a SPIFFE ID: the path has one or more segments of letters, digits, '-', '.' and '_'
    "#]].assert_eq(&told(&texts));
}

#[test]
fn services_and_instances_say_what_is_allowed() {
    let texts = [
        r"services: {a: {protocol: htpp}}",
        r"services: {a: {allow: catalog}, b: {allow: }, c: {allow: {}}}",
        r"services: {a: {instances: [localhost:80, 10.0.0.1, 10.0.0.1:0, 0.0.0.0:80, '[::]:80', 10.0.0.1:99999]}}",
        r"services: {a: {instances: [{id: x}, {id: 'a b', address: 10.0.0.1:80}]}}",
        r"services: {a: {instances: [{address: 10.0.0.1:80, weight: 0}, {address: 10.0.0.2:80, weight: 1001}, {address: 10.0.0.3:80, weight: two}]}}",
        r"services: {a: {instances: [{address: 10.0.0.1:80, identity: b}]}}",
        r"services:
  a:
    instances:
      - 10.0.0.1:80
      - {id: x, address: 10.0.0.1:80}
      - {id: x, address: 10.0.0.2:80}",
        r"services: {a: {instances: [{address: 10.0.0.1:80, labels: {'a b': c, d: [e]}}]}}",
    ];
    expect![[r#"
        mesh.yaml:1:26: services.a.protocol: must be http | http1 | http2 | opaque, got "htpp" (did you mean "http"?)
        --
        mesh.yaml:1:23: services.a.allow: must be `mesh` or a list of identities, got "catalog" (write [catalog])
        mesh.yaml:1:37: services.b.allow: must be `mesh` or a list of identities, got nothing (write [] to let nobody in, or mesh for every workload of the trust domain)
        mesh.yaml:1:58: services.c.allow: must be `mesh` or a list of identities, got a mapping
        --
        mesh.yaml:1:28: services.a.instances[0]: must be ip:port, such as 10.0.0.7:8080 or [::1]:8080, got "localhost:80"
        mesh.yaml:1:42: services.a.instances[1]: must be ip:port, such as 10.0.0.7:8080 or [::1]:8080, got "10.0.0.1"
        mesh.yaml:1:52: services.a.instances[2]: must be an address that can be connected to, got 10.0.0.1:0
        mesh.yaml:1:64: services.a.instances[3]: must be an address that can be connected to, got 0.0.0.0:80
        mesh.yaml:1:76: services.a.instances[4]: must be an address that can be connected to, got [::]:80
        mesh.yaml:1:87: services.a.instances[5]: must be ip:port, such as 10.0.0.7:8080 or [::1]:8080, got "10.0.0.1:99999"
        --
        mesh.yaml:1:28: services.a.instances[0].address: must be given: where the application listens
        mesh.yaml:1:42: services.a.instances[1].id: must be 1..253 visible ASCII characters, got "a b"
        --
        mesh.yaml:1:59: services.a.instances[0].weight: must be 1..1000, got 0
        mesh.yaml:1:94: services.a.instances[1].weight: must be 1..1000, got 1001
        mesh.yaml:1:132: services.a.instances[2].weight: must be a whole number 1..1000, got "two"
        --
        mesh.yaml:1:61: services.a.instances[0].identity: needs a sidecar, which proves it (add `sidecar: ip:port`, or leave the identity out)
        --
        mesh.yaml:5:9: services.a.instances[1]: has the address 10.0.0.1:80, as the instance in mesh.yaml:4 (an address is unique within its service)
        mesh.yaml:6:9: services.a.instances[2]: has the id x, as the instance in mesh.yaml:5 (an id is unique within its service)
        --
        mesh.yaml:1:60: services.a.instances[0].labels["a b"]: a label's name is 1..253 letters, digits, '-', '_', '.' and '/'
        mesh.yaml:1:73: services.a.instances[0].labels.d: must be 0..63 letters, digits, '-', '_' and '.', got a list
    "#]].assert_eq(&told(&texts));
}

#[test]
fn policies_say_what_is_allowed() {
    let texts = [
        r"policies:
  a:
    breaker:
      instance:
        consecutive: 300
        min_calls: 0
        failure_rate: 101%
        buckets: 1
        mode: off",
        r"policies: {a: {timeout: {connect: 5, request: 1.5s, idle: 0s}}}",
        r"policies: {a: {timeout: {connect: 2m, request: soon, idle: -1s}}}",
        r"policies: {a: {breaker: on, plain: yes}}",
        r"policies:
  a:
    breaker:
      instance:
        open: {base: 2m}
        window: 100ms
        buckets: 20",
        r"services: {a: }
policies: {p: {target: {service: a, labels: {x: y}}, plain: allow, timeout: {connect: 1s, request: 2s}}}",
        r"services: {a: }
policies: {default: {target: {service: a}}}",
        r"services: {a: }
policies:
  p: {target: {service: a}}
  q: {target: {service: a}}
  r: {target: {service: a, labels: {x: y}}}
  s: {target: {service: a, labels: {x: y}}}",
    ];
    expect![[r#"
        mesh.yaml:5:22: policies.a.breaker.instance.consecutive: must be 0..255, got 300
        mesh.yaml:6:20: policies.a.breaker.instance.min_calls: must be 1..65000, got 0
        mesh.yaml:7:23: policies.a.breaker.instance.failure_rate: must be a percentage 1..100, got "101%"
        mesh.yaml:8:18: policies.a.breaker.instance.buckets: must be 2..20, got 1
        mesh.yaml:9:15: policies.a.breaker.instance.mode: must be enforce | observe | disabled, got "off"
        --
        mesh.yaml:1:35: policies.a.timeout.connect: must be a duration 1ms..1m, got 5 without a unit (write 5s or 5ms)
        mesh.yaml:1:47: policies.a.timeout.request: must be a duration 1ms..24h, got "1.5s" (write it like 250ms, 5s, 1m30s or 2h)
        mesh.yaml:1:59: policies.a.timeout.idle: must be 1ms..24h, got 0s
        --
        mesh.yaml:1:35: policies.a.timeout.connect: must be 1ms..1m, got 2m
        mesh.yaml:1:48: policies.a.timeout.request: must be a duration 1ms..24h, got "soon" (write it like 250ms, 5s, 1m30s or 2h)
        mesh.yaml:1:60: policies.a.timeout.idle: must be a duration 1ms..24h, got "-1s" (write it like 250ms, 5s, 1m30s or 2h)
        --
        mesh.yaml:1:25: policies.a.breaker: must be `off` or a mapping, got "on" (for a trial write {instance: {mode: observe}})
        mesh.yaml:1:36: policies.a.plain: must be allow | deny, got "yes"
        --
        mesh.yaml:5:15: policies.a.breaker.instance.open.max: must be at least open_base 120s, got 60s
        mesh.yaml:7:18: policies.a.breaker.instance.buckets: 20 buckets of 100ms are under 10ms each
        --
        mesh.yaml:2:61: policies.p.plain: cannot be set for labelled instances, only breaker.instance and timeout.connect can (set it in the policy of the service)
        mesh.yaml:2:100: policies.p.timeout.request: cannot be set for labelled instances, only breaker.instance and timeout.connect can (set it in the policy of the service)
        --
        mesh.yaml:2:30: policies.default.target: the policy named default applies to every service that has no other (leave the target out, or name the policy differently)
        --
        mesh.yaml:4:3: policies.q.target: targets service a, as the policy in mesh.yaml:3 does (merge the two: one object holds everything)
        mesh.yaml:6:3: policies.s.target: targets service a and the same labels, as the policy in mesh.yaml:5 does (merge the two: one object holds everything)
    "#]].assert_eq(&told(&texts));
}

#[test]
fn routes_say_what_is_allowed() {
    let texts = [
        r"services: {a: }
routes: {r: {match: {path: api}, to: a}}",
        r"services: {a: }
routes: {r: {match: {path: {prefix: '/a?b=c'}}, to: a}, s: {match: {path: {}}, to: a}, t: {match: {path: /ü}, to: a}}",
        r"services: {a: }
routes: {r: {match: {method: 'GE T', headers: {'x y': 1, X-A: 1, x-a: 2, x-b: {}, x-c: {present: yes}}}, to: a}}",
        r"services: {a: }
routes: {r: {}, s: {rules: []}, t: {to: []}, u: {to: [{service: a, weight: 0}]}, v: {to: {service: a, weight: 1000001}}}",
        r"services: {a: }
routes: {r: {authority: [Shop.Example, shop.example., 'user@x', 'x:99999'], to: a}, s: {authority: [], to: a}}",
    ];
    expect![[r#"
        mesh.yaml:2:28: routes.r.match.path: must begin with '/', got "api" (a path without its host)
        --
        mesh.yaml:2:37: routes.r.match.path.prefix: must be without '?' and '#', since the query is not matched, got "/a?b=c"
        mesh.yaml:2:75: routes.s.match.path: must have one of exact and prefix
        mesh.yaml:2:106: routes.t.match.path: must be percent-encoded, at most 2048 bytes, got "/ü"
        --
        mesh.yaml:2:30: routes.r.match.method: must be a method, such as GET, got "GE T"
        mesh.yaml:2:48: routes.r.match.headers["x y"]: "x y" is not a header's name
        mesh.yaml:2:66: routes.r.match.headers.x-a: is already written: the case of a header's name does not count
        mesh.yaml:2:79: routes.r.match.headers.x-b: must have one of exact and present
        mesh.yaml:2:98: routes.r.match.headers.x-c.present: must be true | false, got "yes"
        --
        mesh.yaml:2:13: routes.r.to: must be given: a service or a list of {service, weight}
        mesh.yaml:2:28: routes.s.rules: must hold at least one rule (for one rule without a match write `to: service`)
        mesh.yaml:2:41: routes.t.to: must name at least one service
        mesh.yaml:2:54: routes.u.to: has no weight above 0, so nothing could be chosen (give one backend a weight)
        mesh.yaml:2:111: routes.v.to.weight: must be 0..1000000, got 1000001
        --
        mesh.yaml:2:40: routes.r.authority[1]: shop.example is listed twice
        mesh.yaml:2:55: routes.r.authority[2]: must be host or host:port, such as shop.example:8443, got "user@x"
        mesh.yaml:2:65: routes.r.authority[3]: must be host or host:port, such as shop.example:8443, got "x:99999"
        mesh.yaml:2:100: routes.s.authority: must name at least one authority (leave it out to mean the route's own name)
    "#]].assert_eq(&told(&texts));
}

#[test]
fn what_refers_to_nothing_is_told_with_what_is_near() {
    let texts = [
        r"services: {catalog: , db: }
routes: {r: {to: [{service: catalgo}, nowhere], policy: fast}}
policies: {fats: }",
        r"services: {a: {policy: gold}}",
        r"policies: {p: {target: {service: a}}}",
        r"services: {a: {instances: [{id: a-1, address: 10.0.0.1:80}]}}
overrides:
  - {service: b, breaker: open, owner: ada, reason: x}
  - {service: a, instance: a-2, breaker: open, owner: ada, reason: x}
  - {service: a, instance: other, breaker: open, owner: ada, reason: x}",
    ];
    expect![[r#"
        mesh.yaml:2:29: routes.r.to[0].service: service catalgo is not defined (did you mean "catalog"?)
        mesh.yaml:2:39: routes.r.to[1]: service nowhere is not defined (add it under services, or correct the name)
        mesh.yaml:2:57: routes.r.policy: policy fast is not defined (did you mean "fats"?)
        --
        mesh.yaml:1:24: services.a.policy: policy gold is not defined (add it under policies, or correct the name)
        --
        mesh.yaml:1:34: policies.p.target.service: service a is not defined (add it under services, or correct the name)
        --
        mesh.yaml:3:15: overrides[0].service: service b is not defined (add it under services, or correct the name)
        mesh.yaml:4:5: overrides[1].instance: service a has no instance a-2 (did you mean "a-1"?)
        mesh.yaml:5:5: overrides[2].instance: service a has no instance other (its instances are defined in mesh.yaml:1)
    "#]]
    .assert_eq(&told(&texts));
}

#[test]
fn overrides_say_what_is_allowed() {
    let texts = [
        r"services: {a: }
overrides: [{service: a}]",
        r"services: {a: }
overrides: [{service: a, breaker: half-open, owner: '', reason: x, until: tomorrow}]",
        r"services: {a: }
overrides:
  - {service: a, breaker: open, owner: ada, reason: x}
  - {service: a, breaker: closed, owner: bob, reason: y}",
    ];
    expect![[r#"
        mesh.yaml:2:13: overrides[0].breaker: must be given: open | closed
        mesh.yaml:2:13: overrides[0].owner: must be given: who answers for it
        mesh.yaml:2:13: overrides[0].reason: must be given: why the breaker may not decide
        --
        mesh.yaml:2:35: overrides[0].breaker: must be open | closed, got "half-open"
        mesh.yaml:2:53: overrides[0].owner: must be 1..200 characters, got ""
        mesh.yaml:2:75: overrides[0].until: must be a time as RFC 3339 has it, such as 2026-11-22T18:00:00Z, got "tomorrow"
        --
        mesh.yaml:4:5: overrides[1]: holds what the override in mesh.yaml:3 holds (keep one)
    "#]].assert_eq(&told(&texts));
}

#[test]
fn sidecars_say_what_is_allowed() {
    let texts = [
        r"sidecar: {outbound: [127.0.0.1:1, {listen: 127.0.0.1:1}], inbound: 127.0.0.1:1, admin: {listen: 127.0.0.1:1}}",
        r"sidecar: {outbound: [{listen: 127.0.0.1:1, protocol: opaque}, {service: db}, {listen: 127.0.0.1:2, service: db}]}",
        r"sidecar: {control: control, identity: {key: k}, access_log: xml, workers: 0, discovery_timeout: 1ms, drain_timeout: 2h}",
        r"sidecar: {inbound: {listen: 127.0.0.1:1, app: localhost}, instance: 'a b', data_dir: '', token_file: [a]}",
    ];
    expect![[r#"
        mesh.yaml:1:44: sidecar.outbound[1].listen: 127.0.0.1:1 is already listened on, see mesh.yaml:1
        mesh.yaml:1:68: sidecar.inbound: 127.0.0.1:1 is already listened on, see mesh.yaml:1
        mesh.yaml:1:97: sidecar.admin.listen: 127.0.0.1:1 is already listened on, see mesh.yaml:1
        --
        mesh.yaml:1:22: sidecar.outbound[0]: must name a service, since bytes do not say where they go (add `service: name`)
        mesh.yaml:1:63: sidecar.outbound[1].listen: must be given: ip:port
        mesh.yaml:1:73: sidecar.outbound[1].service: service db is not defined (add it under services, or correct the name)
        mesh.yaml:1:109: sidecar.outbound[2].service: service db is not defined (add it under services, or correct the name)
        --
        mesh.yaml:1:20: sidecar.control: must be host:port of the control plane, got "control"
        mesh.yaml:1:39: sidecar.identity.certificate: must be given: the certificate chain, PEM
        mesh.yaml:1:39: sidecar.identity.bundle: must be given: the certificates to verify peers against, PEM
        mesh.yaml:1:61: sidecar.access_log: must be off | errors | text | json, got "xml"
        mesh.yaml:1:75: sidecar.workers: must be 1..64, got 0
        mesh.yaml:1:97: sidecar.discovery_timeout: must be 10ms..1m, got 1ms
        mesh.yaml:1:117: sidecar.drain_timeout: must be 0s..1h, got 2h
        --
        mesh.yaml:1:47: sidecar.inbound.app: must be an IP address, such as 127.0.0.1, got "localhost"
        mesh.yaml:1:69: sidecar.instance: must be the id of an instance, got "a b"
        mesh.yaml:1:86: sidecar.data_dir: must be a path, got ""
        mesh.yaml:1:102: sidecar.token_file: must be a path, got a list
    "#]].assert_eq(&told(&texts));
}

#[test]
fn several_files_are_one_mesh_and_a_name_belongs_to_one_of_them() {
    let sources = [
        source("b.yaml", "services:\n  a: {}\nroutes: {r: {to: a}}\npolicies: {p: }\ntrust_domain: x\nsidecar: {}"),
        source(
            "a.yaml",
            "---\nservices: {a: {}}\n---\nroutes: {r: {to: b}}\npolicies: {p: }\nsidecar: {}\ntrust_domain: y",
        ),
    ];
    files(
        &sources,
        &expect![[r#"
        a.yaml:2:12: services.a: is already defined in b.yaml:2
        a.yaml:4:10: routes.r: is already defined in b.yaml:3
        a.yaml:5:12: policies.p: is already defined in b.yaml:4
        a.yaml:6:10: sidecar: is already defined in b.yaml:6
        a.yaml:7:15: trust_domain: must be x, as in b.yaml:5: a mesh has one trust domain
    "#]],
    );
}

#[test]
fn what_could_not_be_read_is_not_called_undefined() {
    let sources = [source("a.yaml", "routes: {r: {to: b}}"), source("b.yaml", "services: {b: {}}\n]")];
    files(
        &sources,
        &expect![[r#"
        b.yaml:2:1: is not YAML: misplaced bracket
    "#]],
    );
}

#[test]
fn a_text_that_is_too_large_or_too_deep_is_not_read() {
    let large = format!("services: {{}}\n#{}", "x".repeat(MAX_SIZE));
    files(
        &[source("large.yaml", &large)],
        &expect![[r#"
        large.yaml:1:1: must be at most 4 MiB, got 4194318 bytes (split it into several files)
    "#]],
    );
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", "")] {
        let deep = open.repeat(MAX_DEPTH + 1) + &close.repeat(MAX_DEPTH + 1);
        let faults = yaml::parse(&[source("deep.yaml", &deep)]).expect_err("too deep");
        assert_eq!(faults.len(), 1, "{}", lines(&faults));
        assert_eq!(faults[0].message, format!("nests deeper than {MAX_DEPTH} levels"));
        // far beyond, where recursion would end the process
        assert!(yaml::parse(&[source("abyss.yaml", &open.repeat(MAX_SIZE / open.len()))]).is_err());
    }
}

#[test]
fn many_faults_are_counted_rather_than_kept() {
    let keys: String = (0..1_000).map(|n| format!("k{n}: 1\n")).collect();
    let faults = yaml::parse(&[source("mesh.yaml", &keys)]).expect_err("unknown keys");
    assert_eq!(faults.len(), 201);
    expect![[r#"
        mesh.yaml:200:1: k199: unknown key (known here: trust_domain, services, routes, policies, overrides, sidecar)
        mesh.yaml:200:1: and 800 more faults
    "#]]
    .assert_eq(&lines(&faults[199..]));
}

#[test]
fn long_texts_are_told_in_part() {
    let text = format!("services: {{a: {{protocol: {0}, {0}: 1}}}}", "é".repeat(100_000));
    let faults = yaml::parse(&[source("mesh.yaml", &text)]).expect_err("no protocol");
    assert!(faults.iter().all(|fault| fault.to_string().len() < 600), "{}", lines(&faults));
}
