//! Pulling: from a name to layers in place, downloads, verification and unpacking all in flight at once.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use wharf_base::backoff::Backoff;
use wharf_base::sync::Mutex;
use wharf_spec::digest::{Algorithm, Digest, Hasher};
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::image::{Descriptor, Document, DocumentError, ImageConfig, Manifest, media_type};
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

use crate::blobs::hash_file;
use crate::body::{self, BodyReader, BodySender};
use crate::error::io_error;
use crate::image::Layer;
use crate::ingest::{LayerError, Taken};
use crate::lease::Lease;
use crate::progress::{LayerStep, Progress, ProgressSink};
use crate::registry::{RawManifest, RegistryError, Remote};
use crate::store::{Inner, NewImage};
use crate::unpack::{Compression, UnpackError};
use crate::{ErrorKind, Image, ImageStore, StoreError, builtin};

/// `ENOSPC`, in place of an error that has no number.
const NO_SPACE: i32 = 28;
/// Most breaks that one download is worth, however much each of them brought.
const BREAKS_MAX: u32 = 100;
/// Bytes between two reports of a download.
const REPORT: u64 = 512 << 10;

/// What to pull, and as whom.
#[derive(Clone)]
pub struct PullOptions {
    /// For which platform. Default: [`crate::Settings::platform`].
    pub platform: Option<Platform>,
    /// Credentials for the registry of the name.
    pub auth: AuthConfig,
    /// Told of every step.
    pub progress: ProgressSink,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { platform: None, auth: AuthConfig::default(), progress: crate::progress::silent() }
    }
}

/// What a pull brought.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// The name it was asked for by.
    pub name: Reference,
    /// Digest of what the registry has under that name: an index or a manifest.
    pub digest: Digest,
    /// Whether anything changed here.
    pub fresh: bool,
}

/// Why an image could not be pulled. Texts that clients match are Docker's.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It does not exist, or not for us.
    #[error(
        "pull access denied for {name}, repository does not exist or may require 'docker login': {message}"
    )]
    Denied {
        /// Familiar name of the repository.
        name: String,
        /// What the registry says.
        message: String,
    },
    /// No such tag or digest.
    #[error("manifest for {name} not found: manifest unknown: {message}")]
    Unknown {
        /// Familiar name.
        name: String,
        /// What the registry says.
        message: String,
    },
    /// The index has nothing for this platform.
    #[error("no matching manifest for {platform} in the manifest list entries")]
    Platform {
        /// What was wanted.
        platform: Platform,
    },
    /// A manifest that is none, or not one we accept.
    #[error("manifest {digest}")]
    Document {
        /// Which.
        digest: Digest,
        /// Why.
        source: DocumentError,
    },
    /// The image's config is of another kind: a chart, a policy, a plugin.
    #[error("{name} is not a container image: its config is of type {media_type:?}")]
    NotAnImage {
        /// Familiar name.
        name: String,
        /// What it is.
        media_type: String,
    },
    /// Config and manifest contradict each other.
    #[error("config of {name} {what}")]
    Config {
        /// Familiar name.
        name: String,
        /// How.
        what: String,
    },
    /// A layer did not arrive whole, or does not unpack.
    #[error("layer {digest}")]
    Layer {
        /// Which blob.
        digest: Digest,
        /// Why.
        source: LayerError,
    },
    /// A layer is larger or smaller than its manifest says.
    #[error("layer {digest} has {found} bytes, its manifest says {expected}")]
    Size {
        /// Which blob.
        digest: Digest,
        /// What the manifest says.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// The transfer broke more often than it is worth.
    #[error(
        "download of {digest} was interrupted {attempts} times; what arrived is kept and the next pull goes on from there"
    )]
    Interrupted {
        /// Which blob.
        digest: Digest,
        /// How often.
        attempts: u32,
        /// The last reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl PullError {
    /// Which answer it deserves.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Denied { .. } | Self::Unknown { .. } | Self::Platform { .. } => {
                ErrorKind::NotFound
            }
            Self::Document { .. } | Self::NotAnImage { .. } => ErrorKind::Invalid,
            _ => ErrorKind::System,
        }
    }

    /// Whether what arrived is not what was promised.
    fn is_wrong_content(&self) -> bool {
        match self {
            Self::Size { .. } => true,
            Self::Layer { source, .. } => {
                matches!(source, LayerError::Store(StoreError::Digest { .. }))
            }
            _ => false,
        }
    }
}

