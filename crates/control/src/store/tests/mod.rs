//! What all engines promise, over each; and what each of them survives.

mod behaviour;
mod cost;
mod crash;
mod embedded;
mod etcd;
mod kubernetes;

use super::{Change, Entry, EtcdSettings, Event, Expect, Store, StoreError, StoreSettings, Watch};
use crate::kubernetes::KubernetesSettings;
use fusewire_testkit::{Etcd, KubeApi};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// A store in a folder of its own.
struct Bed {
    store: Store,
    settings: StoreSettings,
    etcd: Option<Etcd>,
    api: Option<KubeApi>,
    dir: TempDir,
}

impl Bed {
    async fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = StoreSettings::Embedded(dir.path().join("store.redb"));
        let store = Store::open(&settings).await.unwrap();
        Self { store, settings, etcd: None, api: None, dir }
    }

    async fn etcd() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd = Etcd::start(dir.path());
        let settings = StoreSettings::Etcd(EtcdSettings::new(vec![etcd.url()]));
        let store = Store::open(&settings).await.unwrap();
        Self { store, settings, etcd: Some(etcd), api: None, dir }
    }

    async fn kubernetes() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let api = KubeApi::start();
        let kubeconfig = dir.path().join("kubeconfig");
        std::fs::write(&kubeconfig, api.kubeconfig()).unwrap();
        let settings = StoreSettings::Kubernetes(KubernetesSettings {
            kubeconfig: Some(kubeconfig),
            namespace: Some("fusewire".into()),
            ..KubernetesSettings::default()
        });
        let store = Store::open(&settings).await.unwrap();
        Self { store, settings, etcd: None, api: Some(api), dir }
    }

    fn api(&self) -> &KubeApi {
        self.api.as_ref().unwrap()
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store.redb")
    }

    fn etcd_mut(&mut self) -> &mut Etcd {
        self.etcd.as_mut().unwrap()
    }
}

async fn soon<T>(waited: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect("not within 30 s")
}

fn keys(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key.as_str()).collect()
}

fn number(entry: &Entry) -> u64 {
    std::str::from_utf8(&entry.value).unwrap().parse().unwrap()
}

/// The same numbers in every run (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Repeats a commit that is safe to repeat until the store is back.
async fn insist(store: &Store, change: Change) -> u64 {
    soon(async {
        loop {
            match store.commit(change.clone()).await {
                Ok(revision) => return revision,
                Err(StoreError::Unavailable(_) | StoreError::Uncertain(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

/// What a watcher knows that does as the contract says.
struct Mirror {
    watch: Watch,
    store: Store,
    prefix: String,
    listed: u64,
    known: BTreeMap<String, Entry>,
    resyncs: usize,
}

impl Mirror {
    fn new(store: &Store, prefix: &str) -> Self {
        Self {
            watch: store.watch(prefix),
            store: store.clone(),
            prefix: prefix.into(),
            listed: 0,
            known: BTreeMap::new(),
            resyncs: 0,
        }
    }

    async fn step(&mut self) {
        match self.watch.next().await {
            Event::Resync => {
                self.resyncs += 1;
                let (revision, entries) = loop {
                    match self.store.list(&self.prefix).await {
                        Ok(listed) => break listed,
                        Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
                        Err(error) => panic!("{error}"),
                    }
                };
                self.listed = revision;
                self.known = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
            }
            Event::Changed { revision, .. } if revision <= self.listed => {}
            Event::Changed { revision, puts, deletes } => {
                self.listed = revision;
                deletes.iter().for_each(|key| drop(self.known.remove(key)));
                self.known.extend(puts.into_iter().map(|entry| (entry.key.clone(), entry)));
            }
        }
    }

    async fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let reached = async {
            while !holds(self) {
                self.step().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(30), reached).await.is_err() {
            let (listed, resyncs, keys) = (self.listed, self.resyncs, self.known.keys().collect::<Vec<_>>());
            panic!("not within 30 s: {what}; listed {listed} after {resyncs} resyncs: {keys:?}");
        }
    }
}
