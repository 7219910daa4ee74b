//! What other breakers decide, from `tests/vectors/breaker.json`, beside what ours does with the same calls.
//!
//! Where the rule is shipped (Resilience4j's) the file is replayed whole: `cargo xtask replay`. Here our own rules meet
//! the others' cases. They agree where the case is one of a broken instance among sound ones; each difference has its
//! reason beside it, and is asserted as well.

use std::collections::HashMap;

use fusewire_resilience::{BreakerConfig, Mode, Outcome, State};
use serde_json::Value;

use crate::world::{Instance, at, ms, pick_at, refused, service, states, status};

type Set = std::sync::Arc<fusewire_resilience::InstanceSet<Instance>>;

pub(crate) fn section(name: &str) -> Value {
    let root: Value = serde_json::from_str(include_str!("../vectors/breaker.json")).expect("the file is JSON");
    root[name].clone()
}

/// `bad` failures among `calls`, as evenly as they go.
pub(crate) fn spread(calls: usize, bad: usize) -> impl Iterator<Item = bool> {
    (0..calls).map(move |n| (n + 1) * bad / calls != n * bad / calls)
}

pub(crate) fn list<T: serde_json::value::Index + Copy>(value: &Value, key: T) -> Vec<Value> {
    value[key].as_array().cloned().expect("a list")
}

pub(crate) fn number(value: &Value) -> usize {
    value.as_f64().expect("a number") as usize
}

/// Plays `(successes, failures)` of each instance, in turn, and returns who is open after the sweep.
fn judged(config: &BreakerConfig, calls: &[(usize, usize)]) -> (Set, Vec<usize>) {
    let set = service(calls.len(), config);
    let mut queues: Vec<_> = calls.iter().map(|(ok, failed)| spread(ok + failed, *failed)).collect();
    let longest = calls.iter().map(|(ok, failed)| ok + failed).max().unwrap_or(0);
    let mut now = 1000;
    for _ in 0..longest {
        now += 1;
        for (index, queue) in queues.iter_mut().enumerate() {
            let Some(failed) = queue.next() else { continue };
            if set.inspect(at(now))[index].state == State::Closed {
                let outcome = if failed { status(500) } else { Outcome::OK };
                pick_at(&set, index, at(now)).expect("closed").end(outcome, at(now));
            }
        }
    }
    set.sweep(at(now + 500));
    let states = states(&set).into_iter().enumerate();
    let open = states.filter(|(_, state)| *state == State::Open).map(|(index, _)| index).collect();
    (set, open)
}

/// gRFC A50's sweeps (grpc-go's tests among them), under our defaults.
#[test]
fn a50_sweeps_agree_on_broken_instances_and_differ_where_we_mean_to() {
    let dead = |n: usize| (0..n).collect::<Vec<_>>();
    let differs: HashMap<&str, (Vec<usize>, &str)> = [
        ("max_ejection_zero", (vec![2], "no cap on the truth: the balancer decides what few instances are for")),
        ("defaults_1_of_10_at_99pct_success_is_still_ejected", (vec![], "one failure of a hundred is no outlier")),
        ("defaults_2_of_10_at_50pct_overshoot_stops_at_one", (dead(2), "no cap on the truth")),
        ("defaults_3_of_10_at_50pct_invisible", (dead(3), "a median sees what mean and deviation cannot")),
        ("4_hosts_never", (vec![0], "as above, among four")),
        ("below_request_volume", (vec![0], "49 failures of 49 beside clean peers are enough to say so")),
        ("failure_percentage_boundary_85_not_ejected", (vec![0], "half is enough, where the peers are clean")),
        ("max_20pct_check_before_eject", (dead(5), "no cap on the truth")),
        ("max_15pct_overshoots", (dead(5), "no cap on the truth")),
    ]
    .into();
    let sweeps = list(&section("grpc_a50_outlier_detection"), "sweeps");
    let mut met = 0;
    for sweep in &sweeps {
        let name = sweep["name"].as_str().expect("a name");
        let calls: Vec<(usize, usize)> = serde_json::from_value(sweep["calls_success_failure"].clone()).expect("pairs");
        let theirs: Vec<usize> = serde_json::from_value(sweep["ejected"].clone()).expect("indices");
        if name == "enforcement_zero" {
            // What they find and do not enforce, observe mode finds and refuses nothing for.
            let (set, found) = judged(&BreakerConfig { mode: Mode::Observe, ..BreakerConfig::default() }, &calls);
            assert_eq!(found.len(), number(&sweep["unenforced"]));
            assert!(set.inspect(at(2000)).iter().all(|view| view.ready), "nothing is refused");
            continue;
        }
        let (_, ours) = judged(&BreakerConfig::default(), &calls);
        match differs.get(name) {
            Some((expected, why)) => {
                met += 1;
                assert_ne!(ours, theirs, "{name} does not differ any more");
                assert_eq!(&ours, expected, "{name}: {why}");
            }
            None => assert_eq!(ours, theirs, "{name}"),
        }
    }
    assert_eq!((sweeps.len(), met), (17, differs.len()));
}

