//! The daemon's settings as resolved: typed, checked, with defaults, ready for the floors below.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use wharf_engine::SeccompProfile;
use wharf_engine::info::System;
use wharf_image::ProxySettings;
use wharf_net::{DefaultBridge, NetConfig, Pool};
use wharf_serve::listen::Address;
use wharf_serve::tls::TlsFiles;
use wharf_spec::docker;

use super::written::{ConfigError, Size, Written};

/// Where the main daemon keeps its state.
const ROOT: &str = "/var/lib/wharf";
/// Where the main daemon keeps what does not survive a reboot.
const EXEC_ROOT: &str = "/run/wharf";

/// Everything the daemon needs to know.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) root: PathBuf,
    pub(super) exec_root: PathBuf,
    pub(super) pidfile: PathBuf,
    pub(super) hosts: Vec<Address>,
    pub(super) group: Group,
    pub(super) tls: Tls,
    pub(super) log: Log,
    pub(super) shutdown_timeout: Duration,
    pub(super) engine: wharf_engine::Config,
    pub(super) net: NetConfig,
    /// Options of every new network, by driver.
    pub(super) network_options: BTreeMap<String, BTreeMap<String, String>>,
    pub(super) images: wharf_image::Settings,
    pub(super) build: wharf_build::Settings,
    /// A registry over the engine's images, if one is asked for.
    pub(super) registry: Option<crate::registry::Resolved>,
    /// For `docker info`; its id is filled in once the database is open.
    pub(super) system: System,
}

/// How TCP addresses are protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tls {
    /// Nothing was said: TCP addresses are refused.
    Unsaid,
    /// Plain TCP was asked for in so many words.
    Off,
    /// With these files.
    On(TlsFiles),
}

/// Who may use the unix socket besides root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// The group `docker`, if there is one.
    Default,
    /// This one; it must exist.
    Named(String),
}

/// How the daemon logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) level: tracing::level_filters::LevelFilter,
    pub(super) json: bool,
    pub(super) colour: bool,
}

/// Checks what was written and fills in what was not.
pub(super) fn resolve(written: Written) -> Result<Settings, ConfigError> {
    let root = written.data_root.clone().unwrap_or_else(|| ROOT.into());
    let exec_root = written.exec_root.clone().unwrap_or_else(|| EXEC_ROOT.into());
    Ok(Settings {
        pidfile: written.pidfile.clone().unwrap_or_else(|| exec_root.join("wharf.pid")),
        hosts: hosts(&written, &exec_root)?,
        group: written.group.clone().map_or(Group::Default, Group::Named),
        tls: tls(&written),
        log: log(&written)?,
        shutdown_timeout: Duration::from_secs(
            positive("shutdown-timeout", written.shutdown_timeout)?.unwrap_or(15),
        ),
        engine: engine(&written, &root, &exec_root)?,
        net: net(&written, &root)?,
        network_options: written.default_network_opts.clone(),
        images: images(&written)?,
        build: build(&written)?,
        registry: registry(&written)?,
        system: system(&written, &root),
        root,
        exec_root,
    })
}

fn hosts(written: &Written, exec_root: &Path) -> Result<Vec<Address>, ConfigError> {
    if written.hosts.is_empty() {
        return Ok(vec![Address::Unix(exec_root.join("docker.sock"))]);
    }
    written.hosts.iter().map(|text| parse("host", text)).collect()
}

fn tls(written: &Written) -> Tls {
    let verify = written.tlsverify == Some(true);
    if !verify && written.tls != Some(true) {
        let said = written.tls.is_some() || written.tlsverify.is_some();
        return if said { Tls::Off } else { Tls::Unsaid };
    }
    let home = std::env::var_os("DOCKER_CERT_PATH").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or("/root".into())).join(".docker"),
        PathBuf::from,
    );
    let file =
        |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| home.join(name));
    Tls::On(TlsFiles {
        cert: file(&written.tlscert, "cert.pem"),
        key: file(&written.tlskey, "key.pem"),
        client_ca: verify.then(|| file(&written.tlscacert, "ca.pem")),
    })
}

