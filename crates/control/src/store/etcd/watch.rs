//! Follows what happens below a prefix, over broken streams, other members and compactions.
//!
//! It decides from which revision a new stream goes on, and when that is not possible: etcd has compacted what lies
//! between, or knows less than we have seen (it was restored from a backup, and would be silent until it has caught up).
//! Then the watcher is told to list again. It deliberately reads as fast as etcd sends: the queue in front of the watcher
//! has the bound, so that a slow watcher is not a burden for etcd.

use super::connection::{Backoff, CALL, Connection};
use super::{MAX_ANSWER, revision, unsigned, wire};
use crate::store::watch::Queue;
use crate::store::{Event, StoreError};
use futures_util::{StreamExt, stream};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status, Streaming};
use wire::event::EventType;
use wire::watch_client::WatchClient;
use wire::watch_request::RequestUnion;

/// A stream that held for this long was a good one: the next is tried at once.
const GOOD: Duration = Duration::from_secs(10);

/// Runs until aborted.
pub(super) async fn follow(connection: Arc<Connection>, prefix: String, queue: Arc<Queue>) {
    let mut follower = Follower { connection, prefix, queue, seen: None, restores: 0 };
    let mut backoff = Backoff::default();
    loop {
        let began = Instant::now();
        let Err(error) = follower.stream().await;
        if began.elapsed() > GOOD {
            backoff = Backoff::default();
        }
        let wait = backoff.next();
        tracing::warn!(prefix = follower.prefix, %error, ?wait, "the watch in etcd ended, and begins again");
        tokio::time::sleep(wait).await;
    }
}

struct Follower {
    connection: Arc<Connection>,
    prefix: String,
    queue: Arc<Queue>,
    /// All up to this revision has been told. `None` makes the watcher list again.
    seen: Option<u64>,
    /// How often etcd had gone back when the watcher was last told to list again.
    restores: u64,
}

enum Never {}

impl Follower {
    async fn stream(&mut self) -> Result<Never, StoreError> {
        let before = *self.connection.history();
        let now = revision(&self.connection).await?;
        let restores = self.connection.now_at(now, before).restores;
        let seen = match self.seen {
            Some(seen) if seen <= now && restores == self.restores => seen,
            _ => {
                self.queue.resync();
                now
            }
        };
        self.restores = restores;
        self.seen = Some(seen);
        let until = Instant::now() + CALL;
        let session = self.connection.session(until).await?;
        let (key, range_end) = self.connection.range(&self.prefix);
        let start_revision = super::signed(seen + 1);
        let create = wire::WatchCreateRequest { key, range_end, start_revision, progress_notify: true };
        let create = wire::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // the request stays open: its end would be the end of the watch
        let request = session.request(stream::iter([create]).chain(stream::pending()));
        let mut client = WatchClient::new(session.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let opening = async {
            let mut answers = client.watch(request).await?.into_inner();
            let created = next(&mut answers).await?;
            Ok((answers, created))
        };
        let opened = timeout_at(until, opening).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no watch")));
        let ended = match opened {
            Ok((answers, created)) => self.answers(answers, created).await,
            Err(status) => Err(status),
        };
        let Err(status) = ended;
        if status.code() == Code::OutOfRange {
            // compacted, or an answer larger than we take: going on from here is not possible
            self.seen = None;
        }
        self.connection.failed(&session).await;
        Err(StoreError::Unavailable(status.message().to_owned()))
    }

    async fn answers(
        &mut self,
        mut answers: Streaming<wire::WatchResponse>,
        created: wire::WatchResponse,
    ) -> Result<Never, Status> {
        let mut answer = created;
        loop {
            if answer.canceled {
                let compacted = answer.compact_revision > 0;
                let code = if compacted { Code::OutOfRange } else { Code::Unavailable };
                return Err(Status::new(code, format!("cancelled by etcd: {}", answer.cancel_reason)));
            }
            let told_all = !answer.created && answer.events.is_empty();
            let header = answer.header.map_or(0, |header| unsigned(header.revision));
            self.tell(answer.events)?;
            if told_all {
                self.seen = self.seen.max(Some(header));
            }
            answer = next(&mut answers).await?;
        }
    }

    /// etcd sends a revision whole, and revisions in order.
    fn tell(&mut self, events: Vec<wire::Event>) -> Result<(), Status> {
        let mut events = events.into_iter().filter_map(|event| Some((event.r#type(), event.kv?))).peekable();
        while let Some((_, first)) = events.peek() {
            let at = first.mod_revision;
            let (mut puts, mut deletes) = (Vec::new(), Vec::new());
            while let Some((kind, kv)) = events.next_if(|(_, kv)| kv.mod_revision == at) {
                let foreign = |error: StoreError| Status::unavailable(error.to_string());
                match kind {
                    EventType::Put => puts.push(self.connection.entry(kv).map_err(foreign)?),
                    EventType::Delete => deletes.push(self.connection.name(&kv.key).map_err(foreign)?),
                }
            }
            let revision = unsigned(at);
            if self.seen < Some(revision) {
                self.queue.push(Event::Changed { revision, puts, deletes });
                self.seen = Some(revision);
            }
        }
        Ok(())
    }
}

async fn next(answers: &mut Streaming<wire::WatchResponse>) -> Result<wire::WatchResponse, Status> {
    answers.message().await?.ok_or_else(|| Status::unavailable("etcd ended the stream"))
}
