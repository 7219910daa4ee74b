use super::*;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::metrics::v1::{Gauge, Histogram, ScopeMetrics, Sum};
use opentelemetry_proto::tonic::resource::v1::Resource;

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.into())) });
    KeyValue { key: key.into(), value, ..Default::default() }
}

fn of(direction: &str, service: &str) -> Vec<KeyValue> {
    vec![text("direction", direction), text("service", service)]
}

fn number(attributes: Vec<KeyValue>, value: i64) -> NumberDataPoint {
    NumberDataPoint { attributes, value: Some(Number::AsInt(value)), ..Default::default() }
}

fn responses(points: Vec<NumberDataPoint>) -> Metric {
    let sum = Sum { data_points: points, aggregation_temporality: 2, is_monotonic: true };
    Metric { name: "fusewire_responses".into(), data: Some(Data::Sum(sum)), ..Default::default() }
}

fn answered(service: &str, class: &str, value: i64) -> NumberDataPoint {
    let mut attributes = of("outbound", service);
    attributes.push(text("class", class));
    number(attributes, value)
}

fn report(workload: &str, instance: &str, metrics: Vec<Metric>) -> ResourceMetrics {
    let attributes = vec![text("service.name", workload), text("service.instance.id", instance)];
    ResourceMetrics {
        resource: Some(Resource { attributes, ..Default::default() }),
        scope_metrics: vec![ScopeMetrics { metrics, ..Default::default() }],
        ..Default::default()
    }
}

fn add(reports: &mut Reports, sent: ResourceMetrics, peer: Option<&SpiffeId>, now: Instant) -> u64 {
    reports.begin(&[], now) + reports.add(Report::of(sent, peer), now)
}

fn web() -> SpiffeId {
    SpiffeId::parse("spiffe://shop.local/web").unwrap()
}

const FIVE: Duration = Duration::from_secs(5);

#[test]
fn a_rate_is_the_difference_over_the_last_ten_to_thirty_seconds() {
    let (mut reports, mut now) = (Reports::default(), Instant::now());
    for n in 0..20 {
        let points = vec![answered("catalog", "2xx", 1_000 + 50 * n), answered("catalog", "5xx", 5 * n)];
        assert_eq!(add(&mut reports, report("web", "1", vec![responses(points)]), Some(&web()), now), 0);
        let flow = reports.told(now)[0].flows[0].clone();
        let all: u64 = flow.responses.iter().sum();
        match n {
            0 => assert_eq!((flow.seconds, all), (0.0, 0), "known once only"),
            _ => assert!((all as f64 / flow.seconds - 11.0).abs() < 1e-6, "{n}: {flow:?}"),
        }
        assert!(flow.seconds <= 20.0, "{n}: {flow:?}");
        assert!(n < 3 || flow.seconds >= 10.0, "{n}: {flow:?}");
        now += FIVE;
    }
}

#[test]
fn a_sidecar_that_starts_again_counts_from_zero() {
    let (mut reports, now) = (Reports::default(), Instant::now());
    let mut send =
        |value, at| add(&mut reports, report("web", "1", vec![responses(vec![answered("a", "2xx", value)])]), None, at);
    send(900, now);
    send(1_000, now + FIVE);
    send(10, now + 2 * FIVE);
    send(30, now + 3 * FIVE);
    let flow = reports.told(now + 3 * FIVE)[0].flows[0].clone();
    assert_eq!((flow.seconds, flow.responses[1]), (5.0, 20));
}

#[test]
fn who_falls_silent_is_forgotten() {
    let (mut reports, now) = (Reports::default(), Instant::now());
    let send = |reports: &mut Reports, instance, at| {
        add(reports, report("web", instance, vec![responses(vec![answered("a", "2xx", 1)])]), None, at)
    };
    send(&mut reports, "1", now);
    send(&mut reports, "2", now + Duration::from_secs(20));
    let told = |reports: &mut Reports, at| {
        let mut told: Vec<_> = reports.told(at).into_iter().map(|r| (r.instance, r.age_ms)).collect();
        told.sort();
        told
    };
    let at = now + Duration::from_secs(30);
    assert_eq!(told(&mut reports, at), [("1".into(), 30_000), ("2".into(), 10_000)]);
    assert_eq!(told(&mut reports, at + Duration::from_secs(1)).len(), 1);
    assert_eq!(told(&mut reports, at + FIVE * 6).len(), 0);
    assert_eq!(reports.count(), 0);
}

