//! The builder: what all builds share, and the way of one build through it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use wharf_base::clock::Clock;
use wharf_base::db::Db;
use wharf_engine::Engine;
use wharf_engine::images::Images;
use wharf_image::ImageStore;

use crate::built::Built;
use crate::cache::{Cache, CacheEntry, PruneCache, PrunedCache};
use crate::error::BuildError;
use crate::inputs::Inputs;
use crate::job::Job;
use crate::mounts::Mounts;
use crate::progress;
use crate::request::Request;

/// Nanoseconds between two looks at the size of the cache: it walks the cache mounts.
const COLLECT_EVERY: i64 = 60_000_000_000;

/// Settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Collect cache by itself (`builder.gc.enabled`). Default true.
    pub collect: bool,
    /// Bytes of cache that stay when it collects (`builder.gc.defaultKeepStorage`); `None` is a tenth of the disk.
    pub keep_bytes: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { collect: true, keep_bytes: None }
    }
}

/// Builds images on an engine. Clones share it, its cache included.
#[derive(Clone)]
pub struct Builder(Arc<Inner>);

pub(crate) struct Inner {
    engine: Engine,
    images: Images,
    cache: Arc<Cache>,
    slots: Semaphore,
    /// Where secrets and sockets are while a step runs.
    private: PathBuf,
    serial: AtomicU64,
    settings: Settings,
    /// When cache was last looked through for collection, in nanoseconds since 1970.
    collected: AtomicI64,
}

/// A directory of its own for one secret or socket, gone when it is dropped.
pub(crate) struct PrivateDir(PathBuf);

impl PrivateDir {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // What cannot be removed now goes when the daemon starts again.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl Builder {
    /// A builder on `engine`; its cache is in `db` and below the engine's root.
    pub fn open(
        engine: Engine,
        images: Images,
        db: Db,
        settings: Settings,
    ) -> Result<Builder, BuildError> {
        let (root, exec) = (&engine.config().root, &engine.config().exec_root);
        let private = exec.join("build");
        // Secrets of a daemon that was killed.
        drop(std::fs::remove_dir_all(&private));
        wharf_base::fs::private_dir(&private)
            .map_err(BuildError::io(format!("create {}", private.display())))?;
        wharf_base::fs::private_dir(&root.join("build"))
            .map_err(BuildError::io("create the build directory"))?;
        let clock = Clock::system();
        let mounts = Mounts::open(root.join("build/mounts"), clock.clone())?;
        let cache = Cache::open(db, images.store().clone(), clock, mounts)?;
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let slots = Semaphore::new((2 * processors).max(4));
        let (serial, collected) = (AtomicU64::new(0), AtomicI64::new(0));
        Ok(Builder(Arc::new(Inner {
            engine,
            images,
            cache,
            slots,
            private,
            serial,
            settings,
            collected,
        })))
    }

    /// Carries a build out. Equal steps of builds that run at once are done once; what is in the cache is
    /// not done at all. Dropping the future cancels it as `cancel` does: nothing half done is visible.
    pub async fn build(
        &self,
        request: Request,
        inputs: Inputs,
        progress: progress::Sender,
        cancel: CancellationToken,
    ) -> Result<Built, BuildError> {
        let job = Job::new(self.0.clone(), request, inputs, progress, cancel)?;
        let _ends_when_dropped = job.cancel.clone().drop_guard();
        let state = job.run().await;
        job.forget_pulled();
        let state = state?;
        let mut config = state.image_config();
        if config.created.is_none() || job.epoch.is_some() {
            config.created = Some(job.created(&state));
        }
        if job.remembers() {
            crate::inline::embed(&mut config, &state.steps);
        }
        self.collect_soon();
        Ok(Built {
            store: self.0.store().clone(),
            config,
            lines: job.lines(&state),
            mounts: job.used_mounts(),
            materials: job.used(),
            cache: self.0.cache.clone(),
            layers: state.layers,
            leases: state.leases,
        })
    }

    /// The lint warnings of a Dockerfile that need no base image, as `build --check` shows them without one.
    pub fn check(name: &str, text: &str) -> Result<Vec<progress::Warning>, BuildError> {
        let file = crate::job::parse(name, text)?;
        let check =
            wharf_spec::dockerfile::lint::Check::parse(file.check.as_deref().unwrap_or_default())
                .map_err(BuildError::Invalid)?;
        let told = file.warnings.into_iter().filter(|w| check.tells(w.rule));
        Ok(told.map(progress::Warning::from).collect())
    }

    pub(crate) fn store(&self) -> &ImageStore {
        self.0.store()
    }

    /// Everything in the cache, oldest use first. Blocks.
    pub fn usage(&self) -> Vec<CacheEntry> {
        self.0.cache.list()
    }

    /// Removes cache. Blocks.
    pub fn prune(&self, what: &PruneCache) -> Result<PrunedCache, BuildError> {
        self.0.cache.prune(what)
    }

    /// Bytes of cache above which it collects by itself; `None` if it does not. Blocks, hardly.
    pub fn watermark(&self) -> Option<u64> {
        let settings = &self.0.settings;
        let keep = || settings.keep_bytes.or_else(|| self.0.tenth_of_disk());
        settings.collect.then(keep).flatten()
    }

    /// Collects above the watermark, off the async threads; nobody waits for it.
    fn collect_soon(&self) {
        let now = self.0.cache.now();
        let last = self.0.collected.load(Ordering::Relaxed);
        if !self.0.settings.collect || now - last < COLLECT_EVERY {
            return;
        }
        self.0.collected.store(now, Ordering::Relaxed);
        let builder = self.clone();
        tokio::task::spawn_blocking(move || {
            let what = PruneCache { keep_bytes: builder.watermark(), ..PruneCache::default() };
            if let Err(e) = builder.prune(&what) {
                let error = wharf_base::error::chain(&e).to_string();
                tracing::warn!(error, "build cache was not collected");
            }
        });
    }
}

impl Inner {
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn images(&self) -> &Images {
        &self.images
    }

    pub(crate) fn store(&self) -> &ImageStore {
        self.images.store()
    }

    pub(crate) fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Room to run one more program.
    pub(crate) async fn slot(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.slots.acquire().await.ok()
    }

    pub(crate) fn private_dir(&self) -> Result<PrivateDir, BuildError> {
        let n = self.serial.fetch_add(1, Ordering::Relaxed);
        let dir = self.private.join(n.to_string());
        wharf_base::fs::private_dir(&dir)
            .map_err(BuildError::io(format!("create {}", dir.display())))?;
        Ok(PrivateDir(dir))
    }

    fn tenth_of_disk(&self) -> Option<u64> {
        let root = wharf_sys::root::Root::open(&self.engine.config().root).ok()?;
        Some(root.total_bytes().ok()? / 10)
    }
}