/// Pulls in flight: nobody fetches a blob that somebody else is fetching.
#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>);

impl Flights {
    fn of(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.0.lock();
        flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        flights.entry(digest.clone()).or_default().clone()
    }
}

impl ImageStore {
    /// Pulls `name` (`latest` is implied). A builtin image is made here if no registry image of its name is stored.
    ///
    /// Dropping the future stops the transfers; what has arrived is kept for the next pull, and nothing
    /// half done is visible.
    pub async fn pull(&self, name: &Reference, options: PullOptions) -> Result<Pulled, PullError> {
        let name = name.clone().or_latest();
        if builtin::knows(&name) {
            return self.provide_builtin(name, &options).await;
        }
        let mut last = None;
        for remote in self.0.registries.remotes(&name, &options.auth).await? {
            let mirror = remote.endpoint.mirror;
            if mirror && name.digest().is_none() && !remote.endpoint.resolves {
                continue;
            }
            let pull = Pull { store: self, name: &name, options: &options, remote };
            match pull.run().await {
                Ok(pulled) => return Ok(pulled),
                Err(error) if mirror => {
                    tracing::debug!(registry = name.domain(), %error, "mirror failed, trying the next");
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let nowhere = || RegistryError::Setting { what: name.domain().to_owned() }.into();
        Err(last.unwrap_or_else(nowhere))
    }

    /// Pulls every tag of a repository.
    pub async fn pull_all_tags(
        &self,
        name: &Reference,
        options: PullOptions,
    ) -> Result<Vec<Pulled>, PullError> {
        let mut last = None;
        for remote in self.0.registries.remotes(name, &options.auth).await? {
            match remote.tags().await {
                Ok(tags) => {
                    let mut all = Vec::new();
                    for tag in tags.iter().filter_map(|t| name.with_tag(t).ok()) {
                        all.push(self.pull(&tag, options.clone()).await?);
                    }
                    return Ok(all);
                }
                Err(error) => last = Some(explain(error, name)),
            }
        }
        let nowhere = || RegistryError::Setting { what: name.domain().to_owned() }.into();
        Err(last.unwrap_or_else(nowhere))
    }

    async fn provide_builtin(
        &self,
        name: Reference,
        options: &PullOptions,
    ) -> Result<Pulled, PullError> {
        let fresh = self.0.index.lock().named(&name).is_none();
        let store = self.clone();
        let text = name.familiar();
        let made = tokio::task::spawn_blocking(move || store.resolve(&text)).await;
        let image = made.map_err(|_| StoreError::NoSuchImage(name.familiar()))??;
        let tell = |step| (options.progress)(step);
        let digest = image.manifest().digest.clone();
        tell(Progress::Digest(digest.clone()));
        tell(Progress::Status(status(&name, fresh)));
        Ok(Pulled { image, name, digest, fresh })
    }
}

struct Pull<'a> {
    store: &'a ImageStore,
    name: &'a Reference,
    options: &'a PullOptions,
    remote: Remote<'a>,
}

impl Pull<'_> {
    async fn run(&self) -> Result<Pulled, PullError> {
        let what = match self.name.digest() {
            Some(digest) => digest.to_string(),
            None => self.name.tag().unwrap_or_default().to_owned(),
        };
        // Asking what the tag means is free; fetching counts against pull limits.
        let head = self.remote.head(&what).await.map_err(|e| explain(e, self.name))?;
        self.tell(Progress::PullingFrom {
            // Without the registry, as Docker says it.
            repository: self.name.path().to_owned(),
            tag: what.clone(),
        });
        if let Some(digest) = &head
            && let Some(image) = self.already(digest)
        {
            return self.done(image, digest.clone(), false);
        }
        let wanted = self.name.digest().or(head.as_ref());
        let what = wanted.map_or(what, Digest::to_string);
        let raw = self.remote.manifest(&what, wanted).await.map_err(|e| explain(e, self.name))?;
        let digest = raw.digest.clone();
        let (image, fresh) = self.image(raw).await?;
        self.done(image, digest, fresh)
    }

    /// The image that the registry's digest names here already, for the right platform.
    fn already(&self, digest: &Digest) -> Option<Image> {
        let index = self.store.0.index.lock();
        let image = index.named(&self.name.with_digest(digest.clone()))?;
        let suits =
            self.wanted().distance(&image.platform()) == Some(0) || self.options.platform.is_none();
        suits.then_some(image)
    }

    fn wanted(&self) -> &Platform {
        self.options.platform.as_ref().unwrap_or(&self.store.0.settings.platform)
    }

    fn done(&self, image: Image, digest: Digest, fresh: bool) -> Result<Pulled, PullError> {
        let name = self.name.clone();
        let moved = name.digest().is_none()
            && self.store.0.index.lock().named(&name).is_none_or(|i| i.id() != image.id());
        if moved {
            self.store.tag(&image, &name)?;
        }
        self.tell(Progress::Digest(digest.clone()));
        self.tell(Progress::Status(status(&name, fresh || moved)));
        Ok(Pulled { image, name, digest, fresh: fresh || moved })
    }

    async fn image(&self, raw: RawManifest) -> Result<(Image, bool), PullError> {
        let inner = &self.store.0;
        let mut lease = inner.leases.take([raw.digest.clone()]);
        let top = raw.digest.clone();
        let mut index = None;
        let (descriptor, manifest) = match parse(&raw)? {
            Document::Manifest(manifest) => (self.keep(&raw, &manifest.media_type)?, manifest),
            Document::Index(list) => {
                index = Some(self.keep(&raw, &list.media_type)?);
                let chosen = choose(list.manifests, self.wanted());
                let chosen = chosen.ok_or_else(|| self.platform_error())?;
                let child = self
                    .remote
                    .manifest(&chosen.digest.to_string(), Some(&chosen.digest))
                    .await
                    .map_err(|e| explain(e, self.name))?;
                lease.extend([child.digest.clone()]);
                let child = RawManifest { media_type: chosen.media_type.clone(), ..child };
                match parse(&child)? {
                    Document::Manifest(manifest) => {
                        (self.keep(&child, &manifest.media_type)?, manifest)
                    }
                    Document::Index(_) => return Err(self.platform_error()),
                }
            }
        };
        let (config_bytes, config) = self.config(&manifest).await?;
        let id = manifest.config.digest.clone();
        lease.extend([id.clone()]);
        inner.blobs.put_as(&id, &config_bytes)?;
        let fresh = !inner.index.lock().images.contains_key(&id);
        let layers = self.layers(&manifest, &config, &mut lease).await?;
        let mut names = vec![self.name.with_digest(top)];
        names.extend(self.name.digest().is_none().then(|| self.name.clone()));
        let new = NewImage { id, config, manifest: descriptor, index, layers, parent: None, names };
        Ok((inner.register(new)?, fresh))
    }

    /// Stores a manifest or index as it came.
    fn keep(&self, raw: &RawManifest, own_type: &str) -> Result<Descriptor, PullError> {
        self.store.0.blobs.put_as(&raw.digest, &raw.bytes)?;
        let kind = if own_type.is_empty() { raw.media_type.as_str() } else { own_type };
        Ok(Descriptor::new(kind, raw.digest.clone(), raw.bytes.len() as u64))
    }

    fn platform_error(&self) -> PullError {
        PullError::Platform { platform: self.wanted().clone() }
    }

    async fn config(&self, manifest: &Manifest) -> Result<(Bytes, ImageConfig), PullError> {
        let Descriptor { media_type: kind, digest, size, .. } = &manifest.config;
        let name = self.name.familiar();
        if !media_type::is_config(kind) {
            return Err(PullError::NotAnImage { name, media_type: kind.clone() });
        }
        let bytes = match self.store.0.blobs.read(digest) {
            Ok(bytes) => Bytes::from(bytes),
            Err(_) => self.remote.small_blob(digest, *size).await?,
        };
        let wrong = |what: String| PullError::Config { name: name.clone(), what };
        let config: ImageConfig =
            serde_json::from_slice(&bytes).map_err(|e| wrong(format!("does not parse ({e})")))?;
        let (found, expected) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if found != expected {
            return Err(wrong(format!("names {expected} layers, the manifest has {found}")));
        }
        if let Some(layer) = manifest.layers.iter().find(|l| !media_type::is_layer(&l.media_type)) {
            return Err(wrong(format!("has a layer of type {:?}", layer.media_type)));
        }
        Ok((bytes, config))
    }

    async fn layers(
        &self,
        manifest: &Manifest,
        config: &ImageConfig,
        lease: &mut Lease,
    ) -> Result<Vec<Layer>, PullError> {
        let chain = config.rootfs.chain_ids();
        // Held before looking, so that nothing found here can go away.
        lease.extend(chain.iter().cloned());
        lease.extend(manifest.layers.iter().map(|l| l.digest.clone()));
        let gate = Semaphore::new(self.store.0.settings.concurrent_downloads.max(1));
        for layer in &manifest.layers {
            self.step(layer, LayerStep::PullingFsLayer);
        }
        let jobs = manifest.layers.iter().zip(chain.iter().zip(&config.rootfs.diff_ids));
        let jobs = jobs.map(|(layer, (chain, diff_id))| self.layer(layer, chain, diff_id, &gate));
        try_join_all(jobs).await
    }

    async fn layer(
        &self,
        layer: &Descriptor,
        chain: &Digest,
        diff_id: &Digest,
        gate: &Semaphore,
    ) -> Result<Layer, PullError> {
        let inner = &self.store.0;
        let flight = inner.pulls.of(&layer.digest);
        let _alone = flight.lock().await;
        let here = inner.layer(chain).is_some_and(|l| l.diff_id == *diff_id);
        let blob = inner.blobs.has(&layer.digest);
        if here && blob {
            self.step(layer, LayerStep::Exists);
        } else {
            self.step(layer, LayerStep::Waiting);
            let _turn = gate.acquire().await;
            let taken =
                if blob { self.again(layer).await? } else { self.fetch(layer, !here).await? };
            if let Some(taken) = taken {
                if taken.diff_id != *diff_id {
                    let (expected, found) = (diff_id.clone(), taken.diff_id.clone());
                    return Err(layer_error(layer, StoreError::Digest { expected, found }));
                }
                inner.adopt_layer(taken, chain)?;
            }
            self.step(layer, LayerStep::Complete);
        }
        let Descriptor { media_type, digest, size, .. } = layer;
        Ok(inner.layer_of(chain, digest.clone(), *size, media_type)?)
    }

    /// The blob is here, the layer is not.
    async fn again(&self, layer: &Descriptor) -> Result<Option<Taken>, PullError> {
        let (store, digest, size) = (self.store.clone(), layer.digest.clone(), layer.size);
        self.step(layer, LayerStep::Extracting { current: 0, total: size });
        let work = tokio::task::spawn_blocking(move || -> Result<Taken, LayerError> {
            let file = store.0.blobs.file(&digest)?;
            store.0.unpack_blob(file, digest, size)
        });
        let taken = work.await.map_err(|_| UnpackError::Panicked.into()).flatten();
        taken.map(Some).map_err(|source| PullError::Layer { digest: layer.digest.clone(), source })
    }

    /// Downloads a blob, going on from what an earlier pull has left.
    async fn fetch(&self, layer: &Descriptor, unpack: bool) -> Result<Option<Taken>, PullError> {
        let path = partial_path(&self.store.0.root, &layer.digest);
        let have = fs::metadata(&path).map_or(0, |m| m.len());
        // A partial file as long as the blob was whole and wrong, or died just before its rename.
        let have = if have > layer.size { 0 } else { have };
        match self.fetch_from(layer, have, unpack).await {
            // A power cut or a broken disk may have spoiled what was left here: that is no fault of the registry's.
            Err(e) if have > 0 && e.is_wrong_content() => self.fetch_from(layer, 0, unpack).await,
            done => done,
        }
    }

    /// Downloads a blob from `have` on, and unpacks it as it arrives.
    async fn fetch_from(
        &self,
        layer: &Descriptor,
        have: u64,
        unpack: bool,
    ) -> Result<Option<Taken>, PullError> {
        let inner = self.store.0.clone();
        let path = partial_path(&inner.root, &layer.digest);
        let (sender, reader) = body::reader();
        let receive =
            Receive::open(&path, have, reader, layer).map_err(|e| layer_error(layer, e))?;
        let work = tokio::task::spawn_blocking(move || receive.run(&inner, unpack));
        let sent = self.transfer(layer, have, sender).await;
        let received = work.await.map_err(|_| UnpackError::Panicked.into()).flatten();
        match (sent, received) {
            // The blocking side knows better what is wrong with the content.
            (Ok(()), Ok(taken)) => Ok(taken),
            (_, Err(Failure::Layer(source))) => {
                Err(PullError::Layer { digest: layer.digest.clone(), source })
            }
            (_, Err(Failure::Size(found))) => {
                Err(PullError::Size { digest: layer.digest.clone(), expected: layer.size, found })
            }
            (Err(error), _) => Err(error),
            (Ok(()), Err(Failure::Cut)) => {
                Err(layer_error(layer, StoreError::MissingBlob(layer.digest.clone())))
            }
        }
    }

    /// Brings the bytes from `have` on, going on after each interruption where it broke.
    async fn transfer(
        &self,
        layer: &Descriptor,
        have: u64,
        sender: BodySender,
    ) -> Result<(), PullError> {
        let settings = &self.store.0.settings;
        let registries = &settings.registries;
        let mut backoff = Backoff::new(registries.retry_pause, registries.retry_pause_max);
        let (mut at, mut attempt, mut breaks) = (have, 1, 0);
        while at < layer.size {
            let before = at;
            let error = match self.stream(layer, &mut at, &sender).await {
                Ok(true) => continue,
                // Nobody reads any more: the other side says why.
                Ok(false) => return Ok(()),
                Err(error) => error,
            };
            // Progress earns new attempts: a long download may break often.
            attempt = if at > before { 2 } else { attempt + 1 };
            breaks += 1;
            if attempt > settings.download_attempts || breaks >= BREAKS_MAX {
                let (digest, attempts) = (layer.digest.clone(), breaks);
                return Err(match error {
                    Broken::Refused(error) => explain(error, self.name),
                    Broken::Transfer(source) => PullError::Interrupted { digest, attempts, source },
                });
            }
            if let Broken::Refused(error) = error {
                // The client has retried what can be retried.
                return Err(explain(error, self.name));
            }
            let pause = backoff.step_jittered().min(registries.retry_pause_max);
            self.step(layer, LayerStep::Retrying { seconds: pause.as_secs().max(1) });
            tokio::time::sleep(pause).await;
        }
        self.step(layer, LayerStep::Verifying);
        self.step(layer, LayerStep::Downloaded);
        self.step(layer, LayerStep::Extracting { current: layer.size, total: layer.size });
        sender.end().await;
        Ok(())
    }

    /// One answer, from `at` to its end or its break. False if nobody reads any more.
    async fn stream(
        &self,
        layer: &Descriptor,
        at: &mut u64,
        sender: &BodySender,
    ) -> Result<bool, Broken> {
        let response = self.remote.blob(&layer.digest, *at).await.map_err(Broken::Refused)?;
        // A server that does not know ranges sends everything again: what we have is passed over.
        let partial = response.status() == http::StatusCode::PARTIAL_CONTENT;
        let mut skip = if partial { 0 } else { *at };
        let mut body = response.into_body();
        let mut told = 0;
        let stall = self.store.0.settings.registries.stall;
        while *at < layer.size {
            let frame = tokio::time::timeout(stall, body.frame()).await;
            let frame = frame.map_err(|_| Broken::Transfer("no data arrived".into()))?;
            let Some(frame) = frame else {
                return Err(Broken::Transfer("the connection was closed early".into()));
            };
            let frame = frame.map_err(|e| Broken::Transfer(e.into()))?;
            let Ok(mut data) = frame.into_data() else { continue };
            let passed = usize::try_from(skip).map_or(data.len(), |s| s.min(data.len()));
            skip -= passed as u64;
            drop(data.split_to(passed));
            if data.is_empty() {
                continue;
            }
            *at += data.len() as u64;
            if !sender.send(&data).await {
                return Ok(false);
            }
            if *at - told >= REPORT {
                told = *at;
                self.step(layer, LayerStep::Downloading { current: *at, total: layer.size });
            }
        }
        Ok(true)
    }

    fn step(&self, layer: &Descriptor, step: LayerStep) {
        self.tell(Progress::Layer { id: layer.digest.short().to_owned(), step });
    }

    fn tell(&self, progress: Progress) {
        (self.options.progress)(progress);
    }
}

/// Why a download stopped.
enum Broken {
    /// The registry said no.
    Refused(RegistryError),
    /// The connection broke or stalled.
    Transfer(Box<dyn std::error::Error + Send + Sync>),
}

/// The blocking side of a download: what was here before and what arrives, written, hashed and passed on.
struct Receive {
    /// Bytes of an earlier attempt, still to be read.
    old: io::Take<File>,
    reader: BodyReader,
    file: File,
    path: PathBuf,
    /// `None` once the layer is known to be hashed where it is unpacked.
    hasher: Option<Hasher>,
    /// What arrives is unpacked as well.
    unpack: bool,
    digest: Digest,
    size: u64,
    count: u64,
    /// The transfer itself broke, so what follows from that is no news.
    cut: bool,
    /// The file took no more, for this reason.
    full: Option<i32>,
}

/// Why a blob was not received.
enum Failure {
    /// The transfer broke; the other side knows why.
    Cut,
    Size(u64),
    Layer(LayerError),
}

impl<E: Into<LayerError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Layer(error.into())
    }
}

