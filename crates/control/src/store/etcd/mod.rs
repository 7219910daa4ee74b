//! The store of replicas: etcd, spoken to in the few calls of its API that are needed.
//!
//! The client is generated from `proto/etcd.proto` like our own services. The crate `etcd-client` was tried: it needs a
//! `protoc` on every machine that builds Fusewire, brings a web framework, and does not say whether a failed call can
//! have happened.
//!
//! It decides how a change becomes one transaction with comparisons, and how a list of many pages stays one moment.
//! `connection` finds an endpoint that answers, `watch` follows, `lease` keeps entries alive. It deliberately never
//! repeats a change that may have happened, and never sets up, compacts or defragments etcd: that is its operator's.

mod connection;
mod lease;
mod watch;

/// Generated from `proto/etcd.proto`.
#[allow(clippy::all, unreachable_pub, dead_code, reason = "generated")]
mod wire {
    tonic::include_proto!("etcdserverpb");
}

use super::watch::Queue;
use super::{Change, Entry, EtcdSettings, Expect, Limits, Presence, StoreError, Watch};
use connection::{Connection, Repeat, compacted, outgrown};
use std::sync::Arc;
use std::time::Duration;
use tonic::Request;
use tonic::transport::Channel;
use wire::kv_client::KvClient;
use wire::request_op::Request as Operation;

/// etcd's own defaults (`--max-txn-ops`, and `--max-request-bytes` less what the encoding takes).
pub(crate) const LIMITS: Limits = Limits { operations: 128, bytes: (1 << 20) + (1 << 18) };

/// An answer that is larger is a fault: 32 of the largest entries fit.
const MAX_ANSWER: usize = 64 << 20;
const SMALL_PAGE: i64 = 32;
const LARGE_PAGE: i64 = 1024;
/// Pages grow while they stay below this.
const PAGE_BYTES: usize = 256 << 10;
/// A list begins again when etcd compacts the revision that it reads at.
const LIST_TRIES: u32 = 3;

#[derive(Clone, Debug)]
pub(crate) struct Etcd {
    connection: Arc<Connection>,
}

impl Etcd {
    pub(super) async fn open(settings: &EtcdSettings) -> Result<Self, StoreError> {
        let store = Self { connection: Arc::new(Connection::new(settings)?) };
        store.healthy().await?;
        Ok(store)
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let key = self.connection.key(key);
        let found = range(&self.connection, wire::RangeRequest { key, ..Default::default() }).await?;
        found.kvs.into_iter().next().map(|kv| self.connection.entry(kv)).transpose()
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<(u64, Vec<Entry>), StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.list_once(prefix).await {
                Err(StoreError::Unavailable(why)) if compacted(&why) && tries < LIST_TRIES => {}
                listed => return listed,
            }
        }
    }

    /// The first page names the revision that the others are read at.
    async fn list_once(&self, prefix: &str) -> Result<(u64, Vec<Entry>), StoreError> {
        let (mut from, end) = self.connection.range(prefix);
        let (mut revision, mut limit, mut entries) = (0, SMALL_PAGE, Vec::new());
        loop {
            let asked =
                wire::RangeRequest { key: from.clone(), range_end: end.clone(), limit, revision, ..Default::default() };
            let page = match range(&self.connection, asked).await {
                Err(StoreError::Unavailable(why)) if outgrown(&why) && limit > SMALL_PAGE => {
                    limit = SMALL_PAGE;
                    continue;
                }
                page => page?,
            };
            if revision == 0 {
                revision = page.header.map_or(0, |header| header.revision);
            }
            let Some(last) = page.kvs.last().map(|kv| kv.key.clone()).filter(|_| page.more) else {
                self.take(page, &mut entries)?;
                return Ok((unsigned(revision), entries));
            };
            from = [&last[..], &[0]].concat().into(); // the next possible key
            let bytes: usize = page.kvs.iter().map(|kv| kv.value.len()).sum();
            limit = if bytes < PAGE_BYTES { (limit * 2).min(LARGE_PAGE) } else { SMALL_PAGE };
            self.take(page, &mut entries)?;
        }
    }

    fn take(&self, page: wire::RangeResponse, entries: &mut Vec<Entry>) -> Result<(), StoreError> {
        page.kvs.into_iter().try_for_each(|kv| self.connection.entry(kv).map(|entry| entries.push(entry)))
    }

    pub(super) async fn commit(&self, change: Change) -> Result<u64, StoreError> {
        let answer = txn(&self.connection, Repeat::IfUnsent, transaction(&self.connection, &change, 0)).await?;
        if answer.succeeded {
            return Ok(unsigned(answer.header.map_or(0, |header| header.revision)));
        }
        Err(StoreError::Conflict { key: conflicting(&change, &answer).to_owned() })
    }

    pub(super) fn watch(&self, prefix: &str) -> Watch {
        let queue = Arc::new(Queue::default());
        let following = tokio::spawn(watch::follow(self.connection.clone(), prefix.to_owned(), queue.clone()));
        Watch::new(queue, Some(following.abort_handle()))
    }

    pub(super) async fn put_while_alive(&self, change: Change, ttl: Duration) -> Result<Presence, StoreError> {
        lease::hold(self.connection.clone(), change, ttl).await
    }

    pub(super) async fn healthy(&self) -> Result<(), StoreError> {
        revision(&self.connection).await.map(drop)
    }
}

