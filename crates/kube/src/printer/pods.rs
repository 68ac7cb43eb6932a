//! The cells of a pod: what its containers' states add up to.

use super::{list, or, since, text};
use serde_json::{Value, json};

/// The cell of an expression that is about pods.
pub(super) fn cell(expression: &str, o: &Value, now: i64) -> Option<Value> {
    Some(match expression {
        "@pod_ready" => {
            let restartable = restartable_inits(o);
            let total = list(o, "/spec/containers").len() + restartable.len();
            let main = list(o, "/status/containerStatuses").iter();
            let ready = main.filter(|s| s["ready"] == true).count()
                + list(o, "/status/initContainerStatuses")
                    .iter()
                    .filter(|s| restartable.contains(&text(s, "/name")) && s["ready"] == true)
                    .count();
            json!(format!("{ready}/{total}"))
        }
        "@pod_status" => json!(status(o)),
        "@pod_restarts" => json!(restarts(o, now)),
        "@pod_ip" => json!(or(text(o, "/status/podIP"), "<none>")),
        "@pod_gates" => json!(gates(o)),
        _ => return None,
    })
}

fn restartable_inits(o: &Value) -> Vec<&str> {
    let inits = list(o, "/spec/initContainers").iter();
    inits.filter(|c| c["restartPolicy"] == "Always").map(|c| text(c, "/name")).collect()
}

fn restarts(o: &Value, now: i64) -> String {
    let restartable = restartable_inits(o);
    let inits = list(o, "/status/initContainerStatuses")
        .iter()
        .filter(|s| restartable.contains(&text(s, "/name")));
    let (mut count, mut last) = (0, "");
    for s in list(o, "/status/containerStatuses").iter().chain(inits) {
        count += s["restartCount"].as_i64().unwrap_or(0);
        last = last.max(text(s, "/lastState/terminated/finishedAt"));
    }
    if count > 0 && !last.is_empty() {
        format!("{count} ({} ago)", since(last, now))
    } else {
        count.to_string()
    }
}

/// The one word for a pod's state, by the precedence that `kubectl get pods` has always had.
fn status(o: &Value) -> String {
    let mut reason = or(text(o, "/status/reason"), text(o, "/status/phase")).to_owned();
    for c in list(o, "/status/conditions") {
        if c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated" {
            reason = "SchedulingGated".to_owned();
        }
    }
    let mut initializing = false;
    let restartable = restartable_inits(o);
    for (i, s) in list(o, "/status/initContainerStatuses").iter().enumerate() {
        let terminated = s.pointer("/state/terminated");
        let sidecar = restartable.contains(&text(s, "/name"));
        if terminated.is_some_and(|t| t["exitCode"] == 0) || (sidecar && s["started"] == true) {
            continue;
        }
        reason = match (terminated, text(s, "/state/waiting/reason")) {
            (Some(t), _) => format!("Init:{}", ended(t)),
            (None, w) if !w.is_empty() && w != "PodInitializing" => format!("Init:{w}"),
            _ => format!("Init:{i}/{}", list(o, "/spec/initContainers").len()),
        };
        initializing = true;
        break;
    }
    if !initializing {
        reason = of_containers(o, reason);
    }
    if !text(o, "/metadata/deletionTimestamp").is_empty() {
        reason = match text(o, "/status/reason") {
            "NodeLost" => "Unknown".to_owned(),
            _ if matches!(text(o, "/status/phase"), "Succeeded" | "Failed") => reason,
            _ => "Terminating".to_owned(),
        };
    }
    reason
}

fn of_containers(o: &Value, mut reason: String) -> String {
    let mut running = false;
    for s in list(o, "/status/containerStatuses").iter().rev() {
        let waiting = text(s, "/state/waiting/reason");
        if !waiting.is_empty() {
            waiting.clone_into(&mut reason);
        } else if let Some(t) = s.pointer("/state/terminated") {
            reason = ended(t);
        } else if s["ready"] == true && s.pointer("/state/running").is_some() {
            running = true;
        }
    }
    if reason == "Completed" && running {
        let ready = list(o, "/status/conditions")
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
    reason
}

fn ended(t: &Value) -> String {
    match (text(t, "/reason"), t["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", t["exitCode"]),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn gates(o: &Value) -> String {
    let gates = list(o, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = gates.iter().filter(|g| {
        let mut conditions = list(o, "/status/conditions").iter();
        conditions.any(|c| c["type"] == g["conditionType"] && c["status"] == "True")
    });
    format!("{}/{}", met.count(), gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_says_how_a_pod_is() {
        for (o, word) in [
            (json!({"status": {"phase": "Pending"}}), "Pending"),
            (
                json!({"status": {"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}}),
                "CrashLoopBackOff",
            ),
            (
                json!({"status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}}),
                "ExitCode:3",
            ),
            (
                json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Running"}}),
                "Terminating",
            ),
            (
                json!({"spec": {"initContainers": [{}, {}]}, "status": {"phase": "Pending", "initContainerStatuses": [{"state": {"running": {}}}]}}),
                "Init:0/2",
            ),
        ] {
            assert_eq!(status(&o), word);
        }
    }
}
