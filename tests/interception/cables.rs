//! Networks that break: a cable that is out, packets that are lost without a word, a cable that comes and goes, an address
//! that somebody else has taken over.
//!
//! Host 1 calls; hosts 2 and 4 have one instance of `shop` each; host 3 has the control plane; host 5 is empty.

use crate::host::{APP, GROUP, World, app, control, curl, intercept, metric, ready, sidecar};
use fusewire_testkit::client::get_unix;
use fusewire_testkit::netns::{Host, Network};
use fusewire_testkit::process::{PATIENCE, tool};
use fusewire_testkit::{Process, eventually};
use std::path::Path;
use tempfile::TempDir;

/// So many callers there are, and calls may fail of all that are made while something breaks: those whose answer had begun.
const CALLERS: usize = 8;

/// Calls that are not answered are made again elsewhere; and of some nothing says how long they may take.
const POLICIES: &str = "
policies:
  default:
    timeout: {request: 10s}
    retry: {attempts: 3, per_try_timeout: 1s}
    breaker: {instance: {open: {base: 1s, max: 2s}}}
  patient: {timeout: {connect: 1s}}
  bare: {timeout: {connect: 1s}, plain: allow}
";
const SERVICES: &str = "
services:
  shop:
    instances:
      - {id: shop-1, address: '10.77.0.2:8080', sidecar: '10.77.0.2:15008'}
      - {id: shop-2, address: '10.77.0.4:8080', sidecar: '10.77.0.4:15008'}
  only:
    identity: shop
    policy: patient
    instances: [{id: only-1, address: '10.77.0.2:8083', sidecar: '10.77.0.2:15008'}]
  bare:
    policy: bare
    instances: [{id: bare-1, address: '10.77.0.2:9080'}]
  echo:
    identity: shop
    policy: patient
    protocol: opaque
    instances: [{id: echo-1, address: '10.77.0.2:8081', sidecar: '10.77.0.2:15008'}]
";

/// Every host's traffic comes to its sidecar.
struct Cables {
    web: Process,
    /// The sidecar and the application of each instance.
    shop: [(Process, Process); 2],
    _control: Process,
    dir: TempDir,
    network: Network,
}

/// An application that calls `shop` all the time.
struct Caller(Process);

impl Cables {
    fn new() -> Self {
        let network = Network::new(5);
        let dir = tempfile::Builder::new().prefix("fusewire-test-").tempdir().unwrap();
        std::fs::write(dir.path().join("mesh.yaml"), format!("{POLICIES}{SERVICES}")).unwrap();
        let control = control(network.host(3), dir.path());
        let web = sidecar(network.host(1), dir.path(), ("web", "web"), "allow");
        let shop = [(2, "shop-1"), (4, "shop-2")].map(|(n, name)| instance(network.host(n), dir.path(), "shop", name));
        for n in [1, 2, 4] {
            ready(network.host(n));
            intercept(network.host(n), &["up", "--gid", &GROUP.to_string()]);
        }
        Self { web, shop, _control: control, dir, network }
    }

    fn host(&self, n: usize) -> &Host {
        self.network.host(n)
    }

