//! What is implied: the default network, names of things, dependencies, values of the environment.

use super::volume::clean;
use super::{Env, interpolate};
use crate::compose::node::{Map, Node, Tag, Value};

/// Gives secrets and configs the value of the variable they name, and lists of variables theirs.
pub(super) fn environment(tree: &mut Node, env: &Env) {
    let Some(root) = tree.as_map_mut() else { return };
    let section = |root: &mut Map, name: &str| -> Vec<String> {
        root.get(name)
            .and_then(Node::as_map)
            .map(|m| m.keys().cloned().collect())
            .unwrap_or_default()
    };
    for (kind, target) in [("secrets", CONTENT), ("configs", "content")] {
        for name in section(root, kind) {
            let entry = root.get_mut(kind).and_then(|n| n.as_map_mut()?.get_mut(&name));
            let Some(entry) = entry else { continue };
            let value = entry.get_text("environment").and_then(|v| env.get(v)).cloned();
            let span = entry.span;
            if let (Some(value), Some(map)) = (value, entry.as_map_mut()) {
                map.insert(target.to_owned(), Node::text(value, span));
            }
        }
    }
    for name in section(root, "services") {
        let service = root.get_mut("services").and_then(|n| n.as_map_mut()?.get_mut(&name));
        let list = service.and_then(|s| s.as_map_mut()?.get_mut("environment"));
        if let Some(Value::List(list)) = list.map(|n| &mut n.value) {
            for item in list {
                let Value::Text(text) = &mut item.value else { continue };
                if let Some(value) = env.get(text.as_str()) {
                    *text = format!("{text}={value}");
                    item.tag = Tag::Around;
                }
            }
        }
    }
}

/// The attribute in which a secret carries its value; no file can say it.
pub(in crate::compose) const CONTENT: &str = "x-#value";

/// Fills in what is implied.
pub(super) fn apply(tree: &mut Node, env: &Env) {
    let Some(root) = tree.as_map_mut() else { return };
    networks(root);
    if let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) {
        for service in services.values_mut() {
            let span = service.span;
            if let Some(map) = service.as_map_mut() {
                normalize(map, env, span);
            }
        }
    }
    names(root);
}

fn normalize(service: &mut Map, env: &Env, span: crate::compose::node::Span) {
    let text = |t: &str| Node::text(t, span).implied();
    if service.get("pull_policy").and_then(Node::as_text) == Some("if_not_present") {
        service.insert("pull_policy".to_owned(), text("missing"));
    }
    if let Some(build) = service.get_mut("build").and_then(Node::as_map_mut) {
        build.entry("context".to_owned()).or_insert_with(|| text("."));
        if !build.contains_key("dockerfile_inline") {
            build.entry("dockerfile".to_owned()).or_insert_with(|| text("Dockerfile"));
        }
        if let Some(args) = build.get_mut("args") {
            values(args, env, false);
        }
    }
    if let Some(environment) = service.get_mut("environment") {
        values(environment, env, true);
    }
    if let Some(Value::List(volumes)) = service.get_mut("volumes").map(|v| &mut v.value) {
        for volume in volumes {
            let target = volume.as_map_mut().and_then(|m| m.get_mut("target"));
            if let Some(Value::Text(target)) = target.map(|t| &mut t.value) {
                *target = clean(target);
            }
        }
    }
    dependencies(service, span);
}

