//! Where the traffic goes while all is well, or nearly.

use std::collections::HashMap;
use std::sync::Arc;

use fusewire_resilience::{Ask, BreakerConfig, InstanceSet, Outcome, State};

use crate::world::{Instance, Random, at, ms, pick, pick_at, refused, service, slots, states, status};

fn shares(set: &Arc<InstanceSet<Instance>>, picks: u64, now: u64) -> HashMap<usize, f64> {
    let mut random = Random(9);
    let mut counts = HashMap::new();
    for _ in 0..picks {
        let attempt = pick(set, random.bits(), at(now)).expect("ready");
        *counts.entry(attempt.index()).or_insert(0.0) += 1.0 / picks as f64;
        attempt.end(Outcome::IGNORED, at(now));
    }
    counts
}

fn measure(set: &Arc<InstanceSet<Instance>>, index: usize, rtt: u64, now: u64) {
    let mut attempt = pick_at(set, index, at(now - rtt)).expect("ready");
    attempt.answered(Outcome::OK, at(now));
    attempt.end(Outcome::OK, at(now));
}

#[test]
fn two_different_instances_are_compared_so_the_dearer_of_two_is_never_picked() {
    let set = service(2, &BreakerConfig::default());
    measure(&set, 0, 10, 1000);
    measure(&set, 1, 20, 1000);
    assert_eq!(shares(&set, 1000, 1000).get(&1), None);
}

/// A timeout's sample must not starve an instance for most of a minute that is well again.
#[test]
fn what_nothing_has_renewed_for_twenty_seconds_is_no_estimate() {
    let set = service(2, &BreakerConfig::default());
    measure(&set, 0, 2_000, 2_000);
    for now in (2_000..=22_001).step_by(1_000) {
        measure(&set, 1, 5, now);
    }
    assert_eq!(shares(&set, 1000, 22_000).get(&0), None, "it is slow");
    let shares = shares(&set, 1000, 22_001);
    assert!(shares.get(&0).is_some_and(|share| (0.4..0.6).contains(share)), "{shares:?}");
}

#[test]
fn of_three_alike_each_gets_a_third() {
    let set = service(3, &BreakerConfig::default());
    let mut random = Random(5);
    let mut counts = [0; 3];
    let mut held = Vec::new();
    for _ in 0..3000 {
        let attempt = pick(&set, random.bits(), at(0)).expect("ready");
        counts[attempt.index()] += 1;
        held.push(attempt);
    }
    assert!(counts.iter().all(|count| (950..=1050).contains(count)), "{counts:?}");
}

#[test]
fn an_instance_that_nobody_has_measured_counts_as_the_median_of_its_peers() {
    let set = service(4, &BreakerConfig::default());
    for (index, rtt) in [(0, 10), (1, 20), (2, 30)] {
        measure(&set, index, rtt, 1000);
    }
    let shares = shares(&set, 10_000, 1000);
    let share = |index| shares.get(&index).copied().unwrap_or(0.0);
    assert!(share(0) > share(3) && share(3) > share(2), "{shares:?}");
    assert!((0.1..0.4).contains(&share(3)), "{shares:?}");
}

#[test]
fn failing_fast_does_not_attract_traffic() {
    let set = service(3, &BreakerConfig::default());
    for index in 0..3 {
        measure(&set, index, 10, 1000);
    }
    pick_at(&set, 0, at(1000)).expect("ready").end(status(500), at(1000));
    let ewma = set.inspect(at(1000))[0].ewma.unwrap_or_default();
    assert!((ms(19)..=ms(21)).contains(&ewma), "{ewma:?}");
}

#[test]
fn after_closing_an_instance_gets_a_tenth_of_its_share_at_first() {
    let config = BreakerConfig { jitter_percent: 0, ..BreakerConfig::default() };
    let set = service(2, &config);
    for _ in 0..5 {
        pick_at(&set, 0, at(0)).expect("ready").end(refused(), at(0));
    }
    for now in [5001, 5101, 5201] {
        pick(&set, 1, at(now)).expect("probe").end(Outcome::OK, at(now));
    }
    assert_eq!(states(&set), [State::Closed; 2]);
    let ramp = |now| set.inspect(at(now))[0].ramp;
    for (age, factor) in [(0, 0.1), (1, 0.1), (2, 0.2), (5, 0.5), (9, 0.9), (10, 1.0)] {
        assert!((ramp(5201 + age * 1000) - factor).abs() < 1e-6, "{age}");
    }
    let mut counts = [0; 2];
    let mut held = Vec::new();
    let mut random = Random(3);
    for _ in 0..1100 {
        let attempt = pick(&set, random.bits(), at(5201)).expect("ready");
        counts[attempt.index()] += 1;
        held.push(attempt);
    }
    assert!((80..=120).contains(&counts[0]), "{counts:?}");
}

#[test]
fn weights_share_the_load() {
    let mut weighted = slots(2, &BreakerConfig::default());
    weighted[0].weight = 3;
    let set = Arc::new(InstanceSet::new(weighted));
    let mut random = Random(3);
    let held: Vec<_> = (0..400).map(|_| pick(&set, random.bits(), at(0)).expect("ready")).collect();
    let first = held.iter().filter(|attempt| attempt.index() == 0).count();
    assert!((290..=310).contains(&first), "{first}");
}

#[test]
fn tried_instances_are_not_picked_again() {
    let set = service(4, &BreakerConfig::default());
    for random in 0..200 {
        let tried = [0, 2, 3];
        let attempt = set.pick(Ask { random, replayable: true, tried: &tried, key: None }, at(0)).expect("one is left");
        assert_eq!(attempt.index(), 1);
    }
}

#[test]
fn the_one_ready_instance_of_ten_thousand_is_found() {
    let set = service(10_000, &BreakerConfig::default());
    for index in (0..10_000).filter(|index| *index != 6789) {
        let mut calls = 0;
        while states_of(&set, index) == State::Closed {
            // Naming ten thousand as tried would be slow; the override does the same.
            let hold = fusewire_resilience::Override {
                forced: fusewire_resilience::Forced::Open,
                owner: "test".into(),
                reason: "test".into(),
                until: None,
            };
            set.set_override(index, Some(hold), at(0));
            calls += 1;
            assert!(calls < 2);
        }
    }
    for random in 0..100 {
        assert_eq!(pick(&set, random, at(1)).expect("one is ready").index(), 6789);
    }
    assert_eq!(set.dropped_transitions() + set.drain_transitions().len() as u64, 9_999);
}

fn states_of(set: &InstanceSet<Instance>, index: usize) -> State {
    fusewire_resilience::Member::node(&**set.members().nth(index).expect("in range")).state()
}
