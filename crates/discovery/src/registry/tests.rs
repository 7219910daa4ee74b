//! Policies as tables, and the whole against a model that does everything the slow way.

mod naive;

use super::*;
use naive::Naive;
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};

pub(super) fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

pub(super) fn key(identity: &str, id: &str) -> Key {
    Key { identity: SpiffeId::parse(&format!("spiffe://mesh.test/{identity}")).unwrap(), id: id.into() }
}

/// At an address of its own: `id` ends in a number.
pub(super) fn registration(id: &str, services: &[&str], ttl: u64) -> Registration {
    let n: u8 = id.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    Registration {
        host: IpAddr::from([10, 0, 0, n]),
        ports: services.iter().enumerate().map(|(i, service)| (name(service), 8080 + i as u16)).collect(),
        sidecar: Some(SocketAddr::from(([10, 0, 0, n], 15006))),
        weight: 1,
        zone: None,
        labels: BTreeMap::new(),
        ttl: s(ttl),
    }
}

struct World {
    registry: Registry,
    now: Duration,
}

impl World {
    fn new() -> Self {
        Self::limited(Limits::default())
    }
    fn limited(limits: Limits) -> Self {
        Self { registry: Registry::new(limits, Duration::ZERO), now: Duration::ZERO }
    }
    fn register(&mut self, service: &str, id: &str) -> Result<Vec<Change>, Refusal> {
        self.registry.register(&key(service, id), registration(id, &[service], 10), false, self.now)
    }
    fn with(service: &str, count: usize) -> Self {
        let mut world = Self::new();
        (1..=count).for_each(|n| drop(world.register(service, &format!("{service}-{n}")).unwrap()));
        world
    }
    /// Second by second, with heartbeats of `beating` (of service `shop`) at each.
    fn run(&mut self, seconds: u64, beating: &[usize]) -> Vec<Change> {
        let mut all = Vec::new();
        for _ in 0..seconds {
            self.now += s(1);
            for n in beating {
                all.extend(self.registry.heartbeat(&key("shop", &format!("shop-{n}")), self.now).unwrap());
            }
            all.extend(self.registry.tick(self.now));
        }
        all
    }
    fn offered(&self) -> Vec<String> {
        self.registry.service(&name("shop")).map(|(r, _)| format!("{} {}", r.key.id, r.lease.as_str())).collect()
    }
}

fn gone(changes: &[Change]) -> Vec<&str> {
    changes.iter().filter_map(gone_id).collect()
}

fn gone_id(change: &Change) -> Option<&str> {
    if let Change::Gone { key, .. } = change { Some(&key.id) } else { None }
}

fn preserving(changes: &[Change]) -> bool {
    changes.iter().any(|c| matches!(c, Change::Preserving(_)))
}

#[test]
fn a_lost_heartbeat_makes_late_after_the_ttl_and_expires_after_ttl_and_grace() {
    let mut world = World::with("shop", 3);
    world.run(9, &[1, 2]);
    assert_eq!(world.offered(), ["shop-1 fresh", "shop-2 fresh", "shop-3 fresh"]);
    world.run(1, &[1, 2]);
    assert_eq!(world.offered(), ["shop-1 fresh", "shop-2 fresh", "shop-3 late"]);
    assert_eq!(world.registry.silent(), 1);
    assert_eq!(gone(&world.run(9, &[1, 2])), [] as [&str; 0]);
    assert_eq!(gone(&world.run(1, &[1, 2])), ["shop-3"]);
    assert_eq!(world.registry.heartbeat(&key("shop", "shop-3"), world.now), None, "it must register again");
}

#[test]
fn the_same_registration_again_is_a_heartbeat_and_no_change() {
    let mut world = World::with("shop", 2);
    assert_eq!(world.register("shop", "shop-1").unwrap(), []);
    world.run(15, &[2]);
    let changes = world.register("shop", "shop-1").unwrap();
    assert!(matches!(&changes[..], [Change::Lease { .. }]), "{changes:?}");
    assert_eq!(world.offered(), ["shop-1 fresh", "shop-2 fresh"]);
    let other = Registration { weight: 5, ..registration("shop-1", &["shop"], 10) };
    let changes = world.registry.register(&key("shop", "shop-1"), other, false, world.now).unwrap();
    assert!(matches!(&changes[..], [Change::Put { .. }]), "{changes:?}");
}

