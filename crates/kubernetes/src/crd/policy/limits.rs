//! `limit`: how much at once, and how many in a time.

use super::{DAY, MINUTE, MS, SECOND, key};
use crate::crd::schema::{Schema, duration, integer, object, optional, required, word};
use std::time::Duration;

const MAX: i64 = 1_000_000;

pub(super) fn schema() -> Schema {
    let fields = vec![
        optional("inbound", inbound()),
        optional("connections", integer(1, MAX, "Connections of one caller's sidecar. Default 1024.")),
        optional("pending", integer(1, MAX, "Its requests that wait for a connection. Default 1024.")),
        optional("requests", integer(1, MAX, "Its requests at once. Default 1024.")),
        optional("rate", rate("What one caller's sidecar sends. Default no limit.")),
    ];
    object("How much of something there may be.", fields)
}

fn inbound() -> Schema {
    let fields = vec![
        optional(
            "algorithm",
            word(
                &["queue_guard", "gradient2", "aimd", "off"],
                "How the limit is found; write \"off\" in quotes. Default queue_guard: none until requests queue inside the \
                 application.",
            ),
        ),
        optional("target", duration(MS, MINUTE, "queue_guard: how long requests may take in all. Default 100ms.")),
        optional(
            "queue",
            duration(Duration::ZERO, 10 * SECOND, "queue_guard: how long of it they may wait. Default 50ms."),
        ),
        optional("min", integer(1, 100_000, "The smallest limit; queue_guard: at most 10000.")),
        optional("initial", integer(1, 100_000, "gradient2, aimd: where the limit begins.")),
        optional("max", integer(1, 100_000, "gradient2, aimd: the largest limit.")),
        optional("timeout", duration(MS, MINUTE, "aimd: an answer that takes longer lowers the limit.")),
        optional("rate", rate("What is let in from all callers together, or by key. Default no limit.")),
    ];
    let is = |words: &str| format!("has(self.algorithm) && self.algorithm in [{words}]");
    let guard = "(!has(self.algorithm) || self.algorithm == 'queue_guard')";
    object("The guard before the application, in its own sidecar.", fields)
        .rule(&format!("{guard} || !(has(self.target) || has(self.queue))"), "target and queue are for queue_guard")
        .rule(
            &format!("({}) || !(has(self.initial) || has(self.max))", is("'gradient2', 'aimd'")),
            "initial and max are for gradient2 and aimd",
        )
        .rule(&format!("({}) || !has(self.timeout)", is("'aimd'")), "timeout is for aimd")
        .rule(&format!("!({}) || !has(self.min)", is("'off'")), "min has no meaning with algorithm: \"off\"")
        .rule(&format!("!{guard} || !has(self.min) || self.min <= 10000"), "min must be at most 10000 for queue_guard")
        .rule("!(has(self.min) && has(self.max)) || self.min <= self.max", "min must be at most max")
        .rule("!(has(self.min) && has(self.initial)) || self.min <= self.initial", "initial must be at least min")
        .rule("!(has(self.initial) && has(self.max)) || self.initial <= self.max", "initial must be at most max")
}

fn rate(description: &str) -> Schema {
    let fields = vec![
        required("requests", integer(1, MAX, "How many.")),
        optional("per", duration(MS, DAY, "In how long. Default 1s.")),
        optional("burst", integer(1, MAX, "How many at once. Default as many as requests.")),
        optional("key", key("Each value has a limit of its own. Default one for all.")),
    ];
    object(description, fields)
}
