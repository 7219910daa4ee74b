//! What sidecars' metrics say lately, of each the last ten to thirty seconds.
//!
//! It decides which metrics are understood (`fusewire_responses`, `fusewire_request_duration_seconds`,
//! `fusewire_breaker_state`, `fusewire_requests_in_flight`; cumulative) and how counters become what passed lately: the
//! difference to a value of some ten seconds before. It deliberately keeps three values of each counter and no history:
//! that is what a metrics store is for. Who proved nothing may not speak for a workload that a proven reporter speaks for.
//!
//! Invariant: at most [`MAX_REPORTERS`], [`MAX_FLOWS`] and [`MAX_BREAKERS`] in all, a part of them of one reporter, of one
//! workload and of all who proved nothing; who was silent for [`SILENT`] is forgotten.

use super::span::service_of;
use fusewire_api::v1;
use fusewire_identity::SpiffeId;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MAX_REPORTERS: usize = 2_000;
const MAX_FLOWS: usize = 20_000;
const MAX_BREAKERS: usize = 20_000;
/// One workload has at most an eighth of each, whatever its sidecars call themselves.
const PART_OF_ONE: usize = 8;
/// All who proved nothing have at most a half of each, whatever they call themselves.
const PART_OF_UNPROVEN: usize = 2;
/// Of one reporter.
const MAX_ITS_FLOWS: usize = 512;
const MAX_ITS_BREAKERS: usize = 512;
const MAX_BOUNDS: usize = 40;
const MAX_NAME: usize = 256;
/// Six reports missed.
const SILENT: Duration = Duration::from_secs(30);
/// How old the value is at least that a difference is taken to, once there is one.
const SPAN: Duration = Duration::from_secs(10);

/// 1xx to 5xx.
type Classes = [u64; 5];

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Key {
    workload: String,
    instance: String,
    is_proven: bool,
}

/// Whether inbound, and of which service.
type Of = (bool, String);

#[derive(Debug)]
struct Reporter {
    heard: Instant,
    flows: BTreeMap<Of, Flow>,
    breakers: Vec<v1::BreakerReport>,
    in_flight: u64,
}

#[derive(Debug)]
struct Flow {
    bounds: Arc<[f64]>,
    /// Some ten to thirty seconds ago.
    older: Mark,
    /// Becomes `older` when it is ten seconds old.
    old: Mark,
    now: Mark,
}

#[derive(Clone, Debug)]
struct Mark {
    at: Instant,
    classes: Classes,
    buckets: Box<[u64]>,
}

#[derive(Debug, Default)]
pub(crate) struct Reports {
    reporters: HashMap<Key, Reporter>,
    pub(crate) refused: u64,
}

#[derive(Debug, Default)]
struct Held {
    reporters: usize,
    flows: usize,
    breakers: usize,
}

impl Reports {
    /// Before the reports of a message; how many values of its `surplus` are refused.
    pub(crate) fn begin(&mut self, surplus: &[ResourceMetrics], now: Instant) -> u64 {
        self.forget(now);
        let metrics = surplus.iter().flat_map(|sent| &sent.scope_metrics).flat_map(|scope| &scope.metrics);
        let refused = metrics.map(values).sum();
        self.refused += refused;
        refused
    }

    /// Takes over one sidecar's report; how many values of it were refused.
    pub(crate) fn add(&mut self, report: Report, now: Instant) -> u64 {
        let (is_ours, points, refused) = (report.is_ours, report.points, report.refused);
        let refused = if is_ours && !self.put(report, now) { points } else { refused };
        self.refused += refused;
        refused
    }

    fn put(&mut self, report: Report, now: Instant) -> bool {
        let Report { key, flows, breakers, in_flight, .. } = report;
        if !key.is_proven && self.reporters.keys().any(|other| other.is_proven && other.workload == key.workload) {
            return false;
        }
        if key.is_proven {
            self.reporters.retain(|other, _| other.is_proven || other.workload != key.workload);
        }
        if !self.has_room(&key, flows.len(), breakers.len()) {
            return false;
        }
        let empty = || Reporter { heard: now, flows: BTreeMap::new(), breakers: Vec::new(), in_flight: 0 };
        let reporter = self.reporters.entry(key).or_insert_with(empty);
        let mut known = std::mem::take(&mut reporter.flows);
        for (of, counts) in flows {
            let flow = Flow::after(known.remove(&of), counts, now);
            reporter.flows.insert(of, flow);
        }
        (reporter.heard, reporter.breakers, reporter.in_flight) = (now, breakers, in_flight);
        true
    }

