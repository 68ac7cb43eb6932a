//! Fan-out: from changes that have just become visible to the inboxes of those who watch them.
//!
//! Watchers of the same range share one list of events, so ten thousand of them cost ten thousand pointers.
//! An inbox that is full is cut off: its watcher reads the rest from history when it gets to it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use wharf_base::sync::{Mutex, MutexGuard};

use crate::kv::Revision;
use crate::range::KeyRange;
use crate::watch::{Event, WatchItem};

/// Items an inbox holds before its watcher has to go back to history.
const INBOX: usize = 256;

/// All watchers.
#[derive(Default)]
pub(crate) struct Hub(Mutex<Groups>);

/// Watchers by what they watch.
#[derive(Default)]
pub(crate) struct Groups {
    /// Everything up to here has been handed out.
    through: Revision,
    next: u64,
    keys: HashMap<Bytes, Group>,
    prefixes: HashMap<Bytes, Group>,
    /// How many prefixes there are of each length: a key is looked up once for each.
    lengths: BTreeMap<usize, usize>,
    /// Ranges that are neither; rare enough to be tried one by one.
    spans: HashMap<KeyRange, Group>,
}

type Group = BTreeMap<WatcherId, Arc<Inbox>>;

/// Names a watcher in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WatcherId(u64);

/// Where a watcher finds what was handed out to it.
#[derive(Default)]
pub(crate) struct Inbox(Mutex<Contents>);

#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) items: VecDeque<WatchItem>,
    /// Not everything is in here: go on from history, at this revision.
    pub(crate) behind: Option<Revision>,
    pub(crate) waker: Option<Waker>,
    /// The store is gone.
    pub(crate) closed: bool,
}

impl Hub {
    /// Locks the groups. Taken after the core's lock, so that nothing becomes visible in between.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Groups> {
        self.0.lock()
    }
}

impl Groups {
    /// Everything up to here has been handed out.
    pub(crate) fn through(&self) -> Revision {
        self.through
    }

    /// Adds a watcher to those of its range.
    pub(crate) fn join(&mut self, keys: &KeyRange, inbox: Arc<Inbox>) -> WatcherId {
        self.next += 1;
        let id = WatcherId(self.next);
        let group = match (keys, keys.as_prefix()) {
            (KeyRange::Key(key), _) => self.keys.entry(key.clone()).or_default(),
            (_, Some(prefix)) => {
                let group = self.prefixes.entry(prefix.clone()).or_default();
                if group.is_empty() {
                    *self.lengths.entry(prefix.len()).or_default() += 1;
                }
                group
            }
            (other, None) => self.spans.entry(other.clone()).or_default(),
        };
        group.insert(id, inbox);
        id
    }

    /// Takes a watcher out.
    pub(crate) fn leave(&mut self, keys: &KeyRange, id: WatcherId) {
        match (keys, keys.as_prefix()) {
            (KeyRange::Key(key), _) => drop(quit(&mut self.keys, key, id)),
            (_, Some(prefix)) => {
                if quit(&mut self.prefixes, prefix, id)
                    && let Some(n) = self.lengths.get_mut(&prefix.len())
                {
                    *n -= 1;
                    if *n == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
            (other, None) => drop(quit(&mut self.spans, other, id)),
        }
    }

    /// Hands out changes that became visible, in order.
    pub(crate) fn hand_out(&mut self, events: &[Event], through: Revision) {
        self.through = through;
        let mut shares: HashMap<KeyRange, Vec<Event>> = HashMap::new();
        for event in events {
            self.each_range(event.kv.key(), |range| match shares.get_mut(&range) {
                Some(share) => share.push(event.clone()),
                None => drop(shares.insert(range, vec![event.clone()])),
            });
        }
        for (range, share) in shares {
            let item = WatchItem::Events { through, events: share.into() };
            let first = events.first().map_or(through, |e| e.kv.mod_revision());
            self.group(&range).for_each(|inbox| inbox.put(&item, first));
        }
    }

    /// Tells every watcher that nothing more will come.
    pub(crate) fn close(&mut self) {
        let groups = self.keys.values().chain(self.prefixes.values()).chain(self.spans.values());
        groups.flat_map(Group::values).for_each(|inbox| inbox.close());
    }

    fn each_range(&self, key: &[u8], mut found: impl FnMut(KeyRange)) {
        if let Some((own, _)) = self.keys.get_key_value(key) {
            found(KeyRange::Key(own.clone()));
        }
        for length in self.lengths.range(..=key.len()).map(|(length, _)| *length) {
            if let Some((prefix, _)) = self.prefixes.get_key_value(&key[..length]) {
                found(KeyRange::prefix(prefix.clone()));
            }
        }
        self.spans.keys().filter(|r| r.contains(key)).for_each(|r| found(r.clone()));
    }

    fn group(&self, keys: &KeyRange) -> impl Iterator<Item = &Arc<Inbox>> {
        let group = match (keys, keys.as_prefix()) {
            (KeyRange::Key(key), _) => self.keys.get(key),
            (_, Some(prefix)) => self.prefixes.get(prefix),
            (other, None) => self.spans.get(other),
        };
        group.into_iter().flat_map(Group::values)
    }
}

impl Inbox {
    /// An inbox whose watcher begins in history, at `behind`, or with what comes next.
    pub(crate) fn new(behind: Option<Revision>) -> Inbox {
        Inbox(Mutex::new(Contents { behind, ..Contents::default() }))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock()
    }

    /// `first` is the revision to go back to if there is no room.
    fn put(&self, item: &WatchItem, first: Revision) {
        let waker = {
            let mut contents = self.0.lock();
            if contents.behind.is_none() {
                if contents.items.len() < INBOX {
                    contents.items.push_back(item.clone());
                } else {
                    contents.behind = Some(first);
                }
            }
            contents.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    fn close(&self) {
        let waker = {
            let mut contents = self.0.lock();
            contents.closed = true;
            contents.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

/// Takes a watcher out of its group; says whether the group is gone with it.
fn quit<K>(groups: &mut HashMap<K, Group>, key: &K, id: WatcherId) -> bool
where
    K: std::hash::Hash + Eq,
{
    let Some(group) = groups.get_mut(key) else { return false };
    group.remove(&id);
    let empty = group.is_empty();
    if empty {
        groups.remove(key);
    }
    empty
}