#[test]
fn a_replaced_port_map_tells_the_service_that_was_left_too() {
    let mut world = World::new();
    let both = registration("a-1", &["cart", "shop"], 10);
    world.registry.register(&key("x", "a-1"), both, false, world.now).unwrap();
    let one = registration("a-1", &["shop"], 10);
    let changes = world.registry.register(&key("x", "a-1"), one, false, world.now).unwrap();
    assert_eq!(changes, [Change::Put { key: key("x", "a-1"), services: vec![name("cart"), name("shop")] }]);
    assert_eq!(world.registry.service(&name("cart")).count(), 0);
    assert_eq!(world.registry.services().count(), 1, "nothing is kept of a service without registrations");
}

#[test]
fn a_deliberate_deregistration_counts_at_once_even_when_preserved() {
    let mut world = World::with("shop", 3);
    world.run(20, &[]);
    assert_eq!(world.offered(), ["shop-1 kept", "shop-2 kept", "shop-3 kept"]);
    let changes = world.registry.deregister(&key("shop", "shop-2"), world.now);
    assert_eq!(gone(&changes), ["shop-2"]);
    assert_eq!(world.offered(), ["shop-1 kept", "shop-3 kept"]);
    assert_eq!(world.registry.deregister(&key("shop", "nobody"), world.now), []);
}

#[test]
fn most_of_a_service_falling_silent_at_once_is_preserved_and_less_is_not() {
    // (registrations, silent, kept?)
    let table = [
        (1, 1, false),
        (2, 1, false),
        (2, 2, true),
        (3, 1, false),
        (3, 2, true),
        (4, 2, false),
        (4, 3, true),
        (20, 10, false),
        (20, 11, true),
        (20, 20, true),
    ];
    for (count, silent, kept) in table {
        let mut world = World::with("shop", count);
        let beating: Vec<usize> = (silent + 1..=count).collect();
        let changes = world.run(60, &beating);
        assert_eq!(preserving(&changes), kept, "{silent} of {count}");
        assert_eq!(gone(&changes).len(), if kept { 0 } else { silent }, "{silent} of {count}");
    }
}

#[test]
fn those_that_vanish_one_after_the_other_are_not_preserved() {
    let mut world = World::with("shop", 6);
    let mut all = Vec::new();
    for last in (1..=6).rev() {
        all.extend(world.run(25, &(1..last).collect::<Vec<_>>()));
    }
    assert_eq!(gone(&all).len(), 6);
    assert!(!preserving(&all));
}

#[test]
fn one_service_that_vanishes_is_preserved_though_the_registry_is_well() {
    let mut world = World::with("shop", 10);
    (1..=3).for_each(|n| drop(world.register("cart", &format!("cart-{n}")).unwrap()));
    let changes = world.run(60, &(1..=10).collect::<Vec<_>>());
    assert_eq!(gone(&changes), [] as [&str; 0]);
    let preserved: Vec<_> = world.registry.preservations().collect();
    assert_eq!(preserved.len(), 1);
    let words = preserved[0].to_string();
    assert!(words.starts_with("service cart: 3 of 3 registrations fell silent together"), "{words}");
}

#[test]
fn preservation_ends_when_85_percent_are_heard_and_the_rest_get_their_ttl_and_grace_again() {
    let mut world = World::with("shop", 20);
    world.run(30, &[]);
    assert!(!world.registry.preservations().next().unwrap().to_string().is_empty());
    world.run(100, &(1..=16).collect::<Vec<_>>());
    assert_eq!(world.registry.preservations().count(), 1, "80 % are not enough");
    let seventeen: Vec<_> = (1..=17).collect();
    let changes = world.run(1, &seventeen);
    assert!(changes.contains(&Change::Preserved { service: None, recovered: true }), "{changes:?}");
    assert_eq!(world.registry.silent(), 3);
    assert_eq!(gone(&world.run(19, &seventeen)), [] as [&str; 0]);
    assert_eq!(gone(&world.run(1, &seventeen)), ["shop-18", "shop-19", "shop-20"]);
}

#[test]
fn two_of_two_come_back_one_by_one() {
    let mut world = World::with("shop", 2);
    world.run(30, &[]);
    assert_eq!(world.offered(), ["shop-1 kept", "shop-2 kept"]);
    world.run(1, &[1]);
    assert_eq!(world.offered(), ["shop-1 fresh", "shop-2 late"], "all but one are heard: the other is on its own");
    assert_eq!(gone(&world.run(20, &[1])), ["shop-2"]);
}

#[test]
fn preservation_ends_after_its_time_and_the_silent_go() {
    let mut world = World::limited(Limits { self_preservation: s(100), ..Limits::default() });
    (1..=4).for_each(|n| drop(world.register("shop", &format!("shop-{n}")).unwrap()));
    let changes = world.run(119, &[4]);
    assert_eq!(gone(&changes), [] as [&str; 0]);
    let changes = world.run(1, &[4]);
    assert_eq!(gone(&changes), ["shop-1", "shop-2", "shop-3"]);
    assert!(changes.contains(&Change::Preserved { service: None, recovered: false }));
    assert_eq!(world.offered(), ["shop-4 fresh"]);
}

