//! CronJobs: a Job each time that their schedule says.

use crate::jobs::outcome;
use crate::object::{is_deleting, meta, number, text};
use crate::pods::reference;
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use std::time::Duration;
use wharf_client::resources::{CRON_JOBS, JOBS};
use wharf_client::{At, Change, Deletion, Object, Propagation, Write};
use wharf_kube::cron::{self, Schedule};
use wharf_kube::status::Fault;
use wharf_kube::time;

/// More missed times than this are worth a warning.
const MANY: i64 = 100;

/// The loop; its keys are CronJobs.
pub struct CronJobs;

impl Loop for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn wake(&self, _: &World, change: &Change, before: &Before) -> Vec<Key> {
        match &*change.resource {
            r if *r == CRON_JOBS && !change.gone => vec![Key::of(&change.object)],
            r if *r == JOBS => {
                crate::pods::managers("CronJob", &change.object, before.object.as_ref())
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let cron = cx.world.get(&CRON_JOBS, key).filter(|c| !is_deleting(c));
            let Some(cron) = cron else { return Ok(Next::Change) };
            let jobs = cx.world.managed(&JOBS, meta(&cron, "uid"));
            trim(cx, &cron, &jobs).await?;
            let (started, wait) = match timetable(&cron) {
                Ok(table) => begin(cx, key, &cron, &jobs, &table).await?,
                Err((reason, message)) => {
                    cx.tell(&cron, true, reason, &message).await;
                    (None, Next::Change)
                }
            };
            report(cx, key, &cron, &jobs, started).await?;
            Ok(wait)
        })
    }
}

/// A schedule and where it is read.
struct Timetable {
    schedule: Schedule,
    zone: TimeZone,
}

/// What a CronJob goes by, or the reason and message of a warning.
fn timetable(cron: &Value) -> Result<Timetable, (&'static str, String)> {
    let name = text(cron, "/spec/timeZone");
    let zone = cron::zone(name).ok_or_else(|| {
        ("UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}"))
    })?;
    let source = text(cron, "/spec/schedule");
    match Schedule::parse(source) {
        Ok(schedule) => Ok(Timetable { schedule, zone }),
        Err(why) => {
            Err(("UnparseableSchedule", format!("unparseable schedule: {source:?} : {why}")))
        }
    }
}

fn is_active(job: &Value) -> bool {
    outcome(job).is_none() && !is_deleting(job)
}