impl Receive {
    fn open(
        path: &Path,
        have: u64,
        reader: BodyReader,
        layer: &Descriptor,
    ) -> Result<Self, StoreError> {
        if have == 0 {
            // A new file and not an old one that is cut: ext4 writes a file that was cut to nothing to the disk when
            // it is closed (auto_da_alloc), and whoever closes it waits for all of it.
            remove_partial(path)?;
        }
        let mut how = OpenOptions::new();
        how.read(true).write(true).create(true).truncate(false).mode(0o600);
        let open = || how.open(path).map_err(io_error("open", path));
        let mut file = open()?;
        file.seek(io::SeekFrom::Start(have)).map_err(io_error("seek in", path))?;
        Ok(Self {
            old: open()?.take(have),
            reader,
            file,
            path: path.to_owned(),
            hasher: Some(Hasher::new(layer.digest.algorithm())),
            unpack: false,
            digest: layer.digest.clone(),
            size: layer.size,
            count: 0,
            cut: false,
            full: None,
        })
    }

    fn run(mut self, inner: &Inner, unpack: bool) -> Result<Option<Taken>, Failure> {
        let (digest, size) = (self.digest.clone(), self.size);
        self.unpack = unpack;
        let taken = if unpack { Some(inner.unpack_blob(&mut self, digest, size)) } else { None };
        // To the end in any case: whether the content is what was promised counts before all else.
        let drained = io::copy(&mut self, &mut io::sink());
        if self.cut {
            return Err(Failure::Cut);
        }
        drained.map_err(UnpackError::Read)?;
        let unpacked = taken.as_ref().and_then(|t| t.as_ref().ok());
        self.verify(unpacked.map(|t| &t.diff_id))?;
        let taken = taken.transpose()?;
        inner.blobs.adopt(&self.path, &self.digest)?;
        Ok(taken)
    }

