//! Sets of fields: who owns what, in the form that `managedFields` records it.

use crate::shape::{Form, Object, Shape, key_of};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One step of a path, ordered as the API prints them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A field or the key of a map.
    Field(String),
    /// An element of a keyed list: its keys as JSON.
    Key(String),
    /// An element of a set: itself as JSON.
    Value(String),
    /// An element by position.
    Index(u64),
}

/// A tree of paths. A node may be a member itself, and have members below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: BTreeMap<Step, Node>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: FieldSet,
}

/// A text that is no set of fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed field path element {0:?}")]
pub struct FieldSetError(String);

impl Step {
    fn parse(text: &str) -> Result<Step, FieldSetError> {
        let bad = || FieldSetError(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
        match kind {
            "f" => Ok(Step::Field(rest.to_owned())),
            "k" | "v" => {
                let v: Value = serde_json::from_str(rest).map_err(|_| bad())?;
                match (kind, v) {
                    ("k", Value::Object(m)) => Ok(Step::key(m)),
                    ("k", _) => Err(bad()),
                    (_, v) => Ok(Step::Value(v.to_string())),
                }
            }
            "i" => rest.parse().map(Step::Index).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }

    fn key(m: Map<String, Value>) -> Step {
        let sorted: BTreeMap<String, Value> = m.into_iter().collect();
        Step::Key(Value::Object(sorted.into_iter().collect()).to_string())
    }

    fn encode(&self) -> String {
        match self {
            Step::Field(name) => format!("f:{name}"),
            Step::Key(k) => format!("k:{k}"),
            Step::Value(v) => format!("v:{v}"),
            Step::Index(i) => format!("i:{i}"),
        }
    }
}

/// As conflicts show it: `.spec.ports[port=80,protocol="TCP"]`.
impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Field(name) => write!(f, ".{name}"),
            Step::Key(k) => {
                let m: Map<String, Value> = serde_json::from_str(k).unwrap_or_default();
                let pairs: Vec<String> = m.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", pairs.join(","))
            }
            Step::Value(v) => write!(f, "[={v}]"),
            Step::Index(i) => write!(f, "[{i}]"),
        }
    }
}

