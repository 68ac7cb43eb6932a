//! The store's decisions: revisions, compares, leases, compaction. No disk, no clock, no waiting.
//!
//! A write is *staged*: it gets its revision, its record goes into the batch, and later writes see it, but no
//! reader does. The driver takes the batch, makes it durable and says so; then it is *visible*.

mod index;
mod lease;
mod permit;
mod record;
mod txn;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::auth::Auth;
use crate::error::StoreError;
use crate::kv::{Kv, LeaseId, Revision, Stamp};
use crate::store::{Lease, LeaseRequest, Range, RangeReply};
use crate::watch::Event;
use index::Index;
use lease::Leases;
use record::{Change, Record, Unreadable};

pub(crate) use txn::{check_shape, writes};

/// Revisions set aside at once for changes that stay off the disk: one small record per so many of them.
const RESERVE: i64 = 10_000;

/// Bytes that may wait for the disk before writers are turned away.
const BATCH_LIMIT: usize = 64 << 20;

/// The whole state of a store.
pub(crate) struct Core {
    rules: Rules,
    index: Index,
    /// Every version from the compacted revision on, in the order of time.
    history: VecDeque<Kv>,
    leases: Leases,
    /// Users and roles; shared with whoever looks at them.
    auth: Arc<Auth>,
    /// The latest revision given out.
    head: Revision,
    /// The latest revision that readers see.
    visible: Revision,
    compacted: Revision,
    /// The disk knows that no revision up to here is to be given out again.
    reserved: Revision,
    alarm: bool,
    weight: u64,
    batch: Vec<u8>,
    /// Records staged so far.
    staged: u64,
    /// Records that are durable.
    durable: u64,
    in_flight: bool,
}

/// What a store was told when it was opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// Keys with one of these prefixes never reach the disk.
    pub(crate) volatile: Vec<Bytes>,
    /// Bytes of keys and values beyond which puts are refused; 0 is no limit.
    pub(crate) quota: u64,
    /// Nothing reaches a disk: there is none.
    pub(crate) diskless: bool,
}

/// Work for the disk.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Records, to be written as a whole; empty if only keys kept in memory changed.
    pub(crate) bytes: Vec<u8>,
    /// What is durable once they are.
    mark: Mark,
}

/// How far a batch reaches.
#[derive(Clone, Copy, Debug)]
struct Mark {
    staged: u64,
    head: Revision,
}

/// The parts of a state that are no versions of keys, for a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outline {
    pub(crate) head: Revision,
    pub(crate) compacted: Revision,
    pub(crate) alarm: bool,
    pub(crate) leases: Vec<(LeaseId, i64)>,
    pub(crate) auth: Arc<Auth>,
}

impl Core {
    /// An empty store at revision 1.
    pub(crate) fn new(rules: Rules) -> Core {
        let one = Revision(1);
        Core {
            rules,
            index: Index::default(),
            history: VecDeque::new(),
            leases: Leases::default(),
            auth: Arc::default(),
            head: one,
            visible: one,
            compacted: Revision(0),
            reserved: one,
            alarm: false,
            weight: 0,
            batch: Vec::new(),
            staged: 0,
            durable: 0,
            in_flight: false,
        }
    }

    /// The latest revision that readers see.
    pub(crate) fn visible(&self) -> Revision {
        self.visible
    }

    /// The oldest revision that can be read.
    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Whether puts are refused for want of space.
    pub(crate) fn alarm(&self) -> bool {
        self.alarm
    }

    /// Bytes that keys and values take.
    pub(crate) fn weight(&self) -> u64 {
        self.weight
    }

    /// How many keys have versions, deleted ones included.
    pub(crate) fn keys(&self) -> usize {
        self.index.len()
    }

    /// Makes a lease with a name that the caller chose at random, should the request name none.
    pub(crate) fn grant(
        &mut self,
        request: &LeaseRequest,
        chosen: LeaseId,
        now: Instant,
    ) -> Result<Lease, StoreError> {
        if request.ttl > lease::LONGEST {
            return Err(StoreError::LeaseTtlTooLarge);
        }
        self.admit(0)?;
        let (id, ttl) = (request.id.unwrap_or(chosen), request.ttl.max(1));
        if self.leases.get(id).is_some() {
            return Err(StoreError::LeaseExists);
        }
        self.leases.grant(id, ttl, now);
        self.stage(&Record::Grant { id, ttl });
        Ok(Lease { id, granted: ttl, left: ttl, keys: Vec::new(), revision: self.head })
    }

    /// Starts the time of a lease again. Not recorded: after a restart every lease has its full time.
    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Result<Lease, StoreError> {
        self.leases.renew(id, now).ok_or(StoreError::LeaseNotFound)?;
        self.lease(id, false, now)
    }

