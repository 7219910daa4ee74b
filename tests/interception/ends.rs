//! How redirected connections of bytes end: half-closes, resets, and no room for one more.

use crate::host::{SHOP, World};
use fusewire_testkit::process::tool;
use fusewire_testkit::{Process, eventually};

/// Hears its caller out, says so, and then waits for what becomes of the connection.
const SERVER: &str = "import select, socket\n\
    listener = socket.create_server(('0.0.0.0', 9100))\n\
    print('listening', flush=True)\n\
    while True:\n \
     c, _ = listener.accept()\n \
     said = b''\n \
     while more := c.recv(1000): said += more\n \
     print(said.decode(), 'end', flush=True)\n \
     c.sendall(b'heard')\n \
     poll = select.poll()\n \
     poll.register(c, 0)\n \
     poll.poll(30000)\n \
     try:\n  c.sendall(b'more'); c.sendall(b'more'); print('open', flush=True)\n \
     except ConnectionError: print('gone', flush=True)\n \
     c.close()";
/// Ends its half, hears the answer, and is killed as processes are that have something unread.
const CALLER: &str = "import socket, struct, sys\n\
    c = socket.create_connection((sys.argv[1], 9100), 20)\n\
    c.sendall(b'question')\n\
    c.shutdown(socket.SHUT_WR)\n\
    assert c.recv(100) == b'heard'\n\
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n\
    c.close()";

fn server(world: &World, n: usize) -> Process {
    let mut command = world.host(n).command(tool("python3"));
    let server = Process::start(command.args(["-c", SERVER]), world.dir.path().join(format!("server-{n}.log")));
    eventually("it listens", || server.output().contains("listening"));
    server
}

#[test]
fn a_half_close_and_a_reset_after_it_reach_servers_that_the_mesh_knows_and_those_that_it_does_not() {
    let known = "  known:\n    identity: shop\n    protocol: opaque\n    \
                 instances: [{id: known-1, address: '10.77.0.2:9100', sidecar: '10.77.0.2:15008'}]\n";
    let world = World::new(&format!("{SHOP}{known}"));
    world.intercept(1, &[]);
    world.intercept(2, &[]);
    for (n, address) in [(2, "10.77.0.2"), (3, "10.77.0.3")] {
        let server = server(&world, n);
        world.host(1).told("python3", &["-c", CALLER, address]);
        eventually("the server hears of both", || server.output().contains("question end\ngone"));
    }
}

/// Those protocols that the sidecar does not speak take an end without a word for an answer.
#[test]
fn a_connection_for_which_there_is_no_room_is_reset() {
    let world = World::with(SHOP, "allow}\n  limits: {connections: 1");
    world.intercept(1, &[]);
    let script = "import socket\n\
                  one = socket.create_connection(('10.77.0.2', 8081), 20)\n\
                  one.sendall(b'ping'); assert one.recv(4) == b'ping'\n\
                  try:\n two = socket.create_connection(('10.77.0.2', 8081), 20)\n \
                  print('end' if two.recv(4) == b'' else 'answer')\nexcept ConnectionResetError: print('reset')";
    assert_eq!(world.host(1).told("python3", &["-c", script]).trim(), "reset");
}
