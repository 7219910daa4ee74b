//! Traces and map of all replicas: each keeps what was sent to it, and is asked for it.
//!
//! It decides how answers become one: a trace of which several replicas have spans is one trace, and a sidecar that went
//! to another replica counts where it was heard last. It deliberately filters at each replica by what that replica has:
//! spans that lie elsewhere are added to a trace when it is opened, not when it is searched for.

use super::{map, query};
use crate::registry::identity_of;
use crate::replicas;
use crate::shared::Shared;
use fusewire_api::v1;
use fusewire_model::{ServiceName, World};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tonic::Status;

/// Newest first.
pub(crate) async fn list(shared: &Shared, asked: v1::ListTracesRequest) -> Result<v1::ListTracesResponse, Status> {
    let mut whole = shared.traces.list_here(&asked).await?;
    if asked.this_replica_only {
        return Ok(whole);
    }
    let here_only = v1::ListTracesRequest { this_replica_only: true, ..asked.clone() };
    let (answers, replicas) = replicas::ask_all(shared, |mut client| {
        let asked = here_only.clone();
        async move { client.list_traces(asked).await }
    })
    .await;
    whole.replicas = replicas;
    for (_, answer) in answers {
        merge(&mut whole, answer);
    }
    settle(&mut whole, query::limit(&asked));
    Ok(whole)
}

fn merge(whole: &mut v1::ListTracesResponse, theirs: v1::ListTracesResponse) {
    whole.traces.extend(theirs.traces);
    whole.services.extend(theirs.services);
    if whole.next.is_empty() {
        whole.next = theirs.next;
    }
    let (Some(sum), Some(more)) = (&mut whole.store, theirs.store) else { return };
    sum.traces += more.traces;
    sum.spans += more.spans;
    sum.bytes += more.bytes;
    sum.max_bytes += more.max_bytes;
    sum.evicted_traces += more.evicted_traces;
    sum.malformed_spans += more.malformed_spans;
    sum.surplus_spans += more.surplus_spans;
    sum.trimmed_spans += more.trimmed_spans;
}

/// Once all are added.
fn settle(whole: &mut v1::ListTracesResponse, limit: usize) {
    let mut by_id: BTreeMap<String, v1::TraceSummary> = BTreeMap::new();
    for line in std::mem::take(&mut whole.traces) {
        match by_id.get_mut(&line.trace_id) {
            Some(known) => add(known, line),
            None => drop(by_id.insert(line.trace_id.clone(), line)),
        }
    }
    whole.traces = by_id.into_values().collect();
    whole.traces.sort_by_cached_key(|line| Reverse((line.listed_ns, line.trace_id.clone())));
    let has_more = !whole.next.is_empty() || whole.traces.len() > limit;
    whole.traces.truncate(limit);
    whole.next = whole.traces.last().filter(|_| has_more).map(query::next).unwrap_or_default();
    whole.services.sort();
    whole.services.dedup();
}

/// Another replica's part of the same trace.
fn add(known: &mut v1::TraceSummary, more: v1::TraceSummary) {
    let end = (known.start_ns + known.duration_ns).max(more.start_ns + more.duration_ns);
    let (mut first, second) =
        if more.start_ns < known.start_ns { (more, known.clone()) } else { (known.clone(), more) };
    first.duration_ns = end - first.start_ns;
    first.listed_ns = first.listed_ns.min(second.listed_ns);
    first.spans += second.spans;
    first.errors += second.errors;
    first.rejected += second.rejected;
    first.probes += second.probes;
    first.redials += second.redials;
    first.fallbacks += second.fallbacks;
    first.dropped += second.dropped;
    if first.reason.is_empty() {
        first.reason = second.reason;
    }
    for service in second.services {
        match first.services.iter_mut().find(|known| known.name == service.name) {
            Some(known) => {
                known.spans += service.spans;
                known.errors += service.errors;
            }
            None => first.services.push(service),
        }
    }
    *known = first;
}

/// One trace with its spans; without a summary where nobody who answered has it.
pub(crate) async fn get(shared: &Shared, asked: v1::GetTraceRequest) -> Result<v1::GetTraceResponse, Status> {
    let mut whole = shared.traces.get_here(&asked)?;
    if asked.this_replica_only {
        return Ok(whole);
    }
    let here_only = v1::GetTraceRequest { this_replica_only: true, ..asked };
    let (answers, replicas) = replicas::ask_all(shared, |mut client| {
        let asked = here_only.clone();
        async move { client.get_trace(asked).await }
    })
    .await;
    whole.replicas = replicas;
    for (_, answer) in answers {
        join(&mut whole, answer);
    }
    Ok(whole)
}

fn join(whole: &mut v1::GetTraceResponse, theirs: v1::GetTraceResponse) {
    let Some(more) = theirs.summary else { return };
    match &mut whole.summary {
        Some(known) => add(known, more),
        None => whole.summary = Some(more),
    }
    let of = |span: &v1::TraceSpan| (span.span_id.clone(), span.start_ns, span.service.clone());
    let known: BTreeSet<_> = whole.spans.iter().map(of).collect();
    whole.spans.extend(theirs.spans.into_iter().filter(|span| !known.contains(&of(span))));
    whole.spans.sort_by_key(|span| (span.start_ns, Reverse(span.duration_ns)));
}

pub(crate) async fn service_map(shared: &Shared, asked: v1::ServiceMapRequest) -> v1::ServiceMapResponse {
    let mut whole = shared.traces.map_here();
    if asked.this_replica_only {
        return whole;
    }
    let mut reporters = heard_everywhere(shared, &mut whole).await;
    let world = shared.in_force.borrow().world.clone();
    map::leave_out_what_is_not_theirs(&mut reporters, |service, workload| serves(&world, service, workload));
    (whole.nodes, whole.edges) = map::build(&reporters);
    whole
}

