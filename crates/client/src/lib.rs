//! The cluster as its controllers see it: objects, changes of objects, and a few verbs.
//!
//! The API server implements [`Cluster`] in its own process. Nothing here knows where objects are kept.
#![forbid(unsafe_code)]

use futures_util::future::BoxFuture;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::Arc;
use wharf_kube::status::Fault;

/// An object in the version that its [`Resource`] names, shared with whoever else looks at it.
pub type Object = Arc<Value>;

/// A collection of objects: `apps/v1` and `deployments`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// Group and version; the core group has only a version.
    pub api_version: Cow<'static, str>,
    /// The plural name.
    pub plural: Cow<'static, str>,
}

impl Resource {
    /// A built-in one.
    pub const fn new(api_version: &'static str, plural: &'static str) -> Resource {
        Resource { api_version: Cow::Borrowed(api_version), plural: Cow::Borrowed(plural) }
    }

    /// The group, empty for core.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

/// Where an object is.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// Its collection.
    pub resource: &'a Resource,
    /// Its namespace; empty for kinds that have none.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
}

/// How an object is to change.
#[derive(Debug, Clone)]
pub enum Write {
    /// It becomes this.
    Replace(Value),
    /// RFC 7396.
    Merge(Value),
    /// With the directives of strategic merge patches.
    Strategic(Value),
    /// RFC 6902.
    Json(Value),
}

/// What becomes of what a deleted object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// It is deleted afterwards.
    Background,
    /// It is deleted first.
    Foreground,
}

/// How an object is to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Only if it still has this uid.
    pub uid: Option<String>,
    /// Only if it still has this revision.
    pub revision: Option<i64>,
    /// Seconds that it may take; nothing leaves it to the object.
    pub grace: Option<i64>,
    /// What becomes of what it owns; nothing leaves it to the kind.
    pub propagation: Option<Propagation>,
}

/// Whether somebody may do something to every object of a resource.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The user's name.
    pub user: &'a str,
    /// The user's groups.
    pub groups: &'a [&'a str],
    /// The verb.
    pub verb: &'a str,
    /// The group of the resource.
    pub group: &'a str,
    /// The plural name.
    pub resource: &'a str,
    /// What is below its objects; empty for themselves.
    pub subresource: &'a str,
}

/// An object as it lies in the cluster's store. To keep this costs next to nothing where the store is in this process;
/// to look at the object costs the reading of its text.
pub trait Stored: std::fmt::Debug + Send + Sync {
    /// The object.
    fn object(&self) -> Object;
}

/// One change.
#[derive(Debug, Clone)]
pub struct Change {
    /// The collection.
    pub resource: Arc<Resource>,
    /// The object; where it is gone, its last state.
    pub object: Object,
    /// The same as it is stored, where it is.
    pub stored: Option<Arc<dyn Stored>>,
    /// Whether it is gone.
    pub gone: bool,
}

/// What [`Changes::next`] gives.
#[derive(Debug, Clone)]
pub enum Item {
    /// Changes in order, after which everything up to `revision` has been told.
    Changes {
        /// The revision.
        revision: i64,
        /// At least one change.
        changes: Vec<Change>,
    },
    /// Everything that was there when the stream began has been told.
    Synced(i64),
}

/// Every object of the cluster, then every change.
pub trait Changes: Send {
    /// The next item. After an error the stream is over, and whoever reads it begins again.
    fn next(&mut self) -> BoxFuture<'_, Result<Item, Fault>>;
}

