//! An engine in memory, for the tests of whoever drives one.

use std::cell::RefCell;
use std::collections::BTreeMap;

use wharf_spec::docker::{
    ContainerConfig, ContainerInspect, ContainerState, ContainerSummary, CreateRequest,
    EndpointSettings, ExecCreateRequest, Health, ImageInspect, MountPoint, NetworkCreateRequest,
    NetworkInspect, Volume, VolumeCreateRequest,
};

use crate::engine::{Answer, Engine, EngineError, Until};

/// An engine that does at once what it is told, and remembers having been told.
#[derive(Debug, Default)]
pub struct FakeEngine {
    world: RefCell<World>,
}

#[derive(Debug, Default)]
struct World {
    next: u32,
    log: Vec<String>,
    images: BTreeMap<String, ImageInspect>,
    networks: BTreeMap<String, NetworkInspect>,
    volumes: BTreeMap<String, Volume>,
    containers: BTreeMap<String, (ContainerSummary, CreateRequest)>,
    /// What is to fail, by the beginning of its line in the log.
    failing: Vec<String>,
    /// Exit statuses of containers by their name's beginning; others run until they are stopped.
    exits: BTreeMap<String, i64>,
    /// Health by the beginning of a container's name.
    health: BTreeMap<String, String>,
}

impl FakeEngine {
    /// An engine that has these images; the id of each is `sha256:<name>`.
    pub fn with_images(names: &[&str]) -> Self {
        let fake = Self::default();
        for name in names {
            let image = ImageInspect {
                id: format!("sha256:{name}"),
                config: Some(ContainerConfig::default()),
                ..ImageInspect::default()
            };
            fake.world.borrow_mut().images.insert((*name).to_owned(), image);
        }
        fake
    }

    /// Changes what a name stands for, as a pull would.
    pub fn retag(&self, name: &str, id: &str) {
        if let Some(image) = self.world.borrow_mut().images.get_mut(name) {
            id.clone_into(&mut image.id);
        }
    }

    /// Lets every call fail whose line in the log begins so.
    pub fn fail(&self, line: &str) {
        self.world.borrow_mut().failing.push(line.to_owned());
    }

    /// Lets everything succeed again.
    pub fn mend(&self) {
        self.world.borrow_mut().failing.clear();
    }

    /// Lets containers whose name begins so end with this status.
    pub fn exits(&self, name: &str, status: i64) {
        self.world.borrow_mut().exits.insert(name.to_owned(), status);
    }

    /// Gives containers whose name begins so a health.
    pub fn health(&self, name: &str, health: &str) {
        self.world.borrow_mut().health.insert(name.to_owned(), health.to_owned());
    }

    /// What it was told since it was last asked.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.world.borrow_mut().log)
    }

    /// The names of all containers with their states.
    pub fn states(&self) -> Vec<String> {
        let world = self.world.borrow();
        let state =
            |(c, _): &(ContainerSummary, CreateRequest)| format!("{} {}", c.names[0], c.state);
        let mut all: Vec<String> = world.containers.values().map(state).collect();
        all.sort();
        all
    }

    /// The request that a container was made with.
    pub fn request(&self, name: &str) -> Option<CreateRequest> {
        let world = self.world.borrow();
        let found = world.containers.values().find(|(c, _)| c.names[0] == format!("/{name}"));
        found.map(|(_, request)| request.clone())
    }

    fn told(&self, line: String) -> Answer<()> {
        let mut world = self.world.borrow_mut();
        let fails = world.failing.iter().any(|f| line.starts_with(f));
        world.log.push(line.clone());
        if fails { Err(EngineError::Failed(format!("{line} failed"))) } else { Ok(()) }
    }

    fn name_of(&self, id: &str) -> String {
        let world = self.world.borrow();
        let found =
            world.containers.get(id).map(|(c, _)| c.names[0].trim_start_matches('/').to_owned());
        found.unwrap_or_else(|| id.to_owned())
    }

    fn set_state(&self, id: &str, state: &str) -> Answer<()> {
        let mut world = self.world.borrow_mut();
        let missing = || EngineError::NotFound(format!("No such container: {id}"));
        world.containers.get_mut(id).ok_or_else(missing)?.0.state = state.to_owned();
        Ok(())
    }
}

