//! When an exchange is over, by whoever asked first for it to be.
//!
//! Decides the earliest of what the caller's headers and the route say, and what is left of it for the next hop. It
//! deliberately carries durations between hops, not instants: two machines' wall clocks differ by more than many
//! deadlines are long. `x-request-deadline` is the one exception; it is believed from inside the mesh only, and never
//! beyond the route's own timeout.
//!
//! Sources: `grpc-timeout` (gRPC over HTTP/2), `x-envoy-expected-rq-timeout-ms` (Envoy's router), `x-request-deadline`
//! (milliseconds since the Unix epoch), the route's `timeout.request`. Invariant: no source can make a deadline later
//! than another already made it.

use std::time::Duration;

use crate::hint::{Wall, digits, grpc_timeout, trimmed};
use crate::span::Span;
use crate::time::Time;

/// What the next hop is told less than is left here: the way there takes time, and the answer must come back.
const MARGIN: Duration = Duration::from_millis(1);

/// Where a request came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// A peer's sidecar over mTLS.
    Mesh,
    /// Anyone else: an instant it names is not believed.
    Outside,
}

/// What was said about the time that this exchange may take; the fields' raw bytes.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub source: Source,
    pub grpc_timeout: Option<&'a [u8]>,
    pub request_deadline: Option<&'a [u8]>,
    pub envoy_expected_ms: Option<&'a [u8]>,
    /// The route's `timeout.request`; none unless set.
    pub route: Option<Duration>,
}

/// The instant after which nobody waits for the answer, or none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Deadline(Time);

/// What to tell the next hop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Onward {
    /// Nobody set a limit: say nothing.
    Unlimited,
    /// This much; rewritten at every attempt, because the attempts before took their part.
    Left(Duration),
    /// Over, or as good as: do not send, and do not count it against an instance.
    Expired,
}

impl Deadline {
    pub const NONE: Deadline = Deadline(Time::FAR);

    /// The earliest of all that was asked for. A field that does not parse asks for nothing.
    pub fn of(asked: Asked<'_>, now: Time, wall: Wall) -> Deadline {
        let grpc = asked.grpc_timeout.and_then(|value| grpc_timeout(trimmed(value)));
        let envoy = asked.envoy_expected_ms.and_then(millis);
        let instant = match asked.source {
            Source::Mesh => asked.request_deadline.and_then(millis),
            Source::Outside => None,
        };
        let instant = instant.map(|then| then.saturating_sub(Duration::from_millis(wall.0)));
        let spans = [grpc, envoy, instant, asked.route];
        spans.into_iter().flatten().min().map_or(Deadline::NONE, |span| Deadline(now + span))
    }

    /// This long from `now` on.
    pub fn after(span: Duration, now: Time) -> Deadline {
        Deadline(now + span)
    }

    #[must_use]
    pub fn earlier(self, other: Deadline) -> Deadline {
        self.min(other)
    }

    /// `None` if there is no limit; zero once it has passed.
    pub fn left(self, now: Time) -> Option<Duration> {
        (self != Deadline::NONE).then(|| self.0.since(now))
    }

    pub fn is_over(self, now: Time) -> bool {
        self != Deadline::NONE && self.0 <= now
    }

    pub fn onward(self, now: Time) -> Onward {
        match self.left(now) {
            None => Onward::Unlimited,
            Some(left) if left <= MARGIN => Onward::Expired,
            Some(left) => Onward::Left(left - MARGIN),
        }
    }
}

fn millis(value: &[u8]) -> Option<Duration> {
    digits(trimmed(value)).map(Duration::from_millis)
}

/// Whether queued work whose deadline has passed may be dropped before the application sees it.
///
/// While the application is otherwise healthy at most 20 % of the requests of the last ten seconds are: a caller whose
/// clock or timeout is wrong must not look like an outage (Finagle's deadline filter has the same guard). Shared between
/// threads; about 100 bytes.
#[derive(Default)]
pub struct ExpiryGuard {
    /// Requests, dropped.
    seen: Span<10>,
}

/// How the application does, apart from the request at hand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Health {
    Healthy,
    /// Overloaded or failing: then dead work is dropped whatever its share.
    Strained,
}

const MAX_DROPPED_PERCENT: u64 = 20;

impl ExpiryGuard {
    /// Count a request that leaves the queue in time.
    pub fn passed(&self, now: Time) {
        self.seen.add(now, 1, 0);
    }

