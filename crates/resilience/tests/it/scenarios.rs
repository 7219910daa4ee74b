//! Faults in virtual time. The bands are the design's; the code under test is the real pick and settle.

use fusewire_resilience::{BreakerConfig, State};

use crate::world::{Act, Random, Scenario, failing, healthy, ms, run, states};

const SEEDS: [u64; 3] = [1, 2, 3];

fn only(share: f64, bad: usize) -> impl Fn(usize, f64, f64, &mut Random) -> Act {
    move |id, second, _, random| if id < bad && second >= 10.0 { failing(share, random) } else { healthy(random) }
}

fn hang(bad: usize) -> impl Fn(usize, f64, f64, &mut Random) -> Act {
    move |id, second, _, random| if id < bad && second >= 10.0 { Act::Hang } else { healthy(random) }
}

/// Failed percent over 120 s of fault, mean of the seeds.
fn failed(instances: usize, rps: f64, behave: &dyn Fn(usize, f64, f64, &mut Random) -> Act) -> f64 {
    let percent = |seed| {
        let report = run(&Scenario { instances, rps, seconds: 130, seed, behave, ..Scenario::default() });
        report.failed as f64 * 100.0 / (rps * 120.0)
    };
    SEEDS.iter().map(|seed| percent(*seed)).sum::<f64>() / SEEDS.len() as f64
}

fn within(name: &str, percent: f64, band: f64) {
    println!("{name}: {percent:.4} % failed, band {band}");
    assert!(percent <= band, "{name}: {percent:.4} % failed, band {band}");
}

#[test]
fn s1_one_of_ten_fails_half() {
    within("S1", failed(10, 1000.0, &only(0.5, 1)), 0.06);
}

#[test]
fn s2_one_of_ten_fails_always() {
    within("S2", failed(10, 1000.0, &only(1.0, 1)), 0.02);
}

#[test]
fn s4_three_of_ten_fail_half() {
    within("S4", failed(10, 1000.0, &only(0.5, 3)), 0.15);
}

#[test]
fn s5_one_of_two_fails_always() {
    within("S5", failed(2, 200.0, &only(1.0, 1)), 0.06);
}

#[test]
fn s6_six_of_ten_fail_always() {
    within("S6", failed(10, 1000.0, &only(1.0, 6)), 0.10);
}

#[test]
fn s10_a_rolling_restart() {
    let restart = |id: usize, second: f64, _: f64, random: &mut Random| {
        let begin = 10.0 + 10.0 * id as f64;
        if (begin..begin + 2.0).contains(&second) { Act::Refuse } else { healthy(random) }
    };
    within("S10", failed(10, 1000.0, &restart), 0.2);
}

#[test]
fn s11_one_percent_errors_everywhere_open_nothing() {
    for seed in SEEDS {
        let behave = |_: usize, _: f64, _: f64, random: &mut Random| failing(0.01, random);
        let report = run(&Scenario { seconds: 140, seed, behave: &behave, ..Scenario::default() });
        assert_eq!(report.opens(), Vec::<&fusewire_resilience::Transition>::new());
    }
}

#[test]
fn s14_a_deploy_that_breaks_one_route_everywhere_does_not_take_the_others() {
    for seed in SEEDS {
        let behave = |_: usize, second: f64, route: f64, random: &mut Random| {
            if route < 0.5 && second >= 10.0 { failing(0.6, random) } else { healthy(random) }
        };
        let report = run(&Scenario { seconds: 70, seed, behave: &behave, ..Scenario::default() });
        let others = report.requests.iter().filter(|(_, route, _)| *route >= 0.5);
        let harmed = others.filter(|(_, _, ok)| !ok).count();
        assert_eq!(harmed, 0, "the other route is untouched");
        let broken = report.failed_percent();
        assert!(broken <= 30.0 * 60.0 / 70.0 + 1.0, "{broken}");
    }
}

#[test]
fn s15_one_client_that_repeats_a_failing_request_harms_nobody_else() {
    for act in [500, 0] {
        let behave = |_: usize, second: f64, route: f64, random: &mut Random| {
            if route >= 0.3 || second < 10.0 {
                return healthy(random);
            }
            if act == 0 { Act::Hang } else { Act::Answer(ms(1), act) }
        };
        for seed in SEEDS {
            let report =
                run(&Scenario { instances: 3, rps: 15.0, seconds: 130, seed, behave: &behave, ..Scenario::default() });
            let others: Vec<_> = report.requests.iter().filter(|(_, route, _)| *route >= 0.3).collect();
            let harmed = others.iter().filter(|(_, _, ok)| !ok).count() as f64 * 100.0 / others.len() as f64;
            within(if act == 0 { "S15t" } else { "S15" }, harmed, 1.0);
        }
    }
}

