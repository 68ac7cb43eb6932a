//! Transactions: which branch they take, whether they may, and what they do.

use std::collections::BTreeSet;

use super::{Core, Work};
use crate::error::StoreError;
use crate::kv::{Kv, Revision};
use crate::range::KeyRange;
use crate::store::{Compare, Delete, Deleted, Op, OpReply, Put, Relation, Target, Txn, TxnReply};

/// The branch that a transaction takes, and those of the transactions in it.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

impl Core {
    /// Does a transaction that may write. The reply holds once everything staged so far is durable.
    ///
    /// [`check_shape`] has been passed.
    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<TxnReply, StoreError> {
        let path = self.path(txn, self.head);
        self.check(txn, &path, self.head)?;
        let puts = size_of_puts(txn, &path);
        if puts > 0 {
            self.admit(puts)?;
        }
        let mut work = self.begin();
        let reply = self.run(txn, &path, &mut work);
        self.finish(work);
        Ok(reply)
    }

    /// Does a transaction without writes on what is visible.
    pub(crate) fn read_txn(&self, txn: &Txn) -> Result<TxnReply, StoreError> {
        let path = self.path(txn, self.visible);
        self.check(txn, &path, self.visible)?;
        Ok(self.look(txn, &path))
    }

    fn path(&self, txn: &Txn, now: Revision) -> Path {
        let succeeded = txn.when.iter().all(|c| self.holds(c, now));
        let nested = chosen(txn, succeeded).iter().filter_map(|op| match op {
            Op::Txn(txn) => Some(self.path(txn, now)),
            _ => None,
        });
        Path { succeeded, nested: nested.collect() }
    }

    fn holds(&self, compare: &Compare, now: Revision) -> bool {
        let mut found = self.index.range(&compare.keys).filter_map(|e| e.at(now)).peekable();
        match found.peek() {
            None => fits(compare, None),
            Some(_) => found.all(|kv| fits(compare, Some(kv))),
        }
    }

