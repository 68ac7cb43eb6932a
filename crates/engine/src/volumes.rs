//! The engine's operations on volumes, and who uses them.

use std::sync::Arc;

use wharf_spec::docker::{self, Map};

use crate::error::{EngineError, Result};
use crate::events;
use crate::filters::{self, Filters};
use crate::inner::Inner;
use crate::list::invalid;
use crate::mount::{MountKind, MountPoint};
use crate::record::Record;
use crate::volume::{ANONYMOUS, Volume};

impl Inner {
    pub(crate) fn volume_create(
        &self,
        request: &docker::VolumeCreateRequest,
    ) -> Result<docker::Volume> {
        let made = self.volumes.create(request)?;
        if made.new {
            self.volume_event("create", &made.volume.name);
        }
        Ok(self.volumes.docker(&made.volume))
    }

    pub(crate) fn volume_list(&self, f: &Filters) -> Result<docker::VolumeList> {
        f.check(filters::VOLUMES).map_err(invalid)?;
        let dangling = f.truth("dangling").map_err(invalid)?;
        let passes = |v: &Volume| {
            let labels = v.labels.clone().unwrap_or_default();
            f.pattern("name", &v.name)
                && f.exact("driver", "local")
                && f.labels("label", &labels)
                && dangling.is_none_or(|d| self.volume_users(&v.name).is_empty() == d)
        };
        let all = self.volumes.list()?;
        let volumes = all.iter().filter(|v| passes(v)).map(|v| self.volumes.docker(v)).collect();
        Ok(docker::VolumeList { volumes, warnings: None })
    }

    pub(crate) fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        match self.volumes.find(name) {
            Err(e) if e.kind() == crate::Kind::NotFound && force => return Ok(()),
            other => other?,
        };
        let users = self.volume_users(name);
        if !users.is_empty() {
            return Err(EngineError::conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        self.volumes.remove(name)?;
        self.volume_event("destroy", name);
        Ok(())
    }

    pub(crate) fn volume_prune(&self, f: &Filters) -> Result<docker::VolumesPruneReport> {
        f.check(filters::PRUNE_VOLUMES).map_err(invalid)?;
        let all = f.truth("all").map_err(invalid)?.unwrap_or(false);
        let mut report = docker::VolumesPruneReport::default();
        for v in self.volumes.list()? {
            let labels = v.labels.clone().unwrap_or_default();
            let wanted = all || labels.contains_key(ANONYMOUS);
            if !wanted || !f.prunes(&labels) || !self.volume_users(&v.name).is_empty() {
                continue;
            }
            let size = crate::usage::tree(&self.volumes.data(&v.name));
            if self.volume_remove(&v.name, false).is_ok() {
                report.space_reclaimed += size;
                report.volumes_deleted.get_or_insert_default().push(v.name);
            }
        }
        let attributes = [("reclaimed".to_owned(), report.space_reclaimed.to_string())].into();
        self.events.publish(events::Kind::Volume, "prune", "", attributes);
        Ok(report)
    }

    pub(crate) fn volume_usage(&self) -> Result<Map<docker::VolumeUsage>> {
        let one = |v: Volume| {
            let size = crate::usage::tree(&self.volumes.data(&v.name));
            let users = self.volume_users(&v.name).len();
            let usage = docker::VolumeUsage {
                ref_count: i64::try_from(users).unwrap_or(i64::MAX),
                size: i64::try_from(size).unwrap_or(i64::MAX),
            };
            (v.name, usage)
        };
        Ok(self.volumes.list()?.into_iter().map(one).collect())
    }

    /// The containers that have a mount of the volume, running or not.
    pub(crate) fn volume_users(&self, name: &str) -> Vec<String> {
        let uses = |r: &Arc<Record>| {
            r.mounts
                .iter()
                .any(|p| matches!(&p.kind, MountKind::Volume { name: n, .. } if n == name))
        };
        self.all().iter().map(|c| c.record()).filter(uses).map(|r| r.id.to_string()).collect()
    }

    pub(crate) fn volume_event(&self, action: &str, name: &str) {
        let attributes = [("driver".to_owned(), "local".to_owned())].into();
        self.events.publish(events::Kind::Volume, action, name, attributes);
    }

    pub(crate) fn volume_mount_event(&self, action: &str, name: &str, r: &Record, p: &MountPoint) {
        let mut attributes = events::Attributes::new();
        attributes.insert("container".into(), r.id.to_string());
        attributes.insert("driver".into(), "local".into());
        if action == "mount" {
            attributes.insert("destination".into(), p.destination.clone());
            attributes.insert("propagation".into(), p.propagation.clone());
            attributes.insert("read/write".into(), p.access.is_write().to_string());
        }
        self.events.publish(events::Kind::Volume, action, name, attributes);
    }
}
