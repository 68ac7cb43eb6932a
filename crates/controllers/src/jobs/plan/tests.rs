//! Plans for jobs, from what their pods are to what becomes of them.

use super::*;
use crate::jobs::{INDEX, MARK};
use crate::object::{finalizers, text};
use std::sync::Arc;
use std::time::Duration;
use wharf_client::Object;

const NOW: i64 = 1_800_000_000;

fn job(spec: Value, status: Value) -> Value {
    let mut spec = spec;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}});
    spec["template"] = template;
    json!({"metadata": {"name": "j", "namespace": "n", "uid": "j"}, "spec": spec, "status": status})
}

/// `1:ok` is a pod of index 1 that has succeeded; `-:run`, `bad`, `gone` (deleted while it ran), `freed` (has
/// succeeded and is let go); `bad/3` failed with that code, and `bad*2` after two failures of its index.
fn pods(list: &str, ago: i64) -> Vec<Object> {
    let pod = |(n, word): (usize, &str)| {
        let (index, state) = word.split_once(':').unwrap();
        let (state, tries) = state.split_once('*').unwrap_or((state, "0"));
        let (state, code) = state.split_once('/').unwrap_or((state, "1"));
        let phase = match state {
            "ok" | "freed" => "Succeeded",
            "bad" => "Failed",
            _ => "Running",
        };
        let mut p = json!({"metadata": {"name": format!("p{n}"), "namespace": "n", "uid": format!("p{n}"), "annotations": {}},
            "status": {"phase": phase}});
        if state != "freed" {
            p["metadata"]["finalizers"] = json!([MARK]);
        }
        if index != "-" {
            p["metadata"]["annotations"][INDEX] = json!(index);
            p["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] =
                json!(tries);
        }
        if state == "gone" {
            p["metadata"]["deletionTimestamp"] = json!(time::format_seconds(NOW - ago));
        }
        if phase != "Running" {
            let code: i64 = if phase == "Failed" { code.parse().unwrap() } else { 0 };
            let ended = json!({"exitCode": code, "finishedAt": time::format_seconds(NOW - ago)});
            p["status"]["containerStatuses"] =
                json!([{"name": "c", "state": {"terminated": ended}}]);
        }
        Arc::new(p)
    };
    list.split_whitespace().enumerate().map(pod).collect()
}

/// What is made (`+`, with its index), dropped (`-`), ended (`x`), let go (`o`), and what the status says.
fn shown(p: &Plan) -> String {
    let mut out = Vec::new();
    for c in &p.create {
        assert!(finalizers(c).any(|f| f == MARK));
        out.push(format!("+{}", c["metadata"]["annotations"][INDEX].as_str().unwrap_or_default()));
    }
    let names = |list: &[Object], c: char| {
        list.iter().map(|p| format!("{c}{}", meta(p, "name"))).collect::<Vec<_>>()
    };
    out.extend(names(&p.drop, '-'));
    out.extend(names(&p.end, 'x'));
    out.extend(names(&p.release, 'o'));
    let s = &p.status;
    for f in ["active", "succeeded", "failed"] {
        if let Some(n) = s.get(f) {
            out.push(format!("{f}={n}"));
        }
    }
    for c in s["conditions"].as_array().into_iter().flatten() {
        let not = if c["status"] == "True" { "" } else { "!" };
        out.push(format!("{not}{}:{}", text(c, "/type"), text(c, "/reason")));
    }
    out.join(" ")
}

#[track_caller]
fn check(spec: Value, status: Value, list: &str, expected: &str) {
    let plan = Plan::new(&job(spec, status), &pods(list, 1000), NOW);
    assert_eq!(shown(&plan), expected, "{list}");
}

#[test]
fn pods_are_made_until_enough_have_succeeded() {
    let three = || json!({"completions": 3, "parallelism": 2});
    check(three(), json!({}), "", "+ + active=2");
    check(three(), json!({}), "-:run -:ok", "+ op1 active=2");
    check(three(), json!({"succeeded": 2}), "-:run -:freed -:freed", "active=1 succeeded=2");
    check(
        three(),
        json!({"succeeded": 2}),
        "-:ok",
        "op0 succeeded=2 SuccessCriteriaMet:CompletionsReached",
    );
    let noted = json!({"succeeded": 2, "uncountedTerminatedPods": {"succeeded": ["p0"]},
        "conditions": [{"type": "SuccessCriteriaMet", "status": "True", "reason": "CompletionsReached"}]});
    check(
        three(),
        noted.clone(),
        "-:freed",
        "succeeded=3 SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached",
    );
    check(three(), noted, "-:ok", "op0 succeeded=2 SuccessCriteriaMet:CompletionsReached");
    // Without a number, one success is enough when the others have ended.
    check(json!({"parallelism": 2}), json!({}), "-:run -:ok", "op1 active=1");
    check(
        json!({"parallelism": 2}),
        json!({"succeeded": 1}),
        "",
        "succeeded=1 SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached",
    );
    check(
        json!({"completions": 0}),
        json!({}),
        "",
        "SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached",
    );
}

#[test]
fn too_many_failures_end_a_job() {
    let one = || json!({"completions": 2, "parallelism": 2, "backoffLimit": 1});
    check(one(), json!({}), "-:bad -:run", "+ op0 active=2");
    check(
        one(),
        json!({"failed": 1}),
        "-:bad -:run",
        "xp1 op0 op1 failed=1 FailureTarget:BackoffLimitExceeded",
    );
    let target = json!([{"type": "FailureTarget", "status": "True", "reason": "BackoffLimitExceeded", "message": "m"}]);
    let status = json!({"failed": 1, "uncountedTerminatedPods": {"failed": ["p0", "p1"]}, "conditions": target});
    check(
        one(),
        status,
        "",
        "failed=3 FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded",
    );
    // A pod that goes is waited for before the job is said to have failed.
    let status = json!({"failed": 2, "conditions": target});
    check(one(), status, "-:gone", "op0 failed=2 FailureTarget:BackoffLimitExceeded");
    check(one(), json!({}), "-:gone -:run", "+ op0 active=2");
    let mut patient = one();
    patient["podReplacementPolicy"] = json!("Failed");
    check(patient, json!({}), "-:gone -:run", "active=1");
}

#[test]
fn a_failed_pod_is_replaced_after_a_while() {
    let plan = |list: &str, ago: i64| {
        let job = job(json!({"completions": 9, "parallelism": 1}), json!({}));
        let p = Plan::new(&job, &pods(list, ago), NOW);
        (p.create.len(), p.wait)
    };
    assert_eq!(plan("-:bad", 4), (0, Next::After(Duration::from_secs(6))));
    assert_eq!(plan("-:bad", 10), (1, Next::Change));
    assert_eq!(plan("-:bad -:bad -:bad", 10), (0, Next::After(Duration::from_secs(30))));
    assert_eq!(plan("-:ok", 0), (1, Next::Change));
}

#[test]
fn a_job_has_so_many_pods_as_it_may() {
    let s = |n: i64| json!({"completions": 9, "parallelism": n});
    check(s(1), json!({}), "-:run -:run -:run", "-p0 -p1 active=1");
    check(s(0), json!({}), "-:run", "-p0");
    let mut suspended = s(2);
    suspended["suspend"] = json!(true);
    check(suspended, json!({}), "-:run -:run", "-p0 -p1 Suspended:JobSuspended");
    let was = json!({"startTime": "2020-01-01T00:00:00Z", "conditions": [{"type": "Suspended", "status": "True"}]});
    let plan = Plan::new(&job(s(1), was), &[], NOW);
    assert_eq!(shown(&plan), "+ active=1 !Suspended:JobResumed");
    assert_eq!(plan.status["startTime"], time::format_seconds(NOW));
    let mut timed = s(1);
    timed["activeDeadlineSeconds"] = json!(60);
    let status = |ago: i64| json!({"startTime": time::format_seconds(NOW - ago)});
    check(timed.clone(), status(61), "-:run", "xp0 op0 FailureTarget:DeadlineExceeded");
    let plan = Plan::new(&job(timed, status(20)), &pods("-:run", 0), NOW);
    assert_eq!(plan.wait, Next::After(Duration::from_secs(40)));
}

#[test]
fn indexes_are_worked_on_once_each() {
    let s = || json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3});
    check(s(), json!({}), "", "+0 +1 +2 active=3");
    check(s(), json!({}), "0:run 1:ok 2:run", "+3 op1 active=3 succeeded=1");
    check(
        s(),
        json!({"completedIndexes": "0-2", "succeeded": 3}),
        "3:ok 3:run 2:freed",
        "-p1 op0 op1 succeeded=4 SuccessCriteriaMet:CompletionsReached",
    );
    // Of two pods with one index, and of those with none, only one stays.
    check(s(), json!({}), "0:run 0:run 9:run 1:run", "-p2 -p0 active=2");
    let plan = Plan::new(&job(s(), json!({"completedIndexes": "0,2"})), &[], NOW);
    let pod = &plan.create[0];
    assert_eq!(text(pod, "/metadata/generateName"), "j-1-");
    assert_eq!(text(pod, "/spec/hostname"), "j-1");
    assert_eq!(text(pod, "/spec/containers/0/env/0/name"), "JOB_COMPLETION_INDEX");
    assert_eq!(plan.status["completedIndexes"], "0,2");
}

