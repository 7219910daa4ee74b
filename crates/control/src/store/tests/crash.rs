//! kill -9 at any moment: what was answered for is there, what was not is there whole or not at all.
//!
//! The test starts itself as the process to be killed.

use super::*;
use fusewire_testkit::process::Process;
use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const PATH: &str = "FUSEWIRE_TEST_STORE";
const ROUNDS: u64 = 60;
const WRITERS: u64 = 3;
/// Of each writer's commits so many remain to be looked for.
const KEPT: u64 = 20;

/// This test binary, running one test of this module.
pub(super) fn child(test: &str, path: &Path, before: &[&str]) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut words: Vec<std::ffi::OsString> = before.iter().map(|word| word.into()).collect();
    words.push(own.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["--exact", test, "--nocapture", "--include-ignored"]).env(PATH, path);
    command
}

/// Where the test that runs is a child.
pub(super) fn own_path() -> Option<PathBuf> {
    std::env::var_os(PATH).map(PathBuf::from)
}

/// A number that several keys of one commit share.
fn step(writer: u64, n: u64) -> Change {
    let value = n.to_string();
    let change = Change::default()
        .put(format!("last/{writer}"), value.clone())
        .put(format!("left/{writer}"), value.clone())
        .put(format!("right/{writer}"), [value.as_bytes(), &[b' '; 3000]].concat())
        .put(format!("log/{writer}/{n}"), value);
    if n > KEPT { change.delete(format!("log/{writer}/{}", n - KEPT)) } else { change }
}

#[test]
#[ignore = "the process that a_kill_at_any_moment_loses_nothing_that_was_answered kills"]
fn commits_until_killed() {
    let Some(path) = own_path() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(&StoreSettings::Embedded(path)).await.unwrap();
        let _alive = store.put_while_alive("alive", "x".into(), Duration::from_secs(1)).await.unwrap();
        println!("opened");
        futures_util::future::join_all((0..WRITERS).map(|writer| commit_on(store.clone(), writer))).await;
    });
}

async fn commit_on(store: Store, writer: u64) {
    let read = store.get(&format!("last/{writer}")).await.unwrap();
    let mut n = read.map_or(0, |entry| number(&entry));
    loop {
        n += 1;
        let revision = store.commit(step(writer, n)).await.unwrap();
        println!("ack {writer} {n} {revision}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_loses_nothing_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let mut random = Random(0x5eed);
    let (mut revision, mut committed, mut while_starting) = (0, 0, 0);
    for round in 0..ROUNDS {
        let log = dir.path().join(format!("log{round}"));
        let mut process = Process::start(&mut child("store::tests::crash::commits_until_killed", &path, &[]), log);
        if random.below(4) > 0 {
            let lines = usize::try_from(random.below(40)).unwrap();
            fusewire_testkit::eventually("it commits", || process.output().lines().count() > lines);
        }
        spin(Duration::from_micros(random.below(60_000)));
        process.kill();
        let output = process.output();
        assert!(!output.contains("panicked"), "round {round}");
        let acknowledged: Vec<[u64; 3]> = output.lines().filter_map(acknowledgement).collect();
        while_starting += u64::from(acknowledged.is_empty());
        committed += acknowledged.len();
        if path.exists() {
            revision = check(&path, &acknowledged, revision).await;
        } else {
            assert!(acknowledged.is_empty() && revision == 0, "round {round}: the store is gone");
        }
    }
    assert!(committed > 300 && while_starting > 0, "{committed} commits, {while_starting} kills while starting");
    assert!(!dir.path().join("store.redb.new").exists());
}

/// `ack writer n revision`, if the line came whole.
fn acknowledgement(line: &str) -> Option<[u64; 3]> {
    let numbers: Vec<u64> = line.strip_prefix("ack ")?.split(' ').map_while(|word| word.parse().ok()).collect();
    numbers.try_into().ok()
}

/// Returns the revision that the next round must not fall behind.
async fn check(path: &Path, acknowledged: &[[u64; 3]], before: u64) -> u64 {
    let store = Store::open(&StoreSettings::Embedded(path.to_owned())).await.unwrap();
    let (revision, entries) = store.list("").await.unwrap();
    let found: HashMap<&str, &Entry> = entries.iter().map(|entry| (entry.key.as_str(), entry)).collect();
    assert!(!found.contains_key("alive"), "what lasted as long as the process outlived it");
    let newest = acknowledged.iter().map(|[_, _, revision]| *revision).max().unwrap_or(0);
    assert!(revision >= newest && revision >= before, "{revision}: {newest} was answered, {before} was seen before");
    for writer in 0..WRITERS {
        let last = found.get(format!("last/{writer}").as_str()).map_or(0, |entry| number(entry));
        for [_, n, at] in acknowledged.iter().filter(|[by, _, _]| *by == writer) {
            assert!(*n <= last, "writer {writer}: {n} was answered, {last} is there");
            if n + KEPT > last {
                let entry = found.get(format!("log/{writer}/{n}").as_str());
                assert_eq!(entry.map(|entry| (number(entry), entry.revision)), Some((*n, *at)));
            }
        }
        if last > 0 {
            let of = |name: &str| found[format!("{name}/{writer}").as_str()];
            let text = |entry: &Entry| String::from_utf8(entry.value.to_vec()).unwrap().trim_end().to_owned();
            let whole = [of("last"), of("left"), of("right"), found[format!("log/{writer}/{last}").as_str()]];
            assert!(whole.iter().all(|entry| entry.revision == whole[0].revision), "half a commit: {whole:?}");
            assert!(whole.iter().all(|entry| text(entry) == last.to_string()), "half a commit: {whole:?}");
            let logged = entries.iter().filter(|entry| entry.key.starts_with(&format!("log/{writer}/"))).count();
            assert_eq!(u64::try_from(logged).unwrap(), last.min(KEPT), "a delete without its commit");
        }
    }
    revision
}

fn spin(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}
