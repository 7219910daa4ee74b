//! Many instances: who is asked, how often, and what is told.

use fusewire_health::{Asker, Checks, Finding, Subject};
use fusewire_model::health::{CheckKind, Health, HealthCheck};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn address(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80))
}

fn subject(n: u16, from: Health) -> Subject {
    Subject { address: address(n), check: HealthCheck::new(CheckKind::Tcp), from }
}

/// Applications that answer what the test says, and when each was asked.
#[derive(Clone, Default)]
struct Town {
    ill: Arc<Mutex<HashMap<SocketAddr, &'static str>>>,
    asked: Arc<Mutex<Vec<(SocketAddr, Instant)>>>,
}

impl Town {
    fn falls_ill(&self, n: u16, why: &'static str) {
        self.ill.lock().unwrap().insert(address(n), why);
    }
    fn recovers(&self, n: u16) {
        self.ill.lock().unwrap().remove(&address(n));
    }
    fn asker(&self) -> Asker {
        let town = self.clone();
        Arc::new(move |subject: Subject| {
            town.asked.lock().unwrap().push((subject.address, Instant::now()));
            let answer = match town.ill.lock().unwrap().get(&subject.address) {
                Some(why) => Err((*why).to_owned()),
                None => Ok("well".to_owned()),
            };
            Box::pin(async move { answer })
        })
    }
    fn times(&self, n: u16) -> Vec<Instant> {
        self.asked.lock().unwrap().iter().filter(|(a, _)| *a == address(n)).map(|(_, at)| *at).collect()
    }
}

async fn next(checks: &mut Checks<u16>) -> (u16, Health, String) {
    let Finding { key, health, detail } = timeout(60 * SECOND, checks.next()).await.expect("a finding");
    (key, health, detail)
}

/// Nothing is found for a minute.
async fn quiet(checks: &mut Checks<u16>) {
    let found = timeout(60 * SECOND, checks.next()).await;
    assert!(found.is_err(), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_told_when_it_changes_and_only_then() {
    let town = Town::default();
    let mut checks = Checks::asking(1, town.asker());
    checks.set([(1, subject(1, Health::Unchecked))]);
    // the first answer is worth telling: an operator waits for it
    assert_eq!(next(&mut checks).await, (1, Health::Unchecked, "well".into()));
    assert_eq!(next(&mut checks).await, (1, Health::Up, "well".into()));
    quiet(&mut checks).await;
    town.falls_ill(1, "503");
    assert_eq!(next(&mut checks).await, (1, Health::Down, "503".into()));
    quiet(&mut checks).await;
    town.falls_ill(1, "refused");
    assert_eq!(next(&mut checks).await, (1, Health::Down, "refused".into()));
    town.recovers(1);
    assert_eq!(next(&mut checks).await, (1, Health::Down, "well".into()));
    assert_eq!(next(&mut checks).await, (1, Health::Up, "well".into()));
    assert_eq!(checks.health(&1), Some(Health::Up));
}

#[tokio::test(start_paused = true)]
async fn the_first_question_goes_out_at_once_and_the_others_at_the_interval_jittered() {
    let town = Town::default();
    let begun = Instant::now();
    let mut checks = Checks::asking(7, town.asker());
    checks.set((0..20).map(|n| (n, subject(n, Health::Unchecked))));
    let _ = timeout(30 * SECOND, async {
        loop {
            checks.next().await;
        }
    })
    .await;
    let mut pauses = Vec::new();
    for n in 0..20 {
        let times = town.times(n);
        assert_eq!(times[0], begun, "the first at once");
        pauses.extend(times.windows(2).map(|pair| pair[1] - pair[0]));
    }
    let (least, most) = (*pauses.iter().min().unwrap(), *pauses.iter().max().unwrap());
    assert!(least >= Duration::from_millis(900) && most <= Duration::from_millis(1102), "{least:?} {most:?}");
    assert!(most - least > Duration::from_millis(150), "no jitter: {least:?} {most:?}");
    let second: std::collections::BTreeSet<Instant> = (0..20).map(|n| town.times(n)[1]).collect();
    assert!(second.len() > 10, "those that began together are still asked together");
}

#[tokio::test(start_paused = true)]
async fn who_is_no_longer_asked_is_not_told_of_and_who_comes_back_begins_anew() {
    let town = Town::default();
    let mut checks = Checks::asking(1, town.asker());
    let both = [(1, subject(1, Health::Unchecked)), (2, subject(2, Health::Unchecked))];
    checks.set(both.clone());
    while checks.health(&1) != Some(Health::Up) || checks.health(&2) != Some(Health::Up) {
        next(&mut checks).await;
    }
    town.falls_ill(2, "503");
    tokio::time::sleep(10 * SECOND).await; // paused clock: its finding waits in the queue then
    checks.set([both[0].clone()]);
    quiet(&mut checks).await;
    let asked = town.times(2).len();
    tokio::time::sleep(10 * SECOND).await; // paused clock
    assert_eq!(town.times(2).len(), asked, "it is still asked");
    checks.set(both);
    assert_eq!(checks.health(&2), Some(Health::Unchecked));
    assert_eq!(next(&mut checks).await, (2, Health::Unchecked, "503".into()));
}

#[tokio::test(start_paused = true)]
async fn another_check_keeps_the_verdict_and_another_address_does_not() {
    let town = Town::default();
    let mut checks = Checks::asking(1, town.asker());
    checks.set([(1, subject(1, Health::Starting))]);
    while next(&mut checks).await.1 != Health::Up {}
    let check = HealthCheck { down: 1, ..HealthCheck::new(CheckKind::Tcp) };
    checks.set([(1, Subject { check, ..subject(1, Health::Starting) })]);
    assert_eq!(checks.health(&1), Some(Health::Up));
    checks.set([(1, subject(9, Health::Starting))]);
    assert_eq!(checks.health(&1), Some(Health::Starting));
    assert_eq!(checks.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_are_asked_256_at_a_time() {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (o, m) = (open.clone(), most.clone());
    let asker: Asker = Arc::new(move |_| {
        let (open, most) = (o.clone(), m.clone());
        Box::pin(async move {
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await; // paused clock
            open.fetch_sub(1, Ordering::SeqCst);
            Ok("well".to_owned())
        })
    });
    let mut checks = Checks::asking(3, asker);
    checks.set((0..10_000).map(|n| (n, subject(n, Health::Starting))));
    let mut up = 0;
    while up < 10_000 {
        up += usize::from(next(&mut checks).await.1 == Health::Up);
    }
    assert_eq!(most.load(Ordering::SeqCst), 256);
}
