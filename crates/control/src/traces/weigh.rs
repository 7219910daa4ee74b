//! How much memory a message will take, told before it is decoded.
//!
//! In protobuf an empty message within another takes two bytes, and decoded a few hundred: 4 MiB of nothing become 600 MiB.
//! So the bytes are walked first, and what would take more than [`MAX_DECODED`] is refused. It deliberately knows only the
//! parts that repeat; what is not well-formed is left to the decoder, which says it better.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::metrics::v1 as m;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as t;
use prost::Message;

/// A usual message of 4 MiB takes half of it.
const MAX_DECODED: usize = 48 << 20;
/// prost itself goes no deeper than 100.
const MAX_DEPTH: u32 = 100;

/// A message: what one takes, and which of its fields hold others.
#[derive(Debug)]
pub(crate) struct Kind {
    size: usize,
    parts: &'static [(u64, &'static Kind)],
}

const fn kind<T>(parts: &'static [(u64, &'static Kind)]) -> Kind {
    Kind { size: size_of::<T>(), parts }
}

static ANY: Kind = kind::<AnyValue>(&[(5, &LIST), (6, &PAIRS)]);
static LIST: Kind = kind::<ArrayValue>(&[(1, &ANY)]);
static PAIRS: Kind = kind::<KeyValueList>(&[(1, &PAIR)]);
static PAIR: Kind = kind::<KeyValue>(&[(2, &ANY)]);
/// A text among several.
static TEXT: Kind = kind::<String>(&[]);
static ENTITY: Kind = kind::<EntityRef>(&[(3, &TEXT), (4, &TEXT)]);
static RESOURCE: Kind = kind::<Resource>(&[(1, &PAIR), (3, &ENTITY)]);
static SCOPE: Kind = kind::<InstrumentationScope>(&[(3, &PAIR)]);

static EVENT: Kind = kind::<t::span::Event>(&[(3, &PAIR)]);
static LINK: Kind = kind::<t::span::Link>(&[(4, &PAIR)]);
static SPAN: Kind = kind::<t::Span>(&[(9, &PAIR), (11, &EVENT), (13, &LINK)]);
static SCOPE_SPANS: Kind = kind::<t::ScopeSpans>(&[(1, &SCOPE), (2, &SPAN)]);
static RESOURCE_SPANS: Kind = kind::<t::ResourceSpans>(&[(1, &RESOURCE), (2, &SCOPE_SPANS)]);
static TRACES: Kind = kind::<ExportTraceServiceRequest>(&[(1, &RESOURCE_SPANS)]);

static EXEMPLAR: Kind = kind::<m::Exemplar>(&[(7, &PAIR)]);
static NUMBER: Kind = kind::<m::NumberDataPoint>(&[(7, &PAIR), (5, &EXEMPLAR)]);
static COUNTS: Kind = kind::<m::HistogramDataPoint>(&[(9, &PAIR), (8, &EXEMPLAR)]);
static POWERS: Kind = kind::<m::ExponentialHistogramDataPoint>(&[(1, &PAIR), (11, &EXEMPLAR)]);
static QUANTILE: Kind = kind::<m::summary_data_point::ValueAtQuantile>(&[]);
static QUANTILES: Kind = kind::<m::SummaryDataPoint>(&[(7, &PAIR), (6, &QUANTILE)]);
static NUMBERS: Kind = kind::<m::Sum>(&[(1, &NUMBER)]);
static HISTOGRAM: Kind = kind::<m::Histogram>(&[(1, &COUNTS)]);
static EXPONENTIAL: Kind = kind::<m::ExponentialHistogram>(&[(1, &POWERS)]);
static SUMMARY: Kind = kind::<m::Summary>(&[(1, &QUANTILES)]);
static METRIC: Kind = kind::<m::Metric>(&[
    (5, &NUMBERS),
    (7, &NUMBERS),
    (9, &HISTOGRAM),
    (10, &EXPONENTIAL),
    (11, &SUMMARY),
    (12, &PAIR),
]);
static SCOPE_METRICS: Kind = kind::<m::ScopeMetrics>(&[(1, &SCOPE), (2, &METRIC)]);
static RESOURCE_METRICS: Kind = kind::<m::ResourceMetrics>(&[(1, &RESOURCE), (2, &SCOPE_METRICS)]);
static METRICS: Kind = kind::<ExportMetricsServiceRequest>(&[(1, &RESOURCE_METRICS)]);

