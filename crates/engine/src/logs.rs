//! Container logs: which driver and options, and the stream that `docker logs` shows.

use std::path::PathBuf;

use wharf_keeper::log::{LogConfig, LogFormat, LogMode};
use wharf_spec::docker;

use crate::error::{EngineError, Result};
use crate::record::Record;

/// A log configuration as written, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The format.
    pub format: LogFormat,
    /// Bytes per file; 0 is no limit.
    pub max_size: u64,
    /// Files in all.
    pub max_files: u32,
    /// Compress rotated files.
    pub compress: bool,
    /// Whether the container waits for the disk.
    pub mode: LogMode,
    /// Labels that each record repeats.
    pub labels: Vec<String>,
    /// Variables that each record repeats.
    pub env: Vec<String>,
    /// A tag that each record repeats, as a template.
    pub tag: Option<String>,
}

/// Reads and checks `HostConfig.LogConfig`; the empty driver is `json-file`.
pub fn settings(config: &docker::LogConfig) -> Result<LogSettings> {
    let format = match config.kind.as_str() {
        "" | "json-file" => LogFormat::JsonFile,
        "local" => LogFormat::Local,
        "none" => LogFormat::None,
        other => {
            return Err(EngineError::invalid(format!(
                "logger: no log driver named '{other}' is registered"
            )));
        }
    };
    let mut out = LogSettings {
        format,
        // Docker keeps json-file logs for ever, which fills disks; wharf rotates by default.
        max_size: 20 << 20,
        max_files: 5,
        compress: format == LogFormat::Local,
        mode: LogMode::Blocking,
        labels: Vec::new(),
        env: Vec::new(),
        tag: None,
    };
    let mut buffer = 1 << 20;
    for (key, value) in config.config.iter().flatten() {
        option(&mut out, &mut buffer, key, value)?;
    }
    if out.mode != LogMode::Blocking {
        out.mode = LogMode::NonBlocking { buffer };
    }
    Ok(out)
}

fn option(out: &mut LogSettings, buffer: &mut u64, key: &str, value: &str) -> Result<()> {
    let invalid = || EngineError::invalid(format!("invalid value for log opt {key}: {value:?}"));
    let list =
        || value.split(',').map(str::trim).filter(|s| !s.is_empty()).map(Into::into).collect();
    match (key, out.format) {
        (_, LogFormat::None) => {
            return Err(EngineError::invalid(format!(
                "unknown log opt '{key}' for none log driver"
            )));
        }
        ("max-size", _) if value == "-1" => out.max_size = 0,
        ("max-size", _) => out.max_size = size(value).filter(|n| *n > 0).ok_or_else(invalid)?,
        ("max-file", _) => {
            out.max_files = value
                .parse()
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| EngineError::invalid("max-file cannot be less than 1"))?;
        }
        ("compress", _) => out.compress = value.parse().map_err(|_| invalid())?,
        ("mode", _) => {
            out.mode = match value {
                "" | "blocking" => LogMode::Blocking,
                "non-blocking" => LogMode::NonBlocking { buffer: *buffer },
                _ => {
                    return Err(EngineError::invalid(format!(
                        "logger: logging mode not supported: {value}"
                    )));
                }
            };
        }
        ("max-buffer-size", _) => *buffer = size(value).filter(|n| *n > 0).ok_or_else(invalid)?,
        ("labels", LogFormat::JsonFile) => out.labels = list(),
        ("env", LogFormat::JsonFile) => out.env = list(),
        ("tag", LogFormat::JsonFile) => out.tag = Some(value.into()),
        (key, format) => {
            let driver = if format == LogFormat::Local { "local" } else { "json-file" };
            return Err(EngineError::invalid(format!(
                "unknown log opt '{key}' for {driver} log driver"
            )));
        }
    }
    Ok(())
}

