//! A rule's timeouts and retries, as a policy of its own.

use super::object::{HttpRule, Retry, Timeouts};
use super::{Input, Told, Translated};
use crate::known::RouteId;
use fusewire_model::PolicyName;
use fusewire_model::policy::Policy;
use fusewire_model::route::Backend;
use fusewire_resilience::retry::{MAX_ATTEMPTS, On};
use sha2::{Digest, Sha256};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
/// Of a policy's 253 bytes, what is left beside the rule's number.
const MAX_OBJECT: usize = 247;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The name of the rule's policy: of the one that targets it, or of a copy with its timeouts and retries on top, which is added
/// to those of the object. `None` where there is neither, or the rule goes to no service.
pub(super) fn derived(
    input: &Input<'_>,
    of: &mut Translated<'_>,
    rule: &HttpRule,
    (backends, targeted, name): (&[Backend], Option<Policy>, &str),
    path: &str,
) -> Option<PolicyName> {
    if rule.timeouts.is_none() && rule.retry.is_none() {
        return targeted.map(|policy| policy.name);
    }
    let base = backends.iter().find_map(|backend| backend.service.as_ref());
    let Ok(name) = PolicyName::parse(name) else {
        of.told.unsupported(path, format_args!("{name} is no name that a policy can have"));
        return None;
    };
    let mut policy = match (targeted, base) {
        (Some(policy), _) => policy,
        (None, Some(service)) => (input.policy)(service),
        (None, None) => Policy::built_in(name.clone()),
    };
    (policy.name, policy.target) = (name.clone(), None);
    if let Some(wanted) = &rule.timeouts {
        timeouts(&mut of.told, wanted, &mut policy, &format!("{path}.timeouts"));
    }
    if let Some(wanted) = &rule.retry {
        retries(&mut of.told, wanted, &mut policy, &format!("{path}.retry"));
    }
    base?;
    of.policies.push(policy);
    Some(name)
}

/// `checkout.shop.httproute`, as rules and their policies are named after.
pub(super) fn object(RouteId { kind, namespace, name }: &RouteId) -> String {
    format!("{name}.{namespace}.{}", kind.as_str().to_ascii_lowercase())
}

/// What the names of the copies that a route's rules have begin with; the rule's number follows. One that would be longer than a
/// policy's name may be is cut, and then told apart by its hash.
pub fn policy_prefix(route: &RouteId) -> String {
    let name = object(route);
    if name.len() <= MAX_OBJECT {
        return format!("{name}.");
    }
    let hash: String = Sha256::digest(&name).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let start: String = name.chars().take(MAX_OBJECT - 17).collect();
    format!("{}-{hash}.", start.trim_end_matches(['.', '-']))
}

fn timeouts(told: &mut Told, wanted: &Timeouts, policy: &mut Policy, path: &str) {
    told.unknown(path, &wanted.rest);
    if let Some(text) = &wanted.request {
        policy.timeout.request = span(told, text, DAY, &format!("{path}.request"));
    }
    if let Some(text) = &wanted.backend_request {
        policy.retry.per_try_timeout = span(told, text, DAY, &format!("{path}.backendRequest"));
    }
}

/// GEP-1731. More statuses than were named may be tried again, as it allows; what may not be repeated never is.
fn retries(told: &mut Told, wanted: &Retry, policy: &mut Policy, path: &str) {
    told.unknown(path, &wanted.rest);
    let retry = &mut policy.retry.policy;
    for (index, code) in wanted.codes.iter().enumerate() {
        retry.on = retry.on
            | match code {
                502..=504 => On::GATEWAY_ERROR,
                500..=599 => On::SERVER_ERROR,
                _ => {
                    told.unsupported(
                        format_args!("{path}.codes[{index}]"),
                        format_args!("{code} is never tried again"),
                    );
                    On::NOTHING
                }
            };
    }
    if let Some(retries) = wanted.attempts {
        match u8::try_from(retries).ok().filter(|retries| *retries < MAX_ATTEMPTS) {
            Some(retries) => retry.attempts = retries + 1,
            None => told.unsupported(format_args!("{path}.attempts"), format_args!("must be below {MAX_ATTEMPTS}")),
        }
    }
    if let Some(text) = &wanted.backoff
        && let Some(least) = span(told, text, Duration::from_secs(10), &format!("{path}.backoff"))
    {
        retry.backoff.initial = least;
        retry.backoff.max = retry.backoff.max.max(least);
    }
}

/// GEP-2257; `None`: 0, which turns it off, or what is told.
fn span(told: &mut Told, text: &str, most: Duration, path: &str) -> Option<Duration> {
    match duration(text) {
        Some(Duration::ZERO) => None,
        Some(span) if (MS..=most).contains(&span) => Some(span),
        Some(_) => {
            told.unsupported(path, format_args!("{text} is more than {} s", most.as_secs()));
            None
        }
        None => {
            told.unsupported(path, format_args!("{text} is no duration"));
            None
        }
    }
}

/// One to four numbers of up to five digits, each with its unit: `h`, `m`, `s`, `ms`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok().filter(|_| digits <= 5)?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        total += Duration::from_millis(
            number
                * match &rest[..letters] {
                    "h" => 3_600_000,
                    "m" => 60_000,
                    "s" => 1_000,
                    "ms" => 1,
                    _ => return None,
                },
        );
        rest = &rest[letters..];
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}
