//! `retry` and `fallback`: what is sent again, and what the caller gets where nothing came of it.

use super::{DAY, MINUTE, MS, SECOND};
use crate::crd::schema::{
    Schema, duration, flag, integer, list, map, number, object, optional, percent, required, share, text, word,
};
use crate::crd::target::SERVICE;
use fusewire_model::policy::{MAX_BODY, MAX_CHAIN, MAX_FIELDS};

const CAUSES: [&str; 7] =
    ["connect", "not_processed", "reset", "timeout", "gateway_error", "unavailable", "server_error"];

pub(super) fn schema() -> Schema {
    let on = "What is tried again. Write the key in quotes (\"on\"), since YAML 1.1 takes it for true.";
    let fields = vec![
        optional("attempts", integer(1, 5, "The first one included; 1 is no retry. Default 3.")),
        optional("on", list(word(&CAUSES, "A cause."), (0, 7), on)),
        optional("per_try_timeout", duration(MS, DAY, "To the response headers of one attempt. Default none.")),
        optional("backoff", backoff()),
        optional("budget", budget()),
        optional(
            "idempotent",
            flag(
                "true: twice is as good as once, whatever the method; false: not even a GET may be repeated. Default by method.",
            ),
        ),
        optional("hedge", hedge()),
    ];
    object("What is sent again, each time to another instance, and who pays.", fields)
}

fn backoff() -> Schema {
    let fields = vec![
        optional("initial", duration(MS, 10 * SECOND, "Before the first retry. Default 25ms.")),
        optional("max", duration(MS, MINUTE, "Before any, at least initial. Default 250ms.")),
    ];
    object("How long to wait before it.", fields).rule(
        "!has(self.max) || duration(self.max) >= duration(has(self.initial) ? self.initial : '25ms')",
        "max must be at least initial, whose default is 25ms",
    )
}

fn budget() -> Schema {
    let fields = vec![
        optional("ratio", share("Retries that one success pays for: 20% or \"0.2\". Default 20%.")),
        optional("min_per_second", number(0.0, 1_000.0, "What is paid besides. Default 1.")),
        optional("start", number(0.0, 10_000.0, "What there is at first, at most cap. Default 10.")),
        optional("cap", number(1.0, 10_000.0, "The most there can be. Default 100.")),
        optional("active", percent(0, 100, "Percent of the requests under way that may be retries. Default 20%.")),
        optional("active_min", integer(0, 100_000, "So many may be in any case. Default 3.")),
    ];
    object("How many retries a service bears, paid by its successes.", fields).rule(
        "!has(self.start) || self.start <= (has(self.cap) ? self.cap : 100.0)",
        "start must be at most cap, whose default is 100",
    )
}

fn hedge() -> Schema {
    let fields = vec![
        optional("extra", integer(0, 1, "How many copies; 0 is off. Default 1 where hedge is written.")),
        optional("min_delay", duration(MS, MINUTE, "How long to wait before one is sent, at least. Default 10ms.")),
    ];
    object("A second copy of what takes longer than most. Default off.", fields)
}

pub(super) fn fallback() -> Schema {
    let header = text((0, 4096), "^([!-~]([ -~]*[!-~])?)?$", "The value: visible ASCII.");
    let fields = vec![
        required(
            "type",
            word(
                &["static", "stale", "service", "empty", "fail"],
                "An answer of one's own; the last good one; another service; 204 or an empty message; an error of one's own.",
            ),
        ),
        optional("status", integer(200, 599, "static: default 200; fail: 400..599, default 503.")),
        optional("headers", map(header, MAX_FIELDS as u64, "static: the headers of the answer.")),
        optional("body", text((0, MAX_BODY as u64), "", "static: the body, a message for gRPC.")),
        optional("grpc_status", integer(0, 16, "static: for gRPC, in place of status. Default 0.")),
        optional("max_age", duration(SECOND, DAY, "stale: how old the answer may be.")),
        optional(
            "service",
            text((1, 253), SERVICE, "service: NAME of this namespace, NAME.NAMESPACE, or NAME.NAMESPACE.PORT."),
        ),
        optional("retry_after", duration(SECOND, DAY, "fail: what callers are told.")),
    ];
    let only = |field: &str, words: &str| format!("!has(self.{field}) || self.type in [{words}]");
    let item = object("One fallback.", fields)
        .rule("(self.type == 'stale') == has(self.max_age)", "max_age is for the type stale, which needs it")
        .rule("(self.type == 'service') == has(self.service)", "service is for the type service, which needs it")
        .rule(&only("status", "'static', 'fail'"), "status is for the types static and fail")
        .rule(
            "self.type != 'fail' || !has(self.status) || self.status >= 400",
            "status must be 400..599 for the type fail",
        )
        .rule(&only("headers", "'static'"), "headers is for the type static")
        .rule(&only("body", "'static'"), "body is for the type static")
        .rule(&only("grpc_status", "'static'"), "grpc_status is for the type static")
        .rule(&only("retry_after", "'fail'"), "retry_after is for the type fail");
    list(
        item,
        (0, MAX_CHAIN as u64),
        "What the caller gets where the service gives nothing, tried in this order. Default none.",
    )
}