    /// It calls an instance's address, as an application does that knows of no mesh; the mesh takes it for the service.
    fn caller(&self) -> Caller {
        let mut command = self.host(1).command(tool("python3"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/intercepted_caller.py");
        command.arg(script).args([&format!("http://10.77.0.2:{APP}/calls"), &CALLERS.to_string()]);
        let caller = Caller(Process::start(&mut command, self.dir.path().join("caller.log")));
        caller.hears("shop-1", 20);
        caller.hears("shop-2", 20);
        caller
    }

    /// How the caller's sidecar sees an instance.
    fn circuit(&self, instance: &str) -> String {
        let all = get_unix(&self.dir.path().join("web/sidecar.sock"), "/breakers");
        let found = all["breakers"].as_array().and_then(|all| all.iter().find(|b| b["instance"] == instance));
        found.and_then(|b| b["circuit"].as_str()).unwrap_or_default().to_owned()
    }
}

/// An application with its sidecar.
fn instance(host: &Host, dir: &Path, workload: &str, name: &str) -> (Process, Process) {
    let application = app(host, dir, name, APP);
    (sidecar(host, dir, (workload, name), "allow"), application)
}

impl Caller {
    /// What each call heard so far.
    fn heard(&self) -> Vec<String> {
        let text = self.0.output();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(str::to_owned).collect()
    }

    /// Waits for so many more answers of `instance`; what was heard meanwhile.
    fn hears(&self, instance: &str, times: usize) -> Vec<String> {
        let before = self.heard().len();
        let mut heard = Vec::new();
        eventually(&format!("{instance} answers {times} times"), || {
            heard = self.heard().split_off(before);
            heard.iter().filter(|answer| *answer == instance).count() >= times
        });
        heard
    }

    /// Nothing failed but what had begun to be answered.
    fn was_well(&self) {
        let heard = self.heard();
        let failed: Vec<_> = heard.iter().filter(|answer| answer.starts_with("failed")).collect();
        assert!(failed.len() <= CALLERS, "of {} calls failed: {failed:?}", heard.len());
        eprintln!("of {} calls {} failed: {failed:?}", heard.len(), failed.len());
    }
}

#[test]
fn a_cable_that_is_cut_costs_callers_a_handful_at_most_and_its_instance_is_used_again_after_it() {
    let world = Cables::new();
    let caller = world.caller();
    world.network.cut(2);
    caller.hears("shop-2", CALLERS); // what was on its way has come
    // it may be so well avoided that nothing fails there often enough to open its circuit
    let meanwhile = caller.hears("shop-2", 300);
    assert!(meanwhile.iter().all(|answer| answer != "shop-1"), "its cable is out");
    world.network.mend(2);
    caller.hears("shop-1", 1); // it was slow, and is trusted little by little
    caller.hears("shop-2", 100);
    caller.was_well();
}

/// Nobody is told anything: no reset, no ICMP.
#[test]
fn an_instance_whose_packets_are_lost_is_avoided_and_what_was_on_its_way_there_ends_in_bounded_time() {
    let world = Cables::new();
    let _beside = app(world.host(2), world.dir.path(), "beside", 9080);
    let caller = world.caller();
    let by_mesh = Talk::start(&world, "10.77.0.2:8081");
    let beyond = Talk::start(&world, "10.77.0.2:9081");
    // nothing may repeat it: its caller is told
    let url = "http://10.77.0.2:8083/unanswered";
    let args = ["-s", "--max-time", "60", "-o", "/dev/null", "-w", "%header{fusewire-reason}", "-d", "x", url];
    let mut post = world.host(1).command(tool("curl"));
    let mut post = Process::start(post.args(args), world.dir.path().join("post.log"));
    eventually("the request is being answered", || world.shop[0].1.output().contains("asked /unanswered"));
    let bare = "http://10.77.0.2:9080/bare";
    assert_eq!(curl(world.host(1), &[bare]).0, 200, "and its connection is kept");
    world.host(2).lose(world.host(1));
    let mut late = world.host(1).command(tool("curl"));
    let mut late = Process::start(late.args(&args[..7]).args(["-d", "x", bare]), world.dir.path().join("late.log"));
    eventually("bytes through the mesh end", || by_mesh.has_ended());
    eventually("bytes to what the mesh does not know end", || beyond.has_ended());
    eventually("the request is answered in the application's place", || post.ended().is_some());
    assert_eq!(post.output(), "reset");
    eventually("so is one in clear", || late.ended().is_some());
    assert_eq!(late.output(), "reset");
    let meanwhile = caller.hears("shop-2", 200);
    assert!(meanwhile.iter().all(|answer| answer != "shop-1"), "its packets are lost");
    eprintln!("its circuit was {} meanwhile", world.circuit("shop-1"));
    world.host(2).restore();
    caller.hears("shop-1", 1); // it was slow, and is trusted little by little
    caller.was_well();
}

/// A connection on which something is always on its way.
struct Talk(Process);

impl Talk {
    fn start(world: &Cables, address: &str) -> Self {
        let script = "import socket,sys,time\n\
                      c = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)\n\
                      try:\n while True:\n  c.sendall(b'ping')\n  if not c.recv(4): break\n  print('talking', flush=True)\n  \
                      time.sleep(0.1)\nexcept TimeoutError: sys.exit(1)\nexcept OSError: pass\nprint('over')";
        let (name, port) = address.rsplit_once(':').unwrap();
        let mut command = world.host(1).command(tool("python3"));
        command.args(["-c", script, name, port]);
        let talk = Self(Process::start(&mut command, world.dir.path().join(format!("talk-{port}.log"))));
        eventually("it talks", || talk.0.output().contains("talking"));
        talk
    }

    fn has_ended(&self) -> bool {
        self.0.output().contains("over")
    }
}

#[test]
fn a_cable_that_comes_and_goes_leaves_the_other_instance_to_carry_on_and_wedges_nothing() {
    let world = Cables::new();
    let caller = world.caller();
    for _ in 0..8 {
        world.network.cut(2);
        caller.hears("shop-2", 60);
        world.network.mend(2);
        caller.hears("shop-2", 60);
    }
    caller.hears("shop-1", 1); // it was slow, and is trusted little by little
    let after = caller.hears("shop-2", 100);
    assert!(after.iter().all(|answer| answer.starts_with("shop-")), "{after:?}");
    caller.was_well();
    let open = metric(world.host(1), "fusewire_downstream_connections");
    assert!(open <= 2.0 * CALLERS as f64, "{open}: somebody was left behind");
}

/// The caller's sidecar has not heard of it: the control plane is out of its reach.
#[test]
fn an_address_that_another_workload_took_over_gets_no_byte_of_a_request() {
    let mut world = Cables::new();
    let caller = world.caller();
    assert_eq!(curl(world.host(1), &["http://10.77.0.2:8083/before"]).0, 200, "a service with this one instance");
    world.host(1).lose(world.host(3));
    // shop-1 dies, and its address goes to an impostor, which is one of the mesh's workloads
    let [(sidecar_of_1, app_of_1), _] = &mut world.shop;
    sidecar_of_1.kill();
    app_of_1.kill();
    let moved = "services:\n  \
                 shop: {instances: [{id: shop-2, address: '10.77.0.4:8080', sidecar: '10.77.0.4:15008'}]}\n  \
                 impostor: {instances: [{id: impostor-1, address: '10.77.0.2:8080', sidecar: '10.77.0.2:15008'}]}\n";
    std::fs::write(world.dir.path().join("mesh.yaml"), format!("{POLICIES}{moved}")).unwrap();
    world.host(2).told("ip", &["addr", "del", "10.77.0.2/24", "dev", "eth0"]);
    world.host(5).told("ip", &["addr", "add", "10.77.0.2/24", "dev", "eth0"]);
    let (impostor, application) = instance(world.host(5), world.dir.path(), "impostor", "impostor");
    ready(world.host(5));
    intercept(world.host(5), &["up", "--gid", &GROUP.to_string()]);
    [1, 3, 4].into_iter().for_each(|n| drop(world.host(n).told("ip", &["neigh", "flush", "dev", "eth0"])));
    // who knows of the change reaches it there
    eventually("the impostor answers", || {
        let (status, body) = curl(world.host(4), &["http://10.77.0.2:8080/informed"]);
        status == 200 && body.starts_with("impostor ")
    });
    let answer = curl(world.host(1), &["-D", "-", "-o", "/dev/null", "http://10.77.0.2:8083/after"]);
    assert!(answer.0 == 502 && answer.1.contains("fusewire-reason: wrong-identity"), "{answer:?}");
    let refused = "fusewire_tls_refused_total{direction=\"outbound\",cause=\"wrong-identity\"}";
    eventually("it was tried for shop too, and the refusals are counted", || metric(world.host(1), refused) >= 2.0);
    caller.hears("shop-2", 100);
    let asked = application.output();
    assert!(asked.contains("asked /informed") && !asked.contains("/calls") && !asked.contains("/after"), "{asked}");
    let seen = World::log_of(&impostor);
    assert!(seen.iter().all(|line| line["peer"] == "spiffe://fusewire.local/shop"), "{seen:?}");
    caller.was_well();
}

#[test]
fn a_control_plane_behind_a_cut_cable_is_not_missed_and_is_heard_again_after_it() {
    let world = Cables::new();
    let caller = world.caller();
    let connected = || metric(world.host(1), "fusewire_config_connected");
    world.network.cut(3);
    eventually("the sidecar has noticed", || connected() == 0.0);
    caller.hears("shop-1", 50);
    caller.hears("shop-2", 50);
    assert_eq!(curl(world.host(1), &["http://10.77.0.2:9/"]).0, 0, "nothing is known of it, and nobody is there");
    let one = SERVICES.replace("- {id: shop-2, address: '10.77.0.4:8080', sidecar: '10.77.0.4:15008'}", "");
    std::fs::write(world.dir.path().join("mesh.yaml"), format!("{POLICIES}{one}")).unwrap();
    world.network.mend(3);
    eventually("the control plane is heard again", || connected() == 1.0);
    eventually("what it says is in force", || {
        let heard = caller.heard();
        heard[heard.len() - 100..].iter().all(|answer| answer == "shop-1")
    });
    assert!(world.web.rss_kib() > 0, "the same process");
    let failed = caller.heard().iter().filter(|answer| answer.starts_with("failed")).count();
    assert_eq!(failed, 0, "within {PATIENCE:?} and more");
}
