//! The image store: which images, names and layers exist, and what keeps them alive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wharf_base::db::{Batch, Db, Durability};
use wharf_base::sync::Mutex;
use wharf_spec::digest::Digest;
use wharf_spec::image::{Descriptor, ImageConfig};
use wharf_spec::reference::{self, Reference};

use crate::StoreError;
use crate::blobs::Blobs;
use crate::durable::Flusher;
use crate::error::io_error;
use crate::image::{Image, ImageRecord, Layer};
use crate::lease::{Lease, Leases};
use crate::settings::Settings;

const IMAGES: &str = "images";
const NAMES: &str = "names";
const LAYERS: &str = "layers";
/// An interrupted download that nobody came back for.
const PARTIAL_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
const PINS: &str = "image-pins";

/// All images of one data root. Clones share it.
#[derive(Clone)]
pub struct ImageStore(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) blobs: Blobs,
    pub(crate) leases: Leases,
    pub(crate) registries: crate::registry::Client,
    pub(crate) pulls: crate::pull::Flights,
    pub(crate) flusher: Flusher,
    pub(crate) offers: crate::content::Offers,
    pub(crate) packed: crate::compress::Packed,
    pub(crate) db: Db,
    pub(crate) index: Mutex<Index>,
}

/// Everything the database says, in memory. Changes go to the database first.
#[derive(Default)]
pub(crate) struct Index {
    pub(crate) images: BTreeMap<Digest, Image>,
    /// By canonical text; a name has a tag or a digest.
    pub(crate) names: BTreeMap<String, Name>,
    /// By chain id.
    pub(crate) layers: BTreeMap<Digest, LayerRecord>,
    pins: BTreeMap<String, Pin>,
    /// What others than images have.
    pub(crate) links: crate::content::Links,
}

#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub(crate) reference: Reference,
    pub(crate) image: Digest,
}

/// An unpacked layer, by chain id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) diff_id: Digest,
    /// Bytes of file content.
    pub(crate) size: u64,
    /// The blob it was unpacked from, kept with it so that an interrupted pull loses nothing.
    pub(crate) blob: Digest,
}

/// What a container keeps alive.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Pin {
    image: Digest,
    /// Base first.
    chain: Vec<Digest>,
}

#[derive(Serialize, Deserialize)]
struct NameRecord {
    image: Digest,
}

/// One line of `docker images`, before it is formatted.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The image.
    pub image: Image,
    /// `nginx:latest`, sorted.
    pub repo_tags: Vec<String>,
    /// `nginx@sha256:…`, sorted.
    pub repo_digests: Vec<String>,
}

impl Summary {
    /// Whether no tag names it.
    pub fn is_dangling(&self) -> bool {
        self.repo_tags.is_empty()
    }

    /// Whether the `reference` filter `pattern` fits one of its names: a shell pattern over the
    /// familiar name, with or without tag, in which `*` stops at a slash.
    pub fn matches_reference(&self, pattern: &str) -> bool {
        self.repo_tags.iter().chain(&self.repo_digests).any(|name| fits(pattern, name))
    }

    /// Leaves the names that one of `patterns` fits.
    pub fn retain_references<'a>(&mut self, patterns: impl Iterator<Item = &'a str> + Clone) {
        for names in [&mut self.repo_tags, &mut self.repo_digests] {
            names.retain(|name| patterns.clone().any(|pattern| fits(pattern, name)));
        }
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    let repository = Reference::parse(name).map(|r| r.familiar_name());
    crate::glob::matches(pattern, name)
        || repository.is_ok_and(|r| crate::glob::matches(pattern, &r))
}

/// Bytes on disk, for `docker system df`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Unpacked layers.
    pub layers: u64,
    /// Manifests, configs and layer blobs.
    pub blobs: u64,
    /// Interrupted downloads.
    pub partial: u64,
    /// Bytes of layers that more than one image uses, by image id.
    pub shared: BTreeMap<Digest, u64>,
}

