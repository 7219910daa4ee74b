//! How a service's requests are spread: the rules of a set, and what is worked out from them when a set is built.
//!
//! `pick` asks here for a proposal. It decides which zone's instances are looked at and hands the rest to a
//! [`Balancer`](crate::balance::Balancer); two choices by latency, the default, stay in `pick`. It deliberately knows no
//! permits: whoever is proposed takes traffic, and is admitted by its breaker.
//!
//! Invariant: an instance that opens or closes moves only its own requests under a policy that hashes, because what the
//! policy was built for does not change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::balance::{self, Balancer, Draw, HashRing, Instances, Maglev, RoundRobin, Seat, Side, VNODES, Zone};
use crate::few::WhenFew;
use crate::node::Member;
use crate::pick::Ask;
use crate::set::{InstanceSet, Slot};
use crate::time::Time;
use crate::word::Phase;

/// How a service's instances are chosen among, for the set as a whole.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct SetRules {
    /// Default two choices by latency.
    pub policy: Policy,
    /// What happens when few instances take traffic. Default: their own limits shed what is too much.
    pub few: WhenFew,
    /// The caller's own zone, as [`Member::zone`](crate::Member::zone) names zones: prefer its instances while they bear
    /// their share. 0, the default, turns that off; a policy that hashes does not look at zones.
    pub zone: u64,
    /// Above a hundred instances use only a tenth of them, at least twenty, chosen by this seed (the sidecar's own, the same
    /// at every restart). Default off: all are used.
    pub subset: Option<u64>,
}

/// Who is proposed for a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Policy {
    /// The cheaper of two drawn at random, by latency and requests in flight.
    #[default]
    TwoChoices,
    /// The same by requests in flight alone.
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// By [`Ask::key`], with bounded loads. `vnodes`: points of an instance of mean weight, 1..1000; [`VNODES`] is the default.
    RingHash { vnodes: u32 },
    /// By [`Ask::key`], evenly.
    Maglev,
}

impl Policy {
    /// Ring hash with the default number of points.
    pub const RING_HASH: Policy = Policy::RingHash { vnodes: VNODES };

    fn hashes(self) -> bool {
        matches!(self, Policy::RingHash { .. } | Policy::Maglev)
    }

    fn build(self, seats: &[Seat]) -> Balancer {
        match self {
            Policy::TwoChoices => Balancer::TwoChoices,
            Policy::LeastRequest => Balancer::LeastRequest,
            Policy::RoundRobin => {
                Balancer::RoundRobin(RoundRobin::new(&seats.iter().map(|seat| seat.weight).collect::<Vec<_>>()))
            }
            Policy::RingHash { vnodes } => Balancer::RingHash(HashRing::new(seats, vnodes)),
            Policy::Maglev => Balancer::Maglev(Maglev::new(seats)),
        }
    }
}

impl SetRules {
    pub(crate) fn take_subset<M: Member>(&self, slots: &mut Vec<Slot<M>>) {
        let Some(seed) = self.subset else { return };
        let ids: Vec<u64> = slots.iter().map(|slot| slot.member.id()).collect();
        let mut kept = balance::subset(seed, &ids).into_iter().peekable();
        let mut index = 0..;
        slots.retain(|_| {
            let stays = kept.peek() == index.next().as_ref();
            if stays {
                kept.next();
            }
            stays
        });
    }
}

/// What a set's rules come to for its members.
pub(crate) struct Balance {
    policy: Policy,
    seats: Box<[Seat]>,
    /// Shared with the sets before, while policy and seats are the same.
    balancer: Arc<Balancer>,
    /// Whether each instance is in the caller's zone; empty while zones do not matter.
    local: Box<[bool]>,
    zones: u32,
    smallest: u32,
    /// `epoch:24 | ready:20 | ready in the caller's zone:20`, worked out again when the board's epoch has moved on.
    standing: AtomicU64,
    /// `requests in flight:32 | weight:32 (f32)` of all that take traffic, and the millisecond that it is of, plus one.
    totals: AtomicU64,
    totals_of: AtomicU64,
}

/// How many take traffic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Standing {
    pub(crate) ready: u32,
    local_ready: u32,
}

const EPOCH_SHIFT: u32 = 40;
const COUNT: u64 = (1 << 20) - 1;
/// Up to so many instances are added up for each request that wants a sum.
const FEW: usize = 16;

impl Balance {
    pub(crate) fn of<M: Member>(slots: &[Slot<M>], rules: &SetRules, before: Option<&Balance>) -> Balance {
        let policy = rules.policy;
        let seat = |slot: &Slot<M>| Seat { id: slot.member.id(), weight: slot.weight.max(1) };
        // Only what needs them pays for them.
        let seats: Box<[Seat]> = match policy {
            Policy::TwoChoices | Policy::LeastRequest => Box::default(),
            _ => slots.iter().map(seat).collect(),
        };
        let same = before.filter(|before| before.policy == policy && before.seats == seats);
        let balancer = same.map_or_else(|| Arc::new(policy.build(&seats)), |before| before.balancer.clone());
        let mut zones: Vec<u64> = slots.iter().map(|slot| slot.member.zone()).collect();
        let in_use = rules.zone != 0 && !policy.hashes();
        let local: Box<[bool]> = zones.iter().filter(|_| in_use).map(|zone| *zone == rules.zone).collect();
        zones.sort_unstable();
        let sizes = || zones.chunk_by(|a, b| a == b).map(|zone| zone.len() as u32);
        let (count, smallest) = (sizes().count() as u32, sizes().min().unwrap_or(0));
        let never = AtomicU64::new(u64::MAX);
        Balance {
            policy,
            seats,
            balancer,
            local,
            zones: count,
            smallest,
            standing: never,
            totals: AtomicU64::new(0),
            totals_of: AtomicU64::new(0),
        }
    }
}

