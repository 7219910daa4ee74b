//! The time before the mesh knows anything: what an application says then waits or is refused, and is never sent in clear.

use super::host::{SHOP, World, curl, sidecar};
use fusewire_testkit::eventually;

/// What curl says of a connection that nobody takes.
const REFUSED: i32 = 7;

#[test]
fn nothing_goes_out_in_clear_before_there_are_a_sidecar_and_a_configuration() {
    let mut world = World::new(SHOP);
    world.intercept(1, &[]);
    world.web.kill();
    let rules = "add table inet watch; add chain inet watch input { type filter hook input priority 0; }; \
                 add rule inet watch input ip saddr 10.77.0.1 tcp dport { 8080, 8084 } counter";
    world.host(2).told("nft", &[rules]);
    let direct = "http://10.77.0.2:8080/early";
    let code = |address: &str| {
        world.network.host(1).run("curl", &["-sk", "--max-time", "8", address]).status.code()
    };
    assert_eq!(code(direct), Some(REFUSED), "rules and no sidecar");
    // a new sidecar, which knows nothing and cannot ask
    let control = world.network.host(3);
    control.told("ip", &["link", "set", "eth0", "down"]);
    world.web = sidecar(world.network.host(1), world.dir.path(), "late", "allow");
    let web = world.network.host(1);
    let live = || web.run("curl", &["-sf", "http://127.0.0.1:15020/live"]).status.success();
    eventually("the new sidecar runs", live);
    let (status, answer) = curl(web, &["-i", direct]);
    assert!(status == 504 || status == 503, "{status} {answer}");
    let unknown = web.run("curl", &["-sk", "--max-time", "8", "https://10.77.0.2:8084/early"]);
    assert!(!unknown.status.success(), "not even to what the mesh may turn out not to know");
    let asked = |path: &str| World::log_of(&world.shop).iter().any(|line| line["path"] == path);
    assert!(!asked("/early"));
    control.told("ip", &["link", "set", "eth0", "up"]);
    eventually("it is ready", || web.run("curl", &["-sf", "http://127.0.0.1:15020/ready"]).status.success());
    assert_eq!(curl(web, &["http://10.77.0.2:8080/late"]), (200, "shop /late from=127.0.0.1 fields=\n".into()));
    assert_eq!(World::logged(&world.shop, "/late")["peer"], "spiffe://fusewire.local/late");
    let counted = world.host(2).told("nft", &["list", "chain", "inet", "watch", "input"]);
    assert!(counted.contains("packets 0 "), "the application's ports were reached in clear: {counted}");
}
