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
        mesh.yaml:3:5: policies.a["<<"]: unknown key (known here: target, breaker, lb, limit, priority, retry, fallback, timeout, plain, trace)
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
        mesh.yaml:1:30: services.a.color: unknown key (known here: protocol, policy, identity, health, dns, allow, instances, authorities, addresses)
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
        r"policies: {a: {trace: on}, b: {trace: {sample: 101%, rate: 1}}, c: {trace: {sample: 0.00000001}}, d: {trace: {sample: -1}}}",
        r"policies:
  a:
    breaker:
      instance:
        open: {base: 2m}
        window: 100ms
        buckets: 20",
        r"services: {a: }
policies: {p: {target: {service: a, labels: {x: y}}, plain: allow, trace: {sample: 1}, timeout: {connect: 1s, request: 2s}}}",
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
        mesh.yaml:1:23: policies.a.trace: must be a mapping such as {sample: 1%}, got "on"
        mesh.yaml:1:48: policies.b.trace.sample: must be a share 0..1 or 0%..100%, to the millionth, got "101%"
        mesh.yaml:1:54: policies.b.trace.rate: unknown key (known here: sample)
        mesh.yaml:1:85: policies.c.trace.sample: must be a share 0..1 or 0%..100%, to the millionth, got "0.00000001"
        mesh.yaml:1:119: policies.d.trace.sample: must be a share 0..1 or 0%..100%, to the millionth, got "-1"
        --
        mesh.yaml:5:15: policies.a.breaker.instance.open.max: must be at least open_base 120s, got 60s
        mesh.yaml:7:18: policies.a.breaker.instance.buckets: 20 buckets of 100ms are under 10ms each
        --
        mesh.yaml:2:61: policies.p.plain: cannot be set for labelled instances, only breaker.instance and timeout.connect can (set it in the policy of the service)
        mesh.yaml:2:75: policies.p.trace: cannot be set for labelled instances, only breaker.instance and timeout.connect can (set it in the policy of the service)
        mesh.yaml:2:120: policies.p.timeout.request: cannot be set for labelled instances, only breaker.instance and timeout.connect can (set it in the policy of the service)
        --
        mesh.yaml:2:30: policies.default.target: the policy named default applies to every service that has no other (leave the target out, or name the policy differently)
        --
        mesh.yaml:4:3: policies.q.target: targets service a, as the policy in mesh.yaml:3 does (merge the two: one object holds everything)
        mesh.yaml:6:3: policies.s.target: targets service a and the same labels, as the policy in mesh.yaml:5 does (merge the two: one object holds everything)
    "#]].assert_eq(&told(&texts));
}

