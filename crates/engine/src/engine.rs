//! The engine's whole public surface: one method per operation of the Engine API on containers and volumes.
//!
//! Each method finds its object and hands over to the module that owns the subject.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::Stream;
use wharf_base::clock::Clock;
use wharf_base::db::Db;
use wharf_image::ImageStore;
use wharf_keeper::Launcher;
use wharf_net::Net;
use wharf_spec::docker::{self, Map};
use wharf_spec::platform::Platform;

use crate::error::Result;
use crate::events::Events;
use crate::filters::Filters;
use crate::inner::Inner;
use crate::options::*;
use crate::start::Starter;

/// Settings, resolved by the daemon.
#[derive(Clone, Debug)]
pub struct Config {
    /// State that survives a reboot. Default `/var/lib/wharf`.
    pub root: PathBuf,
    /// State that does not. Default `/run/wharf`.
    pub exec_root: PathBuf,
    /// The cgroup under which containers get theirs. Default `/docker`.
    pub cgroup_parent: String,
    /// Put wharf's own init before every container that does not say. Default false.
    pub init: bool,
    /// Bytes of `/dev/shm`. Default 64 MiB.
    pub shm_size: i64,
    /// `private` or `host`; empty is private on cgroup v2 and host on v1.
    pub cgroupns: String,
    /// `private` or `shareable`. Default `private`.
    pub ipc_mode: String,
    /// Set no-new-privileges on every container. Default false.
    pub no_new_privileges: bool,
    /// A seccomp profile in Docker's JSON form instead of the built-in; `unconfined` for none.
    pub seccomp_profile: Option<SeccompProfile>,
    /// Log driver and options of containers that name none. Default `json-file`.
    pub log: docker::LogConfig,
    /// Limits by name of containers that set none of that name.
    pub ulimits: Vec<docker::Ulimit>,
    /// Name servers of containers that name none; empty takes the host's.
    pub dns: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// What `host-gateway` means in extra hosts; empty is the default bridge's gateway.
    pub host_gateway_ips: Vec<std::net::IpAddr>,
    /// Directories with CDI device descriptions.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Start containers again according to their restart policy when the daemon starts. Default true.
    pub autorestart: bool,
}

/// Where a default seccomp profile comes from.
#[derive(Clone, Debug)]
pub enum SeccompProfile {
    /// No filter.
    Unconfined,
    /// This profile.
    Json(Arc<[u8]>),
}

impl Default for Config {
    fn default() -> Config {
        Config {
            root: "/var/lib/wharf".into(),
            exec_root: "/run/wharf".into(),
            cgroup_parent: "/docker".into(),
            init: false,
            shm_size: 64 << 20,
            cgroupns: String::new(),
            ipc_mode: "private".into(),
            no_new_privileges: false,
            seccomp_profile: None,
            log: docker::LogConfig { kind: "json-file".into(), config: None },
            ulimits: Vec::new(),
            dns: Vec::new(),
            dns_options: Vec::new(),
            dns_search: Vec::new(),
            host_gateway_ips: Vec::new(),
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            autorestart: true,
        }
    }
}

/// The lower floors that an engine stands on.
pub struct Parts {
    /// The state database.
    pub db: Db,
    /// Images.
    pub images: ImageStore,
    /// Networks.
    pub net: Arc<Net>,
    /// Starts keepers.
    pub launcher: Launcher,
    /// Where events go.
    pub events: Events,
    /// Time.
    pub clock: Clock,
}

/// Many containers and their volumes. Clones share it.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

impl Engine {
    /// Takes over what an earlier daemon left: finishes removals, drops what was half created, goes on
    /// with containers that run, records the exits of those that ended, and applies restart policies.
    pub async fn open(config: Config, parts: Parts) -> Result<Engine> {
        let inner = Arc::new(Inner::new(config, parts)?);
        inner.take_over().await?;
        Ok(Engine(inner))
    }

    /// Ends the engine's own tasks. Containers go on.
    pub async fn shutdown(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// The event bus.
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// The images that containers are made from.
    pub fn images(&self) -> &ImageStore {
        &self.0.images
    }

    /// The networks that containers are on.
    pub fn net(&self) -> &Arc<Net> {
        &self.0.net
    }

    /// The settings that it was opened with.
    pub fn config(&self) -> &Config {
        &self.0.config
    }
}

/// Containers.
impl Engine {
    /// Creates a container. `name` is without a slash; `None` makes one up.
    pub async fn create(
        &self,
        name: Option<&str>,
        request: docker::CreateRequest,
        platform: Option<Platform>,
    ) -> Result<docker::CreateResponse> {
        self.create_with(name, request, platform, ReadOnly::Recursive).await
    }

