//! Bytes to an instance: a stream to its sidecar ([`super::stream`]), or TCP in clear. What is copied between two such streams is
//! [`super::join`]'s.

use super::connect;
use super::instance::Instance;
use super::join::Served;
use super::pool::Lease;
use super::service::Wish;
use super::stream::{self, Gone, Stream, Written};
use crate::bounds::Room;
use crate::fault::Fault;
use crate::http::body::SendBody;
use crate::http::exchange::Exchange;
use crate::http::unread::Message;
use crate::http::{headers, reply};
use crate::mesh::Worker;
use crate::snapshot::Target;
use fusewire_model::policy::Policy;
use fusewire_net::Prefixed;
use fusewire_resilience::{Attempt, Happening, Member, classify};
use fusewire_telemetry::Reason;
use fusewire_telemetry::metrics::ServiceMetrics;
use http::{HeaderValue, Method, Request, StatusCode, Version};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Instances that one connection is offered to.
const MAX_OFFERS: u32 = 5;

/// A stream of bytes that may know how to end badly.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {
    /// The drop that follows is a failure, not an end. A CONNECT stream or an upgrade over HTTP/2 cannot say that: hyper ends
    /// it the same way in both cases.
    fn abort(&self) {}
    /// What resolves when nobody takes what is written any more, for those who know it by themselves.
    fn gone(&self) -> Option<Gone> {
        None
    }
    /// The socket, where bytes go to it as they are and none waits above it.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl Io for TcpStream {
    fn abort(&self) {
        fusewire_net::reset_on_close(self);
    }
    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}
impl<T: Io> Io for Prefixed<T> {
    fn abort(&self) {
        self.get_ref().abort();
    }
    fn socket(&self) -> Option<&TcpStream> {
        self.bare()?.socket()
    }
}
impl Io for TokioIo<Upgraded> {}
impl Io for Box<dyn Io> {
    fn abort(&self) {
        (**self).abort();
    }
    fn gone(&self) -> Option<Gone> {
        (**self).gone()
    }
    fn socket(&self) -> Option<&TcpStream> {
        (**self).socket()
    }
}

pub(crate) struct Open {
    pub(crate) io: Box<dyn Io>,
    pub(crate) served: Served,
    pub(crate) _kept: Kept,
}

/// What a stream of bytes takes for as long as it lasts.
pub(crate) enum Kept {
    /// The place on a shared connection.
    Lease { _lease: Lease },
    /// A connection's place among the service's.
    Room { _room: Room },
}

/// A byte stream to one instance of the target. Nothing was sent yet, so each that fails makes room for the next.
pub(crate) async fn open(exchange: &mut Exchange, target: &Target) -> Result<Open, Fault> {
    let worker = exchange.worker.clone();
    exchange.admit(target, worker.mesh.clock.now())?;
    let mut tried: Vec<usize> = Vec::new();
    let mut last = None;
    loop {
        let wish = Wish { random: worker.random(), replayable: true, tried: &tried, key: None };
        let attempt = match target.upstream.admit(&wish, worker.mesh.clock.now()) {
            Ok(attempt) => attempt,
            Err(fault) => {
                exchange.not_admitted(&fault, worker.mesh.clock.now());
                return Err(last.unwrap_or(fault));
            }
        };
        if last.is_some() {
            exchange.redials(worker.mesh.clock.now());
        }
        exchange.attempted(&attempt);
        match open_one(&worker, exchange, target, &attempt).await {
            Ok((io, _kept)) => {
                let outcome = classify(Happening::Status(200));
                exchange.answered(exchange.attempts, &attempt, 200, outcome.class);
                return Ok(Open { io, served: Served::new(exchange, attempt), _kept });
            }
            Err(fault) => {
                let fault = fault.seen_from(exchange.direction);
                tried.push(attempt.index());
                let (blame, now) = (fault.blame(), worker.mesh.clock.now());
                exchange.broke(exchange.attempts, fault.reason(), blame, now);
                attempt.end(blame, now);
                if !fault.unsent() || exchange.attempts >= MAX_OFFERS {
                    return Err(fault);
                }
                last = Some(fault);
            }
        }
    }
}

