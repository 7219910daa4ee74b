//! Several control planes over one etcd: whichever of them is killed, nothing is lost and nobody who is served notices.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use fusewire_testkit::client::{App, get};
use fusewire_testkit::load::Load;
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::process::accepts;
use fusewire_testkit::{Etcd, Mesh, Process, eventually, free_port};
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");

/// etcd and two control planes, `a` and `b`, which share it and the files in `config`.
struct Town {
    controls: [Option<Process>; 2],
    ports: [u16; 2],
    etcd: Etcd,
    mesh: Mesh,
}

const A: usize = 0;
const B: usize = 1;
const NAMES: [&str; 2] = ["a", "b"];

impl Town {
    fn new(yaml: &str) -> Self {
        let mesh = Mesh::without_control(FUSEWIRE);
        std::fs::create_dir(mesh.path("config")).unwrap();
        mesh.configure(yaml);
        let etcd = Etcd::start(mesh.dir.path());
        let mut town = Self { controls: [None, None], ports: [free_port(), free_port()], etcd, mesh };
        town.start(A);
        town.start(B);
        town
    }

    fn start(&mut self, which: usize) {
        let (name, port) = (NAMES[which], self.ports[which]);
        let mut command = self.mesh.command();
        command.args(["control", "--listen", &format!("127.0.0.1:{port}"), "--config", "config", "--data-dir", name]);
        command.args(["--replica", name, "--store", &format!("etcd://127.0.0.1:{}", self.etcd.port())]);
        self.controls[which] = Some(Process::start(&mut command, self.mesh.path(&format!("{name}.log"))));
        let socket = self.mesh.path(&format!("{name}/control.sock"));
        eventually(&format!("{name} listens"), || accepts(port) && socket.exists());
    }

    /// SIGKILL.
    fn kill(&mut self, which: usize) {
        self.controls[which] = None;
    }

    fn does(&self, which: usize, arguments: &[&str]) -> Output {
        let socket = format!("{}/control.sock", NAMES[which]);
        self.mesh.command().args(arguments).args(["--socket", &socket]).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, which: usize, arguments: &[&str]) -> String {
        let out = self.does(which, arguments);
        let (said, complained) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{arguments:?}: {said}{complained}");
        said
    }

