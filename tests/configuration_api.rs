//! Configuration by API: applied by people over mTLS, in force in sidecars, and never lost once it was acknowledged.

#![allow(clippy::unwrap_used)]

use fusewire_testkit::client::{App, get};
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::{Mesh, eventually};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Output, Stdio};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
const SOCKET: [&str; 2] = ["--socket", "control/control.sock"];
const FILE: &str = "policies:\n  default: {plain: allow}\n";

/// What a command said: exit code, standard output, standard error.
type Said = (Option<i32>, String, String);

fn said(Output { status, stdout, stderr }: Output) -> Said {
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// On the control plane's machine.
fn local(mesh: &Mesh, arguments: &[&str]) -> Said {
    said(mesh.command().args(arguments).args(SOCKET).output().unwrap())
}

/// `apply` from standard input, on the control plane's machine.
fn apply(mesh: &Mesh, yaml: &str, more: &[&str]) -> Said {
    piped(mesh.command().args(["apply", "-f", "-"]).args(SOCKET).args(more), yaml)
}

fn piped(command: &mut std::process::Command, text: &str) -> Said {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // one that is killed meanwhile does not read
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    said(child.wait_with_output().unwrap())
}

/// A person who has logged in from somewhere else.
struct Person<'a> {
    mesh: &'a Mesh,
    control: String,
    dir: String,
}

