use super::span::{self, Batch, Kept, Source, TraceId};
use super::*;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status as SpanStatus};
use proptest::prelude::*;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

const NOW: u64 = 1_900_000_000_000_000_000;

fn value(value: Value) -> Option<AnyValue> {
    Some(AnyValue { value: Some(value) })
}

fn text(key: &str, text: &str) -> KeyValue {
    KeyValue { key: key.into(), value: value(Value::StringValue(text.into())), ..Default::default() }
}

fn int(key: &str, number: i64) -> KeyValue {
    KeyValue { key: key.into(), value: value(Value::IntValue(number)), ..Default::default() }
}

fn raw(trace: u128, id: u64, parent: u64, start: u64, length: u64) -> Span {
    Span {
        trace_id: trace.to_be_bytes().into(),
        span_id: id.to_be_bytes().into(),
        parent_span_id: if parent == 0 { Vec::new() } else { parent.to_be_bytes().into() },
        name: format!("span {id}"),
        kind: 2,
        start_time_unix_nano: start,
        end_time_unix_nano: start + length,
        ..Default::default()
    }
}

fn sent(service: &str, spans: Vec<Span>) -> ResourceSpans {
    ResourceSpans {
        resource: Some(Resource { attributes: vec![text("service.name", service)], ..Default::default() }),
        scope_spans: vec![ScopeSpans { spans, ..Default::default() }],
        ..Default::default()
    }
}

fn request(service: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest { resource_spans: vec![sent(service, spans)] }
}

/// What it comes to, and how often it let others have their turn.
fn now<T>(future: impl Future<Output = T>) -> (T, usize) {
    let (mut future, mut turns) = (std::pin::pin!(future), 0);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => return (done, turns),
            Poll::Pending => turns += 1,
        }
    }
}

fn traces() -> Traces {
    Traces::new(1 << 20)
}

fn take(traces: &Traces, service: &str, spans: Vec<Span>) -> i64 {
    let answer = now(traces.take_spans(request(service, spans), None)).0;
    answer.partial_success.map_or(0, |partial| partial.rejected_spans)
}

async fn listed(traces: &Traces, asked: v1::ListTracesRequest) -> Vec<v1::TraceSummary> {
    traces.list_here(&asked).await.unwrap().traces
}

fn whole(traces: &Traces, id: u128) -> v1::GetTraceResponse {
    traces.get_here(&v1::GetTraceRequest { trace_id: format!("{id:032x}"), ..Default::default() }).unwrap()
}

fn all() -> v1::ListTracesRequest {
    v1::ListTracesRequest::default()
}

#[tokio::test]
async fn a_trace_of_two_services_is_one_line_with_its_root_first() {
    let traces = traces();
    let mut failing = raw(7, 2, 1, 1_100, 500);
    failing.status = Some(SpanStatus { code: 2, message: "gone".into() });
    take(&traces, "catalog", vec![failing]);
    let mut root = raw(7, 1, 0, 1_000, 900);
    root.attributes = vec![int("http.response.status_code", 200)];
    take(&traces, "web", vec![root]);
    let lines = listed(&traces, all()).await;
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    assert_eq!((line.service.as_str(), line.name.as_str(), line.status), ("web", "span 1", 200));
    assert_eq!((line.start_ns, line.duration_ns, line.spans, line.errors, line.failed), (1_000, 900, 2, 1, false));
    let services: Vec<_> = line.services.iter().map(|s| (s.name.as_str(), s.spans, s.errors)).collect();
    assert_eq!(services, [("web", 1, 0), ("catalog", 1, 1)], "in the order in which they were reached");
    let spans = whole(&traces, 7).spans;
    assert_eq!((spans[0].parent_id.as_str(), spans[1].parent_id.as_str()), ("", "0000000000000001"));
    assert_eq!((spans[1].message.as_str(), spans[1].error, spans[1].kind.as_str()), ("gone", true, "server"));
    assert!(whole(&traces, 8).summary.is_none());
}

#[tokio::test]
async fn a_late_span_joins_its_trace_and_the_list_follows() {
    let traces = traces();
    take(&traces, "web", vec![raw(1, 2, 1, 5_000, 10), raw(2, 1, 0, 4_000, 10)]);
    take(&traces, "web", vec![raw(1, 1, 0, 3_000, 9_000)]);
    let lines = listed(&traces, all()).await;
    let order: Vec<_> = lines.iter().map(|line| (line.start_ns, line.duration_ns, line.spans)).collect();
    assert_eq!(order, [(4_000, 10, 1), (3_000, 9_000, 2)]);
    // sent again, as exporters do when the answer was lost
    assert_eq!(take(&traces, "web", vec![raw(1, 1, 0, 3_000, 9_000)]), 0);
    assert_eq!(whole(&traces, 1).spans.len(), 2);
    lock(&traces.store).assert_books();
}

