//! Creating and changing objects: one path for POST, PUT and every patch.

use crate::api::{Api, Call, drop_meta, fault, finalizers, hub_type, is_deleting, meta, set_meta};
use crate::kinds::{Hub, Kind};
use crate::{addresses, admission, body, definitions, hooks, random, stored, strategy};
use bytes::Bytes;
use serde_json::{Value, json};
use wharf_etcd::{Compare, Delete, KeyRange, Kv, Op, OpReply, Put, Revision, Txn};
use wharf_kube::managed::{self, Writer};
use wharf_kube::schema::TypeId;
use wharf_kube::status::{Fault, Problem};
use wharf_kube::typed::normalize;
use wharf_kube::{defaults, patch, proto, shape::Shape, validate};

/// What a write left behind.
#[derive(Debug)]
pub struct Written {
    /// The object in the version of the request.
    pub object: Value,
    /// Whether it is new.
    pub created: bool,
}

/// How an object is changed.
pub enum Change<'a> {
    /// It becomes this.
    Replace(Value),
    /// RFC 6902.
    JsonPatch(&'a Value),
    /// RFC 7396.
    MergePatch(&'a Value),
    /// With directives.
    StrategicPatch(&'a Value),
    /// Server-side.
    Apply(&'a Value),
}

/// Who owns the fields of a new object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owners {
    /// Whoever creates it: that is recorded.
    Record,
    /// Whoever applied it: that is recorded already, and defaults have no owner.
    Applied,
}

/// Names tried for a `generateName`.
const NAMES: usize = 8;
/// Tries of a write that others get in the way of.
const TRIES: usize = 10;
/// The longest object that is stored (1.5 MiB, as etcd bounds requests).
const LARGEST: usize = 1536 * 1024;

impl Api {
    /// Creates an object that was sent to a collection.
    pub async fn create(&self, call: &Call<'_>, mut object: Value) -> Result<Written, Fault> {
        let named = !meta(&object, "name").is_empty();
        let prefix = meta(&object, "generateName").to_owned();
        self.check_namespace(call, &mut object)?;
        let tries = if named || prefix.is_empty() { 1 } else { NAMES };
        let mut outcome = Err(Fault::internal("no name was tried"));
        for _ in 0..tries {
            if !named && !prefix.is_empty() {
                set_meta(&mut object, "name", random::name(&prefix));
            }
            outcome = self.create_named(call, object.clone(), Owners::Record).await;
            match &outcome {
                Err(f) if f.reason == "AlreadyExists" && tries > 1 => {}
                _ => break,
            }
        }
        outcome
    }

    async fn create_named(
        &self,
        call: &Call<'_>,
        mut object: Value,
        owners: Owners,
    ) -> Result<Written, Fault> {
        let kind = call.kind;
        ending(call)?;
        let versioned = !matches!(meta(&object, "resourceVersion"), "" | "0");
        kind.complete(&mut object);
        admission::mutate(self, call, &mut object, None).await?;
        hooks::mutate(self, call, &mut object, None).await?;
        kind.complete(&mut object);
        // Whoever creates an object owns nothing of a status that it does not get.
        if kind.custom.is_some() {
            strategy::prepare_create(kind, &mut object);
        } else if kind.has_status() {
            strategy::drop_status(kind, &mut object);
        }
        if owners == Owners::Record {
            self.track(call, &kind.zero(), &mut object);
        }
        let mut problems = judge_custom(call, &object, None);
        let asked = object.clone();
        let mut object = self.to_stored(kind, object).await?;
        if matches!(kind.hub, Hub::Autoscaling | Hub::Events) {
            // The stored version has defaults of its own.
            defaulted(hub_type(kind), &mut object);
        }
        let name = meta(&object, "name").to_owned();
        for field in
            ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"]
        {
            drop_meta(&mut object, field);
        }
        set_meta(&mut object, "uid", random::uid());
        set_meta(&mut object, "creationTimestamp", self.now());
        strategy::prepare_create(kind, &mut object);
        let mut object = kind.ordered_hub(object);
        problems.splice(
            0..0,
            validate::metadata(&object, kind.resource.namespaced, strategy::name_rule(kind)),
        );
        problems.extend(validate::object(
            kind.resource.gv.group.as_str(),
            kind.name(),
            &object,
            None,
        ));
        refuse(kind, &name, &problems)?;
        hooks::validate(self, call, Some(&asked), None).await?;
        admission::validate(self, call, Some(&object), None).await?;
        let reserved = self.services.reserve(kind, &mut object, None)?;
        let object = kind.ordered_hub(object);
        if call.query.dry_run {
            reserved.release(&self.services);
            admission::quota::charges(self, call, &object, None).await?;
            if self.read(&call.key(&name)).await?.is_some() {
                return Err(Fault::already_exists(call.about(), &name));
            }
            return Ok(Written { object: self.read_stored(kind, object).await?, created: true });
        }
        let inserted = if versioned {
            // The last thing that is looked at, and not before something is to be stored, as etcd's client does it.
            let why = "resourceVersion should not be set on objects to be created";
            Err(Fault::unknown(why))
        } else {
            self.insert(call, &name, &object).await
        };
        match inserted {
            Ok(revision) => {
                Ok(Written { object: self.shown(kind, object, revision).await?, created: true })
            }
            Err(f) => {
                reserved.release(&self.services);
                Err(f)
            }
        }
    }

    async fn insert(&self, call: &Call<'_>, name: &str, object: &Value) -> Result<Revision, Fault> {
        let key = Bytes::from(call.key(name).into_bytes());
        let value = stored::encode(object);
        check_size(&value)?;
        let put = Put { lease: self.lease_for(call.kind).await?, ..Put::new(key.clone(), value) };
        for _ in 0..TRIES {
            let charges = admission::quota::charges(self, call, object, None).await?;
            let mut txn = Txn {
                when: vec![Compare::absent(key.clone())],
                then: vec![Op::Put(put.clone())],
                otherwise: Vec::new(),
            };
            txn.then.extend(addresses::ops(self, call.kind, None, Some(object)));
            charges.join(&mut txn);
            let reply = self.store.txn(txn).await.map_err(|e| fault(&e))?;
            if reply.succeeded {
                return Ok(reply.revision);
            }
            if charges.is_empty() || self.read(&call.key(name)).await?.is_some() {
                return Err(Fault::already_exists(call.about(), name));
            }
        }
        let why = "the quotas of its namespace are busy; please try again";
        Err(Fault::conflict(call.about(), name, why))
    }

    /// The namespace of path and object must agree.
    fn check_namespace(&self, call: &Call<'_>, object: &mut Value) -> Result<(), Fault> {
        if !call.kind.resource.namespaced {
            if !meta(object, "namespace").is_empty() {
                drop_meta(object, "namespace");
            }
            return Ok(());
        }
        let path = call.namespace.unwrap_or_default();
        match meta(object, "namespace") {
            "" => set_meta(object, "namespace", path),
            same if same == path => {}
            _ => {
                return Err(Fault::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
        Ok(())
    }

    fn track(&self, call: &Call<'_>, old: &Value, new: &mut Value) {
        let (manager, now) = (call.manager(), self.now());
        let writer = Writer {
            manager: &manager,
            api_version: &call.kind.api_version,
            subresource: call.subresource.unwrap_or_default(),
            now: &now,
        };
        managed::update(old, new, call.kind.shape(), &writer);
    }

    /// Changes an object, again if somebody else changes it meanwhile and the client did not say that it minds.
    pub async fn change(&self, call: &Call<'_>, change: &Change<'_>) -> Result<Written, Fault> {
        let name = call.name()?;
        let mut last = Fault::stale(call.about(), name);
        for _ in 0..TRIES {
            let Some(kv) = self.read(&call.key(name)).await? else {
                return self.change_missing(call, change, name).await;
            };
            match self.change_once(call, change, &kv).await? {
                Some(written) => return Ok(written),
                None => last = Fault::stale(call.about(), name),
            }
        }
        Err(last)
    }

    /// There is nothing to change: apply creates, and so does PUT for some kinds.
    async fn change_missing(
        &self,
        call: &Call<'_>,
        change: &Change<'_>,
        name: &str,
    ) -> Result<Written, Fault> {
        let whole = call.subresource.is_none();
        let object = match change {
            Change::Apply(config) if whole => {
                let given = meta(config, "uid");
                if !given.is_empty() {
                    let why = format!(
                        "uid mismatch: the provided object specified uid {given}, and no existing object was found"
                    );
                    return Err(Fault::conflict(call.about(), name, &why));
                }
                self.applied_new(call, config)?
            }
            Change::Replace(object) if whole && strategy::created_by_put(call.kind) => {
                object.clone()
            }
            _ => return Err(Fault::not_found(call.about(), name)),
        };
        let mut object = object;
        set_meta(&mut object, "name", name);
        drop_meta(&mut object, "resourceVersion");
        self.check_namespace(call, &mut object)?;
        let owners =
            if matches!(change, Change::Apply(_)) { Owners::Applied } else { Owners::Record };
        self.create_named(call, object, owners).await
    }

    fn applied_new(&self, call: &Call<'_>, config: &Value) -> Result<Value, Fault> {
        let applied = self.applied(call, &call.kind.zero(), config)?;
        Ok(call.kind.ordered(applied))
    }

    fn applied(&self, call: &Call<'_>, live: &Value, config: &Value) -> Result<Value, Fault> {
        let (manager, now) = (call.manager(), self.now());
        let writer = Writer {
            manager: &manager,
            api_version: &call.kind.api_version,
            subresource: call.subresource.unwrap_or_default(),
            now: &now,
        };
        let sub = call.subresource;
        let has_status = call.kind.has_status();
        managed::apply(
            live,
            config,
            call.kind.shape(),
            &writer,
            call.query.force,
            |set| match sub {
                Some("status") => set.keep(&["status"]),
                None if has_status => set.cut(&["status"]),
                _ => {}
            },
        )
    }

    async fn change_once(
        &self,
        call: &Call<'_>,
        change: &Change<'_>,
        kv: &Kv,
    ) -> Result<Option<Written>, Fault> {
        let kind = call.kind;
        let old_hub = stored::decode(kv);
        let old = self.read_stored(kind, old_hub.clone()).await?;
        let mut object = self.changed(call, change, &old)?;
        self.check_identity(call, &mut object, &old)?;
        let version = meta(&object, "resourceVersion").to_owned();
        if version.is_empty()
            && strategy::needs_version(kind)
            && matches!(change, Change::Replace(_))
        {
            let p = Problem::invalid(
                "metadata.resourceVersion",
                &json!(0),
                "must be specified for an update",
            );
            return Err(Fault::invalid(kind.group(), kind.name(), meta(&old, "name"), &[p]));
        }
        let current = kv.mod_revision().to_string();
        if !matches!(version.as_str(), "" | "0") && version != current {
            return Err(Fault::stale(call.about(), meta(&old, "name")));
        }
        kind.complete(&mut object);
        admission::mutate(self, call, &mut object, Some(&old)).await?;
        hooks::mutate(self, call, &mut object, Some(&old)).await?;
        kind.complete(&mut object);
        strategy::prepare_update(kind, call.subresource, &mut object, &old);
        strategy::stamp(kind, &mut object, &old, &self.now());
        if !matches!(change, Change::Apply(_)) {
            self.track(call, &old, &mut object);
        }
        let own = judge_custom(call, &object, Some(&old));
        let asked = object.clone();
        let mut object = self.to_stored(kind, object).await?;
        set_meta(&mut object, "resourceVersion", current);
        self.services.carry_over(kind, &mut object, &old_hub);
        let object = kind.ordered_hub(object);
        self.check_update(call, &object, &old_hub, own)?;
        hooks::validate(self, call, Some(&asked), Some(&old)).await?;
        admission::validate(self, call, Some(&object), Some(&old_hub)).await?;
        self.replace(call, kv, object, &old_hub).await
    }

    /// The object that a change makes of the present one.
    fn changed(&self, call: &Call<'_>, change: &Change<'_>, old: &Value) -> Result<Value, Fault> {
        let kind = call.kind;
        let unfit = |e: patch::PatchError| match e {
            patch::PatchError::Malformed(m) => Fault::bad_request(m),
            patch::PatchError::Unfit(_) => Fault::unprocessable(
                "the server rejected our request due to an error in our request",
            ),
        };
        let patched = match change {
            Change::Replace(v) => return Ok(v.clone()),
            Change::Apply(config) => {
                return self.applied(call, old, config).map(|v| kind.ordered(v));
            }
            Change::JsonPatch(p) => patch::json(old, p).map_err(unfit)?,
            Change::MergePatch(p) => patch::merge(old, p),
            Change::StrategicPatch(p) => patch::strategic(old, p, kind.ty()).map_err(unfit)?,
        };
        let tree = body::Tree { value: patched, duplicates: Vec::new() };
        body::object(call, tree, body::Expected::of(kind)).map_err(|f| {
            // A patch that yields nonsense is a nonsensical entity, not a malformed request.
            if f.message.contains("strict decoding error")
                || f.message.contains("cannot be handled")
            {
                let why =
                    f.message.split_once(": ").map_or(f.message.clone(), |(_, w)| w.to_owned());
                let p = Problem::invalid("patch", &json!(""), why);
                Fault::invalid(kind.group(), kind.name(), meta(old, "name"), &[p])
            } else {
                f
            }
        })
    }

    /// Name, namespace and uid of an object never change. A namespace that is not given is that of the path: Helm
    /// leaves it out of what it updates.
    fn check_identity(
        &self,
        call: &Call<'_>,
        object: &mut Value,
        old: &Value,
    ) -> Result<(), Fault> {
        let name = meta(old, "name");
        let given = meta(object, "name");
        if given.is_empty() {
            return Err(Fault::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        if given != name {
            return Err(Fault::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        let ns = meta(object, "namespace");
        if ns.is_empty() && call.kind.resource.namespaced {
            set_meta(object, "namespace", meta(old, "namespace"));
        } else if !ns.is_empty() && ns != meta(old, "namespace") {
            return Err(Fault::bad_request(format!(
                "the namespace of the object ({ns}) does not match the namespace on the request ({})",
                meta(old, "namespace")
            )));
        }
        let uid = meta(object, "uid");
        if !uid.is_empty() && uid != meta(old, "uid") {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta(old, "uid")
            );
            return Err(Fault::conflict(call.about(), name, &why));
        }
        Ok(())
    }

    fn check_update(
        &self,
        call: &Call<'_>,
        object: &Value,
        old: &Value,
        own: Vec<Problem>,
    ) -> Result<(), Fault> {
        let kind = call.kind;
        let mut problems = validate::metadata(object, kind.resource.namespaced, |_| None);
        problems.extend(validate::metadata_update(object, old));
        problems.extend(validate::object(
            kind.resource.gv.group.as_str(),
            kind.name(),
            object,
            Some(old),
        ));
        if (kind.group(), kind.resource.plural) == ("", "pods") {
            problems.extend(validate::below::pod(call.subresource, object, old));
        }
        problems.extend(own);
        if definitions::is_definition(kind) {
            problems.extend(definitions::judge_bundle(object, old));
        }
        refuse(kind, meta(old, "name"), &problems)
    }

    /// Stores a changed object, unless nothing changed, or nothing keeps it from being gone.
    pub(crate) async fn replace(
        &self,
        call: &Call<'_>,
        kv: &Kv,
        mut object: Value,
        old: &Value,
    ) -> Result<Option<Written>, Fault> {
        let kind = call.kind;
        let gone = is_deleting(&object)
            && finalizers(&object).is_empty()
            && !has_spec_finalizers(kind, &object)
            && object
                .pointer("/metadata/deletionGracePeriodSeconds")
                .and_then(Value::as_i64)
                .unwrap_or(0)
                == 0;
        let reserved = self.services.reserve(kind, &mut object, Some(old))?;
        let object = kind.ordered_hub(object);
        if object == *old && !gone {
            let object = self.read_stored(kind, object).await?;
            return Ok(Some(Written { object, created: false }));
        }
        let charges = match admission::quota::charges(self, call, &object, Some(old)).await {
            Ok(charges) => charges,
            Err(f) => {
                reserved.release(&self.services);
                return Err(f);
            }
        };
        if call.query.dry_run {
            reserved.release(&self.services);
            let object = self.read_stored(kind, object).await?;
            return Ok(Some(Written { object, created: false }));
        }
        let value = stored::encode(&object);
        check_size(&value)?;
        let key = Bytes::copy_from_slice(kv.key());
        let op = if gone {
            Op::Delete(Delete::new(KeyRange::key(key.clone())))
        } else {
            Op::Put(Put { lease: kv.lease(), ..Put::new(key.clone(), value) })
        };
        let mut txn = Txn {
            when: vec![Compare::unchanged(key, kv.mod_revision())],
            then: vec![op],
            otherwise: Vec::new(),
        };
        let left = (!gone).then_some(&object);
        txn.then.extend(addresses::ops(self, kind, Some(old), left));
        if !gone {
            charges.join(&mut txn);
        }
        let reply = self.store.txn(txn).await.map_err(|e| fault(&e))?;
        if !reply.succeeded {
            reserved.release(&self.services);
            return Ok(None);
        }
        if gone || !matches!(reply.replies.first(), Some(OpReply::Put(_))) {
            self.services.forget(kind, &object);
        } else {
            self.services.drop_replaced(kind, old, &object);
        }
        let object = self.shown(kind, object, reply.revision).await?;
        Ok(Some(Written { object, created: false }))
    }

    /// An object as a client sees it after it was stored.
    async fn shown(&self, kind: &Kind, mut object: Value, at: Revision) -> Result<Value, Fault> {
        set_meta(&mut object, "resourceVersion", at.to_string());
        self.read_stored(kind, kind.ordered_hub(object)).await
    }
}

/// Judges a custom resource by its schema, in the version of the request.
fn judge_custom(call: &Call<'_>, object: &Value, old: Option<&Value>) -> Vec<Problem> {
    let Some(custom) = &call.kind.custom else { return Vec::new() };
    let status = call.subresource == Some("status");
    let mut problems = match old {
        Some(old) if status => custom.schema.validate_status(object, old),
        old => custom.schema.validate(object, old),
    };
    problems.extend(custom.scale.iter().flat_map(|s| s.judge(object, status)));
    problems
}

/// Nothing new is made of a kind whose definition is going.
fn ending(call: &Call<'_>) -> Result<(), Fault> {
    if call.kind.custom.as_ref().is_some_and(|c| c.ending) {
        let mut f = Fault::method(call.about(), "create");
        f.message = "create not allowed while custom resource definition is terminating".to_owned();
        return Err(f);
    }
    Ok(())
}

/// Whether a namespace still has work to do before it goes.
pub fn has_spec_finalizers(kind: &Kind, object: &Value) -> bool {
    (kind.group(), kind.resource.plural) == ("", "namespaces")
        && object
            .pointer("/spec/finalizers")
            .and_then(Value::as_array)
            .is_some_and(|f| !f.is_empty())
}

/// Fills in defaults and restores normal form.
pub fn defaulted(ty: TypeId, object: &mut Value) {
    defaults::apply(ty, object);
    *object = ordered(ty, std::mem::take(object));
}

/// Restores normal form after changes in place.
pub fn ordered(ty: TypeId, object: Value) -> Value {
    // The value comes from one that was normal, so nothing can be wrong with it.
    normalize(ty, object, &mut Vec::new()).unwrap_or_default()
}

fn refuse(kind: &Kind, name: &str, problems: &[Problem]) -> Result<(), Fault> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Fault::invalid(kind.group(), kind.name(), name, problems))
    }
}

fn check_size(value: &Bytes) -> Result<(), Fault> {
    if value.len() > LARGEST {
        return Err(Fault::too_large("etcdserver: request is too large"));
    }
    Ok(())
}

/// The protobuf form of an object's message, for answers in that notation.
pub fn message(kind: &Kind, object: &Value) -> Vec<u8> {
    proto::encode(kind.ty(), object)
}

/// How the fields of a kind divide.
pub fn shape(kind: &Kind) -> Shape<'_> {
    kind.shape()
}
