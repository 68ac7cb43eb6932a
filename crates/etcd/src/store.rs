//! The contract between the API server and whatever keeps its objects.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::error::StoreError;
use crate::kv::{Kv, LeaseId, Revision};
use crate::range::KeyRange;
use crate::watch::Watch;

/// A multi-version key-value store with one revision over all keys.
///
/// **Order.** Writes happen one after the other; each transaction that changes something takes the next
/// revision, all its changes carry it, and they become visible together. Every answer reflects all writes
/// that were acknowledged before the question was asked (strict serializability).
///
/// **Durability.** A write is on disk before its reply, and before any reader or watcher can see it. Keys
/// that the store was told to keep in memory only are the exception: they take revisions like all others and
/// are gone after a restart, but no revision is ever given out twice.
///
/// **Failure.** An error means that nothing happened, unless [`StoreError::is_ambiguous`] says that nobody
/// can know. Dropping a future does not undo its write.
///
/// **History.** Reads and watches reach back to the last compaction; older revisions answer
/// [`StoreError::Compacted`], revisions that do not exist yet [`StoreError::FutureRevision`].
///
/// The methods box their futures, so that one API server holds either implementation as `Arc<dyn Store>`.
pub trait Store: Send + Sync + 'static {
    /// The latest revision that readers see.
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// Reads keys in order, as they were at one revision.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply, StoreError>>;

    /// Compares, then does one of two lists of operations, as one step.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, StoreError>>;

    /// Delivers every change of a range from a revision on: in order, each once, all changes of a
    /// revision in one item, from history where the revision lies in the past.
    ///
    /// A watcher that reads slowly costs the store a bounded amount of memory and no writer any time.
    fn watch(&self, watch: WatchRequest) -> BoxFuture<'_, Result<Watch, StoreError>>;

    /// Makes a lease. Its keys are deleted, in one revision, when it ends.
    fn grant(&self, lease: LeaseRequest) -> BoxFuture<'_, Result<Lease, StoreError>>;

    /// Starts the lease's time again; gives the lease as it is now.
    fn keep_alive(&self, id: LeaseId) -> BoxFuture<'_, Result<Lease, StoreError>>;

    /// Ends a lease and deletes its keys; gives the revision of that.
    fn revoke(&self, id: LeaseId) -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// A lease with what is left of its time, and with its keys if `keys`.
    fn lease(&self, id: LeaseId, keys: bool) -> BoxFuture<'_, Result<Lease, StoreError>>;

    /// Every lease, in no order.
    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseId>, StoreError>>;

    /// Forgets versions that were superseded before `revision`, and refuses to read before it.
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Writes one key whatever is there.
    fn put(&self, put: Put) -> BoxFuture<'_, Result<TxnReply, StoreError>> {
        self.txn(Txn { then: vec![Op::Put(put)], ..Txn::default() })
    }

    /// Deletes a range whatever is there.
    fn delete(&self, delete: Delete) -> BoxFuture<'_, Result<TxnReply, StoreError>> {
        self.txn(Txn { then: vec![Op::Delete(delete)], ..Txn::default() })
    }
}

/// A question for keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Which keys.
    pub keys: KeyRange,
    /// As they were then; `None` is now.
    pub revision: Option<Revision>,
    /// At most so many; 0 is no limit.
    pub limit: usize,
    /// Leave out values.
    pub keys_only: bool,
    /// Leave out keys as well: only the number of them.
    pub count_only: bool,
    /// A limit may end the counting as well: the number of keys is then only known to be larger than the limit.
    pub uncounted: bool,
    /// The answer may be older than the last write, as far as the store knows without asking anybody.
    pub local: bool,
}

impl Range {
    /// All of `keys` as they are now.
    pub fn new(keys: KeyRange) -> Range {
        Range {
            keys,
            revision: None,
            limit: 0,
            keys_only: false,
            count_only: false,
            uncounted: false,
            local: false,
        }
    }

    /// The same as of `revision`.
    pub fn at(self, revision: Revision) -> Range {
        Range { revision: Some(revision), ..self }
    }

    /// The same, at most `limit` keys.
    pub fn limit(self, limit: usize) -> Range {
        Range { limit, ..self }
    }

    /// The same without values.
    pub fn keys_only(self) -> Range {
        Range { keys_only: true, ..self }
    }

    /// Only how many.
    pub fn count_only(self) -> Range {
        Range { count_only: true, ..self }
    }

    /// The same, counted no further than the limit.
    pub fn uncounted(self) -> Range {
        Range { uncounted: true, ..self }
    }

    /// The same from what is at hand.
    pub fn local(self) -> Range {
        Range { local: true, ..self }
    }
}

/// Keys in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// Where the store was when it answered; a read of an old revision gives the current one here.
    pub revision: Revision,
    /// The keys asked for, up to the limit.
    pub kvs: Vec<Kv>,
    /// How many keys the range holds, whatever the limit; not exactly where the request did without.
    pub count: u64,
}

impl RangeReply {
    /// Whether the limit cut the list short.
    pub fn more(&self) -> bool {
        self.count > self.kvs.len() as u64 && !self.kvs.is_empty()
    }
}

