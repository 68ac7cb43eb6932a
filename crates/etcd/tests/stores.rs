//! Every store against the suite of all stores: in memory, on disk, and through etcd's API.

#![allow(clippy::unwrap_used, reason = "tests: a surprise is a panic")]

mod suite;

use std::time::Duration;
use wharf_etcd::{
    Cluster, Door, Embedded, KeyRange, LogError, Member, Put, Remote, Revision, Settings,
    Store as _, StoreError, Users, WatchItem, WatchRequest,
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_behind_its_own_door_passes_the_suite() {
    let member = Member {
        name: "default".to_owned(),
        token: "etcd-cluster".to_owned(),
        client_urls: Vec::new(),
        peer_urls: Vec::new(),
        progress: Duration::from_secs(600),
    };
    let mut door =
        Door::new(Embedded::in_memory(&Settings::default()).unwrap(), member, Users::default());
    let address = door.listen("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    let server = tokio::spawn(door.serve(std::future::pending()));
    let endpoints = vec![format!("http://{address}")];
    let remote = Remote::connect(Cluster { endpoints, ..Cluster::default() }).await.unwrap();
    suite::check(&remote).await;
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
