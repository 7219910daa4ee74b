//! Who says that it exists: registration by a sidecar's file, by a command, by a program that nobody here wrote; and what
//! remains of it when processes stop, crash and stall.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use fusewire_testkit::client::{App, get};
use fusewire_testkit::load::Load;
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::process::{accepts, python};
use fusewire_testkit::{Mesh, Process, eventually, free_port};
use http::Request;
use http_body_util::Full;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
/// No service, no instance: whatever serves has said so itself.
const NOTHING: &str = "policies: {default: {plain: allow}}\n";

/// A sidecar that registers the application on `app` as an instance of `shop`.
fn shop(mesh: &Mesh, name: &str, app: u16, more: &str) -> Sidecar {
    let register = format!("  register: {{ports: {{{app}: shop}}, ttl: 1s{more}}}\n");
    mesh.sidecar_with("shop", name, Some(free_port()), &register)
}

fn answers(web: &Sidecar) -> Option<String> {
    get(web.outbound, "shop", "/").ok().filter(|answer| answer.status == 200).map(|answer| answer.text())
}

/// Waits until each of `texts`, and nothing else, answers.
#[track_caller]
fn served_by(web: &Sidecar, texts: &[&str]) {
    let wanted: BTreeSet<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    eventually(&format!("{texts:?} serve"), || {
        let seen: Vec<_> = (0..12).map(|_| answers(web).unwrap_or_default()).collect();
        seen.into_iter().collect::<BTreeSet<_>>() == wanted
    });
}

fn a_get(_: usize) -> Request<Full<Bytes>> {
    Request::get("/").header("host", "shop").body(Full::default()).unwrap()
}

fn load(web: &Sidecar) -> Load {
    let load = Load::start(web.outbound, 4, Duration::from_millis(4), a_get);
    eventually("traffic flows", || load.answered() > 20);
    load
}

#[track_caller]
fn no_failures(load: Load) {
    let before = load.answered();
    eventually("traffic goes on", || load.answered() > before + 50);
    let failed = load.stop();
    assert!(failed.is_empty(), "{} failed: {:#?}", failed.len(), &failed[..failed.len().min(10)]);
}

/// Two instances of `shop` and a caller; the apps answer with their names.
struct Two {
    web: Sidecar,
    shops: [Sidecar; 2],
    mesh: Mesh,
    _apps: [App; 2],
}

impl Two {
    fn new() -> Self {
        let mesh = Mesh::new(FUSEWIRE, NOTHING);
        let apps = [App::saying(0, "one"), App::saying(0, "two")];
        let shops = [shop(&mesh, "shop-1", apps[0].port, ""), shop(&mesh, "shop-2", apps[1].port, "")];
        let web = mesh.sidecar("web", "web-1", None);
        served_by(&web, &["one", "two"]);
        Self { web, shops, mesh, _apps: apps }
    }
    fn control_said(&self, words: &str) -> bool {
        self.mesh.control.as_ref().is_some_and(|control| control.output().contains(words))
    }
    /// What the caller holds of an instance, whether it was used or not.
    fn is_known(&self, id: &str) -> bool {
        !self.web.breaker(id).is_null()
    }
}

#[test]
fn an_application_joins_by_its_sidecars_file_and_only_once_it_is_ready() {
    let mesh = Mesh::new(FUSEWIRE, NOTHING);
    let web = mesh.sidecar("web", "web-1", None);
    let port = free_port();
    let shop = shop(&mesh, "shop-1", port, ", weight: 2, zone: a, labels: {track: canary}");
    eventually("it has registered", || shop.process.output().contains("registered"));
    eventually("its port is in force", || shop.get("/ready").unwrap().0 == 200);
    // nobody is told of it, though its sidecar would take callers in
    let reason = || get(web.outbound, "shop", "/").unwrap().header("fusewire-reason").map(str::to_owned);
    eventually("the service is known", || reason().as_deref() == Some("no-instance"));
    for _ in 0..20 {
        assert_eq!(reason().as_deref(), Some("no-instance"));
    }
    let app = App::saying(port, "ready");
    served_by(&web, &["ready"]);
    assert!(web.socket("/config").to_string().contains("shop-1"), "{}", web.socket("/config"));
    drop(app);
}

#[test]
fn an_id_is_made_once_and_kept() {
    let mesh = Mesh::new(FUSEWIRE, NOTHING);
    let app = App::saying(0, "here");
    let (inbound, token) = (free_port(), mesh.path("token"));
    std::fs::write(&token, mesh.token("shop")).unwrap();
    let section = format!(
        "  workload: shop\n  control: 127.0.0.1:{}\n  token_file: {}\n  register: {{ports: {{{}: shop}}, ttl: 1s}}\n",
        mesh.control_port,
        token.display(),
        app.port
    );
    // `sidecar_alone` names an instance, which is what an id defaults to
    let mut shop = mesh.sidecar_alone("shop-1", Some(inbound), &section, "");
    let file = mesh.path("shop-1.yaml");
    let yaml = std::fs::read_to_string(&file).unwrap().replace("  instance: shop-1\n", "");
    std::fs::write(&file, yaml).unwrap();
    shop.process.kill();
    shop.restart();
    let kept = mesh.path("shop-1/instance-id");
    eventually("it is kept", || std::fs::read_to_string(&kept).is_ok_and(|id| !id.is_empty()));
    let id = std::fs::read_to_string(&kept).unwrap();
    let web = mesh.sidecar("web", "web-1", None);
    served_by(&web, &["here"]);
    assert!(shop.process.stop().success());
    shop.restart();
    served_by(&web, &["here"]);
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), id);
    assert!(web.breaker(&id).is_object());
}

