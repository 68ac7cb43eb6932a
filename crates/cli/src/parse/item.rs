//! The forms that list flags demand of each value.

use std::net::IpAddr;

/// What each value of a list flag must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// `STDIN`, `STDOUT` or `STDERR`.
    Attach,
    /// `NAME=value`, or `NAME` to take it from the environment.
    Env,
    /// `key[=value]`.
    Label,
    /// `container[:alias]`.
    Link,
    /// An address.
    Address,
    /// A domain, or `.`.
    Domain,
    /// `host:ip` or `host=ip`.
    ExtraHost,
    /// `device:weight`.
    Weight,
    /// `device:bytes-per-second`.
    ByteRate,
    /// `device:operations-per-second`.
    OpRate,
    /// `type major:minor mode`.
    CgroupRule,
    /// A kernel parameter that may be set in a container.
    Sysctl,
}

impl Item {
    /// Checks a value and returns it as the API wants it.
    pub fn check(self, text: &str) -> Result<String, String> {
        match self {
            Self::Attach => attach(text),
            Self::Env => env(text),
            Self::Label => label(text),
            Self::Link => link(text),
            Self::Address => address(text),
            Self::Domain => domain(text),
            Self::ExtraHost => extra_host(text),
            Self::Weight => weight(text).map(|_| text.to_owned()),
            Self::ByteRate => byte_rate(text).map(|_| text.to_owned()),
            Self::OpRate => op_rate(text).map(|_| text.to_owned()),
            Self::CgroupRule => cgroup_rule(text),
            Self::Sysctl => sysctl(text),
        }
    }
}

fn attach(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "stdin" | "stdout" | "stderr" => Ok(lower),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".to_owned()),
    }
}

fn env(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("", _)) => Err(format!("invalid environment variable: {text}")),
        Some(_) => Ok(text.to_owned()),
        None if text.is_empty() => Err("invalid environment variable: ".to_owned()),
        None => Ok(match std::env::var(text) {
            Ok(value) => format!("{text}={value}"),
            Err(_) => text.to_owned(),
        }),
    }
}

fn label(text: &str) -> Result<String, String> {
    let key = text.split_once('=').map_or(text, |(k, _)| k).trim_start_matches([' ', '\t']);
    if key.is_empty() {
        return Err(format!("invalid label '{text}': empty name"));
    }
    if key.contains([' ', '\t']) {
        return Err(format!("label '{key}' contains whitespaces"));
    }
    Ok(text.to_owned())
}

fn link(text: &str) -> Result<String, String> {
    match text.split(':').count() {
        _ if text.is_empty() => Err("empty string specified for links".to_owned()),
        1 | 2 => Ok(text.to_owned()),
        _ => Err(format!("bad format for links: {text}")),
    }
}

fn address(text: &str) -> Result<String, String> {
    match text.trim().parse::<IpAddr>() {
        Ok(ip) => Ok(ip.to_string()),
        Err(_) => Err(format!("IP address is not correctly formatted: {text}")),
    }
}

fn domain(text: &str) -> Result<String, String> {
    let name = text.trim_matches(' ');
    if name == "." {
        return Ok(name.to_owned());
    }
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let bare = name.strip_suffix('.').unwrap_or(name);
    let has_letter = bare.contains(|c: char| c.is_ascii_alphabetic());
    match has_letter && bare.len() < 255 && bare.split('.').all(label) {
        true => Ok(bare.to_owned()),
        false => Err(format!("{text} is not a valid domain")),
    }
}

