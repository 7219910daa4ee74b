//! O1 to O5: overload, with 1, 20 and 200 callers and three kinds of client.
//!
//! Ten instances of ten workers, 100 ms a request: 1,000 requests/s. Goodput in percent of what clients ask for, of those who
//! come from twenty seconds after the trigger on; beside it the same without breakers, throttle and guard and with three
//! tries that nobody pays for.
//!
//! Clients: A waits 2 s in all and its sidecar half a second for each attempt; B goes away after half a second; C does so too,
//! and asks three more times, whatever came.

use crate::case::{Band, Case, Measured};
use crate::mesh::{Clients, Engine, Mesh, Passes, Plan, Report};

const A: Clients = Clients { per_try: Some(0.5), deadline: Some(2.0), patience: None, tries: 1 };
const B: Clients = Clients { per_try: None, deadline: None, patience: Some(0.5), tries: 1 };
const C: Clients = Clients { tries: 4, ..B };

#[derive(Clone, Copy)]
enum Trouble {
    /// 85 % load, and everything takes twice as long for five seconds.
    Halved,
    /// Six of ten die, and the load is what all ten could bear: 40 % of it is possible.
    SixDead,
    /// Three of ten die; the rest could bear all.
    ThreeDead,
}

const TRIGGER: f64 = 20.0;

fn run(trouble: Trouble, plan: Plan<'_>) -> Report {
    let rate = move |second: f64| match trouble {
        Trouble::Halved => 850.0,
        Trouble::SixDead if second >= TRIGGER => 1000.0,
        Trouble::SixDead => 500.0,
        Trouble::ThreeDead => 650.0,
    };
    let work = move |second: f64| {
        let halved = matches!(trouble, Trouble::Halved) && (TRIGGER..TRIGGER + 5.0).contains(&second);
        if halved { 0.2 } else { 0.1 }
    };
    let dead = move |instance: usize, second: f64| {
        let dead = match trouble {
            Trouble::Halved => 0,
            Trouble::SixDead => 6,
            Trouble::ThreeDead => 3,
        };
        instance < dead && second >= TRIGGER
    };
    Mesh::run(Plan { rate: &rate, work: &work, dead: &dead, ..plan })
}

fn plan(callers: usize, clients: Clients) -> Plan<'static> {
    Plan {
        callers,
        clients,
        rate: &|_| 0.0,
        work: &|_| 0.1,
        dead: &|_, _| false,
        backlog: usize::MAX,
        layers: 1,
        chain: Passes::On,
        engine: Engine::All,
        seconds: 70.0,
        count_from: TRIGGER + 20.0,
        seed: 1,
    }
}

fn case(name: String, asks: &'static str, least: f64, trouble: Trouble, plan: Plan<'static>) -> Case {
    Case::new(name, asks, Band::AtLeast(least), move || {
        let ours = run(trouble, plan);
        let naive = run(trouble, Plan { engine: Engine::Naive, ..plan });
        let value = ours.goodput();
        Measured::of(value).beside(naive.goodput()).drawn(ours.track(Some(naive)))
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let models = [("A", A), ("B", B), ("C", C)];
    for callers in [1, 20, 200] {
        for (model, clients) in models {
            let name = |trouble: &str| format!("{trouble} {callers} {model}");
            let mut add =
                |trouble: &str, asks, least, what, plan| cases.push(case(name(trouble), asks, least, what, plan));
            let with_c = if model == "C" { 97.0 } else { 99.0 };
            let plan = plan(callers, clients);
            add("O1", "half the capacity for 5 s at 85 % load", 98.0, Trouble::Halved, plan);
            add("O2", "6 of 10 die at full load; 40 is possible", 35.0, Trouble::SixDead, plan);
            add("O3", "3 of 10 die at 65 % load", with_c, Trouble::ThreeDead, plan);
            let short = Plan { backlog: 64, ..plan };
            add("O4", "as O1, a listen backlog of 64", 98.0, Trouble::Halved, short);
        }
        for (word, chain) in [("on", Passes::On), ("nothing", Passes::Nothing)] {
            let plan = Plan { layers: 3, chain, ..plan(callers, A) };
            let asks = match chain {
                Passes::On => "as O1, three layers that retry, and say so to each other",
                Passes::Nothing => "as O1, three layers that retry, and applications tell nothing",
            };
            cases.push(case(format!("O5 {callers} {word}"), asks, 98.0, Trouble::Halved, plan));
        }
    }
    cases
}
