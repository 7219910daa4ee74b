//! Which instance gets the next attempt: the balancer proposes, the breaker disposes.
//!
//! Decides between two instances drawn at random (power of two choices), both of them different, unless the set's rules
//! name another policy (`policy`), and sends a request to an instance on probation when one is due. What happens when few
//! or none are left is `few`'s. It deliberately never waits and never queues: no instance, no attempt.
//!
//! Cost: while every circuit is closed, a pick reads one shared word and two instances, whatever the size of the set.
//! Otherwise drawn instances that are not closed are drawn again, and only if that fails is the set walked; instances
//! to probe are looked for ten times a second at most.

use std::sync::Arc;
use std::time::Duration;

use crate::attempt::Attempt;
use crate::balance::Side;
use crate::breaker::Permit;
use crate::config::Mode;
use crate::node::Member;
use crate::set::InstanceSet;
use crate::time::{Time, mix};
use crate::word::Phase;

/// Draws before the set is walked.
const DRAWS: usize = 12;

/// What a request says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// 64 random bits, fresh for every call.
    pub random: u64,
    /// The request may be sent again if it fails: idempotent or marked so, body buffered.
    pub replayable: bool,
    /// Instances that this exchange has already used, by index in this set. They are not picked again.
    pub tried: &'a [usize],
    /// What belongs together goes together, under a policy that hashes: [`balance::hash`](crate::balance::hash) of what the
    /// policy keys by. `None`: the request has no such thing, and goes anywhere.
    pub key: Option<u64>,
}

/// Why there is no instance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ExhaustedCause {
    /// The set has no instances.
    Empty,
    /// No circuit is closed, and none may be probed now.
    AllOpen,
    /// Every instance that may be used has been tried.
    AllTried,
}

/// No attempt can be made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Exhausted {
    pub cause: ExhaustedCause,
    /// When an instance may be available again; zero if that is not a matter of time.
    pub retry_after: Duration,
}

impl<M: Member> InstanceSet<M> {
    /// One permit for one instance.
    ///
    /// # Cancel safety
    ///
    /// The permit is given back when the attempt is dropped, whatever state it is in.
    pub fn pick(self: &Arc<Self>, ask: Ask<'_>, now: Time) -> Result<Attempt<M>, Exhausted> {
        if let Some(until) = self.shut.until(&self.board, now) {
            return Err(Exhausted { cause: ExhaustedCause::AllOpen, retry_after: until.since(now) });
        }
        if self.board.is_attention_due(now)
            && let Some(attempt) = self.offer_probe(ask, now)
        {
            return Ok(attempt);
        }
        if let Some(attempt) = self.spill(ask, now) {
            return Ok(attempt);
        }
        match self.propose(ask, now) {
            Some(index) => Ok(self.admit(index, now)),
            None => self.pick_from_none(ask, now),
        }
    }

    /// One permit for this instance and no other, for who has chosen it himself. Its circuit is judged among its peers as ever;
    /// any request may be its probe, since otherwise it would be refused.
    ///
    /// # Cancel safety
    ///
    /// As [`InstanceSet::pick`].
    pub fn pick_only(self: &Arc<Self>, index: usize, ask: Ask<'_>, now: Time) -> Result<Attempt<M>, Exhausted> {
        let none = |cause| Exhausted { cause, retry_after: Duration::ZERO };
        if index >= self.slots.len() {
            return Err(none(ExhaustedCause::Empty));
        }
        if ask.tried.contains(&index) {
            return Err(none(ExhaustedCause::AllTried));
        }
        if self.admits(index) {
            return Ok(self.admit(index, now));
        }
        if !(0..self.slots.len()).any(|other| self.admits(other)) {
            self.cut_open_times(now);
        }
        let probe = self.probe_only(index, now);
        probe.map_err(|until| Exhausted { retry_after: until.since(now), ..none(ExhaustedCause::AllOpen) })
    }

    /// Two different instances, the cheaper of which wins; one, if there is no second.
    pub(crate) fn two_choices(&self, side: Side, ask: Ask<'_>, now: Time) -> Option<usize> {
        let n = self.slots.len();
        let mut draws = Draws(ask.random);
        let mut held = None;
        let usable = |index: usize| !ask.tried.contains(&index) && self.admits(index) && self.is_on(side, index);
        for _ in 0..if n == 0 { 0 } else { DRAWS } {
            let index = match held {
                None => draws.below(n),
                Some(first) if n > 1 => (first + 1 + draws.below(n - 1)) % n,
                Some(_) => break,
            };
            if usable(index) {
                match held {
                    None => held = Some(index),
                    Some(first) => return Some(self.cheaper(first, index, now)),
                }
            }
        }
        let start = draws.below(n.max(1));
        let mut walk = (0..n).map(|step| (start + step) % n).filter(|index| Some(*index) != held && usable(*index));
        let first = held.or_else(|| walk.next())?;
        Some(walk.next().map_or(first, |second| self.cheaper(first, second, now)))
    }

