//! Runs scenarios on every processor and prints what came of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::case::{Band, Case, Measured};

/// One scenario that has run.
pub struct Done {
    pub name: String,
    pub asks: &'static str,
    pub band: Band,
    pub measured: Measured,
    pub exception: Option<&'static str>,
    pub took: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Held,
    /// Not held, and it is said why.
    Excepted,
    Broken,
}

impl Done {
    pub fn verdict(&self) -> Verdict {
        match (self.band.holds(self.measured.value), self.exception) {
            (true, _) => Verdict::Held,
            (false, Some(_)) => Verdict::Excepted,
            (false, None) => Verdict::Broken,
        }
    }
}

/// Runs all of them, on `threads` threads; the order is that of `cases`.
pub fn run(cases: &[Case], threads: usize) -> Vec<Done> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((index, case)) = Some(next.fetch_add(1, Relaxed)).and_then(|i| Some((i, cases.get(i)?)))
                {
                    let began = Instant::now();
                    let measured = (case.run)();
                    let one = Done {
                        name: case.name.clone(),
                        asks: case.asks,
                        band: case.band,
                        measured,
                        exception: case.exception,
                        took: began.elapsed(),
                    };
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, one));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, one)| one).collect()
}

/// The table, and a last line that counts.
pub fn print(done: &[Done]) -> String {
    let mut out =
        format!("{:<16} {:<62} {:>9} {:>10} {:>10}\n", "scenario", "what is asked", "band", "measured", "without");
    for one in done {
        let without = one.measured.without.map(number).unwrap_or_default();
        let held = match one.verdict() {
            Verdict::Held => "held".to_owned(),
            Verdict::Excepted => format!("NOT HELD: {}", one.exception.unwrap_or_default()),
            Verdict::Broken => "BROKEN".to_owned(),
        };
        let (band, value) = (one.band.text(), number(one.measured.value));
        out += &format!("{:<16} {:<62} {band:>9} {value:>10} {without:>10}  {held}\n", one.name, one.asks);
    }
    let count = |verdict| done.iter().filter(|one| one.verdict() == verdict).count();
    let (held, excepted, broken) = (count(Verdict::Held), count(Verdict::Excepted), count(Verdict::Broken));
    out + &format!("{} scenarios: {held} held, {excepted} not held for a reason, {broken} broken\n", done.len())
}

fn number(value: f64) -> String {
    match value {
        value if value.fract() == 0.0 => format!("{value}"),
        value if value.abs() < 1.0 => format!("{value:.4}"),
        value => format!("{value:.2}"),
    }
}
