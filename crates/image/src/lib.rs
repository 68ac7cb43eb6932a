//! Images: content-addressed blobs, layers, snapshots, garbage collection and the registry client.
//!
//! Start at [`ImageStore`]. What is in the state database exists; what is only on disk is garbage and goes
//! at the next open. On disk, under the data root:
//!
//! - `blobs/<algo>/<hex>`: manifests, configs and layers, byte for byte as they came.
//! - `layers/<hex of chain id>/`: an unpacked layer, ready as an overlay lower directory.
//! - `partial/`: interrupted downloads, resumed by the next pull.
//! - `tmp/`: work in progress, emptied at open.
//!
//! What a stored image costs: its blobs and its unpacked layers, both. The blobs of a pulled image are kept because only
//! they can be pushed and saved under the digests that they came with; those of a loaded, imported or committed
//! image for the same reason, as given. When data reaches the disk is told in `durable.rs`.
#![forbid(unsafe_code)]

pub mod archive;
mod ask;
mod assemble;
mod attached;
mod blobs;
mod body;
pub mod builtin;
mod changes;
mod compress;
mod content;
mod diff;
mod durable;
mod error;
mod glob;
mod image;
mod ingest;
mod layers;
mod lease;
mod load;
mod make;
mod packing;
pub mod progress;
mod pull;
mod push;
mod registry;
mod remove;
mod save;
mod search;
mod settings;
mod store;
mod tarball;
mod unpack;
mod upstream;
mod web;

pub use archive::{ArchiveError, ByteStream, CommitOptions, ImportOptions, LoadOptions, Loaded};
pub use ask::{Distribution, LoginError, RemoteConfig};
pub use assemble::{Parts, Passing};
pub use attached::Attached;
pub use body::read_blocking;
pub use changes::ChangeError;
pub use compress::{Packing, Repack};
pub use content::{Content, Link};
pub use diff::{Change, ChangeKind, changes, diff_tar, root_tar, tree_tar};
pub use error::{ErrorKind, StoreError};
pub use image::{HistoryEntry, Image, Layer};
pub use ingest::LayerError;
pub use lease::Lease;
pub use packing::PackingError;
pub use progress::{LayerStep, Progress, ProgressSink};
pub use pull::{PullError, PullOptions, Pulled};
pub use push::{PushError, PushOptions, Pushed, Several};
pub use registry::RegistryError;
pub use remove::{ImageUser, Pruned, RemoveOptions, Removed};
pub use search::SearchError;
pub use settings::{ProxySettings, RegistrySettings, Settings, UnpackLimits};
pub use store::{DiskUsage, ImageStore, Summary};
pub use unpack::{UnpackError, decompress};
pub use upstream::{Fetched, Registries, Upstream};
pub use web::{WebAnswer, WebRequest, without_password};
