//! What `docker version`, `docker info` and `docker system df` tell about the engine and its host.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use wharf_base::db::{Batch, Db, DbError, Durability};
use wharf_spec::docker::{self, Map};

use crate::error::{EngineError, Result};
use crate::images::{Images, ListImages};
use crate::options::ListOptions;
use crate::{Engine, filters::Filters};

/// The product's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The version of Docker that clients are told they speak with: several parse and compare it.
pub const DOCKER_VERSION: &str = "28.5.2";

/// Facts and settings that these answers need.
#[derive(Clone, Debug, Default)]
pub struct System {
    /// Random, and the same for the life of the data root.
    pub id: String,
    /// The data root.
    pub root: PathBuf,
    /// Labels of the daemon, `key=value`.
    pub labels: Vec<String>,
    /// Whether debug logging is on.
    pub debug: bool,
    /// Whether `experimental` was asked for.
    pub experimental: bool,
    /// The default log driver.
    pub log_driver: String,
    /// Registries that may be spoken to without TLS.
    pub insecure_registries: Vec<String>,
    /// Mirrors of Docker Hub.
    pub registry_mirrors: Vec<String>,
    /// Address pools that were configured; empty for the built-in ones.
    pub pools: Vec<docker::AddressPool>,
    /// Directories of CDI descriptions.
    pub cdi_spec_dirs: Vec<String>,
    /// Proxies of the daemon: for HTTP, for HTTPS, and for whom there is none.
    pub proxies: [String; 3],
    /// Wharf's init is put before every container.
    pub init: bool,
}

/// What disk use is asked for.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "any set of the four may be asked for")]
pub struct Usage {
    /// Containers.
    pub containers: bool,
    /// Images.
    pub images: bool,
    /// Volumes.
    pub volumes: bool,
    /// The build cache.
    pub build_cache: bool,
}

/// The daemon's id, made on the first start.
pub fn engine_id(db: &Db) -> std::result::Result<String, DbError> {
    if let Some(id) = db.get::<String>("daemon", "id")? {
        return Ok(id);
    }
    let hex = wharf_base::Id::random().to_string();
    let id =
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]);
    let mut batch = Batch::new();
    batch.put("daemon", "id", &id)?;
    db.write(batch, Durability::Power)?;
    Ok(id)
}

/// `GET /version`.
pub fn version(api: &str, min_api: &str, experimental: bool) -> docker::Version {
    let kernel = proc_line("/proc/sys/kernel/osrelease");
    let details = |pairs: &[(&str, &str)]| -> Map<String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let engine = docker::Component {
        name: "Engine".into(),
        version: DOCKER_VERSION.into(),
        details: details(&[
            ("ApiVersion", api),
            ("Arch", go_arch()),
            ("BuildTime", BUILD_TIME),
            ("Experimental", if experimental { "true" } else { "false" }),
            ("GitCommit", COMMIT),
            ("GoVersion", "none"),
            ("KernelVersion", &kernel),
            ("MinAPIVersion", min_api),
            ("Os", "linux"),
        ]),
    };
    let wharf = docker::Component {
        name: "wharf".into(),
        version: VERSION.into(),
        details: details(&[("GitCommit", COMMIT)]),
    };
    docker::Version {
        platform: docker::VersionPlatform { name: format!("wharf {VERSION}") },
        components: vec![engine, wharf],
        version: DOCKER_VERSION.into(),
        api_version: api.into(),
        min_api_version: min_api.into(),
        git_commit: COMMIT.into(),
        go_version: "none".into(),
        os: "linux".into(),
        arch: go_arch().into(),
        kernel_version: kernel,
        build_time: BUILD_TIME.into(),
        experimental,
    }
}

