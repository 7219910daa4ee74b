//! Hot restart of sidecars to which the kernel redirects: the sockets go over, and the rules stay as they are.

use crate::host::{APP, FUSEWIRE, GROUP, SHOP, World, ready};
use fusewire_testkit::netns::Host;
use fusewire_testkit::process::tool;
use fusewire_testkit::{Process, eventually};
use std::os::unix::process::CommandExt;
use std::path::Path;

/// Calls over and over, each time by a new connection: HTTP, and bytes that are echoed.
const NEWCOMERS: &str = "import http.client, socket\n\
    while True:\n \
     try:\n  \
      c = http.client.HTTPConnection('10.77.0.2', 8080, timeout=20)\n  \
      c.request('GET', '/new'); answer = c.getresponse(); answer.read()\n  \
      print('http', 'ok' if answer.status == 200 else f'failed {answer.status}', flush=True)\n  \
      s = socket.create_connection(('10.77.0.2', 8081), 20)\n  \
      s.sendall(b'ping'); print('bytes', 'ok' if s.recv(4) == b'ping' else 'failed: an end', flush=True)\n  \
      c.close(); s.close()\n \
     except Exception as e: print('failed', repr(e), flush=True)";

fn start(world: &World, name: &str, arguments: &[&str]) -> Process {
    let mut command = world.host(1).command(tool("python3"));
    Process::start(command.args(arguments), world.dir.path().join(format!("{name}.log")))
}

/// The successor of `name`'s sidecar.
fn replace(host: &Host, dir: &Path, name: &str, turn: usize) -> Process {
    let mut command = host.command(FUSEWIRE);
    command.current_dir(dir).args(["sidecar", "--take-over", "--config", &format!("{name}.yaml")]).gid(GROUP);
    Process::start(&mut command, dir.join(format!("{name}-{turn}.log")))
}

#[test]
fn redirected_connections_go_on_and_new_ones_are_taken_while_both_sidecars_are_replaced_under_load() {
    let mut world = World::new(SHOP);
    world.intercept(1, &[]);
    world.intercept(2, &[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/intercepted_caller.py");
    let url = format!("http://10.77.0.2:{APP}/kept");
    let kept = start(&world, "kept", &[&script.display().to_string(), &url, "4"]);
    let newcomers = start(&world, "newcomers", &["-c", NEWCOMERS]);
    let lines = || kept.output().lines().count().min(newcomers.output().lines().count());
    let flows = || {
        let before = lines();
        eventually("traffic flows", || lines() > before + 50);
    };
    flows();
    for turn in 0..2 {
        for (n, name) in [(1, "web"), (2, "shop")] {
            let successor = replace(world.host(n), world.dir.path(), name, turn);
            let of = if n == 1 { &mut world.web } else { &mut world.shop };
            let mut before = std::mem::replace(of, successor);
            let mut ended = None;
            eventually("the sidecar that was replaced ends", || {
                ended = before.ended();
                ended.is_some()
            });
            assert!(ended.unwrap().success(), "{name}, turn {turn}");
            ready(world.host(n));
            flows();
        }
    }
    for (who, said) in [("kept connections", kept.output()), ("newcomers", newcomers.output())] {
        let failed: Vec<_> = said.lines().filter(|line| line.contains("failed")).collect();
        assert!(failed.is_empty(), "{who}: {} of {} calls: {failed:?}", failed.len(), said.lines().count());
    }
}