#[test]
fn s16_a_hanging_instance_costs_at_most_twenty_timeouts() {
    for instances in [2, 3, 4, 10] {
        for seed in SEEDS {
            let behave = hang(1);
            let report =
                run(&Scenario { instances, rps: 200.0, seconds: 130, seed, behave: &behave, ..Scenario::default() });
            println!("S16 1/{instances} seed {seed}: {} timeouts", report.timeouts);
            assert!(report.timeouts <= 20, "1 of {instances}, seed {seed}: {}", report.timeouts);
            assert_eq!(report.failed, report.timeouts);
        }
    }
}

#[test]
fn s18_eight_and_nine_of_ten_fail_by_status() {
    within("S18 8/10", failed(10, 1000.0, &only(1.0, 8)), 0.10);
    within("S18 9/10", failed(10, 1000.0, &only(1.0, 9)), 0.10);
}

#[test]
fn s19_when_all_turn_bad_one_after_another_all_are_released() {
    for seed in SEEDS {
        let behave = |id: usize, second: f64, _: f64, random: &mut Random| {
            let bad = second >= 10.0 + id as f64 * 2.0 && second < 60.0;
            failing(if bad { 1.0 } else { 0.0 }, random)
        };
        let report =
            run(&Scenario { instances: 5, rps: 500.0, seconds: 22, seed, behave: &behave, ..Scenario::default() });
        println!("S19 {:?}", states(&report.set));
        assert!(states(&report.set).iter().all(|state| *state == State::Closed), "3 s after the last turned bad");
        let report =
            run(&Scenario { instances: 5, rps: 500.0, seconds: 75, seed, behave: &behave, ..Scenario::default() });
        let late = report.requests.iter().filter(|(second, _, ok)| *second > 62.0 && !ok).count();
        assert_eq!(late, 0, "healed");
    }
}

#[test]
fn s20_one_of_two_turns_bad_and_then_the_other() {
    let behave = |id: usize, second: f64, _: f64, random: &mut Random| {
        let bad = if id == 0 { (10.0..70.0).contains(&second) } else { second >= 70.0 };
        failing(if bad { 1.0 } else { 0.0 }, random)
    };
    within("S20", failed(2, 200.0, &behave), 2.0);
}

#[test]
fn s22_most_instances_hang() {
    within("S22 2/3", failed(3, 200.0, &hang(2)), 1.1);
    within("S22 6/10", failed(10, 200.0, &hang(6)), 0.7);
}

#[test]
fn a_half_failing_instance_of_four_costs_at_most_twelve_failures() {
    let config = BreakerConfig { window: ms(1000), failure_rate: 20, min_calls: 10, ..BreakerConfig::default() };
    let mut worst = 0;
    for seed in 1..=20 {
        let behave = only(0.5, 1);
        let report = run(&Scenario {
            instances: 4,
            rps: 200.0,
            seconds: 130,
            seed,
            config: config.clone(),
            behave: &behave,
            ..Scenario::default()
        });
        worst = worst.max(report.failed);
        println!("half-failing seed {seed}: {} failures", report.failed);
    }
    assert!(worst <= 12, "{worst}");
}

#[test]
fn s7_a_total_outage_ends_soon_after_the_fault() {
    for seed in SEEDS {
        let behave = |_: usize, second: f64, _: f64, random: &mut Random| {
            if (10.0..40.0).contains(&second) { Act::Refuse } else { healthy(random) }
        };
        let report = run(&Scenario { seconds: 100, seed, behave: &behave, ..Scenario::default() });
        let after: Vec<_> = report.requests.iter().filter(|(second, _, _)| *second >= 40.0).collect();
        let failed = after.iter().filter(|(_, _, ok)| !ok).count() as f64 * 100.0 / after.len() as f64;
        within("S7 after the fault", failed, 5.4);
        assert!(states(&report.set).iter().all(|state| *state == State::Closed));
    }
}

#[test]
fn under_overload_that_makes_everybody_time_out_nobody_is_opened() {
    for seed in SEEDS {
        let behave = |_: usize, second: f64, _: f64, random: &mut Random| match random.unit() {
            share if second >= 10.0 && share < 0.6 => Act::Hang,
            share if second >= 10.0 && share < 0.8 => Act::Answer(ms(1), 503),
            _ => healthy(random),
        };
        let report = run(&Scenario { seconds: 60, seed, behave: &behave, ..Scenario::default() });
        assert_eq!(report.opens(), Vec::<&fusewire_resilience::Transition>::new());
        assert_eq!(report.rejected, 0);
    }
}

#[test]
fn posts_bring_a_broken_instance_back_and_see_few_of_its_failures() {
    for seed in SEEDS {
        let behave = |id: usize, second: f64, _: f64, random: &mut Random| {
            if id == 0 && (10.0..70.0).contains(&second) { Act::Refuse } else { healthy(random) }
        };
        let report = run(&Scenario {
            instances: 4,
            rps: 200.0,
            seconds: 160,
            seed,
            replayable: false,
            behave: &behave,
            ..Scenario::default()
        });
        println!("posts, seed {seed}: {} failures", report.failed);
        assert!(report.failed <= 15, "{}", report.failed);
        assert!(states(&report.set).iter().all(|state| *state == State::Closed));
    }
}
