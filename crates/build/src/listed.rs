//! Lists of cache that are elsewhere, for `--cache-from`: read at once, their layers when a step of them is wanted.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::OnceCell;
use wharf_base::error::chain;
use wharf_image::{ImageStore, Layer, Lease, Registries, RemoveOptions, Upstream};
use wharf_spec::digest::{Digest, Hasher};
use wharf_spec::image::{Descriptor, Document, ImageConfig, Index, Manifest};
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

use crate::export::{ANNOTATION, mount_of};
use crate::inline::{self, Remembered};
use crate::inputs::{Blobs, CacheList};
use crate::job::Job;
use crate::state::State;

/// Manifests that a list may have.
const MAX_MANIFESTS: usize = 1000;
/// Bytes of a document among blobs.
const MAX_DOCUMENT: usize = 16 << 20;

/// What a list of cache names.
#[derive(Default)]
pub(crate) struct Listed {
    /// Steps of each line, and the line.
    pub(crate) lines: Vec<(Vec<Remembered>, Arc<There>)>,
    /// Cache mounts by id.
    pub(crate) mounts: BTreeMap<String, Arc<There>>,
}

/// An image that is brought when something of it is wanted.
pub(crate) struct There {
    place: Place,
    here: OnceCell<Option<Arc<State>>>,
}

enum Place {
    /// In the store, where it stays.
    Here,
    /// In a registry, under this name.
    Named(String, Box<Platform>),
    /// Among other blobs.
    Far(Box<Far>),
}

/// An image that no registry has.
struct Far {
    /// Of the list that names it.
    name: String,
    layers: Vec<Descriptor>,
    config: ImageConfig,
    blobs: Arc<dyn Blobs>,
}

/// Where a list is.
enum Source<'a> {
    Registry(&'a Reference, Box<Upstream>),
    Blobs(&'a CacheList),
}

/// Reads what a registry has under the name of a cache. `None` if it is no list of cache.
pub(crate) async fn in_registry(job: &Job, name: &Reference) -> Result<Option<Listed>, String> {
    let told = |e| chain(&e).to_string();
    let auth = job.inputs.credentials.auth(name.domain()).await.unwrap_or_default();
    let settings = job.builder.store().settings();
    let from = Registries::new(settings).repository(name, &auth).await.map_err(told)?;
    let what = name.digest().map(ToString::to_string);
    let what = what.or_else(|| name.tag().map(str::to_owned)).unwrap_or_default();
    let top = from.manifest(&what).await.map_err(told)?;
    match index(&top.bytes, &top.media_type) {
        Some(index) => Source::Registry(name, Box::new(from)).list(&index).await.map(Some),
        None => Ok(None),
    }
}

/// Reads a list among blobs. `None` if it is no list of cache.
pub(crate) async fn in_blobs(list: &CacheList) -> Result<Option<Listed>, String> {
    let top = document(list.blobs.as_ref(), &list.digest).await?;
    match index(&top, "") {
        Some(index) => Source::Blobs(list).list(&index).await.map(Some),
        None => Ok(None),
    }
}

/// An index of which at least one manifest is cache.
fn index(bytes: &[u8], media_type: &str) -> Option<Index> {
    match Document::parse(bytes, media_type) {
        Ok(Document::Index(index)) => index.manifests.iter().any(is_cache).then_some(index),
        _ => None,
    }
}

fn is_cache(manifest: &Descriptor) -> bool {
    manifest.annotations.contains_key(ANNOTATION)
}

impl Source<'_> {
    async fn list(&self, index: &Index) -> Result<Listed, String> {
        let mut out = Listed::default();
        for manifest in index.manifests.iter().filter(|m| is_cache(m)).take(MAX_MANIFESTS) {
            let (bytes, media_type) = self.manifest(&manifest.digest).await?;
            let Ok(Document::Manifest(image)) = Document::parse(&bytes, &media_type) else {
                continue;
            };
            let config = self.config(&image.config).await?;
            let Ok(config) = serde_json::from_slice::<ImageConfig>(&config) else { continue };
            let (steps, mount) = (inline::steps(&config), mount_of(&config));
            let there = Arc::new(self.there(manifest, image, config));
            out.lines.extend(steps.map(|s| (s, there.clone())));
            out.mounts.extend(mount.map(|id| (id, there)));
        }
        Ok(out)
    }

    async fn manifest(&self, digest: &Digest) -> Result<(Bytes, String), String> {
        match self {
            Source::Registry(_, from) => {
                let raw = from.manifest(&digest.to_string()).await;
                raw.map(|f| (f.bytes, f.media_type)).map_err(|e| chain(&e).to_string())
            }
            Source::Blobs(list) => {
                let bytes = document(list.blobs.as_ref(), digest).await?;
                Ok((bytes.into(), String::new()))
            }
        }
    }

    async fn config(&self, of: &Descriptor) -> Result<Bytes, String> {
        match self {
            Source::Registry(_, from) => {
                from.small_blob(&of.digest, of.size).await.map_err(|e| chain(&e).to_string())
            }
            Source::Blobs(list) => document(list.blobs.as_ref(), &of.digest).await.map(Bytes::from),
        }
    }

    fn there(&self, manifest: &Descriptor, image: Manifest, config: ImageConfig) -> There {
        let place = match self {
            Source::Registry(name, _) => {
                let name = name.with_digest(manifest.digest.clone()).to_string();
                Place::Named(name, Box::new(config.platform()))
            }
            Source::Blobs(list) => {
                let (name, blobs) = (list.name.clone(), list.blobs.clone());
                Place::Far(Box::new(Far { name, layers: image.layers, config, blobs }))
            }
        };
        There { place, here: OnceCell::new() }
    }
}