#[tokio::test]
async fn a_clock_that_runs_ahead_does_not_stay_on_top() {
    let traces = traces();
    let now = since_1970();
    take(&traces, "ahead", vec![raw(1, 1, 0, now + 3_600_000_000_000, 10)]);
    take(&traces, "ahead", vec![raw(2, 1, 0, u64::MAX - 10, 10)]);
    let mut later = listed(&traces, all()).await;
    assert!(later.iter().all(|line| line.listed_ns <= since_1970()));
    later.retain(|line| line.trace_id.ends_with('2'));
    assert_eq!((later[0].start_ns, later[0].duration_ns), (u64::MAX - 10, 10));
}

#[test]
fn malformed_spans_are_refused_and_counted_and_the_others_stay() {
    let traces = traces();
    let broken: [fn(&mut Span); 8] = [
        |span| span.trace_id.truncate(15),
        |span| span.trace_id.clear(),
        |span| span.trace_id = vec![0; 16],
        |span| span.span_id = vec![0; 8],
        |span| span.span_id.push(1),
        |span| span.parent_span_id = vec![1; 7],
        |span| span.start_time_unix_nano = 0,
        |span| span.end_time_unix_nano = span.start_time_unix_nano - 1,
    ];
    let mut spans = vec![raw(1, 1, 0, 10, 5)];
    for fault in broken {
        let mut span = raw(1, 2, 1, 10, 5);
        fault(&mut span);
        spans.push(span);
    }
    let answer = now(traces.take_spans(request("web", spans), None)).0.partial_success.unwrap();
    assert_eq!((answer.rejected_spans, answer.error_message.as_str()), (8, "a trace id is not of 16 bytes"));
    assert_eq!(whole(&traces, 1).spans.len(), 1);
    let store = lock(&traces.store);
    assert_eq!((store.lost.malformed, store.received), (8, 9));
}

#[tokio::test]
async fn the_oldest_traces_go_when_there_is_no_more_room() {
    let traces = traces();
    for id in 1..=4_000_u64 {
        let mut span = raw(id.into(), 1, 0, id * 1_000, 10);
        span.attributes = vec![text("url.path", &"x".repeat(500))];
        assert_eq!(take(&traces, if id < 100 { "first" } else { "web" }, vec![span]), 0);
    }
    let answer = traces.list_here(&all()).await.unwrap();
    let store = answer.store.unwrap();
    assert!(store.bytes <= 1 << 20 && store.bytes > 900_000, "{store:?}");
    assert_eq!(store.traces + store.evicted_traces, 4_000);
    assert!(store.evicted_traces > 1_000);
    assert_eq!(answer.traces[0].start_ns, 4_000_000, "the newest stay");
    assert!(whole(&traces, 1).summary.is_none() && whole(&traces, 4_000).summary.is_some());
    assert_eq!(answer.services, ["web"], "a service goes with its last trace");
    let families = fusewire_telemetry::exposition::encode(traces.families());
    assert!(families.contains("fusewire_trace_spans_dropped_total{cause=\"evicted\"}"), "{families}");
    lock(&traces.store).assert_books();
}

#[test]
fn a_trace_that_does_not_end_is_cut_at_its_bounds_and_says_so() {
    let traces = Traces::new(64 << 20);
    let spans = (1..=2_500).map(|id| raw(1, id, 0, 1_000 + id, 10)).collect();
    assert_eq!(take(&traces, "web", spans), 500);
    let told = whole(&traces, 1);
    assert_eq!((told.spans.len(), told.summary.unwrap().dropped), (2_000, 500));
    // and one of few spans that are large
    let large = |id| {
        let mut span = raw(2, id, 0, 1_000, 10);
        span.attributes = (0..64).map(|at| text(&format!("key-{at}"), &"v".repeat(10_000))).collect();
        span
    };
    assert!(take(&traces, "web", (1..=1_000).map(large).collect()) > 0);
    let bytes = lock(&traces.store).get(&2_u128.to_be_bytes()).unwrap().bytes();
    assert!(bytes <= 4 << 20, "{bytes}");
    lock(&traces.store).assert_books();
}

