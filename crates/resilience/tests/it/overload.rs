//! The queue guard's books. What it refuses and what it survives is simulated: `cargo xtask simulate`.

use std::time::Duration;

use fusewire_resilience::Time;
use fusewire_resilience::limit::{Admission, QueueGuard};
use proptest::prelude::*;

proptest! {
    /// Whatever the application and the callers do: counts match, the limit is at least 4, and nobody waits without one.
    #[test]
    fn any_history_keeps_the_books(
        steps in prop::collection::vec((0u64..200, 0u8..8, any::<prop::sample::Index>(), any::<u16>()), 1..600),
    ) {
        let mut now = Time(0);
        let mut guard = QueueGuard::new(now);
        let (mut tickets, mut waiting) = (Vec::new(), 0);
        for (step, what, which, left) in steps {
            now = now + Duration::from_millis(step);
            match what {
                0..=3 => {
                    for _ in 0..=left % 8 {
                        match guard.ask((left > 1000).then(|| Duration::from_micros(u64::from(left))), now) {
                            Admission::Dispatch(ticket) => tickets.push(ticket),
                            Admission::Wait { at_most } => {
                                prop_assert!(at_most <= Duration::from_millis(50));
                                waiting += 1;
                            }
                            Admission::Shed => prop_assert!(guard.limit().is_some()),
                        }
                    }
                }
                4 | 5 if !tickets.is_empty() => {
                    let ticket = tickets.swap_remove(which.index(tickets.len()));
                    if what == 4 { guard.answered(ticket, now) } else { guard.answered_in_vain(ticket, now) }
                }
                6 if !tickets.is_empty() => {
                    let ticket = tickets.swap_remove(which.index(tickets.len()));
                    if left % 2 == 0 { guard.closed(ticket, now) } else { guard.connect_timed_out(ticket, now) }
                }
                7 if waiting > 0 => {
                    guard.gave_up(now);
                    waiting -= 1;
                }
                _ => {}
            }
            while let Some(ticket) = guard.wake(now) {
                tickets.push(ticket);
                waiting -= 1;
            }
            prop_assert_eq!(guard.inflight() as usize, tickets.len());
            prop_assert_eq!(guard.queued(), waiting);
            prop_assert!(guard.limit().is_none_or(|limit| limit >= 4));
            prop_assert!(guard.limit().is_some() || waiting == 0);
        }
    }
}