    /// A lease as it is.
    pub(crate) fn lease(&self, id: LeaseId, keys: bool, now: Instant) -> Result<Lease, StoreError> {
        let held = self.leases.get(id).ok_or(StoreError::LeaseNotFound)?;
        let left = held.end.saturating_duration_since(now).as_secs();
        let keys = match keys {
            true => held.keys.iter().map(|k| Bytes::copy_from_slice(k)).collect(),
            false => Vec::new(),
        };
        let left = i64::try_from(left).unwrap_or(i64::MAX);
        Ok(Lease { id, granted: held.ttl, left, keys, revision: self.visible })
    }

    /// The names of all leases.
    pub(crate) fn leases(&self) -> Vec<LeaseId> {
        self.leases.iter().map(|(id, _)| id).collect()
    }

    /// Ends a lease; its keys are deleted in one revision.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> Result<Revision, StoreError> {
        let held = self.leases.remove(id).ok_or(StoreError::LeaseNotFound)?;
        let mut work = self.begin();
        for key in &held.keys {
            self.remove_key(key, &mut work);
        }
        self.finish(work);
        self.stage(&Record::Revoke { id });
        Ok(self.head)
    }

    /// Ends the leases whose time is over; says when the next one is due.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<Instant> {
        while let Some((end, id)) = self.leases.first_due() {
            if end > now || self.batch.len() >= BATCH_LIMIT {
                return Some(end);
            }
            // It is there: it was just named.
            self.revoke(id).ok()?;
        }
        None
    }

    /// Refuses to read before `revision` from now on. Versions go with [`Core::prune`].
    pub(crate) fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision <= self.compacted {
            return Err(StoreError::Compacted { oldest: self.compacted });
        }
        if revision > self.visible {
            return Err(StoreError::FutureRevision { current: self.visible });
        }
        self.compacted = revision;
        self.stage(&Record::Compact { revision });
        Ok(())
    }

    /// Drops up to `budget` versions that compaction made unreadable; says whether there may be more.
    pub(crate) fn prune(&mut self, budget: usize) -> bool {
        for _ in 0..budget {
            match self.history.front() {
                Some(kv) if kv.mod_revision() < self.compacted => (),
                _ => return false,
            }
            if let Some(kv) = self.history.pop_front() {
                self.weight -= self.index.prune(kv.key(), self.compacted);
            }
        }
        true
    }

    /// Turns the space alarm off.
    pub(crate) fn disarm(&mut self) {
        if self.alarm {
            self.alarm = false;
            self.stage(&Record::Alarm { on: false });
        }
    }

    /// What waits for the disk, if anything does and nothing is under way.
    pub(crate) fn take_batch(&mut self) -> Option<Batch> {
        let mark = Mark { staged: self.staged, head: self.head };
        let idle = mark.staged == self.durable && mark.head == self.visible;
        if self.in_flight || idle {
            return None;
        }
        self.in_flight = true;
        Some(Batch { bytes: std::mem::take(&mut self.batch), mark })
    }

    /// Takes note that a batch is on disk; gives the changes that readers see from now on.
    pub(crate) fn settle(&mut self, batch: &Batch) -> Vec<Event> {
        self.in_flight = false;
        self.durable = batch.mark.staged;
        let since = std::mem::replace(&mut self.visible, batch.mark.head);
        self.events(since.next(), |_| true, usize::MAX).0
    }

    /// Whether nothing waits for the disk: what is staged can be settled at once.
    pub(crate) fn is_memory_only(&self) -> bool {
        !self.in_flight && self.batch.is_empty()
    }

    /// How many records are staged; a write is acknowledged when so many are durable.
    pub(crate) fn staged(&self) -> u64 {
        self.staged
    }

    /// How many records are durable.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Visible changes from revision `from` on that `wanted` chooses: about `budget` versions are looked at,
    /// and none of a revision is left out. Also the revision to go on from.
    pub(crate) fn events(
        &self,
        from: Revision,
        wanted: impl Fn(&[u8]) -> bool,
        budget: usize,
    ) -> (Vec<Event>, Revision) {
        let first = self.history.partition_point(|kv| kv.mod_revision() < from);
        let mut events = Vec::new();
        let mut last = from;
        for (looked, kv) in self.history.range(first..).enumerate() {
            let revision = kv.mod_revision();
            if revision > self.visible {
                break;
            }
            if looked >= budget && revision != last {
                return (events, revision);
            }
            last = revision;
            if wanted(kv.key()) {
                events.push(Event::new(kv.clone(), self.before(kv)));
            }
        }
        (events, self.visible.next().max(from))
    }

    /// Visible versions by key from `start` on, for a copy of the state: at most `budget` keys are looked
    /// at. Also the key to go on from.
    pub(crate) fn versions(
        &self,
        start: &[u8],
        until: Revision,
        budget: usize,
        to: &mut Vec<Kv>,
    ) -> Option<Vec<u8>> {
        for (n, entry) in self.index.from(start).enumerate() {
            if n == budget {
                return Some(entry.key().to_vec());
            }
            to.extend(entry.versions().filter(|v| v.mod_revision() <= until).cloned());
        }
        None
    }

    /// The state around the versions, as far as it is staged.
    pub(crate) fn outline(&self) -> Outline {
        let mut leases: Vec<_> = self.leases.iter().map(|(id, held)| (id, held.ttl)).collect();
        leases.sort_unstable();
        let head = self.head.max(self.reserved);
        let auth = Arc::clone(&self.auth);
        Outline { head, compacted: self.compacted, alarm: self.alarm, leases, auth }
    }

    /// Takes over the outline of a copied state; its versions follow.
    pub(crate) fn restore(&mut self, outline: &Outline, now: Instant) {
        for (id, ttl) in &outline.leases {
            self.leases.grant(*id, *ttl, now);
        }
        self.compacted = outline.compacted;
        self.alarm = outline.alarm;
        self.auth = Arc::clone(&outline.auth);
        self.arrive(outline.head);
    }

    /// Takes over a version of a copied state; they come in the order of time.
    pub(crate) fn adopt(&mut self, kv: Kv) {
        self.arrive(kv.mod_revision());
        self.keep(kv);
    }

    /// Takes over what another store shows at a revision; before that there is no history.
    pub(crate) fn copy(&mut self, kvs: Vec<Kv>, at: Revision) {
        for kv in kvs {
            self.weight += kv.weight();
            self.index.push(kv);
        }
        self.compacted = at;
        self.arrive(at);
    }

    /// Takes over what another store did up to a revision; gives the changes that readers see from now on.
    pub(crate) fn take_over(&mut self, versions: Vec<Kv>, through: Revision) -> Vec<Event> {
        let since = self.visible;
        versions.into_iter().for_each(|kv| self.keep(kv));
        self.arrive(through);
        self.events(since.next(), |_| true, usize::MAX).0
    }

    /// Takes over a batch that was read back from the log.
    pub(crate) fn replay(&mut self, batch: &[u8], now: Instant) -> Result<(), Unreadable> {
        for record in record::read(batch)? {
            match record {
                Record::Changes { revision, changes } => {
                    changes.iter().for_each(|c| self.redo(revision, c));
                    self.arrive(revision);
                }
                Record::Grant { id, ttl } => self.leases.grant(id, ttl, now),
                Record::Revoke { id } => drop(self.leases.remove(id)),
                Record::Compact { revision } => self.compacted = revision,
                Record::Reserve { revision } => self.arrive(revision),
                Record::Alarm { on } => self.alarm = on,
                Record::Auth(row) => Arc::make_mut(&mut self.auth).apply(row),
            }
        }
        Ok(())
    }

    fn redo(&mut self, revision: Revision, change: &Change<'_>) {
        match *change {
            Change::Put { key, value, lease, sub } => {
                let stamp = self.next_stamp(key, revision, sub, lease);
                self.keep(Kv::new(key, value, stamp));
            }
            Change::Delete { key, sub } => self.keep(Kv::tombstone(key, revision, sub)),
        }
    }

    /// Everything up to `revision` is known and durable.
    fn arrive(&mut self, revision: Revision) {
        self.head = self.head.max(revision);
        self.visible = self.head;
        self.reserved = self.head;
    }

    /// Adds a version to the index, the history and its lease.
    fn keep(&mut self, kv: Kv) {
        let before = self.index.get(kv.key()).and_then(|e| e.at(kv.mod_revision()));
        self.leases.detach(before.and_then(Kv::lease), kv.key());
        self.leases.attach(kv.lease(), kv.key());
        self.weight += kv.weight();
        self.index.push(kv.clone());
        self.history.push_back(kv);
    }

    /// The numbers of the next version of `key`.
    fn next_stamp(
        &self,
        key: &[u8],
        modified: Revision,
        sub: u32,
        lease: Option<LeaseId>,
    ) -> Stamp {
        let before = self.index.get(key).and_then(|e| e.at(modified));
        let (create, version) =
            before.map_or((modified, 0), |b| (b.create_revision(), b.version()));
        Stamp { create, modified, sub, version: version + 1, lease }
    }

    /// The version that `kv` replaced, unless there was none or compaction took it.
    fn before(&self, kv: &Kv) -> Option<Kv> {
        let entry = self.index.get(kv.key())?;
        let before = entry.versions().find(|v| v.mod_revision() < kv.mod_revision())?;
        // What was replaced at or before the compacted revision cannot be read any more, even while it waits
        // to be dropped; answers must not depend on how far that has come.
        let readable = kv.mod_revision() > self.compacted;
        (readable && !before.is_tombstone()).then(|| before.clone())
    }

    fn check_readable(&self, at: Option<Revision>, newest: Revision) -> Result<(), StoreError> {
        match at {
            Some(at) if at > newest => Err(StoreError::FutureRevision { current: newest }),
            Some(at) if at < self.compacted => {
                Err(StoreError::Compacted { oldest: self.compacted })
            }
            _ => Ok(()),
        }
    }

    /// Reads with `now` as the newest revision; the request's own revision has been checked.
    fn read(&self, range: &Range, now: Revision) -> RangeReply {
        let at = range.revision.unwrap_or(now);
        let found = self.index.range(&range.keys).filter_map(|e| e.at(at));
        let (mut kvs, mut count) = (Vec::new(), 0);
        let limit = match (range.count_only, range.limit) {
            (true, _) => 0,
            (false, 0) => usize::MAX,
            (false, limit) => limit,
        };
        for kv in found {
            count += 1;
            if kvs.len() < limit {
                kvs.push(kv.clone());
            } else if range.uncounted {
                break;
            }
        }
        if range.keys_only {
            kvs = kvs.iter().map(Kv::without_value).collect();
        }
        RangeReply { revision: now, kvs, count }
    }

    /// Refuses a write of about `bytes` that the queue or the quota cannot take.
    fn admit(&mut self, bytes: u64) -> Result<(), StoreError> {
        if self.batch.len() >= BATCH_LIMIT {
            return Err(StoreError::Busy);
        }
        let over = self.rules.quota > 0 && self.weight + bytes > self.rules.quota;
        if over && !self.alarm {
            self.alarm = true;
            self.stage(&Record::Alarm { on: true });
        }
        if self.alarm { Err(StoreError::NoSpace) } else { Ok(()) }
    }

    fn stage(&mut self, record: &Record<'_>) {
        self.staged += 1;
        if !self.rules.diskless {
            record.write(&mut self.batch);
        }
    }

    fn is_volatile(&self, key: &[u8]) -> bool {
        self.rules.diskless || self.rules.volatile.iter().any(|p| key.starts_with(p))
    }
}