impl There {
    /// One that is here.
    pub(crate) fn here(state: Arc<State>) -> Arc<There> {
        Arc::new(There { place: Place::Here, here: OnceCell::new_with(Some(Some(state))) })
    }

    /// Removes it from the store if it was pulled.
    pub(crate) fn forget(&self, store: &ImageStore) {
        let Place::Named(name, _) = &self.place else { return };
        let pulled = self.here.get().is_some_and(Option::is_some);
        if pulled && store.resolve(name).is_ok() {
            remove(store, name);
        }
    }

    /// Its layers; `None` if they cannot be had any more, which makes a build slower and no more.
    pub(crate) async fn state(&self, job: &Arc<Job>) -> Option<Arc<State>> {
        let brought = self.here.get_or_init(|| async {
            let (name, state) = match &self.place {
                Place::Here => return None,
                Place::Named(name, platform) => {
                    let state = job.any_image(name, platform).await;
                    (name, state.map_err(|e| chain(&e).to_string()))
                }
                Place::Far(far) => (&far.name, far.bring(job.builder.store()).await.map(Arc::new)),
            };
            state.map_err(|why| job.notice(format!("[Warning] cache-from {name}: {why}"))).ok()
        });
        brought.await.clone()
    }
}

impl Far {
    /// Its layers, which are kept as long as the state; those that are here already are not read.
    async fn bring(&self, store: &ImageStore) -> Result<State, String> {
        let ids = &self.config.rootfs.diff_ids;
        if ids.len() != self.layers.len() {
            return Err("a config that does not fit its manifest".into());
        }
        let mut state = State::scratch(&self.config.platform());
        state.config = self.config.clone();
        for (blob, diff_id) in self.layers.iter().zip(ids) {
            let (layer, lease) = match store.layer_on(&state.layers, diff_id) {
                Some(here) => here,
                None => self.layer(store, &state.layers, &blob.digest, diff_id).await?,
            };
            state.layers.push(layer);
            state.leases.push(Arc::new(lease));
        }
        Ok(state)
    }

    async fn layer(
        &self,
        store: &ImageStore,
        below: &[Layer],
        blob: &Digest,
        diff_id: &Digest,
    ) -> Result<(Layer, Lease), String> {
        let bytes = self.blobs.read(blob).await?;
        let (store, below) = (store.clone(), below.to_vec());
        let added = wharf_image::read_blocking(bytes, move |input| store.add_blob(&below, input));
        let added = added.await.ok_or("the task died")?;
        let (layer, lease) = added.map_err(|e| chain(&e).to_string())?;
        match layer.blob == *blob && layer.diff_id == *diff_id {
            true => Ok((layer, lease)),
            false => Err(format!("the blob {blob} is not what its name says")),
        }
    }
}

/// A whole small blob, which is what its name says.
async fn document(blobs: &dyn Blobs, digest: &Digest) -> Result<Vec<u8>, String> {
    let (mut stream, mut out) = (blobs.read(digest).await?, Vec::new());
    let mut hasher = Hasher::new(digest.algorithm());
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.map_err(|e| e.to_string())?;
        hasher.update(&bytes);
        out.extend_from_slice(&bytes);
        if out.len() > MAX_DOCUMENT {
            return Err(format!("the document {digest} has more than {MAX_DOCUMENT} bytes"));
        }
    }
    match hasher.finish() == *digest {
        true => Ok(out),
        false => Err(format!("the blob {digest} is not what its name says")),
    }
}

/// Removes an image that is there for the sake of its cache alone.
fn remove(store: &ImageStore, what: &str) {
    let how = RemoveOptions { force: true, prune: false, users: &[] };
    if let Err(error) = store.remove(what, how) {
        let error = chain(&error).to_string();
        tracing::debug!(error, "an image of build cache was not removed");
    }
}
