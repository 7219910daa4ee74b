//! What the peers have to say before a circuit opens.

use fusewire_resilience::{
    BreakerConfig, Forced, Happening, Mode, Outcome, Override, Reason, State, Transition, classify,
};

use crate::world::{Instance, at, ms, pick_at, refused, service, slots, states, status};

type Set = std::sync::Arc<fusewire_resilience::InstanceSet<Instance>>;

fn plain() -> BreakerConfig {
    BreakerConfig { jitter_percent: 0, ..BreakerConfig::default() }
}

fn call(set: &Set, index: usize, outcome: Outcome, now_ms: u64) -> Option<Transition> {
    pick_at(set, index, at(now_ms)).expect("admitted").end(outcome, at(now_ms))
}

fn calls(set: &Set, index: usize, outcome: Outcome, count: usize, now_ms: u64) -> Option<Transition> {
    let mut trip = None;
    for _ in 0..count {
        if states(set)[index] == State::Closed {
            trip = trip.or(call(set, index, outcome, now_ms));
        }
    }
    trip
}

#[test]
fn connect_failures_need_no_witness_and_may_open_the_last_instance() {
    let set = service(2, &plain());
    for index in [0, 1] {
        let trip = calls(&set, index, refused(), 5, 1000).expect("opens");
        assert_eq!((trip.index, trip.reason, trip.hard), (index, Reason::Consecutive, 5));
    }
}

#[test]
fn a_run_of_statuses_opens_only_with_a_witness() {
    let set = service(2, &plain());
    calls(&set, 1, Outcome::OK, 30, 1000);
    assert_eq!(calls(&set, 0, status(500), 8, 1001), None, "nobody answered cleanly since the run began");
    call(&set, 1, Outcome::OK, 1010);
    let trip = call(&set, 0, status(500), 1011).expect("re-checked at each further failure");
    assert_eq!(trip.reason, Reason::Consecutive);
}

#[test]
fn a_peer_that_fails_too_is_no_witness() {
    let set = service(2, &plain());
    calls(&set, 1, Outcome::OK, 6, 1000);
    call(&set, 1, status(500), 1000);
    calls(&set, 0, status(500), 4, 1001);
    call(&set, 1, Outcome::OK, 1010);
    assert_eq!(call(&set, 0, status(500), 1011), None);
}

#[test]
fn where_no_peer_has_calls_statuses_count_absolutely() {
    let set = service(2, &plain());
    assert!(calls(&set, 0, status(500), 5, 1000).is_some());
}

#[test]
fn statuses_never_open_the_last_closed_instance_of_a_service_that_has_more_than_one() {
    let set = service(2, &plain());
    calls(&set, 0, refused(), 5, 1000);
    assert_eq!(calls(&set, 1, status(500), 50, 1000), None);
    assert_eq!(states(&set), [State::Open, State::Closed]);
    let alone = service(1, &plain());
    assert!(calls(&alone, 0, status(500), 5, 1000).is_some(), "an only instance is judged by itself");
}

#[test]
fn the_rate_by_status_must_stand_out_against_the_best_peer() {
    for (peer_failures, opens) in [(0, true), (6, false)] {
        let config = BreakerConfig { consecutive: 0, ..plain() };
        let set = service(3, &config);
        for peer in [1, 2] {
            calls(&set, peer, Outcome::OK, 20 - peer_failures, 1000);
            calls(&set, peer, status(500), peer_failures, 1000);
        }
        calls(&set, 0, Outcome::OK, 10, 1000);
        let trip = calls(&set, 0, status(500), 10, 1000);
        assert_eq!(trip.map(|trip| trip.reason), opens.then_some(Reason::Rate), "{peer_failures}");
    }
}

#[test]
fn timeouts_and_busy_answers_never_reach_the_rate() {
    let set = service(1, &plain());
    assert_eq!(calls(&set, 0, status(503), 50, 1000), None);
    assert_eq!(calls(&set, 0, classify(Happening::Timeout), 50, 3000), None);
    assert_eq!(states(&set), [State::Closed]);
}

