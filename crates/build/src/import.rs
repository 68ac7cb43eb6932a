//! What a build takes from caches that came from elsewhere, and what of its own can leave.

use std::collections::BTreeMap;
use std::sync::Arc;

use wharf_base::sync::Mutex;
use wharf_spec::digest::Digest;
use wharf_spec::reference::Reference;

use crate::export::{Line, mount_of};
use crate::inline::{self, Found, Imported};
use crate::job::Job;
use crate::listed::{self, Listed, There};
use crate::mounts::Wanted;
use crate::state::State;

/// The caches of `--cache-from`.
#[derive(Default)]
pub(crate) struct Travel {
    /// Steps that images remember.
    steps: Mutex<Imported>,
    /// What cache mounts begin with that are not here yet, by id.
    mounts: Mutex<BTreeMap<String, Arc<There>>>,
    /// The images that the engine's own cache must lead to; `None` lets it lead anywhere.
    towards: Mutex<Option<Vec<Arc<State>>>>,
}

impl Job {
    /// What `key` gives according to an image of `--cache-from`.
    pub(crate) async fn imported(self: &Arc<Self>, key: &Digest) -> Option<Found> {
        let (step, image) = self.travel.steps.lock().get(key.hex())?;
        if let Some(found) = step.empty() {
            return Some(found);
        }
        let state = image.state(self).await?;
        step.found(&state)
    }

    /// What the cache mount `id` begins with according to a cache of `--cache-from`.
    pub(crate) async fn imported_mount(self: &Arc<Self>, id: &str) -> Option<Arc<State>> {
        let image = self.travel.mounts.lock().get(id).cloned()?;
        image.state(self).await
    }

    /// Images that were pulled for the sake of cache alone go; what of them is used is leased.
    pub(crate) fn forget_pulled(&self) {
        let mut all = self.travel.steps.lock().images();
        all.extend(self.travel.mounts.lock().values().cloned());
        all.iter().for_each(|image| image.forget(self.builder.store()));
    }

    /// A step uses this cache mount.
    pub(crate) fn uses_mount(&self, wanted: &Wanted) {
        self.mounts.lock().insert(wanted.id.clone(), wanted.clone());
    }

    /// The cache mounts that steps used.
    pub(crate) fn used_mounts(&self) -> Vec<Wanted> {
        self.mounts.lock().values().cloned().collect()
    }

    /// What can be exported as cache: the result, and every other stage that was built.
    pub(crate) fn lines(&self, result: &State) -> Vec<Line> {
        let stages = self.stages.iter().filter_map(|s| s.get()?.as_deref());
        std::iter::once(result).chain(stages).map(Line::of).collect()
    }

    /// Reads the caches of `--cache-from`. One that cannot be had makes the build slower, not impossible.
    pub(crate) async fn import(self: &Arc<Self>) {
        self.import_blobs().await;
        let mut images = Vec::new();
        for text in &self.request.cache_from {
            let told = match inline::source(text) {
                Err(why) => Some(why),
                Ok(name) if self.import_list(&name).await => None,
                Ok(name) => match self.any_image(&name, &self.platform).await {
                    Err(e) => Some(format!("cache-from {name}: {}", wharf_base::error::chain(&e))),
                    Ok(image) if mount_of(&image.config).is_some() => {
                        let id = mount_of(&image.config).unwrap_or_default();
                        self.travel.mounts.lock().insert(id, There::here(image));
                        None
                    }
                    Ok(image) => {
                        images.push(image.clone());
                        let brings = self.travel.steps.lock().add(&image)
                            || self.request.cache_from_alone
                                && self.builder.cache().made(&image.layers);
                        (!brings).then(|| {
                            format!("cache-from {name}: the image remembers no steps of wharf")
                        })
                    }
                },
            };
            if let Some(message) = told {
                self.notice(format!("[Warning] {message}"));
            }
        }
        if self.request.cache_from_alone && !self.request.cache_from.is_empty() {
            *self.travel.towards.lock() = Some(images);
        }
    }

    /// Reads a cache that `--cache-to type=registry` wrote; false if the name is not that of one.
    async fn import_list(self: &Arc<Self>, name: &str) -> bool {
        // An image that is here, as docker has it, is what is meant.
        let Ok(reference) = Reference::parse(name) else { return false };
        if self.builder.store().resolve(name).is_ok() {
            return false;
        }
        let found = listed::in_registry(self, &reference.or_latest()).await;
        let Ok(Some(found)) = found else { return false };
        self.take_listed(found);
        true
    }

    /// Reads caches that are in no registry.
    async fn import_blobs(&self) {
        for list in &self.inputs.caches {
            let why = match listed::in_blobs(list).await {
                Ok(Some(found)) => {
                    self.take_listed(found);
                    continue;
                }
                Ok(None) => "what is there is no build cache of wharf".to_owned(),
                Err(why) => why,
            };
            self.notice(format!("[Warning] cache-from {}: {why}", list.name));
        }
    }

    fn take_listed(&self, found: Listed) {
        let mut imported = self.travel.steps.lock();
        found.lines.into_iter().for_each(|(steps, image)| imported.add_line(steps, &image));
        self.travel.mounts.lock().extend(found.mounts);
    }

    /// Whether what the engine's own cache has may be used on top of `state`. With `--cache-from` the classic builder
    /// takes only what one of those images was made of.
    pub(crate) fn permits(&self, state: &State, entry: &crate::cache::Entry) -> bool {
        let towards = self.travel.towards.lock();
        let Some(images) = towards.as_ref() else { return true };
        let created = self.time_of(entry.created);
        let below = state.layers.len();
        images.iter().any(|image| {
            let same = image.layers.get(..below).is_some_and(|l| {
                l.last().map(|l| &l.chain_id) == state.layers.last().map(|l| &l.chain_id)
            });
            same && match &entry.layer {
                Some(layer) => image.layers.get(below).is_some_and(|l| l.diff_id == layer.diff_id),
                None => image.config.history.iter().any(|h| h.created.as_ref() == Some(&created)),
            }
        })
    }
}