#[test]
fn checks_and_names_say_what_is_allowed() {
    let texts = [
        r"services: {a: {health: http}, b: {health: }, c: {health: {}}, d: {health: {http: /, tcp: }}, e: {health: [tcp]}}",
        r"services: {a: {health: {http: ready}}, b: {health: {http: '/a#b'}}, c: {health: {http: '/a b?c'}}, d: {health: {grpc: 'a b'}}, e: {health: {tcp: 5432}}}",
        r"services: {a: {health: {http: /, port: 0, interval: 10ms, timeout: 2m, up: 0, down: 101, every: 1s}}}",
        r"services: {a: {dns: x.example}, b: {dns: {}}, c: {dns: {name: 10.0.0.1, port: 1}}, d: {dns: {name: a..b, port: 65536}}}",
        r"services: {a: {dns: {name: x.example, records: srv, port: 80}}, b: {dns: {name: x.example, records: mx}}}",
        r"services: {a: {dns: {name: x.example, port: 80, server: ns.example, refresh: 0s}}}",
        r"services: {a: {instances: [{address: 10.0.0.1:80, zone: ''}, {address: 10.0.0.2:80, zone: 'a b'}]}}",
        r"policies: {a: {breaker: {instance: {probe: health}}}}",
        r"services: {a: {policy: p}, b: , c: {policy: p, health: tcp}, d: }
policies:
  p: {breaker: {instance: {probe: check}}}
  q: {target: {service: b}, breaker: {instance: {probe: check}}}
  default: {breaker: {instance: {probe: check}}}",
    ];
    expect![[r#"
        mesh.yaml:1:24: services.a.health: must be one of `http: /path`, `grpc: service.Name` and `tcp`, got "http" (write {http: /ready} or tcp)
        mesh.yaml:1:35: services.b.health: must be one of `http: /path`, `grpc: service.Name` and `tcp`, got nothing
        mesh.yaml:1:58: services.c.health: must have exactly one of `http: /path`, `grpc: service.Name` and `tcp`
        mesh.yaml:1:75: services.d.health: must have exactly one of `http: /path`, `grpc: service.Name` and `tcp`
        mesh.yaml:1:106: services.e.health: must be one of `http: /path`, `grpc: service.Name` and `tcp`, got a list
        --
        mesh.yaml:1:31: services.a.health.http: must begin with '/', got "ready" (a path without its host)
        mesh.yaml:1:59: services.b.health.http: must be without '?' and '#', since the query is not matched, got "/a#b"
        mesh.yaml:1:88: services.c.health.http: must be percent-encoded, at most 2048 bytes, without '#', got "/a b?c"
        mesh.yaml:1:119: services.d.health.grpc: must be a gRPC service's name, or "" for the whole server, got "a b"
        mesh.yaml:1:146: services.e.health.tcp: must be left empty (write `port: 5432` beside it for another port)
        --
        mesh.yaml:1:40: services.a.health.port: must be 1..65535, got 0
        mesh.yaml:1:53: services.a.health.interval: must be 100ms..1h, got 10ms
        mesh.yaml:1:68: services.a.health.timeout: must be 10ms..1m, got 2m
        mesh.yaml:1:76: services.a.health.up: must be 1..100, got 0
        mesh.yaml:1:85: services.a.health.down: must be 1..100, got 101
        mesh.yaml:1:90: services.a.health.every: unknown key (known here: http, grpc, tcp, port, interval, timeout, up, down)
        --
        mesh.yaml:1:21: services.a.dns: must be a mapping such as {name: db.example.com, port: 5432}, got "x.example"
        mesh.yaml:1:42: services.b.dns.name: must be given: what is asked for, such as db.example.com
        mesh.yaml:1:42: services.b.dns.port: must be given (add `port: 5432`, or `records: srv` where the records name it)
        mesh.yaml:1:63: services.c.dns.name: is an address, not a name (write it under instances)
        mesh.yaml:1:100: services.d.dns.name: must be a DNS name of letters, digits, '-', '_' and '.', at most 253 characters, got "a..b"
        mesh.yaml:1:112: services.d.dns.port: must be 1..65535, got 65536
        --
        mesh.yaml:1:59: services.a.dns.port: is not for SRV records, which name their own ports (leave it out, or write `records: address`)
        mesh.yaml:1:101: services.b.dns.records: must be address | srv, got "mx"
        --
        mesh.yaml:1:57: services.a.dns.server: must be ip:port, such as 10.0.0.7:8080 or [::1]:8080, got "ns.example"
        mesh.yaml:1:78: services.a.dns.refresh: must be 1s..1h, got 0s
        --
        mesh.yaml:1:57: services.a.instances[0].zone: must be 1..63 letters, digits, '-', '_' and '.', got ""
        mesh.yaml:1:91: services.a.instances[1].zone: must be 1..63 letters, digits, '-', '_' and '.', got "a b"
        --
        mesh.yaml:1:44: policies.a.breaker.instance.probe: must be request | check, got "health"
        --
        mesh.yaml:1:12: services.a.policy: policy p probes by the health check, and service a has none (add `health` to the service, or write `probe: request`)
        mesh.yaml:4:3: policies.q.target: policy q probes by the health check, and service b has none (add `health` to the service, or write `probe: request`)
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
        mesh.yaml:2:75: routes.s.match.path: must have one of exact, prefix and regex
        mesh.yaml:2:106: routes.t.match.path: must be percent-encoded, at most 2048 bytes, got "/ü"
        --
        mesh.yaml:2:30: routes.r.match.method: must be a method, such as GET, got "GE T"
        mesh.yaml:2:48: routes.r.match.headers["x y"]: "x y" is not a header's name
        mesh.yaml:2:66: routes.r.match.headers.x-a: is already written: the case of a header's name does not count
        mesh.yaml:2:79: routes.r.match.headers.x-b: must have one of exact, present and regex
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
        mesh.yaml:2:100: routes.s.authority: must name at least one authority (leave it out to mean the name alone)
    "#]].assert_eq(&told(&texts));
}

#[test]
fn what_routes_change_is_held_against_what_they_may() {
    let texts = [
        r"services: {a: }
routes: {r: {match: {query: {'': 1, q: {}, s: {regex: '('}}, path: {regex: 'a{1000}{1000}'}}, to: a}}",
        r"services: {a: }
routes: {r: {to: a, request_headers: {set: {Host: b, fusewire-x: 1, x-a: 'ü', X-B: 1, x-b: 2}, add: {te: trailers}, remove: [connection, a b]}, response_headers: {remove: content-length, sat: {}}}}",
        r"services: {a: }
routes: {r: {to: {service: a, request_headers: {remove: [host]}, mirror: a}}, s: {to: [{missing: true, service: a}, {weight: 2}]}}",
        r"services: {a: }
routes: {r: {to: a, rewrite: {host: 'a/b', path: x}}, s: {match: {path: /x}, to: a, rewrite: {path: {prefix: /y}}}, t: {to: a, rewrite: {path: {}}}}",
        r"services: {a: }
routes: {r: {to: a, mirror: {to: b, share: 101%}}, s: {to: a, mirror: [{share: 1}]}}",
        r"services: {a: }
routes: {r: {to: a, cors: {origins: ['*', shop], methods: 'A B', max_age: 0s, creds: true}}, s: {to: a, cors: {}}, t: {cors: {origins: '*'}, redirect: {host: y}}}",
        r"services: {a: }
routes: {r: {to: a, redirect: {scheme: ftp, host: 'a:80', port: 0, status: 304}}, s: {redirect: {}}, t: {rewrite: {host: x}, redirect: {host: y}}, u: {redirect: {status: 301}}}",
    ];
    expect![[r#"
        mesh.yaml:2:30: routes.r.match.query[""]: "" is not a parameter's name
        mesh.yaml:2:40: routes.r.match.query.q: must have one of exact, present and regex
        mesh.yaml:2:55: routes.r.match.query.s.regex: is no regular expression: unclosed group (all of the value must match; the syntax is that of Rust's regex, much as RE2's)
        mesh.yaml:2:76: routes.r.match.path.regex: compiles to more than 64 KiB (all of the value must match; the syntax is that of Rust's regex, much as RE2's)
        --
        mesh.yaml:2:45: routes.r.request_headers.set.Host: "Host" is not a header that a route may change: the mesh decides about those that frame a message, are for one connection, name the host, or are its own
        mesh.yaml:2:54: routes.r.request_headers.set.fusewire-x: "fusewire-x" is not a header that a route may change: the mesh decides about those that frame a message, are for one connection, name the host, or are its own
        mesh.yaml:2:74: routes.r.request_headers.set.x-a: must be visible ASCII characters, none of them a space at an end, at most 4096, got "ü"
        mesh.yaml:2:87: routes.r.request_headers.set.x-b: is already written: the case of a header's name does not count
        mesh.yaml:2:102: routes.r.request_headers.add.te: "te" is not a header that a route may change: the mesh decides about those that frame a message, are for one connection, name the host, or are its own
        mesh.yaml:2:126: routes.r.request_headers.remove[0]: "connection" is not a header that a route may change: the mesh decides about those that frame a message, are for one connection, name the host, or are its own
        mesh.yaml:2:138: routes.r.request_headers.remove[1]: "a b" is not a header that a route may change: the mesh decides about those that frame a message, are for one connection, name the host, or are its own
        mesh.yaml:2:172: routes.r.response_headers.remove: "content-length" is not a header that a route may change: the mesh decides about those that frame a message, are for one connection, name the host, or are its own
        mesh.yaml:2:188: routes.r.response_headers.sat: unknown key (did you mean "set"?)
        --
        mesh.yaml:2:58: routes.r.to.request_headers.remove[0]: "host" is not a header that a route may change: the mesh decides about those that frame a message, are for one connection, name the host, or are its own
        mesh.yaml:2:66: routes.r.to.mirror: unknown key (known here: missing, service, weight, request_headers, response_headers)
        mesh.yaml:2:98: routes.s.to[0].missing: stands beside service (keep one)
        mesh.yaml:2:117: routes.s.to[1].service: must be given: the name of a service
        --
        mesh.yaml:2:37: routes.r.rewrite.host: must be host or host:port, such as shop.example, got "a/b"
        mesh.yaml:2:50: routes.r.rewrite.path: must begin with '/', got "x" (a path without its host)
        mesh.yaml:2:101: routes.s.rewrite.path: replaces a prefix, and the rule matches none (write `match: {path: {prefix: ...}}`)
        mesh.yaml:2:144: routes.t.rewrite.path.prefix: must be given: what stands in place of the prefix that matched
        --
        mesh.yaml:2:34: routes.r.mirror.to: service b is not defined (add it under services, or correct the name)
        mesh.yaml:2:44: routes.r.mirror.share: must be a share 0..1 or 0%..100%, got "101%"
        mesh.yaml:2:72: routes.s.mirror[0].to: must be given: the name of a service
        --
        mesh.yaml:2:38: routes.r.cors.origins[0]: * means any, and stands alone
        mesh.yaml:2:43: routes.r.cors.origins[1]: is no origin: write *, https://shop.example or https://*.example:8443
        mesh.yaml:2:59: routes.r.cors.methods: is no method
        mesh.yaml:2:75: routes.r.cors.max_age: must be 1s..596523h14m7s, got 0s
        mesh.yaml:2:79: routes.r.cors.creds: unknown key (known here: origins, methods, headers, expose, credentials, max_age)
        mesh.yaml:2:111: routes.s.cors: names no origin, so that no page may read anything (write `origins: ["https://shop.example"]`)
        mesh.yaml:2:152: routes.t.redirect: stands beside cors (what is redirected goes nowhere else: keep one)
        --
        mesh.yaml:2:31: routes.r.redirect: stands beside to (what is redirected goes nowhere else: keep one)
        mesh.yaml:2:31: routes.r.redirect: leads to where it came from (name a scheme, host, port or path)
        mesh.yaml:2:40: routes.r.redirect.scheme: must be http | https, got "ftp"
        mesh.yaml:2:51: routes.r.redirect.host: must be a host without a port, such as shop.example, got "a:80"
        mesh.yaml:2:65: routes.r.redirect.port: must be 1..65535, got 0
        mesh.yaml:2:76: routes.r.redirect.status: must be 301 | 302 | 303 | 307 | 308, got "304" (did you mean "301"?)
        mesh.yaml:2:97: routes.s.redirect: leads to where it came from (name a scheme, host, port or path)
        mesh.yaml:2:136: routes.t.redirect: stands beside rewrite (what is redirected goes nowhere else: keep one)
        mesh.yaml:2:162: routes.u.redirect: leads to where it came from (name a scheme, host, port or path)
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
fn telemetry_says_what_is_allowed_and_never_what_was_written_of_secrets() {
    let texts = [
        r"sidecar: {telemetry: on}",
        r"sidecar: {telemetry: {otlp: on, metrics_interval: 100ms, per_instance_metrics: 1, trace: 1}}",
        r"sidecar: {telemetry: {otlp: 'http://ada:hunter2@collector:4317'}}",
        r"sidecar: {telemetry: {otlp: {protocol: udp, headers: 'key: hunter2'}}}",
        r"sidecar: {telemetry: {otlp: {endpoint: 'http://ada:hunter2@collector:4317'}}}",
        r"sidecar: {telemetry: {otlp: {endpoint: 'collector:4317?key=hunter2'}}}",
        r"sidecar: {telemetry: {otlp: {endpoint: 'http://collector:4317/v1'}}}",
        r"sidecar: {telemetry: {otlp: {endpoint: 'http://collector/?key=hunter2', protocol: http}}}",
        r"sidecar: {telemetry: {otlp: {endpoint: 'https://collector'}}}",
        r"sidecar: {telemetry: {otlp: {endpoint: 'http://collector', ca: /ca.pem}}}",
        r#"sidecar: {telemetry: {otlp: {endpoint: 'http://collector', headers: {Host: a, "b c": d, key: "hunter2\n", x: [hunter2]}}}}"#,
    ];
    expect![[r#"
        mesh.yaml:1:22: sidecar.telemetry: must be a mapping such as {otlp: {endpoint: http://127.0.0.1:4317}}, got "on"
        --
        mesh.yaml:1:29: sidecar.telemetry.otlp: must be off, control or a mapping (name a receiver as {endpoint: http://host:port})
        mesh.yaml:1:51: sidecar.telemetry.metrics_interval: must be 1s..5m, got 100ms
        mesh.yaml:1:80: sidecar.telemetry.per_instance_metrics: must be true | false, got "1"
        mesh.yaml:1:83: sidecar.telemetry.trace: unknown key (known here: otlp, metrics_interval, per_instance_metrics, sample)
        --
        mesh.yaml:1:29: sidecar.telemetry.otlp: must be off, control or a mapping (name a receiver as {endpoint: http://host:port})
        --
        mesh.yaml:1:29: sidecar.telemetry.otlp.endpoint: must be given: http://host:port of an OTLP receiver
        mesh.yaml:1:40: sidecar.telemetry.otlp.protocol: must be grpc | http, got "udp"
        mesh.yaml:1:54: sidecar.telemetry.otlp.headers: must be a mapping of header names to values
        --
        mesh.yaml:1:40: sidecar.telemetry.otlp.endpoint: must not carry credentials (write them as headers: {authorization: ...}; a base64 of name:password follows the word Basic)
        --
        mesh.yaml:1:40: sidecar.telemetry.otlp.endpoint: must be http://host:port or https://host:port (a path goes with protocol: http only)
        --
        mesh.yaml:1:40: sidecar.telemetry.otlp.endpoint: must be http://host:port or https://host:port (a path goes with protocol: http only)
        --
        mesh.yaml:1:40: sidecar.telemetry.otlp.endpoint: must be http://host:port or https://host:port (a path may follow, a query may not)
        --
        mesh.yaml:1:40: sidecar.telemetry.otlp.endpoint: https needs the certificates that the receiver's is verified against (add ca: FILE; for a public authority that of the system, such as /etc/ssl/certs/ca-certificates.crt)
        --
        mesh.yaml:1:64: sidecar.telemetry.otlp.ca: is of no use without TLS (write the endpoint with https://)
        --
        mesh.yaml:1:70: sidecar.telemetry.otlp.headers.Host: is not the name of a header that can be set
        mesh.yaml:1:79: sidecar.telemetry.otlp.headers["b c"]: is not the name of a header that can be set
        mesh.yaml:1:89: sidecar.telemetry.otlp.headers.key: must be visible ASCII text of at most 8192 bytes
        mesh.yaml:1:107: sidecar.telemetry.otlp.headers.x: must be visible ASCII text of at most 8192 bytes
    "#]].assert_eq(&told(&texts));
    assert!(!told(&texts).contains("hunter2"));
}

#[test]
fn sidecars_say_what_is_allowed() {
    let texts = [
        r"sidecar: {outbound: [127.0.0.1:1, {listen: 127.0.0.1:1}], inbound: 127.0.0.1:1, admin: {listen: 127.0.0.1:1}}",
        r"sidecar: {outbound: [{listen: 127.0.0.1:1, protocol: opaque}, {service: db}, {listen: 127.0.0.1:2, service: db}]}",
        r"sidecar: {control: control, identity: {key: k}, access_log: xml, workers: 0, discovery_timeout: 1ms, drain_timeout: 2h}",
        r"sidecar: {inbound: {listen: 127.0.0.1:1, app: localhost}, instance: 'a b', data_dir: '', token_file: [a]}",
        r"sidecar: {register: {ports: {0: shop, web: shop, 1: Shop}, ttl: 1h, weight: 0, id: '', zone: '', nam: x}}",
        r"sidecar: {control: [c:1, d, 'c:1', {e: 1}]}",
        r"sidecar: {control: []}",
        r"sidecar: {control: c:1, inbound: 0.0.0.0:1, register: {ports: {}}}",
        r"sidecar: {control: c:1, inbound: 127.0.0.1:1, register: {address: localhost, ports: {1: a, 2: a}}}",
        r"sidecar: {control: c:1, inbound: '[::]:1', register: {address: '::'}}",
        r"sidecar: {inbound: 127.0.0.1:1, intercept: {outbound: [127.0.0.1:1, local], inbound: 127.0.0.1:2, unknown: drop, x: 1}}",
        r"sidecar: {intercept: {unknown: allow}}",
        r"sidecar: {intercept: on}",
        r"sidecar: {intercept: {outbound: 127.0.0.1:1, tproxy: true}}",
        r"sidecar: {intercept: {inbound: ['[::]:1', 127.0.0.1:2], tproxy: true}}",
        r"sidecar: {intercept: {inbound: '[::]:1', tproxy: keep}}",
        r"sidecar: {intercept: {inbound: '[::]:1', mark: 0x100000000}}",
        r"sidecar: {intercept: {inbound: '[::]:1', mark: 61534}}",
        r"sidecar: {dns: 127.0.0.1:53}",
        r"sidecar: {intercept: {outbound: 127.0.0.1:1}, dns: {listen: [0.0.0.0:53, nowhere], upstream: [a, 1.1.1.1, 2.2.2.2, 3.3.3.3]}}",
        r"sidecar: {intercept: {outbound: 127.0.0.1:1}, dns: {upstream: 1.1.1.1, x: 1}}",
        r"sidecar: {forwarded: drop, limits: {connections: 0, header_bytes: 65537, header_count: 9, target_bytes: 60001, header_timeout: 1ms, idle_timeout: 25h, body_timeout: 0s, bodies: 1}}",
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
        --
        mesh.yaml:1:21: sidecar.register: needs a control plane, whose registry it is (add sidecar.control)
        mesh.yaml:1:21: sidecar.register: needs sidecar.inbound, where peers reach the application (add `inbound: ip:port`)
        mesh.yaml:1:30: sidecar.register.ports.0: a port is 1..65535
        mesh.yaml:1:39: sidecar.register.ports.web: a port is 1..65535
        mesh.yaml:1:53: sidecar.register.ports.1: "Shop" is not a service name: use lower-case letters, digits, '-' and '.', at most 253 bytes, beginning and ending with a letter or digit
        mesh.yaml:1:65: sidecar.register.ttl: must be 1s..10m, got 1h
        mesh.yaml:1:77: sidecar.register.weight: must be 1..1000, got 0
        mesh.yaml:1:84: sidecar.register.id: must be 1..253 visible ASCII characters, got ""
        mesh.yaml:1:94: sidecar.register.zone: must be 1..253 characters, got ""
        mesh.yaml:1:98: sidecar.register.nam: unknown key (known here: address, ports, id, weight, zone, labels, ttl)
        --
        mesh.yaml:1:26: sidecar.control[1]: must be host:port of the control plane, got "d"
        mesh.yaml:1:29: sidecar.control[2]: c:1 is in the list already
        mesh.yaml:1:36: sidecar.control[3]: must be host:port of the control plane, got a mapping
        --
        mesh.yaml:1:20: sidecar.control: must name 1 to 64 control planes, got 0
        --
        mesh.yaml:1:55: sidecar.register: must say its address, since sidecar.inbound is 0.0.0.0 (add `address: ip`, the one that peers reach this host at)
        mesh.yaml:1:63: sidecar.register.ports: must be 1..64 ports, got 0
        --
        mesh.yaml:1:67: sidecar.register.address: must be an IP address that peers can connect to, got "localhost"
        mesh.yaml:1:95: sidecar.register.ports.2: service a has a port already; an instance has one (register the other port by a sidecar of its own)
        --
        mesh.yaml:1:54: sidecar.register.ports: must be given: which port serves which service, such as {8080: shop}
        mesh.yaml:1:64: sidecar.register.address: must be an IP address that peers can connect to, got "::"
        --
        mesh.yaml:1:56: sidecar.intercept.outbound[0]: 127.0.0.1:1 is already listened on, see mesh.yaml:1
        mesh.yaml:1:69: sidecar.intercept.outbound[1]: must be ip:port, such as 127.0.0.1:15001, got "local"
        mesh.yaml:1:108: sidecar.intercept.unknown: must be allow | refuse, got "drop"
        mesh.yaml:1:114: sidecar.intercept.x: unknown key (known here: outbound, inbound, tproxy, mark, unknown)
        --
        mesh.yaml:1:22: sidecar.intercept: must name a listener (add `outbound: 127.0.0.1:15001` or `inbound: 0.0.0.0:15006`)
        --
        mesh.yaml:1:22: sidecar.intercept: must be a mapping such as {outbound: 127.0.0.1:15001, inbound: 0.0.0.0:15006}, got "on"
        --
        mesh.yaml:1:54: sidecar.intercept.tproxy: is for what comes in (add `inbound: '[::]:15006'`)
        --
        mesh.yaml:1:65: sidecar.intercept.tproxy: does not lead to loopback (listen on 0.0.0.0 or, for both families, on [::])
        --
        mesh.yaml:1:50: sidecar.intercept.tproxy: must be true | false, got "keep"
        --
        mesh.yaml:1:48: sidecar.intercept.mark: must be a mark such as 0x539, got "0x100000000"
        --
        mesh.yaml:1:48: sidecar.intercept.mark: 0xf05e is what TPROXY's rules go by (take another)
        --
        mesh.yaml:1:16: sidecar.dns: its addresses lead nowhere without `intercept.outbound` (add `intercept: {outbound: 127.0.0.1:15001}`)
        --
        mesh.yaml:1:62: sidecar.dns.listen[0]: must be a loopback address, got 0.0.0.0 (listen on 127.0.0.1 and [::1])
        mesh.yaml:1:74: sidecar.dns.listen[1]: must be ip:port, such as 127.0.0.1:15001, got "nowhere"
        mesh.yaml:1:94: sidecar.dns.upstream: must name at most 3 resolvers, got 4
        mesh.yaml:1:95: sidecar.dns.upstream[0]: must be an IP address or ip:port, such as 10.0.0.10, got "a"
        --
        mesh.yaml:1:52: sidecar.dns.listen: must be given: ip:port, such as 127.0.0.1:15053
        mesh.yaml:1:72: sidecar.dns.x: unknown key (known here: listen, upstream)
        --
        mesh.yaml:1:22: sidecar.forwarded: must be append | replace | remove | keep, got "drop"
        mesh.yaml:1:50: sidecar.limits.connections: must be 1..1000000, got 0
        mesh.yaml:1:67: sidecar.limits.header_bytes: must be 1024..65536, got 65537
        mesh.yaml:1:88: sidecar.limits.header_count: must be 10..1000, got 9
        mesh.yaml:1:105: sidecar.limits.target_bytes: must be 256..60000, got 60001
        mesh.yaml:1:128: sidecar.limits.header_timeout: must be 100ms..10m, got 1ms
        mesh.yaml:1:147: sidecar.limits.idle_timeout: must be 100ms..24h, got 25h
        mesh.yaml:1:166: sidecar.limits.body_timeout: must be 100ms..24h, got 0s
        mesh.yaml:1:170: sidecar.limits.bodies: unknown key (known here: connections, header_bytes, header_count, target_bytes, header_timeout, idle_timeout, body_timeout)
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

#[test]
fn resilience_settings_that_cannot_be_meant_are_told_where_they_stand() {
    let policy = |text: &str| told(&[&format!("services: {{a: }}\npolicies:\n  p:\n    {text}")]);
    let texts = [
        "lb: {policy: ring_hash}",
        "lb: {policy: p2c_ewma, key: path}",
        "lb: random",
        "lb: {policy: maglev, key: {header: Host}}",
        "limit: {requests: 0, inbound: {algorithm: aimd, min: 10, max: 5}}",
        "limit: {inbound: {algorithm: off, min: 10}}",
        "limit: {inbound: {queue: 11s, target: 0s}}",
        "limit: {rate: {per: 1s}}",
        "limit: {rate: {requests: 5, key: cookie}}",
        "priority: high",
        "retry: {attempts: 6, on: [connect, gateway-error], per_try_timeout: 1}",
        "retry: {backoff: {initial: 1s, max: 10ms}}",
        "retry: {budget: {ratio: 2, cap: 0.5}}",
        "retry: on",
        "fallback: [{type: fail}, {type: stale, max_age: 5m}]",
        "fallback: [{type: static, status: 99, headers: {Content-Length: 5, x: ' y'}}]",
        "fallback: [{type: service, service: b}, {type: stale}, {type: queue}, {}]",
        "breaker: {classify: {hard: [99, 500-400], grpc_soft: [BUSY, 17]}}",
        "breaker: {instance: {half_open: {permits: 2, concurrency: 3}, slow: {over: 1s}, peer: {z: 0}}}",
        "breaker: {instance: {open: {factor: 0.5}}}",
        "breaker: {service: {throttle: {k: 1}, open: all, permits: 5, concurrency: 6, scope: method}}",
        "breaker: {service: {open: {base: 10s, max: 5s}}}",
        "breaker: {exhausted: {spill: 0, envoy_panic: 50}}",
        "breaker: {exhausted: spill}",
        "target: {service: a, labels: {x: y}}\n    retry: off\n    breaker: {classify: {}}\n    priority: critical",
    ];
    expect![[r#"
        mesh.yaml:4:9: policies.p.lb: needs a key to hash by (add {key: {header: x-user}}, path or peer)
        --
        mesh.yaml:4:33: policies.p.lb.key: is for ring_hash and maglev only (leave it out, or choose one of them)
        --
        mesh.yaml:4:9: policies.p.lb: must be p2c_ewma | least_request | round_robin | ring_hash | maglev, got "random"
        --
        mesh.yaml:4:40: policies.p.lb.key.header: must be a header's name that is neither about the message's framing nor ours, got "Host"
        --
        mesh.yaml:4:23: policies.p.limit.requests: must be 1..1000000, got 0
        mesh.yaml:4:35: policies.p.limit.inbound: must be min <= initial <= max, got min 10, initial 10, max 5
        --
        mesh.yaml:4:39: policies.p.limit.inbound.min: unknown key (known here: algorithm, rate)
        --
        mesh.yaml:4:30: policies.p.limit.inbound.queue: must be 0s..10s, got 11s
        mesh.yaml:4:43: policies.p.limit.inbound.target: must be 1ms..1m, got 0s
        --
        mesh.yaml:4:19: policies.p.limit.rate.requests: must be given: how many
        --
        mesh.yaml:4:38: policies.p.limit.rate.key: must be path | peer | {header: NAME}, got "cookie"
        --
        mesh.yaml:4:15: policies.p.priority: must be normal | critical, got "high"
        --
        mesh.yaml:4:23: policies.p.retry.attempts: must be 1..5, got 6
        mesh.yaml:4:40: policies.p.retry.on[1]: must be connect | not_processed | reset | timeout | gateway_error | unavailable | server_error, got "gateway-error" (did you mean "gateway_error"?)
        mesh.yaml:4:73: policies.p.retry.per_try_timeout: must be a duration 1ms..24h, got 1 without a unit (write 1s or 1ms)
        --
        mesh.yaml:4:41: policies.p.retry.backoff.max: must be initial 1s..1m, got 10ms
        --
        mesh.yaml:4:29: policies.p.retry.budget.ratio: must be a share 0..1 or 0%..100%, got "2"
        --
        mesh.yaml:4:12: policies.p.retry: must be `off` or a mapping, got "on"
        --
        mesh.yaml:4:30: policies.p.fallback[1]: is never tried: what stands before it always answers (change their order)
        --
        mesh.yaml:4:39: policies.p.fallback[0].status: must be 200..599, got 99
        mesh.yaml:4:53: policies.p.fallback[0].headers.Content-Length: is not a header that an answer may be given: it is no name, frames the message, or is ours
        mesh.yaml:4:75: policies.p.fallback[0].headers.x: must be visible ASCII characters, no space at an end, got " y"
        --
        mesh.yaml:4:41: policies.p.fallback[0].service: service b is not defined (add it under services, or correct the name)
        mesh.yaml:4:45: policies.p.fallback[1].max_age: must be given: how old an answer may be
        mesh.yaml:4:67: policies.p.fallback[2].type: must be static | stale | service | empty | fail, got "queue"
        mesh.yaml:4:75: policies.p.fallback[3].type: must be given: static, stale, service, empty or fail
        --
        mesh.yaml:4:33: policies.p.breaker.classify.hard[0]: must be an HTTP status 200..599, or a range such as 500-599, got "99"
        mesh.yaml:4:37: policies.p.breaker.classify.hard[1]: must be an HTTP status 200..599, or a range such as 500-599, got "500-400"
        mesh.yaml:4:59: policies.p.breaker.classify.grpc_soft[0]: must be a gRPC status such as UNAVAILABLE, or its number 0..16, got "BUSY"
        mesh.yaml:4:65: policies.p.breaker.classify.grpc_soft[1]: must be a gRPC status such as UNAVAILABLE, or its number 0..16, got "17"
        --
        mesh.yaml:4:63: policies.p.breaker.instance.half_open.concurrency: must be 1..2, got 3
        mesh.yaml:4:73: policies.p.breaker.instance.slow.rate: must be given: the share that opens the circuit
        mesh.yaml:4:95: policies.p.breaker.instance.peer.z: must be 1..20, got 0
        --
        mesh.yaml:4:41: policies.p.breaker.instance.open.factor: must be a factor 1..10, to the thousandth, got "0.5"
        --
        mesh.yaml:4:39: policies.p.breaker.service.throttle.k: must be 0 or a number 1.1..10, to the hundredth, got "1"
        mesh.yaml:4:49: policies.p.breaker.service.open: must be off | connect | any, got "all"
        mesh.yaml:4:79: policies.p.breaker.service.concurrency: must be 1..5, got 6
        mesh.yaml:4:89: policies.p.breaker.service.scope: must be service | route, got "method"
        --
        mesh.yaml:4:48: policies.p.breaker.service.open.max: must be at least open_base 10s, got 5s
        --
        mesh.yaml:4:26: policies.p.breaker.exhausted: must have one of spill and envoy_panic
        mesh.yaml:4:34: policies.p.breaker.exhausted.spill: must be a percentage 1..100, got "0"
        --
        mesh.yaml:4:26: policies.p.breaker.exhausted: must be limiter, got "spill"
        --
        mesh.yaml:5:12: policies.p.retry: cannot be set for labelled instances, only breaker.instance and timeout.connect can (set it in the policy of the service)
        mesh.yaml:6:25: policies.p.breaker.classify: cannot be set for labelled instances, only breaker.instance and timeout.connect can (set it in the policy of the service)
        mesh.yaml:7:15: policies.p.priority: cannot be set for labelled instances, only breaker.instance and timeout.connect can (set it in the policy of the service)
    "#]].assert_eq(&texts.map(policy).join("--\n"));
}
