//! A copy of the whole state, while writers go on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Embedded, SLICE, Shared};
use crate::core::Outline;
use crate::error::StoreError;
use crate::kv::{Kv, Revision};
use crate::pair;

/// A checksum of everything that can be read, which is the same for the same history on every store, etcd
/// included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// CRC-32C over etcd's form of each version.
    pub hash: u32,
    /// The oldest revision in it.
    pub compacted: Revision,
    /// The newest.
    pub revision: Revision,
}

impl Embedded {
    /// The checksum of the history up to `revision`, or to now. Blocks.
    pub fn hash(&self, revision: Option<Revision>) -> Result<Hash, StoreError> {
        let (copy, until, compacted) = {
            let state = self.shared.state.read();
            let (newest, compacted) = (state.core.visible(), state.core.compacted());
            let until = revision.unwrap_or(newest);
            if until > newest {
                return Err(StoreError::FutureRevision { current: newest });
            }
            if until < compacted {
                return Err(StoreError::Compacted { oldest: compacted });
            }
            (Copy::begin(&self.shared), until, compacted)
        };
        let mut sum = crc32c::crc32c(b"key");
        let mut pair = Vec::new();
        for kv in hashed(copy.versions(until), compacted) {
            pair.clear();
            pair::put_revision_key(&kv, &mut pair);
            pair::encode(&kv, &mut pair);
            sum = crc32c::crc32c_append(sum, &pair);
        }
        Ok(Hash { hash: sum, compacted, revision: until })
    }
}

/// Leaves out versions as etcd does, whether they have been dropped yet or not. Of those up to the compacted
/// revision only the ones that live on to the end are hashed; where no key does, those that lived at the compacted
/// revision, which are what etcd still has.
fn hashed(versions: Vec<Kv>, compacted: Revision) -> impl Iterator<Item = Kv> {
    let old = versions.partition_point(|kv| kv.mod_revision() <= compacted);
    let live = match latest(&versions) {
        live if live.is_empty() => latest(&versions[..old]),
        live => live,
    };
    let lives = move |kv: &Kv| live.get(kv.key()) == Some(&kv.mod_revision());
    versions.into_iter().enumerate().filter(move |(n, kv)| *n >= old || lives(kv)).map(|(_, kv)| kv)
}

/// The keys that exist at the end of a history, with their last change.
fn latest(versions: &[Kv]) -> HashMap<Vec<u8>, Revision> {
    let mut live = HashMap::new();
    for kv in versions {
        match kv.is_tombstone() {
            true => live.remove(kv.key()),
            false => live.insert(kv.key().to_vec(), kv.mod_revision()),
        };
    }
    live
}

impl Shared {
    /// The state as it is visible now.
    pub(super) fn freeze(self: &Arc<Shared>) -> (Outline, Vec<Kv>) {
        let state = self.state.read();
        let copy = Copy::begin(self);
        let outline = Outline { head: state.core.visible(), ..state.core.outline() };
        drop(state);
        let versions = copy.versions(outline.head);
        (outline, versions)
    }
}

/// A copy of the state in the making; versions stay while it lives.
pub(super) struct Copy(Arc<Shared>);

impl Copy {
    /// With the state locked, or by the thread that drops versions.
    pub(super) fn begin(shared: &Arc<Shared>) -> Copy {
        shared.copying.fetch_add(1, Ordering::AcqRel);
        Copy(Arc::clone(shared))
    }

    /// All versions up to `until`, in the order of time. Taken in slices, so that nobody waits long.
    pub(super) fn versions(&self, until: Revision) -> Vec<Kv> {
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