/// `if when then … else …`, in one step.
///
/// Compares of nested transactions look at the store as it was before the whole transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold; none always does.
    pub when: Vec<Compare>,
    /// Done if they hold.
    pub then: Vec<Op>,
    /// Done if they do not.
    pub otherwise: Vec<Op>,
}

/// A condition on every key of a range. Where there is no key, versions, revisions and leases compare as 0,
/// and no comparison of values holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Which keys.
    pub keys: KeyRange,
    /// Which of their properties, and with what.
    pub target: Target,
    /// How the property must stand to the given one.
    pub relation: Relation,
}

impl Compare {
    /// The key's last change was at `revision`; revision 0 says that there is no such key.
    pub fn unchanged(key: impl Into<Bytes>, revision: Revision) -> Compare {
        let target = Target::Modified(revision);
        Compare { keys: KeyRange::key(key), target, relation: Relation::Equal }
    }

    /// There is no such key.
    pub fn absent(key: impl Into<Bytes>) -> Compare {
        Compare::unchanged(key, Revision(0))
    }
}

/// What a [`Compare`] looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// How often the key was written.
    Version(i64),
    /// The revision that created the key.
    Created(Revision),
    /// The revision of its last change.
    Modified(Revision),
    /// Its value.
    Value(Bytes),
    /// The lease it is attached to.
    Lease(Option<LeaseId>),
}

/// How what is there must stand to what is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same.
    Equal,
    /// More than given.
    Greater,
    /// Less than given.
    Less,
    /// Not the same.
    NotEqual,
}

/// One operation of a transaction. Later ones see what earlier ones did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read.
    Range(Range),
    /// Write one key.
    Put(Put),
    /// Delete keys.
    Delete(Delete),
    /// A transaction in the transaction; it shares its revision.
    Txn(Txn),
}

/// Writes one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// Which.
    pub key: Bytes,
    /// What; ignored where `keep_value`.
    pub value: Bytes,
    /// The lease to attach it to.
    pub lease: Option<LeaseId>,
    /// Reply with what was there before.
    pub previous: bool,
    /// Leave the value as it is; the key must exist.
    pub keep_value: bool,
    /// Leave the lease as it is; the key must exist.
    pub keep_lease: bool,
}

impl Put {
    /// `key` becomes `value`, attached to no lease.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Put {
        Put { key: key.into(), value: value.into(), ..Put::default() }
    }

    /// The same, attached to `lease`.
    pub fn lease(self, lease: LeaseId) -> Put {
        Put { lease: Some(lease), ..self }
    }

    /// The same, with the previous version in the reply.
    pub fn previous(self) -> Put {
        Put { previous: true, ..self }
    }
}

/// Deletes keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// Which.
    pub keys: KeyRange,
    /// Reply with what was there.
    pub previous: bool,
}

impl Delete {
    /// Deletes `keys`.
    pub fn new(keys: KeyRange) -> Delete {
        Delete { keys, previous: false }
    }

    /// The same, with what was there in the reply.
    pub fn previous(self) -> Delete {
        Delete { previous: true, ..self }
    }
}

/// What a transaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnReply {
    /// The revision of its changes, or where the store was if it changed nothing.
    pub revision: Revision,
    /// Whether the compares held.
    pub succeeded: bool,
    /// One for each operation that was done.
    pub replies: Vec<OpReply>,
}

/// What one operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpReply {
    /// Read.
    Range(RangeReply),
    /// Written; the version before, if it was asked for and there was one.
    Put(Option<Kv>),
    /// Deleted.
    Delete(Deleted),
    /// Did a transaction.
    Txn(TxnReply),
}

/// What a delete found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// How many keys.
    pub count: u64,
    /// Them, if they were asked for.
    pub previous: Vec<Kv>,
}

/// What to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRequest {
    /// Which keys.
    pub keys: KeyRange,
    /// The first revision whose changes are delivered; `None` is whatever comes next.
    pub from: Option<Revision>,
    /// Deliver the version before each change, where history still has it. Without this a store may
    /// deliver it or not, whichever is cheaper.
    pub previous: bool,
}

impl WatchRequest {
    /// What happens to `keys` from now on.
    pub fn new(keys: KeyRange) -> WatchRequest {
        WatchRequest { keys, from: None, previous: false }
    }

    /// The same from `revision` on.
    pub fn from(self, revision: Revision) -> WatchRequest {
        WatchRequest { from: Some(revision), ..self }
    }

    /// The same with previous versions.
    pub fn previous(self) -> WatchRequest {
        WatchRequest { previous: true, ..self }
    }
}

/// A lease to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Its name; `None` lets the store choose.
    pub id: Option<LeaseId>,
    /// Seconds until it ends unless it is kept alive; at least 1, at most 9,000,000,000.
    pub ttl: i64,
}

/// A lease as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// Seconds it was granted.
    pub granted: i64,
    /// Seconds until it ends.
    pub left: i64,
    /// Keys attached to it, in order, where they were asked for.
    pub keys: Vec<Bytes>,
    /// Where the store was.
    pub revision: Revision,
}
