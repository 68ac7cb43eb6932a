//! OpenAPI of custom resources: what definitions say, as clients read it.

use crate::kinds::Kind;
use serde_json::{Map, Value, json};
use wharf_kube::schema::Schema;

/// The name of a kind's schema: `com.example.stable.v1.CronTab`.
pub(super) fn name(k: &Kind) -> String {
    if k.custom.is_none() {
        return Schema::builtin().ty(k.ty()).openapi.clone();
    }
    let reversed: Vec<&str> = k.group().rsplit('.').collect();
    format!("{}.{}.{}", reversed.join("."), k.resource.gv.version, k.name())
}

/// The schema of a custom resource with what every object has.
pub(super) fn schema(k: &Kind) -> Option<Value> {
    let custom = k.custom.as_ref()?;
    let mut schema = published(custom.schema.schema());
    let m = schema.as_object_mut()?;
    if m.get("type").is_none() {
        m.insert("type".to_owned(), json!("object"));
    }
    let properties = m.entry("properties").or_insert_with(|| json!({}));
    if let Some(p) = properties.as_object_mut() {
        common(p);
    }
    if let Some(fields) = selectable(k) {
        m.insert(SELECTABLE.to_owned(), fields);
    }
    Some(schema)
}

/// Where schemas say which fields lists can be selected by.
pub(super) const SELECTABLE: &str = "x-kubernetes-selectable-fields";

/// The fields by which lists of a custom resource can be selected, beside its name and namespace.
pub(super) fn selectable(k: &Kind) -> Option<Value> {
    let all = &k.custom.as_ref()?.selectable;
    let field = |(path, _): &(String, _)| json!({"fieldPath": path});
    (!all.is_empty()).then(|| Value::Array(all.iter().map(field).collect()))
}

/// The fields that every object has.
fn common(p: &mut Map<String, Value>) {
    p.insert(
        "apiVersion".to_owned(),
        json!({"type": "string", "description":
        "The version of the API that this object is written in, such as apps/v1."}),
    );
    p.insert("kind".to_owned(), json!({"type": "string", "description": "What the object is."}));
    p.insert("metadata".to_owned(), json!({"description": "What is known of every object: its name, labels, owners and history.",
        "allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}]}));
}

/// A definition's schema as OpenAPI: embedded objects have what every object has.
fn published(schema: &Value) -> Value {
    match schema {
        Value::Object(m) => {
            let mut out: Map<String, Value> = Map::new();
            for (k, v) in m {
                let v = match k.as_str() {
                    // These hold values, not schemas.
                    "default" | "enum" | "example" | "required" => v.clone(),
                    _ => published(v),
                };
                out.insert(k.clone(), v);
            }
            if m.get("x-kubernetes-embedded-resource") == Some(&json!(true)) {
                let properties = out.entry("properties").or_insert_with(|| json!({}));
                if let Some(p) = properties.as_object_mut() {
                    common(p);
                }
            }
            if m.get("x-kubernetes-int-or-string") == Some(&json!(true)) && !m.contains_key("anyOf")
            {
                out.insert("anyOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
            }
            Value::Object(out)
        }
        Value::Array(a) => Value::Array(a.iter().map(published).collect()),
        v => v.clone(),
    }
}
