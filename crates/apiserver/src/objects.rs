//! Objects that were read before: decoded once, encoded once, shared by everybody who asks.

use crate::kinds::{Hub, Kind};
use crate::stored;
use bytes::Bytes;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use wharf_base::sync::Mutex;
use wharf_etcd::{Kv, Revision};
use wharf_kube::proto;

/// A cache of objects by key. What it gives is always that of the version asked for, because the asker
/// brings the version: it saves work and answers no question.
///
/// Its memory is bounded: what was not asked for since half the budget was filled is dropped.
pub struct Objects {
    kept: Mutex<Kept>,
    /// Bytes of stored text that a generation may hold.
    budget: usize,
}

#[derive(Default)]
struct Kept {
    young: HashMap<Box<[u8]>, Entry>,
    old: HashMap<Box<[u8]>, Entry>,
    weight: usize,
}

#[derive(Clone)]
struct Entry {
    revision: Revision,
    tree: Arc<Value>,
    /// The protobuf of the stored version.
    message: Option<Bytes>,
}

/// Bytes of text whose trees are kept, in each of two generations.
const BUDGET: usize = 4 << 20;

impl Default for Objects {
    fn default() -> Objects {
        Objects { kept: Mutex::default(), budget: BUDGET }
    }
}

impl Objects {
    /// The object as a tree, with its revision.
    pub fn tree(&self, kv: &Kv) -> Arc<Value> {
        if let Some(entry) = self.kept.lock().find(kv, self.budget) {
            return entry.tree;
        }
        let tree = Arc::new(stored::decode(kv));
        let entry = Entry { revision: kv.mod_revision(), tree: Arc::clone(&tree), message: None };
        self.kept.lock().insert(kv, entry, self.budget);
        tree
    }

    /// The object as a kind shows it: itself, or another version's view of it.
    pub fn shown(&self, kind: &Kind, kv: &Kv) -> Arc<Value> {
        let tree = self.tree(kv);
        match kind.hub {
            Hub::Own => tree,
            _ => Arc::new(crate::api::from_hub(kind, (*tree).clone())),
        }
    }

    /// The protobuf of the object in a kind's version.
    pub fn message(&self, kind: &Kind, kv: &Kv) -> Bytes {
        if kind.hub != Hub::Own {
            return proto::encode(kind.ty(), &self.shown(kind, kv)).into();
        }
        if let Some(Entry { message: Some(message), .. }) = self.kept.lock().find(kv, self.budget) {
            return message;
        }
        let tree = self.tree(kv);
        let message = Bytes::from(proto::encode(kind.ty(), &tree));
        let entry = Entry { revision: kv.mod_revision(), tree, message: Some(message.clone()) };
        self.kept.lock().insert(kv, entry, self.budget);
        message
    }
}

impl Kept {
    fn find(&mut self, kv: &Kv, budget: usize) -> Option<Entry> {
        let same = |e: &&Entry| e.revision == kv.mod_revision();
        if let Some(entry) = self.young.get(kv.key()) {
            return Some(entry).filter(same).cloned();
        }
        let entry = self.old.remove(kv.key())?;
        if entry.revision != kv.mod_revision() {
            return None;
        }
        self.insert(kv, entry.clone(), budget);
        Some(entry)
    }

    fn insert(&mut self, kv: &Kv, entry: Entry, budget: usize) {
        // An older version than the one that is kept is somebody's look at history.
        if self.young.get(kv.key()).is_some_and(|e| e.revision > entry.revision) {
            return;
        }
        if self.young.insert(kv.key().into(), entry).is_none() {
            self.weight += kv.value().len();
        }
        if self.weight > budget {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
    }
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Objects")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wharf_etcd::{Embedded, KeyRange, Put, Range, Settings, Store};

    async fn read(store: &Embedded, key: &str) -> Kv {
        let range = Range::new(KeyRange::key(key.to_owned()));
        store.range(range).await.unwrap().kvs.remove(0)
    }

    #[tokio::test]
    async fn a_new_version_is_never_answered_with_an_old_one() {
        let store = Embedded::in_memory(&Settings::default()).unwrap();
        let objects = Objects { budget: 200, ..Objects::default() };
        for n in 0..20 {
            let object =
                json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": ""}, "n": n});
            store.put(Put::new("/a", stored::encode(&object))).await.unwrap();
            let kv = read(&store, "/a").await;
            let tree = objects.tree(&kv);
            assert_eq!(tree["n"], n);
            assert_eq!(tree["metadata"]["resourceVersion"], kv.mod_revision().to_string());
            assert!(Arc::ptr_eq(&tree, &objects.tree(&kv)), "it is shared");
        }
        for n in 0..50 {
            let key = format!("/b/{n}");
            store.put(Put::new(key.clone(), stored::encode(&json!({"n": n})))).await.unwrap();
            assert_eq!(objects.tree(&read(&store, &key).await)["n"], n);
        }
        let kept = objects.kept.lock();
        assert!(kept.young.len() + kept.old.len() < 60, "the old ones are dropped");
    }
}
