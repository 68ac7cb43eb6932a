//! Events: what the loops tell people about objects.

use serde_json::{Value, json};
use std::collections::HashMap;
use wharf_base::sync::Mutex;
use wharf_client::{At, Cluster, Resource, Write};

use crate::object::meta;

const EVENTS: Resource = Resource::new("v1", "events");
/// How many different events are remembered, so that the same again is counted and not stored anew.
const REMEMBERED: usize = 4096;

/// Events about one object that are stored at once; after them, one more each five minutes (as the reference
/// server's clients do it).
const BURST: i64 = 25;
const REFILL: i64 = 300;

/// Stores the events of one loop.
pub(crate) struct Recorder {
    component: &'static str,
    /// What was stored about an object, by its uid: how many too many, and when the last one was.
    spent: Mutex<HashMap<String, (i64, i64)>>,
    /// The names and counts of events by what they say.
    known: Mutex<HashMap<String, (String, i64)>>,
}

impl Recorder {
    pub(crate) fn new(component: &'static str) -> Recorder {
        Recorder { component, spent: Mutex::default(), known: Mutex::default() }
    }

    /// Whether an object may have one more event now.
    fn spend(&self, uid: &str, now: i64) -> bool {
        let mut spent = self.spent.lock();
        if spent.len() >= REMEMBERED {
            spent.clear();
        }
        let (used, since) = spent.entry(uid.to_owned()).or_insert((0, now));
        let back = (now - *since) / REFILL;
        *used = (*used - back).max(0);
        *since += back * REFILL;
        let may = *used < BURST;
        *used += i64::from(may);
        may
    }

    /// Stores an event, or counts one that was stored before.
    pub(crate) async fn record(
        &self,
        cluster: &dyn Cluster,
        about: &Value,
        warning: bool,
        reason: &str,
        message: &str,
    ) {
        let namespace =
            Some(meta(about, "namespace")).filter(|ns| !ns.is_empty()).unwrap_or("default");
        if !self.spend(meta(about, "uid"), cluster.now()) {
            return;
        }
        let now = wharf_kube::time::format_seconds(cluster.now());
        let message: String = message.chars().take(1024).collect();
        let same = [meta(about, "uid"), reason, &message].join("\u{0}");
        let before = self.known.lock().get(&same).cloned();
        if let Some((name, count)) = before {
            let at = At { resource: &EVENTS, namespace, name: &name };
            let again = json!({"count": count + 1, "lastTimestamp": now});
            if cluster.write(at, None, Write::Merge(again)).await.is_ok() {
                self.known.lock().insert(same, (name, count + 1));
                return;
            }
            // It has expired.
        }
        let event = json!({"apiVersion": "v1", "kind": "Event",
            "metadata": {"generateName": format!("{}.", meta(about, "name")), "namespace": namespace},
            "involvedObject": {"kind": about["kind"], "namespace": about["metadata"]["namespace"],
                "name": meta(about, "name"), "uid": meta(about, "uid"), "apiVersion": about["apiVersion"],
                "resourceVersion": meta(about, "resourceVersion")},
            "reason": reason, "message": message, "source": {"component": self.component},
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
            "type": if warning { "Warning" } else { "Normal" },
            "reportingComponent": self.component, "reportingInstance": ""});
        match cluster.create(&EVENTS, namespace, event).await {
            Ok(made) => {
                let mut known = self.known.lock();
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(same, (meta(&made, "name").to_owned(), 1));
            }
            Err(error) => tracing::debug!(%error, reason, "an event was lost"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_so_many_events_at_once_and_then_few() {
        let r = Recorder::new("test");
        assert_eq!((0..40).filter(|_| r.spend("a", 1000)).count(), 25);
        assert!(r.spend("b", 1000));
        assert!(!r.spend("a", 1299) && r.spend("a", 1300) && !r.spend("a", 1301));
        assert_eq!((0..40).filter(|_| r.spend("a", 100_000)).count(), 25);
    }
}
