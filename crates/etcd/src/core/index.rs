//! Every key with its versions, in key order.
//!
//! Sorted leaves of bounded size under one sorted vector: at a million keys a slot costs 16 bytes and a
//! lookup two binary searches. A balanced tree was passed over because its slots hold the key a second time.

use std::cmp::Ordering;

use crate::kv::{Kv, Revision};
use crate::range::KeyRange;

/// Entries in a leaf before it is split: inserting moves at most 4 KiB.
const LEAF: usize = 256;

/// All keys. No leaf is empty, and keys ascend within and across leaves.
#[derive(Default)]
pub(crate) struct Index {
    leaves: Vec<Vec<Entry>>,
    len: usize,
}

/// The versions of one key, the latest of which may say that it is deleted.
pub(crate) struct Entry {
    latest: Kv,
    /// Ascending. Boxed twice so that the usual entry, with one version, is two words.
    older: Option<Box<Older>>,
}

struct Older(Vec<Kv>);

impl Entry {
    /// The key.
    pub(crate) fn key(&self) -> &[u8] {
        self.latest.key()
    }

    /// The key as it was at `revision`, unless it did not exist then.
    pub(crate) fn at(&self, revision: Revision) -> Option<&Kv> {
        self.versions().find(|v| v.mod_revision() <= revision).filter(|v| !v.is_tombstone())
    }

    /// Every version that is kept, latest first.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &Kv> {
        let older = self.older.iter().flat_map(|o| o.0.iter().rev());
        std::iter::once(&self.latest).chain(older)
    }

    fn push(&mut self, kv: Kv) {
        let before = std::mem::replace(&mut self.latest, kv);
        self.older.get_or_insert_with(|| Box::new(Older(Vec::with_capacity(1)))).0.push(before);
    }

    /// Drops what nobody can read at or after `revision`; says whether the entry itself is still needed.
    fn prune(&mut self, revision: Revision, dropped: &mut u64) -> bool {
        if self.latest.mod_revision() <= revision {
            *dropped += self.older.take().map_or(0, |o| o.0.iter().map(Kv::weight).sum());
            // A deletion at the very revision stays for watchers that resume there.
            return !self.latest.is_tombstone() || self.latest.mod_revision() == revision;
        }
        let Some(older) = &mut self.older else { return true };
        let newer = older.0.partition_point(|v| v.mod_revision() <= revision);
        let keep = match older.0[..newer].last() {
            Some(v) if v.is_tombstone() && v.mod_revision() < revision => newer,
            _ => newer.saturating_sub(1),
        };
        *dropped += older.0.drain(..keep).map(|v| v.weight()).sum::<u64>();
        match older.0.is_empty() {
            true => self.older = None,
            false => older.0.shrink_to(older.0.len() * 2),
        }
        true
    }
}

