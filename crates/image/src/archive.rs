//! Images as tar streams: what load, save, import and commit take and give.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use wharf_spec::digest::Digest;
use wharf_spec::image::{DocumentError, RunConfig};
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

pub use crate::body::ByteStream;
use crate::changes::ChangeError;
use crate::ingest::LayerError;
use crate::progress::ProgressSink;
use crate::unpack::UnpackError;
use crate::{ErrorKind, Image, ImageStore, Several, StoreError, body, load, make, save};

/// What to load.
#[derive(Clone)]
pub struct LoadOptions {
    /// Only the image for this platform, if the archive has several. Default: the best for this machine.
    pub platform: Option<Platform>,
    /// Told of every layer.
    pub progress: ProgressSink,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { platform: None, progress: crate::progress::silent() }
    }
}

/// One image that was loaded: `Loaded image: name` for each name, or `Loaded image ID: id` without.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image.
    pub image: Image,
    /// Its names in the archive.
    pub names: Vec<Reference>,
}

/// How to import a root file system.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Name to give.
    pub name: Option<Reference>,
    /// Comment in the history. Default: `Imported from -`.
    pub message: String,
    /// Dockerfile instructions that set the config: `CMD …`, `ENV …`.
    pub changes: Vec<String>,
    /// What it runs on. Default: this machine.
    pub platform: Option<Platform>,
}

/// What to make an image of.
#[derive(Debug, Clone)]
pub struct CommitOptions {
    /// The container's overlay upper directory. The caller has paused the container, or accepts that a file
    /// being written is caught in the middle.
    pub upper: PathBuf,
    /// Paths in it, relative, that do not belong into the image, with all that is below them.
    pub omit: BTreeSet<PathBuf>,
    /// The image below it.
    pub base: Image,
    /// The container's id, for the history.
    pub container: String,
    /// The container's config: what the image runs.
    pub config: RunConfig,
    /// Dockerfile instructions that change the config: `CMD …`, `ENV …`.
    pub changes: Vec<String>,
    /// Author.
    pub author: String,
    /// Comment in the history.
    pub comment: String,
    /// Name to give.
    pub name: Option<Reference>,
}

/// Why an archive could not be read, or an image not made.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive itself does not read.
    #[error(transparent)]
    Archive(#[from] UnpackError),
    /// A layer in it does not unpack.
    #[error("layer {path:?}")]
    Layer {
        /// Its name in the archive.
        path: PathBuf,
        /// Why.
        source: LayerError,
    },
    /// Neither docker's nor OCI's layout.
    #[error("the archive has no image in it: neither manifest.json nor index.json was found")]
    NoImage,
    /// Something that a manifest names is not there.
    #[error("the archive names {0:?} but does not have it")]
    Missing(PathBuf),
    /// A document in it is wrong.
    #[error("{path:?} in the archive")]
    Document {
        /// Its name.
        path: PathBuf,
        /// Why.
        source: DocumentError,
    },
    /// A document in it is not JSON of the right shape.
    #[error("{path:?} in the archive does not parse")]
    Json {
        /// Its name.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A layer is not the one that the config names. Docker's text.
    #[error("invalid diffID for layer {layer}: expected {expected:?}, got {found:?}")]
    DiffId {
        /// Counted from 0.
        layer: usize,
        /// What the config says.
        expected: String,
        /// What was unpacked.
        found: String,
    },
    /// The numbers of layers differ. Docker's text.
    #[error("invalid manifest, layers length mismatch: expected {expected}, got {found}")]
    LayerCount {
        /// In the config.
        expected: usize,
        /// In the manifest.
        found: usize,
    },
    /// None of the images is for this platform.
    #[error("the archive has no image for platform {0}")]
    Platform(Platform),
    /// A blob in it is not what its name says.
    #[error("{path:?} in the archive has digest {found}")]
    Digest {
        /// Its name.
        path: PathBuf,
        /// What it really is.
        found: Digest,
    },
    /// Too much that is not a layer.
    #[error("the archive has more than {0} bytes of documents")]
    TooManyDocuments(u64),
    /// A `--change` is wrong.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The config cannot be written.
    #[error("cannot encode the config")]
    Encode(#[source] serde_json::Error),
    /// The upper directory cannot be read.
    #[error("cannot read {path}")]
    Upper {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The work died.
    #[error("the work was interrupted")]
    Interrupted,
}

impl ArchiveError {
    /// Which answer it deserves.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) | Self::Layer { source: LayerError::Store(error), .. } => {
                error.kind()
            }
            Self::Archive(error) | Self::Layer { source: LayerError::Unpack(error), .. } => {
                error.kind()
            }
            Self::Platform(_) => ErrorKind::NotFound,
            Self::Encode(_) | Self::Upper { .. } | Self::Interrupted => ErrorKind::System,
            _ => ErrorKind::Invalid,
        }
    }
}

