//! Durability without waiting: one flush per image, after the answer, and what to do if power went first.
//!
//! A pull writes thousands of files. Flushing each, or waiting for the disk before answering, would cost more than
//! the pull. So a new layer or image gets a mark with the boot it was written in, in the same
//! transaction that makes it visible; one `syncfs` follows at once, in the background, and takes the marks away.
//! The death of the daemon loses nothing: the kernel has the pages. After a power loss a mark of another boot
//! is left: that layer is unpacked again from its blob, if the blob still has its digest, and an image that
//! cannot be made whole is removed and said so. Half an image is never run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wharf_base::db::{Batch, Db, DbError, Durability};
use wharf_base::sync::Mutex;
use wharf_spec::digest::Digest;
use wharf_sys::root::Root;

/// Chain ids and image ids that are not known to be on disk, with the boot they were written in.
pub(crate) const UNSYNCED: &str = "images-unsynced";

/// Flushes in the background.
#[derive(Clone)]
pub(crate) struct Flusher(Arc<Shared>);

struct Shared {
    root: PathBuf,
    db: Db,
    boot: String,
    /// One flush at a time; who comes meanwhile is served by the next.
    running: Mutex<()>,
    queued: AtomicBool,
}

impl Flusher {
    pub(crate) fn new(root: &Path, db: Db) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self(Arc::new(Shared {
            root: root.to_owned(),
            db,
            boot: boot.trim().to_owned(),
            running: Mutex::new(()),
            queued: AtomicBool::new(false),
        }))
    }

    /// Marks `id` in the transaction that makes it visible.
    pub(crate) fn mark(&self, batch: &mut Batch, id: &Digest) -> Result<(), DbError> {
        batch.put(UNSYNCED, &id.to_string(), &self.0.boot)
    }

    /// The ids that were being written when power was lost.
    pub(crate) fn suspects(&self) -> Result<Vec<Digest>, DbError> {
        let marks = self.0.db.scan::<String>(UNSYNCED)?;
        let stale = marks.into_iter().filter(|(_, boot)| *boot != self.0.boot);
        Ok(stale.filter_map(|(id, _)| id.parse().ok()).collect())
    }

    /// Starts a flush, unless one is about to start.
    pub(crate) fn flush_soon(&self) {
        if self.0.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let flusher = self.clone();
        let work = move || flusher.flush_now();
        if let Err(error) = std::thread::Builder::new().name("image-flush".into()).spawn(work) {
            self.0.queued.store(false, Ordering::Release);
            tracing::warn!(%error, "no thread to flush image data");
        }
    }

    /// Flushes on this thread. A failure keeps the marks, so the next flush tries again.
    pub(crate) fn flush_now(&self) {
        if let Err(error) = self.flush() {
            tracing::warn!(%error, "image data was not flushed to disk; the next image tries again");
        }
    }

    /// Flushes everything and takes the marks away.
    fn flush(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let _one = self.0.running.lock();
        self.0.queued.store(false, Ordering::Release);
        // Only what is marked now is known to be covered by the flush that follows.
        let marked = self.0.db.scan::<String>(UNSYNCED)?;
        if marked.is_empty() {
            return Ok(());
        }
        Root::open(&self.0.root)?.sync_file_system()?;
        let mut batch = Batch::new();
        marked.iter().for_each(|(id, _)| batch.delete(UNSYNCED, id));
        Ok(self.0.db.write(batch, Durability::Power)?)
    }
}
