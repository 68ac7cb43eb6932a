//! Discovery: which groups, versions and resources there are, in one document or in many.

use crate::kinds::{Hub, Kind, Kinds};
use base64::Engine as _;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256, Sha512};
use std::sync::Arc;
use wharf_kube::resources::GroupVersion;

/// All kinds of a group, by version, in the order of preference.
fn versions(kinds: &[Arc<Kind>], group: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for k in kinds.iter().filter(|k| k.group() == group) {
        if !out.contains(&k.resource.gv.version) {
            out.push(k.resource.gv.version.clone());
        }
    }
    out
}

fn groups(kinds: &[Arc<Kind>]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for k in kinds.iter().filter(|k| !k.group().is_empty()) {
        if !out.iter().any(|g| g == k.group()) {
            out.push(k.group().to_owned());
        }
    }
    out
}

/// `/api`, the old way.
pub fn api_versions(address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs":
        [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

/// `/apis`, the old way.
pub fn api_groups(kinds: &Kinds) -> Value {
    let all = kinds.all();
    let groups: Vec<Value> = groups(&all).iter().map(|g| group(&all, g)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`, of a list of all groups.
pub fn api_group(list: &Value, name: &str) -> Option<Value> {
    let all = list["groups"].as_array()?;
    let found = all.iter().find(|g| g["name"] == name)?.as_object()?;
    let mut out = Map::new();
    out.insert("kind".into(), "APIGroup".into());
    out.insert("apiVersion".into(), "v1".into());
    out.extend(found.clone());
    Some(Value::Object(out))
}

fn group(kinds: &[Arc<Kind>], name: &str) -> Value {
    let list: Vec<Value> = versions(kinds, name)
        .iter()
        .map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
        .collect();
    let preferred = list.first().cloned().unwrap_or_default();
    json!({"name": name, "versions": list, "preferredVersion": preferred})
}

/// `/api/v1`, `/apis/GROUP/VERSION`.
pub fn resources(kinds: &Kinds, gv: &GroupVersion) -> Option<Value> {
    if !kinds.serves(gv) {
        return None;
    }
    let mut list = Vec::new();
    for k in kinds.all().iter().filter(|k| k.resource.gv == *gv) {
        list.push(resource(k));
        for s in &k.resource.subresources {
            let mut m = Map::new();
            m.insert("name".into(), format!("{}/{}", k.resource.plural, s.name).into());
            m.insert("singularName".into(), "".into());
            m.insert("namespaced".into(), k.resource.namespaced.into());
            if s.gv != k.resource.gv {
                m.insert("group".into(), s.gv.group.clone().into());
                m.insert("version".into(), s.gv.version.clone().into());
            }
            m.insert("kind".into(), s.kind.into());
            m.insert("verbs".into(), json!(s.verbs));
            list.push(Value::Object(m));
        }
    }
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv.to_string(), "resources": list}),
    )
}

fn resource(k: &Kind) -> Value {
    let r = &k.resource;
    let mut m = Map::new();
    m.insert("name".into(), r.plural.into());
    m.insert("singularName".into(), r.singular.clone().into());
    m.insert("namespaced".into(), r.namespaced.into());
    m.insert("kind".into(), r.kind.into());
    m.insert("verbs".into(), json!(r.verbs));
    if !r.short.is_empty() {
        m.insert("shortNames".into(), json!(r.short));
    }
    if !r.categories.is_empty() {
        m.insert("categories".into(), json!(r.categories));
    }
    if r.stored() {
        // By this clients see that objects are stored in another version than before.
        let hash = Sha256::digest(format!("{}/{}", stored_as(k), r.kind));
        let text = base64::engine::general_purpose::STANDARD.encode(&hash[..8]);
        m.insert("storageVersionHash".into(), text.into());
    }
    Value::Object(m)
}

/// Group and version in which a kind's objects are stored.
fn stored_as(k: &Kind) -> String {
    match (k.hub, &k.custom) {
        (Hub::Autoscaling, _) => "autoscaling/v2".to_owned(),
        (Hub::Events, _) => "/v1".to_owned(),
        (_, Some(custom)) => custom.storage.clone(),
        _ => format!("{}/{}", k.resource.gv.group, k.resource.gv.version),
    }
}

/// Discovery in one document; `core` is that of `/api`.
pub fn aggregated(kinds: &Kinds, core: bool, version: &str) -> Value {
    let all = kinds.all();
    let names = if core { vec![String::new()] } else { groups(&all) };
    let items: Vec<Value> = names.iter().map(|g| aggregated_group(&all, g, version)).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items})
}

fn aggregated_group(kinds: &[Arc<Kind>], group: &str, _version: &str) -> Value {
    let mut metadata = Map::new();
    if !group.is_empty() {
        metadata.insert("name".into(), group.into());
    }
    let versions: Vec<Value> = versions(kinds, group)
        .iter()
        .map(|v| {
            let of = kinds.iter().filter(|k| k.group() == group && k.resource.gv.version == *v);
            let list: Vec<Value> = of.map(|k| aggregated_resource(k)).collect();
            let mut m = Map::new();
            m.insert("version".into(), v.clone().into());
            m.insert("resources".into(), Value::Array(list));
            m.insert("freshness".into(), "Current".into());
            Value::Object(m)
        })
        .collect();
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(k: &Kind) -> Value {
    let r = &k.resource;
    // The main resource leaves group and version to its place in the document.
    let kind = |gv: Option<&GroupVersion>, kind: &str| {
        let (g, v) = gv.map_or(("", ""), |gv| (&*gv.group, &*gv.version));
        json!({"group": g, "version": v, "kind": kind})
    };
    let scope = if r.namespaced { "Namespaced" } else { "Cluster" };
    let mut m = Map::new();
    m.insert("resource".into(), r.plural.into());
    m.insert("responseKind".into(), kind(None, r.kind));
    m.insert("scope".into(), scope.into());
    m.insert("singularResource".into(), r.singular.clone().into());
    m.insert("verbs".into(), json!(r.verbs));
    if !r.short.is_empty() {
        m.insert("shortNames".into(), json!(r.short));
    }
    if !r.categories.is_empty() {
        m.insert("categories".into(), json!(r.categories));
    }
    let subs: Vec<Value> = r
        .subresources
        .iter()
        .map(|s| {
            let gv = (s.gv != r.gv).then_some(&s.gv);
            json!({"subresource": s.name, "responseKind": kind(gv, s.kind), "verbs": s.verbs})
        })
        .collect();
    if !subs.is_empty() {
        m.insert("subresources".into(), Value::Array(subs));
    }
    Value::Object(m)
}

/// The strong validator of a document.
pub fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex::encode_upper(Sha512::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_document_names_what_the_many_do() {
        let kinds = Kinds::builtin();
        let doc = aggregated(&kinds, true, "v2");
        let list = doc["items"][0]["versions"][0]["resources"].as_array().unwrap();
        assert_eq!(list[0]["resource"], "bindings");
        assert_eq!(
            list[2],
            json!({"resource": "configmaps", "responseKind": {"group": "", "version": "", "kind": "ConfigMap"},
                "scope": "Namespaced", "singularResource": "configmap",
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"], "shortNames": ["cm"]})
        );
        let groups = api_groups(&kinds);
        let hpa = groups["groups"]
            .as_array()
            .unwrap()
            .iter()
            .find(|g| g["name"] == "autoscaling")
            .unwrap();
        assert_eq!(hpa["preferredVersion"]["version"], "v2");
        let apps = resources(&kinds, &GroupVersion::parse("apps/v1")).unwrap();
        let scale = apps["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["name"] == "deployments/scale")
            .unwrap();
        assert_eq!(scale["group"], "autoscaling");
    }
}
