//! Whether the expressions of a validating policy fit the kinds that it is about: mistakes are warnings in its status.

use crate::object::{is_deleting, text};
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use wharf_client::resources::POLICIES;
use wharf_client::{At, Change, Write};
use wharf_kube::cel::{Known, Program};
use wharf_kube::status::Fault;
use wharf_kube::validate::policy_names;

/// Kinds that one policy is checked for (as in the reference server).
const KINDS: usize = 10;
/// Levels of a schema that are looked at: some kinds describe themselves without an end.
const DEEPEST: usize = 12;

/// The loop; its keys are policies.
pub struct Policies;

impl Loop for Policies {
    fn name(&self) -> &'static str {
        "validatingadmissionpolicy-status-controller"
    }

    fn wake(&self, _: &World, change: &Change, _: &Before) -> Vec<Key> {
        let ours = *change.resource == POLICIES && !change.gone;
        if ours { vec![Key::of(&change.object)] } else { Vec::new() }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let policy = cx.world.get(&POLICIES, key).filter(|p| !is_deleting(p));
            let Some(policy) = policy else { return Ok(Next::Change) };
            let generation = &policy["metadata"]["generation"];
            if policy["status"]["observedGeneration"] == *generation {
                return Ok(Next::Change);
            }
            let mut warnings = Vec::new();
            for (group, version, resource) in kinds(&policy) {
                if let Some((name, schema)) = schema(cx, &group, &version, &resource).await {
                    warnings.extend(judge(&policy, &name, &schema));
                }
            }
            let mut checked = json!({});
            if !warnings.is_empty() {
                checked["expressionWarnings"] = Value::Array(warnings);
            }
            let mut next = (*policy).clone();
            next["status"]["observedGeneration"] = generation.clone();
            next["status"]["typeChecking"] = checked;
            let at = At { resource: &POLICIES, namespace: "", name: &key.name };
            cx.write(at, Some("status"), Write::Replace(next)).await?;
            Ok(Next::Change)
        })
    }
}

/// The kinds that a policy names: group, version, resource. Of `*` nothing can be said.
fn kinds(policy: &Value) -> Vec<(String, String, String)> {
    let rules = policy["spec"]["matchConstraints"]["resourceRules"].as_array();
    let mut out = Vec::new();
    for rule in rules.into_iter().flatten() {
        let list = |f: &str| -> Vec<String> {
            let all = rule[f].as_array().into_iter().flatten().filter_map(Value::as_str);
            all.filter(|w| !w.contains(['*', '/'])).map(str::to_owned).collect()
        };
        for group in list("apiGroups") {
            for version in list("apiVersions") {
                for resource in list("resources") {
                    out.push((group.clone(), version.clone(), resource));
                }
            }
        }
    }
    out.truncate(KINDS);
    out
}

/// A kind's name and schema, as the server describes it.
async fn schema(
    cx: &Context,
    group: &str,
    version: &str,
    resource: &str,
) -> Option<(String, Value)> {
    let root = match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    };
    let list = cx.ask("GET", &format!("/{root}"), &[], Value::Null).await.ok()?;
    let all = list["resources"].as_array()?;
    let kind = text(all.iter().find(|r| r["name"] == resource)?, "/kind").to_owned();
    let doc = cx.ask("GET", &format!("/openapi/v3/{root}"), &[], Value::Null).await.ok()?;
    let schemas = doc["components"]["schemas"].as_object()?;
    let wanted = json!({"group": group, "version": version, "kind": kind});
    let is = |s: &&Value| {
        s["x-kubernetes-group-version-kind"].as_array().is_some_and(|l| l.contains(&wanted))
    };
    let found = schemas.values().find(is)?;
    let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some((format!("{version}, Kind={kind}"), inlined(found, schemas, 0)))
}

/// A schema without references to others.
fn inlined(schema: &Value, all: &Map<String, Value>, depth: usize) -> Value {
    if depth > DEEPEST {
        return json!({"x-kubernetes-int-or-string": true});
    }
    let named = |s: &Value| {
        let name = s["$ref"].as_str()?.rsplit('/').next()?.to_owned();
        all.get(&name)
    };
    let whole =
        named(schema).or_else(|| schema["allOf"].as_array().and_then(|l| named(l.first()?)));
    if let Some(whole) = whole {
        return inlined(whole, all, depth + 1);
    }
    let mut out = schema.clone();
    if schema["format"] == "int-or-string" {
        out["x-kubernetes-int-or-string"] = json!(true);
    }
    for (name, part) in
        out.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten()
    {
        *part = inlined(&schema["properties"][name], all, depth + 1);
    }
    for field in ["items", "additionalProperties"] {
        if schema[field].is_object() {
            out[field] = inlined(&schema[field], all, depth + 1);
        }
    }
    out
}

/// Warnings about the expressions of a policy for objects of one kind.
fn judge(policy: &Value, name: &str, schema: &Value) -> Vec<Value> {
    let mut out = Vec::new();
    let validations = policy["spec"]["validations"].as_array().into_iter().flatten();
    for (i, v) in validations.enumerate() {
        for field in ["expression", "messageExpression"] {
            let Some(source) = v[field].as_str().filter(|s| !s.is_empty()) else { continue };
            // The first declaration of a name is the one that counts.
            let declared = wharf_kube::cel::Declared::new()
                .known("object", Known::Schema(schema))
                .known("oldObject", Known::Schema(schema))
                .with(&policy_names());
            if let Err(e) = Program::compile(source, &declared) {
                let why = e.to_string();
                let why = why.strip_prefix("compilation failed: ").unwrap_or(&why);
                out.push(json!({"fieldRef": format!("spec.validations[{i}].{field}"), "warning": format!("{name}: {why}")}));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_checked_against_the_kinds_that_a_policy_names() {
        let all = json!({
            "Thing": {"type": "object", "properties": {"spec": {"allOf": [{"$ref": "#/components/schemas/Spec"}]}}},
            "Spec": {"type": "object", "properties": {"replicas": {"type": "integer"}, "part": {"$ref": "#/components/schemas/Spec"},
                "most": {"type": "string", "format": "int-or-string"}}}});
        let schema = inlined(&all["Thing"], all.as_object().unwrap(), 0);
        let policy = |e: &str| json!({"spec": {"validations": [{"expression": e}]}});
        let check = |e: &str| {
            let all = judge(&policy(e), "x/v1, Kind=Thing", &schema);
            all.first().map(|w| text(w, "/warning").lines().next().unwrap().to_owned())
        };
        assert_eq!(
            check("object.spec.replicas > 1 && oldObject.spec.part.replicas < params.x"),
            None
        );
        assert_eq!(check("object.spec.most == 1 || object.spec.most == '10%'"), None);
        let why = "x/v1, Kind=Thing: ERROR: <input>:1:12: undefined field 'replicaz'";
        assert_eq!(check("object.spec.replicaz > 1").as_deref(), Some(why));
        assert!(check("object.spec.replicas == 'one'").unwrap().contains("no matching overload"));
    }

    #[test]
    fn kinds_are_those_that_are_named_whole() {
        let rules = json!([{"apiGroups": ["apps", "*"], "apiVersions": ["v1"], "resources": ["deployments", "deployments/scale", "*"]}]);
        let policy = json!({"spec": {"matchConstraints": {"resourceRules": rules}}});
        assert_eq!(
            kinds(&policy),
            [("apps".to_owned(), "v1".to_owned(), "deployments".to_owned())]
        );
    }
}