#[test]
fn sigterm_deregisters_first_and_no_request_fails() {
    let mut two = Two::new();
    let load = load(&two.web);
    assert!(two.shops[0].process.stop().success());
    assert!(two.shops[0].process.output().contains("deregistered"));
    eventually("the caller has forgotten it", || !two.is_known("shop-1"));
    served_by(&two.web, &["two"]);
    no_failures(load);
}

#[test]
fn a_sidecar_that_is_killed_is_gone_after_ttl_and_grace() {
    let mut two = Two::new();
    two.shops[0].process.kill();
    eventually("the caller has forgotten it", || !two.is_known("shop-1"));
    assert!(two.control_said("registration expired"));
    assert!(!two.control_said("self-preservation"), "one of two is no reason to doubt");
    served_by(&two.web, &["two"]);
}

#[test]
fn an_application_that_stops_answering_is_reported_down() {
    let mesh = Mesh::new(FUSEWIRE, NOTHING);
    let (one, two) = (App::saying(0, "one"), App::saying(0, "two"));
    let port = one.port;
    let shops = [shop(&mesh, "shop-1", one.port, ""), shop(&mesh, "shop-2", two.port, "")];
    let web = mesh.sidecar("web", "web-1", None);
    served_by(&web, &["one", "two"]);
    drop(one);
    eventually("it says so", || shops[0].process.output().contains("health=\"down\""));
    served_by(&web, &["two"]);
    let _one = App::saying(port, "one again");
    served_by(&web, &["one again", "two"]);
}

#[test]
fn the_control_plane_is_killed_and_no_registration_is_lost_and_no_request_fails() {
    let mut two = Two::new();
    let load = load(&two.web);
    two.mesh.kill_control();
    eventually("the caller notices", || two.web.metric("fusewire_config_connected") == Some(0.0));
    let before = load.answered();
    eventually("traffic goes on", || load.answered() > before + 50);
    two.mesh.start_control(&[]);
    eventually("the caller is back", || two.web.metric("fusewire_config_connected") == Some(1.0));
    let back = Instant::now();
    eventually("longer than TTL and grace", || back.elapsed() > Duration::from_secs(3));
    assert!(two.control_said("registrations taken from the store"));
    served_by(&two.web, &["one", "two"]);
    no_failures(load);
    assert!(two.is_known("shop-1") && two.is_known("shop-2"));
}

#[test]
fn when_every_instance_falls_silent_at_once_none_is_taken_out_and_all_come_back() {
    let two = Two::new();
    two.shops.iter().for_each(|shop| shop.process.signal("STOP"));
    eventually("self-preservation begins", || two.control_said("self-preservation begins"));
    assert!(two.control_said("2 of 2 registrations fell silent together"));
    assert!(!two.control_said("registration expired"));
    assert!(two.is_known("shop-1") && two.is_known("shop-2"));
    two.shops.iter().for_each(|shop| shop.process.signal("CONT"));
    eventually("self-preservation is over", || two.control_said("self-preservation is over"));
    served_by(&two.web, &["one", "two"]);
}

#[test]
fn a_command_keeps_what_has_no_sidecar_registered_and_takes_it_out_at_sigterm() {
    let mesh = Mesh::new(FUSEWIRE, NOTHING);
    let app = App::saying(0, "a database");
    let web = mesh.sidecar("web", "web-1", None);
    let token = mesh.path("operator.token");
    std::fs::write(&token, mesh.token("fusewire/operator/ann")).unwrap();
    let control = format!("127.0.0.1:{}", mesh.control_port);
    let service = format!("db=127.0.0.1:{}", app.port);
    let mut command = mesh.command();
    command.args(["register", "--control", &control, "--service", &service, "--ttl", "1s", "--label", "track=stable"]);
    command.args(["--data-dir", "operator", "--token-file", &token.display().to_string()]);
    let mut registered = Process::start(&mut command, mesh.path("register.log"));
    let asked = || get(web.outbound, "db", "/").unwrap();
    eventually("it serves", || asked().status == 200);
    assert!(registered.stop().success());
    eventually("it is gone", || asked().status == 404);
    // the certificate is kept: no token any more
    std::fs::remove_file(&token).unwrap();
    let registered = Process::start(&mut command, mesh.path("register.log"));
    eventually("it serves again", || asked().status == 200);
    drop(registered);
    eventually("killed, it is gone after TTL and grace", || asked().status == 404);
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python").join(name)
}

/// A gRPC implementation that shares no code with ours, with nothing but the proto and its certificate.
#[test]
fn a_python_client_made_from_the_proto_registers_beats_and_watches() {
    let mesh = Mesh::new(FUSEWIRE, "services: {cart: {identity: somebody-else}}\n");
    // a member of the mesh, for its certificate
    let member = mesh.sidecar("jobs", "member", None);
    let files = mesh.path("member");
    let stubs = mesh.path("stubs");
    std::fs::create_dir(&stubs).unwrap();
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut made = Command::new(python());
    made.args(["-m", "grpc_tools.protoc", "-I", &proto.display().to_string()]);
    made.args([format!("--python_out={}", stubs.display()), format!("--grpc_python_out={}", stubs.display())]);
    made.args(["fusewire/v1/registry.proto", "fusewire/v1/config.proto"]);
    assert!(made.status().unwrap().success());
    eventually("the control plane listens", || accepts(mesh.control_port));
    let mut client = Command::new(python());
    client.arg(script("registry_client.py")).arg(format!("127.0.0.1:{}", mesh.control_port)).arg(&files);
    client.env("PYTHONPATH", &stubs);
    let out = client.output().unwrap();
    assert!(
        out.status.success() && String::from_utf8_lossy(&out.stdout).ends_with("ok\n"),
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    drop(member);
}
