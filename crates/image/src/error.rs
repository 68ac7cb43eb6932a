//! What goes wrong with stored images.

use std::io;
use std::path::{Path, PathBuf};

use wharf_base::db::DbError;
use wharf_spec::digest::Digest;
use wharf_spec::reference::ReferenceError;

/// What can go wrong with stored images. Texts that clients match are Docker's.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing of that name or id (404).
    #[error("{NO_SUCH_IMAGE}: {name}", NO_SUCH_IMAGE = "No such image", name = .0)]
    NoSuchImage(String),
    /// A short id that fits several images (400).
    #[error("ambiguous image id {0:?}: give more digits")]
    AmbiguousId(String),
    /// Not a name (400).
    #[error("{name:?}")]
    Reference {
        /// What was given.
        name: String,
        /// Why it is not a name.
        #[source]
        reason: ReferenceError,
    },
    /// A name that may not be given to an image (400).
    #[error("{0}")]
    BadName(String),
    /// The image is in use or has several names (409). Docker's text.
    #[error("{0}")]
    Conflict(String),
    /// A blob that the database names is not on disk.
    #[error("blob {0} is missing from the store; pull or load the image again")]
    MissingBlob(Digest),
    /// Content does not have the digest that it was asked for by.
    #[error("content has digest {found}, expected {expected}")]
    Digest {
        /// The digest that was promised.
        expected: Digest,
        /// The digest that was computed.
        found: Digest,
    },
    /// A stored document does not parse.
    #[error("{what} {digest} does not parse")]
    Document {
        /// Manifest or config.
        what: &'static str,
        /// Which.
        digest: Digest,
        /// Why.
        source: serde_json::Error,
    },
    /// A file operation failed.
    #[error("{action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A builtin image could not be made.
    #[error("cannot make the builtin image {name}")]
    Builtin {
        /// Its name.
        name: String,
        /// Why.
        source: Box<crate::ArchiveError>,
    },
    /// The state database failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Which answer an error deserves, for whoever speaks HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request or the archive is wrong (400).
    Invalid,
    /// It is not there (404).
    NotFound,
    /// The registry does not know these credentials (401).
    Unauthorized,
    /// It is in use (409).
    Conflict,
    /// This machine or the other side failed (500).
    System,
}

impl StoreError {
    /// Which answer it deserves.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchImage(_) => ErrorKind::NotFound,
            Self::AmbiguousId(_) | Self::Reference { .. } | Self::BadName(_) => ErrorKind::Invalid,
            Self::Conflict(_) => ErrorKind::Conflict,
            _ => ErrorKind::System,
        }
    }
}

/// For `map_err`: names the action and the path.
pub(crate) fn io_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}