impl FieldSet {
    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.nodes.values().all(|n| !n.member && n.below.is_empty())
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &[Step]) {
        if let Some((first, rest)) = path.split_first() {
            let node = self.nodes.entry(first.clone()).or_default();
            if rest.is_empty() {
                node.member = true;
            } else {
                node.below.insert(rest);
            }
        }
    }

    /// Removes a path and everything below it.
    pub fn cut(&mut self, path: &[&str]) {
        if let Some((first, rest)) = path.split_first() {
            let step = Step::Field((*first).to_owned());
            if rest.is_empty() {
                self.nodes.remove(&step);
            } else if let Some(node) = self.nodes.get_mut(&step) {
                node.below.cut(rest);
            }
        }
    }

    /// Keeps only what lies below these fields of the root.
    pub fn keep(&mut self, names: &[&str]) {
        self.nodes.retain(|s, _| matches!(s, Step::Field(n) if names.contains(&n.as_str())));
    }

    /// Members of either.
    #[must_use]
    pub fn union(mut self, other: &FieldSet) -> FieldSet {
        for (step, node) in &other.nodes {
            let own = self.nodes.entry(step.clone()).or_default();
            own.member |= node.member;
            own.below = std::mem::take(&mut own.below).union(&node.below);
        }
        self
    }

    /// Members of this one that are not members of the other.
    #[must_use]
    pub fn minus(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |a, b| a && !b, true)
    }

    /// Members of both.
    #[must_use]
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |a, b| a && b, false)
    }

    fn combine(&self, other: &FieldSet, keep: fn(bool, bool) -> bool, lone: bool) -> FieldSet {
        let mut out = FieldSet::default();
        for (step, node) in &self.nodes {
            let kept = match other.nodes.get(step) {
                Some(o) => Node {
                    member: keep(node.member, o.member),
                    below: node.below.combine(&o.below, keep, lone),
                },
                None if lone => node.clone(),
                None => continue,
            };
            if kept.member || !kept.below.is_empty() {
                out.nodes.insert(step.clone(), kept);
            }
        }
        out
    }

    /// Every member's path, in order.
    pub fn paths(&self) -> Vec<Vec<Step>> {
        let mut out = Vec::new();
        self.walk(&mut Vec::new(), &mut out);
        out
    }

    fn walk(&self, prefix: &mut Vec<Step>, out: &mut Vec<Vec<Step>>) {
        for (step, node) in &self.nodes {
            prefix.push(step.clone());
            if node.member {
                out.push(prefix.clone());
            }
            node.below.walk(prefix, out);
            prefix.pop();
        }
    }

    /// The same, with the declared fields on the way to a member as members too.
    #[must_use]
    pub fn with_named_parents(&self, shape: Shape<'_>) -> FieldSet {
        let form = shape.form();
        let mut out = FieldSet::default();
        for (step, node) in &self.nodes {
            let (child, named) = match (&form, step) {
                (Form::Object(o), Step::Field(name)) => (o.child(name), o.declares(name)),
                (Form::Keyed(_, item), Step::Key(_)) => (*item, false),
                _ => (Shape::Leaf, false),
            };
            let below = node.below.with_named_parents(child);
            let member = node.member || (named && !below.is_empty());
            out.nodes.insert(step.clone(), Node { member, below });
        }
        out
    }

    /// Takes the members out of a value: whole fields, entries and elements.
    pub fn remove_from(&self, value: &mut Value, shape: Shape<'_>) {
        match (shape.form(), value) {
            (Form::Object(o), Value::Object(m)) => self.remove_fields(o, m),
            (Form::Keyed(keys, item), Value::Array(list)) => list.retain_mut(|element| {
                let Some(key) = key_of(&keys, item, element) else { return true };
                match self.nodes.get(&Step::key(key)) {
                    Some(n) if n.member => false,
                    Some(n) => {
                        n.below.remove_from(element, item);
                        true
                    }
                    None => true,
                }
            }),
            (Form::Set, Value::Array(list)) => list.retain(|element| {
                let node = self.nodes.get(&Step::Value(element.to_string()));
                !node.is_some_and(|n| n.member)
            }),
            _ => {}
        }
    }

    fn remove_fields(&self, o: Object<'_>, m: &mut Map<String, Value>) {
        for (step, node) in &self.nodes {
            let Step::Field(name) = step else { continue };
            if node.member {
                m.shift_remove(name);
            } else if let Some(v) = m.get_mut(name) {
                node.below.remove_from(v, o.child(name));
            }
        }
    }

    /// Everything that a value sets.
    pub fn of(value: &Value, shape: Shape<'_>) -> FieldSet {
        let mut out = FieldSet::default();
        collect(value, shape, &mut Vec::new(), &mut out);
        out
    }

    /// Reads `FieldsV1`.
    pub fn decode(v: &Value) -> Result<FieldSet, FieldSetError> {
        let mut out = FieldSet::default();
        let Value::Object(m) = v else { return Err(FieldSetError(v.to_string())) };
        for (key, below) in m {
            if key == "." {
                continue;
            }
            let step = Step::parse(key)?;
            let empty = below.as_object().is_some_and(Map::is_empty);
            let member = empty || below.get(".").is_some();
            out.nodes.insert(step, Node { member, below: FieldSet::decode(below)? });
        }
        Ok(out)
    }

    /// Writes `FieldsV1`.
    pub fn encode(&self) -> Value {
        let mut out = Map::new();
        for (step, node) in &self.nodes {
            if !node.member && node.below.is_empty() {
                continue;
            }
            let mut below = node.below.encode();
            if let (Value::Object(m), true) = (&mut below, node.member)
                && !m.is_empty()
            {
                let mut with_dot = Map::new();
                with_dot.insert(".".to_owned(), Value::Object(Map::new()));
                with_dot.append(m);
                *m = with_dot;
            }
            out.insert(step.encode(), below);
        }
        Value::Object(out)
    }
}

