//! What an attribute means when a part of it is not written.

use crate::compose::fault::{Fault, Result};
use crate::compose::node::{Map, Node, Path, Value};

/// Fills in what may be left out, once all files are merged.
pub(in crate::compose) fn apply(node: &mut Node, path: Path<'_>) -> Result<()> {
    let span = node.span;
    let text = |t: &str| Node::text(t, span).implied();
    let device = ["services.*.deploy.resources.reservations.devices.*", "services.*.gpus.*"];
    match &mut node.value {
        Value::Map(map) if path.matches("services.*.build") => {
            map.entry("context".to_owned()).or_insert_with(|| text("."));
        }
        Value::Map(map) if path.matches("services.*.secrets.*") => {
            let source = map.get("source").and_then(Node::as_text).unwrap_or_default();
            let target = format!("/run/secrets/{source}");
            map.entry("target".to_owned()).or_insert_with(|| text(&target));
        }
        Value::Map(map) if path.matches("services.*.ports.*") => {
            map.entry("protocol".to_owned()).or_insert_with(|| text("tcp"));
            map.entry("mode".to_owned()).or_insert_with(|| text("ingress"));
        }
        Value::Map(map) if device.iter().any(|p| path.matches(p)) => {
            let counted = map.contains_key("count") || map.contains_key("device_ids");
            map.extend((!counted).then(|| ("count".to_owned(), text("all"))));
        }
        Value::Map(map) => {
            map.iter_mut().try_for_each(|(name, child)| apply(child, path.next(name)))?;
        }
        Value::List(list) => {
            list.iter_mut().try_for_each(|child| apply(child, path.next("[]")))?;
        }
        _ => (),
    }
    Ok(())
}

/// Contradictions that a schema cannot tell, over the merged files.
pub(in crate::compose) fn check(root: &Node) -> Result<()> {
    let section = |name: &str| root.get(name).and_then(Node::as_map).into_iter().flatten();
    for (kind, keys) in [
        ("configs", &["file", "environment", "content"][..]),
        ("secrets", &["file", "environment"]),
    ] {
        for (name, node) in section(kind) {
            file_object(&format!("{kind}.{name}"), node, keys)?;
        }
    }
    for (name, node) in section("volumes") {
        let Some(map) = node.as_map() else { continue };
        external_alone(&format!("volumes.{name}"), map)?;
    }
    for (name, service) in section("services") {
        for port in service.get("ports").and_then(Node::as_list).unwrap_or_default() {
            let Some(ip) = port.get("host_ip") else { continue };
            if ip.as_text().is_none_or(|t| t.parse::<std::net::IpAddr>().is_err()) {
                let shown = ip.printed().unwrap_or_default();
                let text = format!("services.{name}.ports: invalid ip address: {shown}");
                return Err(Fault::at(ip.span, text));
            }
        }
        let gpus = service.get("gpus").and_then(Node::as_list).unwrap_or_default();
        let reserved = ["deploy", "resources", "reservations", "devices"]
            .iter()
            .try_fold(service, |node, key| node.get(key))
            .and_then(Node::as_list)
            .unwrap_or_default();
        for device in gpus.iter().chain(reserved) {
            if device.get("count").is_some() && device.get("device_ids").is_some() {
                let text = format!(
                    "services.{name}: \"count\" and \"device_ids\" attributes are exclusive"
                );
                return Err(Fault::at(device.span, text));
            }
        }
    }
    Ok(())
}

fn file_object(path: &str, node: &Node, keys: &[&str]) -> Result<()> {
    let Some(map) = node.as_map() else { return Ok(()) };
    let given = keys.iter().filter(|k| map.contains_key(**k)).count();
    let all = keys.join("|");
    if given > 1 {
        let text = format!("{path}: {all} attributes are mutually exclusive");
        return Err(Fault::at(node.key, text));
    }
    if given == 0 && !map.contains_key("driver") && !map.contains_key("external") {
        return Err(Fault::at(node.key, format!("{path}: one of {all} must be set")));
    }
    Ok(())
}

fn external_alone(path: &str, map: &Map) -> Result<()> {
    if !map.get("external").is_some_and(|e| matches!(e.value, Value::Bool(true))) {
        return Ok(());
    }
    let other = |k: &&String| !matches!(k.as_str(), "name" | "external") && !k.starts_with("x-");
    match map.keys().find(other) {
        None => Ok(()),
        Some(key) => {
            let text = format!("{path}: conflicting parameters \"external\" and {key:?} specified");
            Err(Fault::at(map[key].key, text))
        }
    }
}
