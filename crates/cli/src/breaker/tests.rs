use super::*;
use expect_test::expect;
use serde_json::json;

fn settings() -> Value {
    json!({
        "window_ms": 10_000, "window_calls": null, "consecutive": 5, "min_calls": 10, "failure_rate": 50,
        "unresponsive": { "timeouts": 5, "span_ms": 1_000 }, "slow": null, "peer": { "delta": 5, "z": 4 },
        "open": { "base_ms": 5_000, "max_ms": 60_000 }, "probe_timeout_ms": 10_000, "slow_start_ms": 10_000,
    })
}

/// A closed circuit with some failures in its window, and `more` in place of what it says.
fn circuit(more: Value) -> Value {
    let mut circuit = json!({
        "service": "shop", "instance": "shop-1", "address": "10.0.0.7:80", "circuit": "closed", "mode": "enforce",
        "takes_requests": true, "reason": null, "ground": null, "open_remaining_ms": null, "openings_in_a_row": 0,
        "window": { "total": 8, "hard": 3, "soft": 1, "slow": 0 }, "at_trip": null,
        "failures_in_a_row": 2, "timeouts_in_a_row": 1,
        "probes": { "needed": 0, "in_flight": 0, "ok": 0, "failed": 0 }, "override": null,
        "latency_us": 3_200, "in_flight": 1, "weight": 1, "slow_start": 1.0, "would_reject": 0,
        "share": 0.5, "settings": settings(), "last_trip": null,
        "peers": { "closed": 1, "open": 1, "half_open": 0, "with_calls": 1, "median_failing_percent": 2.4 },
    });
    for (name, value) in more.as_object().unwrap() {
        circuit[name] = value.clone();
    }
    circuit
}

#[test]
fn names_are_services_and_instances_and_instances_may_have_any_name() {
    let parsed = |text: &str| text.parse::<Name>();
    let name = |service: &str, instance: Option<&str>| {
        Ok(Name { service: service.into(), instance: instance.map(str::to_owned) })
    };
    assert_eq!(parsed("shop"), name("shop", None));
    assert_eq!(parsed("shop/10.0.0.7:80"), name("shop", Some("10.0.0.7:80")));
    assert_eq!(parsed("shop/a/b"), name("shop", Some("a/b")));
    for wrong in ["", "/", "shop/", "/shop-1"] {
        assert!(parsed(wrong).is_err(), "{wrong}");
    }
    assert_eq!(parsed("shop/a/b %").unwrap().path(), "/breakers/instance/shop/a%2Fb%20%25");
}

