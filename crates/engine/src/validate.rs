//! What a create or update request may say. A field that wharf does not implement is refused by name.

use wharf_spec::docker::{ContainerConfig, CreateRequest, HostConfig};

use crate::error::{EngineError, Result};
use crate::facts::Facts;
use crate::restart::Policy;
use crate::spec::resources;
use crate::spec::security::{self, SecurityOptions};

/// Checks a whole request, image merged in; returns warnings.
pub fn request(r: &CreateRequest, facts: &Facts) -> Result<Vec<String>> {
    config(&r.config)?;
    let mut warnings = host(&r.host_config, facts)?;
    if r.host_config.security_opt.iter().flatten().any(|o| o.starts_with("apparmor="))
        && !facts.apparmor
    {
        warnings.push("AppArmor is not enabled on this host: the profile has no effect.".into());
    }
    let options = r.host_config.security_opt.as_deref().unwrap_or_default();
    warnings.extend(labels(&SecurityOptions::parse(options)?.labels, facts.selinux)?);
    Ok(warnings)
}

/// SELinux labels: `disable` is what wharf does anyway; others need an SELinux that wharf does not speak to yet.
fn labels(labels: &[String], selinux: bool) -> Result<Option<String>> {
    let Some(label) = labels.iter().find(|l| *l != "disable") else { return Ok(None) };
    if selinux {
        return Err(EngineError::not_implemented(format!(
            "--security-opt label={label} is not supported by wharf: it does not set SELinux labels; use label=disable"
        )));
    }
    Ok(Some(format!("SELinux is not enabled on this host: label={label} has no effect.")))
}

/// A container's name, without a slash.
pub fn name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if first && rest && name.len() >= 2 && name.len() <= 255 {
        return Ok(());
    }
    Err(EngineError::invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

/// A signal by name or number, as `--stop-signal` and `kill` take it.
pub fn signal(text: &str) -> Result<i32> {
    let invalid = || EngineError::invalid(format!("Invalid signal: {text}"));
    if let Ok(n) = text.parse::<i32>() {
        return if (1..=64).contains(&n) { Ok(n) } else { Err(invalid()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, n)) = SIGNALS.iter().find(|(s, _)| *s == name) {
        return Ok(*n);
    }
    let offset = |prefix: &str, sign: i32, base: i32| {
        let n: i32 = name.strip_prefix(prefix)?.parse().ok()?;
        let value = base + sign * n;
        (34..=64).contains(&value).then_some(value)
    };
    offset("RTMIN+", 1, 34).or_else(|| offset("RTMAX-", -1, 64)).ok_or_else(invalid)
}

const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

fn config(c: &ContainerConfig) -> Result<()> {
    if let Some(bad) = c.env.iter().flatten().find(|e| e.is_empty() || e.starts_with('=')) {
        return Err(EngineError::invalid(format!("invalid environment variable: {bad}")));
    }
    if !c.working_dir.is_empty() && !c.working_dir.starts_with('/') {
        return Err(EngineError::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            c.working_dir
        )));
    }
    if !c.stop_signal.is_empty() {
        signal(&c.stop_signal)?;
    }
    for port in c.exposed_ports.keys() {
        port_spec(port)?;
    }
    if c.hostname.len() > 64 || c.hostname.contains(['/', '\0', ' ']) {
        return Err(EngineError::invalid(format!("invalid hostname: {:?}", c.hostname)));
    }
    health(c)
}

fn health(c: &ContainerConfig) -> Result<()> {
    let Some(h) = &c.healthcheck else { return Ok(()) };
    let short = |n: i64| n != 0 && n < 1_000_000;
    let fields = [
        ("Interval", h.interval),
        ("Timeout", h.timeout),
        ("StartPeriod", h.start_period),
        ("StartInterval", h.start_interval),
    ];
    if let Some((field, _)) = fields.iter().find(|(_, n)| short(*n)) {
        return Err(EngineError::invalid(format!(
            "{field} in Healthcheck cannot be less than 1ms"
        )));
    }
    if h.retries < 0 {
        return Err(EngineError::invalid("Retries in Healthcheck cannot be negative"));
    }
    match h.test.as_deref().unwrap_or_default() {
        [] => Ok(()),
        [kind, ..] if ["NONE", "CMD", "CMD-SHELL"].contains(&kind.as_str()) => Ok(()),
        [kind, ..] => {
            Err(EngineError::invalid(format!("Unknown type {kind:?} in Healthcheck.Test")))
        }
    }
}

