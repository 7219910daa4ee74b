//! Operators look at circuits and hold them, by `fusewire breaker` and by the admin socket: what they do is in force for the
//! next request, and list, explain, history, the stream of events and the metrics all tell the same story.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use fusewire_testkit::client::{self, App, get};
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::process::tool;
use fusewire_testkit::{Mesh, Process, eventually, free_port};
use http::{Request, Response};
use http_body_util::Full;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
const SOCKET: &str = "web-1/sidecar.sock";

/// `shop` of two plain instances behind one sidecar. The balancer prefers shop-1 by its weight, whatever it does: what keeps
/// requests away from it is its circuit alone.
struct Town {
    web: Sidecar,
    /// Where shop-1 is; nobody listens there until a test starts something.
    first: u16,
    second: u16,
    /// Requests to shop-2.
    served: Arc<AtomicUsize>,
    _app: App,
    mesh: Mesh,
}

fn counting(port: u16) -> (App, Arc<AtomicUsize>) {
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let app = App::start(port, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Response::new(Full::new(Bytes::from_static(b"hello")))
    });
    (app, served)
}

impl Town {
    fn new() -> Self {
        Self::with("")
    }
    /// `more`: lines of the sidecar's section.
    fn with(more: &str) -> Self {
        let (app, served) = counting(0);
        let (first, second) = (free_port(), app.port);
        let mesh = Mesh::new(FUSEWIRE, &yaml(first, second, ""));
        let web = mesh.sidecar_with("web", "web-1", None, more);
        let town = Self { web, first, second, served, _app: app, mesh };
        assert_eq!(town.ask(), 200);
        town
    }
    fn ask(&self) -> u16 {
        get(self.web.outbound, "shop", "/").unwrap().status
    }
    fn configure(&self, first: u16, more: &str) {
        let version = || self.web.socket("/config")["version"].clone();
        let before = version();
        self.mesh.configure(&yaml(first, self.second, more));
        eventually("the change is in force", || version() != before);
    }
    /// `fusewire breaker ARGUMENTS`: exit code, standard output, standard error.
    fn breaker(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = self.mesh.command();
        command.arg("breaker").args(arguments).args(["--socket", SOCKET]);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
    /// The same, and it must work.
    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.breaker(arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        out
    }
    /// The same, and it must be refused: what it says.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.breaker(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        err
    }
    fn shown(&self, arguments: &[&str]) -> Value {
        let (_, out, err) = self.breaker(arguments);
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{arguments:?}: {out}{err}"))
    }
    /// The last transition of shop-1, once it is `to` for `reason`.
    #[track_caller]
    fn told(&self, to: &str, reason: &str) -> Value {
        let mut last = Value::Null;
        eventually(&format!("history: {to}, {reason}"), || {
            let all = self.shown(&["history", "shop/shop-1", "-o", "json"]);
            last = all.as_array().unwrap().last().cloned().unwrap_or_default();
            last["to"] == to && last["reason"] == reason
        });
        last
    }
    /// Requests until shop-1 has failed often enough.
    fn trip(&self) -> Value {
        eventually("the circuit of shop-1 opens", || {
            assert_eq!(self.ask(), 200, "what was refused by one goes to the other");
            self.web.circuit("shop-1").as_deref() == Some("open")
        });
        self.told("open", "consecutive")
    }
    fn series(&self, start: &str) -> Vec<String> {
        let (_, text) = self.web.get("/metrics").unwrap();
        text.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
    }
    /// One request on the admin socket, as it is written.
    fn raw(&self, head: &str, body: &str) -> (u16, String) {
        let mut socket = UnixStream::connect(self.mesh.path(SOCKET)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let length = body.len();
        write!(socket, "{head}\r\nhost: admin\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        (answer[9..12].parse().unwrap(), answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
    fn put(&self, instance: &str, body: &Value) -> (u16, Value) {
        let head = format!("PUT /breakers/instance/shop/{instance}/override HTTP/1.1");
        let (status, text) = self.raw(&head, &body.to_string());
        (status, serde_json::from_str(&text).unwrap())
    }
}

fn yaml(first: u16, second: u16, more: &str) -> String {
    format!(
        "policies:\n  default: {{plain: allow, breaker: {{instance: {{consecutive: 5, open: {{base: 30s, max: 1m}}}}}}}}\n\
         services:\n  shop:\n    instances:\n      - {{id: shop-1, address: 127.0.0.1:{first}, weight: 1000}}\n      \
         - {{id: shop-2, address: 127.0.0.1:{second}}}\n{more}"
    )
}

#[test]
fn a_circuit_that_is_held_open_gets_nothing_from_the_next_request_on_and_a_reset_lets_requests_back() {
    let town = Town::new();
    let (_first, served) = counting(town.first);
    let held = town.done(&["open", "shop/shop-1", "--reason", "bad disk"]);
    assert!(held.starts_with("shop/shop-1: circuit held open by ") && held.ends_with(" for 1h\n"), "{held}");
    for _ in 0..20 {
        assert_eq!(town.ask(), 200);
    }
    assert_eq!(served.load(Ordering::SeqCst), 0);
    assert_eq!(town.served.load(Ordering::SeqCst), 21);

    let (code, list, _) = town.breaker(&["list"]);
    assert_eq!(code, 1, "some circuit is not closed");
    assert!(list.lines().any(|l| l.contains("shop-1") && l.contains("open") && l.contains("held by ")), "{list}");
    let (code, told, _) = town.breaker(&["explain", "shop/shop-1"]);
    assert_eq!(code, 1);
    assert!(told.contains("circuit open, takes no requests") && told.contains("\"bad disk\"; ends in 59m"), "{told}");
    let over = town.shown(&["explain", "shop/shop-1", "-o", "json"])["override"].clone();
    assert_eq!((&over["to"], &over["reason"], &over["by"]), (&"open".into(), &"bad disk".into(), &"operator".into()));
    let id = Command::new("id").arg("-un").output().unwrap().stdout;
    assert_eq!(over["owner"], String::from_utf8(id).unwrap().trim(), "whom the kernel knows");
    let event = town.told("open", "manual");
    assert_eq!((&event["actor"], &event["note"]), (&over["owner"], &"bad disk".into()));
    eventually("the metrics say so", || {
        town.web.metric("fusewire_breaker_state{scope=\"instance\",service=\"shop\",instance=\"shop-1\"}") == Some(1.0)
            && town.web.metric("fusewire_breaker_open_seconds_total{direction=\"outbound\",service=\"shop\"}")
                > Some(0.0)
    });
    let changed = "fusewire_breaker_transitions_total{scope=\"instance\",service=\"shop\",from=\"closed\",to=\"open\",reason=\"manual\"}";
    assert_eq!(town.web.metric(changed), Some(1.0));

    // it lives with the instance, and not with the configuration
    town.configure(town.first, "  other: {instances: []}\n");
    assert_eq!(town.web.circuit("shop-1").as_deref(), Some("open"));

    town.done(&["open", "shop/shop-2", "--reason", "both", "--ttl", "0"]);
    let answer = get(town.web.outbound, "shop", "/").unwrap();
    assert_eq!((answer.status, answer.header("fusewire-reason")), (503, Some("circuit-open")));
    let why = "scope=instance service=shop: the circuits of all 2 instances are open";
    assert_eq!(answer.header("fusewire-detail"), Some(why));
    assert!(town.done_or_open(&["explain", "shop"]).starts_with("shop: 0 of 2 instances take requests"));

    assert_eq!(town.done(&["reset", "shop/shop-1"]), "shop/shop-1: circuit closed, from scratch\n");
    assert_eq!(town.ask(), 200);
    assert_eq!(served.load(Ordering::SeqCst), 1, "the very next request");
    town.told("closed", "manual");
    eventually("a closed circuit is not in the metrics", || {
        town.series("fusewire_breaker_state{").iter().all(|line| !line.contains("shop-1"))
    });
}

impl Town {
    fn done_or_open(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.breaker(arguments);
        assert!(code < 2, "{err}");
        out
    }
}

#[test]
fn an_override_ends_by_itself_and_one_that_holds_closed_outlasts_every_failure() {
    let town = Town::new();
    town.done(&["close", "shop/shop-1", "--reason", "migration", "--ttl", "8s"]);
    eventually("failures enough to open any other", || {
        assert_eq!(town.ask(), 200);
        town.web.breaker("shop-1")["window"]["hard"].as_u64() >= Some(6)
    });
    assert_eq!(town.web.circuit("shop-1").as_deref(), Some("closed"));
    eventually("its time is over", || town.web.breaker("shop-1")["override"].is_null());
    town.trip();

    town.done(&["open", "shop/shop-2", "--reason", "drill", "--ttl", "3s"]);
    assert_eq!(town.web.circuit("shop-2").as_deref(), Some("open"));
    eventually("it is let go of", || town.web.circuit("shop-2").as_deref() == Some("closed"));
    assert_eq!(town.ask(), 200);
}

#[test]
fn history_and_explain_have_the_evidence_of_a_real_trip_and_of_its_end() {
    let town = Town::new();
    let trip = town.trip();
    assert_eq!((&trip["from"], &trip["hard"], &trip["probes_needed"]), (&"closed".into(), &5.into(), &3.into()));
    assert_eq!((&trip["k"], &trip["window_ms"], &trip["scope"]), (&1.into(), &10_000.into(), &"instance".into()));
    let open = trip["open_ms"].as_u64().unwrap();
    assert!((22_500..=37_500).contains(&open), "{open}");
    let story = town.done(&["history", "shop/shop-1"]);
    assert!(story.contains("shop/shop-1 closed -> open consecutive: hard failures in a row: "), "{story}");
    assert!(story.contains("5 hard failures and 0 soft (") && story.contains("opening 1 in a row"), "{story}");
    let (code, told, _) = town.breaker(&["explain", "shop/shop-1"]);
    assert_eq!(code, 1);
    for said in [
        "opened on hard failures in a row (consecutive): ",
        "connections could not be had",
        "a probe is due in ",
        "3 clean probes close the circuit",
        "peers      1 closed, 0 open, 0 half-open",
    ] {
        assert!(told.contains(said), "{said}: {told}");
    }

    // with a short open time it is probed, and comes back
    town.done(&["reset", "shop/shop-1"]);
    let yaml = yaml(town.first, town.second, "").replace("base: 30s, max: 1m", "base: 200ms, max: 200ms");
    town.mesh.configure(&yaml);
    eventually("the open time is short", || {
        town.shown(&["explain", "shop/shop-1", "-o", "json"])["settings"]["open"]["base_ms"] == 200
    });
    eventually("it opens, and a probe fails", || {
        assert_eq!(town.ask(), 200);
        let all = town.shown(&["history", "shop/shop-1", "-o", "json"]);
        all.as_array().unwrap().iter().any(|e| e["reason"] == "probe_failed" && e["probes_failed"] == 1)
    });
    let (_first, _) = counting(town.first);
    eventually("it is closed by probes", || {
        assert_eq!(town.ask(), 200);
        town.web.circuit("shop-1").as_deref() == Some("closed")
    });
    let end = town.told("closed", "recovered");
    assert_eq!((&end["probes_ok"], &end["probes_failed"]), (&3.into(), &0.into()));
    let last = town.done(&["explain", "shop/shop-1"]);
    assert!(last.contains("last trip ") && last.contains("opens at   5 hard failures in a row"), "{last}");
    let probes = |result: &str| {
        let name =
            format!("fusewire_breaker_probes_total{{direction=\"outbound\",service=\"shop\",result=\"{result}\"}}");
        town.web.metric(&name)
    };
    eventually("the probes are counted", || probes("ok") == Some(3.0) && probes("failed") >= Some(1.0));
}

#[test]
fn who_follows_sees_each_transition_as_it_happens_and_the_end() {
    let mut town = Town::new();
    let mut command = town.mesh.command();
    command.args(["breaker", "history", "shop", "--follow", "-o", "json", "--socket", SOCKET]);
    let mut lines = Process::start(&mut command, town.mesh.path("follow.log"));
    let mut command = town.mesh.command();
    command.args(["breaker", "history", "--follow", "--socket", SOCKET]);
    let mut words = Process::start(&mut command, town.mesh.path("words.log"));
    let mut browser = UnixStream::connect(town.mesh.path(SOCKET)).unwrap();
    browser.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = "GET /breakers/events?follow=1 HTTP/1.1\r\nhost: admin\r\naccept: text/event-stream\r\n\r\n";
    browser.write_all(head.as_bytes()).unwrap();

    town.trip();
    town.done(&["reset", "shop/shop-1"]);
    eventually("both are told of both", || {
        let events: Vec<Value> = lines.output().lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        let reasons: Vec<&str> = events.iter().filter_map(|e| e["reason"].as_str()).collect();
        reasons == ["consecutive", "manual"] && words.output().contains("let go by ")
    });
    let after = town.web.socket("/breakers/events?after=1");
    assert_eq!((after.as_array().unwrap().len(), &after[0]["seq"]), (1, &2.into()));

    assert!(town.web.process.stop().success());
    for follower in [&mut lines, &mut words] {
        let mut status = None;
        eventually("a follower ends with the sidecar", || {
            status = follower.ended();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{}", follower.output());
        assert!(follower.output().contains("the sidecar stops"), "{}", follower.output());
    }
    let mut all = String::new();
    browser.read_to_string(&mut all).unwrap();
    assert!(all.contains("content-type: text/event-stream"), "{all}");
    for said in ["id: 1\nevent: transition\ndata: {\"seq\":1,", "id: 2\nevent: transition\n", "event: ended\n"] {
        assert!(all.contains(said), "{said:?}: {all}");
    }
}

#[test]
fn what_is_asked_wrongly_changes_nothing_and_is_told_with_a_path_and_what_exists() {
    let town = Town::new();
    let reason = ["--reason", "r"];
    let open = |name: &str| town.refused(&[&["open", name], &reason[..]].concat());
    assert!(open("cart/cart-1").contains("service \"cart\" is not known here; this sidecar calls shop"));
    assert!(open("shop/shop-9").contains("shop has no instance \"shop-9\"; there are shop-1, shop-2"));
    assert!(open("cart").contains("no service \"cart\" with a circuit of its own is known here; those that are: shop"));
    assert!(town.refused(&["reset", "shop/shop-9"]).contains("shop-1, shop-2"));
    assert!(town.refused(&["explain", "shop/shop-9"]).contains("shop-1, shop-2"));
    assert!(town.refused(&["history", "cart"]).contains("this sidecar calls shop"));
    assert!(town.refused(&["list", "--service", "cart"]).contains("this sidecar calls shop"));
    let long = "x".repeat(257);
    let said = town.refused(&["open", "shop/shop-1", "--reason", &long, "--ttl", "721h"]);
    assert!(said.contains("reason: must be 1 to 256 printable characters"), "{said}");
    assert!(said.contains("ttl_seconds: must be 0 to 2592000, which is 30 days"), "{said}");
    assert_eq!(town.breaker(&["open", "shop/shop-1"]).0, 2, "a reason is required");
    assert_eq!(town.breaker(&["open", "shop/", "--reason", "r"]).0, 2);

    let (status, said) = town.put("shop-1", &json!({ "to": "shut", "reason": "r", "owner": "root" }));
    assert_eq!(status, 400);
    let faults: Vec<&Value> = said["faults"].as_array().unwrap().iter().map(|fault| &fault["path"]).collect();
    assert_eq!(faults, ["owner", "to"]);
    assert!(said["faults"].as_array().unwrap().iter().all(|fault| fault["remedy"].is_string()), "{said}");
    let (status, said) = town.put("shop-9", &json!({ "to": "open", "reason": "r" }));
    assert_eq!((status, &said["known"]), (404, &json!(["shop-1", "shop-2"])));
    assert_eq!(town.raw("PUT /breakers/instance/shop/shop-1 HTTP/1.1", "{}").0, 405);
    assert_eq!(town.raw("POST /breakers/instance/shop/shop-1/override HTTP/1.1", "{}").0, 405);
    assert_eq!(town.raw("GET /breakers/instance/shop/shop-1/override HTTP/1.1", "").0, 404);
    assert_eq!(town.raw("GET /breakers/gateway/shop HTTP/1.1", "").0, 404);
    assert_eq!(town.raw("GET /breakers/events?after=x HTTP/1.1", "").0, 400);
    // only the socket may change anything
    let request = Request::put("/breakers/instance/shop/shop-1/override").header("host", "admin");
    let body = Full::new(Bytes::from_static(b"{\"to\":\"open\",\"reason\":\"r\"}"));
    assert_eq!(client::send(town.web.admin, request.body(body).unwrap()).unwrap().status, 405);

    // nor may it change what the configuration holds
    town.configure(
        town.first,
        "overrides: [{service: shop, instance: shop-2, breaker: closed, owner: ada, reason: drill}]\n",
    );
    let said = open("shop/shop-2");
    assert!(said.contains("the configuration holds this circuit, by ada: drill"), "{said}");
    let (_, told, _) = town.breaker(&["explain", "shop/shop-2"]);
    assert!(told.contains("closed by ada in the configuration: \"drill\""), "{told}");
    town.done(&["open", "shop/shop-1", "--reason", "by hand"]);
    town.configure(town.first, "");
    assert_eq!(town.web.breaker("shop-2")["override"], Value::Null);
    assert_eq!(town.web.breaker("shop-1")["override"]["reason"], "by hand", "whoever lets go of another");
    assert_eq!(town.web.socket("/breakers/events").as_array().unwrap().iter().filter(|e| e["to"] == "open").count(), 1);
}

/// promtool's word on the metrics of a sidecar; silence is praise.
fn promtool(web: &Sidecar) {
    let mut child = Command::new(tool("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(web.get("/metrics").unwrap().1.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.is_empty(), "promtool says:\n{said}");
}

#[test]
fn the_series_of_circuits_follow_what_there_is() {
    let town = Town::with("  telemetry: {per_instance_metrics: true}\n");
    let states = || town.series("fusewire_breaker_state{scope=\"instance\"");
    let one = |n: u16, value: u8| {
        format!("fusewire_breaker_state{{scope=\"instance\",service=\"shop\",instance=\"shop-{n}\"}} {value}")
    };
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    eventually("closed circuits are there where that is asked for", || sorted(states()) == [one(1, 0), one(2, 0)]);
    town.trip();
    eventually("and open ones", || sorted(states()) == [one(1, 1), one(2, 0)]);
    promtool(&town.web);

    // the same instance at another address, where nobody is either; the one before has left
    town.configure(free_port(), "");
    eventually("it opens there", || {
        assert_eq!(town.ask(), 200);
        town.web.circuit("shop-1").as_deref() == Some("open")
    });
    eventually("which is shown", || sorted(states()) == [one(1, 1), one(2, 0)]);
    let moved = town.web.breaker("shop-1")["address"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    town.configure(moved, "  other: {instances: []}\n");
    let ticks = town.web.metric("fusewire_breaker_open_seconds_total{direction=\"outbound\",service=\"shop\"}");
    eventually("a sweep later it is shown all the same", || {
        town.web.metric("fusewire_breaker_open_seconds_total{direction=\"outbound\",service=\"shop\"}") > ticks
    });
    assert_eq!(sorted(states()), [one(1, 1), one(2, 0)]);

    let of_shop = || town.series("fusewire_breaker_").into_iter().filter(|line| line.contains("\"shop\"")).count();
    assert!(of_shop() > 5);
    town.mesh.configure("services:\n  other: {instances: []}\n");
    eventually("a service that is gone takes every series of its circuits along", || {
        let _ = get(town.web.outbound, "shop", "/");
        of_shop() == 0
    });
}
