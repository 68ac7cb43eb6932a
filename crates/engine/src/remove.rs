//! Removing containers: the record goes first, so that what a crash leaves is garbage and not a half container.

use std::path::Path;
use std::sync::Arc;

use wharf_base::Id;
use wharf_spec::docker;

use crate::container::Container;
use crate::error::{EngineError, Kind, Result};
use crate::filters::{self, Filters};
use crate::inner::Inner;
use crate::mount::MountKind;
use crate::options::RemoveOptions;
use crate::record::{self, Record};
use crate::state::State;

impl Inner {
    pub(crate) async fn remove(
        self: &Arc<Self>,
        c: &Arc<Container>,
        options: RemoveOptions,
    ) -> Result<()> {
        let (inner, c) = (self.clone(), c.clone());
        self.finish(async move {
            let alive = || c.state().run().is_some() || matches!(c.state(), State::Restarting(_));
            let _turn = loop {
                if alive() {
                    inner.end_for_removal(&c, options.force).await?;
                }
                let turn = c.turn.lock().await;
                // A restart policy may have been quicker than the removal.
                if !alive() || !options.force {
                    break turn;
                }
            };
            if options.force && inner.find(c.id.as_str()).is_err() {
                // --rm was quicker.
                return Ok(());
            }
            inner.remove_in_turn(&c, options.volumes).await
        })
        .await
    }

    async fn end_for_removal(self: &Arc<Self>, c: &Arc<Container>, force: bool) -> Result<()> {
        let state = c.state();
        if !force {
            let advice = match state {
                State::Paused(_) => {
                    "unpause and then stop the container before removal or force remove"
                }
                _ => "stop the container before removal or force remove",
            };
            return Err(EngineError::conflict(format!(
                "cannot remove container \"/{}\": container is {}: {advice}",
                c.record().name,
                state.word()
            )));
        }
        match self.kill(c, "KILL").await {
            Err(e) if e.kind() == Kind::Conflict => Ok(()),
            other => other,
        }
    }

    /// The caller holds the turn of a container that does not run. `volumes`: anonymous ones as well.
    pub(crate) async fn remove_in_turn(
        self: &Arc<Self>,
        c: &Arc<Container>,
        volumes: bool,
    ) -> Result<()> {
        let record = c.record();
        let removing = c.state().removing(&record.name)?;
        c.with(|core| {
            core.life.state = removing;
            core.waiting.clear();
        });
        record::store_life(&self.db, &c.id, &c.life())?;
        let of = record.clone();
        match self.blocking(move |inner| inner.erase(&of, volumes)).await {
            Ok(()) => {
                self.index.lock().by_id.remove(&c.id);
                self.index.lock().drop_name(&record.name, &c.id);
                self.emit(&record, "destroy", &[]);
                c.tell(|news| (news.removed, news.running) = (true, false));
                Ok(())
            }
            Err(e) => {
                c.with(|core| core.life.state = std::mem::take(&mut core.life.state).dead());
                drop(record::store_life(&self.db, &c.id, &c.life()));
                Err(e)
            }
        }
    }

    /// Takes everything of a container that does not run off this host. Blocks; may be repeated.
    pub(crate) fn erase(self: &Arc<Self>, record: &Record, volumes: bool) -> Result<()> {
        self.bin(&self.run_dir(&record.id), "run", &record.id)?;
        self.bin(&self.dir(&record.id), "data", &record.id)?;
        // On cgroup v1 each controller has a directory of its own.
        let lingers = self.cgroup(record).dirs().iter().any(|(_, dir)| dir.is_dir());
        record::forget(&self.db, &record.id, !lingers)?;
        self.images.unpin(record.id.as_str()).map_err(EngineError::from)?;
        for point in record.mounts.iter().filter(|p| matches!(p.kind, MountKind::Image { .. })) {
            let owner = crate::create::mount_pin(record, point);
            self.images.unpin(&owner).map_err(EngineError::from)?;
        }
        self.sync_soon();
        if volumes {
            self.remove_anonymous(record);
        }
        Ok(())
    }

