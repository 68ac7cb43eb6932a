//! What a long operation tells while it runs, as values; the door turns them into docker's JSON lines.

use std::sync::Arc;

use wharf_spec::digest::Digest;

/// Receives progress. Called from several threads; it must not block.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// `{tag}: Pulling from {repository}`
    PullingFrom {
        /// `library/nginx`, or with the registry if that is not Docker Hub.
        repository: String,
        /// Tag or digest.
        tag: String,
    },
    /// `{id}: …`
    Layer {
        /// First 12 digits of the blob's digest.
        id: String,
        /// What happens to it.
        step: LayerStep,
    },
    /// `Digest: …`
    Digest(Digest),
    /// `Status: …`
    Status(String),
    /// `The push refers to repository [{0}]`
    PushingTo(String),
    /// `{tag}: digest: {digest} size: {size}`, and the same as `aux`.
    Pushed {
        /// Tag, or digest where there is no tag.
        tag: String,
        /// Digest of the manifest.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
    /// Some other line.
    Note(String),
}

/// What happens to a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerStep {
    /// `Pulling fs layer`
    PullingFsLayer,
    /// `Waiting`
    Waiting,
    /// `Downloading`
    Downloading {
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// `Retrying in {seconds} seconds`
    Retrying {
        /// How long.
        seconds: u64,
    },
    /// `Verifying Checksum`
    Verifying,
    /// `Download complete`
    Downloaded,
    /// `Extracting`
    Extracting {
        /// Compressed bytes so far.
        current: u64,
        /// Compressed bytes in all.
        total: u64,
    },
    /// `Pull complete`
    Complete,
    /// `Already exists`
    Exists,
    /// `Loading layer`
    Loading {
        /// Bytes so far.
        current: u64,
        /// Bytes in all, 0 if unknown.
        total: u64,
    },
    /// `Preparing`
    Preparing,
    /// `Pushing`
    Pushing {
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// `Pushed`
    Pushed,
    /// `Layer already exists`
    AlreadyThere,
    /// `Mounted from {0}`
    Mounted(String),
    /// `Skipped foreign layer`
    Foreign,
}

impl Progress {
    /// The `status` text and the `id`, as docker writes them. `None` for [`Progress::Digest`]-like lines without id.
    pub fn line(&self) -> (String, Option<&str>) {
        match self {
            Self::PullingFrom { repository, tag } => {
                (format!("Pulling from {repository}"), Some(tag))
            }
            Self::Layer { id, step } => (step.text(), Some(id)),
            Self::Digest(digest) => (format!("Digest: {digest}"), None),
            Self::Status(text) => (format!("Status: {text}"), None),
            Self::PushingTo(repository) => {
                (format!("The push refers to repository [{repository}]"), None)
            }
            Self::Pushed { tag, digest, size } => {
                (format!("{tag}: digest: {digest} size: {size}"), None)
            }
            Self::Note(text) => (text.clone(), None),
        }
    }

    /// `progressDetail`: bytes so far and in all.
    pub fn detail(&self) -> Option<(u64, u64)> {
        match self {
            Self::Layer {
                step:
                    LayerStep::Downloading { current, total }
                    | LayerStep::Extracting { current, total }
                    | LayerStep::Loading { current, total }
                    | LayerStep::Pushing { current, total },
                ..
            } => Some((*current, *total)),
            _ => None,
        }
    }
}

impl LayerStep {
    fn text(&self) -> String {
        match self {
            Self::PullingFsLayer => "Pulling fs layer".into(),
            Self::Waiting => "Waiting".into(),
            Self::Downloading { .. } => "Downloading".into(),
            Self::Retrying { seconds: 1 } => "Retrying in 1 second".into(),
            Self::Retrying { seconds } => format!("Retrying in {seconds} seconds"),
            Self::Verifying => "Verifying Checksum".into(),
            Self::Downloaded => "Download complete".into(),
            Self::Extracting { .. } => "Extracting".into(),
            Self::Complete => "Pull complete".into(),
            Self::Exists => "Already exists".into(),
            Self::Loading { .. } => "Loading layer".into(),
            Self::Preparing => "Preparing".into(),
            Self::Pushing { .. } => "Pushing".into(),
            Self::Pushed => "Pushed".into(),
            Self::AlreadyThere => "Layer already exists".into(),
            Self::Mounted(from) => format!("Mounted from {from}"),
            Self::Foreign => "Skipped foreign layer".into(),
        }
    }
}

/// A sink that drops everything.
pub fn silent() -> ProgressSink {
    Arc::new(|_| {})
}
