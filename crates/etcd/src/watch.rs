//! What a watcher receives, whichever store it comes from.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::error::StoreError;
use crate::kv::{Kv, Revision};

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The new version. For a deletion: the key and the revision, nothing else.
    pub kv: Kv,
    /// The version before, if it was asked for, existed and is not compacted.
    pub previous: Option<Kv>,
}

/// Whether a key was written or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Written; `version` 1 says that it was created.
    Put,
    /// Deleted, by request or because its lease ended.
    Delete,
}

impl Event {
    pub(crate) fn new(kv: Kv, previous: Option<Kv>) -> Event {
        let kind = if kv.is_tombstone() { EventKind::Delete } else { EventKind::Put };
        Event { kind, kv, previous }
    }
}

/// What [`Watch::next`] gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// Changes in order; all changes of a revision are in the same item.
    Events {
        /// Everything of the range up to this revision has been delivered.
        through: Revision,
        /// At least one change.
        events: Arc<[Event]>,
    },
    /// Everything of the range up to this revision has been delivered.
    Progress(Revision),
}

/// A stream of changes. Dropping it ends the watch.
pub struct Watch(Box<dyn WatchSource>);

/// Where a [`Watch`] gets its items from.
pub trait WatchSource: Send {
    /// The next item. After an error the watch is over; [`StoreError::Compacted`] says where history begins.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<WatchItem, StoreError>>;

    /// Asks for a [`WatchItem::Progress`] once everything known now has been delivered.
    fn request_progress(&mut self);
}

impl Watch {
    /// A watch over `source`.
    pub fn new(source: impl WatchSource + 'static) -> Watch {
        Watch(Box::new(source))
    }

    /// Waits for the next item. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<WatchItem, StoreError> {
        poll_fn(|cx| self.0.poll_next(cx)).await
    }

    /// [`Watch::next`] for callers that poll.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<WatchItem, StoreError>> {
        self.0.poll_next(cx)
    }

    /// Asks for a [`WatchItem::Progress`] once everything known now has been delivered: the bookmark
    /// that lets a reader resume there.
    pub fn request_progress(&mut self) {
        self.0.request_progress();
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}
