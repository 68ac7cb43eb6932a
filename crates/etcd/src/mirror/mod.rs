//! A copy of a part of a remote store, kept by one watch: reads and watches are answered here, writes go there.
//!
//! A read asks the cluster only where it is, a question that many reads share, and waits until the copy is there as
//! well. What the copy does not have (other keys, what was before it began) is asked of the cluster itself.

mod watcher;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex as Turn, Notify, watch};
use tokio::task::AbortHandle;
use wharf_base::sync::RwLock;

use crate::embedded::Embedded;
use crate::error::StoreError;
use crate::kv::{LeaseId, Revision};
use crate::range::KeyRange;
use crate::remote::Remote;
use crate::store::{
    Delete, Lease, LeaseRequest, Put, Range, RangeReply, Store, Txn, TxnReply, WatchRequest,
};
use crate::watch::{Watch, WatchItem};
use watcher::Watcher;

/// How long a read waits for the copy before it goes to the cluster itself.
const PATIENCE: Duration = Duration::from_millis(500);

/// Before a stream that ended is begun again.
const PAUSE: Duration = Duration::from_millis(200);

/// Keys read at once when a copy begins.
const PAGE: usize = 5_000;

/// A store in an etcd cluster, of whose keys with one prefix there is a copy in this process. Clones share both.
#[derive(Clone)]
pub struct Mirror {
    shared: Arc<Shared>,
    /// Ends the stream with the last clone.
    _task: Arc<Task>,
}

struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Shared {
    remote: Remote,
    keys: KeyRange,
    /// Another one takes its place when the stream was away for longer than history reaches back.
    copy: RwLock<Arc<Copy>>,
    /// Somebody waits for the copy to be further than events say.
    ask: Notify,
    /// The last question where the cluster is: its number, and the answer.
    turn: Turn<(u64, Revision)>,
    /// How many such questions were begun.
    questions: AtomicU64,
}

/// The copy, from one revision on.
struct Copy {
    store: Embedded,
    /// What it began with; everything behind that is in its history.
    start: Revision,
    /// Up to where it shows what the cluster has.
    at: watch::Sender<Revision>,
}

impl Mirror {
    /// Copies what `remote` has under `prefix`, and follows it from there.
    pub async fn open(remote: Remote, prefix: &str) -> Result<Mirror, StoreError> {
        let keys = KeyRange::prefix(prefix.to_owned());
        let copy = Copy::of(&remote, &keys).await?;
        let stream = copy.stream(&remote, &keys).await?;
        let shared = Arc::new(Shared {
            remote,
            keys,
            copy: RwLock::new(Arc::new(copy)),
            ask: Notify::new(),
            turn: Turn::new((0, Revision(0))),
            questions: AtomicU64::new(0),
        });
        let task = tokio::spawn(follow(Arc::downgrade(&shared), stream)).abort_handle();
        Ok(Mirror { shared, _task: Arc::new(Task(task)) })
    }
}

/// Keeps the copy for as long as somebody has the mirror.
async fn follow(shared: Weak<Shared>, mut stream: Watch) {
    while let Some(shared) = shared.upgrade() {
        let copy = shared.copy();
        tokio::select! {
            // A flag and a stream: neither loses anything when the other is taken.
            () = shared.ask.notified() => {
                if shared.remote.tells_progress().await {
                    stream.request_progress();
                }
            }
            item = stream.next() => match item {
                Ok(WatchItem::Events { through, events }) => copy.take(&events, through),
                Ok(WatchItem::Progress(through)) => copy.take(&[], through),
                Err(e) => {
                    tracing::warn!(error = %e, "the copy of the etcd cluster is begun again");
                    stream = shared.renew().await;
                }
            },
        }
    }
}

impl Copy {
    async fn of(remote: &Remote, keys: &KeyRange) -> Result<Copy, StoreError> {
        let (mut kvs, mut start, mut from) = (Vec::new(), None, keys.start().to_vec());
        loop {
            let range = Range::new(keys.starting_at(from)).limit(PAGE);
            let reply = remote.range(Range { revision: start, ..range }).await?;
            let more = reply.more();
            start.get_or_insert(reply.revision);
            kvs.extend(reply.kvs);
            let Some(last) = kvs.last().filter(|_| more) else { break };
            from = [last.key(), &[0]].concat();
        }
        let start = start.unwrap_or_default();
        let store = Embedded::copied(kvs, start)
            .map_err(|e| StoreError::Unavailable { reason: e.to_string() })?;
        Ok(Copy { store, start, at: watch::Sender::new(start) })
    }

    async fn stream(&self, remote: &Remote, keys: &KeyRange) -> Result<Watch, StoreError> {
        remote.watch(WatchRequest::new(keys.clone()).from(self.start.next())).await
    }