impl ImageStore {
    /// Opens the store under `root`, removes what the database does not know, and repairs what an
    /// earlier crash left half done.
    pub fn open(root: &Path, db: Db, settings: Settings) -> Result<Self, StoreError> {
        for dir in ["layers", "tmp", "partial", "blobs"] {
            let dir = root.join(dir);
            wharf_base::fs::private_dir(&dir).map_err(io_error("create", &dir))?;
        }
        let empty = root.join("layers/empty");
        fs::create_dir_all(&empty).map_err(io_error("create", &empty))?;
        let inner = Inner {
            root: root.to_owned(),
            blobs: Blobs::open(root)?,
            leases: Leases::default(),
            registries: crate::registry::Client::new(&settings),
            pulls: crate::pull::Flights::default(),
            settings,
            flusher: Flusher::new(root, db.clone()),
            offers: crate::content::Offers::default(),
            packed: crate::compress::Packed::default(),
            db,
            index: Mutex::new(Index::default()),
        };
        inner.load()?;
        inner.reconcile()?;
        Ok(Self(Arc::new(inner)))
    }

    /// The settings it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The image that `text` names: a reference (`latest` is implied), an id, or the first digits of
    /// one id. Builtin images appear when they are asked for by name.
    pub fn resolve(&self, text: &str) -> Result<Image, StoreError> {
        if let Some(image) = self.0.index.lock().find(text)? {
            return Ok(image);
        }
        match Reference::parse(text) {
            Ok(name) if crate::builtin::knows(&name.clone().or_latest()) => {
                crate::builtin::provide(self, &name.or_latest())
            }
            _ => Err(StoreError::NoSuchImage(shown(text))),
        }
    }

    /// All images, newest first.
    pub fn list(&self) -> Vec<Summary> {
        let index = self.0.index.lock();
        let mut all: Vec<Summary> = index.images.values().map(|i| index.summary(i)).collect();
        all.sort_by_key(|s| std::cmp::Reverse((s.image.created(), s.image.touched())));
        all
    }

    /// The names of one image.
    pub fn summary(&self, image: &Image) -> Summary {
        self.0.index.lock().summary(image)
    }

    /// The overlay lower directories of `image`, top first. Never empty: an image without layers has one
    /// empty directory.
    pub fn lowers(&self, image: &Image) -> Vec<PathBuf> {
        self.0.lower_dirs(image.layers().iter().map(|l| &l.chain_id))
    }

    /// Gives `image` the name `name`; `latest` is implied. Another image loses that name.
    pub fn tag(&self, image: &Image, name: &Reference) -> Result<(), StoreError> {
        let name = name.clone().or_latest();
        if name.digest().is_some() {
            return Err(StoreError::BadName(
                "refusing to create a tag with a digest reference".into(),
            ));
        }
        let mut index = self.0.index.lock();
        if !index.images.contains_key(image.id()) {
            return Err(StoreError::NoSuchImage(image.id().to_string()));
        }
        let mut record = image.record().clone();
        record.touched = self.0.settings.clock.unix_nanos();
        let mut batch = Batch::new();
        batch.put(NAMES, &name.to_string(), &NameRecord { image: image.id().clone() })?;
        batch.put(IMAGES, &image.id().to_string(), &record)?;
        self.0.db.write(batch, Durability::Process)?;
        let image = Image::new(image.id().clone(), record, image.config().clone());
        index.add_name(name, image.id().clone());
        index.images.insert(image.id().clone(), image);
        Ok(())
    }

    /// Keeps `image`'s layers and blobs until the lease is dropped, even if the image is removed.
    /// Fails if it is gone already.
    pub fn lease(&self, image: &Image) -> Result<Lease, StoreError> {
        let lease = self.0.leases.take(owned_by(image.id(), image.record()));
        // Taken before looking, so that a removal in between cannot collect.
        if !self.0.index.lock().images.contains_key(image.id()) {
            return Err(StoreError::NoSuchImage(image.id().to_string()));
        }
        Ok(lease)
    }