#[test]
fn what_is_kept_of_a_span_is_bounded_whatever_it_holds() {
    let mut deep = AnyValue { value: Some(Value::BoolValue(true)) };
    for _ in 0..50 {
        deep = AnyValue { value: Some(Value::ArrayValue(ArrayValue { values: vec![deep.clone(), deep] })) };
        if prost::Message::encoded_len(&deep) > 1 << 16 {
            break;
        }
    }
    let wide = KeyValueList { values: (0..5_000).map(|n| text(&n.to_string(), "ü")).collect() };
    let mut span = raw(1, 1, 0, 10, 5);
    span.name = "ü".repeat(1_000);
    span.attributes = (0..500).map(|at| text(&format!("{at}-{}", "k".repeat(500)), &"ü".repeat(5_000))).collect();
    span.attributes[0].value = Some(deep);
    span.attributes[1].value = value(Value::KvlistValue(wide));
    span.attributes[2].value = value(Value::BytesValue(vec![255; 100_000]));
    let event =
        Event { time_unix_nano: 1, name: "e".repeat(999), attributes: span.attributes.clone(), ..Default::default() };
    span.events = vec![event; 300];
    span.links = vec![Link { trace_id: vec![1; 900], span_id: vec![2; 900], ..Default::default() }; 300];
    let traces = traces();
    take(&traces, &"s".repeat(9_000), vec![span]);
    let bytes = lock(&traces.store).get(&1_u128.to_be_bytes()).unwrap().bytes();
    assert!(bytes < 2 * span::MAX_TEXT, "{bytes}");
    let told = &whole(&traces, 1).spans[0];
    assert!(told.trimmed > 500 && told.events.len() <= 64 && told.links.len() == 16, "{}", told.trimmed);
    assert_eq!(told.links[0].trace_id, "01".repeat(16));
    assert!(told.name.len() <= 256 && told.service.len() <= 256);
}

#[test]
fn values_of_every_type_are_shown_as_text() {
    let mut span = raw(1, 1, 0, 10, 5);
    let list = |values| value(Value::ArrayValue(ArrayValue { values }));
    let of = |key: &str, value| KeyValue { key: key.into(), value, ..Default::default() };
    span.attributes = vec![
        int("int", -3),
        of("bool", value(Value::BoolValue(true))),
        of("double", value(Value::DoubleValue(0.5))),
        of("bytes", value(Value::BytesValue(vec![1, 255]))),
        of("list", list(vec![int("", 1).value.unwrap(), text("", "a\"b").value.unwrap()])),
        of("map", value(Value::KvlistValue(KeyValueList { values: vec![int("a", 1), of("b", None)] }))),
        of("none", None),
    ];
    let traces = traces();
    take(&traces, "web", vec![span]);
    let told = whole(&traces, 1).spans.remove(0);
    let told: Vec<_> = told.attributes.iter().map(|a| (a.key.as_str(), a.value.as_str())).collect();
    let wanted = [
        ("int", "-3"),
        ("bool", "true"),
        ("double", "0.5"),
        ("bytes", "0x01ff"),
        ("list", "[1, \"a\\\"b\"]"),
        ("map", "{a: 1, b: }"),
        ("none", ""),
    ];
    assert_eq!(told, wanted);
}

#[test]
fn nobody_speaks_for_another_workload() {
    let id = |path: &str| SpiffeId::parse(&format!("spiffe://shop.local/{path}")).unwrap();
    let said = |name: &str| vec![text("service.name", name)];
    let of = |attributes: &[KeyValue], peer: Option<&SpiffeId>| span::service_of(attributes, peer);
    let none = String::new;
    assert_eq!(of(&said("web"), Some(&id("web"))), ("web".into(), none()));
    assert_eq!(of(&said("spiffe://shop.local/web"), Some(&id("web"))), ("web".into(), none()));
    assert_eq!(of(&[], Some(&id("shop/web"))), ("shop/web".into(), none()));
    assert_eq!(of(&said("bank"), Some(&id("web"))), ("web".into(), "bank".into()));
    assert_eq!(of(&said("bank"), None), ("bank".into(), none()));
    assert_eq!(of(&[], None), ("unknown".into(), none()));
    let traces = traces();
    now(traces.take_spans(request("bank", vec![raw(1, 1, 0, 10, 5)]), Some(&id("web"))));
    let told = whole(&traces, 1).spans.remove(0);
    assert_eq!((told.service.as_str(), told.identity.as_str()), ("web", "spiffe://shop.local/web"));
    assert_eq!(told.claimed, "bank");
}