impl Ask<'_> {
    pub(crate) fn draw(&self) -> Draw {
        Draw { random: self.random, key: self.key.unwrap_or(self.random) }
    }
}

impl<M: Member> InstanceSet<M> {
    /// Who should have this request, of those that take traffic and have not had it.
    #[inline]
    pub(crate) fn propose(&self, ask: Ask<'_>, now: Time) -> Option<usize> {
        if self.balance.local.is_empty() {
            return self.propose_on(Side::Anywhere, ask, now);
        }
        let side = self.zone().choose(ask.random ^ 0x7a6f_6e65);
        let found = self.propose_on(side, ask, now);
        // The side may have nobody left that has not been tried.
        if side == Side::Anywhere { found } else { found.or_else(|| self.propose_on(Side::Anywhere, ask, now)) }
    }

    #[inline]
    fn propose_on(&self, side: Side, ask: Ask<'_>, now: Time) -> Option<usize> {
        match &*self.balance.balancer {
            Balancer::TwoChoices => self.two_choices(side, ask, now),
            balancer => balancer.propose(ask.draw(), &View { set: self, ask, among: Among::Ready(side), now }),
        }
    }

    #[inline]
    pub(crate) fn is_on(&self, side: Side, index: usize) -> bool {
        match side {
            Side::Anywhere => true,
            Side::Local => self.balance.local.get(index).is_some_and(|local| *local),
            Side::Elsewhere => self.balance.local.get(index).is_some_and(|local| !*local),
        }
    }

    fn zone(&self) -> Zone {
        let Standing { ready, local_ready } = self.standing();
        let local = self.balance.local.iter().filter(|local| **local).count() as u32;
        Zone { zones: self.balance.zones, smallest: self.balance.smallest, local, local_ready, ready }
    }

    pub(crate) fn standing(&self) -> Standing {
        let epoch = self.board.epoch();
        let seen = self.balance.standing.load(Relaxed);
        if seen != u64::MAX && seen >> EPOCH_SHIFT == epoch {
            return Standing { ready: (seen >> 20 & COUNT) as u32, local_ready: (seen & COUNT) as u32 };
        }
        let (mut ready, mut local_ready) = (0, 0);
        for index in (0..self.len()).filter(|index| self.admits(*index)) {
            ready += 1;
            local_ready += u64::from(self.is_on(Side::Local, index));
        }
        let counts = ready.min(COUNT) << 20 | local_ready.min(COUNT);
        self.balance.standing.store(epoch << EPOCH_SHIFT | counts, Relaxed);
        Standing { ready: ready as u32, local_ready: local_ready as u32 }
    }
}

/// Who is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Among {
    /// Those that take traffic.
    Ready(Side),
    /// Those that are open for being slow, with fewer requests in flight than this.
    Soft(u32),
    /// All but those that an operator holds open.
    All,
}

/// A set as a balancer sees it, for one request.
pub(crate) struct View<'a, M> {
    pub(crate) set: &'a InstanceSet<M>,
    pub(crate) ask: Ask<'a>,
    pub(crate) among: Among,
    pub(crate) now: Time,
}

impl<M: Member> Instances for View<'_, M> {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn usable(&self, index: usize) -> bool {
        let here = match self.among {
            Among::Ready(side) => self.set.admits(index) && self.set.is_on(side, index),
            Among::Soft(most) => self.set.is_soft_open(index) && self.inflight(index) < most,
            Among::All => self.set.node(index).breaker.word().phase != Phase::ForcedOpen,
        };
        here && !self.ask.tried.contains(&index)
    }

    fn inflight(&self, index: usize) -> u32 {
        self.set.node(index).inflight()
    }

    fn weight(&self, index: usize) -> f32 {
        self.set.weight(index, self.now)
    }

    /// In a large set at most a millisecond old.
    fn totals(&self) -> (u64, f64) {
        let balance = &self.set.balance;
        let now = self.now.millis() + 1;
        let large = self.len() > FEW;
        if large && balance.totals_of.load(Relaxed) == now {
            let bits = balance.totals.load(Relaxed);
            return (bits >> 32, f64::from(f32::from_bits(bits as u32)));
        }
        let usable = (0..self.len()).filter(|index| self.usable(*index));
        let sums = usable.fold((0_u64, 0.0_f64), |sum, index| {
            (sum.0 + u64::from(self.inflight(index)), sum.1 + f64::from(self.weight(index)))
        });
        if large {
            let bits = sums.0.min(u64::from(u32::MAX)) << 32 | u64::from((sums.1 as f32).to_bits());
            balance.totals.store(bits, Relaxed);
            balance.totals_of.store(now, Relaxed);
        }
        sums
    }
}
