//! OpenAPI, from the schema tables and the definitions of custom resources: one document per group and version.

mod custom;
mod gnostic;
mod v2;

use crate::kinds::{Kind, Kinds};
use crate::respond::Answer;
use crate::server::{Incoming, validated};
use http::StatusCode;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha512};
use std::collections::BTreeSet;
use std::sync::Arc;
use wharf_kube::resources::GroupVersion;
use wharf_kube::schema::{Field, ListKind, Schema, Ty, TypeId};
use wharf_kube::status::Fault;

/// Serves `/openapi/…`.
pub fn serve(kinds: &Kinds, rest: &str, r: &Incoming) -> Result<Answer, Fault> {
    if rest == "v3" {
        return Ok(Answer::json(StatusCode::OK, &index(kinds), false));
    }
    if rest == "v2" {
        return older(kinds, r);
    }
    let path = rest.strip_prefix("v3/").ok_or_else(Fault::no_route)?;
    let gv = match path.split('/').collect::<Vec<_>>()[..] {
        ["api", version] => GroupVersion::parse(version),
        ["apis", group, version] => {
            GroupVersion { group: group.to_owned(), version: version.to_owned() }
        }
        _ => return Err(Fault::no_route()),
    };
    if !kinds.serves(&gv) {
        return Err(Fault::no_route());
    }
    let bytes = document(kinds, &gv).to_string().into_bytes();
    Ok(validated(r, "application/json", bytes))
}

/// The program that makes documents: the tables change only with it.
const PROGRAM: &str = concat!(env!("CARGO_PKG_VERSION"), " openapi 2");

/// What `/openapi/v2` is served as: the media types that clients ask for and the one that is answered.
const OLDER: [(&[&str], &str); 2] = [
    (&["application/json", "*/*", "application/*"], "application/json"),
    (
        &[
            "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
            "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
        ],
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    ),
];

/// `/openapi/v2`. Whether a client has it already is known without making it.
fn older(kinds: &Kinds, r: &Incoming) -> Result<Answer, Fault> {
    let accept = r.header("accept").filter(|a| !a.trim().is_empty()).unwrap_or("*/*");
    let asked = accept.split(',').map(|a| a.split(';').next().unwrap_or_default().trim());
    let media = asked.filter_map(|a| OLDER.iter().find(|(names, _)| names.contains(&a))).next();
    let Some((_, media)) = media else {
        return Err(Fault::not_acceptable(&OLDER.map(|(_, media)| media).join(", ")));
    };
    let stamps: Vec<String> = kinds.defined().stamps();
    let hash = Sha512::digest(format!("{PROGRAM} v2 {media} {stamps:?}"));
    let etag = format!("\"{}\"", hex::encode_upper(hash));
    let known = r.header("if-none-match").is_some_and(|h| h.split(',').any(|t| t.trim() == etag));
    let mut answer = if known {
        Answer::bytes(StatusCode::NOT_MODIFIED, media, bytes::Bytes::new())
    } else {
        let document = v2::swagger(kinds);
        let protobuf = media.ends_with("protobuf");
        let bytes =
            if protobuf { gnostic::encode(&document) } else { document.to_string().into_bytes() };
        Answer::bytes(StatusCode::OK, media, bytes)
    };
    answer.header("etag", &etag);
    answer.header("vary", "Accept");
    Ok(answer)
}

/// The groups and versions that are served, each once.
fn versions(kinds: &Kinds) -> Vec<GroupVersion> {
    let mut out: Vec<GroupVersion> = Vec::new();
    for k in kinds.all() {
        if !out.contains(&k.resource.gv) {
            out.push(k.resource.gv.clone());
        }
    }
    out
}

fn prefix(gv: &GroupVersion) -> String {
    if gv.group.is_empty() { format!("api/{}", gv.version) } else { format!("apis/{gv}") }
}

