//! Turns to dial one instance, whatever worker dials.
//!
//! An application lets few connections wait to be accepted (128 in many programs); beyond that the kernel drops SYNs, and
//! each costs somebody a second. A connection is there for its caller before the application has accepted it, so a turn
//! goes on to the first answer, or for [`UNANSWERED`]: a long poll must not hold it. It deliberately does not bound how
//! many connections there are; requests are bounded where they come in.
//!
//! Invariant: who waits for a turn is not given up while others get through.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

/// Turns of one instance: half of what many applications let wait, since others may call the same one.
const MAX_DIALS: usize = 64;
/// How long a new connection that nothing has come on may keep its turn.
const UNANSWERED: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Dials {
    turns: Arc<Semaphore>,
    /// When a dial last succeeded.
    last: Mutex<Option<Instant>>,
}

/// The right to dial, given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
}

/// A connection that nothing has come on yet. Dropped with the first answer, which ends its turn.
#[derive(Debug)]
pub(crate) struct Unanswered {
    _told: oneshot::Sender<Infallible>,
}

impl Default for Dials {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(MAX_DIALS)), last: Mutex::default() }
    }
}

impl Dials {
    /// A turn; `None` when for `limit` neither came one nor did any dial succeed.
    pub(crate) async fn turn(&self, limit: Duration) -> Option<Turn> {
        let mut until = Instant::now() + limit;
        let mut waiting = std::pin::pin!(self.turns.clone().acquire_owned());
        loop {
            if let Ok(turn) = timeout_at(until, &mut waiting).await {
                return turn.ok().map(|_permit| Turn { _permit });
            }
            let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
            until = last.map(|last| last + limit).filter(|later| *later > until)?;
        }
    }

    /// The dial of `turn` succeeded.
    pub(crate) fn succeeded(&self, turn: Turn) -> Unanswered {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let (told, answered) = oneshot::channel();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(UNANSWERED, answered).await;
            drop(turn);
        });
        Unanswered { _told: told }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    async fn all(dials: &Dials) -> Vec<Turn> {
        let mut turns = Vec::new();
        for _ in 0..MAX_DIALS {
            turns.push(dials.turn(LIMIT).await.unwrap());
        }
        turns
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_with_the_first_answer_or_with_the_dial_that_failed() {
        let dials = Dials::default();
        let mut turns = all(&dials).await;
        let began = Instant::now();
        let answered = dials.succeeded(turns.pop().unwrap());
        drop(answered);
        let _first = dials.turn(LIMIT).await.unwrap();
        drop(turns.pop()); // failed
        let _second = dials.turn(LIMIT).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_stays_unanswered_keeps_its_turn_only_for_a_moment() {
        let dials = Dials::default();
        let mut turns = all(&dials).await;
        let began = Instant::now();
        let _polls = dials.succeeded(turns.pop().unwrap());
        dials.turn(LIMIT).await.unwrap();
        assert!((UNANSWERED..2 * UNANSWERED).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_given_up_when_nobody_got_through_for_the_limit() {
        let dials = Dials::default();
        let _turns = all(&dials).await;
        let began = Instant::now();
        assert!(dials.turn(LIMIT).await.is_none());
        assert!((LIMIT..LIMIT + UNANSWERED).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_not_given_up_while_others_get_through_however_long_the_queue() {
        let dials = Arc::new(Dials::default());
        let mut all = tokio::task::JoinSet::new();
        let began = Instant::now();
        for _ in 0..20 * MAX_DIALS {
            let dials = dials.clone();
            all.spawn(async move {
                let turn = dials.turn(LIMIT).await?;
                tokio::time::sleep(LIMIT / 4).await; // paused clock: a slow application
                Some(dials.succeeded(turn))
            });
        }
        let through = all.join_all().await.into_iter().flatten().count();
        assert_eq!(through, 20 * MAX_DIALS);
        assert!(began.elapsed() > 4 * LIMIT, "or nobody waited for longer than the limit: {:?}", began.elapsed());
    }
}
