//! Every attribute in its long form.

use super::{port, volume};
use crate::compose::fault::{Fault, Result};
use crate::compose::node::{Map, Node, Path, Value};

#[derive(Clone, Copy)]
enum Rule {
    /// A text is a mapping with this one key.
    Under(&'static str),
    /// A number or boolean is its text.
    Printed,
    /// A list of `key=value` is a mapping.
    Pairs,
    Dependencies,
    EnvFiles,
    /// A text is a list of one.
    ListOf,
    Gpus,
    /// A list of names is a mapping to nothing.
    Names,
    Volume,
    Device,
    Ports,
    Ssh,
    External,
}

const RULES: &[(Rule, &[&str])] = &[
    (
        Rule::Under("source"),
        &["services.*.build.secrets.*", "services.*.secrets.*", "services.*.configs.*"],
    ),
    (Rule::Under("context"), &["services.*.build"]),
    (Rule::Under("service"), &["services.*.extends"]),
    (Rule::Under("path"), &["include.*"]),
    (Rule::Printed, &["services.*.build.provenance", "services.*.build.sbom"]),
    (Rule::Pairs, &["services.*.build.additional_contexts"]),
    (Rule::Dependencies, &["services.*.depends_on"]),
    (Rule::EnvFiles, &["services.*.env_file"]),
    (
        Rule::ListOf,
        &[
            "services.*.label_file",
            "services.*.dns",
            "services.*.develop.watch.*.ignore",
            "services.*.develop.watch.*.include",
        ],
    ),
    (Rule::Gpus, &["services.*.gpus"]),
    (Rule::Names, &["services.*.networks", "services.*.models"]),
    (Rule::Volume, &["services.*.volumes.*"]),
    (Rule::Device, &["services.*.devices.*"]),
    (Rule::Ports, &["services.*.ports"]),
    (Rule::Ssh, &["services.*.build.ssh"]),
    (Rule::External, &["volumes.*", "networks.*", "secrets.*", "configs.*"]),
];

/// Rewrites what is below `node`. `lenient` keeps what cannot be read because its variables were
/// not replaced.
pub(in crate::compose) fn apply(node: &mut Node, path: Path<'_>, lenient: bool) -> Result<()> {
    let rule = RULES.iter().find(|(_, list)| list.iter().any(|p| path.matches(p)));
    match rule {
        None => inside(node, path, lenient),
        Some((rule, _)) => special(*rule, node, path, lenient),
    }
}

fn inside(node: &mut Node, path: Path<'_>, lenient: bool) -> Result<()> {
    match &mut node.value {
        Value::Map(map) => {
            map.iter_mut().try_for_each(|(name, child)| apply(child, path.next(name), lenient))
        }
        Value::List(list) => {
            list.iter_mut().try_for_each(|child| apply(child, path.next("[]"), lenient))
        }
        _ => Ok(()),
    }
}

fn special(rule: Rule, node: &mut Node, path: Path<'_>, lenient: bool) -> Result<()> {
    let wrong = |node: &Node| Fault::at(node.span, format!("{path}: unexpected {}", node.kind()));
    match rule {
        Rule::Under(key) => match &node.value {
            Value::Text(_) => {
                node.value = Value::Map(Map::from([(key.to_owned(), node.clone())]));
                Ok(())
            }
            Value::Map(_) => inside(node, path, lenient),
            _ => Err(wrong(node)),
        },
        Rule::Printed => {
            node.value = Value::Text(node.printed().ok_or_else(|| wrong(node))?);
            Ok(())
        }
        Rule::Pairs => pairs(node, path, lenient),
        Rule::Dependencies => dependencies(node, path),
        Rule::EnvFiles => env_files(node),
        Rule::ListOf => {
            if node.as_text().is_some() {
                node.value = Value::List(vec![node.clone()]);
            }
            Ok(())
        }
        Rule::Gpus => {
            if node.as_text().is_some() {
                let all = Map::from([("count".to_owned(), node.with(Value::Text("all".into())))]);
                node.value = Value::List(vec![node.with(Value::Map(all))]);
            }
            inside(node, path, lenient)
        }
        Rule::Names => {
            if let Value::List(list) = &node.value {
                let name = |n: &Node| Some((n.as_text()?.to_owned(), n.with(Value::Null)));
                node.value = Value::Map(list.iter().filter_map(name).collect());
            }
            Ok(())
        }
        Rule::Volume => long_volume(node, lenient),
        Rule::Device => device(node, lenient),
        Rule::Ports => ports(node, path, lenient),
        Rule::Ssh => ssh(node),
        Rule::External => external(node, path, lenient),
    }
}

fn pairs(node: &mut Node, path: Path<'_>, lenient: bool) -> Result<()> {
    let Value::List(list) = &node.value else { return Ok(()) };
    let mut map = Map::new();
    for item in list {
        match item.as_text().and_then(|t| t.split_once('=')) {
            Some((key, value)) => {
                drop(map.insert(key.to_owned(), item.with(Value::Text(value.into()))))
            }
            None if lenient => return Ok(()),
            None => {
                let shown = item.printed().unwrap_or_default();
                let text = format!("{path}: invalid value {shown}, expected key=value");
                return Err(Fault::at(item.span, text));
            }
        }
    }
    node.value = Value::Map(map);
    Ok(())
}

/// The long form of a name in `depends_on`.
pub(super) fn dependency(item: &Node) -> Node {
    let started = item.with(Value::Text("service_started".into()));
    item.with(Value::Map(Map::from([
        ("condition".to_owned(), started),
        ("required".to_owned(), item.with(Value::Bool(true))),
    ])))
}

fn dependencies(node: &mut Node, path: Path<'_>) -> Result<()> {
    match &mut node.value {
        Value::List(list) => {
            let entry = |n: &Node| Some((n.as_text()?.to_owned(), dependency(n)));
            node.value = Value::Map(list.iter().filter_map(entry).collect());
        }
        Value::Map(map) => {
            for (name, child) in map {
                let span = child.span;
                let Value::Map(entry) = &mut child.value else {
                    return Err(Fault::at(span, format!("{path}.{name} must be a mapping")));
                };
                let condition = || Node::text("service_started", span).implied();
                entry.entry("condition".to_owned()).or_insert_with(condition);
                let yes = || Node::new(Value::Bool(true), span).implied();
                entry.entry("required".to_owned()).or_insert_with(yes);
            }
        }
        _ => return Err(Fault::at(node.span, format!("{path} must be a list or mapping"))),
    }
    Ok(())
}

fn env_files(node: &mut Node) -> Result<()> {
    if node.as_text().is_some() {
        node.value = Value::List(vec![node.clone()]);
    }
    let Value::List(list) = &mut node.value else { return Ok(()) };
    for item in list {
        let span = item.span;
        if item.as_text().is_some() {
            item.value = Value::Map(Map::from([("path".to_owned(), item.clone())]));
        }
        if let Some(map) = item.as_map_mut() {
            let yes = || Node::new(Value::Bool(true), span).implied();
            map.entry("required".to_owned()).or_insert_with(yes);
        }
    }
    Ok(())
}

fn long_volume(node: &mut Node, lenient: bool) -> Result<()> {
    let Value::Text(text) = &node.value else { return Ok(()) };
    match volume::long(text, node.span) {
        Ok(map) => node.value = Value::Map(map),
        Err(_) if lenient => (),
        Err(why) => return Err(Fault::at(node.span, why)),
    }
    Ok(())
}

fn device(node: &mut Node, lenient: bool) -> Result<()> {
    let Value::Text(text) = &node.value else { return Ok(()) };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, permissions) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, target] => (source, target, "rwm"),
        [source, target, permissions] => (source, target, permissions),
        _ if lenient => return Ok(()),
        _ => {
            let text = format!("confusing device mapping, please use long syntax: {text}");
            return Err(Fault::at(node.span, text));
        }
    };
    let target = if target.is_empty() { source } else { target };
    let entries = [("source", source), ("target", target), ("permissions", permissions)];
    let entries = entries.map(|(k, v)| (k.to_owned(), node.with(Value::Text(v.into()))));
    node.value = Value::Map(Map::from(entries));
    Ok(())
}