    /// Keeps `image`'s layers until [`ImageStore::unpin`], across restarts. `owner` is a container id;
    /// pinning again replaces.
    pub fn pin(&self, owner: &str, image: &Image) -> Result<(), StoreError> {
        let pin = Pin {
            image: image.id().clone(),
            chain: image.layers().iter().map(|l| l.chain_id.clone()).collect(),
        };
        let mut index = self.0.index.lock();
        if let Some(gone) = pin.chain.iter().find(|c| !index.layers.contains_key(c)) {
            return Err(StoreError::NoSuchImage(gone.to_string()));
        }
        let mut batch = Batch::new();
        batch.put(PINS, owner, &pin)?;
        self.0.db.write(batch, Durability::Process)?;
        index.pins.insert(owner.to_owned(), pin);
        Ok(())
    }

    /// Lets go of what `owner` pinned; no error if that is nothing.
    pub fn unpin(&self, owner: &str) -> Result<(), StoreError> {
        let mut index = self.0.index.lock();
        if !index.pins.contains_key(owner) {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.delete(PINS, owner);
        self.0.db.write(batch, Durability::Process)?;
        let Some(pin) = index.pins.remove(owner) else { return Ok(()) };
        // While the image exists so do its layers; only a removed image leaves something to collect.
        if !index.images.contains_key(&pin.image) {
            self.0.collect(&mut index, pin.chain)?;
        }
        Ok(())
    }

    /// The lower directories that `owner` pinned, top first: they outlive the image.
    pub fn pinned_lowers(&self, owner: &str) -> Option<Vec<PathBuf>> {
        let chain = self.0.index.lock().pins.get(owner)?.chain.clone();
        Some(self.0.lower_dirs(chain.iter()))
    }

    /// The image that `owner` pinned.
    pub fn pinned_image(&self, owner: &str) -> Option<Digest> {
        Some(self.0.index.lock().pins.get(owner)?.image.clone())
    }

    /// Keeps the layers of `chain` (chain ids, base first) until [`ImageStore::unpin`], across restarts, without
    /// an image. `owner` begins with a word and a colon, such as `build:`; pinning again replaces.
    pub fn pin_layers(&self, owner: &str, layers: &[Layer]) -> Result<(), StoreError> {
        let chain: Vec<Digest> = layers.iter().map(|l| l.chain_id.clone()).collect();
        let mut index = self.0.index.lock();
        if let Some(gone) = chain.iter().find(|c| !index.layers.contains_key(c)) {
            return Err(StoreError::MissingBlob(gone.clone()));
        }
        let pin = Pin { image: Digest::sha256(owner.as_bytes()), chain };
        let mut batch = Batch::new();
        batch.put(PINS, owner, &pin)?;
        self.0.db.write(batch, Durability::Process)?;
        index.pins.insert(owner.to_owned(), pin);
        Ok(())
    }

    /// Keeps `layers` until the lease is dropped. Fails if one is gone already.
    pub fn lease_layers(&self, layers: &[Layer]) -> Result<Lease, StoreError> {
        let held = layers.iter().flat_map(|l| [l.chain_id.clone(), l.blob.clone()]);
        let lease = self.0.leases.take(held);
        // Taken before looking, so that a removal in between cannot collect.
        let index = self.0.index.lock();
        match layers.iter().find(|l| !index.layers.contains_key(&l.chain_id)) {
            Some(gone) => Err(StoreError::MissingBlob(gone.chain_id.clone())),
            None => Ok(lease),
        }
    }

    /// The overlay lower directories of `layers` (base first), top first. Never empty.
    pub fn layer_dirs(&self, layers: &[Layer]) -> Vec<PathBuf> {
        self.0.lower_dirs(layers.iter().map(|l| &l.chain_id))
    }

    /// Drops pins whose owner `exists` denies: called once at start-up, when the caller knows
    /// its containers.
    pub fn retain_pins(&self, exists: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        let owners: Vec<String> = self.0.index.lock().pins.keys().cloned().collect();
        owners.iter().filter(|o| !exists(o)).try_for_each(|owner| self.unpin(owner))
    }

    /// Bytes on disk.
    pub fn usage(&self) -> Result<DiskUsage, StoreError> {
        let (layers, shared) = {
            let index = self.0.index.lock();
            (index.layers.values().map(|l| l.size).sum(), index.shared_sizes())
        };
        let partial = crate::blobs::tree_size(&self.0.root.join("partial"))?;
        Ok(DiskUsage { layers, blobs: self.0.blobs.disk_usage()?, partial, shared })
    }

    /// Waits until everything stored so far is on disk: at shutdown. It happens by itself soon after each
    /// change.
    pub fn flush(&self) {
        self.0.flusher.flush_now();
    }

    /// Bytes of the config as stored, exactly as its digest covers them.
    pub fn config_bytes(&self, image: &Image) -> Result<Vec<u8>, StoreError> {
        self.0.blobs.read(image.id())
    }
}

/// What [`Inner::register`] stores.
pub(crate) struct NewImage {
    pub(crate) id: Digest,
    pub(crate) config: ImageConfig,
    pub(crate) manifest: Descriptor,
    pub(crate) index: Option<Descriptor>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) parent: Option<Digest>,
    pub(crate) names: Vec<Reference>,
}

