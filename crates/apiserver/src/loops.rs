//! What the server does for itself: its own service, and history that is forgotten.

use crate::api::Api;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use wharf_etcd::{KeyRange, Revision, WatchItem, WatchRequest};

/// How often history is forgotten, and so how far it reaches back at least.
const HISTORY: Duration = Duration::from_secs(300);

/// Starts both. They end when the set is dropped. `address` is where this server is reached.
pub fn start(api: &Api, address: SocketAddr) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(crate::definitions::run(api.clone()));
    tasks.spawn(crate::aggregator::run(api.clone()));
    tasks.spawn(crate::hooks::run(api.clone()));
    tasks.spawn(own_service(api.clone(), address));
    tasks.spawn(forget(api.clone()));
    tasks
}

/// Between a failure of [`own_service`] and its next try: doubled each time, from and up to here.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Keeps the service by which pods reach this server.
async fn own_service(api: Api, address: SocketAddr) {
    let prefixes = ["services", "endpoints", "discovery.k8s.io/endpointslices"];
    let keys = prefixes.map(|p| format!("/registry/{p}/default/kubernetes")).to_vec();
    let mut wake = bell(&api, keys);
    let mut pause = FIRST_PAUSE;
    loop {
        let failed = match crate::bootstrap::own(&api, address).await {
            Ok(_) => false,
            Err(f) => {
                tracing::warn!(error = %f, "the API's own service is not there");
                true
            }
        };
        pause = if failed { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
        // A failure may have a reason outside these keys: a deleted service's address is freed by another write.
        tokio::select! {
            changed = wake.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause), if failed => (),
        }
    }
}

/// Forgets, every five minutes, what was superseded before the last five; nothing happens while nothing is written.
async fn forget(api: Api) {
    let mut last: Option<Revision> = None;
    loop {
        tokio::time::sleep(HISTORY).await;
        let Ok(now) = api.store.revision().await else { continue };
        if let Some(before) = last.filter(|b| *b < now)
            && let Err(e) = api.store.compact(before).await
        {
            tracing::warn!(error = %e, "history was not compacted");
        }
        last = Some(now);
    }
}

/// Wakes a loop whenever something under a prefix changed. Wake-ups carry no data, and many become one.
pub fn bell(api: &Api, prefixes: Vec<String>) -> watch::Receiver<u64> {
    let (ring, bell) = watch::channel(0);
    for prefix in prefixes {
        let (api, ring) = (api.clone(), ring.clone());
        tokio::spawn(async move {
            loop {
                let request = WatchRequest::new(KeyRange::prefix(prefix.clone()));
                if let Ok(mut w) = api.store.watch(request).await {
                    // What happened before the watch began is seen by the wake-up that follows it.
                    ring.send_modify(|n| *n += 1);
                    while let Ok(item) = w.next().await {
                        if ring.is_closed() {
                            return;
                        }
                        if matches!(item, WatchItem::Events { .. }) {
                            ring.send_modify(|n| *n += 1);
                        }
                    }
                }
                if ring.is_closed() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    bell
}
