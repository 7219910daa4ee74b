//! One word for why the mesh itself answered, or refused.
//!
//! The same word stands in the `fusewire-reason` header, the access log, the metric label and the span. Every answer that
//! we originate has exactly one.

use http::StatusCode;

/// gRPC status codes that we originate (google.rpc.Code).
mod grpc {
    pub(super) const INVALID_ARGUMENT: u8 = 3;
    pub(super) const DEADLINE_EXCEEDED: u8 = 4;
    pub(super) const PERMISSION_DENIED: u8 = 7;
    pub(super) const RESOURCE_EXHAUSTED: u8 = 8;
    pub(super) const UNIMPLEMENTED: u8 = 12;
    pub(super) const INTERNAL: u8 = 13;
    pub(super) const UNAVAILABLE: u8 = 14;
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $status:literal, $grpc:ident;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }
        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];
            /// The word, as in `fusewire-reason`.
            pub const fn word(self) -> &'static str {
                match self { $(Reason::$name => $word,)* }
            }
            pub const fn status_code(self) -> u16 {
                match self { $(Reason::$name => $status,)* }
            }
            /// The `grpc-status` that a gRPC caller gets instead of the HTTP status.
            pub const fn grpc_status(self) -> u8 {
                match self { $(Reason::$name => grpc::$grpc,)* }
            }
            /// The reason with this word.
            pub fn from_word(word: &[u8]) -> Option<Self> {
                Self::ALL.iter().copied().find(|r| r.word().as_bytes() == word)
            }
        }
    };
}

reasons! {
    /// No route or service has this authority, path, method, headers and query.
    NoRoute = "no-route", 404, UNIMPLEMENTED;
    /// The route's rule sends the caller elsewhere, by the status that it says. No failure.
    Redirected = "redirected", 302, UNIMPLEMENTED;
    /// The route's rule says for the service which pages may call it, before they do. No failure.
    Preflight = "preflight", 204, UNIMPLEMENTED;
    /// What the route's rule names for this share of the requests does not exist, or may not be used.
    NoBackend = "no-backend", 500, UNAVAILABLE;
    /// What the route's rule makes of the request cannot be sent: no valid path.
    BadRoute = "bad-route", 500, INTERNAL;
    /// The peer's identity, or its lack of one, is not let in; or talking in clear is not allowed.
    Denied = "denied", 403, PERMISSION_DENIED;
    /// The request cannot be understood or carried.
    BadRequest = "bad-request", 400, INVALID_ARGUMENT;
    HeaderTooLarge = "header-too-large", 431, RESOURCE_EXHAUSTED;
    UriTooLong = "uri-too-long", 414, RESOURCE_EXHAUSTED;
    /// The caller took longer over its request than the limits allow.
    RequestTimeout = "request-timeout", 408, DEADLINE_EXCEEDED;
    /// The request expects something else than `100-continue`.
    ExpectationFailed = "expectation-failed", 417, INVALID_ARGUMENT;
    /// The service has no instances.
    NoInstance = "no-instance", 503, UNAVAILABLE;
    /// Every instance's circuit is open; answered at once, with Retry-After.
    CircuitOpen = "circuit-open", 503, UNAVAILABLE;
    /// A bound of ours was reached.
    Overloaded = "overloaded", 503, UNAVAILABLE;
    RateLimited = "rate-limited", 429, RESOURCE_EXHAUSTED;
    /// TCP to the instance was refused or unreachable.
    ConnectFailed = "connect-failed", 502, UNAVAILABLE;
    ConnectTimeout = "connect-timeout", 504, UNAVAILABLE;
    /// The inbound sidecar could not reach its application.
    AppUnreachable = "app-unreachable", 503, UNAVAILABLE;
    /// The TLS handshake failed: a certificate that is foreign, expired or missing, on either side.
    TlsFailed = "tls-failed", 502, UNAVAILABLE;
    /// The peer proved to be somebody else.
    WrongIdentity = "wrong-identity", 502, UNAVAILABLE;
    /// The connection broke before the answer was complete.
    Reset = "reset", 502, UNAVAILABLE;
    /// No response headers in the policy's `timeout.request`, or no byte in `timeout.idle`.
    ResponseTimeout = "response-timeout", 504, DEADLINE_EXCEEDED;
    /// The caller's own deadline was over.
    DeadlineExceeded = "deadline-exceeded", 504, DEADLINE_EXCEEDED;
    /// Another answer stands in for one of the service's own failures; where the mesh had failed, its reason says so.
    Fallback = "fallback", 503, UNAVAILABLE;
    /// The caller left first. Only in logs and metrics.
    ClientGone = "client-gone", 499, UNAVAILABLE;
    /// This sidecar is shutting down.
    Draining = "draining", 503, UNAVAILABLE;
}

impl Reason {
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.status_code()).unwrap_or(StatusCode::BAD_GATEWAY)
    }

    /// Whether anything went wrong.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Redirected | Self::Preflight)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_its_own_and_leads_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_word(reason.word().as_bytes()), Some(*reason));
            assert!(StatusCode::from_u16(reason.status_code()).is_ok());
        }
    }
}
