//! `queue_guard`: notices that requests queue inside the application, and lets no more in than it finishes.
//!
//! Decides whether a request goes to the application, waits here, or is refused as not processed. Three phases:
//! *free*, with no limit at all; *test*, when requests take much longer than at their best while ever more are in flight:
//! a limit of 70 % is tried, and if throughput falls with it then the application was slow and not full, and is left alone
//! for a while; *engaged*, when throughput did not fall: the limit follows what the application finishes.
//!
//! It deliberately sets no upper limit, trusts no absolute latency (the baseline is the application's own best), and takes
//! the lower quartile, so that a few slow reports among many quick requests are no queue. Only while a
//! third of what the application finishes is for callers that have gone it takes the mean stay too: workers that do not serve
//! first come, first served answer a quarter at once however long the others wait (threads at a condition variable on a busy
//! machine: the limit grew from 254 to 537 at 41 % goodput). It releases a slot only when the
//! application answers or closes, also when the caller has gone: the application is still at it, and giving the slot away
//! on a cancel let retrying callers pile up work for ever (simulated: 0 % goodput).
//!
//! Source: the design's section 4, found by simulation against Gradient2, Vegas, CoDel with AIMD and throughput x latency,
//! each of which fails under overload or refuses healthy traffic. Known limits: routes that bypass the application's queue
//! (over a quarter of the traffic) hide it from the quartile; a dependency that slows down over a minute looks like
//! overload while it does; a small application at 80 % load queues by chance now and then, and a test then refuses a few
//! (ten workers: one request in ten thousand); after a cut, long polls hold their slots until they are answered.
//!
//! Single owner: every call takes `&mut self`. It must see *all* callers, so a sidecar with several workers shares one behind
//! a lock; a call is a few additions, but for the one every half second that sorts 256 samples. No allocation, 8 KiB.
//! Invariants: whoever got a [`Ticket`] gives it back once; the limit is at least the least; nobody waits while there is no limit.

use std::time::Duration;

use super::baseline::Baseline;
use super::window::{Measured, Window};
use crate::time::Time;

const MIN_WINDOW: Duration = Duration::from_millis(500);
const MIN_SAMPLES: u64 = 10;
const HOT_WINDOWS: u8 = 3;
/// So few in flight are no crowd.
const FEW: u32 = 8;
const TEST_SAMPLES: u64 = 150;
const TEST_TIME: Duration = Duration::from_secs(3);
const TEST_IDLE: Duration = Duration::from_secs(1);
const ENGAGED_IDLE: Duration = Duration::from_secs(5);
const WEAK_WINDOWS: u8 = 4;
const HOLD_OFF: Duration = Duration::from_secs(2);
const MAX_HOLD_OFF: Duration = Duration::from_secs(300);
const MIN_QUEUE: u32 = 16;

/// The settings of a [`QueueGuard`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GuardConfig {
    /// Requests that take so much longer than at their best, or twice the usual where that is more, are suspected to queue.
    /// 1 ms to 60 s, default 100 ms.
    pub target: Duration,
    /// The longest that a request waits here for its turn. 0 to 10 s, default 50 ms.
    pub queue: Duration,
    /// A limit is never below this. 1..10000, default 4.
    pub min: u32,
}

impl Default for GuardConfig {
    fn default() -> Self {
        GuardConfig { target: Duration::from_millis(100), queue: Duration::from_millis(50), min: 4 }
    }
}

