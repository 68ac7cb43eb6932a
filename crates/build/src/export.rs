//! Cache that leaves the engine, and comes back: `--cache-to` and `--cache-from`.
//!
//! What travels is images. One *line* of layers with the steps that made it is an image whose config remembers them
//! ([`crate::inline`]); one cache mount is an image of a single layer whose config names the mount. In a registry an
//! index lists them, with an annotation that says what each is, so that a build reads the small configs first and pulls
//! the layers of a line only when one of its steps is wanted.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::OnceCell;
use wharf_image::{Image, ImageStore, Layer, Lease, Registries, RegistryError, RemoveOptions};
use wharf_spec::digest::Digest;
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::image::{Document, ImageConfig, media_type};
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

use crate::built::Built;
use crate::copy::blocking;
use crate::error::BuildError;
use crate::files::{self, Attributes, Select, Target};
use crate::inline::{self, Remembered};
use crate::job::Job;
use crate::mounts::Wanted;
use crate::scratch::Scratch;
use crate::state::State;

/// The annotation of each manifest of a cache's index: `steps` or `mount`.
const ANNOTATION: &str = "wharf.build.cache";
/// The field of the config of a mount's image.
const MOUNT: &str = "wharf.build.mount";
/// Manifests that an index may list.
const MAX_MANIFESTS: usize = 1000;

/// How much cache leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheScope {
    /// `mode=max`: of all stages that were built, not only of the result.
    pub all_stages: bool,
    /// `mounts=true`: the content of the cache mounts that the build used as well.
    pub mounts: bool,
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

impl Built {
    /// The cache of this build as images without names: whoever asks for them removes them.
    pub async fn cache_images(&self, scope: CacheScope) -> Result<Vec<Image>, BuildError> {
        Ok(self.cache_parts(scope).await?.into_iter().map(|(image, _)| image).collect())
    }

    async fn cache_parts(
        &self,
        scope: CacheScope,
    ) -> Result<Vec<(Image, &'static str)>, BuildError> {
        let mut out = Vec::new();
        let lines =
            if scope.all_stages { &self.lines[..] } else { &self.lines[..self.lines.len().min(1)] };
        for line in whole(lines.to_vec()) {
            let store = self.store.clone();
            let image = blocking(move || {
                let mut config = line.config;
                inline::embed(&mut config, &line.steps);
                Ok(store.assemble(config, line.layers, Vec::new())?)
            });
            out.push((image.await?, "steps"));
        }
        for wanted in self.mounts.iter().filter(|_| scope.mounts) {
            out.extend(self.mount_image(wanted).await?.map(|image| (image, "mount")));
        }
        Ok(out)
    }

    /// A cache mount's content as an image; `None` if it is empty.
    async fn mount_image(&self, wanted: &Wanted) -> Result<Option<Image>, BuildError> {
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
            Ok(Some(store.assemble(config, vec![layer], Vec::new())?))
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
        let name = name.clone().or_latest();
        let parts = self.cache_parts(scope).await?;
        let sent = self.send_cache(&name, &parts, auth).await;
        parts.iter().for_each(|(image, _)| remove(&self.store, &image.id().to_string()));
        sent
    }

    async fn send_cache(
        &self,
        name: &Reference,
        parts: &[(Image, &'static str)],
        auth: &AuthConfig,
    ) -> Result<Digest, CacheError> {
        let failed = |source| CacheError::Registry { name: name.familiar(), source };
        let content = self.store.content();
        let to = Registries::new(self.store.settings()).repository(name, auth).map_err(failed)?;
        let mut manifests = Vec::new();
        for (image, kind) in parts {
            let _held = self.store.lease(image)?;
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
            manifests.push(json!({
                "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size,
                "annotations": { ANNOTATION: kind },
            }));
        }
        let index = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests,
        });
        let bytes = index.to_string();
        let digest = Digest::sha256(bytes.as_bytes());
        let tag = name.tag().unwrap_or_default();
        to.put_manifest(tag, media_type::OCI_INDEX, bytes.into()).await.map_err(failed)?;
        Ok(digest)
    }
}

