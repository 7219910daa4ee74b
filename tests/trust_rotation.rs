//! Trust changes while requests go on: certificates of seconds, roots and authorities that are replaced, control planes
//! that are killed in the middle of it, identities that are shut out and let in again.

#![allow(clippy::unwrap_used)]

use fusewire_identity::{Authority, Identity, SpiffeId, TrustDomain, TrustState, UnixTime};
use fusewire_testkit::client::{App, get};
use fusewire_testkit::load::Load;
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::raw::{Conn, Server};
use fusewire_testkit::{Mesh, Process, eventually, free_port};
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
const SOCKET: [&str; 2] = ["--socket", "control/control.sock"];
const PAUSE: Duration = Duration::from_millis(5);
const SHORT: [&str; 2] = ["--leaf-lifetime", "10s"];

/// `web` calls `shop`, whose application answers 200; under a control plane with these options.
struct Town {
    shop: Sidecar,
    web: Sidecar,
    app: App,
    mesh: Mesh,
}

fn town(options: &[&str]) -> Town {
    town_prepared(|_| options.iter().map(|option| (*option).to_owned()).collect())
}

fn town_prepared(prepare: impl FnOnce(&Mesh) -> Vec<String>) -> Town {
    let mut mesh = Mesh::without_control(FUSEWIRE);
    std::fs::create_dir(mesh.path("config")).unwrap();
    let app = App::saying(0, "hello");
    let inbound = free_port();
    mesh.configure(&format!(
        "services:\n  shop:\n    instances:\n    - {{id: shop-1, address: 127.0.0.1:{}, sidecar: 127.0.0.1:{inbound}}}\n",
        app.port
    ));
    let options = prepare(&mesh);
    mesh.start_control(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let shop = mesh.sidecar("shop", "shop-1", Some(inbound));
    let web = mesh.sidecar("web", "web-1", None);
    eventually("a request goes through", || status(&web) == 200);
    Town { shop, web, app, mesh }
}

fn status(web: &Sidecar) -> u16 {
    get(web.outbound, "shop", "/").map_or(0, |answer| answer.status)
}

fn ask(_: usize) -> Request<Full<bytes::Bytes>> {
    Request::get("/").header("host", "shop").body(Full::default()).unwrap()
}

fn load(web: &Sidecar) -> Load {
    Load::start(web.outbound, 4, PAUSE, ask)
}

fn expires(sidecar: &Sidecar) -> f64 {
    sidecar.metric("fusewire_identity_expiry_timestamp_seconds").unwrap_or(0.0)
}

fn dialled(web: &Sidecar) -> f64 {
    web.metric("fusewire_upstream_connections_total{direction=\"outbound\",service=\"shop\"}").unwrap()
}

impl Town {
    fn trust(&self) -> Value {
        let out = self.mesh.command().args(["trust", "status", "-o", "json"]).args(SOCKET).output().unwrap();
        serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
    }
    fn root(&self) -> String {
        self.trust()["roots"][0]["hash"].as_str().unwrap().to_owned()
    }
    fn rotate(&self, more: &[&str]) -> String {
        self.mesh.run(&[&["trust", "rotate"][..], more, &SOCKET].concat())
    }
    fn logs(&self) -> [String; 3] {
        [self.mesh.control.as_ref().unwrap().output(), self.shop.process.output(), self.web.process.output()]
    }
    /// Waits until the sidecars' certificates, as their connections to the control plane show them, are under `root`.
    fn all_under(&self, root: &str) {
        eventually("every sidecar's certificate is under the new root", || {
            let status = self.mesh.status();
            let sidecars = status["sidecars"].as_array().cloned().unwrap_or_default();
            sidecars.len() == 2 && sidecars.iter().all(|sidecar| sidecar["root"] == root)
        });
    }
}

#[test]
fn certificates_of_ten_seconds_are_renewed_under_load_and_connections_end_with_them_but_no_request_fails() {
    let town = town(&SHORT);
    let load = load(&town.web);
    eventually("the load runs", || load.answered() > 100);
    let (connections, first) = (dialled(&town.web), [expires(&town.web), expires(&town.shop)]);
    for lifetimes in 1..=3 {
        let later = f64::from(lifetimes) * 10.0;
        eventually("certificates are renewed", || {
            expires(&town.web) >= first[0] + later && expires(&town.shop) >= first[1] + later
        });
    }
    // one at the end of a certificate of either side, and none for a renewal
    let new = dialled(&town.web) - connections;
    assert!((1.0..=10.0).contains(&new), "{new} new connections in three lifetimes");
    assert_eq!(load.stop(), Vec::<String>::new());
    drop(town.app);
}

#[test]
fn a_root_is_rotated_under_load_through_all_steps_and_no_secret_is_told() {
    let town = town(&SHORT);
    let load = load(&town.web);
    let old = town.root();
    let rehearsed = town.rotate(&["--dry-run"]);
    assert!(rehearsed.contains("prepare") && rehearsed.contains("could be done now"), "{rehearsed}");
    assert_eq!(town.root(), old, "a rehearsal changes nothing");
    let told = town.rotate(&["--wait", "2m"]);
    for step in ["prepared: ", "switched: ", "stable: "] {
        assert!(told.contains(step), "{told}");
    }
    let trust = town.trust();
    assert_eq!((trust["stage"].as_str(), trust["roots"].as_array().unwrap().len()), (Some("stable"), 1));
    assert_ne!(town.root(), old);
    town.all_under(&town.root());
    let before = load.answered();
    eventually("requests go on", || load.answered() > before + 100);
    assert_eq!(load.stop(), Vec::<String>::new());
    // new ones join under the new root
    let late = town.mesh.sidecar("late", "late-1", None);
    eventually("a newcomer's request goes through", || status(&late) == 200);
    for dir in ["control", "web-1", "shop-1"] {
        assert_eq!(open_to_others(&town.mesh.path(dir)), Vec::<String>::new());
    }
    let token = std::fs::read_to_string(town.mesh.path("late.token")).unwrap();
    let secret = token.trim().rsplit('.').next().unwrap().to_owned();
    for log in town.logs().iter().chain([&late.process.output()]) {
        for bad in ["PRIVATE KEY", "fwj1.", &secret] {
            assert!(!log.contains(bad), "{bad} is in a log");
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % limit).unwrap()
    }
}

#[test]
fn a_control_plane_killed_at_any_moment_of_a_rotation_goes_on_with_it_and_no_request_fails() {
    let seed = std::env::var("FUSEWIRE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(42);
    eprintln!("FUSEWIRE_SEED={seed}");
    let mut random = Random(seed);
    let mut town = town(&SHORT);
    let load = load(&town.web);
    for round in 0..8 {
        let log = town.mesh.path(&format!("rotate-{round}.log"));
        let word = ["next", "prepare", "switch", "retire", "abort"][random.below(5)];
        let mut command = town.mesh.command();
        command.args(["trust", "rotate"]).args(SOCKET);
        if word != "next" {
            command.args(["--step", word]);
        }
        let rotation = Process::start(&mut command, log);
        // the load's own answers are the clock
        let until = load.answered() + random.below(150);
        eventually("the moment comes", || load.answered() >= until);
        town.mesh.kill_control();
        drop(rotation);
        town.mesh.start_control(&SHORT);
        let trust = town.trust();
        let roots = trust["roots"].as_array().unwrap_or_else(|| panic!("round {round}: no whole state: {trust}"));
        assert_eq!(roots.len(), if trust["stage"] == "stable" { 1 } else { 2 }, "round {round}: {trust}");
    }
    if town.trust()["stage"] == "stable" {
        town.rotate(&["--step", "prepare"]);
    }
    town.rotate(&["--wait", "2m"]);
    assert_eq!(town.trust()["stage"], "stable");
    town.all_under(&town.root());
    assert_eq!(load.stop(), Vec::<String>::new());
}

#[test]
fn a_sidecar_that_was_away_while_the_root_was_switched_goes_on_with_what_it_has() {
    let mut town = town(&["--leaf-lifetime", "1h"]);
    town.shop.process.kill();
    eventually("the control plane has noticed", || {
        town.mesh.status()["sidecars"].as_array().is_some_and(|sidecars| sidecars.len() == 1)
    });
    town.rotate(&["--step", "prepare"]);
    town.rotate(&["--step", "switch", "--wait", "30s"]);
    let root = town.root();
    town.shop.restart();
    town.shop.wait_ready();
    eventually("it serves", || status(&town.web) == 200);
    // and comes under the new root long before its certificate ends
    town.all_under(&root);
    let out = town.mesh.command().args(["trust", "rotate", "--step", "retire"]).args(SOCKET).output().unwrap();
    let why = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && why.contains("leaves under it may hold"), "{why}");
    assert_eq!(status(&town.web), 200);
}

#[test]
fn a_denied_identity_is_shut_out_at_once_with_its_open_connections_and_let_in_again() {
    let echo = Server::start(|mut conn| {
        let mut out = conn.writer();
        let _ = std::io::copy(&mut conn.reader(), &mut out);
    });
    let (app, inbound, tcp) = (App::saying(0, "hello"), free_port(), free_port());
    let mesh = Mesh::new(
        FUSEWIRE,
        &format!(
            "services:\n  shop:\n    instances:\n    - {{id: shop-1, address: 127.0.0.1:{}, sidecar: 127.0.0.1:{inbound}}}\n  \
             echo:\n    protocol: opaque\n    identity: shop\n    instances:\n    \
             - {{id: shop-1, address: 127.0.0.1:{}, sidecar: 127.0.0.1:{inbound}}}\n",
            app.port, echo.port
        ),
    );
    let shop = mesh.sidecar("shop", "shop-1", Some(inbound));
    let listener = format!(", {{listen: 127.0.0.1:{tcp}, service: echo, protocol: opaque}}");
    let web = mesh.sidecar_listening("web", "web-1", None, &listener, "");
    let good = mesh.sidecar("good", "good-1", None);
    eventually("both may call", || status(&web) == 200 && status(&good) == 200);
    let mut conn = Conn::connect(tcp);
    conn.say("hello");
    assert_eq!(conn.exact(5).unwrap(), b"hello");

    mesh.run(&[&["trust", "deny", "web", "--reason", "its key leaked"][..], &SOCKET].concat());
    eventually("it is refused", || status(&web) != 200);
    for _ in 0..20 {
        let answer = get(web.outbound, "shop", "/").unwrap();
        assert_eq!((answer.status, answer.header("fusewire-reason")), (403, Some("denied")), "{}", answer.text());
    }
    // its tunnel, which was open, is closed: within the 200 ms in which last answers arrive
    eventually("a denied workload has no connection left", || conn.try_say("x").is_err() || conn.exact(1).is_err());
    let counted = "fusewire_tls_refused_total{direction=\"inbound\",cause=\"denied\"}";
    eventually("it is counted", || shop.metric(counted).is_some_and(|n| n >= 1.0));
    assert_eq!(status(&good), 200);

    // nor does anybody call what is denied
    mesh.run(&[&["trust", "deny", "shop", "--reason", "as well"][..], &SOCKET].concat());
    eventually("nobody is sent there", || status(&good) != 200);
    mesh.run(&[&["trust", "allow", "shop"][..], &SOCKET].concat());
    eventually("it is called again", || status(&good) == 200);
    assert_ne!(status(&web), 200);

    mesh.run(&[&["trust", "allow", "web"][..], &SOCKET].concat());
    eventually("it is let in again", || status(&web) == 200);
    drop((app, echo));
}

fn domain() -> TrustDomain {
    TrustDomain::parse("fusewire.local").unwrap()
}

/// Writes files into a new folder and turns the symlink `link` to it, as a Kubernetes volume does.
fn swap(link: &Path, files: &[(&str, String)]) {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = link.with_extension(format!("{number}"));
    std::fs::create_dir(&folder).unwrap();
    for (name, text) in files {
        std::fs::write(folder.join(name), text).unwrap();
        std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let new = link.with_extension("new");
    std::os::unix::fs::symlink(&folder, &new).unwrap();
    std::fs::rename(new, link).unwrap();
}

fn identity_files(identity: &Identity) -> Vec<(&'static str, String)> {
    vec![
        ("cert.pem", identity.chain_pem()),
        ("key.pem", identity.key().to_pem()),
        ("bundle.pem", identity.bundle().to_pem()),
    ]
}

#[test]
fn an_identity_in_files_is_taken_over_when_they_are_swapped_under_load() {
    let mesh = Mesh::without_control(FUSEWIRE);
    let authority = Authority::create(&domain(), UnixTime::now()).unwrap();
    let issue = |workload: &str, hours: u64| {
        let id = SpiffeId::of(&domain(), workload).unwrap();
        authority.issue(&id, Duration::from_secs(hours * 3600), UnixTime::now()).unwrap()
    };
    let (app, inbound) = (App::saying(0, "hello"), free_port());
    let world = format!(
        "trust_domain: fusewire.local\nservices:\n  shop:\n    instances:\n    \
         - {{id: shop-1, address: 127.0.0.1:{}, sidecar: 127.0.0.1:{inbound}}}\n",
        app.port
    );
    let sidecar = |workload: &str, inbound| {
        let link = mesh.path(&format!("{workload}-identity"));
        swap(&link, &identity_files(&issue(workload, 1)));
        let file = |name: &str| link.join(name).display().to_string();
        let section = format!(
            "  workload: {workload}\n  identity: {{certificate: {}, key: {}, bundle: {}}}\n",
            file("cert.pem"),
            file("key.pem"),
            file("bundle.pem")
        );
        mesh.sidecar_alone(&format!("{workload}-1"), inbound, &section, &world)
    };
    let (shop, web) = (sidecar("shop", Some(inbound)), sidecar("web", None));
    eventually("a request goes through", || status(&web) == 200);
    let load = load(&web);
    for hours in 2..5 {
        for (workload, sidecar) in [("shop", &shop), ("web", &web)] {
            let new = issue(workload, hours);
            swap(&mesh.path(&format!("{workload}-identity")), &identity_files(&new));
            eventually("the new certificate is in force", || expires(sidecar) == new.not_after() as f64);
        }
    }
    // what cannot be used is not taken over
    let before = expires(&web);
    let mut broken = identity_files(&issue("web", 9));
    broken[1].1 = issue("web", 9).key().to_pem();
    swap(&mesh.path("web-identity"), &broken);
    eventually("it is counted", || web.metric("fusewire_identity_rejected_total").is_some_and(|n| n >= 1.0));
    assert_eq!(expires(&web), before);
    assert_eq!(load.stop(), Vec::<String>::new());
}

fn ca_files(state: &TrustState) -> Vec<(&'static str, String)> {
    let json: Value = serde_json::from_str(&state.to_json().unwrap()).unwrap();
    let field = |name: &str| json["signer"][name].as_str().unwrap().to_owned();
    vec![("tls.crt", field("certificate")), ("tls.key", field("key")), ("ca.crt", field("certificate"))]
}

#[test]
fn an_external_authority_whose_files_are_swapped_under_load_takes_over_without_a_failed_request() {
    let [first, second] = [0; 2].map(|_| TrustState::create(&domain(), UnixTime::now()).unwrap());
    let town = town_prepared(|mesh| {
        swap(&mesh.path("ca"), &ca_files(&first));
        let dir = mesh.path("ca").display().to_string();
        SHORT.iter().map(|option| (*option).to_owned()).chain(["--ca-dir".into(), dir]).collect()
    });
    assert_eq!((town.trust()["stage"].as_str(), town.root().as_str()), (Some("external"), first.root_hash()));
    let load = load(&town.web);
    // half a set: the last good one stays
    let mut broken = ca_files(&second);
    broken.remove(2);
    swap(&town.mesh.path("ca"), &broken);
    eventually("the bad files are alerted on", || {
        town.mesh.status()["alerts"].to_string().contains("ca-files-rejected")
    });
    assert_eq!(town.root(), first.root_hash());

    swap(&town.mesh.path("ca"), &ca_files(&second));
    eventually("the new authority signs", || town.root() == second.root_hash());
    town.all_under(second.root_hash());
    eventually("the old root leaves", || town.trust()["roots"].as_array().is_some_and(|roots| roots.len() == 1));
    let out = town.mesh.command().args(["trust", "rotate"]).args(SOCKET).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("external authority's files"), "{out:?}");
    assert_eq!(load.stop(), Vec::<String>::new());
    // the key of somebody else's authority is nowhere but in its files
    let store = std::fs::read(town.mesh.path("control/store.redb")).unwrap();
    assert!(!String::from_utf8_lossy(&store).contains("PRIVATE KEY"));
}

/// Everything under `dir` that others than its owner may use.
fn open_to_others(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let meta = std::fs::symlink_metadata(entry.path()).unwrap();
        if meta.permissions().mode() & 0o077 != 0 {
            found.push(format!("{} {:o}", entry.path().display(), meta.permissions().mode()));
        }
        if meta.is_dir() {
            found.extend(open_to_others(&entry.path()));
        }
    }
    found
}