/// Links, shared namespaces and shared volumes are dependencies as well.
fn dependencies(service: &mut Map, span: crate::compose::node::Span) {
    let mut implied: Vec<(String, bool)> = Vec::new();
    let texts = |name: &str| -> Vec<String> {
        let list = service.get(name).and_then(Node::as_list).unwrap_or_default();
        list.iter().filter_map(Node::as_text).map(str::to_owned).collect()
    };
    for link in texts("links") {
        let mut parts = link.splitn(3, ':');
        let name = match (parts.next(), parts.next(), parts.next()) {
            (Some(name), Some(_), None) => name,
            _ => &link,
        };
        implied.push((name.to_owned(), true));
    }
    for namespace in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        let mode = service.get(namespace).and_then(Node::as_text);
        if let Some(name) = mode.and_then(|m| m.strip_prefix("service:")) {
            implied.push((name.to_owned(), true));
        }
    }
    for source in texts("volumes_from").iter().filter(|s| !s.starts_with("container:")) {
        implied.push((source.split(':').next().unwrap_or_default().to_owned(), false));
    }
    if implied.is_empty() {
        return;
    }
    let list = service
        .entry("depends_on".to_owned())
        .or_insert_with(|| Node::new(Value::Map(Map::new()), span));
    let Some(list) = list.as_map_mut() else { return };
    for (name, restart) in implied {
        let yes = |b: bool| Node::new(Value::Bool(b), span).implied();
        list.entry(name).or_insert_with(|| {
            Node::new(
                Value::Map(Map::from([
                    ("condition".to_owned(), Node::text("service_started", span).implied()),
                    ("restart".to_owned(), yes(restart)),
                    ("required".to_owned(), yes(true)),
                ])),
                span,
            )
        });
    }
}

/// Variables without a value take the one around; without any they go, or stay empty.
fn values(node: &mut Node, env: &Env, keep: bool) {
    match &mut node.value {
        Value::Map(map) => {
            map.retain(|name, child| {
                if let (true, Some(value)) = (child.is_null(), env.get(name)) {
                    child.value = Value::Text(value.clone());
                    child.tag = Tag::Around;
                }
                keep || !child.is_null()
            });
        }
        Value::List(list) => {
            list.retain_mut(|item| {
                let Value::Text(text) = &mut item.value else { return true };
                if text.contains('=') {
                    return true;
                }
                match env.get(text.as_str()) {
                    Some(value) => {
                        *text = format!("{text}={value}");
                        item.tag = Tag::Around;
                    }
                    None => return keep,
                }
                true
            });
        }
        _ => (),
    }
}

fn networks(root: &mut Map) {
    let mut used = false;
    let span = root.values().next().map(|n| n.span).unwrap_or_default();
    if let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) {
        for service in services.values_mut() {
            let span = service.span;
            let Some(service) = service.as_map_mut() else { continue };
            if service.contains_key("provider") || service.contains_key("network_mode") {
                continue;
            }
            let own = service.get("networks").and_then(Node::as_map);
            if own.is_none_or(Map::is_empty) {
                let default =
                    Map::from([("default".to_owned(), Node::new(Value::Null, span).implied())]);
                service.insert("networks".to_owned(), Node::new(Value::Map(default), span));
            }
            let own = service.get("networks").and_then(Node::as_map);
            used |= own.is_some_and(|m| m.contains_key("default"));
        }
    }
    if !used {
        return;
    }
    let networks = root
        .entry("networks".to_owned())
        .or_insert_with(|| Node::new(Value::Map(Map::new()), span));
    if networks.is_null() {
        networks.value = Value::Map(Map::new());
    }
    if let Some(map) = networks.as_map_mut() {
        map.entry("default".to_owned()).or_insert_with(|| Node::new(Value::Null, span).implied());
    }
}

/// What has no name is called after its project and its key; what is external after its key.
fn names(root: &mut Map) {
    let project = root.get("name").and_then(Node::as_text).unwrap_or_default().to_owned();
    for kind in ["networks", "volumes", "configs", "secrets"] {
        let Some(section) = root.get_mut(kind).and_then(Node::as_map_mut) else { continue };
        for (key, node) in section {
            if node.is_null() {
                node.value = Value::Map(Map::new());
            }
            let span = node.span;
            let Some(map) = node.as_map_mut() else { continue };
            if map.get("name").is_some_and(|n| !n.is_null()) {
                continue;
            }
            let external = map.get("external").is_some_and(|e| match &e.value {
                Value::Bool(yes) => *yes,
                Value::Text(text) => interpolate::boolean(text) == Some(true),
                _ => false,
            });
            let name = if external { key.clone() } else { format!("{project}_{key}") };
            map.insert("name".to_owned(), Node::text(name, span).implied());
        }
    }
}
