//! A circuit on its own, against a sequential model: a plain list of results, and the rules in their simplest words.

use std::sync::Arc;
use std::time::Duration;

use fusewire_resilience::{
    AfterWait, BreakerConfig, Call, Circuit, Class, Evidence, Forced, HalfOpen, Mode, Outcome, Override, Reason, Round,
    SlowCalls, State, Time,
};
use proptest::prelude::*;

use crate::world::{at, ms, refused};

const SLOW_MS: u64 = 100;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Is {
    Closed,
    Open,
    HalfOpen,
    HeldOpen,
    HeldClosed,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    second: u64,
    bad: bool,
    slow: bool,
}

/// What the circuit should be.
#[derive(Debug)]
struct Model {
    config: BreakerConfig,
    is: Is,
    generation: u32,
    k: u32,
    until: u64,
    round_until: u64,
    hold_until: u64,
    closed_at: u64,
    last_open: u64,
    log: Vec<Ended>,
    run: u32,
    round: Vec<Ended>,
    shows_round: bool,
    outstanding: u8,
    refused: u64,
    stale: u64,
}

impl Model {
    fn new(config: BreakerConfig) -> Model {
        Model {
            config,
            is: Is::Closed,
            generation: 0,
            k: 0,
            until: 0,
            round_until: 0,
            hold_until: 0,
            closed_at: 0,
            last_open: 0,
            log: vec![],
            run: 0,
            round: vec![],
            shows_round: false,
            outstanding: 0,
            refused: 0,
            stale: 0,
        }
    }

    fn rule(&self) -> Round {
        let HalfOpen::Rate(round) = self.config.half_open else { unreachable!("rounds by rate") };
        round
    }

    /// `(generation, probe)` of what is granted.
    fn acquire(&mut self, now: u64) -> Option<(u32, bool)> {
        self.end_overdue(now);
        let rule = self.rule();
        match self.is {
            Is::Closed | Is::HeldClosed => return Some((self.generation, false)),
            Is::Open if now > self.until => {
                self.enter(Is::HalfOpen, self.k);
                (self.round, self.shows_round, self.log) = (vec![], true, vec![]);
                self.round_until = rule.max_wait.map_or(u64::MAX, |wait| now + millis(wait));
            }
            Is::HalfOpen
                if self.outstanding < rule.concurrency
                    && usize::from(self.outstanding) + self.round.len() < usize::from(rule.permits) => {}
            _ => {
                self.refused += 1;
                return None;
            }
        }
        self.outstanding += 1;
        self.until = now + millis(self.config.probe_timeout);
        Some((self.generation, true))
    }

    fn end_overdue(&mut self, now: u64) {
        let lost = self.outstanding > 0 && now > self.until;
        if self.is != Is::HalfOpen || !(lost || now >= self.round_until) {
            return;
        }
        if now >= self.round_until && self.rule().then == AfterWait::Closed {
            self.close(now, self.k);
        } else {
            self.open(now, self.k + 1);
        }
    }

    fn settle(&mut self, (generation, probe): (u32, bool), outcome: Outcome, elapsed: u64, now: u64) {
        let current = generation == self.generation;
        if outcome.class == Class::Ignored {
            self.outstanding -= u8::from(current && probe);
            return;
        }
        if !current {
            self.stale += 1;
            return;
        }
        let bad = outcome.class != Class::Ok;
        let result = Ended { second: now / 1000, bad, slow: elapsed > SLOW_MS };
        if probe {
            self.outstanding -= 1;
            self.round.push(result);
            let minimum = usize::from(self.config.min_calls).min(self.rule().permits.into());
            if self.round.len() >= minimum {
                match self.over(&self.round) {
                    true => self.open(now, self.k + 1),
                    false => self.close(now, self.k),
                }
            }
            return;
        }
        self.log.push(result);
        match outcome.class {
            Class::Hard => self.run += 1,
            Class::Ok => self.run = 0,
            Class::Soft | Class::Ignored => {}
        }
        let live = self.live(now);
        let consecutive = u32::from(self.config.consecutive);
        let ran = outcome.class == Class::Hard && consecutive > 0 && self.run >= consecutive;
        if self.is == Is::Closed && (ran || (live.len() >= self.minimum() && self.over(&live))) {
            let stable = millis(self.config.stable);
            let settled = stable == 0 || now - self.closed_at >= stable.max(2 * self.last_open);
            self.open(now, if self.k == 0 || settled { 1 } else { self.k + 1 });
        }
    }

