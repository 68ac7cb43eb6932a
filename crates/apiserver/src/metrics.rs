//! What the server counts about itself, in the text form that Prometheus reads, under the reference server's names.

use crate::audit::{Summary, Trace};
use crate::respond::Answer;
use crate::server::Server;
use http::StatusCode;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};
use wharf_base::sync::Mutex;
use wharf_etcd::{KeyRange, Range};
use wharf_kube::status::Fault;

/// Upper ends of the classes of durations, in seconds.
const CLASSES: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.0, 5.0, 10.0, 60.0];

/// The most series: clients may ask for whatever names they like.
const MOST: usize = 5000;

/// The counts since the server started.
pub struct Metrics {
    requests: Mutex<BTreeMap<Series, Count>>,
    /// Seconds since 1970.
    started: u64,
}

/// Requests of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    asked: Summary,
    dry_run: bool,
}

#[derive(Debug, Default)]
struct Count {
    by_code: BTreeMap<u16, u64>,
    classes: [u64; CLASSES.len()],
    all: u64,
    micros: u64,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Metrics { requests: Mutex::default(), started: now.map_or(0, |d| d.as_secs()) }
    }
}

impl Metrics {
    /// Counts a request that was answered after so many microseconds. One that nobody was found to have made, or that
    /// led nowhere, is not counted.
    pub fn answered(&self, trace: &Trace, code: u16, micros: i64, dry_run: bool) {
        let Some(asked) = trace.summary() else { return };
        let micros = u64::try_from(micros).unwrap_or(0);
        let mut all = self.requests.lock();
        let series = Series { asked, dry_run };
        if all.len() >= MOST && !all.contains_key(&series) {
            return;
        }
        let count = all.entry(series).or_default();
        *count.by_code.entry(code).or_default() += 1;
        count.all += 1;
        count.micros += micros;
        #[allow(clippy::cast_precision_loss, reason = "less than hours")]
        let seconds = micros as f64 / 1e6;
        for (end, n) in CLASSES.iter().zip(&mut count.classes) {
            *n += u64::from(seconds <= *end);
        }
    }

    fn write(&self, out: &mut String) {
        let all = self.requests.lock();
        head(out, "apiserver_request_total", "counter", "Requests by verb, resource and code.");
        for (series, count) in &*all {
            for (code, n) in &count.by_code {
                line(
                    out,
                    "apiserver_request_total",
                    &series.labels(&format!(",code=\"{code}\"")),
                    n,
                );
            }
        }
        let name = "apiserver_request_duration_seconds";
        head(out, name, "histogram", "Seconds until the answer, of requests that are not watches.");
        for (series, count) in all.iter().filter(|(s, _)| s.asked.verb != "watch") {
            let ends = CLASSES.iter().map(ToString::to_string).zip(count.classes);
            for (end, n) in ends.chain([("+Inf".to_owned(), count.all)]) {
                let labels = series.labels(&format!(",le=\"{end}\""));
                line(out, &format!("{name}_bucket"), &labels, n);
            }
            #[allow(clippy::cast_precision_loss, reason = "a sum of durations")]
            let sum = count.micros as f64 / 1e6;
            line(out, &format!("{name}_sum"), &series.labels(""), sum);
            line(out, &format!("{name}_count"), &series.labels(""), count.all);
        }
    }
}

impl Series {
    fn labels(&self, more: &str) -> String {
        let s = &self.asked;
        let verb = match s.verb.as_str() {
            "create" => "POST".to_owned(),
            "update" => "PUT".to_owned(),
            verb => verb.to_ascii_uppercase(),
        };
        let dry_run = if self.dry_run { "All" } else { "" };
        format!(
            "{{component=\"apiserver\",dry_run=\"{dry_run}\",group={:?},resource={:?},scope={:?},subresource={:?},verb=\"{verb}\",version={:?}{more}}}",
            s.group, s.resource, s.scope, s.subresource, s.version
        )
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    _ = writeln!(out, "{name}{labels} {value}");
}

/// `/metrics`.
pub async fn serve(server: &Server) -> Result<Answer, Fault> {
    let mut out = String::new();
    server.metrics.write(&mut out);
    let name = "apiserver_current_inflight_requests";
    head(
        &mut out,
        name,
        "gauge",
        "Requests that are being worked on, of users whose number is bounded.",
    );
    for (kind, n) in ["readOnly", "mutating"].iter().zip(server.flow.now()) {
        line(&mut out, name, &format!("{{request_kind=\"{kind}\"}}"), n);
    }
    let name = "apiserver_storage_objects";
    head(&mut out, name, "gauge", "Objects in the store by resource.");
    for kind in server.api.kinds.all().iter().filter(|k| k.keeps() && k.resource.stored()) {
        let range = Range::new(KeyRange::prefix(kind.prefix())).count_only();
        let reply = server.api.store.range(range).await.map_err(|e| crate::api::fault(&e))?;
        let group = kind.group();
        let of = if group.is_empty() { String::new() } else { format!(".{group}") };
        let labels = format!("{{resource=\"{}{of}\"}}", kind.resource.plural);
        line(&mut out, name, &labels, reply.count);
    }
    process(&mut out, server.metrics.started);
    let media = "text/plain; version=0.0.4; charset=utf-8";
    Ok(Answer::bytes(StatusCode::OK, media, out))
}

/// What the kernel says of this process. Where it says nothing, neither does this.
fn process(out: &mut String, started: u64) {
    head(out, "process_start_time_seconds", "gauge", "When the process started, since 1970.");
    line(out, "process_start_time_seconds", "", started);
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let status = read("/proc/self/status");
    let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    if let Some(kib) = kib {
        head(out, "process_resident_memory_bytes", "gauge", "Memory that is resident.");
        line(out, "process_resident_memory_bytes", "", kib * 1024);
    }
    // The first number is the time on a processor in nanoseconds, of all threads that live.
    let spent = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let spent: u64 = spent
        .filter_map(|t| {
            let text = std::fs::read_to_string(t.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        })
        .sum();
    head(out, "process_cpu_seconds_total", "counter", "Time on a processor.");
    #[allow(clippy::cast_precision_loss, reason = "a sum of durations")]
    line(out, "process_cpu_seconds_total", "", spent as f64 / 1e9);
}
