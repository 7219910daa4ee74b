//! What a failure was for a retry's purposes, and whether this request may be sent again after it.
//!
//! Two tables (the design's section 3; RFC 9110, section 9.2.2 for methods; gRFC A6 for gRPC). Where the first one
//! says that no application saw the request, the second one is not asked.

use std::ops::BitOr;

use crate::hint::Pushback;
use crate::outcome::Happening;

/// Why an attempt could be made again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// The request is whole: refused stream, GOAWAY above it, or the connection was gone before its first byte. Sent
    /// again once, without budget and without counting as an attempt.
    Unsent,
    /// No connection, or no application behind it.
    Connect,
    /// Refused before the application saw it.
    NotProcessed,
    /// The connection broke after request bytes were sent, before an answer.
    Reset,
    /// The per-try timeout.
    Timeout,
    /// 502, 503, 504; gRPC UNAVAILABLE of a method known to be idempotent.
    Gateway,
    /// gRPC UNAVAILABLE.
    Unavailable,
    /// gRPC RESOURCE_EXHAUSTED; only with a pushback that says when.
    Exhausted,
    /// Any other 5xx. Never by default: whoever fails so once mostly fails so again.
    ServerError,
}

impl Cause {
    /// Each with the word that metrics, logs and spans have for it.
    pub const ALL: [(Cause, &'static str); 9] = [
        (Cause::Unsent, "unsent"),
        (Cause::Connect, "connect"),
        (Cause::NotProcessed, "not-processed"),
        (Cause::Reset, "reset"),
        (Cause::Timeout, "timeout"),
        (Cause::Gateway, "gateway-error"),
        (Cause::Unavailable, "unavailable"),
        (Cause::Exhausted, "exhausted"),
        (Cause::ServerError, "server-error"),
    ];

    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(cause, _)| *cause == self).map_or("", |(_, word)| word)
    }
}

/// `None`: nothing about this outcome makes a second attempt sensible.
pub fn cause(happening: Happening) -> Option<Cause> {
    use Happening as H;
    match happening {
        H::Unsent => Some(Cause::Unsent),
        H::ConnectRefused | H::ConnectTimeout | H::TlsFailed | H::AppUnreachable => Some(Cause::Connect),
        H::Overloaded => Some(Cause::NotProcessed),
        H::ResetReused | H::Reset => Some(Cause::Reset),
        H::Timeout => Some(Cause::Timeout),
        H::Status(502..=504) => Some(Cause::Gateway),
        H::Status(500..=599) => Some(Cause::ServerError),
        H::Grpc(14) => Some(Cause::Unavailable),
        H::Grpc(8) => Some(Cause::Exhausted),
        // A dropped deadline is over for every instance, and our identity is the same everywhere. What broke after
        // good headers has been passed on already.
        H::DeadlineExceeded | H::OwnIdentityRefused | H::Truncated | H::ProtocolError => None,
        H::Complete | H::Status(_) | H::Grpc(_) => None,
        H::ClientGone { .. } | H::ClientGoneAfterHeaders | H::ClientGoneBeforeTrailers => None,
        H::HedgeLost | H::Local => None,
    }
}

/// Whether a request that an application may have seen can be sent again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Repeat {
    /// Doing it twice is doing it once.
    Idempotent,
    /// Only if no application saw it.
    Unsafe,
}

/// By method, or by what says more than the method: an `Idempotency-Key`, the route's `idempotent: true`, or a gRPC
/// method option `idempotency_level`; the caller passes those as `declared`. Methods are case-sensitive; one that is
/// not known is unsafe.
pub fn repeat(method: &str, declared: Option<Repeat>) -> Repeat {
    declared.unwrap_or(match method {
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE" => Repeat::Idempotent,
        _ => Repeat::Unsafe,
    })
}

/// The causes that a policy retries; the setting `retry.on`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct On(u16);

