//! All questions about one failed attempt, in their order.

use std::time::Duration;

use super::allowance::{Allowance, Mark};
use super::backoff::{Backoff, BackoffPolicy};
use super::repeat::{Cause, On, Refusal, Repeat, permitted};
use crate::hint::Pushback;
use crate::outcome::Happening;

/// More attempts than this are a loop, not a policy (gRFC A6 has the same bound).
pub const MAX_ATTEMPTS: u8 = 5;

/// A policy's `retry`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Policy {
    /// In all, the first included. 1..5, default 3; 1 turns retries off.
    pub attempts: u8,
    /// Default: connect, not-processed, reset, timeout, gateway-error.
    pub on: On,
    pub backoff: BackoffPolicy,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { attempts: 3, on: On::default(), backoff: BackoffPolicy::default() }
    }
}

impl Policy {
    /// Every bound that is broken, as `(field, message)`.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let mut faults = self.backoff.validate().err().unwrap_or_default();
        if !(1..=MAX_ATTEMPTS).contains(&self.attempts) {
            faults.push(("attempts", format!("must be 1..{MAX_ATTEMPTS}, got {}", self.attempts)));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// Which instances are left.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Untried {
    /// At least one that takes traffic has not been tried.
    Some,
    /// The service has one instance, and it has been tried.
    OnlyOne,
    None,
}

/// The service as a whole, as [`ServiceScope::allows_retry`](crate::ServiceScope::allows_retry) says it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scope {
    /// It takes what it gets.
    Calm,
    /// Its circuit is not closed, or its throttle rejects: it needs less traffic, not more.
    Strained,
}

/// The facts about one failed attempt of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub happening: Happening,
    pub repeat: Repeat,
    /// Response headers have gone to the caller.
    pub committed: bool,
    /// The whole request is still here: no body, or all of it in the replay buffer, or none of it consumed.
    pub whole: bool,
    /// Attempts that count so far, this one included; at least 1.
    pub attempts: u8,
    /// The exchange has been sent again as unsent before.
    pub resent: bool,
    pub allowance: Allowance,
    pub mark: Mark,
    pub scope: Scope,
    pub untried: Untried,
    /// Until the deadline; `None` without one.
    pub left: Option<Duration>,
    /// The service's median time to an answer, once known.
    pub median: Option<Duration>,
    /// gRPC pushback, as it came.
    pub pushback: Option<Pushback>,
    /// `Retry-After`, without a cap.
    pub retry_after: Option<Duration>,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Decision {
    /// At once, without a token and without counting.
    Resend,
    /// After this long, if the [`Budget`](super::Budget) has a token.
    Retry { after: Duration },
    /// The caller gets the failure.
    No(Denied),
}

/// Why not; the label `reason` of `retry_denied`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Denied {
    /// The outcome is no failure that `on` names.
    NotNamed,
    /// An application may have seen it, and it may not be done twice.
    Unsafe,
    Committed,
    NotReplayable,
    Attempts,
    /// Another layer's turn.
    Layer,
    /// The service is open or throttled.
    Service,
    NoInstance,
    Deadline,
    /// The server said no, or asked for a longer wait than anyone should.
    Pushback,
}

impl Denied {
    pub const ALL: [Denied; 10] = [
        Denied::NotNamed,
        Denied::Unsafe,
        Denied::Committed,
        Denied::NotReplayable,
        Denied::Attempts,
        Denied::Layer,
        Denied::Service,
        Denied::NoInstance,
        Denied::Deadline,
        Denied::Pushback,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Denied::NotNamed => "not-named",
            Denied::Unsafe => "unsafe",
            Denied::Committed => "committed",
            Denied::NotReplayable => "not-replayable",
            Denied::Attempts => "attempts",
            Denied::Layer => "layer",
            Denied::Service => "service",
            Denied::NoInstance => "no-instance",
            Denied::Deadline => "deadline",
            Denied::Pushback => "pushback",
        }
    }
}

/// Whether to make another attempt. `random`: 64 random bits, fresh for each call. The last question, whether anyone
/// has paid for it, is [`Budget::take`](super::Budget::take)'s.
pub fn judge(policy: &Policy, case: &Case, backoff: &mut Backoff, random: u64) -> Decision {
    decide(policy, case, backoff, random).unwrap_or_else(Decision::No)
}

