//! A job and its pods as of a moment, and what follows from them.

use super::plan::Plan;
use super::policy::{self, Verdict};
use super::{INDEX, MARK, indexes, is_held};
use crate::object::{is_deleting, meta, number, text};
use crate::pods;
use crate::run::Next;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use wharf_client::Object;
use wharf_kube::time;

/// How often an index has failed, as its pods carry it: failures that count, and others.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Seconds until a failed pod is replaced: doubled each time, from and up to here.
const FIRST_PAUSE: i64 = 10;
const LONGEST_PAUSE: i64 = 600;
/// The lists of a status that note pods.
pub(super) const NOTED: [&str; 2] = ["succeeded", "failed"];

/// Why a job ends.
pub(super) struct End {
    pub(super) good: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

pub(super) fn completed() -> End {
    let message = "Reached expected number of succeeded pods".to_owned();
    End { good: true, reason: "CompletionsReached".to_owned(), message }
}

/// A job and its pods as of now.
pub(super) struct View<'a> {
    pub(super) job: &'a Value,
    pub(super) own: &'a [Object],
    pub(super) now: i64,
    pub(super) indexed: bool,
    pub(super) suspended: bool,
    /// Whether a pod is replaced only when it has ended, not as soon as it is deleted.
    pub(super) patient: bool,
    pub(super) per_index: Option<i64>,
    pub(super) completions: Option<i64>,
    pub(super) active: Vec<Object>,
    /// Pods that are being deleted and have not ended.
    pub(super) going: Vec<Object>,
    /// What is counted: succeeded and failed.
    pub(super) counted: [usize; 2],
    /// The uids of what is noted only.
    pub(super) noted: [Vec<String>; 2],
    /// All that succeeded and failed, noted or not.
    pub(super) succeeded: usize,
    pub(super) failures: usize,
    /// Indexes that have succeeded, and that have failed too often.
    pub(super) done: BTreeSet<i64>,
    pub(super) failed: BTreeSet<i64>,
    /// The failed pods that are kept because they know how often their index has failed.
    pub(super) delayed: BTreeMap<i64, Object>,
}