fn log(written: &Written) -> Result<Log, ConfigError> {
    use tracing::level_filters::LevelFilter;
    let level = match written.log_level.as_deref().unwrap_or("info") {
        _ if written.debug => LevelFilter::DEBUG,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" | "warning" => LevelFilter::WARN,
        "error" | "fatal" => LevelFilter::ERROR,
        other => return Err(value("log-level", other, "want debug, info, warn, error or fatal")),
    };
    let json = match written.log_format.as_deref().unwrap_or("text") {
        "text" => false,
        "json" => true,
        other => return Err(value("log-format", other, "want text or json")),
    };
    Ok(Log { level, json, colour: !written.raw_logs })
}

fn engine(
    written: &Written,
    root: &Path,
    exec_root: &Path,
) -> Result<wharf_engine::Config, ConfigError> {
    let default = wharf_engine::Config::default();
    let gateways = written.host_gateway_ips.iter().chain(&written.host_gateway_ip);
    Ok(wharf_engine::Config {
        root: root.into(),
        exec_root: exec_root.into(),
        cgroup_parent: written.cgroup_parent.clone().unwrap_or(default.cgroup_parent),
        init: written.init,
        shm_size: shm_size(written)?.unwrap_or(default.shm_size),
        cgroupns: one_of(
            "default-cgroupns-mode",
            &written.default_cgroupns_mode,
            &["", "private", "host"],
        )?
        .unwrap_or(default.cgroupns),
        ipc_mode: one_of("default-ipc-mode", &written.default_ipc_mode, &["private", "shareable"])?
            .unwrap_or(default.ipc_mode),
        no_new_privileges: written.no_new_privileges,
        seccomp_profile: seccomp(written)?,
        log: docker::LogConfig {
            kind: written.log_driver.clone().unwrap_or(default.log.kind),
            config: (!written.log_opts.is_empty()).then(|| written.log_opts.clone()),
        },
        ulimits: ulimits(written)?,
        dns: addresses("dns", &written.dns)?.iter().map(IpAddr::to_string).collect(),
        dns_options: written.dns_opts.clone(),
        dns_search: written.dns_search.clone(),
        host_gateway_ips: gateways
            .map(|t| parse("host-gateway-ips", t))
            .collect::<Result<_, _>>()?,
        cdi_spec_dirs: written.cdi_spec_dirs.clone().unwrap_or(default.cdi_spec_dirs),
        autorestart: default.autorestart,
    })
}

fn net(written: &Written, root: &Path) -> Result<NetConfig, ConfigError> {
    let instance = instance(root);
    let unspecified = |ip: &IpAddr| !ip.is_unspecified();
    let pools: Vec<Pool> = written
        .default_address_pools
        .iter()
        .map(|p| Ok(Pool { base: parse("default-address-pools", &p.base)?, size: p.size }))
        .collect::<Result<_, ConfigError>>()?;
    let default = NetConfig::default();
    Ok(NetConfig {
        bridge: bridge(written, &instance)?,
        instance,
        pools: if pools.is_empty() { default.pools } else { pools },
        publish_on: optional("ip", &written.ip)?.filter(unspecified),
        ip_forward: written.ip_forward.unwrap_or(default.ip_forward),
        mtu: match positive("mtu", written.mtu)? {
            Some(mtu) => u32::try_from(mtu).map_err(|_| value("mtu", mtu, "too large"))?,
            None => default.mtu,
        },
    })
}

