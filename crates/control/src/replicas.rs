//! This control plane among its replicas: who is alive, and what they say together.
//!
//! It decides how a replica is called and reached, and that what lives with a stream (which sidecars are connected, what they
//! run, which traces they sent) is asked of every replica, each time: nothing of it is written to the store. A replica that
//! does not answer within [`ASK`] is named, never left out. It deliberately elects nobody: all replicas do the same.
//!
//! Invariant: a replica answers another for itself only, so that a question is asked once.

mod channel;
mod merge;
mod name;

pub(crate) use name::name;

use crate::shared::{Shared, lock};
use crate::status;
use crate::store::{Presence, Store, StoreError};
use arc_swap::ArcSwapOption;
use fusewire_api::MAX_MESSAGE_BYTES;
use fusewire_api::v1;
use fusewire_api::v1::admin_client::AdminClient;
use fusewire_identity::Identity;
use futures_util::future::join_all;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// Below it each replica that is alive has an entry, named after it.
pub(crate) const PREFIX: &str = "replicas/";
/// How long an entry outlives its process.
const TTL: Duration = Duration::from_secs(10);
/// One replica's answer, or the store's.
const ASK: Duration = Duration::from_secs(2);
/// That are asked; more is a mistake.
const MAX: usize = 64;

/// What a replica says of itself in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct About {
    /// `host:port`, as other replicas reach it.
    address: String,
    /// RFC 3339.
    started: String,
}

#[derive(Debug)]
pub(crate) struct Replicas {
    name: String,
    /// Once it listens.
    address: OnceLock<String>,
    /// What this replica proves itself to the others with, the newest.
    own: Arc<ArcSwapOption<ClientConfig>>,
    /// The others, as of the last time that the store said so.
    known: Mutex<BTreeMap<String, About>>,
    channels: Mutex<BTreeMap<String, (String, Channel)>>,
}

impl Replicas {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            address: OnceLock::new(),
            own: Arc::default(),
            known: Mutex::default(),
            channels: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// This replica's identity from now on.
    pub(crate) fn prove(&self, own: &Identity) -> Result<(), fusewire_identity::IdentityError> {
        self.own.store(Some(channel::client(own)?));
        Ok(())
    }

    /// Says that this replica is alive at `address`, until what is returned is dropped. Nobody is told where the store is
    /// this process's own.
    pub(crate) async fn appear(&self, shared: &Shared, address: String) -> Result<Option<Presence>, StoreError> {
        let about = About { address: address.clone(), started: shared.started.to_string() };
        // nobody sets it twice
        let _ = self.address.set(address);
        if !shared.store.is_shared() {
            return Ok(None);
        }
        let key = format!("{PREFIX}{}", self.name);
        if let Some(there) = shared.store.get(&key).await? {
            let before = serde_json::from_slice::<About>(&there.value).map(|about| about.address).unwrap_or_default();
            if before != about.address {
                let (name, address) = (&self.name, &about.address);
                tracing::warn!(
                    name,
                    before,
                    address,
                    "a replica of this name was alive elsewhere a moment ago: if it still is, give one of them another --replica"
                );
            }
        }
        let value = serde_json::to_vec(&about).map_err(|e| StoreError::Invalid(e.to_string()))?;
        shared.store.put_while_alive(&key, value.into(), TTL).await.map(Some)
    }

    /// The others: as the store says, or as it last said where it does not answer.
    async fn others(&self, store: &Store) -> BTreeMap<String, About> {
        if !store.is_shared() {
            return BTreeMap::new();
        }
        if let Ok(Ok((_, entries))) = tokio::time::timeout(ASK, store.list(PREFIX)).await {
            let named = |key: &str| key.strip_prefix(PREFIX).filter(|name| *name != self.name).map(str::to_owned);
            let one =
                |entry: &crate::store::Entry| Some((named(&entry.key)?, serde_json::from_slice(&entry.value).ok()?));
            *lock(&self.known) = entries.iter().filter_map(one).take(MAX).collect();
        }
        lock(&self.known).clone()
    }

    async fn ask<T, F>(
        &self,
        name: &str,
        about: &About,
        call: impl FnOnce(AdminClient<Channel>) -> F,
    ) -> Result<T, String>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let channel = {
            let mut channels = lock(&self.channels);
            match channels.get(name) {
                Some((address, channel)) if *address == about.address => channel.clone(),
                _ => {
                    let channel = channel::to(&about.address, self.own.clone())?;
                    channels.insert(name.to_owned(), (about.address.clone(), channel.clone()));
                    channel
                }
            }
        };
        let client = AdminClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        match tokio::time::timeout(ASK, call(client)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(channel::words(&status)),
            Err(_) => Err(format!("no answer within {ASK:?}")),
        }
    }

    fn here(&self) -> v1::ReplicaStatus {
        let address = self.address.get().cloned().unwrap_or_default();
        v1::ReplicaStatus { name: self.name.clone(), address, answered: true, error: String::new() }
    }
}

/// What the other replicas answer, each with its name; and all replicas, with who did not answer and why.
pub(crate) async fn ask_all<T, F>(
    shared: &Shared,
    call: impl Fn(AdminClient<Channel>) -> F,
) -> (Vec<(String, T)>, Vec<v1::ReplicaStatus>)
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let replicas = &shared.replicas;
    let others = replicas.others(&shared.store).await;
    lock(&replicas.channels).retain(|name, _| others.contains_key(name));
    let call = &call;
    let asked = others.iter().map(|(name, about)| async move { (name, about, replicas.ask(name, about, call).await) });
    let (mut answers, mut all) = (Vec::new(), vec![replicas.here()]);
    for (name, About { address, .. }, answer) in join_all(asked).await {
        let error = answer.as_ref().err().cloned().unwrap_or_default();
        if let Ok(answer) = answer {
            answers.push((name.clone(), answer));
        }
        let (name, address, answered) = (name.clone(), address.clone(), error.is_empty());
        all.push(v1::ReplicaStatus { name, address, answered, error });
    }
    (answers, all)
}

/// The whole mesh's state: of every replica, with those named that did not answer.
pub(crate) async fn status(shared: &Shared) -> v1::StatusResponse {
    let (answers, replicas) =
        ask_all(shared, |mut client| async move { client.status(v1::StatusRequest { this_replica_only: true }).await })
            .await;
    let mut whole = status::here(shared);
    whole.replicas = replicas;
    for (name, answer) in answers {
        merge::add(&mut whole, &name, answer);
    }
    merge::settle(&mut whole);
    whole
}
