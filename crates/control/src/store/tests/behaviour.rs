//! One suite, run over every engine.

use super::*;
use bytes::Bytes;

macro_rules! over_each {
    ($($name:ident)*) => {
        mod over_embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(&super::Bed::embedded().await.store).await })*
        }
        mod over_etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(&super::Bed::etcd().await.store).await })*
        }
        mod over_kubernetes {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(&super::Bed::kubernetes().await.store).await })*
        }
    };
}

over_each! {
    an_entry_comes_back_with_the_revision_that_wrote_it
    a_change_that_is_not_as_expected_changes_nothing_and_names_the_key
    concurrent_counters_lose_no_increment
    a_list_holds_what_is_below_the_prefix_sorted
    a_list_of_many_pages_is_of_one_moment
    what_changes_nothing_takes_no_revision
    a_watcher_is_told_whole_commits_in_order_below_its_prefix_alone
    a_watcher_that_does_not_read_is_told_to_list_again
    a_watcher_who_does_as_told_knows_what_the_store_holds
    any_sequence_of_changes_ends_as_a_plain_map_would
    a_presence_ends_with_its_handle
    a_presence_leaves_alone_what_someone_else_put
    what_is_too_large_or_no_key_is_refused_with_the_remedy
}

async fn an_entry_comes_back_with_the_revision_that_wrote_it(store: &Store) {
    assert_eq!(store.get("a").await, Ok(None));
    let first = store.commit(Change::default().put("a", "1").put("b", &b"\0\xff"[..])).await.unwrap();
    let second = store.commit(Change::default().put("a", "2")).await.unwrap();
    assert!(second > first);
    let expected = |key: &str, value: &'static [u8], revision| {
        Ok(Some(Entry { key: key.into(), value: Bytes::from_static(value), revision }))
    };
    assert_eq!(store.get("a").await, expected("a", b"2", second));
    assert_eq!(store.get("b").await, expected("b", b"\0\xff", first));
    assert!(store.list("").await.unwrap().0 >= second);
    store.healthy().await.unwrap();
    assert_eq!(store.is_shared(), store.engine() != "embedded");
}

async fn a_change_that_is_not_as_expected_changes_nothing_and_names_the_key(store: &Store) {
    let first = store.commit(Change::default().create("a", "1").create("b", "1")).await.unwrap();
    let conflict = |key: &str| Err(StoreError::Conflict { key: key.into() });
    assert_eq!(store.commit(Change::default().put("x", "1").create("b", "2")).await, conflict("b"));
    let a = store.get("a").await.unwrap().unwrap();
    let stale = Change::default().replace(&a, "2");
    let second = store.commit(stale.clone()).await.unwrap();
    // of several expectations the first that fails is named, and what precedes it was not done
    let later = Change::default().expect("b", Expect::Revision(first)).put("b", "3").delete("x");
    assert_eq!(
        store.commit(Change { put: stale.put, ..later.clone() }.expect("a", Expect::Revision(first))).await,
        conflict("a")
    );
    assert_eq!(
        store.commit(Change::default().expect("gone", Expect::Revision(first)).put("x", "1")).await,
        conflict("gone")
    );
    assert_eq!(store.commit(Change::default().remove(&a)).await, conflict("a"));
    let (_, entries) = store.list("").await.unwrap();
    assert_eq!(
        entries.iter().map(|e| (&*e.key, number(e), e.revision)).collect::<Vec<_>>(),
        [("a", 2, second), ("b", 1, first)]
    );
    // an expectation without a write is a question
    assert!(store.commit(Change::default().expect("a", Expect::Revision(second))).await.is_ok());
    assert_eq!(store.commit(Change::default().expect("a", Expect::Absent)).await, conflict("a"));
    // absent again after a delete
    store.commit(Change::default().delete("b")).await.unwrap();
    store.commit(later.expect("b", Expect::Absent)).await.unwrap_err();
    store.commit(Change::default().create("b", "4")).await.unwrap();
}

async fn concurrent_counters_lose_no_increment(store: &Store) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 10;
    store.commit(Change::default().put("n", "0")).await.unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while done < EACH {
                    let read = store.get("n").await.unwrap().unwrap();
                    match store.commit(Change::default().replace(&read, (number(&read) + 1).to_string())).await {
                        Ok(_) => done += 1,
                        Err(StoreError::Conflict { key }) => assert_eq!(key, "n"),
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        soon(writer).await.unwrap();
    }
    assert_eq!(number(&store.get("n").await.unwrap().unwrap()), WRITERS * EACH);
}