    /// Finds out whether every operation on the path can be done, so that none fails half way.
    fn check(&self, txn: &Txn, path: &Path, now: Revision) -> Result<(), StoreError> {
        let mut nested = path.nested.iter();
        for op in chosen(txn, path.succeeded) {
            match op {
                Op::Range(range) => self.check_readable(range.revision, now)?,
                Op::Put(put) => self.check_put(put, now)?,
                Op::Delete(_) => (),
                Op::Txn(txn) => {
                    if let Some(path) = nested.next() {
                        self.check(txn, path, now)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn check_put(&self, put: &Put, now: Revision) -> Result<(), StoreError> {
        if put.lease.is_some_and(|id| self.leases.get(id).is_none()) {
            return Err(StoreError::LeaseNotFound);
        }
        let exists = || self.index.get(&put.key).and_then(|e| e.at(now)).is_some();
        match (put.keep_value || put.keep_lease) && !exists() {
            true => Err(StoreError::KeyNotFound),
            false => Ok(()),
        }
    }

    fn run(&mut self, txn: &Txn, path: &Path, work: &mut Work) -> TxnReply {
        let mut nested = path.nested.iter();
        let mut replies = Vec::new();
        for op in chosen(txn, path.succeeded) {
            replies.push(match op {
                Op::Range(range) => OpReply::Range(self.read(range, self.now(work))),
                Op::Put(put) => OpReply::Put(self.put(put, work)),
                Op::Delete(delete) => OpReply::Delete(self.delete(delete, work)),
                Op::Txn(txn) => match nested.next() {
                    Some(path) => OpReply::Txn(self.run(txn, path, work)),
                    None => continue,
                },
            });
        }
        TxnReply { revision: self.now(work), succeeded: path.succeeded, replies }
    }

    fn look(&self, txn: &Txn, path: &Path) -> TxnReply {
        let mut nested = path.nested.iter();
        let replies = chosen(txn, path.succeeded).iter().filter_map(|op| match op {
            Op::Range(range) => Some(OpReply::Range(self.read(range, self.visible))),
            Op::Txn(txn) => nested.next().map(|path| OpReply::Txn(self.look(txn, path))),
            Op::Put(_) | Op::Delete(_) => None,
        });
        let replies = replies.collect();
        TxnReply { revision: self.visible, succeeded: path.succeeded, replies }
    }

    fn put(&mut self, put: &Put, work: &mut Work) -> Option<Kv> {
        let before = self.index.get(&put.key).and_then(|e| e.at(work.revision)).cloned();
        let kept = before.as_ref();
        let value = match kept {
            Some(before) if put.keep_value => before.value(),
            _ => &put.value[..],
        };
        let lease = if put.keep_lease { kept.and_then(Kv::lease) } else { put.lease };
        self.write_key(&put.key, value, lease, work);
        before.filter(|_| put.previous)
    }

    fn delete(&mut self, delete: &Delete, work: &mut Work) -> Deleted {
        let live = self.index.range(&delete.keys).filter_map(|e| e.at(work.revision));
        let found: Vec<Kv> = live.cloned().collect();
        for kv in &found {
            self.remove_key(kv.key(), work);
        }
        let count = found.len() as u64;
        Deleted { count, previous: if delete.previous { found } else { Vec::new() } }
    }

    /// The newest revision that an operation in the middle of a transaction sees.
    fn now(&self, work: &Work) -> Revision {
        if work.changed.is_empty() { self.head } else { work.revision }
    }
}

/// Whether a transaction could write, whichever way its compares go.
pub(crate) fn writes(txn: &Txn) -> bool {
    txn.then.iter().chain(&txn.otherwise).any(|op| match op {
        Op::Range(_) => false,
        Op::Put(_) | Op::Delete(_) => true,
        Op::Txn(txn) => writes(txn),
    })
}

/// Refuses what is wrong with a transaction whatever the store holds.
pub(crate) fn check_shape(txn: &Txn, max_ops: usize) -> Result<(), StoreError> {
    let branches = [txn.when.len(), txn.then.len(), txn.otherwise.len()];
    if max_ops > 0 && branches.iter().any(|&n| n > max_ops) {
        return Err(StoreError::TooManyOps);
    }
    for compare in &txn.when {
        check_key(&compare.keys)?;
    }
    for branch in [&txn.then, &txn.otherwise] {
        for op in branch {
            check_op(op, max_ops)?;
        }
        touched(branch)?;
    }
    Ok(())
}

fn check_op(op: &Op, max_ops: usize) -> Result<(), StoreError> {
    match op {
        Op::Range(range) => check_key(&range.keys),
        Op::Delete(delete) => check_key(&delete.keys),
        Op::Put(put) if put.key.is_empty() => Err(StoreError::EmptyKey),
        Op::Put(put) if put.keep_value && !put.value.is_empty() => Err(StoreError::ValueProvided),
        Op::Put(put) if put.keep_lease && put.lease.is_some() => Err(StoreError::LeaseProvided),
        Op::Put(_) => Ok(()),
        Op::Txn(txn) => check_shape(txn, max_ops),
    }
}

fn check_key(keys: &KeyRange) -> Result<(), StoreError> {
    match keys {
        KeyRange::Key(key) if key.is_empty() => Err(StoreError::EmptyKey),
        _ => Ok(()),
    }
}

/// The keys that a branch puts and the ranges that it deletes: no key may be changed twice in a
/// revision. The two branches of a nested transaction exclude each other, so they may overlap.
fn touched(ops: &[Op]) -> Result<(BTreeSet<&[u8]>, Vec<&KeyRange>), StoreError> {
    let (mut puts, mut deletes) = (BTreeSet::new(), Vec::new());
    for op in ops {
        match op {
            Op::Range(_) => (),
            Op::Put(put) if !puts.insert(&put.key[..]) => return Err(StoreError::DuplicateKey),
            Op::Put(_) => (),
            Op::Delete(delete) => deletes.push(&delete.keys),
            Op::Txn(txn) => {
                let (then, then_deletes) = touched(&txn.then)?;
                let (otherwise, otherwise_deletes) = touched(&txn.otherwise)?;
                let either: BTreeSet<&[u8]> = then.union(&otherwise).copied().collect();
                if !puts.is_disjoint(&either) {
                    return Err(StoreError::DuplicateKey);
                }
                puts.extend(either);
                deletes.extend(then_deletes);
                deletes.extend(otherwise_deletes);
            }
        }
    }
    let twice = puts.iter().any(|key| deletes.iter().any(|range| range.contains(key)));
    if twice { Err(StoreError::DuplicateKey) } else { Ok((puts, deletes)) }
}

fn chosen(txn: &Txn, succeeded: bool) -> &[Op] {
    if succeeded { &txn.then } else { &txn.otherwise }
}

fn fits(compare: &Compare, kv: Option<&Kv>) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let number = |of: fn(&Kv) -> i64| kv.map_or(0, of);
    let order = match &compare.target {
        Target::Version(n) => number(Kv::version).cmp(n),
        Target::Created(r) => number(|kv| kv.create_revision().0).cmp(&r.0),
        Target::Modified(r) => number(|kv| kv.mod_revision().0).cmp(&r.0),
        Target::Lease(lease) => {
            let id = crate::kv::LeaseId::to_wire;
            id(kv.and_then(Kv::lease)).cmp(&id(*lease))
        }
        Target::Value(value) => match kv {
            Some(kv) => kv.value().cmp(&value[..]),
            // A value that is not there stands in no relation.
            None => return false,
        },
    };
    match compare.relation {
        Relation::Equal => order == Equal,
        Relation::Greater => order == Greater,
        Relation::Less => order == Less,
        Relation::NotEqual => order != Equal,
    }
}

fn size_of_puts(txn: &Txn, path: &Path) -> u64 {
    let mut nested = path.nested.iter();
    let size = |op: &Op| match op {
        Op::Put(put) => (put.key.len() + put.value.len() + 1) as u64,
        Op::Txn(txn) => nested.next().map_or(0, |path| size_of_puts(txn, path)),
        Op::Range(_) | Op::Delete(_) => 0,
    };
    chosen(txn, path.succeeded).iter().map(size).sum()
}