    /// In all, for its workload, and for all who proved nothing.
    fn has_room(&self, key: &Key, flows: usize, breakers: usize) -> bool {
        let fits = |part: usize, of: &dyn Fn(&Key) -> bool| {
            let held = self.held(|other| other != key && of(other));
            held.reporters < MAX_REPORTERS / part
                && held.flows + flows <= MAX_FLOWS / part
                && held.breakers + breakers <= MAX_BREAKERS / part
        };
        fits(1, &|_| true)
            && fits(PART_OF_ONE, &|other| other.is_proven == key.is_proven && other.workload == key.workload)
            && (key.is_proven || fits(PART_OF_UNPROVEN, &|other| !other.is_proven))
    }

    fn held(&self, which: impl Fn(&Key) -> bool) -> Held {
        let mut held = Held::default();
        for (_, reporter) in self.reporters.iter().filter(|(key, _)| which(key)) {
            held.reporters += 1;
            held.flows += reporter.flows.len();
            held.breakers += reporter.breakers.len();
        }
        held
    }

    fn forget(&mut self, now: Instant) {
        self.reporters.retain(|_, reporter| now.saturating_duration_since(reporter.heard) <= SILENT);
    }

    pub(crate) fn count(&self) -> usize {
        self.reporters.len()
    }

    /// Everybody who was heard lately.
    pub(crate) fn told(&mut self, now: Instant) -> Vec<v1::Reporter> {
        self.forget(now);
        let one = |(key, reporter): (&Key, &Reporter)| v1::Reporter {
            workload: key.workload.clone(),
            instance: key.instance.clone(),
            proven: key.is_proven,
            age_ms: u64::try_from(now.saturating_duration_since(reporter.heard).as_millis()).unwrap_or(u64::MAX),
            // requests that no route led anywhere are counted under no name: they are in the traces, and on no edge
            flows: reporter
                .flows
                .iter()
                .filter(|((_, service), _)| !service.is_empty())
                .map(|(of, flow)| flow.told(of))
                .collect(),
            breakers: reporter.breakers.clone(),
            in_flight: reporter.in_flight,
        };
        self.reporters.iter().map(one).collect()
    }
}

impl Flow {
    fn after(known: Option<Self>, counts: Counts, now: Instant) -> Self {
        let mark = Mark { at: now, classes: counts.classes, buckets: counts.buckets.into() };
        match known {
            Some(flow) if *flow.bounds == *counts.bounds && mark.follows(&flow.now) => {
                let is_due = now.saturating_duration_since(flow.old.at) >= SPAN;
                let (older, old) = if is_due { (flow.old, mark.clone()) } else { (flow.older, flow.old) };
                Self { bounds: flow.bounds, older, old, now: mark }
            }
            // a sidecar that started again counts from zero
            _ => Self { bounds: counts.bounds.into(), older: mark.clone(), old: mark.clone(), now: mark },
        }
    }

    fn told(&self, (is_inbound, service): &Of) -> v1::Flow {
        let passed = |now: &[u64], then: &[u64]| now.iter().zip(then).map(|(now, then)| now - then).collect();
        v1::Flow {
            inbound: *is_inbound,
            service: service.clone(),
            seconds: self.now.at.saturating_duration_since(self.older.at).as_secs_f64(),
            responses: passed(&self.now.classes, &self.older.classes),
            bounds: self.bounds.to_vec(),
            buckets: passed(&self.now.buckets, &self.older.buckets),
        }
    }
}

impl Mark {
    /// No counter went back.
    fn follows(&self, before: &Self) -> bool {
        let mut classes = self.classes.iter().zip(&before.classes);
        let mut buckets = self.buckets.iter().zip(&before.buckets);
        self.buckets.len() == before.buckets.len()
            && classes.all(|(now, then)| now >= then)
            && buckets.all(|(now, then)| now >= then)
    }
}

#[derive(Debug, Default)]
struct Counts {
    classes: Classes,
    bounds: Vec<f64>,
    buckets: Vec<u64>,
}

/// One report as it is read.
#[derive(Debug, Default)]
pub(crate) struct Report {
    key: Key,
    flows: BTreeMap<Of, Counts>,
    breakers: Vec<v1::BreakerReport>,
    in_flight: u64,
    /// Values of metrics that are understood.
    points: u64,
    refused: u64,
    is_ours: bool,
}

