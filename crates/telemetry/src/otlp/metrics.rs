//! The text of `/metrics` as OTLP's message: one walk over all families, so that what is in one is in the other.
//!
//! It decides how OpenMetrics is told in OTLP: counters are sums since the start, under the family's name without
//! `_total`; histograms keep their bounds, their counts no longer add up; exemplars go along. It deliberately reads text
//! rather than the registry: the families' types are many, and their text is one. What cannot be read is left out.

use crate::trace::context::{SpanId, TraceId, parse_traceparent};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum, exemplar,
};

type Labels = Vec<(String, String)>;

/// `started`, `now`: Unix time in nanoseconds; what was counted between them.
pub fn from_text(text: &str, started: u64, now: u64) -> Vec<Metric> {
    let mut reader = Reader { started, now, metrics: Vec::new() };
    for line in text.lines() {
        match line.strip_prefix("# ") {
            Some(comment) => reader.describe(comment),
            None => {
                if let Some(sample) = Sample::parse(line) {
                    reader.take(&sample);
                }
            }
        }
    }
    reader.metrics.retain(has_points);
    reader.metrics
}

struct Reader {
    started: u64,
    now: u64,
    metrics: Vec<Metric>,
}

impl Reader {
    /// `HELP name text`, `TYPE name word`, `UNIT name word`.
    fn describe(&mut self, comment: &str) {
        let mut words = comment.splitn(3, ' ');
        let (Some(what), Some(name), rest) = (words.next(), words.next(), words.next().unwrap_or_default()) else {
            return;
        };
        let metric = match self.metrics.last_mut() {
            Some(last) if last.name == name => last,
            _ => {
                self.metrics.push(Metric { name: name.into(), ..Metric::default() });
                let Some(new) = self.metrics.last_mut() else { return };
                new
            }
        };
        let aggregation_temporality = AggregationTemporality::Cumulative.into();
        match what {
            "HELP" => rest.trim_end_matches('.').clone_into(&mut metric.description),
            "UNIT" => metric.unit = unit(rest).into(),
            "TYPE" => {
                metric.data = match rest {
                    "counter" => {
                        Some(Data::Sum(Sum { data_points: vec![], aggregation_temporality, is_monotonic: true }))
                    }
                    "histogram" => Some(Data::Histogram(Histogram { data_points: vec![], aggregation_temporality })),
                    "gauge" | "unknown" => Some(Data::Gauge(Gauge::default())),
                    _ => None,
                }
            }
            _ => {}
        }
    }

    fn take(&mut self, sample: &Sample<'_>) {
        let Some(metric) = self.metrics.last_mut() else { return };
        let Some(suffix) = sample.name.strip_prefix(metric.name.as_str()) else { return };
        match (&mut metric.data, suffix) {
            (Some(Data::Sum(sum)), "_total") => sum.data_points.push(sample.point(self.started, self.now)),
            (Some(Data::Gauge(gauge)), "") => gauge.data_points.push(sample.point(0, self.now)),
            (Some(Data::Histogram(histogram)), _) => sample.add_to(histogram, suffix, self.started, self.now),
            _ => {}
        }
    }
}

fn has_points(metric: &Metric) -> bool {
    match &metric.data {
        Some(Data::Sum(sum)) => !sum.data_points.is_empty(),
        Some(Data::Gauge(gauge)) => !gauge.data_points.is_empty(),
        Some(Data::Histogram(histogram)) => !histogram.data_points.is_empty(),
        _ => false,
    }
}

/// UCUM's words for OpenMetrics'.
fn unit(word: &str) -> &str {
    match word {
        "seconds" => "s",
        "bytes" => "By",
        other => other,
    }
}

