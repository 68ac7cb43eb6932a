//! Other views of objects: tables for people, bare metadata for collectors.

use crate::api::Call;
use crate::kinds::Kind;
use serde_json::{Map, Value, json};
use wharf_kube::{printer, proto};

/// What a table looks like.
#[derive(Debug, Clone)]
pub struct TableOptions {
    /// What rows carry of their objects.
    pub include: Include,
    /// Whether columns are described; on a watch only once.
    pub headers: bool,
    /// Seconds since 1970, for ages.
    pub now: i64,
}

/// What rows carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// The object's metadata.
    #[default]
    Metadata,
    /// The object.
    Object,
}

impl Default for TableOptions {
    fn default() -> TableOptions {
        TableOptions { include: Include::Metadata, headers: true, now: 0 }
    }
}

impl TableOptions {
    /// What a call asks for.
    pub fn of(call: &Call<'_>, now: i64) -> TableOptions {
        let include = match call.query.include_object.as_str() {
            "None" => Include::None,
            "Object" => Include::Object,
            _ => Include::Metadata,
        };
        TableOptions { include, headers: true, now }
    }
}

/// Objects as rows.
pub fn table(kind: &Kind, objects: &[&Value], metadata: &Value, options: &TableOptions) -> Value {
    let columns = printer::columns(kind.group(), kind.name());
    let rows: Vec<Value> = objects
        .iter()
        .map(|o| {
            let mut row = Map::new();
            row.insert(
                "cells".into(),
                Value::Array(printer::cells(kind.group(), kind.name(), o, options.now)),
            );
            let conditions = printer::row_conditions(kind.group(), kind.name(), o);
            if !conditions.is_empty() {
                row.insert("conditions".into(), Value::Array(conditions));
            }
            match options.include {
                Include::None => row.insert("object".into(), Value::Null),
                Include::Metadata => row.insert("object".into(), partial(o)),
                Include::Object => row.insert("object".into(), (*o).clone()),
            };
            Value::Object(row)
        })
        .collect();
    let headers = if options.headers {
        columns.iter().map(printer::Column::to_value).collect()
    } else {
        Vec::new()
    };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": headers, "rows": rows})
}

/// An object's metadata as an object of its own.
pub fn partial(object: &Value) -> Value {
    let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

/// Lists of metadata.
pub fn partial_list(objects: &[&Value], metadata: &Value) -> Value {
    let items: Vec<Value> = objects.iter().map(|o| partial(o)).collect();
    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata, "items": items})
}

/// An object that says its own kind, sealed as protobuf: a `Status`, metadata, options.
pub fn sealed(object: &Value) -> Vec<u8> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let items = object.get("items").and_then(Value::as_array);
    let message = match (kind, items) {
        ("PartialObjectMetadataList", Some(items)) => {
            let ty = crate::kinds::known("meta.PartialObjectMetadata");
            let messages: Vec<Vec<u8>> = items.iter().map(|i| proto::encode(ty, i)).collect();
            proto::encode_list(&object["metadata"], messages.iter().map(Vec::as_slice))
        }
        ("PartialObjectMetadata", _) => {
            proto::encode(crate::kinds::known("meta.PartialObjectMetadata"), object)
        }
        _ => proto::encode(crate::kinds::known("meta.Status"), object),
    };
    proto::seal(version, kind, &message)
}
