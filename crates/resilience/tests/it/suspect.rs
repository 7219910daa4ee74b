//! A sidecar that doubts itself.

use fusewire_resilience::{BreakerConfig, Happening, SelfSuspicion, Suspected, Time, Transition, classify};

use crate::world::{at, pick_at, service, status};

/// What a service's journal says when each of its instances fails so at `ms`, one after another.
fn fall(n: usize, happening: Happening, ms: u64) -> Vec<Transition> {
    let set = service(n, &BreakerConfig::default());
    for index in 0..n {
        for _ in 0..5 {
            pick_at(&set, index, at(ms)).map(|attempt| attempt.end(classify(happening), at(ms)));
        }
    }
    set.drain_transitions().into_iter().map(|(_, event)| event).collect()
}

fn feed(doubt: &mut SelfSuspicion, service: u64, instances: usize, events: &[Transition]) -> Option<Suspected> {
    events.iter().fold(None, |said, event| doubt.transition(service, instances, event).or(said))
}

#[test]
fn two_services_that_become_unreachable_at_once_are_its_own_doing() {
    let mut doubt = SelfSuspicion::new();
    assert_eq!(feed(&mut doubt, 1, 3, &fall(3, Happening::ConnectRefused, 1_000)), None, "one service says nothing");
    let said = feed(&mut doubt, 2, 2, &fall(2, Happening::ConnectRefused, 5_000));
    assert!(matches!(said, Some(Suspected::Began { tripped, instances: 5, services: 2 }) if tripped >= 4), "{said:?}");
    assert_eq!(doubt.since(), Some(at(5_000)));
}

#[test]
fn services_that_still_answer_speak_for_it() {
    let mut doubt = SelfSuspicion::new();
    doubt.used(3, 2, at(1_000));
    feed(&mut doubt, 1, 3, &fall(3, Happening::ConnectRefused, 1_000));
    assert_eq!(feed(&mut doubt, 2, 2, &fall(2, Happening::ConnectRefused, 1_000)), None, "five of seven");
    assert!(doubt.used(1, 3, at(8_000)).is_none());
    let later = doubt.used(2, 2, at(10_900)).or_else(|| doubt.used(1, 3, at(10_900)));
    assert_eq!(later, None, "the third was used ten seconds ago");
    assert!(doubt.used(1, 3, at(11_001)).is_none(), "and what tripped then is too long ago");
}

#[test]
fn failures_that_were_answered_and_falls_far_apart_are_none_of_its_doing() {
    let mut doubt = SelfSuspicion::new();
    for service in 1..4 {
        assert_eq!(feed(&mut doubt, service, 3, &fall(3, Happening::Status(500), 1_000)), None);
    }
    let mut slowly = SelfSuspicion::new();
    assert_eq!(feed(&mut slowly, 1, 3, &fall(3, Happening::ConnectRefused, 1_000)), None);
    slowly.used(1, 3, at(11_500));
    assert_eq!(feed(&mut slowly, 2, 3, &fall(3, Happening::ConnectRefused, 11_500)), None);
}

#[test]
fn it_ends_when_instances_come_back() {
    let set = service(2, &BreakerConfig::default());
    let mut doubt = SelfSuspicion::new();
    feed(&mut doubt, 1, 2, &fall(2, Happening::ConnectRefused, 1_000));
    for index in 0..2 {
        for _ in 0..5 {
            pick_at(&set, index, at(1_000)).map(|attempt| attempt.end(classify(Happening::ConnectRefused), at(1_000)));
        }
    }
    let opened: Vec<_> = set.drain_transitions().into_iter().map(|(_, event)| event).collect();
    assert!(matches!(feed(&mut doubt, 2, 2, &opened), Some(Suspected::Began { .. })));
    assert_eq!(doubt.used(1, 2, at(60_000)), None, "it does not end by itself");
    let mut said = None;
    for step in 0..100 {
        let now = at(8_000 + step * 200);
        pick_at(&set, 0, now).map(|attempt| attempt.end(status(200), now));
        for (_, event) in set.drain_transitions() {
            said = doubt.transition(2, 2, &event).or(said);
        }
    }
    assert_eq!(said, Some(Suspected::Ended));
    assert_eq!(doubt.since(), None::<Time>);
}

#[test]
fn what_it_keeps_is_bounded() {
    let mut doubt = SelfSuspicion::new();
    for service in 0..10_000 {
        doubt.used(service, 1, at(service * 100));
    }
    assert!(format!("{doubt:?}").len() < 20_000, "what is not used is forgotten");
}
