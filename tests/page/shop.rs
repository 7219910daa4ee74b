//! A shop that never was: what its sidecars and one application would send, and the way to send it.
//!
//! web calls catalog, catalog calls inventory, of which inventory-3 fails. The times are fixed distances to one moment, so
//! that two runs show the same.

use bytes::Bytes;
use fusewire_testkit::client::{Answer, send};
use http::Request;
use http_body_util::Full;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use std::time::{SystemTime, UNIX_EPOCH};

const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    any(key, Value::StringValue(value.into()))
}

fn int(key: &str, value: i64) -> KeyValue {
    any(key, Value::IntValue(value))
}

fn flag(key: &str) -> KeyValue {
    any(key, Value::BoolValue(true))
}

fn any(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

pub(crate) fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// Spans of one trace, by sender; times in microseconds from its start.
pub(crate) struct Trace {
    id: u128,
    start: u64,
    next: u64,
    spans: Vec<(&'static str, &'static str, Span)>,
}

impl Trace {
    pub(crate) fn new(id: u128, start: u64) -> Self {
        Self { id, start, next: 1, spans: Vec::new() }
    }

    /// Its id for children; what is said of it is added to the last one.
    fn span(
        &mut self,
        from: (&'static str, &'static str),
        parent: u64,
        kind: i32,
        name: &str,
        (start, length): (u64, u64),
        attributes: Vec<KeyValue>,
    ) -> u64 {
        let id = self.next;
        self.next += 1;
        let start = self.start + start * 1_000;
        let unique = u64::try_from(self.id & 0xffff_ffff).unwrap() << 16 | id;
        let span = Span {
            trace_id: self.id.to_be_bytes().into(),
            span_id: unique.to_be_bytes().into(),
            parent_span_id: if parent == 0 { Vec::new() } else { (unique - id + parent).to_be_bytes().into() },
            name: name.into(),
            kind,
            start_time_unix_nano: start,
            end_time_unix_nano: start + length * 1_000,
            attributes,
            ..Default::default()
        };
        self.spans.push((from.0, from.1, span));
        id
    }

    fn last(&mut self) -> &mut Span {
        &mut self.spans.last_mut().unwrap().2
    }

    fn fails(&mut self, message: &str) {
        self.last().status = Some(Status { code: 2, message: message.into() });
    }

    fn event(&mut self, name: &str, after: u64, attributes: Vec<KeyValue>) {
        let time_unix_nano = self.start + after * 1_000;
        self.last().events.push(Event { time_unix_nano, name: name.into(), attributes, ..Default::default() });
    }

    pub(crate) fn into_request(self) -> ExportTraceServiceRequest {
        let resource_spans = self.spans.into_iter().map(|(service, instance, span)| {
            let attributes = vec![text("service.name", service), text("service.instance.id", instance)];
            ResourceSpans {
                resource: Some(Resource { attributes, ..Default::default() }),
                scope_spans: vec![ScopeSpans { spans: vec![span], ..Default::default() }],
                ..Default::default()
            }
        });
        ExportTraceServiceRequest { resource_spans: resource_spans.collect() }
    }
}

/// What became of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Story {
    Well,
    /// inventory-3 answers 503, and so do catalog and web.
    Fails,
    /// Refused by the open circuit of the only instances that are left.
    Rejected,
    /// The probe of inventory-3 fails, and the request goes to another.
    Probe,
}

const WEB: (&str, &str) = ("web", "web-1");
const CATALOG: (&str, &str) = ("catalog", "catalog-1");

