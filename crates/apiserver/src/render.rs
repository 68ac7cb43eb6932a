//! Other views of objects: tables for people, bare metadata for collectors.

use crate::api::Call;
use crate::definitions::Custom;
use crate::kinds::Kind;
use serde_json::{Map, Value, json};
use wharf_kube::{printer, proto, time};

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
    let rows: Vec<Value> = objects
        .iter()
        .map(|o| {
            let mut row = Map::new();
            let cells = match &kind.custom {
                Some(c) => custom_cells(c, o, options.now),
                None => printer::cells(kind.group(), kind.name(), o, options.now),
            };
            row.insert("cells".into(), Value::Array(cells));
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
    let headers = if options.headers { headers(kind) } else { Vec::new() };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": headers, "rows": rows})
}

fn headers(kind: &Kind) -> Vec<Value> {
    let Some(c) = &kind.custom else {
        let columns = printer::columns(kind.group(), kind.name());
        return columns.iter().map(printer::Column::to_value).collect();
    };
    let name = json!({"name": "Name", "type": "string", "format": "name", "description":
        "What the object is called; no two of a kind in a namespace are called the same.", "priority": 0});
    let more = c.columns.iter().map(|c| c.header.clone());
    std::iter::once(name).chain(more).collect()
}

fn custom_cells(c: &Custom, object: &Value, now: i64) -> Vec<Value> {
    let name = json!(crate::api::meta(object, "name"));
    let more = c.columns.iter().map(|c| match c.path.find(object).first() {
        Some(v) => custom_cell(&c.ty, v, now),
        None => Value::Null,
    });
    std::iter::once(name).chain(more).collect()
}

/// A value as a column of a type shows it; nothing where the value is of another type.
fn custom_cell(ty: &str, v: &Value, now: i64) -> Value {
    match (ty, v) {
        ("integer", Value::Number(n)) => {
            #[allow(clippy::cast_possible_truncation, reason = "what does not fit saturates")]
            let whole = n.as_i64().unwrap_or_else(|| n.as_f64().unwrap_or(0.0) as i64);
            json!(whole)
        }
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => v.clone(),
        ("string", Value::String(_)) => v.clone(),
        ("string", v) if !v.is_null() => json!(v.to_string()),
        ("date", Value::String(s)) => match time::parse_micros(s) {
            Some(t) => json!(time::age(now - t.div_euclid(1_000_000))),
            None => json!("<invalid>"),
        },
        _ => Value::Null,
    }
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