    /// The same, where read-only binds of `-v` mean what they meant to the client.
    pub async fn create_with(
        &self,
        name: Option<&str>,
        request: docker::CreateRequest,
        platform: Option<Platform>,
        read_only: ReadOnly,
    ) -> Result<docker::CreateResponse> {
        let name = name.map(str::to_owned);
        let create = move |inner: &Arc<Inner>| {
            inner.create(name.as_deref(), request, platform.as_ref(), read_only)
        };
        self.0.blocking(create).await
    }

    /// Starts it; returns when its program runs.
    pub async fn start(&self, id: &str) -> Result<()> {
        let c = self.0.find(id)?;
        let inner = self.0.clone();
        self.0.finish(async move { inner.start(&c, Starter::User).await }).await
    }

    /// Stops it; returns when it has ended. Goes on when dropped.
    pub async fn stop(&self, id: &str, options: StopOptions) -> Result<()> {
        self.0.stop(&self.0.find(id)?, options).await
    }

    /// Stops it if it runs, and starts it.
    pub async fn restart(&self, id: &str, options: StopOptions) -> Result<()> {
        self.0.restart(&self.0.find(id)?, options).await
    }

    /// Sends a signal by name or number; the empty string is KILL, which also waits for the end.
    pub async fn kill(&self, id: &str, signal: &str) -> Result<()> {
        self.0.kill(&self.0.find(id)?, signal).await
    }

    /// Freezes it.
    pub async fn pause(&self, id: &str) -> Result<()> {
        self.0.pause(&self.0.find(id)?).await
    }

    /// Thaws it.
    pub async fn unpause(&self, id: &str) -> Result<()> {
        self.0.unpause(&self.0.find(id)?).await
    }

    /// Registers a waiter at once; the future resolves when the condition holds.
    pub fn wait(
        &self,
        id: &str,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = docker::WaitResponse> + Send + use<>> {
        Ok(crate::wait::wait(&*self.0.find(id)?, condition))
    }

    /// Removes it.
    pub async fn remove(&self, id: &str, options: RemoveOptions) -> Result<()> {
        let found = self.0.find(id)?;
        match options.link {
            true => self.0.unlink(id).await,
            false => self.0.remove(&found, options).await,
        }
    }

    /// Gives it another name.
    pub async fn rename(&self, id: &str, name: &str) -> Result<()> {
        self.0.rename(&self.0.find(id)?, name).await
    }

    /// Changes limits and restart policy; returns warnings.
    pub async fn update(&self, id: &str, request: docker::UpdateRequest) -> Result<Vec<String>> {
        self.0.update(&self.0.find(id)?, request).await
    }

    /// Images that containers have mounted, beside those that they run on.
    pub(crate) fn mounted_images(&self) -> Vec<wharf_image::ImageUser> {
        self.0.mounted_images()
    }

    /// Lists containers, newest first.
    pub async fn list(&self, options: ListOptions) -> Result<Vec<docker::ContainerSummary>> {
        self.0.blocking(move |inner| inner.list(&options)).await
    }

    /// Everything about one; `size` measures its disk use.
    pub async fn inspect(&self, id: &str, size: bool) -> Result<docker::ContainerInspect> {
        let c = self.0.find(id)?;
        let mut out = self.0.inspect(&c);
        if size {
            let (rw, root) = self.0.blocking(move |inner| Ok(inner.sizes(&c))).await?;
            (out.size_rw, out.size_root_fs) = (Some(rw), Some(root));
        }
        Ok(out)
    }

    /// Its processes, with the columns that `ps_args` ask for.
    pub async fn top(&self, id: &str, ps_args: &str) -> Result<docker::TopResponse> {
        let (c, args) = (self.0.find(id)?, ps_args.to_owned());
        self.0.blocking(move |inner| inner.top(&c, &args)).await
    }

    /// What differs from its image.
    pub async fn changes(&self, id: &str) -> Result<Vec<docker::FilesystemChange>> {
        let c = self.0.find(id)?;
        self.0.blocking(move |inner| inner.changes(&c)).await
    }

    /// Its file system as a tar.
    pub async fn export(&self, id: &str) -> Result<ByteStream> {
        let c = self.0.find(id)?;
        self.0.blocking(move |inner| inner.export(&c)).await
    }

    /// Its log: raw with a terminal, otherwise in frames as in [`Session::output`].
    pub async fn logs(&self, id: &str, options: LogOptions) -> Result<ByteStream> {
        self.0.logs(&self.0.find(id)?, options).await
    }

    /// Whether it has a terminal, which decides the content type of logs and attach.
    pub fn has_tty(&self, id: &str) -> Result<bool> {
        Ok(self.0.find(id)?.record().config.tty)
    }

    /// Attaches; it need not run yet.
    pub async fn attach(&self, id: &str, options: AttachOptions) -> Result<Session> {
        self.0.attach(&self.0.find(id)?, options).await
    }

    /// Sets its terminal's size.
    pub async fn resize(&self, id: &str, rows: u16, cols: u16) -> Result<()> {
        self.0.resize(&*self.0.find(id)?, rows, cols).await
    }

    /// Streams of resource use.
    pub async fn stats(
        &self,
        id: &str,
        options: StatsOptions,
    ) -> Result<impl Stream<Item = docker::Stats> + Send + 'static + use<>> {
        self.0.stats(self.0.find(id)?, options)
    }

