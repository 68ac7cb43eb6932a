//! Watchers of a store in this process.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::{SLICE, Shared, closed};
use crate::error::StoreError;
use crate::hub::{Inbox, WatcherId};
use crate::kv::Revision;
use crate::range::KeyRange;
use crate::store::WatchRequest;
use crate::watch::{Event, WatchItem, WatchSource};

/// A watcher in this process.
pub(super) struct Follower {
    shared: Arc<Shared>,
    keys: KeyRange,
    inbox: Arc<Inbox>,
    id: WatcherId,
    /// The first revision that has not been delivered.
    next: Revision,
    progress: bool,
}

impl Follower {
    pub(super) fn start(shared: &Arc<Shared>, watch: &WatchRequest) -> Follower {
        let state = shared.state.read();
        let mut hub = shared.hub.lock();
        let soonest = state.core.visible().next();
        let next = watch.from.unwrap_or(soonest);
        let inbox = Arc::new(Inbox::new((next < soonest).then_some(next)));
        let keys = watch.keys.clone();
        let id = hub.join(&keys, Arc::clone(&inbox));
        Follower { shared: Arc::clone(shared), keys, inbox, id, next, progress: false }
    }

    /// What lies in the inbox, if it is wanted.
    fn take(&mut self, item: WatchItem) -> Option<WatchItem> {
        let WatchItem::Events { through, events } = item else { return Some(item) };
        let from = self.next;
        self.next = from.max(through.next());
        let wanted = |e: &&Event| e.kv.mod_revision() >= from;
        let left = events.iter().filter(wanted).count();
        let events = match left {
            0 => return None,
            n if n == events.len() => events,
            _ => events.iter().filter(wanted).cloned().collect(),
        };
        Some(WatchItem::Events { through, events })
    }

    /// Reads on in history from `self.next`.
    fn catch_up(&mut self) -> Result<Option<WatchItem>, StoreError> {
        let state = self.shared.state.read();
        let oldest = state.core.compacted();
        if self.next < oldest {
            return Err(StoreError::Compacted { oldest });
        }
        let (events, next) = state.core.events(self.next, |key| self.keys.contains(key), SLICE);
        if next > state.core.visible() {
            // With the hub's lock held nothing is handed out, so that the inbox goes on exactly here.
            let _hub = self.shared.hub.lock();
            self.inbox.lock().behind = None;
        }
        self.next = next;
        let through = Revision(next.0 - 1);
        Ok((!events.is_empty()).then(|| WatchItem::Events { through, events: events.into() }))
    }
}

impl WatchSource for Follower {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<WatchItem, StoreError>> {
        loop {
            // The hub first: what has been handed out must be known together with what is in the inbox.
            let hub = self.progress.then(|| self.shared.hub.lock());
            let mut inbox = self.inbox.lock();
            if let Some(item) = inbox.items.pop_front() {
                drop((inbox, hub));
                match self.take(item) {
                    Some(item) => return Poll::Ready(Ok(item)),
                    None => continue,
                }
            }
            if inbox.closed {
                return Poll::Ready(Err(closed()));
            }
            if inbox.behind.is_none() {
                if let Some(hub) = hub {
                    let through = hub.through();
                    drop((inbox, hub));
                    self.progress = false;
                    return Poll::Ready(Ok(WatchItem::Progress(through)));
                }
                inbox.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            drop((inbox, hub));
            return match self.catch_up()? {
                Some(item) => Poll::Ready(Ok(item)),
                // Others get their turn between slices of a long history.
                None => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            };
        }
    }

    fn request_progress(&mut self) {
        self.progress = true;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.hub.lock().leave(&self.keys, self.id);
    }
}
