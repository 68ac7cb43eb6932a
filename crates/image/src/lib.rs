//! Images: content-addressed blobs, layers, snapshots, garbage collection and the registry client.
//!
//! Start at [`ImageStore`]. What is in the state database exists; what is only on disk is garbage and goes
//! at the next open. On disk, under the data root:
//!
//! - `blobs/<algo>/<hex>`: manifests, configs and layers, byte for byte as they came.
//! - `layers/<hex of chain id>/`: an unpacked layer, ready as an overlay lower directory.
//! - `partial/`: interrupted downloads, resumed by the next pull.
//! - `tmp/`: work in progress, emptied at open.
#![forbid(unsafe_code)]

pub mod archive;
mod blobs;
pub mod builtin;
mod error;
mod glob;
mod image;
mod layers;
mod lease;
pub mod progress;
mod pull;
mod registry;
mod remove;
mod settings;
mod store;
mod unpack;

pub use archive::{
    ArchiveError, ByteStream, CommitOptions, ImportOptions, LoadOptions, Loaded, diff_tar,
};
pub use error::StoreError;
pub use image::{HistoryEntry, Image, Layer};
pub use lease::Lease;
pub use progress::{LayerStep, Progress, ProgressSink};
pub use pull::{PullError, PullOptions, Pulled};
pub use remove::{ImageUser, Pruned, RemoveOptions, Removed};
pub use settings::{ProxySettings, RegistrySettings, Settings, UnpackLimits};
pub use store::{DiskUsage, ImageStore, Summary};
pub use unpack::UnpackError;