    /// What is whole and wrong is of no use to a later attempt. `unpacked` is the digest of what was unpacked.
    fn verify(&mut self, unpacked: Option<&Digest>) -> Result<(), Failure> {
        let failure = if self.count != self.size {
            Failure::Size(self.count)
        } else {
            let found = match (self.hasher.take(), unpacked) {
                (Some(hasher), _) => hasher.finish(),
                (None, Some(unpacked)) => unpacked.clone(),
                // What did not unpack was not hashed to its end.
                (None, None) => hash_file(&self.path, self.digest.algorithm())?,
            };
            if found == self.digest {
                return Ok(());
            }
            let expected = self.digest.clone();
            Failure::Layer(StoreError::Digest { expected, found }.into())
        };
        remove_partial(&self.path)?;
        Err(failure)
    }

    /// A plain layer that is unpacked is hashed there, by a thread of its own: it is the same digest.
    fn leave_hashing(&mut self, begin: &[u8]) {
        let known = begin.len() >= Compression::MARK && self.unpack;
        if known
            && Compression::sniff(begin) == Compression::None
            && self.digest.algorithm() == Algorithm::Sha256
        {
            self.hasher = None;
        }
    }
}

impl Receive {
    /// Adds to the file. A later attempt goes on from its length, so it never holds half of a piece, and nothing
    /// follows a piece that did not fit.
    fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(code) = self.full {
            return Err(io::Error::from_raw_os_error(code));
        }
        self.file.write_all(bytes).inspect_err(|e| {
            self.full = Some(e.raw_os_error().unwrap_or(NO_SPACE));
            // If even this fails, the next attempt meets a wrong digest and begins again.
            drop(self.file.set_len(self.count));
        })
    }
}