/// `10m`, `1g`, `512k`, `100`: binary multiples, as Docker reads them.
pub fn size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, shift) = match lower.chars().last()? {
        'k' => (&lower[..lower.len() - 1], 10),
        'm' => (&lower[..lower.len() - 1], 20),
        'g' => (&lower[..lower.len() - 1], 30),
        't' => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The log file of a container below its directory; none if nothing is kept.
pub fn path(record: &Record, dir: &std::path::Path) -> Option<PathBuf> {
    match settings(&record.host.log_config).ok()?.format {
        LogFormat::JsonFile => Some(dir.join(format!("{}-json.log", record.id))),
        LogFormat::Local => Some(dir.join("local-logs").join("container.log")),
        LogFormat::None => None,
    }
}

/// What the keeper is told.
pub fn config(record: &Record, dir: &std::path::Path) -> Result<LogConfig> {
    let s = settings(&record.host.log_config)?;
    Ok(LogConfig {
        format: s.format,
        path: path(record, dir).unwrap_or_default(),
        max_size: s.max_size,
        max_files: s.max_files,
        compress: s.compress,
        attrs: attributes(record, &s),
        mode: s.mode,
    })
}

fn attributes(record: &Record, s: &LogSettings) -> Vec<(String, String)> {
    let labels = record.config.labels.clone().unwrap_or_default();
    let mut out: Vec<(String, String)> = Vec::new();
    for name in &s.labels {
        if let Some(value) = labels.get(name) {
            out.push((name.clone(), value.clone()));
        }
    }
    for entry in record.config.env.iter().flatten() {
        if let Some((name, value)) = entry.split_once('=')
            && s.env.iter().any(|n| n == name)
        {
            out.push((name.into(), value.into()));
        }
    }
    if let Some(tag) = &s.tag {
        out.push(("tag".into(), expand_tag(tag, record)));
    }
    out.sort();
    out
}

/// The fields that Docker offers in log tags.
fn expand_tag(tag: &str, record: &Record) -> String {
    let fields = [
        ("{{.ID}}", record.id.short().to_owned()),
        ("{{.FullID}}", record.id.to_string()),
        ("{{.Name}}", record.name.clone()),
        ("{{.ImageName}}", record.config.image.clone()),
        ("{{.ImageFullID}}", record.image.clone()),
        ("{{.ImageID}}", record.image.trim_start_matches("sha256:").chars().take(12).collect()),
        ("{{.DaemonName}}", "docker".to_owned()),
    ];
    fields.iter().fold(tag.to_owned(), |text, (field, value)| text.replace(field, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, options: &[(&str, &str)]) -> Result<LogSettings> {
        let config = options.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        settings(&docker::LogConfig { kind: kind.into(), config: Some(config) })
    }

    #[test]
    fn rotates_by_default() {
        let s = of("", &[]).unwrap();
        assert_eq!((s.format, s.max_size, s.max_files), (LogFormat::JsonFile, 20 << 20, 5));
        assert!(of("local", &[]).unwrap().compress);
        assert_eq!(of("json-file", &[("max-size", "-1")]).unwrap().max_size, 0);
    }

    #[test]
    fn options_are_checked() {
        let s =
            of("json-file", &[("max-size", "10m"), ("max-file", "3"), ("labels", "a, b")]).unwrap();
        assert_eq!((s.max_size, s.max_files, s.labels.len()), (10 << 20, 3, 2));
        let s = of("local", &[("mode", "non-blocking"), ("max-buffer-size", "2m")]).unwrap();
        assert_eq!(s.mode, LogMode::NonBlocking { buffer: 2 << 20 });
        for (kind, key, value) in [
            ("json-file", "max-size", "x"),
            ("json-file", "max-file", "0"),
            ("json-file", "splunk-url", "x"),
            ("local", "labels", "x"),
            ("none", "max-size", "1m"),
            ("gelf", "gelf-address", "x"),
        ] {
            assert!(of(kind, &[(key, value)]).is_err(), "{kind} {key}={value}");
        }
    }
}