/// `GET /info`.
pub async fn info(system: &System, engine: &Engine, images: &Images) -> Result<docker::Info> {
    let list = engine.list(ListOptions { all: true, ..ListOptions::default() }).await?;
    let count = |state: &str| list.iter().filter(|c| c.state == state).count();
    let (running, paused) = (count("running") + count("restarting"), count("paused"));
    let cgroups = Cgroups::read();
    let [http_proxy, https_proxy, no_proxy] = system.proxies.clone();
    Ok(docker::Info {
        id: system.id.clone(),
        containers: number(list.len()),
        containers_running: number(running),
        containers_paused: number(paused),
        containers_stopped: number(list.len() - running - paused),
        images: number(images.store().list().len()),
        driver: "overlay2".into(),
        driver_status: driver_status(&system.root),
        plugins: plugins(),
        memory_limit: cgroups.memory,
        swap_limit: cgroups.swap,
        cpu_cfs_period: cgroups.quota,
        cpu_cfs_quota: cgroups.quota,
        cpu_shares: cgroups.cpu,
        cpu_set: cgroups.cpuset,
        pids_limit: cgroups.pids,
        oom_kill_disable: cgroups.oom_disable,
        ipv4_forwarding: proc_line("/proc/sys/net/ipv4/ip_forward") == "1",
        debug: system.debug,
        n_fd: std::fs::read_dir("/proc/self/fd").map_or(0, |d| number(d.count())),
        // What a goroutine is to dockerd.
        n_goroutines: tokio::runtime::Handle::try_current()
            .map_or(0, |h| number(h.metrics().num_alive_tasks()).max(1)),
        n_events_listener: number(engine.events().listeners()),
        system_time: docker::rfc3339(now()),
        logging_driver: system.log_driver.clone(),
        cgroup_driver: "cgroupfs".into(),
        cgroup_version: if cgroups.v2 { "2" } else { "1" }.into(),
        kernel_version: proc_line("/proc/sys/kernel/osrelease"),
        operating_system: os_release("PRETTY_NAME").unwrap_or_else(|| "Linux".into()),
        os_version: os_release("VERSION_ID").unwrap_or_default(),
        os_type: "linux".into(),
        architecture: std::env::consts::ARCH.into(),
        index_server_address: "https://index.docker.io/v1/".into(),
        registry_config: registries(system),
        n_cpu: std::thread::available_parallelism().map_or(1, |n| number(n.get())),
        mem_total: mem_total(),
        docker_root_dir: system.root.display().to_string(),
        http_proxy,
        https_proxy,
        no_proxy,
        name: proc_line("/proc/sys/kernel/hostname"),
        labels: system.labels.clone(),
        experimental_build: system.experimental,
        server_version: DOCKER_VERSION.into(),
        runtimes: runtimes(),
        default_runtime: "wharf".into(),
        swarm: docker::SwarmInfo { local_node_state: "inactive".into(), ..Default::default() },
        live_restore_enabled: true,
        init_binary: "wharf".into(),
        containerd_commit: commit(),
        runc_commit: commit(),
        init_commit: commit(),
        security_options: security_options(),
        default_address_pools: (!system.pools.is_empty()).then(|| system.pools.clone()),
        firewall_backend: Some(docker::FirewallInfo { driver: "nftables".into(), info: None }),
        cdi_spec_dirs: system.cdi_spec_dirs.clone(),
        warnings: cgroups.warnings(),
        ..docker::Info::default()
    })
}

/// `GET /system/df`, in the shape of 1.51; [`crate::info::Usage`] says which parts.
pub async fn disk_usage(
    engine: &Engine,
    images: &Images,
    want: Usage,
) -> Result<docker::DiskUsage> {
    let mut usage = docker::DiskUsage::default();
    if want.containers {
        let options = ListOptions { all: true, size: true, ..ListOptions::default() };
        usage.containers = Some(engine.list(options).await?);
    }
    if want.images {
        let (images, users) = (images.clone(), crate::images::users(engine).await?);
        let measured = tokio::task::spawn_blocking(move || {
            let how = ListImages { all: true, shared_size: true, ..ListImages::default() };
            let layers = images.store().usage()?.layers;
            Ok::<_, EngineError>((layers, images.list(&how, &users)?))
        });
        let (layers, list) =
            measured.await.map_err(|e| EngineError::system("measure images", e))??;
        usage.layers_size = i64::try_from(layers).unwrap_or(i64::MAX);
        usage.images = Some(list);
    }
    if want.volumes {
        let mut volumes = engine.volume_list(&Filters::default()).await?.volumes;
        let mut sizes = engine.volume_usage().await?;
        for volume in &mut volumes {
            volume.usage_data = sizes.remove(&volume.name);
        }
        usage.volumes = Some(volumes);
    }
    if want.build_cache {
        usage.build_cache = Some(Vec::new());
    }
    Ok(usage)
}

const COMMIT: &str = match option_env!("WHARF_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
/// Fixed, so that builds are reproducible; clients only want a time that parses.
const BUILD_TIME: &str = "2026-01-01T00:00:00.000000000+00:00";

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn commit() -> docker::Commit {
    docker::Commit { id: format!("wharf-{VERSION}") }
}

fn runtimes() -> Map<docker::RuntimeInfo> {
    let own = docker::RuntimeInfo { path: "wharf".into(), status: None };
    // `runc` too: tools look for that key, and it means the same built-in runtime.
    [("wharf".to_owned(), own.clone()), ("runc".to_owned(), own)].into()
}

fn plugins() -> docker::PluginsInfo {
    let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    docker::PluginsInfo {
        volume: list(&["local"]),
        network: list(&["bridge", "host", "ipvlan", "macvlan", "null"]),
        authorization: None,
        log: list(&["json-file", "local", "none"]),
    }
}

/// With the slash at the end that Docker gives them.
fn mirrors(system: &System) -> Vec<String> {
    system.registry_mirrors.iter().map(|m| format!("{}/", m.trim_end_matches('/'))).collect()
}

fn registries(system: &System) -> docker::RegistryConfig {
    let is_block = |r: &&String| r.contains('/');
    let mut blocks: Vec<String> =
        system.insecure_registries.iter().filter(is_block).cloned().collect();
    blocks.extend(["::1/128".into(), "127.0.0.0/8".into()]);
    let hub = docker::IndexConfig {
        name: "docker.io".into(),
        mirrors: mirrors(system),
        secure: true,
        official: true,
    };
    let mut indexes: Map<docker::IndexConfig> = [("docker.io".to_owned(), hub)].into();
    for name in system.insecure_registries.iter().filter(|r| !is_block(r)) {
        let index = docker::IndexConfig { name: name.clone(), ..Default::default() };
        indexes.insert(name.clone(), index);
    }
    docker::RegistryConfig {
        insecure_registry_cidrs: blocks,
        index_configs: indexes,
        mirrors: (!system.registry_mirrors.is_empty()).then(|| mirrors(system)),
        ..Default::default()
    }
}

fn driver_status(root: &Path) -> Vec<[String; 2]> {
    let pair = |k: &str, v: &str| [k.to_owned(), v.to_owned()];
    vec![
        pair("Backing Filesystem", &backing_file_system(root)),
        pair("Supports d_type", "true"),
        pair("Using metacopy", "false"),
        pair("Native Overlay Diff", "true"),
        pair("userxattr", "false"),
    ]
}

/// The type of the mount that holds `root`: the longest mount point that is a prefix of it.
fn backing_file_system(root: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let candidates = mounts.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        let point = Path::new(mount.split(' ').nth(4)?);
        root.starts_with(point).then(|| (point.as_os_str().len(), rest.split(' ').next()))
    });
    let kind = candidates.max_by_key(|(len, _)| *len).and_then(|(_, kind)| kind);
    match kind.unwrap_or("unknown") {
        // The name by which the kernel's magic number is known.
        "ext2" | "ext3" | "ext4" => "extfs".into(),
        other => other.into(),
    }
}