    /// Puts it on one more network, live if it runs.
    pub async fn connect(
        &self,
        network: &str,
        id: &str,
        settings: docker::EndpointSettings,
    ) -> Result<()> {
        self.0.connect_network(network, &self.0.find(id)?, settings).await
    }

    /// Takes it off a network. By `force` what is left of a container that does not exist goes as well.
    pub async fn disconnect(&self, network: &str, id: &str, force: bool) -> Result<()> {
        match self.0.find(id) {
            Ok(c) => self.0.disconnect_network(network, &c, force).await,
            Err(_) if force => self.0.disconnect_remains(network, id).await,
            Err(e) => Err(e),
        }
    }

    /// Adds an interface to it while it runs: a port of a bridge, an interface of the host, a child of one. The
    /// interface is gone when the container ends.
    pub async fn plug(
        &self,
        id: &str,
        request: docker::InterfaceAttachRequest,
    ) -> Result<docker::InterfaceAttachResponse> {
        self.0.plug(&self.0.find(id)?, request).await
    }

    /// Takes an interface away that [`Engine::plug`] added.
    pub async fn unplug(&self, id: &str, ifname: &str) -> Result<()> {
        self.0.unplug(&self.0.find(id)?, ifname).await
    }

    /// Makes an image of it; returns the image id.
    pub async fn commit(&self, options: CommitOptions) -> Result<String> {
        let c = self.0.find(&options.container)?;
        self.0.commit(&c, options).await
    }

    /// Removes those that do not run.
    pub async fn prune(&self, filters: &Filters) -> Result<docker::ContainersPruneReport> {
        self.0.prune(filters).await
    }
}

/// Further processes in containers.
impl Engine {
    /// Describes one; returns its id.
    pub async fn exec_create(
        &self,
        id: &str,
        request: docker::ExecCreateRequest,
    ) -> Result<String> {
        self.0.exec_create(&self.0.find(id)?, request).await
    }

    /// Starts it. Attached (`Some`): the session is there before the process is, and a failure to
    /// start comes as text in it. Detached (`None`): a failure is an error.
    pub async fn exec_start(&self, exec: &str, options: ExecStart) -> Result<Option<Session>> {
        self.0.exec_start(exec, options).await
    }

    /// Everything about it.
    pub async fn exec_inspect(&self, exec: &str) -> Result<docker::ExecInspect> {
        self.0.exec_inspect(exec)
    }

    /// Sets its terminal's size.
    pub async fn exec_resize(&self, exec: &str, rows: u16, cols: u16) -> Result<()> {
        self.0.exec_resize(exec, rows, cols).await
    }
}

/// Files in containers.
impl Engine {
    /// What is at `path`.
    pub async fn archive_stat(&self, id: &str, path: &str) -> Result<docker::PathStat> {
        self.0.archive_stat(id, path).await
    }

    /// What is at `path`, and a tar of it.
    pub async fn archive_get(
        &self,
        id: &str,
        path: &str,
    ) -> Result<(docker::PathStat, ByteStream)> {
        self.0.archive_get(id, path).await
    }

    /// Unpacks `archive` (plain, gzip or zstd) into the directory `path`.
    pub async fn archive_put(
        &self,
        id: &str,
        path: &str,
        options: ArchivePut,
        archive: ByteReader,
    ) -> Result<()> {
        self.0.archive_put(id, path, options, archive).await
    }
}

/// Volumes.
impl Engine {
    /// Creates a volume, or returns the one of that name.
    pub async fn volume_create(
        &self,
        request: docker::VolumeCreateRequest,
    ) -> Result<docker::Volume> {
        self.0.blocking(move |inner| inner.volume_create(&request)).await
    }

    /// Lists volumes by name.
    pub async fn volume_list(&self, filters: &Filters) -> Result<docker::VolumeList> {
        self.0.volume_list(filters)
    }

    /// Everything about one.
    pub async fn volume_inspect(&self, name: &str) -> Result<docker::Volume> {
        Ok(self.0.volumes.docker(&self.0.volumes.find(name)?))
    }

    /// Removes it; `force` ignores that it is not there.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let name = name.to_owned();
        self.0.blocking(move |inner| inner.volume_remove(&name, force)).await
    }

    /// Removes unused anonymous volumes; with the filter `all`, named ones too.
    pub async fn volume_prune(&self, filters: &Filters) -> Result<docker::VolumesPruneReport> {
        let filters = filters.clone();
        self.0.blocking(move |inner| inner.volume_prune(&filters)).await
    }

    /// Disk use by volume name, in bytes, with how many containers use it.
    pub async fn volume_usage(&self) -> Result<Map<docker::VolumeUsage>> {
        self.0.blocking(|inner| inner.volume_usage()).await
    }
}
