//! Traces in memory, within bounds.
//!
//! It decides what goes when there is no more room (the trace that came first, whole) and where a trace stands in the list (by
//! its start, but never later than it was received: a clock that runs ahead does not stay on top). It deliberately writes
//! nothing to disk and knows nothing of requests: callers take the lock for one step at a time.
//!
//! Invariant: `bytes` is the sum of what [`Trace::bytes`] says of each, and never over [`Limits::bytes`] after a call.

use super::span::{Batch, Kept, Marks, Source, TraceId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A trace in the maps, beside its own fields.
const OVERHEAD: usize = 256;
/// Of one trace; a batch from another is not kept.
const MAX_SOURCES: usize = 256;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Of everything. Default 64 MiB.
    pub(crate) bytes: usize,
    /// Default 2,000.
    pub(crate) spans_per_trace: usize,
    /// So that one trace cannot push out all others, and an answer with it has a bound: 4 MiB, or an eighth of `bytes`.
    pub(crate) bytes_per_trace: usize,
}

impl Limits {
    pub(crate) fn of(bytes: usize) -> Self {
        Self { bytes, spans_per_trace: 2_000, bytes_per_trace: (4 << 20).min(bytes / 8) }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Trace {
    /// Where it stands in the list.
    pub(crate) at: u64,
    received: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) spans: Vec<Kept>,
    pub(crate) sources: Vec<Arc<Source>>,
    pub(crate) marks: Marks,
    /// Spans that found no room.
    pub(crate) dropped: u32,
    text: usize,
}

impl Trace {
    fn new(now: u64) -> Self {
        Self {
            at: now,
            received: now,
            start: u64::MAX,
            end: 0,
            spans: Vec::new(),
            sources: Vec::new(),
            marks: Marks::default(),
            dropped: 0,
            text: 0,
        }
    }

    /// An upper bound: a source that several traces share counts in each.
    pub(crate) fn bytes(&self) -> usize {
        OVERHEAD
            + size_of::<Self>()
            + self.spans.capacity() * size_of::<Kept>()
            + self.sources.capacity() * 8
            + self.text
    }

    pub(crate) fn source(&self, span: &Kept) -> &Source {
        &self.sources[usize::from(span.source)]
    }
}

/// What was not kept since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lost {
    pub(crate) malformed: u64,
    pub(crate) surplus: u64,
    pub(crate) trimmed: u64,
    pub(crate) evicted_traces: u64,
    pub(crate) evicted_spans: u64,
}

#[derive(Debug)]
pub(crate) struct Store {
    limits: Limits,
    /// Shared with whoever reads one at this moment; to write then costs a copy.
    traces: HashMap<TraceId, Arc<Trace>>,
    by_arrival: BTreeMap<u64, TraceId>,
    by_start: BTreeSet<(u64, TraceId)>,
    /// Traces with spans of it.
    services: BTreeMap<Box<str>, usize>,
    arrivals: u64,
    bytes: usize,
    spans: usize,
    pub(crate) received: u64,
    pub(crate) lost: Lost,
}

