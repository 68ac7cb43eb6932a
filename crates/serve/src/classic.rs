//! A build's progress as the classic builder's lines, in the order of the Dockerfile.
//!
//! Stages run at once; the lines of a later step wait until the earlier ones are complete, so that a reader sees
//! one step after the other, as clients of the classic builder expect.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use wharf_build::Event;
use wharf_build::progress::{Output, Step, Warning};
use wharf_spec::digest::Digest;
use wharf_spec::docker::{ProgressDetail, ProgressLine};

use crate::progress::{encode, said};

/// Turns events into lines.
#[derive(Default)]
pub(crate) struct Classic {
    /// Steps by their place in the Dockerfile.
    steps: BTreeMap<usize, State>,
    /// Which step a vertex is.
    index: HashMap<Digest, usize>,
    warnings: Vec<Warning>,
}

#[derive(Default)]
struct State {
    step: Option<Step>,
    id: String,
    begun: bool,
    running: bool,
    done: bool,
    waiting: Vec<Bytes>,
}

impl Classic {
    /// The lines that follow from `event`.
    pub(crate) fn lines(&mut self, event: Event) -> Vec<Bytes> {
        match event {
            Event::Announced(vertex) => {
                if let Some(step) = vertex.step.clone() {
                    self.index.insert(vertex.digest.clone(), step.index);
                    let id = vertex.digest.short().to_owned();
                    let state = State { step: Some(step.clone()), id, ..State::default() };
                    self.steps.insert(step.index, state);
                }
            }
            Event::Started { vertex, .. } => self.with(&vertex, |s| {
                s.begun = true;
                let line = s
                    .step
                    .as_ref()
                    .map(|t| format!("Step {}/{} : {}\n", t.index + 1, t.total, t.text));
                s.waiting.extend(line.map(said));
            }),
            Event::Log { vertex, data, output, .. } => self.with(&vertex, |s| {
                if !std::mem::replace(&mut s.running, true) {
                    s.waiting.push(said(format!(" ---> Running in {}\n", s.id)));
                }
                s.waiting.push(said(coloured(output, &String::from_utf8_lossy(&data))));
            }),
            Event::Done { vertex, cached, result, error, .. } => self.with(&vertex, |s| {
                s.done = error.is_none();
                if cached && s.step.as_ref().is_some_and(|t| !from(t)) {
                    s.waiting.push(said(" ---> Using cache\n".into()));
                } else if s.done && s.step.as_ref().is_some_and(has_container) {
                    if !s.running {
                        s.waiting.push(said(format!(" ---> Running in {}\n", s.id)));
                    }
                    s.waiting
                        .push(said(format!(" ---> Removed intermediate container {}\n", s.id)));
                }
                if let Some(result) = result {
                    s.waiting.push(said(format!(" ---> {}\n", result.short())));
                }
            }),
            Event::Status { id, name, current, total, .. } => {
                return vec![status(id, name, current, total)];
            }
            Event::Warning(warning) => self.warnings.push(warning),
        }
        self.ready()
    }

    fn with(&mut self, vertex: &Digest, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.index.get(vertex).and_then(|n| self.steps.get_mut(n)) {
            change(state);
        }
    }

    /// What may be told now: of all complete steps from the first on, and of the one after them.
    fn ready(&mut self) -> Vec<Bytes> {
        let mut out = Vec::new();
        for state in self.steps.values_mut() {
            out.append(&mut state.waiting);
            if !state.done {
                break;
            }
        }
        out
    }

    /// What is left at the end: lines of steps behind one that failed, and the warnings.
    pub(crate) fn rest(mut self) -> Vec<Bytes> {
        let mut out: Vec<Bytes> =
            self.steps.values_mut().flat_map(|s| std::mem::take(&mut s.waiting)).collect();
        for w in &self.warnings {
            let text = match w.rule.as_str() {
                "" => format!("{}\n", w.message),
                rule => format!("[Warning] {rule}: {} (line {})\n", w.message, w.lines.0),
            };
            out.push(said(text));
        }
        out
    }
}

fn from(step: &Step) -> bool {
    is(step, "FROM")
}

/// Whether docker's classic builder makes a container for it.
fn has_container(step: &Step) -> bool {
    !["FROM", "COPY", "ADD"].iter().any(|keyword| is(step, keyword))
}

fn is(step: &Step, keyword: &str) -> bool {
    step.text.split_whitespace().next().is_some_and(|w| w.eq_ignore_ascii_case(keyword))
}

/// The classic builder paints standard error red.
fn coloured(output: Output, text: &str) -> String {
    match output {
        Output::Stdout => text.to_owned(),
        Output::Stderr => format!("\u{1b}[91m{text}\u{1b}[0m"),
    }
}

fn status(id: String, name: String, current: u64, total: u64) -> Bytes {
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let detail = ProgressDetail {
        current: count(current),
        total: count(total),
        ..ProgressDetail::default()
    };
    encode(&ProgressLine {
        status: name,
        id,
        progress_detail: Some(detail),
        ..ProgressLine::default()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use wharf_build::progress::Vertex;

    use super::*;

    fn digest(n: usize) -> Digest {
        Digest::sha256(&[u8::try_from(n).unwrap()])
    }

    fn text(lines: Vec<Bytes>) -> String {
        lines.iter().map(|l| String::from_utf8_lossy(l).replace("\r\n", "")).collect()
    }

    #[test]
    fn steps_are_told_in_order_whatever_order_they_run_in() {
        let mut classic = Classic::default();
        for n in 0..2 {
            let step = Step { index: n, total: 2, text: format!("RUN {n}"), changes_files: true };
            let vertex = Vertex {
                digest: digest(n),
                inputs: Vec::new(),
                name: String::new(),
                step: Some(step),
            };
            classic.lines(Event::Announced(Arc::new(vertex)));
        }
        let at = SystemTime::now();
        let done = |n| Event::Done {
            vertex: digest(n),
            at,
            cached: true,
            result: Some(digest(9)),
            error: None,
        };
        let begun = text(classic.lines(Event::Started { vertex: digest(0), at }));
        assert_eq!(text(classic.lines(Event::Started { vertex: digest(1), at })), "");
        assert_eq!(text(classic.lines(done(1))), "");
        let all = begun + &text(classic.lines(done(0)));
        let places: Vec<_> = ["Step 1/2 : RUN 0", " ---> ", "Using cache", "Step 2/2 : RUN 1"]
            .iter()
            .map(|t| all.find(t).unwrap())
            .collect();
        assert!(places.is_sorted(), "{all}");
    }
}
