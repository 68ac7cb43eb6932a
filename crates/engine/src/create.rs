//! Creating a container: its request checked and completed, its directories, volumes and record made.

use std::path::Path;
use std::sync::Arc;

use wharf_base::Id;
use wharf_image::Image;
use wharf_spec::docker::{self, CreateRequest, CreateResponse, EndpointSettings, Map};
use wharf_spec::platform::Platform;

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::mount::{self, MountKind, MountPoint};
use crate::options::ReadOnly;
use crate::record::{self, Life, Record};
use crate::spec::security;
use crate::undo::Undo;
use crate::{merge, validate};

impl Inner {
    /// Creates a container. Blocks: the caller is a blocking thread.
    pub(crate) fn create(
        self: &Arc<Self>,
        name: Option<&str>,
        mut request: CreateRequest,
        platform: Option<&Platform>,
        read_only: ReadOnly,
    ) -> Result<CreateResponse> {
        validate::conflicts(&request.config, &request.host_config)?;
        let image = self.image_for(&request.config.image, platform)?;
        if let Some(defaults) = image.run_config() {
            merge::merge(&mut request.config, defaults);
        }
        self.complete(&mut request);
        self.check_joined(&request.host_config)?;
        let mut warnings = validate::request(&request, &self.facts)?;
        crate::spec::env::arguments(&request.config)?;
        let id = Id::random();
        let mut undo = Undo::new();
        let name = self.reserve_name(name, &id)?;
        undo.push("release the name", {
            let (inner, id, name) = (self.clone(), id.clone(), name.clone());
            move || inner.index.lock().drop_name(&name, &id)
        });
        let mut record = self.record(id, name, &image, request, &mut warnings)?;
        if read_only == ReadOnly::Top {
            record.mounts.iter_mut().for_each(MountPoint::cover_top_only);
        }
        let record = self.furnish(record, &image, &mut undo)?;
        let cgroup = self.cgroup_path(&record);
        record::store_new(&self.db, &record, &Life::default(), &cgroup.to_string_lossy())?;
        self.sync_soon();
        undo.disarm();
        let id = record.id.to_string();
        self.emit(&record, "create", &[]);
        let container = Arc::new(Container::new(record, Life::default()));
        self.index.lock().by_id.insert(container.id.clone(), container);
        Ok(CreateResponse { id, warnings })
    }

    fn image_for(&self, name: &str, platform: Option<&Platform>) -> Result<Image> {
        if name.is_empty() {
            return Err(EngineError::invalid("no image was named: set Image"));
        }
        let image = self.images.resolve(name).map_err(EngineError::from)?;
        if let Some(wanted) = platform.filter(|p| p.distance(&image.platform()).is_none()) {
            return Err(EngineError::not_found(format!(
                "image with reference {name} was found but does not match the specified platform: \
                 wanted {wanted}, actual: {}",
                image.platform()
            )));
        }
        Ok(image)
    }

