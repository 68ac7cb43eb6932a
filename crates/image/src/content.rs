//! Blobs for others than images: a registry keeps its repositories in the same files.
//!
//! A blob is here because an image needs it, or because an *owner* has a link to it. The owner is a name that
//! the caller chooses, such as a repository; a link is one row of the state database. Linking a blob
//! that an image brought costs a row and no bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wharf_base::db::{Batch, Durability};
use wharf_base::sync::Mutex;
use wharf_spec::digest::{Digest, Hasher};

use crate::store::{Index, Inner};
use crate::{ImageStore, StoreError};

/// Rows `<owner> <digest>`. Owners have no blanks.
const LINKS: &str = "content-links";

/// The blobs of a store by owner. Clones share them.
#[derive(Clone)]
pub struct Content(Arc<Inner>);

/// That an owner has a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Bytes of the blob.
    pub size: u64,
    /// When the owner got it, in seconds since 1970.
    pub since: i64,
}

/// All links, by owner.
pub(crate) type Links = BTreeMap<String, BTreeMap<Digest, Link>>;

/// What pushes in flight let registries of this process take without sending it, by their tokens.
pub(crate) type Offers = Arc<Mutex<BTreeMap<String, BTreeSet<Digest>>>>;

/// Lets a registry of this process take blobs without their bytes being sent, until it is dropped.
///
/// Whoever pushes proves with the token that it has the blobs. A registry elsewhere that is shown the token can do
/// nothing with it but take what it is being sent anyway.
pub(crate) struct Offer {
    /// 128 random bits in hex.
    pub(crate) token: String,
    offers: Offers,
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.offers.lock().remove(&self.token);
    }
}

impl Inner {
    /// Makes `digests` available to registries of this process.
    pub(crate) fn offer(&self, digests: impl IntoIterator<Item = Digest>) -> Offer {
        let mut bytes = [0; 16];
        // Without randomness the token stays known to nobody but us, and matches nothing: no offer is made.
        let random = getrandom::fill(&mut bytes).is_ok();
        let token = hex::encode(bytes);
        if random {
            self.offers.lock().insert(token.clone(), digests.into_iter().collect());
        }
        Offer { token, offers: self.offers.clone() }
    }

    /// Reads the links of the database. What lost its blob is named and dropped.
    pub(crate) fn load_links(&self, index: &mut Index) -> Result<(), StoreError> {
        let suspects: BTreeSet<Digest> = self.flusher.suspects()?.into_iter().collect();
        let mut broken = Batch::new();
        for (key, link) in self.db.scan::<Link>(LINKS)? {
            let parsed =
                key.split_once(' ').and_then(|(o, d)| Some((o, d.parse::<Digest>().ok()?)));
            match parsed {
                Some((owner, digest)) if self.is_whole(&digest, link, &suspects) => {
                    index.links.entry(owner.to_owned()).or_default().insert(digest, link);
                }
                _ => {
                    tracing::error!(
                        link = key,
                        "blob was not whole on disk and is dropped; push it again"
                    );
                    broken.delete(LINKS, &key);
                }
            }
        }
        Ok(self.db.write(broken, Durability::Process)?)
    }

    /// What was written in an earlier boot without having been flushed is read once more.
    fn is_whole(&self, digest: &Digest, link: Link, suspects: &BTreeSet<Digest>) -> bool {
        if self.blobs.size(digest) != Some(link.size) {
            return false;
        }
        !suspects.contains(digest) || self.hash(digest).is_ok_and(|found| found == *digest)
    }

    fn hash(&self, digest: &Digest) -> Result<Digest, StoreError> {
        let mut file = self.blobs.file(digest)?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; 256 << 10];
        loop {
            let path = self.blobs.path(digest);
            match file.read(&mut buffer).map_err(crate::error::io_error("read", &path))? {
                0 => return Ok(hasher.finish()),
                n => hasher.update(&buffer[..n]),
            }
        }
    }
}

impl ImageStore {
    /// The blobs of this store, for content that is no image.
    pub fn content(&self) -> Content {
        Content(self.0.clone())
    }
}

impl Content {
    /// A directory for files that are to become blobs: on the same file system, and emptied by nobody.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// What `owner` has under `digest`.
    pub fn linked(&self, owner: &str, digest: &Digest) -> Option<Link> {
        self.0.index.lock().links.get(owner)?.get(digest).copied()
    }

