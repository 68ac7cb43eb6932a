//! The store behind etcd's API: etcdctl, snapshots, certificates, kills, and real clusters.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests: they run programs, and a surprise is a panic"
)]

mod crash;
mod gateway;
#[path = "../../../crates/apiserver/tests/golden.rs"]
mod golden;
mod history;
mod kube;
mod member;
#[path = "../../../crates/etcd/tests/suite/mod.rs"]
mod suite;
mod tour;
mod users;

/// Threads and timers for a test that talks to stores.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}
