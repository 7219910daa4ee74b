//! The gray instance: one that fails a little, or slowly, while its peers do not.
//!
//! Once a second every closed instance with calls enough is compared with the median of its peers. Failures and
//! timeouts count alike here, because what all instances show under load moves the median with it. Answers that refuse
//! a request before its application saw it do not count: they say busy, not sick. It deliberately opens nobody by soft
//! failures alone while the median instance shows 5 % of them, and never the last closed instance.
//!
//! A median and a binomial spread, in place of mean and standard deviation: for k equal outliers of n the latter's
//! z-score is `sqrt((n - k) / k)` whatever they do, so that three dead of ten are never seen, and one with a single
//! failure among nine perfect ones always is.

use crate::config::{Mode, PeerOutlier};
use crate::event::{Reason, Transition};
use crate::node::Member;
use crate::set::InstanceSet;
use crate::tally::Totals;
use crate::time::Time;
use crate::trigger::{Ground, Suspicion};
use crate::word::Phase;

/// Calls in the window below which an instance is neither judged nor compared with.
const CALLS: u32 = 20;
/// Failures in the window below which it is not judged.
const BAD: u32 = 5;
/// Instances with calls enough, itself among them, below which there is no median.
const INSTANCES: usize = 3;
/// Points above the median, at the least, where all that an instance shows is soft.
const SOFT_DELTA: u8 = 20;
/// Under load this share of failures at the median instance, refused requests included, leaves nobody an outlier.
const STRAINED: f64 = 0.05;
/// The median that a spread is taken from is at least this.
const FLOOR: f64 = 0.005;

/// One instance's window.
#[derive(Clone, Copy, Debug)]
struct Sample {
    index: usize,
    generation: u32,
    totals: Totals,
    /// Failures but those that were refused unprocessed.
    bad: u32,
}

impl Sample {
    fn rate(&self) -> f64 {
        f64::from(self.bad) / f64::from(self.totals.total)
    }
}

impl<M: Member> InstanceSet<M> {
    /// Opens what stands off from its peers.
    pub(crate) fn open_outliers(&self, now: Time, changes: &mut Vec<Transition>) {
        if self.slots.len() < INSTANCES || !self.slots.iter().any(|slot| slot.config.peer.delta > 0) {
            return;
        }
        let samples = self.samples(now);
        if samples.len() < INSTANCES || samples.iter().all(|sample| sample.bad < BAD) {
            return;
        }
        let rates = Sorted::of(samples.iter().map(Sample::rate));
        let with_shed = Sorted::of(samples.iter().map(|sample| sample.totals.bad_rate()));
        for sample in &samples {
            let rule = self.slots[sample.index].config.peer;
            if !is_outlier(sample, &rates, &with_shed, rule) {
                continue;
            }
            let ground = if sample.totals.hard == 0 { Ground::SoftOutlier } else { Ground::Outlier };
            let suspicion = Suspicion { reason: Reason::Peer, ground, totals: sample.totals };
            changes.extend(self.transition(sample.index, now, |node| {
                if !self.may_spare(sample.index, ground) {
                    return None;
                }
                node.breaker.trip(sample.generation, suspicion, None, self.site(sample.index, now))
            }));
        }
    }

    fn samples(&self, now: Time) -> Vec<Sample> {
        let sample = |index: usize| {
            let slot = &self.slots[index];
            let (tally, shape) = (&slot.member.node().tally, self.shapes[index]);
            let word = slot.member.node().breaker.word();
            if slot.config.mode == Mode::Disabled || word.phase != Phase::Closed {
                return None;
            }
            let totals = tally.totals(shape, now);
            let shed = if totals.soft > 0 { tally.detail(shape, now).shed } else { 0 };
            let bad = totals.bad().saturating_sub(shed);
            (totals.total >= CALLS).then_some(Sample { index, generation: word.generation, totals, bad })
        };
        (0..self.slots.len()).filter_map(sample).collect()
    }
}

fn is_outlier(sample: &Sample, rates: &Sorted, with_shed: &Sorted, rule: PeerOutlier) -> bool {
    if rule.delta == 0 || sample.bad < BAD {
        return false;
    }
    let soft_only = sample.totals.hard == 0;
    if soft_only && with_shed.median_without(sample.totals.bad_rate()) >= STRAINED {
        return false;
    }
    let (f, m) = (sample.rate(), rates.median_without(sample.rate()));
    let delta = if soft_only { rule.delta.max(SOFT_DELTA) } else { rule.delta };
    let p = m.max(FLOOR);
    let spread = (p * (1.0 - p) / f64::from(sample.totals.total)).sqrt();
    f - m >= f64::from(delta) / 100.0 && f - p >= f64::from(rule.z) * spread
}

/// Rates, lowest first.
struct Sorted(Vec<f64>);

impl Sorted {
    fn of(rates: impl Iterator<Item = f64>) -> Sorted {
        let mut sorted: Vec<f64> = rates.collect();
        sorted.sort_unstable_by(f64::total_cmp);
        Sorted(sorted)
    }

    /// The lower median of the others, `one` being in the list.
    fn median_without(&self, one: f64) -> f64 {
        let middle = self.0.len().saturating_sub(2) / 2;
        let below = self.0.partition_point(|rate| *rate < one);
        self.0[if below <= middle { middle + 1 } else { middle }]
    }
}
