//! OpenAPI v2 from v3: one document of everything, for older clients and for those who poll.

use super::document;
use crate::kinds::Kinds;
use serde_json::{Map, Value, json};

/// The document.
pub(super) fn swagger(kinds: &Kinds) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for gv in super::versions(kinds) {
        let doc = document(kinds, &gv);
        for (path, item) in doc["paths"].as_object().into_iter().flatten() {
            paths.insert(path.clone(), path_item(item));
        }
        for (name, schema) in doc["components"]["schemas"].as_object().into_iter().flatten() {
            let schema = self::schema(schema);
            // A type of several documents says in each which kinds of that document it is.
            match definitions.get_mut(name) {
                None => _ = definitions.insert(name.clone(), schema),
                Some(known) => join_kinds(known, &schema),
            }
        }
    }
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.36.2"},
        "paths": paths, "definitions": definitions,
        "securityDefinitions": {"BearerToken": {"description": "Bearer Token authentication",
            "type": "apiKey", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}]})
}

const KINDS: &str = "x-kubernetes-group-version-kind";

fn join_kinds(known: &mut Value, other: &Value) {
    for kind in other[KINDS].as_array().into_iter().flatten() {
        match known[KINDS].as_array_mut() {
            Some(list) if list.contains(kind) => {}
            Some(list) => list.push(kind.clone()),
            None => known[KINDS] = json!([kind]),
        }
    }
}

fn path_item(item: &Value) -> Value {
    let mut out = Map::new();
    for (key, v) in item.as_object().into_iter().flatten() {
        let v = if key == "parameters" { parameters(v) } else { operation(v) };
        out.insert(key.clone(), v);
    }
    Value::Object(out)
}

fn parameters(list: &Value) -> Value {
    let plain = |p: &Value| {
        let mut out = p.clone();
        if let Some(m) = out.as_object_mut()
            && let Some(Value::Object(schema)) = m.shift_remove("schema")
        {
            m.extend(schema);
        }
        out
    };
    list.as_array().into_iter().flatten().map(plain).collect()
}

fn operation(op: &Value) -> Value {
    let mut out = Map::new();
    for (key, v) in op.as_object().into_iter().flatten() {
        match key.as_str() {
            "parameters" => {
                let mut list = parameters(v);
                if let (Some(list), Some(body)) = (list.as_array_mut(), op.get("requestBody")) {
                    let schema = first_schema(body);
                    list.insert(
                        0,
                        json!({"in": "body", "name": "body", "required": true, "schema": schema}),
                    );
                }
                out.insert(key.clone(), list);
            }
            "requestBody" => {
                let types: Vec<&String> =
                    v["content"].as_object().into_iter().flatten().map(|(t, _)| t).collect();
                out.insert("consumes".to_owned(), json!(types));
            }
            "responses" => {
                let mut responses = Map::new();
                for (code, r) in v.as_object().into_iter().flatten() {
                    let mut answer = json!({"description": r["description"]});
                    if r["content"].is_object() {
                        answer["schema"] = first_schema(r);
                    }
                    responses.insert(code.clone(), answer);
                }
                out.insert(
                    "produces".to_owned(),
                    json!([
                        "application/json",
                        "application/yaml",
                        "application/vnd.kubernetes.protobuf"
                    ]),
                );
                out.insert("schemes".to_owned(), json!(["https"]));
                out.insert(key.clone(), Value::Object(responses));
            }
            _ => _ = out.insert(key.clone(), v.clone()),
        }
    }
    Value::Object(out)
}

fn first_schema(body: &Value) -> Value {
    let first = body["content"].as_object().and_then(|c| c.values().next());
    first.map(|c| schema(&c["schema"])).unwrap_or_default()
}

/// A schema in the older dialect, which has neither alternatives nor null.
fn schema(v: &Value) -> Value {
    let Value::Object(m) = v else { return v.clone() };
    let mut out = Map::new();
    let nullable = m.get("nullable") == Some(&json!(true));
    let preserve = m.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    if let Some(kind) = m.get("x-kubernetes-group-version-kind").filter(|_| preserve) {
        // Of an object that may hold anything nothing is said: clients would refuse what is not said.
        return json!({"type": "object", "x-kubernetes-group-version-kind": kind});
    }
    for (key, v) in m {
        match key.as_str() {
            "nullable" | "anyOf" | "oneOf" | "not" | "x-kubernetes-validations" => {}
            // The reference server says nothing of what it cannot say exactly.
            "type" | "items" | "properties" | "additionalProperties" if nullable => {}
            "properties" | "items" | "additionalProperties" | "type"
                if preserve && key != "type" => {}
            "allOf" => {
                // Only a reference with a description is written so.
                if let Some(r) = v.get(0).and_then(|r| r.get("$ref")) {
                    out.insert("$ref".to_owned(), reference(r));
                }
            }
            "$ref" => _ = out.insert(key.clone(), reference(v)),
            "properties" => {
                let all = v.as_object().into_iter().flatten();
                let all: Map<String, Value> = all.map(|(k, v)| (k.clone(), schema(v))).collect();
                out.insert(key.clone(), Value::Object(all));
            }
            "items" | "additionalProperties" => _ = out.insert(key.clone(), schema(v)),
            _ => _ = out.insert(key.clone(), v.clone()),
        }
    }
    let flexible = m.contains_key("oneOf") && !out.contains_key("type");
    if flexible {
        out.insert("type".to_owned(), json!("string"));
    }
    Value::Object(out)
}

fn reference(v: &Value) -> Value {
    let text = v.as_str().unwrap_or_default();
    json!(text.replace("#/components/schemas/", "#/definitions/"))
}