    /// Whether to drop a request that left the queue too late; counts it.
    pub fn may_drop(&self, health: Health, now: Time) -> bool {
        let (requests, dropped) = self.seen.sum(now);
        let drop = health == Health::Strained || (dropped + 1) * 100 <= (requests + 1) * MAX_DROPPED_PERCENT;
        self.seen.add(now, 1, u32::from(drop));
        drop
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Time = Time(5_000_000_000);
    const WALL: Wall = Wall(1_445_412_480_000);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn nothing() -> Asked<'static> {
        let source = Source::Mesh;
        Asked { source, grpc_timeout: None, request_deadline: None, envoy_expected_ms: None, route: None }
    }

    fn left(asked: Asked<'_>) -> Option<Duration> {
        Deadline::of(asked, NOW, WALL).left(NOW)
    }

    #[test]
    fn nobody_who_asks_for_nothing_gets_a_deadline() {
        let deadline = Deadline::of(nothing(), NOW, WALL);
        assert_eq!((deadline, deadline.left(NOW), deadline.onward(NOW)), (Deadline::NONE, None, Onward::Unlimited));
        assert!(!deadline.is_over(Time::FAR));
        assert_eq!(left(Asked { grpc_timeout: Some(b"soon"), envoy_expected_ms: Some(b"-1"), ..nothing() }), None);
    }

    #[test]
    fn the_earliest_wins() {
        let all = Asked {
            grpc_timeout: Some(b"4S"),
            request_deadline: Some(b"1445412483000"),
            envoy_expected_ms: Some(b" 2000 "),
            route: Some(ms(1000)),
            ..nothing()
        };
        assert_eq!(left(all), Some(ms(1000)));
        assert_eq!(left(Asked { route: None, ..all }), Some(ms(2000)));
        assert_eq!(left(Asked { route: None, envoy_expected_ms: None, ..all }), Some(ms(3000)));
        assert_eq!(left(Asked { grpc_timeout: Some(b"4S"), ..nothing() }), Some(ms(4000)));
    }

    #[test]
    fn an_instant_is_believed_from_inside_the_mesh_only_and_within_the_routes_timeout() {
        let far = Asked { request_deadline: Some(b"1445499999000"), route: Some(ms(700)), ..nothing() };
        assert_eq!(left(far), Some(ms(700)), "a clock that runs ahead");
        let past = Asked { request_deadline: Some(b"1445412479999"), ..nothing() };
        assert_eq!(left(past), Some(Duration::ZERO));
        assert_eq!(left(Asked { source: Source::Outside, ..past }), None);
    }

    #[test]
    fn every_attempt_is_told_what_is_left_less_a_millisecond() {
        let deadline = Deadline::of(Asked { route: Some(ms(100)), ..nothing() }, NOW, WALL);
        assert_eq!(deadline.onward(NOW), Onward::Left(ms(99)));
        assert_eq!(deadline.onward(NOW + ms(60)), Onward::Left(ms(39)));
        assert_eq!(deadline.onward(NOW + ms(99)), Onward::Expired, "less than the way there");
        assert_eq!(deadline.onward(NOW + ms(500)), Onward::Expired);
        assert!(!deadline.is_over(NOW + ms(99)) && deadline.is_over(NOW + ms(100)));
    }

    #[test]
    fn a_healthy_applications_expired_requests_are_dropped_up_to_a_fifth() {
        let guard = ExpiryGuard::default();
        let dropped = (0..1000).filter(|_| guard.may_drop(Health::Healthy, NOW)).count();
        assert!((195..=200).contains(&dropped), "{dropped}");
        assert!(guard.may_drop(Health::Strained, NOW), "an overloaded one's always");
        let fresh = ExpiryGuard::default();
        assert!(!fresh.may_drop(Health::Healthy, NOW), "not the first of all");
        for _ in 0..4 {
            fresh.passed(NOW);
        }
        assert!(fresh.may_drop(Health::Healthy, NOW), "one of six");
    }

    proptest! {
        #[test]
        fn no_field_can_make_a_deadline_later(
            grpc in prop::option::of(prop::collection::vec(any::<u8>(), 0..10)),
            instant in prop::option::of("[0-9]{0,22}"),
            envoy in prop::option::of("[0-9]{0,22}"),
            route in 0u64..100_000,
            wall: u64,
            now: u64,
        ) {
            let asked = Asked {
                source: Source::Mesh,
                grpc_timeout: grpc.as_deref(),
                request_deadline: instant.as_ref().map(String::as_bytes),
                envoy_expected_ms: envoy.as_ref().map(String::as_bytes),
                route: Some(ms(route)),
            };
            let deadline = Deadline::of(asked, Time(now), Wall(wall));
            prop_assert!(deadline.left(Time(now)).is_none_or(|left| left <= ms(route)));
        }
    }
}
