//! `breaker`: when a circuit opens, how it comes back, and what statuses mean.

use super::{DAY, HOUR, MINUTE, MS, SECOND};
use crate::crd::schema::{
    Schema, duration, integer, integer_or_text, list, number, object, optional, percent, required, word,
};
use fusewire_model::policy::GRPC_CODES;
use std::time::Duration;

const MODES: [&str; 3] = ["enforce", "observe", "disabled"];

pub(super) fn schema() -> Schema {
    let fields = vec![
        optional("instance", instance()),
        optional("service", service()),
        optional("exhausted", exhausted()),
        optional("classify", classify()),
    ];
    object(
        "The circuit breaker: one for each instance, and one before the service as a whole. To turn both off write mode: \
         disabled in each.",
        fields,
    )
}

fn instance() -> Schema {
    let fields = vec![
        optional("mode", word(&MODES, "`observe` judges and tells, and refuses nothing. Default enforce.")),
        optional("window", duration(100 * MS, 10 * MINUTE, "How far back the failure rate looks. Default 10s.")),
        optional("buckets", integer(2, 20, "How many parts of at least 10ms the window is cut into. Default 10.")),
        optional(
            "window_calls",
            integer(0, 256, "The window holds this many calls in place of a time. Default 0: by time."),
        ),
        optional("consecutive", integer(0, 255, "Hard failures in a row that open the circuit; 0 is off. Default 5.")),
        optional("min_calls", integer(1, 65_000, "Calls in the window below which no rate counts. Default 10.")),
        optional("failure_rate", percent(1, 100, "Percent of hard failures that opens the circuit. Default 50%.")),
        optional("open", open_instance()),
        optional(
            "stable",
            duration(Duration::ZERO, DAY, "After this long closed the next opening is short again. Default 30s."),
        ),
        optional(
            "probe",
            word(
                &["request", "check"],
                "What tests an open circuit: a caller's request, or the service's health check, which it then must have. Default request.",
            ),
        ),
        optional("probe_timeout", duration(10 * MS, HOUR, "When a probe without an answer has failed. Default 10s.")),
        optional("probe_concurrency", integer(1, 20, "Probes at once. Default 1.")),
        optional(
            "slow_start",
            duration(Duration::ZERO, HOUR, "How long the share of traffic grows after closing. Default 10s."),
        ),
        optional("half_open", half_open()),
        optional("unresponsive", unresponsive()),
        optional("slow", slow()),
        optional("peer", peer()),
    ];
    object("The circuit of each instance.", fields)
}

fn open_instance() -> Schema {
    let fields = vec![
        optional("base", duration(100 * MS, HOUR, "The first opening. Default 5s.")),
        optional("max", duration(100 * MS, DAY, "The longest opening, at least base. Default 60s.")),
        optional(
            "factor",
            number(1.0, 10.0, "By how much each opening is longer than the last, to the thousandth. Default 2."),
        ),
        optional("jitter", percent(0, 50, "By how many percent openings differ. Default 25%.")),
    ];
    object("How long it stays open.", fields).rule(&ordered("60s"), ORDERED)
}

const ORDERED: &str = "max must be at least base, also where one of them has its default";

fn ordered(max: &str) -> String {
    format!("duration(has(self.max) ? self.max : '{max}') >= duration(has(self.base) ? self.base : '5s')")
}

fn half_open() -> Schema {
    let fields = vec![
        required("permits", integer(1, 200, "How many calls decide.")),
        optional("concurrency", integer(1, 200, "How many of them at once, at most permits. Default 3.")),
        optional("max_wait", duration(10 * MS, HOUR, "How long they may take to come. Default for ever.")),
        optional("then", word(&["open", "closed"], "What the circuit is after max_wait. Default open.")),
    ];
    object("A round of calls decides by its rate, in place of the evidence.", fields)
        .rule("!has(self.concurrency) || self.concurrency <= self.permits", "concurrency must be at most permits")
}

fn unresponsive() -> Schema {
    let fields = vec![
        optional("timeouts", integer(0, 255, "How many in a row; 0 is off. Default 5.")),
        optional("span", duration(Duration::ZERO, 600 * SECOND, "Over at least this long. Default 1s.")),
    ];
    object("Opens for instances that take requests and never answer.", fields)
}

fn slow() -> Schema {
    let fields = vec![
        required("over", duration(MS, HOUR, "What is slow.")),
        required("rate", percent(1, 100, "Percent of slow calls that opens the circuit.")),
    ];
    object("Opens for slow calls. Default off.", fields)
}

