//! What a build tells, in the form that `Control.Status` sends: kept from its beginning, for whoever comes late.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use prost_types::Timestamp;
use tokio::sync::watch;
use tonic::Status;
use wharf_base::clock::Clock;
use wharf_base::sync::Mutex;
use wharf_build::progress::{Event, Output, Warning};
use wharf_spec::digest::Digest;

use crate::proto::moby::buildkit::v1::{
    StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning,
};
use crate::proto::pb;

/// Output of one step beyond which it is cut. BuildKit's limit.
const LOG_LIMIT: usize = 2 << 20;
/// Log bytes in one message.
const MESSAGE: usize = 1 << 20;

/// The story of one build.
#[derive(Debug)]
pub(crate) struct Journal {
    story: Mutex<Story>,
    length: watch::Sender<Length>,
    clock: Clock,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Length {
    items: usize,
    closed: bool,
}

#[derive(Debug, Default)]
struct Story {
    items: Vec<Arc<StatusResponse>>,
    /// Every vertex as it was told last.
    vertices: HashMap<String, Vertex>,
    /// In the order in which they came.
    order: Vec<String>,
    /// Log bytes of each vertex.
    logged: HashMap<String, usize>,
    /// Instructions that change no file, which are no vertices to BuildKit's clients.
    unseen: HashSet<String>,
    definition: Option<(String, pb::SourceInfo)>,
    warnings: usize,
    /// The Dockerfile's warnings, by message and line.
    warned: HashSet<(String, usize)>,
}

/// How many steps there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) total: i32,
    pub(crate) cached: i32,
    pub(crate) completed: i32,
    pub(crate) warnings: i32,
}

impl Journal {
    pub(crate) fn new(clock: Clock) -> Arc<Journal> {
        let length = watch::Sender::new(Length::default());
        Arc::new(Journal { story: Mutex::default(), length, clock })
    }

    /// What was told from place `from` on, and the next place; `None` at the end of a closed journal.
    pub(crate) async fn read(&self, from: usize) -> Option<(Vec<StatusResponse>, usize)> {
        let mut length = self.length.subscribe();
        let now = length.wait_for(|l| l.items > from || l.closed).await.ok()?;
        if now.items <= from {
            return None;
        }
        drop(now);
        let items = self.story.lock().items[from..].to_vec();
        Some((merged(&items), from + items.len()))
    }

    /// All of it.
    pub(crate) fn all(&self) -> Vec<StatusResponse> {
        merged(&self.story.lock().items)
    }

    /// Nothing follows.
    pub(crate) fn close(&self) {
        self.length.send_modify(|l| l.closed = true);
    }

    /// Tells what the builder says.
    pub(crate) fn event(&self, event: Event) {
        match event {
            Event::Announced(vertex) if vertex.step.as_ref().is_some_and(|s| !s.changes_files) => {
                self.story.lock().unseen.insert(vertex.digest.to_string());
            }
            Event::Announced(vertex) => self.vertex(vertex.digest.to_string(), |v| {
                v.name.clone_from(&vertex.name);
                v.inputs = vertex.inputs.iter().map(Digest::to_string).collect();
            }),
            Event::Started { vertex, at } => {
                self.vertex(vertex.to_string(), |v| v.started = Some(at.into()));
            }
            Event::Log { vertex, output, data, at } => {
                let stream = match output {
                    Output::Stdout => 1,
                    Output::Stderr => 2,
                };
                self.log(vertex.to_string(), stream, data, at);
            }
            Event::Status { vertex, id, name, current, total, done, at } => {
                let part = Part { id, name, current, total, done };
                self.part(vertex.to_string(), part, at);
            }
            Event::Done { vertex, at, cached, error, .. } => self.vertex(vertex.to_string(), |v| {
                v.started.get_or_insert(at.into());
                v.completed = Some(at.into());
                v.cached = cached;
                v.error = error.unwrap_or_default();
            }),
            Event::Warning(warning) => self.warning(&warning),
        }
    }

    /// Begins a piece of work of the door's own.
    pub(crate) fn task(self: &Arc<Self>, name: impl Into<String>) -> Task {
        let name = name.into();
        let seed = format!("{name}\0{}", self.length.borrow().items);
        let digest = Digest::sha256(seed.as_bytes()).to_string();
        let now = self.clock.now();
        self.vertex(digest.clone(), |v| {
            v.name = name;
            v.started = Some(now.into());
        });
        Task { journal: self.clone(), digest, ended: false }
    }

    /// The Dockerfile, which warnings point into, and the vertex that loaded it.
    pub(crate) fn define(&self, task: &Task, info: pb::SourceInfo) {
        self.story.lock().definition = Some((task.digest.clone(), info));
    }

