//! What a kubelet would say of a pod, from the pod alone: nothing runs, so everything is well at once.

use crate::object::{meta, text};
use serde_json::{Value, json};

/// Where a pod is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Its node's address.
    pub(super) host: &'a str,
    /// Its own.
    pub(super) address: &'a str,
}

/// How a pod ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its containers did what they had to.
    Completed,
    /// It was not to run for longer.
    Deadline,
}

/// Whether a pod that runs has the status that it should.
pub(super) fn is_told(pod: &Value) -> bool {
    let seen = pod["status"]["observedGeneration"].as_i64();
    let ready = if missing_gate(pod).is_none() { "True" } else { "False" };
    seen == pod["metadata"]["generation"].as_i64() && condition(pod, "Ready")["status"] == ready
}

/// The status of a pod that runs; what ran before goes on, and what has another image now was restarted.
pub(super) fn running(pod: &Value, place: &Place<'_>, now: &str) -> Value {
    let begun = match text(pod, "/status/startTime") {
        "" => now,
        before => before,
    };
    let runs = json!({"running": {"startedAt": now}});
    let done = terminated(End::Completed, begun, now);
    let first = |c: &Value| if sidecar(c) { runs.clone() } else { done.clone() };
    let mut status = json!({"phase": "Running", "startTime": begun,
        "hostIP": place.host, "hostIPs": [{"ip": place.host}],
        "podIP": place.address, "podIPs": [{"ip": place.address}],
        "observedGeneration": pod["metadata"]["generation"],
        "conditions": conditions(pod, None, now),
        "initContainerStatuses": containers(pod, "initContainers", "initContainerStatuses", &first),
        "containerStatuses": containers(pod, "containers", "containerStatuses", &|_| runs.clone())});
    let more =
        containers(pod, "ephemeralContainers", "ephemeralContainerStatuses", &|_| runs.clone());
    if !more.is_empty() {
        status["ephemeralContainerStatuses"] = json!(more);
    }
    status
}

/// The status of a pod that has ended.
pub(super) fn ended(pod: &Value, how: End, now: &str) -> Value {
    let state = terminated(how, text(pod, "/status/startTime"), now);
    // These lists are replaced as a whole.
    let all = |field: &str| -> Vec<Value> {
        let mut list = pod["status"][field].as_array().cloned().unwrap_or_default();
        for c in list.iter_mut().filter(|c| c["state"].get("running").is_some()) {
            c["ready"] = json!(false);
            c["started"] = json!(false);
            c["state"] = state.clone();
        }
        list
    };
    let mut status = json!({"phase": "Succeeded", "conditions": conditions(pod, Some(how), now),
        "observedGeneration": pod["metadata"]["generation"],
        "initContainerStatuses": all("initContainerStatuses"),
        "containerStatuses": all("containerStatuses")});
    if how == End::Deadline {
        status["phase"] = json!("Failed");
        status["reason"] = json!("DeadlineExceeded");
        status["message"] = json!("Pod was active on the node longer than the specified deadline");
    }
    status
}

fn terminated(how: End, begun: &str, now: &str) -> Value {
    let (code, reason) = match how {
        End::Completed => (0, "Completed"),
        End::Deadline => (137, "Error"),
    };
    json!({"terminated": {"exitCode": code, "reason": reason, "startedAt": begun, "finishedAt": now}})
}

