//! Whether an instance's failures are enough to open its circuit.
//!
//! Decides from the instance's own tally and a comparison with its peers. Connections that fail speak for themselves.
//! A *status* does not: a deploy that breaks one route on every instance, or one client that repeats a request that
//! always fails, must not take the healthy traffic away, so failures by status count only if the instance stands out
//! among its peers. A *timeout* never counts towards the first two triggers: under overload everybody has them.
//!
//! It deliberately changes nothing: the caller opens the circuit, and checks there that the last closed instance of a
//! service stays closed. Integer arithmetic only, so that a replay decides the same everywhere.

use crate::config::BreakerConfig;
use crate::event::{Reason, TripClass};
use crate::node::Node;
use crate::outcome::{Class, Evidence, Outcome};
use crate::ring::Shape;
use crate::tally::Totals;
use crate::time::Time;

/// Calls in the window below which a peer says nothing.
const PEER_CALLS: u32 = 5;

/// What kind of evidence opens a circuit, which says who may overrule it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ground {
    /// Connect failures and resets.
    Absolute = 1,
    /// Statuses, against peers that do better.
    ByStatus = 2,
    /// Silence, against peers that answer.
    Silent = 3,
    /// An operator.
    Manual = 4,
    /// A limit on slow calls.
    Slow = 5,
    /// Rates of failure and timeout, against the median of the peers.
    Outlier = 6,
    /// The same, and all of it soft.
    SoftOutlier = 7,
}

impl Ground {
    pub(crate) fn from_bits(bits: u8) -> Ground {
        match bits {
            1 => Ground::Absolute,
            2 => Ground::ByStatus,
            3 => Ground::Silent,
            5 => Ground::Slow,
            6 => Ground::Outlier,
            7 => Ground::SoftOutlier,
            _ => Ground::Manual,
        }
    }

    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Ground::Absolute => "connections",
            Ground::ByStatus => "status",
            Ground::Silent => "silence",
            Ground::Manual => "operator",
            Ground::Slow => "slow",
            Ground::Outlier | Ground::SoftOutlier => "outlier",
        }
    }

    /// What an operator is told of it; `None` for what nothing but an operator did.
    pub(crate) fn class(self) -> Option<TripClass> {
        match self {
            Ground::Absolute => Some(TripClass::Connection),
            Ground::ByStatus | Ground::Outlier => Some(TripClass::Status),
            Ground::Silent | Ground::Slow | Ground::SoftOutlier => Some(TripClass::Soft),
            Ground::Manual => None,
        }
    }

    /// The instance is broken, rather than slow or held.
    pub(crate) fn is_hard(self) -> bool {
        matches!(self.class(), Some(TripClass::Connection | TripClass::Status))
    }

    /// Slow, silent or busy: a request there has a chance.
    pub(crate) fn is_soft(self) -> bool {
        self.class() == Some(TripClass::Soft)
    }
}

/// Enough to open a circuit, and why.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Suspicion {
    pub(crate) reason: Reason,
    pub(crate) ground: Ground,
    pub(crate) totals: Totals,
}

impl Suspicion {
    /// The failure rate that probes must disprove. After a run the window still holds healthy history, which would make
    /// a dead instance owe twenty probes: at least one half, then.
    pub(crate) fn rate(self) -> f64 {
        let mut rate = self.totals.bad_rate();
        if self.reason == Reason::Slow {
            rate = rate.max(f64::from(self.totals.slow) / f64::from(self.totals.total.max(1)));
        }
        if self.is_of_window() { rate } else { rate.max(0.5) }
    }

    /// The window itself is the evidence, rather than a run.
    fn is_of_window(self) -> bool {
        matches!(self.reason, Reason::Rate | Reason::Slow | Reason::Peer)
    }

    /// How bad the instance looks to its peers, in percent of hard failures: a run counts as all of them.
    pub(crate) fn hard_percent(self) -> u32 {
        if !self.is_of_window() || self.totals.total == 0 {
            return 100;
        }
        (u64::from(self.totals.hard) * 100 / u64::from(self.totals.total)) as u32
    }

    /// The window that peers see while the circuit is open.
    pub(crate) fn last_window(self) -> (u32, u32) {
        let total = self.totals.total;
        if self.is_of_window() { (total, self.totals.hard) } else { (total, total) }
    }
}

/// One other instance of the service.
#[derive(Clone, Copy)]
pub(crate) struct Peer<'a> {
    pub(crate) node: &'a Node,
    pub(crate) shape: Shape,
}

impl Peer<'_> {
    fn is_closed(self) -> bool {
        self.node.breaker.is_closed()
    }

    /// `(calls, hard failures)` in the window; an open instance keeps the window it tripped with.
    fn window(self, now: Time) -> (u32, u32) {
        if self.is_closed() {
            let totals = self.node.tally.totals(self.shape, now);
            (totals.total, totals.hard)
        } else {
            self.node.breaker.last_window()
        }
    }

    fn is_clean(self, now: Time) -> bool {
        if self.node.tally.has_clean_streak() {
            return true;
        }
        let totals = self.node.tally.totals(self.shape, now);
        totals.total >= PEER_CALLS && totals.bad() == 0
    }
}

/// The instance under judgement and those it is compared with.
pub(crate) struct Case<'a, P> {
    pub(crate) node: &'a Node,
    pub(crate) config: &'a BreakerConfig,
    pub(crate) shape: Shape,
    pub(crate) peers: P,
    pub(crate) now: Time,
}