/// A message that is received.
pub(crate) trait Sent: Message + Default + 'static {
    fn kind() -> &'static Kind;
}

impl Sent for ExportTraceServiceRequest {
    fn kind() -> &'static Kind {
        &TRACES
    }
}

impl Sent for ExportMetricsServiceRequest {
    fn kind() -> &'static Kind {
        &METRICS
    }
}

/// Why a message was not decoded, as its sender is told.
pub(crate) fn decode<M: Sent>(bytes: &[u8]) -> Result<M, &'static str> {
    let mut left = MAX_DECODED;
    if !walk(bytes, M::kind(), &mut left, 0) {
        return Err("the message holds too many parts; send fewer at a time");
    }
    M::decode(bytes).map_err(|_| "the message is not what it should be in protobuf")
}

/// False once there is no room left.
fn walk(mut bytes: &[u8], kind: &Kind, left: &mut usize, depth: u32) -> bool {
    while let Some((field, part)) = next(&mut bytes) {
        let Some((_, kind)) = kind.parts.iter().find(|(number, _)| *number == field) else { continue };
        match left.checked_sub(kind.size) {
            Some(less) => *left = less,
            None => return false,
        }
        if depth < MAX_DEPTH && !walk(part, kind, left, depth + 1) {
            return false;
        }
    }
    true
}

/// The next field that has a length, and what is in it. `None` at the end, and where it is not well-formed.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    loop {
        let key = varint(bytes)?;
        match key & 7 {
            0 => drop(varint(bytes)?),
            1 => *bytes = bytes.get(8..)?,
            2 => {
                let length = usize::try_from(varint(bytes)?).ok()?;
                let (part, rest) = bytes.split_at_checked(length)?;
                *bytes = rest;
                return Some((key >> 3, part));
            }
            5 => *bytes = bytes.get(4..)?,
            _ => return None,
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for at in 0..10 {
        let byte = *bytes.get(at)?;
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `count` empty messages in field 2 of field 2 of field 1.
    fn empties(count: usize) -> Vec<u8> {
        let wrap = |field: u8, inner: Vec<u8>| {
            let mut out = vec![field << 3 | 2];
            prost::encoding::encode_varint(inner.len() as u64, &mut out);
            out.extend(inner);
            out
        };
        wrap(1, wrap(2, [0x12, 0].repeat(count)))
    }

    #[test]
    fn many_empty_spans_or_metrics_are_refused_before_they_take_memory() {
        let small = decode::<ExportTraceServiceRequest>(&empties(1_000)).unwrap();
        assert_eq!(small.resource_spans[0].scope_spans[0].spans.len(), 1_000);
        assert!(decode::<ExportTraceServiceRequest>(&empties(2_000_000)).unwrap_err().contains("too many parts"));
        assert!(decode::<ExportMetricsServiceRequest>(&empties(2_000_000)).unwrap_err().contains("too many parts"));
    }

    #[test]
    fn a_full_message_of_usual_spans_is_taken() {
        let pair = KeyValue { key: "http.request.method".into(), value: None, ..Default::default() };
        let span = t::Span {
            trace_id: vec![1; 16],
            span_id: vec![1; 8],
            name: "GET /".into(),
            attributes: vec![pair; 10],
            ..Default::default()
        };
        let scope_spans = vec![t::ScopeSpans { spans: vec![span; 13_000], ..Default::default() }];
        let sent =
            ExportTraceServiceRequest { resource_spans: vec![t::ResourceSpans { scope_spans, ..Default::default() }] };
        let bytes = sent.encode_to_vec();
        assert!(bytes.len() > 3 << 20);
        assert!(decode::<ExportTraceServiceRequest>(&bytes).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_weighed_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode::<ExportTraceServiceRequest>(&bytes);
            let _ = decode::<ExportMetricsServiceRequest>(&bytes);
        }
    }
}
