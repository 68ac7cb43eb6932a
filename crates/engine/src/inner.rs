//! What all of the engine's modules share: the floors below, the containers in memory, and how they are found.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wharf_base::Id;
use wharf_base::clock::Clock;
use wharf_base::db::Db;
use wharf_base::sync::Mutex;
use wharf_image::ImageStore;
use wharf_keeper::Launcher;
use wharf_net::Net;
use wharf_runtime::HostFacts;
use wharf_runtime::seccomp::Filters;

use crate::container::Container;
use crate::engine::{Config, Parts};
use crate::error::{EngineError, Result};
use crate::events::{Attributes, Events, Kind};
use crate::exec::Execs;
use crate::facts::Facts;
use crate::record::Record;
use crate::view::AccountCache;
use crate::volume::Volumes;

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) db: Db,
    pub(crate) net: Arc<Net>,
    pub(crate) images: ImageStore,
    pub(crate) launcher: Launcher,
    pub(crate) events: Events,
    pub(crate) clock: Clock,
    pub(crate) facts: Facts,
    pub(crate) host: HostFacts,
    pub(crate) filters: Filters,
    pub(crate) volumes: Volumes,
    pub(crate) execs: Execs,
    pub(crate) accounts: AccountCache,
    /// Tasks that end with the daemon; `stopping` tells them to.
    pub(crate) tasks: TaskTracker,
    pub(crate) stopping: CancellationToken,
    pub(crate) index: Mutex<Index>,
    /// A sync of the database is on its way.
    sync_is_due: AtomicBool,
}

/// How long creations and removals gather before they are synced together.
const SYNC_AFTER: Duration = Duration::from_millis(200);

/// The containers in memory, by id and by name.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) by_id: BTreeMap<Id, Arc<Container>>,
    /// Names are taken before the container is there, and kept until it is gone.
    pub(crate) names: HashMap<String, Id>,
}

impl Inner {
    pub(crate) fn new(config: Config, parts: Parts) -> Result<Inner> {
        let host = HostFacts::probe().map_err(|e| EngineError::system("examine the host", e))?;
        for dir in [config.root.join("containers"), config.exec_root.join("containers")] {
            wharf_base::fs::private_dir(&dir)
                .map_err(|e| EngineError::system(format!("create {}", dir.display()), e))?;
        }
        let volumes = Volumes::open(&config.root, parts.db.clone(), parts.clock.clone())?;
        Ok(Inner {
            config,
            db: parts.db,
            net: parts.net,
            images: parts.images,
            launcher: parts.launcher,
            events: parts.events,
            clock: parts.clock,
            facts: Facts::read()?,
            host,
            filters: Filters::default(),
            volumes,
            execs: Execs::default(),
            accounts: AccountCache::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            index: Mutex::default(),
            sync_is_due: AtomicBool::new(false),
        })
    }

    /// The container's directory that survives a reboot.
    pub(crate) fn dir(&self, id: &Id) -> PathBuf {
        self.config.root.join("containers").join(id.as_str())
    }

    /// The container's directory that does not: its keeper's.
    pub(crate) fn run_dir(&self, id: &Id) -> PathBuf {
        self.config.exec_root.join("containers").join(id.as_str())
    }

    /// Finds a container by full id, name (with or without slash), or unique prefix of its id.
    pub(crate) fn find(&self, text: &str) -> Result<Arc<Container>> {
        let index = self.index.lock();
        let name = text.strip_prefix('/').unwrap_or(text);
        if let Ok(id) = text.parse::<Id>()
            && let Some(found) = index.by_id.get(&id)
        {
            return Ok(found.clone());
        }
        if let Some(found) = index.names.get(name).and_then(|id| index.by_id.get(id)) {
            return Ok(found.clone());
        }
        if let Some((parent, alias)) = name.split_once('/') {
            let missing = || EngineError::no_such_container(text);
            let parent = index.names.get(parent).and_then(|id| index.by_id.get(id)).cloned();
            // Locks are taken one at a time.
            drop(index);
            let child =
                parent.and_then(|p| p.record().linked(alias).cloned()).ok_or_else(missing)?;
            return self.index.lock().by_id.get(&child).cloned().ok_or_else(missing);
        }
        index.by_prefix(name)?.ok_or_else(|| EngineError::no_such_container(text))
    }

    /// Every container, in the order of ids.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.index.lock().by_id.values().cloned().collect()
    }

    /// Publishes an event about a container, with its labels, image and name.
    pub(crate) fn emit(&self, record: &Record, action: impl Into<String>, more: &[(&str, &str)]) {
        let mut attributes: Attributes = record.config.labels.clone().unwrap_or_default();
        attributes.insert("image".into(), record.config.image.clone());
        attributes.insert("name".into(), record.name.clone());
        for (key, value) in more {
            attributes.insert((*key).into(), (*value).into());
        }
        self.events.publish(Kind::Container, action, record.id.as_str(), attributes);
    }

    /// Runs blocking work off the async threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.clone();
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(e) => Err(EngineError::system("a task of the engine failed", e)),
        }
    }

    /// Starts a task of the engine that ends when the daemon stops.
    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                // Biased so that a task that is ready at the end is not run once more.
                biased;
                () = stopping.cancelled() => (),
                () = task => (),
            }
        });
    }

    /// Makes what was written durable against loss of power a moment later, for all writes of that moment at once:
    /// nobody waits for the disk.
    pub(crate) fn sync_soon(self: &Arc<Self>) {
        if self.sync_is_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(SYNC_AFTER) => (),
                () = inner.stopping.cancelled() => (),
            }
            // Before the work: what is written from here on asks for another.
            inner.sync_is_due.store(false, Ordering::Release);
            let db = inner.db.clone();
            match tokio::task::spawn_blocking(move || db.sync()).await {
                Ok(Ok(())) => (),
                Ok(Err(e)) => {
                    tracing::error!(error = %wharf_base::error::chain(&e), "state was not synced")
                }
                Err(e) => tracing::error!(error = %e, "state was not synced"),
            }
        });
    }

    /// Finishes `work` even if the caller goes away: a client's hang-up must not leave a half stop.
    pub(crate) async fn finish<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.tasks.spawn(work).await {
            Ok(result) => result,
            Err(e) => Err(EngineError::system("a task of the engine failed", e)),
        }
    }
}

impl Index {
    fn by_prefix(&self, prefix: &str) -> Result<Option<Arc<Container>>> {
        if prefix.is_empty() {
            return Ok(None);
        }
        let mut hits = self.by_id.iter().filter(|(id, _)| id.as_str().starts_with(prefix));
        match (hits.next(), hits.next()) {
            (Some((_, one)), None) => Ok(Some(one.clone())),
            (Some(_), Some(_)) => Err(EngineError::ambiguous(prefix)),
            (None, _) => Ok(None),
        }
    }

    /// Takes `name` for `id`, or says who has it.
    pub(crate) fn take_name(&mut self, name: &str, id: &Id) -> Result<()> {
        match self.names.get(name) {
            Some(holder) if holder != id => Err(EngineError::name_in_use(name, holder.as_str())),
            _ => {
                self.names.insert(name.to_owned(), id.clone());
                Ok(())
            }
        }
    }

    /// Gives `name` up if `id` has it.
    pub(crate) fn drop_name(&mut self, name: &str, id: &Id) {
        if self.names.get(name) == Some(id) {
            self.names.remove(name);
        }
    }
}