fn ports(node: &mut Node, path: Path<'_>, lenient: bool) -> Result<()> {
    let Value::List(list) = &node.value else {
        return Err(Fault::at(node.span, format!("{path} must be a list")));
    };
    let mut out = Vec::with_capacity(list.len());
    for item in list {
        if item.as_map().is_some() {
            out.push(item.clone());
            continue;
        }
        let text = item.printed().unwrap_or_default();
        match port::long(&text, item.span) {
            Ok(ports) => out.extend(ports.into_iter().map(|p| item.with(Value::Map(p)))),
            Err(_) if lenient => return Ok(()),
            Err(why) => return Err(Fault::at(item.span, why)),
        }
    }
    node.value = Value::List(out);
    Ok(())
}

fn ssh(node: &mut Node) -> Result<()> {
    let Value::List(list) = &node.value else { return Ok(()) };
    let mut map = Map::new();
    for item in list {
        let text = item.as_text().unwrap_or_default();
        match text.split_once('=') {
            Some((id, path)) => {
                drop(map.insert(id.to_owned(), item.with(Value::Text(path.into()))))
            }
            None if text == "default" => drop(map.insert(text.to_owned(), item.with(Value::Null))),
            None => return Err(Fault::at(item.span, format!("invalid ssh key {text:?}"))),
        }
    }
    node.value = Value::Map(map);
    Ok(())
}

/// `external: {name: x}` is `external: true` and `name: x`.
fn external(node: &mut Node, path: Path<'_>, lenient: bool) -> Result<()> {
    if node.is_null() {
        return Ok(());
    }
    inside(node, path, lenient)?;
    let Some(map) = node.as_map_mut() else { return Ok(()) };
    let Some(external) = map.get("external").filter(|e| e.as_map().is_some()) else {
        return Ok(());
    };
    let (span, outer) = (external.span, external.with(Value::Bool(true)));
    let name = external.get("name").cloned();
    map.insert("external".to_owned(), outer);
    let Some(name) = name else { return Ok(()) };
    match map.get("name") {
        Some(own) if !own.same(&name) => {
            let text = format!("{path}: name and external.name conflict; only use name");
            Err(Fault::at(span, text))
        }
        _ => {
            map.insert("name".to_owned(), name);
            Ok(())
        }
    }
}