fn bridge(written: &Written, instance: &str) -> Result<Option<DefaultBridge>, ConfigError> {
    let name = match written.bridge.as_deref() {
        Some("none") => return Ok(None),
        Some(name) if !name.is_empty() => name.to_owned(),
        // Daemons beside the main one get a bridge of their own, so that they do not share addresses.
        _ if instance.is_empty() => DefaultBridge::default().name,
        _ => format!("wharf{instance}"),
    };
    if written.bridge.is_some() && written.bip.is_some() {
        return Err(value(
            "bip",
            written.bip.as_deref().unwrap_or_default(),
            "you specified a bridge and bip, mutually exclusive options",
        ));
    }
    Ok(Some(DefaultBridge {
        name,
        bip: optional("bip", &written.bip)?,
        bip6: optional("bip6", &written.bip6)?,
        fixed_cidr: optional("fixed-cidr", &written.fixed_cidr)?,
        fixed_cidr_v6: optional("fixed-cidr-v6", &written.fixed_cidr_v6)?,
        gateway: optional("default-gateway", &written.default_gateway)?,
        gateway6: optional("default-gateway-v6", &written.default_gateway_v6)?,
        ipv6: written.ipv6,
        icc: written.icc.unwrap_or(true),
        masquerade: written.ip_masq.unwrap_or(true),
    }))
}

/// Tells the network objects of several daemons apart: empty for the main one, otherwise eight digits
/// that come of its data root and so stay the same.
fn instance(root: &Path) -> String {
    if root == Path::new(ROOT) {
        return String::new();
    }
    // FNV-1a: short, and fixed for ever, which the standard library's hasher is not.
    let hash =
        root.as_os_str().as_encoded_bytes().iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
    format!("{hash:08x}")
}

fn images(written: &Written) -> Result<wharf_image::Settings, ConfigError> {
    let mut settings = wharf_image::Settings::default();
    if let Some(n) = positive("max-concurrent-downloads", written.max_concurrent_downloads)? {
        settings.concurrent_downloads = usize::try_from(n).unwrap_or(usize::MAX);
    }
    if let Some(n) = positive("max-concurrent-uploads", written.max_concurrent_uploads)? {
        settings.concurrent_uploads = usize::try_from(n).unwrap_or(usize::MAX);
    }
    if let Some(n) = positive("max-download-attempts", written.max_download_attempts)? {
        settings.download_attempts = u32::try_from(n).unwrap_or(u32::MAX);
    }
    settings.registries.hub_mirrors.clone_from(&written.registry_mirrors);
    settings.registries.insecure.clone_from(&written.insecure_registries);
    settings.registries.proxy = proxies(written);
    Ok(settings)
}

fn registry(written: &Written) -> Result<Option<crate::registry::Resolved>, ConfigError> {
    use crate::registry::{Written as Registry, resolve};
    let Some(addr) = &written.registry_addr else {
        return match &written.registry_config {
            Some(path) => {
                let why = "it has no effect without registry-addr";
                Err(value("registry-config", path.to_string_lossy(), why))
            }
            None => Ok(None),
        };
    };
    let resolved = resolve(Registry::at(addr), written.registry_config.as_deref());
    resolved.map(Some).map_err(|e| value("registry-addr", addr, &format!("{e:#}")))
}

fn proxies(written: &Written) -> ProxySettings {
    let from_env = ProxySettings::from_env();
    let pick = |flag: &Option<String>, file: &Option<String>, env: String| {
        flag.clone().or_else(|| file.clone()).unwrap_or(env)
    };
    ProxySettings {
        http: pick(&written.http_proxy, &written.proxies.http_proxy, from_env.http),
        https: pick(&written.https_proxy, &written.proxies.https_proxy, from_env.https),
        none: pick(&written.no_proxy, &written.proxies.no_proxy, from_env.none),
    }
}

