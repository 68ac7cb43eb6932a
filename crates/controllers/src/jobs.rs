//! Jobs: pods until enough of them have succeeded, or too many have failed.

use crate::object::{finalizers, is_deleting, meta, number, text};
use crate::pods;
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use wharf_client::resources::{JOBS, PODS};
use wharf_client::{At, Change, Object, Write};
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;
use wharf_kube::time;

const MARK: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Seconds until a failed pod is replaced: doubled each time, from and up to here.
const FIRST_PAUSE: i64 = 10;
const LONGEST_PAUSE: i64 = 600;

/// The loop; its keys are Jobs.
pub struct Jobs;

impl Loop for Jobs {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn workers(&self) -> usize {
        4
    }

    fn wake(&self, _: &World, change: &Change, before: &Before) -> Vec<Key> {
        match &*change.resource {
            r if *r == JOBS => vec![Key::of(&change.object)],
            r if *r == PODS => pods::managers("Job", &change.object, before.object.as_ref()),
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let Some(job) = cx.world.get(&JOBS, key) else { return Ok(Next::Change) };
            let own = cx.world.managed(&PODS, meta(&job, "uid"));
            // Pods of a job that is going, or has ended, are held no longer.
            if is_deleting(&job) || ended(&job) {
                release(cx, &own).await?;
                return Ok(Next::Change);
            }
            if job["spec"].get("managedBy").is_some_and(|m| m != "kubernetes.io/job-controller") {
                return Ok(Next::Change);
            }
            let selector = Labels::from_object(&job["spec"]["selector"]).unwrap_or_default();
            let reference = pods::reference("batch/v1", "Job", &job);
            let own = pods::claim(cx, &job, &reference, &selector).await?;
            work(cx, key, &job, own).await
        })
    }
}

fn ended(job: &Value) -> bool {
    let list = job.pointer("/status/conditions").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .any(|c| c["status"] == "True" && matches!(text(c, "/type"), "Complete" | "Failed"))
}

/// What a job has come to. A pod that has ended is noted in the status before it is let go, and counted
/// when it is, so that it is counted once whatever happens in between.
#[derive(Default)]
struct Count {
    /// All of them, with those that are noted only.
    succeeded: usize,
    failed: usize,
    /// Those that are counted: succeeded and failed.
    counted: [usize; 2],
    /// The uids of those that are noted.
    noted: [Vec<String>; 2],
    /// The indexes that are done.
    done: BTreeSet<i64>,
}

const NOTED: [&str; 2] = ["succeeded", "failed"];

impl Count {
    fn of(job: &Value, own: &[Object]) -> Count {
        let mut c = Count::default();
        let held = |p: &Object| finalizers(p).any(|f| f == MARK);
        let good = |p: &Object| text(p, "/status/phase") == "Succeeded";
        for (i, field) in NOTED.iter().enumerate() {
            let before = number(job, &format!("/status/{field}")).unwrap_or(0);
            c.counted[i] = usize::try_from(before).unwrap_or(0);
            let list =
                job["status"]["uncountedTerminatedPods"][*field].as_array().into_iter().flatten();
            for uid in list.filter_map(Value::as_str) {
                if own.iter().any(|p| meta(p, "uid") == uid && held(p)) {
                    c.noted[i].push(uid.to_owned());
                } else {
                    c.counted[i] += 1;
                }
            }
        }
        let over = |p: &&Object| held(p) && (pods::is_finished(p) || is_deleting(p));
        for pod in own.iter().filter(over) {
            let (i, uid) = (usize::from(!good(pod)), meta(pod, "uid"));
            if !c.noted.iter().flatten().any(|u| u == uid) {
                c.noted[i].push(uid.to_owned());
            }
        }
        let before = read_ranges(text(job, "/status/completedIndexes"));
        c.done = own.iter().filter(|p| good(p)).filter_map(|p| index(p)).chain(before).collect();
        c.succeeded = c.counted[0] + c.noted[0].len();
        c.failed = c.counted[1] + c.noted[1].len();
        if job["spec"]["completionMode"] == "Indexed" {
            c.succeeded = c.done.len();
            c.counted[0] = c.done.len();
        }
        c
    }

    fn notes(&self, pod: &Object) -> bool {
        self.noted.iter().flatten().any(|u| u == meta(pod, "uid"))
    }
}

/// Why a job ends now: condition, reason, message.
type End = (&'static str, &'static str, String);