    fn take(&self, events: &[crate::watch::Event], through: Revision) {
        if through > *self.at.borrow() {
            self.store.take_over(events.iter().map(|e| e.kv.clone()).collect(), through);
            self.at.send_replace(through);
        }
    }

    /// Waits until it is as far as that, for a while; says whether it is.
    async fn reaches(&self, revision: Revision, ask: &Notify) -> bool {
        let mut at = self.at.subscribe();
        if *at.borrow() >= revision {
            return true;
        }
        ask.notify_one();
        let reached = at.wait_for(|at| *at >= revision);
        tokio::time::timeout(PATIENCE, reached).await.is_ok_and(|r| r.is_ok())
    }
}

impl Shared {
    fn copy(&self) -> Arc<Copy> {
        Arc::clone(&self.copy.read())
    }

    /// Makes another copy, however long that takes. Whoever watches the old one is told to begin again.
    async fn renew(&self) -> Watch {
        loop {
            tokio::time::sleep(PAUSE).await;
            let Ok(copy) = Copy::of(&self.remote, &self.keys).await else { continue };
            let Ok(stream) = copy.stream(&self.remote, &self.keys).await else { continue };
            *self.copy.write() = Arc::new(copy);
            return stream;
        }
    }

    /// Where the cluster is. Whoever comes while a question is under way shares the next one.
    async fn current(&self) -> Result<Revision, StoreError> {
        let before = self.questions.load(Ordering::Acquire);
        let mut turn = self.turn.lock().await;
        if turn.0 <= before {
            let number = self.questions.fetch_add(1, Ordering::AcqRel) + 1;
            *turn = (number, self.remote.revision().await?);
        }
        Ok(turn.1)
    }

    /// The copy, as soon as it is where the cluster is now; nothing where it does not get there.
    async fn fresh(&self) -> Result<Option<Arc<Copy>>, StoreError> {
        let now = self.current().await?;
        let copy = self.copy();
        let reached = copy.reaches(now, &self.ask).await;
        Ok(reached.then_some(copy))
    }

    async fn read(&self, range: Range) -> Result<RangeReply, StoreError> {
        let copy = self.copy();
        let older = range.revision.is_some_and(|r| r < copy.start);
        if older || !self.keys.covers(&range.keys) {
            return self.remote.range(range).await;
        }
        // What is past does not change.
        let past = range.revision.is_some_and(|r| r <= *copy.at.borrow());
        if past || range.local {
            return copy.store.range(range).await;
        }
        match self.fresh().await? {
            Some(copy) => copy.store.range(range).await,
            None => self.remote.range(range).await,
        }
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let outcome = self.remote.compact(revision).await;
        let copy = self.copy();
        // Others may have compacted the cluster; the copy has its own history to forget.
        let known = revision > copy.start && copy.reaches(revision, &self.ask).await;
        match copy.store.compact(revision).await {
            Err(e) if known && !matches!(e, StoreError::Compacted { .. }) => outcome.and(Err(e)),
            _ => outcome,
        }
    }
}

impl Store for Mirror {
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(self.shared.current())
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply, StoreError>> {
        Box::pin(self.shared.read(range))
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, StoreError>> {
        self.shared.remote.txn(txn)
    }

    fn put(&self, put: Put) -> BoxFuture<'_, Result<TxnReply, StoreError>> {
        self.shared.remote.put(put)
    }

    fn delete(&self, delete: Delete) -> BoxFuture<'_, Result<TxnReply, StoreError>> {
        self.shared.remote.delete(delete)
    }

    fn watch(&self, watch: WatchRequest) -> BoxFuture<'_, Result<Watch, StoreError>> {
        Box::pin(async move {
            if !self.shared.keys.covers(&watch.keys) {
                return self.shared.remote.watch(watch).await;
            }
            let from = match watch.from {
                Some(from) => from,
                None => self.shared.current().await?.next(),
            };
            let watcher = Watcher::open(&self.shared, watch.from(from)).await?;
            Ok(Watch::new(watcher))
        })
    }

    fn grant(&self, lease: LeaseRequest) -> BoxFuture<'_, Result<Lease, StoreError>> {
        self.shared.remote.grant(lease)
    }

    fn keep_alive(&self, id: LeaseId) -> BoxFuture<'_, Result<Lease, StoreError>> {
        self.shared.remote.keep_alive(id)
    }

    fn revoke(&self, id: LeaseId) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.shared.remote.revoke(id)
    }

    fn lease(&self, id: LeaseId, keys: bool) -> BoxFuture<'_, Result<Lease, StoreError>> {
        self.shared.remote.lease(id, keys)
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseId>, StoreError>> {
        self.shared.remote.leases()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.shared.compact(revision))
    }
}
