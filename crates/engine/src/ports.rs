//! Published ports: from `PortBindings` and exposed ports to what the network layer is asked for, and back.

use std::net::IpAddr;

use wharf_net::{Binding, PortMap, Protocol};
use wharf_spec::docker::{ContainerConfig, HostConfig, Map, Port, PortBinding};

use crate::error::{EngineError, Result};

/// Reads `80/tcp`, `80`, or a range `80-81/udp`.
pub fn container_port(text: &str) -> Result<(u16, u16, Protocol)> {
    let invalid = || EngineError::invalid(format!("invalid port specification: \"{text}\""));
    let (ports, proto) = text.split_once('/').unwrap_or((text, "tcp"));
    let proto = proto.parse().map_err(|e| invalid().because(e))?;
    let (first, last) = range(ports).filter(|(first, _)| *first > 0).ok_or_else(invalid)?;
    Ok((first, last, proto))
}

/// Reads the host side: nothing, a port, or a range to choose from.
pub fn host_range(text: &str) -> Result<Option<(u16, u16)>> {
    if text.is_empty() {
        return Ok(None);
    }
    match range(text) {
        Some((0, 0)) => Ok(None),
        Some(found) => Ok(Some(found)),
        None => Err(EngineError::invalid(format!("invalid port specification: \"{text}\""))),
    }
}

/// Reads the host address: nothing is every address.
pub fn host_ip(text: &str) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| EngineError::invalid(format!("invalid IP address: {text}")))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// The ports that a container says it offers, each once however it is written: `80` is `80/tcp`.
pub fn exposed(config: &ContainerConfig) -> Vec<(Protocol, u16)> {
    let ranges = config.exposed_ports.keys().filter_map(|p| container_port(p).ok());
    let all = ranges.flat_map(|(first, last, proto)| (first..=last).map(move |p| (proto, p)));
    let mut seen = std::collections::BTreeSet::new();
    all.filter(|port| seen.insert(*port)).collect()
}

/// What a container publishes, in the order of its ports.
pub fn wanted(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<PortMap>> {
    let mut out = Vec::new();
    for (port, bindings) in host.port_bindings.iter().flatten() {
        let (first, last, proto) = container_port(port)?;
        for container in first..=last {
            for b in bindings.iter().flatten() {
                out.push(PortMap {
                    container,
                    proto,
                    host_ip: host_ip(&b.host_ip)?,
                    host: host_range(&b.host_port)?,
                });
            }
        }
    }
    if host.publish_all_ports {
        for port in config.exposed_ports.keys() {
            let (first, last, proto) = container_port(port)?;
            for container in first..=last {
                if !out.iter().any(|m| (m.container, m.proto) == (container, proto)) {
                    out.push(PortMap { container, proto, host_ip: None, host: None });
                }
            }
        }
    }
    Ok(out)
}

/// `NetworkSettings.Ports`: exposed ports with what they are published as.
pub fn settings(config: &ContainerConfig, bound: &[Binding]) -> Map<Option<Vec<PortBinding>>> {
    let mut out: Map<Option<Vec<PortBinding>>> =
        config.exposed_ports.keys().map(|p| (canonical(p), None)).collect();
    for b in bound {
        let binding = PortBinding { host_ip: b.host_ip.to_string(), host_port: b.host.to_string() };
        let list = out.entry(format!("{}/{}", b.container, b.proto)).or_default();
        list.get_or_insert_default().push(binding);
    }
    out
}

/// The ports column of a list.
pub fn summary(config: &ContainerConfig, bound: &[Binding]) -> Vec<Port> {
    let mut out = Vec::new();
    for b in bound {
        out.push(Port {
            ip: b.host_ip.to_string(),
            private_port: b.container,
            public_port: b.host,
            kind: b.proto.to_string(),
        });
    }
    for (proto, p) in exposed(config) {
        if !bound.iter().any(|b| (b.container, b.proto) == (p, proto)) {
            out.push(Port { private_port: p, kind: proto.to_string(), ..Port::default() });
        }
    }
    out
}

fn canonical(port: &str) -> String {
    if port.contains('/') { port.into() } else { format!("{port}/tcp") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_specifications() {
        assert_eq!(container_port("80").unwrap(), (80, 80, Protocol::Tcp));
        assert_eq!(container_port("80-82/udp").unwrap(), (80, 82, Protocol::Udp));
        for bad in ["", "0", "82-80", "80/icmp", "65536", "80/"] {
            assert!(container_port(bad).is_err(), "{bad}");
        }
        assert_eq!(host_range("").unwrap(), None);
        assert_eq!(host_range("0").unwrap(), None);
        assert_eq!(host_range("8000-8010").unwrap(), Some((8000, 8010)));
        assert!(host_range("x").is_err());
    }

    #[test]
    fn publish_all_adds_what_is_not_bound() {
        let mut config = ContainerConfig::default();
        for port in ["80/tcp", "53/udp"] {
            config.exposed_ports.insert(port.into(), wharf_spec::docker::Empty {});
        }
        let binding = PortBinding { host_ip: "127.0.0.1".into(), host_port: "91".into() };
        let host = HostConfig {
            port_bindings: Some([("80/tcp".to_owned(), Some(vec![binding]))].into()),
            publish_all_ports: true,
            ..HostConfig::default()
        };
        let got = wanted(&config, &host).unwrap();
        assert_eq!(got.len(), 2);
        assert_eq!((got[0].container, got[0].host), (80, Some((91, 91))));
        assert_eq!((got[1].container, got[1].host), (53, None));
    }
}
