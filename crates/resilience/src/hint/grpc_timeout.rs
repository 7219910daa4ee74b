//! `grpc-timeout`: one to eight digits and a unit (gRPC over HTTP/2, "Timeout").
//!
//! Formatting rounds down, unlike most implementations: a callee that believes a deadline later than ours does work
//! that nobody waits for. The price is at most one part in a hundred thousand.

use std::time::Duration;

use super::digits;

const MAX: u64 = 99_999_999;
/// Nanoseconds of each unit, finest first.
const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// `None` for anything but 1 to 8 digits and one of `H M S m u n`. The longest is 99,999,999 hours.
pub fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, amount) = value.split_last()?;
    let (_, nanos) = UNITS.iter().find(|(letter, _)| letter == unit)?;
    if amount.len() > 8 {
        return None;
    }
    let amount = digits(amount)?;
    // Eight digits of hours are more nanoseconds than 64 bits hold, but not more seconds.
    Some(match nanos / 1_000_000_000 {
        0 => Duration::from_nanos(amount * nanos),
        seconds => Duration::from_secs(amount * seconds),
    })
}

/// A `grpc-timeout` value on the stack, ready to be written into a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrpcTimeout {
    /// Right-aligned.
    text: [u8; 9],
    from: u8,
}

impl GrpcTimeout {
    /// The value for this span in the finest unit that holds it, rounded down; at least `1n`, because the value must
    /// be positive. Spans over 99,999,999 hours become that.
    pub fn of(span: Duration) -> GrpcTimeout {
        let nanos = span.as_nanos();
        let fits = UNITS.iter().find(|(_, unit)| nanos / u128::from(*unit) <= u128::from(MAX));
        let (letter, mut amount) = match fits {
            Some((letter, unit)) => (*letter, ((nanos / u128::from(*unit)) as u64).max(1)),
            None => (b'H', MAX),
        };
        let mut text = [letter; 9];
        let mut from = 8;
        while amount > 0 {
            from -= 1;
            text[from] = b'0' + (amount % 10) as u8;
            amount /= 10;
        }
        GrpcTimeout { text, from: from as u8 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.text[usize::from(self.from)..]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The table of `header_parse.grpc_timeout`.
    #[test]
    fn values_mean_what_the_specification_says() {
        let table: [(&str, Option<u64>); 13] = [
            ("1H", Some(3_600_000_000_000)),
            ("2M", Some(120_000_000_000)),
            ("3S", Some(3_000_000_000)),
            ("250m", Some(250_000_000)),
            ("10u", Some(10_000)),
            ("5n", Some(5)),
            ("99999999S", Some(99_999_999_000_000_000)),
            ("100000000S", None),
            ("S", None),
            ("5", None),
            ("-1S", None),
            ("1 S", None),
            ("5x", None),
        ];
        for (value, nanos) in table {
            assert_eq!(grpc_timeout(value.as_bytes()), nanos.map(Duration::from_nanos), "{value}");
        }
        assert_eq!(grpc_timeout(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(grpc_timeout(b""), None);
    }

    #[test]
    fn a_span_is_written_in_the_finest_unit_that_holds_it() {
        let table = [
            (Duration::ZERO, "1n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_secs(5), "5000000u"),
            (Duration::from_secs(3600), "3600000m"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::MAX, "99999999H"),
        ];
        for (span, text) in table {
            assert_eq!(GrpcTimeout::of(span).as_bytes(), text.as_bytes(), "{span:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(value in prop::collection::vec(any::<u8>(), 0..16)) {
            let _ = grpc_timeout(&value);
        }

        #[test]
        fn what_is_written_is_read_back_never_longer_and_nearly_as_long(nanos in 1u64..) {
            let span = Duration::from_nanos(nanos);
            let back = grpc_timeout(GrpcTimeout::of(span).as_bytes()).unwrap();
            prop_assert!(back <= span);
            // Units are up to a thousand apart, so that the amount has at least five digits.
            prop_assert!(span - back <= span / 99_999, "{:?} became {:?}", span, back);
        }
    }
}
