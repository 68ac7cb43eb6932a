//! Walks over a structural schema and a value together: pruning, defaulting, embedded metadata.

use super::{is_set, object_at, typed_metadata};
use crate::typed::TypedError;
use serde_json::{Map, Value};

pub(super) const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
/// Fields that every object has, whatever its schema says.
const COMMON: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Visits every schema below a schema, and itself.
pub(super) fn each<'a>(schema: &'a Value, visit: &mut dyn FnMut(&'a Value)) {
    visit(schema);
    for key in ["properties"] {
        for (_, s) in object_at(schema, key).into_iter().flatten() {
            each(s, visit);
        }
    }
    for key in ["items", "additionalProperties", "not"] {
        if let Some(s @ Value::Object(_)) = schema.get(key) {
            each(s, visit);
        }
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for s in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
            each(s, visit);
        }
    }
}

/// The schema of a member of an object: a property, or else what all others have.
pub(super) fn member<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let property = object_at(schema, "properties").and_then(|p| p.get(name));
    property.or_else(|| schema.get("additionalProperties").filter(|a| a.is_object()))
}

/// Drops from an object what its schema does not know. Paths of what was dropped go to `unknown`.
pub(super) fn prune(schema: &Value, object: &mut Value, unknown: &mut Vec<String>) {
    let mut walk = Prune { unknown };
    walk.value(Some(schema), object, true, "");
}

/// Whether a part of an object has nothing that its schema does not know.
pub(super) fn is_pruned(schema: &Value, part: &Value) -> bool {
    let mut unknown = Vec::new();
    Prune { unknown: &mut unknown }.value(Some(schema), &mut part.clone(), false, "");
    unknown.is_empty()
}

struct Prune<'a> {
    unknown: &'a mut Vec<String>,
}

impl Prune<'_> {
    fn value(&mut self, schema: Option<&Value>, v: &mut Value, root: bool, path: &str) {
        match v {
            Value::Object(m) => self.object(schema, m, root, path),
            Value::Array(list) => {
                let items = schema.and_then(|s| s.get("items"));
                // Below what is preserved, lists without a schema keep all.
                let keep = items.is_none() && schema.is_some_and(|s| is_set(s, PRESERVE));
                for (i, v) in list.iter_mut().enumerate() {
                    if !keep {
                        self.value(items, v, false, &format!("{path}[{i}]"));
                    }
                }
            }
            _ => {}
        }
    }

    fn object(
        &mut self,
        schema: Option<&Value>,
        m: &mut Map<String, Value>,
        root: bool,
        path: &str,
    ) {
        let root = root || schema.is_some_and(|s| is_set(s, EMBEDDED));
        let preserve = schema.is_some_and(|s| is_set(s, PRESERVE));
        let others = schema.and_then(|s| s.get("additionalProperties"));
        let dot = if path.is_empty() { "" } else { "." };
        let keys: Vec<String> = m.keys().cloned().collect();
        for key in keys {
            if root && COMMON.contains(&key.as_str()) {
                continue;
            }
            let at = format!("{path}{dot}{key}");
            let known = schema.and_then(|s| member(s, &key));
            match (known, m.get_mut(&key)) {
                (Some(s), Some(v)) => self.value(Some(s), v, false, &at),
                _ if preserve => {}
                (None, Some(v)) if others.is_some_and(|o| *o == Value::Bool(true)) => {
                    self.value(None, v, false, &at);
                }
                _ => {
                    m.shift_remove(&key);
                    self.unknown.push(at);
                }
            }
        }
    }
}

/// Fills in the defaults below a value.
pub(super) fn defaults(schema: &Value, v: &mut Value) {
    match v {
        Value::Object(m) => {
            for (name, s) in object_at(schema, "properties").into_iter().flatten() {
                let Some(default) = s.get("default").filter(|d| !d.is_null()) else { continue };
                let missing = match m.get(name) {
                    None => true,
                    Some(Value::Null) => !is_set(s, "nullable"),
                    Some(_) => false,
                };
                if missing {
                    m.insert(name.clone(), default.clone());
                }
            }
            let properties = object_at(schema, "properties");
            for (name, v) in m {
                if let Some(s) = properties.and_then(|p| p.get(name)) {
                    defaults(s, v);
                } else if let Some(s) = member(schema, name) {
                    replace_null(s, v);
                    defaults(s, v);
                }
            }
        }
        Value::Array(list) => {
            if let Some(s) = schema.get("items") {
                for v in list {
                    replace_null(s, v);
                    defaults(s, v);
                }
            }
        }
        _ => {}
    }
}

/// An entry or element that is null where its schema has none takes the default.
fn replace_null(schema: &Value, v: &mut Value) {
    if v.is_null() && !is_set(schema, "nullable") {
        *v = schema.get("default").cloned().unwrap_or_default();
    }
}

/// Drops members that are null where their schema has neither null nor a default to take its place: they mean absent.
pub(super) fn drop_nulls(schema: &Value, v: &mut Value) {
    match v {
        Value::Object(m) => {
            let bare =
                |s: &Value| !is_set(s, "nullable") && s.get("default").is_none_or(Value::is_null);
            m.retain(|name, v| !(v.is_null() && member(schema, name).is_some_and(bare)));
            for (name, v) in m {
                if let Some(s) = member(schema, name) {
                    drop_nulls(s, v);
                }
            }
        }
        Value::Array(list) => {
            if let Some(s) = schema.get("items") {
                list.iter_mut().for_each(|v| drop_nulls(s, v));
            }
        }
        _ => {}
    }
}

/// Drops from the metadata of embedded objects what is none, as it may be in what was stored or in defaults.
pub(super) fn trim_metadata(schema: &Value, v: &mut Value) {
    // Only the root's metadata can fail to be read, and it is not looked at.
    _ = metadata(schema, v, "", false, &mut Vec::new());
}

/// Reads the metadata of an object, and of objects embedded in it, as metadata.
pub(super) fn metadata(
    schema: &Value,
    v: &mut Value,
    path: &str,
    root: bool,
    unknown: &mut Vec<String>,
) -> Result<(), TypedError> {
    let dot = if path.is_empty() { "" } else { "." };
    match v {
        Value::Object(m) => {
            if (root || is_set(schema, EMBEDDED))
                && let Some(given) = m.get_mut("metadata")
            {
                let mut own = Vec::new();
                match typed_metadata(given.clone(), &mut own) {
                    Ok(typed) => *given = typed,
                    Err(e) if root => return Err(e),
                    // What is embedded is judged with the rest of the object.
                    Err(_) => {}
                }
                unknown.extend(own.into_iter().map(|p| format!("{path}{dot}metadata.{p}")));
            }
            for (name, v) in m.iter_mut().filter(|(k, _)| !COMMON.contains(&k.as_str())) {
                if let Some(s) = member(schema, name) {
                    metadata(s, v, &format!("{path}{dot}{name}"), false, unknown)?;
                }
            }
        }
        Value::Array(list) => {
            if let Some(s) = schema.get("items") {
                for (i, v) in list.iter_mut().enumerate() {
                    metadata(s, v, &format!("{path}[{i}]"), false, unknown)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}
