//! Every store against the suite of all stores: in memory, on disk, and through etcd's API.

#![allow(clippy::unwrap_used, reason = "tests: a surprise is a panic")]

mod suite;

use std::time::Duration;
use wharf_etcd::{Cluster, Door, Embedded, Member, Remote, Settings, Store as _};

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
    let mut door = Door::new(Embedded::in_memory(&Settings::default()).unwrap(), member);
    let address = door.listen("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    let server = tokio::spawn(door.serve(std::future::pending()));
    let endpoints = vec![format!("http://{address}")];
    let remote = Remote::connect(Cluster { endpoints, ..Cluster::default() }).await.unwrap();
    suite::check(&remote).await;
    server.abort();
}
