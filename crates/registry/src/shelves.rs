//! Repositories: which manifests and tags exist, and what each manifest keeps alive.
//!
//! The state database has a row per manifest and per tag; all of it is in memory as well, behind one lock that no
//! request holds while it waits for a client. A manifest's bytes and blobs are links of the content store.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wharf_base::db::{Batch, Db, Durability};
use wharf_base::sync::Mutex;
use wharf_image::{Content, Link, StoreError};
use wharf_spec::digest::Digest;

use crate::fault::{Code, Fault};
use crate::manifest::{Received, Record};
use crate::name::{Repository, Target};

const MANIFESTS: &str = "registry-manifests";
const TAGS: &str = "registry-tags";

/// All repositories.
pub(crate) struct Shelves {
    pub(crate) content: Content,
    db: Db,
    all: Mutex<BTreeMap<String, Shelf>>,
}

/// One repository.
#[derive(Default)]
struct Shelf {
    manifests: BTreeMap<Digest, Record>,
    tags: BTreeMap<String, Digest>,
    /// How many manifests need a blob.
    needed: BTreeMap<Digest, usize>,
}

#[derive(Serialize, Deserialize)]
struct TagRow {
    digest: Digest,
}

/// What is to become of a manifest that was pushed.
pub(crate) struct Put<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) digest: &'a Digest,
    pub(crate) bytes: &'a [u8],
    pub(crate) tags: &'a [String],
    /// Whether a tag may be moved, once the digest that it has is known.
    pub(crate) may_move: &'a (dyn Fn(&str, Option<&Digest>) -> Result<(), Fault> + Sync),
    /// Whether its blobs must be here: not in a cache, which fetches them when they are asked for.
    pub(crate) whole: bool,
}

/// A manifest that was found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) digest: Digest,
    pub(crate) record: Record,
}

/// One page of a list of names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) names: Vec<String>,
    /// Whether there are more behind the last.
    pub(crate) more: bool,
}

impl Shelves {
    /// Reads everything. Manifests whose bytes are lost are named and dropped.
    pub(crate) fn open(content: Content, db: Db) -> Result<Self, StoreError> {
        let mut all: BTreeMap<String, Shelf> = BTreeMap::new();
        let mut broken = Batch::new();
        for (key, record) in db.scan::<Record>(MANIFESTS)? {
            let parsed = split(&key).and_then(|(r, d)| Some((r, d.parse::<Digest>().ok()?)));
            match parsed {
                Some((repository, digest))
                    if content.linked(&repository.owner(), &digest).is_some() =>
                {
                    all.entry(repository.to_string()).or_default().add(digest, record);
                }
                _ => {
                    tracing::error!(manifest = key, "manifest is lost; push it again");
                    broken.delete(MANIFESTS, &key);
                }
            }
        }
        for (key, TagRow { digest }) in db.scan::<TagRow>(TAGS)? {
            let shelf = split(&key).and_then(|(r, tag)| Some((all.get_mut(r.as_str())?, tag)));
            match shelf {
                Some((shelf, tag)) if shelf.manifests.contains_key(&digest) => {
                    shelf.tags.insert(tag.to_owned(), digest);
                }
                _ => broken.delete(TAGS, &key),
            }
        }
        db.write(broken, Durability::Process)?;
        Ok(Self { content, db, all: Mutex::new(all) })
    }

    /// Whether anything was ever pushed there and is not all gone.
    pub(crate) fn exists(&self, repository: &Repository) -> bool {
        self.all.lock().contains_key(repository.as_str())
    }

    /// What a tag or digest names.
    pub(crate) fn find(&self, repository: &Repository, target: &Target) -> Option<Found> {
        let all = self.all.lock();
        let shelf = all.get(repository.as_str())?;
        let digest = match target {
            Target::Tag(tag) => shelf.tags.get(tag)?,
            Target::Digest(digest) => digest,
        };
        let record = shelf.manifests.get(digest)?.clone();
        Some(Found { digest: digest.clone(), record })
    }

    /// Whether a manifest of the repository needs the blob.
    pub(crate) fn needs(&self, repository: &Repository, blob: &Digest) -> bool {
        let all = self.all.lock();
        all.get(repository.as_str()).is_some_and(|shelf| shelf.is_needed(blob))
    }

