//! One stored image: what the database holds about it, and what is read off it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wharf_spec::digest::Digest;
use wharf_spec::image::{Descriptor, ImageConfig, RunConfig};
use wharf_spec::platform::Platform;

/// One stored image. Clones share it; it stays readable after the image is removed.
#[derive(Debug, Clone)]
pub struct Image(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: Digest,
    record: ImageRecord,
    config: ImageConfig,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest of its uncompressed tar.
    pub diff_id: Digest,
    /// Digest of it and everything below it.
    pub chain_id: Digest,
    /// Digest of the blob as it came or is to be sent.
    pub blob: Digest,
    /// Size of that blob.
    pub blob_size: u64,
    /// Media type of that blob.
    pub media_type: String,
    /// Bytes of file content.
    pub size: u64,
}

/// One line of `docker history`, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image id for the newest entry; `None` (`<missing>`) for the others.
    pub id: Option<Digest>,
    /// Seconds since 1970, 0 if unknown.
    pub created: i64,
    /// The instruction.
    pub created_by: String,
    /// Bytes that the step added.
    pub size: u64,
    /// Free text.
    pub comment: String,
}

/// What the database holds about an image, by image id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Its manifest, as it came or as wharf made it.
    pub(crate) manifest: Descriptor,
    /// The index it was chosen from, kept so that a digest of it still names the image.
    pub(crate) index: Option<Descriptor>,
    /// Base first.
    pub(crate) layers: Vec<Layer>,
    /// The image it was committed from.
    pub(crate) parent: Option<Digest>,
    /// When it was last stored or given a name, in nanoseconds since 1970.
    pub(crate) touched: i64,
}

impl ImageRecord {
    /// Whether both name the same files.
    pub(crate) fn is_like(&self, other: &ImageRecord) -> bool {
        let ImageRecord { manifest, index, layers, .. } = self;
        (manifest, index, layers) == (&other.manifest, &other.index, &other.layers)
    }
}

impl Image {
    pub(crate) fn new(id: Digest, record: ImageRecord, config: ImageConfig) -> Self {
        Self(Arc::new(Inner { id, record, config }))
    }

    pub(crate) fn record(&self) -> &ImageRecord {
        &self.0.record
    }

    /// The image id: the digest of its config.
    pub fn id(&self) -> &Digest {
        &self.0.id
    }

    /// Its config.
    pub fn config(&self) -> &ImageConfig {
        &self.0.config
    }

    /// Its run-time defaults; `None` if the config has none.
    pub fn run_config(&self) -> Option<&RunConfig> {
        self.0.config.config.as_ref()
    }

    /// What it runs on.
    pub fn platform(&self) -> Platform {
        self.0.config.platform()
    }

    /// Its layers, base first.
    pub fn layers(&self) -> &[Layer] {
        &self.0.record.layers
    }

    /// The chain id of its top layer; `None` without layers.
    pub fn chain_id(&self) -> Option<&Digest> {
        self.0.record.layers.last().map(|l| &l.chain_id)
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Descriptor {
        &self.0.record.manifest
    }

    /// Bytes of file content in all layers.
    pub fn size(&self) -> u64 {
        self.0.record.layers.iter().map(|l| l.size).sum()
    }

    /// When it was made, in seconds since 1970; 0 if the config does not say.
    pub fn created(&self) -> i64 {
        self.0.config.created_at().map_or(0, jiff_seconds)
    }

    /// As [`Image::created`], in nanoseconds.
    pub fn created_nanos(&self) -> i64 {
        let nanos = self.0.config.created_at().map_or(0, jiff::Timestamp::as_nanosecond);
        i64::try_from(nanos).unwrap_or(0)
    }

    /// The image it was committed from, if that is known.
    pub fn parent(&self) -> Option<&Digest> {
        self.0.record.parent.as_ref()
    }

    /// When it was last stored or given a name here, in nanoseconds since 1970.
    pub fn touched(&self) -> i64 {
        self.0.record.touched
    }

    /// Its history, newest first. Layers that the config's history does not explain
    /// have an entry of their own.
    pub fn history(&self) -> Vec<HistoryEntry> {
        let mut sizes = self.layers().iter().map(|l| l.size);
        let mut lines: Vec<HistoryEntry> = Vec::new();
        for step in &self.config().history {
            lines.push(HistoryEntry {
                id: None,
                created: step
                    .created
                    .as_deref()
                    .and_then(|t| t.parse().ok())
                    .map_or(0, jiff_seconds),
                created_by: step.created_by.clone(),
                size: if step.empty_layer { 0 } else { sizes.next().unwrap_or(0) },
                comment: step.comment.clone(),
            });
        }
        lines.extend(sizes.map(|size| HistoryEntry {
            id: None,
            created: self.created(),
            created_by: String::new(),
            size,
            comment: String::new(),
        }));
        lines.reverse();
        if let Some(first) = lines.first_mut() {
            first.id = Some(self.id().clone());
        }
        lines
    }
}

fn jiff_seconds(time: jiff::Timestamp) -> i64 {
    time.as_second()
}