/// Twenty traces: every fourth is slow, every fifth failed with 503, the tenth was refused by a circuit, one has a name.
fn twenty() -> Traces {
    let traces = traces();
    for n in 1..=20_u64 {
        let mut span = raw(n.into(), 1, 0, n * 1_000, if n % 4 == 0 { 9_000_000 } else { 1_000 });
        span.attributes = vec![int("http.response.status_code", if n % 5 == 0 { 503 } else { 200 })];
        if n % 5 == 0 {
            span.status = Some(SpanStatus { code: 2, ..Default::default() });
        }
        if n == 10 {
            span.attributes.push(text("fusewire.reason", "circuit-open"));
            span.events = vec![Event { name: "fusewire.circuit_rejected".into(), ..Default::default() }];
        }
        if n == 13 {
            span.events = vec![Event {
                name: "Exception".into(),
                attributes: vec![text("Kind", "OutOfStock")],
                ..Default::default()
            }];
        }
        take(&traces, if n % 2 == 0 { "web" } else { "batch" }, vec![span]);
    }
    traces
}

#[tokio::test]
async fn filters_find_what_they_say() {
    let traces = twenty();
    let found = async |asked: v1::ListTracesRequest| {
        let lines = listed(&traces, asked).await;
        lines.iter().map(|line| line.start_ns / 1_000).collect::<Vec<_>>()
    };
    assert_eq!(found(all()).await, (1..=20).rev().collect::<Vec<_>>());
    assert_eq!(found(v1::ListTracesRequest { errors: true, ..all() }).await, [20, 15, 10, 5]);
    assert_eq!(found(v1::ListTracesRequest { circuit: true, ..all() }).await, [10]);
    let errors_of_batch = v1::ListTracesRequest { errors: true, service: "batch".into(), ..all() };
    assert_eq!(found(errors_of_batch).await, [15, 5]);
    assert_eq!(found(v1::ListTracesRequest { min_duration_ns: 8_000_000, ..all() }).await, [20, 16, 12, 8, 4]);
    for status in ["503", "5xx", "5XX"] {
        assert_eq!(found(v1::ListTracesRequest { status: status.into(), ..all() }).await, [20, 15, 10, 5], "{status}");
    }
    assert_eq!(found(v1::ListTracesRequest { status: "circuit-open".into(), ..all() }).await, [10]);
    for (words, wanted) in [
        ("outofstock", 13),
        ("EXCEPTION", 13),
        ("kind", 13),
        ("00000000000000000000000000000007", 7),
        ("circuit-OPEN", 10),
    ] {
        assert_eq!(found(v1::ListTracesRequest { text: words.into(), ..all() }).await, [wanted], "{words}");
    }
    assert!(found(v1::ListTracesRequest { text: "nowhere".into(), ..all() }).await.is_empty());
}

#[tokio::test]
async fn pages_hold_every_trace_once_also_while_new_ones_come() {
    let traces = twenty();
    let (mut seen, mut before) = (Vec::new(), String::new());
    loop {
        let asked = v1::ListTracesRequest { limit: 6, before: before.clone(), ..all() };
        let page = traces.list_here(&asked).await.unwrap();
        seen.extend(page.traces.iter().map(|line| line.start_ns / 1_000));
        before = page.next;
        if before.is_empty() {
            break;
        }
        take(&traces, "web", vec![raw(1_000 + seen.len() as u128, 1, 0, 50_000, 5)]);
    }
    assert_eq!(seen, (1..=20).rev().collect::<Vec<_>>());
    let wrong = v1::ListTracesRequest { before: "yesterday".into(), ..all() };
    assert!(traces.list_here(&wrong).await.unwrap_err().message().contains("before"));
}

#[tokio::test]
async fn a_search_looks_at_a_bounded_part_under_the_lock() {
    let traces = Traces::new(64 << 20);
    for id in 1..=3_000_u64 {
        take(&traces, "web", vec![raw(id.into(), 1, 0, id, 5)]);
    }
    let asked = v1::ListTracesRequest { text: "00000000000000000000000000000001".into(), ..all() };
    let (mut filter, mut lines, mut steps) = (Filter::of(&asked).unwrap(), Vec::new(), 0);
    while !query::step(&lock(&traces.store), &mut filter, &mut lines) {
        steps += 1;
    }
    assert!(steps >= 5, "{steps}");
    assert_eq!(lines.len(), 1);
}

