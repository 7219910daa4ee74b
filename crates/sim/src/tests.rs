//! That the table can be believed. The bands themselves are `cargo xtask simulate`'s; some quick ones are held here too.

use std::time::Duration;

use crate::case::{Band, Case, Failed, Measured, Track};
use crate::faults;
use crate::mesh::{Clients, Engine, Mesh, Passes, Plan};
use crate::table::{Done, Verdict, print, run};

const QUICK: [&str; 7] = ["S5", "S11", "S16 1/2", "S20", "S22 2/3", "G2", "H1"];

fn done(value: f64, exception: Option<&'static str>) -> Done {
    Done {
        name: "X".into(),
        asks: "less <than> one",
        band: Band::AtMost(1.0),
        measured: Measured::of(value),
        exception,
        took: Duration::ZERO,
    }
}

#[test]
fn some_quick_bands_hold() {
    let mut cases = crate::cases();
    cases.retain(|case| QUICK.contains(&case.name.as_str()));
    assert_eq!(cases.len(), QUICK.len(), "each is in the table once");
    let done = run(&cases, 2);
    let broken: Vec<_> = done.iter().filter(|one| one.verdict() != Verdict::Held).map(|one| &one.name).collect();
    assert!(broken.is_empty(), "{broken:?}\n{}", print(&done));
}

#[test]
fn a_run_is_the_same_every_time() {
    let cases = || faults::cases().into_iter().filter(|case| case.name == "S5").collect::<Vec<_>>();
    let values = || run(&cases(), 1)[0].measured.value;
    assert_eq!(values(), values());
}

#[test]
fn only_a_miss_without_a_reason_is_broken_and_a_reason_is_shown() {
    let (held, missed, excused) = (done(1.0, None), done(1.1, None), done(1.1, Some("the moon")));
    assert_eq!([&held, &missed, &excused].map(Done::verdict), [Verdict::Held, Verdict::Broken, Verdict::Excepted]);
    let table = print(&[held, missed, excused]);
    assert!(table.contains("NOT HELD: the moon") && table.contains("1 held, 1 not held for a reason, 1 broken"));
    assert!(!Band::AtLeast(98.0).holds(97.9) && Band::AtLeast(98.0).holds(98.0));
}

#[test]
fn names_are_unique() {
    let mut names: Vec<String> = crate::cases().into_iter().map(|case: Case| case.name).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn a_picture_has_both_curves_and_a_lane_for_each_circuit() {
    let mut track = Track { instances: 3, ..Track::default() };
    for second in 0..30 {
        Track::count(&mut track.seconds, f64::from(second), if second < 10 { Failed::Yes } else { Failed::No });
        Track::count(&mut track.without, f64::from(second), Failed::Yes);
    }
    track.states.push((5.0, 1, fusewire_resilience::State::Open));
    let one = Done { measured: Measured::of(0.0).drawn(track), ..done(0.0, None) };
    let svg = crate::draw(&one).unwrap_or_default();
    assert_eq!((svg.matches("<polyline").count(), svg.matches("fill=\"#d8eadb\"").count()), (2, 3));
    assert_eq!(svg.matches("fill=\"#d1242f\"").count(), 1);
    assert!(svg.contains("less &lt;than> one") && svg.ends_with("</svg>\n"));
    assert!(crate::draw(&done(0.0, None)).is_none());
}

#[test]
fn naive_callers_that_retry_do_not_recover_from_a_short_loss_of_capacity() {
    let clients = Clients { per_try: Some(0.5), deadline: Some(2.0), patience: None, tries: 1 };
    let work = |second: f64| if (5.0..8.0).contains(&second) { 0.2 } else { 0.1 };
    let plan = Plan {
        callers: 1,
        clients,
        rate: &|_| 850.0,
        work: &work,
        dead: &|_, _| false,
        backlog: usize::MAX,
        layers: 1,
        chain: Passes::On,
        engine: Engine::Naive,
        seconds: 25.0,
        count_from: 15.0,
        seed: 1,
    };
    assert!(Mesh::run(plan).goodput() < 20.0, "or the O rows prove nothing");
    assert!(Mesh::run(Plan { engine: Engine::All, ..plan }).goodput() > 98.0);
}