impl GuardConfig {
    /// Every bound that is broken, as `(field, message)`.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let mut faults = Vec::new();
        if !(Duration::from_millis(1)..=Duration::from_secs(60)).contains(&self.target) {
            faults.push(("target", format!("must be 1ms..1m, got {:?}", self.target)));
        }
        if self.queue > Duration::from_secs(10) {
            faults.push(("queue", format!("must be 0s..10s, got {:?}", self.queue)));
        }
        if !(1..=10_000).contains(&self.min) {
            faults.push(("min", format!("must be 1..10000, got {}", self.min)));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// No limit.
    Free,
    /// A limit on trial.
    Test,
    /// A limit that was found to cost nothing.
    Engaged,
}

/// One request at the application. Give it back by exactly one of [`QueueGuard::answered`],
/// [`QueueGuard::answered_in_vain`], [`QueueGuard::closed`] and [`QueueGuard::connect_timed_out`].
#[must_use = "a ticket that is not given back holds a slot for ever"]
#[derive(Debug)]
pub struct Ticket {
    dispatched: Time,
}

#[derive(Debug)]
pub enum Admission {
    /// Send it.
    Dispatch(Ticket),
    /// Put it at the end of the queue. Its turn comes by [`QueueGuard::wake`]; after `at_most` it is to be refused
    /// like [`Admission::Shed`], by [`QueueGuard::gave_up`].
    Wait { at_most: Duration },
    /// 503 `overloaded` with `fusewire-not-processed: 1`.
    Shed,
}

/// The guard in front of one application.
pub struct QueueGuard {
    config: GuardConfig,
    phase: Phase,
    inflight: u32,
    queued: u32,
    window: Window,
    baseline: Baseline,
    free: Free,
    /// Only in test and engaged.
    limit: u32,
    /// Completions a second that the application is known for.
    reference: f64,
    /// A cut was made, and more are in flight than it allows: nothing is measured.
    settling: bool,
    /// A connection was not taken in time, and no decision has said so yet.
    backlog_full: bool,
    /// While engaged only requests sent after this are samples.
    sample_from: Time,
    /// The limit was last in the way.
    last_hit: Time,
    /// Windows in a row in which the limit was hit and throughput was low all the same.
    weak: u8,
    hold_off: Duration,
    hold_until: Time,
    /// How often in a row it turned out not to be saturated.
    unsaturated: u32,
}

/// The suspicion, while there is no limit.
#[derive(Default)]
struct Free {
    hot: u8,
    /// Completions and span of the last hot windows; the oldest first.
    windows: [(u64, Duration); HOT_WINDOWS as usize],
    peak_before: u32,
}

impl QueueGuard {
    pub fn new(now: Time) -> QueueGuard {
        QueueGuard::with(GuardConfig::default(), now)
    }

    pub fn with(config: GuardConfig, now: Time) -> QueueGuard {
        QueueGuard {
            baseline: Baseline::new(config.target),
            config,
            phase: Phase::Free,
            inflight: 0,
            queued: 0,
            window: Window::new(now, 0),
            free: Free::default(),
            limit: 0,
            reference: 0.0,
            settling: false,
            backlog_full: false,
            sample_from: now,
            last_hit: now,
            weak: 0,
            hold_off: HOLD_OFF,
            hold_until: now,
            unsaturated: 0,
        }
    }

