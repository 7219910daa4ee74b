//! What single texts mean: durations, points in time; and which known word a mistyped one is near.
//!
//! Pure functions of text. It deliberately does not say where a text stood.

use crate::service::UnixTime;
use std::time::Duration;

/// Units from the longest, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// `250ms`, `5s`, `1m`, `2h`, `1m30s`: whole numbers, each with its unit, the longer unit first. At most 100 years.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        // taken from what is left of the units: each once, and in order
        let (_, millis) = units.find(|(unit, _)| *unit == &rest[..letters])?;
        rest = &rest[letters..];
        total = total.checked_add(number.checked_mul(*millis)?)?;
    }
    let most = 100 * 365 * 24 * 3_600_000;
    (!text.is_empty() && total <= most).then(|| Duration::from_millis(total))
}

/// As [`parse_duration`] reads it; what is below a millisecond is left out.
pub fn duration_text(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, millis) in UNITS {
        if left >= millis {
            text.push_str(&format!("{}{unit}", left / millis));
            left %= millis;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// `0.01`, `1`, `1%`, `0.5%`: a share in millionths. Not below a millionth, no sign, no exponent.
pub(super) fn parse_millionths(text: &str) -> Option<u32> {
    u32::try_from(millionths(text)?).ok()
}

fn millionths(text: &str) -> Option<u64> {
    let (number, places) = match text.strip_suffix('%') {
        Some(number) => (number, 4),
        None => (text, 6),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |t: &str| !t.is_empty() && t.len() <= 9 && t.bytes().all(|b| b.is_ascii_digit());
    let fraction_kept = fraction.trim_end_matches('0');
    if !digits(whole) || !digits(fraction) || fraction_kept.len() > places {
        return None;
    }
    let scale = 10_u64.pow(u32::try_from(places).ok()?);
    let below: u64 = format!("{fraction_kept:0<places$}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(scale)?.checked_add(below)
}

/// `2`, `1.5`: a number in thousandths. Not below a thousandth, no sign, no exponent.
pub(super) fn parse_thousandths(text: &str) -> Option<u32> {
    let millionths = millionths(text).filter(|m| m % 1000 == 0 && !text.ends_with('%'))?;
    u32::try_from(millionths / 1000).ok()
}

/// RFC 3339, strictly: `2026-11-22T18:00:00Z`, with a fraction (left out) or an offset such as `+01:00` if need be. Not
/// before 1970, no leap second.
pub(super) fn parse_time(text: &str) -> Option<UnixTime> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i64>().ok())?
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !separators.iter().all(|(at, wanted)| text.as_bytes().get(*at) == Some(wanted)) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let days = if (1..=12).contains(&month) { days_in(year, month) } else { return None };
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut rest = text.get(19..)?;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        rest = (1..=9).contains(&digits).then(|| &fraction[digits..])?;
    }
    let at = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    u64::try_from(at - offset(rest)?).ok()
}

/// Seconds east of UTC: `Z`, `+01:00`, `-05:30`.
fn offset(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let sign = match text.bytes().next()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let two = |t: &str, most: i64| {
        let digits = t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit());
        t.parse::<i64>().ok().filter(|n| digits && *n <= most)
    };
    Some(sign * (two(hours, 23)? * 3_600 + two(minutes, 59)? * 60))
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The Gregorian calendar counted from 1 March, so that the leap day is the last of a year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day
        - 1
        - 719_468
}

/// At most 80 characters of it.
pub(super) fn clipped(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

/// Quoted and escaped, and never at length.
pub(super) fn shown(text: &str) -> String {
    format!("{:?}", clipped(text))
}

/// `did you mean "instances"?`, when some known word is near.
pub(super) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, known).map(|near| format!("did you mean {near:?}?"))
}

