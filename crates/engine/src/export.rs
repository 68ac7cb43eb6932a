//! A container's files as a whole: what it changed, a tar of all of them, an image made of them.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt as _;
use wharf_image::{Change, ChangeKind};
use wharf_spec::docker::{self, ContainerConfig};
use wharf_spec::image::RunConfig;
use wharf_spec::reference::Reference;

use crate::container::Container;
use crate::error::{EngineError, Kind, Result};
use crate::inner::Inner;
use crate::mount::clean_path;
use crate::options::{ByteStream, CommitOptions};
use crate::record::Record;
use crate::state::State;

impl Inner {
    /// Blocks while the upper directory is walked.
    pub(crate) fn changes(&self, c: &Container) -> Result<Vec<docker::FilesystemChange>> {
        let one = |change: Change| docker::FilesystemChange {
            path: change.path.display().to_string(),
            kind: match change.kind {
                ChangeKind::Modified => 0,
                ChangeKind::Added => 1,
                ChangeKind::Deleted => 2,
            },
        };
        let (own, _) = self.changed(&c.record())?;
        Ok(own.into_iter().map(one).collect())
    }

    /// What the container changed, and what was changed in its layer only to mount something there.
    fn changed(&self, record: &Record) -> Result<(Vec<Change>, Vec<Change>)> {
        let upper = self.dir(&record.id).join("upper");
        let found = wharf_image::changes(&upper, &self.lowers(record)?)
            .map_err(|e| EngineError::system("compare the container with its image", e))?;
        let tmpfs = record.host.tmpfs.iter().flatten().map(|(path, _)| clean_path(path));
        let mounted = record.mounts.iter().map(|m| m.destination.clone()).chain(tmpfs);
        Ok(apart(found, &mounted.collect()))
    }

    /// The tar of image and changes together; what is mounted in the container is not in it.
    pub(crate) fn export(&self, c: &Container) -> Result<ByteStream> {
        let record = c.record();
        let root = self.look(&record)?;
        let path = format!("/proc/self/fd/{}", root.as_fd().as_raw_fd());
        let tar = wharf_image::tree_tar(path.as_ref());
        self.emit(&record, "export", &[]);
        // The tree lives as long as the stream that reads it.
        Ok(tar.map(move |chunk| (&root, chunk).1).boxed())
    }

    /// Makes an image; the container stands still meanwhile if asked.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        c: &Arc<Container>,
        options: CommitOptions,
    ) -> Result<String> {
        match c.state() {
            State::Removing(_) | State::Dead(_) => {
                return Err(EngineError::conflict(format!(
                    "You cannot commit container {} which is being removed",
                    c.id
                )));
            }
            _ => (),
        }
        let name = image_name(&options)?;
        let pause = options.pause && matches!(c.state(), State::Running(_));
        let turn = c.turn.lock().await;
        if pause {
            self.freeze(c, true).await?;
        }
        let made = self.commit_files(c, &options, name.clone()).await;
        if pause {
            self.freeze(c, false).await?;
        }
        drop(turn);
        let id = made?;
        let more = name.map(|n| n.familiar()).unwrap_or_default();
        let comment = options.comment.clone();
        self.emit(
            &c.record(),
            "commit",
            &[("comment", &comment), ("imageID", &id), ("imageRef", &more)],
        );
        Ok(id)
    }

    async fn freeze(self: &Arc<Self>, c: &Arc<Container>, still: bool) -> Result<()> {
        let record = c.record();
        self.blocking(move |inner| {
            let cgroup = inner.cgroup(&record);
            let done = if still { cgroup.freeze() } else { cgroup.thaw() };
            match done {
                // It has ended in the meantime: nothing moves.
                Err(e) if e.is_gone() => Ok(()),
                other => other.map_err(|e| EngineError::system("freeze or thaw the container", e)),
            }
        })
        .await
    }

    async fn commit_files(
        self: &Arc<Self>,
        c: &Container,
        o: &CommitOptions,
        name: Option<Reference>,
    ) -> Result<String> {
        let record = c.record();
        let base = self.images.resolve(&record.image).map_err(EngineError::from)?;
        let of = record.clone();
        let (_, set_up) = self.blocking(move |inner| inner.changed(&of)).await?;
        let inside = |c: Change| c.path.strip_prefix("/").map(Into::into).unwrap_or(c.path);
        let options = wharf_image::CommitOptions {
            upper: self.dir(&c.id).join("upper"),
            omit: set_up.into_iter().map(inside).collect(),
            base,
            container: c.id.to_string(),
            config: run_config(&record.config, &o.config),
            changes: o.changes.clone(),
            author: o.author.clone(),
            comment: o.comment.clone(),
            name,
        };
        let image = self.images.commit(options).await.map_err(EngineError::from)?;
        Ok(image.id().to_string())
    }
}