    /// Goes on under other settings with what it has learnt.
    pub fn reconfigure(&mut self, config: GuardConfig) {
        self.baseline.retarget(config.target);
        self.limit = self.limit.max(config.min);
        self.config = config;
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// `None` while there is no limit.
    pub fn limit(&self) -> Option<u32> {
        (self.phase != Phase::Free).then_some(self.limit)
    }

    pub fn inflight(&self) -> u32 {
        self.inflight
    }

    pub fn queued(&self) -> u32 {
        self.queued
    }

    /// A request has come. `left`: until its deadline, if it has one.
    pub fn ask(&mut self, left: Option<Duration>, now: Time) -> Admission {
        self.look(now);
        if self.has_room() && (self.phase == Phase::Free || self.queued == 0) {
            return Admission::Dispatch(self.dispatch(now));
        }
        self.hit(now);
        let at_most = left.map_or(self.config.queue, |left| left.min(self.config.queue));
        if self.queued >= self.limit.max(MIN_QUEUE) || at_most.is_zero() {
            return Admission::Shed;
        }
        self.queued += 1;
        Admission::Wait { at_most }
    }

    /// The turn of the request that has waited longest, if it has come. To be called until `None` after each of the
    /// other calls, while anyone waits.
    pub fn wake(&mut self, now: Time) -> Option<Ticket> {
        if self.queued == 0 || !self.has_room() {
            return None;
        }
        self.queued -= 1;
        Some(self.dispatch(now))
    }

    /// A request that waited is refused, or its caller has gone.
    pub fn gave_up(&mut self, now: Time) {
        self.queued = self.queued.saturating_sub(1);
        self.hit(now);
        self.look(now);
    }

    /// The application's response headers are here; a stream's slot is free from now on.
    pub fn answered(&mut self, ticket: Ticket, now: Time) {
        self.done(ticket, 0, now);
    }

    /// The same, but the caller has gone before.
    pub fn answered_in_vain(&mut self, ticket: Ticket, now: Time) {
        self.done(ticket, 1, now);
    }

    fn done(&mut self, ticket: Ticket, in_vain: u64, now: Time) {
        self.leave();
        if !self.settling {
            self.window.complete(now.since(ticket.dispatched), in_vain);
            if self.phase != Phase::Engaged || ticket.dispatched >= self.sample_from {
                self.window.sample(now.since(ticket.dispatched));
            }
        }
        self.look(now);
    }

    /// The application closed without an answer. No sample: how long that took says nothing.
    pub fn closed(&mut self, ticket: Ticket, now: Time) {
        drop(ticket);
        self.leave();
        self.look(now);
    }

    /// The application did not take the connection in time, 250 ms on loopback: its backlog is full. The request is to be
    /// refused as `overloaded`.
    pub fn connect_timed_out(&mut self, ticket: Ticket, now: Time) {
        drop(ticket);
        self.leave();
        self.backlog_full = true;
        if self.phase == Phase::Free {
            self.free.hot = HOT_WINDOWS;
            self.suspect(self.window.peak, now);
        }
        self.look(now);
    }

    fn has_room(&self) -> bool {
        self.phase == Phase::Free || self.inflight < self.limit
    }

    fn dispatch(&mut self, now: Time) -> Ticket {
        self.inflight = self.inflight.saturating_add(1);
        self.window.peak = self.window.peak.max(self.inflight);
        Ticket { dispatched: now }
    }

    fn leave(&mut self) {
        self.inflight = self.inflight.saturating_sub(1);
    }

    /// Whether a third of what the application finishes is finished for nobody.
    fn works_in_vain(&self) -> bool {
        self.window.in_vain * 3 >= self.window.completed.max(1)
    }

    /// How much longer than at their best requests took. Where it works in vain, also how much longer than usual all stayed
    /// on average, and not only those that are samples: what waits longest was sent before the last cut.
    fn queueing(&self, measured: Measured) -> u64 {
        let lower_quartile = self.baseline.queueing(measured.low);
        if !self.works_in_vain() {
            return lower_quartile;
        }
        lower_quartile.max(self.baseline.beyond_mean(self.window.mean_stay()))
    }

    fn hit(&mut self, now: Time) {
        self.last_hit = now;
        self.window.limit_hit = true;
    }

    /// Is there anything to decide?
    fn look(&mut self, now: Time) {
        if self.settling && self.inflight <= self.limit {
            self.settling = false;
            // What was sent before a cut says nothing about it; but a test knows by it that there is a queue.
            self.backlog_full &= self.phase == Phase::Test;
            self.measure_anew(now);
        }
        match self.phase {
            Phase::Free => self.look_free(now),
            Phase::Test => self.look_test(now),
            Phase::Engaged => self.look_engaged(now),
        }
    }

    fn window_is_full(&self, now: Time) -> bool {
        self.window.samples >= MIN_SAMPLES && now.since(self.window.began) >= MIN_WINDOW
    }

    fn look_free(&mut self, now: Time) {
        if !self.window_is_full(now) {
            return;
        }
        let Some(measured) = self.window.measure(now) else { return };
        let peak = self.window.peak;
        let is_queueing = self.queueing(measured) > self.baseline.target();
        let slow = self.backlog_full || is_queueing;
        // Slow, and not because there is less to do.
        if slow && u64::from(peak) * 10 >= u64::from(self.free.peak_before) * 9 {
            self.free.hot = (self.free.hot + 1).min(HOT_WINDOWS);
            self.free.windows.rotate_left(1);
            self.free.windows[HOT_WINDOWS as usize - 1] = (self.window.completed, now.since(self.window.began));
        } else {
            self.free.hot = 0;
        }
        self.free.peak_before = peak;
        self.baseline.learn(if is_queueing { None } else { Some(measured) }, now);
        self.suspect(peak, now);
        if self.phase == Phase::Free {
            self.backlog_full = false;
            self.window.restart(now, self.inflight);
        }
    }

    /// Three hot windows, a crowd, and not told off lately: try a limit.
    fn suspect(&mut self, peak: u32, now: Time) {
        if self.free.hot < HOT_WINDOWS || peak <= FEW || now < self.hold_until {
            return;
        }
        let (completed, span) = match self.backlog_full {
            // Whatever windows there were, this one is the reason.
            true => (self.window.completed, now.since(self.window.began)),
            // Not the first: while a slower answer is on its way nothing completes, and a reference that low would make
            // every slow dependency look like overload (refused of one that became ten times slower, worst of ten runs:
            // 32 % with it, 11 % without).
            false => self.free.windows[1..].iter().fold((0, Duration::ZERO), |sum, one| (sum.0 + one.0, sum.1 + one.1)),
        };
        self.reference = completed as f64 / span.as_secs_f64().max(0.1);
        self.phase = Phase::Test;
        self.last_hit = now;
        self.cut_to(u64::from(self.inflight) * 7 / 10, now);
    }

    fn look_test(&mut self, now: Time) {
        let full = self.window.samples >= TEST_SAMPLES
            || (self.window.samples >= MIN_SAMPLES && now.since(self.window.began) >= TEST_TIME);
        let idle = now.since(self.last_hit) >= TEST_IDLE;
        if !idle && (self.settling || !full) {
            return;
        }
        let refused = std::mem::take(&mut self.backlog_full);
        let measured = self.window.measure(now);
        // Where nothing could be measured the suspicion stands.
        let queueing = measured.map_or(u64::MAX, |measured| self.queueing(measured));
        if idle {
            let hot = if refused || queueing > self.baseline.target() { HOT_WINDOWS - 1 } else { 0 };
            return self.set_free(hot, now);
        }
        let rate = self.window.rate(now);
        if rate < 0.8 * self.reference && !refused {
            return self.is_unsaturated(now);
        }
        self.phase = Phase::Engaged;
        self.reference = self.reference.max(rate);
        (self.hold_off, self.unsaturated, self.weak) = (HOLD_OFF, 0, 0);
        if refused || queueing > self.baseline.target() / 2 {
            self.cut(rate, now);
        } else {
            self.measure_anew(now);
        }
    }

    fn look_engaged(&mut self, now: Time) {
        if now.since(self.last_hit) >= ENGAGED_IDLE {
            return self.set_free(0, now);
        }
        if self.settling || !self.window_is_full(now) {
            return;
        }
        let Some(measured) = self.window.measure(now) else { return };
        let (refused, limit_hit) = (std::mem::take(&mut self.backlog_full), self.window.limit_hit);
        let (queueing, target) = (self.queueing(measured), self.baseline.target());
        let weak = limit_hit && !refused && measured.rate < 0.7 * self.reference;
        self.weak = if weak { self.weak + 1 } else { 0 };
        if self.weak >= WEAK_WINDOWS {
            return self.is_unsaturated(now);
        }
        if refused || queueing > target {
            return self.cut(measured.rate, now);
        }
        if queueing < target / 2 && limit_hit {
            self.limit = self.limit.saturating_add((self.limit / 10).max(1));
        }
        self.window.restart(now, self.inflight);
    }

    /// As many as the application finishes in the time that a request may take, but half at least and nine tenths at most.
    fn cut(&mut self, rate: f64, now: Time) {
        let seconds = (self.baseline.mean() + self.baseline.target()) as f64 / 1e9;
        let limit = f64::from(self.limit);
        let least = if self.works_in_vain() { 0.0 } else { limit * 0.5 };
        self.cut_to((rate * seconds).clamp(least, limit * 0.9) as u64, now);
    }

    fn cut_to(&mut self, limit: u64, now: Time) {
        self.limit = u32::try_from(limit).unwrap_or(u32::MAX).max(self.config.min);
        self.settling = self.inflight > self.limit;
        self.measure_anew(now);
    }

    fn measure_anew(&mut self, now: Time) {
        self.window.restart(now, self.inflight);
        self.sample_from = now;
    }

    /// Less in flight meant less done: it was slow, not full. Leave it alone for a while, longer each time; the second
    /// time in a row, what it does now is the new normal, but not if callers do not wait for it.
    fn is_unsaturated(&mut self, now: Time) {
        self.hold_until = now + self.hold_off;
        self.hold_off = (self.hold_off * 2).min(MAX_HOLD_OFF);
        self.unsaturated = self.unsaturated.saturating_add(1);
        if self.unsaturated >= 2 && !self.works_in_vain() {
            self.baseline.forget();
        }
        self.set_free(0, now);
    }

    fn set_free(&mut self, hot: u8, now: Time) {
        self.phase = Phase::Free;
        (self.settling, self.backlog_full, self.weak) = (false, false, 0);
        self.free = Free { hot, ..Free::default() };
        self.measure_anew(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn dispatch(guard: &mut QueueGuard, n: usize, now: Time) -> Vec<Ticket> {
        let one = |_| match guard.ask(None, now) {
            Admission::Dispatch(ticket) => ticket,
            other => panic!("{other:?}"),
        };
        (0..n).map(one).collect()
    }

    /// Twenty in flight, of which one found the backlog full: a limit of 13 is on trial, and 19 are in flight.
    fn tested() -> (QueueGuard, Vec<Ticket>) {
        let mut guard = QueueGuard::new(at(0));
        let mut tickets = dispatch(&mut guard, 20, at(0));
        guard.connect_timed_out(tickets.remove(0), at(250));
        (guard, tickets)
    }

    #[test]
    fn a_full_backlog_starts_a_test_at_once_but_not_for_a_few() {
        let (guard, tickets) = tested();
        assert_eq!((guard.phase(), guard.limit(), guard.inflight(), tickets.len()), (Phase::Test, Some(13), 19, 19));
        let mut few = QueueGuard::new(at(0));
        let mut tickets = dispatch(&mut few, 8, at(0));
        few.connect_timed_out(tickets.remove(0), at(250));
        assert_eq!((few.phase(), few.limit()), (Phase::Free, None));
    }

    #[test]
    fn other_settings_keep_what_is_known_and_who_is_there() {
        let (mut guard, tickets) = tested();
        guard.reconfigure(GuardConfig { min: 15, queue: Duration::from_millis(7), ..GuardConfig::default() });
        assert_eq!((guard.phase(), guard.limit(), guard.inflight(), tickets.len()), (Phase::Test, Some(15), 19, 19));
        let Admission::Wait { at_most } = guard.ask(None, at(300)) else { panic!("over the limit") };
        assert_eq!(at_most, Duration::from_millis(7));
    }

    #[test]
    fn the_queue_is_bounded_in_length_and_in_time() {
        let (mut guard, _tickets) = tested();
        let ms = Duration::from_millis;
        let mut ask = |left: Option<Duration>| match guard.ask(left, at(300)) {
            Admission::Wait { at_most } => Some(at_most),
            Admission::Shed => None,
            Admission::Dispatch(_) => panic!("over the limit"),
        };
        assert_eq!(ask(None), Some(ms(50)));
        assert_eq!(ask(Some(ms(10))), Some(ms(10)));
        assert_eq!(ask(Some(ms(900))), Some(ms(50)));
        assert_eq!(ask(Some(Duration::ZERO)), None, "its deadline has passed");
        assert_eq!((0..20).filter_map(|_| ask(None)).count(), 13, "sixteen in all");
    }

    #[test]
    fn who_waits_gets_the_next_slot_below_the_limit_and_goes_before_who_comes_later() {
        let (mut guard, mut tickets) = tested();
        assert!(matches!(guard.ask(None, at(300)), Admission::Wait { .. }));
        for _ in 0..6 {
            assert!(guard.wake(at(301)).is_none());
            guard.answered(tickets.remove(0), at(301));
        }
        assert_eq!(guard.inflight(), 13);
        assert!(guard.wake(at(302)).is_none());
        guard.closed(tickets.remove(0), at(302));
        assert!(matches!(guard.ask(None, at(303)), Admission::Wait { .. }), "one waits already");
        assert!(guard.wake(at(303)).is_some());
        assert_eq!((guard.inflight(), guard.queued()), (13, 1));
    }

    #[test]
    fn a_limit_that_is_in_nobodys_way_goes_after_a_second_and_lets_all_who_wait_in() {
        let (mut guard, _tickets) = tested();
        assert!(matches!(guard.ask(None, at(300)), Admission::Wait { .. }));
        assert!(matches!(guard.ask(None, at(1299)), Admission::Wait { .. }));
        assert!(matches!(guard.ask(None, at(2299)), Admission::Dispatch(_)));
        assert_eq!((guard.phase(), guard.queued()), (Phase::Free, 2));
        assert!(guard.wake(at(2299)).is_some() && guard.wake(at(2299)).is_some() && guard.wake(at(2299)).is_none());
    }

    #[test]
    fn a_test_that_costs_no_throughput_engages_and_nothing_is_measured_before_the_limit_holds() {
        let (mut guard, mut tickets) = tested();
        // Six answers bring it down to the limit.
        for ms in 300..306 {
            guard.answered(tickets.remove(0), at(ms));
        }
        assert_eq!((guard.window.completed, guard.window.samples), (0, 0));
        let mut now = 1000;
        while guard.phase() == Phase::Test && now < 10_000 {
            now += 10;
            guard.answered(tickets.remove(0), at(now));
            // Three want in for each that leaves.
            for _ in 0..3 {
                match guard.ask(None, at(now)) {
                    Admission::Dispatch(ticket) => tickets.push(ticket),
                    Admission::Wait { .. } | Admission::Shed => {}
                }
            }
            tickets.extend(std::iter::from_fn(|| guard.wake(at(now))));
        }
        assert_eq!(guard.phase(), Phase::Engaged);
        assert!(guard.limit().is_some_and(|limit| (6..12).contains(&limit)), "cut: {:?}", guard.limit());
    }
}
