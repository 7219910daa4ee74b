//! Time stands still but for what a test lets pass.

use super::*;
use fusewire_resilience::limit::{AimdConfig, GuardConfig};
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);

/// A gate that lets `most` in.
fn gate(most: u32) -> Arc<Gate> {
    let gate = Arc::new(Gate::new(Clock::start()));
    gate.configure(&limit(most));
    gate
}

fn limit(most: u32) -> Concurrency {
    Concurrency::Aimd(AimdConfig { initial: most, min: most, max: most, ..AimdConfig::default() })
}

async fn enter(gate: &Arc<Gate>) -> Result<Option<Turn>, Refused> {
    gate.enter(None, gate.now()).await
}

/// Asks in a task of its own, and returns when it waits.
async fn waits(gate: &Arc<Gate>) -> tokio::task::JoinHandle<Result<Option<Turn>, Refused>> {
    let before = gate.view().queued;
    let asked = {
        let gate = gate.clone();
        tokio::spawn(async move { enter(&gate).await })
    };
    while gate.view().queued == before {
        tokio::task::yield_now().await;
    }
    asked
}

#[tokio::test(start_paused = true)]
async fn who_comes_first_goes_first_and_a_turn_that_is_dropped_is_the_next_ones() {
    let gate = gate(1);
    let turn = enter(&gate).await.unwrap();
    let (first, second) = (waits(&gate).await, waits(&gate).await);
    drop(turn);
    let turn = first.await.unwrap().unwrap().expect("a turn");
    assert!(!second.is_finished());
    assert_eq!((gate.view().in_flight, gate.view().queued), (1, 1));
    turn.answered(Ended::Answered, gate.now());
    assert!(second.await.unwrap().unwrap().is_some());
    assert_eq!((gate.view().in_flight, gate.view().queued, gate.view().shed), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_longer_than_fifty_milliseconds_or_the_deadline_and_not_more_than_sixteen() {
    let gate = gate(1);
    let _turn = enter(&gate).await.unwrap();
    let began = tokio::time::Instant::now();
    assert!(enter(&gate).await.is_err());
    assert_eq!(began.elapsed(), 50 * MS);
    assert!(gate.enter(Some(10 * MS), gate.now()).await.is_err());
    assert_eq!(began.elapsed(), 60 * MS);
    assert!(gate.enter(Some(Duration::ZERO), gate.now()).await.is_err());
    let mut queue = Vec::new();
    for _ in 0..16 {
        queue.push(waits(&gate).await);
    }
    assert!(enter(&gate).await.is_err());
    assert_eq!((began.elapsed(), gate.view().shed), (60 * MS, 4));
    sleep(51 * MS).await; // paused clock
    assert_eq!((gate.view().queued, gate.view().shed), (0, 20));
    for one in queue {
        assert!(one.await.unwrap().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_the_queue_is_forgotten_also_when_the_turn_had_just_come() {
    let gate = gate(1);
    let turn = enter(&gate).await.unwrap();
    let (leaves, stays) = (waits(&gate).await, waits(&gate).await);
    leaves.abort();
    assert!(leaves.await.is_err_and(|e| e.is_cancelled()));
    assert_eq!(gate.view().queued, 1);
    // polled once, told, and dropped before it is polled again
    let mut late = Box::pin(enter(&gate));
    assert!(futures_util::poll!(&mut late).is_pending());
    drop(turn);
    stays.await.unwrap().unwrap().expect("a turn").answered(Ended::Answered, gate.now());
    assert_eq!((gate.view().in_flight, gate.view().queued), (1, 0));
    drop(late);
    assert_eq!((gate.view().in_flight, gate.view().shed), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn other_settings_keep_what_is_counted_and_another_algorithm_lets_all_who_wait_in() {
    let gate = gate(2);
    let turns = [enter(&gate).await.unwrap(), enter(&gate).await.unwrap()];
    let waiting = waits(&gate).await;
    gate.configure(&limit(3));
    let third = waiting.await.unwrap().unwrap();
    assert_eq!((gate.view().limit, gate.view().in_flight), (Some(3), 3));
    let waiting = waits(&gate).await;
    gate.configure(&Concurrency::QueueGuard(GuardConfig::default()));
    assert!(waiting.await.unwrap().unwrap().is_none(), "let in without a turn");
    let fresh = enter(&gate).await.unwrap();
    drop((turns, third));
    let view = gate.view();
    assert_eq!((view.algorithm, view.limit, view.in_flight, view.shed), ("queue_guard", None, 1, 0));
    drop(fresh);
    gate.configure(&Concurrency::Off);
    assert!(enter(&gate).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_crowd_at_start_streams_and_long_polls_are_never_refused_by_default() {
    let gate = Arc::new(Gate::new(Clock::start()));
    let mut turns = Vec::new();
    for _ in 0..512 {
        turns.push(enter(&gate).await.unwrap());
    }
    // long polls: half a minute each, beside quick requests
    for _ in 0..600 {
        for _ in 0..5 {
            let quick = enter(&gate).await.unwrap().expect("a turn");
            sleep(10 * MS).await; // paused clock
            quick.answered(Ended::Answered, gate.now());
        }
    }
    for turn in turns {
        turn.expect("a turn").answered(Ended::Answered, gate.now());
    }
    assert_eq!((gate.view().phase, gate.view().shed, gate.view().in_flight), (Some(Phase::Free), 0, 0));
}

/// Ten workers of 50 ms behind one queue: 200 a second. 120 a second come for five seconds, then 300 for fifteen; what
/// takes longer than half a second is for nothing.
#[tokio::test(start_paused = true)]
async fn an_overloaded_application_is_given_what_it_finishes() {
    let gate = Arc::new(Gate::new(Clock::start()));
    let workers = Arc::new(tokio::sync::Semaphore::new(10));
    let in_time = Arc::new(AtomicU32::new(0));
    let began = tokio::time::Instant::now();
    let seconds = Duration::from_secs;
    while began.elapsed() < seconds(20) {
        let a_second = if began.elapsed() < seconds(5) { 120 } else { 300 };
        sleep(seconds(1) / a_second).await; // paused clock
        let (gate, workers, in_time) = (gate.clone(), workers.clone(), in_time.clone());
        tokio::spawn(async move {
            let Ok(Some(turn)) = enter(&gate).await else { return };
            let asked = tokio::time::Instant::now();
            let Ok(_worker) = workers.acquire().await else { return };
            sleep(50 * MS).await; // paused clock
            turn.answered(Ended::Answered, gate.now());
            if asked.elapsed() < 500 * MS && began.elapsed() > seconds(10) {
                in_time.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let (view, in_time) = (gate.view(), in_time.load(Ordering::Relaxed));
    assert_eq!(view.phase, Some(Phase::Engaged));
    assert!(view.shed > 500, "{}", view.shed);
    assert!(in_time > 1800, "{in_time} of 2000 that could be");
}
