//! Connections that we made ourselves a moment ago, by both their ends: what a redirected connection is compared with.
//! Where the rules do not leave the sidecar's traffic alone, each would come back as a new one, for ever.
//!
//! By both ends, since the kernel gives the same port to connections with different destinations, and some are the
//! application's. It deliberately follows none to its end: one that comes back does so at once, and the kernel gives
//! out the same two ends again only after it went round its ports. One that comes back later than [`FRESH`] makes
//! another turn and is known then.
//!
//! Invariant: at most [`MAX_KNOWN`] are remembered; the oldest go first.

use crate::clock::Clock;
use fusewire_net::canonical;
use fusewire_resilience::Time;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a connection may take from being made to being looked at where it comes back.
const FRESH: Duration = Duration::from_secs(2);
const MAX_KNOWN: usize = 16_384;
/// Between two log lines about refused connections.
const LOG_EVERY: u64 = 1_000_000_000;

/// Ours, and the one that was dialled.
type Ends = (SocketAddr, SocketAddr);

/// One for all that dial; a copy is another handle to it.
#[derive(Clone)]
pub(crate) struct Passing(Arc<Shared>);

struct Shared {
    clock: Clock,
    made: Mutex<Made>,
    next_log: AtomicU64,
}

#[derive(Default)]
struct Made {
    /// When it was made last.
    known: HashMap<Ends, Time>,
    order: VecDeque<(Time, Ends)>,
}

impl Default for Passing {
    fn default() -> Self {
        Self(Arc::new(Shared { clock: Clock::start(), made: Mutex::default(), next_log: AtomicU64::new(0) }))
    }
}

impl Passing {
    /// `stream` was dialled to `to` just now.
    pub(crate) fn dialled(&self, stream: &TcpStream, to: SocketAddr) {
        if let Ok(from) = stream.local_addr() {
            let now = self.0.clock.now();
            self.0.made.lock().unwrap_or_else(PoisonError::into_inner).add((canonical(from), canonical(to)), now);
        }
    }

    /// Whether the connection from `from` to `to` is one that we dialled.
    pub(super) fn has(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let now = self.0.clock.now();
        self.0.made.lock().unwrap_or_else(PoisonError::into_inner).has((from, to), now)
    }

    /// Once a second: a loop must not fill the disk.
    pub(super) fn may_log(&self, now: Time) -> bool {
        let due = self.0.next_log.load(Ordering::Relaxed);
        let next = now.0 + LOG_EVERY;
        now.0 >= due && self.0.next_log.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Made {
    fn add(&mut self, ends: Ends, now: Time) {
        while let Some((at, oldest)) = self.order.front().copied() {
            if now.since(at) < FRESH && self.order.len() < MAX_KNOWN {
                break;
            }
            self.order.pop_front();
            if self.known.get(&oldest) == Some(&at) {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(ends, now);
        self.order.push_back((now, ends));
    }

    fn has(&self, ends: Ends, now: Time) -> bool {
        self.known.get(&ends).is_some_and(|at| now.since(*at) < FRESH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn seconds(n: u64) -> Time {
        Time(n * 1_000_000_000)
    }

    #[test]
    fn a_connection_of_our_own_is_known_for_a_moment_and_by_both_ends() {
        let (from, to) = (at("10.0.0.1:40000"), at("10.0.0.2:80"));
        let mut made = Made::default();
        made.add((from, to), seconds(10));
        assert!(made.has((from, to), seconds(11)));
        assert!(!made.has((from, at("10.0.0.3:80")), seconds(11)), "the application's, from the same port");
        assert!(!made.has((at("10.0.0.1:40001"), to), seconds(11)));
        assert!(!made.has((from, to), seconds(12)));
        made.add((from, to), seconds(12));
        made.add((from, at("10.0.0.3:80")), seconds(13));
        assert!(made.has((from, to), seconds(13)), "made again");
    }

    #[test]
    fn so_many_connections_are_remembered_and_no_more() {
        let mut made = Made::default();
        let from = |n: usize| SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 1));
        (0..2 * MAX_KNOWN).for_each(|n| made.add((from(n), at("10.0.0.2:80")), seconds(1)));
        assert_eq!((made.known.len(), made.order.len()), (MAX_KNOWN, MAX_KNOWN));
        assert!(made.has((from(2 * MAX_KNOWN - 1), at("10.0.0.2:80")), seconds(1)));
        made.add((from(0), at("10.0.0.2:80")), seconds(60));
        assert_eq!((made.known.len(), made.order.len()), (1, 1));
    }

    #[test]
    fn refusals_are_logged_once_a_second() {
        let passing = Passing::default();
        let logged = |ms: u64| passing.may_log(Time(ms * 1_000_000));
        assert_eq!([1, 2, 1_000, 1_001, 1_002].map(logged), [true, false, false, true, false]);
    }
}