/// Removes an image that is there for the sake of its cache alone.
fn remove(store: &ImageStore, what: &str) {
    let how = RemoveOptions { force: true, prune: false, users: &[] };
    if let Err(error) = store.remove(what, how) {
        let error = wharf_base::error::chain(&error).to_string();
        tracing::debug!(error, "an image of build cache was not removed");
    }
}

/// What a registry has under the name of a cache.
#[derive(Default)]
pub(crate) struct Listed {
    /// Steps of each line, and the line.
    pub(crate) lines: Vec<(Vec<Remembered>, Arc<There>)>,
    /// Cache mounts by id.
    pub(crate) mounts: BTreeMap<String, Arc<There>>,
}

/// An image that is pulled when something of it is wanted.
pub(crate) struct There {
    name: String,
    platform: Platform,
    here: OnceCell<Option<Arc<State>>>,
}

impl There {
    /// One that is here.
    pub(crate) fn here(state: Arc<State>) -> Arc<There> {
        let here = OnceCell::new_with(Some(Some(state)));
        Arc::new(There { name: String::new(), platform: Platform::host(), here })
    }

    /// Removes it from the store if it was pulled.
    pub(crate) fn forget(&self, store: &ImageStore) {
        let pulled = self.here.get().is_some_and(Option::is_some) && !self.name.is_empty();
        if pulled && store.resolve(&self.name).is_ok() {
            remove(store, &self.name);
        }
    }

    /// Its layers; `None` if they cannot be had any more, which makes a build slower and no more.
    pub(crate) async fn state(&self, job: &Arc<Job>) -> Option<Arc<State>> {
        let pulled = self.here.get_or_init(|| async {
            match job.image(&self.name, &self.platform).await {
                Ok(state) => Some(state),
                Err(e) => {
                    let why = wharf_base::error::chain(&e);
                    job.notice(format!("[Warning] cache-from {}: {why}", self.name));
                    None
                }
            }
        });
        pulled.await.clone()
    }
}

/// What the config of an image says of cache, for images that are here.
pub(crate) fn mount_of(state: &State) -> Option<String> {
    let value = state.config.other.get(MOUNT)?.clone();
    serde_json::from_value::<MountFacts>(value).ok().map(|m| m.id)
}

/// Reads what a registry lists under the name of a cache, without its layers. `None` if it is no such list.
pub(crate) async fn listed(job: &Job, name: &Reference) -> Result<Option<Listed>, RegistryError> {
    let auth = job.inputs.credentials.auth(name.domain()).await.unwrap_or_default();
    let settings = job.builder.store().settings();
    let from = Registries::new(settings).repository(name, &auth)?;
    let what = name.digest().map(ToString::to_string);
    let what = what.or_else(|| name.tag().map(str::to_owned)).unwrap_or_default();
    let top = from.manifest(&what).await?;
    let Ok(Document::Index(index)) = Document::parse(&top.bytes, &top.media_type) else {
        return Ok(None);
    };
    let kind = |m: &wharf_spec::image::Descriptor| m.annotations.get(ANNOTATION).cloned();
    if !index.manifests.iter().any(|m| kind(m).is_some()) {
        return Ok(None);
    }
    let mut out = Listed::default();
    for manifest in index.manifests.iter().take(MAX_MANIFESTS) {
        let Some(kind) = kind(manifest) else { continue };
        let raw = from.manifest(&manifest.digest.to_string()).await?;
        let Ok(Document::Manifest(image)) = Document::parse(&raw.bytes, &raw.media_type) else {
            continue;
        };
        let config = from.small_blob(&image.config.digest, image.config.size).await?;
        let Ok(config) = serde_json::from_slice::<ImageConfig>(&config) else { continue };
        let there = Arc::new(There {
            name: name.with_digest(manifest.digest.clone()).to_string(),
            platform: config.platform(),
            here: OnceCell::new(),
        });
        match kind.as_str() {
            "steps" => out.lines.extend(inline::steps(&config).map(|s| (s, there))),
            _ => {
                let facts = config.other.get(MOUNT).cloned().unwrap_or_default();
                if let Ok(facts) = serde_json::from_value::<MountFacts>(facts) {
                    out.mounts.insert(facts.id, there);
                }
            }
        }
    }
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
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
