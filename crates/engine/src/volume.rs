//! Volumes: directories that outlive containers, with names, labels and options of the local driver.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wharf_base::Id;
use wharf_base::clock::Clock;
use wharf_base::db::{Batch, Db};
use wharf_base::fs::Durability;
use wharf_base::sync::Mutex;
use wharf_spec::docker::{self, Map};

use crate::error::{EngineError, Result};
use crate::mount;

const TABLE: &str = "volumes";
/// The label of volumes that Docker and wharf made up for one container.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// A volume as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Nanoseconds since 1970.
    pub created: i64,
    /// Labels.
    pub labels: Option<Map<String>>,
    /// Options of the local driver: `type`, `o`, `device`.
    pub options: Option<Map<String>>,
}

/// What [`Volumes::provide`] found or made.
#[derive(Debug)]
pub(crate) struct Provided {
    pub(crate) volume: Volume,
    pub(crate) new: bool,
}

/// All volumes of one data root. What is in the database exists; other directories are garbage.
#[derive(Debug)]
pub(crate) struct Volumes {
    root: PathBuf,
    db: Db,
    clock: Clock,
    /// Held while a volume is made or removed, so that the two do not cross.
    changing: Mutex<()>,
    /// Held while a volume is filled, so that nobody takes a half-filled one for whole.
    pub(crate) filling: Mutex<()>,
}

impl Volumes {
    pub(crate) fn open(root: &Path, db: Db, clock: Clock) -> Result<Volumes> {
        let root = root.join("volumes");
        wharf_base::fs::private_dir(&root)
            .map_err(|e| EngineError::system(format!("create {}", root.display()), e))?;
        // Users inside containers reach their volumes through this directory's mounts, not its path.
        Ok(Volumes { root, db, clock, changing: Mutex::new(()), filling: Mutex::new(()) })
    }

    /// The volume called `name`.
    pub(crate) fn find(&self, name: &str) -> Result<Volume> {
        self.db.get(TABLE, name)?.ok_or_else(|| EngineError::no_such_volume(name))
    }

    /// All volumes by name.
    pub(crate) fn list(&self) -> Result<Vec<Volume>> {
        Ok(self.db.scan(TABLE)?.into_iter().map(|(_, v)| v).collect())
    }

    /// The directory that containers see.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.root.join(name).join("_data")
    }

    /// Exists while the volume is being filled from an image.
    pub(crate) fn mark(&self, name: &str) -> PathBuf {
        self.root.join(name).join("filling")
    }

    /// The volume of that name, made if it is not there. An empty name makes one up.
    pub(crate) fn provide(
        &self,
        name: &str,
        anonymous: bool,
        labels: &Map<String>,
        options: &Map<String>,
    ) -> Result<Provided> {
        let _guard = self.changing.lock();
        let name = if name.is_empty() { Id::random().to_string() } else { name.to_owned() };
        if let Some(volume) = self.db.get::<Volume>(TABLE, &name)? {
            return Ok(Provided { volume, new: false });
        }
        check_options(options)?;
        let mut labels = labels.clone();
        if anonymous {
            labels.insert(ANONYMOUS.into(), String::new());
        }
        let some = |m: Map<String>| (!m.is_empty()).then_some(m);
        let volume = Volume {
            name,
            created: self.clock.unix_nanos(),
            labels: some(labels),
            options: some(options.clone()),
        };
        self.make(&volume)?;
        Ok(Provided { volume, new: true })
    }

    /// As the API's create does it: the same name with other options is a conflict.
    pub(crate) fn create(&self, request: &docker::VolumeCreateRequest) -> Result<Provided> {
        check_driver(&request.driver)?;
        if request.cluster_volume_spec.is_some() {
            return Err(EngineError::not_implemented(
                "cluster volumes need a swarm, which wharf does not have",
            ));
        }
        if !request.name.is_empty() && !mount::is_volume_name(&request.name) {
            return Err(mount::bad_volume_name(&request.name));
        }
        let options = request.driver_opts.clone().unwrap_or_default();
        let labels = request.labels.clone().unwrap_or_default();
        let made = self.provide(&request.name, request.name.is_empty(), &labels, &options)?;
        if !made.new && !options.is_empty() && made.volume.options.as_ref() != Some(&options) {
            return Err(EngineError::conflict(format!(
                "a volume named {} exists with other options: remove it first",
                request.name
            )));
        }
        Ok(made)
    }

    /// Removes the volume. Who uses it was asked before.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let _guard = self.changing.lock();
        self.find(name)?;
        let mut batch = Batch::new();
        batch.delete(TABLE, name);
        self.db.write(batch, Durability::Process)?;
        // From here on it is gone; what is left on disk is garbage that the next start collects too.
        let dir = self.root.join(name);
        match std::fs::remove_dir_all(&dir) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(EngineError::system(format!("remove {}", dir.display()), e)),
        }
    }

    /// Removes directories that no record owns, and what a fill that was cut short left in those that one does.
    pub(crate) fn collect_garbage(&self) -> Result<()> {
        let failed = |e| EngineError::system(format!("read {}", self.root.display()), e);
        for entry in std::fs::read_dir(&self.root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if self.db.get::<Volume>(TABLE, &name)?.is_none() {
                tracing::info!(volume = name, "volume without a record removed");
                drop(std::fs::remove_dir_all(entry.path()));
            } else {
                self.empty_half_filled(&name)?;
            }
        }
        Ok(())
    }

    /// As the API shows it.
    pub(crate) fn docker(&self, v: &Volume) -> docker::Volume {
        docker::Volume {
            created_at: docker::rfc3339_secs(v.created),
            driver: "local".into(),
            labels: v.labels.clone(),
            mountpoint: self.data(&v.name).display().to_string(),
            name: v.name.clone(),
            options: v.options.clone(),
            scope: "local".into(),
            status: None,
            usage_data: None,
        }
    }

    /// The directory first, then the record: what has a record is whole.
    fn make(&self, volume: &Volume) -> Result<()> {
        let data = self.data(&volume.name);
        let made = std::fs::create_dir_all(&data).and_then(|()| {
            std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        });
        made.map_err(|e| EngineError::system(format!("create {}", data.display()), e))?;
        let mut batch = Batch::new();
        batch.put(TABLE, &volume.name, volume)?;
        Ok(self.db.write(batch, Durability::Process)?)
    }
}