/// A scope with that name.
fn scope(name: &str, spans: Vec<Span>) -> ScopeSpans {
    let scope = Some(InstrumentationScope { name: name.into(), ..Default::default() });
    ScopeSpans { scope, spans, ..Default::default() }
}

#[test]
fn a_resource_with_very_many_empty_scopes_is_nothing() {
    let mut large = sent("web", Vec::new());
    large.resource.as_mut().unwrap().attributes =
        vec![text("a", &"x".repeat(2_000)), text("b", &"x".repeat(2_000)), text("service.name", "web")];
    large.scope_spans = vec![ScopeSpans::default(); 300_000];
    large.scope_spans.push(scope("last", vec![raw(1, 1, 0, 10, 5)]));
    let batches: Vec<_> = span::receive(large, None).collect();
    assert_eq!(batches.iter().map(|batch| batch.spans.len()).collect::<Vec<_>>(), [1]);
}

#[test]
fn batches_of_one_scope_share_its_source() {
    let many = |from: u64| (from..from + 600).map(|id| raw(1, id, 0, 10, 5)).collect();
    let mut large = sent("web", Vec::new());
    large.scope_spans =
        vec![scope("a", many(1)), ScopeSpans::default(), scope("a", many(1_001)), scope("b", many(2_001))];
    let batches: Vec<_> = span::receive(large, None).collect();
    assert_eq!(batches.iter().map(|batch| batch.spans.len()).collect::<Vec<_>>(), [500, 100, 500, 100, 500, 100]);
    let same: Vec<_> = batches.iter().map(|batch| Arc::ptr_eq(&batch.source, &batches[0].source)).collect();
    assert_eq!(same, [true, true, true, true, false, false]);
    let mut store = Store::new(Limits::of(64 << 20));
    for batch in batches {
        store.add(batch, NOW);
    }
    let trace = store.get(&1_u128.to_be_bytes()).unwrap();
    let (first, last) = (&trace.spans[0], trace.spans.last().unwrap());
    assert_eq!((trace.sources.len(), first.source, last.source), (2, 0, 1));
    store.assert_books();
}

#[test]
fn others_have_their_turn_while_a_large_message_is_stored() {
    let traces = Traces::new(64 << 20);
    let spans = (1..=20_000).map(|id| raw(1, id, 0, 10, 5)).collect();
    let (answer, turns) = now(traces.take_spans(request("web", spans), None));
    assert_eq!((answer.partial_success.unwrap().rejected_spans, turns), (18_000, 40));
}

#[test]
fn a_message_with_metrics_of_very_many_resources_is_taken_in_part_and_in_turns() {
    let point = NumberDataPoint {
        attributes: vec![text("direction", "inbound")],
        value: Some(Number::AsInt(1)),
        ..Default::default()
    };
    let one = |n: usize| {
        let data = Some(Data::Gauge(Gauge { data_points: vec![point.clone(), point.clone()] }));
        let metric = Metric { name: "fusewire_requests_in_flight".into(), data, ..Default::default() };
        let attributes = vec![text("service.name", &format!("w{n}")), text("service.instance.id", "1")];
        ResourceMetrics {
            resource: Some(Resource { attributes, ..Default::default() }),
            scope_metrics: vec![ScopeMetrics { metrics: vec![metric], ..Default::default() }],
            ..Default::default()
        }
    };
    let traces = traces();
    let sent = ExportMetricsServiceRequest { resource_metrics: (0..MAX_RESOURCES + 50).map(one).collect() };
    let (answer, turns) = now(traces.take_metrics(sent, None));
    assert_eq!((answer.partial_success.unwrap().rejected_data_points, turns), (100, MAX_RESOURCES));
    let reports = lock(&traces.reports);
    assert_eq!((reports.count(), reports.refused), (MAX_RESOURCES, 100));
}

fn any_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        ".{0,40}".prop_map(|text| AnyValue { value: Some(Value::StringValue(text)) }),
        any::<i64>().prop_map(|n| AnyValue { value: Some(Value::IntValue(n)) }),
        any::<f64>().prop_map(|n| AnyValue { value: Some(Value::DoubleValue(n)) }),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|b| AnyValue { value: Some(Value::BytesValue(b)) }),
        Just(AnyValue { value: None }),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        let list = prop::collection::vec(inner, 0..6);
        list.prop_map(|values| AnyValue { value: Some(Value::ArrayValue(ArrayValue { values })) })
    })
}

