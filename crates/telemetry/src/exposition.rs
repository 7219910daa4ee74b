//! Metrics of what is true at the moment of asking: families made for one scrape, encoded as OpenMetrics 1.0.
//!
//! For values that somebody else keeps anyway, such as ages and counts of the control plane: nothing is registered, so no
//! series can outlive what it is about.

mod format;

pub use format::Format;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// One family and its samples.
#[derive(Clone, Debug)]
pub struct Family {
    /// Without the prefix `fusewire_`, and of a counter without `_total`.
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub samples: Vec<Sample>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

#[derive(Clone, Debug)]
pub struct Sample {
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

impl Family {
    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge, samples: Vec::new() }
    }

    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter, samples: Vec::new() }
    }

    /// With one more sample.
    #[must_use]
    pub fn with<const N: usize>(mut self, labels: [(&'static str, String); N], value: impl Into<f64>) -> Self {
        self.samples.push(Sample { labels: labels.into(), value: value.into() });
        self
    }

    #[must_use]
    pub fn with_all(mut self, samples: impl IntoIterator<Item = Sample>) -> Self {
        self.samples.extend(samples);
        self
    }
}

/// The text of `/metrics`; a family without samples is left out.
pub fn encode(families: Vec<Family>) -> String {
    let mut registry = Registry::with_prefix("fusewire");
    registry.register_collector(Box::new(Families(families)));
    let mut out = String::new();
    if prometheus_client::encoding::text::encode(&mut out, &registry).is_err() {
        out = "# EOF\n".into();
    }
    out
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for Family { name, help, kind, samples } in self.0.iter().filter(|family| !family.samples.is_empty()) {
            let metric_type = match kind {
                Kind::Counter => ConstCounter::new(0.0).metric_type(),
                Kind::Gauge => ConstGauge::new(0.0).metric_type(),
            };
            let mut family = encoder.encode_descriptor(name, help, None, metric_type)?;
            for Sample { labels, value } in samples {
                let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let encoder = family.encode_family(&labels)?;
                match kind {
                    Kind::Counter => ConstCounter::new(*value).encode(encoder)?,
                    Kind::Gauge => ConstGauge::new(*value).encode(encoder)?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_encoded_as_openmetrics_and_empty_ones_are_left_out() {
        let age = Family::gauge("discovery_age_seconds", "Age of what is served")
            .with([("source", "dns".into()), ("service", "a\"b".into())], 1.5);
        let beats = Family::counter("heartbeats", "Heartbeats").with([], 3_u32);
        let text = encode(vec![age, beats, Family::gauge("nothing", "Nothing")]);
        assert_eq!(
            text,
            "# HELP fusewire_discovery_age_seconds Age of what is served\n\
             # TYPE fusewire_discovery_age_seconds gauge\n\
             fusewire_discovery_age_seconds{source=\"dns\",service=\"a\\\"b\"} 1.5\n\
             # HELP fusewire_heartbeats Heartbeats\n\
             # TYPE fusewire_heartbeats counter\n\
             fusewire_heartbeats_total{} 3.0\n\
             # EOF\n"
        );
    }
}
