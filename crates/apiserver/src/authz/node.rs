//! What a node may do: what its role says, and read what the pods that it was given need.

use super::{Attributes, Decision};
use crate::api::Api;
use crate::tail::{News, Tail};
use crate::user::User;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::sync::Mutex as AsyncMutex;
use wharf_etcd::{EventKind, Kv};
use wharf_kube::pick;
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

/// What nodes were given, and what that needs: kept up to date by a watch of the pods, which is read when a node asks.
pub(super) struct Nodes {
    known: AsyncMutex<Known>,
}

struct Known {
    tail: Tail,
    /// By the node's name.
    nodes: HashMap<String, Given>,
    /// The node of each pod that has one.
    places: HashMap<String, String>,
}

/// The pods of a node, as `namespace/name`, so that those of a namespace lie together.
type Given = BTreeMap<String, Needs>;

/// What a pod names that its node must read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    account: String,
    secrets: BTreeSet<String>,
    configs: BTreeSet<String>,
    claims: BTreeSet<String>,
}

const PODS: &str = "/registry/pods/";

impl Default for Nodes {
    fn default() -> Nodes {
        let (nodes, places) = (HashMap::new(), HashMap::new());
        Nodes { known: AsyncMutex::new(Known { tail: Tail::new(PODS), nodes, places }) }
    }
}

impl Nodes {
    /// Decides about what depends on the node's own name and pods.
    pub(super) async fn decide(
        &self,
        api: &Api,
        node: &str,
        a: &Attributes<'_>,
    ) -> Result<Rule, Fault> {
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
                if self.related(api, node, a).await? { yes() } else { no(unrelated()) }
            }
            ("", "serviceaccounts", "token") => {
                let uses = |n: &Needs| n.account == a.name;
                let used = self.any(api, node, a.namespace, uses).await?;
                if a.verb == "create" && used { yes() } else { no(unrelated()) }
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
                let pod = format!("{}/{}", a.namespace, a.name);
                let given = |g: &Given| g.contains_key(&pod);
                if self.look(api, node, given).await? { yes() } else { no(unrelated()) }
            }
            ("coordination.k8s.io", "leases", "") => {
                match (a.namespace == "kube-node-lease", own_name) {
                    (true, true) if !matches!(a.verb, "list" | "watch" | "deletecollection") => {
                        yes()
                    }
                    (true, _) => {
                        no("can only access node lease with the same name as the requesting node"
                            .to_owned())
                    }
                    (false, _) => {
                        no("can only access leases in the \"kube-node-lease\" system namespace"
                            .to_owned())
                    }
                }
            }
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

    /// Whether one of the node's pods needs an object.
    async fn related(&self, api: &Api, node: &str, a: &Attributes<'_>) -> Result<bool, Fault> {
        if a.resource != "persistentvolumes" {
            let needs = |n: &Needs| n.names(a.resource, a.name);
            return self.any(api, node, a.namespace, needs).await;
        }
        let Some(kind) = api.kinds.core("persistentvolumes") else { return Ok(false) };
        let Some(volume) = api.object(&kind, None, a.name).await? else { return Ok(false) };
        let claim = &volume["spec"]["claimRef"];
        let text = |k: &str| claim[k].as_str().unwrap_or_default();
        let (ns, name) = (text("namespace"), text("name"));
        let needs = |n: &Needs| n.names("persistentvolumeclaims", name);
        Ok(!ns.is_empty() && self.any(api, node, ns, needs).await?)
    }

    /// Whether this holds of one of the node's pods in a namespace.
    async fn any(
        &self,
        api: &Api,
        node: &str,
        namespace: &str,
        holds: impl Fn(&Needs) -> bool,
    ) -> Result<bool, Fault> {
        let first = format!("{namespace}/");
        self.look(api, node, |given| {
            let own = given.range(first.clone()..).take_while(|(pod, _)| pod.starts_with(&first));
            own.map(|(_, needs)| needs).any(&holds)
        })
        .await
    }

    /// Looks at a node's pods as they are now; where it has none, nothing holds.
    async fn look(
        &self,
        api: &Api,
        node: &str,
        holds: impl FnOnce(&Given) -> bool,
    ) -> Result<bool, Fault> {
        let now = api.store.revision().await.map_err(|e| crate::api::fault(&e))?;
        let mut known = self.known.lock().await;
        let news = known.tail.news(&*api.store, now).await.map_err(|e| crate::api::fault(&e))?;
        known.take(news);
        Ok(known.nodes.get(node).is_some_and(holds))
    }
}

impl Known {
    fn take(&mut self, news: News) {
        match news {
            News::All(kvs) => {
                self.nodes.clear();
                self.places.clear();
                kvs.iter().for_each(|kv| self.put(kv));
            }
            News::Changes(events) => {
                for e in events {
                    match e.kind {
                        EventKind::Put => self.put(&e.kv),
                        EventKind::Delete => self.remove(&pod(&e.kv)),
                    }
                }
            }
        }
    }

    fn put(&mut self, kv: &Kv) {
        let (pod, spec) = (pod(kv), pick::fields(kv.value(), &["/spec"]));
        self.remove(&pod);
        let Some(spec) = spec.into_iter().next().flatten() else { return };
        if let Some(node) = spec["nodeName"].as_str().filter(|n| !n.is_empty()) {
            self.places.insert(pod.clone(), node.to_owned());
            self.nodes.entry(node.to_owned()).or_default().insert(pod, Needs::of(&spec));
        }
    }