/// The revision as of now. Linearizable: a member without a quorum does not answer, and a revision that was ever answered
/// before is not above it, unless etcd was restored from a backup.
async fn revision(connection: &Connection) -> Result<u64, StoreError> {
    let (key, range_end) = connection.range("");
    let asked = wire::RangeRequest { key, range_end, count_only: true, ..Default::default() };
    let answer = range(connection, asked).await?;
    Ok(unsigned(answer.header.map_or(0, |header| header.revision)))
}

async fn range(connection: &Connection, asked: wire::RangeRequest) -> Result<wire::RangeResponse, StoreError> {
    let call = |channel: Channel, request: Request<_>| async move {
        KvClient::new(channel).max_decoding_message_size(MAX_ANSWER).range(request).await
    };
    let answer = connection.call(Repeat::Always, asked, call).await?;
    connection.saw(answer.header.as_ref().map_or(0, |header| unsigned(header.revision)));
    Ok(answer)
}

async fn txn(
    connection: &Connection,
    repeat: Repeat,
    asked: wire::TxnRequest,
) -> Result<wire::TxnResponse, StoreError> {
    let call = |channel: Channel, request: Request<_>| async move { KvClient::new(channel).txn(request).await };
    let answer = connection.call(repeat, asked, call).await?;
    connection.saw(answer.header.as_ref().map_or(0, |header| unsigned(header.revision)));
    Ok(answer)
}

/// Compares, then writes; or reads which comparison failed. `lease` 0 is none.
fn transaction(connection: &Connection, change: &Change, lease: i64) -> wire::TxnRequest {
    use wire::compare::{CompareResult, CompareTarget, TargetUnion};
    let operation = |request| wire::RequestOp { request: Some(request) };
    let compare = change.expect.iter().map(|(key, expect)| {
        let (target, union) = match expect {
            Expect::Absent => (CompareTarget::Create, TargetUnion::CreateRevision(0)),
            Expect::Revision(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(signed(*revision))),
        };
        let (result, key) = (CompareResult::Equal.into(), connection.key(key));
        wire::Compare { result, target: target.into(), key, target_union: Some(union) }
    });
    let put = change.put.iter().map(|(key, value)| {
        operation(Operation::RequestPut(wire::PutRequest { key: connection.key(key), value: value.clone(), lease }))
    });
    let delete = change
        .delete
        .iter()
        .map(|key| operation(Operation::RequestDeleteRange(wire::DeleteRangeRequest { key: connection.key(key) })));
    let failure = change.expect.iter().map(|(key, _)| {
        let asked = wire::RangeRequest { key: connection.key(key), keys_only: true, ..Default::default() };
        operation(Operation::RequestRange(asked))
    });
    wire::TxnRequest { compare: compare.collect(), success: put.chain(delete).collect(), failure: failure.collect() }
}

/// The first key that was not as expected, from what the failed transaction read.
fn conflicting<'c>(change: &'c Change, answer: &wire::TxnResponse) -> &'c str {
    let found = answer.responses.iter().map(|response| match &response.response {
        Some(wire::response_op::Response::ResponseRange(range)) => {
            range.kvs.first().map(|kv| unsigned(kv.mod_revision))
        }
        None => None,
    });
    let holds = |expect: &Expect, found: Option<u64>| match expect {
        Expect::Absent => found.is_none(),
        Expect::Revision(revision) => found == Some(*revision),
    };
    let first = change.expect.iter().zip(found).find(|((_, expect), found)| !holds(expect, *found));
    first.map(|((key, _), _)| key).or(change.expect.first().map(|(key, _)| key)).map_or("", String::as_str)
}

/// etcd's revisions and those of `Expect` are never negative; an absurd one matches nothing.
fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}