/// The known word that the fewest edits lead to: at most one in three characters, at most three. Of very many known words
/// only some are looked at: a guess is not worth a pause.
fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (word.chars().count() / 3).min(3);
    let alike = |k: &&str| *k != word && most > 0 && k.len().abs_diff(word.len()) <= most;
    let candidates = known.into_iter().filter(alike).take(2_000);
    candidates.filter_map(|k| Some((edits(word, k, most)?, k))).min().map(|(_, k)| k)
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from `a` to `b`, without regard to case; `None`
/// when it takes more than `most`.
fn edits(a: &str, b: &str, most: usize) -> Option<usize> {
    let same = |x: u8, y: u8| x.eq_ignore_ascii_case(&y);
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let alike = a.iter().zip(b).take_while(|(x, y)| same(**x, **y)).count();
    let (a, b) = (&a[alike..], &b[alike..]);
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for j in 0..b.len() {
            let mut least = (last[j] + usize::from(!same(a[i], b[j]))).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && same(a[i], b[j - 1]) && same(a[i - 1], b[j]) {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        // a swap reaches over one row, so two rows must be out of reach before all the others are
        if last.iter().chain(&row).all(|edits| *edits > most) {
            return None;
        }
        before = std::mem::replace(&mut last, row);
    }
    Some(last[b.len()]).filter(|edits| *edits <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units_from_the_longest() {
        for (text, millis) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("1m", 60_000),
            ("2h", 7_200_000),
            ("1m30s", 90_000),
            ("1h0m5s250ms", 3_605_250),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "5", "s", "5 s", "1.5s", "-1s", "30s1m", "1s1s", "5d", "5S", "99999999999999999999s", "9999999h"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn shares_are_fractions_or_percentages_to_the_millionth() {
        for (text, millionths) in [
            ("0", 0),
            ("0.01", 10_000),
            ("1", 1_000_000),
            ("1.0", 1_000_000),
            ("1%", 10_000),
            ("0.5%", 5_000),
            ("0.0001%", 1),
            ("0.000001", 1),
            ("100%", 1_000_000),
            ("0.010000000", 10_000),
        ] {
            assert_eq!(parse_millionths(text), Some(millionths), "{text}");
        }
        for text in
            ["", "%", ".5", "5.", "-1", "1e-2", "0.0000001", "0.00001%", "1 %", "4294967296", "99999999999", "½"]
        {
            assert_eq!(parse_millionths(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_in_thousandths_as_far_as_they_go() {
        for (text, thousandths) in [("1.5", 1_500), ("0.001", 1), ("10000", 10_000_000), ("4294967.295", u32::MAX)] {
            assert_eq!(parse_thousandths(text), Some(thousandths), "{text}");
        }
        for text in ["1%", "0.0001", "4294967.296", "-1", "9999999999"] {
            assert_eq!(parse_thousandths(text), None, "{text}");
        }
    }

    #[test]
    fn a_duration_is_shown_as_it_is_read() {
        for text in ["250ms", "5s", "1m", "2h", "1m30s", "1h5s250ms", "0s"] {
            assert_eq!(parse_duration(text).map(duration_text).as_deref(), Some(text));
        }
    }

    #[test]
    fn times_are_read_strictly() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-22T18:00:00Z", 1_795_370_400),
            ("2026-11-22T19:30:00.25+01:30", 1_795_370_400),
            ("2024-02-29T23:59:59Z", 1_709_251_199),
            ("2000-02-29T00:00:00-00:00", 951_782_400),
        ] {
            assert_eq!(parse_time(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "2026-11-22",
            "2026-11-22 18:00:00Z",
            "2026-11-22T18:00:00",
            "2026-11-22T18:00Z",
            "2026-11-22T18:00:00z",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-00-10T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T18:00:60Z",
            "2026-11-22T18:00:00.Z",
            "2026-11-22T18:00:00+1:00",
            "2026-11-22T18:00:00+24:00",
            "1969-12-31T23:59:59Z",
            "+026-11-22T18:00:00Z",
            "2026-11-22T18:00:00Zé",
            "2026-11-2éT18:00:00Z",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn a_near_word_is_found_and_a_far_one_is_not() {
        assert_eq!(nearest("instnaces", ["identity", "instances"]), Some("instances"));
        assert_eq!(nearest("Protocol", ["protocol"]), Some("protocol"));
        assert_eq!(nearest("catalgo", ["cat", "catalog"]), Some("catalog"));
        assert_eq!(nearest("timeuot", ["timeout"]), Some("timeout"));
        assert_eq!(nearest("breakers", ["breaker"]), Some("breaker"));
        assert_eq!(nearest("bee", ["to", "services"]), None);
        assert_eq!(nearest("", ["to"]), None);
        assert_eq!(nearest("b", ["a"]), None);
    }
}
