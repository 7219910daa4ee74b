//! H1 to H7 and G1 to G9: one application behind its queue guard, what the guard must never refuse and what it must survive.
//!
//! H rows count refused requests, the worst of eight seeds, and any is too many. G rows are the guard under load, and the
//! retry budget without it.

use crate::application::{Callers, Order, PATIENT, Pays, Plan, Report, Sim};
use crate::case::{Band, Case, Measured};
use crate::random::Random;

const NAIVE: Callers = Callers { patience: 0.5, attempts: 3, pays: Pays::Nothing };
const ONCE: Callers = Callers { patience: 0.5, attempts: 1, pays: Pays::Nothing };

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = healthy();
    cases.extend(loaded());
    cases
}

/// What was refused, or did not get done.
fn harmed(name: &str, asks: &'static str, plan: impl Fn(u64) -> Report + Send + Sync + 'static) -> Case {
    Case::new(name, asks, Band::AtMost(0.0), move || {
        let of = |seed| {
            let report = plan(seed);
            (report.refused + report.requests - report.good) as f64
        };
        Measured::of((1..=8).map(of).fold(0.0, f64::max))
    })
}

fn healthy() -> Vec<Case> {
    vec![
        harmed("H1", "512 requests at once at the start: refused", |seed| {
            let work = |_, random: &mut Random| random.erlang4(0.02);
            Sim::run(Plan { at_once: 512, rate: &|_| 200.0, work: &work, seed, ..Plan::default() })
        }),
        harmed("H1b", "the same where they take the application five seconds", |seed| {
            let rate = |second: f64| if second < 6.0 { 0.0 } else { 10.0 };
            let work = |_, random: &mut Random| random.erlang4(0.1);
            Sim::run(Plan { at_once: 512, rate: &rate, work: &work, seed, ..Plan::default() })
        }),
        harmed("H2", "1 % reports of 3 s among requests of 2 ms", |seed| {
            let work = |_, random: &mut Random| if random.unit() < 0.01 { 3.0 } else { 0.002 };
            Sim::run(Plan { workers: 40, rate: &|_| 500.0, work: &work, seed, ..Plan::default() })
        }),
        harmed("H3", "100 long polls of 30 s", |seed| {
            let work = |_, random: &mut Random| random.erlang4(0.005);
            Sim::run(Plan { parked: (100, 30.0), rate: &|_| 100.0, work: &work, seed, ..Plan::default() })
        }),
        Case::new("H3b", "the same, where every second caller has left before its answer", Band::AtMost(0.0), || {
            let work = |_, random: &mut Random| random.erlang4(0.05);
            let callers = Callers { patience: 0.045, attempts: 1, pays: Pays::Nothing };
            let of = |seed| {
                let plan =
                    Plan { parked: (300, 30.0), rate: &|_| 100.0, work: &work, callers, seed, ..Plan::default() };
                Sim::run(plan).refused as f64
            };
            Measured::of((1..=8).map(of).fold(0.0, f64::max))
        }),
        harmed("H4", "a ramp to 80 % of 20 workers", |seed| ramp(20, 160.0, seed)),
        harmed("H4b", "a ramp to 80 % of 50 workers", |seed| ramp(50, 400.0, seed)),
        harmed("H5", "pauses of 200 ms every 5 s, half loaded", |seed| pauses(250.0, seed)),
        harmed("H5b", "the same at 70 %", |seed| pauses(350.0, seed)),
        harmed("H6", "10,000 requests/s of 50 ms", |seed| {
            let work = |_, random: &mut Random| random.erlang4(0.05);
            Sim::run(Plan { workers: 1000, rate: &|_| 10_000.0, work: &work, seconds: 3.0, seed, ..Plan::default() })
        }),
        harmed("H7", "one request a second for ten minutes", |seed| {
            let work = |_, random: &mut Random| random.erlang4(0.1);
            Sim::run(Plan { rate: &|_| 1.0, work: &work, seconds: 600.0, seed, ..Plan::default() })
        }),
    ]
}

fn ramp(workers: usize, load: f64, seed: u64) -> Report {
    let rate = |second: f64| (second * load / 40.0).min(load) + 1.0;
    let work = |_, random: &mut Random| random.erlang4(0.1);
    Sim::run(Plan { workers, rate: &rate, work: &work, seconds: 120.0, seed, ..Plan::default() })
}

fn pauses(load: f64, seed: u64) -> Report {
    let work = |_, random: &mut Random| random.erlang4(0.02);
    Sim::run(Plan { rate: &|_| load, work: &work, pause: Some((5.0, 0.2)), seed, ..Plan::default() })
}

#[derive(Clone, Copy, PartialEq)]
enum Guard {
    On,
    Off,
}

/// 85 % load, capacity halved for five seconds; what succeeds from twenty seconds later on.
fn halved(callers: Callers, guard: Guard, backlog: usize, seed: u64) -> f64 {
    let work = |second: f64, random: &mut Random| {
        let halved = (30.0..35.0).contains(&second);
        random.erlang4(if halved { 0.2 } else { 0.1 })
    };
    Sim::run(Plan {
        rate: &|_| 85.0,
        work: &work,
        callers,
        guarded: guard == Guard::On,
        backlog,
        seconds: 120.0,
        count_from: 50.0,
        seed,
        ..Plan::default()
    })
    .goodput()
}

