//! How an instance comes back.

use std::time::Duration;

use fusewire_resilience::{
    Ask, BreakerConfig, ExhaustedCause, Happening, InstanceSet, Outcome, Prober, State, classify,
};

use crate::world::{Instance, Random, at, ms, pick, pick_at, refused, service, slots, states};
use std::sync::Arc;

fn plain() -> BreakerConfig {
    BreakerConfig { jitter_percent: 0, ..BreakerConfig::default() }
}

fn break_one(set: &Arc<InstanceSet<Instance>>, index: usize, now: u64) {
    for _ in 0..5 {
        pick_at(set, index, at(now)).expect("admitted").end(refused(), at(now));
    }
    assert_eq!(states(set)[index], State::Open);
}

#[test]
fn a_due_instance_gets_the_first_replayable_request_and_probes_are_100_ms_apart() {
    let set = service(3, &plain());
    break_one(&set, 0, 0);
    let mut probes = Vec::new();
    for now in 4900..6000 {
        let attempt = pick(&set, now, at(now)).expect("two are closed");
        if attempt.is_probe() {
            assert_eq!(attempt.index(), 0);
            probes.push(now);
        }
        attempt.end(Outcome::OK, at(now));
    }
    assert_eq!(probes, [5001, 5101, 5201]);
    assert_eq!(states(&set), [State::Closed; 3]);
}

#[test]
fn a_request_that_cannot_be_replayed_is_risked_only_after_a_second_and_then_rarely() {
    let set = service(2, &plain());
    break_one(&set, 0, 0);
    let mut random = Random(77);
    let mut probes = Vec::new();
    for now in (5001..20_000).step_by(5) {
        let ask = Ask { random: random.bits(), replayable: false, tried: &[], key: None };
        let attempt = set.pick(ask, at(now)).expect("one is closed");
        if attempt.is_probe() {
            probes.push(now);
        }
        attempt.end(Outcome::OK, at(now));
    }
    assert!(probes[0] >= 6001, "{probes:?}");
    assert_eq!((probes.len(), states(&set)[0]), (3, State::Closed), "{probes:?}");
}

#[test]
fn rare_traffic_that_cannot_be_replayed_still_brings_the_instance_back() {
    let set = service(2, &plain());
    break_one(&set, 0, 0);
    for now in (6000..20_000).step_by(700) {
        let ask = Ask { random: u64::MAX, replayable: false, tried: &[], key: None };
        set.pick(ask, at(now)).expect("one is closed").end(Outcome::OK, at(now));
    }
    assert_eq!(states(&set), [State::Closed; 2]);
}

#[test]
fn when_nothing_is_closed_any_request_may_probe_and_one_round_is_finished_first() {
    let set = service(3, &plain());
    for index in 0..3 {
        break_one(&set, index, 0);
    }
    let mut probed = Vec::new();
    for now in (0..20_000).step_by(20) {
        let ask = Ask { random: now, replayable: false, tried: &[], key: None };
        match set.pick(ask, at(now)) {
            Ok(attempt) if attempt.is_probe() => {
                probed.push((attempt.index(), now));
                attempt.end(Outcome::OK, at(now));
            }
            Ok(attempt) => drop(attempt),
            Err(exhausted) => assert_eq!(exhausted.cause, ExhaustedCause::AllOpen),
        }
        if states(&set).contains(&State::Closed) {
            break;
        }
    }
    assert_eq!(probed.len(), 3, "{probed:?}");
    assert!(probed.iter().all(|(index, _)| *index == probed[0].0), "{probed:?}");
}

#[test]
fn a_request_of_an_older_set_that_finds_nobody_shuts_no_newer_one() {
    let before = service(1, &plain());
    break_one(&before, 0, 0);
    let with_another = Arc::new(before.rebuilt(slots(2, &plain())));
    let empty = Arc::new(before.rebuilt(Vec::new()));
    assert_eq!(pick(&before, 1, at(10)).err().map(|none| none.cause), Some(ExhaustedCause::AllOpen));
    assert!(pick(&with_another, 1, at(10)).is_ok(), "nobody has tried the one that has come");
    assert_eq!(pick(&empty, 1, at(10)).err().map(|none| none.cause), Some(ExhaustedCause::Empty));
}

#[test]
fn open_times_are_cut_while_nothing_is_closed_and_all_is_hard() {
    let config = BreakerConfig { open_base: Duration::from_secs(40), ..plain() };
    let set = service(2, &config);
    break_one(&set, 0, 0);
    let left = |index: usize, now: u64| set.inspect(at(now))[index].open_remaining.unwrap_or_default();
    drop(pick(&set, 1, at(10)).expect("one is closed"));
    assert!(left(0, 10) > Duration::from_secs(39), "one is closed: no cut");
    break_one(&set, 1, 20);
    let exhausted = pick(&set, 1, at(30)).err().expect("none is closed");
    assert_eq!(exhausted.cause, ExhaustedCause::AllOpen);
    for index in [0, 1] {
        assert!((ms(1500)..=ms(2500)).contains(&left(index, 30)), "{:?}", left(index, 30));
    }
    assert_eq!(exhausted.retry_after, left(0, 30).min(left(1, 30)));
    let again = left(0, 30);
    drop(pick(&set, 1, at(530)));
    assert_eq!(left(0, 530), again - ms(500), "cut once, not again and again");
}

