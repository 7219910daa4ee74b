//! S1 to S22: instances that fail, are slow, hang or flap, and what their callers see of it.
//!
//! The bands are the design's. Failed percent over 120 seconds of fault, the mean of three seeds, unless the row says
//! otherwise; beside it the same without breakers. S12 and S13 are a hundred sidecars that know nothing of each other: their
//! bands in the design are for verdicts of a whole fleet, and these are what each can do alone.

use std::sync::Arc;

use fusewire_resilience::{BreakerConfig, Policy, SetRules};

use crate::case::{Band, Case, Failed, Measured};
use crate::random::{Random, ms};
use crate::service::{Act, Behaviour, Ended, Plan, Repeat, Report, failing, healthy, run};

const SEEDS: [u64; 3] = [1, 2, 3];
const FROM: f64 = 10.0;

type Shared = Arc<Behaviour>;

fn shared(behave: impl Fn(usize, f64, f64, &mut Random) -> Act + Send + Sync + 'static) -> Shared {
    Arc::new(behave)
}

/// The first `bad` fail this share, from second ten on.
fn only(share: f64, bad: usize) -> Shared {
    shared(
        move |id, second, _, random| if id < bad && second >= FROM { failing(share, random) } else { healthy(random) },
    )
}

fn hang(bad: usize) -> Shared {
    shared(move |id, second, _, random| if id < bad && second >= FROM { Act::Hang } else { healthy(random) })
}

fn worst(of: impl Fn(u64) -> f64) -> f64 {
    SEEDS.iter().map(|seed| of(*seed)).fold(0.0, f64::max)
}

/// Failed percent of what comes in the 120 seconds of the fault.
fn over_the_fault(report: &Report, rps: f64) -> f64 {
    report.failed as f64 * 100.0 / (rps * 120.0)
}

