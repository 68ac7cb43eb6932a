//! `stats`: what containers use, once or as a table that changes.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::{Outcome, items, list_format, real, text};
use crate::api::{Client, JsonStream, Payload, segment, url};
use crate::app::{Call, say};
use crate::failure::Failure;
use crate::out::{Report, Row, short_id};
use crate::parse::size;

const TABLE: &str = "table {{.ID}}\\t{{.Name}}\\t{{.CPUPerc}}\\t{{.MemUsage}}\\t{{.MemPerc}}\\t{{.NetIO}}\\t{{.BlockIO}}\\t{{.PIDs}}";

const HEADERS: &[(&str, &str)] = &[
    ("Container", "CONTAINER"),
    ("Name", "NAME"),
    ("ID", "CONTAINER ID"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

/// `stats [CONTAINER...]`
pub async fn stats(call: Call) -> Outcome {
    let given = &call.given;
    let format = match list_format(&call, "statsFormat").as_str() {
        "table" => TABLE.to_owned(),
        format => format.to_owned(),
    };
    let report = Report { format, headers: HEADERS, kind: "*container.statsContext" };
    // A wrong template should fail before anything is measured.
    report.render(&[])?;
    let trunc = !given.on("no-trunc");
    match given.on("no-stream") {
        true => once(&call, &report, trunc).await,
        false => live(&call, &report, trunc).await,
    }
}

async fn names(call: &Call) -> Result<Vec<String>, Failure> {
    if !call.args().is_empty() {
        return Ok(call.args().to_vec());
    }
    let all = if call.given.on("all") { "1" } else { "" };
    let list = call.client()?.get(&url("/containers/json", &[("all", all)])).await?;
    Ok(items(&list).iter().map(|c| short_id(text(c, "Id"))).collect())
}

async fn once(call: &Call, report: &Report<'_>, trunc: bool) -> Outcome {
    let client = call.client()?;
    let names = names(call).await?;
    let samples =
        futures_util::future::join_all(names.iter().map(|name| sample(client, name))).await;
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (name, sample) in names.iter().zip(samples) {
        match sample {
            Ok(sample) => rows.push(row(name, Some(&sample), trunc)),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() || !rows.is_empty() {
        report.print(&rows)?;
    }
    Failure::join(failures)
}

async fn sample(client: &Client, name: &str) -> Result<Value, Failure> {
    let path = url(&format!("/containers/{}/stats", segment(name)), &[("stream", "0")]);
    Ok(client.get(&path).await?)
}

/// One container that is watched: its name and the newest sample.
type Watched = Rc<RefCell<(String, Option<Value>, bool)>>;

async fn live(call: &Call, report: &Report<'_>, trunc: bool) -> Outcome {
    let client = call.client()?;
    let mut watched: Vec<Watched> = Vec::new();
    let mut watchers = futures_util::stream::FuturesUnordered::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let terminal = std::io::stdout().is_terminal();
    let everything = call.args().is_empty();
    for count in 0u64.. {
        // Containers come and go; without names the list follows them.
        if count == 0 || (everything && count.is_multiple_of(4)) {
            for name in names(call).await? {
                if !watched.iter().any(|w| w.borrow().0 == name) {
                    let entry: Watched = Rc::new(RefCell::new((name, None, false)));
                    watched.push(entry.clone());
                    watchers.push(watch(client, entry));
                }
            }
        }
        let next_tick = async {
            ticks.tick().await;
        };
        tokio::pin!(next_tick);
        loop {
            tokio::select! {
                () = &mut next_tick => break,
                Some(result) = futures_util::StreamExt::next(&mut watchers) => {
                    let result: Outcome = result;
                    if !everything { result? }
                }
            }
        }
        watched.retain(|w| !w.borrow().2 || !everything);
        let rows: Vec<Row> =
            watched.iter().map(|w| w.borrow()).map(|w| row(&w.0, w.1.as_ref(), trunc)).collect();
        let text = report.render(&rows)?;
        match terminal {
            // Home, each line cleared to its end, everything below cleared.
            true => say(format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))?,
            false => say(text)?,
        }
        if !everything && watched.iter().all(|w| w.borrow().2) {
            return Ok(());
        }
    }
    Ok(())
}

async fn watch(client: &Client, entry: Watched) -> Outcome {
    let name = entry.borrow().0.clone();
    let path = url(&format!("/containers/{}/stats", segment(&name)), &[("stream", "1")]);
    let follow = async {
        let response = client.send(Method::GET, &path, Payload::Empty, &[]).await?;
        let mut samples = JsonStream::new(response);
        while let Some(sample) = samples.next().await? {
            entry.borrow_mut().1 = Some(sample);
        }
        Ok(())
    };
    let result = follow.await;
    entry.borrow_mut().2 = true;
    result
}

fn row(name: &str, sample: Option<&Value>, trunc: bool) -> Row {
    let sample = sample.filter(|s| !text(s, "id").is_empty() || !s["read"].is_null());
    let dashes = |text: String| if sample.is_some() { text } else { "--".to_owned() };
    let empty = Value::Null;
    let stats = sample.unwrap_or(&empty);
    let id = text(stats, "id");
    let own = text(stats, "name").trim_start_matches('/');
    let (used, limit) = memory(stats);
    let percent = if limit > 0.0 { used / limit * 100.0 } else { 0.0 };
    let usage = match sample {
        Some(_) => format!("{} / {}", size::binary(used), size::binary(limit)),
        None => "-- / --".to_owned(),
    };
    let pair = |(a, b): (f64, f64)| format!("{} / {}", size::decimal(a, 3), size::decimal(b, 3));
    let id = if id.is_empty() { name } else { id };
    Row::new(vec![
        ("Container", name.into()),
        ("Name", if own.is_empty() { "--" } else { own }.into()),
        ("ID", if trunc { short_id(id) } else { id.to_owned() }.into()),
        ("CPUPerc", dashes(format!("{:.2}%", processor(stats))).into()),
        ("MemUsage", usage.into()),
        ("MemPerc", dashes(format!("{percent:.2}%")).into()),
        ("NetIO", dashes(pair(network(stats))).into()),
        ("BlockIO", dashes(pair(blocks(stats))).into()),
        ("PIDs", dashes(super::count(&stats["pids_stats"]["current"]).to_string()).into()),
    ])
}

fn processor(stats: &Value) -> f64 {
    let total = |s: &Value| real(&s["cpu_usage"]["total_usage"]);
    let (now, before) = (&stats["cpu_stats"], &stats["precpu_stats"]);
    let used = total(now) - total(before);
    let system = real(&now["system_cpu_usage"]) - real(&before["system_cpu_usage"]);
    let per_cpu = real(&now["cpu_usage"]["percpu_usage"].as_array().map_or(0, Vec::len).into());
    let processors = match real(&now["online_cpus"]) {
        0.0 => per_cpu,
        online => online,
    };
    if system > 0.0 && used > 0.0 { used / system * processors * 100.0 } else { 0.0 }
}

/// What is used without the cache that can go at any time, and the limit.
fn memory(stats: &Value) -> (f64, f64) {
    let memory = &stats["memory_stats"];
    let usage = real(&memory["usage"]);
    let detail = &memory["stats"];
    let cache = detail.get("total_inactive_file").or_else(|| detail.get("inactive_file"));
    let cache = cache.map_or(0.0, real);
    let used = if cache < usage { usage - cache } else { usage };
    (used, real(&memory["limit"]))
}

fn network(stats: &Value) -> (f64, f64) {
    let interfaces = stats["networks"].as_object();
    interfaces
        .into_iter()
        .flat_map(|m| m.values())
        .fold((0.0, 0.0), |(rx, tx), i| (rx + real(&i["rx_bytes"]), tx + real(&i["tx_bytes"])))
}

fn blocks(stats: &Value) -> (f64, f64) {
    let list = items(&stats["blkio_stats"]["io_service_bytes_recursive"]);
    list.iter().fold((0.0, 0.0), |(read, write), entry| {
        let value = real(&entry["value"]);
        match text(entry, "op").bytes().next() {
            Some(b'r' | b'R') => (read + value, write),
            Some(b'w' | b'W') => (read, write + value),
            _ => (read, write),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_are_docker_s() {
        let stats = json!({
            "cpu_stats": {"cpu_usage": {"total_usage": 200}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 3000, "limit": 10000, "stats": {"inactive_file": 1000}},
            "networks": {"eth0": {"rx_bytes": 5, "tx_bytes": 7}},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "read", "value": 1}, {"op": "Write", "value": 2}]},
        });
        assert!((processor(&stats) - 20.0).abs() < 1e-9);
        assert_eq!(memory(&stats), (2000.0, 10000.0));
        assert_eq!(network(&stats), (5.0, 7.0));
        assert_eq!(blocks(&stats), (1.0, 2.0));
    }
}
