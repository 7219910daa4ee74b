//! What happens without a request: once a second.
//!
//! Ends overrides whose time is over, re-opens circuits whose probe was lost, opens instances that stand off from their
//! peers (`outlier`), and releases those that turned out to be no worse. It deliberately closes nothing else and never probes: only an answered request shows
//! that an instance works.

use crate::breaker::Chance;
use crate::config::Mode;
use crate::event::Transition;
use crate::node::Member;
use crate::set::InstanceSet;
use crate::time::Time;
use crate::trigger::Ground;

/// Every instance's old buckets are emptied once in so many seconds: a tag comes round again after hours.
const UPKEEP_TURNS: u64 = 60;
/// Calls in the last 3 s below which a peer says nothing about a release.
const PEER_CALLS: u32 = 10;
/// A peer this many points better than the instance was at its trip keeps it open.
const MARGIN: u32 = 20;

impl<M: Member> InstanceSet<M> {
    /// Call once a second. Returns what changed (also in the journal).
    pub fn sweep(&self, now: Time) -> Vec<Transition> {
        let mut changes = Vec::new();
        let turn = now.0 / 1_000_000_000 % UPKEEP_TURNS;
        let mut all_closed = true;
        for (index, slot) in self.slots.iter().enumerate() {
            let node = slot.member.node();
            if index as u64 % UPKEEP_TURNS == turn {
                node.tally.forget(self.shapes[index], now);
            }
            if node.breaker.override_expired(now) {
                changes.extend(self.set_override(index, None, now));
            }
            if node.breaker.is_closed() {
                continue;
            }
            all_closed = false;
            match node.breaker.chance(&slot.config, now) {
                Chance::Lost => changes.extend(self.reopen_lost(index, now)),
                Chance::Begin | Chance::Continue => self.board.attend_at(now),
                Chance::Later(at) => self.board.attend_at(at),
                Chance::None => {}
            }
            if slot.config.mode != Mode::Disabled && self.deserves_release(index, now) {
                changes.extend(self.transition(index, now, |node| node.breaker.release(now)));
            }
        }
        self.open_outliers(now, &mut changes);
        if all_closed {
            self.board.reset_patience();
        }
        changes
    }

    /// Opened on statuses, while every closed peer that has calls to show is now about as bad.
    fn deserves_release(&self, index: usize, now: Time) -> bool {
        let breaker = &self.node(index).breaker;
        if breaker.ground() != Ground::ByStatus {
            return false;
        }
        let Some(at_trip) = breaker.tripped_percent() else { return false };
        let mut judges = 0;
        for peer in self.peers(index).filter(|peer| peer.node.breaker.is_closed()) {
            let recent = peer.node.tally.recent(now);
            if recent.total < PEER_CALLS {
                continue;
            }
            judges += 1;
            let better = at_trip >= MARGIN && recent.hard * 100 <= (at_trip - MARGIN) * recent.total;
            if better {
                return false;
            }
        }
        judges > 0
    }
}
