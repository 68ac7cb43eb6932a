//! Host ports that two containers would want at once.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use wharf_spec::compose::Project;
use wharf_spec::compose::model::Port;
use wharf_spec::docker::ContainerSummary;

use crate::labels;
use crate::observe::{self, label};

/// What keeps a project's ports from being published, in words; found without trying. `running` are
/// the containers of the engine, those of the project included.
pub fn clash(project: &Project, running: &[ContainerSummary]) -> Option<String> {
    let mut fixed: Vec<(&str, &Port, u16)> = Vec::new();
    for (name, service) in project.services.iter().filter(|(_, s)| s.replicas() > 0) {
        for port in &service.ports {
            let Some(range) = published(port) else { continue };
            let room = range.clone().count();
            let wanted = usize::try_from(service.replicas()).unwrap_or(usize::MAX);
            if wanted > room {
                return Some(format!(
                    "service {name:?}: {wanted} containers cannot share the host port {}: leave it out or give a range",
                    port.published
                ));
            }
            if room == 1 {
                fixed.push((name, port, *range.start()));
            }
        }
    }
    for (at, (name, port, number)) in fixed.iter().enumerate() {
        let same = |other: &&(&str, &Port, u16)| {
            other.2 == *number
                && other.1.protocol == port.protocol
                && meet(&other.1.host_ip, &port.host_ip)
        };
        if let Some((other, ..)) = fixed[..at].iter().find(same) {
            return Some(format!(
                "services {other:?} and {name:?} both publish the host port {number}/{}",
                port.protocol
            ));
        }
        for container in running.iter().filter(|c| label(c, labels::PROJECT) != project.name) {
            let taken = container.ports.iter().any(|p| {
                p.public_port == *number && p.kind == port.protocol && meet(&p.ip, &port.host_ip)
            });
            if taken {
                return Some(format!(
                    "service {name:?}: the host port {number}/{} is taken by container {}: stop it or publish another port",
                    port.protocol,
                    observe::name(container)
                ));
            }
        }
    }
    None
}

/// The host ports of which one will do; `None` when the engine chooses.
fn published(port: &Port) -> Option<RangeInclusive<u16>> {
    let (first, last) =
        port.published.split_once('-').unwrap_or((&port.published, &port.published));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some(first..=last)
}

/// Whether one socket could hear what is meant for the other.
fn meet(a: &str, b: &str) -> bool {
    let any = BTreeSet::from(["", "0.0.0.0", "::"]);
    let same_family = a.is_empty() || b.is_empty() || a.contains(':') == b.contains(':');
    a == b || same_family && (any.contains(a) || any.contains(b))
}