impl Inner {
    fn load(&self) -> Result<(), StoreError> {
        let mut index = self.index.lock();
        let mut broken = Batch::new();
        for (key, record) in self.db.scan::<ImageRecord>(IMAGES)? {
            match self.read_image(&key, record) {
                Ok(image) => {
                    index.images.insert(image.id().clone(), image);
                }
                Err(error) => {
                    tracing::error!(image = key, %error, "image cannot be read and is removed");
                    broken.delete(IMAGES, &key);
                }
            }
        }
        for (key, record) in self.db.scan::<NameRecord>(NAMES)? {
            if let Ok(reference) = Reference::parse(&key)
                && index.images.contains_key(&record.image)
            {
                index.add_name(reference, record.image);
            }
        }
        for (key, record) in self.db.scan::<LayerRecord>(LAYERS)? {
            if let Ok(chain) = key.parse() {
                index.layers.insert(chain, record);
            }
        }
        index.pins = self.db.scan::<Pin>(PINS)?.into_iter().collect();
        self.load_links(&mut index)?;
        Ok(self.db.write(broken, Durability::Process)?)
    }

    fn read_image(&self, key: &str, record: ImageRecord) -> Result<Image, StoreError> {
        let id: Digest = key.parse().map_err(|_| StoreError::NoSuchImage(key.to_owned()))?;
        let config = self.blobs.read(&id)?;
        let config = serde_json::from_slice(&config).map_err(|source| StoreError::Document {
            what: "config",
            digest: id.clone(),
            source,
        })?;
        Ok(Image::new(id, record, config))
    }

    /// Removes files that the database does not know and rows whose files are gone.
    fn reconcile(&self) -> Result<(), StoreError> {
        let mut index = self.index.lock();
        crate::layers::empty_dir(&self.root.join("tmp"))?;
        let now = self.settings.clock.now();
        crate::layers::expire(&self.root.join("partial"), now, PARTIAL_LIFETIME)?;
        for suspect in self.flusher.suspects()? {
            crate::layers::discard(&self.root, suspect.hex())?;
        }
        let dirs = crate::layers::stored(&self.root)?;
        let mut batch = Batch::new();
        let lost: Vec<Digest> =
            index.layers.keys().filter(|c| !dirs.contains(c.hex())).cloned().collect();
        for chain in &lost {
            batch.delete(LAYERS, &chain.to_string());
            index.layers.remove(chain);
        }
        self.db.write(batch, Durability::Process)?;
        let known: BTreeSet<&str> = index.layers.keys().map(Digest::hex).collect();
        for stray in dirs.iter().filter(|d| !known.contains(d.as_str())) {
            crate::layers::discard(&self.root, stray)?;
        }
        let images: Vec<Image> = index.images.values().cloned().collect();
        drop(index);
        for image in images.iter().filter(|i| i.layers().iter().any(|l| lost.contains(&l.chain_id)))
        {
            self.repair(image)?;
        }
        self.blobs.retain(&self.index.lock().live_blobs())?;
        self.flusher.flush_soon();
        Ok(())
    }