    /// Everything that `owner` has.
    pub fn links(&self, owner: &str) -> Vec<(Digest, Link)> {
        let index = self.0.index.lock();
        let all = index.links.get(owner).into_iter().flatten();
        all.map(|(digest, link)| (digest.clone(), *link)).collect()
    }

    /// Everybody who has something.
    pub fn owners(&self) -> Vec<String> {
        self.0.index.lock().links.keys().cloned().collect()
    }

    /// Who has `digest`.
    pub fn owners_of(&self, digest: &Digest) -> Vec<String> {
        let index = self.0.index.lock();
        let all = index.links.iter().filter(|(_, blobs)| blobs.contains_key(digest));
        all.map(|(owner, _)| owner.clone()).collect()
    }

    /// Makes the complete file `from`, which the caller has verified, the blob `digest` of `owner`. If the
    /// blob is there already the file is removed.
    pub fn adopt(
        &self,
        owner: &str,
        from: &Path,
        digest: &Digest,
        size: u64,
    ) -> Result<(), StoreError> {
        let mut index = self.0.index.lock();
        if self.0.blobs.size(digest) == Some(size) {
            std::fs::remove_file(from).map_err(crate::error::io_error("remove", from))?;
        } else {
            self.0.blobs.adopt(from, digest)?;
        }
        self.write_link(&mut index, owner, digest, size)
    }

    /// Stores a document for `owner` under `digest`, which the caller has verified.
    pub fn put(&self, owner: &str, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let mut index = self.0.index.lock();
        self.0.blobs.put_as(digest, bytes)?;
        self.write_link(&mut index, owner, digest, bytes.len() as u64)
    }

    /// Gives `owner` a blob that is here already, whoever brought it. Returns its size, `None` if it is not here.
    pub fn link(&self, owner: &str, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let mut index = self.0.index.lock();
        if let Some(link) = index.links.get(owner).and_then(|blobs| blobs.get(digest)) {
            return Ok(Some(link.size));
        }
        let Some(size) = self.0.blobs.size(digest) else { return Ok(None) };
        self.write_link(&mut index, owner, digest, size)?;
        Ok(Some(size))
    }

    /// Counts the time that `owner` has had a blob from now on; nothing happens if it has not.
    pub fn renew(&self, owner: &str, digest: &Digest) -> Result<(), StoreError> {
        let mut index = self.0.index.lock();
        let had = index.links.get(owner).and_then(|blobs| blobs.get(digest)).copied();
        had.map_or(Ok(()), |link| self.write_link(&mut index, owner, digest, link.size))
    }

    /// Takes blobs away from `owner`; those that nothing else needs are removed from disk.
    pub fn unlink(&self, owner: &str, digests: &[Digest]) -> Result<(), StoreError> {
        let mut index = self.0.index.lock();
        let mut batch = Batch::new();
        digests.iter().for_each(|digest| batch.delete(LINKS, &key(owner, digest)));
        self.0.db.write(batch, Durability::Process)?;
        if let Some(blobs) = index.links.get_mut(owner) {
            digests.iter().for_each(|digest| {
                blobs.remove(digest);
            });
            if blobs.is_empty() {
                index.links.remove(owner);
            }
        }
        self.0.collect(&mut index, digests.iter().cloned()).map(drop)
    }

    /// Whether a push of this process that shows `token` has `digest` to give.
    pub fn is_offered(&self, token: &str, digest: &Digest) -> bool {
        self.0.offers.lock().get(token).is_some_and(|digests| digests.contains(digest))
    }

    /// A blob, open for reading. It stays readable when it is removed.
    pub fn file(&self, digest: &Digest) -> Result<File, StoreError> {
        self.0.blobs.file(digest)
    }

    /// The whole blob, verified. For documents.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        self.0.blobs.read(digest)
    }

    /// Where the blob is or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.0.blobs.path(digest)
    }

    fn write_link(
        &self,
        index: &mut Index,
        owner: &str,
        digest: &Digest,
        size: u64,
    ) -> Result<(), StoreError> {
        let since = self.0.settings.clock.unix_nanos() / 1_000_000_000;
        let link = Link { size, since };
        let mut batch = Batch::new();
        batch.put(LINKS, &key(owner, digest), &link)?;
        self.0.flusher.mark(&mut batch, digest)?;
        self.0.db.write(batch, Durability::Process)?;
        index.links.entry(owner.to_owned()).or_default().insert(digest.clone(), link);
        self.0.flusher.flush_soon();
        Ok(())
    }
}

fn key(owner: &str, digest: &Digest) -> String {
    format!("{owner} {digest}")
}