fn system(written: &Written, root: &Path) -> System {
    let proxy = proxies(written);
    System {
        id: String::new(),
        root: root.into(),
        labels: written.labels.clone(),
        debug: written.debug,
        experimental: written.experimental,
        log_driver: written.log_driver.clone().unwrap_or_else(|| "json-file".into()),
        insecure_registries: written.insecure_registries.clone(),
        registry_mirrors: written.registry_mirrors.clone(),
        pools: written
            .default_address_pools
            .iter()
            .map(|p| docker::AddressPool { base: p.base.clone(), size: p.size.into() })
            .collect(),
        cdi_spec_dirs: written.cdi_spec_dirs.as_ref().map_or_else(
            || vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            |dirs| dirs.iter().map(|d| d.display().to_string()).collect(),
        ),
        proxies: [proxy.http, proxy.https, proxy.none],
        init: written.init,
    }
}

fn seccomp(written: &Written) -> Result<Option<SeccompProfile>, ConfigError> {
    match written.seccomp_profile.as_deref() {
        None | Some("" | "builtin" | "default") => Ok(None),
        Some("unconfined") => Ok(Some(SeccompProfile::Unconfined)),
        Some(path) => match std::fs::read(path) {
            Ok(json) => Ok(Some(SeccompProfile::Json(json.into()))),
            Err(e) => Err(value("seccomp-profile", path, &e.to_string())),
        },
    }
}

fn ulimits(written: &Written) -> Result<Vec<docker::Ulimit>, ConfigError> {
    let named = written.default_ulimits.iter().map(|(name, limit)| {
        if limit.soft > limit.hard && limit.hard != -1 {
            return Err(value(
                "default-ulimits",
                name,
                "the soft limit must not be above the hard limit",
            ));
        }
        Ok(docker::Ulimit { name: name.clone(), ..limit.clone() })
    });
    named.collect()
}

fn shm_size(written: &Written) -> Result<Option<i64>, ConfigError> {
    size("default-shm-size", &written.default_shm_size)
}

fn size(key: &'static str, size: &Option<Size>) -> Result<Option<i64>, ConfigError> {
    let wrong = |text: &str| value(key, text, "want bytes, or a number with k, m or g");
    match size {
        None => Ok(None),
        Some(Size::Bytes(n)) => Ok(Some(*n)),
        Some(Size::Text(text)) => bytes(text).map(Some).ok_or_else(|| wrong(text)),
    }
}

fn build(written: &Written) -> Result<wharf_build::Settings, ConfigError> {
    let gc = &written.builder.gc;
    let old = size("builder.gc.defaultKeepStorage", &gc.default_keep_storage)?;
    let keep = size("builder.gc.defaultReservedSpace", &gc.default_reserved_space)?.or(old);
    Ok(wharf_build::Settings {
        collect: gc.enabled.unwrap_or(true),
        keep_bytes: positive("builder.gc.defaultKeepStorage", keep)?,
    })
}

/// A size with a binary unit: `64M`, `1.5GiB`, `1024`.
fn bytes(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(lower.len());
    let shift = match lower[end..].trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let number: f64 = lower[..end].trim().parse().ok().filter(|n| *n >= 0.0)?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "saturates, and sizes are rounded"
    )]
    Some((number * (1_i64 << shift) as f64) as i64)
}

/// Where a TCP address listens: the port that was given, or the one of plain or of protected traffic.
pub(super) fn tcp_port(ip: IpAddr, port: Option<u16>, tls: &Tls) -> SocketAddr {
    let default = if matches!(tls, Tls::On(_)) { 2376 } else { 2375 };
    SocketAddr::new(ip, port.unwrap_or(default))
}

fn addresses(key: &'static str, texts: &[String]) -> Result<Vec<IpAddr>, ConfigError> {
    texts.iter().map(|t| parse(key, t)).collect()
}