    /// Stores a manifest whose digest is verified, and moves tags to it, all in one step.
    pub(crate) fn put(&self, put: &Put<'_>, received: Received) -> Result<(), Fault> {
        let owner = put.repository.owner();
        let mut all = self.all.lock();
        if put.whole {
            self.check_blobs(&owner, &received.needs)?;
        }
        let shelf = all.get(put.repository.as_str());
        for tag in put.tags {
            (put.may_move)(tag, shelf.and_then(|shelf| shelf.tags.get(tag)))?;
        }
        let mut batch = Batch::new();
        batch.put(MANIFESTS, &key(put.repository, put.digest), &received.record)?;
        for tag in put.tags {
            batch.put(TAGS, &key(put.repository, tag), &TagRow { digest: put.digest.clone() })?;
        }
        self.content.put(&owner, put.digest, put.bytes)?;
        self.db.write(batch, Durability::Process)?;
        let shelf = all.entry(put.repository.to_string()).or_default();
        shelf.add(put.digest.clone(), received.record);
        shelf.tags.extend(put.tags.iter().map(|tag| (tag.clone(), put.digest.clone())));
        Ok(())
    }

    fn check_blobs(&self, owner: &str, needs: &[(Digest, u64)]) -> Result<(), Fault> {
        for (digest, size) in needs {
            let detail = serde_json::json!({ "digest": digest });
            match self.content.linked(owner, digest) {
                None => {
                    let text =
                        format!("manifest needs blob {digest}, which is not in the repository");
                    return Err(Fault::new(Code::ManifestBlobUnknown, text).with_detail(detail));
                }
                Some(Link { size: found, .. }) if found != *size => {
                    let text = format!(
                        "manifest says that blob {digest} has {size} bytes, it has {found}"
                    );
                    return Err(Fault::new(Code::SizeInvalid, text).with_detail(detail));
                }
                Some(_) => (),
            }
        }
        Ok(())
    }

    /// Removes a tag; false if there is none.
    pub(crate) fn remove_tag(&self, repository: &Repository, tag: &str) -> Result<bool, Fault> {
        let mut all = self.all.lock();
        let Some(shelf) = all.get_mut(repository.as_str()) else { return Ok(false) };
        if !shelf.tags.contains_key(tag) {
            return Ok(false);
        }
        let mut batch = Batch::new();
        batch.delete(TAGS, &key(repository, tag));
        self.db.write(batch, Durability::Process)?;
        shelf.tags.remove(tag);
        Ok(true)
    }

    /// Removes a manifest with its tags; false if there is none. Its blobs become garbage from now on, if nothing else
    /// needs them.
    pub(crate) fn remove_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        may_go: impl Fn(&str) -> Result<(), Fault>,
    ) -> Result<bool, Fault> {
        let mut all = self.all.lock();
        let Some(shelf) = all.get_mut(repository.as_str()) else { return Ok(false) };
        if !shelf.manifests.contains_key(digest) {
            return Ok(false);
        }
        let tags: Vec<String> =
            shelf.tags.iter().filter(|(_, d)| *d == digest).map(|(tag, _)| tag.clone()).collect();
        let mut batch = Batch::new();
        batch.delete(MANIFESTS, &key(repository, digest));
        for tag in &tags {
            may_go(tag)?;
            batch.delete(TAGS, &key(repository, tag));
        }
        self.db.write(batch, Durability::Process)?;
        tags.iter().for_each(|tag| {
            shelf.tags.remove(tag);
        });
        let freed = shelf.remove(digest);
        if shelf.manifests.is_empty() {
            all.remove(repository.as_str());
        }
        let owner = repository.owner();
        for blob in &freed {
            self.content.renew(&owner, blob)?;
        }
        self.content.unlink(&owner, std::slice::from_ref(digest))?;
        Ok(true)
    }

    /// Up to `n` tags behind `last`; `None` if there is no such repository.
    pub(crate) fn tags(
        &self,
        repository: &Repository,
        last: Option<&str>,
        n: usize,
    ) -> Option<Page> {
        let all = self.all.lock();
        Some(page(&all.get(repository.as_str())?.tags, last, n, |_| true))
    }

    /// Up to `n` repositories behind `last`, of those that `visible` accepts.
    pub(crate) fn repositories(
        &self,
        last: Option<&str>,
        n: usize,
        visible: impl Fn(&Repository) -> bool,
    ) -> Page {
        let all = self.all.lock();
        page(&all, last, n, |name| Repository::parse(name).is_some_and(|name| visible(&name)))
    }

    /// The manifests that are about `subject`.
    pub(crate) fn referrers(&self, repository: &Repository, subject: &Digest) -> Vec<Found> {
        let all = self.all.lock();
        let manifests = all.get(repository.as_str()).map(|shelf| &shelf.manifests);
        manifests
            .into_iter()
            .flatten()
            .filter(|(_, record)| record.subject.as_ref() == Some(subject))
            .map(|(digest, record)| Found { digest: digest.clone(), record: record.clone() })
            .collect()
    }

    /// The blobs of all repositories that nothing needs, and since when (seconds since 1970).
    pub(crate) fn garbage(&self) -> Vec<(Repository, Digest, i64)> {
        let all = self.all.lock();
        let mut found = Vec::new();
        for owner in self.content.owners() {
            let name = owner.strip_prefix("registry/").and_then(Repository::parse);
            let Some(repository) = name else { continue };
            let shelf = all.get(repository.as_str());
            for (digest, link) in self.content.links(&owner) {
                if !shelf.is_some_and(|shelf| shelf.is_needed(&digest)) {
                    found.push((repository.clone(), digest, link.since));
                }
            }
        }
        found
    }

    /// Takes a blob away, if nothing has come to need it meanwhile and nobody has asked for it since.
    pub(crate) fn discard(
        &self,
        repository: &Repository,
        digest: &Digest,
        since: i64,
    ) -> Result<bool, StoreError> {
        let all = self.all.lock();
        let owner = repository.owner();
        let is_needed = all.get(repository.as_str()).is_some_and(|shelf| shelf.is_needed(digest));
        if is_needed || self.content.linked(&owner, digest).is_none_or(|link| link.since > since) {
            return Ok(false);
        }
        self.content.unlink(&owner, std::slice::from_ref(digest))?;
        Ok(true)
    }

    /// The repository that has the blob and that `visible` accepts.
    pub(crate) fn holder(
        &self,
        digest: &Digest,
        visible: impl Fn(&Repository) -> bool,
    ) -> Option<Repository> {
        let owners = self.content.owners_of(digest);
        let mut names =
            owners.iter().filter_map(|o| o.strip_prefix("registry/").and_then(Repository::parse));
        names.find(visible)
    }
}