fn extra_host(text: &str) -> Result<String, String> {
    let bad = || format!("bad format for add-host: {}", super::quote(text));
    let (host, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(bad)?;
    if host.is_empty() || host.contains(':') {
        return Err(bad());
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if bare != "host-gateway" && bare.trim().parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: {}", super::quote(bare)));
    }
    Ok(format!("{host}:{bare}"))
}

fn device_value(text: &str) -> Result<(&str, &str), String> {
    let (device, value) = text
        .split_once(':')
        .filter(|(device, _)| !device.is_empty())
        .ok_or_else(|| format!("bad format: {text}"))?;
    match device.starts_with("/dev/") {
        true => Ok((device, value)),
        false => Err(format!("bad format for device path: {text}")),
    }
}

/// `device:weight`, the weight 0 or between 10 and 1000.
pub fn weight(text: &str) -> Result<(&str, u16), String> {
    let (device, value) = device_value(text)?;
    match value.parse::<u16>() {
        Ok(weight) if weight == 0 || (10..=1000).contains(&weight) => Ok((device, weight)),
        _ => Err(format!("invalid weight for device: {text}")),
    }
}

/// `device:rate`, the rate with a unit.
pub fn byte_rate(text: &str) -> Result<(&str, i64), String> {
    let (device, value) = device_value(text)?;
    let rate = super::size::memory(value).map_err(|_| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )
    })?;
    Ok((device, rate))
}

/// `device:rate`, the rate a plain number.
pub fn op_rate(text: &str) -> Result<(&str, i64), String> {
    let (device, value) = device_value(text)?;
    let rate = value.parse::<u32>().map_err(|_| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive integer"
        )
    })?;
    Ok((device, i64::from(rate)))
}

fn cgroup_rule(text: &str) -> Result<String, String> {
    let number = |n: &str| n == "*" || (!n.is_empty() && n.chars().all(|c| c.is_ascii_digit()));
    let valid = || {
        let mut parts = text.split(' ');
        let (kind, numbers, mode) = (parts.next()?, parts.next()?, parts.next()?);
        let (major, minor) = numbers.split_once(':')?;
        (parts.next().is_none()
            && matches!(kind, "a" | "b" | "c")
            && number(major)
            && number(minor)
            && (1..=3).contains(&mode.len())
            && mode.chars().all(|c| "rwm".contains(c)))
        .then_some(())
    };
    match valid() {
        Some(()) => Ok(text.to_owned()),
        None => Err(format!("invalid device cgroup format '{text}'")),
    }
}

fn sysctl(text: &str) -> Result<String, String> {
    const NAMES: &[&str] = &[
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let name = text.split_once('=').map_or("", |(name, _)| name);
    let known = NAMES.contains(&name) || name.starts_with("net.") || name.starts_with("fs.mqueue.");
    match known {
        true => Ok(text.to_owned()),
        false => Err(format!("sysctl '{text}' is not allowed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_and_normalised() {
        let ok = |item: Item, text: &str, want: &str| assert_eq!(item.check(text).unwrap(), want);
        ok(Item::Attach, "STDIN", "stdin");
        ok(Item::Env, "A=", "A=");
        ok(Item::Env, "SURELY_NOT_SET_ANYWHERE", "SURELY_NOT_SET_ANYWHERE");
        ok(Item::Address, " 0:0::1 ", "::1");
        ok(Item::ExtraHost, "a=[::1]", "a:::1");
        ok(Item::ExtraHost, "a:host-gateway", "a:host-gateway");
        ok(Item::CgroupRule, "c *:1 rwm", "c *:1 rwm");
        ok(Item::Sysctl, "net.a=1", "net.a=1");
        ok(Item::Domain, "example.com", "example.com");
        ok(Item::Weight, "/dev/sda:10", "/dev/sda:10");
    }

    #[test]
    fn mistakes_have_dockers_words() {
        let bad = |item: Item, text: &str, want: &str| {
            assert_eq!(item.check(text).unwrap_err(), want, "{text}");
        };
        bad(Item::Attach, "x", "valid streams are STDIN, STDOUT and STDERR");
        bad(Item::Env, "=a", "invalid environment variable: =a");
        bad(Item::Label, "", "invalid label '': empty name");
        bad(Item::Link, "a:b:c", "bad format for links: a:b:c");
        bad(Item::Address, "x", "IP address is not correctly formatted: x");
        bad(Item::ExtraHost, "x", "bad format for add-host: \"x\"");
        bad(Item::Weight, "a", "bad format: a");
        bad(Item::Weight, "/dev/a:5", "invalid weight for device: /dev/a:5");
        bad(Item::CgroupRule, "x", "invalid device cgroup format 'x'");
        bad(Item::Sysctl, "x", "sysctl 'x' is not allowed");
    }
}
