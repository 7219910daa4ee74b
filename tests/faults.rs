//! What a caller sees of servers that fail, each in its own way: without the engine, with circuits alone, and with
//! everything. `cargo xtask faults` prints the table; here it is held against bounds.
//!
//! Real sidecars and real servers. In each service some of the replicas turn bad at one moment, and the share of failed
//! requests is counted from that moment on. What is asked may be repeated (GET, or gRPC that says so), so that the last
//! column shows retries as well.

use fusewire_testkit::ailing::{Ailment, Replica};
use fusewire_testkit::mesh::Mesh;
use fusewire_testkit::{free_port, h2c};
use std::time::Duration;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");

/// Replicas, and how many of them turn bad.
const SIZES: [(usize, usize); 3] = [(2, 1), (3, 1), (10, 3)];
/// How the callers' sidecar is set up.
const MODES: [(&str, &str); 3] = [
    ("without", "breaker: off, retry: off, lb: round_robin"),
    ("circuits", "retry: off"),
    ("all", "retry: {per_try_timeout: 200ms, idempotent: true}"),
];
const CALLERS: usize = 6;
const PAUSE: Duration = Duration::from_millis(60);
const SPAN: Duration = Duration::from_secs(6);

/// Runs every size and mode at once, prints their rows, and holds the failed requests against `most` for each bad replica: with
/// circuits, and with everything.
fn held(ailment: Ailment, most: [usize; 2]) {
    let mut yaml = String::from("policies:\n");
    for (mode, policy) in MODES {
        yaml += &format!("  {mode}: {{plain: allow, timeout: {{request: 500ms, idle: 400ms}}, {policy}}}\n");
    }
    yaml += "services:\n";
    let inbound = free_port();
    let mut services = Vec::new();
    let sizes = SIZES.map(|(size, bad)| (size, if ailment == Ailment::DeadApplication { 1 } else { bad }));
    for (size, bad) in sizes {
        for (mode, _) in MODES {
            let name = format!("{mode}-{size}");
            let replicas: Vec<Replica> = (0..size).map(|n| Replica::start(ailment, n < bad)).collect();
            let instance = |(n, r): (usize, &Replica)| match ailment {
                // one sidecar stands before them all
                Ailment::DeadApplication if n < bad => {
                    format!("{{id: dead, address: 127.0.0.1:{}, sidecar: 127.0.0.1:{inbound}}}", r.port)
                }
                _ => format!("{{id: {name}-{n}, address: 127.0.0.1:{}}}", r.port),
            };
            let instances: Vec<String> = replicas.iter().enumerate().map(instance).collect();
            let protocol = if ailment.is_grpc() { "http2" } else { "http" };
            yaml += &format!(
                "  {name}: {{protocol: {protocol}, policy: {mode}, identity: shop, instances: [{}]}}\n",
                instances.join(", ")
            );
            services.push((name, replicas));
        }
    }
    let mesh = Mesh::new(FUSEWIRE, &yaml);
    let _dead = (ailment == Ailment::DeadApplication).then(|| mesh.sidecar("shop", "dead", Some(inbound)));
    let web = mesh.sidecar_with("web", "web-1", None, "  access_log: off\n");
    let shares = h2c::run(async {
        let mut all = tokio::task::JoinSet::new();
        for (at, (name, replicas)) in services.into_iter().enumerate() {
            let (port, name) = (web.outbound, name.clone());
            all.spawn(async move {
                (at, fusewire_testkit::ailing::share(ailment, port, &name, replicas, (CALLERS, PAUSE, SPAN)).await)
            });
        }
        let mut shares = all.join_all().await;
        shares.sort_by_key(|(at, _)| *at);
        shares.into_iter().map(|(_, share)| share).collect::<Vec<_>>()
    });
    for ((size, bad), row) in sizes.iter().zip(shares.chunks(MODES.len())) {
        let cells: Vec<String> = row.iter().map(|share| format!("{:>6.2} %", share.percent())).collect();
        println!("| {ailment} | {bad} of {size} | {} | {} requests |", cells.join(" | "), row[0].asked);
    }
    for ((size, bad), row) in sizes.iter().zip(shares.chunks(MODES.len())) {
        let without = row[0].percent();
        assert!(!ailment.is_seen() || without > 10.0, "{ailment}, {size}: the fault is there: {without:.2} %");
        for (share, most) in row[1..].iter().zip(most) {
            let failed = share.failed;
            assert!(failed <= most * bad, "{ailment}, {size}: {failed} failed, at most {most} for each of {bad}");
        }
    }
}

#[test]
fn connections_that_are_refused() {
    held(Ailment::Refuse, [1, 1]);
}

#[test]
fn connections_that_are_reset_after_the_request() {
    held(Ailment::Reset, [30, 10]);
}

#[test]
fn half_of_the_answers_are_500() {
    held(Ailment::Half500, [90, 90]); // 150 without: half of what comes to a bad one of two
}

#[test]
fn every_answer_is_503() {
    held(Ailment::All503, [60, 10]);
}

#[test]
fn answers_that_come_too_late() {
    held(Ailment::Delay, [30, 10]);
}

#[test]
fn answers_that_never_come() {
    held(Ailment::Hang, [30, 10]);
}

#[test]
fn bodies_that_end_too_early() {
    held(Ailment::Truncate, [30, 30]);
}

#[test]
fn bodies_that_stand_still() {
    held(Ailment::Stall, [25, 25]);
}

#[test]
fn an_application_that_is_dead_behind_a_sidecar_that_is_not() {
    held(Ailment::DeadApplication, [1, 1]);
}

#[test]
fn grpc_calls_that_are_unavailable() {
    held(Ailment::GrpcUnavailable, [60, 10]);
}

#[test]
fn grpc_calls_that_fail_inside() {
    held(Ailment::GrpcInternal, [30, 30]);
}
