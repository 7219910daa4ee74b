//! What etcd and the way to it go through: kills, freezes, compactions, lost leases, users, TLS.

use super::*;
use crate::store::{EtcdTls, EtcdUser};
use fusewire_testkit::free_port;
use tokio::sync::oneshot::error::TryRecvError;

fn over(endpoints: &[&str]) -> EtcdSettings {
    EtcdSettings::new(endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_misses_nothing_over_kills_of_etcd() {
    let mut bed = Bed::etcd().await;
    let mut mirror = Mirror::new(&bed.store, "k/");
    let mut acknowledged = Vec::new();
    for round in 0..4u64 {
        let (done, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let store = bed.store.clone();
        let writer = tokio::spawn(async move {
            let mut n = round * 1000;
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                insist(
                    &store,
                    Change::default().put(format!("k/{}", n % 7), n.to_string()).put("k/last", n.to_string()),
                )
                .await;
                n += 1;
            }
            n - 1
        });
        mirror
            .until("some changes", |mirror| mirror.known.get("k/last").is_some_and(|e| number(e) > round * 1000 + 5))
            .await;
        bed.etcd_mut().kill();
        bed.etcd_mut().restart();
        drop(done);
        let last = soon(writer).await.unwrap();
        acknowledged.push(last);
        mirror.until("the last change", |mirror| mirror.known.get("k/last").is_some_and(|e| number(e) == last)).await;
    }
    assert_eq!(mirror.resyncs, 1, "etcd still had everything: nothing was to be listed again");
    // the last change may have been made twice: its first answer was lost
    let listed = bed.store.list("k/").await.unwrap().1;
    mirror.until("what is listed", |mirror| mirror.known.values().eq(&listed)).await;
}

#[tokio::test]
async fn a_compaction_while_away_makes_a_watcher_list_again() {
    let mut bed = Bed::etcd().await;
    let mut mirror = Mirror::new(&bed.store, "k/");
    bed.store.commit(Change::default().put("k/a", "1").put("k/b", "1")).await.unwrap();
    mirror.until("the first commit", |mirror| mirror.known.len() == 2).await;
    bed.etcd_mut().kill();
    // it goes on where the watcher does not find it
    let mut other = bed.etcd.as_ref().unwrap().elsewhere();
    let store = Store::open(&StoreSettings::Etcd(over(&[&other.url()]))).await.unwrap();
    store.commit(Change::default().delete("k/a")).await.unwrap();
    let last = store.commit(Change::default().put("k/b", "2")).await.unwrap();
    other.ctl(&["compact", &last.to_string()]);
    other.kill();
    bed.etcd_mut().restart();
    mirror.until("both changes", |mirror| mirror.listed >= last).await;
    assert_eq!(mirror.resyncs, 2);
    assert_eq!(mirror.known.keys().collect::<Vec<_>>(), ["k/b"]);
}

#[tokio::test]
async fn an_etcd_that_went_back_in_time_makes_a_watcher_list_again() {
    let mut bed = Bed::etcd().await;
    let mut mirror = Mirror::new(&bed.store, "k/");
    bed.store.commit(Change::default().put("k/old", "1")).await.unwrap();
    let backup = bed.dir.path().join("backup");
    bed.etcd_mut().ctl(&["snapshot", "save", backup.to_str().unwrap()]);
    for n in 0..20 {
        bed.store.commit(Change::default().put("k/new", n.to_string())).await.unwrap();
    }
    mirror.until("all of it", |mirror| mirror.known.get("k/new").is_some_and(|e| number(e) == 19)).await;
    bed.etcd_mut().kill();
    bed.etcd_mut().restore(&backup);
    bed.etcd_mut().restart();
    mirror.until("less than before", |mirror| mirror.known.keys().eq(["k/old"])).await;
    // and what comes with a revision that was seen before is told all the same
    let last = insist(&bed.store, Change::default().put("k/again", "1")).await;
    mirror.until("the new change", |mirror| mirror.listed == last).await;
    assert!(mirror.known.contains_key("k/again"));
}

#[tokio::test]
async fn calls_outlast_a_restart_and_fail_in_bounded_time_when_etcd_is_away() {
    let mut bed = Bed::etcd().await;
    bed.store.commit(Change::default().put("a", "1")).await.unwrap();
    bed.etcd_mut().kill();
    let began = std::time::Instant::now();
    // the connection that is held breaks, and whether its end was heard before a commit is a matter of luck
    assert!(matches!(bed.store.healthy().await, Err(StoreError::Unavailable(_))));
    let change = Change::default().put("a", "2");
    let (read, written) = tokio::join!(bed.store.get("a"), bed.store.commit(change));
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert!(matches!(written, Err(StoreError::Unavailable(_))), "nothing was sent: {written:?}");
    assert!(began.elapsed() < Duration::from_secs(14), "{:?}", began.elapsed());
    let store = bed.store.clone();
    let asked = tokio::spawn(async move { store.get("a").await });
    bed.etcd_mut().restart();
    asked.await.unwrap().map_or_else(|e| assert!(matches!(e, StoreError::Unavailable(_)), "{e}"), drop);
    assert_eq!(number(&bed.store.get("a").await.unwrap().unwrap()), 1);
}

#[tokio::test]
async fn a_commit_that_etcd_does_not_answer_is_uncertain() {
    let bed = Bed::etcd().await;
    bed.store.commit(Change::default().put("a", "1")).await.unwrap();
    bed.etcd.as_ref().unwrap().freeze();
    let began = std::time::Instant::now();
    let error = bed.store.commit(Change::default().put("a", "2")).await.unwrap_err();
    assert!(matches!(error, StoreError::Uncertain(_)), "{error}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    bed.etcd.as_ref().unwrap().go_on();
    // whether and when it comes through is a matter of luck: even after a read it may; only an expectation is sure
    let replaced = async {
        loop {
            let Ok(read) = bed.store.get("a").await else { continue };
            let read = read.unwrap();
            assert!([1, 2].contains(&number(&read)), "{read:?}");
            match bed.store.commit(Change::default().replace(&read, "3")).await {
                Ok(_) => break,
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    soon(replaced).await;
    assert_eq!(number(&bed.store.get("a").await.unwrap().unwrap()), 3);
}

#[tokio::test]
async fn the_next_endpoint_is_asked_where_one_does_not_answer() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    let dead = format!("http://127.0.0.1:{}", free_port());
    let store = Store::open(&StoreSettings::Etcd(over(&[&dead, &etcd.url(), &dead]))).await.unwrap();
    let began = std::time::Instant::now();
    store.commit(Change::default().put("a", "1")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "the one that answers is kept: {:?}", began.elapsed());
}

#[tokio::test]
async fn two_meshes_share_etcd_under_their_own_prefix() {
    let bed = Bed::etcd().await;
    let mut settings = over(&[&bed.etcd.as_ref().unwrap().url()]);
    settings.prefix = "/fusewire/two/".into();
    let other = Store::open(&StoreSettings::Etcd(settings.clone())).await.unwrap();
    other.commit(Change::default().put("a", "other")).await.unwrap();
    bed.store.commit(Change::default().put("a", "1")).await.unwrap();
    assert_eq!(other.list("").await.unwrap().1[0].value, "other");
    assert_eq!(number(&bed.store.get("a").await.unwrap().unwrap()), 1);
    settings.prefix = "/fusewire".into();
    let error = Store::open(&StoreSettings::Etcd(settings)).await.unwrap_err();
    assert!(error.to_string().contains("does not end with /"), "{error}");
    let error = Store::open(&StoreSettings::Etcd(over(&["https://127.0.0.1:1"]))).await.unwrap_err();
    assert!(error.to_string().contains("https goes with a CA"), "{error}");
    assert!(Store::open(&StoreSettings::Etcd(over(&[]))).await.unwrap_err().to_string().contains("no etcd endpoint"));
}

#[tokio::test]
async fn a_list_whose_entries_grow_under_it_is_whole() {
    let bed = Bed::etcd().await;
    let chunk = bed.store.limits().operations;
    for from in (0..992).step_by(chunk) {
        let small = (from..(from + chunk).min(992)).fold(Change::default(), |c, n| c.put(format!("a{n:04}"), "x"));
        bed.store.commit(small).await.unwrap();
    }
    // by now pages are of a thousand entries, which is more of these than one answer may hold
    for n in 0..60 {
        bed.store.commit(Change::default().put(format!("b{n:02}"), vec![n; 1_200_000])).await.unwrap();
    }
    let (_, entries) = soon(bed.store.list("")).await.unwrap();
    assert_eq!(entries.len(), 992 + 60);
    assert!(entries[992..].iter().zip(0..).all(|(entry, n)| entry.value[..] == vec![n; 1_200_000][..]));
}

#[tokio::test]
async fn what_etcd_itself_finds_too_large_is_told_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start_with(dir.path(), &["--max-txn-ops", "4", "--max-request-bytes", "10000"]);
    let store = Store::open(&StoreSettings::Etcd(over(&[&etcd.url()]))).await.unwrap();
    let many = (0..5).fold(Change::default(), |change, n| change.put(n.to_string(), "x"));
    for change in [many, Change::default().put("a", vec![0; 20_000])] {
        let error = store.commit(change).await.unwrap_err();
        assert!(matches!(&error, StoreError::TooLarge(said) if said.contains("--max-txn-ops")), "{error}");
    }
}

#[tokio::test]
async fn a_presence_ends_soon_after_its_process() {
    let bed = Bed::etcd().await;
    let settings = bed.settings.clone();
    // its runtime dies without a word, as a killed process
    let dying = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let held = runtime.block_on(async {
            let store = Store::open(&settings).await.unwrap();
            store.put_while_alive("replicas/a", "x".into(), Duration::from_secs(2)).await.unwrap()
        });
        runtime.shutdown_background();
        std::mem::forget(held);
    });
    let mut mirror = Mirror::new(&bed.store, "replicas/");
    mirror.until("it is there", |mirror| mirror.known.len() == 1).await;
    dying.join().unwrap();
    mirror.until("it is gone", |mirror| mirror.known.is_empty()).await;
}

#[tokio::test]
async fn a_presence_outlives_its_time_to_live_and_comes_back_after_its_lease_is_lost() {
    let bed = Bed::etcd().await;
    let held = bed.store.put_while_alive("replicas/a", "x".into(), Duration::from_secs(2)).await.unwrap();
    let mut mirror = Mirror::new(&bed.store, "replicas/");
    mirror.until("it is there", |mirror| mirror.known.len() == 1).await;
    let first = mirror.known["replicas/a"].revision;
    let none_lost =
        tokio::time::timeout(Duration::from_secs(5), mirror.until("never", |mirror| mirror.known.is_empty()));
    assert!(none_lost.await.is_err(), "it was gone while its process lived");
    let leases = bed.etcd.as_ref().unwrap().ctl(&["lease", "list"]);
    let lease = leases.lines().last().unwrap().trim();
    bed.etcd.as_ref().unwrap().ctl(&["lease", "revoke", lease]);
    mirror.until("it comes back", |m| m.known.get("replicas/a").is_some_and(|entry| entry.revision > first)).await;
    soon(held.leave()).await;
    assert_eq!(bed.store.get("replicas/a").await, Ok(None));
}

#[tokio::test]
async fn a_user_is_logged_in_again_when_its_token_expires() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start_with(dir.path(), &["--auth-token-ttl", "1"]);
    etcd.ctl(&["user", "add", "root:s3cret"]);
    etcd.ctl(&["auth", "enable"]);
    let mut settings = over(&[&etcd.url()]);
    let error = Store::open(&StoreSettings::Etcd(settings.clone())).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(_)), "{error}");
    let user = |password: &str| Some(EtcdUser { name: "root".into(), password: password.into() });
    settings.user = user("wrong-one");
    let error = Store::open(&StoreSettings::Etcd(settings.clone())).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(said) if !said.contains("wrong-one")), "{error}");
    settings.user = user("s3cret");
    assert!(!format!("{settings:?}").contains("s3cret"));
    let store = Store::open(&StoreSettings::Etcd(settings)).await.unwrap();
    let mut mirror = Mirror::new(&store, "");
    let until = std::time::Instant::now() + Duration::from_secs(5);
    let mut last = 0;
    while std::time::Instant::now() < until {
        last = store.commit(Change::default().put("a", "1")).await.unwrap();
        // tokens live for a second without use: bounded wait for that to pass
        tokio::time::sleep(Duration::from_millis(1600)).await;
    }
    mirror.until("all of it", |mirror| mirror.listed >= last).await;
}

