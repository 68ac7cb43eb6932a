//! Commands that only look: `state`, `list`, `events`.

use std::os::fd::AsFd as _;

use serde_json::{Value, json};
use wharf_sys::process;

use super::args::{Args, unknown};
use super::state::{self, Container, Status};
use super::{Global, OciError, Outcome, print};
use crate::cgroup::{BlkioEntry, Stats};

/// `state`.
pub(super) fn state(global: &Global, args: &mut Args) -> Outcome {
    let id = args.only_id("state")?;
    let container = Container::open(global, &id)?;
    let state = container.json(container.status()?);
    print(&format!("{}\n", serde_json::to_string_pretty(&state).unwrap_or_default()))
}

/// `list`.
pub(super) fn list(global: &Global, args: &mut Args) -> Outcome {
    let (mut as_json, mut quiet) = (false, false);
    while let Some(flag) = args.flag() {
        match flag.as_str() {
            "format" | "f" => as_json = args.value(&flag)? == "json",
            "quiet" | "q" => quiet = args.switch(&flag)?,
            other => return Err(unknown("list", other)),
        }
    }
    args.done("list")?;
    global.check_root()?;
    let mut states = Vec::new();
    for id in state::ids(global)? {
        // One that is being made or removed just now is not there.
        if let Ok(container) = Container::open(global, &id) {
            states.push(container.json(container.status()?));
        }
    }
    if as_json {
        return print(&format!("{}\n", Value::Array(states)));
    }
    let text = |state: &Value, key: &str| match &state[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut out = String::new();
    if !quiet {
        out = format!(
            "{:<24} {:<8} {:<10} {:<40} {:<32} OWNER\n",
            "ID", "PID", "STATUS", "BUNDLE", "CREATED"
        );
    }
    for state in &states {
        let field = |key| text(state, key);
        out.push_str(&if quiet {
            format!("{}\n", field("id"))
        } else {
            format!(
                "{:<24} {:<8} {:<10} {:<40} {:<32} root\n",
                field("id"),
                field("pid"),
                field("status"),
                field("bundle"),
                field("created")
            )
        });
    }
    print(&out)
}

/// `events`: the account at intervals, and a line for every want of memory.
pub(super) fn events(global: &Global, args: &mut Args) -> Outcome {
    let (mut once, mut interval) = (false, 5000);
    while let Some(flag) = args.flag() {
        match flag.as_str() {
            "stats" => once = args.switch(&flag)?,
            "interval" => interval = duration(&args.value(&flag)?)?,
            other => return Err(unknown("events", other)),
        }
    }
    let id = args.id("events")?;
    args.done("events")?;
    let container = Container::open(global, &id)?;
    if container.status()? == Status::Stopped {
        return Err(OciError::State(format!("container with id {id} is not running")));
    }
    let group = container.plan()?.cgroup;
    if once {
        return print(&event("stats", &id, Some(stats(&group.stats()?))));
    }
    let fail = |doing| move |source| OciError::Sys { doing, source };
    let pidfd = process::pidfd_open(container.record.pid).map_err(fail("open the container"))?;
    let oom = group.oom_events()?;
    let mut kills = group.oom_kills()?;
    loop {
        let ready = process::poll_readable(&[pidfd.as_fd(), oom.as_fd()], interval)
            .map_err(fail("wait for an event"))?;
        if ready[0] {
            return Ok(0);
        }
        if ready[1] {
            wharf_sys::host::drain(&oom).map_err(fail("read an event"))?;
            let now = group.oom_kills()?;
            if now > kills {
                print(&event("oom", &id, None))?;
            }
            kills = now;
        } else {
            print(&event("stats", &id, Some(stats(&group.stats()?))))?;
        }
    }
}

/// Milliseconds of a duration such as `5s`, `500ms`, `1m`.
fn duration(text: &str) -> Result<i32, OciError> {
    let bad = || OciError::Usage(format!("duration {text:?}: use for example 5s, 500ms or 1m"));
    let (number, factor) = if let Some(n) = text.strip_suffix("ms") {
        (n, 1)
    } else if let Some(n) = text.strip_suffix('s') {
        (n, 1000)
    } else if let Some(n) = text.strip_suffix('m') {
        (n, 60_000)
    } else {
        return Err(bad());
    };
    let number: i32 = number.parse().map_err(|_| bad())?;
    number.checked_mul(factor).filter(|&ms| ms > 0).ok_or_else(bad)
}

fn event(kind: &str, id: &str, data: Option<Value>) -> String {
    let mut event = json!({ "type": kind, "id": id });
    if let Some(data) = data {
        event["data"] = data;
    }
    format!("{event}\n")
}

/// The account in runc's form.
fn stats(s: &Stats) -> Value {
    let table = |list: &[BlkioEntry]| -> Value {
        list.iter()
            .map(|e| json!({"major": e.major, "minor": e.minor, "op": e.op, "value": e.value}))
            .collect()
    };
    let cache = s.memory.stats.get("cache").or_else(|| s.memory.stats.get("file"));
    json!({
        "cpu": {
            "usage": {
                "total": s.cpu.total, "percpu": s.cpu.per_cpu,
                "kernel": s.cpu.system, "user": s.cpu.user,
            },
            "throttling": {
                "periods": s.cpu.throttling.periods,
                "throttledPeriods": s.cpu.throttling.throttled_periods,
                "throttledTime": s.cpu.throttling.throttled_time,
            },
        },
        "memory": {
            "cache": cache,
            "usage": {
                "limit": s.memory.limit, "usage": s.memory.usage,
                "max": s.memory.max_usage, "failcnt": s.memory.failcnt,
            },
            "swap": { "usage": s.memory.swap, "failcnt": 0, "limit": 0 },
            "raw": s.memory.stats,
        },
        "pids": { "current": s.pids.current, "limit": s.pids.limit },
        "blkio": {
            "ioServiceBytesRecursive": table(&s.blkio.service_bytes),
            "ioServicedRecursive": table(&s.blkio.serviced),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations() {
        assert_eq!(duration("5s").unwrap(), 5000);
        assert_eq!(duration("250ms").unwrap(), 250);
        assert!(
            duration("5").is_err() && duration("0s").is_err() && duration("99999999m").is_err()
        );
    }
}