#[test]
fn open_times_are_not_cut_where_one_instance_is_silent_rather_than_broken() {
    let config = BreakerConfig { open_base: Duration::from_secs(40), ..plain() };
    let set = service(2, &config);
    let timeout = classify(Happening::Timeout);
    for now in [1000, 1000, 1000, 1000, 2500] {
        for _ in 0..10 {
            pick_at(&set, 1, at(now)).expect("admitted").end(Outcome::OK, at(now + 1));
        }
        pick_at(&set, 0, at(now)).expect("admitted").end(timeout, at(now + 1));
    }
    assert_eq!(states(&set)[0], State::Open);
    break_one(&set, 1, 3000);
    assert!(pick(&set, 1, at(3001)).is_err());
    assert!(set.inspect(at(3001))[0].open_remaining > Some(Duration::from_secs(35)));
}

#[test]
fn a_cut_respects_what_the_instance_asked_for() {
    let set = service(1, &plain());
    for _ in 0..5 {
        let outcome = refused().with_retry_hint(Duration::from_secs(20));
        pick_at(&set, 0, at(0)).expect("admitted").end(outcome, at(0));
    }
    assert_eq!(pick(&set, 1, at(1)).err().map(|e| e.retry_after), Some(ms(19_999)));
}

#[test]
fn a_lost_probe_wedges_nothing() {
    let set = service(2, &plain());
    break_one(&set, 0, 0);
    let lost = pick(&set, 1, at(5001)).expect("probe");
    assert!(lost.is_probe());
    set.sweep(at(15_002));
    assert_eq!(states(&set)[0], State::Open);
    let mut now = 15_002;
    while states(&set)[0] != State::Closed {
        now += 50;
        pick(&set, now, at(now)).expect("one is closed").end(Outcome::OK, at(now));
        assert!(now < 30_000);
    }
    lost.end(refused(), at(now));
    assert_eq!(states(&set)[0], State::Closed, "the late answer belongs to another period");
}

#[test]
fn why_there_is_no_instance_is_said() {
    let empty = service(0, &plain());
    assert_eq!(pick(&empty, 1, at(0)).err().map(|e| e.cause), Some(ExhaustedCause::Empty));
    let set = service(2, &plain());
    let tried = set.pick(Ask { random: 3, replayable: true, tried: &[0, 1], key: None }, at(0));
    assert_eq!(tried.err().map(|e| e.cause), Some(ExhaustedCause::AllTried));
    break_one(&set, 0, 0);
    let tried = set.pick(Ask { random: 3, replayable: true, tried: &[1], key: None }, at(1));
    assert_eq!(tried.err().map(|e| e.cause), Some(ExhaustedCause::AllTried), "the other is open, not due");
}

#[test]
fn while_nothing_is_closed_a_probe_in_flight_keeps_other_rounds_waiting_for_a_second() {
    let set = service(3, &plain());
    for index in 0..3 {
        break_one(&set, index, 0);
    }
    let first = pick(&set, 1, at(6000)).expect("due");
    for now in (6000..7000).step_by(50) {
        assert!(pick(&set, now, at(now)).is_err(), "{now}");
    }
    let second = (7000..7200).find_map(|now| pick(&set, now, at(now)).ok()).expect("not for ever");
    assert_ne!(second.index(), first.index());
}

#[test]
fn an_instance_that_comes_back_is_measured_afresh() {
    let set = service(2, &plain());
    for _ in 0..5 {
        pick_at(&set, 0, at(0)).expect("closed").end(refused(), at(3000));
    }
    assert!(set.inspect(at(3000))[0].ewma >= Some(ms(2900)));
    for now in [9000, 9200, 9400] {
        pick(&set, 1, at(now)).expect("probe").end(Outcome::OK, at(now));
    }
    assert_eq!((states(&set)[0], set.inspect(at(9400))[0].ewma), (State::Closed, None));
}

