//! How objects lie in the store: canonical JSON with an empty place for the revision that the store gives.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use wharf_etcd::{Kv, Revision};

/// What stands where the revision belongs. Inside a text the quotes would be escaped, and before
/// the place of the real one there are only texts.
const PLACE: &[u8] = br#""resourceVersion":"""#;

/// Writes an object for the store.
pub fn encode(object: &Value) -> Bytes {
    let mut object = object.clone();
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        place(metadata, "");
    }
    object.to_string().into()
}

/// Puts the revision where normal form has it: behind the uid.
fn place(metadata: &mut Map<String, Value>, revision: &str) {
    metadata.shift_remove("resourceVersion");
    let before = ["name", "generateName", "namespace", "selfLink", "uid"];
    let at = metadata.keys().take_while(|k| before.contains(&k.as_str())).count();
    metadata.shift_insert(at, "resourceVersion".to_owned(), revision.into());
}

/// The object's JSON with its revision.
pub fn text(value: &[u8], revision: Revision) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 20);
    match memchr::memmem::find(value, PLACE) {
        Some(at) => {
            let end = at + PLACE.len() - 1;
            out.extend_from_slice(&value[..end]);
            out.extend_from_slice(revision.to_string().as_bytes());
            out.extend_from_slice(&value[end..]);
        }
        None => out.extend_from_slice(value),
    }
    out
}

/// The object as a tree, with its revision. What cannot be read, which only damage could cause, is null.
pub fn decode(kv: &Kv) -> Value {
    decode_at(kv, kv.mod_revision())
}

/// The same with another revision: a deletion's.
pub fn decode_at(kv: &Kv, revision: Revision) -> Value {
    let mut v: Value = serde_json::from_slice(kv.value()).unwrap_or_default();
    if let Some(slot) = v.pointer_mut("/metadata/resourceVersion") {
        *slot = json!(revision.to_string());
    }
    v
}

/// The object with a revision, as loops keep it: without the record of who owns which field, which none of them reads
/// and which a write without it leaves alone.
pub fn lean(kv: &Kv, revision: Revision) -> Value {
    let mut v = wharf_kube::pick::without(kv.value(), &["metadata", "managedFields"]);
    if let Some(slot) = v.pointer_mut("/metadata/resourceVersion") {
        *slot = json!(revision.to_string());
    }
    v
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_is_put_where_the_api_prints_it() {
        let object = json!({"kind": "X", "metadata": {"name": "a", "uid": "u", "resourceVersion": "9", "labels": {}},
            "data": {"k": "\"resourceVersion\":\"\""}});
        let bytes = encode(&object);
        let text = String::from_utf8(text(&bytes, Revision(7))).unwrap();
        assert!(
            text.starts_with(
                r#"{"kind":"X","metadata":{"name":"a","uid":"u","resourceVersion":"7","labels":{}}"#
            ),
            "{text}"
        );
        assert!(text.contains(r#"\"resourceVersion\":\"\""#));
    }
}
