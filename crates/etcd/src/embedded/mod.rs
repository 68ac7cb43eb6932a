//! The store in this process: threads, waiting and waking around [`Core`].
//!
//! One thread commits: it takes what has been staged since the last time, writes and syncs it as one frame,
//! and makes it visible; meanwhile the next group gathers. A second one copies the state to a checkpoint
//! when the log has grown.

mod copy;
mod follower;
mod worker;

use std::collections::VecDeque;
use std::future::ready;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use wharf_base::clock::Clock;
use wharf_base::sync::{Bell, Mutex, RwLock, RwLockWriteGuard};

use crate::auth::{Access, Auth, Caller, Change};
use crate::checkpoint;
use crate::core::{Batch, Core, Rules, check_shape, writes};
use crate::disk::{Disk, Folder};
use crate::error::StoreError;
use crate::hub::Hub;
use crate::kv::{Kv, LeaseId, Revision};
use crate::log::{LogError, io_error};
use crate::recover;
use crate::store::{
    Lease, LeaseRequest, Op, OpReply, Range, RangeReply, Store, Txn, TxnReply, WatchRequest,
};
use crate::watch::Watch;
use follower::Follower;
use worker::Vault;

pub use copy::Hash;

/// Versions dropped, copied, or looked at for a watcher, under one hold of the lock.
const SLICE: usize = 2_000;

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
    /// The size beyond which puts are refused; 0 is no limit.
    pub quota: u64,
    /// Why the disk takes no writes, if it does not.
    pub stalled: Option<String>,
}

impl Status {
    /// As far as the core knows.
    pub(crate) fn of(core: &Core) -> Status {
        Status {
            revision: core.visible(),
            compacted: core.compacted(),
            keys: core.keys() as u64,
            size: core.weight(),
            no_space: core.alarm(),
            quota: 0,
            stalled: None,
        }
    }
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
    /// What the thread is to do when it gets to it. Locked after `state`.
    wishes: Mutex<Wishes>,
    clock: Clock,
    max_ops: usize,
    quota: u64,
}

/// Who waits for work that is not a write.
#[derive(Default)]
struct Wishes {
    pruned: Vec<oneshot::Sender<()>>,
    copied: Vec<oneshot::Sender<Result<(), StoreError>>>,
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

    /// A store in memory that begins with what another one shows at a revision.
    pub(crate) fn copied(kvs: Vec<Kv>, at: Revision) -> io::Result<Embedded> {
        let mut core = Core::new(Rules { diskless: true, ..Rules::default() });
        core.copy(kvs, at);
        Embedded::start(core, None, &Settings::default())
    }

    /// Takes over what the other store did up to a revision.
    pub(crate) fn take_over(&self, versions: Vec<Kv>, through: Revision) {
        let mut state = self.shared.state.write();
        let events = state.core.take_over(versions, through);
        let mut hub = self.shared.hub.lock();
        drop(state);
        hub.hand_out(&events, through);
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
        let quota = self.shared.quota;
        Status { quota, stalled: state.stalled.clone(), ..Status::of(&state.core) }
    }

    /// Waits until the last compaction has dropped what it made unreadable.
    pub async fn pruned(&self) -> Result<(), StoreError> {
        let (done, wait) = oneshot::channel();
        self.shared.wishes.lock().pruned.push(done);
        self.shared.bell.ring();
        wait.await.map_err(|_| closed())
    }

    /// Rewrites the files, so that they hold what the store holds and no more. Writers go on meanwhile.
    pub async fn defragment(&self) -> Result<(), StoreError> {
        let (done, wait) = oneshot::channel();
        self.shared.wishes.lock().copied.push(done);
        self.shared.bell.ring();
        wait.await.map_err(|_| closed())?
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

    /// Users and roles as they are.
    pub(crate) fn auth(&self) -> Arc<Auth> {
        Arc::clone(self.shared.state.read().core.auth())
    }

    /// The same, once what it shows is durable.
    pub(crate) fn settled_auth(&self) -> BoxFuture<'static, Result<Arc<Auth>, StoreError>> {
        self.shared.write(|core, _| Ok(Arc::clone(core.auth())))
    }

    /// Changes users or roles.
    pub(crate) fn change_auth(
        &self,
        caller: &Caller,
        change: Change,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        self.shared.write(|core, _| core.change_auth(caller, change))
    }

