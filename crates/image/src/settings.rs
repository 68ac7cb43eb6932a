//! Settings of the store, resolved: the daemon's flags and files are read elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use wharf_base::clock::Clock;
use wharf_spec::platform::Platform;

/// How the store behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What images are pulled for when nothing else is asked. Default: this machine.
    pub platform: Platform,
    /// Layers downloaded at the same time per pull (`max-concurrent-downloads`). Default 3, at least 1.
    pub concurrent_downloads: usize,
    /// Blobs uploaded at the same time per push (`max-concurrent-uploads`). Default 5, at least 1.
    pub concurrent_uploads: usize,
    /// Attempts per download before giving up (`max-download-attempts`). Default 5, at least 1.
    pub download_attempts: u32,
    /// Threads that create files while a layer is unpacked. Default: the number of cores, 2 to 4.
    pub unpack_threads: usize,
    /// Bounds on what a layer may contain.
    pub limits: UnpackLimits,
    /// How registries are reached.
    pub registries: RegistrySettings,
    /// The program that builtin images are made from. Default `/proc/self/exe`.
    pub program: PathBuf,
    /// Time.
    pub clock: Clock,
}

impl Default for Settings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            platform: Platform::host(),
            concurrent_downloads: 3,
            concurrent_uploads: 5,
            download_attempts: 5,
            unpack_threads: cores.clamp(2, 4),
            limits: UnpackLimits::default(),
            registries: RegistrySettings::default(),
            program: "/proc/self/exe".into(),
            clock: Clock::system(),
        }
    }
}

/// Bounds on what a layer may contain, so that a small download cannot fill the disk.
#[derive(Debug, Clone)]
pub struct UnpackLimits {
    /// Bytes of file content per layer. Default 256 GiB.
    pub bytes: u64,
    /// Entries per layer. Default 10 million.
    pub entries: u64,
    /// Bytes of free space that unpacking must leave on the disk. Default 64 MiB.
    pub keep_free: u64,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self { bytes: 256 << 30, entries: 10_000_000, keep_free: 64 << 20 }
    }
}

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// Mirrors of Docker Hub, tried in order before it (`registry-mirrors`).
    pub hub_mirrors: Vec<String>,
    /// Registries that may be spoken to without TLS or with a certificate that does not verify: `host`,
    /// `host:port` or a CIDR block (`insecure-registries`). Loopback always may.
    pub insecure: Vec<String>,
    /// Directory of `<host>/hosts.toml` files: mirrors for any registry. Default `/etc/wharf/certs.d`.
    pub hosts_dir: PathBuf,
    /// Directory of `<host>/{*.crt,*.cert,*.key}`. Default `/etc/docker/certs.d`.
    pub certs_dir: PathBuf,
    /// The machine's certificate authorities. Default `/etc/ssl/certs/ca-certificates.crt`.
    pub ca_bundle: PathBuf,
    /// Proxies, as `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name them.
    pub proxy: ProxySettings,
    /// A transfer in which no byte arrives for this long has stalled and is resumed. Default 30 s.
    pub stall: Duration,
    /// How long a registry that may speak no TLS has to show that it does. A server of plain HTTP may wait in silence
    /// for the end of a line that a TLS client never sends. Default 3 s.
    pub greeting: Duration,
    /// First pause between attempts; doubles each time, with jitter. Default 500 ms.
    pub retry_pause: Duration,
    /// Longest pause, also of one that the server asks for. Default 60 s.
    pub retry_pause_max: Duration,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            hub_mirrors: Vec::new(),
            insecure: Vec::new(),
            hosts_dir: "/etc/wharf/certs.d".into(),
            certs_dir: "/etc/docker/certs.d".into(),
            ca_bundle: wharf_tls::system_bundle().to_owned(),
            proxy: ProxySettings::default(),
            stall: Duration::from_secs(30),
            greeting: Duration::from_secs(3),
            retry_pause: Duration::from_millis(500),
            retry_pause_max: Duration::from_secs(60),
        }
    }
}

/// Proxies. Empty means none.
#[derive(Debug, Clone, Default)]
pub struct ProxySettings {
    /// For plain HTTP: `http://[user:password@]host:port`.
    pub http: String,
    /// For HTTPS.
    pub https: String,
    /// Hosts, `.suffixes` and CIDR blocks that go direct, separated by commas; `*` is all.
    pub none: String,
}

impl ProxySettings {
    /// What the environment names; lower-case names win, as in curl.
    pub fn from_env() -> Self {
        let read = |name: &str| {
            std::env::var(name.to_lowercase()).or_else(|_| std::env::var(name)).unwrap_or_default()
        };
        Self { http: read("HTTP_PROXY"), https: read("HTTPS_PROXY"), none: read("NO_PROXY") }
    }
}
