//! Taking over from an earlier daemon: database, keepers and disk are made to agree.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use wharf_base::Id;
use wharf_keeper::client::KeeperError;
use wharf_keeper::protocol::State as KeeperState;
use wharf_keeper::{Exit, Keeper};
use wharf_runtime::cgroup::Cgroup;

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::record;
use crate::restart::Policy;
use crate::start::Starter;
use crate::state::{Run, State};

impl Inner {
    /// Called once, before anyone else sees the engine.
    pub(crate) async fn take_over(self: &Arc<Self>) -> Result<()> {
        self.empty_bins();
        let stored = record::load(&self.db)?;
        {
            let mut index = self.index.lock();
            for (record, life) in stored {
                index.names.insert(record.name.clone(), record.id.clone());
                index.by_id.insert(record.id.clone(), Arc::new(Container::new(record, life)));
            }
        }
        self.collect_strays().await?;
        let all = self.all();
        let mut ended = Vec::new();
        for c in &all {
            self.settle(c, &mut ended).await?;
        }
        self.forget_ended_execs()?;
        self.blocking(|inner| inner.sweep_cgroups()).await?;
        self.adopt_networks().await?;
        let inner = self.clone();
        self.images
            .retain_pins(|owner| {
                // The build cache looks after its own.
                if owner.starts_with("build:") {
                    return true;
                }
                let id = owner.split(':').next().unwrap_or(owner);
                inner.find(id).is_ok_and(|c| c.id.as_str() == id)
            })
            .map_err(EngineError::from)?;
        for (c, exit) in ended {
            self.ended(&c, exit).await;
        }
        if self.config.autorestart {
            self.apply_policies();
        }
        Ok(())
    }

    /// Makes one container's record agree with its keeper.
    async fn settle(
        self: &Arc<Self>,
        c: &Arc<Container>,
        ended: &mut Vec<(Arc<Container>, Exit)>,
    ) -> Result<()> {
        let over = match c.state() {
            State::Removing(_) => true,
            // The daemon died between the end and the removal.
            State::Exited(_) => c.record().host.auto_remove,
            _ => false,
        };
        if over {
            let record = c.record();
            let volumes = record.host.auto_remove;
            self.blocking(move |inner| inner.erase(&record, volumes)).await?;
            let mut index = self.index.lock();
            index.by_id.remove(&c.id);
            index.drop_name(&c.record().name, &c.id);
            return Ok(());
        }
        match Keeper::reconnect(self.run_dir(&c.id)).await {
            Ok((keeper, state)) => self.adopt(c, keeper, &state, ended).await,
            Err(KeeperError::Gone) if c.state().run().is_some() => {
                let exit = self.bury(c).await;
                ended.push((c.clone(), exit));
                Ok(())
            }
            Err(KeeperError::Gone) => {
                self.bury(c).await;
                Ok(())
            }
            Err(e) => {
                Err(EngineError::system(format!("ask the keeper of container {}", c.id.short()), e))
            }
        }
    }

    /// A container that runs, or ended with its keeper waiting to tell.
    async fn adopt(
        self: &Arc<Self>,
        c: &Arc<Container>,
        keeper: Keeper,
        told: &KeeperState,
        ended: &mut Vec<(Arc<Container>, Exit)>,
    ) -> Result<()> {
        let run = Run { pid: told.started.pid, started: told.started.at };
        let known = c.state().run();
        let life = c.with(|core| {
            core.keeper = Some(keeper.clone());
            // A start that the old daemon did not come to record.
            if known.is_none_or(|k| k.pid != run.pid) {
                core.life.state = std::mem::take(&mut core.life.state).started(run);
            }
            core.life.clone()
        });
        record::store_life(&self.db, &c.id, &life)?;
        c.tell(|news| news.running = true);
        let watch = match keeper.watch().await {
            Ok(watch) => watch,
            // The container has ended since its keeper was asked, and nobody watched, so the keeper went too.
            Err(KeeperError::Gone) => {
                let exit = self.bury(c).await;
                ended.push((c.clone(), exit));
                return Ok(());
            }
            Err(e) => return Err(EngineError::system("watch a container that runs", e)),
        };
        self.watch_container(c, watch);
        self.adopt_execs(c, &keeper, &told.execs).await?;
        if told.exit.is_none() {
            self.begin_health(c);
        }
        Ok(())
    }