    fn over(&self, results: &[Ended]) -> bool {
        let share = |count: usize, rate: u8| count * 100 >= usize::from(rate) * results.len();
        let slow = self.config.slow.map_or(100, |slow| slow.rate);
        share(results.iter().filter(|result| result.bad).count(), self.config.failure_rate)
            || share(results.iter().filter(|result| result.slow).count(), slow)
    }

    fn minimum(&self) -> usize {
        let calls = usize::from(self.config.window_calls);
        let minimum = usize::from(self.config.min_calls);
        if calls == 0 { minimum } else { minimum.min(calls) }
    }

    fn live(&self, now: u64) -> Vec<Ended> {
        let calls = usize::from(self.config.window_calls);
        if calls > 0 {
            return self.log[self.log.len().saturating_sub(calls)..].to_vec();
        }
        let seconds = self.config.window.as_secs();
        self.log.iter().filter(|result| result.second + seconds > now / 1000).copied().collect()
    }

    fn enter(&mut self, is: Is, k: u32) {
        (self.is, self.k, self.outstanding) = (is, k, 0);
        self.generation += 1;
    }

    fn open(&mut self, now: u64, k: u32) {
        self.enter(Is::Open, k);
        let mut span = millis(self.config.open_base);
        for _ in 1..k {
            span = (span * u64::from(self.config.open_factor) / 1000).min(millis(self.config.open_max));
        }
        (self.until, self.last_open) = (now + span, span);
    }

    fn close(&mut self, now: u64, k: u32) {
        self.enter(Is::Closed, k);
        self.begin(now);
    }

    fn begin(&mut self, now: u64) {
        (self.log, self.round, self.shows_round, self.run, self.closed_at) = (vec![], vec![], false, 0, now);
    }

    fn force(&mut self, to: Option<(Forced, u64)>, now: u64) {
        match to {
            None if matches!(self.is, Is::HeldOpen | Is::HeldClosed) => self.close(now, 0),
            None => {}
            Some((forced, until)) => {
                let closed_at = self.closed_at;
                self.enter(if forced == Forced::Open { Is::HeldOpen } else { Is::HeldClosed }, self.k);
                self.begin(now);
                if forced == Forced::Open {
                    self.closed_at = closed_at;
                }
                self.hold_until = until;
            }
        }
    }

    fn sweep(&mut self, now: u64) {
        if matches!(self.is, Is::HeldOpen | Is::HeldClosed) && now >= self.hold_until {
            self.force(None, now);
        }
        self.end_overdue(now);
    }

    fn check(&self, circuit: &Circuit, now: u64) {
        let view = circuit.inspect(at(now));
        let state = match self.is {
            Is::Closed | Is::HeldClosed => State::Closed,
            Is::Open | Is::HeldOpen => State::Open,
            Is::HalfOpen => State::HalfOpen,
        };
        let k = self.k.min(63) as u8;
        assert_eq!((view.state, view.generation, view.k), (state, self.generation, k), "{self:?}");
        assert_eq!(view.probes_in_flight, self.outstanding, "{self:?}");
        // (b) No more probes than allowed.
        assert!(view.probes_in_flight <= self.rule().concurrency);
        // (a) Totals equal brute force.
        let shown = if self.shows_round { self.round.clone() } else { self.live(now) };
        let count = |pick: fn(&Ended) -> bool| shown.iter().filter(|result| pick(result)).count() as u32;
        let totals = (view.window.total, view.window.hard + view.window.soft, view.window.slow);
        assert_eq!(totals, (shown.len() as u32, count(|result| result.bad), count(|result| result.slow)), "{self:?}");
        // (d) Stale results change nothing but their own count.
        assert_eq!((view.refused, view.stale_results), (self.refused, self.stale));
        if self.is == Is::Open {
            // (e) k stays in its six bits, and the opening is as long as it should be.
            assert_eq!(view.open_remaining, Some(ms(self.until.saturating_sub(now))));
        }
    }
}

fn millis(span: Duration) -> u64 {
    span.as_millis() as u64
}

