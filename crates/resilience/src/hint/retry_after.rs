//! `Retry-After`: seconds or a date (RFC 9110, section 10.2.3).
//!
//! It says when, never that nothing was done: it is no licence to repeat a POST.

use std::time::Duration;

use super::{Wall, date, digits, trimmed};

/// How long to wait, at most `cap`; zero for a date that is past. `None` if the value is neither whole seconds nor one
/// of the three date forms. A date counts in whole seconds, rounded up, so that nobody comes back a moment too early.
pub fn retry_after(value: &[u8], now: Wall, cap: Duration) -> Option<Duration> {
    let value = trimmed(value);
    let seconds = match digits(value) {
        Some(seconds) => seconds,
        None => {
            let then = date::http_date(value, now)?;
            let now = i64::try_from(now.0.div_euclid(1000)).unwrap_or(i64::MAX);
            u64::try_from(then.saturating_sub(now)).unwrap_or(0)
        }
    };
    Some(Duration::from_secs(seconds).min(cap))
}

/// Whether the header means "come back then" with this status. On a redirect it means something else, and on other
/// statuses nothing.
pub fn retry_after_counts(status: u16) -> bool {
    matches!(status, 429 | 503)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Wed, 21 Oct 2015 07:28:00 GMT.
    const NOW: Wall = Wall(1_445_412_480_000);
    const CAP: Duration = Duration::from_secs(60);

    /// The table of `header_parse.retry_after`.
    #[test]
    fn values_mean_what_the_rfc_says() {
        let table = [
            ("0", Some(0)),
            ("5", Some(5)),
            ("120", Some(60)),
            ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("-5", None),
            ("soon", None),
            ("1.5", None),
        ];
        for (value, seconds) in table {
            assert_eq!(retry_after(value.as_bytes(), NOW, CAP), seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn a_wait_of_centuries_is_the_cap() {
        assert_eq!(retry_after(b"99999999999999999999999", NOW, CAP), Some(CAP));
        assert_eq!(retry_after(b"Fri, 31 Dec 9999 23:59:59 GMT", NOW, CAP), Some(CAP));
        assert_eq!(retry_after(b"Fri, 31 Dec 9999 23:59:59 GMT", Wall(u64::MAX), CAP), Some(Duration::ZERO));
    }

    #[test]
    fn spaces_around_the_value_do_not_matter() {
        assert_eq!(retry_after(b" 5\t", NOW, CAP), Some(Duration::from_secs(5)));
    }

    #[test]
    fn the_header_counts_on_429_and_503_alone() {
        let counting: Vec<u16> = (100..600).filter(|status| retry_after_counts(*status)).collect();
        assert_eq!(counting, [429, 503]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived_and_the_cap_holds(value in prop::collection::vec(any::<u8>(), 0..40), now: u64) {
            prop_assert!(retry_after(&value, Wall(now), CAP).is_none_or(|wait| wait <= CAP));
        }

        #[test]
        fn anything_that_resembles_a_date_is_survived(
            value in "[A-Z][a-z]{2,8},? [0-9]{1,2}[ -][A-Z][a-z]{2}[ -][0-9]{2,4} [0-9]{2}:[0-9]{2}:[0-9]{2}( GMT)?",
            now: u64,
        ) {
            prop_assert!(retry_after(value.as_bytes(), Wall(now), CAP).is_none_or(|wait| wait <= CAP));
        }
    }
}
