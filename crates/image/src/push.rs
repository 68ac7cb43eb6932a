//! Pushing: the blobs that a registry lacks, several at a time, and then the manifest that names them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::Semaphore;
use wharf_base::db::{Batch, Durability};
use wharf_spec::digest::Digest;
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::image::{Descriptor, Document, DocumentError, Manifest, media_type};
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

use crate::content::Offer;
use crate::progress::{LayerStep, Progress, ProgressSink};
use crate::registry::{Begun, Blob, RegistryError, Remote};
use crate::store::Index;
use crate::{Attached, ErrorKind, Image, ImageStore, StoreError};

/// What to push, and as whom.
#[derive(Clone)]
pub struct PushOptions {
    /// The image must be for this platform. Default: whatever it is for.
    pub platform: Option<Platform>,
    /// Credentials for the registry of the name.
    pub auth: AuthConfig,
    /// Told of every step.
    pub progress: ProgressSink,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self { platform: None, auth: AuthConfig::default(), progress: crate::progress::silent() }
    }
}

/// What a push left at the registry.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The image.
    pub image: Image,
    /// The name it was pushed by.
    pub name: Reference,
    /// Its manifest there.
    pub manifest: Descriptor,
}

/// Why an image could not be pushed. Texts that clients match are Docker's.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Nothing here has that name.
    #[error("tag does not exist: {name}")]
    NoTag {
        /// Familiar name.
        name: String,
    },
    /// Nothing here has a tag in that repository.
    #[error("{NONE} with the tag: {name}", NONE = "An image does not exist locally", name = .0)]
    NoTags(String),
    /// A name with a digest: what it names is there already, or cannot be put there under that name.
    #[error("cannot push a digest reference")]
    DigestReference,
    /// The registry does not let us.
    #[error(
        "push access denied for {name}, repository does not exist or may require 'docker login': {message}"
    )]
    Denied {
        /// Familiar name of the repository.
        name: String,
        /// What the registry says.
        message: String,
    },
    /// The image is for something else.
    #[error(
        "image with reference {name} was found but does not provide the specified platform ({wanted})"
    )]
    Platform {
        /// Familiar name.
        name: String,
        /// What was asked for.
        wanted: Platform,
    },
    /// The index cannot be written.
    #[error("cannot encode the index")]
    Encode(#[source] serde_json::Error),
    /// The stored manifest is none.
    #[error("manifest {digest}")]
    Document {
        /// Which.
        digest: Digest,
        /// Why.
        source: DocumentError,
    },
}

impl PushError {
    /// Which answer it deserves.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::NoTag { .. } | Self::NoTags(_) | Self::Platform { .. } => ErrorKind::NotFound,
            Self::DigestReference => ErrorKind::Invalid,
            _ => ErrorKind::System,
        }
    }
}

impl ImageStore {
    /// Pushes the image that `name` names (`latest` is implied) to the registry of that name, under the
    /// digest that it has here.
    ///
    /// Dropping the future stops the transfers; the registry keeps the blobs that arrived whole.
    pub async fn push(&self, name: &Reference, options: PushOptions) -> Result<Pushed, PushError> {
        if name.digest().is_some() {
            return Err(PushError::DigestReference);
        }
        let name = name.clone().or_latest();
        (options.progress)(Progress::PushingTo(name.name()));
        self.push_one(&name, &options).await
    }

    /// Pushes every tag of a repository, oldest name first.
    pub async fn push_all_tags(
        &self,
        name: &Reference,
        options: PushOptions,
    ) -> Result<Vec<Pushed>, PushError> {
        let tags = self.0.index.lock().tags_of(name);
        if tags.is_empty() {
            return Err(PushError::NoTags(name.familiar_name()));
        }
        (options.progress)(Progress::PushingTo(name.name()));
        let mut all = Vec::new();
        for tag in tags {
            all.push(self.push_one(&tag, &options).await?);
        }
        Ok(all)
    }

    /// Pushes images, one for each platform, and an index of them under `name`. The images themselves are known there
    /// by their digests alone; no name here is needed, and none is given.
    pub async fn push_index(
        &self,
        name: &Reference,
        index: &Several,
        options: PushOptions,
    ) -> Result<Descriptor, PushError> {
        if name.digest().is_some() {
            return Err(PushError::DigestReference);
        }
        let name = name.clone().or_latest();
        (options.progress)(Progress::PushingTo(name.name()));
        let remote = self.0.registries.writable(name.domain(), name.path(), &options.auth).await?;
        self.push_index_to(&remote, &name, index, &options).await
    }

