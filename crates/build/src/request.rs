//! A build as data: the Dockerfile and every option.

use std::collections::BTreeMap;

use wharf_spec::docker::Resources;
use wharf_spec::platform::Platform;

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The Dockerfile's name, for messages and for `<name>.dockerignore`. Default `Dockerfile`.
    pub dockerfile_name: String,
    /// The Dockerfile itself.
    pub dockerfile: Vec<u8>,
    /// `.dockerignore`: the one beside the Dockerfile or the one in the context. Whoever brings a context
    /// looks for it, since it knows where the Dockerfile is. Applied to the build context alone.
    pub dockerignore: Option<Vec<u8>>,
    /// Stage to stop at, by name or number; `None` is the last.
    pub target: Option<String>,
    /// `--build-arg`.
    pub args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--platform`; `None` is this host's. One that the host cannot run is refused by the first `RUN`.
    pub platform: Option<Platform>,
    /// Ask registries for base images even if they are here.
    pub pull: bool,
    /// What not to take from the cache.
    pub no_cache: NoCache,
    /// Network of `RUN`s that do not say.
    pub network: NetworkMode,
    /// `--add-host`, as `name:address`.
    pub extra_hosts: Vec<String>,
    /// Limits of every `RUN`: memory, cpu, ulimits, cgroup parent.
    pub resources: Resources,
    /// Bytes of `/dev/shm`; 0 is the default.
    pub shm_size: i64,
    /// Host name in `RUN`; empty is `buildkitsandbox`.
    pub hostname: String,
    /// `--allow network.host` and `--allow security.insecure`.
    pub allow: Allow,
    /// Images whose embedded cache may be used (`--cache-from`).
    pub cache_from: Vec<String>,
    /// With `cache_from`, take from the engine's own cache only what those images are made of, as docker's classic
    /// builder does. Default false: both caches count, as with BuildKit.
    pub cache_from_alone: bool,
    /// Embed the cache in the image (`BUILDKIT_INLINE_CACHE=1`, `--cache-to type=inline`).
    pub inline_cache: bool,
    /// Which cache mounts are shared with whom: builds with the same text share. Default: all.
    pub cache_namespace: String,
    /// Only look for what is odd (`--check`): no instruction is carried out.
    pub check: bool,
    /// Who asked, for the history.
    pub reference: String,
}

/// What needs permission.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allow {
    /// `RUN --network=host`.
    pub network_host: bool,
    /// `RUN --security=insecure`.
    pub security_insecure: bool,
}

/// What not to take from the cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NoCache {
    /// Use it.
    #[default]
    Nothing,
    /// `--no-cache`.
    All,
    /// `--no-cache-filter`: these stages.
    Stages(Vec<String>),
}

/// Which network a `RUN` is on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// The default bridge.
    #[default]
    Default,
    /// Loopback alone.
    None,
    /// The host's.
    Host,
    /// A network of wharf, or `container:ID`.
    Named(String),
}

impl NetworkMode {
    /// Reads `--network`.
    pub fn parse(text: &str) -> NetworkMode {
        match text {
            "" | "default" | "bridge" => NetworkMode::Default,
            "none" => NetworkMode::None,
            "host" => NetworkMode::Host,
            other => NetworkMode::Named(other.to_owned()),
        }
    }
}