/// `name{labels} value [# {labels} value [time]]`
struct Sample<'a> {
    name: &'a str,
    labels: Labels,
    value: &'a str,
    exemplar: Option<Exemplar>,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (name, rest) = line.split_at(line.find(['{', ' '])?);
        let (labels, rest) = labels(rest)?;
        let (value, exemplar) = rest.trim_start().split_once(" # ").unwrap_or((rest.trim(), ""));
        Some(Self { name, labels, value: value.split(' ').next()?, exemplar: read_exemplar(exemplar) })
    }

    fn number(&self) -> Number {
        match self.value.parse::<i64>() {
            Ok(whole) => Number::AsInt(whole),
            Err(_) => Number::AsDouble(float(self.value).unwrap_or(f64::NAN)),
        }
    }

    fn point(&self, started: u64, now: u64) -> NumberDataPoint {
        NumberDataPoint {
            attributes: attributes(&self.labels),
            start_time_unix_nano: started,
            time_unix_nano: now,
            exemplars: self.exemplar.clone().into_iter().collect(),
            flags: 0,
            value: Some(self.number()),
        }
    }

    /// The lines of one series stand together.
    fn add_to(&self, histogram: &mut Histogram, suffix: &str, started: u64, now: u64) {
        let own: Labels = self.labels.iter().filter(|(key, _)| key != "le").cloned().collect();
        let attributes = attributes(&own);
        if histogram.data_points.last().is_none_or(|last| last.attributes != attributes) {
            let (start_time_unix_nano, time_unix_nano) = (started, now);
            let new = HistogramDataPoint {
                attributes,
                start_time_unix_nano,
                time_unix_nano,
                ..HistogramDataPoint::default()
            };
            histogram.data_points.push(new);
        }
        let Some(point) = histogram.data_points.last_mut() else { return };
        match suffix {
            "_sum" => point.sum = float(self.value),
            "_count" => point.count = self.value.parse().unwrap_or(0),
            "_bucket" => {
                let le = self.labels.iter().find(|(key, _)| key == "le").map(|(_, le)| le.as_str());
                let below: u64 = point.bucket_counts.iter().sum();
                let so_far: u64 = self.value.parse().unwrap_or(below);
                point.bucket_counts.push(so_far.saturating_sub(below));
                // the last, without a bound, is OTLP's too
                point.explicit_bounds.extend(le.filter(|le| *le != "+Inf").and_then(float));
                point.exemplars.extend(self.exemplar.clone());
            }
            _ => {}
        }
    }
}

fn float(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        _ => text.parse().ok(),
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    let value = |text: &str| Some(AnyValue { value: Some(Value::StringValue(text.into())) });
    labels.iter().map(|(key, text)| KeyValue { key: key.clone(), value: value(text), ..KeyValue::default() }).collect()
}

/// `{a="b",c="d"}` at the beginning of `text`, where there is one, and what follows it.
fn labels(text: &str) -> Option<(Labels, &str)> {
    let mut all = Labels::new();
    let Some(mut rest) = text.strip_prefix('{') else { return Some((all, text)) };
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((all, after));
        }
        let (key, value) = rest.split_once("=\"")?;
        let mut text = String::new();
        let mut characters = value.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => match characters.next()?.1 {
                    'n' => text.push('\n'),
                    other => text.push(other),
                },
                (_, other) => text.push(other),
            }
        };
        all.push((key.into(), text));
        rest = &value[end + 1..];
    }
}

