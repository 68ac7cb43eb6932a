//! Merging a file over those before it: mappings deeply, sequences appended, and the exceptions.

use crate::compose::fault::{Fault, Result};
use crate::compose::node::{Map, Node, Path, Value};

#[derive(Clone, Copy)]
enum Rule {
    /// The later value replaces the earlier one.
    Replace,
    /// Both become lists of `key=value` and are appended.
    Sequence,
    /// As `Sequence`, without repeating what is there.
    Hosts,
    /// Both become mappings; an element of a list becomes a key with this value.
    Keys(Element),
    /// Short form `build: DIR`.
    Build,
    /// Options are merged only when the drivers agree.
    Logging,
    /// Address pools with the same subnet are one.
    Pools,
}

#[derive(Clone, Copy)]
enum Element {
    Null,
    Dependency,
}

const RULES: &[(Rule, &[&str])] = &[
    (
        Rule::Replace,
        &[
            "services.*.command",
            "services.*.entrypoint",
            "services.*.healthcheck.test",
            "services.*.ulimits.*",
        ],
    ),
    (
        Rule::Sequence,
        &[
            "networks.*.labels",
            "volumes.*.labels",
            "services.*.annotations",
            "services.*.build.args",
            "services.*.build.additional_contexts",
            "services.*.build.labels",
            "services.*.deploy.labels",
            "services.*.dns",
            "services.*.dns_opt",
            "services.*.dns_search",
            "services.*.env_file",
            "services.*.label_file",
            "services.*.environment",
            "services.*.labels",
            "services.*.volumes.*.volume.labels",
            "services.*.sysctls",
            "services.*.tmpfs",
        ],
    ),
    (Rule::Hosts, &["services.*.extra_hosts", "services.*.build.extra_hosts"]),
    (Rule::Keys(Element::Null), &["services.*.networks", "services.*.models"]),
    (Rule::Keys(Element::Dependency), &["services.*.depends_on"]),
    (Rule::Build, &["services.*.build"]),
    (Rule::Logging, &["services.*.logging"]),
    (Rule::Pools, &["networks.*.ipam.config"]),
];

/// Merges `over` into `base`.
pub(in crate::compose) fn merge(base: &mut Node, over: Node, path: Path<'_>) -> Result<()> {
    let rule = RULES.iter().find(|(_, list)| list.iter().any(|p| path.matches(p)));
    if let Some((rule, _)) = rule {
        return special(*rule, base, over, path);
    }
    if over.is_null() {
        return Ok(());
    }
    match (&mut base.value, over.value) {
        (Value::Map(base), Value::Map(over)) => mappings(base, over, path),
        (Value::List(base), Value::List(over)) => {
            base.extend(over);
            Ok(())
        }
        (Value::Map(_) | Value::List(_), _) => {
            Err(Fault::at(over.span, format!("cannot override {path}")))
        }
        (_, value) => {
            *base = Node { value, ..over };
            Ok(())
        }
    }
}

fn mappings(base: &mut Map, over: Map, path: Path<'_>) -> Result<()> {
    for (name, node) in over {
        match base.get_mut(&name) {
            Some(earlier) => merge(earlier, node, path.next(&name))?,
            None => drop(base.insert(name, node)),
        }
    }
    Ok(())
}

fn special(rule: Rule, base: &mut Node, over: Node, path: Path<'_>) -> Result<()> {
    match rule {
        Rule::Replace => *base = over,
        Rule::Sequence => {
            let mut list = sequence(base);
            list.extend(sequence(&over));
            base.value = Value::List(list);
        }
        Rule::Hosts => {
            let mut list = sequence(base);
            let new = sequence(&over);
            let new: Vec<Node> =
                new.into_iter().filter(|n| !list.iter().any(|old| old.same(n))).collect();
            list.extend(new);
            base.value = Value::List(list);
        }
        Rule::Keys(element) => {
            let over = keys(&over, element, path)?;
            let mut merged = keys(base, element, path)?;
            mappings(&mut merged, over, path)?;
            base.value = Value::Map(merged);
        }
        Rule::Build => {
            let over = build(over);
            *base = build(std::mem::replace(base, Node::new(Value::Null, over.span)));
            return match (&mut base.value, over.value) {
                (Value::Map(base), Value::Map(over)) => mappings(base, over, path),
                (Value::Null, value) => {
                    base.value = value;
                    Ok(())
                }
                (_, Value::Null) => Ok(()),
                _ => Err(Fault::at(over.span, format!("cannot override {path}"))),
            };
        }
        Rule::Logging => return logging(base, over, path),
        Rule::Pools => return pools(base, over, path),
    }
    Ok(())
}

fn build(node: Node) -> Node {
    match node.value {
        Value::Text(_) => {
            let context = Map::from([("context".to_owned(), node.clone())]);
            node.with(Value::Map(context))
        }
        _ => node,
    }
}

fn logging(base: &mut Node, over: Node, path: Path<'_>) -> Result<()> {
    let (old, new) = (base.get_text("driver"), over.get_text("driver"));
    if old.is_some() && new.is_some() && old != new {
        *base = over;
        return Ok(());
    }
    match (&mut base.value, over.value) {
        (Value::Map(base), Value::Map(over)) => mappings(base, over, path),
        (_, Value::Null) => Ok(()),
        (_, value) => {
            base.value = value;
            Ok(())
        }
    }
}

fn pools(base: &mut Node, over: Node, path: Path<'_>) -> Result<()> {
    let (Value::List(list), Value::List(new)) = (&mut base.value, over.value) else {
        return Err(Fault::at(over.span, format!("{path}: a list is expected")));
    };
    for node in new {
        let subnet = node.get_text("subnet").map(str::to_owned);
        let same = list.iter_mut().find(|n| n.get_text("subnet") == subnet.as_deref());
        match (same, node.value) {
            (Some(Node { value: Value::Map(old), .. }), Value::Map(new)) => {
                mappings(old, new, path)?;
            }
            (_, value) => list.push(Node { value, ..node }),
        }
    }
    Ok(())
}

/// A mapping as `key=value` texts sorted by key; a list as it is; a text as a list of one.
pub(in crate::compose) fn sequence(node: &Node) -> Vec<Node> {
    let Value::Map(map) = &node.value else {
        return match &node.value {
            Value::List(list) => list.clone(),
            Value::Text(_) => vec![node.clone()],
            _ => Vec::new(),
        };
    };
    let mut list = Vec::new();
    for (name, child) in map {
        let pair = |value: &Node| {
            let text = match value.printed() {
                None | Some(_) if value.is_null() => name.clone(),
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            };
            Node { key: child.key, ..Node::text(text, child.span) }
        };
        match &child.value {
            Value::List(values) => list.extend(values.iter().map(pair)),
            _ => list.push(pair(child)),
        }
    }
    list.sort_by(|a, b| a.as_text().cmp(&b.as_text()));
    list
}

fn keys(node: &Node, element: Element, path: Path<'_>) -> Result<Map> {
    match &node.value {
        Value::Map(map) => Ok(map.clone()),
        Value::Null => Ok(Map::new()),
        Value::List(list) => list
            .iter()
            .map(|item| {
                let name = item.as_text().ok_or_else(|| {
                    Fault::at(item.span, format!("{path}: a list of names is expected"))
                })?;
                Ok((name.to_owned(), element_of(item, element)))
            })
            .collect(),
        _ => Err(Fault::at(node.span, format!("{path} must be a list or mapping"))),
    }
}

fn element_of(item: &Node, element: Element) -> Node {
    match element {
        Element::Null => item.with(Value::Null),
        Element::Dependency => super::canonical::dependency(item),
    }
}
