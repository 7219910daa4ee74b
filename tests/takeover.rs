//! Hot restart: a running sidecar is replaced, and nobody who calls through it is refused, cut off or kept waiting.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use fusewire_testkit::client::{App, get};
use fusewire_testkit::load::Load;
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::process::Process;
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Mesh, eventually, free_port};
use http::{Request, Response};
use http_body_util::Full;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");

/// One instance of `shop`, which registers itself, and `web` that calls it: there is nowhere else to go.
struct Town {
    web: Sidecar,
    shop: Sidecar,
    mesh: Mesh,
    _app: App,
}

fn town(more_of_web: &str) -> Town {
    let app = App::start(0, |r: Request<Bytes>| Response::new(Full::new(r.into_body())));
    let yaml = "policies:\n  default: {retry: {attempts: 1}}\nservices:\n  shop: {health: {http: /}}\n";
    let mesh = Mesh::new(FUSEWIRE, yaml);
    let register = format!("  register: {{ports: {{{}: shop}}, ttl: 1s}}\n", app.port);
    let shop = mesh.sidecar_with("shop", "shop-1", Some(free_port()), &register);
    let web = mesh.sidecar_with("web", "web-1", None, more_of_web);
    let town = Town { web, shop, mesh, _app: app };
    eventually("shop is there", || get(town.web.outbound, "shop", "/").is_ok_and(|answer| answer.status == 200));
    town
}

fn a_post(number: usize) -> Request<Full<Bytes>> {
    let body = format!("order {number}: {}", "x".repeat(number % 500));
    Request::post("/orders").header("host", "shop").body(Full::new(body.into())).unwrap()
}

#[track_caller]
fn ends_well(mut before: Process) {
    let mut status = None;
    eventually("the sidecar that was replaced ends", || {
        status = before.ended();
        status.is_some()
    });
    assert!(status.unwrap().success());
}

/// Connects anew for each request, until told to stop; what failed.
fn newcomers(port: u16, over: Arc<AtomicBool>) -> std::thread::JoinHandle<(usize, Vec<String>)> {
    std::thread::spawn(move || {
        let (mut count, mut failed) = (0, Vec::new());
        while !over.load(Ordering::SeqCst) {
            count += 1;
            match get(port, "shop", "/") {
                Ok(answer) if answer.status == 200 => {}
                Ok(answer) => failed.push(format!("{} {:?}", answer.status, answer.header("fusewire-reason"))),
                Err(e) => failed.push(e.to_string()),
            }
        }
        (count, failed)
    })
}

#[test]
fn both_sidecars_are_replaced_under_load_and_no_request_fails() {
    let mut town = town("");
    let over = Arc::new(AtomicBool::new(false));
    let newcomers = newcomers(town.web.outbound, over.clone());
    let load = Load::start(town.web.outbound, 4, Duration::from_millis(2), a_post);
    for _ in 0..2 {
        for which in ["web", "shop"] {
            let before = load.answered();
            eventually("traffic flows", || load.answered() > before + 50);
            let sidecar = if which == "web" { &mut town.web } else { &mut town.shop };
            let before = sidecar.replace();
            ends_well(before);
            sidecar.wait_ready();
        }
    }
    let before = load.answered();
    eventually("traffic flows", || load.answered() > before + 50);
    over.store(true, Ordering::SeqCst);
    let (count, failed) = newcomers.join().unwrap();
    assert!(failed.is_empty() && count > 50, "{} of {count} with new connections: {failed:#?}", failed.len());
    let failed = load.stop();
    assert!(failed.is_empty(), "{failed:#?}");
    let status = town.mesh.status();
    assert_eq!(status["sidecars"].as_array().map(Vec::len), Some(2), "{status:#}");
}