/// The usual row: `instances` at `rps`.
fn failed(name: &str, asks: &'static str, most: f64, (instances, rps): (usize, f64), behave: Shared) -> Case {
    Case::new(name, asks, Band::AtMost(most), move || {
        let plan = |seed| Plan { instances, rps, seed, behave: &*behave, ..Plan::default() };
        let first = run(&plan(1));
        let bare = run(&plan(1).bare());
        let rest: f64 = SEEDS[1..].iter().map(|seed| over_the_fault(&run(&plan(*seed)), rps)).sum();
        let value = (over_the_fault(&first, rps) + rest) / SEEDS.len() as f64;
        Measured::of(value).beside(over_the_fault(&bare, rps)).drawn(first.track(Some(&bare)))
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let gray = |id: usize, second: f64, _: f64, random: &mut Random| {
        failing(if id == 0 && second >= FROM { 0.15 } else { 0.005 }, random)
    };
    let slow = |id: usize, second: f64, _: f64, random: &mut Random| {
        if id == 0 && second >= FROM { Act::Answer(ms(2000), 200) } else { healthy(random) }
    };
    let flapping = |id: usize, second: f64, _: f64, random: &mut Random| {
        let bad = id == 0 && second >= FROM && (second - FROM) % 10.0 < 5.0;
        failing(if bad { 1.0 } else { 0.0 }, random)
    };
    let restart = |id: usize, second: f64, _: f64, random: &mut Random| {
        let begin = FROM + 10.0 * id as f64;
        if (begin..begin + 2.0).contains(&second) { Act::Refuse } else { healthy(random) }
    };
    let other = |id: usize, second: f64, _: f64, random: &mut Random| {
        let bad = if id == 0 { (FROM..70.0).contains(&second) } else { second >= 70.0 };
        failing(if bad { 1.0 } else { 0.0 }, random)
    };
    vec![
        failed("S1", "1 of 10 fails half, 1000 rps", 0.06, (10, 1000.0), only(0.5, 1)),
        failed("S1b", "1 of 10 fails half, 50 rps", 0.15, (10, 50.0), only(0.5, 1)).except(
            "picking by latency leaves it so little (1 in 80 requests) that no window fills; `without` has the same",
        ),
        by_requests(),
        failed("S2", "1 of 10 fails always, 1000 rps", 0.02, (10, 1000.0), only(1.0, 1)),
        failed("S3", "1 of 10 is gray: 15 %, its peers 0.5 %", 0.75, (10, 1000.0), shared(gray)),
        failed("S4", "3 of 10 fail half", 0.15, (10, 1000.0), only(0.5, 3)),
        failed("S5", "1 of 2 fails always, 200 rps", 0.06, (2, 200.0), only(1.0, 1)),
        failed("S6", "6 of 10 fail always", 0.10, (10, 1000.0), only(1.0, 6)),
        total_outage(),
        failed("S8", "1 of 10 takes 2 s, the timeout is 1 s", 0.08, (10, 1000.0), shared(slow)),
        failed("S9", "1 of 10 flaps: 5 s bad, 5 s good", 0.03, (10, 1000.0), shared(flapping)),
        failed("S10", "a rolling restart, each of 10 away for 2 s", 0.2, (10, 1000.0), shared(restart)),
        opens_of_the_healthy(),
        alone_in_a_fleet("S12", "100 sidecars at 5 rps each, 1 of 10 fails half", 3.3, 0.5),
        alone_in_a_fleet("S13", "100 sidecars at 5 rps each, 1 of 10 fails always", 0.95, 1.0),
        broken_route("S14", "all fail 60 % on one of two routes: the other route's failures", Half::Other),
        broken_route("S14b", "the same: failures beyond those 30 %, in points", Half::Both),
        looped("S15", "one client repeats a request that fails: what others see", Some(500)),
        looped("S15t", "the same, and the request hangs", None),
        hanging(2),
        hanging(3),
        hanging(4),
        hanging(10),
        quota(),
        failed("S18 8/10", "8 of 10 fail always, by status", 0.10, (10, 1000.0), only(1.0, 8)),
        failed("S18 9/10", "9 of 10 fail always, by status", 0.10, (10, 1000.0), only(1.0, 9)),
        released(),
        healed(),
        failed("S20", "1 of 2 turns bad, then the other instead", 2.0, (2, 200.0), shared(other)),
        failed("S22 2/3", "2 of 3 hang, 200 rps", 1.1, (3, 200.0), hang(2)),
        failed("S22 6/10", "6 of 10 hang, 200 rps", 0.7, (10, 200.0), hang(6)),
        everybody_times_out(),
        posts(),
        short_window(),
    ]
}

/// S1b again with the picking that the design's figure, 0.096, was measured with.
fn by_requests() -> Case {
    Case::new("S1b by requests", "the same, picked by requests in flight alone", Band::AtMost(0.15), || {
        let behave = only(0.5, 1);
        let rules = SetRules { policy: Policy::LeastRequest, ..SetRules::default() };
        let plan = |seed| Plan { rps: 50.0, rules: rules.clone(), seed, behave: &*behave, ..Plan::default() };
        let value = SEEDS.iter().map(|seed| over_the_fault(&run(&plan(*seed)), 50.0)).sum::<f64>() / 3.0;
        Measured::of(value).beside(over_the_fault(&run(&plan(1).bare()), 50.0))
    })
}

fn total_outage() -> Case {
    Case::new("S7", "all refuse for 30 s: failed in the 60 s after", Band::AtMost(5.4), || {
        let behave = |_: usize, second: f64, _: f64, random: &mut Random| {
            if (FROM..40.0).contains(&second) { Act::Refuse } else { healthy(random) }
        };
        let plan = |seed| Plan { seconds: 100, seed, behave: &behave, ..Plan::default() };
        let after = |one: &Ended| one.second >= 40.0;
        let reports = SEEDS.map(|seed| run(&plan(seed)));
        let track = reports[0].track(None);
        Measured::of(reports.iter().map(|report| report.failed_of(after)).sum::<f64>() / 3.0).drawn(track)
    })
}

fn opens_of_the_healthy() -> Case {
    Case::new("S11", "1 % errors everywhere, 140 s: circuits that open", Band::AtMost(0.0), || {
        let behave = |_: usize, _: f64, _: f64, random: &mut Random| failing(0.01, random);
        Measured::of(worst(|seed| run(&Plan { seconds: 140, seed, behave: &behave, ..Plan::default() }).opens() as f64))
    })
}

fn alone_in_a_fleet(name: &str, asks: &'static str, most: f64, share: f64) -> Case {
    Case::new(name, asks, Band::AtMost(most), move || {
        let behave = only(share, 1);
        let all = |bare: fn(&Plan<'_>) -> Report| {
            let one = |seed| over_the_fault(&bare(&Plan { rps: 5.0, seed, behave: &*behave, ..Plan::default() }), 5.0);
            (1..=100).map(one).sum::<f64>() / 100.0
        };
        Measured::of(all(run)).beside(all(|plan| run(&plan.bare())))
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Half {
    Other,
    Both,
}

fn broken_route(name: &str, asks: &'static str, half: Half) -> Case {
    let most = if half == Half::Other { 0.0 } else { 1.0 };
    Case::new(name, asks, Band::AtMost(most), move || {
        let behave = |_: usize, second: f64, route: f64, random: &mut Random| {
            if route < 0.5 && second >= FROM { failing(0.6, random) } else { healthy(random) }
        };
        let of = |seed| {
            let report = run(&Plan { seconds: 70, seed, behave: &behave, ..Plan::default() });
            match half {
                Half::Other => report.failed_of(|one| one.route >= 0.5),
                Half::Both => report.failed_of(|one| one.second >= FROM) - 30.0,
            }
        };
        Measured::of(worst(of))
    })
}

fn looped(name: &str, asks: &'static str, code: Option<u16>) -> Case {
    Case::new(name, asks, Band::AtMost(1.0), move || {
        let behave = move |_: usize, second: f64, route: f64, random: &mut Random| match code {
            _ if route >= 0.3 || second < FROM => healthy(random),
            Some(code) => Act::Answer(ms(1), code),
            None => Act::Hang,
        };
        let of = |seed| {
            let report = run(&Plan { instances: 3, rps: 15.0, seed, behave: &behave, ..Plan::default() });
            report.failed_of(|one| one.route >= 0.3)
        };
        Measured::of(worst(of))
    })
}

fn hanging(instances: usize) -> Case {
    Case::new(format!("S16 1/{instances}"), "1 hangs, 200 rps: timeouts", Band::AtMost(20.0), move || {
        let behave = hang(1);
        let plan = |seed| Plan { instances, rps: 200.0, seed, behave: &*behave, ..Plan::default() };
        let bare = run(&plan(1).bare());
        let track = run(&plan(1)).track(Some(&bare));
        Measured::of(worst(|seed| run(&plan(seed)).timeouts as f64)).beside(bare.timeouts as f64).drawn(track)
    })
}

fn quota() -> Case {
    Case::new("S17", "a tenant, half the traffic, at 80 % 429: requests refused here", Band::AtMost(0.0), || {
        let behave = |_: usize, second: f64, route: f64, random: &mut Random| {
            let refused = route < 0.5 && second >= FROM && random.unit() < 0.8;
            if refused { Act::Answer(ms(1), 429) } else { healthy(random) }
        };
        Measured::of(worst(|seed| run(&Plan { seconds: 70, seed, behave: &behave, ..Plan::default() }).rejected as f64))
    })
}

/// Five instances, one turns bad every two seconds from second ten on, until second sixty.
fn one_after_another(id: usize, second: f64, _: f64, random: &mut Random) -> Act {
    let bad = second >= FROM + id as f64 * 2.0 && second < 60.0;
    failing(if bad { 1.0 } else { 0.0 }, random)
}

fn released() -> Case {
    let asks = "5 turn bad one after another: not ready 3 s after the last";
    Case::new("S19", asks, Band::AtMost(0.0), || {
        let plan =
            |seed| Plan { instances: 5, rps: 500.0, seconds: 22, seed, behave: &one_after_another, ..Plan::default() };
        let open = |report: Report| report.set.inspect(fusewire_resilience::Time(22_000_000_000));
        let of = |seed| open(run(&plan(seed))).iter().filter(|view| !view.ready).count() as f64;
        let whole = run(&Plan { seconds: 75, ..plan(1) });
        Measured::of(worst(of)).drawn(whole.track(None))
    })
}

fn healed() -> Case {
    Case::new("S19b", "the same, healed after 50 s: failures from 2 s later on", Band::AtMost(0.0), || {
        let plan =
            |seed| Plan { instances: 5, rps: 500.0, seconds: 75, seed, behave: &one_after_another, ..Plan::default() };
        let late = |one: &&Ended| one.second > 62.0 && one.failed == Failed::Yes;
        Measured::of(worst(|seed| run(&plan(seed)).requests.iter().filter(late).count() as f64))
    })
}

fn everybody_times_out() -> Case {
    let asks = "60 % time out and 8 % are 503 everywhere: opened or refused";
    Case::new("S23", asks, Band::AtMost(0.0), || {
        let behave = |_: usize, second: f64, _: f64, random: &mut Random| match random.unit() {
            share if second >= FROM && share < 0.6 => Act::Hang,
            share if second >= FROM && share < 0.8 => Act::Answer(ms(1), 503),
            _ => healthy(random),
        };
        let of = |seed| {
            let report = run(&Plan { seconds: 60, seed, behave: &behave, ..Plan::default() });
            (report.opens() as u64 + report.rejected) as f64
        };
        Measured::of(worst(of))
    })
}

fn posts() -> Case {
    let asks = "1 of 4 refuses for 60 s, nothing may be repeated: failures";
    Case::new("S24", asks, Band::AtMost(15.0), || {
        let behave = |id: usize, second: f64, _: f64, random: &mut Random| {
            if id == 0 && (FROM..70.0).contains(&second) { Act::Refuse } else { healthy(random) }
        };
        let plan = |seed| Plan {
            instances: 4,
            rps: 200.0,
            seconds: 160,
            seed,
            repeat: Repeat::MayNot,
            behave: &behave,
            ..Plan::default()
        };
        let of = |seed| {
            let report = run(&plan(seed));
            // One that does not come back is worse than any number.
            if report.all_closed() { report.failed as f64 } else { f64::INFINITY }
        };
        let bare = run(&plan(1).bare());
        Measured::of(worst(of)).beside(bare.failed as f64)
    })
}

fn short_window() -> Case {
    let asks = "1 of 4 fails half, window 1 s at 20 %, 200 rps: failures";
    Case::new("S25", asks, Band::AtMost(12.0), || {
        let config = BreakerConfig { window: ms(1000), failure_rate: 20, min_calls: 10, ..BreakerConfig::default() };
        let behave = only(0.5, 1);
        let plan =
            |seed| Plan { instances: 4, rps: 200.0, config: config.clone(), seed, behave: &*behave, ..Plan::default() };
        let worst = (1..=20).map(|seed| run(&plan(seed)).failed as f64).fold(0.0, f64::max);
        Measured::of(worst).beside(run(&plan(1).bare()).failed as f64)
    })
}
