//! A watcher of the copy. What happened before the copy began comes from the cluster, until the copy can go on.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;

use super::Shared;
use crate::error::StoreError;
use crate::kv::Revision;
use crate::store::{Store as _, WatchRequest};
use crate::watch::{Event, Watch, WatchItem, WatchSource};

pub(super) struct Watcher {
    shared: Arc<Shared>,
    /// Where the copy began.
    start: Revision,
    /// What happened before, while there is more of it.
    before: Option<Watch>,
    copy: Watch,
    /// Progress was asked for; first the copy gets to where the cluster was then.
    catching: Option<BoxFuture<'static, ()>>,
}

impl Watcher {
    /// `watch` says where it begins.
    pub(super) async fn open(
        shared: &Arc<Shared>,
        watch: WatchRequest,
    ) -> Result<Watcher, StoreError> {
        let copy = shared.copy();
        let start = copy.start;
        let early = watch.from.is_some_and(|from| from <= start);
        let (before, from) = if early {
            let mut before = shared.remote.watch(watch.clone()).await?;
            if shared.remote.tells_progress().await {
                // It may have nothing to deliver, and is to say so.
                before.request_progress();
            }
            (Some(before), Some(start.next()))
        } else {
            (None, watch.from)
        };
        let copy = copy.store.watch(WatchRequest { from, ..watch }).await?;
        Ok(Watcher { shared: Arc::clone(shared), start, before, copy, catching: None })
    }

    /// An item of what was before: what the copy does not have of it, if there is any.
    fn early(&mut self, item: WatchItem) -> Option<WatchItem> {
        let (WatchItem::Events { through, .. } | WatchItem::Progress(through)) = item;
        if through >= self.start {
            self.before = None;
        }
        let WatchItem::Events { events, .. } = item else { return None };
        let old: Vec<Event> =
            events.iter().filter(|e| e.kv.mod_revision() <= self.start).cloned().collect();
        let through = through.min(self.start);
        (!old.is_empty()).then(|| WatchItem::Events { through, events: old.into() })
    }
}

impl WatchSource for Watcher {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<WatchItem, StoreError>> {
        while let Some(before) = &mut self.before {
            match before.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Ready(Ok(item)) => {
                    if let Some(item) = self.early(item) {
                        return Poll::Ready(Ok(item));
                    }
                }
            }
        }
        if let Poll::Ready(item) = self.copy.poll_next(cx) {
            return Poll::Ready(item);
        }
        if let Some(catching) = &mut self.catching
            && catching.as_mut().poll(cx).is_ready()
        {
            self.catching = None;
            self.copy.request_progress();
            return self.copy.poll_next(cx);
        }
        Poll::Pending
    }

    fn request_progress(&mut self) {
        let shared = Arc::clone(&self.shared);
        // Where the cluster does not answer, what is known is told.
        self.catching = Some(Box::pin(async move { drop(shared.fresh().await) }));
    }
}