impl ImageStore {
    /// Stores the images of an archive: docker's layout or OCI's, plain or compressed.
    ///
    /// Dropping the future stops it; nothing half done is visible.
    pub async fn load(
        &self,
        body: ByteStream,
        options: LoadOptions,
    ) -> Result<Vec<Loaded>, ArchiveError> {
        let (sender, reader) = body::reader();
        let store = self.clone();
        let work = tokio::task::spawn_blocking(move || load::load(&store, reader, &options));
        sender.feed(body).await;
        work.await.map_err(|_| ArchiveError::Interrupted)?
    }

    /// Images as one tar that both docker and OCI tools read. Names give the image and the names it will have
    /// when loaded, a repository all its tags; ids give images without names.
    pub fn save(&self, names: &[String]) -> Result<ByteStream, ArchiveError> {
        let plan = save::plan(self, names)?;
        Ok(body::stream(move |out| save::write(&plan, out)))
    }

    /// The images that `text` names for [`ImageStore::save`]: a repository is all its tags.
    pub fn to_save(&self, text: &str) -> Result<Vec<Image>, ArchiveError> {
        Ok(save::select(self, text)?.into_iter().map(|(image, _)| image).collect())
    }

    /// One image as such a tar, with these names whatever names it has here; `notes` are annotations where it is listed.
    pub fn archive(
        &self,
        image: &Image,
        names: &[Reference],
        notes: &BTreeMap<String, String>,
    ) -> Result<ByteStream, ArchiveError> {
        let chosen = vec![(image.clone(), names.iter().cloned().collect())];
        let plan = save::plan_of(self, &chosen, notes)?;
        Ok(body::stream(move |out| save::write(&plan, out)))
    }

    /// Images, one for each platform, as one such tar in OCI's layout: an index has these names.
    pub fn archive_index(
        &self,
        index: &Several,
        names: &[Reference],
    ) -> Result<ByteStream, ArchiveError> {
        let plan = save::plan_of_index(self, index, &names.iter().cloned().collect())?;
        Ok(body::stream(move |out| save::write(&plan, out)))
    }

    /// Makes an image of one layer from the tar of a root file system, plain or compressed.
    ///
    /// Dropping the future stops it; nothing half done is visible.
    pub async fn import(
        &self,
        body: ByteStream,
        options: ImportOptions,
    ) -> Result<Image, ArchiveError> {
        let (sender, reader) = body::reader();
        let store = self.clone();
        let work = tokio::task::spawn_blocking(move || make::import(&store, reader, options));
        sender.feed(body).await;
        work.await.map_err(|_| ArchiveError::Interrupted)?
    }

    /// Makes an image from a container's changes. Once begun it runs to its end, also if the future
    /// is dropped.
    pub async fn commit(&self, options: CommitOptions) -> Result<Image, ArchiveError> {
        let store = self.clone();
        let work = tokio::task::spawn_blocking(move || make::commit(&store, options));
        work.await.map_err(|_| ArchiveError::Interrupted)?
    }
}
