//! What the loops see: the objects of the kinds that they work on, as of one revision.

use crate::graph::{Graph, Node};
use crate::object::{manager, meta, revision};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::watch;
use wharf_base::sync::RwLock;
use wharf_client::resources as r;
use wharf_client::{Change, Object, Resource};

/// An object's place in its collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its namespace; empty for kinds that have none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// From parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    /// Of an object.
    pub fn of(object: &Value) -> Key {
        Key::new(meta(object, "namespace"), meta(object, "name"))
    }
}

/// The objects, which one task changes and everybody reads.
pub struct World {
    state: RwLock<State>,
    at: watch::Sender<i64>,
}

/// What a change found.
#[derive(Debug, Default)]
pub struct Before {
    /// The object, where the world keeps objects like it.
    pub object: Option<Object>,
    /// Its metadata.
    pub node: Option<Arc<Node>>,
}

#[derive(Default)]
struct State {
    graph: Graph,
    kinds: HashMap<Resource, BTreeMap<Key, Object>>,
    /// By the uid of the owner that manages them.
    managed: HashMap<String, BTreeSet<(Resource, Key)>>,
}

/// Whether a loop wants to read objects like this one.
fn is_kept(resource: &Resource, object: &Value) -> bool {
    const KINDS: &[Resource] = &[
        r::NAMESPACES,
        r::PODS,
        r::NODES,
        r::SERVICES,
        r::ENDPOINTS,
        r::SERVICE_ACCOUNTS,
        r::QUOTAS,
        r::CLAIMS,
        r::VOLUMES,
        r::CLASSES,
        r::AUTOSCALERS,
        r::POLICIES,
        r::REPLICATION_CONTROLLERS,
        r::DEPLOYMENTS,
        r::REPLICA_SETS,
        r::STATEFUL_SETS,
        r::DAEMON_SETS,
        r::REVISIONS,
        r::JOBS,
        r::CRON_JOBS,
        r::SLICES,
        r::CERTIFICATE_REQUESTS,
        r::CLUSTER_ROLES,
        r::BUDGETS,
        r::FLOWS,
        r::LEVELS,
    ];
    if *resource == r::CONFIGMAPS {
        return meta(object, "name") == crate::roots::NAME;
    }
    if *resource == r::SECRETS {
        let kind = object["type"].as_str().unwrap_or_default();
        return matches!(
            kind,
            "bootstrap.kubernetes.io/token" | "kubernetes.io/service-account-token"
        );
    }
    if *resource == r::LEASES {
        return meta(object, "namespace") == "kube-node-lease";
    }
    KINDS.contains(resource)
}

impl Default for World {
    fn default() -> World {
        World { state: RwLock::default(), at: watch::Sender::new(0) }
    }
}

impl World {
    /// One object.
    pub fn get(&self, resource: &Resource, key: &Key) -> Option<Object> {
        self.state.read().kinds.get(resource)?.get(key).cloned()
    }

    /// All objects of a kind.
    pub fn all(&self, resource: &Resource) -> Vec<Object> {
        let state = self.state.read();
        state.kinds.get(resource).map(|k| k.values().cloned().collect()).unwrap_or_default()
    }

    /// The objects of a kind in a namespace.
    pub fn inside(&self, resource: &Resource, namespace: &str) -> Vec<Object> {
        let state = self.state.read();
        let Some(kind) = state.kinds.get(resource) else { return Vec::new() };
        let from = Key::new(namespace, "");
        kind.range(from..)
            .take_while(|(k, _)| k.namespace == namespace)
            .map(|(_, o)| Arc::clone(o))
            .collect()
    }

    /// The objects of a kind that the owner with this uid manages.
    pub fn managed(&self, resource: &Resource, uid: &str) -> Vec<Object> {
        let state = self.state.read();
        let (Some(keys), Some(kind)) = (state.managed.get(uid), state.kinds.get(resource)) else {
            return Vec::new();
        };
        keys.iter()
            .filter(|(r, _)| r == resource)
            .filter_map(|(_, k)| kind.get(k).cloned())
            .collect()
    }

    /// Waits until everything up to `revision` is seen.
    pub async fn reached(&self, revision: i64) {
        // The sender lives as long as this world, so the wait ends by itself.
        drop(self.at.subscribe().wait_for(|at| *at >= revision).await);
    }

    /// Looks at who owns whom.
    pub fn graph<T>(&self, look: impl FnOnce(&Graph) -> T) -> T {
        look(&self.state.read().graph)
    }

    /// Takes a change in.
    pub(crate) fn apply(&self, change: &Change) -> Before {
        let mut state = self.state.write();
        let node = state.graph.apply(change);
        let object =
            if is_kept(&change.resource, &change.object) { state.keep(change) } else { None };
        Before { object, node }
    }

    /// Everything up to `revision` is seen.
    pub(crate) fn advance(&self, revision: i64) {
        self.at.send_if_modified(|at| {
            let newer = revision > *at;
            *at = revision.max(*at);
            newer
        });
    }

    /// What is here but not in `seen`, which a stream that began again told: it is gone.
    pub(crate) fn missing(&self, seen: &BTreeSet<(Resource, Key)>) -> Vec<Change> {
        let state = self.state.read();
        let lost =
            state.graph.all().filter(|n| !seen.contains(&((*n.resource).clone(), n.key.clone())));
        lost.map(|n| {
            let kept = state.kinds.get(&n.resource).and_then(|k| k.get(&n.key)).cloned();
            let metadata = || {
                json!({"metadata": {"namespace": n.key.namespace, "name": n.key.name, "uid": n.uid}})
            };
            let object = kept.unwrap_or_else(|| Arc::new(metadata()));
            Change { resource: Arc::clone(&n.resource), object, gone: true }
        })
        .collect()
    }
}

impl State {
    fn keep(&mut self, change: &Change) -> Option<Object> {
        let resource = &*change.resource;
        let key = Key::of(&change.object);
        let kind = self.kinds.entry(resource.clone()).or_default();
        let before = if change.gone {
            kind.remove(&key)
        } else {
            kind.insert(key.clone(), Arc::clone(&change.object))
        };
        let uid = |o: &Object| manager(o).and_then(|m| m["uid"].as_str()).map(str::to_owned);
        let (was, is) =
            (before.as_ref().and_then(uid), uid(&change.object).filter(|_| !change.gone));
        if was != is {
            let entry = (resource.clone(), key);
            if let Some(was) = was
                && let Some(set) = self.managed.get_mut(&was)
            {
                set.remove(&entry);
                if set.is_empty() {
                    self.managed.remove(&was);
                }
            }
            if let Some(is) = is {
                self.managed.entry(is).or_default().insert(entry);
            }
        }
        before
    }
}

/// The revision that an object's write took.
pub(crate) fn written(object: &Object) -> i64 {
    revision(object)
}
