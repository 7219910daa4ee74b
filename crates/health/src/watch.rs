//! From answers to a verdict: how many in a row decide.
//!
//! Pure: it reads no clock and no random source. It deliberately does not weigh answers, nor average them: an operator who
//! reads `down: 3` can count along.
//!
//! Invariant: one answer changes the verdict at most once, and an answer that agrees with it forgets all that disagreed.

use fusewire_model::health::{Health, HealthCheck};
use std::time::Duration;

/// The verdict on one instance.
///
/// [`Health::Starting`] ends with `up` good answers in a row and no other way: an instance that was never ready is not
/// down, it is not there yet. [`Health::Unchecked`] is for an instance that is already in use when the check begins:
/// `up` good answers make it up, `down` bad ones down, and until then it stays in use, because a control plane or a sidecar
/// that has just started knows nothing against it.
#[derive(Clone, Debug)]
pub struct Watch {
    health: Health,
    up: u32,
    down: u32,
    good: u32,
    bad: u32,
}

impl Watch {
    /// A verdict that begins as `from`.
    pub fn new(check: &HealthCheck, from: Health) -> Self {
        Self { health: from, up: check.up.max(1), down: check.down.max(1), good: 0, bad: 0 }
    }

    pub fn health(&self) -> Health {
        self.health
    }

    /// Counts an answer. The new verdict, if it is another.
    pub fn answered(&mut self, good: bool) -> Option<Health> {
        (self.good, self.bad) = if good { (self.good.saturating_add(1), 0) } else { (0, self.bad.saturating_add(1)) };
        let next = match self.health {
            Health::Starting if self.good >= self.up => Health::Up,
            Health::Unchecked | Health::Down if self.good >= self.up => Health::Up,
            Health::Unchecked | Health::Up if self.bad >= self.down => Health::Down,
            same => same,
        };
        (std::mem::replace(&mut self.health, next) != next).then_some(next)
    }
}

/// From one answer to the next question: the interval within a tenth, by 64 random bits. Many sidecars that were started
/// together must not ask together for ever.
pub fn pause(interval: Duration, random: u64) -> Duration {
    // 900..=1100 thousandths
    interval.mul_f64((900 + random % 201) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_model::health::CheckKind;

    fn watch(from: Health) -> Watch {
        Watch::new(&HealthCheck { up: 2, down: 3, ..HealthCheck::new(CheckKind::Tcp) }, from)
    }

    /// The verdict after each of `answers`: `+` good, `-` bad.
    fn verdicts(mut watch: Watch, answers: &str) -> Vec<Health> {
        let verdict = |c| {
            let before = watch.health();
            let told = watch.answered(c == '+');
            assert_eq!(
                told,
                (watch.health() != before).then_some(watch.health()),
                "a change is told, and only a change"
            );
            watch.health()
        };
        answers.chars().map(verdict).collect()
    }

    #[test]
    fn an_instance_that_was_never_ready_is_starting_however_often_it_fails() {
        assert_eq!(verdicts(watch(Health::Starting), "-----+-----"), [Health::Starting; 11]);
    }

    #[test]
    fn an_instance_is_up_after_as_many_good_answers_in_a_row_as_are_wanted() {
        use Health::{Starting, Up};
        assert_eq!(verdicts(watch(Starting), "+-++"), [Starting, Starting, Starting, Up]);
    }

    #[test]
    fn it_is_down_after_as_many_bad_answers_in_a_row_as_are_wanted_and_no_sooner() {
        use Health::{Down, Up};
        assert_eq!(verdicts(watch(Up), "--+--+---"), [Up, Up, Up, Up, Up, Up, Up, Up, Down]);
    }

    #[test]
    fn it_is_up_again_only_after_as_many_good_ones() {
        use Health::{Down, Up};
        assert_eq!(verdicts(watch(Down), "+-+-++-"), [Down, Down, Down, Down, Down, Up, Up]);
    }

    #[test]
    fn what_was_in_use_when_the_check_began_stays_unchecked_until_enough_answers_agree() {
        use Health::{Down, Unchecked, Up};
        assert_eq!(verdicts(watch(Unchecked), "+-++"), [Unchecked, Unchecked, Unchecked, Up]);
        assert_eq!(verdicts(watch(Unchecked), "---"), [Unchecked, Unchecked, Down]);
    }

    #[test]
    fn the_pause_stays_within_a_tenth_of_the_interval_and_uses_all_of_it() {
        let second = Duration::from_secs(1);
        let pauses: Vec<Duration> = (0..1000).map(|n| pause(second, bits(n))).collect();
        let (least, most) = (pauses.iter().min().expect("some"), pauses.iter().max().expect("some"));
        assert!(*least >= Duration::from_millis(900) && *most <= Duration::from_millis(1100), "{least:?} {most:?}");
        assert!(*most - *least > Duration::from_millis(190), "{least:?} {most:?}");
    }

    fn bits(n: u64) -> u64 {
        n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31)
    }
}
