//! What the end of an attempt says about the instance that had it.
//!
//! Decides the class (ok, hard, soft, ignored) and the evidence for it. It deliberately does not decide whether to
//! retry, nor whether the failure opens anything: `trigger` weighs outcomes against each other and against the peers.
//!
//! Two failure classes, because one is not enough: *hard* says this instance is broken and may open its circuit;
//! *soft* (timeouts, 503, overload) is what every instance shows under load, and a breaker that counts it takes the
//! last capacity away. Invariant: nothing that this sidecar did itself is ever held against an instance.

use std::time::Duration;

/// How an attempt counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    Ok,
    Hard,
    Soft,
    /// Says nothing about the instance: the permit goes back and no count changes.
    Ignored,
}

/// What kind of fact stands behind the class.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Evidence {
    /// No evidence against the instance.
    Clean,
    /// Refused, no route, TLS failure, or the inbound sidecar could not reach its application.
    Connect,
    /// The connection did not come up in time. Soft by itself (a full backlog is overload, not death); the attempt
    /// makes it hard if a peer accepted a new connection at the same time.
    ConnectTimeout,
    /// The connection broke after request bytes were sent.
    Reset,
    /// The instance answered, with a status that says it failed. Judged against the peers: a route that is broken
    /// everywhere answers the same.
    Status,
    /// The answer's body broke off or made no sense. Weighed like a status.
    Body,
    /// No answer in time, or a client that would not wait longer.
    Timeout,
    /// Refused before the application saw it. Says busy, not sick.
    Overload,
}

/// The class of one attempt, its evidence, and the wait that the instance asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Outcome {
    pub class: Class,
    pub evidence: Evidence,
    /// `Retry-After` or gRPC pushback of this answer. If the answer opens the circuit, it stays open at least this
    /// long (up to `open_max`).
    pub retry_hint: Option<Duration>,
}

impl Outcome {
    pub const OK: Outcome = Outcome::new(Class::Ok, Evidence::Clean);
    pub const IGNORED: Outcome = Outcome::new(Class::Ignored, Evidence::Clean);

    pub const fn new(class: Class, evidence: Evidence) -> Outcome {
        Outcome { class, evidence, retry_hint: None }
    }

    #[must_use]
    pub const fn with_retry_hint(mut self, hint: Duration) -> Outcome {
        self.retry_hint = Some(hint);
        self
    }

    pub fn is_failure(self) -> bool {
        matches!(self.class, Class::Hard | Class::Soft)
    }

    /// Whether at least one response byte came from the instance.
    pub(crate) fn is_answer(self) -> bool {
        match self.evidence {
            Evidence::Clean => self.class == Class::Ok,
            Evidence::Status | Evidence::Body | Evidence::Overload => true,
            Evidence::Connect | Evidence::ConnectTimeout | Evidence::Reset | Evidence::Timeout => false,
        }
    }

    /// Hard without asking the peers: what an application cannot produce by answering badly.
    pub(crate) fn is_absolute(self) -> bool {
        self.class == Class::Hard && matches!(self.evidence, Evidence::Connect | Evidence::Reset)
    }

    /// Timeouts and not-processed answers: the signs of load that the unresponsive trigger compares among peers.
    pub(crate) fn is_strain(self) -> bool {
        matches!(self.evidence, Evidence::Timeout | Evidence::ConnectTimeout | Evidence::Overload)
    }
}

