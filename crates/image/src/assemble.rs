//! Images that a builder puts together: layers straight from overlay upper directories, configs as given.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use wharf_spec::digest::Digest;
use wharf_spec::image::{ImageConfig, media_type};
use wharf_spec::reference::Reference;
use wharf_sys::root::{Dir, Kind, Root, Time};

use crate::archive::ArchiveError;
use crate::blobs::BlobWriter;
use crate::diff::{self, Marks};
use crate::image::Layer;
use crate::ingest::LayerError;
use crate::lease::Lease;
use crate::make::Made;
use crate::store::LayerRecord;
use crate::unpack::Compression;
use crate::{Image, ImageStore, StoreError, make};

impl ImageStore {
    /// A path of nobody else on the file system of the layers; emptied at the next open.
    pub fn scratch_path(&self, what: &str) -> PathBuf {
        self.0.blobs.temp_path(what)
    }

    /// Makes `upper` a layer on top of `below` (base first) by a rename. `None` if nothing is in it. With `latest`,
    /// later modification times become that. Whatever happens, `upper` is the store's from here on. Blocks.
    pub fn add_upper(
        &self,
        below: &[Layer],
        upper: &Path,
        latest: Option<i64>,
    ) -> Result<Option<(Layer, Lease)>, ArchiveError> {
        let failed = |source| ArchiveError::Upper { path: upper.to_owned(), source };
        let root = Root::open(upper).and_then(|r| r.top()).map_err(failed)?;
        if root.entries().map_err(failed)?.is_empty() {
            return Ok(None);
        }
        if let Some(latest) = latest {
            clamp_times(&root, Time { seconds: latest, nanos: 0 }).map_err(failed)?;
        }
        let mut blob = self.0.blobs.writer()?;
        let written = write_blob(upper, &mut blob).map_err(failed);
        written?;
        let (diff_id, blob_size) = blob.finish(None)?;
        let size = crate::blobs::tree_size(upper)?;
        self.install(
            below,
            upper,
            LayerRecord { diff_id: diff_id.clone(), size, blob: diff_id },
            blob_size,
        )
        .map(Some)
        .map_err(ArchiveError::Store)
    }

    /// Puts the content of `layer` on top of `below`, where it is not yet: its files are shared, not copied. Blocks.
    pub fn add_again(
        &self,
        below: &[Layer],
        layer: &Layer,
    ) -> Result<(Layer, Lease), ArchiveError> {
        let _held = self.lease_layers(std::slice::from_ref(layer))?;
        let from = crate::layers::path(&self.0.root, &layer.chain_id);
        let to = self.scratch_path("again");
        let failed = |source| ArchiveError::Upper { path: from.clone(), source };
        fs::create_dir(&to).map_err(failed)?;
        let share = || -> io::Result<()> {
            share_tree(&Root::open(&from)?.top()?, &Root::open(&to)?.top()?)
        };
        let shared = share().map_err(failed);
        if shared.is_err() {
            drop(fs::remove_dir_all(&to));
        }
        shared?;
        let record = LayerRecord {
            diff_id: layer.diff_id.clone(),
            size: layer.size,
            blob: layer.blob.clone(),
        };
        let (mut added, lease) = self.install(below, &to, record, layer.blob_size)?;
        added.media_type.clone_from(&layer.media_type);
        Ok((added, lease))
    }

    /// Puts the layer that `input` yields, a tar that may be compressed, on top of `below`. What it turns out to be is for
    /// the caller to check. Blocks.
    pub fn add_blob(
        &self,
        below: &[Layer],
        input: impl Read + Send,
    ) -> Result<(Layer, Lease), LayerError> {
        let taken = self.0.take_layer(input)?;
        let chain_id = chain_on(below, &taken.diff_id);
        let (blob, size, kind) = (taken.blob.clone(), taken.blob_size, taken.media_type());
        let lease = self.0.leases.take([chain_id.clone(), blob.clone()]);
        self.0.adopt_layer(taken, &chain_id)?;
        let layer = self.0.layer_of(&chain_id, blob, size, kind)?;
        self.0.flusher.flush_soon();
        Ok((layer, lease))
    }

    /// The layer with the content `diff_id` on top of `below`, if it is here with its blob.
    pub fn layer_on(&self, below: &[Layer], diff_id: &Digest) -> Option<(Layer, Lease)> {
        let chain_id = chain_on(below, diff_id);
        let mut lease = self.0.leases.take([chain_id.clone()]);
        let LayerRecord { blob, .. } = self.0.layer(&chain_id)?;
        lease.extend([blob.clone()]);
        let mut head = Vec::new();
        let file = self.0.blobs.file(&blob).ok()?;
        let size = file.metadata().ok()?.len();
        file.take(6).read_to_end(&mut head).ok()?;
        let kind = Compression::sniff(&head).media_type();
        Some((self.0.layer_of(&chain_id, blob, size, kind).ok()?, lease))
    }

    fn install(
        &self,
        below: &[Layer],
        dir: &Path,
        record: LayerRecord,
        blob_size: u64,
    ) -> Result<(Layer, Lease), StoreError> {
        let chain_id = chain_on(below, &record.diff_id);
        let layer = Layer {
            diff_id: record.diff_id.clone(),
            chain_id: chain_id.clone(),
            blob: record.blob.clone(),
            blob_size,
            media_type: media_type::OCI_LAYER.into(),
            size: record.size,
        };
        let lease = self.0.leases.take([chain_id.clone(), layer.blob.clone()]);
        let installed = self.0.install_layer(dir, &chain_id, record);
        // Left over if the layer was there already.
        drop(fs::remove_dir_all(dir));
        self.0.flusher.flush_soon();
        installed.map(|()| (layer, lease))
    }

