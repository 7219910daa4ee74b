//! What of the store is shown: which traces, and how one becomes a line of a list or a whole tree.
//!
//! It decides what a filter means, and how much is looked at under the lock at a time. A trace matches `text` by its id, by
//! a service, and by any name, key or value of a span, without regard to ASCII case. It deliberately searches the encoded
//! spans: decoding all of them for each search would take ten times as long.
//!
//! Invariant: one [`step`] looks at [`STEP_TRACES`] traces and about [`STEP_BYTES`] at most.

use super::span::{Kept, Marks, TraceId, hex, trace_id};
use super::store::{Store, Trace};
use fusewire_api::v1;
use prost::Message;
use std::collections::BTreeMap;

const STEP_TRACES: usize = 500;
const STEP_BYTES: usize = 1 << 20;
const MAX_LIMIT: u32 = 500;
const DEFAULT_LIMIT: u32 = 50;
const MAX_SERVICES: usize = 500;
/// Of a text that is searched for; what is longer is cut.
const MAX_SEARCH: usize = 200;

#[derive(Debug, Default)]
pub(crate) struct Filter {
    service: Option<String>,
    min_ns: u64,
    needed: Vec<Marks>,
    status: Option<Status>,
    /// Lower case.
    text: Option<Vec<u8>>,
    pub(crate) limit: usize,
    pub(crate) before: Option<(u64, TraceId)>,
}

#[derive(Debug)]
enum Status {
    Code(u16),
    /// 5: 500 to 599.
    Class(u16),
    Reason(String),
}

impl Filter {
    /// # Errors
    /// Says what is wrong with `before`.
    pub(crate) fn of(asked: &v1::ListTracesRequest) -> Result<Self, String> {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let mut needed = Vec::new();
        if asked.errors {
            needed.push(Marks::ERROR);
        }
        if asked.circuit {
            needed.push(Marks::CIRCUIT);
        }
        let text = given(&asked.text)
            .map(|text| text[..text.floor_char_boundary(MAX_SEARCH)].to_ascii_lowercase().into_bytes());
        Ok(Self {
            service: given(&asked.service),
            min_ns: asked.min_duration_ns,
            needed,
            status: given(&asked.status).map(|text| status(&text)),
            text,
            limit: limit(asked),
            before: if asked.before.is_empty() { None } else { Some(place(&asked.before)?) },
        })
    }

    fn matches(&self, id: TraceId, trace: &Trace) -> bool {
        trace.end - trace.start >= self.min_ns
            && self.needed.iter().all(|needed| trace.marks.any(*needed))
            && self.service.as_ref().is_none_or(|name| trace.sources.iter().any(|s| *s.service == **name))
            && self.status.as_ref().is_none_or(|status| trace.spans.iter().any(|span| status.is_of(span)))
            && self.text.as_ref().is_none_or(|text| has_text(id, trace, text))
    }
}

/// Lines of a page.
pub(crate) fn limit(asked: &v1::ListTracesRequest) -> usize {
    if asked.limit == 0 { DEFAULT_LIMIT as usize } else { asked.limit.min(MAX_LIMIT) as usize }
}

fn status(text: &str) -> Status {
    let lower = text.to_ascii_lowercase();
    if let Some(class) = lower.strip_suffix("xx").and_then(|class| class.parse().ok()) {
        return Status::Class(class);
    }
    lower.parse().map_or(Status::Reason(lower), Status::Code)
}

impl Status {
    fn is_of(&self, span: &Kept) -> bool {
        match self {
            Self::Code(code) => span.status == *code,
            Self::Class(class) => span.status / 100 == *class,
            Self::Reason(word) => span.reason.as_ref().is_some_and(|reason| **reason == **word),
        }
    }
}

/// Where a page ended: `<start>-<trace id>`.
fn place(text: &str) -> Result<(u64, TraceId), String> {
    let parsed = text.split_once('-').and_then(|(at, id)| Some((at.parse().ok()?, trace_id(id)?)));
    parsed.ok_or_else(|| {
        format!("before: {:?} is not what an answer gave as `next`", &text[..text.floor_char_boundary(80)])
    })
}

/// For the page after the one that ends with this line.
pub(crate) fn next(line: &v1::TraceSummary) -> String {
    format!("{}-{}", line.listed_ns, line.trace_id)
}

fn has_text(id: TraceId, trace: &Trace, text: &[u8]) -> bool {
    contains(hex(&id).as_bytes(), text)
        || trace.sources.iter().any(|source| {
            [source.service.as_bytes(), source.identity.as_bytes(), source.claimed.as_bytes(), &source.resource]
                .into_iter()
                .any(|part| contains(part, text))
        })
        || trace.spans.iter().any(|span| contains(&span.body, text))
}

/// Without regard to ASCII case; `lower` is lower case and not empty.
fn contains(text: &[u8], lower: &[u8]) -> bool {
    let Some((first, rest)) = lower.split_first() else { return true };
    let Some(last) = text.len().checked_sub(lower.len()) else { return false };
    (0..=last)
        .any(|at| text[at].to_ascii_lowercase() == *first && text[at + 1..at + lower.len()].eq_ignore_ascii_case(rest))
}

