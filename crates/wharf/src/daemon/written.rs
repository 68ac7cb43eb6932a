//! The daemon's settings as written: flags and daemon.json, checked against the table and merged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use wharf_spec::docker;

use super::table::{self, Fate, Form, SETTINGS};

/// Where the configuration file is looked for.
const CONFIG_FILE: &str = "/etc/wharf/daemon.json";

/// Settings that have dockerd's meaning, as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Written {
    pub(super) hosts: Vec<String>,
    pub(super) data_root: Option<PathBuf>,
    pub(super) exec_root: Option<PathBuf>,
    pub(super) pidfile: Option<PathBuf>,
    pub(super) group: Option<String>,
    pub(super) debug: bool,
    pub(super) log_level: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) raw_logs: bool,
    pub(super) tls: Option<bool>,
    pub(super) tlsverify: Option<bool>,
    pub(super) tlscacert: Option<PathBuf>,
    pub(super) tlscert: Option<PathBuf>,
    pub(super) tlskey: Option<PathBuf>,
    pub(super) log_driver: Option<String>,
    pub(super) log_opts: BTreeMap<String, String>,
    pub(super) labels: Vec<String>,
    pub(super) insecure_registries: Vec<String>,
    pub(super) registry_mirrors: Vec<String>,
    pub(super) max_concurrent_downloads: Option<i64>,
    pub(super) max_download_attempts: Option<i64>,
    pub(super) max_concurrent_uploads: Option<i64>,
    pub(super) registry_addr: Option<String>,
    pub(super) registry_config: Option<PathBuf>,
    pub(super) http_proxy: Option<String>,
    pub(super) https_proxy: Option<String>,
    pub(super) no_proxy: Option<String>,
    pub(super) proxies: Proxies,
    pub(super) bridge: Option<String>,
    pub(super) bip: Option<String>,
    pub(super) bip6: Option<String>,
    pub(super) fixed_cidr: Option<String>,
    pub(super) fixed_cidr_v6: Option<String>,
    pub(super) default_gateway: Option<String>,
    pub(super) default_gateway_v6: Option<String>,
    pub(super) ipv6: bool,
    pub(super) icc: Option<bool>,
    pub(super) ip_masq: Option<bool>,
    pub(super) ip_forward: Option<bool>,
    pub(super) ip: Option<String>,
    pub(super) mtu: Option<i64>,
    pub(super) default_address_pools: Vec<WrittenPool>,
    pub(super) default_network_opts: BTreeMap<String, BTreeMap<String, String>>,
    pub(super) dns: Vec<String>,
    pub(super) dns_opts: Vec<String>,
    pub(super) dns_search: Vec<String>,
    pub(super) host_gateway_ips: Vec<String>,
    pub(super) host_gateway_ip: Option<String>,
    pub(super) cgroup_parent: Option<String>,
    pub(super) default_cgroupns_mode: Option<String>,
    pub(super) default_ipc_mode: Option<String>,
    pub(super) default_shm_size: Option<Size>,
    pub(super) default_ulimits: BTreeMap<String, docker::Ulimit>,
    pub(super) init: bool,
    pub(super) no_new_privileges: bool,
    pub(super) seccomp_profile: Option<String>,
    pub(super) cdi_spec_dirs: Option<Vec<PathBuf>>,
    pub(super) shutdown_timeout: Option<i64>,
    pub(super) experimental: bool,
    pub(super) builder: Builder,
}

/// `builder` in the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Builder {
    pub(super) gc: Collection,
}

/// `builder.gc` in the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Collection {
    pub(super) enabled: Option<bool>,
    pub(super) default_keep_storage: Option<Size>,
    /// Its name since Docker 28.
    pub(super) default_reserved_space: Option<Size>,
}

/// `proxies` in the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub(super) struct Proxies {
    pub(super) http_proxy: Option<String>,
    pub(super) https_proxy: Option<String>,
    pub(super) no_proxy: Option<String>,
}

/// One of `default-address-pools`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct WrittenPool {
    pub(super) base: String,
    pub(super) size: u8,
}

/// Bytes, as a number or as text with a unit.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Size {
    /// Bytes.
    Bytes(i64),
    /// `64M` and the like.
    Text(String),
}

