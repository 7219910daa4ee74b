//! What a request must pass before it is sent: a rate, how many there may be at once, and the guard before the application.
//!
//! Decides whether a request may go on, and holds what is counted. The decisions are `resilience`'s; the numbers are the
//! policy's and read anew with each request, so that a changed configuration loses nothing that was counted.
//!
//! * Outbound, for each service: `limit.rate`, then the static bulkheads. A request is an exchange from its routing to the
//!   end of its answer: streams, WebSockets and opaque connections count for as long as they last, as in Envoy. A request
//!   that waits for a connection is pending; a connection is one from its dial to its end, whether anything is on it or not.
//! * Inbound, for each port: `limit.inbound.rate`, then the gate ([`gate`]). A turn ends with the answer's headers
//!   ([`dispatch`]), so that streams, WebSockets and long polls are in nobody's way.
//!
//! Who is refused here has reached no instance: no breaker, no load estimate hears of it. It deliberately does not bound
//! opaque connections to the application: they have no headers to tell by how long anything took.
//!
//! Invariants: whatever is taken is given back exactly once, by dropping it; no lock here is held across an await.

mod algorithm;
mod connections;
pub(crate) mod dispatch;
pub(crate) mod gate;
mod rate;
pub(crate) mod view;

use crate::clock::Clock;
use crate::fault::Fault;
use crate::http::deadline::Limits;
use crate::http::exchange::Exchange;
use crate::snapshot::Target;
use connections::Connections;
pub(crate) use connections::Room;
use fusewire_model::policy::{Policy, RateLimit};
use fusewire_resilience::Time;
use fusewire_resilience::bulkhead::{BulkheadConfig, Bulkheads, Place};
use fusewire_resilience::deadline::{ExpiryGuard, Health};
use fusewire_telemetry::metrics::{Direction, Limit};
use gate::Gate;
use http::{HeaderMap, Method, Request};
pub(crate) use rate::Over;
use rate::Rates;
use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// One service's, outbound, or one port's, inbound. It outlives every snapshot that shows it.
pub(crate) struct Bounds {
    /// Before the application; `None` outbound.
    pub(crate) gate: Option<Arc<Gate>>,
    bulkheads: Bulkheads,
    connections: Connections,
    rates: Rates,
    /// Work whose deadline passed while it waited here.
    expiry: ExpiryGuard,
}

impl Bounds {
    pub(crate) fn new(direction: Direction, clock: Clock, secret: RandomState) -> Self {
        let gate = (direction == Direction::Inbound).then(|| Arc::new(Gate::new(clock)));
        let bulkheads = Bulkheads::new(&BulkheadConfig::default());
        let connections = Connections::default();
        Self { gate, bulkheads, connections, rates: Rates::new(secret), expiry: ExpiryGuard::default() }
    }

    /// A place among the service's requests in flight; none is needed towards the application beside us.
    fn request(&self, limits: &BulkheadConfig) -> Result<Option<Place>, Fault> {
        if self.gate.is_some() {
            return Ok(None);
        }
        let entered = self.bulkheads.requests.enter_below(limits.max_requests);
        entered.map(Some).ok_or(Fault::Full(Limit::Requests))
    }

    /// A place among those that wait for a connection.
    pub(crate) fn pending(&self, policy: &Policy) -> Result<Option<Place>, Fault> {
        if self.gate.is_some() {
            return Ok(None);
        }
        let entered = self.bulkheads.pending.enter_below(policy.limits.bulkhead.max_pending);
        entered.map(Some).ok_or(Fault::Full(Limit::Pending))
    }

    /// Whether the application is to see a request whose turn has come: not where nobody waits for the answer any more,
    /// but of a healthy application's requests most pass all the same, lest a wrong clock look like an outage.
    fn in_time(&self, limits: &mut Limits, now: Time) -> Result<(), Fault> {
        if limits.left(now) != Some(Duration::ZERO) {
            self.expiry.passed(now);
            return Ok(());
        }
        let strained = self.gate.as_ref().is_some_and(|gate| gate.is_strained());
        let health = if strained { Health::Strained } else { Health::Healthy };
        if self.expiry.may_drop(health, now) {
            return Err(Fault::DeadlineExceeded);
        }
        limits.forgive();
        Ok(())
    }
}