/// Changes of one revision while they are made.
struct Work {
    revision: Revision,
    changed: Vec<Kv>,
}

impl Core {
    fn begin(&self) -> Work {
        Work { revision: self.head.next(), changed: Vec::new() }
    }

    /// Records the changes and takes their revision, if there are any.
    fn finish(&mut self, work: Work) {
        if work.changed.is_empty() {
            return;
        }
        self.head = work.revision;
        let durable = work.changed.iter().filter(|kv| !self.is_volatile(kv.key()));
        let changes: Vec<_> = durable.map(change).collect();
        if !changes.is_empty() {
            self.stage(&Record::Changes { revision: work.revision, changes });
            self.reserved = self.reserved.max(work.revision);
        } else if self.head > self.reserved {
            self.reserved = Revision(self.head.0.saturating_add(RESERVE));
            self.stage(&Record::Reserve { revision: self.reserved });
        }
    }

    fn remove_key(&mut self, key: &[u8], work: &mut Work) -> Option<Kv> {
        let before = self.index.get(key)?.at(work.revision)?.clone();
        let sub = u32::try_from(work.changed.len()).unwrap_or(u32::MAX);
        let kv = Kv::tombstone(key, work.revision, sub);
        self.keep(kv.clone());
        work.changed.push(kv);
        Some(before)
    }

    fn write_key(&mut self, key: &[u8], value: &[u8], lease: Option<LeaseId>, work: &mut Work) {
        let sub = u32::try_from(work.changed.len()).unwrap_or(u32::MAX);
        let stamp = self.next_stamp(key, work.revision, sub, lease);
        let kv = Kv::new(key, value, stamp);
        self.keep(kv.clone());
        work.changed.push(kv);
    }
}

fn change(kv: &Kv) -> Change<'_> {
    match kv.is_tombstone() {
        true => Change::Delete { key: kv.key(), sub: kv.sub() },
        false => Change::Put { key: kv.key(), value: kv.value(), lease: kv.lease(), sub: kv.sub() },
    }
}