fn next_id(world: &mut World, kind: &str) -> String {
    world.next += 1;
    format!("{kind}{:012}", world.next)
}

fn starts<'m, T>(map: &'m BTreeMap<String, T>, name: &str) -> Option<&'m T> {
    map.iter().find(|(begin, _)| name.starts_with(begin.as_str())).map(|(_, value)| value)
}

fn mounts(world: &World, request: &CreateRequest) -> Vec<MountPoint> {
    let binds = request.host_config.binds.iter().flatten().filter_map(|bind| {
        let mut parts = bind.split(':');
        Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
    });
    let long = request.host_config.mounts.iter().flatten();
    let long = long.map(|m| (m.source.clone(), m.target.clone()));
    binds
        .chain(long)
        .map(|(source, destination)| {
            let is_volume = world.volumes.contains_key(&source) || source.is_empty();
            MountPoint {
                kind: if is_volume { "volume" } else { "bind" }.to_owned(),
                name: if is_volume { source.clone() } else { String::new() },
                source,
                destination,
                rw: true,
                ..MountPoint::default()
            }
        })
        .collect()
}

impl Engine for FakeEngine {
    async fn containers(&self, project: &str) -> Answer<Vec<ContainerSummary>> {
        let world = self.world.borrow();
        let own = |c: &&ContainerSummary| {
            c.labels.get(crate::labels::PROJECT).is_some_and(|p| p == project)
        };
        Ok(world.containers.values().map(|(c, _)| c).filter(own).cloned().collect())
    }

    async fn inspect(&self, id: &str) -> Answer<ContainerInspect> {
        let world = self.world.borrow();
        let Some((summary, request)) = world.containers.get(id) else {
            return Err(EngineError::NotFound(format!("No such container: {id}")));
        };
        let name = summary.names[0].trim_start_matches('/');
        let health = starts(&world.health, name);
        let exit = starts(&world.exits, name).copied();
        Ok(ContainerInspect {
            id: id.to_owned(),
            name: summary.names[0].clone(),
            config: request.config.clone(),
            host_config: request.host_config.clone(),
            state: ContainerState {
                status: summary.state.clone(),
                running: summary.state == "running",
                exit_code: exit.unwrap_or(0),
                health: health.map(|h| Health { status: h.clone(), ..Health::default() }),
                ..ContainerState::default()
            },
            ..ContainerInspect::default()
        })
    }

    async fn image(&self, name: &str) -> Answer<Option<ImageInspect>> {
        Ok(self.world.borrow().images.get(name).cloned())
    }

    async fn networks(&self, project: &str) -> Answer<Vec<NetworkInspect>> {
        let world = self.world.borrow();
        let own = |n: &&NetworkInspect| {
            n.labels.get(crate::labels::PROJECT).is_some_and(|p| p == project)
        };
        Ok(world.networks.values().filter(own).cloned().collect())
    }

    async fn network(&self, name: &str) -> Answer<Option<NetworkInspect>> {
        Ok(self.world.borrow().networks.get(name).cloned())
    }

    async fn create_network(&self, request: &NetworkCreateRequest) -> Answer<String> {
        self.told(format!("create network {}", request.name))?;
        let mut world = self.world.borrow_mut();
        let id = next_id(&mut world, "n");
        let network = NetworkInspect {
            id: id.clone(),
            name: request.name.clone(),
            labels: request.labels.clone().unwrap_or_default(),
            ..NetworkInspect::default()
        };
        world.networks.insert(request.name.clone(), network);
        Ok(id)
    }

    async fn remove_network(&self, id: &str) -> Answer<()> {
        self.told(format!("remove network {id}"))?;
        self.world.borrow_mut().networks.retain(|_, n| n.id != id);
        Ok(())
    }

    async fn disconnect(&self, network: &str, container: &str) -> Answer<()> {
        let name = self.name_of(container);
        self.told(format!("disconnect {name} from {network}"))
    }