#[test]
fn circuits_durations_and_requests_in_flight_are_understood() {
    let (mut reports, now) = (Reports::default(), Instant::now());
    let point = |count: u64| HistogramDataPoint {
        attributes: of("inbound", "web"),
        bucket_counts: vec![count, 0, 1],
        explicit_bounds: vec![0.1, 1.0],
        ..Default::default()
    };
    let histogram = |count| Metric {
        name: "fusewire_request_duration_seconds".into(),
        data: Some(Data::Histogram(Histogram {
            data_points: vec![point(count), point(1)],
            aggregation_temporality: 2,
        })),
        ..Default::default()
    };
    let gauge = |name: &str, data_points| Metric {
        name: name.into(),
        data: Some(Data::Gauge(Gauge { data_points })),
        ..Default::default()
    };
    let circuit = |instance: &str, state| {
        number(vec![text("scope", "instance"), text("service", "a"), text("instance", instance)], state)
    };
    let breakers = gauge("fusewire_breaker_state", vec![circuit("1", 1), circuit("2", 2), circuit("3", 0)]);
    let flying = gauge(
        "fusewire_requests_in_flight",
        vec![number(vec![text("direction", "inbound")], 3), number(vec![text("direction", "outbound")], 9)],
    );
    add(&mut reports, report("web", "1", vec![histogram(5), breakers, flying]), Some(&web()), now);
    let told = reports.told(now).remove(0);
    assert_eq!(told.in_flight, 3);
    assert_eq!(
        told.breakers.iter().map(|b| (b.instance.as_str(), b.open)).collect::<Vec<_>>(),
        [("1", true), ("2", false)]
    );
    // a circuit that is not told of any more is closed
    add(&mut reports, report("web", "1", vec![histogram(9)]), Some(&web()), now + FIVE);
    let told = reports.told(now + FIVE).remove(0);
    assert!(told.breakers.is_empty());
    assert_eq!((told.flows[0].inbound, &told.flows[0].buckets), (true, &vec![4, 0, 0]));
}

#[test]
fn who_proved_nothing_speaks_for_no_workload_that_did() {
    let (mut reports, now) = (Reports::default(), Instant::now());
    let send = |value| report("web", "1", vec![responses(vec![answered("a", "2xx", value), answered("a", "5xx", 1)])]);
    assert_eq!(add(&mut reports, send(5), None, now), 0);
    assert_eq!(add(&mut reports, send(5), Some(&web()), now), 0);
    assert_eq!(add(&mut reports, send(900), None, now + FIVE), 2, "both values");
    // and a proven one speaks for itself only
    let other = SpiffeId::parse("spiffe://shop.local/other").unwrap();
    add(&mut reports, send(7), Some(&other), now);
    let mut told: Vec<_> = reports.told(now).into_iter().map(|r| (r.workload, r.proven)).collect();
    told.sort();
    assert_eq!(told, [("other".into(), true), ("web".into(), true)], "not even what it said before");
}

fn some_flows(count: usize) -> Vec<Metric> {
    vec![responses((0..count).map(|n| answered(&format!("s{n}"), "2xx", 1)).collect())]
}

fn workload(n: usize) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://shop.local/w{n}")).unwrap()
}