#[test]
fn a_time_to_live_has_a_unit_or_is_nought() {
    assert_eq!(steer::ttl("0"), Ok(std::time::Duration::ZERO));
    assert_eq!(steer::ttl("90m"), Ok(std::time::Duration::from_secs(5_400)));
    for wrong in ["", "1", "h", "-1h"] {
        assert!(steer::ttl(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_closed_circuit_says_how_far_each_trigger_is_away() {
    expect![[r#"
        shop/shop-1 (10.0.0.7:80): circuit closed, takes requests
          now        8 calls in 10s: 3 hard failures and 1 soft (50 %)
          opens at   5 hard failures in a row: 2 now, 3 to go
          or at      50 % hard failures of 10 calls or more: 38 % now, of 8, 2 calls to go
          or at      5 timeouts in a row over 1s while peers answer: 1 now
          or at      failing 5 points more than the median peer, of 20 calls or more: 50 % now, the median peer 2 %
          peers      1 closed, 1 open, 0 half-open; of 1 with enough calls the median fails 2 %
          load       latency 3.2ms, 1 in flight, weight 1, 50 % of the service's weight
    "#]]
    .assert_eq(&explain::told(&circuit(json!({}))));
}

#[test]
fn an_open_circuit_says_why_and_until_when_and_a_half_open_one_how_its_probes_go() {
    let open = json!({
        "circuit": "open", "takes_requests": false, "reason": "consecutive", "ground": "connections",
        "open_remaining_ms": 4_210, "openings_in_a_row": 2, "at_trip": { "total": 5, "hard": 5, "soft": 0, "slow": 0 },
        "window": { "total": 0, "hard": 0, "soft": 0, "slow": 0 }, "share": 0.0,
        "probes": { "needed": 3, "in_flight": 0, "ok": 0, "failed": 0 },
        "peers": { "closed": 0, "open": 0, "half_open": 0, "with_calls": 0, "median_failing_percent": null },
    });
    let mut half = open.clone();
    half["circuit"] = "half-open".into();
    half["probes"] = json!({ "needed": 3, "in_flight": 1, "ok": 1, "failed": 0 });
    expect![[r#"
        shop/shop-1 (10.0.0.7:80): circuit open, takes no requests
          why        opened on hard failures in a row (consecutive): 5 calls in 10s: 5 hard failures and 0 soft (100 %); connections could not be had or broke, which needs no comparison with peers; 2 openings in a row, each longer than the one before
          next       a probe is due in 4.2s; 3 clean probes close the circuit, failed ones open it for longer
          now        0 calls in 10s: 0 hard failures and 0 soft
          peers      none: it is the only instance, and is judged by itself
          load       latency 3.2ms, 1 in flight, weight 1, 0 % of the service's weight
    "#]]
    .assert_eq(&explain::told(&circuit(open)));
    let told = explain::told(&circuit(half));
    let next =
        "  next       probing: 1 of 3 clean probes so far, 0 failed, 1 in flight; failed ones open it for longer\n";
    assert!(told.contains(next), "{told}");
}

#[test]
fn a_held_circuit_says_who_holds_it_why_and_how_long_and_no_trigger_is_told() {
    let over = |by: &str, remaining: Value| json!({ "to": "open", "owner": "ada", "reason": "bad disk", "remaining_ms": remaining, "by": by });
    let held = |over: Value| {
        explain::told(&circuit(
            json!({ "circuit": "open", "takes_requests": false, "override": over, "slow_start": 0.4 }),
        ))
    };
    expect![[r#"
        shop/shop-1 (10.0.0.7:80): circuit open, takes no requests
          held       open by ada: "bad disk"; ends in 59m58s, and the circuit then starts from scratch
          now        8 calls in 10s: 3 hard failures and 1 soft (50 %)
          peers      1 closed, 1 open, 0 half-open; of 1 with enough calls the median fails 2 %
          load       latency 3.2ms, 1 in flight, weight 1, 50 % of the service's weight; slow start: 40 % of its share, all of it 10s after it began
    "#]]
    .assert_eq(&held(over("operator", 3_598_400.into())));
    let told = held(over("configuration", Value::Null));
    assert!(told.contains("open by ada in the configuration: \"bad disk\"; holds until somebody resets it"), "{told}");
}

#[test]
fn what_only_watches_or_does_nothing_says_so() {
    let observing = explain::told(&circuit(json!({ "mode": "observe", "would_reject": 7 })));
    assert!(observing.contains("(7 requests would have been refused)"), "{observing}");
    let disabled = explain::told(&circuit(json!({ "mode": "disabled" })));
    assert!(disabled.contains("every request passes") && !disabled.contains("opens at"), "{disabled}");
}

#[test]
fn a_service_says_how_many_instances_take_requests() {
    let one = circuit(json!({}));
    let out = circuit(json!({ "takes_requests": false }));
    let said = |all: Vec<Value>| {
        explain::service(&json!({ "service": "shop", "breakers": all, "resting": ["x"], "all_down": false }))
    };
    assert_eq!(
        said(vec![one, out.clone()]),
        "shop: 1 of 2 instances take requests; 1 more instance down by health check\n"
    );
    assert!(said(vec![out]).starts_with("shop: 0 of 1 instance takes requests: its callers get 503 circuit-open"));
}

#[test]
fn each_transition_is_told_with_what_caused_it() {
    let event = |more: Value| {
        let mut event = json!({
            "time": "T", "service": "shop", "instance": "shop-1", "from": "closed", "to": "open", "reason": "consecutive",
            "generation": 1, "k": 1, "open_ms": 4_310, "window_ms": 10_000, "total": 6, "hard": 5, "soft": 0, "slow": 0,
            "probes_needed": 3, "probes_ok": 0, "probes_failed": 0, "observed": false,
        });
        for (name, value) in more.as_object().unwrap() {
            event[name] = value.clone();
        }
        history::story(&event)
    };
    let told = [
        event(json!({})),
        event(json!({ "reason": "rate", "window_calls": 100, "observed": true })),
        event(json!({ "from": "open", "to": "half-open", "reason": "due" })),
        event(json!({ "from": "half-open", "reason": "probe_failed", "probes_ok": 1, "probes_failed": 1, "k": 2 })),
        event(json!({ "from": "half-open", "to": "closed", "reason": "recovered", "probes_ok": 3 })),
        event(json!({ "reason": "manual", "actor": "ada", "note": "bad disk", "open_ms": 3_600_000 })),
        event(json!({ "reason": "manual", "actor": "ada", "note": "bad disk", "open_ms": null })),
        event(json!({ "from": "open", "to": "closed", "reason": "manual", "actor": "ada" })),
    ];
    expect![[r#"
        T shop/shop-1 closed -> open consecutive: hard failures in a row: 6 calls in 10s: 5 hard failures and 0 soft (83 %); open for 4.3s, opening 1 in a row; 3 clean probes close it
        T shop/shop-1 closed -> open rate: too large a share of hard failures: 6 calls in the last 100: 5 hard failures and 0 soft (83 %); open for 4.3s, opening 1 in a row; 3 clean probes close it (observed: nothing was refused)
        T shop/shop-1 open -> half-open due: the open time is over; 3 clean probes close it
        T shop/shop-1 half-open -> open probe_failed: 1 failed, 1 clean; open for 4.3s, opening 2 in a row; 3 clean probes close it
        T shop/shop-1 half-open -> closed recovered: 3 clean probes, 0 failed
        T shop/shop-1 closed -> open manual: held by ada: "bad disk"; for 1h
        T shop/shop-1 closed -> open manual: held by ada: "bad disk"; until it is reset
        T shop/shop-1 open -> closed manual: let go by ada, from scratch"#]]
    .assert_eq(&told.join("\n"));
}

#[test]
fn a_history_of_what_does_not_exist_is_refused_with_what_does() {
    let circuits = [circuit(json!({}))];
    let events = [json!({ "service": "old", "instance": "old-1" })];
    let said = |text: &str| history::exists(&text.parse().unwrap(), &circuits, &events).map_err(|e| e.to_string());
    assert_eq!(said("shop"), Ok(()));
    assert_eq!(said("old/old-1"), Ok(()), "it is gone, and has a history");
    assert_eq!(said("shop/shop-9"), Err("shop has no instance \"shop-9\"; there are shop-1".into()));
    assert_eq!(said("cart"), Err("service \"cart\" is not known here; this sidecar calls old, shop".into()));
}

#[test]
fn what_was_done_to_a_circuit_is_said_with_who_and_how_long() {
    let over = json!({ "to": "open", "owner": "ada", "reason": "r", "remaining_ms": 3_599_990, "by": "operator" });
    assert_eq!(steer::outcome(&circuit(json!({ "override": over }))), "shop/shop-1: circuit held open by ada for 1h\n");
    assert_eq!(steer::outcome(&circuit(json!({}))), "shop/shop-1: circuit closed, from scratch\n");
    let idle = steer::outcome(&circuit(json!({ "mode": "disabled" })));
    assert!(idle.contains("requests pass all the same"), "{idle}");
}

#[test]
fn a_list_names_who_holds_a_circuit() {
    let over = json!({ "owner": "ada" });
    let open = json!({ "circuit": "open", "open_remaining_ms": 3_598_400, "override": over });
    expect![[r#"
        SERVICE  INSTANCE  ADDRESS      CIRCUIT           WHY          OPEN FOR  CALLS  HARD  SOFT  IN FLIGHT  LATENCY
        shop     shop-1    10.0.0.7:80  open              held by ada  59m58s    8      3     1     1          3.2ms
        shop     shop-1    10.0.0.7:80  closed (observe)  -            -         8      3     1     1          3.2ms
    "#]]
    .assert_eq(&list::shown(&[circuit(open), circuit(json!({ "mode": "observe" }))]));
    assert!(list::shown(&[]).starts_with("this sidecar has called nobody yet"));
}
