//! Keys under a prefix as a queue: each waits until those created before it are gone. Locks and elections.

use bytes::Bytes;
use tonic::{Request, Status};

use super::Host;
use super::caller::Credentials;
use crate::auth::Caller;
use crate::error::StoreError;
use crate::kv::{Kv, LeaseId, Revision};
use crate::range::KeyRange;
use crate::store::{
    Compare, Delete, LeaseRequest, Op, OpReply, Put, Range, RangeReply, Relation, Store as _,
    Target, Txn, TxnReply, WatchRequest,
};
use crate::watch::{EventKind, Watch, WatchItem};
use crate::wire::status;

/// Seconds of the lease that a request gets which names none, as etcd's sessions have them.
const SESSION: i64 = 60;

/// One who stands in queues.
#[derive(Clone)]
pub(super) struct Party {
    pub(super) host: Host,
    credentials: Credentials,
}

/// A key of the party in a queue.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: Bytes,
    pub(super) created: Revision,
    /// The revision of the answer that gave the place.
    pub(super) seen: Revision,
    /// What was there already.
    pub(super) found: Option<Kv>,
}

/// Etcd answers locks and elections through a client of its own, which forgets the codes of errors.
pub(super) fn unknown(error: &StoreError) -> Status {
    Status::unknown(status(error).message())
}

impl Party {
    pub(super) fn of<T>(host: &Host, request: &Request<T>) -> Party {
        Party { host: host.clone(), credentials: Credentials::of(request) }
    }

    fn caller(&self) -> Result<Caller, Status> {
        self.host.caller(&self.credentials).map_err(|e| Status::unknown(e.message()))
    }

    /// The lease named, or a new one.
    pub(super) async fn session(&self, lease: i64) -> Result<LeaseId, Status> {
        if let Some(id) = LeaseId::from_wire(lease) {
            return Ok(id);
        }
        let known = self.host.store.auth().known(&self.caller()?);
        known.map_err(|e| unknown(&e.into()))?;
        let granted = self.host.store.grant(LeaseRequest { id: None, ttl: SESSION }).await;
        granted.map(|lease| lease.id).map_err(|e| unknown(&e))
    }

    pub(super) async fn txn(&self, txn: Txn) -> Result<TxnReply, Status> {
        self.host.store.txn_for(&self.caller()?, &txn).await.map_err(|e| unknown(&e))
    }

    pub(super) fn range(&self, range: Range) -> Result<RangeReply, Status> {
        self.host.store.range_for(&self.caller()?, range).map_err(|e| unknown(&e))
    }

    pub(super) async fn watch(&self, keys: KeyRange, from: Revision) -> Result<Watch, Status> {
        let watch = self.host.store.watch(WatchRequest::new(keys).from(from)).await;
        watch.map_err(|e| unknown(&e))
    }

    /// Puts the lease's key into the queue; the key stays as it is if it is there already.
    pub(super) async fn enter(
        &self,
        queue: &[u8],
        lease: LeaseId,
        value: Bytes,
    ) -> Result<Place, Status> {
        let key = key(queue, lease);
        let reply = self
            .txn(Txn {
                when: vec![absent(&key)],
                then: vec![Op::Put(Put::new(key.clone(), value).lease(lease))],
                otherwise: vec![Op::Range(Range::new(KeyRange::Key(key.clone())))],
            })
            .await?;
        let seen = reply.revision;
        let found = match reply.replies.into_iter().next() {
            Some(OpReply::Range(mut range)) => range.kvs.pop(),
            _ => None,
        };
        let created = found.as_ref().map_or(seen, Kv::create_revision);
        Ok(Place { key, created, seen, found })
    }

    /// Waits until every key of the queue is gone that was created before `created`.
    pub(super) async fn wait(&self, queue: &[u8], created: Revision) -> Result<(), Status> {
        loop {
            let all = self.range(Range::new(prefix(queue)).keys_only())?;
            let before = all.kvs.iter().filter(|kv| kv.create_revision() < created);
            let Some(last) = before.max_by_key(|kv| kv.create_revision()) else { return Ok(()) };
            let last = KeyRange::key(Bytes::copy_from_slice(last.key()));
            let mut watch = self.watch(last, all.revision.next()).await?;
            while !is_gone(&watch.next().await.map_err(|e| unknown(&e))?) {}
        }
    }

    /// The key that has been in the queue for longest.
    pub(super) fn first(&self, queue: &[u8]) -> Result<(Revision, Option<Kv>), Status> {
        let all = self.range(Range::new(prefix(queue)))?;
        let first = all.kvs.into_iter().min_by_key(Kv::create_revision);
        Ok((all.revision, first))
    }

    /// A guard that takes the place back when it is dropped, as when the client hangs up.
    pub(super) fn guard(&self, place: &Place) -> Guard {
        Guard { held: Some((self.clone(), place.key.clone(), place.created)) }
    }
}

/// Gives up a place unless it is told to keep it.
pub(super) struct Guard {
    held: Option<(Party, Bytes, Revision)>,
}

impl Guard {
    pub(super) fn keep(mut self) {
        self.held = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some((party, key, created)) = self.held.take() else { return };
        // Nobody waits for it; what is left undone ends with its lease.
        drop(tokio::spawn(async move {
            let leave = Txn {
                when: vec![is_created(&key, created)],
                then: vec![Op::Delete(Delete::new(KeyRange::Key(key)))],
                ..Txn::default()
            };
            if let Err(e) = party.host.store.txn(leave).await {
                tracing::warn!(error = %e, "a place in a queue was not given up");
            }
        }));
    }
}

fn is_gone(item: &WatchItem) -> bool {
    match item {
        WatchItem::Events { events, .. } => events.iter().any(|e| e.kind == EventKind::Delete),
        WatchItem::Progress(_) => false,
    }
}

/// The keys of a queue.
pub(super) fn prefix(queue: &[u8]) -> KeyRange {
    KeyRange::prefix([queue, b"/"].concat())
}

/// The key of a lease: its number in hexadecimal, as Go writes it.
fn key(queue: &[u8], lease: LeaseId) -> Bytes {
    let id = lease.0.get();
    let sign = if id < 0 { "-" } else { "" };
    [queue, format!("/{sign}{:x}", id.unsigned_abs()).as_bytes()].concat().into()
}

fn absent(key: &Bytes) -> Compare {
    is_created(key, Revision(0))
}

/// The key was created at a revision, and has not been deleted since.
pub(super) fn is_created(key: &Bytes, at: Revision) -> Compare {
    let keys = KeyRange::Key(key.clone());
    Compare { keys, target: Target::Created(at), relation: Relation::Equal }
}
