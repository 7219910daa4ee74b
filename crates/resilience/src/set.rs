//! One immutable view of a service's instances, and what its members do to each other.
//!
//! The set knows who is a peer of whom, so it is where an outcome becomes a transition: it takes the suspicion from
//! `trigger`, refuses what would open the last closed instance on a status, and writes the event. It deliberately owns
//! no instance state; building a new set from the same members changes nothing about them.
//!
//! Invariant: every transition is made, and written to the journal, under the service's one journal lock.

use std::sync::Arc;
use std::time::Duration;

use crate::board::{Board, Shut};
use crate::breaker::{Override, Permit, Probed, Settled, Site};
use crate::config::{BreakerConfig, HalfOpen, Mode};
use crate::event::{Change, Journal, Reason, Transition};
use crate::node::{Member, Node, ProbeResult};
use crate::outcome::{Class, Evidence, Outcome};
use crate::policy::{Balance, SetRules};
use crate::ring::Shape;
use crate::tally::Pace;
use crate::time::Time;
use crate::trigger::{Case, Ground, Peer};
use crate::word::{Phase, State};

/// A comparison looks at no more peers than this: the best of so many is good enough to stand out against, and a failing
/// instance among ten thousand must not cost a scan of them all with every failure.
const MAX_PEERS: usize = 256;

/// One instance in a set: who it is, by which rules, with how much of the traffic.
pub struct Slot<M> {
    pub member: Arc<M>,
    pub config: Arc<BreakerConfig>,
    /// Relative share of the traffic. 0 counts as 1: an instance that is to get nothing does not belong in the set.
    pub weight: u32,
    pub prober: Prober,
}

/// Who tests an instance's circuit once it is due.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Prober {
    /// The next request that may be used for it.
    #[default]
    Request,
    /// Whoever calls [`InstanceSet::due_probe`], with a question of its own. A request does it only while no circuit of the
    /// service is closed, since it would be refused otherwise.
    Owner,
}

impl<M> Clone for Slot<M> {
    fn clone(&self) -> Self {
        Slot { member: self.member.clone(), config: self.config.clone(), weight: self.weight, prober: self.prober }
    }
}

/// Which failures of the peers a probe's failure is compared with.
#[derive(Clone, Copy)]
enum Bad {
    All,
    /// Connections only.
    Absolute,
}

/// One immutable view of a service's instances.
pub struct InstanceSet<M> {
    pub(crate) slots: Vec<Slot<M>>,
    /// The slots' windows, worked out once: the request path divides by nothing that it can avoid.
    pub(crate) shapes: Vec<Shape>,
    pub(crate) board: Arc<Board<M>>,
    pub(crate) shut: Shut,
    /// Whether any circuit waits for [`InstanceSet::due_probe`].
    pub(crate) owner_probes: bool,
    pub(crate) rules: SetRules,
    pub(crate) balance: Balance,
}

impl<M: Member> InstanceSet<M> {
    /// The first set of a service, under default rules. Later ones come from [`InstanceSet::rebuilt`].
    pub fn new(slots: Vec<Slot<M>>) -> Self {
        Self::with_rules(slots, SetRules::default())
    }

    /// The first set of a service.
    pub fn with_rules(slots: Vec<Slot<M>>, rules: SetRules) -> Self {
        Self::build(slots, rules, Arc::new(Board::new()), None)
    }

    /// The set after a change of discovery or of the members' configuration. Members keep their state in any case, because
    /// it is theirs; this also keeps the rules, the journal, the pacing of probes, and lets attempts under the old set be
    /// seen by the new.
    pub fn rebuilt(&self, slots: Vec<Slot<M>>) -> Self {
        self.rebuilt_with(slots, self.rules.clone())
    }

    /// The same under other rules.
    pub fn rebuilt_with(&self, slots: Vec<Slot<M>>, rules: SetRules) -> Self {
        Self::build(slots, rules, self.board.clone(), Some(&self.balance))
    }

    pub fn rules(&self) -> &SetRules {
        &self.rules
    }

    fn build(mut slots: Vec<Slot<M>>, rules: SetRules, board: Arc<Board<M>>, before: Option<&Balance>) -> Self {
        rules.take_subset(&mut slots);
        // A handful of newcomers starts slowly; when most are new, somebody has to carry the traffic.
        let new = slots.iter().filter(|slot| slot.member.node().is_new()).count();
        let ramp = new * 2 < slots.len();
        for slot in &slots {
            slot.member.node().enlist(&slot.config, ramp);
            if !slot.member.node().breaker.is_closed() {
                board.attend_at(Time(0));
            }
        }
        board.reopen();
        let shapes = slots.iter().map(|slot| Shape::of(&slot.config)).collect();
        let owner_probes = slots.iter().any(|slot| slot.prober == Prober::Owner);
        let balance = Balance::of(&slots, &rules, before);
        InstanceSet { slots, shapes, board, shut: Shut::default(), owner_probes, rules, balance }
    }

