//! Everything that can go wrong with a request, and the three questions each fault must answer.
//!
//! Which reason does the caller get? Whose blame is it? Was the request provably unsent? All three are matched without
//! `_`: a new fault does not compile until someone has answered them.

use crate::bounds::Over;
use fusewire_model::ServiceName;
use fusewire_resilience::{Happening, Outcome, classify};
use fusewire_telemetry::Reason;
use fusewire_telemetry::metrics::{Direction, Limit, RouteMetrics};
use http::{HeaderMap, HeaderValue, StatusCode};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// Whose circuit is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Of every instance, so many.
    Instances(usize),
    Service,
    Route,
    /// It has closed a moment ago, and lets more in by and by.
    Ramp,
}

/// Where a rule's redirect leads, and the rule's own count of what it did.
#[derive(Clone, Debug)]
pub(crate) struct Redirected {
    pub(crate) status: StatusCode,
    pub(crate) location: HeaderValue,
    pub(crate) route: Arc<RouteMetrics>,
}

/// What a browser is told that asks before a request, and the rule's own count of what it did.
#[derive(Clone, Debug)]
pub(crate) struct Preflight {
    /// `None`: the page may not.
    pub(crate) fields: Option<HeaderMap>,
    pub(crate) route: Arc<RouteMetrics>,
}