/// Who calls one instance by its address means no other; its circuit stays one among its peers'.
#[test]
fn who_has_chosen_an_instance_gets_that_one_or_is_told_when() {
    let set = service(3, &plain());
    let only = |index: usize, tried: &[usize], now: u64| {
        set.pick_only(index, Ask { random: 1, replayable: false, tried, key: None }, at(now))
    };
    assert_eq!(only(2, &[], 0).expect("closed").index(), 2);
    assert_eq!(only(2, &[2], 0).err().map(|e| e.cause), Some(ExhaustedCause::AllTried));
    assert_eq!(only(3, &[], 0).err().map(|e| e.cause), Some(ExhaustedCause::Empty));
    break_one(&set, 0, 0);
    let refused = only(0, &[], 1).err().expect("it is open");
    assert_eq!(refused.cause, ExhaustedCause::AllOpen);
    let wait = refused.retry_after;
    assert!((ms(4_900)..=ms(5_100)).contains(&wait), "not cut short, since others are closed: {wait:?}");
    for now in [5_001, 5_101, 5_201] {
        let attempt = only(0, &[], now).expect("any request may be its probe");
        assert!(attempt.is_probe() && attempt.index() == 0);
        attempt.end(Outcome::OK, at(now));
    }
    assert_eq!(states(&set), [State::Closed; 3]);
}

/// A service whose first `owned` instances are tested by their owner's questions.
fn owned(n: usize, owned: usize) -> Arc<InstanceSet<Instance>> {
    let mut slots = slots(n, &plain());
    slots.iter_mut().take(owned).for_each(|slot| slot.prober = Prober::Owner);
    Arc::new(InstanceSet::new(slots))
}

#[test]
fn an_owners_questions_bring_an_instance_back_and_no_request_is_ever_its_probe() {
    let set = owned(3, 3);
    assert!(set.due_probe(1, at(1)).is_none(), "all are closed");
    break_one(&set, 0, 0);
    let mut probes = Vec::new();
    for now in 4900..6000 {
        let attempt = pick(&set, now, at(now)).expect("two are closed");
        assert!(!attempt.is_probe(), "a request at {now}");
        attempt.end(Outcome::OK, at(now));
        if let Some(attempt) = set.due_probe(now, at(now)) {
            assert!(attempt.is_probe() && attempt.index() == 0);
            probes.push(now);
            attempt.end(Outcome::OK, at(now));
        }
    }
    assert_eq!(probes, [5001, 5101, 5201]);
    assert_eq!(states(&set), [State::Closed; 3]);
}

#[test]
fn a_question_that_fails_opens_the_circuit_again_and_one_that_is_dropped_changes_nothing() {
    let set = owned(2, 2);
    break_one(&set, 0, 0);
    drop(set.due_probe(1, at(5001)).expect("due"));
    let attempt = set.due_probe(1, at(5101)).expect("its place is free again");
    assert!(set.due_probe(1, at(5202)).is_none(), "one at a time");
    attempt.end(refused(), at(5250));
    assert_eq!(states(&set)[0], State::Open);
    assert!(set.due_probe(1, at(5400)).is_none());
    assert!(set.due_probe(1, at(5250 + 10_001)).is_some(), "twice as long");
}

#[test]
fn a_request_may_test_an_owners_instance_only_while_no_circuit_is_closed() {
    let set = owned(2, 2);
    break_one(&set, 0, 0);
    break_one(&set, 1, 10);
    let mut tested = false;
    for now in (20..20_000).step_by(20) {
        if let Ok(attempt) = pick(&set, now, at(now)) {
            tested |= attempt.is_probe();
            attempt.end(Outcome::OK, at(now));
        }
        if states(&set).contains(&State::Closed) {
            break;
        }
    }
    assert!(tested, "it would have been refused");
}

#[test]
fn requests_go_on_to_test_the_instances_that_are_theirs() {
    let set = owned(3, 1);
    break_one(&set, 0, 0);
    break_one(&set, 1, 0);
    let (mut by_request, mut by_owner) = (Vec::new(), Vec::new());
    for now in 5000..7000 {
        let attempt = pick(&set, now, at(now)).expect("one is closed");
        if attempt.is_probe() {
            by_request.push(attempt.index());
        }
        attempt.end(Outcome::OK, at(now));
        if let Some(attempt) = set.due_probe(now, at(now)) {
            by_owner.push(attempt.index());
            attempt.end(Outcome::OK, at(now));
        }
    }
    assert_eq!((by_request, by_owner), (vec![1, 1, 1], vec![0, 0, 0]));
    assert_eq!(states(&set), [State::Closed; 3]);
}

#[test]
fn a_refused_probe_ends_the_round_also_while_the_peers_time_out_and_a_timeout_does_not() {
    for (happening, ends) in [(Happening::ConnectRefused, true), (Happening::Timeout, false)] {
        let set = service(4, &plain());
        break_one(&set, 0, 0);
        for now in (0..5_000).step_by(50) {
            for index in 1..4 {
                let strained = now % 100 == 0;
                let outcome = if strained { classify(Happening::Timeout) } else { Outcome::OK };
                pick_at(&set, index, at(now)).map(|attempt| attempt.end(outcome, at(now)));
            }
        }
        let probe = (0..100).filter_map(|random| pick(&set, random, at(5_001)).ok()).find(|attempt| attempt.is_probe());
        probe.expect("it is due").end(classify(happening), at(5_002));
        let expected = if ends { State::Open } else { State::HalfOpen };
        assert_eq!(states(&set)[0], expected, "{happening:?}");
    }
}
