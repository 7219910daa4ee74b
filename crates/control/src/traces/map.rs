//! The service map: who calls whom, out of what the sidecars of all replicas told.
//!
//! It decides what a node is (a service; a workload that serves exactly one is the same node) and whose measure counts: a
//! service's own sidecars', else its callers'. What is said of a service by others than its identity is left out. Pure: reports in, map out, always in the same order.

use fusewire_api::v1;
use std::collections::{BTreeMap, BTreeSet};

/// What passed, of several reporters.
#[derive(Debug, Default)]
struct Sum {
    is_known: bool,
    rate: f64,
    errors: f64,
    bounds: Vec<f64>,
    buckets: Vec<u64>,
}

impl Sum {
    fn add(&mut self, flow: &v1::Flow) {
        // known only once, or not in a form that this build knows
        if flow.seconds < 0.1 || flow.responses.len() != 5 {
            return;
        }
        self.is_known = true;
        self.rate += flow.responses.iter().map(|count| *count as f64).sum::<f64>() / flow.seconds;
        self.errors += flow.responses[4] as f64 / flow.seconds;
        if self.buckets.is_empty() {
            (self.bounds, self.buckets) = (flow.bounds.clone(), flow.buckets.clone());
        } else if self.bounds == flow.bounds && self.buckets.len() == flow.buckets.len() {
            self.buckets.iter_mut().zip(&flow.buckets).for_each(|(sum, more)| *sum = sum.saturating_add(*more));
        }
    }

    fn traffic(&self) -> Option<v1::Traffic> {
        let (p50_ms, p99_ms) = (self.quantile(0.5), self.quantile(0.99));
        self.is_known.then_some(v1::Traffic { rate: self.rate, errors: self.errors, p50_ms, p99_ms })
    }

    /// In milliseconds, as if durations lay evenly within a bucket; 0 where nothing is known.
    fn quantile(&self, q: f64) -> f64 {
        let all: f64 = self.buckets.iter().map(|count| *count as f64).sum();
        let (mut below, mut left) = (0.0, q * all);
        for (count, bound) in self.buckets.iter().zip(&self.bounds) {
            let count = *count as f64;
            if count > 0.0 && left <= count {
                return 1e3 * (below + (bound - below) * left / count);
            }
            left -= count;
            below = *bound;
        }
        if all > 0.0 { 1e3 * below } else { 0.0 }
    }
}

#[derive(Debug, Default)]
struct Node {
    by_itself: Sum,
    by_callers: Sum,
    in_flight: u64,
    reporters: u32,
    has_unproven: bool,
    /// By instance and whether open, the workloads at which it is so.
    circuits: BTreeMap<(String, bool), BTreeSet<String>>,
}

/// Leaves out what reporters say of services that are not theirs: a sidecar that proved who it is speaks for the services
/// of its own identity (`serves`: service, workload), and one that proved nothing only for those that no other speaks for.
/// Of whom they call, each may speak.
pub(crate) fn leave_out_what_is_not_theirs(reporters: &mut [v1::Reporter], serves: impl Fn(&str, &str) -> bool) {
    let mut spoken_for: BTreeSet<String> = BTreeSet::new();
    for v1::Reporter { workload, flows, .. } in reporters.iter_mut().filter(|reporter| reporter.proven) {
        flows.retain(|flow| !flow.inbound || serves(&flow.service, workload));
        spoken_for.extend(flows.iter().filter(|flow| flow.inbound).map(|flow| flow.service.clone()));
    }
    for reporter in reporters.iter_mut().filter(|reporter| !reporter.proven) {
        reporter.flows.retain(|flow| !flow.inbound || !spoken_for.contains(&flow.service));
    }
}

/// Nodes and edges, by name.
pub(crate) fn build(reporters: &[v1::Reporter]) -> (Vec<v1::MapNode>, Vec<v1::MapEdge>) {
    let names = names(reporters);
    let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
    let mut edges: BTreeMap<(&str, &str), Sum> = BTreeMap::new();
    for reporter in reporters {
        let name = names[reporter.workload.as_str()];
        let node = nodes.entry(name).or_default();
        node.reporters += 1;
        node.in_flight = node.in_flight.saturating_add(reporter.in_flight);
        node.has_unproven |= !reporter.proven;
        for flow in &reporter.flows {
            let service = nodes.entry(&flow.service).or_default();
            service.has_unproven |= !reporter.proven;
            if flow.inbound {
                service.by_itself.add(flow);
            } else {
                service.by_callers.add(flow);
                edges.entry((name, &flow.service)).or_default().add(flow);
            }
        }
        for breaker in &reporter.breakers {
            let circuits = &mut nodes.entry(&breaker.service).or_default().circuits;
            circuits.entry((breaker.instance.clone(), breaker.open)).or_default().insert(name.to_owned());
        }
    }
    let edges = edges.into_iter().map(|((from, to), sum)| {
        let circuits = nodes.get(to).map(|node| &node.circuits);
        let count =
            |open| circuits.into_iter().flatten().filter(|((_, is), at)| *is == open && at.contains(from)).count();
        let count = |open| u32::try_from(count(open)).unwrap_or(u32::MAX);
        v1::MapEdge {
            from: from.into(),
            to: to.into(),
            traffic: sum.traffic(),
            open: count(true),
            half_open: count(false),
        }
    });
    let edges = edges.collect();
    (nodes.into_iter().map(|(name, node)| shown(name, node)).collect(), edges)
}

/// What each workload is called on the map.
fn names(reporters: &[v1::Reporter]) -> BTreeMap<&str, &str> {
    let mut served: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for reporter in reporters {
        let of = served.entry(&reporter.workload).or_default();
        of.extend(reporter.flows.iter().filter(|flow| flow.inbound).map(|flow| flow.service.as_str()));
    }
    let mut names = BTreeMap::new();
    for (workload, services) in served {
        let only = services.first().filter(|_| services.len() == 1);
        names.insert(workload, only.copied().unwrap_or(workload));
    }
    names
}

fn shown(name: &str, node: Node) -> v1::MapNode {
    let own = node.by_itself.traffic();
    let measured = if own.is_some() { "sidecars" } else { "callers" };
    let circuit = |((instance, open), callers): ((String, bool), BTreeSet<String>)| v1::Circuit {
        instance,
        state: if open { "open" } else { "half-open" }.into(),
        callers: callers.into_iter().collect(),
    };
    v1::MapNode {
        name: name.into(),
        traffic: own.or_else(|| node.by_callers.traffic()),
        measured: measured.into(),
        in_flight: node.in_flight,
        reporters: node.reporters,
        circuits: node.circuits.into_iter().map(circuit).collect(),
        proven: !node.has_unproven,
    }
}

#[cfg(test)]
mod tests;
