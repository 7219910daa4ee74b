//! Connections that come and go by the thousand through both sidecars leave nothing behind: no descriptor, no memory, no entry
//! of the kernel's connection tracking.
//!
//! In a test run it is some thousands, as fast as they go. `cargo xtask soak` makes it 1,000 a second for a minute.

use crate::host::{World, curl};
use crate::programs::redis;
use fusewire_testkit::netns::Host;
use fusewire_testkit::process::{rss_kib, tool};
use fusewire_testkit::{Process, eventually};
use serde_json::Value;
use std::path::Path;

/// How many seconds of 1,000 connections each; unset: a short run without a pace.
const SECONDS: &str = "FUSEWIRE_SOAK_SECONDS";
const RATE: usize = 1_000;
const SHORT: usize = 4_000;
/// What the first connections may leave: pools of connections to the application, which are kept.
const SPARE_FDS: usize = 40;
/// What an allocator may keep of a crowd. A leak of one buffer for each connection would be far more.
const SPARE_KIB: u64 = 16 << 10;

/// Without the guard before the application, which sheds load where this machine is busy.
const MESH: &str = "
policies: {default: {limit: {inbound: off}}}
services:
  files:
    identity: shop
    instances: [{id: files-1, address: '10.77.0.2:8088', sidecar: '10.77.0.2:15008'}]
  redis:
    identity: shop
    protocol: opaque
    instances: [{id: redis-1, address: '10.77.0.2:6379', sidecar: '10.77.0.2:15008'}]
";

#[test]
fn thousands_of_http_connections_leave_nothing_behind() {
    let world = world();
    let _nginx = world.nginx_listening(2, 8088, "");
    assert_eq!(curl(world.host(1), &["http://10.77.0.2:8088/index.html"]).0, 200);
    come_and_go(&world, 8088, "http");
}

#[test]
fn thousands_of_connections_of_bytes_leave_nothing_behind() {
    let world = world();
    let _redis = redis(&world, 6379);
    come_and_go(&world, 6379, "redis");
}

fn world() -> World {
    let world = World::new(MESH);
    for n in [1, 2] {
        world.intercept(n, &[]);
        // what is over is remembered for two minutes, and its port for one: too long at this pace, with a mesh or without
        for setting in ["netfilter/nf_conntrack_tcp_timeout_time_wait=2", "netfilter/nf_conntrack_tcp_timeout_close=2"]
        {
            set(world.host(n), setting);
        }
        set(world.host(n), "ipv4/tcp_tw_reuse=1");
        set(world.host(n), "ipv4/ip_local_port_range=1024 60999");
    }
    world
}

fn set(host: &Host, setting: &str) {
    let (name, value) = setting.split_once('=').unwrap();
    host.told("sh", &["-c", &format!("echo '{value}' > /proc/sys/net/{name}")]);
}

/// What could leak, of the sidecar on host `n`.
#[derive(Debug)]
struct Held {
    fds: usize,
    kib: u64,
    connections: f64,
    in_flight: f64,
    tracked: usize,
}

impl Held {
    fn of(world: &World, n: usize, sidecar: &Process) -> Self {
        // to be listed throws out what has run out
        let ask = "cat /proc/net/nf_conntrack > /dev/null; cat /proc/sys/net/netfilter/nf_conntrack_count";
        let tracked = world.host(n).told("sh", &["-c", ask]);
        let text = world.host(n).told("curl", &["-s", "http://127.0.0.1:15020/metrics"]);
        let sum = |name: &str| {
            let of = text.lines().filter(|line| line.starts_with(name));
            of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        Self {
            fds: std::fs::read_dir(format!("/proc/{}/fd", sidecar.id())).unwrap().count(),
            kib: rss_kib(sidecar.id()),
            connections: sum("fusewire_downstream_connections"),
            in_flight: sum("fusewire_requests_in_flight"),
            tracked: tracked.trim().parse().unwrap(),
        }
    }
}

fn come_and_go(world: &World, port: u16, protocol: &str) {
    let seconds = std::env::var(SECONDS).ok().map(|s| s.parse::<usize>().expect("a number of seconds"));
    let (rate, count) = seconds.map_or((0, SHORT), |seconds| (RATE, seconds * RATE));
    // what a crowd needs for the first time
    churn(world, port, protocol, 0, 2_000);
    let sidecars = [(1, &world.web), (2, &world.shop)];
    let held = || sidecars.map(|(n, sidecar)| Held::of(world, n, sidecar));
    let mut before = held();
    eventually("the first ones are over", || {
        before = held();
        before.iter().all(is_calm)
    });
    let said = churn(world, port, protocol, rate, count);
    eprintln!("{protocol}: {said}");
    assert_eq!((said["answered"].as_u64(), &said["failed"]), (Some(count as u64), &serde_json::json!({})));
    let busy = held();
    let mut after = held();
    eventually("nothing is left behind", || {
        after = held();
        let is_back = |(now, then): (&Held, &Held)| is_calm(now) && now.fds <= then.fds + SPARE_FDS;
        after.iter().zip(&before).all(is_back)
    });
    for (name, n) in [("web", 0), ("shop", 1)] {
        eprintln!("{protocol}, {name}: before {:?}\n at the end {:?}\n after {:?}", before[n], busy[n], after[n]);
        assert!(after[n].kib < before[n].kib + SPARE_KIB, "{name} grew");
    }
}

/// The control plane's, the metrics' own and little more.
fn is_calm(held: &Held) -> bool {
    held.connections <= 1.0 && held.in_flight == 0.0 && held.tracked < 100
}

fn churn(world: &World, port: u16, protocol: &str, rate: usize, count: usize) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/churn.py");
    let mut command = world.host(1).command(tool("python3"));
    command.arg(script).args(["10.77.0.2", &port.to_string(), protocol, &rate.to_string(), &count.to_string()]);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}
