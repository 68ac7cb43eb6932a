//! CronJobs: a Job each time that their schedule says.

use crate::object::{is_deleting, meta, number, text};
use crate::pods::reference;
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::time::Duration;
use wharf_client::resources::{CRON_JOBS, JOBS};
use wharf_client::{At, Change, Deletion, Object, Propagation, Write};
use wharf_kube::status::Fault;
use wharf_kube::time;

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
            let Some(schedule) = Schedule::parse(text(&cron, "/spec/schedule")) else {
                return Ok(Next::Change);
            };
            if !matches!(text(&cron, "/spec/timeZone"), "" | "UTC" | "Etc/UTC") {
                // The zones of the world are not known here: nothing is started at a wrong hour.
                return Ok(Next::Change);
            }
            let started = begin(cx, key, &cron, &jobs, &schedule).await?;
            report(cx, key, &cron, &jobs, started).await?;
            let next = schedule.after(cx.now()).unwrap_or(i64::MAX);
            let wait = u64::try_from(next.saturating_sub(cx.now()).max(1)).unwrap_or(1);
            Ok(Next::After(Duration::from_secs(wait)))
        })
    }
}

fn is_active(job: &Value) -> bool {
    outcome(job).is_none() && !is_deleting(job)
}

fn outcome(job: &Value) -> Option<&str> {
    let list = job.pointer("/status/conditions")?.as_array()?;
    let ended = list
        .iter()
        .find(|c| c["status"] == "True" && matches!(text(c, "/type"), "Complete" | "Failed"))?;
    ended["type"].as_str()
}

/// Deletes the oldest jobs beyond the history's limits.
async fn trim(cx: &Context, cron: &Value, jobs: &[Object]) -> Result<(), Fault> {
    for (kind, field, usual) in
        [("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)]
    {
        let limit = number(cron, &format!("/spec/{field}")).unwrap_or(usual);
        let mut old: Vec<&Object> = jobs.iter().filter(|j| outcome(j) == Some(kind)).collect();
        old.sort_by_key(|j| text(j, "/status/startTime").to_owned());
        let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for job in &old[..excess] {
            remove(cx, job).await?;
        }
    }
    Ok(())
}

async fn remove(cx: &Context, job: &Value) -> Result<(), Fault> {
    let at = At { resource: &JOBS, namespace: meta(job, "namespace"), name: meta(job, "name") };
    let uid = Some(meta(job, "uid").to_owned());
    cx.delete(at, Deletion { uid, propagation: Some(Propagation::Background), grace: None }).await
}

/// Starts the job whose time has come; gives that time.
async fn begin(
    cx: &Context,
    key: &Key,
    cron: &Value,
    jobs: &[Object],
    schedule: &Schedule,
) -> Result<Option<i64>, Fault> {
    if cron["spec"]["suspend"] == true {
        return Ok(None);
    }
    let seconds = |t: &str| time::parse_micros(t).map(|t| t / 1_000_000);
    let since = seconds(text(cron, "/status/lastScheduleTime"))
        .or_else(|| seconds(meta(cron, "creationTimestamp")))
        .unwrap_or_else(|| cx.now());
    let deadline = number(cron, "/spec/startingDeadlineSeconds");
    let earliest = deadline.map_or(since, |d| since.max(cx.now() - d));
    let Some(due) = schedule.last_between(earliest, cx.now()) else { return Ok(None) };
    let active: Vec<&Object> = jobs.iter().filter(|j| is_active(j)).collect();
    match text(cron, "/spec/concurrencyPolicy") {
        "Forbid" if !active.is_empty() => return Ok(None),
        "Replace" => {
            for job in &active {
                remove(cx, job).await?;
            }
        }
        _ => {}
    }
    let template = &cron["spec"]["jobTemplate"];
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": format!("{}-{}", key.name, due / 60), "namespace": key.namespace,
            "labels": template["metadata"]["labels"], "annotations": template["metadata"]["annotations"],
            "ownerReferences": [reference("batch/v1", "CronJob", cron)]},
        "spec": template["spec"]});
    if !job["metadata"]["annotations"].is_object() {
        job["metadata"]["annotations"] = json!({});
    }
    job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"] =
        json!(time::format_seconds(due));
    match cx.create(&JOBS, &key.namespace, job).await {
        // It was started before this process was.
        Err(f) if f.reason == "AlreadyExists" => Ok(Some(due)),
        Err(f) => Err(f),
        Ok(_) => Ok(Some(due)),
    }
}

async fn report(
    cx: &Context,
    key: &Key,
    cron: &Value,
    jobs: &[Object],
    started: Option<i64>,
) -> Result<(), Fault> {
    let mut status = json!({});
    let active: Vec<Value> = jobs
        .iter()
        .filter(|j| is_active(j))
        .map(|j| json!({"apiVersion": "batch/v1", "kind": "Job", "namespace": meta(j, "namespace"), "name": meta(j, "name"),
            "uid": meta(j, "uid"), "resourceVersion": meta(j, "resourceVersion")}))
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
    let good = jobs.iter().filter_map(|j| j["status"]["completionTime"].as_str());
    let good = good.chain(cron["status"]["lastSuccessfulTime"].as_str()).max();
    if let Some(good) = good {
        status["lastSuccessfulTime"] = json!(good);
    }
    if status == cron["status"] {
        return Ok(());
    }
    let mut next = cron.clone();
    next["status"] = status;
    let at = At { resource: &CRON_JOBS, namespace: &key.namespace, name: &key.name };
    cx.write(at, Some("status"), Write::Replace(next)).await.map(drop)
}

