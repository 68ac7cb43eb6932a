//! Unpacking a layer: one pass over the tar that hashes it and creates its files on several threads.
//!
//! The calling thread reads, decompresses and parses; a second one hashes; [`Settings::unpack_threads`] more create
//! files. Content travels between them in shared buffers of a fixed pool, so memory is bounded however large
//! the layer.
//!
//! [`Settings::unpack_threads`]: crate::Settings

mod apply;
mod decompress;
mod entries;
mod feed;
mod header;
#[cfg(test)]
pub(crate) mod tests;
mod worker;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use wharf_spec::digest::Digest;
use wharf_sys::root::Root;

use crate::settings::UnpackLimits;

pub use decompress::open as decompress;
pub(crate) use decompress::{Compression, for_a_layer};
#[cfg(test)]
pub(crate) use entries::Entry;
pub(crate) use entries::{Entries, EntryKind};
pub(crate) use feed::{Chunk, Feed};

/// What a layer turned out to be.
#[derive(Debug, Clone)]
pub(crate) struct Unpacked {
    /// Digest of the uncompressed tar.
    pub(crate) diff_id: Digest,
    /// Bytes of file content.
    pub(crate) size: u64,
}

/// How to unpack.
#[derive(Debug, Clone)]
pub(crate) struct How {
    pub(crate) threads: usize,
    pub(crate) limits: UnpackLimits,
}

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream broke or does not decompress.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// It ends in the middle of an entry.
    #[error("the archive is cut short at byte {0}")]
    Truncated(u64),
    /// Not a tar header, or one that contradicts itself.
    #[error("invalid tar header at byte {at}: {what}")]
    Header {
        /// Position in the uncompressed tar.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A name that leads out of the root file system.
    #[error("archive entry {0:?} points outside the root file system")]
    Escape(PathBuf),
    /// An entry of a kind that has no meaning in a layer.
    #[error("archive entry {path:?} has unknown type {kind:?}")]
    Kind {
        /// Its name.
        path: PathBuf,
        /// The type flag.
        kind: char,
    },
    /// More than the settings allow.
    #[error(
        "archive holds more than {limit} {what}; raise the daemon's unpack limit if it is to be trusted"
    )]
    Limit {
        /// Bytes or entries.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// It does not fit.
    #[error("not enough disk space for {path:?}: {needed} bytes needed, {free} free")]
    Space {
        /// The entry that does not fit.
        path: PathBuf,
        /// Its size.
        needed: u64,
        /// What is left, without the reserve.
        free: u64,
    },
    /// A file could not be made.
    #[error("cannot {action} {path:?}")]
    File {
        /// What was being done.
        action: &'static str,
        /// To which entry.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A thread died.
    #[error("an unpacking thread panicked")]
    Panicked,
}

impl UnpackError {
    /// Which answer it deserves.
    pub fn kind(&self) -> crate::ErrorKind {
        match self {
            Self::File { .. } | Self::Space { .. } | Self::Panicked => crate::ErrorKind::System,
            _ => crate::ErrorKind::Invalid,
        }
    }
}

/// Unpacks the tar that `input` yields, plain or compressed, into the empty directory `target`, as an overlay
/// lower directory: whiteouts become device nodes, opaque markers become attributes.
pub(crate) fn unpack(
    input: impl Read + Send,
    target: &Path,
    how: &How,
) -> Result<Unpacked, UnpackError> {
    let root = Root::open(target).map_err(|source| UnpackError::File {
        action: "open",
        path: target.to_owned(),
        source,
    })?;
    let input = decompress(input).map_err(UnpackError::Read)?;
    // Threads of their own: they drop their umask, which the caller's thread keeps.
    std::thread::scope(|scope| {
        scope.spawn(|| apply::run(input, &root, how)).join().unwrap_or(Err(UnpackError::Panicked))
    })
}