/// What a limit by key goes by.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) fields: &'a HeaderMap,
    pub(crate) path: &'a str,
    /// The caller's address, where it has no identity.
    pub(crate) address: Option<IpAddr>,
}

/// Whether a request that has been routed may go on; waits for its turn at most as long as the policy lets it.
pub(crate) async fn enter<B>(
    exchange: &mut Exchange,
    target: &Target,
    request: &Request<B>,
    address: Option<IpAddr>,
) -> Result<(), Fault> {
    let asker = Asker { fields: request.headers(), path: request.uri().path(), address };
    at_once(exchange, target, asker)?;
    if exchange.direction == Direction::Inbound && request.method() != Method::CONNECT {
        turn(exchange, target).await?;
    }
    Ok(())
}

/// The same of bytes: nothing to wait for, and nobody to tell apart.
pub(crate) fn enter_tcp(exchange: &mut Exchange, target: &Target) -> Result<(), Fault> {
    at_once(exchange, target, Asker { fields: &HeaderMap::new(), path: "", address: None })
}

fn at_once(exchange: &mut Exchange, target: &Target, asker: Asker<'_>) -> Result<(), Fault> {
    let (bounds, limits) = (&target.upstream.bounds, &target.policy.limits);
    let rate: &Option<RateLimit> = match exchange.direction {
        Direction::Inbound => &limits.inbound.rate,
        Direction::Outbound => &limits.rate,
    };
    if let Some(rate) = rate {
        bounds.rates.ask(&target.policy.name, rate, exchange.peer.as_deref(), asker, exchange.started)?;
    }
    exchange.place = bounds.request(&limits.bulkhead)?;
    Ok(())
}

/// A turn at the application, within the caller's deadline.
async fn turn(exchange: &mut Exchange, target: &Target) -> Result<(), Fault> {
    let bounds = &target.upstream.bounds;
    let Some(gate) = &bounds.gate else { return Ok(()) };
    let now = exchange.now;
    let turn = exchange.wait(gate.enter(exchange.limits.left(now), now)).await;
    let turn = turn.map_err(|_| Fault::Shed("limit.inbound: requests queue inside the application"))?;
    bounds.in_time(&mut exchange.limits, exchange.now)?;
    exchange.turn = turn;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_model::policy::Concurrency;
    use fusewire_resilience::limit::AimdConfig;

    #[tokio::test(start_paused = true)]
    async fn who_is_too_late_reaches_no_application_but_of_a_healthy_one_only_a_fifth_is_dropped() {
        let bounds = Bounds::new(Direction::Inbound, Clock::start(), RandomState::new());
        let gate = bounds.gate.clone().unwrap();
        let mut fields = HeaderMap::new();
        let now = Time(5_000_000_000);
        let late = now + Duration::from_millis(100);
        let asked = |fields: &HeaderMap| {
            let mut limits = Limits::asked(Direction::Inbound, fields, true, now);
            let passes = bounds.in_time(&mut limits, late).is_ok();
            assert!(!passes || !limits.is_over(late), "who passes is sent");
            passes
        };
        assert!((0..100).all(|_| asked(&fields)), "without a deadline");
        fields.insert("grpc-timeout", "200m".parse().unwrap());
        assert!((0..100).all(|_| asked(&fields)), "in time");
        fields.insert("grpc-timeout", "100m".parse().unwrap());
        let dropped = (0..200).filter(|_| !asked(&fields)).count();
        assert!((60..=80).contains(&dropped), "a fifth of 400: {dropped}");
        let (most, default) = (1, AimdConfig::default());
        gate.configure(&Concurrency::Aimd(AimdConfig { initial: most, min: most, max: most, ..default }));
        let _turn = gate.enter(None, gate.now()).await.unwrap();
        assert!((0..100).all(|_| !asked(&fields)), "one that has enough to do is spared all of them");
    }
}
