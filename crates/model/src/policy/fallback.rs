//! `fallback`: what the caller gets where the service gives nothing.

use crate::name::ServiceName;
use std::time::Duration;

/// The most bytes of a `static` body.
pub const MAX_BODY: usize = 64 << 10;
/// The most fields of a `static` answer.
pub const MAX_FIELDS: usize = 32;
/// The most fallbacks of one policy.
pub const MAX_CHAIN: usize = 8;

/// Tried in order where the mesh refused (an open circuit, a limit, no instance) or the last attempt failed; never for a
/// status below 500, never once an answer has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    Static(StaticAnswer),
    /// `stale`: the last good answer to the same GET, not older than this. 1 s to 24 h.
    Stale {
        max_age: Duration,
    },
    /// `service`: the same request to another service: its circuits, what is left of the time, no retries, no fallback.
    Service(ServiceName),
    /// `empty`: 204, or an empty gRPC message with status OK.
    Empty,
    /// `fail`: an error of one's own.
    Fail {
        /// 400..599, default 503.
        status: u16,
        /// 1 s to 24 h.
        retry_after: Option<Duration>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticAnswer {
    /// 200..599, default 200. For gRPC callers `grpc_status` counts instead.
    pub status: u16,
    /// Names in lower case; at most [`MAX_FIELDS`].
    pub headers: Vec<(String, String)>,
    /// At most [`MAX_BODY`] bytes. gRPC callers get it as one message.
    pub body: String,
    /// 0..16, default 0.
    pub grpc_status: u8,
}

impl Fallback {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Static(_) => "static",
            Self::Stale { .. } => "stale",
            Self::Service(_) => "service",
            Self::Empty => "empty",
            Self::Fail { .. } => "fail",
        }
    }
}

/// RFC 9110, 5.1, in lower case, and none that frames a message or is ours.
pub fn is_field_name(name: &str) -> bool {
    const FRAMING: [&str; 8] =
        ["connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=128).contains(&name.len())
        && name.bytes().all(fits)
        && !FRAMING.contains(&name)
        && !name.starts_with("fusewire-")
}

/// Visible ASCII, spaces only inside; at most 4,096 bytes.
pub fn is_field_value(value: &str) -> bool {
    value.len() <= 4096 && value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) && value.trim() == value
}