/// An init container that stays for as long as the pod.
fn sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let all = pod["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

/// Why a pod whose containers are ready is not: a gate that nobody has opened.
fn missing_gate(pod: &Value) -> Option<String> {
    let gates = pod["spec"]["readinessGates"].as_array().into_iter().flatten();
    gates.map(|g| text(g, "/conditionType")).find_map(|gate| {
        match condition(pod, gate)["status"].as_str() {
            Some("True") => None,
            Some(other) => Some(format!(
                "the status of pod readiness gate {gate:?} is not \"True\", but {other}"
            )),
            None => Some(format!(
                "corresponding condition of pod readiness gate {gate:?} does not exist."
            )),
        }
    })
}

fn conditions(pod: &Value, end: Option<End>, now: &str) -> Value {
    let over = end.is_some();
    let reason = end.map(|how| match how {
        End::Completed => "PodCompleted",
        End::Deadline => "PodFailed",
    });
    let gate = missing_gate(pod).filter(|_| !over);
    let one = |kind: &str, good: bool, reason: Option<&str>, message: Option<&str>| {
        let status = if good { "True" } else { "False" };
        let before = condition(pod, kind);
        let since =
            if before["status"] == status { &before["lastTransitionTime"] } else { &Value::Null };
        let since = since.as_str().unwrap_or(now);
        json!({"type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message,
            "observedGeneration": pod["metadata"]["generation"]})
    };
    let closed = gate.as_ref().map(|_| "ReadinessGatesNotReady");
    json!([
        one("PodReadyToStartContainers", !over, None, None),
        one("Initialized", true, reason.filter(|_| end == Some(End::Completed)), None),
        one("Ready", !over && gate.is_none(), reason.or(closed), gate.as_deref()),
        one("ContainersReady", !over, reason, None),
        one("PodScheduled", true, None, None),
    ])
}

/// The statuses of one list of containers. `state` is that of one that was not there before.
fn containers(pod: &Value, list: &str, field: &str, state: &dyn Fn(&Value) -> Value) -> Vec<Value> {
    let known = pod["status"][field].as_array().map_or(&[][..], Vec::as_slice);
    let list = pod["spec"][list].as_array().map_or(&[][..], Vec::as_slice);
    let one = |c: &Value| {
        let (name, image) = (text(c, "/name"), text(c, "/image"));
        let before = known.iter().find(|k| k["name"] == name);
        let runs = state(c);
        let other = before.is_some_and(|b| b["image"] != image) && runs.get("running").is_some();
        let restarts =
            before.map_or(0, |b| b["restartCount"].as_i64().unwrap_or(0)) + i64::from(other);
        let state = match before {
            Some(b) if !other => b["state"].clone(),
            _ => runs,
        };
        let ephemeral = field == "ephemeralContainerStatuses";
        let mut out = json!({"name": name, "image": image, "imageID": image,
            "containerID": format!("fake://{}-{name}-{restarts}", meta(pod, "uid")),
            "ready": !ephemeral, "restartCount": restarts, "state": state});
        if !ephemeral {
            out["started"] = json!(state.get("running").is_some());
        }
        if let Some(given) =
            c.get("resources").filter(|r| r.as_object().is_some_and(|m| !m.is_empty()))
        {
            out["resources"] = given.clone();
            if let Some(requests) = given.get("requests") {
                out["allocatedResources"] = requests.clone();
            }
        }
        out
    };
    list.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place { host: "10.64.0.1", address: "10.128.0.2" };

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"uid": "u", "generation": 1}, "spec": spec})
    }

    /// The pod with a status.
    fn told(pod: &Value, status: Value) -> Value {
        let mut out = pod.clone();
        out["status"] = status;
        out
    }

    #[test]
    fn a_gate_keeps_a_pod_from_being_ready() {
        let pod = pod(
            json!({"containers": [{"name": "c", "image": "i"}], "readinessGates": [{"conditionType": "g"}]}),
        );
        let mut waits = told(&pod, running(&pod, &PLACE, "1"));
        let ready = condition(&waits, "Ready");
        assert_eq!(
            (&ready["status"], &ready["reason"]),
            (&json!("False"), &json!("ReadinessGatesNotReady"))
        );
        assert!(is_told(&waits));
        let list = waits["status"]["conditions"].as_array_mut();
        list.into_iter().for_each(|l| l.push(json!({"type": "g", "status": "True"})));
        assert!(!is_told(&waits));
        let open = told(&pod, running(&waits, &PLACE, "2"));
        assert_eq!(condition(&open, "Ready")["status"], "True");
        let since = |kind: &str| condition(&open, kind)["lastTransitionTime"].clone();
        assert_eq!((since("Ready"), since("ContainersReady")), (json!("2"), json!("1")));
    }

    #[test]
    fn a_changed_pod_is_told_again() {
        let amounts = json!({"requests": {"cpu": "1"}});
        let mut pod = pod(
            json!({"containers": [{"name": "c", "image": "i", "resources": amounts}, {"name": "d", "image": "i"}]}),
        );
        let first = running(&pod, &PLACE, "1");
        assert_eq!(first["containerStatuses"][0]["allocatedResources"], amounts["requests"]);
        pod = told(&pod, first);
        pod["metadata"]["generation"] = json!(2);
        pod["spec"]["containers"][0]["image"] = json!("j");
        pod["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "k"}]);
        assert!(!is_told(&pod));
        let next = running(&pod, &PLACE, "2");
        let container = |n: usize| &next["containerStatuses"][n];
        assert_eq!(
            (&container(0)["restartCount"], &container(0)["image"]),
            (&json!(1), &json!("j"))
        );
        assert_eq!(container(0)["state"]["running"]["startedAt"], "2");
        assert_eq!(
            (&container(1)["restartCount"], &container(1)["state"]["running"]["startedAt"]),
            (&json!(0), &json!("1"))
        );
        assert_eq!(next["ephemeralContainerStatuses"][0]["name"], "e");
        assert!(is_told(&told(&pod, next.clone())));
        assert_eq!((&next["observedGeneration"], &next["startTime"]), (&json!(2), &json!("1")));
    }

    #[test]
    fn init_containers_end_and_sidecars_stay_until_the_end() {
        let pod = pod(json!({"containers": [{"name": "c", "image": "i"}],
            "initContainers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i", "restartPolicy": "Always"}]}));
        let pod = told(&pod, running(&pod, &PLACE, "1"));
        let state = |n: usize| &pod["status"]["initContainerStatuses"][n]["state"];
        assert_eq!(state(0)["terminated"]["reason"], "Completed");
        assert_eq!(state(1), &json!({"running": {"startedAt": "1"}}));
        let over = ended(&pod, End::Deadline, "3");
        assert_eq!(
            (&over["phase"], &over["reason"]),
            (&json!("Failed"), &json!("DeadlineExceeded"))
        );
        let reason = |n: usize| &over["initContainerStatuses"][n]["state"]["terminated"]["reason"];
        assert_eq!((reason(0), reason(1)), (&json!("Completed"), &json!("Error")));
        assert_eq!(over["containerStatuses"][0]["image"], "i");
        assert_eq!(over["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
    }
}