async fn work(cx: &Context, key: &Key, job: &Value, own: Vec<Object>) -> Result<Next, Fault> {
    let indexed = job["spec"]["completionMode"] == "Indexed";
    let active: Vec<Object> = own.iter().filter(|p| pods::is_active(p)).cloned().collect();
    let going = own.iter().filter(|p| is_deleting(p) && !pods::is_finished(p)).count();
    let count = Count::of(job, &own);
    let now = cx.now();
    let end = judge(job, &count, &active, now);
    let suspended = job["spec"]["suspend"] == true;
    let mut left = active.len();
    if end.is_some() || suspended {
        drop_pods(cx, &active).await?;
        left = 0;
    }
    let mut wait = Next::Change;
    if end.is_none() && !suspended {
        let (more, pause) = missing(job, &count, &active, going, &own, now);
        wait = pause;
        if more > 0 {
            let list = new_pods(job, more, indexed, &count.done, &active);
            let (made, outcome) = pods::make(cx, &key.namespace, list).await;
            outcome?;
            left += made;
        } else if active.len() > parallelism(job) {
            drop_pods(cx, &active[parallelism(job)..]).await?;
            left = parallelism(job);
        }
    }
    report(cx, key, job, &count, (left, going, suspended), (end.as_ref(), &active)).await?;
    let noted: Vec<Object> = own.into_iter().filter(|p| end.is_some() || count.notes(p)).collect();
    release(cx, &noted).await?;
    Ok(deadline(job, now, wait))
}

/// Deletes pods that are not to be counted.
async fn drop_pods(cx: &Context, list: &[Object]) -> Result<(), Fault> {
    release(cx, list).await?;
    pods::remove(cx, list).await
}

fn index(pod: &Value) -> Option<i64> {
    pod["metadata"]["annotations"][INDEX].as_str()?.parse().ok()
}

fn parallelism(job: &Value) -> usize {
    usize::try_from(number(job, "/spec/parallelism").unwrap_or(1)).unwrap_or(0)
}

/// Whether a job has ended, and how.
fn judge(job: &Value, count: &Count, active: &[Object], now: i64) -> Option<End> {
    let limit =
        usize::try_from(number(job, "/spec/backoffLimit").unwrap_or(6)).unwrap_or(usize::MAX);
    let restarts: i64 = active.iter().map(|p| restarts(p)).sum();
    let onfailure = text(job, "/spec/template/spec/restartPolicy") == "OnFailure";
    if count.failed > limit
        || (onfailure && limit > 0 && usize::try_from(restarts).unwrap_or(0) >= limit)
    {
        return Some((
            "Failed",
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit".to_owned(),
        ));
    }
    let begun = time::parse_micros(text(job, "/status/startTime")).map(|t| t / 1_000_000);
    if let (Some(begun), Some(most)) = (begun, number(job, "/spec/activeDeadlineSeconds"))
        && job["spec"]["suspend"] != true
        && now - begun >= most
    {
        return Some((
            "Failed",
            "DeadlineExceeded",
            "Job was active longer than specified deadline".to_owned(),
        ));
    }
    let complete = match number(job, "/spec/completions") {
        Some(n) => count.succeeded >= usize::try_from(n).unwrap_or(0),
        None => count.succeeded > 0 && active.is_empty(),
    };
    let message = "Reached expected number of succeeded pods".to_owned();
    complete.then_some(("Complete", "CompletionsReached", message))
}

fn restarts(pod: &Value) -> i64 {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let all = lists.iter().filter_map(|l| pod["status"][*l].as_array()).flatten();
    all.filter_map(|c| c["restartCount"].as_i64()).sum()
}

/// How many pods are to be made now, and when to look again if some must wait.
fn missing(
    job: &Value,
    count: &Count,
    active: &[Object],
    going: usize,
    own: &[Object],
    now: i64,
) -> (usize, Next) {
    let most = parallelism(job);
    let wanted = match number(job, "/spec/completions") {
        Some(n) => usize::try_from(n).unwrap_or(0).saturating_sub(count.succeeded).min(most),
        None if count.succeeded > 0 => active.len(),
        None => most,
    };
    let waits = job["spec"]["podReplacementPolicy"] == "Failed";
    let there = active.len() + if waits { going } else { 0 };
    if wanted <= there {
        return (0, Next::Change);
    }
    let ends =
        own.iter().filter(|p| text(p, "/status/phase") == "Failed").filter_map(|p| ended_at(p));
    let last = ends.max();
    let exponent = u32::try_from(count.failed.saturating_sub(1).min(10)).unwrap_or(0);
    let pause = (FIRST_PAUSE << exponent).min(LONGEST_PAUSE);
    match last.map(|t| t + pause - now).filter(|left| *left > 0 && count.failed > 0) {
        Some(left) => (0, Next::After(Duration::from_secs(left.unsigned_abs()))),
        None => (wanted - there, Next::Change),
    }
}