/// Settings that cannot be used. Texts are dockerd's where it has one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("unable to configure the daemon with file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a JSON object.
    #[error("unable to configure the daemon with file {path}: invalid JSON")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Keys that are not settings.
    #[error(
        "unable to configure the daemon with file {path}: the following directives don't match any configuration option: {keys}"
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The keys, separated by commas.
        keys: String,
    },
    /// Settings in both places.
    #[error(
        "unable to configure the daemon with file {path}: the following directives are specified both as a flag and in the configuration file: {conflicts}"
    )]
    Twice {
        /// The file.
        path: PathBuf,
        /// Each with both values.
        conflicts: String,
    },
    /// A value of the wrong type.
    #[error("invalid setting")]
    Type(#[source] serde_json::Error),
    /// A value that makes no sense.
    #[error("invalid {key} {value:?}: {why}")]
    Value {
        /// The setting.
        key: &'static str,
        /// What was written.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A setting that wharf does not have.
    #[error("{key} is not supported: {why}")]
    Refused {
        /// The setting.
        key: &'static str,
        /// Why, and what to do instead.
        why: &'static str,
    },
}

/// What was written, and what of it changes nothing.
#[derive(Debug)]
pub(super) struct Read {
    /// The settings.
    pub(super) written: Written,
    /// Accepted settings without effect, with the reason.
    pub(super) moot: Vec<(&'static str, &'static str)>,
}

/// The `daemon` command with every flag of the table.
pub(super) fn command() -> Command {
    let fixed = [
        Arg::new("config-file")
            .overrides_with("config-file")
            .long("config-file")
            .help(format!("Configuration file (default: {CONFIG_FILE})")),
        Arg::new("validate")
            .long("validate")
            .action(ArgAction::SetTrue)
            .help("Check flags and configuration file, and exit"),
    ];
    Command::new("daemon")
        .about("Run the engine that containers live in")
        .args(fixed)
        .args(SETTINGS.iter().filter(|s| !s.flag.is_empty()).map(arg))
}

fn arg(setting: &'static table::Setting) -> Arg {
    let arg = Arg::new(setting.key).long(setting.flag).help(setting.help).short(setting.short);
    let arg = arg.hide(matches!(setting.fate, Fate::Refused(_)));
    // As dockerd: of a setting that has one value, the last counts.
    let last = |arg: Arg| arg.overrides_with(setting.key);
    match setting.form {
        Form::Truth => last(arg)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(clap::value_parser!(bool)),
        Form::Number => {
            last(arg).value_parser(clap::value_parser!(i64)).allow_negative_numbers(true)
        }
        Form::Text | Form::FileOnly => last(arg),
        Form::List | Form::Pairs | Form::Ulimits | Form::Pools | Form::DriverPairs => {
            arg.action(ArgAction::Append)
        }
    }
}

/// Flags and file together. The file may be absent unless it was named.
pub(super) fn read(matches: &ArgMatches) -> Result<Read, ConfigError> {
    let flags = from_flags(matches)?;
    let named = matches.get_one::<String>("config-file").map(PathBuf::from);
    let path = named.clone().unwrap_or_else(|| CONFIG_FILE.into());
    let file = match std::fs::read(&path) {
        Ok(bytes) => from_file(&path, &bytes)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => Map::new(),
        Err(source) => return Err(ConfigError::Read { path, source }),
    };
    merge(&path, flags, file)
}

fn merge(
    path: &Path,
    flags: Map<String, Value>,
    mut all: Map<String, Value>,
) -> Result<Read, ConfigError> {
    let shown = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let conflicts: Vec<String> = flags
        .iter()
        .filter_map(|(key, flag)| {
            let file = all.get(key)?;
            Some(format!("{key}: (from flag: {}, from file: {})", shown(flag), shown(file)))
        })
        .collect();
    if !conflicts.is_empty() {
        return Err(ConfigError::Twice { path: path.into(), conflicts: conflicts.join(", ") });
    }
    all.extend(flags);
    let moot = judge(&all)?;
    let written = serde_json::from_value(Value::Object(all)).map_err(ConfigError::Type)?;
    Ok(Read { written, moot })
}

/// Refuses what wharf does not have, and lists what has no effect.
fn judge(all: &Map<String, Value>) -> Result<Vec<(&'static str, &'static str)>, ConfigError> {
    let mut moot = Vec::new();
    for (key, value) in all {
        let Some(setting) = table::by_key(key) else { continue };
        match setting.fate {
            Fate::Used => (),
            Fate::Moot(why) => moot.push((setting.key, why)),
            Fate::Refused(why) => return Err(ConfigError::Refused { key: setting.key, why }),
            Fate::Only(values, why) => {
                let is_one = |v: &Value| match v {
                    Value::String(text) => values.contains(&text.as_str()),
                    other => values.contains(&other.to_string().as_str()),
                };
                let fits = value.as_array().map_or_else(|| is_one(value), |l| l.iter().all(is_one));
                if !fits {
                    return Err(ConfigError::Refused { key: setting.key, why });
                }
            }
        }
    }
    Ok(moot)
}

fn from_file(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>, ConfigError> {
    // dockerd takes an empty file for an empty object.
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    let map: Map<String, Value> = serde_json::from_slice(bytes)
        .map_err(|source| ConfigError::Json { path: path.into(), source })?;
    let unknown: Vec<&str> =
        map.keys().map(String::as_str).filter(|k| table::by_key(k).is_none()).collect();
    if unknown.is_empty() {
        return Ok(map);
    }
    Err(ConfigError::Unknown { path: path.into(), keys: unknown.join(", ") })
}

/// The flags that were given, as the object that the file would hold.
fn from_flags(matches: &ArgMatches) -> Result<Map<String, Value>, ConfigError> {
    let mut map = Map::new();
    let given = |s: &&table::Setting| {
        let from = (!s.flag.is_empty()).then(|| matches.value_source(s.key)).flatten();
        from == Some(clap::parser::ValueSource::CommandLine)
    };
    for setting in SETTINGS.iter().filter(given) {
        let value = match setting.form {
            Form::Truth => matches.get_one::<bool>(setting.key).copied().into(),
            Form::Number => matches.get_one::<i64>(setting.key).copied().into(),
            Form::Text | Form::FileOnly => matches.get_one::<String>(setting.key).cloned().into(),
            Form::List | Form::Pairs | Form::Ulimits | Form::Pools | Form::DriverPairs => {
                let texts = matches.get_many::<String>(setting.key).into_iter().flatten();
                collect(setting, texts.map(String::as_str))?
            }
        };
        map.insert(setting.key.into(), value);
    }
    Ok(map)
}

fn collect<'a>(
    setting: &table::Setting,
    texts: impl Iterator<Item = &'a str>,
) -> Result<Value, ConfigError> {
    let wrong = |text: &str, why: &str| ConfigError::Value {
        key: setting.key,
        value: text.into(),
        why: why.into(),
    };
    let pair = |text: &'a str, why: &str| text.split_once('=').ok_or_else(|| wrong(text, why));
    match setting.form {
        Form::Pairs => texts
            .map(|t| pair(t, "want key=value").map(|(k, v)| (k.to_owned(), v.into())))
            .collect::<Result<Map<_, _>, _>>()
            .map(Value::Object),
        Form::Ulimits => texts
            .map(|t| {
                let why = "want name=soft[:hard]";
                let (name, limits) = pair(t, why)?;
                let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
                let number = |n: &str| n.parse::<i64>().map_err(|_| wrong(t, why));
                let limit = json!({ "Name": name, "Soft": number(soft)?, "Hard": number(hard)? });
                Ok((name.to_owned(), limit))
            })
            .collect::<Result<Map<_, _>, _>>()
            .map(Value::Object),
        Form::DriverPairs => {
            let mut drivers: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
            for text in texts {
                let why = "want driver=key=value";
                let (driver, option) = pair(text, why)?;
                let (key, value) = option.split_once('=').ok_or_else(|| wrong(text, why))?;
                drivers.entry(driver).or_default().insert(key.into(), value.into());
            }
            Ok(json!(drivers))
        }
        Form::Pools => texts
            .map(|t| {
                let why = "want base=CIDR,size=PREFIX";
                let fields: BTreeMap<&str, &str> =
                    t.split(',').map(|part| pair(part, why)).collect::<Result<_, _>>()?;
                match (fields.get("base"), fields.get("size").and_then(|s| s.parse::<u8>().ok())) {
                    (Some(base), Some(size)) => Ok(json!({ "base": base, "size": size })),
                    _ => Err(wrong(t, why)),
                }
            })
            .collect::<Result<Vec<_>, _>>()
            .map(Value::Array),
        _ => Ok(texts.collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(args: &[&str]) -> Map<String, Value> {
        let args = std::iter::once("daemon").chain(args.iter().copied());
        from_flags(&command().try_get_matches_from(args).unwrap()).unwrap()
    }

    fn file(json: &str) -> Result<Map<String, Value>, ConfigError> {
        from_file(Path::new("/x/daemon.json"), json.as_bytes())
    }

    #[track_caller]
    fn both(args: &[&str], json: &str) -> Result<Written, String> {
        let merged = file(json).and_then(|f| merge(Path::new("/x/daemon.json"), flags(args), f));
        merged.map(|r| r.written).map_err(|e| wharf_base::error::chain(&e).to_string())
    }

    #[test]
    fn flags_become_what_the_file_would_hold() {
        let map = flags(&[
            "-D",
            "--tls=false",
            "-H=unix:///a",
            "-H",
            "tcp://1.2.3.4:5",
            "--log-opt",
            "max-size=5m",
            "--default-ulimit=nofile=1:2",
            "--default-address-pool=base=10.0.0.0/8,size=24",
            "--default-network-opt=bridge=com.docker.network.driver.mtu=1400",
            "--mtu=1300",
            "--mtu=1400",
        ]);
        assert_eq!(
            Value::Object(map),
            json!({
                "hosts": ["unix:///a", "tcp://1.2.3.4:5"],
                "debug": true,
                "tls": false,
                "log-opts": {"max-size": "5m"},
                "mtu": 1400,
                "default-address-pools": [{"base": "10.0.0.0/8", "size": 24}],
                "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}},
                "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}},
            })
        );
    }

    #[test]
    fn flag_and_file_together_fill_the_settings() {
        let w = both(
            &["--debug"],
            r#"{"labels":["a=b"],"proxies":{"no-proxy":"x"},"default-shm-size":"1G"}"#,
        );
        let w = w.unwrap();
        assert!(w.debug);
        assert_eq!((w.labels, w.proxies.no_proxy), (vec!["a=b".to_owned()], Some("x".into())));
    }

    #[test]
    fn a_setting_in_both_places_is_refused() {
        assert_eq!(
            both(&["--debug"], r#"{"debug":false,"labels":[]}"#).unwrap_err(),
            "unable to configure the daemon with file /x/daemon.json: the following directives are specified both as a flag and in the configuration file: debug: (from flag: true, from file: false)"
        );
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_refused() {
        assert_eq!(
            both(&[], r#"{"colour":1,"debug":true}"#).unwrap_err(),
            "unable to configure the daemon with file /x/daemon.json: the following directives don't match any configuration option: colour"
        );
        assert!(both(&[], r#"{"debug":"yes"}"#).unwrap_err().starts_with("invalid setting: "));
        assert!(both(&[], "{").unwrap_err().contains("invalid JSON"));
        both(&[], "").unwrap();
    }

    #[test]
    fn what_wharf_does_not_have_is_refused_by_name() {
        assert_eq!(
            both(&["--default-runtime=kata"], "{}").unwrap_err(),
            "default-runtime is not supported: the runtime is built in"
        );
        both(&["--default-runtime=runc", "--exec-opt=native.cgroupdriver=cgroupfs"], "{}").unwrap();
        assert!(both(&["--exec-opt=native.cgroupdriver=systemd"], "{}").is_err());
        assert!(both(&["--iptables=false"], "{}").is_err());
        both(&["--iptables"], r#"{"live-restore":true,"features":{"buildkit":true}}"#).unwrap();
    }

    #[test]
    fn the_command_is_consistent() {
        command().debug_assert();
    }
}