impl Index {
    /// How many keys have versions, deleted ones included.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The versions of `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Entry> {
        let at = self.find(key).ok()?;
        Some(&self.leaves[at.leaf][at.slot])
    }

    /// Adds the newest version of its key.
    pub(crate) fn push(&mut self, kv: Kv) {
        match self.find(kv.key()) {
            Ok(at) => self.leaves[at.leaf][at.slot].push(kv),
            Err(at) => self.insert(at, Entry { latest: kv, older: None }),
        }
    }

    /// The entries of `keys`, in order.
    pub(crate) fn range<'a>(&'a self, keys: &'a KeyRange) -> impl Iterator<Item = &'a Entry> {
        self.from(keys.start()).take_while(|e| !keys.is_past(e.key()))
    }

    /// The entries from `start` on.
    pub(crate) fn from(&self, start: &[u8]) -> impl Iterator<Item = &Entry> {
        let at = self.find(start).unwrap_or_else(|at| at);
        let first = self.leaves.get(at.leaf).map_or(&[][..], |l| &l[at.slot..]);
        first.iter().chain(self.leaves.iter().skip(at.leaf + 1).flatten())
    }

    /// Drops versions of `key` that nobody can read at or after `revision`; gives their weight.
    pub(crate) fn prune(&mut self, key: &[u8], revision: Revision) -> u64 {
        let Ok(at) = self.find(key) else { return 0 };
        let mut dropped = 0;
        let leaf = &mut self.leaves[at.leaf];
        if !leaf[at.slot].prune(revision, &mut dropped) {
            dropped += leaf.remove(at.slot).latest.weight();
            self.len -= 1;
            if leaf.is_empty() {
                self.leaves.remove(at.leaf);
            }
        }
        dropped
    }

    /// Where `key` is, or where it would have to go.
    fn find(&self, key: &[u8]) -> Result<Place, Place> {
        let behind =
            self.leaves.partition_point(|leaf| leaf[0].key().cmp(key) != Ordering::Greater);
        let Some(leaf) = behind.checked_sub(1) else { return Err(Place { leaf: 0, slot: 0 }) };
        match self.leaves[leaf].binary_search_by(|e| e.key().cmp(key)) {
            Ok(slot) => Ok(Place { leaf, slot }),
            Err(slot) => Err(Place { leaf, slot }),
        }
    }

    fn insert(&mut self, at: Place, entry: Entry) {
        self.len += 1;
        let last = self.leaves.len().saturating_sub(1);
        let Some(leaf) = self.leaves.get_mut(at.leaf) else {
            self.leaves.push(vec![entry]);
            return;
        };
        if leaf.len() < LEAF {
            leaf.insert(at.slot, entry);
        } else if at.leaf == last && at.slot == LEAF {
            // Keys that come in order fill their leaves.
            self.leaves.push(vec![entry]);
        } else {
            let mut upper = leaf.split_off(LEAF / 2);
            match at.slot.checked_sub(LEAF / 2) {
                Some(slot) => upper.insert(slot, entry),
                None => leaf.insert(at.slot, entry),
            }
            self.leaves.insert(at.leaf + 1, upper);
        }
    }
}

#[derive(Clone, Copy)]
struct Place {
    leaf: usize,
    slot: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Stamp;
    use std::collections::BTreeMap;

    fn version(key: &[u8], modified: i64, version: i64) -> Kv {
        let stamp = Stamp {
            create: Revision(1),
            modified: Revision(modified),
            sub: 0,
            version,
            lease: None,
        };
        Kv::new(key, b"v", stamp)
    }

    #[test]
    fn keys_stay_in_order_however_they_come() {
        let mut index = Index::default();
        let mut model = BTreeMap::new();
        for n in 0..5_000u64 {
            let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
            let revision = i64::try_from(n).unwrap() + 2;
            index.push(version(&key, revision, 1));
            model.insert(key, revision);
        }
        assert_eq!(index.len(), 5_000);
        let found: Vec<_> = index.from(b"").map(|e| e.key().to_vec()).collect();
        assert!(found.iter().eq(model.keys().map(|k| k.as_slice())));
        let some = &found[1_234];
        assert_eq!(index.from(some).count(), 5_000 - 1_234);
        assert_eq!(index.get(some).unwrap().latest.mod_revision().0, model[some.as_slice()]);
        for key in model.keys() {
            index.push(Kv::tombstone(key, Revision(6_000), 0));
            index.prune(key, Revision(6_001));
        }
        assert!(index.leaves.is_empty() && index.len() == 0);
    }

    #[test]
    fn versions_are_read_as_of_a_revision_and_pruned() {
        let mut index = Index::default();
        for n in [2, 4, 6] {
            index.push(version(b"a", n, n / 2));
        }
        index.push(Kv::tombstone(b"a", Revision(8), 0));
        let at = |index: &Index, n| {
            let entry = index.get(b"a")?;
            entry.at(Revision(n)).map(|v| v.mod_revision().0)
        };
        let all: Vec<_> = (1..=8).map(|n| at(&index, n)).collect();
        assert_eq!(all, [None, Some(2), Some(2), Some(4), Some(4), Some(6), Some(6), None]);
        index.prune(b"a", Revision(5));
        let left: Vec<_> =
            index.get(b"a").unwrap().versions().map(|v| v.mod_revision().0).collect();
        assert_eq!(left, [8, 6, 4], "the version that is valid at 5 stays");
        index.prune(b"a", Revision(8));
        assert!(index.get(b"a").unwrap().at(Revision(8)).is_none());
        index.prune(b"a", Revision(9));
        assert!(index.get(b"a").is_none());
    }
}
