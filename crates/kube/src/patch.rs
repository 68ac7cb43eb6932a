//! The three patches that are not apply: JSON Patch, merge patch and strategic merge patch.

use crate::schema::{Field, Schema, Ty, Type, TypeId};
use serde_json::{Map, Value};

/// A patch that cannot be read, or does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// It is no patch.
    #[error("{0}")]
    Malformed(String),
    /// It is one, but not for this object.
    #[error("{0}")]
    Unfit(String),
}

fn unfit(text: impl Into<String>) -> PatchError {
    PatchError::Unfit(text.into())
}

/// Bounds what repeated copies can grow an object to (3 MiB, as the reference server does).
const COPIED: usize = 3 * 1024 * 1024;
/// Bounds the number of operations.
const OPERATIONS: usize = 10_000;

/// Applies an RFC 6902 patch.
pub fn json(target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = patch else {
        return Err(PatchError::Malformed(
            "json: cannot unmarshal object into Go value of type jsonpatch.Patch".into(),
        ));
    };
    if operations.len() > OPERATIONS {
        return Err(unfit(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS}"
        )));
    }
    let mut out = target.clone();
    let mut copied = 0;
    for op in operations {
        operate(&mut out, op, &mut copied)?;
    }
    Ok(out)
}

fn operate(doc: &mut Value, op: &Value, copied: &mut usize) -> Result<(), PatchError> {
    let text = |key: &str| op.get(key).and_then(Value::as_str);
    let path = text("path").ok_or_else(|| unfit("operation without path"))?;
    let from = || text("from").ok_or_else(|| unfit("operation without from"));
    let value = || op.get("value").cloned().unwrap_or_default();
    let missing = |p: &str| unfit(format!("missing path {p}"));
    match text("op").unwrap_or_default() {
        "add" => add(doc, path, value()),
        "remove" => remove(doc, path).map(drop),
        "replace" => {
            *doc.pointer_mut(path).ok_or_else(|| missing(path))? = value();
            Ok(())
        }
        "move" => {
            let v = remove(doc, from()?)?;
            add(doc, path, v)
        }
        "copy" => {
            let v = doc.pointer(from()?).ok_or_else(|| missing(path))?.clone();
            *copied += v.to_string().len();
            if *copied > COPIED {
                return Err(unfit("copies are larger than an object may be"));
            }
            add(doc, path, v)
        }
        "test" => {
            let found = doc.pointer(path).cloned().unwrap_or_default();
            if found == value() {
                Ok(())
            } else {
                Err(unfit(format!("testing value {path} failed")))
            }
        }
        other => Err(unfit(format!("unexpected kind: {other}"))),
    }
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(doc: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    let Some((parent, last)) = split(path) else {
        *doc = value;
        return Ok(());
    };
    match doc.pointer_mut(parent) {
        Some(Value::Object(m)) => {
            m.insert(last, value);
            Ok(())
        }
        Some(Value::Array(list)) => {
            let at = if last == "-" { Some(list.len()) } else { last.parse().ok() };
            match at.filter(|i| *i <= list.len()) {
                Some(i) => {
                    list.insert(i, value);
                    Ok(())
                }
                None => Err(unfit(format!("invalid index {last}"))),
            }
        }
        _ => Err(unfit(format!("missing path {path}"))),
    }
}

fn remove(doc: &mut Value, path: &str) -> Result<Value, PatchError> {
    let missing = || unfit(format!("missing path {path}"));
    let (parent, last) = split(path).ok_or_else(missing)?;
    match doc.pointer_mut(parent) {
        Some(Value::Object(m)) => m.shift_remove(&last).ok_or_else(missing),
        Some(Value::Array(list)) => match last.parse::<usize>() {
            Ok(i) if i < list.len() => Ok(list.remove(i)),
            _ => Err(missing()),
        },
        _ => Err(missing()),
    }
}

/// Applies an RFC 7396 patch.
pub fn merge(target: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut out = match target {
        Value::Object(m) => m.clone(),
        _ => Map::new(),
    };
    for (k, v) in changes {
        if v.is_null() {
            out.shift_remove(k);
        } else {
            let merged = merge(out.get(k).unwrap_or(&Value::Null), v);
            out.insert(k.clone(), merged);
        }
    }
    Value::Object(out)
}

/// Applies a strategic merge patch to an object of a built-in type.
pub fn strategic(target: &Value, patch: &Value, ty: TypeId) -> Result<Value, PatchError> {
    let Value::Object(changes) = patch else {
        return Err(PatchError::Malformed("a strategic merge patch is an object".into()));
    };
    let empty = Map::new();
    let base = target.as_object().unwrap_or(&empty);
    object(base, changes, Some(Schema::builtin().ty(ty))).map(Value::Object)
}

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

fn object(
    base: &Map<String, Value>,
    patch: &Map<String, Value>,
    ty: Option<&Type>,
) -> Result<Map<String, Value>, PatchError> {
    match patch.get(PATCH).and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("delete") => return Ok(Map::new()),
        Some("replace") => {
            let mut out = patch.clone();
            out.shift_remove(PATCH);
            return Ok(out);
        }
        Some(other) => {
            return Err(PatchError::Malformed(format!("unknown patch type found: {other}")));
        }
    }
    let mut out = base.clone();
    if let Some(Value::Array(keys)) = patch.get(RETAIN) {
        out.retain(|k, _| keys.iter().any(|x| x.as_str() == Some(k)));
    }
    for (key, list) in patch {
        if let (Some(name), Value::Array(gone)) = (key.strip_prefix(DELETE), list)
            && let Some(Value::Array(items)) = out.get_mut(name)
        {
            items.retain(|i| !gone.contains(i));
        }
    }
    for (key, change) in patch.iter().filter(|(k, _)| !k.starts_with('$') || !is_directive(k)) {
        let field = ty.and_then(|t| t.field(key));
        if change.is_null() {
            out.shift_remove(key);
            continue;
        }
        let order = patch.get(&format!("{ORDER}{key}")).and_then(Value::as_array);
        let merged = value(out.get(key), change, field, order)?;
        out.insert(key.clone(), merged);
    }
    // An order may come for a list that the patch does not otherwise change.
    for (key, order) in patch {
        let (Some(name), Value::Array(order)) = (key.strip_prefix(ORDER), order) else { continue };
        let key = ty.and_then(|t| t.field(name)).and_then(|f| f.strategy.key);
        if let Some(Value::Array(items)) = out.get_mut(name)
            && !patch.contains_key(name)
        {
            *items = reorder(std::mem::take(items), &[], order, key);
        }
    }
    Ok(out)
}