impl<'a> View<'a> {
    pub(super) fn new(job: &'a Value, own: &'a [Object], now: i64) -> View<'a> {
        let spec = &job["spec"];
        let going = |p: &&Object| is_deleting(p) && !pods::is_finished(p);
        let mut v = View {
            job,
            own,
            now,
            indexed: spec["completionMode"] == "Indexed",
            suspended: spec["suspend"] == true,
            patient: spec["podReplacementPolicy"] == "Failed"
                || spec["podFailurePolicy"].is_object(),
            per_index: number(job, "/spec/backoffLimitPerIndex"),
            completions: number(job, "/spec/completions"),
            active: own.iter().filter(|p| pods::is_active(p)).cloned().collect(),
            going: own.iter().filter(going).cloned().collect(),
            counted: [0; 2],
            noted: Default::default(),
            succeeded: 0,
            failures: 0,
            done: BTreeSet::new(),
            failed: BTreeSet::new(),
            delayed: BTreeMap::new(),
        };
        v.count();
        if v.indexed {
            v.sort_indexes();
        }
        v
    }

    fn count(&mut self) {
        for (i, field) in NOTED.iter().enumerate() {
            let before = number(self.job, &format!("/status/{field}")).unwrap_or(0);
            self.counted[i] = usize::try_from(before).unwrap_or(0);
            let list = self.job["status"]["uncountedTerminatedPods"][*field].as_array();
            for uid in list.into_iter().flatten().filter_map(Value::as_str) {
                if self.own.iter().any(|p| meta(p, "uid") == uid && is_held(p)) {
                    self.noted[i].push(uid.to_owned());
                } else {
                    self.counted[i] += 1;
                }
            }
        }
        let fresh = |p: &&Object| is_held(p) && !self.is_noted(meta(p, "uid"));
        let good = self.own.iter().filter(|p| fresh(p) && is_good(p)).count();
        let bad = |p: &&Object| fresh(p) && self.is_failed(p) && self.counts(p);
        let bad = self.own.iter().filter(bad).count();
        self.succeeded = self.counted[0] + self.noted[0].len() + good;
        self.failures = self.counted[1] + self.noted[1].len() + bad;
    }

    fn sort_indexes(&mut self) {
        let end = self.completions.unwrap_or(0);
        self.done = indexes::read(text(self.job, "/status/completedIndexes"), end);
        let held = self.own.iter().filter(|p| is_held(p));
        let good: Vec<i64> =
            held.clone().filter(|p| is_good(p)).filter_map(|p| self.index(p)).collect();
        self.done.extend(good);
        self.succeeded = self.done.len();
        let Some(limit) = self.per_index else { return };
        self.failed = indexes::read(text(self.job, "/status/failedIndexes"), end);
        let hopeless = |p: &&Object| {
            self.is_failed(p)
                && match policy::verdict(self.job, p) {
                    Verdict::FailIndex => true,
                    Verdict::Ignore => false,
                    _ => note(p, FAILURES) >= limit,
                }
        };
        let bad: Vec<i64> = held.clone().filter(hopeless).filter_map(|p| self.index(p)).collect();
        self.failed.extend(bad);
        let busy: BTreeSet<i64> = self.active.iter().filter_map(|p| self.index(p)).collect();
        let bad: Vec<&Object> =
            held.filter(|p| self.is_failed(p) && !self.is_noted(meta(p, "uid"))).collect();
        for pod in bad {
            let Some(i) = self.index(pod) else { continue };
            if self.done.contains(&i) || self.failed.contains(&i) || busy.contains(&i) {
                continue;
            }
            let more = |d: &Object| tries(d) <= tries(pod);
            if self.delayed.get(&i).is_none_or(more) {
                self.delayed.insert(i, pod.clone());
            }
        }
    }

    pub(super) fn is_noted(&self, uid: &str) -> bool {
        self.noted.iter().flatten().any(|u| u == uid)
    }

    /// Whether a pod has failed; one that is deleted before it ends has, unless that is waited for.
    pub(super) fn is_failed(&self, pod: &Value) -> bool {
        match text(pod, "/status/phase") {
            "Failed" => true,
            "Succeeded" => false,
            _ => is_deleting(pod) && !self.patient,
        }
    }

    /// Whether a failure counts.
    pub(super) fn counts(&self, pod: &Value) -> bool {
        policy::verdict(self.job, pod) != Verdict::Ignore
    }

    pub(super) fn index(&self, pod: &Value) -> Option<i64> {
        let i: i64 = pod["metadata"]["annotations"][INDEX].as_str()?.parse().ok()?;
        (0..self.completions.unwrap_or(0)).contains(&i).then_some(i)
    }

    /// Whether the job ends, and why.
    pub(super) fn end(&self) -> Option<End> {
        let bad = |reason: &str, message: &str| {
            Some(End { good: false, reason: reason.to_owned(), message: message.to_owned() })
        };
        for (kind, good) in [("SuccessCriteriaMet", true), ("FailureTarget", false)] {
            let list = self.job["status"]["conditions"].as_array().into_iter().flatten();
            let mut list = list.filter(|c| c["type"] == kind && c["status"] == "True");
            if let Some(c) = list.next() {
                let (reason, message) = (text(c, "/reason"), text(c, "/message"));
                return Some(End { good, reason: reason.to_owned(), message: message.to_owned() });
            }
        }
        let failed = self.own.iter().filter(|p| self.is_failed(p));
        let fatal = failed.map(|p| policy::verdict(self.job, p)).find_map(|v| match v {
            Verdict::FailJob(why) => Some(why),
            _ => None,
        });
        if let Some(why) = fatal {
            return bad("PodFailurePolicy", &why);
        }
        if self.has_failed_too_often() {
            return bad("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.time_left().is_some_and(|left| left <= 0) {
            return bad("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        let (failed, done) = (self.failed.len(), self.done.len());
        let most = number(self.job, "/spec/maxFailedIndexes").and_then(|n| usize::try_from(n).ok());
        if most.is_some_and(|n| failed > n) {
            let why = "Job has exceeded the specified maximal number of failed indexes";
            return bad("MaxFailedIndexesExceeded", why);
        }
        let all = self.completions.and_then(|n| usize::try_from(n).ok());
        if failed > 0 && all.is_some_and(|n| failed + done >= n) {
            return bad("FailedIndexes", "Job has failed indexes");
        }
        let message = policy::success(self.job, &self.done).filter(|_| self.indexed)?;
        Some(End { good: true, reason: "SuccessPolicy".to_owned(), message })
    }

    fn has_failed_too_often(&self) -> bool {
        let limit = number(self.job, "/spec/backoffLimit").unwrap_or(6);
        if i64::try_from(self.failures).unwrap_or(i64::MAX) > limit {
            return true;
        }
        if text(self.job, "/spec/template/spec/restartPolicy") != "OnFailure" {
            return false;
        }
        let alive = |p: &&Object| matches!(text(p, "/status/phase"), "Running" | "Pending");
        let restarts: i64 = self.own.iter().filter(alive).map(|p| restarts(p)).sum();
        restarts >= limit.max(1)
    }

    /// Seconds until the deadline, where there is one.
    fn time_left(&self) -> Option<i64> {
        let most = number(self.job, "/spec/activeDeadlineSeconds").filter(|_| !self.suspended)?;
        let begun = time::parse_micros(text(self.job, "/status/startTime"));
        Some(begun.map_or(self.now, |t| t / 1_000_000) + most - self.now)
    }

    pub(super) fn deadline(&self) -> Next {
        self.time_left().map_or(Next::Change, after)
    }

    pub(super) fn has_enough(&self) -> bool {
        match self.completions {
            Some(n) => i64::try_from(self.succeeded).unwrap_or(0) >= n,
            None => self.succeeded > 0,
        }
    }

    /// Makes or deletes pods so that as many work as should.
    pub(super) fn manage(&self, plan: &mut Plan) {
        let most = usize::try_from(number(self.job, "/spec/parallelism").unwrap_or(1)).unwrap_or(0);
        let wanted = match self.completions {
            _ if self.suspended => 0,
            Some(n) => usize::try_from(n).unwrap_or(0).saturating_sub(self.succeeded).min(most),
            None if self.succeeded > 0 => self.active.len(),
            None => most,
        };
        plan.drop = self.excess(self.active.len().saturating_sub(wanted));
        if !plan.drop.is_empty() || self.suspended {
            return;
        }
        let waits = if self.patient { self.going.len() } else { 0 };
        let missing = wanted.saturating_sub(waits + self.active.len()).min(pods::BURST);
        if missing == 0 {
            return;
        }
        if self.per_index.is_none() {
            let left = self.pause();
            if left > 0 {
                plan.wait = after(left);
                return;
            }
        }
        if !self.indexed {
            let mut pod = self.pod();
            pod["metadata"]["generateName"] = json!(format!("{}-", meta(self.job, "name")));
            plan.create = vec![pod; missing];
            return;
        }
        for i in self.free().into_iter().take(missing) {
            let before = self.delayed.get(&i);
            let left = before.map_or(0, |p| self.pause_after(tries(p) + 1, ended_at(p)));
            if left > 0 {
                plan.wait = sooner(plan.wait, after(left));
            } else {
                plan.create.push(self.numbered(i, before));
            }
        }
    }

    /// Active pods that are to go: at least so many, and those whose index another has or that is none.
    fn excess(&self, least: usize) -> Vec<Object> {
        let mut rest = pods::ranked(self.active.clone(), self.now);
        let mut out = Vec::new();
        if self.indexed {
            let mut seen = BTreeSet::new();
            // The one that would be given up last stays.
            let (keep, twice): (Vec<_>, Vec<_>) =
                rest.into_iter().rev().partition(|p| self.index(p).is_some_and(|i| seen.insert(i)));
            out = twice;
            rest = keep.into_iter().rev().collect();
        }
        let more = least.saturating_sub(out.len()).min(rest.len());
        out.extend(rest.drain(..more));
        out
    }

    /// Indexes that nobody works on, has done or has given up.
    fn free(&self) -> Vec<i64> {
        let going = self.going.iter().filter(|_| self.patient);
        let busy: BTreeSet<i64> =
            self.active.iter().chain(going).filter_map(|p| self.index(p)).collect();
        let open =
            |i: &i64| !busy.contains(i) && !self.done.contains(i) && !self.failed.contains(i);
        (0..self.completions.unwrap_or(0)).filter(open).collect()
    }

    /// Seconds until the next pod may be made: longer with each failure since the last success.
    fn pause(&self) -> i64 {
        let ended = |good: bool| {
            let all =
                self.own.iter().filter(move |p| if good { is_good(p) } else { self.is_failed(p) });
            all.filter_map(|p| ended_at(p)).collect::<Vec<i64>>()
        };
        let success = ended(true).into_iter().max().unwrap_or(i64::MIN);
        let since: Vec<i64> = ended(false).into_iter().filter(|t| *t > success).collect();
        let count = i64::try_from(since.len()).unwrap_or(i64::MAX);
        self.pause_after(count, since.into_iter().max())
    }

    fn pause_after(&self, failures: i64, last: Option<i64>) -> i64 {
        let Some(last) = last.filter(|_| failures > 0) else { return 0 };
        let pause = (FIRST_PAUSE << (failures - 1).min(10)).min(LONGEST_PAUSE);
        (last + pause - self.now).max(0)
    }

    fn pod(&self) -> Value {
        let reference = pods::reference("batch/v1", "Job", self.job);
        let (template, ns) = (&self.job["spec"]["template"], meta(self.job, "namespace"));
        let mut pod = pods::from_template(template, ns, reference);
        let mut marks = pod["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        marks.push(json!(MARK));
        pod["metadata"]["finalizers"] = Value::Array(marks);
        pod
    }

    /// A pod that knows on which of the job's indexes it works, and how often that has failed.
    fn numbered(&self, i: i64, before: Option<&Object>) -> Value {
        let name = meta(self.job, "name");
        let mut pod = self.pod();
        pod["metadata"]["annotations"][INDEX] = json!(i.to_string());
        pod["metadata"]["labels"][INDEX] = json!(i.to_string());
        if self.per_index.is_some() {
            let counts = before.is_some_and(|p| self.counts(p));
            let of = |what: &str, more: bool| before.map_or(0, |p| note(p, what)) + i64::from(more);
            pod["metadata"]["annotations"][FAILURES] = json!(of(FAILURES, counts).to_string());
            let ignored = of(IGNORED, before.is_some() && !counts);
            if ignored > 0 {
                pod["metadata"]["annotations"][IGNORED] = json!(ignored.to_string());
            }
        }
        // A generated name has room for so much before its last five characters.
        let end = format!("-{i}-");
        let stem = name.get(..name.len().min(58 - end.len().min(58))).unwrap_or(name);
        pod["metadata"]["generateName"] = json!(format!("{stem}{end}"));
        pod["spec"]["hostname"] = json!(format!("{name}-{i}"));
        let field = format!("metadata.annotations['{INDEX}']");
        let env = json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": field}}});
        for list in ["initContainers", "containers"] {
            for c in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                let mut all = c["env"].as_array().cloned().unwrap_or_default();
                if !all.iter().any(|e| e["name"] == env["name"]) {
                    all.push(env.clone());
                    c["env"] = Value::Array(all);
                }
            }
        }
        pod
    }
}

/// A number among a pod's annotations.
fn note(pod: &Value, name: &str) -> i64 {
    pod["metadata"]["annotations"][name].as_str().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// How often a pod's index had failed before it, counted or not.
fn tries(pod: &Value) -> i64 {
    note(pod, FAILURES).saturating_add(note(pod, IGNORED)).clamp(0, 1 << 30)
}

fn restarts(pod: &Value) -> i64 {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let all = lists.iter().filter_map(|l| pod["status"][*l].as_array()).flatten();
    all.filter_map(|c| c["restartCount"].as_i64()).sum()
}

/// When a pod ended, in seconds: as its containers say, or its condition, or when it was to be gone.
fn ended_at(pod: &Value) -> Option<i64> {
    let all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let ends = all.filter_map(|c| time::parse_micros(text(c, "/state/terminated/finishedAt")));
    let list = pod["status"]["conditions"].as_array().into_iter().flatten();
    let changed = list
        .filter(|c| c["type"] == "Ready" && c["status"] == "False")
        .filter_map(|c| time::parse_micros(text(c, "/lastTransitionTime")));
    ends.max()
        .or_else(|| changed.max())
        .or_else(|| time::parse_micros(meta(pod, "deletionTimestamp")))
        .or_else(|| time::parse_micros(meta(pod, "creationTimestamp")))
        .map(|t| t / 1_000_000)
}

pub(super) fn sooner(a: Next, b: Next) -> Next {
    match (a, b) {
        (Next::After(a), Next::After(b)) => Next::After(a.min(b)),
        (Next::Change, other) | (other, Next::Change) => other,
    }
}

fn after(seconds: i64) -> Next {
    Next::After(Duration::from_secs(u64::try_from(seconds.max(1)).unwrap_or(1)))
}

pub(super) fn is_good(pod: &Value) -> bool {
    text(pod, "/status/phase") == "Succeeded"
}
