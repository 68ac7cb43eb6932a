//! Removing images: which names go, what stands in the way, and pruning.

use wharf_spec::digest::Digest;
use wharf_spec::reference::Reference;

use crate::store::Index;
use crate::{Image, ImageStore, StoreError, Summary};

/// A container that was made from an image.
#[derive(Debug, Clone)]
pub struct ImageUser {
    /// Its id.
    pub container: String,
    /// The image id.
    pub image: Digest,
    /// Whether it runs.
    pub running: bool,
}

/// How to remove.
#[derive(Debug, Clone, Copy)]
pub struct RemoveOptions<'a> {
    /// Also if stopped containers use it or several names point to it.
    pub force: bool,
    /// Also its parents that nothing else needs.
    pub prune: bool,
    /// All containers.
    pub users: &'a [ImageUser],
}

/// One thing that went: an entry of the answer, and an event to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name.
    Untagged {
        /// As people write it.
        name: String,
        /// Of which image.
        image: Digest,
    },
    /// An image.
    Image(Digest),
    /// A layer, by chain id.
    Layer(Digest),
}

/// What a prune freed.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// What went.
    pub removed: Vec<Removed>,
    /// Bytes of file content in the layers that went.
    pub reclaimed: u64,
}

impl ImageStore {
    /// Removes a name, or an image by id, with docker's rules about what may go.
    pub fn remove(&self, text: &str, how: RemoveOptions<'_>) -> Result<Vec<Removed>, StoreError> {
        let mut index = self.0.index.lock();
        let image =
            index.find(text)?.ok_or_else(|| StoreError::NoSuchImage(crate::store::shown(text)))?;
        let mut removal = Removal { store: self, index: &mut index, how, removed: Vec::new() };
        if is_id_prefix(image.id(), text) {
            removal.by_id(&image)?;
        } else {
            removal.by_name(&image, text)?;
        }
        Ok(removal.removed)
    }

