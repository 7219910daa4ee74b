//! Probes: when an instance that is not closed gets a request, and what happens while none is closed.
//!
//! Decides who is probed next and with which request. A replayable request goes first, because the caller can send it
//! elsewhere when the probe fails, so that probing stays invisible; one that cannot be replayed is risked only after a
//! second without a better one, and then sparingly. Probes of one service are at least 100 ms apart.
//!
//! Some instances are not probed by requests but by their owner's own questions ([`InstanceSet::due_probe`]), at the same
//! pace and with the same permits; requests leave those alone while any circuit is closed.
//!
//! While nothing is closed, one instance's round is finished before another's begins: three probes spread over three
//! instances bring none of them back.

use std::sync::Arc;
use std::time::Duration;

use crate::attempt::Attempt;
use crate::board::PROBE_GAP;
use crate::breaker::{Chance, Permit};
use crate::config::Mode;
use crate::event::Reason;
use crate::node::{Member, ProbeResult};
use crate::pick::{Ask, Draws};
use crate::set::{InstanceSet, Prober};
use crate::time::Time;
use crate::word::{Phase, State};

/// A probe that has not been answered for this long no longer keeps other instances' rounds from beginning.
const ROUND_PATIENCE: Duration = Duration::from_secs(1);
/// Nothing is closed: an opening is cut to at most 2.5 s.
const MAX_OPEN_ALONE: Duration = Duration::from_millis(2500);

/// What a caller is told to wait at most, such as for an operator's override.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What a look at every instance found.
struct Look {
    /// Whose probe is next.
    candidate: Option<usize>,
    /// When another look is worthwhile.
    next: Time,
}

impl<M: Member> InstanceSet<M> {
    /// A probe for this request, if one is due and the request may be used for it.
    pub(crate) fn offer_probe(self: &Arc<Self>, ask: Ask<'_>, now: Time) -> Option<Attempt<M>> {
        if self.board.next_probe() > now {
            return None;
        }
        if ask.replayable {
            self.board.replayable_seen();
        } else if !self.board.may_risk(ask.random, now) {
            return None;
        }
        self.board.begin_look();
        let look = self.look(ask, now, |prober| prober == Prober::Request);
        self.board.attend_at(look.next);
        self.begin_probe(look.candidate?, now)
    }

    /// A probe for this request, if one is due, whoever else would test it.
    pub(crate) fn probe_anyway(self: &Arc<Self>, ask: Ask<'_>, now: Time) -> Option<Attempt<M>> {
        if self.board.next_probe() > now {
            return None;
        }
        self.board.begin_look();
        let look = self.look(ask, now, |_| true);
        self.board.attend_at(look.next);
        self.begin_probe(look.candidate?, now)
    }

    /// A probe of this instance, if one is due; else when it may be.
    pub(crate) fn probe_only(self: &Arc<Self>, index: usize, now: Time) -> Result<Attempt<M>, Time> {
        let breaker = &self.node(index).breaker;
        let later = match breaker.chance(&self.slots[index].config, now) {
            Chance::Begin | Chance::Continue if self.board.next_probe() <= now => {
                if let Some(attempt) = self.begin_probe(index, now) {
                    return Ok(attempt);
                }
                now
            }
            Chance::Begin | Chance::Continue => self.board.next_probe(),
            Chance::Lost => {
                self.reopen_lost(index, now);
                breaker.until()
            }
            Chance::Later(at) => at,
            Chance::None => breaker.until(),
        };
        Err(later.max(now).min(now + LONGEST_WAIT))
    }

    /// A probe for a question of the owner's, if one is due at an instance with [`Prober::Owner`]. Call it often, every 50 ms
    /// or so: it costs nothing where there is no such instance, and a look at each where there is. `random`: 64 fresh bits.
    ///
    /// # Cancel safety
    ///
    /// The permit is given back when the attempt is dropped, whatever state it is in.
    pub fn due_probe(self: &Arc<Self>, random: u64, now: Time) -> Option<Attempt<M>> {
        if !self.owner_probes || self.board.next_probe() > now {
            return None;
        }
        // Requests have their own schedule, which this look must not take from them: it leaves the board as it is.
        let ask = Ask { random, replayable: true, tried: &[], key: None };
        let look = self.look(ask, now, |prober| prober == Prober::Owner);
        self.begin_probe(look.candidate?, now)
    }

    fn begin_probe(self: &Arc<Self>, index: usize, now: Time) -> Option<Attempt<M>> {
        self.board.attend_at(now + PROBE_GAP);
        // Of several callers that got this far at once, one probes.
        let permit = if self.board.claim_probe(now) { self.grant(index, now)? } else { return None };
        Some(Attempt::begin(self.clone(), index, permit, now))
    }

