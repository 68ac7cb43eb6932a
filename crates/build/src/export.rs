//! Cache that leaves the engine, and comes back: `--cache-to` and `--cache-from`.
//!
//! What travels is images. One *line* of layers with the steps that made it is an image whose config remembers them
//! ([`crate::inline`]); one cache mount is an image of a single layer whose config names the mount. In a registry an
//! index lists them, with an annotation that says what each is, so that a build reads the small configs first and pulls
//! the layers of a line only when one of its steps is wanted.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use wharf_image::{
    Image, ImageStore, Layer, Lease, Parts, Passing, Registries, RegistryError, Repack,
};
use wharf_spec::digest::Digest;
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::image::{Descriptor, ImageConfig, media_type};
use wharf_spec::reference::Reference;

use crate::built::{Built, repacked};
use crate::copy::blocking;
use crate::error::BuildError;
use crate::files::{self, Attributes, Select, Target};
use crate::inline::{self, Remembered};
use crate::mounts::Wanted;
use crate::scratch::Scratch;
use crate::state::State;

/// The annotation of each manifest of a cache's index: `steps` or `mount`.
pub(crate) const ANNOTATION: &str = "wharf.build.cache";
/// The field of the config of a mount's image.
const MOUNT: &str = "wharf.build.mount";

/// How much cache leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheScope {
    /// `mode=max`: of all stages that were built, not only of the result.
    pub all_stages: bool,
    /// `mounts=true`: the content of the cache mounts that the build used as well.
    pub mounts: bool,
    /// How its layers are packed; `None` leaves them as they are.
    pub repack: Option<Repack>,
}

/// The cache of a build as images, for as long as it takes to send them, and a list of them.
pub struct CacheParts {
    store: ImageStore,
    parts: Vec<(Passing, &'static str)>,
}

impl std::fmt::Debug for CacheParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CacheParts").field(&self.parts).finish()
    }
}

/// Why cache could not be sent to a registry.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Its images could not be made.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] wharf_image::StoreError),
    /// The registry failed.
    #[error("cannot send the build cache to {name}")]
    Registry {
        /// Where to.
        name: String,
        /// Why.
        source: RegistryError,
    },
}

/// The layers of a stage, and the steps that made them.
#[derive(Clone)]
pub(crate) struct Line {
    config: ImageConfig,
    layers: Vec<Layer>,
    /// They stay as long as the build's result.
    _leases: Vec<Arc<Lease>>,
    steps: Vec<Remembered>,
}

/// A cache mount as a config names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MountFacts {
    id: String,
}

/// The cache mount whose content an image of this config is.
pub(crate) fn mount_of(config: &ImageConfig) -> Option<String> {
    let value = config.other.get(MOUNT)?.clone();
    serde_json::from_value::<MountFacts>(value).ok().map(|m| m.id)
}

impl Line {
    pub(crate) fn of(state: &State) -> Line {
        let config = ImageConfig {
            architecture: state.config.architecture.clone(),
            os: state.config.os.clone(),
            variant: state.config.variant.clone(),
            ..ImageConfig::default()
        };
        let (layers, steps) = (state.layers.clone(), state.steps.clone());
        Line { config, layers, _leases: state.leases.clone(), steps }
    }
}

/// Those lines that are no beginning of another.
pub(crate) fn whole(lines: Vec<Line>) -> Vec<Line> {
    let part_of = |one: &Line, other: &Line| {
        one.steps.len() < other.steps.len() && other.steps.starts_with(&one.steps)
    };
    let is_whole = |l: &&Line| !l.steps.is_empty() && !lines.iter().any(|o| part_of(l, o));
    let mut out: Vec<Line> = Vec::new();
    for line in lines.iter().filter(is_whole) {
        if !out.iter().any(|o| o.steps == line.steps) {
            out.push(line.clone());
        }
    }
    out
}

impl CacheParts {
    /// Takes the cache of another build into the same list.
    pub fn extend(&mut self, other: CacheParts) {
        for (image, kind) in other.parts {
            // Builds for several platforms have stages in common.
            if !self.parts.iter().any(|(i, _)| i.manifest().digest == image.manifest().digest) {
                self.parts.push((image, kind));
            }
        }
    }

    /// The images.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        self.parts.iter().map(|(image, _)| &**image)
    }

    /// The list of them, an index, as bytes; each is annotated with what it is.
    pub fn list(&self) -> (Descriptor, Vec<u8>) {
        let entry = |(image, kind): &(Passing, &str)| {
            let of = image.manifest();
            json!({
                "mediaType": of.media_type, "digest": of.digest, "size": of.size,
                "annotations": { ANNOTATION: kind },
            })
        };
        let index = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
            "manifests": self.parts.iter().map(entry).collect::<Vec<_>>(),
        });
        let bytes = index.to_string().into_bytes();
        let size = bytes.len() as u64;
        (Descriptor::new(media_type::OCI_INDEX, Digest::sha256(&bytes), size), bytes)
    }
}

