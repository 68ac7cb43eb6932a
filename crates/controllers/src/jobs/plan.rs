//! What is to be done for a job now: decided without asking anybody.

use super::view::{End, NOTED, View, completed, is_good, sooner};
use super::{indexes, is_held};
use crate::object::meta;
use crate::pods;
use crate::run::Next;
use serde_json::{Value, json};
use wharf_client::Object;
use wharf_kube::time;

/// Pods whose uids are noted at once.
const NOTED_MOST: usize = 500;

/// What is to be done for a job.
pub(super) struct Plan {
    /// Pods to make.
    pub(super) create: Vec<Value>,
    /// Pods to let go and delete: they do not count.
    pub(super) drop: Vec<Object>,
    /// Pods to delete because the job ends.
    pub(super) end: Vec<Object>,
    /// Pods to let go once the status is written.
    pub(super) release: Vec<Object>,
    /// The status, to be written if it is another.
    pub(super) status: Value,
    /// Events: whether it is a warning, reason, message.
    pub(super) news: Vec<(bool, String, String)>,
    /// When to look again.
    pub(super) wait: Next,
}

impl Plan {
    /// What is to be done for `job`, whose pods are `own`, at a time in seconds.
    pub(super) fn new(job: &Value, own: &[Object], now: i64) -> Plan {
        let view = View::new(job, own, now);
        let end = view.end();
        let mut plan = Plan {
            create: Vec::new(),
            drop: Vec::new(),
            end: Vec::new(),
            release: Vec::new(),
            status: Value::Null,
            news: Vec::new(),
            wait: Next::Change,
        };
        match &end {
            Some(_) => plan.end.clone_from(&view.active),
            None => view.manage(&mut plan),
        }
        // Enough have succeeded, and nothing runs any more.
        let left = view.active.len() - plan.end.len() - plan.drop.len() + plan.create.len();
        let end = end.or_else(|| (left == 0 && view.has_enough()).then(completed));
        plan.report(&view, end, left);
        plan.wait = sooner(plan.wait, view.deadline());
        plan
    }

    /// Fewer pods were made than planned.
    pub(super) fn correct(&mut self, fewer: usize) {
        if let Some(n) = self.status["active"].as_u64().filter(|_| fewer > 0) {
            self.status["active"] = json!(n.saturating_sub(u64::try_from(fewer).unwrap_or(n)));
            if self.status["active"] == 0
                && let Some(m) = self.status.as_object_mut()
            {
                m.shift_remove("active");
            }
        }
    }

