//! What is done while few instances are left, or none.

use std::sync::Arc;

use fusewire_resilience::{
    Ask, BreakerConfig, Forced, Happening, InstanceSet, Override, Prober, SetRules, Slot, State, Time, TripClass,
    WhenFew, classify,
};

use crate::world::{Instance, Random, at, pick, pick_at, slots, states, status};

type Set = Arc<InstanceSet<Instance>>;

/// Of `n` instances the first `soft` have opened because they are silent, and the next `hard` because they refuse.
fn set(few: WhenFew, n: usize, soft: usize, hard: usize) -> Set {
    let set =
        Arc::new(InstanceSet::with_rules(slots(n, &BreakerConfig::default()), SetRules { few, ..SetRules::default() }));
    for index in 0..soft {
        go_silent(&set, index, soft);
    }
    for index in soft..soft + hard {
        for _ in 0..5 {
            pick_at(&set, index, at(1_200)).expect("still closed").end(classify(Happening::ConnectRefused), at(1_200));
        }
    }
    let open = states(&set).iter().filter(|state| **state == State::Open).count();
    assert_eq!(open, soft + hard);
    set.drain_transitions();
    set
}

/// Five timeouts in more than a second, while the instances from `answering` on answer.
fn go_silent(set: &Set, index: usize, answering: usize) {
    for now in (0..6).map(|step| at(step * 220)) {
        for witness in (answering..set.len()).flat_map(|witness| [witness; 3]) {
            pick_at(set, witness, now).expect("closed").end(status(200), now);
        }
        if let Some(attempt) = pick_at(set, index, now).filter(|attempt| attempt.index() == index) {
            attempt.end(classify(Happening::Timeout), now);
        }
    }
}

/// Where `n` requests at one moment go, each over at once.
fn spread(set: &Set, n: u64, now: Time) -> Vec<u32> {
    let mut counts = vec![0; set.len()];
    let mut random = Random(7);
    for _ in 0..n {
        if let Ok(attempt) = pick(set, random.bits(), now) {
            counts[attempt.index()] += 1;
        }
    }
    counts
}

fn hold(set: &Set, index: usize, forced: Forced) {
    let over = Override { forced, owner: "ann".into(), reason: "drill".into(), until: None };
    set.set_override(index, Some(over), at(1_300));
}

#[test]
fn by_default_the_rest_gets_everything() {
    let set = set(WhenFew::Limiter, 10, 4, 3);
    let counts = spread(&set, 10_000, at(1_300));
    assert!(counts[..7].iter().all(|count| *count == 0), "{counts:?}");
}

#[test]
fn spill_sends_a_growing_share_to_the_slow_ones_and_nothing_to_the_broken_ones() {
    let share = |percent, soft, hard| {
        let set = set(WhenFew::Spill(percent), 10, soft, hard);
        let counts = spread(&set, 20_000, at(1_300));
        assert!(counts[soft..soft + hard].iter().all(|count| *count == 0), "{counts:?}");
        f64::from(counts[..soft].iter().sum::<u32>()) / 20_000.0
    };
    for (percent, soft, hard, expected) in
        [(50, 5, 0, 0.0), (50, 6, 0, 0.2), (50, 3, 3, 0.2), (50, 4, 5, 0.8), (100, 1, 0, 0.1)]
    {
        let got = share(percent, soft, hard);
        assert!((got - expected).abs() < 0.01, "{percent} {soft} {hard}: {got}, expected {expected}");
    }
}

#[test]
fn envoys_panic_uses_everybody_below_its_threshold_and_nobody_open_above() {
    let panicking = set(WhenFew::EnvoyPanic(50), 10, 0, 6);
    let counts = spread(&panicking, 10_000, at(1_300));
    assert!(counts.iter().all(|count| count.abs_diff(1000) < 200), "{counts:?}");
    let calm = set(WhenFew::EnvoyPanic(50), 10, 0, 5);
    assert!(spread(&calm, 1_000, at(1_300))[..5].iter().all(|count| *count == 0));
}

#[test]
fn what_an_operator_holds_open_is_never_spilled_to() {
    for few in [WhenFew::Spill(100), WhenFew::EnvoyPanic(100)] {
        let set = set(few, 4, 2, 0);
        hold(&set, 0, Forced::Open);
        let counts = spread(&set, 1_000, at(1_301));
        assert!(counts[0] == 0 && counts[1] > 0, "{few:?}: {counts:?}");
    }
}

#[test]
fn what_is_spilled_changes_nothing_about_the_circuit() {
    let set = set(WhenFew::Spill(100), 4, 3, 0);
    let before = set.inspect(at(1_300))[0].generation;
    for random in 0..1_000 {
        if let Ok(attempt) = pick(&set, random, at(1_300))
            && attempt.index() < 3
        {
            assert!(!attempt.is_probe());
            attempt.end(if random % 2 == 0 { status(200) } else { status(500) }, at(1_300));
        }
    }
    assert_eq!(set.inspect(at(1_300))[0].generation, before);
    assert!(set.drain_transitions().is_empty());
}

