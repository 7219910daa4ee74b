//! What a route's rule may say: which requests it is for, what it changes on the way, and where requests and copies of them go.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use fusewire_testkit::client::{Answer, App, Gate, send};
use fusewire_testkit::pair::{Pair, Shape};
use fusewire_testkit::{eventually, free_port, h2c};
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");

/// What a caller speaks.
const VERSIONS: [u8; 2] = [1, 2];

/// Asks for `target` (`authority/path`) in HTTP/1.1 or HTTP/2.
fn ask(port: u16, version: u8, method: &str, target: &str, fields: &[(&str, &str)], body: &'static [u8]) -> Answer {
    let (authority, path) = target.split_at(target.find('/').unwrap());
    if version == 1 {
        let mut request = Request::builder().method(method).uri(path).header("host", authority);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        return send(port, request.body(Full::new(Bytes::from_static(body))).unwrap()).unwrap();
    }
    h2c::run(async {
        let client = h2c::client(port).await;
        let mut request = h2c::request(method, target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        if body.is_empty() {
            let (head, body) = h2c::call(&client, request).await.unwrap().into_parts();
            return Answer { status: head.status.as_u16(), headers: head.headers, body };
        }
        let (response, mut up) = h2c::open(&client, request).await;
        up.send_data(Bytes::from_static(body), true).unwrap();
        let (head, mut body) = response.await.unwrap().into_parts();
        let body = h2c::whole(&mut body).await.unwrap();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    })
}

fn get(port: u16, version: u8, target: &str) -> Answer {
    ask(port, version, "GET", target, &[], b"")
}

/// What an application was asked for.
#[derive(Clone, Debug, Default)]
struct Seen {
    host: String,
    target: String,
    fields: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn all(&self, name: &str) -> Vec<&str> {
        self.fields.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }
}

/// Says its name, and keeps what it was asked for.
fn app(name: &'static str) -> (App, Arc<Mutex<Vec<Seen>>>) {
    let seen = Arc::<Mutex<Vec<Seen>>>::default();
    let keeps = seen.clone();
    let app = App::start(0, move |request: Request<Bytes>| {
        let (head, body) = request.into_parts();
        let host = head.uri.authority().map(|a| a.to_string());
        let host = host.or_else(|| Some(head.headers.get("host")?.to_str().ok()?.to_owned())).unwrap_or_default();
        let target = head.uri.path_and_query().unwrap().to_string();
        keeps.lock().unwrap().push(Seen { host, target, fields: head.headers, body });
        let response = Response::builder().header("server", "its own").header("x-app", name);
        response.body(Full::new(Bytes::from_static(name.as_bytes()))).unwrap()
    });
    (app, seen)
}

/// The application `shop` behind two sidecars; each of `others` is reached in clear. `routes`: the rules of authority `r`.
fn pair(shop: u16, others: &[(&str, u16)], rules: &str) -> Pair {
    let services: String = others
        .iter()
        .map(|(name, port)| {
            format!("  {name}: {{policy: both, instances: [{{id: {name}-1, address: 127.0.0.1:{port}}}]}}\n")
        })
        .collect();
    let more = format!("{services}routes:\n  r:\n    rules:\n{rules}");
    Pair::shaped(FUSEWIRE, shop, &Shape { more: &more, ..Shape::default() })
}

#[test]
fn query_parameters_and_patterns_decide_where_a_request_goes() {
    let ((shop, _), (canary, _)) = (app("shop"), app("canary"));
    let rules = "      - {match: {query: {beta: '1', 'na me': ä}}, to: canary}\n      \
                 - {match: {path: {regex: '/v[0-9]+/.*'}, headers: {x-user: {regex: '[0-9]+'}}}, to: canary}\n      \
                 - {match: {query: {beta: {present: false}}}, to: shop}\n";
    let pair = pair(shop.port, &[("canary", canary.port)], rules);
    for version in VERSIONS {
        for (path, wanted) in [
            ("/?beta=1&na%20me=%C3%A4", "canary"),
            ("/x?na%20me=%c3%a4&beta=1&beta=2", "canary"),
            ("/", "shop"),
            ("/?Beta=1", "shop"),
        ] {
            assert_eq!(get(pair.port(), version, &format!("r{path}")).text(), wanted, "{version} {path}");
        }
        let answer = get(pair.port(), version, "r/?beta=2&beta=1&na%20me=%C3%A4");
        assert_eq!((answer.status, answer.header("fusewire-reason")), (404, Some("no-route")), "the first counts");
        for (path, user, wanted) in [("/v12/x", "7", "canary"), ("/v12/x", "7a", "shop"), ("/v/x", "7", "shop")] {
            let answer = ask(pair.port(), version, "GET", &format!("r{path}"), &[("x-user", user)], b"");
            assert_eq!(answer.text(), wanted, "{version} {path} {user}");
        }
    }
}

#[test]
fn fields_are_set_added_and_taken_out_on_both_ways() {
    let (shop, seen) = app("shop");
    let rules = "      - to: shop\n        \
                 request_headers: {set: {x-set: mesh}, add: {x-add: mesh}, remove: [x-secret, cookie]}\n        \
                 response_headers: {set: {server: mesh}, add: {x-app: mesh}, remove: x-none}\n";
    let pair = pair(shop.port, &[], rules);
    let fields = [("x-set", "caller"), ("x-add", "caller"), ("x-secret", "1"), ("cookie", "a=b"), ("fusewire-x", "1")];
    for version in VERSIONS {
        let answer = ask(pair.port(), version, "GET", "r/", &fields, b"");
        let got = seen.lock().unwrap().pop().unwrap();
        assert_eq!((got.all("x-set"), got.all("x-add")), (vec!["mesh"], vec!["caller", "mesh"]), "{version}");
        assert!(got.all("x-secret").is_empty() && got.all("cookie").is_empty(), "{version}: {got:?}");
        assert!(!got.fields.keys().any(|name| name.as_str().starts_with("fusewire-")), "{version}: {got:?}");
        let all = |name: &str| answer.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((all("server"), all("x-app")), (vec!["mesh"], vec!["shop", "mesh"]), "{version}");
    }
    // who is named by `Connection` cannot take out what the rule has set
    let answer = ask(pair.port(), 1, "GET", "r/", &[("connection", "x-set, x-add")], b"");
    assert_eq!(answer.status, 200);
    assert_eq!(seen.lock().unwrap().pop().unwrap().all("x-set"), ["mesh"]);
}

#[test]
fn answers_of_the_mesh_itself_are_not_edited() {
    let rules = "      - {to: shop, response_headers: {set: {x-edited: yes}}}\n";
    let pair = pair(free_port(), &[], rules);
    for version in VERSIONS {
        let answer = get(pair.port(), version, "r/");
        assert_eq!((answer.status, answer.header("x-edited")), (503, None), "{version}");
        assert!(answer.header("fusewire-reason").is_some());
    }
}

#[test]
fn host_and_path_are_rewritten_and_the_query_stays() {
    let (shop, seen) = app("shop");
    let rules = "      - {match: {path: {prefix: /old/}}, to: shop, rewrite: {host: 'v2.example:81', path: {prefix: /new}}}\n      \
                 - {match: {path: /whole}, to: shop, rewrite: {path: /elsewhere}}\n      \
                 - {match: {path: {prefix: /gone}}, to: [shop, plain], rewrite: {path: {prefix: /}}}\n";
    let pair = pair(shop.port, &[], rules);
    for version in VERSIONS {
        for (path, host, wanted) in [
            ("/old/a/b?q=1", "v2.example:81", "/new/a/b?q=1"),
            ("/old", "v2.example:81", "/new"),
            ("/old/", "v2.example:81", "/new/"),
            ("/whole?q", "r", "/elsewhere?q"),
            ("/gone", "r", "/"),
            ("/gone/x", "r", "/x"),
        ] {
            assert_eq!(get(pair.port(), version, &format!("r{path}")).status, 200, "{version} {path}");
            let got = seen.lock().unwrap().pop().unwrap();
            assert_eq!((got.host.as_str(), got.target.as_str()), (host, wanted), "{version} {path}");
        }
        assert_eq!(pair.logged(&pair.web, "/old/a/b")["authority"], "r", "the log says what was asked for");
    }
}

#[test]
fn a_redirect_is_an_answer_of_ours_and_no_failure() {
    let (shop, seen) = app("shop");
    let rules = "      - {match: {path: {prefix: /a}}, redirect: {path: {prefix: /b}, status: 308}}\n      \
                 - {match: {path: /secure}, redirect: {scheme: https, host: shop.example}}\n      \
                 - {match: {path: /port}, redirect: {port: 8080, path: /x, status: 303}}\n      \
                 - {to: shop}\n";
    let pair = pair(shop.port, &[], rules);
    for version in VERSIONS {
        for (path, status, wanted) in [
            ("/a/x?q=1", 308, "http://r/b/x?q=1"),
            ("/secure", 302, "https://shop.example/secure"),
            ("/port?q", 303, "http://r:8080/x?q"),
        ] {
            let answer = get(pair.port(), version, &format!("r{path}"));
            let got = (answer.status, answer.header("location"), answer.header("fusewire-reason"));
            assert_eq!(got, (status, Some(wanted), Some("redirected")), "{version} {path}");
        }
        let answer = ask(pair.port(), version, "POST", "r/a", &[], b"thrown away");
        assert_eq!((answer.status, answer.header("location")), (308, Some("http://r/b")), "{version}");
        let answer = ask(pair.port(), version, "HEAD", "r/a", &[], b"");
        assert_eq!((answer.status, answer.body.len()), (308, 0), "{version}");
    }
    assert!(seen.lock().unwrap().is_empty(), "no instance was asked");
    let route = "fusewire_route_responses_total{route=\"r[0]\",class=\"3xx\"}";
    eventually("the rule counts them", || pair.web.metric(route) == Some(6.0));
    let (_, metrics) = pair.web.get("/metrics").unwrap();
    assert!(!metrics.lines().any(|line| line.contains("request_errors") && line.contains("redirected")), "{metrics}");
    assert_eq!(pair.logged(&pair.web, "/secure")["reason"], "redirected");
}

/// Gateway API lets a redirect lead to where the request came from; clients stop by themselves.
#[test]
fn a_redirect_is_said_as_it_is_written_wherever_it_leads() {
    let (shop, seen) = app("shop");
    let rules = "      - {match: {path: {prefix: /a}}, redirect: {path: /a/x}}\n      \
                 - {match: {path: {prefix: /b}}, redirect: {host: R, port: 80}}\n      \
                 - {to: shop}\n";
    let pair = pair(shop.port, &[], rules);
    for version in VERSIONS {
        let cases = [
            ("/a/y?q", "http://r/a/x?q"),
            ("/a", "http://r/a/x"),
            ("/a/x?q", "http://r/a/x?q"),
            ("/a/x", "http://r/a/x"),
            ("/b/c", "http://r/b/c"),
        ];
        for (path, wanted) in cases {
            let answer = get(pair.port(), version, &format!("r{path}"));
            assert_eq!((answer.status, answer.header("location")), (302, Some(wanted)), "{version}");
        }
    }
    assert_eq!(pair.logged(&pair.web, "/b/c")["reason"], "redirected");
    assert!(seen.lock().unwrap().is_empty(), "no instance was asked");
}

#[test]
fn what_one_backend_gets_is_not_shown_to_what_the_policy_falls_back_to() {
    let (other, seen) = app("other");
    let services =
        format!("  other: {{policy: both, instances: [{{id: other-1, address: 127.0.0.1:{}}}]}}\n", other.port);
    let rules = "      - to: [{service: shop, request_headers: {set: {x-track: shop}, add: {x-key: of-shop}, remove: [x-id]}}]\n        \
                 request_headers: {set: {x-rule: 'yes'}}\n";
    let more = format!("{services}routes:\n  r:\n    rules:\n{rules}");
    let shape = Shape { policy: "fallback: [{type: service, service: other}]", more: &more, ..Shape::default() };
    let pair = Pair::shaped(FUSEWIRE, free_port(), &shape);
    for version in VERSIONS {
        for (method, body) in [("GET", &b""[..]), ("PUT", &b"a body"[..])] {
            let answer = ask(pair.port(), version, method, "r/", &[("x-id", "7"), ("x-track", "caller")], body);
            let got = (answer.status, answer.header("fusewire-fallback"), answer.text());
            assert_eq!(got, (200, Some("service"), "other".into()), "{version} {method}");
            let got = seen.lock().unwrap().pop().unwrap();
            assert_eq!(
                (got.all("x-track"), got.all("x-id"), got.all("x-rule")),
                (vec!["caller"], vec!["7"], vec!["yes"])
            );
            assert!(got.all("x-key").is_empty() && got.body == body, "{got:?}");
        }
    }
}

#[test]
fn the_mesh_says_whose_pages_may_call_and_read() {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let keeps = seen.clone();
    let shop = App::start(0, move |request: Request<Bytes>| {
        keeps.lock().unwrap().push(format!("{} {}", request.method(), request.uri().path()));
        let response =
            Response::builder().header("access-control-allow-origin", "https://own").header("vary", "accept");
        response.header("access-control-allow-methods", "DELETE").header("x-app", "1").body(Full::default()).unwrap()
    });
    let rules = "      - {match: {path: {prefix: /a}, method: PUT}, to: shop, cors: {origins: ['https://*.shop.example'], methods: [PUT], headers: [x-a], credentials: true, expose: [x-app], max_age: 1h}}\n      \
                 - {match: {path: /open}, to: shop, cors: {origins: '*', methods: '*', headers: '*', expose: '*'}}\n      \
                 - {match: {path: /dead}, to: dead, cors: {origins: '*'}}\n      \
                 - {to: shop}\n";
    let pair = pair(shop.port, &[("dead", free_port())], rules);
    let (good, evil) = ("https://www.shop.example", "https://shop.example.evil");
    let cors = |answer: &Answer| {
        let fields = answer.headers.iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix("access-control-")?;
            Some(format!("{name}={}", value.to_str().unwrap()))
        });
        let mut fields: Vec<String> = fields.collect();
        fields.sort();
        fields.join(" ")
    };
    for version in VERSIONS {
        let asks = |path: &str, origin: &str, method: &str| {
            let fields = [
                ("origin", origin),
                ("access-control-request-method", method),
                ("access-control-request-headers", "x-a,x-b"),
            ];
            let answer = ask(pair.port(), version, "OPTIONS", &format!("r{path}"), &fields, b"");
            let reason = answer.header("fusewire-reason").unwrap_or_default().to_owned();
            assert!(answer.body.is_empty() && answer.header("content-type").is_none(), "{answer:?}");
            (answer.status, cors(&answer), reason)
        };
        let wanted = format!(
            "allow-credentials=true allow-headers=x-a allow-methods=PUT allow-origin={good} expose-headers=x-app max-age=3600"
        );
        assert_eq!(asks("/a/asked", good, "PUT"), (204, wanted, "preflight".into()), "{version}");
        assert_eq!(asks("/a/asked", evil, "PUT"), (204, String::new(), "preflight".into()), "{version}");
        let wanted = "allow-headers=x-a,x-b allow-methods=GET allow-origin=* expose-headers=* max-age=5";
        assert_eq!(asks("/open", evil, "GET"), (204, wanted.into(), "preflight".into()), "{version}");
        assert!(seen.lock().unwrap().is_empty(), "no instance was asked");
        // of another rule, which says nothing: the application answers
        let own = "allow-methods=DELETE allow-origin=https://own";
        assert_eq!(asks("/a/b", good, "GET"), (200, own.into(), String::new()), "{version}");
        let answer = ask(pair.port(), version, "OPTIONS", "r/a/b", &[("origin", good)], b"");
        assert_eq!((answer.status, cors(&answer)), (200, own.into()), "it asks nothing");
        assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), ["OPTIONS /a/b", "OPTIONS /a/b"]);

        let put = |fields: &[(&str, &str)]| {
            let answer = ask(pair.port(), version, "PUT", "r/a/b", fields, b"a body");
            let varies = answer.headers.get_all("vary").iter().map(|value| value.to_str().unwrap());
            assert_eq!((answer.status, varies.collect::<Vec<_>>()), (200, vec!["accept", "origin"]), "{version}");
            cors(&answer)
        };
        let wanted = format!("allow-credentials=true allow-origin={good} expose-headers=x-app");
        assert_eq!(put(&[("origin", good)]), wanted, "{version}");
        assert_eq!(put(&[("origin", evil)]), "", "{version}: not even what the application says");
        assert_eq!(put(&[]), "", "{version}");
        assert_eq!(std::mem::take(&mut *seen.lock().unwrap()).len(), 3);
        let answer = ask(pair.port(), version, "GET", "r/dead", &[("origin", evil)], b"");
        assert_eq!((answer.status >= 500, cors(&answer)), (true, "allow-origin=*".into()), "a page learns of failures");
    }
    let line = pair.logged(&pair.web, "/a/asked");
    assert_eq!((line["reason"].as_str(), line["status"].as_u64()), (Some("preflight"), Some(204)));
    let (_, metrics) = pair.web.get("/metrics").unwrap();
    assert!(!metrics.lines().any(|line| line.contains("request_errors") && line.contains("preflight")), "{metrics}");
}

