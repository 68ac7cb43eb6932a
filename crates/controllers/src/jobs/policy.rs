//! What the failure of one pod means for its job, and what is enough for a job to succeed.

use super::indexes;
use crate::object::{meta, number, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// What a rule makes of a failed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts.
    Count,
    /// It does not count.
    Ignore,
    /// The job fails, with this message.
    FailJob(String),
    /// The pod's index fails.
    FailIndex,
}

/// What a job's policy makes of a pod that has failed.
pub(super) fn verdict(job: &Value, pod: &Value) -> Verdict {
    let rules = job["spec"]["podFailurePolicy"]["rules"].as_array().into_iter().flatten();
    for (i, rule) in rules.enumerate() {
        let Some(why) = cause(rule, pod) else { continue };
        return match text(rule, "/action") {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {i}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// What of a pod a rule is about; nothing where it is about nothing.
fn cause(rule: &Value, pod: &Value) -> Option<String> {
    let place = format!("{}/{}", meta(pod, "namespace"), meta(pod, "name"));
    if let Some(codes) = rule.get("onExitCodes").filter(|c| c.is_object()) {
        let lists = ["containerStatuses", "initContainerStatuses"];
        let all = lists.iter().filter_map(|l| pod["status"][*l].as_array()).flatten();
        let mut ended = all.filter_map(|c| {
            let code = c.pointer("/state/terminated/exitCode")?.as_i64()?;
            (code != 0).then_some((text(c, "/name"), code))
        });
        let values = codes["values"].as_array().map_or(&[][..], Vec::as_slice);
        let one = text(codes, "/containerName");
        let (name, code) = ended.find(|(name, code)| {
            let listed = values.iter().any(|v| v.as_i64() == Some(*code));
            (one.is_empty() || one == *name) && listed == (text(codes, "/operator") == "In")
        })?;
        return Some(format!("Container {name} for pod {place} failed with exit code {code}"));
    }
    let wanted = rule["onPodConditions"].as_array()?;
    let has = pod["status"]["conditions"].as_array()?;
    let same = |w: &Value, c: &Value| {
        let status = w["status"].as_str().unwrap_or("True");
        w["type"] == c["type"] && c["status"] == status
    };
    let found = has.iter().find(|c| wanted.iter().any(|w| same(w, c)))?;
    Some(format!("Pod {place} has condition {}", text(found, "/type")))
}

/// The message of the rule by which these indexes are enough.
pub(super) fn success(job: &Value, done: &BTreeSet<i64>) -> Option<String> {
    let rules = job["spec"]["successPolicy"]["rules"].as_array()?;
    let total = number(job, "/spec/completions").unwrap_or(0);
    let met = |rule: &Value| {
        let (has, all) = match rule["succeededIndexes"].as_str() {
            Some(list) => {
                let wanted = indexes::read(list, total);
                (wanted.intersection(done).count(), Some(wanted.len()))
            }
            None => (done.len(), None),
        };
        let least = number(rule, "/succeededCount").and_then(|n| usize::try_from(n).ok());
        least.or(all).is_some_and(|n| has >= n)
    };
    let i = rules.iter().position(met).filter(|_| !done.is_empty())?;
    Some(format!("Matched rules at index {i}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_rule_about_a_failed_pod_decides() {
        let rules = json!([
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [5, 6]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}},
            {"action": "Count", "onExitCodes": {"operator": "In", "values": [1]}},
        ]);
        let job = json!({"spec": {"podFailurePolicy": {"rules": rules}}});
        let pod = |name: &str, code: i64, conditions: Value| {
            json!({"metadata": {"namespace": "n", "name": "p"}, "status": {"conditions": conditions,
                "containerStatuses": [{"name": name, "state": {"terminated": {"exitCode": code}}}]}})
        };
        let none = || json!([]);
        let why =
            "Container main for pod n/p failed with exit code 6 matching FailJob rule at index 0";
        assert_eq!(verdict(&job, &pod("main", 6, none())), Verdict::FailJob(why.to_owned()));
        assert_eq!(verdict(&job, &pod("other", 6, none())), Verdict::FailIndex);
        assert_eq!(verdict(&job, &pod("main", 2, none())), Verdict::Count);
        let evicted = json!([{"type": "DisruptionTarget", "status": "True"}]);
        assert_eq!(verdict(&job, &pod("main", 137, evicted.clone())), Verdict::Ignore);
        assert_eq!(
            verdict(&job, &pod("main", 5, evicted)),
            Verdict::FailJob(why.replace('6', "5"))
        );
        assert_eq!(verdict(&json!({"spec": {}}), &pod("main", 5, none())), Verdict::Count);
    }

    #[test]
    fn success_is_what_a_rule_says() {
        let job =
            |rules: Value| json!({"spec": {"completions": 10, "successPolicy": {"rules": rules}}});
        let done = BTreeSet::from([0, 2, 3]);
        let check = |rules: Value| success(&job(rules), &done);
        let met = |i: usize| Some(format!("Matched rules at index {i}"));
        assert_eq!(check(json!([{"succeededIndexes": "0,2"}])), met(0));
        assert_eq!(check(json!([{"succeededIndexes": "0-3"}, {"succeededCount": 3}])), met(1));
        assert_eq!(check(json!([{"succeededIndexes": "0-3", "succeededCount": 2}])), met(0));
        assert_eq!(check(json!([{"succeededIndexes": "4-9", "succeededCount": 1}])), None);
        assert_eq!(success(&json!({"spec": {}}), &done), None);
    }
}