async fn a_list_holds_what_is_below_the_prefix_sorted(store: &Store) {
    let names = ["a", "a/", "a/b/c", "a/z", "a/ü", "a0", "b", "\u{10ffff}"];
    let change = names.iter().rev().fold(Change::default(), |change, name| change.put(*name, "x"));
    store.commit(change).await.unwrap();
    assert_eq!(keys(&store.list("a/").await.unwrap().1), ["a/", "a/b/c", "a/z", "a/ü"]);
    assert_eq!(keys(&store.list("").await.unwrap().1), names);
    assert_eq!(keys(&store.list("\u{10ffff}").await.unwrap().1), ["\u{10ffff}"]);
    assert_eq!(keys(&store.list("a/b/c/").await.unwrap().1), [""; 0]);
}

async fn a_list_of_many_pages_is_of_one_moment(store: &Store) {
    // the first and the last entry always carry the same number, hundreds of entries apart
    let filler = (0..120).fold(Change::default(), |change, n| change.put(format!("k{n:03}"), "0"));
    store.commit(filler).await.unwrap();
    let both = |n: u64| Change::default().put("a", n.to_string()).put("z", n.to_string());
    store.commit(both(0)).await.unwrap();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 1..=60 {
                store.commit(both(n)).await.unwrap();
            }
        })
    };
    let (mut seen, mut last) = (0, 0);
    while seen < 60 {
        let (revision, entries) = soon(store.list("")).await.unwrap();
        assert_eq!(entries.len(), 122);
        let (first, end) = (&entries[0], &entries[121]);
        assert_eq!(number(first), number(end));
        assert_eq!(first.revision, end.revision);
        assert!(revision >= last && revision >= first.revision, "{revision} after {last}");
        (seen, last) = (number(first), revision);
    }
    writer.await.unwrap();
}

async fn what_changes_nothing_takes_no_revision(store: &Store) {
    let first = store.commit(Change::default().put("a", "1")).await.unwrap();
    assert_eq!(store.commit(Change::default()).await, Ok(first));
    assert_eq!(store.commit(Change::default().delete("no such key")).await, Ok(first));
    assert_eq!(store.list("").await.unwrap().0, first);
    // but putting what is there already is a write, as someone may wait for it
    assert!(store.commit(Change::default().put("a", "1")).await.unwrap() > first);
}

async fn a_watcher_is_told_whole_commits_in_order_below_its_prefix_alone(store: &Store) {
    store.commit(Change::default().put("in/old", "0")).await.unwrap();
    let mut watch = store.watch("in/");
    assert_eq!(soon(watch.next()).await, Event::Resync);
    // in etcd a watch begins when it is listed: what comes before may come again
    let (listed, _) = store.list("in/").await.unwrap();
    let mixed = Change::default().put("in/a", "1").put("out", "1").put("in/b", "2").delete("in/old").delete("in/never");
    let first = store.commit(mixed).await.unwrap();
    store.commit(Change::default().put("out", "2").delete("in/never")).await.unwrap();
    let second = store.commit(Change::default().put("in/a", "3")).await.unwrap();
    let third = store.commit(Change::default().delete("in/a").delete("in/b")).await.unwrap();
    let mut told = Vec::new();
    while told.len() < 3 {
        match soon(watch.next()).await {
            Event::Changed { revision, puts, deletes } if revision > listed => {
                let puts: Vec<(String, u64)> = puts
                    .iter()
                    .map(|e| {
                        assert_eq!(e.revision, revision);
                        (e.key.clone(), number(e))
                    })
                    .collect();
                told.push((revision, puts, deletes));
            }
            Event::Changed { .. } => {}
            Event::Resync => panic!("nothing was missed"),
        }
    }
    assert_eq!(told[0], (first, vec![("in/a".into(), 1), ("in/b".into(), 2)], vec!["in/old".to_owned()]));
    assert_eq!(told[1], (second, vec![("in/a".into(), 3)], vec![]));
    assert_eq!(told[2], (third, vec![], vec!["in/a".to_owned(), "in/b".to_owned()]));
}

async fn a_watcher_that_does_not_read_is_told_to_list_again(store: &Store) {
    let mut watch = store.watch("");
    assert_eq!(soon(watch.next()).await, Event::Resync);
    // always the same key: one engine has no room for 12 MiB
    let large = Bytes::from(vec![7; (1 << 20).min(store.limits().bytes - 1)]);
    for _ in 0..(12 << 20) / large.len() {
        store.commit(Change::default().put("k", large.clone())).await.unwrap();
    }
    let last = store.commit(Change::default().put("last", "x")).await.unwrap();
    let mut resyncs = 0;
    loop {
        match soon(watch.next()).await {
            Event::Resync => {
                resyncs += 1;
                assert_eq!(store.list("").await.unwrap().1.len(), 2);
            }
            Event::Changed { revision, .. } if revision == last => break,
            Event::Changed { .. } => {}
        }
        if resyncs > 0 && store.list("last").await.unwrap().0 >= last {
            break;
        }
    }
    assert!(resyncs > 0, "12 MiB waited for a watcher");
}