impl<'a> Person<'a> {
    fn logs_in(mesh: &'a Mesh, role: &str, name: &str) -> Self {
        let token = mesh.token(&format!("fusewire/{role}/{name}"));
        let file = mesh.path(&format!("{name}.token"));
        std::fs::write(&file, token).unwrap();
        let person =
            Self { mesh, control: format!("127.0.0.1:{}", mesh.control_port), dir: format!("identity-of-{name}") };
        let (code, out, err) = person.does(&["login", "--token-file", file.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{out}{err}");
        assert!(out.starts_with(&format!("spiffe://fusewire.local/fusewire/{role}/{name} at")), "{out}");
        person
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.mesh.command();
        command.args(arguments).args(["--control", &self.control, "--identity-dir", &self.dir]);
        command
    }

    fn does(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output().unwrap())
    }

    fn applies(&self, yaml: &str, more: &[&str]) -> Said {
        piped(self.command(&["apply", "-f", "-"]).args(more), yaml)
    }
}

fn shop(app: &App) -> String {
    format!("services:\n  shop:\n    instances: [\"127.0.0.1:{}\"]\n", app.port)
}

#[track_caller]
fn ok((code, out, err): Said) -> String {
    assert_eq!(code, Some(0), "{out}{err}");
    out
}

fn status_of(web: &Sidecar, authority: &str) -> u16 {
    get(web.outbound, authority, "/").unwrap().status
}

#[test]
fn what_an_operator_applies_over_mtls_is_in_force_in_sidecars() {
    let app = App::saying(0, "hello");
    let mesh = Mesh::new(FUSEWIRE, FILE);
    let web = mesh.sidecar("web", "web-1", None);
    let ada = Person::logs_in(&mesh, "operator", "ada");
    assert_eq!(status_of(&web, "shop"), 404);

    let out = ok(ada.applies(&shop(&app), &["-m", "open the shop"]));
    assert!(out.starts_with("service/shop created\nrevision 1, version "), "{out}");
    ok(local(&mesh, &["wait", "--for=enforced", "--revision", "1"]));
    assert_eq!(status_of(&web, "shop"), 200);

    let listed = ok(ada.does(&["get"]));
    assert!(listed.contains("service/shop") && listed.contains("policy/default"), "{listed}");
    let yaml = ok(ada.does(&["get", "service/shop", "-o", "yaml"]));
    assert!(yaml.contains(&format!("127.0.0.1:{}", app.port)) && yaml.contains("revision 1"), "{yaml}");
    // what was got can be applied again, and is the same
    assert!(ok(ada.applies(&yaml, &[])).contains("nothing to change at revision 1"));

    std::fs::write(mesh.path("new.yaml"), "services: {shop: {protocol: http2}, bank: }").unwrap();
    let (code, diff, _) = ada.does(&["diff", "-f", "new.yaml"]);
    assert_eq!(code, Some(1));
    assert!(diff.contains("--- a/service/shop\n+++ b/service/shop\n"), "{diff}");
    assert!(diff.contains("+    protocol: http2\n") && diff.contains("--- /dev/null\n+++ b/service/bank\n"), "{diff}");
    ok(ada.does(&["apply", "-f", "new.yaml"]));
    assert_eq!(ada.does(&["diff", "-f", "new.yaml"]), (Some(0), String::new(), String::new()));

    let history: Value = serde_json::from_str(&ok(ada.does(&["history", "-o", "json"]))).unwrap();
    let seen: Vec<_> =
        history.as_array().unwrap().iter().map(|r| (&r["revision"], &r["author"], &r["message"])).collect();
    let author = Value::from("spiffe://fusewire.local/fusewire/operator/ada");
    let wanted = [(&2.into(), &author, &"".into()), (&1.into(), &author, &"open the shop".into())];
    assert_eq!(seen, wanted);
    ok(ada.does(&["rollback", "1"]));
    ok(ada.does(&["delete", "service/shop", "--if-revision", "3"]));
    assert!(ok(ada.does(&["history", "4"])).contains("+++ /dev/null"));
    ok(local(&mesh, &["wait", "--for=enforced"]));
    assert_eq!(status_of(&web, "shop"), 404);
}

#[test]
fn a_role_is_needed_and_named() {
    let mesh = Mesh::new(FUSEWIRE, FILE);
    let eve = Person::logs_in(&mesh, "viewer", "eve");
    let (code, _, err) = eve.applies("services: {shop: }", &[]);
    assert_eq!(code, Some(1));
    assert!(err.contains("needs the role operator") && err.contains("fusewire/viewer/eve has viewer"), "{err}");
    for refused in [&["delete", "policy/default"][..], &["rollback", "0"]] {
        let (code, _, err) = eve.does(refused);
        assert!(code == Some(1) && err.contains("needs the role operator"), "{refused:?}: {err}");
    }
    ok(eve.does(&["get"]));
    ok(eve.does(&["history"]));
    assert!(ok(eve.applies("services: {shop: }", &["--dry-run"])).contains("service/shop would be created"));

    // a workload is nobody here, and nor is who has not logged in
    let web = mesh.sidecar("web", "web-1", None);
    let of_web = Person { mesh: &mesh, control: eve.control.clone(), dir: web.name.clone() };
    let (code, _, err) = of_web.does(&["get"]);
    assert!(code == Some(1) && err.contains("needs the role viewer") && err.contains("/web has none"), "{err}");
    let nobody = Person { mesh: &mesh, control: eve.control.clone(), dir: "nothing-here".into() };
    let (code, _, err) = nobody.does(&["get"]);
    assert!(code == Some(1) && err.contains("fusewire login"), "{err}");
    let key = mesh.path("identity-of-eve/key.pem");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn bad_yaml_changes_nothing_and_all_its_faults_are_told_with_their_places() {
    let mesh = Mesh::new(FUSEWIRE, FILE);
    let ada = Person::logs_in(&mesh, "operator", "ada");
    ok(ada.applies("services: {shop: }", &[]));
    let before = ok(ada.does(&["get", "-o", "json"]));
    // enough for several times what trailers usually may hold
    let mut yaml = String::from("services:\n  shop: {protocol: htpp}\npolicies: {default: }\nroutes:\n");
    for n in 0..150 {
        yaml += &format!("  route-{n}: {{to: nowhere-{n}}}\n");
    }
    std::fs::write(mesh.path("bad.yaml"), yaml).unwrap();
    let (code, out, err) = ada.does(&["apply", "-f", "bad.yaml"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    for wanted in [
        "bad.yaml:2:20: services.shop.protocol: must be",
        "bad.yaml:3:12: policy/default is defined by config/mesh.yaml:2",
        "bad.yaml:5:17: routes.route-0.to: service nowhere-0 is not defined (add it under services",
        "bad.yaml:154:19: routes.route-149.to: service nowhere-149 is not defined",
    ] {
        assert!(err.contains(wanted), "{wanted}\nis not in\n{err}");
    }
    assert_eq!(ok(ada.does(&["get", "-o", "json"])), before);
    let (code, _, err) = ada.does(&["diff", "-f", "bad.yaml"]);
    assert!(code == Some(2) && err.contains("bad.yaml:2:20"), "{err}");
}

#[test]
fn a_files_word_counts_and_what_it_shadows_comes_back_when_it_goes() {
    let (api, file) = (App::saying(0, "of the api"), App::saying(0, "of the file"));
    let mesh = Mesh::new(FUSEWIRE, FILE);
    let web = mesh.sidecar("web", "web-1", None);
    let says = |what: &str| eventually(what, || get(web.outbound, "shop", "/").unwrap().text() == what);
    ok(apply(&mesh, &shop(&api), &[]));
    says("of the api");
    mesh.configure(&format!("{FILE}{}", shop(&file)));
    says("of the file");
    let listed = ok(local(&mesh, &["get", "service"]));
    assert!(listed.contains("config/mesh.yaml:4"), "{listed}");
    let (code, _, err) = apply(&mesh, &shop(&api), &[]);
    assert!(code == Some(1) && err.contains("service/shop is defined by config/mesh.yaml:4"), "{err}");
    mesh.configure(FILE);
    says("of the api");
}

#[test]
fn a_sidecar_that_stands_still_is_named_by_wait() {
    let app = App::saying(0, "hello");
    let mesh = Mesh::new(FUSEWIRE, FILE);
    let _web = mesh.sidecar("web", "web-1", None);
    let stuck = mesh.sidecar("jobs", "jobs-1", None);
    ok(local(&mesh, &["wait", "--for=enforced"]));
    stuck.process.signal("STOP");
    ok(apply(&mesh, &shop(&app), &[]));
    let (code, _, err) = local(&mesh, &["wait", "--for=enforced", "--revision", "1", "--timeout", "2s"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("spiffe://fusewire.local/jobs jobs-1 has version") && !err.contains("/web"), "{err}");
    stuck.process.signal("CONT");
    ok(local(&mesh, &["wait", "--for=enforced", "--revision", "1"]));
}

/// xorshift: seeded, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn a_control_plane_that_is_killed_at_any_moment_loses_nothing_it_has_acknowledged_and_keeps_nothing_by_half() {
    const ROUNDS: usize = 36;
    let seed = std::env::var("FUSEWIRE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_1234_abcd);
    let mut random = Random(seed);
    let mut mesh = Mesh::new(FUSEWIRE, FILE);
    // each apply sets both halves to its number
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let (mut number, mut answers) = (0, 0);
    for round in 0..ROUNDS {
        let delay = std::time::Duration::from_micros(random.below(250_000));
        let id = mesh.control.as_ref().unwrap().id().to_string();
        let killer = std::thread::spawn(move || {
            std::thread::park_timeout(delay);
            assert!(std::process::Command::new("kill").args(["-9", &id]).status().unwrap().success());
        });
        let mut tried = BTreeSet::new();
        loop {
            number += 1;
            let which = random.below(5);
            let yaml = format!(
                "services:\n  left-{which}: {{identity: n/{number}}}\n  right-{which}: {{identity: n/{number}}}\n"
            );
            let (code, out, err) = apply(&mesh, &yaml, &[]);
            if code != Some(0) {
                tried.insert((which, number));
                assert!(!err.contains("fault"), "{err}");
                break;
            }
            assert!(out.contains("revision"), "{out}");
            acknowledged.insert(which.to_string(), number);
            answers += 1;
        }
        killer.join().unwrap();
        mesh.kill_control();
        mesh.start_control(&[]);
        let got: Value = serde_json::from_str(&ok(local(&mesh, &["get", "service", "-o", "json"]))).unwrap();
        let mut found: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for object in got["objects"].as_array().unwrap() {
            let (_, which) = object["name"].as_str().unwrap().split_once('-').unwrap();
            let yaml = object["yaml"].as_str().unwrap();
            let at = yaml.rsplit("n/").next().unwrap().trim().parse().unwrap();
            found.entry(which.to_owned()).or_default().insert(at);
        }
        for (which, numbers) in &found {
            let numbers: Vec<u64> = numbers.iter().copied().collect();
            let [at] = numbers[..] else { panic!("seed {seed}, round {round}: half a change of {which}: {numbers:?}") };
            let wanted = acknowledged.get(which).copied();
            let unanswered = tried.contains(&(which.parse().unwrap(), at));
            assert!(
                Some(at) == wanted || unanswered,
                "seed {seed}, round {round}: {which} is {at}, acknowledged {wanted:?}"
            );
            // what was done without an answer is done
            acknowledged.insert(which.clone(), at);
        }
        assert!(
            acknowledged.keys().all(|which| found.contains_key(which)),
            "seed {seed}, round {round}: an object is gone"
        );
        // history and objects are one commit
        let history: Value =
            serde_json::from_str(&ok(local(&mesh, &["history", "--limit", "1", "-o", "json"]))).unwrap();
        assert_eq!(
            history[0]["revision"].as_u64().unwrap_or(0),
            got["revision"].as_u64().unwrap(),
            "seed {seed}, round {round}"
        );
    }
    assert!(answers >= ROUNDS / 4, "only {answers} applies were acknowledged: the test says little");
}
