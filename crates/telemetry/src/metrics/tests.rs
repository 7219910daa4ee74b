use super::*;
use crate::exposition::Format;
use expect_test::expect;
use fusewire_resilience::Class;
use std::time::Duration;

fn ended(ms: u64, status: u16, grpc_status: Option<u8>) -> Ended {
    Ended { took: Duration::from_millis(ms), status: Some(status), grpc_status, trace_id: None }
}

/// The lines of `text` that begin with one of `families`, samples in order.
fn told(text: &str, families: &[&str]) -> String {
    let mut lines: Vec<&str> = text.lines().filter(|l| families.iter().any(|f| l.contains(f))).collect();
    lines.sort_by_key(|line| (!line.starts_with('#'), if line.starts_with('#') { "" } else { *line }));
    lines.join("\n") + "\n"
}

fn scripted() -> Metrics {
    let metrics = Metrics::new();
    let route = metrics.route("front[0]");
    for one in [ended(3, 200, None), ended(40, 200, Some(0)), ended(2, 200, Some(5)), ended(9_000, 200, Some(14))] {
        route.requests.ended(&one);
    }
    route.requests.ended(&Ended { trace_id: Some(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c), ..ended(7, 503, None) });
    route.requests.ended(&Ended { status: None, ..ended(100, 200, None) });
    let instance = metrics.instance("shop", "shop-1");
    instance.ended(Class::Ok, Some(Duration::from_millis(3)));
    instance.ended(Class::Hard, Some(Duration::from_millis(2_000)));
    instance.ended(Class::Ignored, None);
    metrics
}