    /// Unpacks again what `image` lacks; if that is not possible, the image goes.
    fn repair(&self, image: &Image) -> Result<(), StoreError> {
        for layer in image.layers() {
            if self.layer(&layer.chain_id).is_some() {
                continue;
            }
            if let Err(error) = self.unpack_again(layer) {
                let error = wharf_base::error::chain(&error).to_string();
                tracing::error!(image = %image.id(), layer = %layer.chain_id, error,
                    "image was not whole on disk and is removed; pull or load it again");
                self.forget(&mut self.index.lock(), image.id())?;
                return Ok(());
            }
        }
        Ok(())
    }

    fn unpack_again(&self, layer: &Layer) -> Result<(), crate::LayerError> {
        let Layer { diff_id, chain_id, blob, blob_size, .. } = layer;
        let taken = self.unpack_blob(self.blobs.file(blob)?, blob.clone(), *blob_size)?;
        if taken.diff_id != *diff_id {
            let (expected, found) = (diff_id.clone(), taken.diff_id.clone());
            return Err(StoreError::Digest { expected, found }.into());
        }
        Ok(self.adopt_layer(taken, chain_id)?)
    }

    /// Stores an image whose blobs and layers are all in place and leased by the caller, with its names, in
    /// one step.
    pub(crate) fn register(&self, new: NewImage) -> Result<Image, StoreError> {
        let record = ImageRecord {
            manifest: new.manifest,
            index: new.index,
            layers: new.layers,
            parent: new.parent,
            touched: self.settings.clock.unix_nanos(),
        };
        let mut index = self.index.lock();
        let mut batch = Batch::new();
        batch.put(IMAGES, &new.id.to_string(), &record)?;
        for name in &new.names {
            batch.put(NAMES, &name.to_string(), &NameRecord { image: new.id.clone() })?;
        }
        // What is here already is on the disk, or marked: a build that finds everything cached flushes nothing.
        let fresh = index.images.get(&new.id).is_none_or(|old| !old.record().is_like(&record));
        if fresh {
            self.flusher.mark(&mut batch, &new.id)?;
        }
        self.db.write(batch, Durability::Process)?;
        if fresh {
            self.flusher.flush_soon();
        }
        let image = Image::new(new.id.clone(), record, new.config);
        let old = index.images.insert(new.id.clone(), image.clone());
        for name in new.names {
            index.add_name(name, new.id.clone());
        }
        // The same config under another manifest: blobs that only the old one used may go.
        if let Some(old) = old {
            self.collect(&mut index, owned_by(old.id(), old.record()))?;
        }
        Ok(image)
    }

    /// Makes the unpacked directory `from` the layer `chain`. If that is stored already, nothing happens.
    pub(crate) fn install_layer(
        &self,
        from: &Path,
        chain: &Digest,
        record: LayerRecord,
    ) -> Result<(), StoreError> {
        let mut index = self.index.lock();
        if index.layers.contains_key(chain) {
            return Ok(());
        }
        let to = crate::layers::path(&self.root, chain);
        fs::rename(from, &to).map_err(io_error("rename", from))?;
        let mut batch = Batch::new();
        batch.put(LAYERS, &chain.to_string(), &record)?;
        self.flusher.mark(&mut batch, chain)?;
        self.db.write(batch, Durability::Process)?;
        index.layers.insert(chain.clone(), record);
        Ok(())
    }

    /// The layer `chain`, if it is stored. Hold a lease on it first, or it may go.
    pub(crate) fn layer(&self, chain: &Digest) -> Option<LayerRecord> {
        self.index.lock().layers.get(chain).cloned()
    }

