//! One attempt on the wire: find a connection, write the request, wait for the response headers, name what went wrong.
//!
//! It deliberately decides nothing about what comes next; `http::proxy` does.

use super::connect;
use super::instance::Instance;
use super::metered::Gauge;
use super::pool::{H1, Lease};
use crate::fault::Fault;
use crate::http::body::SendBody;
use crate::http::check;
use crate::mesh::Worker;
use fusewire_model::policy::Policy;
use fusewire_resilience::Time;
use fusewire_telemetry::metrics::ServiceMetrics;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use std::error::Error as _;
use std::sync::{Arc, OnceLock};

/// What the exchange holds of its connection until the response body has ended.
pub(crate) enum Held {
    H1(Box<H1>),
    /// The same, that nobody else gets: more may come on it than was asked for.
    Spent {
        _connection: Box<H1>,
    },
    H2(Lease),
}

impl Held {
    /// The body ended as it should: the connection can serve another.
    pub(crate) fn release(self, worker: usize, instance: &Instance, now: Time) {
        match self {
            Held::H1(mut connection) => match connection.home.take() {
                Some(home) => home.give_h1(worker, *connection, now),
                None => instance.give_h1(worker, *connection, now),
            },
            Held::H2(lease) => lease.touch(now),
            Held::Spent { .. } => {}
        }
    }
}

/// What a request is on its way by.
#[derive(Debug)]
pub(crate) enum On {
    H1(Arc<Gauge>),
    H2,
}

/// Sends `request` to `instance` in the version that it carries.
///
/// # Cancel safety
/// Dropping it resets the HTTP/2 stream or closes the HTTP/1.1 connection; a shared dial goes on for the others.
pub(crate) async fn send(
    worker: &Worker,
    instance: &Arc<Instance>,
    policy: &Policy,
    metrics: &Arc<ServiceMetrics>,
    request: Request<SendBody>,
) -> Result<(Response<Incoming>, Held), Fault> {
    send_on(worker, instance, policy, metrics, request, None).await
}

/// The same; `begun` is told once there is a connection, and the request goes out.
pub(crate) async fn send_on(
    worker: &Worker,
    instance: &Arc<Instance>,
    policy: &Policy,
    metrics: &Arc<ServiceMetrics>,
    request: Request<SendBody>,
    begun: Option<&OnceLock<On>>,
) -> Result<(Response<Incoming>, Held), Fault> {
    let goes = |on| begun.map(|begun| begun.set(on));
    if request.version() == Version::HTTP_2 {
        let lease = connect::lease_h2(worker, instance, policy, metrics).await?;
        goes(On::H2);
        match lease.sender().try_send_request(request).await {
            Ok(response) => Ok((response, Held::H2(lease))),
            // a shared connection says goodbye before it closes: a break without is no keep-alive race
            Err(mut e) => Err(send_fault(e.take_message().is_some(), e.error(), false)),
        }
    } else {
        let (mut connection, reused) = connect::take_h1(worker, instance, policy, metrics).await?;
        connection.home = instance.ends().map(|_| instance.clone());
        let method = request.method().clone();
        connection.gauge.begin();
        goes(On::H1(connection.gauge.clone()));
        let sent = connection.sender.try_send_request(request).await;
        connection.gauge.end();
        connection.unanswered = None;
        match sent {
            Ok(response) if check::may_have_more(&method, &response) => {
                connection.gauge.spend();
                Ok((response, Held::Spent { _connection: Box::new(connection) }))
            }
            Ok(response) => Ok((response, Held::H1(Box::new(connection)))),
            Err(mut e) => Err(send_fault(e.take_message().is_some(), e.error(), reused)),
        }
    }
}

fn send_fault(returned: bool, error: &hyper::Error, reused: bool) -> Fault {
    if returned || h2_unprocessed(error) {
        return Fault::Unsent;
    }
    if caller_broke(error) {
        return Fault::CallerGone;
    }
    Fault::Reset { reused, begun: false }
}

/// GOAWAY with a last stream before ours, or REFUSED_STREAM: the peer says that it did not process the request
/// (RFC 9113, sections 6.8 and 8.7).
fn h2_unprocessed(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|e| e.is_remote() && (e.is_go_away() || e.reason() == Some(h2::Reason::REFUSED_STREAM)))
}

/// The request body came from a caller that broke off.
fn caller_broke(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(e) = source {
        if e.is::<crate::http::body::CallerBroke>() {
            return true;
        }
        source = e.source();
    }
    false
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = error.source();
    while let Some(e) = source {
        if let Some(h2) = e.downcast_ref::<h2::Error>() {
            return Some(h2);
        }
        source = e.source();
    }
    None
}
