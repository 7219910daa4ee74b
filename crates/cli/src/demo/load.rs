//! The client: requests at a steady rate, whatever becomes of those before (an open loop, as users are).
//!
//! It decides what a failure is: anything but a 2xx within ten seconds, counted when it is known. What cannot be sent
//! because too much is under way is counted apart and never as a success. It deliberately does not retry.

use super::app::percentile;
use super::http1::Client;
use http::Method;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

const PATIENCE: Duration = Duration::from_secs(10);
const MAX_UNDER_WAY: usize = 1024;
/// What [`Load::recent`] looks back on.
const LOOK_BACK: Duration = Duration::from_secs(1);

/// All that the client saw.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) not_sent: u64,
}

/// The last second.
#[derive(Clone, Copy, Default)]
pub(crate) struct Recent {
    pub(crate) ended: usize,
    pub(crate) ok: usize,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) failed_so_far: u64,
}

#[derive(Default)]
struct State {
    seen: Seen,
    recent: VecDeque<(Instant, bool, Duration)>,
    /// When, until somebody takes them.
    failures: Vec<Instant>,
}

#[derive(Default)]
struct Tally(Mutex<State>);

impl Tally {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, began: Instant, ok: bool) {
        let now = Instant::now();
        let mut state = self.state();
        state.seen.requests += 1;
        if !ok {
            state.seen.failed += 1;
            state.failures.push(now);
        }
        state.forget(now);
        state.recent.push_back((now, ok, now - began));
    }
}

impl State {
    fn forget(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|(at, ..)| now - *at > LOOK_BACK) {
            self.recent.pop_front();
        }
    }
}

pub(crate) struct Load {
    tally: Arc<Tally>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Load {
    pub(crate) fn start(web: SocketAddr, rate: u32) -> anyhow::Result<Self> {
        let client = Arc::new(Client::new(web, "web")?);
        let tally = Arc::<Tally>::default();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(requests(client, tally.clone(), rate, stopped));
        Ok(Self { tally, stop, task })
    }

    /// No more requests; returns when those under way have ended.
    pub(crate) async fn stop(&mut self) {
        let _ = self.stop.send(true);
        let _ = (&mut self.task).await;
    }

    pub(crate) fn seen(&self) -> Seen {
        self.tally.state().seen
    }

    /// When requests failed, since this was last asked.
    pub(crate) fn take_failures(&self) -> Vec<Instant> {
        std::mem::take(&mut self.tally.state().failures)
    }

    pub(crate) fn recent(&self) -> Recent {
        let mut state = self.tally.state();
        state.forget(Instant::now());
        let mut took: Vec<Duration> = state.recent.iter().map(|(.., took)| *took).collect();
        took.sort_unstable();
        Recent {
            ended: took.len(),
            ok: state.recent.iter().filter(|(_, ok, _)| *ok).count(),
            p50_us: percentile(&took, 50),
            p99_us: percentile(&took, 99),
            failed_so_far: state.seen.failed,
        }
    }
}

async fn requests(client: Arc<Client>, tally: Arc<Tally>, rate: u32, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(MAX_UNDER_WAY));
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.changed() => break,
        }
        let Ok(permit) = room.clone().try_acquire_owned() else {
            tally.state().seen.not_sent += 1;
            continue;
        };
        let (client, tally) = (client.clone(), tally.clone());
        tokio::spawn(async move {
            let began = Instant::now();
            let answer = timeout(PATIENCE, client.send(Method::GET, "/", "")).await;
            tally.ended(began, matches!(answer, Ok(Ok((status, _))) if status.is_success()));
            drop(permit);
        });
    }
    let all = u32::try_from(MAX_UNDER_WAY).unwrap_or(u32::MAX);
    let _ = timeout(PATIENCE, room.acquire_many(all)).await;
}