#[derive(Clone, Debug)]
pub(crate) enum Fault {
    NoRoute,
    /// No fault of anybody's: the route's rule answers.
    Redirected(Box<Redirected>),
    /// The same.
    Preflight(Box<Preflight>),
    /// What the route's rule names does not exist.
    NoBackend,
    /// What the route's rule makes of the request cannot be sent.
    BadRoute(&'static str),
    /// The control plane did not say in time what the authority means.
    DiscoveryTimeout,
    Denied(Cow<'static, str>),
    BadRequest(Cow<'static, str>),
    /// The request's fields add up to more than any sidecar carries.
    TooLarge,
    UriTooLong,
    /// `Expect` says something else than `100-continue`.
    Expectation,
    /// The caller's request did not come in time.
    CallerSlow(&'static str),
    NoInstance,
    CircuitOpen {
        scope: Scope,
        service: ServiceName,
        retry_after: Duration,
    },
    /// The service refuses what it gets because of load, so it gets less; the probability of it, 0..0.9.
    Throttled {
        probability: f64,
    },
    /// Every instance was tried and refused the request before it was sent.
    AllTried,
    ConnectFailed(std::io::ErrorKind),
    ConnectTimeout,
    /// The instance has no identity, and the policy does not allow to speak in clear.
    PlainDenied,
    /// The instance's identity is shut out.
    PeerDenied,
    /// An inbound sidecar has just started and does not know yet whom to let in.
    Untold,
    /// The peer's sidecar is at its limit and has not processed the request.
    PeerOverloaded,
    /// Requests queue inside our application, which is not given this one.
    Shed(&'static str),
    /// A bound of the service was reached here, before any instance was asked.
    Full(Limit),
    RateLimited(Box<Over>),
    /// The inbound sidecar's own application refused the connection.
    AppUnreachable,
    /// The peer's certificate is not to be trusted.
    PeerRefused(String),
    /// The peer refused our certificate, or we have none.
    OwnIdentity(String),
    WrongIdentity {
        expected: String,
        got: String,
    },
    /// The connection closed before a byte of the request was written, or the peer said that it did not process it.
    Unsent,
    /// The connection broke with the request on it. `reused`: it had served another before; `begun`: response headers had come.
    Reset {
        reused: bool,
        begun: bool,
    },
    /// The answer's fields add up to more than any sidecar carries.
    AnswerTooLarge,
    /// The answer could be read in more than one way, or is none.
    BadAnswer(&'static str),
    ResponseTimeout,
    /// No response headers within `retry.per_try_timeout`.
    TryTimeout,
    IdleTimeout,
    /// The caller's deadline was over before the request could be sent, or sooner than an answer could be expected.
    DeadlineExceeded,
    /// The caller's side broke while its body was being read.
    CallerGone,
    Draining,
}

impl Fault {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Fault::NoRoute => Reason::NoRoute,
            Fault::Redirected(_) => Reason::Redirected,
            Fault::Preflight(_) => Reason::Preflight,
            Fault::NoBackend => Reason::NoBackend,
            Fault::BadRoute(_) => Reason::BadRoute,
            Fault::Denied(_) | Fault::PlainDenied | Fault::PeerDenied | Fault::Untold => Reason::Denied,
            Fault::BadRequest(_) => Reason::BadRequest,
            Fault::TooLarge => Reason::HeaderTooLarge,
            Fault::UriTooLong => Reason::UriTooLong,
            Fault::Expectation => Reason::ExpectationFailed,
            Fault::CallerSlow(_) => Reason::RequestTimeout,
            // not 404: the name may well exist, and the caller may try again
            Fault::NoInstance | Fault::DiscoveryTimeout => Reason::NoInstance,
            Fault::CircuitOpen { .. } => Reason::CircuitOpen,
            Fault::AllTried | Fault::ConnectFailed(_) => Reason::ConnectFailed,
            Fault::ConnectTimeout => Reason::ConnectTimeout,
            Fault::AppUnreachable => Reason::AppUnreachable,
            Fault::PeerRefused(_) | Fault::OwnIdentity(_) => Reason::TlsFailed,
            Fault::WrongIdentity { .. } => Reason::WrongIdentity,
            Fault::PeerOverloaded | Fault::Throttled { .. } | Fault::Shed(_) | Fault::Full(_) => Reason::Overloaded,
            Fault::RateLimited(_) => Reason::RateLimited,
            Fault::Unsent | Fault::Reset { .. } | Fault::AnswerTooLarge | Fault::BadAnswer(_) => Reason::Reset,
            Fault::ResponseTimeout | Fault::TryTimeout | Fault::IdleTimeout => Reason::ResponseTimeout,
            Fault::DeadlineExceeded => Reason::DeadlineExceeded,
            Fault::CallerGone => Reason::ClientGone,
            Fault::Draining => Reason::Draining,
        }
    }

    /// The same fault where it was the application beside us that could not be reached.
    pub(crate) fn seen_from(self, direction: Direction) -> Self {
        match self {
            Fault::ConnectFailed(_) if direction == Direction::Inbound => Fault::AppUnreachable,
            // somebody listens and takes no more: it is busy, not dead
            Fault::ConnectTimeout if direction == Direction::Inbound => {
                Fault::Shed("the application takes no more connections")
            }
            fault => fault,
        }
    }

    /// What the instance's breaker is told. Faults that are not the instance's are ignored there.
    pub(crate) fn blame(&self) -> Outcome {
        classify(self.happening())
    }

    /// What happened to the attempt: whose blame it is, and whether another may mend it.
    pub(crate) fn happening(&self) -> Happening {
        match self {
            Fault::NoRoute
            | Fault::Redirected(_)
            | Fault::Preflight(_)
            | Fault::NoBackend
            | Fault::BadRoute(_)
            | Fault::DiscoveryTimeout
            | Fault::Denied(_)
            | Fault::BadRequest(_)
            | Fault::TooLarge
            | Fault::UriTooLong
            | Fault::Expectation
            | Fault::CallerSlow(_)
            | Fault::NoInstance
            | Fault::CircuitOpen { .. }
            | Fault::Throttled { .. }
            | Fault::AllTried
            | Fault::PlainDenied
            | Fault::PeerDenied
            | Fault::CallerGone
            | Fault::Shed(_)
            | Fault::Full(_)
            | Fault::RateLimited(_)
            | Fault::DeadlineExceeded
            | Fault::Draining => Happening::Local,
            Fault::PeerOverloaded => Happening::Overloaded,
            Fault::ConnectFailed(_) => Happening::ConnectRefused,
            // nobody is let in: to its callers as if nothing listened
            Fault::AppUnreachable | Fault::Untold => Happening::AppUnreachable,
            Fault::ConnectTimeout => Happening::ConnectTimeout,
            Fault::PeerRefused(_) | Fault::WrongIdentity { .. } => Happening::TlsFailed,
            Fault::OwnIdentity(_) => Happening::OwnIdentityRefused,
            Fault::Unsent => Happening::Unsent,
            Fault::Reset { begun: true, .. } => Happening::Truncated,
            Fault::Reset { reused: true, begun: false } => Happening::ResetReused,
            Fault::Reset { reused: false, begun: false } | Fault::AnswerTooLarge | Fault::BadAnswer(_) => {
                Happening::Reset
            }
            Fault::ResponseTimeout | Fault::TryTimeout | Fault::IdleTimeout => Happening::Timeout,
        }
    }

    /// Whether it is certain that no application saw any of the request, so that sending it elsewhere duplicates nothing.
    pub(crate) fn unsent(&self) -> bool {
        match self {
            Fault::ConnectFailed(_)
            | Fault::ConnectTimeout
            | Fault::AppUnreachable
            | Fault::PeerRefused(_)
            | Fault::WrongIdentity { .. }
            | Fault::PlainDenied
            | Fault::PeerDenied
            | Fault::Untold
            | Fault::PeerOverloaded
            | Fault::Shed(_)
            | Fault::Unsent => true,
            // true, but no instance could do better
            Fault::OwnIdentity(_)
            | Fault::NoRoute
            | Fault::Redirected(_)
            | Fault::Preflight(_)
            | Fault::NoBackend
            | Fault::BadRoute(_)
            | Fault::DiscoveryTimeout
            | Fault::Denied(_)
            | Fault::BadRequest(_)
            | Fault::TooLarge
            | Fault::UriTooLong
            | Fault::Expectation
            | Fault::CallerSlow(_)
            | Fault::NoInstance
            | Fault::CircuitOpen { .. }
            | Fault::Throttled { .. }
            | Fault::AllTried
            | Fault::CallerGone
            | Fault::Full(_)
            | Fault::RateLimited(_)
            | Fault::DeadlineExceeded
            | Fault::Draining => false,
            Fault::Reset { .. }
            | Fault::AnswerTooLarge
            | Fault::BadAnswer(_)
            | Fault::ResponseTimeout
            | Fault::TryTimeout
            | Fault::IdleTimeout => false,
        }
    }

    /// Whether it was the connection that ended, as kept ones do, rather than the instance that failed.
    pub(crate) fn stale(&self) -> bool {
        matches!(self, Fault::Unsent | Fault::Reset { reused: true, begun: false })
    }

    /// The limit of ours that was in the way.
    pub(crate) fn limit(&self) -> Option<Limit> {
        match self {
            Fault::Full(limit) => Some(*limit),
            Fault::Shed(_) => Some(Limit::Concurrency),
            Fault::RateLimited(_) => Some(Limit::Rate),
            _ => None,
        }
    }

    /// When another try makes sense, where that is known.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Fault::CircuitOpen { retry_after, .. } => Some(*retry_after).filter(|after| !after.is_zero()),
            Fault::RateLimited(over) => Some(over.retry_after),
            _ => None,
        }
    }

    /// One clause for `fusewire-detail` and the access log: what an operator would ask next.
    pub(crate) fn detail(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Fault::NoRoute => "no route or service has this authority, path, method, headers and query".into(),
            Fault::Preflight(asked) => match asked.fields {
                Some(_) => "the route says which pages may call the service".into(),
                None => "the route does not let pages of that origin call the service".into(),
            },
            Fault::NoBackend => "what the route names for this share of the requests does not exist".into(),
            Fault::DiscoveryTimeout => {
                "the control plane did not answer in time and nothing is held for this authority".into()
            }
            Fault::Denied(why) | Fault::BadRequest(why) => why.clone(),
            Fault::TooLarge => {
                "the request's fields are more or larger than limits.header_count and header_bytes".into()
            }
            Fault::UriTooLong => "the request's target is longer than limits.target_bytes".into(),
            Fault::Expectation => "the one expectation that can be met is 100-continue".into(),
            Fault::CallerSlow(why) | Fault::BadAnswer(why) | Fault::BadRoute(why) => (*why).into(),
            Fault::AnswerTooLarge => "the answer's fields are larger than 64 KiB".into(),
            Fault::NoInstance => "the service has no instances".into(),
            Fault::CircuitOpen { scope, service, .. } => match scope {
                Scope::Instances(1) => {
                    format!("scope=instance service={service}: the circuit of its only instance is open").into()
                }
                Scope::Instances(all) => {
                    format!("scope=instance service={service}: the circuits of all {all} instances are open").into()
                }
                Scope::Service => format!("scope=service service={service}: its circuit is open").into(),
                Scope::Route => {
                    format!("scope=route service={service}: the circuit of the route's rule is open").into()
                }
                Scope::Ramp => {
                    format!("scope=service service={service}: its circuit has just closed, and lets more in by and by")
                        .into()
                }
            },
            Fault::Throttled { probability } => {
                format!("scope=service: it refuses, so {:.0} % are not sent", probability * 100.0).into()
            }
            Fault::AllTried => "every instance was tried".into(),
            Fault::PlainDenied => "the instance has no identity, and the policy does not say `plain: allow`".into(),
            Fault::PeerDenied => "the instance's identity is denied".into(),
            Fault::Untold => "the instance's sidecar has not been told yet whom to let in".into(),
            Fault::PeerOverloaded => "the instance's sidecar is at its limit".into(),
            Fault::Shed(why) => (*why).into(),
            Fault::Full(limit) => format!("limit.{}: all are taken", limit.word()).into(),
            Fault::RateLimited(over) => over.detail.clone().into(),
            Fault::ConnectFailed(kind) => format!("connect: {kind}").into(),
            Fault::AppUnreachable => "the application does not accept connections".into(),
            Fault::PeerRefused(why) | Fault::OwnIdentity(why) => why.clone().into(),
            Fault::WrongIdentity { expected, got } => format!("expected {expected}, got {got}").into(),
            Fault::Reset { begun: true, .. } => "the connection broke within the response".into(),
            Fault::Reset { .. } => "the connection broke before the response".into(),
            Fault::ResponseTimeout => "no response headers within timeout.request, or the caller's deadline".into(),
            Fault::TryTimeout => "no response headers within retry.per_try_timeout".into(),
            Fault::DeadlineExceeded => "the caller's deadline is over".into(),
            Fault::IdleTimeout => "no byte within timeout.idle".into(),
            Fault::ConnectTimeout => "no connection within timeout.connect".into(),
            Fault::Redirected(_) | Fault::Unsent | Fault::CallerGone | Fault::Draining => return None,
        })
    }
}
