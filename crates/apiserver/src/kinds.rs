//! The kinds that are served right now: the built-in ones, and those that custom resources add.

use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use wharf_base::sync::Mutex;
use wharf_kube::resources::{self, GroupVersion, Resource, Subresource};
use wharf_kube::schema::TypeId;
use wharf_kube::shape::Shape;
use wharf_kube::status::About;
use wharf_kube::typed::{self, TypedError};

/// A kind of stored or virtual objects in one version.
#[derive(Debug)]
pub struct Kind {
    /// What discovery says about it.
    pub resource: Resource,
    /// `apps/v1`, as objects carry it.
    pub api_version: String,
    /// The version whose form the store keeps; another kind's for views of the same objects.
    pub hub: Hub,
}

/// How a version relates to what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hub {
    /// It is what is stored.
    Own,
    /// `autoscaling/v1`, stored as `autoscaling/v2`.
    Autoscaling,
    /// `events.k8s.io/v1`, stored as core `v1`.
    Events,
}

impl Kind {
    /// The resource, for error messages.
    pub fn about(&self) -> About<'_> {
        About { group: &self.resource.gv.group, resource: self.resource.plural }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.resource.kind
    }

    /// Its group.
    pub fn group(&self) -> &str {
        &self.resource.gv.group
    }

    /// The type of its objects.
    pub fn ty(&self) -> TypeId {
        self.resource.ty
    }

    /// How its objects divide into fields.
    pub fn shape(&self) -> Shape<'_> {
        Shape::Type(self.resource.ty)
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.resource.subresource(name)
    }

    /// Whether it has a status of its own, which the main path then leaves alone.
    pub fn has_status(&self) -> bool {
        self.resource.subresource("status").is_some()
    }

    /// Brings a value into normal form.
    pub fn normalize(&self, v: Value, unknown: &mut Vec<String>) -> Result<Value, TypedError> {
        typed::normalize(self.resource.ty, v, unknown)
    }

    /// The prefix of the keys of its objects.
    pub fn prefix(&self) -> String {
        match self.hub {
            Hub::Own if self.resource.gv.group.is_empty() => {
                format!("/registry/{}/", self.resource.plural)
            }
            Hub::Own => format!("/registry/{}/{}/", self.resource.gv.group, self.resource.plural),
            Hub::Autoscaling => "/registry/autoscaling/horizontalpodautoscalers/".to_owned(),
            Hub::Events => "/registry/events/".to_owned(),
        }
    }

    /// The key of one of its objects.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        let ns = if self.resource.namespaced { namespace.unwrap_or_default() } else { "" };
        let slash = if ns.is_empty() { "" } else { "/" };
        format!("{}{ns}{slash}{name}", self.prefix())
    }
}

/// Every kind, by group, version and plural name.
#[derive(Debug)]
pub struct Kinds {
    builtin: HashMap<(String, String, String), Arc<Kind>>,
    order: Vec<Arc<Kind>>,
    custom: Mutex<Vec<Arc<Kind>>>,
}

impl Kinds {
    /// The built-in kinds.
    pub fn builtin() -> Kinds {
        let order: Vec<Arc<Kind>> = resources::builtin().iter().map(kind).collect();
        let key = |k: &Arc<Kind>| {
            let gv = &k.resource.gv;
            (gv.group.clone(), gv.version.clone(), k.resource.plural.to_owned())
        };
        let builtin = order.iter().map(|k| (key(k), Arc::clone(k))).collect();
        Kinds { builtin, order, custom: Mutex::default() }
    }

    /// The kind at a path.
    pub fn find(&self, gv: &GroupVersion, plural: &str) -> Option<Arc<Kind>> {
        let key = (gv.group.clone(), gv.version.clone(), plural.to_owned());
        if let Some(k) = self.builtin.get(&key) {
            return Some(Arc::clone(k));
        }
        let custom = self.custom.lock();
        custom.iter().find(|k| k.resource.gv == *gv && k.resource.plural == plural).cloned()
    }

    /// Every kind, in the order of discovery.
    pub fn all(&self) -> Vec<Arc<Kind>> {
        let mut out = self.order.clone();
        out.extend(self.custom.lock().iter().cloned());
        out
    }

    /// Whether a group and version is served.
    pub fn serves(&self, gv: &GroupVersion) -> bool {
        self.all().iter().any(|k| k.resource.gv == *gv)
    }

    /// A built-in kind of the core group, which is always there.
    pub fn core(&self, plural: &str) -> Option<Arc<Kind>> {
        self.find(&GroupVersion::parse("v1"), plural)
    }
}

fn kind(r: &Resource) -> Arc<Kind> {
    let hub = match (r.gv.group.as_str(), r.gv.version.as_str()) {
        ("autoscaling", "v1") => Hub::Autoscaling,
        ("events.k8s.io", _) => Hub::Events,
        _ => Hub::Own,
    };
    Arc::new(Kind { resource: r.clone(), api_version: r.gv.to_string(), hub })
}

/// The type of a table's name, for code that handles a fixed kind.
pub fn known(name: &'static str) -> TypeId {
    static SCHEMA: OnceLock<&'static wharf_kube::schema::Schema> = OnceLock::new();
    let schema = SCHEMA.get_or_init(wharf_kube::schema::Schema::builtin);
    match schema.id(name) {
        Some(id) => id,
        // The names in the code are fixed, and the tests walk them.
        None => unreachable!("no type {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_of_one_object_share_its_key() {
        let kinds = Kinds::builtin();
        let old = kinds.find(&GroupVersion::parse("v1"), "events").unwrap();
        let new = kinds.find(&GroupVersion::parse("events.k8s.io/v1"), "events").unwrap();
        assert_eq!(old.key(Some("n"), "e"), new.key(Some("n"), "e"));
        let pods = kinds.core("pods").unwrap();
        assert_eq!(pods.key(Some("default"), "p"), "/registry/pods/default/p");
        let nodes = kinds.core("nodes").unwrap();
        assert_eq!(nodes.key(None, "n"), "/registry/nodes/n");
    }
}