impl On {
    pub const NOTHING: On = On(0);
    pub const CONNECT: On = On(1);
    pub const NOT_PROCESSED: On = On(1 << 1);
    pub const RESET: On = On(1 << 2);
    pub const TIMEOUT: On = On(1 << 3);
    /// 502, 503 and 504, and gRPC UNAVAILABLE, of what may be repeated.
    pub const GATEWAY_ERROR: On = On(1 << 4);
    /// gRPC UNAVAILABLE and RESOURCE_EXHAUSTED with pushback, of every method: who sets it says that the servers mean
    /// "not done" by them, as gRPC's convention has it.
    pub const UNAVAILABLE: On = On(1 << 5);
    /// 500 and the rest of the 5xx, of what may be repeated.
    pub const SERVER_ERROR: On = On(1 << 6);

    /// Each cause by the word that a policy writes for it.
    pub const NAMES: [(&str, On); 7] = [
        ("connect", On::CONNECT),
        ("not_processed", On::NOT_PROCESSED),
        ("reset", On::RESET),
        ("timeout", On::TIMEOUT),
        ("gateway_error", On::GATEWAY_ERROR),
        ("unavailable", On::UNAVAILABLE),
        ("server_error", On::SERVER_ERROR),
    ];

    pub fn has(self, other: On) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for On {
    type Output = On;

    fn bitor(self, other: On) -> On {
        On(self.0 | other.0)
    }
}

impl Default for On {
    /// Everything that a request which may be repeated survives, but 500; and what no application saw.
    fn default() -> On {
        On::CONNECT | On::NOT_PROCESSED | On::RESET | On::TIMEOUT | On::GATEWAY_ERROR
    }
}

/// Why the tables say no.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Refusal {
    NotNamed,
    Unsafe,
    Pushback,
}

