//! When nobody waits for an exchange's answer any more: read from what came in, written for each attempt.
//!
//! Between sidecars time travels as what is left (`fusewire-timeout`, milliseconds), since two clocks differ by more than many
//! deadlines are long. It bounds the time to the response headers, as `timeout.request` does. `grpc-timeout` bounds the whole
//! call: it is passed on from the caller's own and never made from ours, which would cut a stream. It deliberately does not end
//! what is streaming already; who asked for that does.

use super::headers;
use fusewire_model::policy::Policy;
use fusewire_resilience::Time;
use fusewire_resilience::deadline::{Asked, Deadline, Onward, Source};
use fusewire_resilience::hint::GrpcTimeout;
use fusewire_telemetry::metrics::Direction;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

/// The limits of one exchange.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// What the caller said, in whatever field.
    asked: Deadline,
    /// What the caller said of a gRPC call as a whole.
    call: Deadline,
    /// The policy's `timeout.request`.
    route: Deadline,
}

impl Limits {
    pub(crate) const NONE: Self = Self { asked: Deadline::NONE, call: Deadline::NONE, route: Deadline::NONE };

    /// From a request's fields as they came. A peer's sidecar is believed, others where it is to their own harm.
    pub(crate) fn asked(direction: Direction, fields: &HeaderMap, is_grpc: bool, now: Time) -> Self {
        let get = |name: &HeaderName| fields.get(name).map(HeaderValue::as_bytes);
        let (source, told) = match direction {
            Direction::Inbound => (Source::Mesh, get(&headers::TIMEOUT)),
            Direction::Outbound => (Source::Outside, None),
        };
        let call = Asked {
            source,
            grpc_timeout: get(&headers::GRPC_TIMEOUT).filter(|_| is_grpc),
            request_deadline: None,
            envoy_expected_ms: None,
            route: None,
        };
        let rest = Asked {
            grpc_timeout: None,
            request_deadline: get(&headers::DEADLINE),
            envoy_expected_ms: told.or_else(|| get(&headers::EXPECTED)),
            ..call
        };
        let none = call.grpc_timeout.is_none() && rest.request_deadline.is_none() && rest.envoy_expected_ms.is_none();
        if none {
            return Self::NONE; // nearly all, and the wall clock is not read for them
        }
        let wall = crate::clock::wall();
        let call = Deadline::of(call, now, wall);
        Self { asked: Deadline::of(rest, now, wall).earlier(call), call, route: Deadline::NONE }
    }

    /// The policy's own limit counts from `now`: from the request's beginning, or from the end of a probe that failed.
    pub(crate) fn route(&mut self, policy: &Policy, now: Time) {
        self.route = policy.timeout.request.map_or(Deadline::NONE, |limit| Deadline::after(limit, now));
    }

    /// What follows has what is left of the time, whatever its own policy says.
    pub(crate) fn keep(&mut self) {
        self.asked = self.asked.earlier(self.route);
    }

    /// The caller's own limit is not believed: its clock seems to be wrong.
    pub(crate) fn forgive(&mut self) {
        (self.asked, self.call) = (Deadline::NONE, Deadline::NONE);
    }

    /// Whether the caller gave an attempt that began at `now` less than half of the answers take: then it asked for too
    /// much, and no instance is to blame.
    pub(crate) fn is_short(&self, now: Time, median: Option<Duration>) -> bool {
        self.asked < self.route && median.is_some_and(|median| self.asked.left(now).is_some_and(|left| left < median))
    }

    /// Whether the caller has stopped waiting, or will before anything could come back.
    pub(crate) fn is_over(&self, now: Time) -> bool {
        self.asked.onward(now) == Onward::Expired
    }

    /// Until the response headers must be here; `None`: no limit.
    pub(crate) fn left(&self, now: Time) -> Option<Duration> {
        self.asked.earlier(self.route).left(now)
    }