    /// Registers an image of these layers, which the caller leases, under `names`. Blocks.
    pub fn assemble(
        &self,
        config: ImageConfig,
        layers: Vec<Layer>,
        names: Vec<Reference>,
    ) -> Result<Image, ArchiveError> {
        self.assemble_with(Parts { config, layers, names, ..Parts::default() })
    }

    /// The same with everything that an image may have. Blocks.
    pub fn assemble_with(&self, parts: Parts) -> Result<Image, ArchiveError> {
        make::register_made(&self.0, made(parts)?)
    }

    /// The same to be sent somewhere: what was not here before goes again. Blocks.
    pub fn assemble_passing(&self, parts: Parts) -> Result<Passing, ArchiveError> {
        let made = made(parts)?;
        let here = self.0.index.lock().images.get(&Digest::sha256(&made.config_bytes)).cloned();
        let fresh = here.is_none();
        let image = match here {
            // Its manifest has none, and names its layers as they are.
            Some(image) if made.annotations.is_empty() && image.layers() == made.layers => image,
            _ => make::register_made(&self.0, made)?,
        };
        let lease = self.lease(&image)?;
        Ok(Passing { store: self.clone(), image, fresh, lease: Some(lease) })
    }
}

/// What an image is put together from.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    /// The config; its list of layers is made from `layers`.
    pub config: ImageConfig,
    /// Base first.
    pub layers: Vec<Layer>,
    /// Names to give; `latest` is implied. Without any the image is dangling.
    pub names: Vec<Reference>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// An image that is here only to be sent. It goes when this is dropped, unless somebody has wanted it meanwhile.
pub struct Passing {
    store: ImageStore,
    image: Image,
    fresh: bool,
    /// Until it goes.
    lease: Option<Lease>,
}

impl Passing {
    /// The image, which stays.
    pub fn keep(mut self) -> Image {
        self.fresh = false;
        self.image.clone()
    }
}

impl std::fmt::Debug for Passing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Passing").field(self.image.id()).finish()
    }
}

impl std::ops::Deref for Passing {
    type Target = Image;

    fn deref(&self) -> &Image {
        &self.image
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.lease = None;
        let mut index = self.store.0.index.lock();
        let id = self.image.id();
        // Registered anew since then, it would have been touched.
        let same = index.images.get(id).is_some_and(|i| i.touched() == self.image.touched());
        if !self.fresh || !same || !index.names_of(id).is_empty() {
            return;
        }
        if let Err(error) = self.store.0.forget(&mut index, id) {
            tracing::warn!(image = %id, error = %wharf_base::error::chain(&error), "an image that was sent stays");
        }
    }
}

fn made(parts: Parts) -> Result<Made, ArchiveError> {
    let Parts { mut config, layers, names, annotations } = parts;
    config.rootfs.kind = "layers".into();
    config.rootfs.diff_ids = layers.iter().map(|l| l.diff_id.clone()).collect();
    let config_bytes = serde_json::to_vec(&config).map_err(ArchiveError::Encode)?;
    let names = names.into_iter().map(Reference::or_latest).collect();
    Ok(Made { config, config_bytes, layers, names, parent: None, annotations })
}

/// The chain id of a layer on top of others (OCI image-spec, config.md).
fn chain_on(below: &[Layer], diff_id: &Digest) -> Digest {
    match below.last() {
        None => diff_id.clone(),
        Some(top) => Digest::sha256(format!("{} {diff_id}", top.chain_id).as_bytes()),
    }
}

fn write_blob(upper: &Path, blob: &mut BlobWriter) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(256 << 10, BlobOut(blob));
    diff::write_tar(upper, &mut out, Marks::Whiteouts)?;
    out.flush()
}

/// A blob as something to write to.
pub(crate) struct BlobOut<'a>(pub(crate) &'a mut BlobWriter);

impl Write for BlobOut<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes back modification times later than `latest`, directories after what is in them.
fn clamp_times(dir: &Dir, latest: Time) -> io::Result<()> {
    for name in dir.entries()? {
        let meta = dir.lstat(&name)?;
        if meta.kind == Kind::Dir {
            clamp_times(&dir.dir(&name)?, latest)?;
        }
        if meta.mtime > latest {
            dir.set_times(&name, latest)?;
        }
    }
    Ok(())
}

/// The same tree again, with hard links for everything that is no directory.
fn share_tree(from: &Dir, to: &Dir) -> io::Result<()> {
    for name in from.entries()? {
        let meta = from.lstat(&name)?;
        if meta.kind != Kind::Dir {
            to.hard_link(&name, from, &name)?;
            continue;
        }
        to.make_dir(&name, 0o700)?;
        share_tree(&from.dir(&name)?, &to.dir(&name)?)?;
        to.set_owner(&name, meta.uid, meta.gid)?;
        to.set_mode(&name, meta.mode)?;
        for key in from.xattr_keys(&name)? {
            if let Some(value) = from.xattr(&name, &key)? {
                to.set_xattr(&name, &key, &value)?;
            }
        }
        to.set_times(&name, meta.mtime)?;
    }
    Ok(())
}
