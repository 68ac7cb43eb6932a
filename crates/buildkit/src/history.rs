//! Builds that have ended: what they were, how they ended, and everything they told.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use prost::Message;
use tokio::sync::broadcast;
use tonic::Status;
use wharf_base::clock::Clock;
use wharf_base::fs::{Durability, write_atomic};
use wharf_base::sync::Mutex;
use wharf_spec::digest::Digest;

use crate::builds::Build;
use crate::fault;
use crate::proto::moby::buildkit::v1::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, StatusResponse,
};

/// Builds that are kept; pinned ones do not count.
const MOST: usize = 50;
/// Events that a slow listener may be behind.
const BEHIND: usize = 256;

/// The file of one build.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(message, optional, tag = "1")]
    record: Option<BuildHistoryRecord>,
    #[prost(message, repeated, tag = "2")]
    told: Vec<StatusResponse>,
}

/// All that is kept, in a directory: a file for each build.
#[derive(Debug)]
pub(crate) struct History {
    dir: PathBuf,
    records: Mutex<BTreeMap<String, BuildHistoryRecord>>,
    news: broadcast::Sender<BuildHistoryEvent>,
    clock: Clock,
}

impl History {
    /// What is kept in `dir`, which is made if it is missing. Blocks.
    pub(crate) fn open(dir: PathBuf, clock: Clock) -> io::Result<Arc<History>> {
        wharf_base::fs::private_dir(&dir)?;
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let stored = Stored::decode(&fs::read(&path)?[..]).unwrap_or_default();
            match stored.record {
                Some(record) => drop(records.insert(record.r#ref.clone(), record)),
                // Of another version, or torn by a loss of power.
                None => fs::remove_file(&path)?,
            }
        }
        let news = broadcast::Sender::new(BEHIND);
        Ok(Arc::new(History { dir, records: Mutex::new(records), news, clock }))
    }

    /// Follows a build to its end.
    pub(crate) fn follow(self: &Arc<Self>, build: &Arc<Build>) -> Recording {
        if !build.request.internal {
            self.tell(BuildHistoryEventType::Started, self.running(build));
        }
        Recording { history: self.clone(), build: build.clone(), ended: false }
    }

    /// The record of a build that runs.
    pub(crate) fn running(&self, build: &Build) -> BuildHistoryRecord {
        let (frontend, frontend_attrs) = build.frontend();
        let steps = build.journal.steps();
        BuildHistoryRecord {
            r#ref: build.request.r#ref.clone(),
            frontend,
            frontend_attrs,
            exporters: build.request.exporters.clone(),
            created_at: Some(build.began.into()),
            num_cached_steps: steps.cached,
            num_total_steps: steps.total,
            num_completed_steps: steps.completed,
            num_warnings: steps.warnings,
            ..BuildHistoryRecord::default()
        }
    }

    /// The builds that have ended, the newest first.
    pub(crate) fn ended(&self) -> Vec<BuildHistoryRecord> {
        let mut found: Vec<_> = self.records.lock().values().cloned().collect();
        found.sort_by_key(|r| std::cmp::Reverse(created(r)));
        found
    }

    /// What happens from now on.
    pub(crate) fn news(&self) -> broadcast::Receiver<BuildHistoryEvent> {
        self.news.subscribe()
    }

    /// Everything that a build told. Blocks.
    pub(crate) fn told(&self, reference: &str) -> Option<Vec<StatusResponse>> {
        if !self.records.lock().contains_key(reference) {
            return None;
        }
        let bytes = fs::read(self.path(reference)).ok()?;
        Some(Stored::decode(&bytes[..]).ok()?.told)
    }

    /// Pins a build or lets it go. Blocks.
    pub(crate) fn pin(&self, reference: &str, pinned: bool) -> Result<(), Status> {
        let mut record = self.record(reference)?;
        record.pinned = pinned;
        let told = self.told(reference).unwrap_or_default();
        self.keep(record, told);
        Ok(())
    }

    /// Forgets a build. Blocks.
    pub(crate) fn delete(&self, reference: &str) -> Result<(), Status> {
        let record = self.record(reference)?;
        self.forget(&record);
        Ok(())
    }

    fn record(&self, reference: &str) -> Result<BuildHistoryRecord, Status> {
        let found = self.records.lock().get(reference).cloned();
        found.ok_or_else(|| Status::not_found(format!("no build record {reference}")))
    }

    fn keep(&self, record: BuildHistoryRecord, told: Vec<StatusResponse>) {
        let reference = record.r#ref.clone();
        let stored = Stored { record: Some(record.clone()), told };
        let path = self.path(&reference);
        if let Err(error) = write_atomic(&path, &stored.encode_to_vec(), 0o600, Durability::Process)
        {
            tracing::warn!(reference, %error, "a build's record cannot be written");
        }
        self.records.lock().insert(reference, record.clone());
        self.tell(BuildHistoryEventType::Complete, record);
        let surplus: Vec<_> = {
            let records = self.records.lock();
            let mut loose: Vec<_> = records.values().filter(|r| !r.pinned).collect();
            loose.sort_by_key(|r| std::cmp::Reverse(created(r)));
            loose.into_iter().skip(MOST).cloned().collect()
        };
        surplus.iter().for_each(|record| self.forget(record));
    }

    fn forget(&self, record: &BuildHistoryRecord) {
        self.records.lock().remove(&record.r#ref);
        if let Err(error) = fs::remove_file(self.path(&record.r#ref)) {
            tracing::warn!(reference = record.r#ref, %error, "a build's record cannot be removed");
        }
        let gone = BuildHistoryRecord { r#ref: record.r#ref.clone(), ..Default::default() };
        self.tell(BuildHistoryEventType::Deleted, gone);
    }

    fn tell(&self, kind: BuildHistoryEventType, record: BuildHistoryRecord) {
        // Nobody may be listening.
        drop(self.news.send(BuildHistoryEvent { r#type: kind.into(), record: Some(record) }));
    }

    /// References are the client's to choose, so they are no file names.
    fn path(&self, reference: &str) -> PathBuf {
        self.dir.join(Digest::sha256(reference.as_bytes()).hex())
    }
}

fn created(record: &BuildHistoryRecord) -> (i64, i32) {
    record.created_at.map_or((0, 0), |t| (t.seconds, t.nanos))
}

/// Writes down how a build ends. Dropped before that, it was cancelled.
#[derive(Debug)]
pub(crate) struct Recording {
    history: Arc<History>,
    build: Arc<Build>,
    ended: bool,
}

impl Recording {
    /// It has ended.
    pub(crate) fn end(mut self, how: Result<&std::collections::HashMap<String, String>, &Status>) {
        self.write(how);
    }

    fn write(&mut self, how: Result<&std::collections::HashMap<String, String>, &Status>) {
        self.ended = true;
        if self.build.request.internal {
            return;
        }
        let mut record = self.history.running(&self.build);
        record.completed_at = Some(self.history.clock.now().into());
        match how {
            Ok(answer) => record.exporter_response.clone_from(answer),
            Err(status) => record.error = Some(fault::kept(status)),
        }
        self.history.keep(record, self.build.journal.all());
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !self.ended {
            self.write(Err(&Status::cancelled("context canceled")));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::builds::Builds;
    use crate::proto::moby::buildkit::v1::SolveRequest;

    fn run(history: &Arc<History>, reference: &str, end: bool) {
        let request = SolveRequest { r#ref: reference.into(), ..SolveRequest::default() };
        let (started, _) = Builds::default().start(request, history.clock.clone()).unwrap();
        let recording = history.follow(&started.build);
        started.build.journal.task("exporting").end(Ok(())).unwrap();
        if end {
            recording.end(Ok(&HashMap::from([("image.name".to_owned(), "x".to_owned())])));
        }
        history.clock.advance(std::time::Duration::from_secs(1));
    }

    #[test]
    fn builds_are_remembered_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::fixed(std::time::Duration::from_secs(1));
        let history = History::open(dir.path().to_owned(), clock.clone()).unwrap();
        let mut news = history.news();
        run(&history, "first", true);
        run(&history, "../second", false);
        let history = History::open(dir.path().to_owned(), clock).unwrap();
        let ended = history.ended();
        assert_eq!(ended[0].r#ref, "../second");
        assert_eq!(ended[0].error.as_ref().unwrap().code, 1);
        assert_eq!(ended[1].exporter_response["image.name"], "x");
        assert_eq!((ended[1].num_total_steps, ended[1].num_completed_steps), (1, 1));
        assert_eq!(history.told("first").unwrap()[0].vertexes[0].name, "exporting");
        assert_eq!(history.told("other"), None);
        let kinds: Vec<i32> =
            std::iter::from_fn(|| news.try_recv().ok()).map(|e| e.r#type).collect();
        assert_eq!(kinds, [0, 1, 0, 1]);
        history.delete("first").unwrap();
        assert_eq!(history.delete("first").unwrap_err().code(), tonic::Code::NotFound);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn old_builds_go_unless_they_are_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let history =
            History::open(dir.path().to_owned(), Clock::fixed(Default::default())).unwrap();
        run(&history, "pinned", true);
        history.pin("pinned", true).unwrap();
        for n in 0..=MOST {
            run(&history, &n.to_string(), true);
        }
        assert_eq!(history.ended().len(), MOST + 1);
        assert!(history.told("pinned").is_some());
        assert!(history.told("0").is_none());
    }
}
