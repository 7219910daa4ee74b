//! Who a request says it is part of: W3C `traceparent` and B3, read from fields and written to them.
//!
//! It decides what is believed of fields that anybody can send: what does not follow its specification to the letter is as
//! if it had not come. W3C wins over B3, and the one-field form of B3 over the other. Whatever form came in is written on
//! the way out too, and W3C always. It deliberately knows nothing of sampling by share, nor of spans.
//!
//! Pure functions of bytes. Invariant: nothing here panics or allocates because of what came in; only writing allocates.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub const B3: HeaderName = HeaderName::from_static("b3");
pub const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
pub const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
pub const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
pub const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
pub const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// `00-` 32 `-` 16 `-` 2.
const TRACEPARENT_LEN: usize = 55;
/// W3C Trace Context, 3.2.2.5.1.
const FLAG_SAMPLED: u8 = 0x01;

/// 16 bytes, not all zero. Shown as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(NonZeroU128);

/// 8 bytes, not all zero. Shown as 16 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId(NonZeroU64);

impl TraceId {
    pub fn new(id: u128) -> Option<Self> {
        NonZeroU128::new(id).map(Self)
    }
    /// One of `bits`, which should be random.
    pub fn from_bits(bits: u128) -> Self {
        Self(NonZeroU128::new(bits).unwrap_or(NonZeroU128::MIN))
    }
    pub fn get(self) -> u128 {
        self.0.get()
    }
    pub fn bytes(self) -> [u8; 16] {
        self.get().to_be_bytes()
    }
}

impl SpanId {
    pub fn new(id: u64) -> Option<Self> {
        NonZeroU64::new(id).map(Self)
    }
    /// One of `bits`, which should be random.
    pub fn from_bits(bits: u64) -> Self {
        Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN))
    }
    pub fn get(self) -> u64 {
        self.0.get()
    }
    pub fn bytes(self) -> [u8; 8] {
        self.get().to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The forms beside W3C's that came in, and that are written further on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    /// `b3: trace-span-sampled`.
    pub b3: bool,
    /// `X-B3-TraceId` and its siblings.
    pub b3_multi: bool,
    /// B3's debug flag: recorded, and said further on.
    pub debug: bool,
}

/// What a request brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    pub ids: Option<(TraceId, SpanId)>,
    /// Whether the caller records it; `None`: the caller leaves that to us.
    pub sampled: Option<bool>,
    pub forms: Forms,
    /// Whether the ids are W3C's: only then does `tracestate` belong to them.
    pub w3c: bool,
}

/// What is written on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub trace: TraceId,
    /// The receiver's parent.
    pub span: SpanId,
    /// That one's own parent, which B3 tells too.
    pub parent: Option<SpanId>,
    pub sampled: bool,
    pub forms: Forms,
}

/// Reads what a request brought.
pub fn extract(fields: &HeaderMap) -> Incoming {
    let multi = [&B3_TRACE, &B3_SAMPLED, &B3_FLAGS].into_iter().any(|name| fields.contains_key(name));
    let b3 = fields.contains_key(&B3);
    let mut incoming = Incoming { forms: Forms { b3, b3_multi: multi, debug: false }, ..Incoming::default() };
    let told = if b3 { one(fields, &B3).and_then(parse_b3) } else { None };
    let told = told.or_else(|| if multi { extract_multi(fields) } else { None });
    if let Some(told) = told {
        incoming.ids = told.ids;
        incoming.sampled = told.sampled;
        incoming.forms.debug = told.debug;
    }
    if let Some((trace, span, sampled)) = one(fields, &TRACEPARENT).and_then(parse_traceparent) {
        incoming.ids = Some((trace, span));
        incoming.sampled = Some(sampled);
        incoming.w3c = true;
        incoming.forms.debug &= sampled;
    }
    incoming
}

/// The value of a field that came exactly once.
fn one<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut all = fields.get_all(name).iter();
    let first = all.next()?;
    all.next().is_none().then(|| first.as_bytes())
}

/// W3C Trace Context, 3.2: trace id, parent id, whether it is sampled. A later version may have more after another dash.
pub fn parse_traceparent(value: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    let version = u8::try_from(hex(value.get(..2)?)?).ok()?;
    let longer = value.get(TRACEPARENT_LEN);
    let length_ok = match version {
        0xff => false,
        0 => longer.is_none(),
        _ => longer.is_none_or(|next| *next == b'-'),
    };
    let dashes = [2, 35, 52].into_iter().all(|at| value.get(at) == Some(&b'-'));
    if !length_ok || !dashes {
        return None;
    }
    let trace = TraceId::new(hex(value.get(3..35)?)?)?;
    let span = SpanId::new(u64::try_from(hex(value.get(36..52)?)?).ok()?)?;
    let flags = u8::try_from(hex(value.get(53..TRACEPARENT_LEN)?)?).ok()?;
    Some((trace, span, flags & FLAG_SAMPLED != 0))
}

/// What B3 tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct B3Context {
    pub ids: Option<(TraceId, SpanId)>,
    pub sampled: Option<bool>,
    pub debug: bool,
}