    fn applies(&self, which: usize, yaml: &str) -> Output {
        let socket = format!("{}/control.sock", NAMES[which]);
        let mut command = self.mesh.command();
        command.args(["apply", "-f", "-", "--socket", &socket]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // one that is killed meanwhile does not read
        let _ = child.stdin.take().unwrap().write_all(yaml.as_bytes());
        child.wait_with_output().unwrap()
    }

    #[track_caller]
    fn applied(&self, which: usize, yaml: &str) {
        let out = self.applies(which, yaml);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    fn status(&self, which: usize) -> Value {
        serde_json::from_slice(&self.does(which, &["status", "-o", "json"]).stdout).unwrap_or(Value::Null)
    }

    /// Names of replicas, and whether each answered, as `which` sees it.
    fn replicas(&self, which: usize) -> BTreeSet<(String, bool)> {
        let status = self.status(which);
        let one = |r: &Value| (r["name"].as_str().unwrap().to_owned(), r["answered"] == true);
        status["replicas"].as_array().into_iter().flatten().map(one).collect()
    }

    /// Each connected sidecar's instance and replica, as `which` sees it.
    fn sidecars(&self, which: usize) -> Vec<(String, String)> {
        let status = self.status(which);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let one = |s: &Value| (text(&s["instance"]), text(&s["replica"]));
        status["sidecars"].as_array().into_iter().flatten().map(one).collect()
    }

    /// Waits until all of `instances` are connected to `which`, and nobody counts twice.
    fn all_at(&self, which: usize, instances: &[&str]) {
        let wanted: Vec<_> = instances.iter().map(|i| ((*i).to_owned(), NAMES[which].to_owned())).collect();
        eventually(&format!("all are at {}", NAMES[which]), || {
            let mut there = self.sidecars(which);
            there.sort();
            there == wanted
        });
    }

    fn sidecar(&self, workload: &str, instance: &str, inbound: Option<u16>, more: &str) -> Sidecar {
        let token = self.mesh.path(&format!("{workload}.token"));
        if !token.exists() {
            let made = self.ok(A, &["token", "create", workload, "--uses", "100"]);
            std::fs::write(&token, made.trim()).unwrap();
        }
        let [a, b] = self.ports;
        let section = format!(
            "  workload: {workload}\n  control: [127.0.0.1:{a}, 127.0.0.1:{b}]\n  token_file: {}\n{more}",
            token.display()
        );
        let sidecar = self.mesh.sidecar_alone(instance, inbound, &section, "");
        sidecar.wait_ready();
        sidecar
    }

    /// Starts it again until chance connects it to `which`.
    fn moves(&self, sidecar: &mut Sidecar, which: usize) {
        let mut tries = 0;
        loop {
            let mut at = String::new();
            eventually("it is connected", || {
                let found = self.sidecars(which).into_iter().find(|(instance, _)| *instance == sidecar.name);
                at = found.map(|(_, replica)| replica).unwrap_or_default();
                !at.is_empty()
            });
            if at == NAMES[which] {
                return;
            }
            tries += 1;
            assert!(tries < 40, "it always goes to {at}");
            assert!(sidecar.process.stop().success());
            sidecar.restart();
            sidecar.wait_ready();
        }
    }

    /// Who serves `shop`, by the registry, as `which` sees it.
    fn shops(&self, which: usize) -> BTreeSet<String> {
        let out = self.does(which, &["endpoints", "shop", "-o", "json"]);
        let told: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        let offered = told["instances"].as_array().into_iter().flatten().filter(|i| i["offered"] == true);
        offered.map(|i| i["id"].as_str().unwrap().to_owned()).collect()
    }
}

fn depot(name: &str, app: &App) -> String {
    format!("services:\n  {name}:\n    instances: [\"127.0.0.1:{}\"]\n", app.port)
}

fn both(number: usize) -> Request<Full<Bytes>> {
    let host = if number.is_multiple_of(2) { "shop" } else { "bank" };
    Request::get("/").header("host", host).body(Full::default()).unwrap()
}

fn goes_on(load: &Load) {
    let before = load.answered();
    eventually("traffic goes on", || load.answered() > before + 100);
}

fn is_served(web: &Sidecar, service: &str) -> bool {
    get(web.outbound, service, "/").is_ok_and(|answer| answer.status == 200)
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn either_control_plane_and_etcd_itself_may_be_killed_and_nothing_is_lost() {
    let apps = [App::saying(0, "one"), App::saying(0, "two"), App::saying(0, "bank"), App::saying(0, "depot")];
    let bank_in = free_port();
    let mut town = Town::new(&format!(
        "policies: {{default: {{plain: allow}}}}\nservices:\n  bank:\n    instances:\n      - {{id: bank-1, address: \
         127.0.0.1:{}, sidecar: 127.0.0.1:{bank_in}}}\n",
        apps[2].port
    ));
    let shop = |name: &str, app: &App| {
        let register = format!("  register: {{ports: {{{}: shop}}, ttl: 2s}}\n", app.port);
        town.sidecar("shop", name, Some(free_port()), &register)
    };
    let mut shop_1 = shop("shop-1", &apps[0]);
    let _shop_2 = shop("shop-2", &apps[1]);
    let _bank = town.sidecar("bank", "bank-1", Some(bank_in), "");
    let mut web = town.sidecar("web", "web-1", None, "");
    let everybody = ["bank-1", "shop-1", "shop-2", "web-1"];
    town.moves(&mut shop_1, A);
    town.moves(&mut web, B);
    eventually("both are registered at both", || {
        let two = set(&["shop-1", "shop-2"]);
        town.shops(A) == two && town.shops(B) == two
    });
    eventually("both services are served", || is_served(&web, "shop") && is_served(&web, "bank"));
    let root = town.status(A)["root_hash"].clone();
    assert_eq!(town.status(B)["root_hash"], root, "one authority");
    let load = Load::start(web.outbound, 4, Duration::from_millis(4), both);
    goes_on(&load);

    // told to one, in force at the other's sidecars
    town.applied(A, &depot("depot", &apps[3]));
    town.ok(A, &["wait", "--for=enforced", "--revision", "1"]);
    eventually("what is applied at a is known at b's sidecar", || is_served(&web, "depot"));
    assert_eq!(town.replicas(A), [("a".into(), true), ("b".into(), true)].into());
    assert_eq!(town.replicas(B), town.replicas(A));
    let told: BTreeSet<String> = town.sidecars(A).into_iter().map(|(instance, _)| instance).collect();
    assert_eq!((town.sidecars(A).len(), told), (4, set(&everybody)), "{:?}", town.sidecars(A));
    let token = town.ok(A, &["token", "create", "late", "--uses", "1"]);

    // a dies: it is named for as long as the store says that it should be there
    town.kill(A);
    let out = town.does(B, &["status"]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(!out.status.success() && said.contains("a does not answer: "), "{said}");
    let waited = town.does(B, &["wait", "--for=enforced", "--timeout", "100ms"]);
    let said = String::from_utf8(waited.stderr).unwrap();
    assert!(!waited.status.success() && said.contains("replica a does not answer: "), "{said}");
    town.all_at(B, &everybody);
    town.applied(B, &depot("second", &apps[3]));
    eventually("what is applied at b is known to those who were at a", || is_served(&web, "second"));
    eventually("a is no longer missed", || town.replicas(B) == [("b".into(), true)].into());
    town.ok(B, &["wait", "--for=enforced", "--revision", "2"]);
    // a's registrations beat here now; longer than their TTL and grace later they are still there
    let until = Instant::now() + Duration::from_secs(6);
    eventually("their leases would be over", || {
        assert_eq!(town.shops(B), set(&["shop-1", "shop-2"]));
        Instant::now() >= until
    });
    std::fs::write(town.mesh.path("late.token"), token.trim()).unwrap();
    let late = town.sidecar("late", "late-1", None, "");
    eventually("a's token was good at b", || is_served(&late, "bank"));
    drop(late);
    goes_on(&load);

    // a comes back, and b dies
    town.start(A);
    eventually("both are there", || town.replicas(B) == [("a".into(), true), ("b".into(), true)].into());
    town.kill(B);
    town.all_at(A, &everybody);
    assert_eq!(town.status(A)["root_hash"], root);
    assert!(is_served(&web, "second"), "applied while a was dead");
    town.applied(A, &depot("third", &apps[3]));
    eventually("it goes on", || is_served(&web, "third"));
    assert_eq!(town.ok(A, &["history"]).lines().filter(|line| line.contains("service/")).count(), 3);
    town.start(B);
    eventually("both are there", || town.replicas(A) == [("a".into(), true), ("b".into(), true)].into());
    goes_on(&load);

    // etcd dies: what is in force stays, and what cannot be written is said
    town.etcd.kill();
    eventually("it is noticed", || town.status(A)["alerts"].to_string().contains("store-unavailable"));
    let out = town.applies(A, &depot("fourth", &apps[3]));
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success() && said.contains("the store does not answer"), "{said}");
    goes_on(&load);
    assert_eq!(town.sidecars(A).len(), 4, "those of both, though the store does not say who is there");
    town.etcd.restart();
    eventually("it takes changes again", || town.applies(A, &depot("fourth", &apps[3])).status.success());
    eventually("they are told", || is_served(&web, "fourth"));
    assert_eq!(town.shops(A), set(&["shop-1", "shop-2"]));
    assert_eq!(town.shops(B), set(&["shop-1", "shop-2"]));
    let failed = load.stop();
    assert!(failed.is_empty(), "{} failed: {:#?}", failed.len(), &failed[..failed.len().min(10)]);
}

#[test]
fn what_either_acknowledged_is_there_though_both_change_at_once_and_one_is_killed() {
    let app = App::saying(0, "here");
    let mut town = Town::new("policies: {default: {plain: allow}}\n");
    let acknowledged: Vec<String> = std::thread::scope(|scope| {
        let town = &town;
        let writer = |which: usize| {
            let app = &app;
            move || {
                let name = |i: usize| format!("{}-{i}", NAMES[which]);
                let taken = |name: &String| town.applies(which, &depot(name, app)).status.success();
                (0..8).map(name).filter(taken).collect::<Vec<_>>()
            }
        };
        let writers = [scope.spawn(writer(A)), scope.spawn(writer(B))];
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    assert!(acknowledged.len() >= 12, "somebody gets on: {acknowledged:?}");
    town.kill(A);
    let there = town.ok(B, &["get", "service"]);
    for name in &acknowledged {
        assert!(there.contains(&format!("service/{name}")), "{name} was acknowledged: {there}");
    }
    town.start(A);
    assert_eq!(town.ok(A, &["get", "service"]), there);
}