impl Report {
    pub(crate) fn of(sent: ResourceMetrics, peer: Option<&SpiffeId>) -> Self {
        let attributes = sent.resource.map(|resource| resource.attributes).unwrap_or_default();
        let (workload, _) = service_of(&attributes, peer);
        let instance = text(&attributes, "service.instance.id").unwrap_or_default();
        let key = Key { workload, instance, is_proven: peer.is_some() };
        let mut report = Self { key, ..Self::default() };
        for metric in sent.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            report.read(metric);
        }
        report
    }

    /// Other metrics are nobody's business here, and not refused.
    fn read(&mut self, metric: Metric) {
        let cumulative = i32::from(AggregationTemporality::Cumulative);
        match (metric.name.as_str(), metric.data) {
            ("fusewire_responses", Some(Data::Sum(sum))) if sum.aggregation_temporality == cumulative => {
                sum.data_points.iter().for_each(|point| self.point(point, Self::responses));
            }
            ("fusewire_request_duration_seconds", Some(Data::Histogram(h)))
                if h.aggregation_temporality == cumulative =>
            {
                h.data_points.into_iter().for_each(|point| self.durations(point));
            }
            ("fusewire_breaker_state", Some(Data::Gauge(gauge))) => {
                gauge.data_points.iter().for_each(|point| self.point(point, Self::breaker));
            }
            ("fusewire_requests_in_flight", Some(Data::Gauge(gauge))) => {
                gauge.data_points.iter().for_each(|point| self.point(point, Self::requests_in_flight));
            }
            ("fusewire_requests_in_flight", Some(Data::Sum(sum))) => {
                sum.data_points.iter().for_each(|point| self.point(point, Self::requests_in_flight));
            }
            _ => {}
        }
    }

    fn point(&mut self, point: &NumberDataPoint, read: fn(&mut Self, &NumberDataPoint, u64) -> Option<()>) {
        self.is_ours = true;
        self.points += 1;
        let taken = count(point).and_then(|value| read(self, point, value));
        self.refused += u64::from(taken.is_none());
    }

    fn responses(&mut self, point: &NumberDataPoint, value: u64) -> Option<()> {
        let class = text(&point.attributes, "class")?;
        let class = usize::from(class.as_bytes().first()?.checked_sub(b'1')?);
        let counts = self.counts(&point.attributes)?;
        let sum = counts.classes.get_mut(class)?;
        *sum = sum.saturating_add(value);
        Some(())
    }

    fn breaker(&mut self, point: &NumberDataPoint, value: u64) -> Option<()> {
        if value == 0 {
            return Some(());
        }
        if self.breakers.len() == MAX_ITS_BREAKERS {
            return None;
        }
        let service = text(&point.attributes, "service")?;
        let instance = text(&point.attributes, "instance").unwrap_or_default();
        self.breakers.push(v1::BreakerReport { service, instance, open: value == 1 });
        Some(())
    }

    /// Those that came in; those that go out are some other's.
    fn requests_in_flight(&mut self, point: &NumberDataPoint, value: u64) -> Option<()> {
        if text(&point.attributes, "direction").is_some_and(|direction| direction == "outbound") {
            return Some(());
        }
        self.in_flight = self.in_flight.saturating_add(value);
        Some(())
    }

    fn durations(&mut self, point: HistogramDataPoint) {
        self.is_ours = true;
        self.points += 1;
        let (bounds, buckets) = (point.explicit_bounds, point.bucket_counts);
        let is_sound = bounds.len() <= MAX_BOUNDS
            && buckets.len() == bounds.len() + 1
            && bounds.iter().all(|bound| bound.is_finite() && *bound >= 0.0)
            && bounds.is_sorted();
        let Some(counts) = self.counts(&point.attributes).filter(|_| is_sound) else {
            self.refused += 1;
            return;
        };
        if counts.buckets.is_empty() {
            (counts.bounds, counts.buckets) = (bounds, buckets);
        } else if counts.bounds == bounds {
            counts.buckets.iter_mut().zip(buckets).for_each(|(sum, more)| *sum = sum.saturating_add(more));
        } else {
            self.refused += 1;
        }
    }

    fn counts(&mut self, attributes: &[KeyValue]) -> Option<&mut Counts> {
        let is_inbound = match text(attributes, "direction")?.as_str() {
            "inbound" => true,
            "outbound" => false,
            _ => return None,
        };
        let of = (is_inbound, text(attributes, "service")?);
        if self.flows.len() == MAX_ITS_FLOWS && !self.flows.contains_key(&of) {
            return None;
        }
        Some(self.flows.entry(of).or_default())
    }
}

/// How many there are, of whatever metric.
fn values(metric: &Metric) -> u64 {
    let values = match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        Some(Data::ExponentialHistogram(histogram)) => histogram.data_points.len(),
        Some(Data::Summary(summary)) => summary.data_points.len(),
        None => 0,
    };
    values as u64
}

/// Not negative, and a number.
fn count(point: &NumberDataPoint) -> Option<u64> {
    match point.value? {
        Number::AsInt(value) => u64::try_from(value).ok(),
        // what is too large or no number at all becomes the nearest one, 0 for none
        Number::AsDouble(value) if value >= 0.0 => Some(value as u64),
        Number::AsDouble(_) => None,
    }
}

/// A string that is not too long.
fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) if text.len() <= MAX_NAME => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