/// Which documents there are. Their hashes name what they are made from.
fn index(kinds: &Kinds) -> Value {
    let mut paths = Map::new();
    let defined = kinds.defined();
    for gv in versions(kinds) {
        let path = prefix(&gv);
        let stamps = defined.stamps_of(&gv);
        let hash = hex::encode_upper(Sha512::digest(format!("{PROGRAM} {path} {stamps:?}")));
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.entry(path).or_insert_with(|| json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// The document of a group and version.
pub fn document(kinds: &Kinds, gv: &GroupVersion) -> Value {
    let own: Vec<Arc<Kind>> = kinds.all().into_iter().filter(|k| k.resource.gv == *gv).collect();
    let mut schemas = Schemas::default();
    let mut paths = Map::new();
    for k in &own {
        match custom::schema(k) {
            Some(schema) => {
                if let Some(id) = Schema::builtin().id("meta.ObjectMeta") {
                    schemas.add(id);
                }
                schemas.out.insert(custom::name(k), schema);
            }
            None => schemas.add(k.ty()),
        }
        if k.resource.verbs.contains(&"list") {
            let (name, list) = schemas.list(k);
            schemas.out.insert(name, list);
        }
        for s in k.resource.subresources.iter().filter(|s| s.ty != k.ty()) {
            schemas.add(s.ty);
        }
        routes(k, &mut paths);
    }
    if let Some(id) = Schema::builtin().id("meta.DeleteOptions") {
        schemas.add(id);
    }
    if let Some(id) = Schema::builtin().id("meta.Status") {
        schemas.add(id);
    }
    for k in &own {
        schemas.mark(k);
    }
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.2"},
        "paths": paths, "components": {"schemas": schemas.out}})
}

#[derive(Default)]
struct Schemas {
    out: Map<String, Value>,
    seen: BTreeSet<String>,
}

impl Schemas {
    fn add(&mut self, id: TypeId) {
        let t = Schema::builtin().ty(id);
        if !self.seen.insert(t.openapi.clone()) {
            return;
        }
        let (mut properties, mut required) = (Map::new(), Vec::new());
        if t.kind {
            for (name, text) in [
                (
                    "apiVersion",
                    "The version of the API that this object is written in, such as apps/v1.",
                ),
                ("kind", "What the object is."),
            ] {
                properties.insert(name.into(), json!({"description": text, "type": "string"}));
            }
        }
        for f in &t.fields {
            properties.insert(f.name.to_owned(), self.field(f));
            if f.required {
                required.push(f.name);
            }
        }
        let mut out = Map::new();
        out.insert("description".into(), wharf_kube::explain::of_type(t).into());
        out.insert("type".into(), "object".into());
        if !required.is_empty() {
            out.insert("required".into(), json!(required));
        }
        if !properties.is_empty() {
            out.insert("properties".into(), Value::Object(properties));
        }
        if t.atomic {
            out.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        self.out.insert(t.openapi.clone(), Value::Object(out));
    }

    fn field(&mut self, f: &Field) -> Value {
        let mut v = self.ty(&f.ty);
        let Value::Object(m) = &mut v else { return v };
        // A reference has no room beside it; what is said of the field goes around it.
        if let Some(r) = m.shift_remove("$ref") {
            m.insert("allOf".into(), json!([{"$ref": r}]));
        }
        let text = wharf_kube::explain::of_field(f);
        m.insert("description".into(), text.into());
        if let Some(default) = f.default.and_then(|d| serde_json::from_str::<Value>(d).ok()) {
            m.insert("default".into(), default);
        } else if f.always && !f.pointer && matches!(f.ty, Ty::Struct(_)) {
            m.insert("default".into(), json!({}));
        }
        match &f.list {
            Some(ListKind::Atomic) => {
                _ = m.insert("x-kubernetes-list-type".into(), "atomic".into())
            }
            Some(ListKind::Set) => _ = m.insert("x-kubernetes-list-type".into(), "set".into()),
            Some(ListKind::Map(keys)) => {
                m.insert("x-kubernetes-list-map-keys".into(), json!(keys));
                m.insert("x-kubernetes-list-type".into(), "map".into());
            }
            None => {}
        }
        if f.atomic {
            m.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        if let Some(key) = f.strategy.key {
            m.insert("x-kubernetes-patch-merge-key".into(), key.into());
        }
        let strategy = match (f.strategy.merge, f.strategy.retain_keys) {
            (true, true) => "merge,retainKeys",
            (true, false) => "merge",
            (false, true) => "retainKeys",
            (false, false) => "",
        };
        if !strategy.is_empty() {
            m.insert("x-kubernetes-patch-strategy".into(), strategy.into());
        }
        v
    }

    fn ty(&mut self, ty: &Ty) -> Value {
        match ty {
            Ty::Str => json!({"type": "string"}),
            Ty::Enum(id) => {
                let members = Schema::builtin().members(*id);
                json!({"type": "string", "enum": members})
            }
            Ty::Bool => json!({"type": "boolean"}),
            Ty::I32 => json!({"type": "integer", "format": "int32"}),
            Ty::I64 => json!({"type": "integer", "format": "int64"}),
            Ty::F64 => json!({"type": "number", "format": "double"}),
            Ty::Bytes => json!({"type": "string", "format": "byte"}),
            Ty::Quantity => self.named("io.k8s.apimachinery.pkg.api.resource.Quantity", "A quantity: a number with a unit such as m, k, Mi or Gi, in its shortest spelling.", json!({"oneOf": [{"type": "string"}, {"type": "number"}]})),
            Ty::Time => self.named("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "A moment in whole seconds, in the form of RFC 3339.", json!({"type": "string", "format": "date-time"})),
            Ty::MicroTime => self.named("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "A moment in microseconds, in the form of RFC 3339.", json!({"type": "string", "format": "date-time"})),
            Ty::Duration => self.named("io.k8s.apimachinery.pkg.apis.meta.v1.Duration", "A length of time such as 1h30m.", json!({"type": "string"})),
            Ty::IntOrString => self.named("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "A number, or a text such as a percentage or a port's name.", json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})),
            Ty::Raw => self.named("io.k8s.apimachinery.pkg.runtime.RawExtension", "Any object.", json!({"type": "object"})),
            Ty::Fields => self.named("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "A set of fields, each level an object whose keys begin with f:, k: or v:.", json!({"type": "object"})),
            Ty::Json | Ty::SchemaOrBool | Ty::SchemaOrList | Ty::SchemaOrStrings => {
                self.named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "Any JSON value.", json!({}))
            }
            Ty::Struct(id) => {
                self.add(*id);
                json!({"$ref": format!("#/components/schemas/{}", Schema::builtin().ty(*id).openapi)})
            }
            Ty::List(item) => json!({"type": "array", "items": self.ty(item)}),
            Ty::Map(item) => json!({"type": "object", "additionalProperties": self.ty(item)}),
        }
    }

    fn named(&mut self, name: &str, description: &str, mut schema: Value) -> Value {
        if let Value::Object(m) = &mut schema {
            m.insert("description".into(), description.into());
        }
        self.out.entry(name.to_owned()).or_insert(schema);
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    fn list(&mut self, k: &Kind) -> (String, Value) {
        if let Some(id) = Schema::builtin().id("meta.ListMeta") {
            self.add(id);
        }
        let item = custom::name(k);
        let name = format!("{item}List");
        let gvk =
            json!([{"group": k.group(), "kind": k.list_kind(), "version": k.resource.gv.version}]);
        let mut schema = json!({"description": format!("A list of objects of kind {}.", k.name()), "type": "object", "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string", "description": "The version of the API that this list is written in."},
                "items": {"type": "array", "description": "The objects.", "items": {"$ref": format!("#/components/schemas/{item}")}},
                "kind": {"type": "string", "description": "What the list is."},
                "metadata": {"description": "Which moment the list shows, and where it goes on.", "allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"}], "default": {}}},
            "x-kubernetes-group-version-kind": gvk});
        if let Some(fields) = custom::selectable(k) {
            schema[custom::SELECTABLE] = fields;
        }
        (name, schema)
    }

    /// Says which kind a schema is of.
    fn mark(&mut self, k: &Kind) {
        if let Some(Value::Object(m)) = self.out.get_mut(&custom::name(k)) {
            m.insert("x-kubernetes-group-version-kind".into(), json!([gvk(k)]));
        }
    }
}

fn gvk(k: &Kind) -> Value {
    json!({"group": k.group(), "kind": k.name(), "version": k.resource.gv.version})
}

/// The paths of a kind with what clients look for: which operations there are, on what, with which options.
fn routes(k: &Kind, paths: &mut Map<String, Value>) {
    let base = format!("/{}", prefix(&k.resource.gv));
    let plural = k.resource.plural;
    let collection = if k.resource.namespaced {
        format!("{base}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{base}/{plural}")
    };
    let has = |v: &str| k.resource.verbs.contains(&v);
    let mut all = Map::new();
    for (verb, method, action) in [
        ("list", "get", "list"),
        ("create", "post", "post"),
        ("deletecollection", "delete", "deletecollection"),
    ] {
        if has(verb) {
            all.insert(method.into(), operation(k, action, "Namespaced", plural));
        }
    }
    paths.insert(collection.clone(), with_parameters(all, k.resource.namespaced, false));
    let mut one = Map::new();
    for (verb, method) in
        [("get", "get"), ("update", "put"), ("patch", "patch"), ("delete", "delete")]
    {
        if has(verb) {
            one.insert(method.into(), operation(k, method, "Namespaced", plural));
        }
    }
    if !one.is_empty() {
        paths.insert(
            format!("{collection}/{{name}}"),
            with_parameters(one, k.resource.namespaced, true),
        );
    }
    if k.resource.namespaced && has("list") {
        let mut every = Map::new();
        every.insert("get".into(), operation(k, "list", "ForAllNamespaces", plural));
        paths.insert(format!("{base}/{plural}"), with_parameters(every, false, false));
    }
    for s in &k.resource.subresources {
        let mut sub = Map::new();
        for (verb, method) in [
            ("get", "get"),
            ("update", "put"),
            ("patch", "patch"),
            ("create", "post"),
            ("delete", "delete"),
        ] {
            if s.verbs.contains(&verb) {
                sub.insert(method.into(), operation(k, method, s.name, plural));
            }
        }
        paths.insert(
            format!("{collection}/{{name}}/{}", s.name),
            with_parameters(sub, k.resource.namespaced, true),
        );
    }
}

fn parameter(name: &str, ty: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": ty, "uniqueItems": true}})
}

fn operation(k: &Kind, action: &str, scope: &str, plural: &str) -> Value {
    let options: &[(&str, &str)] = match action {
        "post" | "put" => {
            &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")]
        }
        "patch" => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
        ],
        "delete" => &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ],
        "list" | "deletecollection" => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        _ => &[],
    };
    let parameters: Vec<Value> = options.iter().map(|(n, t)| parameter(n, t)).collect();
    let schema = custom::name(k);
    let list = if action == "list" { "List" } else { "" };
    let reference = json!({"schema": {"$ref": format!("#/components/schemas/{schema}{list}")}});
    let content = json!({"application/json": reference, "application/yaml": reference, "application/vnd.kubernetes.protobuf": reference});
    let mut out = json!({"operationId": format!("{action}{scope}{plural}"), "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk(k)});
    if matches!(action, "post" | "put") {
        out["requestBody"] = json!({"content": {"*/*": reference}, "required": true});
    }
    if action == "patch" {
        let body = json!({"schema": {"type": "object"}});
        out["requestBody"] = json!({"content": {"application/apply-patch+yaml": body, "application/json-patch+json": body,
            "application/merge-patch+json": body, "application/strategic-merge-patch+json": body}, "required": true});
        if let Some(content) =
            out["requestBody"]["content"].as_object_mut().filter(|_| k.custom.is_some())
        {
            content.shift_remove("application/strategic-merge-patch+json");
        }
    }
    out
}

fn with_parameters(mut item: Map<String, Value>, namespaced: bool, named: bool) -> Value {
    let path = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}});
    let mut list = Vec::new();
    if named {
        list.push(path("name"));
    }
    if namespaced {
        list.push(path("namespace"));
    }
    list.push(parameter("pretty", "string"));
    item.insert("parameters".into(), Value::Array(list));
    Value::Object(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_what_kubectl_looks_for() {
        let kinds = Kinds::builtin();
        let doc = document(&kinds, &GroupVersion::parse("apps/v1"));
        let schemas = &doc["components"]["schemas"];
        assert_eq!(
            schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"][0]["kind"],
            "Deployment"
        );
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        let patch =
            &doc["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        let names: Vec<&str> = patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|p| p["name"].as_str())
            .collect();
        assert!(names.contains(&"fieldValidation"));
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let kinds = Kinds::builtin();
        let mut seen = BTreeSet::new();
        for k in kinds.all() {
            if !seen.insert(k.resource.gv.clone()) {
                continue;
            }
            let doc = document(&kinds, &k.resource.gv);
            let text = doc.to_string();
            for part in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
                let name = part.split('"').next().unwrap();
                assert!(
                    doc["components"]["schemas"].get(name).is_some(),
                    "{} {name}",
                    k.resource.gv
                );
            }
        }
    }
}
