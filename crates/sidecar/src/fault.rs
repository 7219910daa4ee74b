//! Everything that can go wrong with a request, and the three questions each fault must answer.
//!
//! Which reason does the caller get? Whose blame is it? Was the request provably unsent? All three are matched without
//! `_`: a new fault does not compile until someone has answered them.

use fusewire_resilience::{Happening, Outcome, classify};
use fusewire_telemetry::Reason;
use fusewire_telemetry::metrics::Direction;
use std::borrow::Cow;
use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) enum Fault {
    NoRoute,
    /// The control plane did not say in time what the authority means.
    DiscoveryTimeout,
    Denied(Cow<'static, str>),
    BadRequest(Cow<'static, str>),
    /// The request's fields add up to more than any sidecar carries.
    TooLarge,
    NoInstance,
    CircuitOpen {
        retry_after: Duration,
    },
    /// Every instance was tried and refused the request before it was sent.
    AllTried,
    ConnectFailed(std::io::ErrorKind),
    ConnectTimeout,
    /// The instance has no identity, and the policy does not allow to speak in clear.
    PlainDenied,
    /// The peer's sidecar is at its limit and has not processed the request.
    PeerOverloaded,
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
    ResponseTimeout,
    IdleTimeout,
    /// The caller's side broke while its body was being read.
    CallerGone,
    Draining,
}

impl Fault {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Fault::NoRoute => Reason::NoRoute,
            Fault::Denied(_) | Fault::PlainDenied => Reason::Denied,
            Fault::BadRequest(_) => Reason::BadRequest,
            Fault::TooLarge => Reason::HeaderTooLarge,
            // not 404: the name may well exist, and the caller may try again
            Fault::NoInstance | Fault::DiscoveryTimeout => Reason::NoInstance,
            Fault::CircuitOpen { .. } => Reason::CircuitOpen,
            Fault::AllTried | Fault::ConnectFailed(_) => Reason::ConnectFailed,
            Fault::ConnectTimeout => Reason::ConnectTimeout,
            Fault::AppUnreachable => Reason::AppUnreachable,
            Fault::PeerRefused(_) | Fault::OwnIdentity(_) => Reason::TlsFailed,
            Fault::WrongIdentity { .. } => Reason::WrongIdentity,
            Fault::PeerOverloaded => Reason::Overloaded,
            Fault::Unsent | Fault::Reset { .. } | Fault::AnswerTooLarge => Reason::Reset,
            Fault::ResponseTimeout | Fault::IdleTimeout => Reason::ResponseTimeout,
            Fault::CallerGone => Reason::ClientGone,
            Fault::Draining => Reason::Draining,
        }
    }

    /// The same fault where it was the application beside us that could not be reached.
    pub(crate) fn seen_from(self, direction: Direction) -> Self {
        match self {
            Fault::ConnectFailed(_) if direction == Direction::Inbound => Fault::AppUnreachable,
            fault => fault,
        }
    }

    /// What the instance's breaker is told. Faults that are not the instance's are ignored there.
    pub(crate) fn blame(&self) -> Outcome {
        classify(match self {
            Fault::NoRoute
            | Fault::DiscoveryTimeout
            | Fault::Denied(_)
            | Fault::BadRequest(_)
            | Fault::TooLarge
            | Fault::NoInstance
            | Fault::CircuitOpen { .. }
            | Fault::AllTried
            | Fault::PlainDenied
            | Fault::CallerGone
            | Fault::Draining => Happening::Local,
            Fault::PeerOverloaded => Happening::Overloaded,
            Fault::ConnectFailed(_) => Happening::ConnectRefused,
            Fault::AppUnreachable => Happening::AppUnreachable,
            Fault::ConnectTimeout => Happening::ConnectTimeout,
            Fault::PeerRefused(_) | Fault::WrongIdentity { .. } => Happening::TlsFailed,
            Fault::OwnIdentity(_) => Happening::OwnIdentityRefused,
            Fault::Unsent => Happening::Unsent,
            Fault::Reset { begun: true, .. } => Happening::Truncated,
            Fault::Reset { reused: true, begun: false } => Happening::ResetReused,
            Fault::Reset { reused: false, begun: false } | Fault::AnswerTooLarge => Happening::Reset,
            Fault::ResponseTimeout | Fault::IdleTimeout => Happening::Timeout,
        })
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
            | Fault::PeerOverloaded
            | Fault::Unsent => true,
            // true, but no instance could do better
            Fault::OwnIdentity(_)
            | Fault::NoRoute
            | Fault::DiscoveryTimeout
            | Fault::Denied(_)
            | Fault::BadRequest(_)
            | Fault::TooLarge
            | Fault::NoInstance
            | Fault::CircuitOpen { .. }
            | Fault::AllTried
            | Fault::CallerGone
            | Fault::Draining => false,
            Fault::Reset { .. } | Fault::AnswerTooLarge | Fault::ResponseTimeout | Fault::IdleTimeout => false,
        }
    }

    /// Whether it was the connection that ended, as kept ones do, rather than the instance that failed.
    pub(crate) fn stale(&self) -> bool {
        matches!(self, Fault::Unsent | Fault::Reset { reused: true, begun: false })
    }

    /// One clause for `fusewire-detail` and the access log: what an operator would ask next.
    pub(crate) fn detail(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Fault::NoRoute => "no route or service has this authority, path, method and headers".into(),
            Fault::DiscoveryTimeout => {
                "the control plane did not answer in time and nothing is held for this authority".into()
            }
            Fault::Denied(why) | Fault::BadRequest(why) => why.clone(),
            Fault::TooLarge => "the request's fields are larger than 64 KiB".into(),
            Fault::AnswerTooLarge => "the answer's fields are larger than 64 KiB".into(),
            Fault::NoInstance => "the service has no instances".into(),
            Fault::CircuitOpen { .. } => "scope=instance: every instance's circuit is open".into(),
            Fault::AllTried => "every instance was tried".into(),
            Fault::PlainDenied => "the instance has no identity, and the policy does not say `plain: allow`".into(),
            Fault::PeerOverloaded => "the instance's sidecar is at its limit".into(),
            Fault::ConnectFailed(kind) => format!("connect: {kind}").into(),
            Fault::AppUnreachable => "the application does not accept connections".into(),
            Fault::PeerRefused(why) | Fault::OwnIdentity(why) => why.clone().into(),
            Fault::WrongIdentity { expected, got } => format!("expected {expected}, got {got}").into(),
            Fault::Reset { begun: true, .. } => "the connection broke within the response".into(),
            Fault::Reset { .. } => "the connection broke before the response".into(),
            Fault::ResponseTimeout => "no response headers within timeout.request".into(),
            Fault::IdleTimeout => "no byte within timeout.idle".into(),
            Fault::ConnectTimeout => "no connection within timeout.connect".into(),
            Fault::Unsent | Fault::CallerGone | Fault::Draining => return None,
        })
    }
}