impl<'a, P: Iterator<Item = Peer<'a>> + Clone> Case<'a, P> {
    /// Judges after `outcome` was recorded. The order of the rules is the order of the reasons.
    pub(crate) fn judge(&self, outcome: Outcome) -> Option<Suspicion> {
        if outcome.class == Class::Ignored || !self.has_recent_failure() {
            return None;
        }
        let hard = outcome.class == Class::Hard;
        let run = if hard { self.consecutive() } else { None };
        run.or_else(|| self.rate()).or_else(|| self.unresponsive(outcome)).or_else(|| self.slow())
    }

    /// A window without failures cannot open anything: the healthy path ends here, after one load.
    fn has_recent_failure(&self) -> bool {
        let last = self.node.tally.last_bad();
        let by_calls = self.shape.calls().is_some();
        last.is_some_and(|at| by_calls || self.now.since(at) <= self.config.window)
    }

    fn consecutive(&self) -> Option<Suspicion> {
        let limit = self.config.consecutive;
        let run = self.node.tally.run();
        if limit == 0 || run.count < limit {
            return None;
        }
        let ground = if run.absolute >= limit {
            Ground::Absolute
        } else if !self.peers_can_be_compared() || self.has_witness(run.began_ms) {
            Ground::ByStatus
        } else {
            return None;
        };
        Some(self.suspicion(Reason::Consecutive, ground))
    }

    fn rate(&self) -> Option<Suspicion> {
        let suspicion = self.suspicion(Reason::Rate, Ground::ByStatus);
        let Totals { total, hard, .. } = suspicion.totals;
        let reached = |failures: u32| failures * 100 >= u32::from(self.config.failure_rate) * total;
        if total < self.config.window_minimum() || !reached(hard) {
            return None;
        }
        let absolute = self.node.tally.detail(self.shape, self.now).absolute;
        if absolute > 0 && reached(absolute) {
            return Some(Suspicion { ground: Ground::Absolute, ..suspicion });
        }
        self.stands_out(total, hard).then_some(suspicion)
    }

    /// Timeouts in a row while peers answer, and most peers do not time out too: that would be overload.
    fn unresponsive(&self, outcome: Outcome) -> Option<Suspicion> {
        let rule = self.config.unresponsive;
        if !matches!(outcome.evidence, Evidence::Timeout | Evidence::ConnectTimeout) || rule.timeouts == 0 {
            return None;
        }
        let silence = self.node.tally.silence();
        let span = u128::from(self.now.millis().saturating_sub(silence.began_ms));
        if silence.count < rule.timeouts || span < rule.span.as_millis() {
            return None;
        }
        let answered = |peer: Peer<'_>| peer.node.tally.last_answer().millis() > silence.began_ms;
        if !self.peers.clone().any(answered) || !self.peers_are_at_ease() {
            return None;
        }
        Some(self.suspicion(Reason::Unresponsive, Ground::Silent))
    }

    fn slow(&self) -> Option<Suspicion> {
        let limit = self.config.slow?;
        let suspicion = self.suspicion(Reason::Slow, Ground::Slow);
        let Totals { total, slow, .. } = suspicion.totals;
        (total >= self.config.window_minimum() && slow * 100 >= u32::from(limit.rate) * total).then_some(suspicion)
    }

    fn suspicion(&self, reason: Reason, ground: Ground) -> Suspicion {
        let mut totals = self.node.tally.totals(self.shape, self.now);
        if self.config.slow.is_some() {
            totals.slow = self.node.tally.detail(self.shape, self.now).slow;
        }
        Suspicion { reason, ground, totals }
    }

    fn peers_can_be_compared(&self) -> bool {
        self.peers.clone().any(|peer| peer.window(self.now).0 >= PEER_CALLS)
    }

    /// A closed peer that has answered cleanly since the run began, and is clean.
    fn has_witness(&self, began_ms: u64) -> bool {
        self.peers
            .clone()
            .any(|peer| peer.is_closed() && peer.node.tally.last_clean().millis() > began_ms && peer.is_clean(self.now))
    }

    /// At least 20 points and four standard deviations worse than the best peer. The best, not a quartile, so that nine
    /// dead of ten are still seen to be dead.
    fn stands_out(&self, n: u32, hard: u32) -> bool {
        let windows = self.peers.clone().map(|peer| peer.window(self.now)).filter(|(calls, _)| *calls >= PEER_CALLS);
        let smoothed = windows.map(|(calls, hard)| (u128::from(hard) + 1, u128::from(calls) + 2));
        let best = smoothed.min_by(|(a, b), (c, d)| (a * d).cmp(&(c * b)));
        best.is_none_or(|best| is_outlier(u128::from(n), u128::from(hard), best))
    }

    /// The lower quartile of the peers' rates of timeouts and not-processed answers is at most 5 %. Counted, not
    /// sorted: the quartile is within the limit if that many peers are.
    fn peers_are_at_ease(&self) -> bool {
        let (mut peers, mut at_ease) = (0_u32, 0_u32);
        for peer in self.peers.clone() {
            let recent = peer.node.tally.recent(self.now);
            if recent.total >= PEER_CALLS {
                peers += 1;
                at_ease += u32::from(recent.strain * 100 <= 5 * recent.total);
            }
        }
        peers > 0 && at_ease > (peers - 1) / 4
    }
}

/// `f - q >= 0.20` and `(f - q) / sqrt(q(1 - q)/n) >= 4` with `f = hard/n` and `q = a/b`, cleared of fractions.
fn is_outlier(n: u128, hard: u128, (a, b): (u128, u128)) -> bool {
    let Some(gap) = (hard * b).checked_sub(a * n) else { return false };
    gap * 5 >= n * b && gap * gap >= 16 * a * (b - a) * n
}
