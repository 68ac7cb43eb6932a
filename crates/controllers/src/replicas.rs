//! ReplicaSets and ReplicationControllers: as many pods as they say.

use crate::object::{is_deleting, meta, number};
use crate::pods;
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use wharf_client::resources::{PODS, REPLICA_SETS, REPLICATION_CONTROLLERS};
use wharf_client::{At, Change, Object, Resource, Write};
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;

/// The loop; its keys are ReplicaSets, or ReplicationControllers.
pub struct Replicas {
    resource: Resource,
    kind: &'static str,
}

impl Replicas {
    /// Of ReplicaSets.
    pub fn sets() -> Replicas {
        Replicas { resource: REPLICA_SETS, kind: "ReplicaSet" }
    }

    /// Of ReplicationControllers.
    pub fn controllers() -> Replicas {
        Replicas { resource: REPLICATION_CONTROLLERS, kind: "ReplicationController" }
    }

    fn selector(&self, owner: &Value) -> Option<Labels> {
        let selector = &owner["spec"]["selector"];
        if self.resource == REPLICA_SETS {
            return Labels::from_object(selector);
        }
        selector.as_object().map(Labels::from_map)
    }
}

impl Loop for Replicas {
    fn name(&self) -> &'static str {
        if self.resource == REPLICA_SETS {
            "replicaset-controller"
        } else {
            "replication-controller"
        }
    }

    fn workers(&self) -> usize {
        4
    }

    fn wake(&self, world: &World, change: &Change, before: &Before) -> Vec<Key> {
        if *change.resource == self.resource {
            return vec![Key::of(&change.object)];
        }
        if *change.resource != PODS {
            return Vec::new();
        }
        let mut keys = pods::managers(self.kind, &change.object, before.object.as_ref());
        if !change.gone {
            keys.extend(pods::takers(world, &self.resource, &change.object, |o| self.selector(o)));
        }
        keys
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let Some(owner) = cx.world.get(&self.resource, key) else { return Ok(Next::Change) };
            let Some(selector) = self.selector(&owner) else { return Ok(Next::Change) };
            let version = self.resource.api_version.as_ref();
            let reference = pods::reference(version, self.kind, &owner);
            let own = pods::claim(cx, &self.resource, &owner, &reference, &selector).await?;
            let active: Vec<Object> = own.iter().filter(|p| pods::is_active(p)).cloned().collect();
            let failure = if is_deleting(&owner) {
                Ok(())
            } else {
                self.balance(cx, &owner, reference, active).await
            };
            let now = cx.world.managed(&PODS, meta(&owner, "uid"));
            let wait = self.report(cx, key, &owner, &now, failure.as_ref().err()).await?;
            failure?;
            Ok(wait)
        })
    }
}

impl Replicas {
    async fn balance(
        &self,
        cx: &Context,
        owner: &Value,
        reference: Value,
        active: Vec<Object>,
    ) -> Result<(), Fault> {
        let wanted = usize::try_from(number(owner, "/spec/replicas").unwrap_or(1)).unwrap_or(0);
        let (ns, name) = (meta(owner, "namespace"), meta(owner, "name"));
        if active.len() < wanted {
            let mut pod = pods::from_template(&owner["spec"]["template"], ns, reference);
            pod["metadata"]["generateName"] = json!(format!("{name}-"));
            return pods::make(cx, owner, vec![pod; wanted - active.len()]).await.1;
        }
        let excess = active.len() - wanted;
        if excess > 0 {
            pods::remove(cx, owner, &pods::ranked(active, cx.now())[..excess]).await?;
        }
        Ok(())
    }

    /// Writes what there is into the status.
    async fn report(
        &self,
        cx: &Context,
        key: &Key,
        owner: &Value,
        own: &[Object],
        failure: Option<&Fault>,
    ) -> Result<Next, Fault> {
        let quiet = number(owner, "/spec/minReadySeconds").unwrap_or(0);
        let active: Vec<&Object> = own.iter().filter(|p| pods::is_active(p)).collect();
        let template = owner.pointer("/spec/template/metadata/labels").and_then(Value::as_object);
        let labelled = template.map(Labels::from_map).unwrap_or_default();
        let count = |f: &dyn Fn(&Object) -> bool| active.iter().filter(|p| f(p)).count();
        let ready = count(&|p| pods::is_ready(p));
        let available = count(&|p| pods::is_available(p, quiet, cx.now()));
        let going = own.iter().filter(|p| is_deleting(p) && !pods::is_finished(p)).count();
        let mut status = json!({"replicas": active.len(), "fullyLabeledReplicas": count(&|p| labelled.matches(pods::labels(p))),
            "readyReplicas": ready, "availableReplicas": available,
            "observedGeneration": owner["metadata"]["generation"]});
        if self.resource == REPLICA_SETS {
            status["terminatingReplicas"] = json!(going);
        }
        let mut conditions = owner["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let old = conditions.iter().position(|c| c["type"] == "ReplicaFailure");
        match (failure, old) {
            (None, Some(i)) => _ = conditions.remove(i),
            // The first failure stays until there is none.
            (Some(f), None) => conditions.push(json!({"type": "ReplicaFailure", "status": "True",
                "lastTransitionTime": cx.timestamp(), "reason": "FailedCreate", "message": f.message})),
            _ => {}
        }
        if !conditions.is_empty() {
            status["conditions"] = Value::Array(conditions);
        }
        if !same_numbers(&status, &owner["status"]) {
            let mut next = owner.clone();
            next["status"] = status;
            let at = At { resource: &self.resource, namespace: &key.namespace, name: &key.name };
            cx.write(at, Some("status"), Write::Replace(next)).await?;
        }
        Ok(pods::next_available(own, quiet, cx.now()))
    }
}

/// Whether two statuses say the same; a number that is not there is 0.
pub(crate) fn same_numbers(a: &Value, b: &Value) -> bool {
    let mut keys = [a, b].into_iter().filter_map(Value::as_object).flat_map(|m| m.keys());
    keys.all(|k| {
        let (x, y) = (&a[k], &b[k]);
        x == y
            || (x.as_i64().unwrap_or(0) == 0
                && y.as_i64().unwrap_or(0) == 0
                && !x.is_array()
                && !y.is_array()
                && !x.is_string()
                && !y.is_string())
    })
}
