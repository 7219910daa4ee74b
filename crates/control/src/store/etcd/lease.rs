//! Entries that etcd removes when this process is gone.
//!
//! It decides how often a lease is renewed (three times in its life, so that one lost renewal costs nothing), and that an
//! entry is put again with a new lease when the old one ran out while etcd was away.

use super::connection::{Connection, Repeat, shorten};
use super::{transaction, txn, wire};
use crate::store::{Change, Presence, StoreError};
use futures_util::{StreamExt, stream};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use wire::lease_client::LeaseClient;

/// etcd itself raises what is shorter, to one and a half of its election timeouts.
const MIN_TTL: Duration = Duration::from_secs(2);
/// Between tries to put the entry back.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn hold(connection: Arc<Connection>, change: Change, ttl: Duration) -> Result<Presence, StoreError> {
    let mut held = Held { connection, change, ttl: ttl.max(MIN_TTL), lease: None, placed: false };
    held.put().await?;
    let (stay, left) = oneshot::channel();
    let task = tokio::spawn(async move {
        tokio::select! {
            // fails, which is the signal
            _ = left => {}
            () = held.keep() => {}
        }
        held.revoke().await;
    });
    Ok(Presence::new(stay, task))
}

struct Held {
    connection: Arc<Connection>,
    change: Change,
    ttl: Duration,
    /// The last that was granted, whether or not the entry is under it: what is left must be revoked either way.
    lease: Option<i64>,
    /// Whether the entry is known to be under the lease.
    placed: bool,
}

impl Held {
    /// # Cancel safety
    /// Dropped at any point, [`Held::revoke`] still removes the entry: the lease is noted before the entry is put, and
    /// etcd refuses an entry that arrives after its lease was revoked.
    async fn put(&mut self) -> Result<(), StoreError> {
        self.placed = false;
        let ttl = i64::try_from(self.ttl.as_secs_f64().ceil() as u64).unwrap_or(i64::MAX);
        let call =
            |channel: Channel, request: Request<_>| async move { LeaseClient::new(channel).lease_grant(request).await };
        let granted = self.connection.call(Repeat::Always, wire::LeaseGrantRequest { ttl }, call).await?;
        self.lease = Some(granted.id);
        // a second time puts the same under the same lease
        txn(&self.connection, Repeat::Always, transaction(&self.connection, &self.change, granted.id)).await?;
        self.placed = true;
        Ok(())
    }

    /// Does not end.
    async fn keep(&mut self) {
        loop {
            let wait = if self.placed { self.ttl / 3 } else { AGAIN };
            tokio::time::sleep(shorten(wait)).await;
            let kept = match self.lease {
                Some(lease) if self.placed => self.renew(lease).await,
                _ => self.put().await,
            };
            if let Err(error) = kept {
                tracing::warn!(%error, "an entry of this process in etcd could not be kept alive; trying again");
            }
        }
    }

    async fn renew(&mut self, id: i64) -> Result<(), StoreError> {
        let call = |channel: Channel, request: Request<wire::LeaseKeepAliveRequest>| async move {
            let request = request.map(|renewal| stream::iter([renewal]).chain(stream::pending()));
            let mut answers = LeaseClient::new(channel).lease_keep_alive(request).await?.into_inner();
            let answer = answers.message().await?;
            answer.map(Response::new).ok_or_else(|| Status::unavailable("etcd ended the stream"))
        };
        let renewed = self.connection.call(Repeat::Always, wire::LeaseKeepAliveRequest { id }, call).await?;
        if renewed.ttl <= 0 {
            self.put().await?;
        }
        Ok(())
    }

    async fn revoke(&mut self) {
        let Some(id) = self.lease.take() else { return };
        let call = |channel: Channel, request: Request<_>| async move {
            LeaseClient::new(channel).lease_revoke(request).await
        };
        if let Err(error) = self.connection.call(Repeat::Always, wire::LeaseRevokeRequest { id }, call).await {
            tracing::warn!(%error, "an entry of this process in etcd stays until its time to live is over");
        }
    }
}