    /// A warning of a frontend that the client runs.
    pub(crate) fn warn(&self, warning: VertexWarning) {
        self.story.lock().warnings += 1;
        self.say(StatusResponse { warnings: vec![warning], ..StatusResponse::default() });
    }

    /// How many steps there were until now.
    pub(crate) fn steps(&self) -> Steps {
        let story = self.story.lock();
        let count = |p: fn(&Vertex) -> bool| {
            i32::try_from(story.vertices.values().filter(|v| p(v)).count()).unwrap_or(i32::MAX)
        };
        Steps {
            total: count(|_| true),
            cached: count(|v| v.cached),
            completed: count(|v| v.completed.is_some()),
            warnings: i32::try_from(story.warnings).unwrap_or(i32::MAX),
        }
    }

    /// The vertex that failed last, as errors name it.
    pub(crate) fn failed(&self) -> Option<String> {
        let story = self.story.lock();
        story.order.iter().rev().find(|d| !story.vertices[*d].error.is_empty()).cloned()
    }

    fn vertex(&self, digest: String, change: impl FnOnce(&mut Vertex)) {
        let mut story = self.story.lock();
        if story.unseen.contains(&digest) {
            return;
        }
        if !story.vertices.contains_key(&digest) {
            story.order.push(digest.clone());
        }
        let vertex = story
            .vertices
            .entry(digest.clone())
            .or_insert_with(|| Vertex { digest, ..Vertex::default() });
        change(vertex);
        let vertexes = vec![vertex.clone()];
        drop(story);
        self.say(StatusResponse { vertexes, ..StatusResponse::default() });
    }

    fn log(&self, vertex: String, stream: i64, mut msg: Bytes, at: SystemTime) {
        {
            let mut story = self.story.lock();
            let logged = story.logged.entry(vertex.clone()).or_default();
            if *logged >= LOG_LIMIT {
                return;
            }
            if *logged + msg.len() > LOG_LIMIT {
                msg.truncate(LOG_LIMIT - *logged);
                let cut = "\n[output clipped, log limit 2MiB reached]\n";
                msg = [&msg[..], cut.as_bytes()].concat().into();
                *logged = LOG_LIMIT;
            }
            *logged += msg.len();
        }
        let log = VertexLog { vertex, stream, msg, timestamp: Some(at.into()) };
        self.say(StatusResponse { logs: vec![log], ..StatusResponse::default() });
    }

    fn part(&self, vertex: String, part: Part, at: SystemTime) {
        let at = Timestamp::from(at);
        let status = VertexStatus {
            id: part.id,
            vertex,
            name: part.name,
            current: part.current.try_into().unwrap_or(i64::MAX),
            total: part.total.try_into().unwrap_or(i64::MAX),
            timestamp: Some(at),
            started: Some(at),
            completed: part.done.then_some(at),
        };
        self.say(StatusResponse { statuses: vec![status], ..StatusResponse::default() });
    }

    fn warning(&self, warning: &Warning) {
        let (digest, info) = self.story.lock().definition.clone().unzip();
        let Warning { rule, message, lines: (first, last), .. } = warning;
        // A build for each of several platforms finds the same.
        if !self.story.lock().warned.insert((message.clone(), *first)) {
            return;
        }
        self.warn(VertexWarning {
            vertex: digest.unwrap_or_default(),
            level: 1,
            short: format!("{rule}: {message} (line {first})").into(),
            detail: vec![warning.description.clone().into()],
            url: warning.url.clone(),
            info,
            ranges: vec![lines(*first, *last)],
        });
    }

    fn say(&self, item: StatusResponse) {
        let mut story = self.story.lock();
        story.items.push(Arc::new(item));
        let items = story.items.len();
        drop(story);
        self.length.send_modify(|l| l.items = l.items.max(items));
    }
}

/// Lines of a file, counted from 1.
pub(crate) fn lines(first: usize, last: usize) -> pb::Range {
    let at = |line: usize| {
        let line = i32::try_from(line).unwrap_or(i32::MAX);
        Some(pb::Position { line, character: 0 })
    };
    pb::Range { start: at(first), end: at(last) }
}

/// One message per some log output: thousands of lines are not thousands of messages.
fn merged(items: &[Arc<StatusResponse>]) -> Vec<StatusResponse> {
    let mut out: Vec<StatusResponse> = Vec::new();
    let mut size = MESSAGE;
    for item in items {
        if size >= MESSAGE {
            out.push(StatusResponse::default());
            size = 0;
        }
        let Some(last) = out.last_mut() else { continue };
        size += item.logs.iter().map(|l| l.msg.len() + 64).sum::<usize>() + 256;
        last.vertexes.extend(item.vertexes.iter().cloned());
        last.statuses.extend(item.statuses.iter().cloned());
        last.logs.extend(item.logs.iter().cloned());
        last.warnings.extend(item.warnings.iter().cloned());
    }
    out
}