    pub fn members(&self) -> impl Iterator<Item = &Arc<M>> {
        self.slots.iter().map(|slot| &slot.member)
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Holds an instance open or closed, or lets go of it. `None` if there is no such index or nothing to clear.
    pub fn set_override(&self, index: usize, to: Option<Override>, now: Time) -> Option<Transition> {
        self.slots.get(index)?;
        self.transition(index, now, |node| node.breaker.force(to, now))
    }

    /// Starts an instance's circuit from scratch: CLOSED, an empty window, no override, whatever was before. `owner`: who
    /// wants it so.
    pub fn reset(&self, index: usize, owner: &str, now: Time) -> Option<Transition> {
        self.slots.get(index)?;
        let site = self.site(index, now);
        self.transition(index, now, |node| Some(node.breaker.reset(owner, site)))
    }

    /// The rules that an instance is judged by.
    pub fn config(&self, index: usize) -> Option<&Arc<BreakerConfig>> {
        self.slots.get(index).map(|slot| &slot.config)
    }

    /// Takes the events since the last call, in the order in which they happened: the full account, of which the
    /// transitions that other calls return are copies with the same `seq`.
    pub fn drain_transitions(&self) -> Vec<(Arc<M>, Transition)> {
        self.board.journal().drain()
    }

    /// Events that were lost because nobody drained them.
    pub fn dropped_transitions(&self) -> u64 {
        self.board.journal().dropped()
    }

    pub(crate) fn node(&self, index: usize) -> &Node {
        self.slots[index].member.node()
    }

    pub(crate) fn site(&self, index: usize, now: Time) -> Site<'_> {
        Site { config: &self.slots[index].config, seed: self.node(index).seed(), now }
    }