/// A50 adds the base time for each ejection and looks every ten seconds; ours doubles and notices with the next request.
#[test]
fn a50_openings_end_strictly_after_their_time_and_the_second_and_the_longest_are_alike() {
    for case in list(&section("grpc_a50_outlier_detection"), "uneject") {
        let (base, max) = (number(&case["base_ms"]) as u64, number(&case["max_ms"]) as u64);
        let (multiplier, theirs) = (number(&case["multiplier"]), number(&case["first_sweep_unejecting_ms"]) as u64);
        let config = BreakerConfig {
            open_base: ms(base),
            open_max: ms(max),
            probe_timeout: ms(u64::MAX),
            jitter_percent: 0,
            ..BreakerConfig::default()
        };
        let set = service(1, &config);
        let mut began = 0;
        for _ in 0..5 {
            pick_at(&set, 0, at(0)).expect("closed").end(refused(), at(0));
        }
        for _ in 1..multiplier {
            began += set.inspect(at(began))[0].open_remaining.expect("open").as_millis() as u64 + 1;
            pick_at(&set, 0, at(began)).expect("due").end(refused(), at(began));
        }
        let left = set.inspect(at(began))[0].open_remaining.expect("open").as_millis() as u64;
        assert!(pick_at(&set, 0, at(began + left)).is_none(), "strictly after");
        assert!(pick_at(&set, 0, at(began + left + 1)).is_some());
        let first_sweep_after = (left / 10_000 + 1) * 10_000;
        let expected = if multiplier == 3 { 130_000 } else { theirs }; // four times the base, where A50 has three
        assert_eq!(first_sweep_after, expected, "multiplier {multiplier}");
    }
}

/// Envoy's `mean - 1.9 x deviation`, which a host falls below, against our verdict on the same success rates.
#[test]
fn envoys_success_rate_outliers_are_ours_and_ours_are_also_the_three_that_it_cannot_see() {
    let rows = list(&section("envoy"), "success_rate_thresholds");
    for row in &rows {
        let rates: Vec<usize> = list(row, "data").iter().map(number).collect();
        let threshold = row["threshold"].as_f64().expect("a threshold");
        let below = |rate: &usize| (*rate as f64) < threshold;
        let theirs: Vec<usize> = (0..rates.len()).filter(|index| below(&rates[*index])).collect();
        let calls: Vec<_> = rates.iter().map(|rate| (*rate, 100 - rate)).collect();
        let (_, ours) = judged(&BreakerConfig::default(), &calls);
        let bad: Vec<usize> = (0..rates.len()).filter(|index| rates[*index] == 50).collect();
        assert_eq!(ours, bad, "{row}");
        assert_eq!(theirs.is_empty(), bad.len() == 3, "three alike lift the deviation above themselves: {row}");
        assert!(theirs.iter().all(|index| ours.contains(index)));
    }
    assert_eq!(rows.len(), 3);
}

/// Our openings have no share of the hosts as their limit: connections that fail open every one, and statuses all but the
/// last. That is Envoy's `max_ejection_percent: 100`; below that it keeps sending to hosts that it knows are dead.
#[test]
fn envoys_cap_on_ejections_is_reached_and_passed() {
    let rows = list(&section("envoy"), "max_ejected_hosts");
    assert_eq!(rows.len(), 80);
    for row in rows {
        let (hosts, cap) = (number(&row["hosts"]), number(&row["max_ejected"]));
        let set = service(hosts, &BreakerConfig::default());
        for index in 0..hosts {
            for _ in 0..5 {
                pick_at(&set, index, at(1000)).expect("closed").end(refused(), at(1000));
            }
        }
        let opened = states(&set).iter().filter(|state| **state == State::Open).count();
        assert_eq!(opened, hosts, "{row}");
        assert!(opened >= cap);
        assert_eq!(opened == cap, number(&row["max_ejection_percent"]) == 100 || hosts == cap, "{row}");
    }
}

