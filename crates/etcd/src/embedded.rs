//! The store in this process: threads, waiting and waking around [`Core`].
//!
//! One thread commits: it takes what has been staged since the last time, writes and syncs it as one frame,
//! and makes it visible; meanwhile the next group gathers. A second one copies the state to a checkpoint
//! when the log has grown.

use std::collections::VecDeque;
use std::future::ready;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use wharf_base::clock::Clock;
use wharf_base::sync::{Bell, Mutex, RwLock, RwLockWriteGuard};

use crate::checkpoint;
use crate::core::{Batch, Core, Outline, Rules, check_shape, writes};
use crate::disk::{Disk, Folder};
use crate::error::StoreError;
use crate::hub::{Hub, Inbox, WatcherId};
use crate::kv::{Kv, LeaseId, Revision};
use crate::log::{Append, Log, LogError, io_error};
use crate::range::KeyRange;
use crate::recover;
use crate::store::{
    Lease, LeaseRequest, Op, OpReply, Range, RangeReply, Store, Txn, TxnReply, WatchRequest,
};
use crate::watch::{Event, Watch, WatchItem, WatchSource};

/// Versions dropped, copied, or looked at for a watcher, under one hold of the lock.
const SLICE: usize = 2_000;

/// A log shorter than this is not worth a checkpoint; it is read back in less than a second.
const LOG_MIN: u64 = 64 << 20;

/// How long the disk is left alone after it refused a write.
const RETRY: Duration = Duration::from_secs(1);

/// What an embedded store is told when it is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Keys with one of these prefixes stay in memory: they never reach the disk and are gone after a restart.
    pub volatile: Vec<Bytes>,
    /// Bytes of keys and values beyond which puts are refused until the space alarm is disarmed; 0 is no
    /// limit. Default: 2 GiB, as etcd has it.
    pub quota: u64,
    /// Operations in one branch of a transaction; 0 is no limit. Default: 128, as etcd has it.
    pub max_ops: usize,
    /// Where time comes from.
    pub clock: Clock,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { volatile: Vec::new(), quota: 2 << 30, max_ops: 128, clock: Clock::system() }
    }
}

/// A store in this process. Clones share it; the last one to be dropped closes it.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
    /// Tells the threads when the last clone is gone.
    _open: Arc<Open>,
}

/// How a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where it is.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub compacted: Revision,
    /// Keys, with those deleted since the last compaction.
    pub keys: u64,
    /// Bytes that keys and values take in memory.
    pub size: u64,
    /// Puts are refused for want of space.
    pub no_space: bool,
    /// Why the disk takes no writes, if it does not.
    pub stalled: Option<String>,
}

struct Shared {
    state: RwLock<State>,
    /// Locked after `state`.
    hub: Hub,
    /// Who waits for which record, in order. Locked after `state`.
    waiters: Mutex<VecDeque<(u64, Waiter)>>,
    bell: Bell,
    closing: AtomicBool,
    /// How many copies of the state are being made: meanwhile no version may be dropped.
    copying: AtomicUsize,
    clock: Clock,
    max_ops: usize,
}

type Waiter = oneshot::Sender<Result<(), StoreError>>;

struct State {
    core: Core,
    /// Why the disk takes no writes.
    stalled: Option<String>,
}

/// Ends the thread when the last clone of a store is gone, and waits for it.
struct Open {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// A store that lives and dies with this process.
    pub fn in_memory(settings: &Settings) -> io::Result<Embedded> {
        let rules =
            Rules { volatile: settings.volatile.clone(), quota: settings.quota, diskless: true };
        Embedded::start(Core::new(rules), None, settings)
    }