impl Store {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            traces: HashMap::new(),
            by_arrival: BTreeMap::new(),
            by_start: BTreeSet::new(),
            services: BTreeMap::new(),
            arrivals: 0,
            bytes: 0,
            spans: 0,
            received: 0,
            lost: Lost::default(),
        }
    }

    /// Keeps what there is room for; how many spans of it there was none for. `now`: nanoseconds since 1970.
    pub(crate) fn add(&mut self, batch: Batch, now: u64) -> u64 {
        let Batch { source, spans, malformed, .. } = batch;
        self.received += malformed + spans.len() as u64;
        self.lost.malformed += malformed;
        let (mut surplus, mut known) = (0, HashMap::new());
        for (id, span) in spans {
            surplus += u64::from(self.add_one((id, span), &source, &mut known, now) == Added::NoRoom);
        }
        self.lost.surplus += surplus;
        self.make_room();
        surplus
    }

    /// `known_as`: where the source stands in the traces that the batch touched, `None` where it does not yet: to look for
    /// it among [`MAX_SOURCES`] once for each span would take far longer than everything else.
    fn add_one(
        &mut self,
        (id, mut span): (TraceId, Kept),
        source: &Arc<Source>,
        known_as: &mut HashMap<TraceId, Option<usize>>,
        now: u64,
    ) -> Added {
        let Self { traces, by_arrival, arrivals, .. } = self;
        let trace = traces.entry(id).or_insert_with(|| {
            *arrivals += 1;
            by_arrival.insert(*arrivals, id);
            Arc::new(Trace::new(now))
        });
        let trace = Arc::make_mut(trace);
        let (before, was_at) = if trace.spans.is_empty() { (0, None) } else { (trace.bytes(), Some(trace.at)) };
        let known_as = known_as.entry(id).or_insert_with(|| trace.sources.iter().position(|known| known == source));
        let known = *known_as;
        let index = known.unwrap_or(trace.sources.len());
        span.source = u16::try_from(index).unwrap_or(u16::MAX);
        // sent again because the answer was lost
        let same = |other: &Kept| other.id == span.id && other.start == span.start && other.source == span.source;
        if known.is_some() && trace.spans.iter().any(same) {
            return Added::Known;
        }
        let more = span.text_bytes() + size_of::<Kept>();
        let full = trace.spans.len() >= self.limits.spans_per_trace
            || index >= MAX_SOURCES
            || (before > 0 && before + more > self.limits.bytes_per_trace);
        if full {
            trace.dropped = trace.dropped.saturating_add(1);
            return Added::NoRoom;
        }
        if known.is_none() {
            if !trace.sources.iter().any(|other| other.service == source.service) {
                *self.services.entry(source.service.clone()).or_default() += 1;
            }
            trace.text += source.bytes();
            trace.sources.push(source.clone());
            *known_as = Some(index);
        }
        trace.text += span.text_bytes();
        trace.marks.add(span.marks);
        trace.start = trace.start.min(span.start);
        trace.end = trace.end.max(span.end);
        trace.at = trace.start.min(trace.received);
        self.lost.trimmed += u64::from(span.is_trimmed);
        trace.spans.push(span);
        if was_at != Some(trace.at) {
            if let Some(was_at) = was_at {
                self.by_start.remove(&(was_at, id));
            }
            self.by_start.insert((trace.at, id));
        }
        self.bytes += trace.bytes() - before;
        self.spans += 1;
        Added::New
    }

    fn make_room(&mut self) {
        while self.bytes > self.limits.bytes {
            let Some((_, id)) = self.by_arrival.pop_first() else { return };
            let Some(trace) = self.traces.remove(&id) else { continue };
            self.bytes -= trace.bytes();
            self.spans -= trace.spans.len();
            self.by_start.remove(&(trace.at, id));
            self.lost.evicted_traces += 1;
            self.lost.evicted_spans += trace.spans.len() as u64;
            let of: BTreeSet<&str> = trace.sources.iter().map(|source| &*source.service).collect();
            for service in of {
                if let Some(count) = self.services.get_mut(service) {
                    *count -= 1;
                    if *count == 0 {
                        self.services.remove(service);
                    }
                }
            }
        }
    }

    pub(crate) fn get(&self, id: &TraceId) -> Option<Arc<Trace>> {
        self.traces.get(id).cloned()
    }

    /// Newest first, those that stand before `before`.
    pub(crate) fn newest(&self, before: Option<(u64, TraceId)>) -> impl Iterator<Item = (TraceId, &Trace)> {
        let range = match before {
            Some(before) => self.by_start.range(..before),
            None => self.by_start.range(..),
        };
        range.rev().filter_map(|(_, id)| Some((*id, &**self.traces.get(id)?)))
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(|name| &**name)
    }

    pub(crate) fn traces_held(&self) -> usize {
        self.traces.len()
    }

    pub(crate) fn spans_held(&self) -> usize {
        self.spans
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn max_bytes(&self) -> usize {
        self.limits.bytes
    }

    /// What the invariants say, for tests: the books against the traces.
    #[cfg(test)]
    pub(super) fn assert_books(&self) {
        assert!(self.bytes <= self.limits.bytes, "{} of {}", self.bytes, self.limits.bytes);
        assert_eq!(self.bytes, self.traces.values().map(|trace| trace.bytes()).sum::<usize>());
        assert_eq!(self.spans, self.traces.values().map(|trace| trace.spans.len()).sum::<usize>());
        let arrived: BTreeSet<&TraceId> = self.by_arrival.values().collect();
        assert_eq!((self.by_arrival.len(), arrived), (self.traces.len(), self.traces.keys().collect()));
        assert_eq!(self.by_start.len(), self.traces.len());
        for (id, trace) in &self.traces {
            assert!(self.by_start.contains(&(trace.at, *id)) && trace.at <= trace.received);
            assert!(!trace.spans.is_empty() && trace.spans.len() <= self.limits.spans_per_trace);
            assert!(trace.start <= trace.end);
        }
        let mut services: BTreeMap<&str, usize> = BTreeMap::new();
        for trace in self.traces.values() {
            let of: BTreeSet<&str> = trace.sources.iter().map(|source| &*source.service).collect();
            of.into_iter().for_each(|service| *services.entry(service).or_default() += 1);
        }
        let kept: BTreeMap<&str, usize> = self.services.iter().map(|(name, count)| (&**name, *count)).collect();
        assert_eq!(kept, services);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
    New,
    Known,
    NoRoom,
}