#[test]
fn when_only_slow_ones_are_left_each_gets_four_requests_at_a_time() {
    let set = set(WhenFew::Limiter, 4, 3, 0);
    hold(&set, 3, Forced::Open);
    let held: Vec<_> = (0..100).map_while(|random| pick(&set, random, at(1_301)).ok()).collect();
    assert_eq!(held.len(), 12, "four at each of three");
    let counts = (0..3).map(|index| held.iter().filter(|attempt| attempt.index() == index).count());
    assert!(counts.into_iter().all(|count| count == 4));
    let mut held = held;
    held.pop();
    assert!(pick(&set, 1, at(1_302)).is_ok(), "one that ends makes room at once");
    drop(held);
}

#[test]
fn when_the_broken_ones_are_as_many_nobody_is_spilled_to_and_openings_are_not_cut() {
    let set = set(WhenFew::Limiter, 3, 1, 1);
    hold(&set, 2, Forced::Open);
    assert!(pick(&set, 1, at(1_301)).is_err());
    let left = set.inspect(at(1_301)).into_iter().take(2).filter_map(|view| view.open_remaining);
    assert!(left.into_iter().all(|left| left.as_millis() > 2_500));
}

#[test]
fn a_gray_instance_is_no_reason_to_wait_long_when_all_are_broken() {
    let config = BreakerConfig::default();
    let set = Arc::new(InstanceSet::new(slots(3, &config)));
    for step in 0..200 {
        for index in 0..3 {
            let failed = index == 0 && step % 4 == 0;
            let outcome = if failed { status(500) } else { status(200) };
            pick_at(&set, index, at(step)).map(|attempt| attempt.end(outcome, at(step)));
        }
    }
    let opened = set.sweep(at(1_000));
    assert_eq!(opened.first().map(|event| (event.index, event.class)), Some((0, Some(TripClass::Status))));
    for index in [1, 2] {
        for _ in 0..5 {
            pick_at(&set, index, at(1_001)).map(|attempt| attempt.end(classify(Happening::ConnectRefused), at(1_001)));
        }
    }
    assert!(pick(&set, 1, at(1_002)).is_err());
    let left: Vec<_> = set.inspect(at(1_002)).into_iter().filter_map(|view| view.open_remaining).collect();
    assert!(left.len() == 3 && left.iter().all(|left| left.as_millis() <= 2_500), "{left:?}");
}

#[test]
fn probes_go_on_while_requests_are_spilled() {
    let set = set(WhenFew::Spill(100), 2, 1, 0);
    let probe = (0..100).filter_map(|random| pick(&set, random, at(10_000)).ok()).any(|attempt| attempt.is_probe());
    assert!(probe);
}

#[test]
fn percentages_out_of_bounds_are_named() {
    assert_eq!(WhenFew::default().validate(), Ok(()));
    for few in [WhenFew::Spill(1), WhenFew::EnvoyPanic(100)] {
        assert_eq!(few.validate(), Ok(()));
    }
    assert_eq!(WhenFew::Spill(0).validate(), Err("must be 1..100, got 0".into()));
    assert_eq!(WhenFew::EnvoyPanic(101).validate(), Err("must be 1..100, got 101".into()));
}

#[test]
fn a_reset_starts_an_instance_from_scratch_whatever_it_was() {
    let set = set(WhenFew::Limiter, 4, 1, 1);
    hold(&set, 2, Forced::Open);
    for index in 0..4 {
        let change = set.reset(index, "bob", at(1_400)).expect("there is such an instance");
        assert_eq!((change.to, change.k, change.class), (State::Closed, 0, None));
        assert_eq!(change.actor.as_deref(), Some("bob"));
    }
    assert!(states(&set).iter().all(|state| *state == State::Closed));
    let views = set.inspect(at(1_400));
    assert!(views.iter().all(|view| view.forced.is_none() && view.window.total == 0 && view.run == 0));
    assert!(set.reset(4, "bob", at(1_400)).is_none());
    let ask = Ask { random: 1, replayable: true, tried: &[1, 2, 3], key: None };
    assert!(set.pick(ask, at(1_400)).is_ok());
}

#[test]
fn a_slot_without_rules_keeps_those_of_the_set_before() {
    let before = set(WhenFew::Spill(100), 4, 3, 0);
    let same: Vec<_> = before
        .members()
        .map(|member| Slot {
            member: member.clone(),
            config: Arc::new(BreakerConfig::default()),
            weight: 1,
            prober: Prober::Request,
        })
        .collect();
    assert_eq!(before.rebuilt(same.clone()).rules().few, WhenFew::Spill(100));
    let after = before.rebuilt_with(same, SetRules::default());
    assert_eq!(after.rules(), &SetRules::default());
}
