//! Members that are killed and cut off under load, and what clients see of it.

use crate::block_on;
use crate::history::{History, close, follow};
use crate::member::{Member, free_port, scratch};
use rustix::process::Signal;
use std::sync::Arc;
use std::time::Duration;
use wharf_base::sync::Mutex;
use wharf_etcd::{Cluster, Remote, Store};

/// Clients that fight for a few keys.
const CLIENTS: u64 = 6;

/// `WHARF_ETCD_ROUNDS` kills, or the given number.
fn rounds(default: u64) -> u64 {
    std::env::var("WHARF_ETCD_ROUNDS").map_or(default, |n| n.parse().unwrap())
}

/// Has clients fight over a store while `trouble` is made, and judges what they saw.
async fn fight(store: Arc<dyn Store>, trouble: impl AsyncFnOnce(&History)) -> String {
    let history = Arc::new(History::default());
    let until = Arc::new(Mutex::new(None));
    let watch = tokio::spawn(follow(Arc::clone(&store), Arc::clone(&until)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| tokio::spawn(Arc::clone(&history).client(n, Arc::clone(&store))))
        .collect();
    trouble(&history).await;
    history.stop();
    for client in clients {
        client.await.unwrap();
    }
    *until.lock() = Some(close(&*store).await);
    let changes = tokio::time::timeout(wharf_test::PATIENCE, watch).await;
    history.judge(&changes.expect("the watch stands still").unwrap());
    format!("{} writes acknowledged, {} unknown", history.acknowledged(), history.unknown())
}

/// Waits until clients got some more writes through.
async fn more_writes(history: &History, n: u64) {
    let goal = history.acknowledged() + n;
    let begun = std::time::Instant::now();
    while history.acknowledged() < goal {
        assert!(begun.elapsed() < wharf_test::PATIENCE, "no writes get through");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn kills_lose_no_write_and_no_event() {
    let data = scratch("kills");
    let mut member = Member::wharf(&data).listening();
    let endpoints = vec![member.endpoint()];
    let kills = rounds(8);
    let summary = block_on(async {
        let cluster = Cluster { endpoints, ..Cluster::default() };
        let store = Arc::new(Remote::connect(cluster).await.unwrap());
        fight(store, async |history: &History| {
            for round in 0..kills {
                more_writes(history, 20 + round * 37 % 100).await;
                member.kill();
                member.restart();
            }
            more_writes(history, 20).await;
        })
        .await
    });
    eprintln!("{kills} kills: {summary}");
}

#[test]
fn the_embedded_store_is_linearizable() {
    let data = scratch("embedded");
    let settings = wharf_etcd::Settings::default();
    let summary = block_on(async {
        let store = Arc::new(wharf_etcd::Embedded::open(&data, &settings).unwrap());
        fight(store, async |history: &History| more_writes(history, 3_000).await).await
    });
    eprintln!("{summary}");
}

/// Three members of a real etcd, of which one at a time is killed, or stopped as if its cables were cut:
/// connections stay, nothing answers.
#[test]
fn a_real_cluster_in_trouble_loses_no_write_and_no_event() {
    let dir = scratch("cluster");
    let ports: Vec<_> = (0..3).map(|_| (free_port(), free_port())).collect();
    let start = |n: usize| Member::etcd(&dir.join(n.to_string()), n, &ports);
    let started: Vec<Member> = (0..3).map(start).collect();
    let mut members: Vec<Member> = started.into_iter().map(Member::listening).collect();
    let endpoints = members.iter().map(Member::endpoint).collect();
    let summary = block_on(async {
        let cluster = Cluster { endpoints, ..Cluster::default() };
        let store = Arc::new(Remote::connect(cluster).await.unwrap());
        fight(store, async |history: &History| {
            for round in 0..rounds(4) {
                more_writes(history, 50).await;
                let victim = usize::try_from(round % 3).unwrap();
                if round % 2 == 0 {
                    members[victim].kill();
                    more_writes(history, 50).await;
                    members[victim].restart();
                } else {
                    members[victim].signal(Signal::STOP);
                    more_writes(history, 50).await;
                    members[victim].signal(Signal::CONT);
                }
            }
            more_writes(history, 50).await;
        })
        .await
    });
    eprintln!("{summary}");
}
