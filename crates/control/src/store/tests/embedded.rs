//! What happens to a file: rights, other processes, damage, a full disk.

use super::crash::{child, own_path};
use super::*;
use fusewire_testkit::process::{Process, eventually, tool};
use std::os::unix::fs::PermissionsExt;

async fn open(path: &std::path::Path) -> Result<Store, StoreError> {
    Store::open(&StoreSettings::Embedded(path.to_owned())).await
}

#[tokio::test]
async fn the_file_is_for_its_owner_only() {
    let bed = Bed::embedded().await;
    assert_eq!(bed.path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(bed.dir.path()).unwrap().count(), 1, "nothing else is left beside it");
}

#[tokio::test]
async fn a_store_opens_as_it_was_closed() {
    let bed = Bed::embedded().await;
    let revision = bed.store.commit(Change::default().put("a", "1")).await.unwrap();
    drop(bed.store);
    let again = open(&bed.dir.path().join("store.redb")).await.unwrap();
    let (at, entries) = again.list("").await.unwrap();
    assert_eq!((at, keys(&entries)), (revision, vec!["a"]));
    assert!(again.commit(Change::default().put("a", "2")).await.unwrap() > revision);
}

#[tokio::test]
async fn a_second_opening_is_refused_and_says_why() {
    let bed = Bed::embedded().await;
    let error = open(&bed.path()).await.unwrap_err();
    assert_eq!(error, StoreError::InUse { path: bed.path() });
    assert!(error.to_string().contains("another control plane"), "{error}");
    bed.store.commit(Change::default().put("a", "1")).await.unwrap();
}

#[tokio::test]
async fn what_is_not_a_store_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let foreign: [&[u8]; 3] = [b"", b"tokens: []\n", &[0; 100_000]];
    for content in foreign {
        std::fs::write(&path, content).unwrap();
        let error = open(&path).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains(path.to_str().unwrap()) && said.contains("put back a copy"), "{said}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
    // redb's, but not ours
    std::fs::remove_file(&path).unwrap();
    drop(redb::Database::create(&path).unwrap());
    let error = open(&path).await.unwrap_err();
    assert!(matches!(&error, StoreError::Damaged { detail, .. } if detail.contains("another program")), "{error}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    let error = open(std::path::Path::new("/proc/no-such-folder/store.redb")).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Unavailable(said) if said.contains("/proc/no-such-folder/store.redb")),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_file_is_refused_or_read_right() {
    let bed = Bed::embedded().await;
    let mut random = Random(7);
    for n in 0..40 {
        let value = vec![b'0' + u8::try_from(n % 10).unwrap(); usize::try_from(random.below(6000)).unwrap()];
        bed.store.commit(Change::default().put(format!("k{n}"), value)).await.unwrap();
    }
    let (_, good) = bed.store.list("").await.unwrap();
    drop(bed.store);
    let path = bed.dir.path().join("store.redb");
    eventually_closed(&path).await;
    let whole = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for _ in 0..80 {
        let mut bytes = whole.clone();
        if random.below(8) == 0 {
            bytes.truncate(usize::try_from(random.below(bytes.len() as u64)).unwrap().max(1));
        } else {
            // somewhere, but more often where the first pages are
            let bound = if random.below(2) == 0 { 16_384 } else { bytes.len() as u64 };
            let at = usize::try_from(random.below(bound)).unwrap();
            let end = (at + 1 + usize::try_from(random.below(64)).unwrap()).min(bytes.len());
            bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0x55);
        }
        std::fs::write(&path, &bytes).unwrap();
        match soon(open(&path)).await {
            Err(StoreError::Damaged { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
            Ok(store) => {
                let (_, entries) = store.list("").await.unwrap();
                assert_eq!(entries, good);
                drop(store);
                eventually_closed(&path).await;
            }
        }
    }
    assert!(refused > 10, "{refused} of 80");
}

/// A dropped store closes its file in the background.
async fn eventually_closed(path: &std::path::Path) {
    drop(open(path).await.unwrap());
}

#[test]
#[ignore = "the process that a_full_disk_is_over_when_it_has_room starts with little room"]
fn fills_the_disk() {
    let Some(path) = own_path() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(&path).await.unwrap();
        let mut mirror = Mirror::new(&store, "");
        let mut n = 0;
        let error = loop {
            match store.commit(Change::default().create(&format!("{n:05}"), vec![1; 200_000])).await {
                Ok(_) => n += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::Unavailable(_) | StoreError::Uncertain(_)), "{error}");
        assert!(error.to_string().contains("is the disk full"), "{error}");
        println!("full");
        let last = insist(&store, Change::default().put("room", "again")).await;
        let entries = store.list("").await.unwrap().1;
        assert!(entries.len() == n + 1 || entries.len() == n + 2, "{} of {n}", entries.len());
        mirror.until("the commit after it", |mirror| mirror.listed >= last).await;
        assert!(mirror.known.into_values().eq(entries));
        println!("room again");
    });
}

#[test]
fn a_full_disk_is_over_when_it_has_room() {
    let dir = tempfile::tempdir().unwrap();
    // a limit on the file's size stands for the disk; blocks of 1 KiB in bash, of 512 bytes in dash
    let little = ["sh", "-c", "trap '' XFSZ; ulimit -S -f 8000; exec \"$0\" \"$@\""];
    let mut command = child("store::tests::embedded::fills_the_disk", &dir.path().join("store.redb"), &little);
    let mut process = Process::start(&mut command, dir.path().join("log"));
    eventually("the disk is full", || process.output().contains("full"));
    let prlimit = std::process::Command::new(tool("prlimit"))
        .args(["--pid", &process.id().to_string(), "--fsize=unlimited:"])
        .status()
        .unwrap();
    assert!(prlimit.success());
    eventually("it ends", || process.ended().is_some());
    assert!(process.output().contains("room again"), "{}", process.output());
}
