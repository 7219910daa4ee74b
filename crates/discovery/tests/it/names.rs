//! The loops: what is in force while answers come, fail and change. Time is paused.

use fusewire_discovery::dns::{Asker, Asks, Names, Round};
use fusewire_model::ServiceName;
use fusewire_model::service::{Dns, DnsRecords, Instance};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const MINUTE: Duration = Duration::from_secs(60);

type Said = Result<Round, String>;

/// A name server in the test's hand: what each name means now, and when it was asked.
#[derive(Clone, Default)]
struct Zone {
    said: Arc<Mutex<HashMap<String, Said>>>,
    asked: Arc<Mutex<Vec<(String, Instant)>>>,
}

struct One(Zone, String);

impl Asks for One {
    fn round(&mut self) -> std::pin::Pin<Box<dyn Future<Output = Said> + Send + '_>> {
        Box::pin(async {
            self.0.asked.lock().unwrap().push((self.1.clone(), Instant::now()));
            self.0.said.lock().unwrap().get(&self.1).cloned().unwrap_or(Err("no such name".into()))
        })
    }
}

impl Zone {
    fn means(&self, name: &str, addresses: &[u8]) {
        let found = addresses.iter().map(|n| (SocketAddr::from(([10, 0, 0, *n], 80)), 1)).collect();
        let round = Round { found, ttl: Duration::from_secs(5), lacking: None };
        self.said.lock().unwrap().insert(name.into(), Ok(round));
    }
    fn fails(&self, name: &str, why: &str) {
        self.said.lock().unwrap().insert(name.into(), Err(why.into()));
    }
    fn asker(&self) -> Asker {
        let zone = self.clone();
        Arc::new(move |dns: &Dns| Box::new(One(zone.clone(), dns.name.clone())) as Box<dyn Asks>)
    }
    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

fn dns(name: &str) -> Dns {
    let records = DnsRecords::Address { port: 80 };
    Dns { name: name.into(), records, server: None, refresh: Duration::from_secs(30) }
}

fn none(_: &ServiceName) -> Vec<Instance> {
    Vec::new()
}

fn numbers(instances: &[Instance]) -> Vec<u8> {
    let last = |i: &Instance| match i.address {
        SocketAddr::V4(v4) => v4.ip().octets()[3],
        SocketAddr::V6(_) => 0,
    };
    instances.iter().map(last).collect()
}

async fn next(names: &mut Names) -> (Vec<u8>, Option<String>) {
    let (_, answer) = timeout(10 * MINUTE, names.next()).await.expect("a change");
    (numbers(&answer.instances), answer.failing)
}

async fn quiet(names: &mut Names) {
    let told = timeout(2 * MINUTE, names.next()).await;
    assert!(told.is_err(), "{told:?}");
}

fn start(zone: &Zone) -> Names {
    let mut names = Names::asking(1, zone.asker());
    names.set([(service("db"), dns("db.example"))], none);
    names
}

#[tokio::test(start_paused = true)]
async fn changes_are_told_once_and_a_vanished_address_after_two_good_answers() {
    let zone = Zone::default();
    zone.means("db.example", &[1, 2]);
    let mut names = start(&zone);
    assert_eq!(next(&mut names).await, (vec![1, 2], None));
    quiet(&mut names).await;
    zone.means("db.example", &[2, 3]);
    assert_eq!(next(&mut names).await, (vec![1, 2, 3], None));
    assert_eq!(next(&mut names).await, (vec![2, 3], None));
    quiet(&mut names).await;
}

#[tokio::test(start_paused = true)]
async fn while_it_fails_the_last_answer_stays_and_its_age_grows() {
    let zone = Zone::default();
    zone.means("db.example", &[1, 2]);
    let mut names = start(&zone);
    next(&mut names).await;
    zone.fails("db.example", "Server Failure");
    assert_eq!(next(&mut names).await, (vec![1, 2], Some("Server Failure".into())));
    let age = |names: &Names| {
        let (_, answer) = names.answers().next().unwrap();
        assert_eq!(numbers(&answer.instances), [1, 2]);
        Instant::now().into_std() - answer.confirmed_at.unwrap()
    };
    for why in ["no such name", "no answer in time"] {
        zone.fails("db.example", why);
        assert_eq!(next(&mut names).await, (vec![1, 2], Some(why.into())));
        quiet(&mut names).await;
    }
    assert!(age(&names) >= 4 * MINUTE, "{:?}", age(&names));
    zone.means("db.example", &[1, 2]);
    assert_eq!(next(&mut names).await, (vec![1, 2], None));
    assert!(age(&names) < MINUTE, "{:?}", age(&names));
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_followed_up_sooner_than_the_refresh_and_never_much_later() {
    let zone = Zone::default();
    let mut names = start(&zone);
    let _ = timeout(5 * MINUTE, async {
        loop {
            next(&mut names).await;
        }
    })
    .await;
    let times: Vec<Instant> = zone.asked.lock().unwrap().iter().map(|(_, at)| *at).collect();
    let pauses: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
    assert!(pauses[0] < 1.2 && pauses[1] < 2.3, "{pauses:?}");
    assert!(pauses.iter().all(|p| *p <= 33.1), "{pauses:?}");
    assert!(pauses[6..].iter().all(|p| *p >= 26.9), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn another_name_takes_over_with_its_first_good_answer_and_not_before() {
    let zone = Zone::default();
    zone.means("old.example", &[1]);
    zone.fails("new.example", "no such name");
    let mut names = Names::asking(1, zone.asker());
    names.set([(service("db"), dns("old.example"))], none);
    assert_eq!(next(&mut names).await, (vec![1], None));
    names.set([(service("db"), dns("new.example"))], none);
    assert_eq!(next(&mut names).await, (vec![1], Some("no such name".into())));
    zone.means("new.example", &[2]);
    assert_eq!(next(&mut names).await, (vec![2], None));
}

#[tokio::test(start_paused = true)]
async fn another_refresh_of_the_same_name_forgets_nothing() {
    let zone = Zone::default();
    zone.means("db.example", &[1, 2]);
    let mut names = start(&zone);
    next(&mut names).await;
    zone.means("db.example", &[1]);
    names.set([(service("db"), Dns { refresh: MINUTE, ..dns("db.example") })], none);
    assert_eq!(next(&mut names).await, (vec![1, 2], None));
    assert_eq!(next(&mut names).await, (vec![1], None));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_process_was_told_is_in_force_until_dns_says_otherwise() {
    let zone = Zone::default();
    zone.means("db.example", &[7]);
    let mut names = start(&zone);
    let (_, remembered) = names.next().await;
    let mut names = Names::asking(2, zone.asker());
    zone.fails("db.example", "no answer in time");
    names.set([(service("db"), dns("db.example"))], |_| remembered.instances.clone());
    assert_eq!(next(&mut names).await, (vec![7], Some("no answer in time".into())));
    assert_eq!(names.answers().next().unwrap().1.confirmed_at, None, "it was confirmed to somebody else");
}

#[tokio::test(start_paused = true)]
async fn a_service_without_dns_is_no_longer_asked_for() {
    let zone = Zone::default();
    zone.means("db.example", &[1]);
    let mut names = start(&zone);
    next(&mut names).await;
    names.set([], none);
    assert_eq!(names.answers().count(), 0);
    let asked = zone.asked();
    sleep(5 * MINUTE).await; // paused clock
    assert_eq!(zone.asked(), asked);
}