/// 85 % load of callers that ask four times, the capacity halved for three seconds; what succeeds from five seconds later on.
fn impatient(guard: Guard, order: Order, seed: u64) -> f64 {
    let work = |second: f64, random: &mut Random| {
        let halved = (10.0..13.0).contains(&second);
        random.erlang4(if halved { 0.1 } else { 0.05 })
    };
    let callers = Callers { attempts: 4, ..NAIVE };
    let guarded = guard == Guard::On;
    let rate = |_| 170.0;
    let timed = Plan { seconds: 40.0, count_from: 18.0, ..Plan::default() };
    Sim::run(Plan { rate: &rate, work: &work, callers, guarded, order, seed, ..timed }).goodput()
}

fn least(seeds: u64, of: impl Fn(u64) -> f64) -> f64 {
    (1..=seeds).map(of).fold(f64::INFINITY, f64::min)
}

fn paid(pays: Pays) -> f64 {
    let callers = Callers { pays, ..NAIVE };
    (1..=10).map(|seed| halved(callers, Guard::Off, usize::MAX, seed)).sum::<f64>() / 10.0
}

fn doubled(guard: Guard) -> f64 {
    let work = |_, random: &mut Random| random.erlang4(0.1);
    let rate = |second: f64| if second < 20.0 { 50.0 } else { 200.0 };
    let guarded = guard == Guard::On;
    let plan =
        Plan { rate: &rate, work: &work, callers: ONCE, guarded, seconds: 90.0, count_from: 40.0, ..Plan::default() };
    Sim::run(plan).goodput()
}

fn loaded() -> Vec<Case> {
    let mut cases = vec![
        Case::new("G1", "half the capacity for 5 s, 3 naive tries: goodput %", Band::AtLeast(98.0), || {
            let guarded = least(10, |seed| halved(NAIVE, Guard::On, usize::MAX, seed));
            Measured::of(guarded).beside(halved(NAIVE, Guard::Off, usize::MAX, 1))
        }),
        Case::new("G1b", "no guard, a budget paid by successes; beside it by requests", Band::AtLeast(94.0), || {
            Measured::of(paid(Pays::BySuccess)).beside(paid(Pays::ByRequest))
        }),
        Case::new("G2", "twice the load: goodput % of a possible 50", Band::AtLeast(44.0), || {
            Measured::of(doubled(Guard::On)).beside(doubled(Guard::Off))
        }),
        Case::new("G4", "overload ends at 40 s: the last refusal, second", Band::AtMost(43.0), || {
            let work = |_, random: &mut Random| random.erlang4(0.1);
            let rate = |second: f64| if (20.0..40.0).contains(&second) { 200.0 } else { 40.0 };
            let report = Sim::run(Plan { rate: &rate, work: &work, callers: ONCE, ..Plan::default() });
            Measured::of(if report.engaged { report.last_refused } else { f64::INFINITY })
        }),
        Case::new("G5", "6 times the workers at 40 s: the last refusal, second", Band::AtMost(60.0), || {
            let work = |_, random: &mut Random| random.erlang4(0.1);
            let rate = |second: f64| if second < 20.0 { 50.0 } else { 300.0 };
            let later = Some((40.0, 60));
            let plan = Plan { later, rate: &rate, work: &work, callers: ONCE, seconds: 90.0, ..Plan::default() };
            Measured::of(Sim::run(plan).last_refused)
        }),
        Case::new("G6", "2 requests/s become 20 times slower: refused", Band::AtMost(0.0), || {
            let work = |second: f64, random: &mut Random| random.erlang4(if second < 60.0 { 0.05 } else { 1.0 });
            let plan = Plan {
                workers: 1000,
                rate: &|_| 2.0,
                work: &work,
                seconds: 300.0,
                callers: PATIENT,
                ..Plan::default()
            };
            Measured::of(Sim::run(plan).refused as f64)
        }),
        Case::new("G7", "a dependency 10 times slower: refused % in 120 s", Band::AtMost(13.0), || {
            let work = |second: f64, random: &mut Random| random.erlang4(if second < 20.0 { 0.05 } else { 0.5 });
            let of = |seed| {
                let report = Sim::run(Plan {
                    workers: 10_000,
                    rate: &|_| 500.0,
                    work: &work,
                    seconds: 120.0,
                    seed,
                    ..Plan::default()
                });
                report.refused as f64 * 100.0 / report.requests as f64
            };
            Measured::of((1..=10).map(of).fold(0.0, f64::max))
        }),
        Case::new("G8", "10 workers at 81 %: refused per 1,000", Band::AtMost(1.0), || {
            let work = |_, random: &mut Random| random.erlang4(0.1);
            let runs = (1..=60)
                .map(|seed| Sim::run(Plan { rate: &|_| 81.0, work: &work, seconds: 120.0, seed, ..Plan::default() }));
            let (refused, requests) =
                runs.fold((0, 0), |sum, report| (sum.0 + report.refused, sum.1 + report.requests));
            Measured::of(refused as f64 * 1000.0 / requests as f64)
        }),
    ];
    cases.extend([("newest", Order::Last), ("any", Order::Any), ("barging", Order::Barging)].map(|(word, order)| {
        let asks = "four tries, served in this order: goodput % from 5 s on";
        Case::new(format!("G9 {word}"), asks, Band::AtLeast(90.0), move || {
            let guarded = least(20, |seed| impatient(Guard::On, order, seed));
            Measured::of(guarded).beside(impatient(Guard::Off, order, 1))
        })
    }));
    cases.extend([16, 64, 128].map(|backlog| {
        Case::new(format!("G3/{backlog}"), "as G1, a listen backlog this short", Band::AtLeast(98.0), move || {
            let guarded = least(5, |seed| halved(NAIVE, Guard::On, backlog, seed));
            Measured::of(guarded).beside(halved(NAIVE, Guard::Off, backlog, 1))
        })
    }));
    cases
}