#[test]
fn a_standstill_of_our_own_is_nobodys_silence() {
    let mut world = World::with("shop", 1);
    world.run(5, &[1]);
    world.now += s(500);
    assert_eq!(world.registry.tick(world.now), []);
    assert_eq!(world.offered(), ["shop-1 fresh"]);
    assert_eq!(gone(&world.run(19, &[])), [] as [&str; 0]);
    assert_eq!(gone(&world.run(1, &[])), ["shop-1"]);
}

#[test]
fn a_new_id_at_the_same_address_takes_the_place_of_the_old() {
    let mut world = World::with("shop", 1);
    let again = registration("shop-1", &["shop"], 10);
    let changes = world.registry.register(&key("shop", "other"), again.clone(), false, world.now).unwrap();
    assert!(matches!(&changes[..], [Change::Gone { why: Gone::Replaced, .. }, Change::Put { .. }]), "{changes:?}");
    // not so where another identity says it: nobody can push another out
    let changes = world.registry.register(&key("cart", "mine"), again, false, world.now).unwrap();
    assert!(matches!(&changes[..], [Change::Put { .. }]), "{changes:?}");
    assert_eq!(world.registry.len(), 2);
}

#[test]
fn an_id_is_in_a_service_once_and_limits_hold() {
    let mut world = World::with("shop", 1);
    let mine = registration("shop-9", &["shop"], 10);
    let refused = world.registry.register(&key("other", "shop-1"), mine, false, world.now).unwrap_err();
    assert!(refused.to_string().contains("registered by spiffe://mesh.test/shop"), "{refused}");

    let mut world = World::limited(Limits { registrations: 3, of_one_identity: 2, ..Limits::default() });
    world.register("shop", "shop-1").unwrap();
    world.register("shop", "shop-2").unwrap();
    assert!(matches!(world.register("shop", "shop-3"), Err(Refusal::FullOfIdentity { limit: 2, .. })));
    assert_eq!(world.register("shop", "shop-2").unwrap(), [], "what is there may go on");
    world.register("cart", "cart-4").unwrap();
    assert_eq!(world.register("bank", "bank-5"), Err(Refusal::Full(3)));
    world.registry.deregister(&key("shop", "shop-1"), world.now);
    world.register("bank", "bank-5").unwrap();
}

#[test]
fn starting_lasts_until_it_is_said_to_be_up_and_begins_again_with_a_new_start() {
    let mut world = World::new();
    let (shop, it) = (key("shop", "shop-1"), registration("shop-1", &["shop"], 10));
    let health = |world: &World| world.registry.get(&shop).unwrap().health[&name("shop")].health;
    world.registry.register(&shop, it.clone(), true, world.now).unwrap();
    assert_eq!(health(&world), Health::Starting);
    assert_eq!(world.registry.report(&shop, &name("shop"), Health::Up, "").unwrap().len(), 1);
    assert_eq!(world.registry.report(&shop, &name("shop"), Health::Up, "").unwrap(), [], "the same again is no change");
    assert_eq!(world.registry.register(&shop, it.clone(), false, world.now).unwrap(), []);
    assert_eq!(health(&world), Health::Up);
    assert_eq!(world.registry.register(&shop, it, true, world.now).unwrap().len(), 1);
    assert_eq!(health(&world), Health::Starting);
    assert_eq!(
        world.registry.report(&key("cart", "shop-1"), &name("shop"), Health::Up, ""),
        None,
        "only its own identity"
    );
}

#[test]
fn each_service_of_a_registration_has_its_own_health() {
    let mut world = World::new();
    let (it, both) = (key("x", "x-1"), registration("x-1", &["cart", "shop"], 10));
    world.registry.register(&it, both, true, world.now).unwrap();
    let changes = world.registry.report(&it, &name("cart"), Health::Up, "").unwrap();
    assert_eq!(changes, [Change::Put { key: it.clone(), services: vec![name("cart")] }]);
    let of: Vec<_> = world.registry.get(&it).unwrap().health.values().map(|state| state.health).collect();
    assert_eq!(of, [Health::Up, Health::Starting]);
    assert_eq!(world.registry.report(&it, &name("bank"), Health::Up, ""), None);
}

