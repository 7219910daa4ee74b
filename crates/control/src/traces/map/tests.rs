use super::*;

fn flow(inbound: bool, service: &str, well: u64, ill: u64) -> v1::Flow {
    v1::Flow {
        inbound,
        service: service.into(),
        seconds: 10.0,
        responses: vec![0, well, 0, 0, ill],
        bounds: vec![0.01, 0.1],
        buckets: vec![well, ill, 0],
    }
}

fn reporter(workload: &str, flows: Vec<v1::Flow>) -> v1::Reporter {
    v1::Reporter { workload: workload.into(), proven: true, flows, ..Default::default() }
}

#[test]
fn a_service_is_measured_by_its_own_sidecars_and_else_by_its_callers() {
    let (nodes, edges) = build(&[
        reporter("web", vec![flow(false, "catalog", 90, 10), flow(false, "billing", 20, 0)]),
        reporter("catalog", vec![flow(true, "catalog", 80, 0)]),
    ]);
    let told: Vec<_> =
        nodes.iter().map(|n| (n.name.as_str(), n.measured.as_str(), n.traffic.as_ref().map(|t| t.rate))).collect();
    assert_eq!(told, [("billing", "callers", Some(2.0)), ("catalog", "sidecars", Some(8.0)), ("web", "callers", None)]);
    let told: Vec<_> =
        edges.iter().map(|e| (e.from.as_str(), e.to.as_str(), e.traffic.as_ref().unwrap().errors)).collect();
    assert_eq!(told, [("web", "billing", 0.0), ("web", "catalog", 1.0)]);
}

#[test]
fn a_workload_that_serves_one_service_is_that_service() {
    let (nodes, edges) = build(&[
        reporter("shop/catalog", vec![flow(true, "catalog", 10, 0), flow(false, "inventory", 10, 0)]),
        reporter("both", vec![flow(true, "a", 1, 0), flow(true, "b", 1, 0), flow(false, "inventory", 10, 0)]),
    ]);
    assert_eq!(nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["a", "b", "both", "catalog", "inventory"]);
    assert_eq!(edges.iter().map(|e| e.from.as_str()).collect::<Vec<_>>(), ["both", "catalog"]);
}

#[test]
fn rates_and_durations_of_several_instances_are_added() {
    let one = |well, ill| reporter("inventory", vec![flow(true, "inventory", well, ill)]);
    let (nodes, _) = build(&[one(50, 0), one(50, 0), one(0, 100)]);
    let traffic = nodes[0].traffic.as_ref().unwrap();
    assert_eq!((traffic.rate, traffic.errors), (20.0, 10.0));
    assert_eq!(nodes[0].reporters, 3);
    // half of them lie in the first bucket, the others in the second
    assert!((traffic.p50_ms - 10.0).abs() < 1e-9, "{traffic:?}");
    assert!((traffic.p99_ms - 98.2).abs() < 1e-9, "{traffic:?}");
}

#[test]
fn a_duration_beyond_the_last_bound_is_at_least_that() {
    let mut slow = flow(true, "a", 10, 0);
    slow.buckets = vec![0, 0, 10];
    let (nodes, _) = build(&[reporter("a", vec![slow])]);
    assert!((nodes[0].traffic.as_ref().unwrap().p50_ms - 100.0).abs() < 1e-9);
}

#[test]
fn circuits_are_told_with_who_has_them() {
    let at = |workload: &str, instance: &str, open| {
        let breaker = v1::BreakerReport { service: "inventory".into(), instance: instance.into(), open };
        let mut reporter = reporter(workload, vec![flow(false, "inventory", 1, 0)]);
        reporter.breakers = vec![breaker];
        reporter
    };
    let (nodes, edges) = build(&[
        at("catalog", "i-3", true),
        at("catalog", "i-3", true),
        at("batch", "i-3", true),
        at("web", "i-4", false),
    ]);
    let circuits = &nodes.iter().find(|node| node.name == "inventory").unwrap().circuits;
    let told: Vec<_> = circuits.iter().map(|c| (c.instance.as_str(), c.state.as_str(), c.callers.len())).collect();
    assert_eq!(told, [("i-3", "open", 2), ("i-4", "half-open", 1)]);
    let told: Vec<_> = edges.iter().map(|e| (e.from.as_str(), e.open, e.half_open)).collect();
    assert_eq!(told, [("batch", 1, 0), ("catalog", 1, 0), ("web", 0, 1)]);
}

#[test]
fn a_flow_in_an_unknown_form_is_no_traffic() {
    let mut odd = flow(true, "a", 5, 5);
    odd.responses = vec![1];
    let mut once = flow(true, "a", 5, 5);
    once.seconds = 0.0;
    let (nodes, _) = build(&[reporter("a", vec![odd, once])]);
    assert!(nodes[0].traffic.is_none());
}

#[test]
fn a_sidecar_that_reports_what_came_in_to_anothers_service_is_not_believed() {
    let serves = |service: &str, workload: &str| match service {
        "shop" => workload == "stock/shop",
        other => workload == other,
    };
    let unproven = |workload: &str, flows| v1::Reporter { proven: false, ..reporter(workload, flows) };
    let mut reporters = [
        reporter("evil", vec![flow(true, "bank", 0, 900), flow(false, "bank", 1, 0), flow(true, "evil", 1, 0)]),
        reporter("bank", vec![flow(true, "bank", 100, 0)]),
        reporter("stock/shop", vec![flow(true, "shop", 10, 0)]),
        unproven("bank-too", vec![flow(true, "bank", 0, 900), flow(true, "legacy", 10, 0)]),
    ];
    leave_out_what_is_not_theirs(&mut reporters, serves);
    let (nodes, edges) = build(&reporters);
    let told: Vec<_> = nodes.iter().map(|n| (n.name.as_str(), n.measured.as_str(), n.proven, n.reporters)).collect();
    let wanted = [
        ("bank", "sidecars", true, 1),
        ("evil", "sidecars", true, 1),
        ("legacy", "sidecars", false, 1),
        ("shop", "sidecars", true, 1),
    ];
    assert_eq!(told, wanted);
    let bank = nodes[0].traffic.as_ref().unwrap();
    assert_eq!((bank.rate, bank.errors), (10.0, 0.0));
    let told: Vec<_> = edges.iter().map(|e| (e.from.as_str(), e.to.as_str())).collect();
    assert_eq!(told, [("evil", "bank")], "whom it calls it may say");
}