/// The two tables and the server's pushback together; the cause that was let through.
pub(crate) fn permitted(
    happening: Happening,
    repeat: Repeat,
    on: On,
    pushback: Option<Pushback>,
) -> Result<Cause, Refusal> {
    let cause = cause(happening).ok_or(Refusal::NotNamed)?;
    if cause == Cause::Unsent {
        return Ok(cause);
    }
    if pushback == Some(Pushback::DoNotRetry) {
        return Err(Refusal::Pushback);
    }
    let idempotent = repeat == Repeat::Idempotent;
    // Named, and needs no leave of the request; or named for what may be repeated alone.
    let (free, bound) = match cause {
        Cause::Unsent | Cause::Connect => (on.has(On::CONNECT), false),
        Cause::NotProcessed => (on.has(On::NOT_PROCESSED), false),
        Cause::Reset => (false, on.has(On::RESET)),
        Cause::Timeout => (false, on.has(On::TIMEOUT)),
        Cause::Gateway => (false, on.has(On::GATEWAY_ERROR)),
        Cause::Unavailable => (on.has(On::UNAVAILABLE), on.has(On::GATEWAY_ERROR)),
        Cause::Exhausted if pushback.is_none() => return Err(Refusal::Pushback),
        Cause::Exhausted => (on.has(On::UNAVAILABLE), on.has(On::GATEWAY_ERROR)),
        Cause::ServerError => (false, on.has(On::SERVER_ERROR)),
    };
    match (free, bound, idempotent) {
        (true, _, _) | (_, true, true) => Ok(cause),
        (false, true, false) => Err(Refusal::Unsafe),
        (false, false, _) => Err(Refusal::NotNamed),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use Happening as H;

    const ALL: On = On(0x7f);

    fn allowed(happening: Happening, repeat: Repeat) -> bool {
        permitted(happening, repeat, On::default(), None).is_ok()
    }

    #[test]
    fn what_no_application_saw_is_repeated_whatever_the_method() {
        for happening in
            [H::Unsent, H::ConnectRefused, H::ConnectTimeout, H::TlsFailed, H::AppUnreachable, H::Overloaded]
        {
            assert!(allowed(happening, Repeat::Unsafe), "{happening:?}");
            assert!(allowed(happening, Repeat::Idempotent), "{happening:?}");
        }
    }

    #[test]
    fn what_an_application_may_have_seen_is_repeated_only_if_that_does_no_harm() {
        for happening in
            [H::Reset, H::ResetReused, H::Timeout, H::Status(502), H::Status(503), H::Status(504), H::Grpc(14)]
        {
            assert!(allowed(happening, Repeat::Idempotent), "{happening:?}");
            assert_eq!(
                permitted(happening, Repeat::Unsafe, On::default(), None),
                Err(Refusal::Unsafe),
                "{happening:?}"
            );
        }
    }

    #[test]
    fn what_another_attempt_cannot_mend_is_not_repeated_even_if_everything_is_named() {
        let never = [
            H::Complete,
            H::Status(200),
            H::Status(404),
            H::Status(429),
            H::Grpc(0),
            H::Grpc(1),
            H::Grpc(2),
            H::Grpc(13),
            H::Truncated,
            H::ProtocolError,
            H::DeadlineExceeded,
            H::OwnIdentityRefused,
            H::ClientGone { waited: Duration::ZERO, limit: None },
            H::ClientGoneAfterHeaders,
            H::ClientGoneBeforeTrailers,
            H::HedgeLost,
            H::Local,
        ];
        for happening in never {
            assert_eq!(permitted(happening, Repeat::Idempotent, ALL, None), Err(Refusal::NotNamed), "{happening:?}");
        }
    }

    #[test]
    fn a_500_is_never_repeated_by_default() {
        for code in [500, 501, 505, 511, 599] {
            assert!(!allowed(H::Status(code), Repeat::Idempotent));
            assert!(permitted(H::Status(code), Repeat::Idempotent, ALL, None).is_ok());
            assert_eq!(permitted(H::Status(code), Repeat::Unsafe, ALL, None), Err(Refusal::Unsafe));
        }
    }

    #[test]
    fn unavailable_is_repeated_for_every_method_only_where_the_operator_says_so() {
        assert_eq!(permitted(H::Grpc(14), Repeat::Unsafe, On::UNAVAILABLE, None), Ok(Cause::Unavailable));
        assert_eq!(permitted(H::Grpc(14), Repeat::Unsafe, On::GATEWAY_ERROR, None), Err(Refusal::Unsafe));
    }

    #[test]
    fn resource_exhausted_needs_a_pushback_that_says_when() {
        let when = Some(Pushback::After(Duration::from_millis(5)));
        let ask = |pushback| permitted(H::Grpc(8), Repeat::Idempotent, ALL, pushback);
        assert_eq!(ask(None), Err(Refusal::Pushback));
        assert_eq!(ask(when), Ok(Cause::Exhausted));
        assert_eq!(ask(Some(Pushback::DoNotRetry)), Err(Refusal::Pushback));
    }

    #[test]
    fn a_pushback_that_forbids_stops_everything_but_what_was_never_sent() {
        let no = Some(Pushback::DoNotRetry);
        assert_eq!(permitted(H::Status(503), Repeat::Idempotent, ALL, no), Err(Refusal::Pushback));
        assert_eq!(permitted(H::Overloaded, Repeat::Idempotent, ALL, no), Err(Refusal::Pushback));
        assert_eq!(permitted(H::Unsent, Repeat::Unsafe, On::NOTHING, no), Ok(Cause::Unsent));
    }

    #[test]
    fn methods_are_repeatable_as_the_rfc_says_unless_something_says_more() {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert_eq!(repeat(method, None), Repeat::Idempotent);
            assert_eq!(repeat(method, Some(Repeat::Unsafe)), Repeat::Unsafe);
        }
        for method in ["POST", "PATCH", "CONNECT", "get", "PURGE", ""] {
            assert_eq!(repeat(method, None), Repeat::Unsafe);
            assert_eq!(repeat(method, Some(Repeat::Idempotent)), Repeat::Idempotent);
        }
    }
}