    /// Fills in what the daemon decides where the client leaves it open, as inspect then shows it.
    pub(crate) fn complete(&self, r: &mut CreateRequest) {
        if !r.config.working_dir.is_empty() && r.config.working_dir.starts_with('/') {
            r.config.working_dir = mount::clean_path(&r.config.working_dir);
        }
        let h = &mut r.host_config;
        if matches!(h.network_mode.as_str(), "" | "default") {
            h.network_mode = "bridge".into();
        }
        // Who asks for the default network of a daemon without one gets none, as from Docker.
        if h.network_mode == "bridge" && self.net.network("bridge").is_err() {
            h.network_mode = "none".into();
            if let Some(endpoints) = &mut r.networking_config.endpoints_config {
                endpoints.remove("bridge");
            }
        }
        if h.ipc_mode.is_empty() {
            h.ipc_mode.clone_from(&self.config.ipc_mode);
        }
        if h.cgroupns_mode.is_empty() {
            h.cgroupns_mode = match (self.config.cgroupns.as_str(), self.facts.cgroup_v2) {
                // Whatever the daemon's default: there a privileged container manages the host's cgroups.
                (_, false) if h.privileged => "host".into(),
                ("", true) => "private".into(),
                ("", false) => "host".into(),
                (mode, _) => mode.into(),
            };
        }
        if h.shm_size == 0 {
            h.shm_size = self.config.shm_size;
        }
        if h.log_config.kind.is_empty() {
            h.log_config.kind.clone_from(&self.config.log.kind);
            if h.log_config.config.as_ref().is_none_or(Map::is_empty) {
                h.log_config.config.clone_from(&self.config.log.config);
            }
        }
        h.log_config.config.get_or_insert_default();
        if h.restart_policy.name.is_empty() {
            h.restart_policy.name = "no".into();
        }
        if h.runtime.is_empty() {
            h.runtime = "runc".into();
        }
        let paths = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        if h.privileged {
            // What is hidden from others is what a privileged container is for.
            (h.masked_paths, h.readonly_paths) = (None, None);
        } else {
            h.masked_paths.get_or_insert_with(|| {
                [paths(security::MASKED_PATHS), security::thermal_paths(self.facts.cpus)].concat()
            });
            h.readonly_paths.get_or_insert_with(|| paths(security::READONLY_PATHS));
        }
        h.port_bindings.get_or_insert_default();
    }

    fn reserve_name(&self, wanted: Option<&str>, id: &Id) -> Result<String> {
        let mut index = self.index.lock();
        if let Some(name) =
            wanted.map(|n| n.strip_prefix('/').unwrap_or(n)).filter(|n| !n.is_empty())
        {
            validate::name(name)?;
            index.take_name(name, id)?;
            return Ok(name.to_owned());
        }
        for attempt in 0..32 {
            let name = wharf_base::names::random(attempt);
            if index.take_name(&name, id).is_ok() {
                return Ok(name);
            }
        }
        let name = id.short().to_owned();
        index.take_name(&name, id)?;
        Ok(name)
    }

    fn record(
        &self,
        id: Id,
        name: String,
        image: &Image,
        request: CreateRequest,
        warnings: &mut Vec<String>,
    ) -> Result<Record> {
        let CreateRequest { mut config, mut host_config, networking_config } = request;
        let mounts = self.mount_points(&config, &host_config)?;
        if config.hostname.is_empty() && !matches!(host_config.network_mode.as_str(), "host") {
            config.hostname = id.short().to_owned();
        }
        if host_config.network_mode.starts_with("container:") {
            config.hostname = String::new();
        }
        self.pin_joined(&mut host_config);
        let mut networking_config = networking_config;
        let links = self.place_links(&mut host_config, &mut networking_config)?;
        if config.network_disabled {
            host_config.network_mode = "none".into();
        }
        for (name, settings) in networking_config.endpoints_config.iter().flatten() {
            let settings = settings.as_ref();
            settings.map_or(Ok(()), |s| crate::network::check_settings(name, s)).map_err(|e| {
                EngineError::invalid(format!("invalid config for network {name}: {}", e.message()))
            })?;
        }
        let networks = self.networks(&host_config.network_mode, networking_config);
        if host_config.resources.kernel_memory_tcp != 0 {
            warnings.push("KernelMemoryTCP has no effect on current kernels.".into());
        }
        let created = self.clock.unix_nanos();
        let image = image.id().to_string();
        Ok(Record { id, name, created, image, config, host: host_config, networks, mounts, links })
    }

    /// Links of a container on the default bridge are legacy links; on a network of the user's they are names there.
    fn place_links(
        &self,
        host: &mut docker::HostConfig,
        networking: &mut docker::NetworkingConfig,
    ) -> Result<Vec<crate::links::LegacyLink>> {
        if matches!(host.network_mode.as_str(), "" | "default" | "bridge" | "none") {
            return self.take_links(host);
        }
        let given = host.links.take().unwrap_or_default();
        if !given.is_empty() {
            let endpoints = networking.endpoints_config.get_or_insert_default();
            let main = endpoints.entry(host.network_mode.clone()).or_default();
            main.get_or_insert_default().links.get_or_insert_default().extend(given);
        }
        Ok(Vec::new())
    }