    async fn volumes(&self, project: &str) -> Answer<Vec<Volume>> {
        let world = self.world.borrow();
        let own = |v: &&Volume| {
            let labels = v.labels.as_ref();
            labels.and_then(|l| l.get(crate::labels::PROJECT)).is_some_and(|p| p == project)
        };
        Ok(world.volumes.values().filter(own).cloned().collect())
    }

    async fn volume(&self, name: &str) -> Answer<Option<Volume>> {
        Ok(self.world.borrow().volumes.get(name).cloned())
    }

    async fn create_volume(&self, request: &VolumeCreateRequest) -> Answer<()> {
        self.told(format!("create volume {}", request.name))?;
        let volume = Volume {
            name: request.name.clone(),
            labels: request.labels.clone(),
            ..Volume::default()
        };
        self.world.borrow_mut().volumes.insert(request.name.clone(), volume);
        Ok(())
    }

    async fn remove_volume(&self, name: &str) -> Answer<()> {
        self.told(format!("remove volume {name}"))?;
        self.world.borrow_mut().volumes.remove(name);
        Ok(())
    }

    async fn create(
        &self,
        name: &str,
        _: &str,
        request: &CreateRequest,
    ) -> Answer<(String, Vec<String>)> {
        self.told(format!("create {name}"))?;
        let mut world = self.world.borrow_mut();
        let slashed = format!("/{name}");
        if world.containers.values().any(|(c, _)| c.names[0] == slashed) {
            return Err(EngineError::Conflict(format!("the name {slashed} is already in use")));
        }
        let id = next_id(&mut world, "c");
        let mut summary = ContainerSummary {
            id: id.clone(),
            names: vec![slashed],
            image: request.config.image.clone(),
            labels: request.config.labels.clone().unwrap_or_default(),
            state: "created".to_owned(),
            mounts: mounts(&world, request),
            ..ContainerSummary::default()
        };
        for name in request.networking_config.endpoints_config.iter().flat_map(BTreeMap::keys) {
            let network_id = world.networks.get(name).map(|n| n.id.clone()).unwrap_or_default();
            let endpoint = EndpointSettings { network_id, ..EndpointSettings::default() };
            summary.network_settings.networks.insert(name.clone(), endpoint);
        }
        world.containers.insert(id.clone(), (summary, request.clone()));
        Ok((id, Vec::new()))
    }

    async fn start(&self, id: &str) -> Answer<()> {
        let name = self.name_of(id);
        self.told(format!("start {name}"))?;
        let exits = starts(&self.world.borrow().exits, &name).is_some();
        self.set_state(id, if exits { "exited" } else { "running" })
    }

    async fn stop(&self, id: &str, _: Option<i64>) -> Answer<()> {
        self.told(format!("stop {}", self.name_of(id)))?;
        self.set_state(id, "exited")
    }

    async fn remove(&self, id: &str, _: bool, volumes: bool) -> Answer<()> {
        let with = if volumes { " with volumes" } else { "" };
        self.told(format!("remove {}{with}", self.name_of(id)))?;
        self.world.borrow_mut().containers.remove(id);
        Ok(())
    }

    async fn rename(&self, id: &str, name: &str) -> Answer<()> {
        self.told(format!("rename {} to {name}", self.name_of(id)))?;
        if let Some((summary, _)) = self.world.borrow_mut().containers.get_mut(id) {
            summary.names = vec![format!("/{name}")];
        }
        Ok(())
    }

    async fn upload(&self, id: &str, path: &str, _: Vec<u8>) -> Answer<()> {
        self.told(format!("upload to {} at {path}", self.name_of(id)))
    }

    async fn exec(&self, id: &str, request: &ExecCreateRequest) -> Answer<i64> {
        let command = request.cmd.clone().unwrap_or_default().join(" ");
        self.told(format!("exec in {}: {command}", self.name_of(id)))?;
        Ok(0)
    }

    async fn until(&self, id: &str, until: Until) -> Answer<ContainerInspect> {
        self.told(format!("wait for {} until {until:?}", self.name_of(id)))?;
        self.inspect(id).await
    }

    async fn remove_image(&self, name: &str) -> Answer<()> {
        self.told(format!("remove image {name}"))?;
        self.world.borrow_mut().images.remove(name);
        Ok(())
    }
}
