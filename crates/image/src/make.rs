//! New images: from the tar of a root file system, and from what a container changed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use wharf_spec::digest::Digest;
use wharf_spec::image::{Descriptor, History, ImageConfig, Manifest, RunConfig, media_type};
use wharf_spec::reference::Reference;

use crate::archive::{ArchiveError, CommitOptions, ImportOptions};
use crate::changes;
use crate::diff::{self, Marks};
use crate::image::Layer;
use crate::ingest::{LayerError, Taken};
use crate::store::{Inner, NewImage};
use crate::{Image, ImageStore};

/// Digest of the tar with nothing in it: 1024 zero bytes.
const EMPTY_TAR: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

pub(crate) fn import(
    store: &ImageStore,
    input: impl Read + Send,
    options: ImportOptions,
) -> Result<Image, ArchiveError> {
    let inner = &store.0;
    // Refused before the work rather than after.
    let mut run = RunConfig::default();
    changes::apply(&mut run, &options.changes)?;
    let taken = inner.take_layer(input).map_err(layer_error)?;
    let platform = options.platform.unwrap_or_else(|| inner.settings.platform.clone());
    let now = inner.now();
    let comment =
        if options.message.is_empty() { "Imported from -".into() } else { options.message };
    let mut config = ImageConfig {
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant,
        config: Some(run),
        created: Some(now.clone()),
        history: vec![History { created: Some(now), comment, ..History::default() }],
        ..ImageConfig::default()
    };
    config.rootfs.kind = "layers".into();
    add_layer(inner, Vec::new(), config, Some(taken), options.name, None)
}

pub(crate) fn commit(store: &ImageStore, options: CommitOptions) -> Result<Image, ArchiveError> {
    let inner = &store.0;
    let base = options.base;
    let _lease = store.lease(&base)?;
    let mut run = options.config.clone();
    changes::apply(&mut run, &options.changes)?;
    let taken = take_upper(inner, &options.upper, &options.omit)?;
    let is_empty = taken.diff_id.to_string() == EMPTY_TAR;
    let now = inner.now();
    let command = [options.config.entrypoint.as_deref(), options.config.cmd.as_deref()];
    let created_by = command.into_iter().flatten().flatten().cloned().collect::<Vec<_>>().join(" ");
    let mut config = base.config().clone();
    config.config = Some(run);
    config.container_config = Some(options.config);
    config.container = options.container;
    config.author.clone_from(&options.author);
    config.created = Some(now.clone());
    config.history.push(History {
        created: Some(now),
        author: options.author,
        created_by,
        comment: options.comment,
        empty_layer: is_empty,
        ..History::default()
    });
    let taken = (!is_empty).then_some(taken);
    add_layer(inner, base.layers().to_vec(), config, taken, options.name, Some(base.id().clone()))
}

/// The upper directory as a layer: written as a tar by one thread, stored and unpacked by others.
fn take_upper(
    inner: &Inner,
    upper: &Path,
    omit: &BTreeSet<PathBuf>,
) -> Result<Taken, ArchiveError> {
    let (reader, mut writer) =
        std::io::pipe().map_err(|source| ArchiveError::Upper { path: upper.to_owned(), source })?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let mut out = std::io::BufWriter::with_capacity(256 << 10, &mut writer);
            diff::write_tar_without(upper, &mut out, Marks::Whiteouts, omit)?;
            std::io::Write::flush(&mut out)
        });
        let taken = inner.take_layer(reader);
        let written = writing.join().map_err(|_| ArchiveError::Interrupted)?;
        // A failed writer makes the archive look cut short: its own reason is the better one, unless it
        // only failed because the reader went first.
        match (written, taken) {
            (Err(e), Err(_)) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(ArchiveError::Upper { path: upper.to_owned(), source: e })
            }
            (Err(source), Ok(_)) => Err(ArchiveError::Upper { path: upper.to_owned(), source }),
            (_, taken) => taken.map_err(layer_error),
        }
    })
}

/// Puts a layer on top of others and registers the image. `config` lacks only the new diff id.
fn add_layer(
    inner: &Inner,
    mut layers: Vec<Layer>,
    mut config: ImageConfig,
    taken: Option<Taken>,
    name: Option<Reference>,
    parent: Option<Digest>,
) -> Result<Image, ArchiveError> {
    let mut lease = inner.leases.take([]);
    config.rootfs.diff_ids = layers.iter().map(|l| l.diff_id.clone()).collect();
    if let Some(taken) = taken {
        config.rootfs.diff_ids.push(taken.diff_id.clone());
        let chain = config.rootfs.chain_ids().pop().unwrap_or_else(|| taken.diff_id.clone());
        let (blob, blob_size, kind) = (taken.blob.clone(), taken.blob_size, taken.media_type());
        lease.extend([chain.clone(), blob.clone()]);
        inner.adopt_layer(taken, &chain)?;
        layers.push(inner.layer_of(&chain, blob, blob_size, kind)?);
    }
    let config_bytes = serde_json::to_vec(&config).map_err(ArchiveError::Encode)?;
    let names = name.map(Reference::or_latest).into_iter().collect();
    let annotations = BTreeMap::new();
    register_made(inner, Made { config, config_bytes, layers, names, parent, annotations })
}

/// An image that wharf made.
pub(crate) struct Made {
    pub(crate) config: ImageConfig,
    /// The config as it is stored.
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) names: Vec<Reference>,
    /// The image it was committed from.
    pub(crate) parent: Option<Digest>,
    /// Annotations of its manifest.
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Stores config and manifest of an image that wharf made, and registers it.
pub(crate) fn register_made(inner: &Inner, made: Made) -> Result<Image, ArchiveError> {
    let Made { config, config_bytes, layers, names, parent, annotations } = made;
    let mut lease = inner.leases.take([Digest::sha256(&config_bytes)]);
    let id = inner.blobs.put(&config_bytes)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.into(),
        config: Descriptor::new(media_type::OCI_CONFIG, id.clone(), config_bytes.len() as u64),
        layers: layers
            .iter()
            .map(|l| Descriptor::new(&l.media_type, l.blob.clone(), l.blob_size))
            .collect(),
        annotations,
        other: Default::default(),
    };
    let bytes = serde_json::to_vec(&manifest).map_err(ArchiveError::Encode)?;
    lease.extend([Digest::sha256(&bytes)]);
    let digest = inner.blobs.put(&bytes)?;
    let manifest = Descriptor::new(media_type::OCI_MANIFEST, digest, bytes.len() as u64);
    let new = NewImage { id, config, manifest, index: None, layers, parent, names };
    Ok(inner.register(new)?)
}

fn layer_error(error: LayerError) -> ArchiveError {
    match error {
        LayerError::Unpack(error) => ArchiveError::Archive(error),
        LayerError::Store(error) => ArchiveError::Store(error),
    }
}

impl Inner {
    /// The present, RFC 3339 with nanoseconds.
    pub(crate) fn now(&self) -> String {
        let nanos = i128::from(self.settings.clock.unix_nanos());
        jiff::Timestamp::from_nanosecond(nanos).unwrap_or_default().to_string()
    }
}