    /// Opens the store in `dir`, making it if need be. Blocks while it is read back.
    pub fn open(dir: &Path, settings: &Settings) -> Result<Embedded, LogError> {
        let folder = Folder::open(dir).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => LogError::Locked,
            _ => io_error("open", &dir.display().to_string())(e),
        })?;
        Embedded::open_on(Arc::new(folder), settings)
    }

    /// What an operator asks about.
    pub fn status(&self) -> Status {
        let state = self.shared.state.read();
        Status {
            revision: state.core.visible(),
            compacted: state.core.compacted(),
            keys: state.core.keys() as u64,
            size: state.core.weight(),
            no_space: state.core.alarm(),
            stalled: state.stalled.clone(),
        }
    }

    /// Takes puts again after [`StoreError::NoSpace`]. If nothing was deleted the next one raises the alarm anew.
    pub fn disarm(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        self.shared.write(|core, _| {
            core.disarm();
            Ok(())
        })
    }

    /// Writes the state as of one revision in the form of etcd's snapshots, and gives that revision.
    /// Writers go on meanwhile. Blocks.
    pub fn snapshot(&self, to: &mut dyn io::Write) -> io::Result<Revision> {
        let (outline, versions) = self.shared.freeze();
        checkpoint::write(&outline, &versions, to)?;
        Ok(outline.head)
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, settings: &Settings) -> Result<Embedded, LogError> {
        let rules =
            Rules { volatile: settings.volatile.clone(), quota: settings.quota, diskless: false };
        let mut core = Core::new(rules);
        let log = recover::open(&*disk, &mut core, settings.clock.instant())?;
        let vault = Vault { disk, log, checkpoint_size: 0, copier: None, log_min: LOG_MIN };
        Embedded::start(core, Some(vault), settings).map_err(io_error("start", "a thread"))
    }

    fn start(core: Core, vault: Option<Vault>, settings: &Settings) -> io::Result<Embedded> {
        let hub = Hub::default();
        hub.lock().hand_out(&[], core.visible());
        let shared = Arc::new(Shared {
            state: RwLock::new(State { core, stalled: None }),
            hub,
            waiters: Mutex::default(),
            bell: Bell::default(),
            closing: AtomicBool::new(false),
            copying: AtomicUsize::new(0),
            clock: settings.clock.clone(),
            max_ops: settings.max_ops,
        });
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("etcd-commit".to_owned())
            .spawn(move || worker.work(vault))?;
        let thread = Mutex::new(Some(thread));
        Ok(Embedded { shared: Arc::clone(&shared), _open: Arc::new(Open { shared, thread }) })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the store's thread has panicked");
        }
    }
}

impl Store for Embedded {
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        let revision = self.shared.state.read().core.visible();
        Box::pin(ready(Ok(revision)))
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply, StoreError>> {
        let txn = Txn { then: vec![Op::Range(range)], ..Txn::default() };
        let reply = self.shared.look(&txn);
        Box::pin(ready(reply.map(|mut reply| match reply.replies.pop() {
            Some(OpReply::Range(range)) => range,
            _ => RangeReply::default(),
        })))
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, StoreError>> {
        if !writes(&txn) {
            return Box::pin(ready(self.shared.look(&txn)));
        }
        if let Err(e) = check_shape(&txn, self.shared.max_ops) {
            return Box::pin(ready(Err(e)));
        }
        self.shared.write(|core, _| core.txn(&txn))
    }

    fn watch(&self, watch: WatchRequest) -> BoxFuture<'_, Result<Watch, StoreError>> {
        let source = Follower::start(&self.shared, &watch);
        Box::pin(ready(Ok(Watch::new(source))))
    }

    fn grant(&self, lease: LeaseRequest) -> BoxFuture<'_, Result<Lease, StoreError>> {
        let chosen = match random_lease() {
            Ok(id) => id,
            Err(reason) => return Box::pin(ready(Err(StoreError::Unavailable { reason }))),
        };
        let granted = self.shared.write(move |core, now| core.grant(&lease, chosen, now));
        // The thread sleeps until the lease that was next before this one.
        self.shared.bell.ring();
        granted
    }

    fn keep_alive(&self, id: LeaseId) -> BoxFuture<'_, Result<Lease, StoreError>> {
        self.shared.write(|core, now| core.keep_alive(id, now))
    }

    fn revoke(&self, id: LeaseId) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.shared.write(|core, _| core.revoke(id))
    }

    fn lease(&self, id: LeaseId, keys: bool) -> BoxFuture<'_, Result<Lease, StoreError>> {
        // By the way of writes, because a lease that is not durable yet must not be seen.
        self.shared.write(|core, now| core.lease(id, keys, now))
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseId>, StoreError>> {
        self.shared.write(|core, _| Ok(core.leases()))
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        let compacted = self.shared.write(|core, _| core.compact(revision));
        self.shared.bell.ring();
        compacted
    }
}