/// A cluster, reached as some user: every call is authenticated and authorized as that.
///
/// Dropping a future does not undo its write.
pub trait Cluster: Send + Sync + 'static {
    /// The same cluster reached as another user.
    fn as_user(&self, name: &str) -> Arc<dyn Cluster>;

    /// Seconds since 1970, by the clock that the cluster goes by.
    fn now(&self) -> i64;

    /// Follows every object of every kind, in one stream.
    fn follow(&self) -> BoxFuture<'_, Result<Box<dyn Changes>, Fault>>;

    /// Reads one object; 404 where it is not there.
    fn get<'a>(&'a self, at: At<'a>) -> BoxFuture<'a, Result<Object, Fault>>;

    /// Creates an object; its name may be left to `generateName`.
    fn create<'a>(
        &'a self,
        resource: &'a Resource,
        namespace: &'a str,
        object: Value,
    ) -> BoxFuture<'a, Result<Object, Fault>>;

    /// Changes an object, or with `subresource` what is below it.
    fn write<'a>(
        &'a self,
        at: At<'a>,
        subresource: Option<&'a str>,
        write: Write,
    ) -> BoxFuture<'a, Result<Object, Fault>>;

    /// Deletes an object; gives a revision by which that has happened.
    fn delete<'a>(&'a self, at: At<'a>, how: Deletion) -> BoxFuture<'a, Result<i64, Fault>>;

    /// Puts a pod on a node; gives the revision of that.
    fn bind<'a>(
        &'a self,
        namespace: &'a str,
        pod: &'a str,
        node: &'a str,
    ) -> BoxFuture<'a, Result<i64, Fault>>;

    /// The resource of a kind that is kept here, and whether its objects have namespaces.
    fn lookup(&self, api_version: &str, kind: &str) -> Option<(Resource, bool)>;

    /// Sends any request; gives the document that it is answered with.
    fn ask<'a>(
        &'a self,
        method: &'a str,
        path: &'a str,
        query: &'a [(&'a str, &'a str)],
        body: Value,
    ) -> BoxFuture<'a, Result<Value, Fault>>;

    /// A token without an end for a service account, good as long as the Secret that holds it (the old kind).
    fn account_token(&self, claims: &Value) -> Option<String>;

    /// Whether somebody may do something.
    fn may<'a>(&'a self, question: Question<'a>) -> BoxFuture<'a, Result<bool, Fault>>;
}

/// The collections that controllers name.
pub mod resources {
    use super::Resource;

    macro_rules! list {
        ($($name:ident $version:literal $plural:literal;)*) => {
            $(
                #[doc = concat!("`", $plural, "` of `", $version, "`.")]
                pub const $name: Resource = Resource::new($version, $plural);
            )*
        };
    }

    list! {
        NAMESPACES "v1" "namespaces";
        PODS "v1" "pods";
        NODES "v1" "nodes";
        SERVICES "v1" "services";
        ENDPOINTS "v1" "endpoints";
        SECRETS "v1" "secrets";
        CONFIGMAPS "v1" "configmaps";
        SERVICE_ACCOUNTS "v1" "serviceaccounts";
        QUOTAS "v1" "resourcequotas";
        CLAIMS "v1" "persistentvolumeclaims";
        VOLUMES "v1" "persistentvolumes";
        CLASSES "storage.k8s.io/v1" "storageclasses";
        POLICIES "admissionregistration.k8s.io/v1" "validatingadmissionpolicies";
        AUTOSCALERS "autoscaling/v2" "horizontalpodautoscalers";
        REPLICATION_CONTROLLERS "v1" "replicationcontrollers";
        DEPLOYMENTS "apps/v1" "deployments";
        REPLICA_SETS "apps/v1" "replicasets";
        STATEFUL_SETS "apps/v1" "statefulsets";
        DAEMON_SETS "apps/v1" "daemonsets";
        REVISIONS "apps/v1" "controllerrevisions";
        JOBS "batch/v1" "jobs";
        CRON_JOBS "batch/v1" "cronjobs";
        SLICES "discovery.k8s.io/v1" "endpointslices";
        CERTIFICATE_REQUESTS "certificates.k8s.io/v1" "certificatesigningrequests";
        CLUSTER_ROLES "rbac.authorization.k8s.io/v1" "clusterroles";
        LEASES "coordination.k8s.io/v1" "leases";
        BUDGETS "policy/v1" "poddisruptionbudgets";
        FLOWS "flowcontrol.apiserver.k8s.io/v1" "flowschemas";
        LEVELS "flowcontrol.apiserver.k8s.io/v1" "prioritylevelconfigurations";
    }
}
