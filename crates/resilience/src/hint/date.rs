//! The three date forms of HTTP (RFC 9110, section 5.6.7), to seconds since the Unix epoch.
//!
//! The forms are read strictly, letter by letter, because a hint that is half understood is worse than none. One thing
//! is deliberately not checked: that the day of the week belongs to the date.

use super::{Wall, digits};

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
const DAYS: [&[u8]; 7] = [b"Sunday", b"Monday", b"Tuesday", b"Wednesday", b"Thursday", b"Friday", b"Saturday"];

/// Seconds since the epoch, negative before it. `now` decides the century of a two-digit year.
pub(super) fn http_date(text: &[u8], now: Wall) -> Option<i64> {
    let comma = text.iter().position(|byte| *byte == b',');
    match comma {
        Some(3) => fixed(text),
        Some(at) => rfc850(&text[..at], &text[at..], now),
        None => asctime(text),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn fixed(text: &[u8]) -> Option<i64> {
    let [d0, d1, d2, b',', b' ', rest @ ..] = text else { return None };
    let [
        day @ ..,
        b' ',
        m0,
        m1,
        m2,
        b' ',
        y0,
        y1,
        y2,
        y3,
        b' ',
        c0,
        c1,
        c2,
        c3,
        c4,
        c5,
        c6,
        c7,
        b' ',
        b'G',
        b'M',
        b'T',
    ] = rest
    else {
        return None;
    };
    is_day(&[*d0, *d1, *d2])?;
    let date = (digits(&[*y0, *y1, *y2, *y3])?, month(&[*m0, *m1, *m2])?, two(day)?);
    seconds(date, &[*c0, *c1, *c2, *c3, *c4, *c5, *c6, *c7])
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
fn rfc850(day_name: &[u8], rest: &[u8], now: Wall) -> Option<i64> {
    let [b',', b' ', rest @ ..] = rest else { return None };
    let [day @ .., b'-', m0, m1, m2, b'-', y0, y1, b' ', c0, c1, c2, c3, c4, c5, c6, c7, b' ', b'G', b'M', b'T'] = rest
    else {
        return None;
    };
    DAYS.contains(&day_name).then_some(())?;
    let this_year = year_of(now);
    let mut year = this_year - this_year % 100 + two(&[*y0, *y1])?;
    // More than fifty years ahead means the last century; more than fifty behind can only mean the next.
    if year > this_year + 50 {
        year -= 100;
    } else if year + 50 < this_year {
        year += 100;
    }
    seconds((year, month(&[*m0, *m1, *m2])?, two(day)?), &[*c0, *c1, *c2, *c3, *c4, *c5, *c6, *c7])
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(text: &[u8]) -> Option<i64> {
    let [d0, d1, d2, b' ', m0, m1, m2, b' ', n0, n1, b' ', clock @ .., b' ', y0, y1, y2, y3] = text else {
        return None;
    };
    is_day(&[*d0, *d1, *d2])?;
    let day = if *n0 == b' ' { digits(&[*n1])? } else { two(&[*n0, *n1])? };
    seconds((digits(&[*y0, *y1, *y2, *y3])?, month(&[*m0, *m1, *m2])?, day), clock)
}

fn is_day(name: &[u8; 3]) -> Option<()> {
    DAYS.iter().any(|day| day.starts_with(name)).then_some(())
}

fn month(name: &[u8; 3]) -> Option<u64> {
    MONTHS.iter().position(|month| *month == name).map(|at| at as u64 + 1)
}

fn two(text: &[u8]) -> Option<u64> {
    if text.len() == 2 { digits(text) } else { None }
}

fn seconds((year, month, day): (u64, u64, u64), clock: &[u8]) -> Option<i64> {
    let [h0, h1, b':', m0, m1, b':', s0, s1] = clock else { return None };
    let (hour, minute, second) = (two(&[*h0, *h1])?, two(&[*m0, *m1])?, two(&[*s0, *s1])?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    // A leap second is allowed by the grammar and falls on the minute that follows.
    if !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let of_day = hour * 3600 + minute * 60 + second;
    Some(days_before(year, month, day) * 86_400 + of_day as i64)
}

/// Days since 1 January 1970. A year is taken to begin in March, so that the leap day is its last.
fn days_before(year: u64, month: u64, day: u64) -> i64 {
    let year = if month <= 2 { year as i64 - 1 } else { year as i64 };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leaps + of_year as i64 - 719_468
}

/// To within a day of New Year, which is near enough to choose a century by.
fn year_of(now: Wall) -> u64 {
    1970 + now.0 / 1000 / 31_556_952
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Wall = Wall(1_445_412_480_000);

    #[test]
    fn the_three_forms_of_the_rfcs_example_are_one_instant() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(http_date(text.as_bytes(), NOW), Some(784_111_777), "{text}");
        }
    }

    #[test]
    fn known_instants_are_met() {
        let table = [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Wed, 31 Dec 1969 23:59:59 GMT", -1),
            ("Tue, 29 Feb 2000 12:00:00 GMT", 951_825_600),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 1_445_412_480),
            ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_800),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
        ];
        for (text, expected) in table {
            assert_eq!(http_date(text.as_bytes(), NOW), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_two_digit_year_is_within_fifty_years_of_now() {
        let year = |text: &str| http_date(text.as_bytes(), NOW).map(|seconds| 1970 + seconds.div_euclid(31_556_952));
        assert_eq!(year("Sunday, 06-Nov-64 08:49:37 GMT"), Some(2064));
        assert_eq!(year("Sunday, 06-Nov-66 08:49:37 GMT"), Some(1966));
        let later = Wall(3_900_000_000_000); // the year 2093
        assert_eq!(
            http_date(b"Sunday, 06-Nov-10 08:49:37 GMT", later).map(|seconds| 1970 + seconds.div_euclid(31_556_952)),
            Some(2110)
        );
    }

    #[test]
    fn what_no_calendar_holds_is_no_date() {
        let bad = [
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Sun, 29 Feb 1900 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Son, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:00 GMT",
            "Sun, 06 Nov 1994 08:49:61 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun Nov 06 08:49:37 94",
            "1994-11-06T08:49:37Z",
            ",",
            "",
        ];
        for text in bad {
            assert_eq!(http_date(text.as_bytes(), NOW), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn days_follow_each_other(year in 1u64..9999, month in 1u64..=12) {
            let first = days_before(year, month, 1);
            let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            let length = days_before(next_year, next_month, 1) - first;
            prop_assert!((28..=31).contains(&length));
            prop_assert_eq!(days_before(year, month, 28) - first, 27);
        }
    }
}