/// Deletes the oldest jobs beyond the history's limits.
async fn trim(cx: &Context, cron: &Value, jobs: &[Object]) -> Result<(), Fault> {
    for (kind, field, usual) in
        [("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)]
    {
        let limit = number(cron, &format!("/spec/{field}")).unwrap_or(usual);
        let ended = jobs.iter().filter(|j| outcome(j) == Some(kind) && !is_deleting(j));
        let mut old: Vec<&Object> = ended.collect();
        old.sort_by_key(|j| (text(j, "/status/startTime").to_owned(), meta(j, "name").to_owned()));
        let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for job in &old[..excess] {
            remove(cx, cron, job).await?;
        }
    }
    Ok(())
}

async fn remove(cx: &Context, cron: &Value, job: &Value) -> Result<(), Fault> {
    let at = At { resource: &JOBS, namespace: meta(job, "namespace"), name: meta(job, "name") };
    let uid = Some(meta(job, "uid").to_owned());
    let how = Deletion { uid, propagation: Some(Propagation::Background), ..Deletion::default() };
    cx.delete(at, how).await?;
    cx.tell(cron, false, "SuccessfulDelete", &format!("Deleted job {}", meta(job, "name"))).await;
    Ok(())
}

fn seconds(t: &str) -> Option<i64> {
    time::parse_micros(t).map(|t| t.div_euclid(1_000_000))
}

/// What the clock says about a CronJob.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    /// The last time that has come and was not used; nothing if there is none.
    at: Option<i64>,
    /// How many have come, about.
    missed: i64,
    /// The next one after now.
    next: Option<i64>,
}

fn due(cron: &Value, table: &Timetable, now: i64) -> Due {
    let last = seconds(text(cron, "/status/lastScheduleTime"));
    let since = last.or_else(|| seconds(meta(cron, "creationTimestamp"))).unwrap_or(now);
    let deadline = number(cron, "/spec/startingDeadlineSeconds");
    let earliest = deadline.map_or(since, |d| since.max(now.saturating_sub(d)));
    let (s, zone) = (&table.schedule, &table.zone);
    let at = match s {
        // An interval is counted from the time before, whatever the deadline is.
        Schedule::Every(_) => {
            s.last(since, now, zone).filter(|t| *t > earliest || deadline.is_none())
        }
        Schedule::Minutes(_) => s.last(earliest, now, zone),
    };
    let next = match s {
        Schedule::Every(_) => s.next(s.last(since, now, zone).unwrap_or(since), zone),
        Schedule::Minutes(_) => s.next(now, zone),
    };
    Due { at, missed: s.times(earliest, now, zone), next }
}

/// Starts the job whose time has come; gives that time, and when to look again.
async fn begin(
    cx: &Context,
    key: &Key,
    cron: &Value,
    jobs: &[Object],
    table: &Timetable,
) -> Result<(Option<i64>, Next), Fault> {
    if cron["spec"]["suspend"] == true {
        return Ok((None, Next::Change));
    }
    let now = cx.now();
    let due = due(cron, table, now);
    let wait = match due.next {
        Some(t) => Next::After(Duration::from_secs(u64::try_from((t - now).max(1)).unwrap_or(1))),
        None => Next::Change,
    };
    let Some(at) = due.at else { return Ok((None, wait)) };
    if due.missed > MANY {
        let why = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        cx.tell(cron, true, "TooManyMissedTimes", why).await;
    }
    let active: Vec<&Object> = jobs.iter().filter(|j| is_active(j)).collect();
    match text(cron, "/spec/concurrencyPolicy") {
        "Forbid" if !active.is_empty() => {
            let why = "Not starting job because prior execution is running and concurrency policy is Forbid";
            cx.tell(cron, false, "JobAlreadyActive", why).await;
            return Ok((None, wait));
        }
        "Replace" => {
            for job in &active {
                remove(cx, cron, job).await?;
            }
        }
        _ => {}
    }
    let job = job(cron, key, at, &table.zone);
    match cx.create(&JOBS, &key.namespace, job).await {
        Ok(made) => {
            let told = format!("Created job {}", meta(&made, "name"));
            cx.tell(cron, false, "SuccessfulCreate", &told).await;
            Ok((Some(at), wait))
        }
        // It was started before this process was.
        Err(f) if f.reason == "AlreadyExists" => Ok((Some(at), wait)),
        Err(f) => {
            cx.tell(cron, true, "FailedCreate", &format!("Error creating job: {f}")).await;
            Err(f)
        }
    }
}

/// The job of a time.
fn job(cron: &Value, key: &Key, at: i64, zone: &TimeZone) -> Value {
    let template = &cron["spec"]["jobTemplate"];
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": format!("{}-{}", key.name, at / 60), "namespace": key.namespace,
            "labels": template["metadata"]["labels"], "annotations": template["metadata"]["annotations"],
            "ownerReferences": [reference("batch/v1", "CronJob", cron)]},
        "spec": template["spec"]});
    if !job["metadata"]["annotations"].is_object() {
        job["metadata"]["annotations"] = json!({});
    }
    job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"] =
        json!(shown(at, zone));
    job
}

/// A time as clocks in a zone show it.
fn shown(at: i64, zone: &TimeZone) -> String {
    let Ok(stamp) = Timestamp::from_second(at) else { return time::format_seconds(at) };
    let offset = zone.to_offset(stamp);
    match offset.seconds() {
        0 => time::format_seconds(at),
        _ => stamp.display_with_offset(offset).to_string(),
    }
}

async fn report(
    cx: &Context,
    key: &Key,
    cron: &Value,
    jobs: &[Object],
    started: Option<i64>,
) -> Result<(), Fault> {
    let ended = cron["status"]["active"].as_array().into_iter().flatten();
    for was in ended {
        if let Some(job) = jobs.iter().find(|j| meta(j, "uid") == text(was, "/uid"))
            && let Some(how) = outcome(job)
        {
            let told = format!("Saw completed job: {}, condition: {how}", meta(job, "name"));
            cx.tell(cron, false, "SawCompletedJob", &told).await;
        }
    }
    let status = status(cron, jobs, started);
    if status == cron["status"] {
        return Ok(());
    }
    let mut next = cron.clone();
    next["status"] = status;
    let at = At { resource: &CRON_JOBS, namespace: &key.namespace, name: &key.name };
    cx.write(at, Some("status"), Write::Replace(next)).await.map(drop)
}

