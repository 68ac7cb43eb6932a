//! The embedded store against the suite of every store.

#![allow(clippy::unwrap_used, reason = "tests: a surprise is a panic")]

mod suite;

use wharf_etcd::{Embedded, Settings, Store as _};

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
