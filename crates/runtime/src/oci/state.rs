//! What `wharf oci` keeps of a container between two commands.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wharf_base::fs::{Durability, write_atomic};

use super::{Global, OCI_VERSION, OciError, file};
use crate::plan::Plan;

/// One container of this state root.
#[derive(Debug)]
pub(crate) struct Container {
    dir: PathBuf,
    pub(crate) record: Record,
    /// Held while a command changes the container.
    _lock: Option<fs::File>,
}

/// The record on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) pid: i32,
    /// Tells the process from a later one of the same number: `starttime` of `/proc/<pid>/stat`.
    pub(crate) started: u64,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) created: String,
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl Container {
    /// Takes the directory of a new container; an id is used once.
    pub(crate) fn reserve(global: &Global, id: &str) -> Result<PathBuf, OciError> {
        wharf_base::fs::private_dir(&global.root).map_err(file("create", &global.root))?;
        let dir = global.root.join(id);
        match fs::create_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Err(OciError::State(format!("container with given ID already exists: {id}")))
            }
            made => made.map(|()| dir.clone()).map_err(file("create", dir)),
        }
    }

    /// Records a container that has been created.
    pub(crate) fn record(dir: PathBuf, record: Record) -> Result<Self, OciError> {
        let bytes = serde_json::to_vec(&record).unwrap_or_default();
        let path = dir.join("state.json");
        write_atomic(&path, &bytes, 0o600, Durability::Process).map_err(file("write", path))?;
        Ok(Self { dir, record, _lock: None })
    }

    /// Opens a container by id.
    pub(crate) fn open(global: &Global, id: &str) -> Result<Self, OciError> {
        let dir = global.root.join(id);
        let path = dir.join("state.json");
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(OciError::State(format!("container does not exist: {id}")));
            }
            other => other.map_err(file("read", &path))?,
        };
        let record =
            serde_json::from_slice(&bytes).map_err(|source| OciError::Json { path, source })?;
        Ok(Self { dir, record, _lock: None })
    }

    /// As [`Container::open`], alone among the commands that change it.
    pub(crate) fn lock(global: &Global, id: &str) -> Result<Self, OciError> {
        let mut container = Self::open(global, id)?;
        let dir = fs::File::open(&container.dir).map_err(file("open", &container.dir))?;
        wharf_sys::fs::lock(&dir).map_err(file("lock", &container.dir))?;
        container._lock = Some(dir);
        Ok(container)
    }

    pub(crate) fn plan(&self) -> Result<Plan, OciError> {
        let path = self.dir.join("plan");
        let bytes = fs::read(&path).map_err(file("read", &path))?;
        postcard::from_bytes(&bytes).map_err(|e| OciError::File {
            doing: "parse",
            path,
            source: io::Error::other(e),
        })
    }

    pub(crate) fn start_fifo(&self) -> PathBuf {
        self.dir.join("start")
    }

    pub(crate) fn status_fifo(&self) -> PathBuf {
        self.dir.join("status")
    }

    /// Looks at the process and, when it runs, whether it is frozen.
    pub(crate) fn status(&self) -> Result<Status, OciError> {
        match start_time(self.record.pid) {
            Some((started, alive)) if started == self.record.started && alive => (),
            _ => return Ok(Status::Stopped),
        }
        if self.start_fifo().exists() {
            return Ok(Status::Created);
        }
        Ok(if self.plan()?.cgroup.is_frozen()? { Status::Paused } else { Status::Running })
    }

    /// The state as the OCI specification shows it, with runc's additions.
    pub(crate) fn json(&self, status: Status) -> serde_json::Value {
        let mut state = serde_json::json!({
            "ociVersion": OCI_VERSION,
            "id": self.record.id,
            "pid": if status == Status::Stopped { 0 } else { self.record.pid },
            "status": status.name(),
            "bundle": self.record.bundle,
            "rootfs": self.record.rootfs,
            "created": self.record.created,
            "owner": "",
        });
        if !self.record.annotations.is_empty() {
            state["annotations"] = serde_json::json!(self.record.annotations);
        }
        state
    }

    /// Forgets the container.
    pub(crate) fn remove(&self) -> Result<(), OciError> {
        fs::remove_dir_all(&self.dir).map_err(file("remove", &self.dir))
    }
}

/// When a process was started in clock ticks since boot, and whether it is more than a zombie.
pub(crate) fn start_time(pid: i32) -> Option<(u64, bool)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((started, !matches!(state, "Z" | "X")))
}

/// All ids of a state root.
pub(crate) fn ids(global: &Global) -> Result<Vec<String>, OciError> {
    let entries = match fs::read_dir(&global.root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(file("list", &global.root))?,
    };
    let mut ids: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    ids.sort();
    Ok(ids)
}
