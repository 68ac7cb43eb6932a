//! Every store against the suite of all stores: in memory, on disk, and through etcd's API.

#![allow(clippy::unwrap_used, reason = "tests: a surprise is a panic")]

mod suite;

use std::time::Duration;
use wharf_etcd::{
    Cluster, Delete, Door, Embedded, EventKind, KeyRange, LogError, Member, Mirror, Put, Range,
    Remote, Revision, Settings, Store as _, StoreError, Users, WatchItem, WatchRequest,
};

#[tokio::test]
async fn the_store_in_memory_passes_the_suite() {
    suite::check(&Embedded::in_memory(&Settings::default()).unwrap()).await;
}

#[tokio::test]
async fn the_store_on_disk_passes_the_suite_twice() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..2 {
        let store = Embedded::open(dir.path(), &Settings::default()).unwrap();
        if round == 0 {
            suite::check(&store).await;
        }
        let before = store.revision().await.unwrap();
        drop(store);
        let store = Embedded::open(dir.path(), &Settings::default()).unwrap();
        assert_eq!(store.revision().await.unwrap(), before);
        // What the suite left behind would not do for a second pass; a prefix of its own does.
        suite::remains(&store).await;
    }
}

/// A door of its own for a store, and a way to it.
async fn behind_a_door(store: Embedded) -> (Remote, tokio::task::JoinHandle<()>) {
    let member = Member {
        name: "default".to_owned(),
        token: "etcd-cluster".to_owned(),
        client_urls: Vec::new(),
        peer_urls: Vec::new(),
        progress: Duration::from_secs(600),
    };
    let mut door = Door::new(store, member, Users::default());
    let address = door.listen("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    let server = tokio::spawn(async move { drop(door.serve(std::future::pending()).await) });
    let endpoints = vec![format!("http://{address}")];
    (Remote::connect(Cluster { endpoints, ..Cluster::default() }).await.unwrap(), server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_behind_its_own_door_passes_the_suite() {
    let (remote, server) = behind_a_door(Embedded::in_memory(&Settings::default()).unwrap()).await;
    suite::check(&remote).await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_copy_of_a_remote_store_passes_the_suite() {
    let (remote, server) = behind_a_door(Embedded::in_memory(&Settings::default()).unwrap()).await;
    // Of everything, and of nothing that the suite looks at.
    for prefix in ["", "none/"] {
        let (store, server) = match prefix {
            "" => (remote.clone(), None),
            _ => {
                let (r, s) =
                    behind_a_door(Embedded::in_memory(&Settings::default()).unwrap()).await;
                (r, Some(s))
            }
        };
        suite::check(&Mirror::open(store, prefix).await.unwrap()).await;
        server.into_iter().for_each(|s| s.abort());
    }
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_shows_what_others_did_and_goes_back_before_it_began() {
    let store = Embedded::in_memory(&Settings::default()).unwrap();
    let (remote, server) = behind_a_door(store.clone()).await;
    let mut revisions = Vec::new();
    for n in 0..20 {
        let key = ["k/a", "k/b", "other"][n % 3];
        revisions.push(store.put(Put::new(key, n.to_string())).await.unwrap().revision);
    }
    let mirror = Mirror::open(remote, "k/").await.unwrap();
    let keys = || KeyRange::prefix("k/");
    let early = WatchRequest::new(keys()).from(revisions[3]);
    let (mut past, mut silent) = (
        mirror.watch(early).await.unwrap(),
        mirror.watch(WatchRequest::new(KeyRange::key("k/none")).from(revisions[3])).await.unwrap(),
    );
    for n in 20..400 {
        let key = ["k/a", "k/b", "other"][n % 3];
        let done = store.put(Put::new(key, n.to_string())).await.unwrap().revision;
        revisions.push(done);
        // Written by others, behind its back, and with keys between that it does not copy.
        let found = mirror.range(Range::new(keys())).await.unwrap();
        assert!(
            found.revision >= done
                && found.kvs == store.range(Range::new(keys())).await.unwrap().kvs
        );
        let local = mirror.range(Range::new(KeyRange::key("other")).local()).await.unwrap();
        assert_eq!(local.kvs, store.range(Range::new(KeyRange::key("other"))).await.unwrap().kvs);
    }
    for at in [0, 5, 19, 20, 300] {
        let old = Range::new(keys()).at(revisions[at]);
        assert_eq!(
            mirror.range(old.clone()).await.unwrap().kvs,
            store.range(old).await.unwrap().kvs
        );
    }
    let gone = store.delete(Delete::new(KeyRange::key("k/a"))).await.unwrap().revision;
    let mut seen = Vec::new();
    while seen.last() != Some(&gone) {
        if let WatchItem::Events { events, .. } = past.next().await.unwrap() {
            for e in events.iter() {
                let last = e.kv.mod_revision() == gone;
                assert_eq!(last, e.kind == EventKind::Delete);
                seen.push(e.kv.mod_revision());
            }
        }
    }
    let expected: Vec<Revision> =
        (3..400).filter(|n| n % 3 < 2).map(|n| revisions[n]).chain([gone]).collect();
    assert_eq!(seen, expected, "each once, in order");
    silent.request_progress();
    loop {
        match silent.next().await.unwrap() {
            WatchItem::Progress(through) if through >= gone => break,
            WatchItem::Progress(_) => silent.request_progress(),
            other => panic!("{other:?}"),
        }
    }
    server.abort();
}

#[tokio::test]
async fn a_store_is_read_back_from_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), &Settings::default()).unwrap();
    for n in 0..500 {
        store.put(Put::new(format!("key/{}", n % 50), n.to_string())).await.unwrap();
    }
    store.compact(Revision(300)).await.unwrap();
    store.pruned().await.unwrap();
    store.defragment().await.unwrap();
    store.put(Put::new("key/0", "behind the checkpoint")).await.unwrap();
    let (status, hash) = (store.status(), store.hash(None).unwrap());
    drop(store);
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().any(|n| n.starts_with("checkpoint-")), "{names:?}");
    assert_eq!(names.iter().filter(|n| n.starts_with("log-")).count(), 1, "{names:?}");
    let again = Embedded::open(dir.path(), &Settings::default()).unwrap();
    assert_eq!((again.status(), again.hash(None).unwrap()), (status, hash));
    let second = Embedded::open(dir.path(), &Settings::default());
    assert!(matches!(second, Err(LogError::Locked)), "two processes must not share a store");
}

#[tokio::test]
async fn ten_thousand_watchers_hear_everything() {
    const WATCHERS: usize = 10_000;
    const WRITES: usize = 20;
    let store = Embedded::in_memory(&Settings::default()).unwrap();
    let mut watches = Vec::new();
    for n in 0..WATCHERS {
        // Half of them watch all, as controllers do; the others one key each, as nodes do.
        let keys = match n % 2 {
            0 => KeyRange::prefix("pods/"),
            _ => KeyRange::key(format!("pods/{n}")),
        };
        watches.push(store.watch(WatchRequest::new(keys)).await.unwrap());
    }
    for n in 0..WRITES {
        store.put(Put::new(format!("pods/{}", 2 * n + 1), "x")).await.unwrap();
    }
    let mut heard = 0;
    for (n, watch) in watches.iter_mut().enumerate() {
        let expected = match n {
            n if n % 2 == 0 => WRITES,
            n if n < 2 * WRITES => 1,
            _ => 0,
        };
        let mut found = 0;
        while found < expected {
            if let WatchItem::Events { events, .. } = watch.next().await.unwrap() {
                found += events.len();
            }
        }
        watch.request_progress();
        assert!(matches!(watch.next().await.unwrap(), WatchItem::Progress(_)), "watcher {n}");
        assert_eq!(found, expected);
        heard += found;
    }
    assert_eq!(heard, WATCHERS / 2 * WRITES + WRITES);
}

#[tokio::test]
async fn a_watcher_that_does_not_read_costs_nobody_anything() {
    let store = Embedded::in_memory(&Settings::default()).unwrap();
    let keys = || WatchRequest::new(KeyRange::prefix("k"));
    let (mut slow, mut lost) =
        (store.watch(keys()).await.unwrap(), store.watch(keys()).await.unwrap());
    let mut revisions = Vec::new();
    for n in 0..5_000 {
        revisions.push(store.put(Put::new("k", n.to_string())).await.unwrap().revision);
    }
    let mut seen = Vec::new();
    while seen.len() < revisions.len() {
        if let WatchItem::Events { events, .. } = slow.next().await.unwrap() {
            seen.extend(events.iter().map(|e| e.kv.mod_revision()));
        }
    }
    assert_eq!(seen, revisions);
    // Its inbox ends where history no longer begins.
    let last = *revisions.last().unwrap();
    store.compact(last).await.unwrap();
    let end = loop {
        match lost.next().await {
            Ok(_) => (),
            Err(e) => break e,
        }
    };
    assert_eq!(end, StoreError::Compacted { oldest: last });
}