    /// The networks that the container is to be on, by name: those that settings are given for, else that of its mode.
    fn networks(&self, mode: &str, config: docker::NetworkingConfig) -> Map<EndpointSettings> {
        if mode.starts_with("container:") {
            return Map::new();
        }
        // What does not exist yet may when the container starts, so its name stays as it is.
        let full = |name: &str| match name {
            "default" => "bridge".to_owned(),
            _ => self.net.network(name).map_or_else(|_| name.to_owned(), |n| n.name),
        };
        let given = config.endpoints_config.unwrap_or_default();
        let mut out: Map<EndpointSettings> =
            given.into_iter().map(|(name, s)| (full(&name), s.unwrap_or_default())).collect();
        if out.is_empty() || matches!(mode, "host" | "none") {
            out.entry(full(mode)).or_default();
        }
        out
    }

    /// A process namespace must be there to be joined. Refused as a bad request: at 404 clients would pull the image.
    fn check_joined(&self, h: &docker::HostConfig) -> Result<()> {
        let Some(name) = h.pid_mode.strip_prefix("container:") else { return Ok(()) };
        self.find(name).map(drop).map_err(|e| EngineError::invalid(e.message()))
    }

    /// Names of containers whose namespaces are joined become ids, so that a rename does not redirect.
    /// A name that is not there yet is left to the start, as Docker does: answered 404 here, clients would pull the image.
    fn pin_joined(&self, h: &mut docker::HostConfig) {
        for mode in [&mut h.network_mode, &mut h.pid_mode, &mut h.ipc_mode] {
            if let Some(name) = mode.strip_prefix("container:")
                && let Ok(joined) = self.find(name)
            {
                *mode = format!("container:{}", joined.id);
            }
        }
    }

    /// All mount points: those of other containers, then binds, mounts, and volumes of the image.
    fn mount_points(
        &self,
        config: &docker::ContainerConfig,
        host: &docker::HostConfig,
    ) -> Result<Vec<MountPoint>> {
        let mut own = Vec::new();
        for raw in host.binds.iter().flatten() {
            let mut point = mount::parse_bind(raw)?;
            check_driver(&point, host)?;
            let told = point.mode.split(',').any(|word| mount::PROPAGATIONS.contains(&word));
            mount::under_data_root(&mut point, &self.config.root, told)?;
            own.push(point);
        }
        for m in host.mounts.iter().flatten() {
            let mut point = mount::parse_mount(m)?;
            check_source(&point)?;
            let told = m.bind_options.as_ref().is_some_and(|o| !o.propagation.is_empty());
            mount::under_data_root(&mut point, &self.config.root, told)?;
            own.push(point);
        }
        mount::no_duplicates(&own)?;
        for path in host.tmpfs.iter().flatten().map(|(path, _)| path) {
            let at = mount::destination(path)?;
            if own.iter().any(|p| p.destination == at) {
                return Err(EngineError::invalid(format!("Duplicate mount point: {at}")));
            }
        }
        for raw in host.volumes_from.iter().flatten() {
            let (from, read_only) = mount::parse_volumes_from(raw)?;
            let from = self.find(from).map_err(|e| EngineError::invalid(e.message()))?;
            for mut point in from.record().mounts.clone() {
                if own.iter().any(|p| p.destination == point.destination) {
                    continue;
                }
                if read_only {
                    point.access = mount::Access::Read;
                }
                if let MountKind::Volume { no_copy, .. } = &mut point.kind {
                    *no_copy = true;
                }
                own.push(point);
            }
        }
        let tmpfs = |at: &str| host.tmpfs.iter().flatten().any(|(p, _)| mount::clean_path(p) == at);
        for path in config.volumes.iter().flatten().map(|(path, _)| path) {
            let point = mount::anonymous(path)?;
            let taken = own.iter().any(|p| p.destination == point.destination);
            if !taken && !tmpfs(&point.destination) {
                check_driver(&point, host)?;
                own.push(point);
            }
        }
        Ok(own)
    }