    /// Removes the images that `wanted` accepts and no container uses: only untagged ones, or with `all`
    /// also tagged ones. Leftovers of interrupted pulls go too.
    pub fn prune(
        &self,
        all: bool,
        users: &[ImageUser],
        wanted: impl Fn(&Summary) -> bool,
    ) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        let sizes =
            |store: &Self| -> u64 { store.0.index.lock().layers.values().map(|l| l.size).sum() };
        let before = sizes(self);
        for summary in self.list() {
            let used = users.iter().any(|u| u.image == *summary.image.id());
            // One name stays with what is in use; further ones go, as with Docker.
            let spared = used && (!all || summary.repo_tags.len() < 2);
            if spared || !(all || summary.is_dangling()) || !wanted(&summary) {
                continue;
            }
            pruned.removed.extend(self.prune_one(&summary, users)?);
        }
        self.0.collect_all()?;
        pruned.reclaimed = before.saturating_sub(sizes(self));
        Ok(pruned)
    }

    fn prune_one(
        &self,
        summary: &Summary,
        users: &[ImageUser],
    ) -> Result<Vec<Removed>, StoreError> {
        let how = RemoveOptions { force: false, prune: true, users };
        let mut names: Vec<String> = summary.repo_tags.clone();
        names.extend(summary.repo_digests.iter().cloned());
        if names.is_empty() {
            names.push(summary.image.id().to_string());
        }
        let mut removed = Vec::new();
        for name in names {
            match self.remove(&name, how) {
                Ok(more) => removed.extend(more),
                // Went with an earlier name, or something started to use it: both are fine.
                Err(StoreError::NoSuchImage(_) | StoreError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }
}

struct Removal<'a> {
    store: &'a ImageStore,
    index: &'a mut Index,
    how: RemoveOptions<'a>,
    removed: Vec<Removed>,
}

impl Removal<'_> {
    fn by_name(&mut self, image: &Image, text: &str) -> Result<(), StoreError> {
        let names = self.index.names_of(image.id());
        if !self.how.force
            && is_single_reference(&names)
            && let Some(user) = self.user(image.id(), |_| true)
        {
            return Err(StoreError::Conflict(format!(
                "conflict: unable to remove repository reference {text:?} (must force) - container {} is using its referenced image {}",
                short(&user.container),
                image.id().short()
            )));
        }
        let Ok(name) = Reference::parse(text) else { return Ok(()) };
        let mut name = name.or_latest();
        if let Some(digest) = name.digest().cloned() {
            name = name.with_digest(digest);
        }
        self.untag(&name, image.id())?;
        self.untag_lonely_digests(&name, image.id())?;
        if self.index.names_of(image.id()).is_empty() {
            self.delete(image, true)?;
        }
        Ok(())
    }

    fn by_id(&mut self, image: &Image) -> Result<(), StoreError> {
        let names = self.index.names_of(image.id());
        if is_single_reference(&names) {
            self.check(image, false)?;
            for name in names {
                self.untag(&name, image.id())?;
            }
        }
        self.delete(image, false)
    }

    /// When the last tag of a repository goes, its digests go with it.
    fn untag_lonely_digests(&mut self, name: &Reference, id: &Digest) -> Result<(), StoreError> {
        let same: Vec<Reference> = self
            .index
            .names_of(id)
            .into_iter()
            .filter(|other| other.name_only() == name.name_only())
            .collect();
        if same.iter().all(|other| other.digest().is_some()) {
            for digest in same {
                self.untag(&digest, id)?;
            }
        }
        Ok(())
    }

    fn untag(&mut self, name: &Reference, id: &Digest) -> Result<(), StoreError> {
        self.store.0.forget_name(self.index, &name.to_string())?;
        self.removed.push(Removed::Untagged { name: name.familiar(), image: id.clone() });
        Ok(())
    }

    /// Deletes the image. `quiet`: a name was removed, which is success enough if the image itself
    /// must stay.
    fn delete(&mut self, image: &Image, quiet: bool) -> Result<(), StoreError> {
        let many = !self.index.names_of(image.id()).is_empty();
        match self.check(image, many) {
            Err(StoreError::Conflict(_)) if quiet => return Ok(()),
            other => other?,
        }
        for name in self.index.names_of(image.id()) {
            self.untag(&name, image.id())?;
        }
        let layers = self.store.0.forget(self.index, image.id())?;
        self.removed.push(Removed::Image(image.id().clone()));
        let top_first = image.layers().iter().rev().map(|l| &l.chain_id);
        self.removed
            .extend(top_first.filter(|c| layers.contains(c)).map(|c| Removed::Layer(c.clone())));
        self.delete_parent(image)
    }

    fn delete_parent(&mut self, image: &Image) -> Result<(), StoreError> {
        let parent = image.parent().and_then(|p| self.index.images.get(p)).cloned();
        match parent {
            Some(parent) if self.how.prune && self.index.names_of(parent.id()).is_empty() => {
                self.delete(&parent, true)
            }
            _ => Ok(()),
        }
    }

    /// Docker's conflicts, hard ones first.
    fn check(&self, image: &Image, many_names: bool) -> Result<(), StoreError> {
        let conflict = |how: &str, why: String| {
            let id = image.id().short();
            Err(StoreError::Conflict(format!("conflict: unable to delete {id} ({how}) - {why}")))
        };
        if let Some(user) = self.user(image.id(), |u| u.running) {
            let why =
                format!("image is being used by running container {}", short(&user.container));
            return conflict("cannot be forced", why);
        }
        if self.index.children_of(image.id()) {
            return conflict("cannot be forced", "image has dependent child images".into());
        }
        if self.how.force {
            return Ok(());
        }
        if many_names {
            return conflict(
                "must be forced",
                "image is referenced in multiple repositories".into(),
            );
        }
        if let Some(user) = self.user(image.id(), |u| !u.running) {
            let why =
                format!("image is being used by stopped container {}", short(&user.container));
            return conflict("must be forced", why);
        }
        Ok(())
    }

    fn user(&self, id: &Digest, which: impl Fn(&ImageUser) -> bool) -> Option<&ImageUser> {
        self.how.users.iter().find(|u| u.image == *id && which(u))
    }
}

/// Whether all names are of one repository with at most one tag.
fn is_single_reference(names: &[Reference]) -> bool {
    let tags = names.iter().filter(|n| n.digest().is_none()).count();
    let one_repository = names.iter().all(|n| n.name_only() == names[0].name_only());
    tags <= 1 && one_repository
}

fn is_id_prefix(id: &Digest, text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    !digits.is_empty() && id.hex().starts_with(digits)
}

fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}