/// What happened to an attempt, in the words of the data plane.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Happening {
    /// The stream ended as it should.
    Complete,
    /// Response headers with this HTTP status.
    Status(u16),
    /// A gRPC status that the server sent, from headers or trailers.
    Grpc(u8),
    /// Refused, reset while connecting, or no route to the address.
    ConnectRefused,
    ConnectTimeout,
    /// The peer's side of a TLS handshake failed.
    TlsFailed,
    /// The peer refused our certificate, or ours has expired.
    OwnIdentityRefused,
    /// The connection was gone before the first byte was written; the request is whole.
    Unsent,
    /// A reused connection broke after request bytes were sent, before any response byte: the keep-alive race.
    ResetReused,
    /// A connection broke after request bytes were sent, and no keep-alive race explains it.
    Reset,
    /// The body ended early, or trailers are missing after good headers.
    Truncated,
    /// The body broke the protocol.
    ProtocolError,
    /// The per-try or route timeout ran out while this instance held the request.
    Timeout,
    /// A peer's sidecar could not reach its application (believed only from mTLS peers' sidecars).
    AppUnreachable,
    /// A peer's sidecar shed the request before its application saw it (same).
    Overloaded,
    /// A peer's sidecar dropped the request because its deadline had passed (same).
    DeadlineExceeded,
    /// The caller left before response headers, after `waited`. `limit` is the time it could reasonably have waited:
    /// the smaller of the route timeout and the `slow` threshold, if either is set.
    ClientGone {
        waited: Duration,
        limit: Option<Duration>,
    },
    /// The caller left after good headers, and those headers were the verdict (not gRPC).
    ClientGoneAfterHeaders,
    /// The caller left after headers that were no verdict yet (gRPC: the trailers would have been).
    ClientGoneBeforeTrailers,
    /// We cancelled the slower of two hedged attempts.
    HedgeLost,
    /// Our own limiter, budget, breaker, filter, or a name that did not resolve.
    Local,
}

/// The classification table. Per-route exceptions are [`ClassRules`](crate::ClassRules).
pub fn classify(happening: Happening) -> Outcome {
    use Happening as H;
    match happening {
        H::Complete | H::ClientGoneAfterHeaders => Outcome::OK,
        H::Status(code) => status(code),
        H::Grpc(code) => grpc(code),
        H::ConnectRefused | H::TlsFailed | H::AppUnreachable => Outcome::new(Class::Hard, Evidence::Connect),
        H::ConnectTimeout => Outcome::new(Class::Soft, Evidence::ConnectTimeout),
        H::Reset => Outcome::new(Class::Hard, Evidence::Reset),
        H::Truncated | H::ProtocolError => Outcome::new(Class::Hard, Evidence::Body),
        H::Timeout => Outcome::new(Class::Soft, Evidence::Timeout),
        H::Overloaded | H::DeadlineExceeded => Outcome::new(Class::Soft, Evidence::Overload),
        H::ClientGone { waited, limit: Some(limit) } if waited.as_nanos() * 10 >= limit.as_nanos() * 8 => {
            Outcome::new(Class::Soft, Evidence::Timeout)
        }
        H::ClientGone { .. } | H::ClientGoneBeforeTrailers | H::HedgeLost => Outcome::IGNORED,
        H::OwnIdentityRefused | H::Unsent | H::ResetReused | H::Local => Outcome::IGNORED,
    }
}

/// 501 is ok: the application lacks a feature, it is not sick. 429 is ok: one tenant over its quota must not condemn
/// the instance for the others.
fn status(code: u16) -> Outcome {
    match code {
        500 | 502 | 505..=508 | 510 | 511 => Outcome::new(Class::Hard, Evidence::Status),
        408 | 503 | 504 => Outcome::new(Class::Soft, Evidence::Status),
        _ => Outcome::OK,
    }
}

