//! Builds under way, by the reference that their client gave them: calls about one may come before it does.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use wharf_base::clock::Clock;
use wharf_base::sync::Mutex;
use wharf_build::Tree;

use crate::journal::Journal;
use crate::proto::moby::buildkit::v1::SolveRequest;
use crate::proto::moby::buildkit::v1::frontend::ReturnRequest;
use crate::solve::Outcome;

/// How long a call waits for the build that it is about. BuildKit's value.
const PATIENCE: Duration = Duration::from_secs(6);
/// Builds that have ended and can still be listened to.
const ENDED: usize = 16;

/// The builds of now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Builds(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    running: Mutex<HashMap<String, Arc<Build>>>,
    /// What the last ones told that have ended: one that ends at once may be asked about after that.
    ended: Mutex<VecDeque<(String, Arc<Journal>)>>,
    /// Results by their own id, also for other builds of the same client.
    outcomes: Mutex<HashMap<String, Weak<Outcome>>>,
    changed: watch::Sender<()>,
}

impl Default for Inner {
    fn default() -> Inner {
        let changed = watch::Sender::new(());
        let (running, ended) = (Mutex::default(), Mutex::default());
        Inner { running, ended, outcomes: Mutex::default(), changed }
    }
}

/// One build, from `Control.Solve` to its answer.
#[derive(Debug)]
pub(crate) struct Build {
    /// When it began.
    pub(crate) began: SystemTime,
    /// What the client asked for.
    pub(crate) request: SolveRequest,
    /// What is told about it.
    pub(crate) journal: Arc<Journal>,
    /// Ends what is done for it.
    pub(crate) cancel: CancellationToken,
    outcomes: Mutex<Vec<Arc<Outcome>>>,
    /// A context that came with the request.
    context: Mutex<Option<Tree>>,
    /// Options of the frontend that ran, for the history.
    frontend: Mutex<(String, HashMap<String, String>)>,
    returned: Mutex<Option<oneshot::Sender<ReturnRequest>>>,
}

impl Builds {
    /// Registers a build; the receiver gets what its client returns. It is taken off when the guard is dropped.
    pub(crate) fn start(
        &self,
        request: SolveRequest,
        clock: Clock,
    ) -> Result<(Started, oneshot::Receiver<ReturnRequest>), Status> {
        let reference = request.r#ref.clone();
        if reference.is_empty() {
            return Err(Status::invalid_argument("a build needs a reference"));
        }
        let (sender, receiver) = oneshot::channel();
        let frontend = (request.frontend.clone(), request.frontend_attrs.clone());
        let build = Arc::new(Build {
            began: clock.now(),
            request,
            journal: Journal::new(clock),
            cancel: CancellationToken::new(),
            outcomes: Mutex::default(),
            context: Mutex::default(),
            frontend: Mutex::new(frontend),
            returned: Mutex::new(Some(sender)),
        });
        let mut running = self.0.running.lock();
        if running.contains_key(&reference) {
            return Err(Status::already_exists(format!("build {reference} already exists")));
        }
        running.insert(reference, build.clone());
        drop(running);
        self.0.changed.send_replace(());
        Ok((Started { builds: self.clone(), build }, receiver))
    }

    /// The build of that reference, if it runs.
    pub(crate) fn running(&self, reference: &str) -> Option<Arc<Build>> {
        self.0.running.lock().get(reference).cloned()
    }

    /// All that run.
    pub(crate) fn all(&self) -> Vec<Arc<Build>> {
        self.0.running.lock().values().cloned().collect()
    }

    /// The build of that reference, if need be after a short wait for it.
    pub(crate) async fn find(&self, reference: &str) -> Result<Arc<Build>, Status> {
        self.wait(reference, || self.running(reference)).await
    }

    /// What the build of that reference tells, also if it has ended.
    pub(crate) async fn journal(&self, reference: &str) -> Result<Arc<Journal>, Status> {
        let look = || {
            let running = self.running(reference).map(|b| b.journal.clone());
            running.or_else(|| {
                let ended = self.0.ended.lock();
                ended.iter().find(|(r, _)| r == reference).map(|(_, journal)| journal.clone())
            })
        };
        self.wait(reference, look).await
    }