/// One request through the shop, as its sidecars and catalog's own code tell it.
pub(crate) fn trace(id: u128, start: u64, story: Story, us: u64) -> Trace {
    let mut t = Trace::new(id, start);
    let failed = matches!(story, Story::Fails | Story::Rejected);
    let status = if failed { 503 } else { 200 };
    let exchange = |service: &str, status: i64, more: &[KeyValue]| {
        let mut all = vec![
            text("fusewire.direction", "outbound"),
            text("fusewire.service", service),
            text("http.request.method", "GET"),
            text("url.path", "/items/17"),
            int("http.response.status_code", status),
        ];
        all.extend_from_slice(more);
        all
    };
    let rejected = [
        text("fusewire.reason", "circuit-open"),
        text("fusewire.detail", "instance, inventory, failure-rate"),
        text("error.type", "circuit-open"),
    ];
    let web =
        t.span(WEB, 0, INTERNAL, "GET /items/17", (0, us), exchange("catalog", status, &[int("fusewire.attempts", 1)]));
    if failed {
        t.fails("503");
    }
    let tried = t.span(
        WEB,
        web,
        CLIENT,
        "GET",
        (150, us - 300),
        vec![text("fusewire.instance", "catalog-1"), text("fusewire.outcome", "ok")],
    );
    let inbound = vec![
        text("fusewire.direction", "inbound"),
        text("fusewire.service", "catalog"),
        int("http.response.status_code", status),
    ];
    let server = t.span(CATALOG, tried, SERVER, "GET /items/17", (400, us - 800), inbound);
    if failed {
        t.fails("503");
    }
    let read = t.span(
        ("catalog-app", "python"),
        server,
        INTERNAL,
        "read item",
        (600, us - 1_200),
        vec![text("code.function.name", "shop.catalog.read_item")],
    );
    let (begin, length) = (900, us - 1_800);
    let attempts = int("fusewire.attempts", if story == Story::Probe { 2 } else { 1 });
    let more = if story == Story::Rejected { rejected.to_vec() } else { vec![attempts] };
    let call = t.span(CATALOG, read, INTERNAL, "GET /stock/17", (begin, length), exchange("inventory", status, &more));
    match story {
        Story::Rejected => {
            t.fails("circuit-open");
            let told = vec![text("scope", "instance"), text("service", "inventory"), text("cause", "failure-rate")];
            t.event("fusewire.circuit_rejected", begin + 20, told);
        }
        Story::Probe => {
            t.event("fusewire.probe", begin + 30, vec![text("instance", "inventory-3")]);
            t.event(
                "fusewire.redial",
                begin + length / 2,
                vec![text("from", "inventory-3"), text("to", "inventory-1")],
            );
            let probe = vec![
                text("fusewire.instance", "inventory-3"),
                flag("fusewire.probe"),
                text("fusewire.outcome", "hard"),
                int("http.response.status_code", 503),
            ];
            t.span(CATALOG, call, CLIENT, "GET", (begin + 60, length / 2 - 90), probe);
            t.fails("503");
            served(&mut t, call, "inventory-1", (begin + length / 2 + 40, length / 2 - 80), 200);
        }
        Story::Fails => {
            t.fails("503");
            served(&mut t, call, "inventory-3", (begin + 60, length - 120), 503);
        }
        Story::Well => served(
            &mut t,
            call,
            ["inventory-1", "inventory-2", "inventory-4"][(id % 3) as usize],
            (begin + 60, length - 120),
            200,
        ),
    }
    t
}

fn served(t: &mut Trace, call: u64, instance: &'static str, (start, length): (u64, u64), status: i64) {
    let outcome = if status < 500 { "ok" } else { "hard" };
    let attempt = vec![
        text("fusewire.instance", instance),
        text("fusewire.outcome", outcome),
        int("http.response.status_code", status),
    ];
    let tried = t.span(CATALOG, call, CLIENT, "GET", (start, length), attempt);
    if status >= 500 {
        t.fails("503");
    }
    let inbound = vec![
        text("fusewire.direction", "inbound"),
        text("fusewire.service", "inventory"),
        int("http.response.status_code", status),
    ];
    t.span(("inventory", instance), tried, SERVER, "GET /stock/17", (start + 180, length - 360), inbound);
    if status >= 500 {
        t.fails("503");
    }
}

