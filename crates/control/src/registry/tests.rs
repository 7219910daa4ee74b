//! What follows from a registration: the store, the marks, the reports.

use super::*;
use bytes::Bytes;
use fusewire_api::v1;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Written = BTreeMap<String, Bytes>;

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

pub(super) fn key(identity: &str, id: &str) -> Key {
    Key { identity: SpiffeId::parse(&format!("spiffe://t/{identity}")).unwrap(), id: id.into() }
}

pub(super) fn wanted(id: &str, services: &[&str]) -> v1::Registration {
    let port = |(i, service): (usize, &&str)| v1::Port { port: 8080 + i as u32, service: service.to_string() };
    v1::Registration {
        id: id.into(),
        host: "10.0.0.1".into(),
        ports: services.iter().enumerate().map(port).collect(),
        sidecar: "10.0.0.1:15006".into(),
        weight: 7,
        zone: "a".into(),
        metadata: [("track".to_owned(), "stable".to_owned())].into(),
        ttl_ms: 2_000,
        starting: true,
    }
}

pub(super) fn register(registrations: &Registrations, identity: &str, wanted: v1::Registration) {
    let starting = wanted.starting;
    let (id, registration) = wire::registration(wanted).unwrap();
    registrations.register(&key(identity, &id), registration, starting).unwrap();
}

/// Lets the writer write, into `store`; how many writes that was.
async fn stored(registrations: &Registrations, store: &mut Written) -> usize {
    let (mut writes, safe) = (0, registrations.pending.safe(Duration::from_secs(5)));
    let write = persist::write(&registrations.pending, |all| {
        for persist::Write { key, value, .. } in all {
            writes += 1;
            match value {
                Some(value) => drop(store.insert(key, value)),
                None => drop(store.remove(&key)),
            }
        }
        std::future::ready(Ok(()))
    });
    tokio::select! {
        () = write => {}
        safe = safe => assert!(safe),
    }
    writes
}

#[tokio::test(start_paused = true)]
async fn a_restart_knows_what_was_stored_and_heartbeats_store_nothing() {
    let before = Registrations::new(Limits::default(), String::new(), Arc::default());
    register(&before, "shop", wanted("shop-1", &["cart", "shop"]));
    let identity = key("shop", "shop-1").identity;
    before.report((&identity, 1), (&name("shop"), "shop-1"), (Health::Up, "well"), || false);
    let mut store = Written::new();
    assert_eq!(stored(&before, &mut store).await, 1, "the newest of each is enough");
    for _ in 0..10 {
        before.heartbeat(&key("shop", "shop-1")).unwrap();
    }
    assert_eq!(stored(&before, &mut store).await, 0);

    let after = Registrations::new(Limits::default(), String::new(), Arc::default());
    for value in store.values() {
        after.learn(value, &BTreeMap::new(), true);
    }
    for service in ["cart", "shop"] {
        let age = |found: Vec<RegisteredInstance>| -> Vec<RegisteredInstance> {
            found.into_iter().map(|found| RegisteredInstance { age: None, ..found }).collect()
        };
        assert_eq!(age(after.found(&name(service))), age(before.found(&name(service))));
    }
    assert_eq!(after.found(&name("cart"))[0].health, Health::Starting);
    assert_eq!(after.found(&name("shop"))[0].detail, "well");
    after.heartbeat(&key("shop", "shop-1")).unwrap();
    after.deregister(&key("shop", "shop-1"));
    stored(&after, &mut store).await;
    assert!(store.is_empty());
    after.learn(b"\xff nonsense", &BTreeMap::new(), true);
}

#[tokio::test]
async fn reports_count_for_the_own_instances_only_and_as_long_as_their_stream() {
    let all = Registrations::new(Limits::default(), String::new(), Arc::default());
    register(&all, "shop", wanted("shop-1", &["shop"]));
    let (shop, other) = (key("shop", "").identity, key("other", "").identity);
    all.report((&other, 1), (&name("shop"), "shop-1"), (Health::Up, ""), || false);
    assert_eq!(all.found(&name("shop"))[0].health, Health::Starting, "another's word about it");
    let file = (&name("shop"), "in-a-file");
    all.report((&shop, 2), file, (Health::Down, "no"), || true);
    assert_eq!(all.reported(file.0, file.1, &shop), Some((Health::Down, "no".into())));
    assert_eq!(all.reported(file.0, file.1, &other), None);
    // the newer stream has the word; the end of the older takes nothing away
    all.report((&shop, 3), file, (Health::Up, ""), || true);
    all.stream_ended(2, &[(name("shop"), "in-a-file".to_owned())].into());
    assert_eq!(all.reported(file.0, file.1, &shop), Some((Health::Up, String::new())));
    all.stream_ended(3, &[(name("shop"), "in-a-file".to_owned())].into());
    assert_eq!(all.reported(file.0, file.1, &shop), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_registration_is_taken_whole_or_refused_with_its_fields(
        id in ".{0,8}",
        host in prop_oneof![Just("10.0.0.1".to_owned()), Just("::".to_owned()), ".{0,9}"],
        ports in prop::collection::vec((0u32..70_000, "[a-zA-Z.]{0,4}"), 0..4),
        sidecar in prop_oneof![Just(String::new()), Just("1.2.3.4:5".to_owned()), ".{0,9}"],
        weight in 0u32..1_200,
        label in ".{0,3}",
        ttl_ms in prop_oneof![Just(0u64), 0..700_000u64],
    ) {
        let ports = ports.into_iter().map(|(port, service)| v1::Port { port, service }).collect();
        let metadata = [(label.clone(), label)].into();
        let it = v1::Registration { id, host, ports, sidecar, weight, metadata, ttl_ms, ..v1::Registration::default() };
        match wire::registration(it.clone()) {
            Ok((id, registration)) => {
                prop_assert_eq!(&id, &it.id);
                prop_assert_eq!(registration.ports.len(), it.ports.len());
                prop_assert!(registration.ttl >= Duration::from_secs(1) && registration.weight >= 1);
            }
            Err(wire::Faults(faults)) => {
                prop_assert!(!faults.is_empty());
                prop_assert!(faults.iter().all(|fault| fault.contains(": ")), "{faults:?}");
            }
        }
    }
}
