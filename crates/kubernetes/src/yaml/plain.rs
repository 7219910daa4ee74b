//! What a word without quotes means, as go-yaml reads it (resolve.go), which `kubectl` and the API server's clients share.

use serde_json::{Number, Value};

/// YAML 1.1's booleans.
const TRUE: [&str; 4] = ["true", "yes", "on", "y"];
const FALSE: [&str; 4] = ["false", "no", "off", "n"];

pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        text if is_one_of(text, &TRUE) => Value::Bool(true),
        text if is_one_of(text, &FALSE) => Value::Bool(false),
        text => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    }
}

/// Lower case, upper case, or the first letter upper case.
fn is_one_of(text: &str, words: &[&str]) -> bool {
    let cased = |word: &str| {
        let rest = text.get(1..).unwrap_or_default();
        rest == rest.to_ascii_lowercase() || text == word.to_ascii_uppercase()
    };
    words.iter().any(|word| word.eq_ignore_ascii_case(text) && cased(word))
}

fn number(text: &str) -> Option<Number> {
    let first = text.bytes().next()?;
    if !(first.is_ascii_digit() || b"+-.".contains(&first)) {
        return None;
    }
    let bare = text.replace('_', "");
    let (negative, digits) = match bare.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, bare.strip_prefix('+').unwrap_or(&bare)),
    };
    whole(digits, negative).or_else(|| is_float(digits).then(|| bare.parse().ok().and_then(Number::from_f64)).flatten())
}

fn whole(digits: &str, negative: bool) -> Option<Number> {
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = u64::from_str_radix(digits, radix).ok()?;
    match negative {
        true => i64::try_from(value).ok().map(|value| Number::from(-value)),
        false => Some(Number::from(value)),
    }
}

/// `^(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let some = |text: &str| !text.is_empty() && digits(text);
    let mantissa = match mantissa.split_once('.') {
        None => some(mantissa),
        Some(("", fraction)) => some(fraction),
        Some((whole, fraction)) => some(whole) && digits(fraction),
    };
    mantissa && exponent.is_none_or(|exponent| some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)))
}