    /// Whether an instance that takes traffic is not among `tried`.
    pub fn has_untried(&self, tried: &[usize]) -> bool {
        (0..self.slots.len()).any(|index| !tried.contains(&index) && self.admits(index))
    }

    pub(crate) fn admits(&self, index: usize) -> bool {
        let slot = &self.slots[index];
        match slot.member.node().breaker.word().phase {
            Phase::Closed => true,
            Phase::ForcedOpen => slot.config.mode == Mode::Disabled,
            Phase::Open | Phase::HalfOpen => slot.config.mode != Mode::Enforce,
        }
    }

    fn cheaper(&self, a: usize, b: usize, now: Time) -> usize {
        let (first, second) = (self.node(a).load.estimate(now), self.node(b).load.estimate(now));
        // An instance without an estimate is taken to be as fast as the one that it is compared with: not free, which
        // would draw everything to it, and not infinitely dear, which would starve it. A median of the peers in its place
        // says no more, and looks at hundreds of them while few have been measured.
        let unknown = first.or(second).unwrap_or(1.0);
        let cost = |index: usize, estimate: Option<f32>| {
            let queue = self.node(index).load.inflight() as f32 + 1.0;
            let expected = estimate.unwrap_or(unknown).max(self.node(index).load.silence(now));
            expected * queue / self.weight(index, now)
        };
        if cost(b, second) < cost(a, first) { b } else { a }
    }

    /// Lower median of up to `N` closed instances' estimates, from `index` on, itself not counted.
    pub(crate) fn median_estimate<const N: usize>(&self, index: usize, now: Time) -> Option<f32> {
        let closed = self.peers(index).filter(|peer| peer.node.breaker.is_closed());
        let mut seen = [0.0_f32; N];
        let mut count = 0;
        for estimate in closed.filter_map(|peer| peer.node.load.estimate(now)).take(N) {
            seen[count] = estimate;
            count += 1;
        }
        seen[..count].sort_unstable_by(f32::total_cmp);
        seen[..count].get(count.saturating_sub(1) / 2).copied()
    }

    /// The permit of an instance that takes traffic. In observe mode a circuit that would not has its virtual probes.
    pub(crate) fn admit(self: &Arc<Self>, index: usize, now: Time) -> Attempt<M> {
        let slot = &self.slots[index];
        let node = slot.member.node();
        let word = node.breaker.word();
        if word.phase != Phase::Closed && slot.config.mode == Mode::Observe {
            if let Some(permit) = self.observe_probe(index, now) {
                return Attempt::begin(self.clone(), index, permit, now);
            }
            node.breaker.count_would_reject();
        }
        let permit = Permit { generation: word.generation, probe: false };
        Attempt::begin(self.clone(), index, permit, now)
    }

    /// Nobody takes traffic: now any request may be the probe, since otherwise it would be refused.
    fn pick_from_none(self: &Arc<Self>, ask: Ask<'_>, now: Time) -> Result<Attempt<M>, Exhausted> {
        if self.slots.is_empty() {
            return Err(Exhausted { cause: ExhaustedCause::Empty, retry_after: Duration::ZERO });
        }
        let epoch = self.board.epoch();
        if (0..self.slots.len()).any(|index| self.admits(index)) {
            return Err(Exhausted { cause: ExhaustedCause::AllTried, retry_after: Duration::ZERO });
        }
        self.cut_open_times(now);
        if let Some(attempt) = self.probe_anyway(ask, now) {
            return Ok(attempt);
        }
        let retry_after = self.open_for(ask, now);
        if self.soft_dominates() {
            // Not for as long as that: a request that ends makes room for another.
            if let Some(attempt) = self.squeeze_in(ask, now) {
                return Ok(attempt);
            }
        } else {
            self.shut.set(now + retry_after, epoch);
        }
        Err(Exhausted { cause: ExhaustedCause::AllOpen, retry_after })
    }
}

/// Independent draws from one set of random bits.
pub(crate) struct Draws(pub(crate) u64);

impl Draws {
    /// Uniform in `0..n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        let draw = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        ((u128::from(draw) * n as u128) >> 64) as usize
    }
}
