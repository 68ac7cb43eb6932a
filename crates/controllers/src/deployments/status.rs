//! What a Deployment says of itself: how many pods there are, and how its rollout goes.

use super::{fenceposts, newest, replicas, store};
use crate::object::{meta, number, text};
use crate::pods;
use crate::run::{Context, Next};
use serde_json::{Value, json};
use std::time::Duration;
use wharf_client::Object;
use wharf_kube::status::Fault;
use wharf_kube::time;

/// Writes what there is into the status.
pub(super) async fn report(cx: &Context, d: &Value, sets: &[Object]) -> Result<Next, Fault> {
    let new = newest(d, sets);
    let sum = |field: &str| -> i64 {
        sets.iter().map(|s| number(s, &format!("/status/{field}")).unwrap_or(0)).sum()
    };
    let (all, ready, serving) = (sum("replicas"), sum("readyReplicas"), sum("availableReplicas"));
    let updated = new.map_or(0, |s| number(s, "/status/replicas").unwrap_or(0));
    let wanted: i64 = sets.iter().map(|s| replicas(s)).sum();
    let mut status = json!({"observedGeneration": d["metadata"]["generation"], "replicas": all,
        "updatedReplicas": updated, "readyReplicas": ready, "availableReplicas": serving,
        "unavailableReplicas": (wanted - serving).max(0), "terminatingReplicas": sum("terminatingReplicas")});
    if let Some(n) = d["status"].get("collisionCount") {
        status["collisionCount"] = n.clone();
    }
    let mut conditions = d["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let (now, (_, missing)) = (cx.timestamp(), fenceposts(d));
    let (word, reason, message) = if serving >= replicas(d) - missing {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    pods::set_condition(&mut conditions, "Available", word, reason, message, &now);
    match failure(new, sets) {
        Some(c) => {
            let (reason, message) = (text(&c, "/reason"), text(&c, "/message"));
            pods::set_condition(&mut conditions, "ReplicaFailure", "True", reason, message, &now);
        }
        None => conditions.retain(|c| c["type"] != "ReplicaFailure"),
    }
    let wait = progress(d, new, &status, &mut conditions, cx.now());
    status["conditions"] = Value::Array(conditions);
    store(cx, d, status).await?;
    Ok(wait)
}

/// What keeps a ReplicaSet from making pods: the new one, or if there is none yet any other.
fn failure(new: Option<&Object>, sets: &[Object]) -> Option<Value> {
    let of = |s: &Object| {
        let list = s["status"]["conditions"].as_array()?;
        list.iter().find(|c| c["type"] == "ReplicaFailure" && c["status"] == "True").cloned()
    };
    match new {
        Some(new) => of(new),
        None => sets.iter().find_map(of),
    }
}

/// Whether a rollout has moved since the last status.
fn has_moved(d: &Value, status: &Value) -> bool {
    let pair = |f: &str| {
        let of = |s: &Value| s[f].as_i64().unwrap_or(0);
        (of(status), of(&d["status"]))
    };
    let (all, updated) = (pair("replicas"), pair("updatedReplicas"));
    let more = |f: &str| pair(f).0 > pair(f).1;
    updated.0 > updated.1
        || all.0 - updated.0 < all.1 - updated.1
        || more("readyReplicas")
        || more("availableReplicas")
}

/// Says how a rollout goes; gives when to look whether it still goes.
fn progress(
    d: &Value,
    new: Option<&Object>,
    status: &Value,
    conditions: &mut Vec<Value>,
    now: i64,
) -> Next {
    const KIND: &str = "Progressing";
    let Some(limit) = number(d, "/spec/progressDeadlineSeconds") else {
        conditions.retain(|c| c["type"] != KIND);
        return Next::Change;
    };
    let stamp = time::format_seconds(now);
    let set = |list: &mut Vec<Value>, word: &str, reason: &str, message: &str| {
        pods::set_condition(list, KIND, word, reason, message, &stamp);
    };
    let old = conditions.iter().find(|c| c["type"] == KIND).cloned().unwrap_or_default();
    let why = text(&old, "/reason");
    if d["spec"]["paused"] == true {
        if why != "DeploymentPaused" {
            set(conditions, "Unknown", "DeploymentPaused", "Deployment is paused");
        }
        return Next::Change;
    }
    let after =
        |seconds: i64| Next::After(Duration::from_secs(u64::try_from(seconds.max(1)).unwrap_or(1)));
    if why == "DeploymentPaused" {
        // The time of a pause is none of the rollout's.
        set(conditions, "Unknown", "DeploymentResumed", "Deployment is resumed");
        return after(1);
    }
    let count = |f: &str| status[f].as_i64().unwrap_or(0);
    if count("replicas") == count("updatedReplicas") && why == "NewReplicaSetAvailable" {
        // A rollout that was complete is not begun again by pods that come and go.
        return Next::Change;
    }
    let name = new.map_or_else(|| meta(d, "name").to_owned(), |s| meta(s, "name").to_owned());
    let all = replicas(d);
    if ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|f| count(f) == all) {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        set(conditions, "True", "NewReplicaSetAvailable", &message);
        return Next::Change;
    }
    let since = time::parse_micros(text(&old, "/lastUpdateTime")).unwrap_or(0) / 1_000_000;
    if has_moved(d, status) {
        let message = format!("ReplicaSet \"{name}\" is progressing.");
        conditions.retain(|c| c["type"] != KIND || c["status"] == "True");
        set(conditions, "True", "ReplicaSetUpdated", &message);
        for c in conditions.iter_mut().filter(|c| c["type"] == KIND) {
            c["lastUpdateTime"] = json!(stamp);
        }
        return after(limit);
    }
    match why {
        "NewReplicaSetAvailable" | "ProgressDeadlineExceeded" | "" => Next::Change,
        _ if since + limit <= now => {
            let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
            set(conditions, "False", "ProgressDeadlineExceeded", &message);
            Next::Change
        }
        _ => after(since + limit - now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_says_how_it_goes() {
        let mut d = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2, "progressDeadlineSeconds": 60}});
        let status = |all: i64, updated: i64, ready: i64| json!({"replicas": all, "updatedReplicas": updated, "readyReplicas": ready, "availableReplicas": ready});
        let mut list = Vec::new();
        let mut tell = |d: &mut Value, s: Value, now: i64| {
            let next = progress(d, None, &s, &mut list, now);
            d["status"] = s;
            d["status"]["conditions"] = json!(list);
            let c = list.iter().find(|c| c["type"] == "Progressing").cloned().unwrap_or_default();
            (text(&c, "/status").to_owned() + text(&c, "/reason"), next)
        };
        let after = |s: u64| Next::After(Duration::from_secs(s));
        let moves = || "TrueReplicaSetUpdated".to_owned();
        assert_eq!(tell(&mut d, status(1, 1, 0), 100), (moves(), after(60)));
        assert_eq!(tell(&mut d, status(1, 1, 0), 130), (moves(), after(30)));
        assert_eq!(tell(&mut d, status(2, 2, 1), 150), (moves(), after(60)));
        let late = "FalseProgressDeadlineExceeded".to_owned();
        assert_eq!(tell(&mut d, status(2, 2, 1), 210), (late, Next::Change));
        let done = || "TrueNewReplicaSetAvailable".to_owned();
        assert_eq!(tell(&mut d, status(2, 2, 2), 220), (done(), Next::Change));
        assert_eq!(tell(&mut d, status(2, 2, 1), 230), (done(), Next::Change));
        d["spec"]["paused"] = json!(true);
        let paused = "UnknownDeploymentPaused".to_owned();
        assert_eq!(tell(&mut d, status(3, 1, 1), 240), (paused, Next::Change));
        d["spec"]["paused"] = json!(false);
        let resumed = || "UnknownDeploymentResumed".to_owned();
        assert_eq!(tell(&mut d, status(3, 1, 1), 1000), (resumed(), after(1)));
        assert_eq!(tell(&mut d, status(3, 1, 1), 1001), (resumed(), after(59)));
        assert_eq!(tell(&mut d, status(3, 2, 1), 1010), (moves(), after(60)));
    }
}