fn status(cron: &Value, jobs: &[Object], started: Option<i64>) -> Value {
    let mut status = json!({});
    let active: Vec<Value> = jobs
        .iter()
        .filter(|j| is_active(j))
        .map(|j| json!({"apiVersion": "batch/v1", "kind": "Job", "namespace": meta(j, "namespace"), "name": meta(j, "name"),
            "uid": meta(j, "uid"), "resourceVersion": meta(j, "resourceVersion")}))
        .map(|mut now| {
            // What the first look saw stays: a job that goes on is no news.
            let old = cron["status"]["active"].as_array().into_iter().flatten();
            if let Some(old) = old.into_iter().find(|o| o["uid"] == now["uid"]) {
                now["resourceVersion"] = old["resourceVersion"].clone();
            }
            now
        })
        .collect();
    if !active.is_empty() {
        status["active"] = Value::Array(active);
    }
    let last = started
        .map(time::format_seconds)
        .or_else(|| cron["status"]["lastScheduleTime"].as_str().map(str::to_owned));
    if let Some(last) = last {
        status["lastScheduleTime"] = json!(last);
    }
    let done = jobs.iter().filter(|j| outcome(j) == Some("Complete"));
    let good = done.filter_map(|j| j["status"]["completionTime"].as_str());
    let good = good.chain(cron["status"]["lastSuccessfulTime"].as_str()).max();
    if let Some(good) = good {
        status["lastSuccessfulTime"] = json!(good);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(spec: Value, last: Option<&str>) -> Value {
        let mut c = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": {}});
        if let Some(last) = last {
            c["status"]["lastScheduleTime"] = json!(last);
        }
        c
    }

    /// The time that is due, how many were missed and the next one, of which only hours and minutes are told.
    #[track_caller]
    fn check(c: &Value, now: &str, expected: (Option<&str>, i64, &str)) {
        let table = timetable(c).unwrap();
        let due = due(c, &table, seconds(now).unwrap());
        let short = |t: i64| time::format_seconds(t)[5..16].to_owned();
        let at = due.at.map(short);
        assert_eq!((at.as_deref(), due.missed, &*short(due.next.unwrap())), expected);
    }

    #[test]
    fn the_last_time_that_was_missed_is_due_within_the_deadline() {
        let hourly = cron(json!({"schedule": "0 * * * *"}), None);
        check(&hourly, "2026-01-01T00:59:59Z", (None, 0, "01-01T01:00"));
        check(&hourly, "2026-01-01T01:00:00Z", (Some("01-01T01:00"), 1, "01-01T02:00"));
        check(&hourly, "2026-01-01T05:30:00Z", (Some("01-01T05:00"), 5, "01-01T06:00"));
        check(&hourly, "2026-01-08T00:30:00Z", (Some("01-08T00:00"), 168, "01-08T01:00"));
        let soon = json!({"schedule": "0 * * * *", "startingDeadlineSeconds": 600});
        check(
            &cron(soon.clone(), None),
            "2026-01-01T05:09:00Z",
            (Some("01-01T05:00"), 1, "01-01T06:00"),
        );
        check(&cron(soon, None), "2026-01-01T05:30:00Z", (None, 0, "01-01T06:00"));
        let used = cron(json!({"schedule": "0 * * * *"}), Some("2026-01-01T05:00:00Z"));
        check(&used, "2026-01-01T05:30:00Z", (None, 0, "01-01T06:00"));
        let every = cron(json!({"schedule": "@every 25m"}), None);
        check(&every, "2026-01-01T01:00:00Z", (Some("01-01T00:50"), 2, "01-01T01:15"));
    }

    #[test]
    fn schedules_are_read_in_their_zone() {
        let c = cron(json!({"schedule": "0 9 * * *", "timeZone": "Europe/Berlin"}), None);
        check(&c, "2026-01-01T08:00:00Z", (Some("01-01T08:00"), 1, "01-02T08:00"));
        check(&c, "2026-07-01T06:59:00Z", (Some("06-30T07:00"), 181, "07-01T07:00"));
        let table = timetable(&c).unwrap();
        let made =
            job(&c, &Key::new("n", "c"), seconds("2026-07-01T07:00:00Z").unwrap(), &table.zone);
        assert_eq!(
            made["metadata"]["annotations"].to_string(),
            r#"{"batch.kubernetes.io/cronjob-scheduled-timestamp":"2026-07-01T09:00:00+02:00"}"#
        );
        assert_eq!(made["metadata"]["name"], "c-29714820");
        let lost = cron(json!({"schedule": "0 9 * * *", "timeZone": "Mars/Base"}), None);
        assert_eq!(timetable(&lost).err().unwrap().0, "UnknownTimeZone");
    }
}
