//! The generic registry: what is common to every call on objects of any kind.

use crate::kinds::{Hub, Kind, Kinds};
use crate::request::Query;
use crate::user::User;
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use wharf_base::clock::Clock;
use wharf_base::sync::Mutex;
use wharf_etcd::{KeyRange, Kv, LeaseId, LeaseRequest, Range, Revision, Store, StoreError};
use wharf_kube::convert;
use wharf_kube::schema::TypeId;
use wharf_kube::status::{About, Fault};
use wharf_kube::time;
use wharf_kube::typed::normalize;

/// The API over a store. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// The objects.
    pub store: Arc<dyn Store>,
    /// What kinds there are.
    pub kinds: Arc<Kinds>,
    /// What time it is.
    pub clock: Clock,
    /// Addresses that services get.
    pub services: Arc<crate::services::Allocator>,
    /// The lease of recent events.
    pub events: Arc<Mutex<Option<EventLease>>>,
    /// Objects that were read before.
    pub objects: Arc<crate::objects::Objects>,
    /// The API servers behind this one.
    pub peers: Arc<crate::aggregator::Peers>,
    /// Who may do what.
    pub roles: Arc<crate::authz::Authorizer>,
}

/// A lease that the events of a minute share.
#[derive(Debug, Clone, Copy)]
pub struct EventLease {
    id: LeaseId,
    /// Seconds since 1970 until which new events take it.
    until: i64,
}

/// Seconds that an event is kept, and that events share a lease.
const EVENT_TTL: i64 = 3600;
const EVENT_SHARE: i64 = 60;

/// One call on objects of one kind, after authentication and authorization.
pub struct Call<'a> {
    /// Who calls.
    pub user: &'a User,
    /// The kind.
    pub kind: &'a Arc<Kind>,
    /// The namespace of the path.
    pub namespace: Option<&'a str>,
    /// The object of the path.
    pub name: Option<&'a str>,
    /// What is below the object.
    pub subresource: Option<&'a str>,
    /// The query.
    pub query: &'a Query,
    /// The client's program, which owns fields where it names no manager.
    pub agent: &'a str,
    /// Whether this is a step of another call, which policies and webhooks have seen already.
    pub inner: bool,
    /// Warnings for the answer's headers.
    pub warnings: Mutex<Vec<String>>,
}

impl Call<'_> {
    /// The resource, for error messages.
    pub fn about(&self) -> About<'_> {
        self.kind.about()
    }

    /// The object's name, which a path without one lacks.
    pub fn name(&self) -> Result<&str, Fault> {
        self.name.ok_or_else(Fault::wrong_method)
    }

    /// The store's key of the object.
    pub fn key(&self, name: &str) -> String {
        self.kind.key(self.namespace, name)
    }

    /// Who owns what this call writes.
    pub fn manager(&self) -> String {
        if !self.query.field_manager.is_empty() {
            return self.query.field_manager.clone();
        }
        let program = self.agent.split('/').next().unwrap_or_default();
        let printable: String = program.chars().filter(|c| !c.is_control()).take(128).collect();
        if printable.is_empty() { "unknown".to_owned() } else { printable }
    }

    /// Leaves a warning for the client.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }
}

impl Api {
    /// The built-in kinds over a store.
    pub fn new(store: Arc<dyn Store>, clock: Clock) -> Api {
        Api {
            store,
            kinds: Arc::new(Kinds::builtin()),
            clock,
            services: Arc::default(),
            events: Arc::default(),
            objects: Arc::default(),
            peers: Arc::default(),
            roles: Arc::default(),
        }
    }

    /// Now, as objects carry it.
    pub fn now(&self) -> String {
        time::format_seconds(self.clock.unix_nanos().div_euclid(1_000_000_000))
    }

    /// Seconds since 1970.
    pub fn now_seconds(&self) -> i64 {
        self.clock.unix_nanos().div_euclid(1_000_000_000)
    }

    /// One key as it is now.
    pub async fn read(&self, key: &str) -> Result<Option<Kv>, Fault> {
        let range = Range::new(KeyRange::key(Bytes::copy_from_slice(key.as_bytes())));
        let reply = self.store.range(range).await.map_err(|e| fault(&e))?;
        Ok(reply.kvs.into_iter().next())
    }

