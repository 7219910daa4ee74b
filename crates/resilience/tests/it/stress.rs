//! Two threads on one service: no permit is lost, no transition has two winners.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fusewire_resilience::throttle::Priority;
use fusewire_resilience::{Ask, BreakerConfig, OpenStage, Outcome, ServiceConfig, ServiceScope, State, Time};

use crate::world::{Random, refused, service, status};

#[test]
fn threads_that_trip_probe_cancel_and_sweep_leave_nothing_behind() {
    let config = BreakerConfig {
        open_base: Duration::from_millis(100),
        open_max: Duration::from_millis(400),
        probe_timeout: Duration::from_millis(50),
        probe_concurrency: 2,
        ..BreakerConfig::default()
    };
    let set = service(3, &config);
    let clock = AtomicU64::new(1_000_000_000);
    let events = thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (set, clock) = (&set, &clock);
            scope.spawn(move || {
                let mut random = Random(thread + 11);
                let mut held = Vec::new();
                for _ in 0..200_000 {
                    let now = Time(clock.fetch_add(random.bits() % 200_000, Ordering::Relaxed));
                    let ask = Ask {
                        random: random.bits(),
                        replayable: !random.bits().is_multiple_of(3),
                        tried: &[],
                        key: None,
                    };
                    if let Ok(attempt) = set.pick(ask, now) {
                        held.push(attempt);
                    }
                    while held.len() > 8 || (!held.is_empty() && random.bits().is_multiple_of(2)) {
                        let at = random.bits() as usize % held.len();
                        let mut attempt = held.swap_remove(at);
                        match random.bits() % 10 {
                            0 => drop(attempt),
                            1..4 => {
                                attempt.answered(status(500), now);
                            }
                            4 | 5 => {
                                attempt.end(refused(), now);
                            }
                            _ => {
                                attempt.answered(Outcome::OK, now);
                                attempt.end(Outcome::OK, now);
                            }
                        }
                    }
                    if random.bits().is_multiple_of(1000) {
                        set.sweep(now);
                    }
                }
            });
        }
        let mut events = Vec::new();
        while clock.load(Ordering::Relaxed) < 30_000_000_000 {
            events.extend(set.drain_transitions().into_iter().map(|(_, event)| event));
            thread::yield_now();
        }
        events
    });
    let last = set.drain_transitions().into_iter().map(|(_, event)| event);
    let events: Vec<_> = events.into_iter().chain(last).collect();
    let now = Time(clock.load(Ordering::Relaxed));
    for view in set.inspect(now) {
        assert_eq!((view.inflight, view.probes_in_flight), (0, 0), "{view:?}");
    }
    let mut path = [(State::Closed, 0); 3];
    for (position, event) in events.iter().enumerate() {
        assert_eq!(event.seq, position as u64, "none lost, none twice");
        let (state, generation) = path[event.index];
        assert_eq!((event.from, event.generation), (state, generation + 1), "{event:?}");
        path[event.index] = (event.to, event.generation);
    }
    assert!(events.len() > 100, "the test did something: {}", events.len());
    println!("{} transitions", events.len());
}

#[test]
fn threads_at_one_services_scope_leave_nothing_behind() {
    let config = ServiceConfig {
        open: OpenStage::Any,
        min_calls: 5,
        window: Duration::from_secs(1),
        open_base: Duration::from_millis(100),
        open_max: Duration::from_millis(400),
        probe_timeout: Duration::from_millis(50),
        ramp: Duration::from_millis(100),
        ..ServiceConfig::default()
    };
    assert_eq!(config.validate(), Ok(()));
    let service = ServiceScope::new("shared", 7, config);
    let clock = AtomicU64::new(1_000_000_000);
    let (mut events, probes) = thread::scope(|scope| {
        let work = |thread: u64| {
            let (service, clock) = (&service, &clock);
            move || {
                let mut random = Random(thread + 11);
                let (mut held, mut most) = (Vec::new(), 0);
                for _ in 0..200_000 {
                    let now = Time(clock.fetch_add(random.bits() % 200_000, Ordering::Relaxed));
                    held.extend(service.admit(Priority::Normal, random.bits(), now));
                    while held.len() > 8 || (!held.is_empty() && random.bits().is_multiple_of(2)) {
                        let pass = held.swap_remove(random.bits() as usize % held.len());
                        match random.bits() % 10 {
                            0 => drop(pass),
                            1..6 => drop(pass.settle(status(500), now)),
                            _ => drop(pass.settle(Outcome::OK, now)),
                        }
                    }
                    if random.bits().is_multiple_of(1000) {
                        service.sweep(now);
                        most = most.max(service.inspect(now).circuit.probes_in_flight);
                    }
                }
                most
            }
        };
        let threads = [scope.spawn(work(1)), scope.spawn(work(2))];
        let mut events = Vec::new();
        while threads.iter().any(|thread| !thread.is_finished()) {
            events.extend(service.drain_transitions());
            thread::yield_now();
        }
        (events, threads.map(|thread| thread.join().expect("it did not panic")))
    });
    events.extend(service.drain_transitions());
    let now = Time(clock.load(Ordering::Relaxed));
    assert!(probes.iter().all(|probes| *probes <= 3), "{probes:?}");
    assert_eq!(service.inspect(now).circuit.probes_in_flight, 0);
    let mut path = (State::Closed, 0);
    for (position, event) in events.iter().enumerate() {
        assert_eq!(event.seq, position as u64, "none lost, none twice");
        assert_eq!((event.from, event.generation), (path.0, path.1 + 1), "{event:?}");
        path = (event.to, event.generation);
    }
    assert_eq!(path.0, service.state());
    assert!(events.len() > 30, "the test did something: {}", events.len());
}
