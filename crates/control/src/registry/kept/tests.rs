//! Two replicas write of the same registrations. The embedded store has one process, but not one reader.

use super::super::tests::{key as key_of, register, wanted};
use super::*;
use crate::store::StoreSettings;
use bytes::Bytes;
use fusewire_discovery::registry::{Key, Limits};
use fusewire_model::health::Health;
use fusewire_model::{ServiceName, SpiffeId};
use std::sync::Arc;
use tempfile::TempDir;

async fn opened() -> (Store, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&StoreSettings::Embedded(dir.path().join("store.redb"))).await.unwrap();
    (store, dir)
}

async fn soon(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(tokio::time::Instant::now() < until, "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await; // bounded wait
    }
}

fn key() -> Key {
    key_of("shop", "shop-1")
}

fn store_key() -> String {
    persist::store_key(&key())
}

fn word(home: &str, said: u64) -> Bytes {
    Record { home: home.into(), said, ..Record::default() }.encode()
}

fn write(value: Option<Bytes>, known: Option<u64>) -> Write {
    Write { key: store_key(), value, known }
}

async fn home(store: &Store) -> Option<(String, u64)> {
    let entry = store.get(&store_key()).await.unwrap()?;
    Record::parse(&entry.value).map(|record| (record.home, record.said))
}

#[tokio::test]
async fn of_two_words_about_one_registration_the_newer_one_stays() {
    let (store, _dir) = opened().await;
    let pending = Pending::default();
    store.commit(Change::default().put(store_key(), word("b", 20))).await.unwrap();
    // it waited while the store was away, and the client went to b meanwhile
    let another = Write { key: "registry/t/shop/shop-2".into(), value: Some(word("a", 10)), known: None };
    commit_shared(&store, &pending, "a", vec![write(Some(word("a", 10)), None), another.clone()]).await.unwrap();
    assert_eq!(home(&store).await, Some(("b".into(), 20)));
    assert!(store.get(&another.key).await.unwrap().is_some(), "others are not held up by it");
    // and this one came here after it was at b, which is not known yet
    commit_shared(&store, &pending, "a", vec![write(Some(word("a", 30)), None)]).await.unwrap();
    assert_eq!(home(&store).await, Some(("a".into(), 30)));
    // a clock that was set back: our own word is ours to replace
    commit_shared(&store, &pending, "a", vec![write(Some(word("a", 25)), None)]).await.unwrap();
    assert_eq!(home(&store).await, Some(("a".into(), 25)));
}

#[tokio::test]
async fn what_fell_silent_here_is_deleted_unless_another_wrote_it_since() {
    let (store, _dir) = opened().await;
    let pending = Pending::default();
    let adopted = store.commit(Change::default().put(store_key(), word("gone", 1))).await.unwrap();
    let newer = store.commit(Change::default().put(store_key(), word("b", 2))).await.unwrap();
    commit_shared(&store, &pending, "a", vec![write(None, Some(adopted))]).await.unwrap();
    assert_eq!(home(&store).await, Some(("b".into(), 2)), "it beats at b");
    commit_shared(&store, &pending, "a", vec![write(None, Some(newer))]).await.unwrap();
    assert_eq!(home(&store).await, None);
    // by a put of ours whose revision we never heard of
    store.commit(Change::default().put(store_key(), word("a", 3))).await.unwrap();
    commit_shared(&store, &pending, "a", vec![write(None, None)]).await.unwrap();
    assert_eq!(home(&store).await, None);
    commit_shared(&store, &pending, "a", vec![write(None, Some(newer))]).await.unwrap();
}

fn replica(name: &str) -> Arc<Registrations> {
    let replica = Registrations::new(Limits::default(), name.into(), Arc::default());
    replica.shared.store(true, Ordering::Relaxed);
    Arc::new(replica)
}

async fn appears(store: &Store, name: &str) -> crate::store::Presence {
    let key = format!("{}{name}", replicas::PREFIX);
    store.put_while_alive(&key, Bytes::from_static(b"{}"), Duration::from_secs(5)).await.unwrap()
}

fn runs(registrations: &Arc<Registrations>, store: &Store, alive: Alive) -> tokio::task::JoinHandle<()> {
    let (registrations, store) = (registrations.clone(), store.clone());
    tokio::spawn(async move { run(&registrations, &store, alive).await })
}

/// Whether it is known at all, and whether its heartbeats are heard here.
fn hears(registrations: &Registrations) -> Option<bool> {
    let found = registrations.found(&ServiceName::parse("shop").unwrap());
    found.first().map(|it| it.age.is_some())
}