#[test]
fn what_is_open_goes_on_in_the_one_before_and_what_is_new_begins_in_its_successor() {
    let app = Server::start(|mut conn| {
        while let Ok(line) = conn.line() {
            if conn.try_say(format!("{line}\n")).is_err() {
                return;
            }
        }
    });
    let tcp = free_port();
    let inbound = free_port();
    let mesh = Mesh::new(
        FUSEWIRE,
        &format!(
            "services:\n  echo:\n    protocol: opaque\n    identity: shop\n    instances: [{{id: shop-1, address: 127.0.0.1:{}, sidecar: 127.0.0.1:{inbound}}}]\n",
            app.port
        ),
    );
    let mut shop = mesh.sidecar("shop", "shop-1", Some(inbound));
    let listener = format!(", {{listen: 127.0.0.1:{tcp}, service: echo, protocol: opaque}}");
    let mut web = mesh.sidecar_listening("web", "web-1", None, &listener, "");
    let says = |conn: &mut Conn, word: &str| {
        conn.say(format!("{word}\n"));
        assert_eq!(conn.line().unwrap(), word);
    };
    let mut first = Conn::connect(tcp);
    says(&mut first, "one");
    let (mut old_web, mut old_shop) = (web.replace(), shop.replace());
    eventually("the successors listen", || [&web, &shop].iter().all(|it| it.process.output().contains("taken over")));
    says(&mut first, "two");
    let mut second = Conn::connect(tcp);
    says(&mut second, "three");
    assert!(old_web.ended().is_none() && old_shop.ended().is_none(), "they have something open");
    let logged = |process: &Process| process.output().matches("\"protocol\":\"tcp\"").count();
    drop(first);
    ends_well(old_web);
    ends_well(old_shop);
    says(&mut second, "four");
    drop(second);
    eventually("the second was the successor's", || logged(&web.process) == 1);
}

#[test]
fn an_idle_kept_connection_is_told_by_its_next_answer() {
    let mut town = town("");
    let mut conn = Conn::connect(town.web.outbound);
    let ask = |conn: &mut Conn| {
        conn.say("GET / HTTP/1.1\r\nhost: shop\r\n\r\n");
        conn.answer().unwrap().0
    };
    assert_eq!(ask(&mut conn).status(), 200);
    let before = town.web.replace();
    eventually("the successor listens", || town.web.process.output().contains("taken over"));
    let answer = ask(&mut conn);
    assert_eq!((answer.status(), answer.header("connection")), (200, Some("close")));
    assert!(conn.rest().unwrap().is_empty());
    ends_well(before);
}

#[test]
fn a_successor_that_never_gets_ready_changes_nothing() {
    let mut town = town("");
    let load = Load::start(town.web.outbound, 2, Duration::from_millis(2), a_post);
    // it finds the running one, and no control plane; with nothing kept it can never be ready
    let yaml = format!(
        "sidecar:\n  workload: web\n  instance: web-1\n  control: 127.0.0.1:1\n  token_file: {}\n  outbound: [127.0.0.1:{}]\n  \
         admin: {{listen: 127.0.0.1:{}, socket: {}}}\n",
        town.mesh.path("web.token").display(),
        town.web.outbound,
        town.web.admin,
        town.mesh.path("web-1/sidecar.sock").display(),
    );
    std::fs::write(town.mesh.path("never.yaml"), yaml).unwrap();
    let start = |log: &str| {
        let mut command = town.mesh.command();
        command.args(["sidecar", "--take-over", "--config", "never.yaml"]);
        Process::start(&mut command, town.mesh.path(log))
    };
    let mut never = start("never.log");
    eventually("it has the sockets", || town.web.process.output().contains("is about to replace this one"));
    let before = load.answered();
    eventually("traffic flows", || load.answered() > before + 50);
    never.kill();
    eventually("that is noticed", || town.web.process.output().contains("this one goes on"));
    // and one that ends in an orderly way
    let mut never = start("never-2.log");
    eventually("it has the sockets", || town.web.process.output().matches("is about to replace this one").count() == 2);
    never.stop();
    let before = load.answered();
    eventually("traffic flows", || load.answered() > before + 50);
    let failed = load.stop();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(town.web.get("/ready").map(|(status, _)| status), Some(200));
    // the one that runs can still be replaced
    ends_well(town.web.replace());
    town.web.wait_ready();
}

#[test]
fn without_a_sidecar_to_replace_it_starts_as_usual_and_without_a_folder_it_says_what_is_missing() {
    let mut town = town("");
    town.web.process.kill();
    drop(town.web.replace());
    town.web.wait_ready();
    assert!(town.web.process.output().contains("no sidecar runs that could be taken over"));
    assert_eq!(get(town.web.outbound, "shop", "/").unwrap().status, 200);
    std::fs::write(town.mesh.path("bare.yaml"), "sidecar: {outbound: [127.0.0.1:0]}\n").unwrap();
    let mut command = Command::new(FUSEWIRE);
    command.args(["sidecar", "--take-over", "--config"]).arg(town.mesh.path("bare.yaml"));
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("sidecar.data_dir"), "{said}");
}