/// UNKNOWN is hard because most frameworks answer it for an exception that nobody caught. UNIMPLEMENTED is ok, so that
/// one missing method cannot condemn a node. A server that sends UNAVAILABLE is busy or draining: soft.
fn grpc(code: u8) -> Outcome {
    match code {
        2 | 13 | 15 => Outcome::new(Class::Hard, Evidence::Status),
        4 | 14 => Outcome::new(Class::Soft, Evidence::Status),
        _ => Outcome::OK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(happening: Happening, class: Class, evidence: Evidence) {
        assert_eq!(classify(happening), Outcome::new(class, evidence), "{happening:?}");
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn refused_connections_failed_handshakes_and_unreachable_applications_are_hard_connect() {
        for happening in [Happening::ConnectRefused, Happening::TlsFailed, Happening::AppUnreachable] {
            is(happening, Class::Hard, Evidence::Connect);
        }
    }

    #[test]
    fn our_own_identity_is_never_the_instances_fault() {
        is(Happening::OwnIdentityRefused, Class::Ignored, Evidence::Clean);
    }

    #[test]
    fn an_unsent_request_is_ignored() {
        is(Happening::Unsent, Class::Ignored, Evidence::Clean);
    }

    #[test]
    fn the_keep_alive_race_is_ignored() {
        is(Happening::ResetReused, Class::Ignored, Evidence::Clean);
    }

    #[test]
    fn any_other_reset_is_hard() {
        is(Happening::Reset, Class::Hard, Evidence::Reset);
    }

    #[test]
    fn server_error_statuses_are_hard_by_status() {
        for code in [500, 502, 505, 506, 507, 508, 510, 511] {
            is(Happening::Status(code), Class::Hard, Evidence::Status);
        }
    }

    #[test]
    fn busy_statuses_are_soft() {
        for code in [503, 504, 408] {
            is(Happening::Status(code), Class::Soft, Evidence::Status);
        }
    }

    #[test]
    fn every_other_status_is_ok_also_501_and_429() {
        for code in (100..500).filter(|code| *code != 408).chain([501, 509, 599]) {
            is(Happening::Status(code), Class::Ok, Evidence::Clean);
        }
    }

    #[test]
    fn timeouts_are_soft() {
        is(Happening::Timeout, Class::Soft, Evidence::Timeout);
    }

    #[test]
    fn grpc_internal_unknown_and_data_loss_are_hard_by_status() {
        for code in [13, 2, 15] {
            is(Happening::Grpc(code), Class::Hard, Evidence::Status);
        }
    }

    #[test]
    fn a_server_that_sends_unavailable_or_deadline_exceeded_is_soft() {
        for code in [14, 4] {
            is(Happening::Grpc(code), Class::Soft, Evidence::Status);
        }
    }

    #[test]
    fn every_other_grpc_code_is_ok_also_resource_exhausted_and_unimplemented() {
        for code in [0, 1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 16, 99] {
            is(Happening::Grpc(code), Class::Ok, Evidence::Clean);
        }
    }

    #[test]
    fn broken_bodies_are_hard() {
        is(Happening::Truncated, Class::Hard, Evidence::Body);
        is(Happening::ProtocolError, Class::Hard, Evidence::Body);
    }

    #[test]
    fn a_connect_timeout_is_soft_until_peers_say_otherwise() {
        is(Happening::ConnectTimeout, Class::Soft, Evidence::ConnectTimeout);
    }

    #[test]
    fn shed_and_expired_requests_are_soft_overload() {
        is(Happening::Overloaded, Class::Soft, Evidence::Overload);
        is(Happening::DeadlineExceeded, Class::Soft, Evidence::Overload);
    }

    #[test]
    fn a_client_that_leaves_early_says_nothing_and_one_that_waited_out_its_limit_says_timeout() {
        let gone = |waited, limit| Happening::ClientGone { waited: secs(waited), limit };
        is(gone(7, Some(secs(10))), Class::Ignored, Evidence::Clean);
        is(gone(8, Some(secs(10))), Class::Soft, Evidence::Timeout);
        is(gone(1000, None), Class::Ignored, Evidence::Clean);
    }

    #[test]
    fn a_client_that_leaves_after_headers_counts_only_where_headers_were_the_verdict() {
        is(Happening::ClientGoneAfterHeaders, Class::Ok, Evidence::Clean);
        is(Happening::ClientGoneBeforeTrailers, Class::Ignored, Evidence::Clean);
    }

    #[test]
    fn what_we_did_ourselves_is_ignored() {
        is(Happening::Local, Class::Ignored, Evidence::Clean);
        is(Happening::HedgeLost, Class::Ignored, Evidence::Clean);
    }

    #[test]
    fn a_complete_stream_is_ok() {
        is(Happening::Complete, Class::Ok, Evidence::Clean);
    }
}