impl Built {
    /// The cache of this build as images without names: whoever asks for them removes them.
    pub async fn cache_images(&self, scope: CacheScope) -> Result<Vec<Image>, BuildError> {
        let parts = self.cache_parts(scope).await?.parts;
        Ok(parts.into_iter().map(|(image, _)| image.keep()).collect())
    }

    /// The cache of this build, to be sent somewhere.
    pub async fn cache_parts(&self, scope: CacheScope) -> Result<CacheParts, BuildError> {
        let mut parts = Vec::new();
        let lines =
            if scope.all_stages { &self.lines[..] } else { &self.lines[..self.lines.len().min(1)] };
        for line in whole(lines.to_vec()) {
            let store = self.store.clone();
            let image = blocking(move || {
                let mut config = line.config;
                inline::embed(&mut config, &line.steps);
                passing(&store, config, &line.layers, scope.repack)
            });
            parts.push((image.await?, "steps"));
        }
        for wanted in self.mounts.iter().filter(|_| scope.mounts) {
            let image = self.mount_image(wanted, scope.repack).await?;
            parts.extend(image.map(|image| (image, "mount")));
        }
        Ok(CacheParts { store: self.store.clone(), parts })
    }

    /// A cache mount's content as an image; `None` if it is empty.
    async fn mount_image(
        &self,
        wanted: &Wanted,
        repack: Option<Repack>,
    ) -> Result<Option<Passing>, BuildError> {
        let taken = self.cache.mounts.take(wanted, |_| Ok(())).await?;
        let (store, id, platform) = (self.store.clone(), wanted.id.clone(), self.platform());
        blocking(move || {
            let from = wharf_sys::root::Root::open(&taken.path)
                .map_err(BuildError::io("open a cache mount"))?;
            let scratch = Scratch::new(&store)?;
            {
                let root = wharf_sys::root::Root::open(scratch.upper())
                    .map_err(BuildError::io("open a new layer"))?;
                let target = Target { root: &root, dest: "/".into(), is_dir: true };
                for selection in files::select(&from, ".", &Select::default())? {
                    files::copy(&from, &selection, &target, &Attributes::default())?;
                }
            }
            let Some((layer, _lease)) = store.add_upper(&[], scratch.upper(), None)? else {
                return Ok(None);
            };
            let mut config = Line::of(&State::scratch(&platform)).config;
            let facts = MountFacts { id };
            config.other.insert(MOUNT.into(), serde_json::to_value(facts).unwrap_or_default());
            passing(&store, config, &[layer], repack).map(Some)
        })
        .await
    }

    /// Sends the cache of this build to a registry, under `name`. Layers that are there are not sent again.
    pub async fn push_cache(
        &self,
        name: &Reference,
        scope: CacheScope,
        auth: &AuthConfig,
    ) -> Result<Digest, CacheError> {
        self.cache_parts(scope).await?.push(name, auth).await
    }
}

impl CacheParts {
    /// Sends it to a registry, under `name`. Layers that are there are not sent again.
    pub async fn push(&self, name: &Reference, auth: &AuthConfig) -> Result<Digest, CacheError> {
        let name = name.clone().or_latest();
        let failed = |source| CacheError::Registry { name: name.familiar(), source };
        let content = self.store.content();
        let registries = Registries::new(self.store.settings());
        let to = registries.repository(&name, auth).await.map_err(failed)?;
        for image in self.images() {
            let manifest = image.manifest();
            let blobs = image.layers().iter().map(|l| &l.blob).chain([image.id()]);
            for digest in blobs {
                if to.has_blob(digest).await.map_err(failed)? {
                    continue;
                }
                let file = content.file(digest)?;
                let size = file.metadata().map_or(0, |m| m.len());
                to.send_blob(digest, size, file, &|_| ()).await.map_err(failed)?;
            }
            let bytes = content.read(&manifest.digest)?;
            let (what, kind_of) = (manifest.digest.to_string(), &manifest.media_type);
            to.put_manifest(&what, kind_of, bytes.into()).await.map_err(failed)?;
        }
        let (list, bytes) = self.list();
        let tag = name.tag().unwrap_or_default();
        to.put_manifest(tag, media_type::OCI_INDEX, bytes.into()).await.map_err(failed)?;
        Ok(list.digest)
    }
}

/// An image that is here to be sent, its layers packed as wanted. Blocks.
fn passing(
    store: &ImageStore,
    config: ImageConfig,
    layers: &[Layer],
    repack: Option<Repack>,
) -> Result<Passing, BuildError> {
    let (layers, _leases) = repacked(store, layers, repack)?;
    Ok(store.assemble_passing(Parts { config, layers, ..Parts::default() })?)
}

#[cfg(test)]
mod tests {
    use wharf_spec::platform::Platform;

    use super::*;

    #[test]
    fn a_line_that_is_the_beginning_of_another_is_left_out() {
        let mut state = State::scratch(&Platform::host());
        state.steps.push(Remembered::new("a", &state, false, 1));
        let short = Line::of(&state);
        state.steps.push(Remembered::new("b", &state, false, 2));
        let long = Line::of(&state);
        let empty = Line::of(&State::scratch(&Platform::host()));
        let kept = whole(vec![short, long.clone(), empty, long]);
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].steps.len(), 2);
    }
}
