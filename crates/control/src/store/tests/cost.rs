//! What a commit costs on this machine. Not a test: run by hand, in release.
//!
//! `cargo test --release -p fusewire-control --lib store::tests::cost -- --ignored --nocapture`

use super::*;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn of_commits() {
    // in the build folder: /tmp may be memory, where nothing is ever synced
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let embedded = Store::open(&StoreSettings::Embedded(dir.path().join("store.redb"))).await.unwrap();
    measure("embedded", &embedded).await;
    let etcd = Etcd::start(dir.path());
    let store = Store::open(&StoreSettings::Etcd(EtcdSettings::new(vec![etcd.url()]))).await.unwrap();
    measure("etcd", &store).await;
    println!("size of the file: {} KiB", dir.path().join("store.redb").metadata().unwrap().len() >> 10);
}

async fn measure(name: &str, store: &Store) {
    for writers in [1, 16, 64] {
        let began = Instant::now();
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in 0..(1024 / writers) {
                        let change = Change::default().put(format!("{writer}/{n}"), vec![7; 500]);
                        store.commit(change).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let rate = 1024.0 / began.elapsed().as_secs_f64();
        println!("{name}: {writers} at a time: {rate:.0} commits/s of 500 bytes");
    }
    for n in 0..72 {
        let many = (0..128).fold(Change::default(), |c, k| c.put(format!("many/{n:03}{k:03}"), vec![7; 500]));
        store.commit(many).await.unwrap();
    }
    let began = Instant::now();
    let listed = store.list("").await.unwrap().1.len();
    println!("{name}: {listed} entries listed in {:?}", began.elapsed());
}
