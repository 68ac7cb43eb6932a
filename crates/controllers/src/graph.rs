//! Who owns whom: the metadata of every object, kept up to date change by change.

use crate::object::{finalizers, is_deleting, meta, owners};
use crate::world::Key;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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

/// An owner of a node, as the node's reference names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its uid.
    pub uid: String,
    /// Its version and kind, between which there is a space.
    pub kind: Arc<str>,
    /// Whether it waits for the node when it is deleted in the foreground.
    pub blocks: bool,
}

impl Node {
    fn of(resource: &Arc<Resource>, o: &Value) -> Node {
        let word = |r: &Value, f: &str| r[f].as_str().unwrap_or_default().to_owned();
        let owner = |r: &Value| Owner {
            uid: word(r, "uid"),
            kind: format!("{} {}", word(r, "apiVersion"), word(r, "kind")).into(),
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
    /// Uids of owners that were here and are gone while they still own something.
    lost: HashSet<String>,
}

impl Graph {
    /// The object with a uid.
    pub fn get(&self, uid: &str) -> Option<&Arc<Node>> {
        self.by_uid.get(uid)
    }

    /// Whether the owner with this uid was seen to go.
    pub fn is_lost(&self, uid: &str) -> bool {
        self.lost.contains(uid)
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
        if change.gone && self.owned.contains_key(&node.uid) {
            self.lost.insert(node.uid.clone());
        }
        if !change.gone {
            // A kind whose version changed has its objects at another place.
            if let Some(moved) = self.by_uid.get(&node.uid).cloned() {
                self.nodes.remove(&moved.place());
                self.unlink(&moved);
            }
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
                    self.lost.remove(&o.uid);
                }
            }
        }
    }

    /// Every object's place.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }
}