#[test]
fn a_silent_instance_opens_when_a_peer_answers_and_peers_are_at_ease() {
    let timeout = classify(Happening::Timeout);
    for (peer_timeouts, opens) in [(0, true), (10, false)] {
        let set = service(2, &plain());
        calls(&set, 0, timeout, 4, 1000);
        calls(&set, 1, Outcome::OK, 20, 1500);
        calls(&set, 1, timeout, peer_timeouts, 1500);
        assert_eq!(call(&set, 0, timeout, 1999), None, "five, but within a second");
        let trip = call(&set, 0, timeout, 2000);
        assert_eq!(trip.map(|trip| trip.reason), opens.then_some(Reason::Unresponsive), "{peer_timeouts}");
    }
}

#[test]
fn one_response_byte_ends_the_silence() {
    let timeout = classify(Happening::Timeout);
    let set = service(2, &plain());
    calls(&set, 0, timeout, 4, 1000);
    let mut stream = pick_at(&set, 0, at(1100)).expect("admitted");
    stream.answered(Outcome::OK, at(1200));
    calls(&set, 1, Outcome::OK, 20, 2000);
    assert_eq!(call(&set, 0, timeout, 2100), None, "the stream has not ended, but it answered");
}

#[test]
fn a_silent_instance_is_never_the_last_one_closed() {
    let timeout = classify(Happening::Timeout);
    let alone = service(1, &plain());
    calls(&alone, 0, timeout, 5, 1000);
    assert_eq!(call(&alone, 0, timeout, 9000), None);
}

#[test]
fn a_connect_timeout_is_hard_only_if_a_peer_took_a_connection_meanwhile() {
    let timeout = classify(Happening::ConnectTimeout);
    for (connects, opens) in [(false, false), (true, true)] {
        let set = service(2, &plain());
        let attempts: Vec<_> = (0..5).map(|_| pick_at(&set, 0, at(1000)).expect("admitted")).collect();
        if connects {
            let peer = pick_at(&set, 1, at(1200)).expect("admitted");
            fusewire_resilience::Member::node(&**peer.member()).connected(at(1300));
        }
        let trip = attempts.into_iter().find_map(|attempt| attempt.end(timeout, at(1900)));
        assert_eq!(trip.is_some(), opens);
    }
}

#[test]
fn the_sweep_releases_an_instance_when_its_peers_turn_out_to_be_no_better() {
    let set = service(2, &plain());
    calls(&set, 1, Outcome::OK, 20, 1000);
    call(&set, 1, Outcome::OK, 1010);
    calls(&set, 0, status(500), 4, 1001);
    call(&set, 1, Outcome::OK, 1010);
    assert!(call(&set, 0, status(500), 1020).is_some());
    assert_eq!(set.sweep(at(1500)), [], "the peer is better");
    calls(&set, 1, status(500), 20, 5000);
    let released = set.sweep(at(5500));
    assert_eq!(
        released.iter().map(|event| (event.reason, event.to, event.k)).collect::<Vec<_>>(),
        [(Reason::Released, State::Closed, 1)]
    );
    assert_eq!(set.inspect(at(5500))[0].ramp, 1.0, "no slow start");
}

#[test]
fn the_sweep_never_releases_what_does_not_connect() {
    let set = service(2, &plain());
    calls(&set, 0, refused(), 5, 1000);
    calls(&set, 1, status(500), 20, 1000);
    assert_eq!(set.sweep(at(1500)), []);
}

#[test]
fn forced_open_refuses_everything_and_forced_closed_only_records() {
    let set = service(1, &plain());
    let hold = |forced, until| Some(Override { forced, owner: "ann".into(), reason: "drill".into(), until });
    let event = set.set_override(0, hold(Forced::Open, None), at(0)).expect("changed");
    assert_eq!((event.to, event.reason, event.actor.as_deref()), (State::Open, Reason::Manual, Some("ann")));
    assert!(pick_at(&set, 0, at(1_000_000)).is_none());
    assert_eq!(set.sweep(at(1_000_000)), []);
    set.set_override(0, hold(Forced::Closed, Some(at(1_100_000))), at(1_000_000));
    assert_eq!(calls(&set, 0, refused(), 20, 1_000_001), None);
    assert_eq!(set.inspect(at(1_000_001))[0].window.hard, 20, "results are still recorded");
    let expired = set.sweep(at(1_100_000));
    assert_eq!(expired.iter().map(|event| (event.reason, event.k)).collect::<Vec<_>>(), [(Reason::Manual, 0)]);
    assert_eq!(set.inspect(at(1_100_000))[0].window.total, 0, "clearing starts from scratch");
    assert_eq!(set.set_override(0, None, at(1_100_000)), None);
}