    /// Removes the row and names of `id` and whatever nothing else needs. Returns the chain ids
    /// of the layers that went, top first.
    pub(crate) fn forget(&self, index: &mut Index, id: &Digest) -> Result<Vec<Digest>, StoreError> {
        let Some(image) = index.images.get(id).cloned() else { return Ok(Vec::new()) };
        let names: Vec<String> =
            index.names.iter().filter(|(_, n)| n.image == *id).map(|(k, _)| k.clone()).collect();
        let mut batch = Batch::new();
        batch.delete(IMAGES, &id.to_string());
        names.iter().for_each(|name| batch.delete(NAMES, name));
        self.db.write(batch, Durability::Process)?;
        index.images.remove(id);
        names.iter().for_each(|name| {
            index.names.remove(name);
        });
        self.collect(index, owned_by(id, image.record()))
    }

    /// Removes one name.
    pub(crate) fn forget_name(&self, index: &mut Index, name: &str) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.delete(NAMES, name);
        self.db.write(batch, Durability::Process)?;
        index.names.remove(name);
        Ok(())
    }

    /// Removes those of `candidates` (blob digests and chain ids) that no image, pin or lease needs.
    /// Runs under the index lock, so that nobody can start to need them meanwhile.
    pub(crate) fn collect(
        &self,
        index: &mut Index,
        candidates: impl IntoIterator<Item = Digest>,
    ) -> Result<Vec<Digest>, StoreError> {
        let candidates: BTreeSet<Digest> = candidates.into_iter().collect();
        let live = index.live_layers();
        let is_free = |digest: &Digest| !self.leases.holds(digest);
        let mut gone = Vec::new();
        let mut blobs = candidates.clone();
        let mut batch = Batch::new();
        for chain in candidates.iter().filter(|c| !live.contains(*c) && is_free(c)) {
            if let Some(layer) = index.layers.get(chain) {
                blobs.insert(layer.blob.clone());
                batch.delete(LAYERS, &chain.to_string());
                gone.push(chain.clone());
            }
        }
        self.db.write(batch, Durability::Process)?;
        for chain in &gone {
            index.layers.remove(chain);
            crate::layers::discard(&self.root, chain.hex())?;
        }
        let live = index.live_blobs();
        for blob in blobs.iter().filter(|b| !live.contains(*b) && is_free(b)) {
            self.blobs.remove(blob)?;
        }
        Ok(gone)
    }

    /// Everything that no image needs: layers of interrupted pulls, and their blobs.
    pub(crate) fn collect_all(&self) -> Result<(), StoreError> {
        let mut index = self.index.lock();
        let all: Vec<Digest> = index.layers.keys().cloned().collect();
        self.collect(&mut index, all).map(drop)
    }

    fn lower_dirs<'a>(
        &self,
        base_first: impl DoubleEndedIterator<Item = &'a Digest>,
    ) -> Vec<PathBuf> {
        let dirs: Vec<PathBuf> =
            base_first.rev().map(|c| crate::layers::path(&self.root, c)).collect();
        if dirs.is_empty() { vec![self.root.join("layers/empty")] } else { dirs }
    }
}

impl Index {
    /// By reference first, then by id, as docker does.
    pub(crate) fn find(&self, text: &str) -> Result<Option<Image>, StoreError> {
        if let Ok(id) = text.parse::<Digest>() {
            return Ok(self.images.get(&id).cloned());
        }
        let parsed = Reference::parse(text);
        if let Ok(name) = &parsed {
            let name = name.clone().or_latest();
            if let Some(image) = self.named(&name) {
                return Ok(Some(image));
            }
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return self.by_prefix(digits);
        }
        match parsed {
            Ok(_) => Ok(None),
            Err(reason) => Err(StoreError::Reference { name: text.to_owned(), reason }),
        }
    }

    /// The image that `name` names. With a digest the tag does not matter.
    pub(crate) fn named(&self, name: &Reference) -> Option<Image> {
        let key = match name.digest() {
            Some(digest) => name.with_digest(digest.clone()).to_string(),
            None => name.to_string(),
        };
        let by_name = self.names.get(&key).and_then(|n| self.images.get(&n.image));
        // `name@<image id>` is how some tools write an id.
        by_name
            .or_else(|| {
                let image = self.images.get(name.digest()?)?;
                self.names
                    .values()
                    .any(|n| n.image == *image.id() && n.reference.name_only() == name.name_only())
                    .then_some(image)
            })
            .cloned()
    }

