//! What is stored of a container: its configuration as created, and the facts of its life.

use serde::{Deserialize, Serialize};
use wharf_base::Id;
use wharf_base::db::{Batch, Db};
use wharf_base::fs::Durability;
use wharf_spec::docker::{self, ContainerConfig, HostConfig, Map};

use crate::error::Result;
use crate::links::LegacyLink;
use crate::mount::MountPoint;
use crate::restart::Policy;
use crate::state::State;

/// Configurations by container id.
const RECORDS: &str = "containers";
/// Lives by container id: small, because they are written at every transition.
const LIVES: &str = "container-lives";

/// Paths of cgroups by container id. They outlive the container's record if they could not be removed.
const CGROUPS: &str = "container-cgroups";

/// A container as created. Changes only by rename and update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: Id,
    /// Its name, without a slash.
    pub name: String,
    /// Nanoseconds since 1970.
    pub created: i64,
    /// The id of its image.
    pub image: String,
    /// Configuration, the image's merged in.
    pub config: ContainerConfig,
    /// Host configuration, defaults filled in.
    pub host: HostConfig,
    /// How it wants to be on its networks, by network name.
    pub networks: Map<docker::EndpointSettings>,
    /// Its mount points, names of anonymous volumes settled.
    pub mounts: Vec<MountPoint>,
    /// Legacy links to containers on the default bridge.
    #[serde(default)]
    pub links: Vec<LegacyLink>,
}

/// How a container's life went so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// What it is doing.
    pub state: State,
    /// Restarts by policy since it was last started by hand.
    pub restarts: u32,
    /// When its policy is to start it again, in nanoseconds since 1970; of no meaning unless it is restarting.
    #[serde(default)]
    pub due: i64,
    /// A user stopped it, and has not started it since.
    pub stopped_by_user: bool,
}

impl Record {
    /// Its restart policy; it was checked when the container was created.
    pub fn policy(&self) -> Policy {
        let p = &self.host.restart_policy;
        Policy::parse(&p.name, p.maximum_retry_count).unwrap_or_default()
    }

    /// What it calls itself, unless it shares another's name space.
    pub fn hostname(&self) -> &str {
        match self.config.hostname.as_str() {
            "" => self.id.short(),
            name => name,
        }
    }

    /// The container that a legacy link of this name leads to.
    pub fn linked(&self, alias: &str) -> Option<&Id> {
        self.links.iter().find(|l| l.alias == alias).map(|l| &l.child)
    }

    /// The program and its arguments, as inspect splits them.
    pub fn command(&self) -> (String, Vec<String>) {
        let list =
            |l: &Option<docker::StrList>| l.as_ref().map(|l| l.0.clone()).unwrap_or_default();
        let mut all = list(&self.config.entrypoint).into_iter().chain(list(&self.config.cmd));
        (all.next().unwrap_or_default(), all.collect())
    }

    /// Whether it has a network of its own.
    pub fn network_mode(&self) -> NetworkMode<'_> {
        match self.host.network_mode.as_str() {
            "" | "default" | "bridge" => NetworkMode::Named("bridge"),
            "none" => NetworkMode::None,
            "host" => NetworkMode::Host,
            other => match other.strip_prefix("container:") {
                Some(id) => NetworkMode::Container(id),
                None => NetworkMode::Named(other),
            },
        }
    }
}

/// Where a container's network comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkMode<'a> {
    /// Loopback alone.
    None,
    /// The host's.
    Host,
    /// Another container's.
    Container(&'a str),
    /// A network of wharf.
    Named(&'a str),
}

/// Reads every stored container.
pub fn load(db: &Db) -> Result<Vec<(Record, Life)>> {
    let mut lives: Map<Life> = db.scan(LIVES)?.into_iter().collect();
    let records = db.scan::<Record>(RECORDS)?;
    Ok(records
        .into_iter()
        .map(|(id, record)| (record, lives.remove(&id).unwrap_or_default()))
        .collect())
}

/// Stores a new container and where its cgroup will be.
pub(crate) fn store_new(db: &Db, record: &Record, life: &Life, cgroup: &str) -> Result<()> {
    let mut batch = Batch::new();
    batch.put(RECORDS, record.id.as_str(), record)?;
    batch.put(LIVES, record.id.as_str(), life)?;
    batch.put(CGROUPS, record.id.as_str(), cgroup)?;
    Ok(db.write(batch, Durability::Process)?)
}

/// Every cgroup that may exist, by container id.
pub(crate) fn cgroups(db: &Db) -> Result<Vec<(String, String)>> {
    Ok(db.scan(CGROUPS)?)
}

/// Forgets a cgroup that does not exist any more.
pub(crate) fn forget_cgroup(db: &Db, id: &str) -> Result<()> {
    let mut batch = Batch::new();
    batch.delete(CGROUPS, id);
    Ok(db.write(batch, Durability::Process)?)
}

/// Stores a new container, or a changed configuration.
pub fn store(db: &Db, record: &Record, life: &Life) -> Result<()> {
    let mut batch = Batch::new();
    batch.put(RECORDS, record.id.as_str(), record)?;
    batch.put(LIVES, record.id.as_str(), life)?;
    Ok(db.write(batch, Durability::Process)?)
}

/// Stores a transition.
pub fn store_life(db: &Db, id: &Id, life: &Life) -> Result<()> {
    let mut batch = Batch::new();
    batch.put(LIVES, id.as_str(), life)?;
    Ok(db.write(batch, Durability::Process)?)
}

/// Forgets a container, and its cgroup unless that is still there.
pub fn forget(db: &Db, id: &Id, cgroup_is_gone: bool) -> Result<()> {
    let mut batch = Batch::new();
    batch.delete(RECORDS, id.as_str());
    batch.delete(LIVES, id.as_str());
    if cgroup_is_gone {
        batch.delete(CGROUPS, id.as_str());
    }
    Ok(db.write(batch, Durability::Process)?)
}