    /// Makes what belongs to the container on disk: directories, volumes, the hold on its image.
    fn furnish(
        self: &Arc<Self>,
        mut record: Record,
        image: &Image,
        undo: &mut Undo,
    ) -> Result<Record> {
        let dir = self.dir(&record.id);
        make_dirs(&dir)?;
        undo.push("remove the container's directory", {
            let dir = dir.clone();
            move || drop(std::fs::remove_dir_all(dir))
        });
        self.images.pin(record.id.as_str(), image).map_err(EngineError::from)?;
        undo.push("let go of the image", {
            let (inner, id) = (self.clone(), record.id.clone());
            move || drop(inner.images.unpin(id.as_str()))
        });
        self.pin_mounts(&record, undo)?;
        self.make_volumes(&mut record, undo)?;
        Ok(record)
    }

    /// Images that are mounted stay, like the container's own.
    fn pin_mounts(self: &Arc<Self>, record: &Record, undo: &mut Undo) -> Result<()> {
        for point in &record.mounts {
            let MountKind::Image { reference, .. } = &point.kind else { continue };
            let image = self.images.resolve(reference).map_err(EngineError::from)?;
            let owner = mount_pin(record, point);
            self.images.pin(&owner, &image).map_err(EngineError::from)?;
            let inner = self.clone();
            undo.push("let go of a mounted image", move || drop(inner.images.unpin(&owner)));
        }
        Ok(())
    }

    /// Who has which image mounted.
    pub(crate) fn mounted_images(&self) -> Vec<wharf_image::ImageUser> {
        let mut users = Vec::new();
        for c in self.all() {
            let (record, running) = (c.record(), c.state().run().is_some());
            for point in &record.mounts {
                if let MountKind::Image { .. } = &point.kind
                    && let Some(image) = self.images.pinned_image(&mount_pin(&record, point))
                {
                    let container = record.id.to_string();
                    users.push(wharf_image::ImageUser { container, image, running });
                }
            }
        }
        users
    }

    fn make_volumes(self: &Arc<Self>, record: &mut Record, undo: &mut Undo) -> Result<()> {
        let lowers = self.images.pinned_lowers(record.id.as_str()).unwrap_or_default();
        for point in &mut record.mounts {
            let MountKind::Volume { name, subpath, no_copy, anonymous, labels, options } =
                &mut point.kind
            else {
                continue;
            };
            let made = self.volumes.provide(name, *anonymous, labels, options)?;
            name.clone_from(&made.volume.name);
            if made.new {
                self.volume_event("create", &made.volume.name);
                undo.push("remove the volume", {
                    let (inner, name) = (self.clone(), name.clone());
                    move || drop(inner.volumes.remove(&name))
                });
            }
            if !*no_copy {
                self.volumes.populate(&made.volume.name, subpath, &lowers, &point.destination)?;
            }
        }
        Ok(())
    }
}

/// Who pins an image that a container mounts.
pub(crate) fn mount_pin(record: &Record, point: &MountPoint) -> String {
    format!("{}:{}", record.id, point.destination)
}

/// `--volume-driver` is about the volumes of `-v` and of the image; without any it means nothing.
fn check_driver(point: &MountPoint, host: &docker::HostConfig) -> Result<()> {
    match point.kind {
        MountKind::Volume { .. } => crate::volume::check_driver(&host.volume_driver),
        _ => Ok(()),
    }
}

fn check_source(point: &MountPoint) -> Result<()> {
    match &point.kind {
        MountKind::Bind { source, create: false, .. } if !Path::new(source).exists() => {
            Err(EngineError::invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {source}"
            )))
        }
        _ => Ok(()),
    }
}

fn make_dirs(dir: &Path) -> Result<()> {
    let make = || -> std::io::Result<()> {
        wharf_base::fs::private_dir(dir)?;
        for name in ["upper", "work"] {
            std::fs::create_dir(dir.join(name))?;
        }
        // The root directory of the container: readable by the users inside.
        std::fs::set_permissions(
            dir.join("upper"),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
    };
    make().map_err(|e| EngineError::system(format!("create {}", dir.display()), e))
}