#[test]
fn each_index_may_fail_so_often() {
    let s = |most: Value| {
        let mut s = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3,
            "backoffLimitPerIndex": 1, "backoffLimit": 2_147_483_647});
        if !most.is_null() {
            s["maxFailedIndexes"] = most;
        }
        s
    };
    // The pod that knows of a failure stays until the next one does.
    check(s(Value::Null), json!({}), "0:bad 1:run 2:run", "+0 active=3");
    let plan = Plan::new(&job(s(Value::Null), json!({})), &pods("0:bad 1:run 2:run", 1000), NOW);
    assert_eq!(
        plan.create[0]["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"],
        "1"
    );
    check(s(Value::Null), json!({}), "0:bad 0:run*1 1:run 2:run", "op0 active=3");
    check(s(Value::Null), json!({}), "0:bad*1 1:run 2:run", "op0 active=2");
    let plan = Plan::new(&job(s(Value::Null), json!({})), &pods("0:bad*1 1:run 2:run", 1000), NOW);
    assert_eq!(plan.status["failedIndexes"], "0");
    check(
        s(json!(0)),
        json!({}),
        "0:bad*1 1:run 2:run",
        "xp1 xp2 op0 op1 op2 FailureTarget:MaxFailedIndexesExceeded",
    );
    check(
        s(Value::Null),
        json!({"failedIndexes": "0", "completedIndexes": "1"}),
        "2:ok",
        "op0 succeeded=2 FailureTarget:FailedIndexes Failed:FailedIndexes",
    );
}

#[test]
fn policies_say_what_a_failure_means() {
    let rules = json!([{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}}]);
    let s = || json!({"completions": 2, "parallelism": 2, "backoffLimit": 0, "podFailurePolicy": {"rules": rules}});
    check(s(), json!({}), "-:bad/7 -:run", "+ op0 active=2");
    check(s(), json!({}), "-:bad/42 -:run", "xp1 op0 op1 FailureTarget:PodFailurePolicy");
    check(s(), json!({}), "-:bad/1 -:run", "xp1 op0 op1 FailureTarget:BackoffLimitExceeded");
    let s = || json!({"completionMode": "Indexed", "completions": 4, "parallelism": 2, "successPolicy": {"rules": [{"succeededCount": 1}]}});
    check(s(), json!({}), "0:ok 1:run", "xp1 op0 op1 succeeded=1 SuccessCriteriaMet:SuccessPolicy");
}
