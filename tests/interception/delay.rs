//! What interception adds to the first byte of an answer, by protocol. It measures and asserts nothing: on a shared machine a
//! bound on time is a bound on the neighbours. `cargo xtask bench detect` runs it.

use crate::host::World;
use crate::programs::{Postgres, mail, redis};
use fusewire_testkit::process::tool;
use std::path::Path;

const ROUNDS: usize = 5;
/// Connections one after the other, of which the median is taken.
const LATER: usize = 50;
/// As `first_byte.py` calls it, and its port.
const PROTOCOLS: [(&str, u16); 6] =
    [("http1", 8080), ("http2", 8099), ("tls", 8084), ("redis", 6379), ("postgres", 5432), ("greeting", 25)];

/// HTTP/1, TLS and the server that speaks first say nothing of what they speak.
fn mesh() -> String {
    PROTOCOLS.iter().fold("\nservices:\n".to_owned(), |mesh, (name, port)| {
        let protocol = match *name {
            "redis" | "postgres" => "protocol: opaque, ",
            "http2" => "protocol: http2, ",
            _ => "",
        };
        mesh + &format!(
            "  {name}: {{identity: shop, {protocol}instances: [{{id: {name}-1, address: '10.77.0.2:{port}', \
             sidecar: '10.77.0.2:15008'}}]}}\n"
        )
    })
}

#[test]
#[ignore = "it measures: `cargo xtask bench detect`"]
fn added_delay_by_protocol() {
    // direct, first, later; by protocol
    let mut taken = vec![[const { Vec::new() }; 3]; PROTOCOLS.len()];
    for round in 0..ROUNDS {
        eprintln!("round {} of {ROUNDS}", round + 1);
        let world = World::new(&mesh());
        let _nginx = world.nginx(2, 8099);
        let (_redis, _mail, _postgres) = (redis(&world, 6379), mail(&world, 25), Postgres::start(&world, 5432));
        for (of, taken) in PROTOCOLS.iter().zip(&mut taken) {
            taken[0].push(median(&mut first_bytes(&world, *of, LATER)));
        }
        [1, 2].into_iter().for_each(|n| world.intercept(n, &[]));
        for (of, taken) in PROTOCOLS.iter().zip(&mut taken) {
            taken[1].extend(first_bytes(&world, *of, 1));
            taken[2].push(median(&mut first_bytes(&world, *of, LATER)));
        }
    }
    println!("load average {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    println!(
        "milliseconds to the first byte of an answer on a new connection: median (least, most) of {ROUNDS} rounds"
    );
    println!("{:<10} {:>24} {:>24} {:>24}", "", "direct", "first", "later");
    for ((name, _), mut taken) in PROTOCOLS.iter().zip(taken) {
        let shown = |of: &mut Vec<f64>| {
            let middle = median(of);
            format!("{middle:.2} ({:.2}, {:.2})", of[0], of[of.len() - 1])
        };
        let [direct, first, later] = &mut taken;
        println!("{name:<10} {:>24} {:>24} {:>24}", shown(direct), shown(first), shown(later));
    }
}

fn first_bytes(world: &World, (protocol, port): (&str, u16), count: usize) -> Vec<f64> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/first_byte.py");
    let mut command = world.host(1).command(tool("python3"));
    command.arg(script).args(["10.77.0.2", &port.to_string(), protocol, &count.to_string()]);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{protocol}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).lines().map(|line| line.parse().unwrap()).collect()
}

/// Sorts them.
fn median(of: &mut [f64]) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}
