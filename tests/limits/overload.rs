//! Overload, with real processes: twenty calling sidecars, one application of ten workers, and callers that lose patience
//! and ask again at once, three times.

use crate::FUSEWIRE;
use bytes::Bytes;
use fusewire_testkit::mesh::{Mesh, Sidecar};
use fusewire_testkit::raw::Server;
use fusewire_testkit::{eventually, free_port, h2c};
use h2::client::SendRequest;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

const CALLERS: u32 = 20;
const WORKERS: u32 = 10;
const WORK: Duration = Duration::from_millis(50);
/// Requests that the application finishes in a second.
const CAPACITY: u32 = 200;
const PATIENCE: Duration = Duration::from_millis(500);
const TRIES: u32 = 4;

/// A thread pool as many applications have one: whoever comes waits for a worker, and nobody notices who has left.
#[derive(Default)]
struct Pool {
    /// Who works, and who is there at all.
    busy: Mutex<(u32, u32)>,
    freed: Condvar,
    workers: AtomicU32,
}

impl Pool {
    fn work(&self) {
        let mut busy = self.busy.lock().unwrap();
        busy.1 += 1;
        while busy.0 >= self.workers.load(Ordering::SeqCst) {
            busy = self.freed.wait(busy).unwrap();
        }
        busy.0 += 1;
        drop(busy);
        std::thread::sleep(WORK); // bounded wait: the work
        let mut busy = self.busy.lock().unwrap();
        *busy = (busy.0 - 1, busy.1 - 1);
        self.freed.notify_one();
    }
    /// With as many workers as it takes.
    fn catch_up(&self) {
        self.resize(u32::MAX);
        eventually("the application has caught up", || self.busy.lock().unwrap().1 == 0);
        self.resize(WORKERS);
    }
    fn resize(&self, workers: u32) {
        self.workers.store(workers, Ordering::SeqCst);
        self.freed.notify_all();
    }
}

fn yaml(app: u16, inbound: u16, guard: &str) -> String {
    format!(
        "policies:\n  p: {{limit: {{inbound: {guard}}}}}\nservices:\n  shop: {{policy: p, allow: [web], instances: \
         [{{id: shop-1, address: 127.0.0.1:{app}, sidecar: 127.0.0.1:{inbound}}}]}}\n"
    )
}

/// Whether one request, with all its tries, was answered.
async fn ask(client: SendRequest<Bytes>) -> bool {
    for _ in 0..TRIES {
        let called = h2c::call(&client, h2c::request("GET", "shop/"));
        if let Ok(Ok(answer)) = timeout(PATIENCE, called).await
            && answer.status() == 200
        {
            return true;
        }
    }
    false
}

/// What became of the requests that began in each second: good ones, and all.
type Seconds = Arc<Mutex<Vec<(u32, u32)>>>;

/// Sends `a_second` requests from all callers together until a second was as `enough` says, or for so many seconds; the
/// percentage of good answers in the last second that was looked at.
async fn load(clients: &[SendRequest<Bytes>], a_second: u32, seconds: u64, enough: impl Fn(u64, u32) -> bool) -> u32 {
    let (began, seen) = (Instant::now(), Seconds::default());
    let mut pace = interval(Duration::from_secs(1) / a_second);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut looked, mut good) = (0, 0);
    for client in clients.iter().cycle() {
        let now = pace.tick().await;
        let second = now.duration_since(began).as_secs();
        // the requests of a second are over when the patience of its last is
        let over = (PATIENCE * TRIES).as_secs() + 1;
        if second > looked + over {
            let (answered, all) = seen.lock().unwrap().get(looked as usize).copied().unwrap_or_default();
            good = answered * 100 / all.max(1);
            if enough(looked, good) || looked == seconds {
                break;
            }
            looked += 1;
        }
        let (client, seen) = (client.clone(), seen.clone());
        tokio::spawn(async move {
            let answered = ask(client).await;
            let mut seen = seen.lock().unwrap();
            let until = seen.len().max(second as usize + 1);
            seen.resize(until, (0, 0));
            let (good, all) = &mut seen[second as usize];
            (*good, *all) = (*good + u32::from(answered), *all + 1);
        });
    }
    sleep(PATIENCE * TRIES).await; // bounded wait: the last request's patience
    good
}

/// 85 % of the capacity is asked for; from the second second to the fifth there is half of it. Good answers in percent, in the
/// first second that `enough` takes.
async fn after_a_dip(clients: &[SendRequest<Bytes>], pool: &Arc<Pool>, enough: impl Fn(u64, u32) -> bool) -> u32 {
    let (began, seconds) = (Instant::now(), Duration::from_secs);
    let dip = {
        let pool = pool.clone();
        async move {
            sleep_until(began + seconds(2)).await;
            pool.resize(WORKERS / 2);
            sleep_until(began + seconds(5)).await;
            pool.resize(WORKERS);
        }
    };
    let (_, good) = tokio::join!(dip, load(clients, CAPACITY * 85 / 100, 40, enough));
    good
}

fn gate(shop: &Sidecar, field: &str) -> serde_json::Value {
    shop.socket("/limits")["inbound"][0][field].clone()
}

#[test]
fn twenty_callers_that_ask_again_cannot_keep_an_application_down() {
    let pool = Arc::new(Pool::default());
    pool.resize(WORKERS);
    let app = {
        let pool = pool.clone();
        Server::http(move |conn, _| {
            pool.work();
            conn.try_say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_ok()
        })
    };
    let inbound = free_port();
    let mesh = Mesh::new(FUSEWIRE, &yaml(app.port, inbound, "off"));
    let shop = mesh.sidecar("shop", "shop-1", Some(inbound));
    let more = "  access_log: off\n";
    let webs: Vec<_> = (0..CALLERS).map(|n| mesh.sidecar_with("web", &format!("web-{n}"), None, more)).collect();
    let ports: Vec<u16> = webs.iter().map(|web| web.outbound).collect();
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clients = rt.block_on(async { futures_util::future::join_all(ports.iter().map(|p| h2c::client(*p))).await });
    for client in &clients {
        assert!(rt.block_on(ask(client.clone())));
    }
    let without = rt.block_on(after_a_dip(&clients, &pool, |second, _| second == 8));
    pool.catch_up();
    mesh.configure(&yaml(app.port, inbound, "queue_guard"));
    eventually("there is a guard", || gate(&shop, "algorithm") == "queue_guard");
    let with = rt.block_on(after_a_dip(&clients, &pool, |second, good| second > 5 && good >= 85));
    let shed = gate(&shop, "shed");
    eprintln!(
        "O1, {CALLERS} callers: {without} % of requests answered without the guard, {with} % with it; shed {shed}"
    );
    // twice as much as it can do: what it can do should be done
    let done = 2 * rt.block_on(load(&clients, 2 * CAPACITY, 40, |second, good| second > 2 && good >= 40));
    eprintln!("O2, {CALLERS} callers: {done} % of the capacity");
    let refused = webs.iter().filter(|web| web.circuit("shop-1").as_deref() != Some("closed")).count();
    assert_eq!(refused, 0, "overload opens no circuit");
    assert!(without < 85, "{without} %: this load should keep an application without a guard down");
    assert!(with >= 85, "{with} %: it comes back");
    assert!(done >= 80, "{done} %");
}