    /// Observe mode: the requests that pass anyway stand in for probes, at the pace of real ones.
    pub(crate) fn observe_probe(&self, index: usize, now: Time) -> Option<Permit> {
        match self.node(index).breaker.chance(&self.slots[index].config, now) {
            Chance::Begin | Chance::Continue => self.grant(index, now),
            Chance::Lost => {
                self.reopen_lost(index, now);
                None
            }
            Chance::None | Chance::Later(_) => None,
        }
    }

    pub(crate) fn grant(&self, index: usize, now: Time) -> Option<Permit> {
        let mut journal = self.board.journal();
        let (permit, change) = self.node(index).breaker.grant(self.site(index, now))?;
        if let Some(change) = change {
            self.note(&mut journal, index, change, now);
        }
        Some(permit)
    }

    pub(crate) fn reopen_lost(&self, index: usize, now: Time) -> Option<crate::Transition> {
        let lost = self.transition(index, now, |node| node.breaker.reopen_lost(self.site(index, now)))?;
        if lost.reason == Reason::ProbeLost {
            self.probed(index, ProbeResult::Lost);
        }
        Some(lost)
    }

    /// `mine`: whose probes are looked for.
    fn look(&self, ask: Ask<'_>, now: Time, mine: impl Fn(Prober) -> bool) -> Look {
        let n = self.slots.len();
        let start = Draws(ask.random ^ 0x5eed).below(n.max(1));
        let (mut begin, mut go_on, mut some_closed, mut round_in_flight) = (None, None, false, false);
        let mut next = Time::FAR;
        for index in (0..n).map(|step| (start + step) % n) {
            let slot = &self.slots[index];
            let breaker = &slot.member.node().breaker;
            some_closed |= self.admits(index);
            if slot.config.mode != Mode::Enforce {
                continue;
            }
            let chance = match breaker.chance(&slot.config, now) {
                Chance::Lost => {
                    self.reopen_lost(index, now);
                    breaker.chance(&slot.config, now)
                }
                chance => chance,
            };
            let free = !ask.tried.contains(&index);
            match chance {
                _ if !mine(slot.prober) => {}
                Chance::Begin if free => begin = begin.or(Some(index)),
                Chance::Continue if free => go_on = go_on.or(Some(index)),
                Chance::Begin | Chance::Continue => next = next.min(now + PROBE_GAP),
                Chance::Later(at) => next = next.min(at),
                Chance::Lost | Chance::None => {}
            }
            if breaker.state() == State::HalfOpen && matches!(chance, Chance::Later(_)) {
                // Its deadline is the time it was sent plus the probe timeout.
                round_in_flight |= now + slot.config.probe_timeout < breaker.until() + ROUND_PATIENCE;
            }
        }
        if begin.is_some() {
            next = next.min(now + PROBE_GAP);
        }
        // What is nearest to being closed comes first, whether or not others are.
        let begin = begin.filter(|_| some_closed || !round_in_flight);
        Look { candidate: go_on.or(begin), next }
    }

    /// Nothing takes traffic: if what broke is hard everywhere, waiting long only prolongs the outage.
    pub(crate) fn cut_open_times(&self, now: Time) {
        let limit = now + MAX_OPEN_ALONE;
        let mut breakers = self.slots.iter().map(|slot| &slot.member.node().breaker);
        let open = |phase: Phase| matches!(phase, Phase::Open | Phase::HalfOpen);
        if !breakers.all(|breaker| !open(breaker.word().phase) || breaker.ground().is_hard()) {
            return;
        }
        for index in 0..self.slots.len() {
            let node = self.node(index);
            if node.breaker.word().phase == Phase::Open && node.breaker.until() > limit {
                node.breaker.cut(node.seed(), now);
                self.board.attend_at(node.breaker.until());
            }
        }
    }

    /// Until somebody can be had, by the passing of time alone.
    pub(crate) fn open_for(&self, ask: Ask<'_>, now: Time) -> Duration {
        let mut next = now + LONGEST_WAIT;
        for (index, slot) in self.slots.iter().enumerate() {
            let breaker = &slot.member.node().breaker;
            next = next.min(match breaker.chance(&slot.config, now) {
                Chance::Later(at) if breaker.state() == State::HalfOpen => at.min(now + ROUND_PATIENCE),
                Chance::Later(at) => at,
                // Due, but not for this exchange, which has had it, or not yet.
                Chance::Begin | Chance::Continue | Chance::Lost if ask.tried.contains(&index) => now,
                Chance::Begin | Chance::Continue | Chance::Lost => self.board.next_probe().max(now),
                Chance::None => breaker.until(),
            });
        }
        next.since(now)
    }
}