    /// Writes what is left into an attempt's fields.
    pub(crate) fn stamp(&self, fields: &mut HeaderMap, to_sidecar: bool, now: Time) {
        let left = |deadline: Deadline| match deadline.onward(now) {
            Onward::Unlimited => None,
            Onward::Left(left) => Some(left),
            Onward::Expired => Some(Duration::from_millis(1)),
        };
        if let Some(left) = left(self.call)
            && let Ok(value) = HeaderValue::from_bytes(GrpcTimeout::of(left).as_bytes())
        {
            fields.insert(headers::GRPC_TIMEOUT, value);
        }
        let Some(left) = left(self.asked.earlier(self.route)) else { return };
        let millis = HeaderValue::from(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1));
        if fields.contains_key(&headers::EXPECTED) {
            fields.insert(headers::EXPECTED, millis.clone());
        }
        if to_sidecar {
            fields.insert(headers::TIMEOUT, millis);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn fields(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn said(limits: &Limits, mut onto: HeaderMap, to_sidecar: bool, now: Time) -> Vec<(String, String)> {
        limits.stamp(&mut onto, to_sidecar, now);
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let mut all: Vec<_> = onto.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        all.sort();
        all
    }

    #[test]
    fn the_earliest_of_what_was_asked_for_counts_and_only_peers_may_name_an_instant() {
        let left = |direction, all: &[_], is_grpc| Limits::asked(direction, &fields(all), is_grpc, at(5)).left(at(15));
        let ms = |n| Some(Duration::from_millis(n));
        let (inside, outside) = (Direction::Inbound, Direction::Outbound);
        assert_eq!(left(outside, &[], false), None);
        assert_eq!(left(outside, &[("x-envoy-expected-rq-timeout-ms", "100")], false), ms(90));
        assert_eq!(left(outside, &[("grpc-timeout", "1S")], true), ms(990));
        assert_eq!(left(outside, &[("grpc-timeout", "1S")], false), None, "it is for gRPC");
        let both = [("grpc-timeout", "1S"), ("fusewire-timeout", "50")];
        assert_eq!((left(inside, &both, true), left(outside, &both, true)), (ms(40), ms(990)));
        let instant = [("x-request-deadline", "1")];
        assert_eq!((left(inside, &instant, false), left(outside, &instant, false)), (ms(0), None));
    }

    #[test]
    fn each_attempt_is_told_what_is_left_and_a_calls_own_limit_is_never_made_from_ours() {
        let policy = |limit: u64| {
            let mut policy = Policy::built_in(fusewire_model::PolicyName::parse("p").unwrap());
            policy.timeout.request = Some(Duration::from_millis(limit));
            policy
        };
        let mut limits = Limits::asked(Direction::Outbound, &fields(&[("grpc-timeout", "300m")]), true, at(0));
        limits.route(&policy(1000), at(0));
        let both = |grpc: &str, ours: &str| {
            vec![("fusewire-timeout".into(), ours.into()), ("grpc-timeout".to_owned(), grpc.to_owned())]
        };
        assert_eq!(said(&limits, HeaderMap::new(), true, at(100)), both("199000u", "199"));
        limits.route(&policy(150), at(0));
        assert_eq!(said(&limits, HeaderMap::new(), true, at(100)), both("199000u", "49"));
        assert_eq!(said(&limits, HeaderMap::new(), false, at(100)), both("199000u", "49")[1..].to_vec());
        let mut limits = Limits::NONE;
        limits.route(&policy(150), at(0));
        let envoys = fields(&[("x-envoy-expected-rq-timeout-ms", "9")]);
        let told = said(&limits, envoys, false, at(100));
        assert_eq!(told, [("x-envoy-expected-rq-timeout-ms".to_owned(), "49".to_owned())]);
        assert!(said(&Limits::NONE, HeaderMap::new(), true, at(100)).is_empty());
    }

    #[test]
    fn who_waits_less_than_answers_take_blames_no_instance() {
        let ms = Duration::from_millis;
        let mut limits = Limits::asked(Direction::Outbound, &fields(&[("grpc-timeout", "20m")]), true, at(0));
        let mut is_short = |route: u64, median: Option<u64>| {
            limits.route = Deadline::after(ms(route), at(0));
            limits.is_short(at(0), median.map(ms))
        };
        assert!(is_short(900, Some(21)) && !is_short(900, Some(20)), "half of them come in time");
        assert!(!is_short(900, None), "nothing is known of it");
        assert!(!is_short(19, Some(800)), "the policy says what an answer may take");
    }

    #[test]
    fn only_the_callers_own_deadline_makes_a_request_not_worth_sending() {
        let mut limits = Limits::asked(Direction::Outbound, &fields(&[("grpc-timeout", "20m")]), true, at(0));
        assert!(!limits.is_over(at(18)) && limits.is_over(at(19)));
        limits = Limits::NONE;
        limits.route = Deadline::after(Duration::from_millis(1), at(0));
        assert!(!limits.is_over(at(0)));
    }
}
