//! What a node may do: what its role says, and read what the pods that it was given need.

use super::{Attributes, Decision};
use crate::api::{Api, meta};
use crate::user::User;
use serde_json::Value;
use std::sync::Arc;
use wharf_etcd::{KeyRange, Range};
use wharf_kube::resources::GroupVersion;
use wharf_kube::status::Fault;

/// The node that a user is.
pub fn node_of(user: &User) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|n| !n.is_empty() && user.is_in("system:nodes"))
}

/// What becomes of a node's request before its role is asked.
pub(super) enum Rule {
    /// The role decides.
    Role,
    /// It is decided.
    Decided(Decision),
}

/// Decides about what depends on the node's own name and pods.
pub(super) async fn decide(api: &Api, node: &str, a: &Attributes<'_>) -> Result<Rule, Fault> {
    let yes = || Ok(Rule::Decided(Decision::Allow(String::new())));
    let no = |why: String| Ok(Rule::Decided(Decision::Deny(why)));
    let reads = matches!(a.verb, "get" | "list" | "watch");
    let own_name = a.name == node || (a.verb == "create" && a.name.is_empty());
    let unrelated = || format!("no relationship found between node '{node}' and this object");
    match (a.group, a.resource, a.subresource) {
        ("", "secrets" | "configmaps" | "persistentvolumeclaims" | "persistentvolumes", "") => {
            let named = !a.name.is_empty() && reads;
            if !named {
                return no("can only read resources of this type by name".to_owned());
            }
            if related(api, node, a).await? { yes() } else { no(unrelated()) }
        }
        ("", "serviceaccounts", "token") => {
            let pods = pods(api, node, a.namespace).await?;
            let uses = |p: &Arc<Value>| p["spec"]["serviceAccountName"] == a.name;
            if a.verb == "create" && pods.iter().any(uses) { yes() } else { no(unrelated()) }
        }
        ("", "nodes", "")
            if reads && a.name != node && a.selector != format!("metadata.name={node}") =>
        {
            no(format!("node '{node}' cannot read '{}', only its own Node object", a.name))
        }
        ("", "pods", "") if matches!(a.verb, "list" | "watch") && a.name.is_empty() => {
            if a.selector.split(',').any(|s| s == format!("spec.nodeName={node}")) {
                yes()
            } else {
                no("can only list/watch pods with spec.nodeName field selector".to_owned())
            }
        }
        ("", "pods", "") if reads => {
            let pods = pods(api, node, a.namespace).await?;
            if pods.iter().any(|p| meta(p, "name") == a.name) { yes() } else { no(unrelated()) }
        }
        ("coordination.k8s.io", "leases", "") => match (a.namespace == "kube-node-lease", own_name)
        {
            (true, true) if !matches!(a.verb, "list" | "watch" | "deletecollection") => yes(),
            (true, _) => {
                no("can only access node lease with the same name as the requesting node"
                    .to_owned())
            }
            (false, _) => {
                no("can only access leases in the \"kube-node-lease\" system namespace".to_owned())
            }
        },
        ("storage.k8s.io", "csinodes", "") if !own_name => {
            no("can only access CSINode with the same name as the requesting node".to_owned())
        }
        ("storage.k8s.io", "volumeattachments", "") => {
            let gv = GroupVersion::parse("storage.k8s.io/v1");
            let Some(kind) = api.kinds.find(&gv, "volumeattachments") else {
                return Ok(Rule::Role);
            };
            let found = api.object(&kind, None, a.name).await?;
            let own = found.is_some_and(|v| v["spec"]["nodeName"] == node);
            if a.verb == "get" && own { yes() } else { no(unrelated()) }
        }
        _ => Ok(Rule::Role),
    }
}

/// The pods that a node was given, in a namespace or in all.
async fn pods(api: &Api, node: &str, namespace: &str) -> Result<Vec<Arc<Value>>, Fault> {
    let below = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    let range = Range::new(KeyRange::prefix(format!("/registry/pods/{below}")));
    let reply = api.store.range(range).await.map_err(|e| crate::api::fault(&e))?;
    let all = reply.kvs.iter().map(|kv| api.objects.tree(kv));
    Ok(all.filter(|p| p["spec"]["nodeName"] == node).collect())
}

/// Whether one of the node's pods needs an object.
async fn related(api: &Api, node: &str, a: &Attributes<'_>) -> Result<bool, Fault> {
    if a.resource != "persistentvolumes" {
        let pods = pods(api, node, a.namespace).await?;
        return Ok(pods.iter().any(|p| names(p, a.resource, a.name)));
    }
    let Some(kind) = api.kinds.core("persistentvolumes") else { return Ok(false) };
    let Some(volume) = api.object(&kind, None, a.name).await? else { return Ok(false) };
    let claim = &volume["spec"]["claimRef"];
    let text = |k: &str| claim[k].as_str().unwrap_or_default();
    let (ns, name) = (text("namespace"), text("name"));
    let pods = if ns.is_empty() { Vec::new() } else { pods(api, node, ns).await? };
    Ok(pods.iter().any(|p| names(p, "persistentvolumeclaims", name)))
}

/// Whether a pod names an object anywhere that a node must read it from.
fn names(pod: &Value, resource: &str, name: &str) -> bool {
    if resource == "secrets"
        && let Some(list) = pod["spec"]["imagePullSecrets"].as_array()
        && list.iter().any(|s| s["name"] == name)
    {
        return true;
    }
    let (keys, field): (&[&str], &str) = match resource {
        "secrets" => (
            &["secret", "secretRef", "secretKeyRef", "nodePublishSecretRef", "nodeStageSecretRef"],
            "secretName",
        ),
        "configmaps" => (&["configMap", "configMapRef", "configMapKeyRef"], "name"),
        _ => (&["persistentVolumeClaim"], "claimName"),
    };
    find(&pod["spec"], keys, field, name)
}

/// Whether, anywhere in a tree, one of `keys` leads to an object that has this name.
fn find(v: &Value, keys: &[&str], field: &str, name: &str) -> bool {
    match v {
        Value::Object(m) => m.iter().any(|(k, v)| {
            let here = keys.contains(&k.as_str()) && (v[field] == name || v["name"] == name);
            here || find(v, keys, field, name)
        }),
        Value::Array(list) => list.iter().any(|v| find(v, keys, field, name)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_name_what_they_need() {
        let pod = json!({"spec": {"imagePullSecrets": [{"name": "pull"}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "env"}}], "env": [{"valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}],
            "volumes": [{"secret": {"secretName": "file"}}, {"projected": {"sources": [{"configMap": {"name": "root"}}]}}, {"persistentVolumeClaim": {"claimName": "data"}}]}});
        for (resource, name) in [
            ("secrets", "pull"),
            ("secrets", "key"),
            ("secrets", "file"),
            ("configmaps", "env"),
            ("configmaps", "root"),
            ("persistentvolumeclaims", "data"),
        ] {
            assert!(names(&pod, resource, name), "{resource} {name}");
        }
        assert!(!names(&pod, "secrets", "root") && !names(&pod, "configmaps", "file"));
    }

    #[test]
    fn only_members_of_the_group_are_nodes() {
        let user = |groups: &[&str]| {
            User::new("system:node:a", groups.iter().map(|g| (*g).to_owned()).collect())
        };
        assert_eq!(node_of(&user(&["system:nodes"])), Some("a"));
        assert_eq!(node_of(&user(&[])), None);
    }
}
