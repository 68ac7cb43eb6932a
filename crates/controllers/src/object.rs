//! Reading objects: the parts of metadata that every loop looks at.

use serde_json::Value;

/// A text of `metadata`, empty where there is none.
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// Whether an object is being deleted.
pub fn is_deleting(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

/// An object's finalizers.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// An object's owners.
pub fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten()
}

/// The owner that manages an object.
pub fn manager(object: &Value) -> Option<&Value> {
    owners(object).find(|o| o["controller"] == true)
}

/// The revision of an object, 0 where it has none.
pub fn revision(object: &Value) -> i64 {
    meta(object, "resourceVersion").parse().unwrap_or(0)
}

/// A text below an object, empty where there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A whole number below an object.
pub fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}