/// `{trace_id="...",span_id="..."} value [time in seconds]`
fn read_exemplar(text: &str) -> Option<Exemplar> {
    let (labels, rest) = labels(text.strip_prefix('{').map(|_| text)?)?;
    let mut numbers = rest.split_whitespace();
    let value = Some(exemplar::Value::AsDouble(float(numbers.next()?)?));
    let seconds = numbers.next().and_then(float).unwrap_or(0.0);
    let of = |key: &str| labels.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str());
    // an id is an id in every form that it has
    let ids = |trace: &str, span: &str| parse_traceparent(format!("00-{trace}-{span}-01").as_bytes());
    let trace = ids(of("trace_id"), "0000000000000001").map(|(trace, ..)| trace);
    let span = ids("00000000000000000000000000000001", of("span_id")).map(|(_, span, _)| span);
    let others: Labels = labels.iter().filter(|(key, _)| key != "trace_id" && key != "span_id").cloned().collect();
    Some(Exemplar {
        filtered_attributes: attributes(&others),
        time_unix_nano: (seconds * 1e9) as u64,
        span_id: span.map(SpanId::bytes).map_or(vec![], |id| id.to_vec()),
        trace_id: trace.map(TraceId::bytes).map_or(vec![], |id| id.to_vec()),
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;
    use crate::metrics::{Direction, Ended, Metrics};
    use std::time::Duration;

    fn named<'a>(all: &'a [Metric], name: &str) -> &'a Metric {
        all.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn shown(attributes: &[KeyValue]) -> String {
        let value = |kv: &KeyValue| match &kv.value.as_ref().unwrap().value {
            Some(Value::StringValue(text)) => text.clone(),
            other => panic!("{other:?}"),
        };
        attributes.iter().map(|kv| format!("{}={}", kv.key, value(kv))).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_registry_is_told_whole_with_the_names_of_its_families() {
        let metrics = Metrics::new();
        let shop = metrics.service(Direction::Outbound, "shop");
        for (ms, status) in [(3, 200), (3, 200), (100_000, 503)] {
            let took = Duration::from_millis(ms);
            shop.requests.ended(&Ended { took, status: Some(status), grpc_status: None, trace_id: None });
        }
        shop.reason(Reason::CircuitOpen);
        shop.in_flight.set(7);
        metrics.breaker_state("instance", "shop", "a\"b\\c\nd}", Some(1));
        let all = from_text(&metrics.encode(), 1, 2);

        let Some(Data::Sum(sum)) = &named(&all, "fusewire_responses").data else { panic!("a sum") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
        let ok = sum.data_points.iter().find(|p| shown(&p.attributes).contains("class=2xx")).unwrap();
        assert_eq!(shown(&ok.attributes), "direction=outbound service=shop class=2xx");
        assert_eq!((ok.value, ok.start_time_unix_nano, ok.time_unix_nano), (Some(Number::AsInt(2)), 1, 2));

        let Some(Data::Sum(errors)) = &named(&all, "fusewire_request_errors").data else { panic!("a sum") };
        assert_eq!(shown(&errors.data_points[0].attributes), "direction=outbound service=shop reason=circuit-open");

        let seconds = named(&all, "fusewire_request_duration_seconds");
        assert_eq!(seconds.unit, "s");
        let Some(Data::Histogram(histogram)) = &seconds.data else { panic!("a histogram") };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (3, Some(100.006)));
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert_eq!(point.bucket_counts.iter().sum::<u64>(), 3);
        assert_eq!((point.bucket_counts[3], point.bucket_counts.last()), (2, Some(&1)));
        assert_eq!(point.explicit_bounds[..2], [0.0005, 0.001]);

        let Some(Data::Gauge(state)) = &named(&all, "fusewire_breaker_state").data else { panic!("a gauge") };
        assert_eq!(shown(&state.data_points[0].attributes), "scope=instance service=shop instance=a\"b\\c\nd}");
        let families = metrics.encode().lines().filter(|l| l.starts_with("# TYPE")).count();
        assert!(all.len() > 10 && all.len() <= families);
        assert!(all.iter().all(|m| !m.name.ends_with("_total") && !m.description.is_empty()));
    }

    #[test]
    fn exemplars_go_along() {
        let text = "# HELP h H\n# TYPE h histogram\nh_sum{a=\"b\"} 1.5\nh_count{a=\"b\"} 1\n\
                    h_bucket{le=\"1.0\",a=\"b\"} 0\n\
                    h_bucket{le=\"+Inf\",a=\"b\"} 1 # {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\",x=\"y\"} 1.5 1.25\n# EOF\n";
        let all = from_text(text, 0, 9);
        let Some(Data::Histogram(histogram)) = &all[0].data else { panic!("a histogram") };
        let exemplar = &histogram.data_points[0].exemplars[0];
        assert_eq!(exemplar.trace_id[..2], [0x4b, 0xf9]);
        assert!(exemplar.span_id.is_empty());
        assert_eq!((exemplar.time_unix_nano, shown(&exemplar.filtered_attributes)), (1_250_000_000, "x=y".into()));
        assert_eq!(histogram.data_points[0].bucket_counts, [0, 1]);
    }
}