    fn report(&mut self, view: &View<'_>, end: Option<End>, active: usize) {
        let failing = end.as_ref().is_some_and(|e| !e.good);
        let (mut counted, mut noted) = (view.counted, view.noted.clone());
        let mut failed_indexes = view.failed.clone();
        for pod in view.own.iter().filter(|p| is_held(p)) {
            if noted.iter().map(Vec::len).sum::<usize>() >= NOTED_MOST {
                break;
            }
            let uid = meta(pod, "uid");
            if view.is_noted(uid) {
                self.release.push(pod.clone());
                continue;
            }
            let (good, bad) = (is_good(pod), view.is_failed(pod));
            let delayed = view.delayed.values().any(|d| meta(d, "uid") == uid);
            if !(good || end.is_some() || (bad && !delayed)) {
                continue;
            }
            self.release.push(pod.clone());
            if good && !view.indexed {
                noted[0].push(uid.to_owned());
            } else if !good && (bad || failing) && view.counts(pod) {
                let fits = !view.indexed || view.index(pod).is_some();
                noted[1].extend(fits.then(|| uid.to_owned()));
            }
        }
        if view.indexed {
            counted[0] = view.done.len();
            failed_indexes.retain(|i| !view.done.contains(i));
        }
        let now = time::format_seconds(view.now);
        let mut status = view.job["status"].clone();
        if !status.is_object() {
            status = json!({});
        }
        let going = view.going.len() + self.end.len() + self.drop.len();
        let ready = |list: &[Object]| list.iter().filter(|p| pods::is_ready(p)).count();
        let ready = ready(&view.active) - ready(&self.end) - ready(&self.drop);
        let numbers = [("active", active), ("succeeded", counted[0]), ("failed", counted[1])];
        for (field, n) in numbers {
            set(&mut status, field, (n > 0).then(|| json!(n)));
        }
        set(&mut status, "ready", Some(json!(ready)));
        set(&mut status, "terminating", Some(json!(going)));
        let open = noted.iter().any(|l| !l.is_empty());
        let lists = NOTED.iter().zip(&noted).filter(|(_, l)| !l.is_empty());
        let lists = lists.map(|(f, l)| ((*f).to_owned(), json!(l)));
        set(&mut status, "uncountedTerminatedPods", Some(Value::Object(lists.collect())));
        if view.indexed {
            let done = indexes::write(&view.done);
            set(&mut status, "completedIndexes", (!done.is_empty()).then(|| json!(done)));
        }
        if view.per_index.is_some() {
            set(&mut status, "failedIndexes", Some(json!(indexes::write(&failed_indexes))));
        }
        if !view.suspended && status.get("startTime").is_none() {
            set(&mut status, "startTime", Some(json!(now)));
        }
        let mut list = status["conditions"].as_array().cloned().unwrap_or_default();
        self.suspension(view, end.is_some(), &mut list, &mut status, &now);
        if let Some(end) = end {
            let first = if end.good { "SuccessCriteriaMet" } else { "FailureTarget" };
            condition(&mut list, first, "True", &end.reason, &end.message, &now);
            if !open && going == 0 {
                self.finish(view, &end, counted[0], &mut list, &mut status);
            }
        }
        set(&mut status, "conditions", (!list.is_empty()).then_some(Value::Array(list)));
        self.status = status;
    }

    fn suspension(
        &mut self,
        view: &View<'_>,
        ends: bool,
        list: &mut Vec<Value>,
        status: &mut Value,
        now: &str,
    ) {
        let known = list.iter().any(|c| c["type"] == "Suspended");
        if ends || !(view.suspended || known) {
            return;
        }
        let (word, reason, event, message) = if view.suspended {
            ("True", "JobSuspended", "Suspended", "Job suspended")
        } else {
            ("False", "JobResumed", "Resumed", "Job resumed")
        };
        if condition(list, "Suspended", word, reason, message, now) {
            self.news.push((false, event.to_owned(), message.to_owned()));
            if !view.suspended {
                set(status, "startTime", Some(json!(now)));
            }
        }
    }

    fn finish(
        &mut self,
        view: &View<'_>,
        end: &End,
        succeeded: usize,
        list: &mut Vec<Value>,
        status: &mut Value,
    ) {
        let now = &time::format_seconds(view.now);
        let kind = if end.good { "Complete" } else { "Failed" };
        condition(list, kind, "True", &end.reason, &end.message, now);
        if !end.good {
            self.news.push((true, end.reason.clone(), end.message.clone()));
            return;
        }
        set(status, "completionTime", Some(json!(now)));
        self.news.push((false, "Completed".to_owned(), "Job completed".to_owned()));
        if view.completions.is_some_and(|n| i64::try_from(succeeded).unwrap_or(0) > n) {
            let why = "Too many succeeded pods running after completion count reached";
            self.news.push((true, "TooManySucceededPods".to_owned(), why.to_owned()));
        }
    }
}

fn set(status: &mut Value, field: &str, v: Option<Value>) {
    let Some(m) = status.as_object_mut() else { return };
    match v {
        Some(v) => _ = m.insert(field.to_owned(), v),
        None => _ = m.shift_remove(field),
    }
}

/// Sets a condition; says whether that was a change.
fn condition(
    list: &mut Vec<Value>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: &str,
) -> bool {
    if list.iter().any(|c| c["type"] == kind && c["status"] == status) {
        return false;
    }
    list.retain(|c| c["type"] != kind);
    list.push(json!({"type": kind, "status": status, "reason": reason, "message": message,
        "lastProbeTime": now, "lastTransitionTime": now}));
    true
}

#[cfg(test)]
mod tests;
