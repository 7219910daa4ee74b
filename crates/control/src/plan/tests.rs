//! Whatever happens in whatever order, at every `Synced` the sidecar holds exactly what it should, and at no moment
//! between does anything that it holds refer to something that it does not.

use super::*;
use fusewire_api::{apply_change, resource_from_wire};
use fusewire_model::resource::Trust;
use fusewire_model::yaml::{self, Source};
use fusewire_model::{ServiceName, SpiffeId};
use proptest::prelude::*;
use std::fmt::Write;

const SERVICES: [&str; 4] = ["a", "b", "c", "d"];
const KINDS: [Kind; 7] =
    [Kind::Trust, Kind::Policy, Kind::Service, Kind::Endpoints, Kind::Override, Kind::Inbound, Kind::Route];

#[derive(Clone, Debug)]
enum Step {
    /// Each service: absent, or a bit for each of its instances and one for its policy; and the route's backends.
    World([Option<u8>; 4], u8),
    Subscribe(usize),
    Unsubscribe(usize),
    /// So many messages find room.
    Room(usize),
    /// The sidecar lost the base of this service's endpoints.
    Lost(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (any::<[Option<u8>; 4]>(), any::<u8>()).prop_map(|(services, route)| Step::World(services, route)),
        2 => (0..9usize).prop_map(Step::Subscribe),
        1 => (0..9usize).prop_map(Step::Unsubscribe),
        4 => (0..12usize).prop_map(Step::Room),
        1 => (0..4usize).prop_map(Step::Lost),
    ]
}

fn subscription(i: usize) -> Subscription {
    let authority =
        |text| Subscription::Authority(fusewire_model::route::Authority::parse(text).expect("an authority"));
    match i {
        0..=3 => Subscription::Service(ServiceName::parse(SERVICES[i]).expect("a name")),
        4 => authority("front"),
        5 => authority("a:80"),
        6 => authority("nothing"),
        7 => Subscription::Address(([10, 0, 1, 0], 80).into()),
        _ => Subscription::Address(([10, 0, 2, 1], 80).into()),
    }
}

fn world(services: [Option<u8>; 4], route: u8) -> World {
    let mut text = String::from("policies: {p: , q: {timeout: {connect: 2s}}}\nservices:\n");
    let mut there = Vec::new();
    for (i, bits) in services.iter().enumerate() {
        let Some(bits) = bits else { continue };
        there.push(SERVICES[i]);
        let policy = if bits & 0x80 == 0 { "p" } else { "q" };
        writeln!(text, "  {}:\n    policy: {policy}\n    instances:", SERVICES[i]).expect("text");
        for n in (0..6).filter(|n| bits & (1 << n) != 0) {
            writeln!(text, "      - {{id: i{n}, address: 10.0.{i}.{n}:80, weight: {}}}", 1 + (bits >> 6))
                .expect("text");
        }
    }
    if let Some(service) = there.get(usize::from(route)) {
        writeln!(text, "routes: {{front: {{to: {service}}}}}").expect("text");
    }
    let parsed = yaml::parse(&[Source { name: "mesh".into(), text }]).unwrap_or_else(|faults| panic!("{faults:?}"));
    World::new(parsed.mesh)
}

#[derive(Default)]
struct Sidecar {
    held: BTreeMap<Key, (Resource, String)>,
    answers: HashMap<Subscription, Answer>,
}

impl Sidecar {
    fn take(&mut self, message: Message, lost: &mut BTreeSet<Key>) {
        match message {
            Message::Resource(wire) => {
                let hash = wire.hash.clone();
                let resource = resource_from_wire(wire).expect("a resource");
                lost.remove(&resource.key());
                self.held.insert(resource.key(), (resource, hash));
            }
            Message::EndpointsChange(change) => {
                let key = Key { kind: Kind::Endpoints, name: change.service.clone() };
                assert!(!lost.contains(&key), "a change after the base was said to be lost");
                let (Resource::Endpoints(base), hash) = &self.held[&key] else { panic!("no endpoints") };
                let (after, hash) = apply_change(base, hash, change).expect("a change that fits");
                self.held.insert(key, (Resource::Endpoints(after.into()), hash));
            }
            Message::Removed(removed) => {
                let kind = fusewire_api::kind_from_wire(removed.kind).expect("a kind");
                let key = Key { kind, name: removed.name };
                assert!(self.held.remove(&key).is_some(), "{key:?} was not held");
            }
            Message::Answer(answer) => {
                let (subscription, answer) = fusewire_api::answer_from_wire(answer).expect("an answer");
                self.answers.insert(subscription, answer);
            }
            Message::Welcome(_) | Message::Synced(_) => {}
        }
    }

    /// Make before break.
    fn check(&self) {
        for (subscription, answer) in &self.answers {
            if let Answer::Found(key) = answer {
                assert!(self.held.contains_key(key), "{subscription:?} means {key:?}, which is not held");
            }
        }
        for (resource, _) in self.held.values() {
            let service = |name: &ServiceName| Key { kind: Kind::Service, name: name.to_string() };
            match resource {
                Resource::Route(table) => {
                    for name in table.rules.iter().flat_map(|rule| &rule.backends).flat_map(|b| &b.service) {
                        assert!(self.held.contains_key(&service(name)), "{name} of a route");
                    }
                }
                Resource::Service(settings) => {
                    let policy = settings.policy.as_ref().expect("a policy");
                    let policy = Key { kind: Kind::Policy, name: policy.to_string() };
                    assert!(self.held.contains_key(&policy), "{policy:?} of a service");
                }
                _ => {}
            }
        }
    }
}