fn collect(value: &Value, shape: Shape<'_>, path: &mut Vec<Step>, out: &mut FieldSet) {
    let parts = parts(value, shape);
    if parts.is_empty() {
        out.insert(path);
        return;
    }
    let object = match shape.form() {
        Form::Object(o) => Some(o),
        _ => None,
    };
    for (step, child, v) in parts {
        // Elements and map entries exist by themselves; declared fields only through what they hold.
        let exists = match (&step, &object) {
            (Step::Key(_), _) => true,
            (Step::Field(name), Some(o)) => !o.declares(name),
            _ => false,
        };
        path.push(step);
        if exists {
            out.insert(path);
        }
        collect(v, child, path, out);
        path.pop();
    }
}

/// What a value divides into; nothing where it is one piece.
fn parts<'v, 's>(value: &'v Value, shape: Shape<'s>) -> Vec<(Step, Shape<'s>, &'v Value)> {
    match (shape.form(), value) {
        (Form::Object(o), Value::Object(m)) => {
            m.iter().map(|(k, v)| (Step::Field(k.clone()), o.child(k), v)).collect()
        }
        (Form::Keyed(keys, item), Value::Array(list)) => {
            let named: Option<Vec<_>> = list
                .iter()
                .map(|e| key_of(&keys, item, e).map(|k| (Step::key(k), item, e)))
                .collect();
            unique(named.unwrap_or_default())
        }
        (Form::Set, Value::Array(list)) => {
            unique(list.iter().map(|e| (Step::Value(e.to_string()), Shape::Leaf, e)).collect())
        }
        _ => Vec::new(),
    }
}

/// A list in which two elements have one name is one piece.
fn unique<'v, 's>(parts: Vec<(Step, Shape<'s>, &'v Value)>) -> Vec<(Step, Shape<'s>, &'v Value)> {
    let names: std::collections::BTreeSet<&Step> = parts.iter().map(|p| &p.0).collect();
    if names.len() == parts.len() { parts } else { Vec::new() }
}

/// How one value became another.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Only in the new one.
    pub added: FieldSet,
    /// In both, different.
    pub modified: FieldSet,
    /// Only in the old one.
    pub removed: FieldSet,
}

/// Compares two values of one shape.
pub fn compare(old: &Value, new: &Value, shape: Shape<'_>) -> Comparison {
    let mut out = Comparison::default();
    walk(Some(old), Some(new), shape, &mut Vec::new(), &mut out);
    out
}

fn walk(
    old: Option<&Value>,
    new: Option<&Value>,
    shape: Shape<'_>,
    path: &mut Vec<Step>,
    out: &mut Comparison,
) {
    match (old, new) {
        (None, Some(_)) => out.added.insert(path),
        (Some(_), None) => out.removed.insert(path),
        _ => {}
    }
    let before = old.map(|v| parts(v, shape)).unwrap_or_default();
    let after = new.map(|v| parts(v, shape)).unwrap_or_default();
    if before.is_empty() && after.is_empty() {
        if let (Some(a), Some(b)) = (old, new)
            && a != b
        {
            out.modified.insert(path);
        }
        return;
    }
    let lookup: BTreeMap<&Step, &Value> = before.iter().map(|(s, _, v)| (s, *v)).collect();
    let kept: BTreeMap<&Step, ()> = after.iter().map(|(s, ..)| (s, ())).collect();
    for (step, child, v) in &after {
        path.push(step.clone());
        walk(lookup.get(step).copied(), Some(v), *child, path, out);
        path.pop();
    }
    for (step, child, v) in before.iter().filter(|(s, ..)| !kept.contains_key(s)) {
        path.push(step.clone());
        walk(Some(v), None, *child, path, out);
        path.pop();
    }
}

/// Lays `new` over `old`: leaves replace, objects and named elements merge, order is kept.
pub fn merge(old: &Value, new: &Value, shape: Shape<'_>) -> Value {
    match (shape.form(), old, new) {
        (Form::Object(o), Value::Object(a), Value::Object(b)) => {
            let mut out = a.clone();
            for (k, v) in b {
                let merged = match a.get(k) {
                    Some(old) => merge(old, v, o.child(k)),
                    None => v.clone(),
                };
                out.insert(k.clone(), merged);
            }
            Value::Object(out)
        }
        (Form::Keyed(..) | Form::Set, Value::Array(_), Value::Array(_)) => {
            let (before, after) = (parts(old, shape), parts(new, shape));
            if before.is_empty() || after.is_empty() {
                return if after.is_empty() && new.as_array().is_some_and(Vec::is_empty) {
                    old.clone()
                } else {
                    new.clone()
                };
            }
            Value::Array(merge_lists(&before, &after))
        }
        _ => new.clone(),
    }
}