async fn a_watcher_who_does_as_told_knows_what_the_store_holds(store: &Store) {
    let mut mirror = Mirror::new(store, "k/");
    let writers: Vec<_> = (0..4u64)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut random = Random(writer);
                for n in 0..50 {
                    let (put, delete) = (random.below(20), 20 + random.below(20));
                    let flip = Change::default().put(format!("k/{put}"), n.to_string()).delete(format!("k/{delete}"));
                    store.commit(flip).await.unwrap();
                    store.commit(Change::default().put(format!("k/{delete}"), n.to_string())).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        soon(writer).await.unwrap();
    }
    let end = store.commit(Change::default().put("k/end", "0")).await.unwrap();
    mirror.until("the last change", |mirror| mirror.listed >= end).await;
    assert_eq!(mirror.known.into_values().collect::<Vec<_>>(), store.list("k/").await.unwrap().1);
}

async fn any_sequence_of_changes_ends_as_a_plain_map_would(store: &Store) {
    let mut random = Random(42);
    let mut map: BTreeMap<String, Entry> = BTreeMap::new();
    let mut last = 0;
    for step in 0..200u64 {
        let mut change = Change::default();
        for key in 0..6 {
            let key = format!("k{key}");
            change = match random.below(12) {
                0 | 1 => change.put(&key, step.to_string()),
                2 => change.delete(&key),
                3 => change.expect(&key, Expect::Absent),
                4 => change.expect(&key, Expect::Revision(map.get(&key).map_or(last, |entry| entry.revision))),
                _ => change,
            };
        }
        let wrong = change.expect.iter().find(|(key, expect)| match expect {
            Expect::Absent => map.contains_key(key),
            Expect::Revision(revision) => map.get(key).map(|entry| entry.revision) != Some(*revision),
        });
        let result = store.commit(change.clone()).await;
        if let Some((key, _)) = wrong {
            assert_eq!(result, Err(StoreError::Conflict { key: key.clone() }), "step {step}: {change:?}");
            continue;
        }
        let revision = result.unwrap();
        let writes = !change.put.is_empty() || change.delete.iter().any(|key| map.contains_key(key));
        assert_eq!(revision > last, writes, "step {step}: {change:?}");
        last = revision;
        change.delete.iter().for_each(|key| drop(map.remove(key)));
        for (key, value) in change.put {
            map.insert(key.clone(), Entry { key, value, revision });
        }
        let (at, entries) = store.list("").await.unwrap();
        assert_eq!((at, entries), (last, map.values().cloned().collect()), "step {step}");
    }
}

async fn a_presence_ends_with_its_handle(store: &Store) {
    let mut mirror = Mirror::new(store, "replicas/");
    let one = store.put_while_alive("replicas/one", "here".into(), Duration::from_secs(30)).await.unwrap();
    let two = store.put_while_alive("replicas/two", "here".into(), Duration::from_secs(30)).await.unwrap();
    assert_eq!(keys(&store.list("replicas/").await.unwrap().1), ["replicas/one", "replicas/two"]);
    soon(one.leave()).await;
    assert_eq!(keys(&store.list("replicas/").await.unwrap().1), ["replicas/two"]);
    mirror.until("two is seen alone", |mirror| mirror.known.keys().eq(["replicas/two"])).await;
    drop(two);
    mirror.until("nobody is left", |mirror| mirror.known.is_empty()).await;
}

async fn a_presence_leaves_alone_what_someone_else_put(store: &Store) {
    let one = store.put_while_alive("x", "mine".into(), Duration::from_secs(30)).await.unwrap();
    store.commit(Change::default().put("x", "yours")).await.unwrap();
    soon(one.leave()).await;
    assert_eq!(store.get("x").await.unwrap().unwrap().value, "yours");
}

async fn what_is_too_large_or_no_key_is_refused_with_the_remedy(store: &Store) {
    let limits = store.limits();
    let many = (0..=limits.operations).fold(Change::default(), |change, n| change.put(n.to_string(), "x"));
    let error = store.commit(many).await.unwrap_err();
    assert!(matches!(&error, StoreError::TooLarge(said) if said.contains("fewer")), "{error}");
    let error = store.commit(Change::default().put("a", vec![0; limits.bytes])).await.unwrap_err();
    assert!(matches!(&error, StoreError::TooLarge(said) if said.contains("fewer or smaller")), "{error}");
    let invalid = [
        Change::default().put("", "x"),
        Change::default().delete("k".repeat(2000)),
        Change::default().put("a", "1").put("a", "2"),
        Change::default().put("a", "1").delete("a"),
    ];
    for change in invalid {
        let error = store.commit(change.clone()).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid(_)), "{change:?}: {error}");
    }
    assert_eq!(store.list("").await.unwrap().1, []);
    // what is allowed works, to the last byte
    let full = (0..limits.operations).fold(Change::default(), |change, n| change.create(&n.to_string(), "x"));
    store.commit(full).await.unwrap();
    store.commit(Change::default().put("a", vec![0; limits.bytes - 1])).await.unwrap();
    assert_eq!(store.list("").await.unwrap().1.len(), limits.operations + 1);
}