/// B3 in one field: `trace-span`, `trace-span-sampled`, `trace-span-sampled-parent`, or only `sampled` (0, 1 or d).
pub fn parse_b3(value: &[u8]) -> Option<B3Context> {
    let mut parts = value.split(|b| *b == b'-');
    let first = parts.next()?;
    let Some(span) = parts.next() else {
        let (sampled, debug) = b3_state(first)?;
        return Some(B3Context { ids: None, sampled: Some(sampled), debug });
    };
    let ids = Some((b3_trace(first)?, b3_span(span)?));
    let (sampled, debug) = match parts.next() {
        None => (None, false),
        Some(state) => b3_state(state).map(|(sampled, debug)| (Some(sampled), debug))?,
    };
    if let Some(parent) = parts.next() {
        b3_span(parent)?;
    }
    parts.next().is_none().then_some(B3Context { ids, sampled, debug })
}

fn extract_multi(fields: &HeaderMap) -> Option<B3Context> {
    let debug = one(fields, &B3_FLAGS).is_some_and(|flags| flags == b"1");
    let sampled = match one(fields, &B3_SAMPLED) {
        _ if debug => Some(true),
        Some(b"1" | b"true") => Some(true),
        Some(b"0" | b"false") => Some(false),
        _ => None,
    };
    let trace = one(fields, &B3_TRACE).and_then(b3_trace);
    let ids = trace.zip(one(fields, &B3_SPAN).and_then(b3_span));
    Some(B3Context { ids, sampled, debug })
}

/// Sampled, and debug.
fn b3_state(value: &[u8]) -> Option<(bool, bool)> {
    match value {
        b"0" => Some((false, false)),
        b"1" => Some((true, false)),
        b"d" => Some((true, true)),
        _ => None,
    }
}

/// 32 digits, or 16 from systems with short ids.
fn b3_trace(value: &[u8]) -> Option<TraceId> {
    matches!(value.len(), 16 | 32).then(|| hex(value)).flatten().and_then(TraceId::new)
}

fn b3_span(value: &[u8]) -> Option<SpanId> {
    let id = (value.len() == 16).then(|| hex(value)).flatten()?;
    SpanId::new(u64::try_from(id).ok()?)
}

/// Lower-case digits only, as both specifications want; at most 32.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((number << 4) | u128::from(value))
    })
}

impl Context {
    /// `00-<trace>-<span>-01`.
    pub fn traceparent(&self) -> [u8; TRACEPARENT_LEN] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        put_hex(&mut out[3..35], self.trace.get());
        put_hex(&mut out[36..52], self.span.get().into());
        out[54] = b'0' + u8::from(self.sampled);
        out
    }

    /// Writes it in W3C's form and those that it came in; older values are replaced.
    pub fn inject(&self, fields: &mut HeaderMap) {
        if let Ok(mut value) = HeaderValue::from_bytes(&self.traceparent()) {
            // each is another: an entry in HPACK's dynamic table would only push useful ones out (RFC 7541, 7.1.3)
            value.set_sensitive(true);
            fields.insert(TRACEPARENT, value);
        }
        if self.forms.b3 {
            insert(fields, B3, &self.b3());
        }
        if self.forms.b3_multi {
            self.inject_multi(fields);
        }
    }

    /// B3's one field.
    pub fn b3(&self) -> String {
        let state = match (self.forms.debug, self.sampled) {
            (true, _) => 'd',
            (false, true) => '1',
            (false, false) => '0',
        };
        let parent = self.parent.map(|parent| format!("-{parent}")).unwrap_or_default();
        format!("{}-{}-{state}{parent}", self.trace_b3(), self.span)
    }

    fn inject_multi(&self, fields: &mut HeaderMap) {
        insert(fields, B3_TRACE, &self.trace_b3());
        insert(fields, B3_SPAN, &self.span.to_string());
        fields.remove(&B3_PARENT);
        if let Some(parent) = self.parent {
            insert(fields, B3_PARENT, &parent.to_string());
        }
        fields.remove(&B3_FLAGS);
        fields.remove(&B3_SAMPLED);
        if self.forms.debug {
            fields.insert(B3_FLAGS, HeaderValue::from_static("1"));
        } else {
            fields.insert(B3_SAMPLED, HeaderValue::from_static(if self.sampled { "1" } else { "0" }));
        }
    }

    /// As short as it came: systems with short ids may know no others.
    fn trace_b3(&self) -> String {
        match u64::try_from(self.trace.get()) {
            Ok(short) => format!("{short:016x}"),
            Err(_) => self.trace.to_string(),
        }
    }
}

fn insert(fields: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(mut value) = HeaderValue::from_str(value) {
        value.set_sensitive(true);
        fields.insert(name, value);
    }
}

/// Right-aligned over what is there.
fn put_hex(out: &mut [u8], mut number: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for digit in out.iter_mut().rev() {
        *digit = DIGITS[(number & 0xf) as usize];
        number >>= 4;
    }
}
