//! What the loops see: the objects of the kinds that they work on, as of one revision.

use crate::graph::{Graph, Node};
use crate::object::{manager, meta, revision, text};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;
use wharf_base::sync::{Mutex, RwLock};
use wharf_client::resources as r;
use wharf_client::{Change, Object, Resource, Stored};

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
#[derive(Default)]
pub struct World {
    state: RwLock<State>,
    seen: Mutex<Seen>,
}

/// How far the world is, and who waits for more. Each is woken by what it waits for and by nothing before.
#[derive(Default)]
struct Seen {
    at: i64,
    waiting: BTreeMap<i64, Vec<oneshot::Sender<()>>>,
}

/// What a change found.
#[derive(Debug, Default)]
pub struct Before {
    /// The object, where the world keeps objects like it.
    pub object: Option<Object>,
    /// Its metadata.
    pub node: Option<Arc<Node>>,
}

/// Pods that are kept as trees: those that changed last. A tree takes several times what its text takes, and nearly all
/// pods of a large cluster just run.
const TREES: usize = 4_096;

#[derive(Default)]
struct State {
    graph: Graph,
    kinds: HashMap<Resource, BTreeMap<Key, Kept>>,
    /// By the uid of the owner that manages them; pods that nobody manages are under an empty one.
    managed: HashMap<String, BTreeSet<(Resource, Key)>>,
    /// Pods by the node that they are on.
    placed: HashMap<String, BTreeSet<Key>>,
    /// Pods by their last changes, the oldest first, with the revisions of those.
    recent: VecDeque<(Key, i64)>,
}

/// An object as it lies here.
#[derive(Debug, Clone)]
enum Kept {
    /// As a tree, and how it could be had again without.
    Tree(Object, Option<Arc<dyn Stored>>),
    /// As the store has it.
    Stored(Arc<dyn Stored>),
}

impl Kept {
    fn object(&self) -> Object {
        match self {
            Kept::Tree(object, _) => Arc::clone(object),
            Kept::Stored(stored) => stored.object(),
        }
    }
}