/// How far a part of a vertex is.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) current: u64,
    pub(crate) total: u64,
    pub(crate) done: bool,
}

impl Part {
    /// Bytes that were transferred.
    pub(crate) fn transferring(what: &str, current: u64, done: bool) -> Part {
        let id = format!("transferring {what}:");
        Part { id, name: "transferring".into(), current, total: 0, done }
    }

    /// Something that is done, in words.
    pub(crate) fn word(id: impl Into<String>) -> Part {
        Part { id: id.into(), name: String::new(), current: 0, total: 0, done: true }
    }
}

/// A piece of work of the door's own, shown as a vertex. Dropped unended, it was interrupted.
#[derive(Debug)]
pub(crate) struct Task {
    journal: Arc<Journal>,
    digest: String,
    ended: bool,
}

impl Task {
    /// A part of it advanced.
    pub(crate) fn part(&self, part: Part) {
        self.journal.part(self.digest.clone(), part, self.journal.clock.now());
    }

    /// It is over.
    pub(crate) fn end<T>(mut self, result: Result<T, Status>) -> Result<T, Status> {
        self.complete(result.as_ref().err().map(|s| s.message().to_owned()));
        result
    }

    fn complete(&mut self, error: Option<String>) {
        self.ended = true;
        let now = self.journal.clock.now();
        self.journal.vertex(self.digest.clone(), |v| {
            v.completed = Some(now.into());
            v.error = error.unwrap_or_default();
        });
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.ended {
            self.complete(Some("canceled".into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn journal() -> Arc<Journal> {
        Journal::new(Clock::fixed(Duration::from_secs(1000)))
    }

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn late_readers_hear_everything_and_the_end() {
        let journal = journal();
        let vertex = wharf_build::progress::Vertex {
            digest: digest("a"),
            inputs: vec![digest("b")],
            name: "[2/2] RUN make".into(),
            step: None,
        };
        journal.event(Event::Announced(Arc::new(vertex)));
        journal.event(Event::Started { vertex: digest("a"), at: at(1) });
        journal.event(Event::Done {
            vertex: digest("a"),
            at: at(2),
            cached: false,
            result: None,
            error: Some("exit code: 1".into()),
        });
        let (messages, next) = journal.read(0).await.unwrap();
        assert_eq!((messages.len(), next), (1, 3));
        let last = &messages[0].vertexes[2];
        assert_eq!(last.name, "[2/2] RUN make");
        assert_eq!(last.inputs, [digest("b").to_string()]);
        assert_eq!(last.started.unwrap().seconds, 1);
        assert_eq!(last.completed.unwrap().seconds, 2);
        assert_eq!(last.error, "exit code: 1");
        assert_eq!(journal.failed(), Some(digest("a").to_string()));
        journal.close();
        assert!(journal.read(next).await.is_none());
    }

    #[tokio::test]
    async fn readers_wait_for_news() {
        let journal = journal();
        let reading = tokio::spawn({
            let journal = journal.clone();
            async move { journal.read(0).await }
        });
        tokio::task::yield_now().await;
        journal.task("exporting").end(Ok(())).unwrap();
        let (messages, _) = reading.await.unwrap().unwrap();
        assert_eq!(messages[0].vertexes[0].name, "exporting");
        assert_eq!(journal.steps(), Steps { total: 1, completed: 1, ..Steps::default() });
    }

    #[test]
    fn output_is_cut_at_its_limit() {
        let journal = journal();
        for _ in 0..3 {
            let data = Bytes::from(vec![b'x'; LOG_LIMIT / 2 + 1]);
            journal.event(Event::Log {
                vertex: digest("a"),
                output: Output::Stdout,
                data,
                at: at(1),
            });
        }
        let logs: Vec<_> = journal.all().into_iter().flat_map(|m| m.logs).collect();
        let text = [&logs[0].msg[..], &logs[1].msg[..]].concat();
        assert_eq!(logs.len(), 2);
        assert!(text.ends_with(b"x\n[output clipped, log limit 2MiB reached]\n"));
    }

    #[test]
    fn work_that_is_dropped_shows_as_interrupted() {
        let journal = journal();
        drop(journal.task("exporting"));
        assert_eq!(journal.all()[0].vertexes[1].error, "canceled");
    }
}