    /// An object that must be there.
    pub async fn get(&self, call: &Call<'_>, name: &str) -> Result<Kv, Fault> {
        self.check_version(call).await?;
        let mut range = Range::new(KeyRange::key(call.key(name)));
        // Revision 0 is whatever is at hand.
        range.local = call.query.resource_version == "0";
        let reply = self.store.range(range).await.map_err(|e| fault(&e))?;
        let kv = reply.kvs.into_iter().next();
        kv.ok_or_else(|| Fault::not_found(call.about(), name))
    }

    /// An object of a built-in kind, in its stored form.
    pub async fn object(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Arc<Value>>, Fault> {
        let kv = self.read(&kind.key(namespace, name)).await?;
        Ok(kv.map(|kv| self.objects.tree(&kv)))
    }

    /// An object as it is stored in the version of its kind.
    pub async fn read_stored(&self, kind: &Kind, v: Value) -> Result<Value, Fault> {
        if kind.custom.is_none() {
            return Ok(from_hub(kind, v));
        }
        let mut all = self.read_all_stored(kind, vec![v]).await?;
        all.pop().ok_or_else(|| Fault::internal("a conversion lost its object"))
    }

    /// The same for many, converted together where they need it.
    pub async fn read_all_stored(&self, kind: &Kind, all: Vec<Value>) -> Result<Vec<Value>, Fault> {
        let Some(custom) = &kind.custom else {
            return Ok(all.into_iter().map(|v| from_hub(kind, v)).collect());
        };
        // Defaults are those of the version in which an object lies; a conversion adds none.
        let stored = |v: Value| match &custom.stored {
            Some(schema) if v["apiVersion"] == *custom.storage => schema.read(v),
            _ if v["apiVersion"] == *kind.api_version => custom.schema.read(v),
            _ => v,
        };
        let mut own = Vec::with_capacity(all.len());
        let read: Vec<Value> = all
            .into_iter()
            .map(|v| {
                own.push(v["apiVersion"] == *kind.api_version);
                stored(v)
            })
            .collect();
        let all = self.converted(custom, &kind.api_version, read).await?;
        let finish = |(v, own)| if own { v } else { custom.schema.converted(v) };
        Ok(all.into_iter().zip(own).map(finish).collect())
    }

    /// An object that was read in the version of a kind; shared where it is that already.
    pub async fn seen(&self, kind: &Kind, kv: &Kv) -> Result<Arc<Value>, Fault> {
        if kind.custom.is_none() {
            return Ok(self.objects.shown(kind, kv));
        }
        self.read_stored(kind, crate::stored::decode(kv)).await.map(Arc::new)
    }

    /// The same for many.
    pub async fn seen_all(&self, kind: &Kind, kvs: &[Kv]) -> Result<Vec<Arc<Value>>, Fault> {
        if kind.custom.is_none() {
            return Ok(kvs.iter().map(|kv| self.objects.shown(kind, kv)).collect());
        }
        let all = kvs.iter().map(crate::stored::decode).collect();
        Ok(self.read_all_stored(kind, all).await?.into_iter().map(Arc::new).collect())
    }

    /// An object in the version of its kind as it is to be stored.
    pub async fn to_stored(&self, kind: &Kind, v: Value) -> Result<Value, Fault> {
        let Some(custom) = &kind.custom else { return Ok(to_hub(kind, v)) };
        let mut all = self.converted(custom, &custom.storage, vec![v]).await?;
        all.pop().ok_or_else(|| Fault::internal("a conversion lost its object"))
    }

    /// The lease that a new object of a kind is attached to: events do not stay.
    pub async fn lease_for(&self, kind: &Kind) -> Result<Option<LeaseId>, Fault> {
        if kind.resource.plural != "events" {
            return Ok(None);
        }
        let now = self.now_seconds();
        let kept = *self.events.lock();
        if let Some(lease) = kept.filter(|l| now < l.until) {
            return Ok(Some(lease.id));
        }
        let request = LeaseRequest { id: None, ttl: EVENT_TTL + EVENT_SHARE };
        let lease = self.store.grant(request).await.map_err(|e| fault(&e))?;
        *self.events.lock() = Some(EventLease { id: lease.id, until: now + EVENT_SHARE });
        Ok(Some(lease.id))
    }

    /// A read at least as new as the client has seen.
    async fn check_version(&self, call: &Call<'_>) -> Result<(), Fault> {
        match revision(&call.query.resource_version)? {
            Some(wanted) if wanted.0 > 0 => self.wait_for(wanted).await,
            _ => Ok(()),
        }
    }

    /// Waits a moment for a revision that the client has seen elsewhere; refuses one that does not come.
    pub async fn wait_for(&self, wanted: Revision) -> Result<(), Fault> {
        let current = || async { self.store.revision().await.map_err(|e| fault(&e)) };
        if current().await? >= wanted {
            return Ok(());
        }
        let watch = wharf_etcd::WatchRequest::new(KeyRange::prefix("/registry/"));
        let mut watch = self.store.watch(watch).await.map_err(|e| fault(&e))?;
        // It may have come before the watch began.
        if current().await? >= wanted {
            return Ok(());
        }
        let reached = async {
            while let Ok(item) = watch.next().await {
                let (wharf_etcd::WatchItem::Events { through, .. }
                | wharf_etcd::WatchItem::Progress(through)) = item;
                if through >= wanted {
                    return;
                }
            }
        };
        // Three seconds is what the reference server waits.
        if tokio::time::timeout(std::time::Duration::from_secs(3), reached).await.is_ok() {
            return Ok(());
        }
        let current = current().await?;
        let asked = wanted.0.unsigned_abs();
        if current >= wanted { Ok(()) } else { Err(Fault::too_large_revision(asked, current.0)) }
    }
}

/// Reads a resource version: nothing where there is none.
pub fn revision(text: &str) -> Result<Option<Revision>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<u64>() {
        Ok(n) => Ok(Some(Revision(i64::try_from(n).unwrap_or(i64::MAX)))),
        Err(_) => Err(Fault::bad_request(format!(
            "Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))),
    }
}

/// What a failure of the store looks like from outside.
pub fn fault(e: &StoreError) -> Fault {
    match e {
        StoreError::Busy => Fault::too_many_requests("the store is busy, please retry", 1),
        StoreError::TooLarge => Fault::too_large("etcdserver: request is too large"),
        e => Fault::internal(e),
    }
}

/// From what is stored to the version that was asked for, in normal form. Of built-in kinds; see [`Api::read_stored`].
pub fn from_hub(kind: &Kind, v: Value) -> Value {
    let converted = match kind.hub {
        Hub::Own | Hub::Custom => return v,
        Hub::Autoscaling => convert::autoscaler_from_v2(v),
        Hub::Events => convert::event_from_core(v),
    };
    normalize(kind.ty(), converted, &mut Vec::new()).unwrap_or_default()
}

/// From the version of a request to what is stored, in normal form. Of built-in kinds; see [`Api::to_stored`].
pub fn to_hub(kind: &Kind, v: Value) -> Value {
    let converted = match kind.hub {
        Hub::Own | Hub::Custom => return v,
        Hub::Autoscaling => convert::autoscaler_to_v2(v),
        Hub::Events => convert::event_to_core(v),
    };
    normalize(hub_type(kind), converted, &mut Vec::new()).unwrap_or_default()
}

/// The type of what is stored.
pub fn hub_type(kind: &Kind) -> TypeId {
    match kind.hub {
        Hub::Own | Hub::Custom => kind.ty(),
        Hub::Autoscaling => crate::kinds::known("autoscaling.HorizontalPodAutoscaler"),
        Hub::Events => crate::kinds::known("core.Event"),
    }
}

/// A text of `metadata`, empty where there is none.
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// Sets a field of `metadata`.
pub fn set_meta(object: &mut Value, field: &str, v: impl Into<Value>) {
    if let Some(object) = object.as_object_mut() {
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if let Some(m) = metadata.as_object_mut() {
            m.insert(field.to_owned(), v.into());
        }
    }
}

/// Removes a field of `metadata`.
pub fn drop_meta(object: &mut Value, field: &str) {
    if let Some(m) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        m.shift_remove(field);
    }
}

/// Whether an object is being deleted.
pub fn is_deleting(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

/// An object's finalizers.
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}