#[test]
fn disabled_beats_forced_open_and_records_nothing() {
    let set = service(1, &BreakerConfig { mode: Mode::Disabled, ..plain() });
    let hold = Override { forced: Forced::Open, owner: "ann".into(), reason: "drill".into(), until: None };
    set.set_override(0, Some(hold), at(0));
    for _ in 0..20 {
        pick_at(&set, 0, at(1)).expect("admitted").end(refused(), at(1));
    }
    assert_eq!(set.inspect(at(1))[0].window.total, 0);
}

#[test]
fn observe_runs_the_machine_and_refuses_nothing() {
    let set = service(1, &BreakerConfig { mode: Mode::Observe, ..plain() });
    let trip = calls(&set, 0, refused(), 5, 0).expect("the machine opens");
    assert!(trip.observed);
    for now in 1..100 {
        call(&set, 0, Outcome::OK, now * 10);
    }
    assert_eq!((states(&set)[0], set.inspect(at(1000))[0].would_reject), (State::Open, 99));
    for now in [5001, 5002, 5003] {
        let probe = pick_at(&set, 0, at(now)).expect("admitted");
        assert!(!probe.is_probe(), "a virtual probe is the caller's own request");
        probe.end(Outcome::OK, at(now));
    }
    assert_eq!(states(&set), [State::Closed]);
    assert!(set.drain_transitions().iter().all(|(_, event)| event.observed));
}

#[test]
fn an_instance_keeps_its_state_through_a_rebuild() {
    let set = service(2, &plain());
    calls(&set, 0, refused(), 5, 1000);
    call(&set, 1, refused(), 1000);
    let old = pick_at(&set, 1, at(1000)).expect("admitted");
    let mut next = slots(3, &plain());
    for (slot, member) in next.iter_mut().zip(set.members()) {
        slot.member = member.clone();
    }
    let rebuilt = std::sync::Arc::new(set.rebuilt(next));
    assert_eq!(states(&rebuilt), [State::Open, State::Closed, State::Closed]);
    let views = rebuilt.inspect(at(1000));
    assert_eq!((views[1].window.hard, views[1].run, views[1].inflight), (1, 1, 1));
    assert!((views[2].ramp, views[1].ramp) == (0.1, 1.0), "one newcomer of three starts slowly");
    // What began under the old set still counts, and reaches the journal that the new one reads.
    old.end(refused(), at(1001));
    calls(&rebuilt, 1, refused(), 3, 1002);
    let opened: Vec<_> = rebuilt.drain_transitions().iter().map(|(member, _)| member.id).collect();
    assert_eq!(opened, [0, 1]);
}

#[test]
fn another_window_begins_empty() {
    let set = service(1, &plain());
    call(&set, 0, refused(), 1000);
    let mut next = slots(1, &BreakerConfig { window: ms(1000), ..plain() });
    next[0].member = set.members().next().expect("one").clone();
    assert_eq!(set.rebuilt(next).inspect(at(1000))[0].window.total, 0, "old buckets would be misread");
}

#[test]
fn with_every_peer_held_open_statuses_and_silence_leave_the_last_instance_closed() {
    let set = service(2, &plain());
    let timeout = classify(Happening::Timeout);
    calls(&set, 1, timeout, 4, 1000);
    calls(&set, 0, Outcome::OK, 20, 1500);
    let hold = Override { forced: Forced::Open, owner: "ann".into(), reason: "drill".into(), until: None };
    set.set_override(0, Some(hold), at(1600));
    assert_eq!(call(&set, 1, timeout, 2500), None);
    assert_eq!(calls(&set, 1, status(500), 50, 2600), None);
    assert_eq!(states(&set), [State::Open, State::Closed]);
}
