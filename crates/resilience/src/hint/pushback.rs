//! `grpc-retry-pushback-ms`: the server's word on when to retry, or whether (gRFC A6, "Pushback").

use std::time::Duration;

use super::digits;

/// What a server that pushes back asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pushback {
    /// Retry after exactly this long, up to 2^31 - 1 ms.
    After(Duration),
    /// Negative, or not a number: A6 reads both as "do not retry".
    DoNotRetry,
}

/// Never "no pushback": a field that is present and means nothing forbids the retry. A field sent twice is for the
/// caller to pass as [`Pushback::DoNotRetry`].
pub fn pushback(value: &[u8]) -> Pushback {
    match digits(value) {
        Some(ms) if ms <= i32::MAX as u64 => Pushback::After(Duration::from_millis(ms)),
        _ => Pushback::DoNotRetry,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The table of `grpc_a6_retry.pushback_ms_parse`.
    #[test]
    fn values_mean_what_a6_says() {
        let table = [
            ("0", Some(0)),
            ("100", Some(100)),
            ("2147483647", Some(2_147_483_647)),
            ("-1", None),
            ("", None),
            ("abc", None),
            ("1.5", None),
            ("2147483648", None),
            ("12s", None),
        ];
        for (value, ms) in table {
            let expected = ms.map_or(Pushback::DoNotRetry, |ms| Pushback::After(Duration::from_millis(ms)));
            assert_eq!(pushback(value.as_bytes()), expected, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived_and_only_plain_numbers_mean_a_wait(value in prop::collection::vec(any::<u8>(), 0..16)) {
            let plain = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            if !plain {
                prop_assert_eq!(pushback(&value), Pushback::DoNotRetry);
            }
        }
    }
}
