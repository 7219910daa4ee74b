//! What the other side says about time: how long it will wait, and when to come back.
//!
//! Decides what the bytes of a header mean. Three sources, one rule: bytes from the network never panic, never
//! overflow, and never mean something by accident; what does not parse is no hint. It deliberately decides nothing
//! about retries ([`retry`](crate::retry)) and reads no clock: a header that names a date comes with the [`Wall`] time
//! that the caller read.

mod date;
mod grpc_timeout;
mod pushback;
mod retry_after;

pub use grpc_timeout::{GrpcTimeout, grpc_timeout};
pub use pushback::{Pushback, pushback};
pub use retry_after::{retry_after, retry_after_counts};

/// Milliseconds since the Unix epoch, as the caller's wall clock tells them. Only headers that carry a date need it;
/// everything else counts by [`Time`](crate::Time), which nobody can set back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Wall(pub u64);

/// Digits and nothing else, at least one; `u64::MAX` if they say more than that.
pub(crate) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, byte| {
        byte.is_ascii_digit().then(|| sum.saturating_mul(10).saturating_add(u64::from(byte - b'0')))
    })
}

/// Without the spaces and tabs that HTTP allows around a value.
pub(crate) fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_saturate_and_refuse_everything_else() {
        assert_eq!(digits(b"007"), Some(7));
        assert_eq!(digits(b"99999999999999999999999999"), Some(u64::MAX));
        for bad in [&b""[..], b"+1", b"-1", b"1.5", b" 1", b"1a", "\u{0661}".as_bytes()] {
            assert_eq!(digits(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_outer_spaces_and_tabs_are_trimmed() {
        assert_eq!(trimmed(b" \t1 2\t "), b"1 2");
        assert_eq!(trimmed(b" \t "), b"");
    }
}