    /// Directories without a record: garbage. A keeper in one of them has no owner and is ended.
    async fn collect_strays(self: &Arc<Self>) -> Result<()> {
        self.blocking(|inner| {
            for id in strays(inner, &inner.config.exec_root.join("containers"))? {
                let dir = inner.config.exec_root.join("containers").join(&id);
                tracing::warn!(container = id, "container without a record ended");
                if let Err(e) = wharf_keeper::client::bury(&dir, &inner.clock) {
                    let error = wharf_base::error::chain(&e).to_string();
                    tracing::error!(
                        container = id,
                        error,
                        "container without a record was not ended"
                    );
                    continue;
                }
                drop(std::fs::remove_dir_all(&dir));
            }
            for id in strays(inner, &inner.config.root.join("containers"))? {
                tracing::info!(container = id, "container directory without a record removed");
                drop(std::fs::remove_dir_all(inner.config.root.join("containers").join(&id)));
            }
            inner.volumes.collect_garbage()
        })
        .await
    }

    /// Ends what is left in cgroups of containers that are gone. Only those that this engine recorded: another
    /// daemon may have its own beside them.
    fn sweep_cgroups(&self) -> Result<()> {
        for (id, path) in record::cgroups(&self.db)? {
            if id.parse::<Id>().is_ok_and(|id| self.index.lock().by_id.contains_key(&id)) {
                continue;
            }
            let cgroup = Cgroup::at(&self.host, &path);
            let emptied = if cgroup.exists() { cgroup.kill_all() } else { Ok(()) };
            match emptied.and_then(|()| cgroup.delete()) {
                Ok(()) => record::forget_cgroup(&self.db, &id)?,
                Err(e) => {
                    let error = wharf_base::error::chain(&e).to_string();
                    tracing::warn!(cgroup = path, error, "cgroup of a removed container stays");
                }
            }
        }
        Ok(())
    }

    async fn adopt_networks(self: &Arc<Self>) -> Result<()> {
        let mut live: BTreeMap<Id, OwnedFd> = BTreeMap::new();
        for c in self.all() {
            let own = !matches!(
                c.record().network_mode(),
                record::NetworkMode::Host | record::NetworkMode::Container(_)
            );
            let Some(run) = c.state().run().filter(|_| own) else { continue };
            // A process that ended meanwhile has no namespace to adopt.
            if let Ok(file) = std::fs::File::open(format!("/proc/{}/ns/net", run.pid)) {
                live.insert(c.id.clone(), file.into());
            }
        }
        self.blocking(move |inner| {
            let running: Vec<Id> = live.keys().cloned().collect();
            inner.net.adopt(live).map_err(EngineError::from)?;
            for id in &running {
                // The container goes on without names rather than the daemon not at all.
                if let Err(e) = inner.resume_names(id) {
                    tracing::error!(container = %id, error = %e.message(), "names are not resolved");
                }
            }
            Ok(())
        })
        .await
    }

    /// Answers the questions of a container that an earlier daemon started.
    fn resume_names(&self, id: &Id) -> Result<()> {
        let record = self.find(id.as_str())?.record();
        match self.name_service(&record, &self.net.endpoints(id))? {
            Some(names) => self.net.serve_names(id, names).map_err(EngineError::from),
            None => Ok(()),
        }
    }

    /// Containers that do not run but should.
    fn apply_policies(self: &Arc<Self>) {
        for c in self.all() {
            let (record, life) = (c.record(), c.life());
            let policy = record.policy();
            let due = match &life.state {
                State::Restarting(_) => policy != Policy::No,
                State::Exited(e) => {
                    policy.starts_with_daemon(life.stopped_by_user, e.code, life.restarts)
                }
                _ => false,
            };
            if !due {
                continue;
            }
            if matches!(life.state, State::Restarting(_)) {
                // The rest of the pause; a clock that was set back does not make it longer than any pause is.
                let left = u64::try_from(life.due - self.clock.unix_nanos()).unwrap_or(0);
                let left = Duration::from_nanos(left).min(crate::restart::MAX);
                self.restart_later(&c, left);
                continue;
            }
            let inner = self.clone();
            self.spawn(async move {
                if let Err(e) = inner.start(&c, Starter::Policy).await
                    && e.kind() != crate::Kind::NotModified
                {
                    tracing::warn!(container = %c.id, error = %e.message(), "container was not started with the daemon");
                }
            });
        }
    }
}

fn strays(inner: &Inner, dir: &Path) -> Result<Vec<String>> {
    let failed = |e| EngineError::system(format!("read {}", dir.display()), e);
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        let known = name.parse::<Id>().is_ok_and(|id| inner.index.lock().by_id.contains_key(&id));
        if !known {
            out.push(name);
        }
    }
    Ok(out)
}
