//! Numbers: what one round gave, what h2load's text says, and what is made of several rounds.

use anyhow::{Context as _, Result};

/// One round of one contender.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) requests: u64,
    /// Requests per second.
    pub(crate) rate: f64,
    pub(crate) errors: u64,
    pub(crate) proxy_ns: u64,
    pub(crate) backend_ns: u64,
    pub(crate) load_ns: u64,
    pub(crate) wall_ns: u64,
}

impl Sample {
    /// Microseconds of the proxies' CPU per request.
    pub(crate) fn cost(&self) -> f64 {
        self.proxy_ns as f64 / 1000.0 / self.requests as f64
    }

    /// Cores in use.
    pub(crate) fn cores(&self, ns: u64) -> f64 {
        ns as f64 / self.wall_ns.max(1) as f64
    }
}

/// Median and best (smallest) of several; of none, nothing.
pub(crate) fn median_and_best(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (best, middle) = (*values.first()?, values.len() / 2);
    let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
    Some((median, best))
}

/// Requests per second, and how many requests did not end in a 2xx.
pub(crate) fn parse_h2load(text: &str, requests: u64) -> Result<(f64, u64)> {
    let line = |start: &str| text.lines().find_map(|line| line.trim().strip_prefix(start));
    let rate = line("finished in ").and_then(|rest| rest.split(", ").find_map(|part| part.strip_suffix(" req/s")));
    let rate = rate.and_then(|rate| rate.parse().ok()).context("h2load did not say its rate")?;
    let good =
        line("status codes: ").and_then(|rest| rest.split_once(" 2xx")).and_then(|(count, _)| count.parse().ok());
    let good: u64 = good.context("h2load did not say the status codes")?;
    Ok((rate, requests.saturating_sub(good)))
}

/// Who held the others up: whoever filled its one thread while the proxies did not fill theirs.
pub(crate) fn limit(sample: &Sample, threads: u32) -> Option<&'static str> {
    const FULL: f64 = 0.9;
    let proxies_busy = sample.cores(sample.proxy_ns) >= FULL * f64::from(threads);
    let backend = sample.cores(sample.backend_ns) >= FULL;
    let load = sample.cores(sample.load_ns) >= FULL;
    match (proxies_busy, backend, load) {
        (true, _, _) | (_, false, false) => None,
        (_, true, true) => Some("load and backend"),
        (_, true, false) => Some("backend"),
        (_, false, true) => Some("load"),
    }
}
