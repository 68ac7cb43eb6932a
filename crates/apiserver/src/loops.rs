//! What the server does for itself: its own service, addresses as objects, and history that is forgotten.

use crate::api::Api;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use wharf_etcd::{KeyRange, Revision, WatchItem, WatchRequest};

/// How often it is looked whether history is to be forgotten, and how often while very much is written.
const LOOK: Duration = Duration::from_secs(10);
const LOOK_BUSY: Duration = Duration::from_secs(1);
/// How far history reaches back (as the reference server's), and how far at least where it is long.
const HISTORY: Duration = Duration::from_secs(300);
const SHORTEST: Duration = Duration::from_secs(30);
/// Changes that make history long: they are in memory, each with the object as it was.
const LONG: i64 = 50_000;
/// Changes that are kept at most, however young (the reference keeps as many for the watchers of a kind).
const MOST: i64 = 100_000;

/// Changes in a second that are very much.
const MUCH: i64 = 1_000;

/// Starts all of it. It ends when the set is dropped. `address` is where this server is reached.
pub fn start(api: &Api, address: SocketAddr) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(crate::definitions::run(api.clone()));
    tasks.spawn(crate::aggregator::run(api.clone()));
    tasks.spawn(crate::hooks::run(api.clone()));
    tasks.spawn(crate::addresses::run(api.clone()));
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

/// Forgets what was superseded long ago; nothing happens while nothing is written.
async fn forget(api: Api) {
    let mut seen = VecDeque::new();
    let (mut last, mut pause) = (Revision(0), LOOK);
    loop {
        tokio::time::sleep(pause).await;
        let Ok(now) = api.store.revision().await else { continue };
        let second = (now.0 - last.0) / i64::try_from(pause.as_secs()).unwrap_or(1);
        pause = if second > MUCH { LOOK_BUSY } else { LOOK };
        last = now;
        let time = api.clock.instant();
        if let Some(before) = horizon(&mut seen, time, now)
            && let Err(e) = api.store.compact(before).await
        {
            tracing::warn!(error = %e, "history was not compacted");
        }
    }
}

/// Notes where the store is, and says which revision history may begin at, if that is later than before.
fn horizon(
    seen: &mut VecDeque<(Instant, Revision)>,
    time: Instant,
    now: Revision,
) -> Option<Revision> {
    if seen.back().is_none_or(|(_, last)| *last < now) {
        seen.push_back((time, now));
    }
    let old = |(at, revision): &(Instant, Revision)| {
        let age = time.duration_since(*at);
        let behind = now.0 - revision.0;
        age >= HISTORY || age >= SHORTEST && behind > LONG || behind > MOST
    };
    let many = seen.iter().take_while(|s| old(s)).count();
    // What nothing followed is no history.
    let many = many.min(seen.len().saturating_sub(1));
    seen.drain(..many).next_back().map(|(_, revision)| revision)
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

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_base::clock::Clock;

    /// Looks every ten seconds at a store that is at these revisions; gives what is compacted, and when.
    fn check(revisions: impl IntoIterator<Item = i64>, expected: &[(u64, i64)]) {
        let clock = Clock::fixed(Duration::ZERO);
        let (mut seen, mut found) = (VecDeque::new(), Vec::new());
        for (n, revision) in (0..).zip(revisions) {
            if let Some(r) = horizon(&mut seen, clock.instant(), Revision(revision)) {
                found.push((n * LOOK.as_secs(), r.0));
            }
            clock.advance(LOOK);
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn history_reaches_back_five_minutes_or_less_where_it_is_long() {
        check([7; 60], &[]);
        // A few changes: each is forgotten after five minutes, once something has followed it.
        check([1, 2, 3].into_iter().chain([9; 40]), &[(300, 1), (310, 2), (320, 3)]);
        let busy = (0..5).map(|n| n * 20_000);
        check(busy, &[(30, 0), (40, 20_000)]);
        // Much at once, and then nothing.
        check([0, 100_000, 100_000, 100_000, 100_000], &[(30, 0)]);
        // More than is kept however young it is.
        check([0, 70_000, 140_000, 210_000], &[(20, 0), (30, 70_000)]);
    }
}