fn decide(policy: &Policy, case: &Case, backoff: &mut Backoff, random: u64) -> Result<Decision, Denied> {
    let cause = permitted(case.happening, case.repeat, policy.on, case.pushback).map_err(|refusal| match refusal {
        Refusal::NotNamed => Denied::NotNamed,
        Refusal::Unsafe => Denied::Unsafe,
        Refusal::Pushback => Denied::Pushback,
    })?;
    let holds = |holds: bool, denied: Denied| if holds { Ok(()) } else { Err(denied) };
    holds(!case.committed, Denied::Committed)?;
    holds(case.whole, Denied::NotReplayable)?;
    holds(case.left != Some(Duration::ZERO), Denied::Deadline)?;
    if cause == Cause::Unsent && !case.resent {
        return Ok(Decision::Resend);
    }
    let most = policy.attempts.min(MAX_ATTEMPTS);
    holds(case.attempts < most, Denied::Attempts)?;
    holds(case.allowance.permits(case.attempts.saturating_sub(1), case.mark), Denied::Layer)?;
    holds(case.scope == Scope::Calm, Denied::Service)?;
    let unconnected = matches!(cause, Cause::Connect | Cause::Unsent);
    let elsewhere = case.untried == Untried::Some;
    holds(elsewhere || (unconnected && case.untried == Untried::OnlyOne), Denied::NoInstance)?;
    let hint = match case.pushback {
        Some(Pushback::After(span)) => Some(span),
        _ => case.retry_after,
    };
    let after = match hint {
        Some(hint) => backoff.hinted(hint, case.left).ok_or(Denied::Pushback)?,
        None if unconnected && elsewhere => Duration::ZERO,
        None => backoff.next(&policy.backoff, random),
    };
    let needed = after.saturating_add(case.median.unwrap_or_default());
    holds(case.left.is_none_or(|left| left >= needed), Denied::Deadline)?;
    Ok(Decision::Retry { after })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::allowance::{Carried, Chain, Origin};
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn reset() -> Case {
        Case {
            happening: Happening::Reset,
            repeat: Repeat::Idempotent,
            committed: false,
            whole: true,
            attempts: 1,
            resent: false,
            allowance: Allowance::of(Chain::Broken, 2),
            mark: Mark::None,
            scope: Scope::Calm,
            untried: Untried::Some,
            left: Some(ms(1000)),
            median: Some(ms(10)),
            pushback: None,
            retry_after: None,
        }
    }

    fn ask(case: Case) -> Decision {
        judge(&Policy::default(), &case, &mut Backoff::default(), 7)
    }

    #[test]
    fn an_attempt_that_everything_allows_is_made_after_its_backoff() {
        let Decision::Retry { after } = ask(reset()) else { panic!("{:?}", ask(reset())) };
        assert!(after < ms(25) && !after.is_zero());
    }

    #[test]
    fn each_fact_alone_can_forbid_it() {
        let layer = Allowance::of(Chain::Known(Carried { origin: Origin::First, left: 1 }), 2);
        let table = [
            (Case { happening: Happening::Status(500), ..reset() }, Denied::NotNamed),
            (Case { repeat: Repeat::Unsafe, ..reset() }, Denied::Unsafe),
            (Case { committed: true, ..reset() }, Denied::Committed),
            (Case { whole: false, ..reset() }, Denied::NotReplayable),
            (Case { attempts: 3, ..reset() }, Denied::Attempts),
            (Case { allowance: layer, ..reset() }, Denied::Layer),
            (Case { mark: Mark::OverloadedInside, ..reset() }, Denied::Layer),
            (Case { scope: Scope::Strained, ..reset() }, Denied::Service),
            (Case { untried: Untried::None, ..reset() }, Denied::NoInstance),
            (Case { untried: Untried::OnlyOne, ..reset() }, Denied::NoInstance),
            (Case { left: Some(ms(0)), ..reset() }, Denied::Deadline),
            (Case { left: Some(ms(9)), ..reset() }, Denied::Deadline),
            (Case { pushback: Some(Pushback::DoNotRetry), ..reset() }, Denied::Pushback),
            (Case { pushback: Some(Pushback::After(ms(1001))), ..reset() }, Denied::Pushback),
            (Case { retry_after: Some(ms(2000)), left: None, ..reset() }, Denied::Pushback),
        ];
        for (case, denied) in table {
            assert_eq!(ask(case), Decision::No(denied), "{case:?}");
        }
    }

    #[test]
    fn what_was_never_sent_goes_again_at_once_and_free_but_only_once() {
        let unsent = Case { happening: Happening::Unsent, repeat: Repeat::Unsafe, attempts: 3, ..reset() };
        assert_eq!(ask(unsent), Decision::Resend);
        assert_eq!(ask(Case { scope: Scope::Strained, untried: Untried::None, ..unsent }), Decision::Resend);
        assert_eq!(ask(Case { resent: true, ..unsent }), Decision::No(Denied::Attempts));
        assert_eq!(ask(Case { resent: true, attempts: 1, ..unsent }), Decision::Retry { after: Duration::ZERO });
        assert_eq!(ask(Case { whole: false, ..unsent }), Decision::No(Denied::NotReplayable));
    }

    #[test]
    fn a_failed_connect_goes_elsewhere_at_once_and_waits_where_there_is_no_elsewhere() {
        let refused = Case { happening: Happening::ConnectRefused, repeat: Repeat::Unsafe, ..reset() };
        assert_eq!(ask(refused), Decision::Retry { after: Duration::ZERO });
        let alone = ask(Case { untried: Untried::OnlyOne, ..refused });
        assert!(matches!(alone, Decision::Retry { after } if !after.is_zero()), "{alone:?}");
        assert_eq!(ask(Case { untried: Untried::None, ..refused }), Decision::No(Denied::NoInstance));
        assert_eq!(ask(Case { left: Some(ms(9)), ..refused }), Decision::No(Denied::Deadline), "an answer takes ten");
    }

    #[test]
    fn the_servers_hint_is_kept_exactly_and_pushback_goes_before_retry_after() {
        let hinted = Case { happening: Happening::Status(503), retry_after: Some(ms(200)), ..reset() };
        assert_eq!(ask(hinted), Decision::Retry { after: ms(200) });
        let both = Case { pushback: Some(Pushback::After(ms(30))), ..hinted };
        assert_eq!(ask(both), Decision::Retry { after: ms(30) });
        assert_eq!(ask(Case { repeat: Repeat::Unsafe, ..hinted }), Decision::No(Denied::Unsafe), "no licence");
    }

    #[test]
    fn attempts_are_bounded_in_the_settings_and_beyond_them() {
        let policy = |attempts| Policy { attempts, ..Policy::default() };
        assert!((1..=5).all(|attempts| policy(attempts).validate().is_ok()));
        assert!(policy(0).validate().is_err() && policy(6).validate().is_err());
        let case = Case { attempts: 5, allowance: Allowance::of(Chain::Broken, 255), ..reset() };
        let decision = judge(&policy(255), &case, &mut Backoff::default(), 1);
        assert_eq!(decision, Decision::No(Denied::Attempts));
    }

    fn happening() -> impl Strategy<Value = Happening> {
        prop_oneof![
            Just(Happening::Unsent),
            Just(Happening::ConnectRefused),
            Just(Happening::Overloaded),
            Just(Happening::Reset),
            Just(Happening::ResetReused),
            Just(Happening::Timeout),
            (100u16..600).prop_map(Happening::Status),
            (0u8..17).prop_map(Happening::Grpc),
        ]
    }

    proptest! {
        #[test]
        fn an_unsafe_request_that_an_application_may_have_seen_is_never_sent_again(
            happening in happening(), attempts in 1u8..9, resent: bool, left in prop::option::of(0u64..5000),
            hint in prop::option::of(0u64..3000), random: u64,
        ) {
            let case = Case {
                happening, repeat: Repeat::Unsafe, attempts, resent, left: left.map(ms), retry_after: hint.map(ms), ..reset()
            };
            let seen = !matches!(happening, Happening::Unsent | Happening::ConnectRefused | Happening::Overloaded);
            let decision = judge(&Policy::default(), &case, &mut Backoff::default(), random);
            if seen {
                prop_assert!(matches!(decision, Decision::No(_)));
            }
            if let Decision::Retry { after } = decision {
                prop_assert!(after <= ms(1000) && case.left.is_none_or(|left| after <= left));
            }
        }
    }
}
