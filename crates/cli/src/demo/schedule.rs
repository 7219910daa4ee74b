//! Which instance falls ill when, and which of the client's failures are put down to that.
//!
//! A failure belongs to the latest fault that had begun when the client saw it, if the fault was active or had ended no
//! longer than [`AFTERMATH`] before. What belongs to no fault is counted as such, never dropped.

use super::app::Kind;
use super::plan::INVENTORIES;
use std::time::{Duration, Instant};

const AFTERMATH: Duration = Duration::from_secs(3);
/// Of health before the first fault, of a fault, and from one beginning to the next.
const HEALTH: Duration = Duration::from_secs(6);
const ILL: Duration = Duration::from_secs(8);
const EVERY: Duration = Duration::from_secs(14);
/// The shortest run that needs no scaling: two faults and the second's aftermath.
const WHOLE: Duration = Duration::from_secs(34);
/// The parts of a scaled run, in thirtieths.
const SCALED: [(u32, u32); 2] = [(5, 8), (17, 8)];

#[derive(Clone, Copy)]
pub(crate) struct Begin {
    pub(crate) instance: usize,
    pub(crate) kind: Kind,
}

pub(crate) enum Act {
    Begin(Begin),
    Heal(usize),
}

/// A fault that was injected.
pub(crate) struct Fault {
    pub(crate) instance: usize,
    pub(crate) kind: Kind,
    pub(crate) failed: u64,
    began: Instant,
    healed: Option<Instant>,
}

pub(crate) struct Schedule {
    length: Option<Duration>,
    pub(crate) faults: Vec<Fault>,
    /// Failures that no fault explains.
    pub(crate) unexplained: u64,
}

impl Schedule {
    pub(crate) fn new(length: Option<Duration>) -> Self {
        Self { length, faults: Vec::new(), unexplained: 0 }
    }

    /// When the n-th fault begins and how long it lasts; `None`: the run is over before.
    fn times(&self, n: usize) -> Option<(Duration, Duration)> {
        let at = HEALTH + EVERY * u32::try_from(n).ok()?;
        match self.length {
            Some(length) if length < WHOLE => {
                let part = length / 30;
                SCALED.get(n).map(|(begin, ill)| (part * *begin, part * *ill))
            }
            Some(length) if at + ILL + AFTERMATH > length => None,
            _ => Some((at, ILL)),
        }
    }

    pub(crate) fn due(&self, elapsed: Duration) -> Option<Act> {
        if let Some((n, fault)) = self.faults.iter().enumerate().next_back()
            && fault.healed.is_none()
        {
            let (begin, ill) = self.times(n)?;
            return (elapsed >= begin + ill).then_some(Act::Heal(fault.instance));
        }
        let n = self.faults.len();
        let (begin, _) = self.times(n)?;
        let kind = if n.is_multiple_of(2) { Kind::Errors } else { Kind::Hang };
        (elapsed >= begin).then_some(Act::Begin(Begin { instance: (n + 1) % INVENTORIES + 1, kind }))
    }

    /// To be told before the fault has any effect.
    pub(crate) fn begins(&mut self, Begin { instance, kind }: Begin) {
        self.faults.push(Fault { instance, kind, failed: 0, began: Instant::now(), healed: None });
    }

    /// To be told once the fault is over.
    pub(crate) fn healed(&mut self) {
        if let Some(fault) = self.faults.last_mut() {
            fault.healed = Some(Instant::now());
        }
    }

    pub(crate) fn blame(&mut self, failures: &[Instant]) {
        for at in failures {
            let fault = self.faults.iter_mut().rev().find(|f| f.began <= *at);
            match fault.filter(|f| f.healed.is_none_or(|healed| *at <= healed + AFTERMATH)) {
                Some(fault) => fault.failed += 1,
                None => self.unexplained += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(second, instance)` of every beginning.
    fn beginnings(length: Option<u64>, until: u64) -> Vec<(u64, usize)> {
        let mut schedule = Schedule::new(length.map(Duration::from_secs));
        let mut begun = Vec::new();
        for second in 0..until {
            match schedule.due(Duration::from_secs(second)) {
                Some(Act::Begin(fault)) => {
                    begun.push((second, fault.instance));
                    schedule.begins(fault);
                }
                Some(Act::Heal(_)) => schedule.healed(),
                None => {}
            }
        }
        begun
    }

    #[test]
    fn without_an_end_the_faults_go_round_all_instances() {
        assert_eq!(beginnings(None, 70), [(6, 2), (20, 3), (34, 4), (48, 1), (62, 2)]);
    }

    #[test]
    fn a_short_run_has_both_faults() {
        assert_eq!(beginnings(Some(12), 12), [(2, 2), (7, 3)]);
        assert_eq!(beginnings(Some(30), 30), [(5, 2), (17, 3)]);
    }

    #[test]
    fn a_long_run_begins_no_fault_whose_aftermath_it_would_cut() {
        assert_eq!(beginnings(Some(44), 44), [(6, 2), (20, 3)]);
        assert_eq!(beginnings(Some(45), 45), [(6, 2), (20, 3), (34, 4)]);
    }

    #[test]
    fn a_failure_belongs_to_the_latest_fault_or_its_aftermath_or_to_none() {
        let mut schedule = Schedule::new(None);
        let before = Instant::now();
        schedule.begins(Begin { instance: 2, kind: Kind::Errors });
        let during = Instant::now();
        schedule.healed();
        let healed = schedule.faults[0].healed.unwrap();
        schedule.blame(&[before, during, healed + AFTERMATH, healed + AFTERMATH + Duration::from_millis(1)]);
        assert_eq!((schedule.faults[0].failed, schedule.unexplained), (2, 2));
    }
}