    /// The time of the store's clock.
    pub(crate) fn now(&self) -> Instant {
        self.shared.clock.instant()
    }

    /// [`Store::range`] for somebody.
    pub(crate) fn range_for(
        &self,
        caller: &Caller,
        range: Range,
    ) -> Result<RangeReply, StoreError> {
        let txn = Txn { then: vec![Op::Range(range)], ..Txn::default() };
        let mut reply = self.shared.look(caller, &txn)?;
        match reply.replies.pop() {
            Some(OpReply::Range(range)) => Ok(range),
            _ => Ok(RangeReply::default()),
        }
    }

    /// [`Store::txn`] for somebody.
    pub(crate) fn txn_for(
        &self,
        caller: &Caller,
        txn: &Txn,
    ) -> BoxFuture<'static, Result<TxnReply, StoreError>> {
        if !writes(txn) {
            return Box::pin(ready(self.shared.look(caller, txn)));
        }
        if let Err(e) = check_shape(txn, self.shared.max_ops) {
            return Box::pin(ready(Err(e)));
        }
        self.shared.write(|core, _| {
            core.permit(caller, txn)?;
            core.txn(txn)
        })
    }

    /// [`Store::keep_alive`] for somebody.
    pub(crate) fn keep_alive_for(
        &self,
        caller: &Caller,
        id: LeaseId,
    ) -> BoxFuture<'static, Result<Lease, StoreError>> {
        self.shared.write(|core, now| {
            core.permit_lease(caller, Access::Write, id)?;
            core.keep_alive(id, now)
        })
    }

    /// [`Store::revoke`] for somebody.
    pub(crate) fn revoke_for(
        &self,
        caller: &Caller,
        id: LeaseId,
    ) -> BoxFuture<'static, Result<Revision, StoreError>> {
        self.shared.write(|core, _| {
            core.permit_lease(caller, Access::Write, id)?;
            core.revoke(id)
        })
    }

    /// [`Store::lease`] for somebody.
    pub(crate) fn lease_for(
        &self,
        caller: &Caller,
        id: LeaseId,
        keys: bool,
    ) -> BoxFuture<'static, Result<Lease, StoreError>> {
        // By the way of writes, because a lease that is not durable yet must not be seen.
        self.shared.write(|core, now| {
            core.auth().known(caller)?;
            if keys {
                core.permit_lease(caller, Access::Read, id)?;
            }
            core.lease(id, keys, now)
        })
    }

    /// [`Store::leases`] for somebody, who must be able to read all their keys.
    pub(crate) fn leases_for(
        &self,
        caller: &Caller,
    ) -> BoxFuture<'static, Result<Vec<LeaseId>, StoreError>> {
        self.shared.write(|core, _| {
            let leases = core.leases();
            core.auth().known(caller)?;
            if core.auth().admin(caller).is_err() {
                leases.iter().try_for_each(|id| core.permit_lease(caller, Access::Read, *id))?;
            }
            Ok(leases)
        })
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, settings: &Settings) -> Result<Embedded, LogError> {
        let rules =
            Rules { volatile: settings.volatile.clone(), quota: settings.quota, diskless: false };
        let mut core = Core::new(rules);
        let log = recover::open(&*disk, &mut core, settings.clock.instant())?;
        let vault = Vault::new(disk, log);
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
            wishes: Mutex::default(),
            clock: settings.clock.clone(),
            quota: settings.quota,
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
        Box::pin(ready(self.range_for(&Caller::Owner, range)))
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, StoreError>> {
        self.txn_for(&Caller::Owner, &txn)
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
        self.keep_alive_for(&Caller::Owner, id)
    }

    fn revoke(&self, id: LeaseId) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.revoke_for(&Caller::Owner, id)
    }

    fn lease(&self, id: LeaseId, keys: bool) -> BoxFuture<'_, Result<Lease, StoreError>> {
        self.lease_for(&Caller::Owner, id, keys)
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseId>, StoreError>> {
        self.leases_for(&Caller::Owner)
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        let compacted = self.shared.write(|core, _| core.compact(revision));
        self.shared.bell.ring();
        compacted
    }
}

impl Shared {
    fn look(&self, caller: &Caller, txn: &Txn) -> Result<TxnReply, StoreError> {
        check_shape(txn, self.max_ops)?;
        let state = self.state.read();
        state.core.permit(caller, txn)?;
        state.core.read_txn(txn)
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
