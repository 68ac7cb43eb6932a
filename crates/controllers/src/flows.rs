//! Flow schemas say whether the priority level that they lead to is there.

use crate::object::text;
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use wharf_client::resources::{FLOWS, LEVELS};
use wharf_client::{At, Change, Write};
use wharf_kube::status::Fault;

/// The loop; its keys are flow schemas.
pub struct Flows;

impl Loop for Flows {
    fn name(&self) -> &'static str {
        "flow-schemas"
    }

    fn user(&self) -> String {
        // The reference server does this itself.
        "system:apiserver".to_owned()
    }

    fn wake(&self, world: &World, change: &Change, before: &Before) -> Vec<Key> {
        match &*change.resource {
            r if *r == FLOWS && !change.gone => vec![Key::of(&change.object)],
            r if *r == LEVELS && (change.gone || before.node.is_none()) => {
                world.all(&FLOWS).iter().map(|f| Key::of(f)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let Some(flow) = cx.world.get(&FLOWS, key) else { return Ok(Next::Change) };
            let level = text(&flow, "/spec/priorityLevelConfiguration/name");
            let there = cx.world.get(&LEVELS, &Key::new("", level)).is_some();
            let (status, reason, fate) = match there {
                true => ("False", "Found", "it exists"),
                false => ("True", "NotFound", "there is no such object"),
            };
            let old = flow["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
            if old.iter().any(|c| c["type"] == "Dangling" && c["status"] == status) {
                return Ok(Next::Change);
            }
            let message = format!(
                "This FlowSchema references the PriorityLevelConfiguration object named \"{level}\" and {fate}"
            );
            let mut all: Vec<Value> =
                old.iter().filter(|c| c["type"] != "Dangling").cloned().collect();
            all.push(
                json!({"type": "Dangling", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": cx.timestamp()}),
            );
            let mut next = (*flow).clone();
            next["status"]["conditions"] = Value::Array(all);
            let at = At { resource: &FLOWS, namespace: "", name: &key.name };
            cx.write(at, Some("status"), Write::Replace(next)).await?;
            Ok(Next::Change)
        })
    }
}