fn peer() -> Schema {
    let fields = vec![
        optional("delta", percent(0, 100, "Points above the median of the peers; 0 is off. Default 5.")),
        optional("z", integer(1, 20, "Standard deviations above it. Default 4.")),
    ];
    object("Opens for the instance that fails more than its peers.", fields)
}

fn service() -> Schema {
    let fields = vec![
        optional("scope", word(&["service", "route"], "What is counted together. Default service.")),
        optional("mode", word(&MODES, "As for an instance. Default enforce.")),
        optional("throttle", throttle()),
        optional("open", open_service()),
        optional("failure_rate", percent(1, 100, "Percent of failed requests that opens it. Default 50%.")),
        optional("min_calls", integer(1, 65_000, "Requests in the window below which no rate counts. Default 20.")),
        optional("window", duration(SECOND, 10 * MINUTE, "How far back the rate looks. Default 10s.")),
        optional("recent_rate", percent(0, 100, "Percent of the last 2s that must have failed too. Default 25%.")),
        optional(
            "stable",
            duration(Duration::ZERO, DAY, "After this long closed the next opening is short again. Default 30s."),
        ),
        optional("permits", integer(1, 200, "Requests of a half-open round. Default 10.")),
        optional("concurrency", integer(1, 200, "How many of them at once, at most permits. Default 3.")),
        optional("probe_timeout", duration(10 * MS, HOUR, "When a probe without an answer has failed. Default 10s.")),
        optional(
            "ramp",
            duration(Duration::ZERO, HOUR, "How long the admitted share grows after closing. Default 10s."),
        ),
    ];
    object("The circuit and the throttle before the service as a whole, after retries.", fields).rule(
        "!has(self.concurrency) || self.concurrency <= (has(self.permits) ? self.permits : 10)",
        "concurrency must be at most permits, whose default is 10",
    )
}

fn throttle() -> Schema {
    let k = number(
        0.0,
        10.0,
        "Requests for each accepted one before some are refused: 1.1..10, to the hundredth; 0 is off. Default 2.",
    )
    .rule("self == 0.0 || self >= 1.1", "must be 0, which is off, or 1.1..10");
    object("Refuses more and more of what a service refuses because of load.", vec![optional("k", k)])
}

fn open_service() -> Schema {
    let on = "For which failures it opens: none, connections that cannot be had, or any. Write the key in quotes (\"on\"), since \
              YAML 1.1 takes it for true, and so the word off. Default connect.";
    let fields = vec![
        optional("on", word(&["off", "connect", "any"], on)),
        optional("base", duration(100 * MS, HOUR, "The first opening. Default 5s.")),
        optional("max", duration(100 * MS, DAY, "The longest opening, at least base. Default 30s.")),
        optional("jitter", percent(0, 50, "By how many percent openings differ. Default 25%.")),
    ];
    object("When it opens, and for how long.", fields).rule(&ordered("30s"), ORDERED)
}

fn exhausted() -> Schema {
    let fields = vec![
        optional("spill", percent(1, 100, "Below this share of closed instances a growing part goes to slow ones.")),
        optional(
            "envoy_panic",
            percent(1, 100, "Below this share of closed instances all of them get traffic, as in Envoy."),
        ),
    ];
    object("What happens when few instances are closed. Default their own limits shed what is too much.", fields)
        .rule("has(self.spill) != has(self.envoy_panic)", "must have exactly one of spill and envoy_panic")
}

fn classify() -> Schema {
    let http = |what: &str| {
        let status = integer_or_text(200, 599, "^[2-5][0-9][0-9](-[2-5][0-9][0-9])?$", "");
        list(status, (0, 64), &format!("HTTP statuses, or ranges such as 500-599, that are {what}."))
    };
    let codes = format!("^({}|[0-9]|1[0-6])$", GRPC_CODES.join("|"));
    let grpc = |what: &str| {
        let code = integer_or_text(0, 16, &codes, "");
        list(code, (0, 64), &format!("gRPC statuses by name or number that are {what}."))
    };
    let fields = vec![
        optional("hard", http("hard failures: the instance is broken")),
        optional("soft", http("soft failures: it is slow or busy")),
        optional("ok", http("no failures")),
        optional("grpc_hard", grpc("hard failures")),
        optional("grpc_soft", grpc("soft failures")),
        optional("grpc_ok", grpc("no failures")),
    ];
    object("Statuses that mean something else here.", fields)
}
