//! `policies`: how long, how often, and when to stop.
//!
//! It decides the bounds that a mistyped unit would break; those between fields (a maximum below its base) are the
//! breaker's own ([`BreakerConfig::validate`]).

mod breaker;
mod fallback;
mod limits;
mod retry;

use super::cursor::{Cursor, Fields};
use super::mesh::Draft;
use super::scalar;
use super::service;
use crate::name::PolicyName;
use crate::policy::{
    Algorithm, Balancing, Plain, PlainRules, Policy, Ratio, RequestKey, Subsetting, Target, Timeouts, Zoning,
    is_field_name,
};
use crate::world::DEFAULT_POLICY;
use fusewire_resilience::throttle::Priority;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn policy(cursor: &Cursor<'_>, name: &PolicyName, draft: &mut Draft) -> Policy {
    let mut policy = Policy::built_in(name.clone());
    if cursor.is_null() {
        return policy;
    }
    let Some(mut fields) = cursor.map("a mapping") else { return policy };
    let target_at = fields.get("target");
    policy.target = target_at.as_ref().and_then(|c| target(c, draft));
    if let Some(cursor) = &target_at
        && name.as_str() == DEFAULT_POLICY
    {
        cursor.fault_with(
            "the policy named default applies to every service that has no other",
            "leave the target out, or name the policy differently",
        );
    }
    let labelled = policy.target.as_ref().is_some_and(|target| !target.labels.is_empty());
    if let Some(cursor) = fields.get("breaker") {
        breaker::breaker(&cursor, labelled, &mut policy);
    }
    let mut whole = |name| fields.get(name).inspect(|cursor| only_whole(cursor, labelled));
    if let Some(cursor) = whole("lb") {
        policy.balancing = balancing(&cursor);
    }
    if let Some(cursor) = whole("limit") {
        policy.limits = limits::limits(&cursor);
    }
    if let Some(cursor) = whole("priority") {
        let priorities = [("normal", Priority::Normal), ("critical", Priority::Critical)];
        policy.priority = cursor.choice(&priorities).unwrap_or_default();
    }
    if let Some(cursor) = whole("retry") {
        policy.retry = retry::retry(&cursor);
    }
    if let Some(cursor) = whole("fallback") {
        policy.fallback = fallback::chain(&cursor, draft);
    }
    if let Some(cursor) = fields.get("timeout") {
        policy.timeout = timeouts(&cursor, labelled);
    }
    if let Some(cursor) = fields.get("plain") {
        only_whole(&cursor, labelled);
        policy.plain = plain(&cursor);
    }
    if let Some(cursor) = fields.get("trace") {
        only_whole(&cursor, labelled);
        policy.sample = trace(&cursor).unwrap_or(Ratio::DEFAULT);
    }
    fields.finish();
    policy
}

/// A fault for what is no matter of single instances, in a policy for a labelled subset.
fn only_whole(cursor: &Cursor<'_>, labelled: bool) {
    if labelled {
        cursor.fault_with(
            "cannot be set for labelled instances, only breaker.instance and timeout.connect can",
            "set it in the policy of the service",
        );
    }
}

fn target(cursor: &Cursor<'_>, draft: &mut Draft) -> Option<Target> {
    let mut fields = cursor.map("a mapping such as {service: inventory}")?;
    let service = fields.required("service", "the name of a service").and_then(|c| draft.service_ref(&c));
    let labels = fields.get("labels").map(|c| service::labels(&c)).unwrap_or_default();
    fields.finish();
    Some(Target { service: service?, labels })
}

fn timeouts(cursor: &Cursor<'_>, labelled: bool) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let Some(mut fields) = cursor.map("a mapping") else { return timeouts };
    timeouts.connect = fields.get("connect").and_then(|c| c.duration(MS..=MINUTE)).unwrap_or(timeouts.connect);
    let whole = |name, fields: &mut Fields<'_>| {
        let cursor = fields.get(name)?;
        only_whole(&cursor, labelled);
        cursor.duration(MS..=24 * HOUR)
    };
    timeouts.request = whole("request", &mut fields);
    timeouts.idle = whole("idle", &mut fields);
    fields.finish();
    timeouts
}

/// `plain: allow`, or `plain: {callers: deny, instances: allow}`.
fn plain(cursor: &Cursor<'_>) -> PlainRules {
    let words = [("allow", Plain::Allow), ("deny", Plain::Deny)];
    if !cursor.is_map() {
        return PlainRules::both(cursor.choice(&words).unwrap_or_default());
    }
    let Some(mut fields) = cursor.map("allow, deny or a mapping") else { return PlainRules::default() };
    let callers = fields.get("callers").and_then(|c| c.choice(&words));
    let instances = fields.get("instances").and_then(|c| c.choice(&words));
    fields.finish();
    PlainRules { callers, instances }
}

