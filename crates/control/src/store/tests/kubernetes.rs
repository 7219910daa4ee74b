//! What the Secret and the way to the API server go through.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_lose_none_of_each_others_changes() {
    let bed = Bed::kubernetes().await;
    let other = Store::open(&bed.settings).await.unwrap();
    bed.store.commit(Change::default().put("n", "0")).await.unwrap();
    let count = |store: Store, own: &'static str| async move {
        for n in 0..20u64 {
            insist(&store, Change::default().put(format!("{own}/{n}"), "x")).await;
            loop {
                let read = store.get("n").await.unwrap().unwrap();
                match store.commit(Change::default().replace(&read, (number(&read) + 1).to_string())).await {
                    Ok(_) => break,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let mut mirror = Mirror::new(&other, "");
    let counting = async { tokio::join!(count(bed.store.clone(), "a"), count(other.clone(), "b")) };
    Box::pin(soon(counting)).await;
    assert_eq!(number(&bed.store.get("n").await.unwrap().unwrap()), 40);
    let (at, entries) = bed.store.list("").await.unwrap();
    assert_eq!(entries.len(), 41);
    mirror.until("all of it", |mirror| mirror.listed >= at).await;
    assert_eq!(mirror.known.into_values().collect::<Vec<_>>(), entries);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_misses_nothing_over_cuts_expiries_and_an_api_server_that_was_away() {
    let bed = Bed::kubernetes().await;
    let writer = Store::open(&bed.settings).await.unwrap();
    let mut mirror = Mirror::new(&bed.store, "k/");
    for round in 0..6u64 {
        match round % 3 {
            0 => bed.api().cut(),
            1 => bed.api().expire(),
            _ => bed.api().go_down(),
        }
        if round % 3 == 2 {
            assert!(matches!(bed.store.get("k/a").await, Err(StoreError::Unavailable(_))));
            bed.api().come_up();
        }
        let mut last = 0;
        for n in 0..5 {
            last = insist(&writer, Change::default().put(format!("k/{n}"), (round * 10 + n).to_string())).await;
        }
        mirror.until("the last change", |mirror| mirror.listed >= last).await;
        let listed = bed.store.list("k/").await.unwrap().1;
        assert_eq!(mirror.known.values().cloned().collect::<Vec<_>>(), listed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_lost_makes_watchers_list_again_and_is_not_begun_anew() {
    let bed = Bed::kubernetes().await;
    let mut mirror = Mirror::new(&bed.store, "");
    let last = bed.store.commit(Change::default().put("a", "1")).await.unwrap();
    mirror.until("it is there", |mirror| mirror.listed >= last).await;
    let copy = bed.api().get("secrets", "fusewire", "fusewire-store").unwrap();
    bed.api().remove("secrets", "fusewire", "fusewire-store");
    mirror.until("it is gone", |mirror| mirror.known.is_empty()).await;
    // an empty store would be begun in its place, without the authority that sidecars believe
    let error = bed.store.commit(Change::default().create("a", "2")).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(said) if said.contains("put back a copy")), "{error}");
    bed.api().put(copy);
    mirror.until("the copy", |mirror| mirror.known.get("a").is_some_and(|e| number(e) == 1)).await;
    bed.store.commit(Change::default().put("a", "2")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_presence_ends_soon_after_its_process_and_outlives_its_time_to_live_while_it_lives() {
    let bed = Bed::kubernetes().await;
    let settings = bed.settings.clone();
    // its runtime dies without a word, as a killed process
    let dying = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let held = runtime.block_on(async {
            let store = Store::open(&settings).await.unwrap();
            store.put_while_alive("replicas/dying", "x".into(), Duration::from_secs(2)).await.unwrap()
        });
        runtime.shutdown_background();
        std::mem::forget(held);
    });
    let living = bed.store.put_while_alive("replicas/living", "x".into(), Duration::from_secs(2)).await.unwrap();
    let mut mirror = Mirror::new(&bed.store, "replicas/");
    mirror.until("both are there", |mirror| mirror.known.len() == 2).await;
    dying.join().unwrap();
    mirror.until("one is gone", |mirror| mirror.known.keys().eq(["replicas/living"])).await;
    let secret = || bed.api().get("secrets", "fusewire", "fusewire-store").unwrap();
    assert!(bed.api().get("coordination.k8s.io/v1/leases", "fusewire", "fusewire-replica-living").is_some());
    let before = secret()["metadata"]["resourceVersion"].clone();
    let beats = || bed.api().requests().iter().filter(|r| r.starts_with("PATCH")).count();
    let beaten = beats();
    soon(async {
        while beats() < beaten + 3 {
            tokio::time::sleep(Duration::from_millis(20)).await; // bounded wait
        }
    })
    .await;
    assert_eq!(secret()["metadata"]["resourceVersion"], before, "a heartbeat is no write of the Secret");
    soon(living.leave()).await;
    assert_eq!(bed.store.list("replicas/").await.unwrap().1, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_not_answered_is_uncertain_and_one_that_was_never_sent_is_not() {
    let bed = Bed::kubernetes().await;
    bed.store.commit(Change::default().put("a", "1")).await.unwrap();
    bed.api().freeze();
    let error = bed.store.commit(Change::default().put("a", "2")).await.unwrap_err();
    assert!(matches!(error, StoreError::Uncertain(_)), "{error}");
    bed.api().thaw();
    bed.api().go_down();
    let (read, written) = tokio::join!(bed.store.get("a"), bed.store.commit(Change::default().put("a", "3")));
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert!(matches!(written, Err(StoreError::Unavailable(_) | StoreError::Uncertain(_))), "{written:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_secret_holds_is_refused_and_the_store_stays_as_it_was() {
    let bed = Bed::kubernetes().await;
    let mut random = Random(7);
    let mut noise = || (0..400 << 10).map(|_| random.below(256) as u8).collect::<Vec<u8>>();
    for n in 0..2 {
        bed.store.commit(Change::default().put(format!("large/{n}"), noise())).await.unwrap();
    }
    let error = bed.store.commit(Change::default().put("large/2", noise())).await.unwrap_err();
    assert!(matches!(&error, StoreError::TooLarge(said) if said.contains("etcd://")), "{error}");
    assert_eq!(keys(&bed.store.list("").await.unwrap().1), ["large/0", "large/1"]);
}

#[tokio::test]
async fn what_is_not_ours_or_not_allowed_is_said() {
    let bed = Bed::kubernetes().await;
    bed.api().put(serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "fusewire", "name": "fusewire-store"},
        "data": {"entries": "bm8gc3RvcmU="},
    }));
    let error = bed.store.get("a").await.unwrap_err();
    assert!(error.to_string().contains("fusewire-store"), "{error}");
    bed.api().refuse(&["GET /api/v1/namespaces/fusewire/secrets"]);
    let error = Store::open(&bed.settings).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(said) if said.contains("ClusterRole")), "{error}");
}
