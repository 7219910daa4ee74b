//! The ways to spread requests, through the real pick.

use std::sync::Arc;

use fusewire_resilience::{
    Ask, Attempt, BreakerConfig, Happening, InstanceSet, Member, Node, Policy, Prober, SetRules, Slot, Time, balance,
    classify,
};

use crate::world::{Random, at};

struct Placed {
    node: Node,
    id: u64,
    zone: u64,
}

impl Member for Placed {
    fn node(&self) -> &Node {
        &self.node
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn zone(&self) -> u64 {
        self.zone
    }
}

type Set = Arc<InstanceSet<Placed>>;

fn placed(zones: &[u64]) -> Vec<Slot<Placed>> {
    let config = Arc::new(BreakerConfig::default());
    let slot = |(index, zone): (usize, &u64)| Slot {
        member: Arc::new(Placed {
            node: Node::new(index as u64 + 1, Time(0)),
            id: balance::hash(&index.to_le_bytes()),
            zone: *zone,
        }),
        config: config.clone(),
        weight: 1,
        prober: Prober::Request,
    };
    zones.iter().enumerate().map(slot).collect()
}

fn set(zones: &[u64], rules: SetRules) -> Set {
    Arc::new(InstanceSet::with_rules(placed(zones), rules))
}

fn by(policy: Policy) -> SetRules {
    SetRules { policy, ..SetRules::default() }
}

fn get(set: &Set, random: u64, key: Option<u64>, tried: &[usize]) -> Attempt<Placed> {
    set.pick(Ask { random, replayable: true, tried, key }, at(0)).expect("somebody takes traffic")
}

fn open(set: &Set, index: usize) {
    let others: Vec<usize> = (0..set.len()).filter(|other| *other != index).collect();
    for _ in 0..5 {
        get(set, 1, None, &others).end(classify(Happening::ConnectRefused), at(0));
    }
}

/// The instance of each of `n` keys, with nothing in flight.
fn owners(set: &Set, n: u64) -> Vec<usize> {
    let mut random = Random(3);
    (0..n).map(|key| get(set, random.bits(), Some(balance::hash(&key.to_le_bytes())), &[]).index()).collect()
}

#[test]
fn a_circuit_that_opens_moves_only_its_own_keys_and_gets_them_back() {
    for policy in [Policy::RING_HASH, Policy::Maglev] {
        let set = set(&[0; 10], by(policy));
        let before = owners(&set, 5_000);
        open(&set, 4);
        let after = owners(&set, 5_000);
        assert!(before.iter().zip(&after).all(|(b, a)| *b == 4 || b == a), "{policy:?}");
        assert!(after.iter().all(|owner| *owner != 4));
        let heirs = (0..10).filter(|i| before.iter().zip(&after).any(|(b, a)| *b == 4 && a == i)).count();
        assert_eq!(heirs, 9, "{policy:?}: they spread");
        set.reset(4, "test", at(0));
        assert_eq!(owners(&set, 5_000), before);
    }
}

#[test]
fn an_instance_that_has_been_tried_is_not_the_keys_any_more() {
    for policy in [Policy::RING_HASH, Policy::Maglev] {
        let set = set(&[0; 5], by(policy));
        for key in 0..500 {
            let first = get(&set, 1, Some(key), &[]).index();
            let second = get(&set, 2, Some(key), &[first]).index();
            assert_ne!(first, second);
            assert_eq!(get(&set, 3, Some(key), &[first]).index(), second, "the next is the same each time");
        }
    }
}

#[test]
fn a_request_without_a_key_goes_anywhere() {
    let set = set(&[0; 4], by(Policy::Maglev));
    let mut random = Random(5);
    let mut counts = [0_u32; 4];
    for _ in 0..4_000 {
        counts[get(&set, random.bits(), None, &[]).index()] += 1;
    }
    assert!(counts.iter().all(|count| count.abs_diff(1_000) < 150), "{counts:?}");
}

#[test]
fn one_hot_key_cannot_bury_one_instance() {
    for n in [10_usize, 40] {
        let set = set(&vec![0; n], by(Policy::RING_HASH));
        let mut held = Vec::new();
        for i in 0..1_000_u64 {
            let ask = Ask { random: i, replayable: true, tried: &[], key: Some(7) };
            held.push(set.pick(ask, at(i)).expect("somebody takes traffic"));
        }
        let most = (0..n).map(|index| held.iter().filter(|attempt| attempt.index() == index).count()).max();
        assert!(most.is_some_and(|most| most <= 1_250 / n + 2), "{n}: {most:?}");
    }
}

#[test]
fn turns_go_round_and_pass_over_what_is_open() {
    let set = set(&[0; 4], by(Policy::RoundRobin));
    let deal = |n: u64| -> Vec<usize> { (0..n).map(|i| get(&set, i, None, &[]).index()).collect() };
    assert_eq!(deal(8), [0, 1, 2, 3, 0, 1, 2, 3]);
    open(&set, 1);
    let dealt = deal(300);
    let count = |index: usize| dealt.iter().filter(|dealt| **dealt == index).count();
    assert_eq!([count(0), count(1), count(2), count(3)], [100, 0, 100, 100]);
}

#[test]
fn least_request_sees_requests_and_not_latency() {
    let set = set(&[0; 2], by(Policy::LeastRequest));
    let slow = |index: usize, ms: u64| {
        let mut attempt = get(&set, 1, None, &[1 - index]);
        attempt.answered(classify(Happening::Status(200)), at(ms));
        attempt.end(classify(Happening::Complete), at(ms));
    };
    slow(0, 1_000);
    slow(1, 1);
    let mut random = Random(9);
    let first = (0..1_000).filter(|_| get(&set, random.bits(), None, &[]).index() == 0).count();
    assert!((400..600).contains(&first), "{first}");
    let _busy = get(&set, 1, None, &[1]);
    assert!((0..100).all(|random| get(&set, random, None, &[]).index() == 1));
}

#[test]
fn the_callers_zone_is_preferred_while_it_bears_its_share() {
    let zones: Vec<u64> = (0..30).map(|index| index % 3 + 1).collect();
    for policy in [Policy::TwoChoices, Policy::LeastRequest, Policy::RoundRobin] {
        let set = set(&zones, SetRules { policy, zone: 2, ..SetRules::default() });
        let mut random = Random(11);
        let mut local = |n: usize| {
            let here = |index: usize| zones[index] == 2;
            (0..n).filter(|_| here(get(&set, random.bits(), None, &[]).index())).count() as f64 / n as f64
        };
        assert_eq!(local(1_000), 1.0, "{policy:?}");
        let mine: Vec<usize> = (0..30).filter(|index| zones[*index] == 2).collect();
        mine[..5].iter().for_each(|index| open(&set, *index));
        // Five of ten here, ten of ten elsewhere: capacity keeps 3 x 5 / 25.
        assert!((local(5_000) - 0.6).abs() < 0.03, "{policy:?}");
        mine[5..].iter().for_each(|index| open(&set, *index));
        assert_eq!(local(1_000), 0.0, "{policy:?}: nobody here is not nobody at all");
    }
}

#[test]
fn zones_do_not_matter_to_one_who_has_none_and_to_keys() {
    let zones: Vec<u64> = (0..9).map(|index| index % 3 + 1).collect();
    for rules in [by(Policy::RoundRobin), SetRules { policy: Policy::Maglev, zone: 1, ..SetRules::default() }] {
        let set = set(&zones, rules);
        let mut random = Random(13);
        let elsewhere = (0..900).filter(|_| zones[get(&set, random.bits(), None, &[]).index()] != 1).count();
        assert!((500..700).contains(&elsewhere), "{elsewhere}");
    }
}

#[test]
fn of_very_many_instances_a_sidecar_uses_its_own_tenth() {
    let rules = |seed| SetRules { subset: Some(seed), ..SetRules::default() };
    let ids = |seed| set(&[0; 300], rules(seed)).members().map(|member| member.id()).collect::<Vec<_>>();
    assert_eq!(ids(1).len(), 30);
    assert_eq!(ids(1), ids(1));
    assert_ne!(ids(1), ids(2));
    assert_eq!(set(&[0; 100], rules(1)).len(), 100);
}

#[test]
fn a_new_set_of_the_same_members_keeps_its_turn_and_another_policy_takes_over() {
    let slots = placed(&[0; 3]);
    let first = Arc::new(InstanceSet::with_rules(slots.clone(), by(Policy::RoundRobin)));
    assert_eq!(get(&first, 1, None, &[]).index(), 0);
    let second = Arc::new(first.rebuilt(slots.clone()));
    assert_eq!(get(&second, 1, None, &[]).index(), 1, "the turn goes on");
    let third = Arc::new(second.rebuilt_with(slots, by(Policy::Maglev)));
    let owner = get(&third, 1, Some(5), &[]).index();
    assert!((0..50).all(|random| get(&third, random, Some(5), &[]).index() == owner));
}