    async fn wait<T>(&self, reference: &str, look: impl Fn() -> Option<T>) -> Result<T, Status> {
        let mut changed = self.0.changed.subscribe();
        let look = async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = look() {
                    return Some(found);
                }
                changed.changed().await.ok()?;
            }
        };
        let found = tokio::time::timeout(PATIENCE, look).await.ok().flatten();
        found.ok_or_else(|| Status::not_found(format!("no such job {reference}")))
    }

    /// Keeps a result of `build` until that ends.
    pub(crate) fn keep(&self, build: &Build, outcome: Arc<Outcome>) {
        let mut outcomes = self.0.outcomes.lock();
        outcomes.retain(|_, o| o.strong_count() > 0);
        outcomes.insert(outcome.id.clone(), Arc::downgrade(&outcome));
        build.outcomes.lock().push(outcome);
    }

    /// The result with that id, of whichever build.
    pub(crate) fn outcome(&self, id: &str) -> Result<Arc<Outcome>, Status> {
        let found = self.0.outcomes.lock().get(id).and_then(Weak::upgrade);
        found.ok_or_else(|| Status::not_found(format!("no such ref: {id}")))
    }
}

impl Build {
    /// Gives it the context that came with the request.
    pub(crate) fn lend(&self, context: Option<Tree>) {
        *self.context.lock() = context;
    }

    /// The context that came with the request.
    pub(crate) fn context(&self) -> Option<Tree> {
        self.context.lock().clone()
    }

    /// Remembers which frontend ran, with which options.
    pub(crate) fn ran(&self, frontend: &str, options: &HashMap<String, String>) {
        *self.frontend.lock() = (frontend.to_owned(), options.clone());
    }

    /// The frontend that ran, and its options.
    pub(crate) fn frontend(&self) -> (String, HashMap<String, String>) {
        self.frontend.lock().clone()
    }

    /// Takes what the client returns; a client returns once.
    pub(crate) fn give_back(&self, result: ReturnRequest) -> Result<(), Status> {
        let sender = self.returned.lock().take();
        let sender = sender.ok_or_else(|| Status::failed_precondition("the build has returned"))?;
        sender.send(result).map_err(|_| Status::cancelled("the build has ended"))
    }
}

/// A build on the list. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Started {
    builds: Builds,
    pub(crate) build: Arc<Build>,
}

impl Drop for Started {
    fn drop(&mut self) {
        self.build.cancel.cancel();
        self.build.journal.close();
        let reference = &self.build.request.r#ref;
        let mut ended = self.builds.0.ended.lock();
        ended.push_front((reference.clone(), self.build.journal.clone()));
        ended.truncate(ENDED);
        drop(ended);
        self.builds.0.running.lock().remove(reference);
        self.build.outcomes.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(reference: &str) -> SolveRequest {
        SolveRequest { r#ref: reference.into(), ..SolveRequest::default() }
    }

    fn clock() -> Clock {
        Clock::fixed(Duration::ZERO)
    }

    #[tokio::test]
    async fn a_call_may_come_before_its_build() {
        let builds = Builds::default();
        let calling = tokio::spawn({
            let builds = builds.clone();
            async move { builds.find("r").await }
        });
        tokio::task::yield_now().await;
        let (started, mut returned) = builds.start(request("r"), clock()).unwrap();
        let found = calling.await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&found, &started.build));
        assert!(builds.start(request("r"), clock()).is_err());
        found.give_back(ReturnRequest::default()).unwrap();
        assert!(found.give_back(ReturnRequest::default()).is_err());
        assert!(returned.try_recv().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_build_ends_what_waits_for_it() {
        let builds = Builds::default();
        let (started, _returned) = builds.start(request("r"), clock()).unwrap();
        let build = started.build.clone();
        drop(started);
        assert!(build.cancel.is_cancelled());
        assert!(build.journal.read(0).await.is_none());
        assert_eq!(builds.find("r").await.unwrap_err().message(), "no such job r");
        assert!(builds.start(request(""), clock()).is_err());
        assert!(builds.journal("r").await.unwrap().read(0).await.is_none());
    }
}