#[test]
fn scripted_requests_give_these_series_of_a_route_and_an_instance() {
    let text = Format::Text.write(scripted().encode());
    expect![[r##"
        # HELP fusewire_route_responses_total Responses by route and class, ours included.
        # TYPE fusewire_route_responses_total counter
        # HELP fusewire_route_request_duration_seconds Time to the end of the response body, by route.
        # TYPE fusewire_route_request_duration_seconds histogram
        # HELP fusewire_attempts_total Tries at an instance, by what they told its breaker.
        # TYPE fusewire_attempts_total counter
        # HELP fusewire_attempt_duration_seconds Time to an instance's response headers, or to its failure.
        # TYPE fusewire_attempt_duration_seconds histogram
        fusewire_attempt_duration_seconds_bucket{le="+Inf",service="shop",instance="shop-1"} 2
        fusewire_attempt_duration_seconds_bucket{le="0.001",service="shop",instance="shop-1"} 0
        fusewire_attempt_duration_seconds_bucket{le="0.005",service="shop",instance="shop-1"} 1
        fusewire_attempt_duration_seconds_bucket{le="0.025",service="shop",instance="shop-1"} 1
        fusewire_attempt_duration_seconds_bucket{le="0.1",service="shop",instance="shop-1"} 1
        fusewire_attempt_duration_seconds_bucket{le="1.0",service="shop",instance="shop-1"} 1
        fusewire_attempt_duration_seconds_count{service="shop",instance="shop-1"} 2
        fusewire_attempt_duration_seconds_sum{service="shop",instance="shop-1"} 2.003
        fusewire_attempts_total{service="shop",instance="shop-1",outcome="hard"} 1
        fusewire_attempts_total{service="shop",instance="shop-1",outcome="ignored"} 1
        fusewire_attempts_total{service="shop",instance="shop-1",outcome="ok"} 1
        fusewire_attempts_total{service="shop",instance="shop-1",outcome="soft"} 0
        fusewire_route_request_duration_seconds_bucket{le="+Inf",route="front[0]"} 6
        fusewire_route_request_duration_seconds_bucket{le="0.0005",route="front[0]"} 0
        fusewire_route_request_duration_seconds_bucket{le="0.001",route="front[0]"} 0
        fusewire_route_request_duration_seconds_bucket{le="0.0025",route="front[0]"} 1
        fusewire_route_request_duration_seconds_bucket{le="0.005",route="front[0]"} 2
        fusewire_route_request_duration_seconds_bucket{le="0.01",route="front[0]"} 3
        fusewire_route_request_duration_seconds_bucket{le="0.025",route="front[0]"} 3
        fusewire_route_request_duration_seconds_bucket{le="0.05",route="front[0]"} 4
        fusewire_route_request_duration_seconds_bucket{le="0.1",route="front[0]"} 5
        fusewire_route_request_duration_seconds_bucket{le="0.25",route="front[0]"} 5
        fusewire_route_request_duration_seconds_bucket{le="1.0",route="front[0]"} 5
        fusewire_route_request_duration_seconds_bucket{le="30.0",route="front[0]"} 6
        fusewire_route_request_duration_seconds_bucket{le="5.0",route="front[0]"} 5
        fusewire_route_request_duration_seconds_count{route="front[0]"} 6
        fusewire_route_request_duration_seconds_sum{route="front[0]"} 9.152
        fusewire_route_responses_total{route="front[0]",class="1xx"} 0
        fusewire_route_responses_total{route="front[0]",class="2xx"} 2
        fusewire_route_responses_total{route="front[0]",class="3xx"} 0
        fusewire_route_responses_total{route="front[0]",class="4xx"} 1
        fusewire_route_responses_total{route="front[0]",class="5xx"} 2
    "##]]
    .assert_eq(&told(&text, &["fusewire_route_", "fusewire_attempt"]));
}

#[test]
fn a_sampled_request_is_its_buckets_exemplar_for_who_can_read_it() {
    let metrics = scripted();
    let line = |format: Format| {
        let text = format.write(metrics.encode());
        let found: Vec<&str> =
            text.lines().filter(|l| l.starts_with("fusewire_route") && l.contains("\"0.01\"")).collect();
        assert_eq!(found.len(), 1);
        found[0].to_owned()
    };
    let plain = "fusewire_route_request_duration_seconds_bucket{le=\"0.01\",route=\"front[0]\"} 3";
    assert_eq!(line(Format::Text), plain);
    let open = line(Format::OpenMetrics);
    let exemplar = " # {trace_id=\"0af7651916cd43dd8448eb211c80319c\"} 0.007 ";
    let time = open.strip_prefix(plain).and_then(|rest| rest.strip_prefix(exemplar)).expect(&open);
    assert!(time.parse::<f64>().is_ok_and(|seconds| seconds > 1.7e9), "{open}");
    assert_eq!(metrics.encode().matches("trace_id").count(), 1, "unsampled requests leave none");
}

#[test]
fn above_the_limit_instances_share_one_name_and_are_counted_and_a_place_that_is_given_back_is_used_again() {
    let metrics = Metrics::new();
    let all: Vec<InstanceMetrics> = (0..MAX_EACH + 3).map(|n| metrics.instance("shop", &format!("shop-{n}"))).collect();
    all.iter().for_each(|one| one.ended(Class::Ok, None));
    let series = || {
        let text = metrics.encode();
        let count = |what: &str| text.lines().filter(|line| line.starts_with(what)).count();
        let value = |what: &str| text.lines().find_map(|line| line.strip_prefix(what)?.trim().parse().ok());
        (
            count("fusewire_attempts_total{"),
            count("fusewire_attempt_duration_seconds_count{"),
            value("fusewire_attempts_total{service=\"(other)\",instance=\"(other)\",outcome=\"ok\"}"),
            value("fusewire_series_shared_total{kind=\"instance\"}"),
        )
    };
    assert_eq!(series(), (4 * (MAX_EACH + 1), MAX_EACH + 1, Some(3.0), Some(3.0)));
    metrics.forget_instance(&all[0]);
    metrics.forget_instance(&all[MAX_EACH]); // one of those that share: nothing of theirs goes
    assert_eq!(series(), (4 * MAX_EACH, MAX_EACH, Some(3.0), Some(3.0)));
    metrics.instance("shop", "late");
    assert_eq!(series(), (4 * (MAX_EACH + 1), MAX_EACH + 1, Some(3.0), Some(3.0)));
    metrics.instance("shop", "later");
    assert_eq!(series().3, Some(4.0));
}

#[test]
fn circuits_services_and_routes_above_the_limit_add_no_series_and_leave_none_behind() {
    let metrics = Metrics::new();
    let name = |n: usize| format!("s{n}");
    let services: Vec<ServiceMetrics> =
        (0..MAX_EACH + 2).map(|n| metrics.service(Direction::Outbound, &name(n))).collect();
    let routes: Vec<RouteMetrics> = (0..MAX_EACH + 2).map(|n| metrics.route(&name(n))).collect();
    for n in 0..MAX_EACH + 2 {
        // every reason there is: each must be taken out again
        let reason = Transition::ALL[n / 2 % Transition::ALL.len()].as_str();
        metrics.transition("instance", &name(n), Changed { from: "closed", to: "open", reason });
        metrics.breaker_state("instance", &name(n), "i", Some(1));
    }
    let count = |what: &str| metrics.encode().lines().filter(|line| line.starts_with(what)).count();
    assert_eq!(count("fusewire_breaker_state{"), MAX_EACH);
    for shared in ["fusewire_breaker_transitions_total{", "fusewire_in_flight{", "fusewire_redials_total{"] {
        assert!(count(shared) <= MAX_EACH + 1, "{shared}");
    }
    assert_eq!(count("fusewire_route_request_duration_seconds_count{"), MAX_EACH + 1);
    services.iter().for_each(|service| metrics.forget_service(service));
    routes.iter().for_each(|route| metrics.forget_route(route));
    for n in 0..MAX_EACH + 2 {
        metrics.breaker_state("instance", &name(n), "i", None);
        metrics.forget_transitions("instance", &name(n));
    }
    let text = metrics.encode();
    let left: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("\"s") && !line.contains("kind=") && !line.starts_with("fusewire_spans"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    metrics.breaker_state("instance", "again", "i", Some(1));
    assert_eq!(count("fusewire_breaker_state{"), 1);
}

#[test]
fn a_gates_gauges_go_with_its_port_and_its_limit_while_there_is_none() {
    let metrics = Metrics::new();
    let families = ["inbound_limit{", "inbound_in_flight{", "inbound_phase{"];
    let mut gate = GateMetrics { limit: Some(12), in_flight: 9, queued: 1, phase: 2 };
    metrics.gate("shop", 80, Some(&gate));
    expect![[r#"
        fusewire_inbound_in_flight{service="shop",port="80"} 9
        fusewire_inbound_limit{service="shop",port="80"} 12
        fusewire_inbound_phase{service="shop",port="80"} 2
    "#]]
    .assert_eq(&told(&metrics.encode(), &families));
    (gate.limit, gate.phase) = (None, 0);
    metrics.gate("shop", 80, Some(&gate));
    assert!(!metrics.encode().contains("inbound_limit{"));
    metrics.gate("shop", 80, None);
    assert!(!metrics.encode().contains("port=\"80\""));
}

#[test]
fn what_limits_refused_is_counted_and_forgotten_with_the_service() {
    let metrics = Metrics::new();
    let service = metrics.service(Direction::Outbound, "shop");
    Limit::ALL.iter().for_each(|limit| service.refused(*limit));
    assert_eq!(metrics.encode().matches("fusewire_limit_refused_total{").count(), Limit::ALL.len());
    metrics.forget_service(&service);
    assert!(!metrics.encode().contains("fusewire_limit_refused_total{"));
}