fn host(h: &HostConfig, facts: &Facts) -> Result<Vec<String>> {
    let policy = Policy::parse(&h.restart_policy.name, h.restart_policy.maximum_retry_count)?;
    if h.auto_remove && policy.is_active() {
        return Err(EngineError::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    modes(h)?;
    unsupported(h)?;
    security::capabilities(h, &facts.capabilities)?;
    SecurityOptions::parse(h.security_opt.as_deref().unwrap_or_default())?;
    crate::logs::settings(&h.log_config)?;
    if h.shm_size < 0 {
        return Err(EngineError::invalid("SHM size can not be less than 0"));
    }
    for (port, bindings) in h.port_bindings.iter().flatten() {
        port_spec(port)?;
        for b in bindings.iter().flatten() {
            crate::ports::host_range(&b.host_port)?;
            crate::ports::host_ip(&b.host_ip)?;
        }
    }
    if h.annotations.iter().flatten().any(|(k, _)| k.is_empty()) {
        return Err(EngineError::invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        ));
    }
    for entry in h.extra_hosts.iter().flatten() {
        extra_host(entry)?;
    }
    for link in h.links.iter().flatten() {
        crate::links::parse(link)?;
    }
    dns(h.dns.as_deref().unwrap_or_default())?;
    resources::validate(&h.resources, facts.cgroup_v2)
}

/// Name servers, by address.
pub fn dns(servers: &[String]) -> Result<Vec<std::net::IpAddr>> {
    let read = |s: &String| {
        s.trim().parse().map_err(|_| EngineError::invalid(format!("invalid IP address: {s}")))
    };
    servers.iter().map(read).collect()
}

/// `name:address`, `name=address` or `name:host-gateway`.
pub fn extra_host(entry: &str) -> Result<(&str, &str)> {
    let split = entry.split_once('=').or_else(|| entry.split_once(':'));
    let (name, address) = split
        .filter(|(n, _)| !n.is_empty())
        .ok_or_else(|| EngineError::invalid(format!("bad format for add-host: \"{entry}\"")))?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    if address != "host-gateway" && address.parse::<std::net::IpAddr>().is_err() {
        return Err(EngineError::invalid(format!("invalid IP address in add-host: \"{address}\"")));
    }
    Ok((name, address))
}

fn port_spec(text: &str) -> Result<()> {
    crate::ports::container_port(text).map(drop)
}

fn modes(h: &HostConfig) -> Result<()> {
    let joins = |m: &str| m.strip_prefix("container:").is_some_and(|id| !id.is_empty());
    let plain = |m: &str, list: &[&str]| list.contains(&m);
    if !plain(&h.pid_mode, &["", "host"]) && !joins(&h.pid_mode) {
        return Err(EngineError::invalid(format!("invalid PID mode: {}", h.pid_mode)));
    }
    let ipc = ["", "none", "private", "shareable", "host"];
    if !plain(&h.ipc_mode, &ipc) && !joins(&h.ipc_mode) {
        return Err(EngineError::invalid(format!("invalid IPC mode: {}", h.ipc_mode)));
    }
    if !plain(&h.uts_mode, &["", "host"]) {
        return Err(EngineError::invalid(format!("invalid UTS mode: {}", h.uts_mode)));
    }
    if !plain(&h.userns_mode, &["", "host"]) {
        return Err(EngineError::invalid(format!("invalid userns mode: {}", h.userns_mode)));
    }
    if !plain(&h.cgroupns_mode, &["", "host", "private"]) {
        return Err(EngineError::invalid(format!(
            "invalid cgroup namespace mode: {}",
            h.cgroupns_mode
        )));
    }
    if !plain(&h.isolation, &["", "default"]) {
        return Err(EngineError::invalid(format!(
            "invalid isolation ({}): only \"default\" is supported on Linux",
            h.isolation
        )));
    }
    Ok(())
}

fn unsupported(h: &HostConfig) -> Result<()> {
    let runtimes = ["", "runc", "wharf", "io.containerd.runc.v2"];
    if !runtimes.contains(&h.runtime.as_str()) {
        return Err(EngineError::invalid(format!(
            "unknown or invalid runtime name: {}: wharf runs containers itself",
            h.runtime
        )));
    }
    if let Some((key, _)) = h.storage_opt.iter().flatten().next() {
        return Err(EngineError::invalid(format!(
            "--storage-opt {key} is not supported by wharf: its overlay layers have no quota; limit \
             the file system under the data root instead"
        )));
    }
    if !h.cgroup.is_empty() {
        return Err(EngineError::invalid(
            "the legacy option Cgroup is not supported: use CgroupParent",
        ));
    }
    if h.resources.cgroup_parent.contains("..") {
        return Err(EngineError::invalid(format!(
            "invalid cgroup parent {:?}: it must not leave its place",
            h.resources.cgroup_parent
        )));
    }
    Ok(())
}

/// Options that exclude each other, as they were asked for: what the image adds conflicts with nothing.
pub fn conflicts(c: &ContainerConfig, h: &HostConfig) -> Result<()> {
    let conflict = |text: &str| Err(EngineError::invalid(format!("conflicting options: {text}")));
    if h.uts_mode == "host" && !c.hostname.is_empty() {
        return conflict("hostname and the UTS mode");
    }
    let links = h.links.as_ref().is_some_and(|l| !l.is_empty());
    if links && h.network_mode == "host" {
        return conflict(
            "host type networking can't be used with links. This would result in undefined behavior",
        );
    }
    if !h.network_mode.starts_with("container:") {
        return Ok(());
    }
    if links {
        return conflict(
            "container type network can't be used with links. This would result in undefined behavior",
        );
    }
    let some = |l: &Option<Vec<String>>| l.as_ref().is_some_and(|l| !l.is_empty());
    if !c.hostname.is_empty() {
        return conflict("hostname and the network mode");
    }
    if some(&h.dns) || some(&h.dns_search) {
        return conflict("dns and the network mode");
    }
    if some(&h.extra_hosts) {
        return conflict("custom host-to-IP mapping and the network mode");
    }
    if !c.mac_address.is_empty() {
        return conflict("mac-address and the network mode");
    }
    if h.port_bindings.as_ref().is_some_and(|p| !p.is_empty()) || h.publish_all_ports {
        return conflict("port publishing and the container type network mode");
    }
    if !c.exposed_ports.is_empty() {
        return conflict("port exposing and the container type network mode");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(edit: impl FnOnce(&mut CreateRequest), text: &str) {
        let mut r = CreateRequest::default();
        edit(&mut r);
        let e = request(&r, &Facts::read().unwrap()).unwrap_err().message();
        assert!(e.contains(text), "{e}");
    }

    #[test]
    fn nothing_unknown_is_ignored() {
        refused(
            |r| r.host_config.storage_opt = Some([("size".into(), "1G".into())].into()),
            "--storage-opt size",
        );
        refused(
            |r| r.host_config.links = Some(vec!["a:b:c".into()]),
            "bad format for links: a:b:c",
        );
        refused(|r| r.host_config.dns = Some(vec!["x".into()]), "invalid IP address: x");
        refused(|r| r.host_config.runtime = "kata".into(), "unknown or invalid runtime name: kata");
        refused(|r| r.host_config.log_config.kind = "syslog".into(), "syslog");
        refused(|r| r.host_config.userns_mode = "private".into(), "invalid userns mode");
        refused(|r| r.host_config.isolation = "hyperv".into(), "invalid isolation");
    }

    #[test]
    fn contradictions_are_named() {
        refused(
            |r| {
                r.host_config.auto_remove = true;
                r.host_config.restart_policy.name = "always".into();
            },
            "can't create 'AutoRemove' container with restart policy",
        );
        refused(|r| r.config.working_dir = "x".into(), "needs to be an absolute path");
        refused(|r| r.config.env = Some(vec!["=1".into()]), "invalid environment variable");
        refused(|r| r.config.stop_signal = "SIGWHAT".into(), "Invalid signal: SIGWHAT");
    }

    #[test]
    fn who_shares_a_network_publishes_nothing_there() {
        let host = HostConfig {
            network_mode: "container:x".into(),
            publish_all_ports: true,
            ..HostConfig::default()
        };
        let refused = conflicts(&ContainerConfig::default(), &host).unwrap_err();
        assert!(refused.message().contains("conflicting options: port publishing"));
    }

    #[test]
    fn names_and_signals() {
        for good in ["ab", "a.b-c_d", "0x"] {
            name(good).unwrap();
        }
        for bad in ["", "a", "-a", "a b", "a/b", "ä1"] {
            assert!(name(bad).is_err(), "{bad}");
        }
        for (text, n) in
            [("9", 9), ("SIGTERM", 15), ("kill", 9), ("RTMIN+1", 35), ("SIGRTMAX-2", 62)]
        {
            assert_eq!(signal(text).unwrap(), n, "{text}");
        }
        for bad in ["0", "65", "", "SIG", "RTMIN+99", "-1"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn extra_hosts_in_both_spellings() {
        assert_eq!(extra_host("a:::1").unwrap(), ("a", "::1"));
        assert_eq!(extra_host("a=[::1]").unwrap(), ("a", "::1"));
        assert_eq!(extra_host("a:host-gateway").unwrap(), ("a", "host-gateway"));
        for bad in ["a", ":1.2.3.4", "a:b"] {
            assert!(extra_host(bad).is_err(), "{bad}");
        }
    }
}