#[tokio::test]
async fn a_registration_moves_with_its_client_and_is_judged_where_it_is_heard() {
    let (store, _dir) = opened().await;
    let (a, b) = (replica("a"), replica("b"));
    let (_at_a, at_b) = (appears(&store, "a").await, appears(&store, "b").await);
    let alive_a = load(&a, &store).await.unwrap();
    let alive_b = load(&b, &store).await.unwrap();
    let (run_a, run_b) = (runs(&a, &store, alive_a), runs(&b, &store, alive_b));
    register(&a, "shop", wanted("shop-1", &["shop"]));
    soon("b knows of it, and leaves it to a", async || hears(&b) == Some(false)).await;
    assert_eq!(hears(&a), Some(true));

    b.heartbeat(&key()).unwrap();
    soon("a leaves it to b", async || hears(&a) == Some(false)).await;
    assert_eq!(home(&store).await.unwrap().0, "b");

    // somebody thought b gone, and took out what b hears
    store.commit(Change::default().delete(store_key())).await.unwrap();
    soon("b says it again", async || home(&store).await.is_some_and(|(home, _)| home == "b")).await;
    soon("a knows it again", async || hears(&a) == Some(false)).await;

    // b dies: a gives it time to beat elsewhere, and hears it when it does
    run_b.abort();
    at_b.leave().await;
    soon("a judges it", async || hears(&a) == Some(true)).await;
    a.heartbeat(&key()).unwrap();
    soon("it is a's", async || home(&store).await.is_some_and(|(home, _)| home == "a")).await;
    a.deregister(&key());
    soon("it is gone", async || home(&store).await.is_none()).await;
    run_a.abort();
}

#[tokio::test]
async fn a_replica_that_was_thought_gone_says_again_what_beats_there() {
    let (store, _dir) = opened().await;
    let a = replica("a");
    let at_a = appears(&store, "a").await;
    let alive = load(&a, &store).await.unwrap();
    let running = runs(&a, &store, alive);
    register(&a, "shop", wanted("shop-1", &["shop"]));
    soon("it is stored", async || home(&store).await.is_some()).await;
    let revision = async || store.get(&store_key()).await.unwrap().unwrap().revision;
    let before = revision().await;
    at_a.leave().await;
    let _again = appears(&store, "a").await;
    soon("it is written again", async || revision().await > before).await;
    running.abort();
}

#[tokio::test]
async fn what_a_sidecar_says_at_one_replica_counts_at_all_for_as_long_as_it_is_heard() {
    let (store, _dir) = opened().await;
    let (a, b) = (replica("a"), replica("b"));
    let (at_a, _at_b) = (appears(&store, "a").await, appears(&store, "b").await);
    let alive_a = load(&a, &store).await.unwrap();
    let alive_b = load(&b, &store).await.unwrap();
    let (run_a, run_b) = (runs(&a, &store, alive_a), runs(&b, &store, alive_b));
    let (bank, identity) = (ServiceName::parse("bank").unwrap(), SpiffeId::parse("spiffe://t/bank").unwrap());
    let says = |at: &Registrations, stream, health| {
        at.report((&identity, stream), (&bank, "bank/1"), (health, "so"), || true);
    };
    let at_b = || b.reported(&bank, "bank/1", &identity).map(|(health, _)| health);
    says(&a, 1, Health::Down);
    soon("b knows", async || at_b() == Some(Health::Down)).await;
    says(&a, 1, Health::Up);
    soon("b knows of the change", async || at_b() == Some(Health::Up)).await;
    // it went to b: what is heard there counts, and a takes its word back
    says(&b, 7, Health::Down);
    assert_eq!(at_b(), Some(Health::Down));
    a.stream_ended(1, &[(bank.clone(), "bank/1".to_owned())].into());
    soon("a believes b", async || a.reported(&bank, "bank/1", &identity).is_some_and(|it| it.0 == Health::Down)).await;
    assert_eq!(at_b(), Some(Health::Down));
    b.stream_ended(7, &[(bank.clone(), "bank/1".to_owned())].into());
    soon("nobody hears it", async || a.reported(&bank, "bank/1", &identity).is_none() && at_b().is_none()).await;
    // a dies with its word in the store
    says(&a, 2, Health::Down);
    soon("b knows", async || at_b() == Some(Health::Down)).await;
    run_a.abort();
    at_a.leave().await;
    soon("nobody answers for it", async || at_b().is_none()).await;
    soon("it is swept", async || store.list(words::PREFIX).await.unwrap().1.is_empty()).await;
    run_b.abort();
}