type Part<'v, 's> = (Step, Shape<'s>, &'v Value);

/// The order of `after` rules; elements that only `before` has stay where they were.
fn merge_lists(before: &[Part<'_, '_>], after: &[Part<'_, '_>]) -> Vec<Value> {
    let left: BTreeMap<&Step, &Value> = before.iter().map(|(s, _, v)| (s, *v)).collect();
    let right: BTreeMap<&Step, ()> = after.iter().map(|(s, ..)| (s, ())).collect();
    let mut shared = after.iter().map(|(s, ..)| s).filter(|s| left.contains_key(s)).peekable();
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < before.len() || j < after.len() {
        if let Some((step, ..)) = before.get(i) {
            if !right.contains_key(step) {
                out.push(before[i].2.clone());
                i += 1;
                continue;
            }
            if j >= after.len()
                || (after[j].0 != *step && shared.peek().is_some_and(|s| *s != step))
            {
                // It comes, or came, at the place that the new list gives it.
                i += 1;
                continue;
            }
        }
        let (step, shape, v) = &after[j];
        let merged = left.get(step).map_or_else(|| (*v).clone(), |old| merge(old, v, *shape));
        out.push(merged);
        j += 1;
        if shared.peek() == Some(&step) {
            shared.next();
            if before.get(i).is_some_and(|b| b.0 == *step) {
                i += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;
    use serde_json::json;

    fn shape(name: &str) -> Shape<'static> {
        Shape::Type(Schema::builtin().id(name).unwrap())
    }

    #[test]
    fn what_was_added_is_recorded_as_the_api_records_it() {
        let old = json!({"metadata": {}, "spec": {"containers": null}});
        let new = json!({"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [
            {"name": "c", "image": "i", "ports": [{"containerPort": 80}]}], "nodeSelector": {"a": "b"}}});
        let c = compare(&old, &new, shape("core.Pod"));
        assert_eq!(
            c.added.encode(),
            json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}},
                    "f:nodeSelector": {}}})
        );
        assert!(c.removed.is_empty() && c.modified.is_empty());
        assert_eq!(FieldSet::decode(&c.added.encode()).unwrap(), c.added);
    }

    #[test]
    fn changes_and_removals_are_told_apart() {
        let old = json!({"data": {"a": "1", "b": "2"}});
        let new = json!({"data": {"a": "3"}});
        let c = compare(&old, &new, shape("core.ConfigMap"));
        assert_eq!(c.modified.encode(), json!({"f:data": {"f:a": {}}}));
        assert_eq!(c.removed.encode(), json!({"f:data": {"f:b": {}}}));
    }

    #[test]
    fn an_applied_object_owns_its_leaves() {
        let set = FieldSet::of(&json!({"data": {"k": "w"}}), shape("core.ConfigMap"));
        assert_eq!(set.encode(), json!({"f:data": {"f:k": {}}}));
        let v = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
        assert_eq!(
            FieldSet::of(&v, shape("core.Pod")).encode(),
            json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}}})
        );
    }

    #[test]
    fn lists_merge_in_the_new_order_around_what_was_there() {
        let pod = |names: &[&str]| json!({"spec": {"containers": names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>()}});
        for (old, new, expected) in [
            (&["a", "b"][..], &["b", "c"][..], &["a", "b", "c"][..]),
            (&["a", "b", "c"], &["c", "a"], &["b", "c", "a"]),
            (&["a"], &["a"], &["a"]),
            (&["x"], &["a"], &["x", "a"]),
        ] {
            let merged = merge(&pod(old), &pod(new), shape("core.Pod"));
            assert_eq!(merged, pod(expected), "{old:?} {new:?}");
        }
    }

    #[test]
    fn paths_read_as_conflicts_show_them() {
        let set = FieldSet::decode(&json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:name": {}}}}})).unwrap();
        let text: String = set.paths()[0].iter().map(ToString::to_string).collect();
        assert_eq!(text, ".spec.ports[port=80,protocol=\"TCP\"].name");
    }
}