    async fn push_index_to(
        &self,
        remote: &Remote<'_>,
        name: &Reference,
        index: &Several,
        options: &PushOptions,
    ) -> Result<Descriptor, PushError> {
        for image in &index.images {
            let _lease = self.lease(image)?;
            let push = Push { store: self, name, options, remote, image };
            push.run(&image.manifest().digest.to_string()).await?;
        }
        for attached in &index.attached {
            attached.push(remote).await.map_err(|e| explain(e, name))?;
        }
        let bytes = Bytes::from(index.to_json().map_err(PushError::Encode)?);
        let tag = name.tag().unwrap_or_default();
        let sent = remote.put_manifest(tag, media_type::OCI_INDEX, bytes.clone()).await;
        sent.map_err(|e| explain(e.into(), name))?;
        let index = index.describe(&bytes);
        let (digest, size) = (index.digest.clone(), index.size);
        (options.progress)(Progress::Pushed { tag: tag.to_owned(), digest, size });
        Ok(index)
    }

    async fn push_one(&self, name: &Reference, options: &PushOptions) -> Result<Pushed, PushError> {
        let image = self.pushable(name, options)?;
        // What is being sent must not go away meanwhile.
        let _lease = self.lease(&image)?;
        let remote = self.0.registries.writable(name.domain(), name.path(), &options.auth).await?;
        let push = Push { store: self, name, options, remote: &remote, image: &image };
        push.run(name.tag().unwrap_or_default()).await?;
        self.remember(name, &image)?;
        let manifest = image.manifest().clone();
        Ok(Pushed { image, name: name.clone(), manifest })
    }

    fn pushable(&self, name: &Reference, options: &PushOptions) -> Result<Image, PushError> {
        let found = self.0.index.lock().named(name);
        let image = match found {
            Some(image) => image,
            None if crate::builtin::knows(name) => self.resolve(&name.familiar())?,
            None if self.0.index.lock().tags_of(name).is_empty() => {
                return Err(PushError::NoTags(name.familiar_name()));
            }
            None => return Err(PushError::NoTag { name: name.familiar() }),
        };
        match &options.platform {
            Some(wanted) if wanted.distance(&image.platform()).is_none() => {
                Err(PushError::Platform { name: name.familiar(), wanted: wanted.clone() })
            }
            _ => Ok(image),
        }
    }

    fn manifest_of(&self, image: &Image) -> Result<(Bytes, Manifest), PushError> {
        let Descriptor { digest, media_type, .. } = image.manifest();
        let bytes = self.0.blobs.read(digest)?;
        let wrong = |source| PushError::Document { digest: digest.clone(), source };
        match Document::parse(&bytes, media_type).map_err(wrong)? {
            Document::Manifest(manifest) => Ok((bytes.into(), manifest)),
            Document::Index(_) => Err(wrong(DocumentError::Unsupported(media_type.clone()))),
        }
    }

    /// From now on the image is known by its digest at that registry.
    fn remember(&self, name: &Reference, image: &Image) -> Result<(), StoreError> {
        let name = name.with_digest(image.manifest().digest.clone());
        let mut index = self.0.index.lock();
        if !index.images.contains_key(image.id()) {
            return Ok(());
        }
        let mut batch = Batch::new();
        Index::put_name(&mut batch, &name, image.id())?;
        self.0.db.write(batch, Durability::Process)?;
        index.add_name(name, image.id().clone());
        Ok(())
    }
}

struct Push<'a> {
    store: &'a ImageStore,
    name: &'a Reference,
    options: &'a PushOptions,
    remote: &'a Remote<'a>,
    image: &'a Image,
}

/// A blob of the push, and how people see it.
struct Item<'a> {
    descriptor: &'a Descriptor,
    /// Empty for the config, which is not shown.
    id: String,
}