fn is_directive(key: &str) -> bool {
    matches!(key, PATCH | RETAIN) || key.starts_with(ORDER) || key.starts_with(DELETE)
}

fn value(
    base: Option<&Value>,
    change: &Value,
    field: Option<&Field>,
    order: Option<&Vec<Value>>,
) -> Result<Value, PatchError> {
    let empty = Map::new();
    match (change, field.map(|f| &f.ty)) {
        (Value::Object(patch), Some(Ty::Map(item))) => {
            // Entries of a map are merged by the type of its values.
            let mut out = base.and_then(Value::as_object).unwrap_or(&empty).clone();
            match patch.get(PATCH).and_then(Value::as_str) {
                Some("delete") => return Ok(Value::Object(Map::new())),
                Some("replace") => out = Map::new(),
                _ => {}
            }
            for (k, v) in patch.iter().filter(|(k, _)| !is_directive(k)) {
                match (v, &**item) {
                    (Value::Null, _) => {
                        out.shift_remove(k);
                    }
                    (Value::Object(v), Ty::Struct(id)) => {
                        let old = out.get(k).and_then(Value::as_object).unwrap_or(&empty);
                        let merged = object(old, v, Some(Schema::builtin().ty(*id)))?;
                        out.insert(k.clone(), Value::Object(merged));
                    }
                    (v, _) => {
                        out.insert(k.clone(), v.clone());
                    }
                }
            }
            Ok(Value::Object(out))
        }
        (Value::Object(patch), ty) => {
            let ty = match ty {
                Some(Ty::Struct(id)) => Some(Schema::builtin().ty(*id)),
                _ => None,
            };
            let base = base.and_then(Value::as_object).unwrap_or(&empty);
            object(base, patch, ty).map(Value::Object)
        }
        (Value::Array(patch), Some(Ty::List(item))) if field.is_some_and(|f| f.strategy.merge) => {
            let base = base.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let key = field.and_then(|f| f.strategy.key);
            let merged = match (key, &**item) {
                (Some(key), Ty::Struct(id)) => keyed(base, patch, key, Schema::builtin().ty(*id))?,
                _ => union(base, patch),
            };
            Ok(Value::Array(match order {
                Some(order) => reorder(merged, base, order, key),
                None => merged,
            }))
        }
        _ => Ok(change.clone()),
    }
}

fn union(base: &[Value], patch: &[Value]) -> Vec<Value> {
    let mut out = base.to_vec();
    for v in patch {
        if !out.contains(v) {
            out.push(v.clone());
        }
    }
    out
}