/// Looks on from `filter.before`, which it moves; true once there is nothing more to look at or `lines` is full.
pub(crate) fn step(store: &Store, filter: &mut Filter, lines: &mut Vec<v1::TraceSummary>) -> bool {
    let (mut looked_at, mut bytes, mut last) = (0, 0, None);
    for (id, trace) in store.newest(filter.before) {
        looked_at += 1;
        bytes += if filter.text.is_some() { trace.bytes() } else { trace.spans.len() * size_of::<Kept>() };
        if filter.matches(id, trace) {
            lines.push(summary(id, trace));
        }
        last = Some((trace.at, id));
        if lines.len() >= filter.limit || looked_at >= STEP_TRACES || bytes >= STEP_BYTES {
            break;
        }
    }
    let is_over = last.is_none() || lines.len() >= filter.limit;
    filter.before = last.or(filter.before);
    is_over
}

pub(crate) fn figures(store: &Store) -> v1::TraceStore {
    v1::TraceStore {
        traces: store.traces_held() as u64,
        spans: store.spans_held() as u64,
        bytes: store.bytes() as u64,
        max_bytes: store.max_bytes() as u64,
        evicted_traces: store.lost.evicted_traces,
        malformed_spans: store.lost.malformed,
        surplus_spans: store.lost.surplus,
        trimmed_spans: store.lost.trimmed,
    }
}

pub(crate) fn services(store: &Store) -> Vec<String> {
    store.services().take(MAX_SERVICES).map(str::to_owned).collect()
}

pub(crate) fn summary(id: TraceId, trace: &Trace) -> v1::TraceSummary {
    let mut services: BTreeMap<&str, (u32, u32, u64)> = BTreeMap::new();
    let mut summary = v1::TraceSummary {
        trace_id: hex(&id),
        listed_ns: trace.at,
        start_ns: trace.start,
        duration_ns: trace.end - trace.start,
        spans: u32::try_from(trace.spans.len()).unwrap_or(u32::MAX),
        dropped: trace.dropped,
        ..Default::default()
    };
    for span in &trace.spans {
        let failed = u32::from(span.marks.any(Marks::ERROR));
        let of = services.entry(&trace.source(span).service).or_insert((0, 0, u64::MAX));
        *of = (of.0 + 1, of.1 + failed, of.2.min(span.start));
        summary.errors += failed;
        summary.rejected += u32::from(span.marks.any(Marks::REJECTED));
        summary.probes += u32::from(span.marks.any(Marks::PROBE));
        summary.redials += u32::from(span.marks.any(Marks::REDIAL));
        summary.fallbacks += u32::from(span.marks.any(Marks::FALLBACK));
    }
    // in the order in which they were reached
    let mut services: Vec<_> = services.into_iter().collect();
    services.sort_by_key(|(_, (_, _, first))| *first);
    let service =
        |(name, (spans, errors, _)): (&str, (u32, u32, u64))| v1::TraceService { name: name.into(), spans, errors };
    summary.services = services.into_iter().map(service).collect();
    let Some(root) = root(trace) else { return summary };
    let root_body = decode(root);
    let first_reason = trace.spans.iter().filter(|span| span.reason.is_some()).min_by_key(|span| span.start);
    let reason = root.reason.as_ref().or_else(|| first_reason.and_then(|span| span.reason.as_ref()));
    summary.service = trace.source(root).service.to_string();
    summary.name = root_body.name;
    summary.failed = root.marks.any(Marks::ERROR);
    summary.status = root.status.into();
    summary.reason = reason.map(ToString::to_string).unwrap_or_default();
    summary
}

/// The span without a parent; if it has not come yet, or there are several, the one that began first. Of two that began
/// together the longer one.
fn root(trace: &Trace) -> Option<&Kept> {
    trace.spans.iter().min_by_key(|span| (span.parent != [0; 8], span.start, u64::MAX - span.end))
}

/// What was kept was encoded here; were it not readable, the span would be shown without its rest.
fn decode(span: &Kept) -> v1::TraceSpan {
    v1::TraceSpan::decode(&*span.body).unwrap_or_default()
}

/// The whole trace.
pub(crate) fn spans(trace: &Trace) -> Vec<v1::TraceSpan> {
    let mut order: Vec<&Kept> = trace.spans.iter().collect();
    order.sort_by_key(|span| (span.start, u64::MAX - span.end));
    let whole = |span: &Kept| {
        let source = trace.source(span);
        v1::TraceSpan {
            span_id: hex(&span.id),
            parent_id: if span.parent == [0; 8] { String::new() } else { hex(&span.parent) },
            service: source.service.to_string(),
            identity: source.identity.to_string(),
            claimed: source.claimed.to_string(),
            start_ns: span.start,
            duration_ns: span.end - span.start,
            error: span.marks.any(Marks::ERROR),
            resource: v1::TraceSpan::decode(&*source.resource).unwrap_or_default().resource,
            ..decode(span)
        }
    };
    order.into_iter().map(whole).collect()
}