/// The `n`th request, with a story and a length that depend on `n` alone.
pub(crate) fn nth(n: u64, start: u64) -> Trace {
    let story = match n % 11 {
        3 => Story::Fails,
        5 => Story::Probe,
        8 => Story::Rejected,
        _ => Story::Well,
    };
    let us = if story == Story::Rejected { 4_200 } else { 8_000 + (n * 7_919 % 41) * 900 };
    trace(0x4bf9_2f35_77b3_4da6_0000_0000_0000_0000 + u128::from(n), start, story, us)
}

/// What the sidecars' metrics say after `n` seconds.
pub(crate) fn metrics(n: u64) -> ExportMetricsServiceRequest {
    let sidecar = |workload: &str,
                   instance: &str,
                   flows: &[(&str, &str, u64, u64, usize)],
                   breakers: &[(&str, i64)]| {
        let attributes = vec![text("service.name", workload), text("service.instance.id", instance)];
        let of = |direction: &str, service: &str| vec![text("direction", direction), text("service", service)];
        let (mut responses, mut durations) = (Vec::new(), Vec::new());
        for (direction, service, well, ill, slow) in flows {
            for (class, count) in [("2xx", well * n), ("5xx", ill * n)] {
                let mut attributes = of(direction, service);
                attributes.push(text("class", class));
                responses.push(number(attributes, i64::try_from(count).unwrap()));
            }
            let mut buckets = vec![0; 8];
            buckets[*slow] = well * n;
            buckets[slow + 2] = ill * n;
            let explicit_bounds = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1];
            let point = HistogramDataPoint {
                attributes: of(direction, service),
                count: (well + ill) * n,
                bucket_counts: buckets,
                explicit_bounds,
                ..Default::default()
            };
            durations.push(point);
        }
        let state = |(instance, state): &(&str, i64)| {
            number(vec![text("scope", "instance"), text("service", "inventory"), text("instance", instance)], *state)
        };
        let sum = Sum { data_points: responses, aggregation_temporality: 2, is_monotonic: true };
        let histogram = Histogram { data_points: durations, aggregation_temporality: 2 };
        let breakers = Gauge { data_points: breakers.iter().map(state).collect() };
        let in_flight = Gauge { data_points: vec![number(vec![text("direction", "inbound")], 2)] };
        let metrics = vec![
            metric("fusewire_responses", Data::Sum(sum)),
            metric("fusewire_request_duration_seconds", Data::Histogram(histogram)),
            metric("fusewire_breaker_state", Data::Gauge(breakers)),
            metric("fusewire_requests_in_flight", Data::Gauge(in_flight)),
        ];
        ResourceMetrics {
            resource: Some(Resource { attributes, ..Default::default() }),
            scope_metrics: vec![ScopeMetrics { metrics, ..Default::default() }],
            ..Default::default()
        }
    };
    let inventory =
        |instance: &str, well, ill| sidecar("inventory", instance, &[("inbound", "inventory", well, ill, 2)], &[]);
    ExportMetricsServiceRequest {
        resource_metrics: vec![
            sidecar("web", "web-1", &[("outbound", "catalog", 190, 8, 4)], &[]),
            sidecar(
                "catalog",
                "catalog-1",
                &[("inbound", "catalog", 190, 8, 4), ("outbound", "inventory", 186, 12, 3)],
                &[("inventory-3", 1), ("inventory-4", 2)],
            ),
            inventory("inventory-1", 70, 0),
            inventory("inventory-2", 68, 0),
            inventory("inventory-3", 2, 12),
            inventory("inventory-4", 46, 0),
        ],
    }
}

fn number(attributes: Vec<KeyValue>, value: i64) -> NumberDataPoint {
    NumberDataPoint { attributes, value: Some(Number::AsInt(value)), ..Default::default() }
}

fn metric(name: &str, data: Data) -> Metric {
    Metric { name: name.into(), data: Some(data), ..Default::default() }
}

/// Posts one message to the clear listener, as an SDK does.
pub(crate) fn post(port: u16, path: &str, message: &impl Message) -> Answer {
    let request = Request::post(path)
        .header("host", "collector")
        .header("content-type", "application/x-protobuf")
        .body(Full::new(Bytes::from(message.encode_to_vec())))
        .unwrap();
    send(port, request).unwrap()
}
