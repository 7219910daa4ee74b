//! `ResiliencePolicy`: the fields of a policy in YAML, for what its `targetRefs` name.
//!
//! It decides nothing that the parser of YAML does not decide too: its bounds are the parser's, and a test holds the two
//! together. What cannot be said by a bound is a rule here, so that most mistakes are refused as they are applied.

mod breaker;
mod limits;
mod retry;

use super::schema::{Field, Schema, duration, flag, object, optional, required, share, text, word};
use super::target;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A header that is neither about the message's framing nor ours; which those are the parser says.
const HEADER: &str = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$";

pub(crate) fn spec() -> Schema {
    let mut fields = vec![required(
        "targetRefs",
        target::refs(
            &target::POLICY,
            "What it applies to, in its own namespace: a rule goes before its route, a port before \
            its Service. Of several policies for one target the oldest is in force.",
        ),
    )];
    fields.extend(settings());
    object("The resilience settings of what it targets, all in one object. What is left out has its default.", fields)
}

/// As in a policy of YAML, but for `target`.
pub(crate) fn settings() -> Vec<Field> {
    vec![
        optional("breaker", breaker::schema()),
        optional("lb", balancing()),
        optional("limit", limits::schema()),
        optional("priority", word(&["normal", "critical"], "`critical` passes a throttle for longer. Default normal.")),
        optional("retry", retry::schema()),
        optional("fallback", retry::fallback()),
        optional("timeout", timeout()),
        optional(
            "plain",
            word(
                &["allow", "deny"],
                "Whether instances without identity may be talked to in clear, and callers without one are let in where \
                 nobody says who may call. Default deny.",
            ),
        ),
        optional(
            "trace",
            object(
                "Traces that begin here.",
                vec![optional(
                    "sample",
                    share("Which share of them is recorded: 1% or \"0.01\", to the millionth. Default 1%."),
                )],
            ),
        ),
    ]
}

fn balancing() -> Schema {
    let words = ["p2c_ewma", "least_request", "round_robin", "ring_hash", "maglev"];
    let fields = vec![
        optional("policy", word(&words, "How an instance is picked. Default p2c_ewma.")),
        optional("key", key("What belongs together; for ring_hash and maglev, which need it.")),
        optional(
            "zone_aware",
            flag("Whether instances of one's own zone are preferred while they can carry it. Default false."),
        ),
        optional(
            "subset",
            flag("Whether each caller uses only a tenth of more than a hundred instances. Default false."),
        ),
    ];
    object("How traffic is spread over the instances.", fields).rule(
        "(has(self.policy) && self.policy in ['ring_hash', 'maglev']) == has(self.key)",
        "key is for ring_hash and maglev, which need it: add key: {header: x-user}, or choose one of them",
    )
}

/// What belongs together.
fn key(description: &str) -> Schema {
    let fields = vec![
        optional(
            "type",
            word(&["header", "path", "peer"], "The value of a header, the path, or who asks. Default header."),
        ),
        optional("header", text((1, 128), HEADER, "The header's name, such as x-user.")),
    ];
    object(description, fields).rule(
        "(!has(self.type) || self.type == 'header') == has(self.header)",
        "must have a header's name, or the type path or peer without one",
    )
}

fn timeout() -> Schema {
    let fields = vec![
        optional("connect", duration(MS, MINUTE, "TCP and TLS together. Default 1s.")),
        optional("request", duration(MS, DAY, "To the response headers, of all attempts together. Default none.")),
        optional("idle", duration(MS, DAY, "Without a byte in either direction. Default none.")),
    ];
    object("How long things may take.", fields)
}
