//! A member is told of each attempt once, however it goes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fusewire_resilience::{
    Ask, BreakerConfig, Class, InstanceSet, Member, Mode, Node, Outcome, ProbeResult, Prober, Reason, Slot, Time,
};

use crate::world::{at, ms, refused, status};

struct Told {
    node: Node,
    ended: Mutex<Vec<(Class, Option<Duration>)>>,
    probed: Mutex<Vec<ProbeResult>>,
}

impl Told {
    fn new() -> Arc<Told> {
        Arc::new(Told { node: Node::new(1, Time(0)), ended: Mutex::default(), probed: Mutex::default() })
    }
}

impl Member for Told {
    fn node(&self) -> &Node {
        &self.node
    }
    fn ended(&self, class: Class, took: Option<Duration>) {
        self.ended.lock().expect("not poisoned").push((class, took));
    }
    fn probed(&self, result: ProbeResult) {
        self.probed.lock().expect("not poisoned").push(result);
    }
}

#[test]
fn a_member_is_told_of_each_attempt_once_with_the_time_to_its_answer_or_failure() {
    let member = Told::new();
    let config = Arc::new(BreakerConfig::default());
    let set =
        Arc::new(InstanceSet::new(vec![Slot { member: member.clone(), config, weight: 1, prober: Prober::Request }]));
    let pick =
        || set.pick(Ask { random: 0, replayable: true, tried: &[], key: None }, at(1_000)).expect("a closed circuit");

    let mut good = pick();
    good.answered(Outcome::OK, at(1_005));
    assert!(member.ended.lock().unwrap().is_empty(), "an ok waits for the end of the stream");
    good.end(Outcome::OK, at(1_500));

    let mut cut = pick();
    cut.answered(Outcome::OK, at(1_007));
    cut.end(status(500), at(1_500));

    let mut failed = pick();
    failed.answered(status(500), at(1_009));
    failed.end(Outcome::OK, at(1_500));

    pick().end(refused(), at(1_011));
    drop(pick());
    let mut left = pick();
    left.answered(Outcome::OK, at(1_013));
    drop(left);

    let hard = status(500).class;
    let wanted = [
        (Class::Ok, Some(ms(5))),
        (hard, Some(ms(7))),
        (hard, Some(ms(9))),
        (refused().class, Some(ms(11))),
        (Class::Ignored, None),
        (Class::Ignored, Some(ms(13))),
    ];
    assert_eq!(*member.ended.lock().unwrap(), wanted);
}

/// A set of one, opened by five refusals, and when its circuit is due at the latest.
fn opened(mode: Mode) -> (Arc<Told>, Arc<InstanceSet<Told>>, u64) {
    let member = Told::new();
    let config = Arc::new(BreakerConfig { mode, jitter_percent: 0, ..BreakerConfig::default() });
    let slot = Slot { member: member.clone(), config, weight: 1, prober: Prober::Request };
    let set = Arc::new(InstanceSet::new(vec![slot]));
    for n in 0..5 {
        pick(&set, 1_000 + n).end(refused(), at(1_000 + n));
    }
    (member, set, 7_000)
}

fn pick(set: &Arc<InstanceSet<Told>>, ms: u64) -> fusewire_resilience::Attempt<Told> {
    set.pick(Ask { random: ms, replayable: true, tried: &[], key: None }, at(ms)).expect("it may be asked")
}

#[test]
fn a_member_is_told_how_each_test_of_its_open_circuit_went_and_the_round_is_in_its_last_transition() {
    let (member, set, due) = opened(Mode::Enforce);
    drop(pick(&set, due)); // cancelled
    pick(&set, due + 200).end(Outcome::OK, at(due + 201));
    pick(&set, due + 400).end(refused(), at(due + 401));
    let again = due + 20_000;
    let lost = pick(&set, again);
    set.sweep(at(again + 11_000));
    lost.end(Outcome::OK, at(again + 11_001));
    let last = again + 60_000;
    for n in 0..3 {
        pick(&set, last + 200 * n).end(Outcome::OK, at(last + 200 * n + 1));
    }
    use ProbeResult::{Failed, Ignored, Lost, Ok};
    assert_eq!(*member.probed.lock().unwrap(), [Ignored, Ok, Failed, Lost, Ok, Ok, Ok]);
    let rounds: Vec<_> =
        set.drain_transitions().iter().map(|(_, t)| (t.reason, t.probes_ok, t.probes_failed)).collect();
    let wanted = [
        (Reason::Consecutive, 0, 0),
        (Reason::Due, 0, 0),
        (Reason::ProbeFailed, 1, 1),
        (Reason::Due, 0, 0),
        (Reason::ProbeLost, 0, 0),
        (Reason::Due, 0, 0),
        (Reason::Recovered, 3, 0),
    ];
    assert_eq!(rounds, wanted);
}

#[test]
fn in_observe_mode_no_request_is_told_of_as_a_probe() {
    let (member, set, due) = opened(Mode::Observe);
    for n in 0..4 {
        pick(&set, due + 200 * n).end(Outcome::OK, at(due + 200 * n + 1));
    }
    assert_eq!(*member.probed.lock().unwrap(), []);
}