impl Shelf {
    fn add(&mut self, digest: Digest, record: Record) {
        // The same manifest again needs nothing more.
        if let Some(old) = self.manifests.insert(digest, record.clone()) {
            self.release(&old.blobs);
        }
        for blob in record.blobs {
            *self.needed.entry(blob).or_default() += 1;
        }
    }

    /// Returns the blobs that nothing needs any more.
    fn remove(&mut self, digest: &Digest) -> Vec<Digest> {
        let record = self.manifests.remove(digest);
        record.map(|record| self.release(&record.blobs)).unwrap_or_default()
    }

    fn release(&mut self, blobs: &BTreeSet<Digest>) -> Vec<Digest> {
        let mut freed = Vec::new();
        for blob in blobs {
            if let Some(count) = self.needed.get_mut(blob) {
                *count -= 1;
                if *count == 0 {
                    self.needed.remove(blob);
                    freed.push(blob.clone());
                }
            }
        }
        freed
    }

    fn is_needed(&self, digest: &Digest) -> bool {
        self.needed.contains_key(digest) || self.manifests.contains_key(digest)
    }
}

/// Up to `n` of `all`, which is sorted, behind `last`.
pub(crate) fn page_of(all: &BTreeMap<String, ()>, last: Option<&str>, n: usize) -> Page {
    page(all, last, n, |_| true)
}

fn page<V>(
    all: &BTreeMap<String, V>,
    last: Option<&str>,
    n: usize,
    visible: impl Fn(&str) -> bool,
) -> Page {
    use std::ops::Bound::{Excluded, Unbounded};
    let from = last.map_or(Unbounded, Excluded);
    let mut rest = all.range::<str, _>((from, Unbounded)).map(|(k, _)| k).filter(|k| visible(k));
    let names: Vec<String> = rest.by_ref().take(n).cloned().collect();
    Page { names, more: n > 0 && rest.next().is_some() }
}

fn key(repository: &Repository, what: impl std::fmt::Display) -> String {
    format!("{repository} {what}")
}

fn split(key: &str) -> Option<(Repository, &str)> {
    let (repository, what) = key.split_once(' ')?;
    Some((Repository::parse(repository)?, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_begin_behind_the_last() {
        let all: BTreeMap<String, ()> = ["a", "b", "c", "d"].map(|k| (k.to_owned(), ())).into();
        let names = |last, n| {
            let page = page(&all, last, n, |k| k != "c");
            (page.names.concat(), page.more)
        };
        assert_eq!(names(None, 2), ("ab".into(), true));
        assert_eq!(names(Some("a"), 2), ("bd".into(), false));
        assert_eq!(names(Some("aa"), 1), ("b".into(), true));
        assert_eq!(names(Some("d"), 9), (String::new(), false));
        assert_eq!(names(None, 0), (String::new(), false));
    }
}
