//! A sidecar that the rules know by its mark alone: it has the application's user and group.

use crate::host::{FUSEWIRE, SHOP, World, curl, intercept, ready, sidecar, talk};
use fusewire_testkit::dns::{NameServer, Script};
use std::net::UdpSocket;

const MARK: [&str; 4] = ["up", "--mark", "0x539", "--dns-port"];

#[test]
fn whatever_a_sidecar_sends_bears_its_mark() {
    let mut world = World::with(SHOP, "allow, tproxy: true, mark: 0x539");
    world.web.kill();
    let server = world.host(3).socket("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nmade.bind(('10.77.0.3', 53))");
    let server = NameServer::start_with(UdpSocket::from(server));
    server.set("outside.example", Script::addresses(&["192.0.2.8"]));
    intercept(world.host(1), &[&MARK[..], &["15053"]].concat());
    intercept(world.host(2), &[&MARK[..], &["15053", "--tproxy"]].concat());
    // a new one, which joins, asks and watches its control plane by way of the rules
    world.web = sidecar(world.network.host(1), world.dir.path(), ("late", "late"), "allow, mark: 1337");
    let web = world.host(1);
    ready(web);
    assert_eq!(curl(web, &["http://10.77.0.2:8080/known"]), (200, "shop /known from=10.77.0.1 fields=\n".into()));
    assert_eq!(World::logged(&world.shop, "/known")["peer"], "spiffe://fusewire.local/late");
    assert_eq!(curl(web, &["http://10.77.0.3:8080/unknown"]), (200, "world /unknown from=10.77.0.1 fields=\n".into()));
    assert_eq!(talk(web, "10.77.0.2:8081", "ping"), "ping", "bytes");
    assert_eq!(talk(web, "10.77.0.3:8081", "ping"), "ping", "bytes to what the mesh does not know");
    let ask = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(10)\ns.connect(('10.77.0.3', 53))\n\
               s.send(b'\\0\\7\\1\\0\\0\\1' + bytes(6) + b'\\7outside\\7example\\0\\0\\1\\0\\1')\nprint(list(s.recv(512)[-4:]))";
    assert_eq!(web.told("python3", &["-c", ask]), "[192, 0, 2, 8]\n", "names");
    assert_eq!(world.metric(1, "fusewire_intercept_refused_total"), 0.0);
    assert_eq!(world.metric(2, "fusewire_intercept_refused_total"), 0.0);
}

#[test]
fn a_mark_that_the_kernel_does_not_allow_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sidecar.yaml");
    std::fs::write(&file, "sidecar: {intercept: {outbound: 127.0.0.1:0, mark: 0x539}}\n").unwrap();
    let network = fusewire_testkit::netns::Network::new(1);
    let mut command = network.host(1).command("setpriv");
    command.args(["--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-net_admin,-net_raw"]).arg(FUSEWIRE);
    let out = command.args(["sidecar", "--config"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        !out.status.success() && said.contains("sidecar.intercept.mark") && said.contains("CAP_NET_ADMIN"),
        "{said}"
    );
}