proptest! {
    #[test]
    fn every_synced_is_the_truth_and_nothing_between_dangles(steps in proptest::collection::vec(step(), 1..60)) {
        let node = Node { workload: SpiffeId::parse("spiffe://m.x/w").expect("an id"), instance: None };
        let pem = "-----BEGIN CERTIFICATE-----".to_owned();
        let trust = Resource::Trust(Trust { trust_domain: "m.x".into(), bundle: pem, signer: String::new(), denied: Vec::new() }.into());
        let mut plan = Plan::new(node.clone(), KINDS.into(), Arc::default());
        let (mut sidecar, mut wanted, mut lost) = (Sidecar::default(), BTreeSet::new(), BTreeSet::new());
        let world = |services, route| InForce { world: world(services, route).into(), trust: trust.clone(), revision: 0, standing: Arc::default() };
        let mut now = world([Some(3), None, None, None], 0);
        let mut stale = true;
        for step in steps.into_iter().chain([Step::Room(1000)]) {
            match step {
                Step::World(services, route) => {
                    now = world(services, route % 5);
                    stale = true;
                }
                Step::Subscribe(i) => {
                    let new = subscription(i);
                    wanted.insert(new.clone());
                    plan.subscribe(new.clone());
                    if !stale {
                        plan.extend(&now.world, &[new]);
                    }
                }
                Step::Unsubscribe(i) => {
                    let old = subscription(i);
                    wanted.remove(&old);
                    plan.unsubscribe(&old);
                    sidecar.answers.remove(&old);
                    stale = true;
                }
                Step::Lost(i) => {
                    let key = Key { kind: Kind::Endpoints, name: SERVICES[i].into() };
                    if sidecar.held.contains_key(&key) {
                        plan.send_whole(&key);
                        lost.insert(key);
                    }
                }
                Step::Room(messages) => {
                    for _ in 0..messages {
                        if stale {
                            plan.aim(&now);
                            stale = false;
                        }
                        let Some(message) = plan.next().and_then(|m| m.message) else { break };
                        let synced = matches!(message, Message::Synced(_));
                        if let Message::Removed(removed) = &message {
                            lost.retain(|key| key.name != removed.name);
                        }
                        sidecar.take(message, &mut lost);
                        sidecar.check();
                        if synced {
                            let wanted: Vec<_> = wanted.iter().cloned().collect();
                            let mut truth = compile(&now.world, &node, &wanted);
                            truth.resources.insert(trust.key(), trust.clone());
                            let held: BTreeMap<_, _> =
                                sidecar.held.iter().map(|(key, (_, hash))| (key.clone(), hash.clone())).collect();
                            let due: BTreeMap<_, String> =
                                truth.resources.into_iter().map(|(key, r)| (key, resource_to_wire(&r).hash)).collect();
                            prop_assert_eq!(held, due);
                            let answers: HashMap<_, _> = truth.answers.into_iter().collect();
                            prop_assert_eq!(&sidecar.answers, &answers);
                        }
                    }
                    if !stale && plan.is_idle() {
                        prop_assert!(plan.next().is_none());
                    }
                }
            }
        }
        prop_assert!(plan.is_idle());
    }
}

/// Ten thousand instances of one service.
fn large() -> World {
    use fusewire_model::service::Instance;
    let address = |n: u16| std::net::SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 80));
    let instance = |n: u16| Instance {
        id: format!("i{n:05}"),
        address: address(n),
        sidecar: None,
        weight: 1,
        labels: BTreeMap::new(),
        zone: None,
        down: false,
    };
    let offered = (0..10_000).map(|n| Arc::new(instance(n))).collect();
    let found = fusewire_model::world::Found { offered, hidden: Vec::new() };
    world([Some(0), None, None, None], 9).with_found([(ServiceName::parse("a").expect("a name"), found)])
}

#[test]
fn one_change_among_ten_thousand_instances_costs_a_thousand_sidecars_one_small_message_each() {
    let name = ServiceName::parse("a").expect("a name");
    let trust = Resource::Trust(Arc::new(Trust {
        trust_domain: "m.x".into(),
        bundle: String::new(),
        signer: String::new(),
        denied: Vec::new(),
    }));
    let encoded = Arc::new(Encoded::default());
    let first = large();
    let mut instances = first.service(&name).expect("a").endpoints.instances.clone();
    instances[5_000] = Arc::new(fusewire_model::service::Instance { down: true, ..(*instances[5_000]).clone() });
    let changed = fusewire_model::world::Found { offered: instances, hidden: Vec::new() };
    let second = first.with_found([(name.clone(), changed)]);
    let now = InForce { world: first.into(), trust: trust.clone(), revision: 0, standing: Arc::default() };
    let then = InForce { world: second.into(), trust, revision: 0, standing: Arc::default() };
    let node = |n: usize| Node {
        workload: SpiffeId::parse("spiffe://m.x/w").expect("an id"),
        instance: Some(format!("w{n}")),
    };
    let mut plans: Vec<Plan> = (0..1_000).map(|n| Plan::new(node(n), KINDS.into(), encoded.clone())).collect();
    for plan in &mut plans {
        plan.subscribe(Subscription::Service(name.clone()));
        plan.aim(&now);
        while plan.next().is_some() {}
        plan.aim(&then);
        let messages: Vec<_> = std::iter::from_fn(|| plan.next()).filter_map(|m| m.message).collect();
        let [Message::EndpointsChange(change), Message::Synced(_)] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!((change.upserted.len(), change.removed.len()), (1, 0));
        assert!(prost::Message::encoded_len(change) < 200, "{}", prost::Message::encoded_len(change));
    }
    // the megabyte was encoded once for each world, and compared once
    assert_eq!(encoded.counts(), (2, 1));
}