    /// The other instances, from the next one on.
    pub(crate) fn peers(&self, index: usize) -> impl Iterator<Item = Peer<'_>> + Clone {
        let others = self.slots.len().saturating_sub(1).min(MAX_PEERS);
        (1..=others).map(move |step| {
            let other = (index + step) % self.slots.len();
            Peer { node: self.node(other), shape: self.shapes[other] }
        })
    }

    /// Makes a transition and writes it down; the journal lock spans both.
    pub(crate) fn transition(
        &self,
        index: usize,
        now: Time,
        make: impl FnOnce(&Node) -> Option<Change>,
    ) -> Option<Transition> {
        let mut journal = self.board.journal();
        let change = make(self.node(index))?;
        Some(self.note(&mut journal, index, change, now))
    }

    pub(crate) fn note(&self, journal: &mut Journal<M>, index: usize, change: Change, now: Time) -> Transition {
        let slot = &self.slots[index];
        let node = slot.member.node();
        self.board.reopen();
        match change.to {
            State::Closed => {
                node.tally.clear();
                if change.reason == Reason::Recovered {
                    node.load.reset_estimate();
                    node.load.start_ramp(now);
                } else {
                    node.load.stop_ramp();
                }
            }
            State::Open => {
                self.board.reset_patience();
                self.board.attend_at(now + change.open_for);
            }
            State::HalfOpen => {}
        }
        let transition = Transition::new(change, (node.seed(), index), slot.config.mode, now);
        journal.push(&slot.member, transition)
    }

    /// Takes an attempt's outcome into account. Called once for each permit.
    pub(crate) fn settle(
        &self,
        index: usize,
        permit: Permit,
        outcome: Outcome,
        (started, pace): (Time, Pace),
        now: Time,
    ) -> Option<Transition> {
        let slot = &self.slots[index];
        let node = slot.member.node();
        if outcome.class == Class::Ignored {
            self.give_back(index, permit);
            return None;
        }
        if slot.config.mode == Mode::Disabled {
            self.give_back(index, permit);
            return None;
        }
        let word = node.breaker.word();
        if word.generation != permit.generation {
            node.breaker.count_stale();
            return None;
        }
        let outcome = self.weigh(index, outcome, started);
        match word.phase {
            Phase::Closed => self.settle_call(index, permit, outcome, pace, now),
            Phase::HalfOpen if permit.probe => self.settle_probe(index, permit, outcome, pace, now),
            Phase::HalfOpen | Phase::Open | Phase::ForcedOpen => None,
        }
    }

    /// A connect timeout is the instance's own fault only if a peer took a new connection meanwhile.
    fn weigh(&self, index: usize, outcome: Outcome, started: Time) -> Outcome {
        let in_doubt = outcome.evidence == Evidence::ConnectTimeout;
        if in_doubt && self.peers(index).any(|peer| peer.node.tally.last_connect() > started) {
            return Outcome { class: Class::Hard, evidence: Evidence::Connect, ..outcome };
        }
        outcome
    }

    fn settle_call(&self, index: usize, permit: Permit, outcome: Outcome, pace: Pace, now: Time) -> Option<Transition> {
        let slot = &self.slots[index];
        let node = slot.member.node();
        let shape = self.shapes[index];
        node.tally.record(shape, outcome, pace, now);
        let case = Case { node, config: &slot.config, shape, peers: self.peers(index), now };
        let suspicion = case.judge(outcome)?;
        self.transition(index, now, |node| {
            // Under the journal lock, so that the last two cannot open each other's last peer.
            if suspicion.ground != Ground::Absolute && !self.may_spare(index, suspicion.ground) {
                return None;
            }
            let site = self.site(index, now);
            node.breaker.trip(permit.generation, suspicion, outcome.retry_hint, site)
        })
    }

    /// Whether the service can do without this instance. Silence needs a closed peer even in a service of one; statuses
    /// and slow calls may open an only instance.
    pub(crate) fn may_spare(&self, index: usize, ground: Ground) -> bool {
        let alone = self.slots.len() == 1 && matches!(ground, Ground::ByStatus | Ground::Slow);
        alone || (0..self.slots.len()).any(|other| other != index && self.node(other).breaker.is_closed())
    }

    fn settle_probe(
        &self,
        index: usize,
        permit: Permit,
        outcome: Outcome,
        pace: Pace,
        now: Time,
    ) -> Option<Transition> {
        // By rate, slow probes are counted on their own; by evidence, they were part of what opened the circuit.
        let by_evidence = self.slots[index].config.half_open == HalfOpen::Evidence;
        let failed = outcome.is_failure() || (by_evidence && pace == Pace::Slow);
        // Nobody is excused for refusing connections because others time out.
        let kind = if outcome.is_absolute() { Bad::Absolute } else { Bad::All };
        let peers = self.peer_bad_rate(index, kind, now);
        let mut journal = self.board.journal();
        let breaker = &self.node(index).breaker;
        let result = Probed { failed, pace, peers, hint: outcome.retry_hint };
        match breaker.settle_probe(permit, result, self.site(index, now)) {
            Settled::Stale => {
                self.node(index).breaker.count_stale();
                None
            }
            Settled::Counted => {
                self.probed(index, if failed { ProbeResult::Failed } else { ProbeResult::Ok });
                self.board.probe_settled(failed);
                self.board.reopen();
                self.board.attend_at(now);
                None
            }
            Settled::Decided(change) => {
                self.probed(index, if failed { ProbeResult::Failed } else { ProbeResult::Ok });
                self.board.probe_settled(failed);
                Some(self.note(&mut journal, index, change, now))
            }
        }
    }

    /// Lower median of the closed peers' failure rates; zero if none has enough calls to say.
    fn peer_bad_rate(&self, index: usize, kind: Bad, now: Time) -> f64 {
        let closed = self.peers(index).filter(|peer| peer.node.breaker.is_closed());
        let rate = |peer: Peer<'_>| {
            let totals = peer.node.tally.totals(peer.shape, now);
            let rate = match kind {
                Bad::All => totals.bad_rate(),
                Bad::Absolute if totals.hard == 0 => 0.0,
                Bad::Absolute => {
                    let absolute = peer.node.tally.detail(peer.shape, now).absolute;
                    f64::from(absolute) / f64::from(totals.total.max(1))
                }
            };
            (totals.total >= 5).then_some(rate)
        };
        let mut rates: Vec<f64> = closed.filter_map(rate).collect();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
    }

    /// The permit comes back with nothing learnt. Needs no clock, because dropping an attempt has none.
    pub(crate) fn give_back(&self, index: usize, permit: Permit) {
        if permit.probe {
            self.probed(index, ProbeResult::Ignored);
            self.node(index).breaker.give_back(permit);
            self.board.reopen();
            self.board.attend_at(Time(0));
        }
    }

    pub(crate) fn probed(&self, index: usize, result: ProbeResult) {
        let slot = &self.slots[index];
        if slot.config.mode == Mode::Enforce {
            slot.member.probed(result);
        }
    }

    pub(crate) fn weight(&self, index: usize, now: Time) -> f32 {
        let slot = &self.slots[index];
        let slow_start: Duration = slot.config.slow_start;
        slot.weight.max(1) as f32 * slot.member.node().load.ramp(slow_start, now)
    }
}