/// What sidecars that proved who they are told lately, to whichever replica; `None` where one did not answer.
pub(crate) async fn proven_reporters(shared: &Shared) -> Option<Vec<v1::Reporter>> {
    let mut whole = shared.traces.map_here();
    let mut reporters = heard_everywhere(shared, &mut whole).await;
    reporters.retain(|reporter| reporter.proven);
    whole.replicas.iter().all(|replica| replica.answered).then_some(reporters)
}

/// What sidecars told to this replica, which `whole` has, and to the others, who are noted there.
async fn heard_everywhere(shared: &Shared, whole: &mut v1::ServiceMapResponse) -> Vec<v1::Reporter> {
    let (answers, replicas) = replicas::ask_all(shared, |mut client| async move {
        client.service_map(v1::ServiceMapRequest { this_replica_only: true }).await
    })
    .await;
    whole.replicas = replicas;
    for (_, answer) in answers {
        whole.reporters.extend(answer.reporters);
        whole.refused_reports += answer.refused_reports;
    }
    heard_last(std::mem::take(&mut whole.reporters))
}

/// Whether the service's instances have that identity's path.
fn serves(world: &World, service: &str, workload: &str) -> bool {
    let Ok(service) = ServiceName::parse(service) else { return false };
    identity_of(world, &service).is_some_and(|identity| identity.path() == workload)
}

fn heard_last(reporters: Vec<v1::Reporter>) -> Vec<v1::Reporter> {
    let mut last: HashMap<(String, String, bool), v1::Reporter> = HashMap::new();
    for reporter in reporters {
        let key = (reporter.workload.clone(), reporter.instance.clone(), reporter.proven);
        match last.get(&key) {
            Some(known) if known.age_ms <= reporter.age_ms => {}
            _ => drop(last.insert(key, reporter)),
        }
    }
    let mut all: Vec<_> = last.into_values().collect();
    // sums of fractions depend on their order, and the page should not flicker
    all.sort_by(|a, b| (&a.workload, &a.instance, a.proven).cmp(&(&b.workload, &b.instance, b.proven)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u8, start: u64, duration: u64, service: &str) -> v1::TraceSummary {
        v1::TraceSummary {
            trace_id: format!("{id:032x}"),
            start_ns: start,
            listed_ns: start,
            duration_ns: duration,
            service: service.into(),
            services: vec![v1::TraceService { name: service.into(), spans: 1, errors: 0 }],
            spans: 1,
            ..Default::default()
        }
    }

    fn page(traces: Vec<v1::TraceSummary>, has_more: bool) -> v1::ListTracesResponse {
        let next = traces.last().filter(|_| has_more).map(query::next).unwrap_or_default();
        let store = Some(v1::TraceStore { traces: traces.len() as u64, max_bytes: 10, ..Default::default() });
        v1::ListTracesResponse { traces, next, store, services: vec!["web".into()], ..Default::default() }
    }

    #[test]
    fn a_trace_whose_spans_lie_at_two_replicas_is_one_line() {
        let mut whole = page(vec![line(2, 200, 10, "web"), line(1, 110, 20, "catalog")], false);
        merge(&mut whole, page(vec![line(1, 100, 90, "web")], false));
        settle(&mut whole, 50);
        assert_eq!(whole.traces.len(), 2);
        let joined = &whole.traces[1];
        assert_eq!((joined.start_ns, joined.duration_ns, joined.spans, joined.service.as_str()), (100, 90, 2, "web"));
        assert_eq!(joined.services.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["web", "catalog"]);
        assert_eq!(whole.services, ["web"]);
        assert_eq!(whole.store.unwrap().max_bytes, 20);
        assert!(whole.next.is_empty());
    }

    #[test]
    fn pages_of_two_replicas_end_where_neither_misses_anything() {
        let mut whole = page(vec![line(9, 900, 1, "web"), line(3, 300, 1, "web")], true);
        merge(&mut whole, page(vec![line(8, 800, 1, "web"), line(7, 700, 1, "web")], true));
        settle(&mut whole, 2);
        let starts: Vec<_> = whole.traces.iter().map(|line| line.start_ns).collect();
        assert_eq!(starts, [900, 800]);
        assert_eq!(whole.next, query::next(&line(8, 800, 1, "web")), "the next page begins with 700, not with 200");
    }

    #[test]
    fn a_sidecar_that_moved_counts_where_it_was_heard_last() {
        let at = |age_ms, in_flight| v1::Reporter {
            workload: "web".into(),
            instance: "web-1".into(),
            proven: true,
            age_ms,
            in_flight,
            ..Default::default()
        };
        let last = heard_last(vec![at(9_000, 1), at(100, 2), at(20_000, 3)]);
        assert_eq!(last.iter().map(|r| r.in_flight).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_service_is_its_identitys_also_where_that_has_another_name() {
        let yaml = "trust_domain: t\nservices:\n  shop: {identity: stock/shop}\n  cart: \n";
        let source = fusewire_model::yaml::Source { name: "mesh.yaml".into(), text: yaml.into() };
        let world = World::new(fusewire_model::yaml::parse(&[source]).unwrap().mesh);
        for (service, workload, is) in [
            ("shop", "stock/shop", true),
            ("shop", "shop", false),
            ("cart", "cart", true),
            ("cart", "evil", false),
            ("bank", "bank", true), // defined nowhere
            ("bank", "evil", false),
            ("no name", "no name", false),
        ] {
            assert_eq!(serves(&world, service, workload), is, "{service} by {workload}");
        }
    }
}