impl Push<'_> {
    /// Sends what is missing, and the manifest as `what`: a tag or its digest.
    async fn run(&self, what: &str) -> Result<(), PushError> {
        let (bytes, manifest) = &self.store.manifest_of(self.image)?;
        let config = &manifest.config.digest;
        // The first question also shows whether this address answers at all, before anything is told.
        let config_is_there = self.remote.has_blob(config).await;
        let config_is_there = config_is_there.map_err(|e| self.explain(e.into()))?;
        let mut items = self.items(manifest);
        items.retain(|item| !config_is_there || item.descriptor.digest != *config);
        items.iter().rev().for_each(|item| self.step(item, LayerStep::Preparing));
        let digests = items.iter().map(|i| i.descriptor.digest.clone());
        let offer = self.store.0.offer(digests);
        let gate = Semaphore::new(self.store.0.settings.concurrent_uploads.max(1));
        try_join_all(items.iter().map(|item| self.blob(item, &gate, &offer)))
            .await
            .map_err(|error| self.explain(error))?;
        let Descriptor { digest, size, media_type, .. } = self.image.manifest();
        let sent = self.remote.put_manifest(what, media_type, bytes.clone()).await;
        sent.map_err(|e| self.explain(e.into()))?;
        self.tell(Progress::Pushed { tag: what.to_owned(), digest: digest.clone(), size: *size });
        Ok(())
    }

    /// Every blob once, the config last.
    fn items<'m>(&self, manifest: &'m Manifest) -> Vec<Item<'m>> {
        let mut seen = BTreeMap::new();
        let ids = self.image.layers().iter().map(|l| l.diff_id.short().to_owned());
        let layers = manifest.layers.iter().zip(ids.map(Some).chain(std::iter::repeat(None)));
        layers
            .map(|(d, id)| (d, id.unwrap_or_else(|| d.digest.short().to_owned())))
            .chain([(&manifest.config, String::new())])
            .filter(|(d, _)| seen.insert(&d.digest, ()).is_none())
            .map(|(descriptor, id)| Item { descriptor, id })
            .collect()
    }

    async fn blob(
        &self,
        item: &Item<'_>,
        gate: &Semaphore,
        offer: &Offer,
    ) -> Result<(), PushError> {
        let Descriptor { digest, size, urls, .. } = item.descriptor;
        if !urls.is_empty() && !self.store.0.blobs.has(digest) {
            self.step(item, LayerStep::Foreign);
            return Ok(());
        }
        self.step(item, LayerStep::Waiting);
        let _turn = gate.acquire().await;
        if self.remote.has_blob(digest).await? {
            self.step(item, LayerStep::AlreadyThere);
            return Ok(());
        }
        let from = self.elsewhere(digest);
        let session = match self.begin(digest, from.as_deref(), offer).await? {
            Begun::Mounted => {
                let from = from.unwrap_or_else(|| self.name.path().to_owned());
                self.step(item, LayerStep::Mounted(from));
                return Ok(());
            }
            Begun::Session(session) => session,
        };
        let file = self.store.0.blobs.file(digest)?;
        let tell = |current| self.step(item, LayerStep::Pushing { current, total: *size });
        tell(0);
        let blob = Blob { digest, size: *size, file: Arc::new(file), tell: &tell };
        self.remote.send_blob(session, &blob).await?;
        self.step(item, LayerStep::Pushed);
        Ok(())
    }

    /// Credentials may be good for this repository and not for the one to mount from.
    async fn begin(
        &self,
        digest: &Digest,
        from: Option<&str>,
        offer: &Offer,
    ) -> Result<Begun, RegistryError> {
        match self.remote.begin(digest, from, &offer.token).await {
            Err(RegistryError::Status { status: 401 | 403, .. }) if from.is_some() => {
                self.remote.begin(digest, None, &offer.token).await
            }
            other => other,
        }
    }

    /// A repository of the same registry that has the blob, as far as we know: another image came from or went there.
    fn elsewhere(&self, digest: &Digest) -> Option<String> {
        let index = self.store.0.index.lock();
        let mut names = index.names.values().filter(|name| {
            let at = &name.reference;
            at.digest().is_some()
                && at.domain() == self.name.domain()
                && at.path() != self.name.path()
                && index.images.get(&name.image).is_some_and(|image| {
                    image.id() == digest || image.layers().iter().any(|l| l.blob == *digest)
                })
        });
        names.next().map(|name| name.reference.path().to_owned())
    }

    fn explain(&self, error: PushError) -> PushError {
        explain(error, self.name)
    }

    fn step(&self, item: &Item<'_>, step: LayerStep) {
        if !item.id.is_empty() {
            self.tell(Progress::Layer { id: item.id.clone(), step });
        }
    }

    fn tell(&self, progress: Progress) {
        (self.options.progress)(progress);
    }
}

/// Docker's texts for what a registry refuses.
fn explain(error: PushError, name: &Reference) -> PushError {
    match error {
        PushError::Registry(RegistryError::Status { status: 401 | 403, message, .. }) => {
            PushError::Denied { name: name.familiar_name(), message }
        }
        other => other,
    }
}

/// Images, one for each platform, and what is said about all of them.
#[derive(Debug, Clone, Default)]
pub struct Several {
    /// The images, in the order of the index.
    pub images: Vec<Image>,
    /// Annotations of the index.
    pub annotations: BTreeMap<String, String>,
    /// Annotations of what the index says of each image, in their order; for those that are missing it says none.
    pub descriptors: Vec<BTreeMap<String, String>>,
    /// Annotations of what is said of the index itself, where it is listed.
    pub descriptor: BTreeMap<String, String>,
    /// What is said about the images, behind them in the index.
    pub attached: Vec<Attached>,
}

impl Several {
    /// The index.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let entry = |(n, image): (usize, &Image)| {
            let platform = Some(image.platform());
            let annotations = self.descriptors.get(n).cloned().unwrap_or_default();
            Descriptor { platform, annotations, ..image.manifest().clone() }
        };
        serde_json::to_vec(&wharf_spec::image::Index {
            schema_version: 2,
            media_type: media_type::OCI_INDEX.into(),
            manifests: self
                .images
                .iter()
                .enumerate()
                .map(entry)
                .chain(self.attached.iter().map(|a| a.manifest.clone()))
                .collect(),
            annotations: self.annotations.clone(),
            other: Default::default(),
        })
    }

    /// What is said of the index whose bytes these are.
    pub fn describe(&self, bytes: &[u8]) -> Descriptor {
        let (digest, size) = (Digest::sha256(bytes), bytes.len() as u64);
        let annotations = self.descriptor.clone();
        Descriptor { annotations, ..Descriptor::new(media_type::OCI_INDEX, digest, size) }
    }
}