impl Shared {
    fn look(&self, txn: &Txn) -> Result<TxnReply, StoreError> {
        check_shape(txn, self.max_ops)?;
        self.state.read().core.read_txn(txn)
    }

    /// Stages a write; the future waits until everything that its answer rests on is durable.
    fn write<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Core, Instant) -> Result<T, StoreError>,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let mut state = self.state.write();
        if let Some(reason) = &state.stalled {
            return Box::pin(ready(Err(StoreError::Disk { reason: reason.clone() })));
        }
        let answer = act(&mut state.core, self.clock.instant());
        if state.core.is_memory_only() {
            if let Some(batch) = state.core.take_batch() {
                self.settle(state, &batch);
            }
            return Box::pin(ready(answer));
        }
        let (done, wait) = oneshot::channel();
        self.waiters.lock().push_back((state.core.staged(), done));
        drop(state);
        self.bell.ring();
        Box::pin(async move {
            let answer = answer?;
            match wait.await {
                Ok(durable) => durable.map(|()| answer),
                Err(_) => Err(closed()),
            }
        })
    }

    /// Makes a durable batch visible: first to readers, then to its writers, then to watchers.
    fn settle(&self, mut state: RwLockWriteGuard<'_, State>, batch: &Batch) {
        if state.stalled.take().is_some() {
            tracing::info!("the store takes writes again");
        }
        let events = state.core.settle(batch);
        let (durable, through) = (state.core.durable(), state.core.visible());
        let mut hub = self.hub.lock();
        drop(state);
        self.answer(durable, &Ok(()));
        hub.hand_out(&events, through);
    }

    /// Answers everybody who waits for a record up to `durable`.
    fn answer(&self, durable: u64, answer: &Result<(), StoreError>) {
        let mut waiters = self.waiters.lock();
        while waiters.front().is_some_and(|(staged, _)| *staged <= durable) {
            if let Some((_, waiter)) = waiters.pop_front() {
                // A caller that has gone away does not want to know.
                drop(waiter.send(answer.clone()));
            }
        }
    }

    /// The thread: commits batches, ends leases, drops compacted versions; sleeps when there is nothing.
    fn work(self: &Arc<Shared>, mut vault: Option<Vault>) {
        loop {
            let mut state = self.state.write();
            let due = state.core.tick(self.clock.instant());
            let Some(batch) = state.core.take_batch() else {
                let idle = self.copying.load(Ordering::Acquire) == 0;
                if idle && state.core.prune(SLICE) {
                    continue;
                }
                drop(state);
                if self.closing.load(Ordering::Acquire) {
                    break;
                }
                self.bell.wait(due.map(|d| d.saturating_duration_since(self.clock.instant())));
                continue;
            };
            // Now, because it must tell of this batch and of nothing behind it.
            let outline =
                vault.as_ref().is_some_and(|v| v.is_full(self)).then(|| state.core.outline());
            drop(state);
            if let Some(vault) = &mut vault
                && !self.commit(vault, &batch)
            {
                break;
            }
            self.settle(self.state.write(), &batch);
            if let (Some(vault), Some(outline)) = (&mut vault, outline) {
                vault.begin_checkpoint(self, outline);
            }
        }
        self.hub.lock().close();
        self.answer(u64::MAX, &Err(closed()));
        drop(vault);
    }

    /// Writes a batch, again and again while the disk refuses; `false` if the store is to end first.
    fn commit(&self, vault: &mut Vault, batch: &Batch) -> bool {
        if batch.bytes.is_empty() {
            return true;
        }
        loop {
            let (why, final_) = match vault.log.append(&batch.bytes) {
                Ok(()) => break,
                Err(Append::Refused(why)) => (why, false),
                Err(Append::Unknown(why)) => (why, true),
            };
            self.stall(&why.to_string());
            // After a failed sync the kernel may have dropped the pages, and a second sync would say that all
            // is well: nothing is written any more until the store has been opened again.
            let patience = if final_ { None } else { Some(RETRY) };
            loop {
                self.bell.wait(patience);
                if self.closing.load(Ordering::Acquire) {
                    return false;
                }
                if !final_ {
                    break;
                }
            }
        }
        true
    }

    /// Turns writers away, those who wait included.
    fn stall(&self, why: &str) {
        let mut state = self.state.write();
        if state.stalled.is_none() {
            tracing::error!(why, "the store's disk does not take writes");
        }
        state.stalled = Some(why.to_owned());
        self.answer(u64::MAX, &Err(StoreError::Disk { reason: why.to_owned() }));
    }

    /// The state as it is visible now.
    fn freeze(self: &Arc<Shared>) -> (Outline, Vec<Kv>) {
        let state = self.state.read();
        let copy = Copy::begin(self);
        let outline = Outline { head: state.core.visible(), ..state.core.outline() };
        drop(state);
        let versions = copy.versions(outline.head);
        (outline, versions)
    }
}