async fn open_one(
    worker: &Worker,
    exchange: &Exchange,
    target: &Target,
    attempt: &Attempt<Instance>,
) -> Result<(Box<dyn Io>, Kept), Fault> {
    if attempt.member().key.sidecar.is_none() && !target.allows_plain(exchange.direction) {
        return Err(Fault::PlainDenied);
    }
    reach(worker, &exchange.member(attempt), &target.policy, &target.upstream.metrics, Some(exchange)).await
}

/// Bytes through to the instance's application, which accepted them. `exchange`: whose trace the way there is part of.
pub(crate) async fn reach(
    worker: &Worker,
    instance: &Arc<Instance>,
    policy: &Policy,
    metrics: &Arc<ServiceMetrics>,
    exchange: Option<&Exchange>,
) -> Result<(Box<dyn Io>, Kept), Fault> {
    if instance.key.sidecar.is_none() {
        let _pending = instance.bounds.pending(policy)?;
        let found = instance.bounds.room(policy, || None::<Infallible>).await?;
        let _room = found.unwrap_or_else(|never| match never {});
        metrics.connections.inc();
        let dialled = tokio::time::timeout(policy.timeout.connect, connect::tcp(instance)).await;
        let stream = dialled.unwrap_or(Err(Fault::ConnectTimeout))?;
        instance.node().connected(worker.mesh.clock.now());
        return Ok((Box::new(stream), Kept::Room { _room }));
    }
    let lease = connect::lease_h2(worker, instance, policy, metrics).await?;
    let (writes, written) = stream::pipe();
    let mut request = request(instance, written)?;
    if let Some(exchange) = exchange {
        exchange.stamp(request.headers_mut());
    }
    let asked = lease.sender().try_send_request(request);
    let answered = tokio::time::timeout(policy.timeout.connect, asked).await.map_err(|_| Fault::ConnectTimeout)?;
    let response = answered.map_err(|_| Fault::Unsent)?;
    if response.status() != StatusCode::OK {
        let reason = response.headers().get(&reply::REASON).and_then(|r| Reason::from_word(r.as_bytes()));
        let unprocessed = response.headers().contains_key(&headers::NOT_PROCESSED);
        return Err(match reason {
            Some(Reason::AppUnreachable) => Fault::AppUnreachable,
            Some(Reason::ConnectTimeout) => Fault::ConnectTimeout,
            Some(Reason::Denied) if unprocessed => Fault::Untold,
            Some(Reason::Denied) => Fault::Denied("the instance's sidecar does not let this workload in".into()),
            Some(Reason::Overloaded) if unprocessed => Fault::PeerOverloaded,
            // the two sides' configurations differ for a moment: nobody's failure
            Some(Reason::NoRoute | Reason::BadRequest) => Fault::NoRoute,
            _ if unprocessed => Fault::Unsent,
            _ => Fault::Reset { reused: false, begun: false },
        });
    }
    Ok((Box::new(Stream::new(response.into_body(), Message::Response, writes)), Kept::Lease { _lease: lease }))
}

/// As [`crate::http::connect::take_stream`] knows it.
fn request(instance: &Instance, written: Written) -> Result<Request<SendBody>, Fault> {
    Request::builder()
        .version(Version::HTTP_2)
        .method(Method::POST)
        .uri(format!("http://{}/", instance.key.address))
        .header(headers::PORT, HeaderValue::from(instance.key.address.port()))
        .header(headers::PROTOCOL, HeaderValue::from_static(headers::TCP))
        .body(SendBody::Written(written))
        .map_err(|_| Fault::BadRequest("the instance's address makes no authority".into()))
}