#[test]
fn envoys_consecutive_failures_are_as_many_as_ours() {
    let envoy = section("envoy");
    assert_eq!(
        number(&envoy["outlier_defaults"]["consecutive_5xx"]),
        usize::from(BreakerConfig::default().consecutive)
    );
}

/// For k equal outliers of n, a rule by mean and deviation sees what the number of hosts allows, not what they do.
#[test]
fn k_dead_of_n_are_found_whether_or_not_a_deviation_would_show_them() {
    let cases = list(&section("ours")["cost_of_one_vs_many"], "cases");
    assert!(cases.iter().any(|case| case["seen"] == false));
    for case in cases {
        let (n, k) = (number(&case["n"]), number(&case["k"]));
        let calls: Vec<_> = (0..n).map(|index| if index < k { (50, 50) } else { (100, 0) }).collect();
        assert_eq!(judged(&BreakerConfig::default(), &calls).1, (0..k).collect::<Vec<_>>(), "{case}");
    }
}

#[test]
fn the_defaults_are_those_of_the_file() {
    let file = &section("ours")["default_instance_config"];
    let ours = BreakerConfig::default();
    assert_eq!(number(&file["window_s"]) as u64, ours.window.as_secs());
    assert_eq!(number(&file["consecutive"]), usize::from(ours.consecutive));
    assert_eq!(number(&file["min_calls"]), usize::from(ours.min_calls));
    assert_eq!(number(&file["failure_pct"]), usize::from(ours.failure_rate));
    let spans = [("open_base_ms", ours.open_base), ("open_max_ms", ours.open_max), ("stable_ms", ours.stable)];
    for (key, span) in spans.into_iter().chain([("probe_timeout_ms", ours.probe_timeout)]) {
        assert_eq!(ms(number(&file[key]) as u64), span, "{key}");
    }
}

#[test]
fn an_event_names_the_clean_probes_that_the_evidence_asks_for() {
    for case in list(&section("ours"), "evidence_probation") {
        let rate = case["failure_rate_at_trip"].as_f64().expect("a rate");
        let bad = (rate * 100.0).round() as usize;
        let config =
            BreakerConfig { consecutive: 0, failure_rate: bad as u8, min_calls: 100, ..BreakerConfig::default() };
        let set = service(1, &config);
        let trip = spread(100, bad).find_map(|failed| {
            let outcome = if failed { refused() } else { Outcome::OK };
            pick_at(&set, 0, at(1)).expect("closed").end(outcome, at(1))
        });
        let trip = trip.expect("opens with the hundredth call");
        assert_eq!((usize::from(trip.need), trip.total), (number(&case["probes_needed"]), 100), "{case}");
    }
}

#[test]
fn openings_grow_and_jitter_as_in_the_file() {
    for case in list(&section("ours"), "open_backoff") {
        let k = number(&case["k"]);
        let mut seen = Vec::new();
        for seed in 0..50 {
            let mut slots =
                crate::world::slots(1, &BreakerConfig { probe_timeout: ms(u64::MAX), ..BreakerConfig::default() });
            slots[0].member = std::sync::Arc::new(Instance::seeded(seed));
            let set = std::sync::Arc::new(fusewire_resilience::InstanceSet::new(slots));
            let mut now = at(0);
            for _ in 0..5 {
                pick_at(&set, 0, now).expect("closed").end(refused(), now);
            }
            for _ in 1..k {
                now = now + set.inspect(now)[0].open_remaining.expect("open") + ms(1);
                pick_at(&set, 0, now).expect("due").end(refused(), now);
            }
            seen.push(set.inspect(now)[0].open_remaining.expect("open"));
        }
        let bounds = ms(number(&case["min_ms"]) as u64)..=ms(number(&case["max_ms"]) as u64);
        assert!(seen.iter().all(|span| bounds.contains(span)), "{case}: {seen:?}");
        let nominal = ms(number(&case["nominal_ms"]) as u64);
        assert!(seen.iter().any(|span| *span < nominal) && seen.iter().any(|span| *span > nominal), "{case}");
    }
}