    fn remove(&mut self, pod: &str) {
        let Some(node) = self.places.remove(pod) else { return };
        if let Some(given) = self.nodes.get_mut(&node) {
            given.remove(pod);
            if given.is_empty() {
                self.nodes.remove(&node);
            }
        }
    }
}

/// A pod's namespace and name, between which there is a slash.
fn pod(kv: &Kv) -> String {
    let key = String::from_utf8_lossy(kv.key());
    key.strip_prefix(PODS).unwrap_or_default().to_owned()
}

impl Needs {
    fn of(spec: &Value) -> Needs {
        let account = spec["serviceAccountName"].as_str().unwrap_or_default().to_owned();
        let mut needs = Needs { account, ..Needs::default() };
        let pulls = spec["imagePullSecrets"].as_array().into_iter().flatten();
        needs.secrets.extend(pulls.filter_map(|s| s["name"].as_str()).map(str::to_owned));
        needs.collect(spec);
        needs
    }

    /// Collects what is named anywhere in a tree.
    fn collect(&mut self, v: &Value) {
        match v {
            Value::Object(m) => {
                for (key, v) in m {
                    let (to, field) = match key.as_str() {
                        "secret"
                        | "secretRef"
                        | "secretKeyRef"
                        | "nodePublishSecretRef"
                        | "nodeStageSecretRef" => (&mut self.secrets, "secretName"),
                        "configMap" | "configMapRef" | "configMapKeyRef" => {
                            (&mut self.configs, "name")
                        }
                        "persistentVolumeClaim" => (&mut self.claims, "claimName"),
                        _ => {
                            self.collect(v);
                            continue;
                        }
                    };
                    let names = [field, "name"].into_iter().filter_map(|f| v.get(f)?.as_str());
                    to.extend(names.map(str::to_owned));
                    self.collect(v);
                }
            }
            Value::Array(list) => list.iter().for_each(|v| self.collect(v)),
            _ => {}
        }
    }

    /// Whether it names an object.
    fn names(&self, resource: &str, name: &str) -> bool {
        match resource {
            "secrets" => &self.secrets,
            "configmaps" => &self.configs,
            _ => &self.claims,
        }
        .contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;
    use wharf_base::clock::Clock;
    use wharf_etcd::{Delete, Embedded, KeyRange, Put, Settings, Store};

    fn spec() -> Value {
        json!({"nodeName": "a", "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "env"}}], "env": [{"valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}],
            "volumes": [{"secret": {"secretName": "file"}}, {"projected": {"sources": [{"configMap": {"name": "root"}}]}}, {"persistentVolumeClaim": {"claimName": "data"}}]})
    }

    #[test]
    fn pods_name_what_they_need() {
        let needs = Needs::of(&spec());
        for (resource, name) in [
            ("secrets", "pull"),
            ("secrets", "key"),
            ("secrets", "file"),
            ("configmaps", "env"),
            ("configmaps", "root"),
            ("persistentvolumeclaims", "data"),
        ] {
            assert!(needs.names(resource, name), "{resource} {name}");
        }
        assert!(!needs.names("secrets", "root") && !needs.names("configmaps", "file"));
        assert_eq!(needs.account, "sa");
    }

    #[tokio::test]
    async fn a_node_needs_what_its_pods_need_now() {
        let store = Arc::new(Embedded::in_memory(&Settings::default()).unwrap());
        let api = Api::new(Arc::clone(&store) as Arc<dyn Store>, Clock::system());
        let nodes = Nodes::default();
        let secret = |node: &'static str, namespace: &'static str| {
            let (api, nodes) = (&api, &nodes);
            async move {
                let a = Attributes {
                    verb: "get",
                    resource: "secrets",
                    namespace,
                    name: "file",
                    ..Attributes::default()
                };
                let rule = nodes.decide(api, node, &a).await.unwrap();
                matches!(rule, Rule::Decided(Decision::Allow(_)))
            }
        };
        let put = |key: &'static str, spec: Value| {
            let value = crate::stored::encode(
                &json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": spec}),
            );
            store.put(Put::new(key, value))
        };
        assert!(!secret("a", "n").await);
        let mut waiting = spec();
        waiting["nodeName"] = json!("");
        put("/registry/pods/n/p", waiting).await.unwrap();
        assert!(!secret("a", "n").await);
        put("/registry/pods/n/p", spec()).await.unwrap();
        assert!(secret("a", "n").await, "it sees what was written before it was asked");
        assert!(!secret("b", "n").await && !secret("a", "nn").await && !secret("a", "").await);
        let mut moved = spec();
        moved["nodeName"] = json!("b");
        put("/registry/pods/n/p", moved).await.unwrap();
        put("/registry/pods/nn/p", spec()).await.unwrap();
        assert!(!secret("a", "n").await && secret("b", "n").await && secret("a", "nn").await);
        store.delete(Delete::new(KeyRange::key("/registry/pods/n/p"))).await.unwrap();
        assert!(!secret("b", "n").await);
        store.delete(Delete::new(KeyRange::key("/registry/pods/nn/p"))).await.unwrap();
        assert!(!secret("a", "nn").await);
        let known = nodes.known.lock().await;
        assert!(known.nodes.is_empty() && known.places.is_empty());
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
