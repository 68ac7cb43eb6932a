//! A build's progress as JSON objects for wharf's own command line, which draws a tree of them.
//!
//! `POST /build?progress=vertices` asks for it. Each line is `{"wharf": {...}}`; other clients never see one.

use std::time::SystemTime;

use bytes::Bytes;
use serde_json::{Value, json};
use wharf_build::progress::Output;
use wharf_build::{BuildError, Event};

/// The line of an event.
pub(crate) fn line(event: &Event) -> Bytes {
    let body = match event {
        Event::Announced(v) => json!({
            "vertex": v.digest, "name": v.name, "inputs": v.inputs,
            "files": v.step.as_ref().is_none_or(|s| s.changes_files),
        }),
        Event::Started { vertex, at } => json!({ "started": vertex, "at": seconds(*at) }),
        Event::Log { vertex, output, data, at } => json!({
            "log": vertex, "at": seconds(*at), "data": String::from_utf8_lossy(data),
            "stream": if *output == Output::Stderr { 2 } else { 1 },
        }),
        Event::Status { vertex, id, name, current, total, done, at } => json!({
            "status": vertex, "id": id, "name": name, "current": current, "total": total,
            "complete": done, "at": seconds(*at),
        }),
        Event::Done { vertex, at, cached, error, .. } => json!({
            "done": vertex, "at": seconds(*at), "cached": cached, "error": error,
        }),
        Event::Warning(w) => json!({
            "warning": w.message, "rule": w.rule, "url": w.url, "description": w.description,
            "lines": [w.lines.0, w.lines.1],
        }),
    };
    encode(body)
}

/// Where a build failed.
pub(crate) fn place(e: &BuildError) -> Option<Bytes> {
    let at = e.location()?;
    Some(encode(json!({ "failed": at.file, "line": at.line, "last": at.last_line })))
}

fn encode(body: Value) -> Bytes {
    let mut line = json!({ "wharf": body }).to_string();
    line.push_str("\r\n");
    line.into()
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