#[derive(Clone, Debug)]
enum Op {
    Advance(u64),
    Acquire,
    Settle { which: usize, kind: u8, elapsed: u64 },
    Cancel(usize),
    Force(Option<(bool, u64)>),
    Sweep,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0u64..700).prop_map(Op::Advance),
        1 => (0u64..40_000).prop_map(Op::Advance),
        10 => Just(Op::Acquire),
        9 => (any::<usize>(), 0u8..6, prop::sample::select(vec![1, 100, 101, 500]))
            .prop_map(|(which, kind, elapsed)| Op::Settle { which, kind, elapsed }),
        1 => any::<usize>().prop_map(Op::Cancel),
        1 => prop::option::weighted(0.7, (any::<bool>(), 0u64..30_000)).prop_map(Op::Force),
        1 => Just(Op::Sweep),
    ]
}

fn config() -> impl Strategy<Value = BreakerConfig> {
    let window = prop_oneof![(1u16..30).prop_map(|calls| (calls, 2)), (2u8..=20).prop_map(|buckets| (0, buckets))];
    let rates = (1u16..15, 1u8..=100, 1u8..=100, 0u8..6);
    let round = (1u8..8, 1u8..8, prop::option::of(100u64..20_000), any::<bool>());
    let spans = (100u64..5000, 1000u16..4000, 0u64..60_000, prop::option::of(1u64..60_000), 10u64..20_000);
    (window, rates, round, spans).prop_map(|((window_calls, buckets), rates, round, spans)| {
        let (min_calls, failure_rate, slow_rate, consecutive) = rates;
        let (permits, concurrency, max_wait, closes) = round;
        let (base, open_factor, over_base, stable, probe_timeout) = spans;
        let config = BreakerConfig {
            window: Duration::from_secs(buckets.into()),
            buckets,
            window_calls,
            consecutive,
            min_calls,
            failure_rate,
            open_base: ms(base),
            open_factor,
            open_max: ms(base + over_base),
            stable: ms(stable.unwrap_or(0)),
            jitter_percent: 0,
            probe_timeout: ms(probe_timeout),
            half_open: HalfOpen::Rate(Round {
                permits,
                concurrency: concurrency.min(permits),
                max_wait: max_wait.map(ms),
                then: if closes { AfterWait::Closed } else { AfterWait::Open },
            }),
            slow: Some(SlowCalls { over: ms(SLOW_MS), rate: slow_rate }),
            ..BreakerConfig::default()
        };
        assert_eq!(config.validate(), Ok(()));
        config
    })
}