/// Refuses drivers other than wharf's own. The words are Docker's.
pub(crate) fn check_driver(driver: &str) -> Result<()> {
    match driver {
        "" | "local" => Ok(()),
        other => Err(EngineError::not_found(format!(
            "error looking up volume plugin {other}: plugin \"{other}\" not found: wharf has \"local\""
        ))),
    }
}

fn check_options(options: &Map<String>) -> Result<()> {
    if let Some(unknown) = options.keys().find(|k| !["type", "o", "device"].contains(&k.as_str())) {
        let why = if unknown == "size" { " (wharf's volumes have no quota)" } else { "" };
        return Err(EngineError::invalid(format!("invalid option: {unknown:?}{why}")));
    }
    let has = |key: &str| options.get(key).is_some_and(|v| !v.is_empty());
    if !options.is_empty() && !has("device") {
        return Err(EngineError::invalid("missing device in volume options"));
    }
    if !options.is_empty() && !has("type") && !options.get("o").is_some_and(|o| o.contains("bind"))
    {
        return Err(EngineError::invalid("missing required option: \"type\""));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes(dir: &Path) -> Volumes {
        let db = Db::open(&dir.join("db")).unwrap();
        Volumes::open(dir, db, Clock::system()).unwrap()
    }

    #[test]
    fn a_name_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let v = volumes(dir.path());
        let none = Map::new();
        assert!(v.provide("data", false, &none, &none).unwrap().new);
        assert!(!v.provide("data", false, &none, &none).unwrap().new);
        let made_up = v.provide("", true, &none, &none).unwrap().volume;
        assert!(made_up.labels.unwrap().contains_key(ANONYMOUS));
        assert_eq!(v.list().unwrap().len(), 2);
        v.remove("data").unwrap();
        assert!(!v.data("data").exists());
        assert_eq!(v.find("data").unwrap_err().message(), "get data: no such volume");
    }

    #[test]
    fn what_has_no_record_is_garbage() {
        let dir = tempfile::tempdir().unwrap();
        let v = volumes(dir.path());
        v.provide("keep", false, &Map::new(), &Map::new()).unwrap();
        std::fs::create_dir_all(dir.path().join("volumes/stray/_data")).unwrap();
        v.collect_garbage().unwrap();
        assert!(v.data("keep").exists() && !v.data("stray").exists());
    }

    #[test]
    fn requests_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let v = volumes(dir.path());
        let request = |name: &str, driver: &str, options: &[(&str, &str)]| {
            v.create(&docker::VolumeCreateRequest {
                name: name.into(),
                driver: driver.into(),
                driver_opts: Some(
                    options.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
                ),
                ..Default::default()
            })
        };
        assert!(request("a/b", "", &[]).is_err());
        assert!(request("ab", "nfs", &[]).is_err());
        assert!(request("ab", "", &[("size", "1g")]).is_err());
        assert!(request("ab", "", &[("type", "tmpfs")]).is_err());
        request("ab", "local", &[("type", "tmpfs"), ("device", "tmpfs")]).unwrap();
        assert!(request("ab", "", &[("type", "nfs"), ("device", "x")]).is_err());
    }
}