#[test]
fn shares_go_to_backends_by_weight_and_each_may_change_what_it_gets() {
    let ((shop, at_shop), (canary, at_canary)) = (app("shop"), app("canary"));
    let rules = "      - to:\n          \
                 - {service: shop, weight: 2, request_headers: {set: {x-track: stable}}, response_headers: {set: {x-from: stable}}}\n          \
                 - {service: canary, weight: 1, request_headers: {add: {x-track: canary}}, response_headers: {remove: server}}\n          \
                 - {missing: true, weight: 1}\n          \
                 - {service: plain, weight: 0}\n        \
                 request_headers: {set: {x-track: rule}}\n";
    let pair = pair(shop.port, &[("canary", canary.port)], rules);
    let mut missing = 0;
    for n in 0..200 {
        let answer = get(pair.port(), VERSIONS[n % 2], "r/");
        match (answer.status, answer.header("x-app")) {
            (200, Some("shop")) => assert_eq!(answer.header("x-from"), Some("stable")),
            (200, Some("canary")) => assert_eq!((answer.header("x-from"), answer.header("server")), (None, None)),
            (500, None) => {
                assert_eq!(answer.header("fusewire-reason"), Some("no-backend"));
                missing += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    let (at_shop, at_canary) = (at_shop.lock().unwrap(), at_canary.lock().unwrap());
    assert!(at_shop.iter().all(|seen| seen.all("x-track") == ["stable"]));
    assert!(at_canary.iter().all(|seen| seen.all("x-track") == ["rule", "canary"]));
    let shares = [at_shop.len(), at_canary.len(), missing];
    // each six standard deviations wide
    assert!((58..=142).contains(&shares[0]) && shares[1..].iter().all(|n| (14..=86).contains(n)), "{shares:?}");
    assert_eq!(pair.web.circuit("shop-1").as_deref(), Some("closed"));
}

/// What `shadow` has seen, once it is `count`.
fn copies(shadow: &Mutex<Vec<Seen>>, count: usize) -> Vec<Seen> {
    eventually(&format!("{count} copies arrive"), || shadow.lock().unwrap().len() == count);
    std::mem::take(&mut *shadow.lock().unwrap())
}

fn skipped(pair: &Pair, cause: &str) -> f64 {
    let series = format!("fusewire_mirror_skipped_total{{service=\"shadow\",cause=\"{cause}\"}}");
    pair.web.metric(&series).unwrap_or(0.0)
}

#[test]
fn a_copy_of_each_request_goes_to_the_mirror_and_its_answer_to_nobody() {
    let ((shop, at_shop), (shadow, at_shadow)) = (app("shop"), app("shadow"));
    let rules = "      - {match: {path: {prefix: /x}}, to: shop, mirror: shadow, rewrite: {path: {prefix: /y}}, request_headers: {set: {x-a: b}}}\n      \
                 - {match: {path: /none}, to: shop, mirror: [{to: shadow, share: 0%}]}\n      - {to: shop}\n";
    let pair = pair(shop.port, &[("shadow", shadow.port)], rules);
    for version in VERSIONS {
        for (method, path, body) in
            [("GET", "/x/1", &b""[..]), ("POST", "/x/2?q", &b"a body"[..]), ("PUT", "/x/3", &b""[..])]
        {
            let answer = ask(pair.port(), version, method, &format!("r{path}"), &[("fusewire-x", "1")], body);
            assert_eq!((answer.status, answer.text().as_str()), (200, "shop"), "{version} {method}");
            let (copy, own) = (copies(&at_shadow, 1).remove(0), at_shop.lock().unwrap().pop().unwrap());
            assert_eq!((&copy.target, &copy.body, &copy.host), (&own.target, &own.body, &own.host), "{version}");
            assert!(copy.target.starts_with("/y/") && copy.all("x-a") == ["b"] && copy.body == body, "{copy:?}");
            assert!(!copy.fields.keys().any(|name| name.as_str().starts_with("fusewire-")), "{copy:?}");
        }
        for path in ["/none", "/"] {
            assert_eq!(get(pair.port(), version, &format!("r{path}")).status, 200);
        }
    }
    let counted = "fusewire_responses_total{direction=\"outbound\",service=\"shadow\",class=\"2xx\"}";
    eventually("the mirrored service counts its copies", || pair.web.metric(counted) == Some(6.0));
    assert!(at_shadow.lock().unwrap().is_empty());
    assert_eq!([skipped(&pair, "body"), skipped(&pair, "busy")], [0.0, 0.0]);
}

#[test]
fn a_body_that_is_more_than_is_kept_is_not_copied_and_counted() {
    static LARGE: [u8; 200_000] = [b'x'; 200_000];
    let ((shop, at_shop), (shadow, at_shadow)) = (app("shop"), app("shadow"));
    let pair = pair(shop.port, &[("shadow", shadow.port)], "      - {to: shop, mirror: shadow}\n");
    for (version, so_far) in VERSIONS.into_iter().zip([1.0, 2.0]) {
        assert_eq!(ask(pair.port(), version, "POST", "r/", &[], &LARGE).text(), "shop");
        assert_eq!(at_shop.lock().unwrap().pop().unwrap().body.len(), LARGE.len());
        eventually("it is counted", || skipped(&pair, "body") == so_far);
    }
    assert_eq!(ask(pair.port(), 2, "POST", "r/", &[], &LARGE[..60_000]).text(), "shop");
    assert_eq!(copies(&at_shadow, 1)[0].body.len(), 60_000);
}

#[test]
fn a_mirror_that_hangs_or_is_dead_or_fails_delays_and_fails_nobody() {
    let (shop, at_shop) = app("shop");
    let gate = Gate::shut();
    let slow = {
        let gate = gate.clone();
        App::start_async(0, move |_| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                Response::new(Full::default())
            }
        })
    };
    let bad = App::failing(0, http::StatusCode::INTERNAL_SERVER_ERROR);
    let others = [("shadow", slow.port), ("dead", free_port()), ("bad", bad.port)];
    let pair = pair(shop.port, &others, "      - {to: shop, mirror: [shadow, dead, bad]}\n");
    for n in 0..110 {
        let answer = ask(pair.port(), VERSIONS[n % 2], "POST", "r/", &[], b"a body");
        assert_eq!((answer.status, answer.text().as_str()), (200, "shop"), "{n}");
    }
    assert_eq!(at_shop.lock().unwrap().len(), 110, "none went out twice");
    eventually("so many wait, and no more", || gate.reached() > 0 && skipped(&pair, "busy") >= 1.0);
    assert!(gate.reached() <= 100, "{}", gate.reached());
    let hard = |service: &str| {
        let labels = format!("service=\"{service}\",instance=\"{service}-1\",outcome=\"hard\"");
        pair.web.metric(&format!("fusewire_attempts_total{{{labels}}}")).unwrap_or(0.0)
    };
    eventually("their own circuits hear of it", || hard("dead") > 0.0);
    assert_eq!((hard("shop"), pair.web.circuit("shop-1").as_deref()), (0.0, Some("closed")));
    gate.open();
}

#[test]
fn callers_that_are_slow_with_their_bodies_take_no_copys_place() {
    let ((shop, _), (shadow, at_shadow)) = (app("shop"), app("shadow"));
    let pair = pair(shop.port, &[("shadow", shadow.port)], "      - {to: shop, mirror: shadow}\n");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let slow = runtime.block_on(async {
        let client = h2c::client(pair.port()).await;
        let mut slow = Vec::new();
        for _ in 0..120 {
            let (response, mut up) = h2c::open(&client, h2c::request("POST", "r/slow")).await;
            up.send_data(Bytes::from_static(b"half"), false).unwrap();
            slow.push((response, up));
        }
        slow
    });
    let flying = "fusewire_requests_in_flight{direction=\"outbound\",service=\"shop\"}";
    eventually("all of them are under way", || pair.web.metric(flying) == Some(120.0));
    assert_eq!(get(pair.port(), 1, "r/quick").status, 200);
    assert_eq!(copies(&at_shadow, 1)[0].target, "/quick");
    // half of them come to their end, the others leave
    for (n, (response, mut up)) in slow.into_iter().enumerate() {
        if n % 2 == 0 {
            up.send_data(Bytes::from_static(b" and half"), true).unwrap();
            assert_eq!(runtime.block_on(response).unwrap().status(), 200);
            assert_eq!(copies(&at_shadow, 1)[0].body, "half and half");
        }
    }
    eventually("those that left are counted", || skipped(&pair, "body") == 60.0);
    assert_eq!(skipped(&pair, "busy"), 0.0);
}

#[test]
fn a_share_of_the_requests_is_copied_and_upgrades_never() {
    let (shop, _) = app("shop");
    let counted = Arc::new(AtomicUsize::new(0));
    let shadow = {
        let counted = counted.clone();
        App::start(0, move |request| {
            assert_ne!(request.uri().path(), "/ws");
            counted.fetch_add(1, Ordering::SeqCst);
            Response::new(Full::default())
        })
    };
    let rules = "      - {to: shop, mirror: {to: shadow, share: 25%}}\n";
    let pair = pair(shop.port, &[("shadow", shadow.port)], rules);
    for n in 0..200 {
        assert_eq!(get(pair.port(), VERSIONS[n % 2], "r/").status, 200);
    }
    for _ in 0..20 {
        let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
        assert_eq!(ask(pair.port(), 1, "GET", "r/ws", &upgrade, b"").status, 200, "it does not switch");
    }
    let series = "fusewire_responses_total{direction=\"outbound\",service=\"shadow\",class=\"2xx\"}";
    let flying = "fusewire_requests_in_flight{direction=\"outbound\",service=\"shadow\"}";
    eventually("all copies have been answered", || {
        pair.web.metric(flying) == Some(0.0) && pair.web.metric(series).is_some_and(|n| n >= 14.0)
    });
    let copied = counted.load(Ordering::SeqCst);
    assert!((14..=86).contains(&copied), "six standard deviations: {copied}");
    assert!(!pair.web.access_log().iter().any(|line| line["service"] == "shadow" && line["path"] == "/ws"));
}