/// `trace: {sample: 0.01}` or `trace: {sample: 1%}`.
fn trace(cursor: &Cursor<'_>) -> Option<Ratio> {
    let mut fields = cursor.map("a mapping such as {sample: 1%}")?;
    let sample = fields.get("sample").and_then(|c| share(&c));
    fields.finish();
    sample
}

pub(super) fn share(cursor: &Cursor<'_>) -> Option<Ratio> {
    cursor.parse("a share 0..1 or 0%..100%, to the millionth", |text| {
        Ratio::from_millionths(scalar::parse_millionths(text)?)
    })
}

/// `lb: round_robin`, or `lb: {policy: ring_hash, key: {header: x-user}, zone_aware: true}`.
fn balancing(cursor: &Cursor<'_>) -> Balancing {
    #[derive(Clone, Copy, PartialEq)]
    enum Word {
        PeakEwma,
        LeastRequest,
        RoundRobin,
        RingHash,
        Maglev,
    }
    let words = [
        ("p2c_ewma", Word::PeakEwma),
        ("least_request", Word::LeastRequest),
        ("round_robin", Word::RoundRobin),
        ("ring_hash", Word::RingHash),
        ("maglev", Word::Maglev),
    ];
    let mut balancing = Balancing::default();
    let (mut word, mut key, mut key_at) = (Word::PeakEwma, None, None);
    if cursor.as_text().is_some() {
        set(&mut word, Some(cursor.clone()), |c| c.choice(&words));
    } else {
        let Some(mut fields) = cursor.map("a word, or a mapping such as {policy: p2c_ewma}") else { return balancing };
        set(&mut word, fields.get("policy"), |c| c.choice(&words));
        key_at = fields.get("key");
        key = key_at.as_ref().and_then(request_key);
        let zones = [("true", Zoning::Prefer), ("false", Zoning::Ignore)];
        set(&mut balancing.zone, fields.get("zone_aware"), |c| c.choice(&zones));
        let subsets = [("true", Subsetting::Tenth), ("false", Subsetting::All)];
        set(&mut balancing.subset, fields.get("subset"), |c| c.choice(&subsets));
        fields.finish();
    }
    let hashed = matches!(word, Word::RingHash | Word::Maglev);
    match (&key_at, hashed) {
        (None, true) => cursor.fault_with("needs a key to hash by", "add {key: {header: x-user}}, path or peer"),
        (Some(at), false) => at.fault_with("is for ring_hash and maglev only", "leave it out, or choose one of them"),
        _ => {}
    }
    let key = key.unwrap_or(RequestKey::Path);
    balancing.algorithm = match word {
        Word::PeakEwma => Algorithm::PeakEwma,
        Word::LeastRequest => Algorithm::LeastRequest,
        Word::RoundRobin => Algorithm::RoundRobin,
        Word::RingHash => Algorithm::RingHash(key),
        Word::Maglev => Algorithm::Maglev(key),
    };
    balancing
}

/// `path`, `peer` or `{header: x-user}`; in a mapping also `{type: path}`, for readers that want one shape.
fn request_key(cursor: &Cursor<'_>) -> Option<RequestKey> {
    #[derive(Clone, Copy)]
    enum Word {
        Header,
        Path,
        Peer,
    }
    if !cursor.is_map() {
        return match cursor.as_text() {
            Some("path") => Some(RequestKey::Path),
            Some("peer") => Some(RequestKey::Peer),
            _ => {
                cursor.must_be_or("path | peer | {header: NAME}", None);
                None
            }
        };
    }
    let mut fields = cursor.map("path, peer or {header: NAME}")?;
    let words = [("header", Word::Header), ("path", Word::Path), ("peer", Word::Peer)];
    let word = fields.get("type").map_or(Some(Word::Header), |c| c.choice(&words));
    let key = match word? {
        Word::Header => {
            let header = fields.required("header", "the name of a header").and_then(|c| field_name(&c));
            header.map(RequestKey::Header)
        }
        Word::Path => Some(RequestKey::Path),
        Word::Peer => Some(RequestKey::Peer),
    };
    fields.finish();
    key
}

fn field_name(cursor: &Cursor<'_>) -> Option<String> {
    cursor.parse("a header's name that is neither about the message's framing nor ours", |text| {
        Some(text.to_ascii_lowercase()).filter(|name| is_field_name(name))
    })
}

/// The bounds that a part of `resilience` names by its own fields.
fn faults(cursor: &Cursor<'_>, checked: Result<(), Vec<(&'static str, String)>>) {
    for (field, message) in checked.err().unwrap_or_default() {
        cursor.sink().fault(&cursor.place_of(&[field]), message, None);
    }
}

fn set<T>(field: &mut T, cursor: Option<Cursor<'_>>, read: impl FnOnce(&Cursor<'_>) -> Option<T>) {
    if let Some(value) = cursor.as_ref().and_then(read) {
        *field = value;
    }
}

fn small(cursor: &Cursor<'_>, least: u8, most: u8) -> Option<u8> {
    u8::try_from(cursor.integer(least.into()..=most.into())?).ok()
}