#[test]
fn bounds_hold_and_what_is_refused_is_counted() {
    let (mut reports, now) = (Reports::default(), Instant::now());
    assert_eq!(add(&mut reports, report("", "many", some_flows(600)), Some(&web()), now), 88, "512 of one reporter");
    for n in 0..3_000 {
        add(&mut reports, report("", &n.to_string(), some_flows(1)), Some(&workload(n % 30)), now);
    }
    assert_eq!(reports.count(), MAX_REPORTERS);
    for n in 0..100 {
        add(&mut reports, report("", &n.to_string(), some_flows(512)), Some(&workload(n % 30)), now);
    }
    let flows = reports.held(|_| true).flows;
    assert!(flows <= MAX_FLOWS && flows > MAX_FLOWS - 512, "{flows}");
    assert!(reports.refused > 1_000);
}

#[test]
fn one_workload_that_calls_itself_many_names_leaves_room_for_the_others() {
    let (mut reports, now) = (Reports::default(), Instant::now());
    for n in 0..3_000 {
        add(&mut reports, report("", &n.to_string(), some_flows(40)), Some(&web()), now);
        add(&mut reports, report(&format!("said-{n}"), &n.to_string(), some_flows(40)), None, now);
    }
    let of_web = reports.held(|key| key.is_proven);
    assert_eq!((of_web.flows, of_web.reporters), (2_480, 62), "an eighth of 20,000");
    let unproven = reports.held(|key| !key.is_proven);
    assert_eq!((unproven.flows, unproven.reporters), (10_000, 250), "half of 20,000");
    for n in 0..3_000 {
        add(&mut reports, report("", &format!("small-{n}"), some_flows(0)), Some(&web()), now);
        let flying = number(vec![text("direction", "inbound")], 3);
        let data = Some(Data::Gauge(Gauge { data_points: vec![flying] }));
        let metric = Metric { name: "fusewire_requests_in_flight".into(), data, ..Default::default() };
        add(&mut reports, report("", &format!("small-{n}"), vec![metric]), Some(&web()), now);
    }
    assert_eq!(reports.held(|key| key.is_proven).reporters, MAX_REPORTERS / PART_OF_ONE);
    assert_eq!(add(&mut reports, report("", "1", some_flows(512)), Some(&workload(1)), now), 0, "another has room");
}

#[test]
fn nonsense_is_refused_and_breaks_nothing() {
    let (mut reports, now) = (Reports::default(), Instant::now());
    let class = |class: &str| answered("a", class, 1);
    let mut none = answered("a", "2xx", 1);
    none.value = None;
    let mut nan = answered("a", "2xx", 1);
    nan.value = Some(Number::AsDouble(f64::NAN));
    let points = vec![
        class(""),
        class("9xx"),
        class("0xx"),
        class("é"),
        answered("a", "2xx", -1),
        none,
        nan,
        number(Vec::new(), 1),
    ];
    let wrong = points.len() as u64;
    assert_eq!(add(&mut reports, report("w", "1", vec![responses(points)]), None, now), wrong);
    let point = |bounds: Vec<f64>, buckets: Vec<u64>| HistogramDataPoint {
        attributes: of("inbound", "a"),
        bucket_counts: buckets,
        explicit_bounds: bounds,
        ..Default::default()
    };
    let points = vec![
        point(vec![1.0, 0.5], vec![1, 1, 1]),
        point(vec![f64::NAN], vec![1, 1]),
        point(vec![1.0], vec![1]),
        point((0..100).map(f64::from).collect(), vec![1; 101]),
        point(vec![-1.0], vec![1, 1]),
    ];
    let histogram = Metric {
        name: "fusewire_request_duration_seconds".into(),
        data: Some(Data::Histogram(Histogram { data_points: points, aggregation_temporality: 2 })),
        ..Default::default()
    };
    assert_eq!(add(&mut reports, report("w", "1", vec![histogram]), None, now), 5);
    let largest = vec![answered("a", "2xx", i64::MAX), answered("a", "2xx", i64::MAX), answered("a", "2xx", i64::MAX)];
    assert_eq!(add(&mut reports, report("w", "1", vec![responses(largest)]), None, now), 0);
    assert_eq!(add(&mut reports, ResourceMetrics::default(), None, now), 0, "nothing of ours");
    reports.told(now);
}