/// What is stored is read without holding up whoever writes.
fn objects(kept: Vec<Kept>) -> Vec<Object> {
    kept.iter().map(Kept::object).collect()
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

impl World {
    /// One object.
    pub fn get(&self, resource: &Resource, key: &Key) -> Option<Object> {
        let kept = self.state.read().kinds.get(resource)?.get(key).cloned()?;
        Some(kept.object())
    }

    /// All objects of a kind.
    pub fn all(&self, resource: &Resource) -> Vec<Object> {
        let kept = {
            let state = self.state.read();
            state.kinds.get(resource).map(|k| k.values().cloned().collect()).unwrap_or_default()
        };
        objects(kept)
    }

    /// The objects of a kind in a namespace.
    pub fn inside(&self, resource: &Resource, namespace: &str) -> Vec<Object> {
        let kept = {
            let state = self.state.read();
            let Some(kind) = state.kinds.get(resource) else { return Vec::new() };
            let from = Key::new(namespace, "");
            let own = kind.range(from..).take_while(|(k, _)| k.namespace == namespace);
            own.map(|(_, o)| o.clone()).collect()
        };
        objects(kept)
    }

    /// The objects of a kind that the owner with this uid manages.
    pub fn managed(&self, resource: &Resource, uid: &str) -> Vec<Object> {
        let least = Key::default();
        objects(self.state.read().managed(resource, uid, least, |_| true))
    }

    /// The pods that are on a node.
    pub fn placed(&self, node: &str) -> Vec<Object> {
        let kept = {
            let state = self.state.read();
            let (keys, pods) = (state.placed.get(node), state.kinds.get(&r::PODS));
            let (Some(keys), Some(pods)) = (keys, pods) else { return Vec::new() };
            keys.iter().filter_map(|k| pods.get(k).cloned()).collect()
        };
        objects(kept)
    }

    /// The pods in a namespace that nobody manages.
    pub fn orphans(&self, namespace: &str) -> Vec<Object> {
        let (first, inside) = (Key::new(namespace, ""), |k: &Key| k.namespace == namespace);
        objects(self.state.read().managed(&r::PODS, "", first, inside))
    }

    /// Waits until everything up to `revision` is seen.
    pub async fn reached(&self, revision: i64) {
        let wait = {
            let mut seen = self.seen.lock();
            if seen.at >= revision {
                return;
            }
            let (ring, wait) = oneshot::channel();
            seen.waiting.entry(revision).or_default().push(ring);
            wait
        };
        // Whoever rings lives as long as this world.
        wait.await.ok();
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
        let mut seen = self.seen.lock();
        seen.at = revision.max(seen.at);
        let first = seen.at.saturating_add(1);
        let later = seen.waiting.split_off(&first);
        let due = std::mem::replace(&mut seen.waiting, later);
        drop(seen);
        // Those who wait no more do not want to know.
        due.into_values().flatten().for_each(|ring| ring.send(()).unwrap_or_default());
    }

    /// What is here but not in `seen`, which a stream that began again told: it is gone.
    pub(crate) fn missing(&self, seen: &BTreeSet<(Resource, Key)>) -> Vec<Change> {
        let state = self.state.read();
        let lost =
            state.graph.all().filter(|n| !seen.contains(&((*n.resource).clone(), n.key.clone())));
        lost.map(|n| {
            let kept = state.kinds.get(&n.resource).and_then(|k| k.get(&n.key)).map(Kept::object);
            let metadata = || {
                json!({"metadata": {"namespace": n.key.namespace, "name": n.key.name, "uid": n.uid}})
            };
            let object = kept.unwrap_or_else(|| Arc::new(metadata()));
            Change { resource: Arc::clone(&n.resource), object, stored: None, gone: true }
        })
        .collect()
    }
}

impl State {
    /// What the owner with this uid manages, from a place on for as long as `goes_on`.
    fn managed(
        &self,
        resource: &Resource,
        uid: &str,
        from: Key,
        goes_on: impl Fn(&Key) -> bool,
    ) -> Vec<Kept> {
        let (Some(keys), Some(kind)) = (self.managed.get(uid), self.kinds.get(resource)) else {
            return Vec::new();
        };
        keys.range((resource.clone(), from)..)
            .take_while(|(r, k)| r == resource && goes_on(k))
            .filter_map(|(_, k)| kind.get(k).cloned())
            .collect()
    }

    fn keep(&mut self, change: &Change) -> Option<Object> {
        let resource = &*change.resource;
        let key = Key::of(&change.object);
        let kind = self.kinds.entry(resource.clone()).or_default();
        let before = if change.gone {
            kind.remove(&key)
        } else {
            let kept = Kept::Tree(Arc::clone(&change.object), change.stored.clone());
            kind.insert(key.clone(), kept)
        };
        let before = before.map(|kept| kept.object());
        if *resource == r::PODS {
            self.place(&key, before.as_ref(), Some(&change.object).filter(|_| !change.gone));
        }
        let uid = |o: &Object| {
            let of = manager(o).and_then(|m| m["uid"].as_str());
            of.map(str::to_owned).or_else(|| (*resource == r::PODS).then(String::new))
        };
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

    /// Notes where a pod is, and that it has changed.
    fn place(&mut self, key: &Key, before: Option<&Object>, now: Option<&Object>) {
        let node = |p: Option<&Object>| p.map_or("", |p| text(p, "/spec/nodeName")).to_owned();
        let (was, is) = (node(before), node(now));
        if was != is {
            if let Some(keys) = self.placed.get_mut(&was) {
                keys.remove(key);
                if keys.is_empty() {
                    self.placed.remove(&was);
                }
            }
            if !is.is_empty() {
                self.placed.entry(is).or_default().insert(key.clone());
            }
        }
        if let Some(now) = now {
            self.recent.push_back((key.clone(), revision(now)));
            self.settle();
        }
    }

    /// Leaves to the store the pods that have not changed for the longest time, where there are many.
    fn settle(&mut self) {
        let Some(pods) = self.kinds.get_mut(&r::PODS) else { return };
        while self.recent.len() > TREES
            && let Some((key, seen)) = self.recent.pop_front()
        {
            let Some(kept) = pods.get_mut(&key) else { continue };
            if let Kept::Tree(object, Some(stored)) = &*kept
                && revision(object) == seen
            {
                *kept = Kept::Stored(Arc::clone(stored));
            }
        }
    }
}

/// The revision that an object's write took.
pub(crate) fn written(object: &Object) -> i64 {
    revision(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(n: usize, revision: usize, owner: Option<&str>) -> Object {
        let mut pod = json!({"metadata": {"name": format!("p{n}"), "namespace": format!("s{}", n % 2), "uid": format!("u{n}"),
            "resourceVersion": revision.to_string()}, "spec": {"n": n}});
        if let Some(uid) = owner {
            pod["metadata"]["ownerReferences"] = json!([{"uid": uid, "controller": true}]);
        }
        Arc::new(pod)
    }

    #[derive(Debug)]
    struct Text(String);

    impl Stored for Text {
        fn object(&self) -> Object {
            Arc::new(serde_json::from_str(&self.0).unwrap())
        }
    }

    fn told(object: &Object, gone: bool) -> Change {
        let stored = Some(Arc::new(Text(object.to_string())) as Arc<dyn Stored>);
        Change { resource: Arc::new(r::PODS), object: Arc::clone(object), stored, gone }
    }

    #[test]
    fn pods_that_rest_are_left_to_the_store_and_read_as_they_were() {
        let world = World::default();
        let count = TREES + 100;
        let all: Vec<Object> =
            (0..count).map(|n| pod(n, n + 1, (n % 3 == 0).then_some("o"))).collect();
        for p in &all {
            assert!(world.apply(&told(p, false)).object.is_none());
        }
        let left = || {
            let state = world.state.read();
            state.kinds[&r::PODS].values().filter(|k| matches!(k, Kept::Stored(_))).count()
        };
        assert_eq!(left(), 100);
        assert_eq!(world.get(&r::PODS, &Key::of(&all[0])).unwrap(), all[0]);
        assert_eq!(world.all(&r::PODS).len(), count);
        assert_eq!(world.managed(&r::PODS, "o").len(), count.div_ceil(3));
        let orphans = world.orphans("s1");
        assert!(orphans.iter().all(|p| meta(p, "namespace") == "s1" && manager(p).is_none()));
        assert_eq!(orphans.len(), (0..count).filter(|n| n % 2 == 1 && n % 3 != 0).count());
        // One that changes is a tree again, and the next is put to rest for it.
        let changed = pod(0, count + 1, None);
        assert_eq!(world.apply(&told(&changed, false)).object.unwrap(), all[0]);
        assert_eq!(world.get(&r::PODS, &Key::of(&changed)).unwrap(), changed);
        assert_eq!(left(), 100);
        assert_eq!(world.managed(&r::PODS, "o").len(), count.div_ceil(3) - 1);
        assert_eq!(world.placed("n0").len(), 0, "none has a node");
        let mut placed = (*changed).clone();
        placed["spec"]["nodeName"] = json!("n0");
        placed["metadata"]["resourceVersion"] = json!("999999");
        world.apply(&told(&Arc::new(placed), false));
        assert_eq!(meta(&world.placed("n0")[0], "name"), "p0");
        assert_eq!(world.apply(&told(&all[1], true)).object.unwrap(), all[1]);
        assert!(world.get(&r::PODS, &Key::of(&all[1])).is_none());
        assert_eq!(left(), 100);
    }
}