impl Read for Receive {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut n = self.old.read(out)?;
        if n == 0 {
            n = self.reader.read(out).inspect_err(|_| self.cut = true)?;
            self.keep(&out[..n])?;
        }
        if self.count == 0 {
            self.leave_hashing(&out[..n]);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&out[..n]);
        }
        self.count += n as u64;
        Ok(n)
    }
}

/// Removes what an earlier attempt has left; no error if there is nothing.
fn remove_partial(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(e)),
        _ => Ok(()),
    }
}

fn partial_path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("partial").join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
}

pub(crate) fn parse(raw: &RawManifest) -> Result<Document, PullError> {
    let digest = raw.digest.clone();
    Document::parse(&raw.bytes, &raw.media_type)
        .map_err(|source| PullError::Document { digest, source })
}

/// What of an index suits a platform best.
pub(crate) fn choose(manifests: Vec<Descriptor>, wanted: &Platform) -> Option<Descriptor> {
    let best = manifests
        .into_iter()
        .filter(|d| d.media_type.is_empty() || crate::registry::is_known(&d.media_type))
        .filter_map(|d| Some((wanted.distance(d.platform.as_ref()?)?, d)))
        .min_by_key(|(distance, _)| *distance);
    best.map(|(_, descriptor)| descriptor)
}

fn layer_error(layer: &Descriptor, error: StoreError) -> PullError {
    PullError::Layer { digest: layer.digest.clone(), source: error.into() }
}

fn status(name: &Reference, fresh: bool) -> String {
    let what = if fresh { "Downloaded newer image for" } else { "Image is up to date for" };
    format!("{what} {}", name.familiar())
}

/// Docker's texts for what a registry refuses.
pub(crate) fn explain(error: RegistryError, name: &Reference) -> PullError {
    match error {
        RegistryError::Status { code, message, .. } if code == "MANIFEST_UNKNOWN" => {
            PullError::Unknown { name: name.familiar(), message }
        }
        RegistryError::Status { status: 401 | 403, message, .. } => {
            PullError::Denied { name: name.familiar_name(), message }
        }
        RegistryError::Status { status: 404, code, message, .. } => match code.as_str() {
            // A HEAD has no body that would say what is unknown.
            "" => PullError::Unknown { name: name.familiar(), message },
            _ => PullError::Denied { name: name.familiar_name(), message },
        },
        other => other.into(),
    }
}