#[tokio::test]
async fn tls_shows_our_certificate_and_believes_its_ca_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let ca = authority(&path("ca"));
    leaf(&ca, &path("server"));
    leaf(&ca, &path("client"));
    authority(&path("other"));
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (text("ca.pem"), text("server.pem"), text("server.key"));
    let extra = ["--cert-file", &cert, "--key-file", &key, "--client-cert-auth", "--trusted-ca-file", &ca];
    let etcd = Etcd::start_with(dir.path(), &extra);
    let mut settings = over(&[&etcd.url()]);
    let tls = |ca: &str, identity: Option<&str>| {
        let identity = identity.map(|name| (path(&format!("{name}.pem")), path(&format!("{name}.key"))));
        Some(EtcdTls { ca: path(&format!("{ca}.pem")), identity })
    };
    let refused = |wrong: Option<EtcdTls>| {
        let settings = StoreSettings::Etcd(EtcdSettings { tls: wrong, ..settings.clone() });
        async move { Store::open(&settings).await.unwrap_err().to_string().to_lowercase() }
    };
    let (ours, theirs) = tokio::join!(refused(tls("other", Some("client"))), refused(tls("ca", None)));
    assert!(ours.contains("certificate") && theirs.contains("certificate"), "{ours}; {theirs}");
    settings.tls = tls("none", None);
    let error = Store::open(&StoreSettings::Etcd(settings.clone())).await.unwrap_err();
    assert!(error.to_string().contains("none.pem"), "{error}");
    settings.tls = tls("ca", Some("client"));
    let store = Store::open(&StoreSettings::Etcd(settings)).await.unwrap();
    let mut mirror = Mirror::new(&store, "");
    store.commit(Change::default().put("a", "1")).await.unwrap();
    mirror.until("it is seen", |mirror| mirror.known.len() == 1).await;
}

type Issuer = rcgen::Issuer<'static, rcgen::KeyPair>;

fn authority(path: &std::path::Path) -> Issuer {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(path.with_extension("pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    Issuer::new(params, key)
}

fn leaf(issuer: &Issuer, path: &std::path::Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    std::fs::write(path.with_extension("pem"), params.signed_by(&key, issuer).unwrap().pem()).unwrap();
    std::fs::write(path.with_extension("key"), key.serialize_pem()).unwrap();
}