fn security_options() -> Vec<String> {
    let mut options = Vec::new();
    let lsm = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if lsm.split(',').any(|l| l.trim() == "apparmor") {
        options.push("name=apparmor".into());
    }
    options.push("name=seccomp,profile=builtin".into());
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        options.push("name=cgroupns".into());
    }
    options
}

/// What the host's cgroups can do.
#[allow(clippy::struct_excessive_bools, reason = "each is one line of docker info")]
struct Cgroups {
    v2: bool,
    memory: bool,
    swap: bool,
    cpu: bool,
    quota: bool,
    cpuset: bool,
    pids: bool,
    oom_disable: bool,
}

impl Cgroups {
    fn read() -> Cgroups {
        let base = Path::new("/sys/fs/cgroup");
        match std::fs::read_to_string(base.join("cgroup.controllers")) {
            Ok(controllers) => Cgroups::v2(&controllers),
            Err(_) => Cgroups::v1(base),
        }
    }

    fn v2(controllers: &str) -> Cgroups {
        let has = |name: &str| controllers.split_whitespace().any(|c| c == name);
        let memory = has("memory");
        Cgroups {
            v2: true,
            memory,
            swap: memory && Path::new("/proc/swaps").exists(),
            cpu: has("cpu"),
            quota: has("cpu"),
            cpuset: has("cpuset"),
            pids: has("pids"),
            oom_disable: false,
        }
    }

    fn v1(base: &Path) -> Cgroups {
        let has = |file: &str| base.join(file).exists();
        let memory = has("memory/memory.limit_in_bytes");
        Cgroups {
            v2: false,
            memory,
            swap: has("memory/memory.memsw.limit_in_bytes"),
            cpu: has("cpu/cpu.shares"),
            // The root group has no quota; a kernel without it lacks the period file below too.
            quota: has("cpu/cpu.stat") || has("cpu/cpu.cfs_period_us"),
            cpuset: has("cpuset/cpuset.cpus"),
            pids: has("pids"),
            oom_disable: memory,
        }
    }

    fn warnings(&self) -> Option<Vec<String>> {
        let lacking = [
            (self.memory, "No memory limit support"),
            (self.swap, "No swap limit support"),
            (self.cpu, "No cpu shares support"),
            (self.quota, "No cpu cfs quota support"),
            (self.cpuset, "No cpuset support"),
            (self.pids, "No pids limit support"),
        ];
        let texts: Vec<String> = lacking
            .iter()
            .filter(|(has, _)| !has)
            .map(|(_, text)| format!("WARNING: {text}"))
            .collect();
        (!texts.is_empty()).then_some(texts)
    }
}

fn proc_line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn os_release(key: &str) -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release")
        .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
        .ok()?;
    let value = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_owned())
}

fn mem_total() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap_or_default();
    kib.trim().trim_end_matches(" kB").parse::<i64>().unwrap_or(0) * 1024
}

fn number(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_id_stays() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        let id = engine_id(&db).unwrap();
        assert_eq!((id.len(), engine_id(&db).unwrap()), (36, id.clone()));
    }

    #[test]
    fn missing_controllers_are_warned_of() {
        let groups = Cgroups::v2("cpu memory pids");
        assert_eq!(groups.warnings().unwrap(), ["WARNING: No cpuset support"]);
        assert_eq!(Cgroups::v2("cpuset cpu memory pids").warnings(), None);
    }

    #[test]
    fn the_host_is_described() {
        assert!(mem_total() > 1 << 20);
        assert!(!backing_file_system(Path::new("/")).is_empty());
        let version = version("1.53", "1.24", false);
        assert_eq!(version.components[0].details["ApiVersion"], "1.53");
    }
}
