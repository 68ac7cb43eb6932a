//! Leases: which keys hang on them, and when they end.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::kv::LeaseId;

/// The longest time to live, in seconds: etcd's limit.
pub(crate) const LONGEST: i64 = 9_000_000_000;

/// Every lease.
#[derive(Default)]
pub(crate) struct Leases {
    all: HashMap<LeaseId, Held>,
    /// In the order of their ends.
    due: BTreeSet<(Instant, LeaseId)>,
}

pub(crate) struct Held {
    /// Seconds granted.
    pub(crate) ttl: i64,
    pub(crate) end: Instant,
    pub(crate) keys: BTreeSet<Box<[u8]>>,
}

impl Leases {
    pub(crate) fn get(&self, id: LeaseId) -> Option<&Held> {
        self.all.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LeaseId, &Held)> {
        self.all.iter().map(|(id, held)| (*id, held))
    }

    pub(crate) fn grant(&mut self, id: LeaseId, ttl: i64, now: Instant) {
        let end = end(ttl, now);
        self.due.insert((end, id));
        self.all.insert(id, Held { ttl, end, keys: BTreeSet::new() });
    }

    /// Starts the lease's time again.
    pub(crate) fn renew(&mut self, id: LeaseId, now: Instant) -> Option<&Held> {
        let held = self.all.get_mut(&id)?;
        self.due.remove(&(held.end, id));
        held.end = end(held.ttl, now);
        self.due.insert((held.end, id));
        Some(held)
    }

    /// Takes the lease out; its keys are the caller's to delete.
    pub(crate) fn remove(&mut self, id: LeaseId) -> Option<Held> {
        let held = self.all.remove(&id)?;
        self.due.remove(&(held.end, id));
        Some(held)
    }

    pub(crate) fn attach(&mut self, id: Option<LeaseId>, key: &[u8]) {
        if let Some(held) = id.and_then(|id| self.all.get_mut(&id)) {
            held.keys.insert(key.into());
        }
    }

    pub(crate) fn detach(&mut self, id: Option<LeaseId>, key: &[u8]) {
        if let Some(held) = id.and_then(|id| self.all.get_mut(&id)) {
            held.keys.remove(key);
        }
    }

    /// The lease that ends first, and when.
    pub(crate) fn first_due(&self) -> Option<(Instant, LeaseId)> {
        self.due.first().copied()
    }
}

/// Far ends are cut to a century: no clock reaches them, and every `Instant` can hold them.
fn end(ttl: i64, now: Instant) -> Instant {
    const CENTURY: u64 = 100 * 365 * 24 * 3600;
    now + Duration::from_secs(u64::try_from(ttl).unwrap_or(0).min(CENTURY))
}
