//! What happens when few instances take traffic, or none.
//!
//! Decides whether a request goes to an instance whose circuit is open, without being its probe: what comes of it changes
//! nothing about the circuit. By default no request does while anybody takes traffic: the instances' own limits shed what is
//! too much, and with those spilling gains nothing (37.2 against 37.3 % goodput of a possible 40 when six of ten are dead)
//! and costs what goes to the dead (19.9 % failures where the rest had room for all). It deliberately never uses an instance
//! that an operator holds open, nor, but in Envoy's panic, one that cannot be reached or answers nothing but failures.
//!
//! While no circuit is closed and most are open for slowness or silence, nothing is known to be dead: each of those gets
//! four requests at a time.

use std::sync::Arc;

use crate::attempt::Attempt;
use crate::balance::Balancer;
use crate::breaker::Permit;
use crate::config::Mode;
use crate::node::Member;
use crate::pick::Ask;
use crate::policy::{Among, View};
use crate::set::InstanceSet;
use crate::throttle::unit;
use crate::time::Time;
use crate::word::Phase;

/// In flight at each instance, while nothing but slow ones are left.
const SQUEEZED: u32 = 4;

/// What happens to the traffic of instances that are open, while others are not: the policy's `exhausted`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum WhenFew {
    /// The others get it, and their own limits shed what they cannot bear.
    #[default]
    Limiter,
    /// Below this percentage of instances that take traffic, 1..100, a growing share of the requests goes to those that are
    /// open for being slow, silent or busy: `1 - ready / percentage`, so that there is no cliff.
    Spill(u8),
    /// Below this percentage, 1..100, circuits are not looked at. For those who come from Envoy, whose default is 50.
    EnvoyPanic(u8),
}

impl WhenFew {
    /// The message for a percentage out of bounds.
    pub fn validate(self) -> Result<(), String> {
        match self {
            WhenFew::Spill(percent) | WhenFew::EnvoyPanic(percent) if !(1..=100).contains(&percent) => {
                Err(format!("must be 1..100, got {percent}"))
            }
            _ => Ok(()),
        }
    }
}

impl<M: Member> InstanceSet<M> {
    /// An instance with an open circuit, if the rules send this request to one.
    #[inline]
    pub(crate) fn spill(self: &Arc<Self>, ask: Ask<'_>, now: Time) -> Option<Attempt<M>> {
        match self.rules.few {
            WhenFew::Limiter => None,
            few => self.spill_by(few, ask, now),
        }
    }

    fn spill_by(self: &Arc<Self>, few: WhenFew, ask: Ask<'_>, now: Time) -> Option<Attempt<M>> {
        let (ready, all) = (f64::from(self.standing().ready), self.len() as f64);
        let among = match few {
            WhenFew::Spill(percent) => {
                let share = 1.0 - ready * 100.0 / (all * f64::from(percent));
                (ready > 0.0 && unit(ask.random ^ 0x0073_7069_6c6c) < share).then_some(Among::Soft(u32::MAX))
            }
            WhenFew::EnvoyPanic(percent) => (ready * 100.0 < all * f64::from(percent)).then_some(Among::All),
            WhenFew::Limiter => None,
        }?;
        self.attempt_among(among, ask, now)
    }

    /// Nothing takes traffic, and most of it is slow rather than broken.
    pub(crate) fn soft_dominates(&self) -> bool {
        let open = self.slots.iter().map(|slot| &slot.member.node().breaker);
        let open = open.filter(|breaker| matches!(breaker.word().phase, Phase::Open | Phase::HalfOpen));
        let (soft, others): (Vec<_>, Vec<_>) = open.partition(|breaker| breaker.ground().is_soft());
        soft.len() > others.len()
    }

    /// A place at an instance that is slow and has not many requests in flight.
    pub(crate) fn squeeze_in(self: &Arc<Self>, ask: Ask<'_>, now: Time) -> Option<Attempt<M>> {
        self.attempt_among(Among::Soft(SQUEEZED), ask, now)
    }

    fn attempt_among(self: &Arc<Self>, among: Among, ask: Ask<'_>, now: Time) -> Option<Attempt<M>> {
        let index = Balancer::LeastRequest.propose(ask.draw(), &View { set: self, ask, among, now })?;
        let generation = self.node(index).breaker.word().generation;
        Some(Attempt::begin(self.clone(), index, Permit { generation, probe: false }, now))
    }

    /// Open for being slow, silent or busy, by itself.
    pub(crate) fn is_soft_open(&self, index: usize) -> bool {
        let breaker = &self.node(index).breaker;
        let open = matches!(breaker.word().phase, Phase::Open | Phase::HalfOpen);
        open && breaker.ground().is_soft() && self.slots[index].config.mode == Mode::Enforce
    }
}
