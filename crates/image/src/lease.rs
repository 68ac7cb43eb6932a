//! Leases: what they name is not collected while they are held.

use std::collections::HashMap;
use std::sync::Arc;

use wharf_base::sync::Mutex;
use wharf_spec::digest::Digest;

/// Keeps blobs and layers alive until it is dropped. In memory only: for a pull, a load, an
/// unpack. What must survive a restart is pinned ([`crate::ImageStore::pin`]).
#[derive(Debug)]
pub struct Lease {
    held: Vec<Digest>,
    counts: Leases,
}

/// How often each digest (of a blob, or a chain id) is held.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leases(Arc<Mutex<HashMap<Digest, usize>>>);

impl Leases {
    /// Holds `digests`.
    pub(crate) fn take(&self, digests: impl IntoIterator<Item = Digest>) -> Lease {
        let mut lease = Lease { held: Vec::new(), counts: self.clone() };
        lease.extend(digests);
        lease
    }

    pub(crate) fn holds(&self, digest: &Digest) -> bool {
        self.0.lock().contains_key(digest)
    }
}

impl Lease {
    /// Holds `digests` as well.
    pub(crate) fn extend(&mut self, digests: impl IntoIterator<Item = Digest>) {
        let mut counts = self.counts.0.lock();
        for digest in digests {
            *counts.entry(digest.clone()).or_default() += 1;
            self.held.push(digest);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock();
        for digest in &self.held {
            if let Some(count) = counts.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(digest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_held_until_its_last_lease_goes() {
        let leases = Leases::default();
        let digest = Digest::sha256(b"x");
        let one = leases.take([digest.clone()]);
        let mut two = leases.take([]);
        two.extend([digest.clone()]);
        drop(one);
        assert!(leases.holds(&digest));
        drop(two);
        assert!(!leases.holds(&digest));
    }
}