fn outcome(kind: u8) -> Outcome {
    match kind {
        0 | 1 => Outcome::OK,
        2 | 3 => refused(),
        4 => Outcome::new(Class::Soft, Evidence::Timeout),
        _ => Outcome::IGNORED,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Invariants (a) to (h): after every step the circuit is what the model says.
    #[test]
    fn a_circuit_is_its_sequential_model(config in config(), ops in prop::collection::vec(op(), 1..400)) {
        let circuit = Circuit::new("one", 7, config.clone());
        let mut model = Model::new(config);
        let mut now = 0;
        let mut held: Vec<(Call, (u32, bool))> = Vec::new();
        let mut path = (State::Closed, 0);
        let mut seq = 0;
        for op in ops {
            match op {
                Op::Advance(span) => now += span,
                Op::Acquire => {
                    let expected = model.acquire(now);
                    let got = circuit.acquire(at(now));
                    // (c) Open admits nothing before its time, and says how long that is.
                    prop_assert_eq!(got.is_ok(), expected.is_some());
                    if let (Ok(call), Some(permit)) = (got, expected) {
                        prop_assert_eq!(call.is_probe(), permit.1);
                        held.push((call, permit));
                    }
                }
                Op::Settle { which, kind, elapsed } if !held.is_empty() => {
                    let (call, permit) = held.swap_remove(which % held.len());
                    model.settle(permit, outcome(kind), elapsed, now);
                    call.settle(outcome(kind), ms(elapsed), at(now));
                }
                Op::Cancel(which) if !held.is_empty() => {
                    let (call, permit) = held.swap_remove(which % held.len());
                    model.settle(permit, Outcome::IGNORED, 0, now);
                    drop(call);
                }
                Op::Force(to) => {
                    let to = to.map(|(open, ttl)| (if open { Forced::Open } else { Forced::Closed }, now + ttl));
                    model.force(to, now);
                    let hold = to.map(|(forced, until)| Override {
                        forced,
                        owner: "ann".into(),
                        reason: "drill".into(),
                        until: Some(at(until)),
                    });
                    circuit.set_override(hold, at(now));
                }
                Op::Sweep => {
                    model.sweep(now);
                    circuit.sweep(at(now));
                }
                Op::Settle { .. } | Op::Cancel(_) => {}
            }
            for event in circuit.drain_transitions() {
                // (h) The events are the path of the states, one generation and one number at a time.
                prop_assert_eq!((event.from, event.generation, event.seq), (path.0, path.1 + 1, seq));
                path = (event.to, event.generation);
                seq += 1;
            }
            prop_assert_eq!(path, (circuit.state(), model.generation));
            model.check(&circuit, now);
        }
        // (f) Every permit given back leaves nothing outstanding.
        held.clear();
        prop_assert_eq!(circuit.inspect(at(now)).probes_in_flight, 0);
    }
}

fn by_calls(window_calls: u16, min_calls: u16) -> BreakerConfig {
    BreakerConfig { window_calls, min_calls, consecutive: 0, jitter_percent: 0, ..BreakerConfig::default() }
}

fn call(circuit: &Arc<Circuit>, outcome: Outcome, now: u64) -> Option<fusewire_resilience::Transition> {
    circuit.acquire(at(now)).expect("admitted").settle(outcome, ms(1), at(now))
}

#[test]
fn a_window_of_calls_judges_what_gets_one_call_an_hour() {
    let circuit = Circuit::new("rare", 1, by_calls(10, 10));
    let hour = 3_600_000;
    for n in 0..9 {
        assert_eq!(call(&circuit, if n % 2 == 0 { refused() } else { Outcome::OK }, n * hour), None);
    }
    let trip = call(&circuit, Outcome::OK, 9 * hour).expect("the tenth call, a success");
    assert_eq!((trip.reason, trip.total, trip.hard), (Reason::Rate, 10, 5));
}

#[test]
fn an_event_carries_the_evidence_that_caused_it() {
    let config = BreakerConfig { slow: Some(SlowCalls { over: ms(100), rate: 50 }), ..by_calls(4, 4) };
    let circuit = Circuit::new("evident", 1, config);
    for _ in 0..3 {
        circuit.acquire(at(5)).expect("closed").settle(Outcome::OK, ms(101), at(5));
    }
    let trip = call(&circuit, refused(), 6).expect("opens");
    assert_eq!((trip.seq, trip.at, trip.node, trip.from, trip.to), (0, at(6), 1, State::Closed, State::Open));
    assert_eq!((trip.reason, trip.generation, trip.k, trip.open_for), (Reason::Slow, 1, 1, ms(5000)));
    assert_eq!((trip.total, trip.hard, trip.soft, trip.slow), (4, 1, 0, 3));
    assert_eq!(
        (trip.need, trip.observed, trip.actor),
        (3, false, None),
        "three quarters were slow: three clean probes"
    );
}

#[test]
fn a_retry_hint_of_the_answer_that_opens_lengthens_the_opening_up_to_the_maximum() {
    for (hint, open_for) in [(3, 5), (30, 30), (300, 60)] {
        let circuit = Circuit::new("hinted", 1, by_calls(1, 1));
        let trip = call(&circuit, refused().with_retry_hint(Duration::from_secs(hint)), 0).expect("opens");
        assert_eq!(trip.open_for, Duration::from_secs(open_for));
        assert_eq!(circuit.acquire(at(1)).err().map(|refused| refused.retry_after), Some(ms(open_for * 1000 - 1)));
    }
}

#[test]
fn observe_runs_the_machine_and_disabled_records_nothing() {
    let observed = Circuit::new("observed", 1, BreakerConfig { mode: Mode::Observe, ..by_calls(1, 1) });
    assert!(call(&observed, refused(), 0).is_some_and(|trip| trip.observed));
    for _ in 0..3 {
        call(&observed, Outcome::OK, 1);
    }
    let view = observed.inspect(at(1));
    assert_eq!((view.state, view.would_reject, view.refused), (State::Open, 3, 0));
    let hold = Override { forced: Forced::Open, owner: "ann".into(), reason: "drill".into(), until: None };
    observed.set_override(Some(hold), at(2));
    assert_eq!(observed.acquire(at(2)).err().map(|refused| refused.retry_after), Some(Duration::ZERO));

    let disabled = Circuit::new("disabled", 1, BreakerConfig { mode: Mode::Disabled, ..by_calls(1, 1) });
    assert_eq!(call(&disabled, refused(), 0), None);
    assert_eq!(disabled.inspect(Time(0)).window.total, 0);
}
