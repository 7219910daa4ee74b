//! W3C `tracestate`: other systems' members are carried as they came, ours (`fusewire`) says where a trace began and
//! whether a request is a repeated one.
//!
//! It decides what is kept: at most 32 members and 512 characters, ours first, as the specification has it (W3C Trace
//! Context, 3.3). A field that does not follow the grammar is dropped whole. It deliberately does not decide whom to
//! believe: `fusewire` means something only where a peer's sidecar wrote it.

use fusewire_resilience::retry::Carried;
use std::borrow::Cow;
use std::fmt::Write as _;

/// The key of our member.
pub const KEY: &str = "fusewire";
/// Members in all.
pub const MAX_MEMBERS: usize = 32;
/// Characters that are carried.
pub const MAX_LENGTH: usize = 512;
/// A member that is longer goes first when there is too much.
const LONG: usize = 128;
/// An origin that is longer is left out.
const MAX_ORIGIN: usize = 160;

/// What our member says: `f2;o:<origin>`, a first attempt after which two more may follow. What a later release adds is
/// passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// The workload whose request it all began with: its SPIFFE ID without the scheme. Empty: too long to say.
    pub origin: Cow<'a, str>,
    /// Whether somebody on the way has repeated it, and how many more attempts may follow.
    pub carried: Carried,
}

impl<'a> Member<'a> {
    pub fn parse(value: &'a str) -> Option<Self> {
        let mut parts = value.split(';');
        let carried = Carried::decode(parts.next()?.as_bytes())?;
        let mut origin = "";
        for part in parts {
            match part.split_once(':')? {
                ("o", text) if text.len() <= MAX_ORIGIN => origin = text,
                _ => {}
            }
        }
        Some(Self { origin: origin.into(), carried })
    }

    /// As it stands behind `fusewire=`.
    pub fn value(&self) -> String {
        let mut out = String::with_capacity(8 + self.origin.len());
        out.extend(self.carried.encode().map(char::from));
        let sayable = |b: u8| b.is_ascii_graphic() && !b",=;".contains(&b);
        if !self.origin.is_empty() && self.origin.len() <= MAX_ORIGIN && self.origin.bytes().all(sayable) {
            let _ = write!(out, ";o:{}", self.origin);
        }
        out
    }
}

/// The members of all `tracestate` fields of a request, in their order; `None`: the grammar is broken, or there are more
/// than [`MAX_MEMBERS`].
pub fn members<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<(&'a str, &'a str)>> {
    let mut all = Vec::new();
    for field in fields {
        let text = std::str::from_utf8(field).ok()?;
        for member in text.split(',').map(|m| m.trim_matches([' ', '\t'])).filter(|m| !m.is_empty()) {
            let (key, value) = member.split_once('=')?;
            if !is_key(key.as_bytes()) || !is_value(value.as_bytes()) || all.len() == MAX_MEMBERS {
                return None;
            }
            all.push((key, value));
        }
    }
    Some(all)
}

/// The value of our member.
pub fn ours<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Option<&'a str> {
    members(fields)?.into_iter().find(|(key, _)| *key == KEY).map(|(_, value)| value)
}

/// The field with our member first and the others behind it, within the limits: long ones go first, then the last.
pub fn with_ours<'a>(fields: impl IntoIterator<Item = &'a [u8]>, value: &str) -> String {
    let mut out = format!("{KEY}={value}");
    let mut others = members(fields).unwrap_or_default();
    others.retain(|(key, _)| *key != KEY);
    others.truncate(MAX_MEMBERS - 1);
    let length = |(key, value): &(&str, &str)| key.len() + value.len() + 2;
    let mut total = out.len() + others.iter().map(length).sum::<usize>();
    while total > MAX_LENGTH {
        let goes = others.iter().rposition(|member| length(member) > LONG + 1).or(others.len().checked_sub(1));
        let Some(goes) = goes else { break };
        total -= length(&others.remove(goes));
    }
    for (key, value) in others {
        let _ = write!(out, ",{key}={value}");
    }
    out
}

/// W3C Trace Context, 3.3.1.3.1: `key` or `tenant@system`.
fn is_key(key: &[u8]) -> bool {
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/".contains(b);
    let (first, rest) = match key.split_first() {
        Some((first, rest)) => (first, rest),
        None => return false,
    };
    match rest.iter().position(|b| *b == b'@') {
        None => first.is_ascii_lowercase() && rest.len() <= 255 && rest.iter().all(inner),
        Some(at) => {
            let (tenant, system) = (&rest[..at], &rest[at + 1..]);
            let begins = system.first().is_some_and(u8::is_ascii_lowercase);
            (first.is_ascii_lowercase() || first.is_ascii_digit())
                && tenant.len() <= 240
                && tenant.iter().all(inner)
                && begins
                && system.len() <= 14
                && system.iter().all(inner)
        }
    }
}

/// 3.3.1.3.2: printable ASCII without comma and equals sign, at most 256, not ending with a space.
fn is_value(value: &[u8]) -> bool {
    let inside = |b: &u8| (0x20..=0x7e).contains(b) && !b",=".contains(b);
    !value.is_empty() && value.len() <= 256 && value.iter().all(inside) && !value.ends_with(b" ")
}