    fn by_prefix(&self, digits: &str) -> Result<Option<Image>, StoreError> {
        let mut found = self.images.values().filter(|i| i.id().hex().starts_with(digits));
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(StoreError::AmbiguousId(digits.to_owned())),
            (one, _) => Ok(one.cloned()),
        }
    }

    pub(crate) fn names_of(&self, id: &Digest) -> Vec<Reference> {
        self.names.values().filter(|n| n.image == *id).map(|n| n.reference.clone()).collect()
    }

    /// The tags of the repository of `name`.
    pub(crate) fn tags_of(&self, name: &Reference) -> Vec<Reference> {
        let all = self.names.values().map(|n| &n.reference);
        all.filter(|r| r.tag().is_some() && r.name_only() == name.name_only()).cloned().collect()
    }

    /// The row of a name.
    pub(crate) fn put_name(
        batch: &mut Batch,
        name: &Reference,
        image: &Digest,
    ) -> Result<(), StoreError> {
        Ok(batch.put(NAMES, &name.to_string(), &NameRecord { image: image.clone() })?)
    }

    pub(crate) fn children_of(&self, id: &Digest) -> bool {
        self.images.values().any(|i| i.parent() == Some(id))
    }

    pub(crate) fn add_name(&mut self, reference: Reference, image: Digest) {
        self.names.insert(reference.to_string(), Name { reference, image });
    }

    pub(crate) fn summary(&self, image: &Image) -> Summary {
        let mut summary =
            Summary { image: image.clone(), repo_tags: Vec::new(), repo_digests: Vec::new() };
        // By their whole names, as dockerd orders them: `me/app` before `app`, which is `library/app`.
        let mut names = self.names_of(image.id());
        names.sort_by_key(|n| n.to_string());
        for name in names {
            if name.digest().is_some() {
                summary.repo_digests.push(name.familiar());
            } else {
                summary.repo_tags.push(name.familiar());
            }
        }
        summary
    }

    fn live_layers(&self) -> BTreeSet<Digest> {
        let images = self.images.values().flat_map(|i| i.layers()).map(|l| l.chain_id.clone());
        images.chain(self.pins.values().flat_map(|p| p.chain.iter().cloned())).collect()
    }

    fn live_blobs(&self) -> BTreeSet<Digest> {
        let images = self.images.values().flat_map(|i| owned_by(i.id(), i.record()));
        let linked = self.links.values().flat_map(|blobs| blobs.keys().cloned());
        images.chain(self.layers.values().map(|l| l.blob.clone())).chain(linked).collect()
    }

    fn shared_sizes(&self) -> BTreeMap<Digest, u64> {
        let mut users: BTreeMap<&Digest, usize> = BTreeMap::new();
        for layer in self.images.values().flat_map(|i| i.layers()) {
            *users.entry(&layer.chain_id).or_default() += 1;
        }
        let shared =
            |i: &Image| i.layers().iter().filter(|l| users[&l.chain_id] > 1).map(|l| l.size).sum();
        self.images.values().map(|i| (i.id().clone(), shared(i))).collect()
    }
}

/// The digests and chain ids that an image needs.
fn owned_by(id: &Digest, record: &ImageRecord) -> Vec<Digest> {
    let mut all = vec![id.clone(), record.manifest.digest.clone()];
    all.extend(record.index.as_ref().map(|i| i.digest.clone()));
    all.extend(record.layers.iter().flat_map(|l| [l.blob.clone(), l.chain_id.clone()]));
    all
}

/// How docker shows a missing image: familiar, with `:latest`.
pub(crate) fn shown(text: &str) -> String {
    match Reference::parse(text) {
        Ok(name) if !reference::is_identifier(text) => name.or_latest().familiar(),
        _ => text.to_owned(),
    }
}