    /// Moves a directory into the bin, which is emptied in the background: a big layer must not
    /// keep the caller waiting.
    fn bin(self: &Arc<Self>, dir: &Path, what: &str, id: &Id) -> Result<()> {
        // On the same file system as what goes into it.
        let root = if what == "run" { &self.config.exec_root } else { &self.config.root };
        let bin = root.join("trash");
        let failed = |e| EngineError::system(format!("remove {}", dir.display()), e);
        wharf_base::fs::private_dir(&bin).map_err(failed)?;
        let target = bin.join(format!("{}-{what}", id.as_str()));
        match std::fs::rename(dir, &target) {
            Ok(()) => (),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed(e)),
        }
        self.tasks.spawn_blocking(move || {
            if let Err(e) = std::fs::remove_dir_all(&target) {
                tracing::warn!(dir = %target.display(), error = %e, "trash was not emptied");
            }
        });
        Ok(())
    }

    /// Empties what an earlier daemon did not come to.
    pub(crate) fn empty_bins(&self) {
        for root in [&self.config.root, &self.config.exec_root] {
            match std::fs::remove_dir_all(root.join("trash")) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(root = %root.display(), error = %e, "trash was not emptied");
                }
                _ => (),
            }
        }
    }

    fn remove_anonymous(&self, record: &Record) {
        for point in &record.mounts {
            let MountKind::Volume { name, anonymous: true, .. } = &point.kind else { continue };
            // The container itself is still listed while it is being removed.
            if self.volume_users(name).iter().any(|user| *user != record.id.as_str()) {
                continue;
            }
            match self.volumes.remove(name) {
                Ok(()) => self.volume_event("destroy", name),
                Err(e) => {
                    tracing::warn!(volume = name, error = %e.message(), "volume was not removed");
                }
            }
        }
    }

    /// Gives a container another name.
    pub(crate) async fn rename(self: &Arc<Self>, c: &Arc<Container>, to: &str) -> Result<()> {
        let to = to.strip_prefix('/').unwrap_or(to);
        let _turn = c.turn.lock().await;
        let old = c.record();
        if to.is_empty() {
            return Err(EngineError::invalid("Neither old nor new names may be empty"));
        }
        if to == old.name {
            return Err(EngineError::invalid(
                "Renaming a container with the same name as its current name",
            ));
        }
        crate::validate::name(to)?;
        self.index.lock().take_name(to, &c.id)?;
        let mut record = Record::clone(&old);
        record.name = to.to_owned();
        if let Err(e) = record::store(&self.db, &record, &c.life()) {
            self.index.lock().drop_name(to, &c.id);
            return Err(e);
        }
        self.index.lock().drop_name(&old.name, &c.id);
        c.with(|core| core.record = Arc::new(record));
        self.net.rename(&c.id, to).map_err(EngineError::from)?;
        self.emit(&c.record(), "rename", &[("oldName", &format!("/{}", old.name))]);
        Ok(())
    }

    /// Removes containers that do not run.
    pub(crate) async fn prune(
        self: &Arc<Self>,
        filters: &Filters,
    ) -> Result<docker::ContainersPruneReport> {
        let invalid = |e: filters::FilterError| EngineError::invalid(e.to_string());
        filters.check(filters::PRUNE).map_err(invalid)?;
        let until = filters.until(self.clock.now()).map_err(invalid)?;
        let mut report = docker::ContainersPruneReport::default();
        for c in self.all() {
            let (record, state) = (c.record(), c.state());
            let idle = matches!(state, State::Created { .. } | State::Exited(_) | State::Dead(_));
            let labels = record.config.labels.clone().unwrap_or_default();
            let old = until.is_none_or(|t| {
                let created = u64::try_from(record.created).unwrap_or(0);
                std::time::UNIX_EPOCH + std::time::Duration::from_nanos(created) < t
            });
            if !idle || !old || !filters.prunes(&labels) {
                continue;
            }
            let upper = self.dir(&c.id).join("upper");
            let size = self.blocking(move |_| Ok(crate::usage::tree(&upper))).await.unwrap_or(0);
            let options = RemoveOptions::default();
            if self.remove(&c, options).await.is_ok() {
                report.space_reclaimed += size;
                report.containers_deleted.get_or_insert_default().push(c.id.to_string());
            }
        }
        let reclaimed = report.space_reclaimed.to_string();
        let attributes = [("reclaimed".to_owned(), reclaimed)].into();
        self.events.publish(crate::events::Kind::Container, "prune", "", attributes);
        Ok(report)
    }
}