/// A copy of the state in the making; versions stay while it lives.
struct Copy(Arc<Shared>);

impl Copy {
    /// With the state locked, or by the thread that drops versions.
    fn begin(shared: &Arc<Shared>) -> Copy {
        shared.copying.fetch_add(1, Ordering::AcqRel);
        Copy(Arc::clone(shared))
    }

    /// All versions up to `until`, in the order of time. Taken in slices, so that nobody waits long.
    fn versions(&self, until: Revision) -> Vec<Kv> {
        let mut versions = Vec::new();
        let mut start = Some(Vec::new());
        while let Some(from) = start {
            let state = self.0.state.read();
            start = state.core.versions(&from, until, SLICE, &mut versions);
        }
        versions.sort_unstable_by(Kv::by_time);
        versions
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.0.copying.fetch_sub(1, Ordering::AcqRel);
        self.0.bell.ring();
    }
}

/// The files of a store, in the hands of the thread that commits.
struct Vault {
    disk: Arc<dyn Disk>,
    log: Log,
    checkpoint_size: u64,
    copier: Option<JoinHandle<()>>,
    log_min: u64,
}

impl Vault {
    /// Whether the log has outgrown the state that it leads to, and nobody copies that already.
    fn is_full(&self, shared: &Shared) -> bool {
        let limit = self.log_min.max(self.checkpoint_size);
        self.log.len() > limit && shared.copying.load(Ordering::Acquire) == 0
    }

    /// Goes on in a new segment, and has everything before it copied to a checkpoint.
    ///
    /// A failure is reported and otherwise harmless: the log stays as long as it is needed.
    fn begin_checkpoint(&mut self, shared: &Arc<Shared>, outline: Outline) {
        let number = self.log.number() + 1;
        let begun = Log::create(&*self.disk, number).and_then(|log| {
            self.log = log;
            let disk = Arc::clone(&self.disk);
            let (until, weight) = {
                let state = shared.state.read();
                (state.core.visible(), state.core.weight())
            };
            self.checkpoint_size = weight;
            let copy = Copy::begin(shared);
            std::thread::Builder::new()
                .name("etcd-copy".to_owned())
                .spawn(move || {
                    let versions = copy.versions(until);
                    let saved = checkpoint::save(&*disk, number, &outline, &versions)
                        .and_then(|()| recover::forget(&*disk, number));
                    if let Err(e) = saved {
                        let error = wharf_base::error::chain(&e);
                        tracing::error!(%error, "no checkpoint was written");
                    }
                })
                .map_err(io_error("start", "a thread"))
        });
        match begun {
            Ok(copier) => self.copier = Some(copier),
            Err(e) => {
                let error = wharf_base::error::chain(&e);
                tracing::error!(%error, "no checkpoint was begun");
            }
        }
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        if let Some(copier) = self.copier.take()
            && copier.join().is_err()
        {
            tracing::error!("the thread that copies the store has panicked");
        }
    }
}

/// A watcher in this process.
struct Follower {
    shared: Arc<Shared>,
    keys: KeyRange,
    inbox: Arc<Inbox>,
    id: WatcherId,
    /// The first revision that has not been delivered.
    next: Revision,
    progress: bool,
}

impl Follower {
    fn start(shared: &Arc<Shared>, watch: &WatchRequest) -> Follower {
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

fn random_lease() -> Result<LeaseId, String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|e| e.to_string())?;
    // Positive, as etcd's are: some clients print them in decimal.
    let id = i64::from_be_bytes(bytes) & i64::MAX;
    Ok(LeaseId::from_wire(id.max(1)).unwrap_or(LeaseId(std::num::NonZeroI64::MIN)))
}

fn closed() -> StoreError {
    StoreError::Unavailable { reason: "the store is closed".to_owned() }
}
