//! The kinds that are served right now: the built-in ones, and those that custom resources add.

use crate::definitions::Custom;
use crate::hooks::Hooks;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use wharf_base::sync::Mutex;
use wharf_kube::resources::{self, GroupVersion, Resource, Subresource};
use wharf_kube::schema::TypeId;
use wharf_kube::shape::Shape;
use wharf_kube::status::About;
use wharf_kube::typed::{self, TypedError};
use wharf_kube::{custom, defaults};

/// A kind of stored or virtual objects in one version.
#[derive(Debug)]
pub struct Kind {
    /// What discovery says about it.
    pub resource: Resource,
    /// `apps/v1`, as objects carry it.
    pub api_version: String,
    /// The version whose form the store keeps; another kind's for views of the same objects.
    pub hub: Hub,
    /// What its definition says, where it is a custom resource.
    pub custom: Option<Custom>,
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
    /// A version of a custom resource, stored in whichever version was the definition's choice.
    Custom,
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
        self.custom.as_ref().map_or(Shape::Type(self.resource.ty), |c| c.schema.shape())
    }

    /// The kind of its lists.
    pub fn list_kind(&self) -> String {
        self.custom.as_ref().map_or_else(|| format!("{}List", self.name()), |c| c.list_kind.clone())
    }

    /// An object of which nothing is set.
    pub fn zero(&self) -> Value {
        match &self.custom {
            Some(_) => custom::zero(),
            None => typed::zero(self.resource.ty),
        }
    }

    /// Fills in defaults and restores normal form.
    pub fn complete(&self, object: &mut Value) {
        match &self.custom {
            Some(c) => c.schema.complete(object),
            None => {
                if (self.group(), self.name()) == ("", "Secret") {
                    crate::strategy::keep_texts(object);
                }
                defaults::apply(self.resource.ty, object);
                *object = self.ordered(std::mem::take(object));
            }
        }
    }

    /// Restores normal form after changes in place.
    pub fn ordered(&self, object: Value) -> Value {
        match &self.custom {
            Some(_) => custom::sorted(object),
            None => crate::write::ordered(self.resource.ty, object),
        }
    }

    /// Restores the normal form of what is stored.
    pub fn ordered_hub(&self, object: Value) -> Value {
        match &self.custom {
            Some(_) => custom::sorted(object),
            None => crate::write::ordered(crate::api::hub_type(self), object),
        }
    }

    /// Whether it is the kind as which its objects are gone through, of several versions.
    pub fn keeps(&self) -> bool {
        self.custom.as_ref().map_or(self.hub == Hub::Own, |c| c.leads)
    }

    /// Whether objects can be written in protobuf.
    pub fn has_protobuf(&self) -> bool {
        self.custom.is_none()
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
        match &self.custom {
            Some(c) => c.schema.decode(v, unknown),
            None => typed::normalize(self.resource.ty, v, unknown),
        }
    }

    /// The prefix of the keys of its objects.
    pub fn prefix(&self) -> String {
        match self.hub {
            Hub::Own if self.resource.gv.group.is_empty() => {
                format!("/registry/{}/", self.resource.plural)
            }
            Hub::Own | Hub::Custom => {
                format!("/registry/{}/{}/", self.resource.gv.group, self.resource.plural)
            }
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
    builtin: HashMap<Path, Arc<Kind>>,
    order: Vec<Arc<Kind>>,
    /// Replaced as a whole: a request that found its kind keeps it, whatever happens meanwhile.
    custom: Mutex<Arc<Defined>>,
    /// Which of those that is; whoever waits for others is told.
    moments: tokio::sync::watch::Sender<u64>,
    /// Held by whoever brings the custom kinds up to date.
    pub(crate) defining: tokio::sync::Mutex<crate::definitions::Known>,
    /// What users put into the path of writes; nothing where it is to be read.
    hooks: Mutex<Option<Arc<Hooks>>>,
}

type Path = (String, String, String);

/// The kinds that custom resources add, as of a moment.
#[derive(Debug, Default)]
pub struct Defined {
    by_path: HashMap<Path, Arc<Kind>>,
    order: Vec<Arc<Kind>>,
    /// Counts the moments: what is computed from the kinds stays true while it is the same.
    pub generation: u64,
}

impl Defined {
    /// What the definitions were made from; it changes with each of them.
    pub fn stamps(&self) -> Vec<String> {
        self.order.iter().filter_map(|k| k.custom.as_ref()).map(|c| c.stamp.clone()).collect()
    }

    /// The same of one group and version.
    pub fn stamps_of(&self, gv: &GroupVersion) -> Vec<String> {
        let own = self.order.iter().filter(|k| k.resource.gv == *gv);
        own.filter_map(|k| k.custom.as_ref()).map(|c| c.stamp.clone()).collect()
    }

    /// A kind of the definition with this name.
    pub fn of(&self, definition: &str) -> Option<Arc<Kind>> {
        let is_its = |k: &&Arc<Kind>| k.custom.as_ref().is_some_and(|c| c.definition == definition);
        self.order.iter().find(is_its).cloned()
    }
}

fn path(k: &Kind) -> Path {
    let gv = &k.resource.gv;
    (gv.group.clone(), gv.version.clone(), k.resource.plural.to_owned())
}

impl Kinds {
    /// The built-in kinds.
    pub fn builtin() -> Kinds {
        let order: Vec<Arc<Kind>> = resources::builtin().iter().map(kind).collect();
        let builtin = order.iter().map(|k| (path(k), Arc::clone(k))).collect();
        Kinds {
            builtin,
            order,
            custom: Mutex::default(),
            moments: tokio::sync::watch::Sender::default(),
            defining: tokio::sync::Mutex::default(),
            hooks: Mutex::default(),
        }
    }

    /// The kind at a path.
    pub fn find(&self, gv: &GroupVersion, plural: &str) -> Option<Arc<Kind>> {
        let key = (gv.group.clone(), gv.version.clone(), plural.to_owned());
        if let Some(k) = self.builtin.get(&key) {
            return Some(Arc::clone(k));
        }
        self.defined().by_path.get(&key).cloned()
    }

    /// The kinds of custom resources.
    pub fn defined(&self) -> Arc<Defined> {
        Arc::clone(&self.custom.lock())
    }

    /// Serves these custom kinds from now on, in this order.
    pub(crate) fn define(&self, order: Vec<Arc<Kind>>) {
        let by_path = order.iter().map(|k| (path(k), Arc::clone(k))).collect();
        let mut custom = self.custom.lock();
        let generation = custom.generation + 1;
        *custom = Arc::new(Defined { by_path, order, generation });
        self.moments.send_replace(generation);
    }

    /// Tells when custom kinds changed.
    pub(crate) fn moments(&self) -> tokio::sync::watch::Receiver<u64> {
        self.moments.subscribe()
    }

    /// Whether a kind that was found before is another now, or none: what was begun with it would go on with an old
    /// schema. One whose definition is going stays as it was, to its end.
    pub(crate) fn is_outdated(&self, kind: &Kind) -> bool {
        let Some(before) = &kind.custom else { return false };
        let now = self.find(&kind.resource.gv, kind.resource.plural);
        now.as_ref()
            .and_then(|k| k.custom.as_ref())
            .is_none_or(|now| now.stamp != before.stamp && !now.ending)
    }

    /// The hooks that were read last, if none was written since.
    pub(crate) fn hooks(&self) -> Option<Arc<Hooks>> {
        self.hooks.lock().clone()
    }

    /// Keeps hooks that were read, or forgets them.
    pub(crate) fn set_hooks(&self, hooks: Option<Arc<Hooks>>) {
        *self.hooks.lock() = hooks;
    }

    /// Every kind, in the order of discovery.
    pub fn all(&self) -> Vec<Arc<Kind>> {
        let mut out = self.order.clone();
        out.extend(self.defined().order.iter().cloned());
        out
    }

    /// The built-in kinds, in the order of discovery.
    pub fn fixed(&self) -> &[Arc<Kind>] {
        &self.order
    }

    /// Whether a group and version is served.
    pub fn serves(&self, gv: &GroupVersion) -> bool {
        self.order.iter().any(|k| k.resource.gv == *gv)
            || self.defined().order.iter().any(|k| k.resource.gv == *gv)
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
    Arc::new(Kind { resource: r.clone(), api_version: r.gv.to_string(), hub, custom: None })
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