/// The minutes that five fields of cron choose.
#[derive(Debug, PartialEq, Eq)]
struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether days of the month and of the week are both chosen, so that either will do.
    either: bool,
}

const MONTHS: &[&str] =
    &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// The longest that a schedule is followed into the future, in minutes: eight years, for a leap day.
const HORIZON: i64 = 8 * 366 * 1440;

impl Schedule {
    fn parse(text: &str) -> Option<Schedule> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else { return None };
        let starred = |f: &str| f.starts_with(['*', '?']);
        let either = !starred(days) && !starred(weekdays);
        let mut weekday = field(weekdays, 0, 7, DAYS, 0)?;
        // Sunday has two numbers.
        weekday |= weekday >> 7 & 1;
        Some(Schedule {
            minutes: field(minutes, 0, 59, &[], 0)?,
            hours: field(hours, 0, 23, &[], 0)?,
            days: field(days, 1, 31, &[], 0)?,
            months: field(months, 1, 12, MONTHS, 1)?,
            weekdays: weekday,
            either,
        })
    }

    fn matches(&self, minute: i64) -> bool {
        let has = |set: u64, n: i64| u32::try_from(n).is_ok_and(|n| set >> n & 1 == 1);
        let day = minute.div_euclid(1440);
        let (_, month, dom) = civil(day);
        let in_month = has(self.days, dom);
        // The first day of 1970 was a Thursday.
        let in_week = has(self.weekdays, (day + 4).rem_euclid(7));
        let fits = if self.either { in_month || in_week } else { in_month && in_week };
        fits && has(self.months, month)
            && has(self.hours, minute.rem_euclid(1440) / 60)
            && has(self.minutes, minute.rem_euclid(60))
    }

    /// The first time after `seconds`.
    fn after(&self, seconds: i64) -> Option<i64> {
        let first = seconds.div_euclid(60) + 1;
        self.search(first, first + HORIZON).map(|m| m * 60)
    }

    /// The last time after `from` and not after `to`.
    fn last_between(&self, from: i64, to: i64) -> Option<i64> {
        let (first, last) = (from.div_euclid(60) + 1, to.div_euclid(60));
        // A server that was away for long starts what was due within the last day only.
        let first = first.max(last - 1440);
        (first..=last).rev().find(|m| self.matches(*m)).map(|m| m * 60)
    }

    /// The first minute in a span, by whole days where the day does not fit.
    fn search(&self, first: i64, end: i64) -> Option<i64> {
        let mut minute = first;
        while minute < end {
            let day = Schedule { minutes: u64::MAX, hours: u64::MAX, ..*self };
            if !day.matches(minute) {
                minute = (minute.div_euclid(1440) + 1) * 1440;
                continue;
            }
            if self.matches(minute) {
                return Some(minute);
            }
            minute += 1;
        }
        None
    }
}

/// A field's numbers as bits.
fn field(text: &str, least: u32, most: u32, names: &[&str], first: u32) -> Option<u64> {
    let number = |t: &str| -> Option<u32> {
        let named = names.iter().position(|n| t.eq_ignore_ascii_case(n));
        match named {
            Some(i) => u32::try_from(i).ok().map(|i| i + first),
            None => t.parse().ok(),
        }
    };
    let mut out = 0u64;
    for part in text.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(r, s)| (r, Some(s)));
        let step = step.map_or(Some(1), |s| s.parse::<usize>().ok().filter(|s| *s > 0))?;
        let (a, b) = match range {
            "*" | "?" => (least, most),
            r => match r.split_once('-') {
                Some((a, b)) => (number(a)?, number(b)?),
                None if part.contains('/') => (number(r)?, most),
                None => (number(r)?, number(r)?),
            },
        };
        if a < least || b > most || a > b {
            return None;
        }
        (a..=b).step_by(step).for_each(|n| out |= 1 << n);
    }
    Some(out)
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(day: i64) -> (i64, i64, i64) {
    let z = day + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schedule: &str, after: &str, expected: &str) {
        let seconds = |t: &str| time::parse_micros(t).unwrap() / 1_000_000;
        let next = Schedule::parse(schedule).unwrap().after(seconds(after)).unwrap();
        assert_eq!(time::format_seconds(next), expected, "{schedule}");
    }

    #[test]
    fn schedules_choose_minutes() {
        check("*/1 * * * *", "2026-03-01T10:00:30Z", "2026-03-01T10:01:00Z");
        check("*/15 9-17 * * mon-fri", "2026-02-27T17:50:00Z", "2026-03-02T09:00:00Z");
        check("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z");
        check("@monthly", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z");
        check("0 12 13 * 5", "2026-03-01T00:00:00Z", "2026-03-06T12:00:00Z");
        check("30 4 * * 7", "2026-03-02T00:00:00Z", "2026-03-08T04:30:00Z");
        for wrong in
            ["* * * *", "60 * * * *", "* * 0 * *", "a * * * *", "*/0 * * * *", "5-1 * * * *"]
        {
            assert!(Schedule::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn the_last_missed_time_is_what_is_due() {
        let s = Schedule::parse("*/10 * * * *").unwrap();
        assert_eq!(s.last_between(0, 3599), Some(3000));
        assert_eq!(s.last_between(3000, 3599), None);
    }
}
