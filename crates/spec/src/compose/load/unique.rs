//! Lists in which an element replaces an earlier one with the same key.

use std::collections::HashMap;

use super::volume;
use crate::compose::fault::{Fault, Result};
use crate::compose::node::{Node, Path, Value};

#[derive(Clone, Copy)]
enum Key {
    /// What stands before `=`.
    Name,
    /// The path in the container.
    Volume,
    Device,
    /// The file in the container; a relative one is in this directory.
    File(&'static str),
    EnvFile,
    /// The element as text.
    Whole,
    Port,
}

const RULES: &[(Key, &[&str])] = &[
    (
        Key::Name,
        &[
            "networks.*.labels",
            "networks.*.ipam.options",
            "services.*.annotations",
            "services.*.build.args",
            "services.*.build.additional_contexts",
            "services.*.build.tags",
            "services.*.build.labels",
            "services.*.cap_add",
            "services.*.cap_drop",
            "services.*.deploy.labels",
            "services.*.dns",
            "services.*.dns_opt",
            "services.*.dns_search",
            "services.*.environment",
            "services.*.labels",
            "services.*.links",
            "services.*.networks.*.aliases",
            "services.*.networks.*.link_local_ips",
            "services.*.profiles",
            "services.*.sysctls",
            "services.*.tmpfs",
        ],
    ),
    (Key::Volume, &["services.*.volumes"]),
    (Key::Device, &["services.*.devices"]),
    (Key::File(""), &["services.*.configs"]),
    (Key::File("/run/secrets"), &["services.*.secrets"]),
    (Key::EnvFile, &["services.*.env_file"]),
    (Key::Whole, &["services.*.expose"]),
    (Key::Port, &["services.*.ports"]),
];

/// Removes redefinitions everywhere below `node`; the last one counts, in the first one's place.
pub(in crate::compose) fn enforce(node: &mut Node, path: Path<'_>) -> Result<()> {
    match &mut node.value {
        Value::Map(map) => {
            map.iter_mut().try_for_each(|(name, child)| enforce(child, path.next(name)))
        }
        Value::List(list) => {
            let rule = RULES.iter().find(|(_, list)| list.iter().any(|p| path.matches(p)));
            let Some((key, _)) = rule else { return Ok(()) };
            let mut seen: HashMap<String, usize> = HashMap::new();
            let mut kept: Vec<Node> = Vec::with_capacity(list.len());
            for node in std::mem::take(list) {
                match seen.entry(key_of(*key, &node, &path)?) {
                    std::collections::hash_map::Entry::Occupied(at) => kept[*at.get()] = node,
                    std::collections::hash_map::Entry::Vacant(free) => {
                        free.insert(kept.len());
                        kept.push(node);
                    }
                }
            }
            *list = kept;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn key_of(key: Key, node: &Node, path: &Path<'_>) -> Result<String> {
    let missing = |what: &str| Fault::at(node.span, format!("{path}: {what}"));
    let whole = || node.printed().ok_or_else(|| missing("a single value is expected"));
    let is_map = node.as_map().is_some();
    match key {
        Key::Whole => whole(),
        Key::Name => Ok(whole()?.split('=').next().unwrap_or_default().to_owned()),
        Key::Volume | Key::Device if is_map => match node.get_text("target") {
            Some(target) => Ok(target.to_owned()),
            // A device may leave its target out, a volume of one of some kinds not.
            None => node
                .get_text("source")
                .filter(|_| matches!(key, Key::Device))
                .map(str::to_owned)
                .ok_or_else(|| missing("a mount target is missing")),
        },
        Key::Volume => volume::target(&whole()?).map_err(|why| Fault::at(node.span, why)),
        Key::Device => {
            let text = whole()?;
            let mut parts = text.split(':');
            let source = parts.next().unwrap_or_default();
            Ok(parts.next().unwrap_or(source).to_owned())
        }
        Key::File(dir) if is_map => match node.get_text("target") {
            Some(target) => Ok(target.to_owned()),
            None => Ok(format!("{dir}/{}", node.get_text("source").unwrap_or_default())),
        },
        Key::File(dir) => Ok(format!("{dir}/{}", whole()?)),
        Key::EnvFile if is_map => {
            node.get_text("path").map(str::to_owned).ok_or_else(|| missing("path is missing"))
        }
        Key::EnvFile => whole(),
        Key::Port if is_map => port(node).ok_or_else(|| missing("a target port is missing")),
        Key::Port => whole(),
    }
}

fn port(node: &Node) -> Option<String> {
    let part = |name: &str| node.get(name).and_then(Node::printed);
    let target = part("target")?;
    let published = part("published").unwrap_or_else(|| "<nil>".to_owned());
    let host = part("host_ip").unwrap_or_else(|| "0.0.0.0".to_owned());
    let protocol = part("protocol").unwrap_or_else(|| "tcp".to_owned());
    Some(format!("{host}:{published}:{target}/{protocol}"))
}