fn any_attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let key = prop_oneof![
        Just("service.name".to_owned()),
        Just("fusewire.reason".to_owned()),
        Just("fusewire.probe".to_owned()),
        Just("http.response.status_code".to_owned()),
        ".{0,20}"
    ];
    let one = (key, any_value()).prop_map(|(key, value)| KeyValue { key, value: Some(value), ..Default::default() });
    prop::collection::vec(one, 0..8)
}

fn any_span() -> impl Strategy<Value = Span> {
    let id = |length: usize| {
        // few values, so that spans meet in traces and as parents; and some of a wrong length
        prop_oneof![
            8 => (0..5_u8).prop_map(move |n| vec![n; length]),
            1 => prop::collection::vec(any::<u8>(), 0..20),
        ]
    };
    let time = prop_oneof![0..50_u64, any::<u64>()];
    let event = (any::<u64>(), ".{0,12}", any_attributes());
    let event = event.prop_map(|(time_unix_nano, name, attributes)| Event {
        time_unix_nano,
        name,
        attributes,
        ..Default::default()
    });
    let ids = (id(16), id(8), prop_oneof![Just(Vec::new()), id(8)]);
    let rest =
        (".{0,20}", any::<i32>(), any_attributes(), prop::collection::vec(event, 0..4), prop::option::of(any::<i32>()));
    (ids, (time.clone(), time), rest).prop_map(|((trace_id, span_id, parent_span_id), (start, end), rest)| {
        let (name, kind, attributes, events, status) = rest;
        Span {
            trace_id,
            span_id,
            parent_span_id,
            name,
            kind,
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            attributes,
            events,
            status: status.map(|code| SpanStatus { code, message: String::new() }),
            ..Default::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The books stay right, the bounds hold, everything that is kept is told, and nothing panics.
    #[test]
    fn arbitrary_spans_keep_the_invariants(
        batches in prop::collection::vec((any_attributes(), prop::collection::vec(any_span(), 0..12)), 0..8),
        bytes in 1_000..60_000_usize,
        words in ".{0,5}",
    ) {
        let mut limits = Limits::of(bytes);
        limits.spans_per_trace = 5;
        let mut store = Store::new(limits);
        for (attributes, spans) in batches {
            let sent = ResourceSpans {
                resource: Some(Resource { attributes, ..Default::default() }),
                scope_spans: vec![ScopeSpans { spans, ..Default::default() }],
                ..Default::default()
            };
            for batch in span::receive(sent, None) {
                store.add(batch, NOW);
                store.assert_books();
            }
        }
        let asked = v1::ListTracesRequest { text: words, ..Default::default() };
        let mut filter = Filter::of(&asked).unwrap();
        let mut lines = Vec::new();
        while !query::step(&store, &mut filter, &mut lines) {}
        prop_assert!(!asked.text.trim().is_empty() || lines.len() == store.traces_held());
        for line in lines {
            let trace = store.get(&span::trace_id(&line.trace_id).unwrap()).unwrap();
            prop_assert_eq!(query::spans(&trace).len(), trace.spans.len());
        }
    }
}

#[test]
#[ignore = "a measurement: cargo nextest run --run-ignored only -E 'test(what_receiving_and_searching_costs)'"]
fn what_receiving_and_searching_costs() {
    let traces = Traces::new(64 << 20);
    let source = Arc::new(Source::default());
    let began = Instant::now();
    let mut spans = 0_u64;
    while lock(&traces.store).lost.evicted_traces == 0 {
        spans += 8;
        let of = |n: u64| {
            let mut span = raw((spans / 8).into(), spans + n, 0, spans, 100_000);
            span.attributes =
                (0..10).map(|at| text(&format!("some.attribute.{at}"), "a value of usual length")).collect();
            span
        };
        let sent = sent("web", (0..8).map(of).collect());
        let batch: Vec<(TraceId, Kept)> = span::receive(sent, None).next().unwrap().spans;
        lock(&traces.store).add(Batch { source: source.clone(), spans: batch, malformed: 0, fault: None }, NOW);
    }
    println!("{spans} spans in 64 MiB, {:?} each to receive", began.elapsed() / u32::try_from(spans).unwrap());
    let asked = v1::ListTracesRequest { text: "nowhere".into(), ..all() };
    let (mut filter, mut lines, mut longest, began) =
        (Filter::of(&asked).unwrap(), Vec::new(), Duration::ZERO, Instant::now());
    loop {
        let step = Instant::now();
        let is_over = query::step(&lock(&traces.store), &mut filter, &mut lines);
        longest = longest.max(step.elapsed());
        if is_over {
            break;
        }
    }
    println!("searched in {:?}, the longest step {longest:?}", began.elapsed());
}