fn image_name(o: &CommitOptions) -> Result<Option<Reference>> {
    if o.repo.is_empty() {
        return match o.tag.is_empty() {
            true => Ok(None),
            false => Err(EngineError::invalid("a tag needs a repository: set repo")),
        };
    }
    let text = match o.tag.as_str() {
        "" => o.repo.clone(),
        tag => format!("{}:{tag}", o.repo),
    };
    let bad = |e| EngineError::new(Kind::Invalid, "invalid reference format").because(e);
    Reference::parse(&text).map(|r| Some(r.or_latest())).map_err(bad)
}

/// The container's configuration as an image's, with what the request sets on top.
fn run_config(own: &ContainerConfig, over: &ContainerConfig) -> RunConfig {
    let list = |l: &Option<docker::StrList>| l.as_ref().map(|l| l.0.clone());
    let text = |a: &String, b: &String| if a.is_empty() { b.clone() } else { a.clone() };
    let set = |keys: Vec<&String>| {
        let map = keys.into_iter().map(|k| (k.clone(), serde_json::json!({}))).collect();
        Some(map).filter(|m: &std::collections::BTreeMap<_, _>| !m.is_empty())
    };
    let mut labels = own.labels.clone().unwrap_or_default();
    labels.extend(over.labels.clone().unwrap_or_default());
    let mut env = own.env.clone().unwrap_or_default();
    crate::spec::env::merge(&mut env, over.env.as_deref().unwrap_or_default());
    let volumes = own.volumes.iter().chain(&over.volumes).flat_map(|v| v.keys()).collect();
    RunConfig {
        user: text(&over.user, &own.user),
        exposed_ports: set(own.exposed_ports.keys().chain(over.exposed_ports.keys()).collect()),
        env,
        entrypoint: list(&over.entrypoint).or_else(|| list(&own.entrypoint)),
        cmd: list(&over.cmd).or_else(|| list(&own.cmd)),
        healthcheck: over.healthcheck.as_ref().or(own.healthcheck.as_ref()).map(|h| {
            wharf_spec::image::HealthCheck {
                test: h.test.clone().unwrap_or_default(),
                interval: h.interval,
                timeout: h.timeout,
                start_period: h.start_period,
                start_interval: h.start_interval,
                retries: h.retries,
            }
        }),
        volumes: set(volumes),
        working_dir: text(&over.working_dir, &own.working_dir),
        labels: Some(labels).filter(|l| !l.is_empty()),
        stop_signal: text(&over.stop_signal, &own.stop_signal),
        stop_timeout: over.stop_timeout.or(own.stop_timeout),
        shell: over.shell.clone().or_else(|| own.shell.clone()),
        ..RunConfig::default()
    }
}
/// Where every container gets a mount: what an image lacks of them is made in the container's own
/// layer, which Docker counts to none of its changes.
const SET_UP: &[&str] = &[
    "/.dockerenv",
    "/dev",
    "/dev/console",
    "/dev/pts",
    "/dev/shm",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/mtab",
    "/etc/resolv.conf",
    "/proc",
    "/sys",
];

/// Tells what the container changed from what was made to set it up: [`SET_UP`], places to mount at, and directories
/// in which nothing else changed.
fn apart(found: Vec<Change>, mounted: &BTreeSet<String>) -> (Vec<Change>, Vec<Change>) {
    let set_up = |path: &Path| {
        SET_UP.iter().any(|p| path == Path::new(p))
            || path.to_str().is_some_and(|p| mounted.contains(p))
    };
    let (mut own, mut dropped) = (Vec::new(), Vec::<Change>::new());
    // What lies in a directory comes before it.
    for change in found.into_iter().rev() {
        let within = |c: &Change| c.path.starts_with(&change.path);
        let made = change.kind == ChangeKind::Added && set_up(&change.path);
        let touched = change.kind != ChangeKind::Deleted && dropped.iter().any(within);
        match (made || touched) && !own.iter().any(within) {
            true => dropped.push(change),
            false => own.push(change),
        }
    }
    own.reverse();
    (own, dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: &[(&str, ChangeKind)], wanted: &[&str]) {
        let change = |(path, kind): &(&str, ChangeKind)| Change { path: path.into(), kind: *kind };
        let mounted = ["/data".to_owned(), "/deep/er/data".to_owned()].into();
        let (own, _) = apart(found.iter().map(change).collect(), &mounted);
        let own: Vec<_> = own.iter().map(|c| c.path.to_str().unwrap()).collect();
        assert_eq!(own, wanted);
    }

    #[test]
    fn mount_points_are_no_changes() {
        use ChangeKind::{Added, Deleted, Modified};
        let etc = ("/etc", Modified);
        check(&[("/dev", Added), etc, ("/etc/hosts", Added), ("/test", Added)], &["/test"]);
        let changed = ("/etc/passwd", Modified);
        check(&[etc, ("/etc/hosts", Added), changed], &["/etc", "/etc/passwd"]);
        check(&[("/data", Added), ("/database", Added)], &["/database"]);
        check(&[("/deep", Added), ("/deep/er", Added), ("/deep/er/data", Added)], &[]);
        check(&[("/data", Added), ("/data/left", Added)], &["/data", "/data/left"]);
        check(&[("/data", Deleted)], &["/data"]);
    }
}