fn optional<T: FromStr>(key: &'static str, text: &Option<String>) -> Result<Option<T>, ConfigError>
where
    T::Err: std::fmt::Display,
{
    text.as_deref().filter(|t| !t.is_empty()).map(|t| parse(key, t)).transpose()
}

fn parse<T: FromStr>(key: &'static str, text: &str) -> Result<T, ConfigError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| value(key, text, &e.to_string()))
}

fn positive(key: &'static str, number: Option<i64>) -> Result<Option<u64>, ConfigError> {
    match number {
        None => Ok(None),
        Some(n) => u64::try_from(n).map(Some).map_err(|_| value(key, n, "must not be negative")),
    }
}

fn one_of(
    key: &'static str,
    text: &Option<String>,
    allowed: &[&str],
) -> Result<Option<String>, ConfigError> {
    match text {
        Some(t) if !allowed.contains(&t.as_str()) => {
            Err(value(key, t, &format!("want one of {}", allowed.join(", "))))
        }
        other => Ok(other.clone()),
    }
}

fn value(key: &'static str, value: impl ToString, why: &str) -> ConfigError {
    ConfigError::Value { key, value: value.to_string(), why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: serde_json::Value) -> Result<Settings, ConfigError> {
        resolve(serde_json::from_value(json).unwrap())
    }

    #[test]
    fn defaults_hang_on_the_roots() {
        let s = settings(serde_json::json!({"data-root": "/a", "exec-root": "/b"})).unwrap();
        assert_eq!(s.hosts, [Address::Unix("/b/docker.sock".into())]);
        assert_eq!(s.pidfile, Path::new("/b/wharf.pid"));
        let bridge = s.net.bridge.unwrap().name;
        assert_eq!((bridge.len(), s.net.instance.len()), (13, 8));
        let main = settings(serde_json::json!({})).unwrap();
        assert_eq!(
            (main.net.instance.as_str(), main.net.bridge.unwrap().name.as_str()),
            ("", "docker0")
        );
    }

    #[test]
    fn plain_tcp_must_be_asked_for() {
        let tls = |json| settings(json).unwrap().tls;
        assert_eq!(tls(serde_json::json!({})), Tls::Unsaid);
        assert_eq!(tls(serde_json::json!({"tls": false})), Tls::Off);
        let Tls::On(files) = tls(serde_json::json!({"tlsverify": true, "tlscert": "/c"})) else {
            panic!("no TLS")
        };
        assert_eq!(files.cert, Path::new("/c"));
        assert!(files.client_ca.is_some());
        let Tls::On(files) = tls(serde_json::json!({"tls": true})) else { panic!("no TLS") };
        assert_eq!(files.client_ca, None);
    }

    #[test]
    fn nonsense_is_named() {
        for (json, text) in [
            (serde_json::json!({"hosts": ["ftp://x"]}), "invalid host \"ftp://x\""),
            (serde_json::json!({"bip": "1.2.3"}), "invalid bip \"1.2.3\""),
            (serde_json::json!({"mtu": -1}), "invalid mtu \"-1\": must not be negative"),
            (serde_json::json!({"log-level": "loud"}), "invalid log-level \"loud\""),
            (serde_json::json!({"default-shm-size": "much"}), "invalid default-shm-size \"much\""),
            (
                serde_json::json!({"default-ipc-mode": "x"}),
                "invalid default-ipc-mode \"x\": want one of",
            ),
        ] {
            let got = settings(json).unwrap_err().to_string();
            assert!(got.starts_with(text), "{got}");
        }
    }

    #[test]
    fn the_build_cache_has_a_watermark() {
        let build = |gc| settings(serde_json::json!({ "builder": { "gc": gc } })).map(|s| s.build);
        let keep = serde_json::json!({ "enabled": false, "defaultKeepStorage": "2GB" });
        let found = build(keep).unwrap();
        assert_eq!((found.collect, found.keep_bytes), (false, Some(2 << 30)));
        assert!(build(serde_json::json!({ "defaultKeepStorage": "2x" })).is_err());
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, expected) in [
            ("64M", Some(64 << 20)),
            ("1.5g", Some(3 << 29)),
            ("100", Some(100)),
            ("5x", None),
            ("-1", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
