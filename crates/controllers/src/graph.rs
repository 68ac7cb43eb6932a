//! Who owns whom: the metadata of every object, kept up to date change by change.

use crate::object::{finalizers, is_deleting, meta, owners};
use crate::world::Key;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use wharf_client::{Change, Resource};

/// An object as the graph knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its collection.
    pub resource: Arc<Resource>,
    /// Its place there.
    pub key: Key,
    /// Its uid.
    pub uid: String,
    /// Its owners.
    pub owners: Vec<Owner>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its finalizers.
    pub marks: Vec<String>,
}

/// An owner of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its uid.
    pub uid: String,
    /// Whether it waits for the node when it is deleted in the foreground.
    pub blocks: bool,
}

impl Node {
    fn of(resource: &Arc<Resource>, o: &Value) -> Node {
        let owner = |r: &Value| Owner {
            uid: r["uid"].as_str().unwrap_or_default().to_owned(),
            blocks: r["blockOwnerDeletion"] == true,
        };
        Node {
            resource: Arc::clone(resource),
            key: Key::of(o),
            uid: meta(o, "uid").to_owned(),
            owners: owners(o).map(owner).collect(),
            deleting: is_deleting(o),
            marks: finalizers(o).map(str::to_owned).collect(),
        }
    }

    /// Whether it is being deleted and waits for this finalizer.
    pub fn awaits(&self, mark: &str) -> bool {
        self.deleting && self.marks.iter().any(|m| m == mark)
    }

    fn place(&self) -> Place {
        (self.key.namespace.clone(), Arc::clone(&self.resource), self.key.name.clone())
    }
}

/// Namespace, collection, name: so that a namespace's objects lie together.
type Place = (String, Arc<Resource>, String);

/// Every object's metadata.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: BTreeMap<Place, Arc<Node>>,
    by_uid: HashMap<String, Arc<Node>>,
    /// Uids of what an owner's uid owns, whether or not the owner is there.
    owned: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    /// The object with a uid.
    pub fn get(&self, uid: &str) -> Option<&Arc<Node>> {
        self.by_uid.get(uid)
    }

    /// What an owner owns.
    pub fn dependents<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Arc<Node>> {
        let uids = self.owned.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.by_uid.get(uid))
    }

    /// What is in a namespace.
    pub fn inside(&self, namespace: &str) -> Vec<Arc<Node>> {
        let least = Arc::new(Resource::new("", ""));
        let from = (namespace.to_owned(), least, String::new());
        let range = self.nodes.range(from..);
        range.take_while(|((ns, ..), _)| ns == namespace).map(|(_, n)| Arc::clone(n)).collect()
    }

    /// Takes a change in; gives what was there before.
    pub(crate) fn apply(&mut self, change: &Change) -> Option<Arc<Node>> {
        let node = Arc::new(Node::of(&change.resource, &change.object));
        let before = if change.gone {
            self.nodes.remove(&node.place())
        } else {
            self.nodes.insert(node.place(), Arc::clone(&node))
        };
        if let Some(before) = &before {
            self.unlink(before);
        }
        if !change.gone {
            self.link(&node);
        }
        before
    }

    fn link(&mut self, node: &Arc<Node>) {
        self.by_uid.insert(node.uid.clone(), Arc::clone(node));
        for o in &node.owners {
            self.owned.entry(o.uid.clone()).or_default().insert(node.uid.clone());
        }
    }

    fn unlink(&mut self, node: &Node) {
        self.by_uid.remove(&node.uid);
        for o in &node.owners {
            if let Some(set) = self.owned.get_mut(&o.uid) {
                set.remove(&node.uid);
                if set.is_empty() {
                    self.owned.remove(&o.uid);
                }
            }
        }
    }

    /// Every object's place.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }
}