#[test]
fn what_the_store_knew_has_a_full_ttl_and_grace_to_come_back() {
    let mut world = World::new();
    world.run(50, &[]);
    for n in 1..=4 {
        let id = format!("shop-{n}");
        let registration = registration(&id, &["shop"], 10);
        let stored = Stored { key: key("shop", &id), registration, health: BTreeMap::new() };
        world.registry.learn(stored, None, world.now);
    }
    let changes = world.run(1, &[1]);
    assert!(matches!(&changes[..], [Change::Put { .. }]), "it beats here now, and the store is told: {changes:?}");
    assert_eq!(gone(&world.run(18, &[1])), [] as [&str; 0]);
    let changes = world.run(1, &[1]);
    assert!(preserving(&changes), "most did not come back");
    assert_eq!(gone(&changes), [] as [&str; 0]);
}

#[test]
fn another_replica_judges_its_own_until_it_is_gone() {
    let mut world = World::new();
    let learn = |world: &mut World, id: &str, home: Option<&str>| {
        let registration = registration(id, &["shop"], 10);
        let stored = Stored { key: key("shop", id), registration, health: BTreeMap::new() };
        world.registry.learn(stored, home, world.now)
    };
    learn(&mut world, "shop-1", Some("b"));
    learn(&mut world, "shop-2", Some("c"));
    world.run(100, &[]);
    assert_eq!(world.offered(), ["shop-1 fresh", "shop-2 fresh"], "silence elsewhere is not judged here");
    assert_eq!(world.registry.silent(), 0);
    world.registry.adopt("b", world.now);
    assert_eq!(gone(&world.run(19, &[])), [] as [&str; 0]);
    assert_eq!(gone(&world.run(1, &[])), ["shop-1"]);
    // it comes to us, and then it is said to beat at c again
    let changes = world.run(1, &[2]);
    assert!(matches!(&changes[..], [Change::Put { .. }]), "{changes:?}");
    assert_eq!(world.registry.forget(&key("shop", "shop-2"), world.now), [], "we hear it");
    learn(&mut world, "shop-2", Some("c"));
    world.run(100, &[]);
    assert_eq!(gone(&world.registry.forget(&key("shop", "shop-2"), world.now)), ["shop-2"]);
    assert!(world.registry.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Register { who: usize, services: usize, ttl: u64, starting: bool },
    Beat(usize),
    BeatAllBut(usize),
    Deregister(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..8usize, 1..4usize, 2..12u64, any::<bool>())
            .prop_map(|(who, services, ttl, starting)| Step::Register { who, services, ttl, starting }),
        4 => (0..8usize).prop_map(Step::Beat),
        4 => (0..9usize).prop_map(Step::BeatAllBut),
        1 => (0..8usize).prop_map(Step::Deregister),
        8 => (1..9u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..120)
}

fn who(n: usize) -> Key {
    key(["shop", "cart"][n % 2], &format!("x-{n}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_agrees_with_a_model_that_counts_everything_anew(steps in steps()) {
        let limits = Limits { registrations: 7, of_one_identity: 3, self_preservation: s(60) };
        let (mut registry, mut naive, mut now) = (Registry::new(limits.clone(), s(0)), Naive::new(limits), s(0));
        for step in steps {
            match step {
                Step::Register { who: n, services, ttl, starting } => {
                    let services: &[&str] = [&["shop"][..], &["cart"], &["cart", "shop"]][services - 1];
                    let new = registration(&format!("x-{n}"), services, ttl);
                    let taken = registry.register(&who(n), new.clone(), starting, now);
                    prop_assert_eq!(taken.is_ok(), naive.register(&who(n), new, now));
                }
                Step::Beat(n) => {
                    prop_assert_eq!(registry.heartbeat(&who(n), now).is_some(), naive.heartbeat(&who(n), now));
                }
                Step::BeatAllBut(but) => for n in (0..8).filter(|n| *n != but) {
                    prop_assert_eq!(registry.heartbeat(&who(n), now).is_some(), naive.heartbeat(&who(n), now));
                },
                Step::Deregister(n) => {
                    registry.deregister(&who(n), now);
                    naive.deregister(&who(n), now);
                }
                Step::Wait(seconds) => for _ in 0..seconds {
                    now += s(1);
                    registry.tick(now);
                    naive.tick(now);
                },
            }
            let theirs: Vec<_> = registry.keys.keys().map(|k| (k.clone(), registry.get(k).unwrap().lease)).collect();
            prop_assert_eq!(theirs, naive.leases());
            let preserved: Vec<_> = registry.preservations().map(|p| (p.service, p.silent, p.since)).collect();
            prop_assert_eq!(preserved, naive.preservations());
            prop_assert_eq!(registry.silent(), naive.leases().iter().filter(|(_, l)| *l != Lease::Fresh).count());
            for service in ["cart", "shop"] {
                let ids: Vec<_> = registry.service(&name(service)).map(|(r, _)| r.key.id.clone()).collect();
                prop_assert_eq!(ids, naive.ids(&name(service)));
            }
        }
    }
}