fn keyed(base: &[Value], patch: &[Value], key: &str, ty: &Type) -> Result<Vec<Value>, PatchError> {
    let directive = |v: &Value| v.get(PATCH).and_then(Value::as_str).map(str::to_owned);
    if patch.iter().any(|v| directive(v).as_deref() == Some("replace")) {
        let kept = patch.iter().filter(|v| directive(v).is_none());
        return Ok(kept.cloned().collect());
    }
    let mut out = base.to_vec();
    for change in patch {
        let Value::Object(fields) = change else {
            return Err(PatchError::Malformed("expected an object in a merged list".into()));
        };
        let Some(id) = fields.get(key) else {
            return Err(PatchError::Malformed(format!(
                "map: {change} does not contain declared merge key: {key}"
            )));
        };
        let at = out.iter().position(|v| v.get(key) == Some(id));
        match (directive(change).as_deref(), at) {
            (Some("delete"), _) => out.retain(|v| v.get(key) != Some(id)),
            (_, Some(i)) => {
                let empty = Map::new();
                let old = out[i].as_object().unwrap_or(&empty);
                out[i] = Value::Object(object(old, fields, Some(ty))?);
            }
            (_, None) => out.push(Value::Object(object(&Map::new(), fields, Some(ty))?)),
        }
    }
    Ok(out)
}

/// Puts what `order` names into that order; the rest keeps its place relative to what stood beside it.
fn reorder(items: Vec<Value>, server: &[Value], order: &[Value], key: Option<&str>) -> Vec<Value> {
    let id = |v: &Value| key.map_or_else(|| v.clone(), |k| v.get(k).cloned().unwrap_or_default());
    let rank: Vec<Value> = order.iter().map(id).collect();
    let place = |v: &Value| server.iter().position(|s| id(s) == id(v));
    let (mut named, rest): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|v| rank.contains(&id(v)));
    named.sort_by_key(|v| rank.iter().position(|r| *r == id(v)));
    let (mut out, mut rest) = (Vec::new(), rest.into_iter().peekable());
    for v in named {
        while let Some(r) = rest.next_if(|r| match (place(r), place(&v)) {
            (Some(a), Some(b)) => a < b,
            _ => false,
        }) {
            out.push(r);
        }
        out.push(v);
    }
    out.extend(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(ty: &str) -> TypeId {
        Schema::builtin().id(ty).unwrap()
    }

    #[test]
    fn json_patch_does_its_six_operations() {
        let doc = json!({"a": [1, 2], "b": {"c/d": 3}});
        let patch = json!([{"op": "add", "path": "/a/-", "value": 4}, {"op": "remove", "path": "/a/0"},
            {"op": "replace", "path": "/b/c~1d", "value": 5}, {"op": "copy", "from": "/b", "path": "/e"},
            {"op": "move", "from": "/e/c~1d", "path": "/f"}, {"op": "test", "path": "/f", "value": 5}]);
        let out = super::json(&doc, &patch).unwrap();
        assert_eq!(out, json!({"a": [2, 4], "b": {"c/d": 5}, "e": {}, "f": 5}));
        for bad in [
            json!([{"op": "test", "path": "/f", "value": 5}]),
            json!([{"op": "remove", "path": "/x"}]),
            json!([{"op": "add", "path": "/a/9", "value": 1}]),
        ] {
            assert!(matches!(super::json(&doc, &bad), Err(PatchError::Unfit(_))), "{bad}");
        }
    }

    #[test]
    fn merge_patch_deletes_with_null() {
        let out =
            merge(&json!({"a": {"b": 1, "c": 2}, "l": [1]}), &json!({"a": {"b": null}, "l": [2]}));
        assert_eq!(out, json!({"a": {"c": 2}, "l": [2]}));
    }

    #[track_caller]
    fn check(ty: &str, base: Value, patch: Value, expected: Value) {
        assert_eq!(strategic(&base, &patch, pod(ty)).unwrap(), expected);
    }

    #[test]
    fn strategic_lists_merge_by_their_key() {
        check(
            "core.PodSpec",
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
            json!({"containers": [{"name": "b", "image": "2"}, {"name": "c"}, {"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b", "image": "2"}, {"name": "c"}]}),
        );
        check(
            "core.PodSpec",
            json!({"containers": [{"name": "a"}]}),
            json!({"containers": [{"$patch": "replace"}, {"name": "z"}]}),
            json!({"containers": [{"name": "z"}]}),
        );
    }

    #[test]
    fn strategic_directives_do_what_kubectl_expects() {
        check(
            "apps.DeploymentSpec",
            json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}),
            json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
            json!({"strategy": {"type": "Recreate"}}),
        );
        check(
            "meta.ObjectMeta",
            json!({"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}}),
            json!({"$deleteFromPrimitiveList/finalizers": ["a"], "labels": {"x": null}}),
            json!({"finalizers": ["b"], "labels": {"y": "2"}}),
        );
        check(
            "core.PodSpec",
            json!({"containers": [{"name": "a"}, {"name": "s"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "n"}, {"name": "a"}], "containers": [{"name": "n"}]}),
            json!({"containers": [{"name": "s"}, {"name": "b"}, {"name": "n"}, {"name": "a"}]}),
        );
        check(
            "core.PodSpec",
            json!({"nodeSelector": {"a": "b"}, "args": 1}),
            json!({"nodeSelector": {"$patch": "replace", "c": "d"}}),
            json!({"nodeSelector": {"c": "d"}, "args": 1}),
        );
    }
}