fn ended_at(pod: &Value) -> Option<i64> {
    let all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let ends = all.filter_map(|c| time::parse_micros(text(c, "/state/terminated/finishedAt")));
    let condition = pod["status"]["conditions"].as_array().into_iter().flatten();
    let changed = condition.filter_map(|c| time::parse_micros(text(c, "/lastTransitionTime")));
    ends.max()
        .or_else(|| changed.max())
        .or_else(|| time::parse_micros(meta(pod, "creationTimestamp")))
        .map(|t| t / 1_000_000)
}

fn new_pods(
    job: &Value,
    more: usize,
    indexed: bool,
    done: &BTreeSet<i64>,
    active: &[Object],
) -> Vec<Value> {
    let (ns, name) = (meta(job, "namespace"), meta(job, "name"));
    let mut pod =
        pods::from_template(&job["spec"]["template"], ns, pods::reference("batch/v1", "Job", job));
    let mut marks: Vec<Value> =
        pod["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    marks.push(json!(MARK));
    pod["metadata"]["finalizers"] = Value::Array(marks);
    if !indexed {
        pod["metadata"]["generateName"] = json!(format!("{name}-"));
        return vec![pod; more];
    }
    let busy: BTreeSet<i64> = active.iter().filter_map(|p| index(p)).collect();
    let all = 0..number(job, "/spec/completions").unwrap_or(0);
    let free = all.filter(|i| !done.contains(i) && !busy.contains(i)).take(more);
    free.map(|i| with_index(pod.clone(), name, i)).collect()
}

/// Tells a pod which of the job's indexes it works on.
fn with_index(mut pod: Value, name: &str, i: i64) -> Value {
    for field in ["annotations", "labels"] {
        if !pod["metadata"][field].is_object() {
            pod["metadata"][field] = json!({});
        }
        pod["metadata"][field][INDEX] = json!(i.to_string());
    }
    pod["metadata"]["generateName"] = json!(format!("{name}-{i}-"));
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

/// Lets go of pods that have ended: what became of them is in the status.
async fn release(cx: &Context, own: &[Object]) -> Result<(), Fault> {
    for pod in own.iter().filter(|p| finalizers(p).any(|f| f == MARK)) {
        let rest: Vec<&str> = finalizers(pod).filter(|f| *f != MARK).collect();
        let at = At { resource: &PODS, namespace: meta(pod, "namespace"), name: meta(pod, "name") };
        let patch = json!({"metadata": {"uid": meta(pod, "uid"), "finalizers": rest}});
        match cx.write(at, None, Write::Merge(patch)).await {
            Err(f) if f.code != 404 => return Err(f),
            _ => {}
        }
    }
    Ok(())
}

/// Writes what there is into the status.
async fn report(
    cx: &Context,
    key: &Key,
    job: &Value,
    count: &Count,
    (active, going, suspended): (usize, usize, bool),
    (end, pods_now): (Option<&End>, &[Object]),
) -> Result<(), Fault> {
    let now = cx.timestamp();
    let mut status = job["status"].clone();
    let Some(m) = status.as_object_mut() else { return Ok(()) };
    let ready = if active == 0 { 0 } else { pods_now.iter().filter(|p| pods::is_ready(p)).count() };
    // At the end everything is counted, because nothing is any more afterwards.
    let [good, bad] = if end.is_some() { [count.succeeded, count.failed] } else { count.counted };
    let numbers = [("active", active), ("succeeded", good), ("failed", bad)];
    for (field, n) in numbers {
        if n > 0 {
            m.insert(field.to_owned(), json!(n));
        } else {
            m.shift_remove(field);
        }
    }
    m.insert("ready".to_owned(), json!(ready));
    m.insert("terminating".to_owned(), json!(going));
    let mut noted = json!({});
    for (field, uids) in
        NOTED.iter().zip(&count.noted).filter(|(_, u)| end.is_none() && !u.is_empty())
    {
        noted[*field] = json!(uids);
    }
    m.insert("uncountedTerminatedPods".to_owned(), noted);
    if job["spec"]["completionMode"] == "Indexed" && !count.done.is_empty() {
        m.insert("completedIndexes".to_owned(), json!(write_ranges(&count.done)));
    }
    if suspended {
        m.shift_remove("startTime");
    } else if !m.contains_key("startTime") {
        m.insert("startTime".to_owned(), json!(now));
    }
    let mut conditions = m.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let was_suspended = conditions.iter().any(|c| c["type"] == "Suspended");
    if suspended {
        condition(&mut conditions, "Suspended", "True", "JobSuspended", "Job suspended", &now);
    } else if was_suspended {
        condition(&mut conditions, "Suspended", "False", "JobResumed", "Job resumed", &now);
    }
    if let Some((kind, reason, message)) = end {
        let interim = if *kind == "Complete" { "SuccessCriteriaMet" } else { "FailureTarget" };
        condition(&mut conditions, interim, "True", reason, message, &now);
        condition(&mut conditions, kind, "True", reason, message, &now);
        if *kind == "Complete" {
            m.insert("completionTime".to_owned(), json!(now));
        }
    }
    if !conditions.is_empty() {
        m.insert("conditions".to_owned(), Value::Array(conditions));
    }
    if status == job["status"] {
        return Ok(());
    }
    let mut next = job.clone();
    next["status"] = status;
    let at = At { resource: &JOBS, namespace: &key.namespace, name: &key.name };
    cx.write(at, Some("status"), Write::Replace(next)).await.map(drop)
}

fn condition(
    list: &mut Vec<Value>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: &str,
) {
    if list.iter().any(|c| c["type"] == kind && c["status"] == status) {
        return;
    }
    list.retain(|c| c["type"] != kind);
    list.push(json!({"type": kind, "status": status, "reason": reason, "message": message,
        "lastProbeTime": now, "lastTransitionTime": now}));
}

/// When to look again, if a deadline comes before anything changes.
fn deadline(job: &Value, now: i64, wait: Next) -> Next {
    let begun = time::parse_micros(text(job, "/status/startTime")).map_or(now, |t| t / 1_000_000);
    let Some(most) = number(job, "/spec/activeDeadlineSeconds") else { return wait };
    let left = Duration::from_secs(u64::try_from((begun + most - now).max(1)).unwrap_or(1));
    match wait {
        Next::After(time) => Next::After(time.min(left)),
        Next::Change => Next::After(left),
    }
}

/// `0,2-4` from indexes.
fn write_ranges(done: &BTreeSet<i64>) -> String {
    let mut parts: Vec<(i64, i64)> = Vec::new();
    for i in done {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *i => *last = *i,
            _ => parts.push((*i, *i)),
        }
    }
    let text = |(a, b): &(i64, i64)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

fn read_ranges(text: &str) -> Vec<i64> {
    let part = |p: &str| -> Option<std::ops::RangeInclusive<i64>> {
        let (a, b) = p.split_once('-').unwrap_or((p, p));
        Some(a.parse().ok()?..=b.parse().ok()?)
    };
    text.split(',').filter_map(part).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_as_ranges() {
        let done = BTreeSet::from([0, 2, 3, 4, 9]);
        assert_eq!(write_ranges(&done), "0,2-4,9");
        assert_eq!(read_ranges("0,2-4,9"), [0, 2, 3, 4, 9]);
        assert!(read_ranges("").is_empty());
    }

    #[test]
    fn a_job_ends_when_it_has_what_it_wants_or_has_failed_enough() {
        let job = json!({"spec": {"completions": 3, "parallelism": 2, "backoffLimit": 1, "template": {}}});
        let count = |succeeded, failed| Count { succeeded, failed, ..Count::default() };
        assert!(judge(&job, &count(2, 1), &[], 0).is_none());
        assert_eq!(judge(&job, &count(3, 1), &[], 0).unwrap().1, "CompletionsReached");
        assert_eq!(judge(&job, &count(2, 2), &[], 0).unwrap().1, "BackoffLimitExceeded");
        assert_eq!(missing(&job, &count(2, 0), &[], 0, &[], 0).0, 1);
        assert_eq!(missing(&job, &count(0, 0), &[], 0, &[], 0).0, 2);
    }
}
