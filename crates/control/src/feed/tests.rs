//! Ten thousand instances and a thousand watchers, counted in messages and bytes.

use super::*;
use prost::Message as _;
use std::collections::BTreeSet;

fn shop() -> ServiceName {
    ServiceName::parse("shop").unwrap()
}

fn found(n: usize, weight: u32) -> v1::Found {
    let instance = v1::Instance {
        id: format!("shop-{n}"),
        address: format!("10.{}.{}.1:8080", n / 256, n % 256),
        inbound: format!("10.{}.{}.1:15006", n / 256, n % 256),
        identity: "spiffe://fusewire.local/shop".into(),
        weight,
        ..v1::Instance::default()
    };
    v1::Found { instance: Some(instance), sources: vec!["registry".into()], ..v1::Found::default() }
}

/// What is published, by number.
struct Set {
    feeds: Arc<Feeds>,
    now: BTreeMap<usize, v1::Found>,
}

impl Set {
    fn of(count: usize) -> Self {
        let set = Self { feeds: Arc::default(), now: (0..count).map(|n| (n, found(n, 1))).collect() };
        set.publish();
        set
    }
    fn publish(&self) {
        self.feeds.publish(&shop(), self.now.values().cloned().collect());
    }
    fn weigh(&mut self, numbers: &[usize], weight: u32) {
        self.now.extend(numbers.iter().map(|n| (*n, found(*n, weight))));
        self.publish();
    }
    fn remove(&mut self, number: usize) {
        self.now.remove(&number);
        self.publish();
    }
}

/// What a client makes of the messages.
#[derive(Default)]
struct Client {
    watcher: Option<Watcher>,
    known: BTreeSet<(String, u32)>,
    messages: usize,
    bytes: usize,
    whole: usize,
}

impl Client {
    fn new(feeds: &Arc<Feeds>) -> Self {
        Self { watcher: feeds.watch(&shop()), ..Self::default() }
    }
    /// Everything that is there to be told now.
    fn drain(&mut self) -> (usize, usize) {
        let before = (self.messages, self.bytes);
        let mut watcher = self.watcher.take().unwrap();
        loop {
            let next = watcher.next();
            let polled = futures_util::FutureExt::now_or_never(next);
            let Some(bytes) = polled else { break };
            self.hear(&bytes);
        }
        self.watcher = Some(watcher);
        (self.messages - before.0, self.bytes - before.1)
    }
    fn hear(&mut self, bytes: &Bytes) {
        (self.messages, self.bytes) = (self.messages + 1, self.bytes + bytes.len());
        let message = v1::WatchResponse::decode(bytes.clone()).unwrap();
        if message.whole {
            self.whole += 1;
            self.known.clear();
        }
        for found in message.upserted {
            let instance = found.instance.unwrap();
            self.known.retain(|(id, _)| *id != instance.id || id.is_empty());
            self.known.insert((instance.id, instance.weight));
        }
        for id in message.removed {
            self.known.retain(|(known, _)| *known != id);
        }
    }
}

#[test]
fn one_change_of_ten_thousand_instances_costs_each_of_a_thousand_watchers_one_small_message() {
    let mut set = Set::of(10_000);
    let feeds = set.feeds.clone();
    let mut watchers: Vec<Watcher> = (0..1_000).map(|_| feeds.watch(&shop()).unwrap()).collect();
    let now = |watcher: &mut Watcher| futures_util::FutureExt::now_or_never(watcher.next());
    for watcher in &mut watchers {
        let parts: Vec<Bytes> = std::iter::from_fn(|| now(watcher)).collect();
        assert_eq!(parts.len(), 10_000 / PART, "the whole set, in parts");
        assert!(parts.iter().all(|part| part.len() < 100_000), "{}", parts[0].len());
    }
    set.weigh(&[77], 2);
    set.weigh(&[77], 2);
    let mut told: BTreeSet<*const u8> = BTreeSet::new();
    for watcher in &mut watchers {
        let message = now(watcher).expect("the change");
        assert!(message.len() < 200, "{} bytes", message.len());
        told.insert(message.as_ptr());
        assert!(now(watcher).is_none(), "one message, and no more");
    }
    assert_eq!(told.len(), 1, "made once for all");
    drop(watchers);
    assert_eq!(feeds.watchers(), 0);
}

#[test]
fn a_slow_watcher_is_told_the_sum_and_a_very_slow_one_the_whole() {
    let mut set = Set::of(2_000);
    let feeds = set.feeds.clone();
    let (mut quick, mut slow) = (Client::new(&feeds), Client::new(&feeds));
    quick.drain();
    slow.drain();
    for weight in 2..102 {
        set.weigh(&[1, 2], weight);
        assert_eq!(quick.drain().0, 1);
    }
    set.remove(2);
    let (messages, bytes) = slow.drain();
    assert_eq!(messages, 1, "a hundred changes in one message");
    assert!(bytes < 300, "{bytes}");
    quick.drain();
    assert_eq!(slow.known, quick.known);
    for n in 0..300 {
        set.weigh(&[n], 500);
        quick.drain();
    }
    assert_eq!((slow.whole, quick.whole), (1, 1));
    slow.drain();
    assert_eq!(slow.whole, 2, "the log does not reach back so far");
    assert_eq!(slow.known, quick.known);
}

#[test]
fn the_whole_set_in_place_of_a_sum_that_is_larger() {
    let mut set = Set::of(100);
    let feeds = set.feeds.clone();
    let mut slow = Client::new(&feeds);
    slow.drain();
    set.weigh(&[7], 7);
    feeds.publish(&shop(), vec![found(500, 1)]);
    slow.drain();
    assert_eq!((slow.messages, slow.whole), (2, 2));
    assert_eq!(slow.known, [("shop-500".to_owned(), 1)].into());
}

#[test]
fn an_empty_service_is_said_to_be_empty_and_costs_nothing_afterwards() {
    let feeds = Arc::new(Feeds::default());
    let mut client = Client::new(&feeds);
    client.drain();
    assert_eq!((client.messages, client.whole), (1, 1));
    feeds.publish(&shop(), vec![found(1, 1)]);
    feeds.publish(&shop(), vec![found(1, 1)]);
    assert_eq!(client.drain().0, 1, "the same again is no change");
    let (first, _) = feeds.lookup(&shop());
    feeds.publish(&shop(), Vec::new());
    client.drain();
    assert!(client.known.is_empty());
    drop(client);
    assert!(lock(&feeds.services).is_empty());
    feeds.publish(&shop(), vec![found(1, 1)]);
    assert!(feeds.lookup(&shop()).0 > first, "a revision is never used twice");
}
