//! The driver of the loops: one stream in, a queue of names for each loop, a few workers on each queue.

use crate::events::Recorder;
use crate::world::{Before, Key, World};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wharf_base::sync::Mutex;
use wharf_client::{At, Change, Cluster, Deletion, Item, Object, Question, Resource, Write};
use wharf_kube::status::Fault;

/// Between a failure and the next try: doubled each time, from and up to here.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// When a step is to be done again although nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// When something changes.
    Change,
    /// After this time, or when something changes.
    After(Duration),
}

/// One loop.
pub trait Loop: Send + Sync + 'static {
    /// Its account in kube-system, and what it is called in logs.
    fn name(&self) -> &'static str;

    /// Whom it acts as.
    fn user(&self) -> String {
        format!("system:serviceaccount:kube-system:{}", self.name())
    }

    /// What it is called in the events that it records.
    fn component(&self) -> &'static str {
        self.name()
    }

    /// How many names are worked on at once.
    fn workers(&self) -> usize {
        1
    }

    /// The names that a change makes worth a look. The world has seen it already; `before` is what it held.
    fn wake(&self, world: &World, change: &Change, before: &Before) -> Vec<Key>;

    /// Moves what one name stands for towards what it should be.
    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>>;
}

/// What a step acts through: the world that it reads, and the cluster that it writes to.
pub struct Context {
    /// What there is.
    pub world: Arc<World>,
    cluster: Arc<dyn Cluster>,
    events: Arc<Recorder>,
    /// The revision of the last write of the step.
    wrote: Arc<Mutex<i64>>,
}

impl Context {
    /// Seconds since 1970.
    pub fn now(&self) -> i64 {
        self.cluster.now()
    }

    /// Now, as objects carry it.
    pub fn timestamp(&self) -> String {
        wharf_kube::time::format_seconds(self.now())
    }

    /// The same step acting as another user.
    pub fn acting(&self, user: &str) -> Context {
        let cluster = self.cluster.as_user(user);
        let (world, events) = (Arc::clone(&self.world), Arc::clone(&self.events));
        Context { world, cluster, events, wrote: Arc::clone(&self.wrote) }
    }

    /// Tells people what became of an object, as an Event beside it. `warning` says that it is none they like.
    /// An event that cannot be stored is lost: nothing depends on it.
    pub async fn tell(&self, about: &Value, warning: bool, reason: &str, message: &str) {
        self.events.record(&*self.cluster, about, warning, reason, message).await;
    }

    /// The resource of a kind, and whether its objects have namespaces; nothing for one that is not kept here.
    pub fn lookup(&self, api_version: &str, kind: &str) -> Option<(Resource, bool)> {
        self.cluster.lookup(api_version, kind)
    }

    /// A token of the old kind with these claims.
    pub fn account_token(&self, claims: &Value) -> Option<String> {
        self.cluster.account_token(claims)
    }

    /// Sends any request, for what is no object: scales, and what others serve.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        body: Value,
    ) -> Result<Value, Fault> {
        self.cluster.ask(method, path, query, body).await
    }

    /// Whether somebody may do something.
    pub async fn may(&self, question: Question<'_>) -> Result<bool, Fault> {
        self.cluster.may(question).await
    }

    /// Reads an object that the world does not keep.
    pub async fn read(&self, at: At<'_>) -> Result<Object, Fault> {
        self.cluster.get(at).await
    }

    /// Creates an object.
    pub async fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        object: Value,
    ) -> Result<Object, Fault> {
        let made = self.cluster.create(resource, namespace, object).await?;
        self.note(crate::world::written(&made));
        Ok(made)
    }

    /// Changes an object.
    pub async fn write(
        &self,
        at: At<'_>,
        subresource: Option<&str>,
        write: Write,
    ) -> Result<Object, Fault> {
        let changed = self.cluster.write(at, subresource, write).await?;
        self.note(crate::world::written(&changed));
        Ok(changed)
    }

    /// Deletes an object. One that is gone already is none to complain about.
    pub async fn delete(&self, at: At<'_>, how: Deletion) -> Result<(), Fault> {
        match self.cluster.delete(at, how).await {
            Ok(revision) => {
                self.note(revision);
                Ok(())
            }
            Err(f) if f.code == 404 => Ok(()),
            Err(f) => Err(f),
        }
    }

    /// Puts a pod on a node.
    pub async fn bind(&self, namespace: &str, pod: &str, node: &str) -> Result<(), Fault> {
        self.note(self.cluster.bind(namespace, pod, node).await?);
        Ok(())
    }

    fn note(&self, revision: i64) {
        let mut wrote = self.wrote.lock();
        *wrote = revision.max(*wrote);
    }
}

/// Names that wait for a step.
#[derive(Default)]
struct Queue {
    state: Mutex<Waiting>,
    bell: Notify,
}

#[derive(Default)]
struct Waiting {
    dirty: BTreeSet<Key>,
    busy: HashSet<Key>,
    later: BTreeSet<(Instant, Key)>,
    /// When each name of `later` is due: each is there once.
    due: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

impl Waiting {
    /// Moves what is due to what is to be done.
    fn ripen(&mut self, now: Instant) {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.later.pop_first() {
                self.due.remove(&key);
                self.dirty.insert(key);
            }
        }
    }

    /// The last step's answer is the one that counts: it takes the place of an earlier one.
    fn schedule(&mut self, key: Key, at: Option<Instant>) {
        if let Some(old) = self.due.remove(&key) {
            self.later.remove(&(old, key.clone()));
        }
        if let Some(at) = at {
            self.due.insert(key.clone(), at);
            self.later.insert((at, key));
        }
    }
}

impl Queue {
    fn add(&self, keys: Vec<Key>) {
        if keys.is_empty() {
            return;
        }
        self.state.lock().dirty.extend(keys);
        self.bell.notify_one();
    }

    /// The next name that nobody works on.
    async fn take(&self) -> Key {
        loop {
            let bell = self.bell.notified();
            let due = {
                let mut w = self.state.lock();
                w.ripen(Instant::now());
                let free = w.dirty.iter().find(|k| !w.busy.contains(*k)).cloned();
                if let Some(key) = free {
                    w.dirty.remove(&key);
                    w.busy.insert(key.clone());
                    let more = !w.dirty.is_empty();
                    drop(w);
                    if more {
                        // Another worker may be idle.
                        self.bell.notify_one();
                    }
                    return key;
                }
                w.later.first().map(|(at, _)| *at)
            };
            match due {
                Some(at) => {
                    tokio::select! {
                        () = bell => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => bell.await,
            }
        }
    }

    /// A step is done; says how long until the name is looked at again.
    fn done(&self, key: Key, outcome: &Result<Next, Fault>) -> Option<Duration> {
        let mut w = self.state.lock();
        w.busy.remove(&key);
        let again = match outcome {
            Ok(next) => {
                w.failures.remove(&key);
                match next {
                    Next::Change => None,
                    Next::After(time) => Some(*time),
                }
            }
            Err(_) => {
                let n = w.failures.entry(key.clone()).or_default();
                *n = (*n + 1).min(16);
                Some((FIRST_PAUSE * (1 << (*n - 1))).min(LONGEST_PAUSE))
            }
        };
        // What is further away than a clock can say is not waited for.
        w.schedule(key, again.and_then(|time| Instant::now().checked_add(time)));
        drop(w);
        self.bell.notify_one();
        again
    }
}

/// Starts loops over a cluster. They end when the set is dropped.
pub fn start(cluster: &Arc<dyn Cluster>, loops: Vec<Arc<dyn Loop>>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let world = Arc::new(World::default());
    let loops: Vec<(Arc<dyn Loop>, Arc<Queue>)> =
        loops.into_iter().map(|l| (l, Arc::<Queue>::default())).collect();
    for (l, queue) in &loops {
        let events = Arc::new(Recorder::new(l.component()));
        for _ in 0..l.workers() {
            let cluster = cluster.as_user(&l.user());
            let (world, events) = (Arc::clone(&world), Arc::clone(&events));
            let cx = Context { world, cluster, events, wrote: Arc::default() };
            tasks.spawn(work(Arc::clone(l), Arc::clone(queue), cx));
        }
    }
    tasks.spawn(feed(Arc::clone(cluster), world, loops));
    tasks
}

async fn work(l: Arc<dyn Loop>, queue: Arc<Queue>, cx: Context) {
    // Nothing may be concluded from a world that is not yet complete.
    cx.world.reached(1).await;
    loop {
        let key = queue.take().await;
        // A step that panics fails like any other: its worker and the names behind it go on.
        let step = AssertUnwindSafe(l.step(&cx, &key)).catch_unwind().await;
        let outcome = step.unwrap_or_else(|_| Err(Fault::internal("a step panicked")));
        if let Err(f) = &outcome {
            // Others write as well: a conflict or a missing object is looked at again and is no news.
            if matches!(f.code, 404 | 409) {
                tracing::debug!(name = l.name(), object = %key.name, error = %f, "a step is done again");
            } else {
                tracing::warn!(name = l.name(), namespace = %key.namespace, object = %key.name, error = %f, "a step failed");
            }
        }
        // The next step must see what this one did.
        let wrote = *cx.wrote.lock();
        cx.world.reached(wrote).await;
        queue.done(key, &outcome);
    }
}

/// Keeps the world, and rings for what changed.
async fn feed(
    cluster: Arc<dyn Cluster>,
    world: Arc<World>,
    loops: Vec<(Arc<dyn Loop>, Arc<Queue>)>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Err(f) = follow(&cluster, &world, &loops, &mut pause).await {
            tracing::warn!(error = %f, "the stream of changes ended and is begun again");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn follow(
    cluster: &Arc<dyn Cluster>,
    world: &World,
    loops: &[(Arc<dyn Loop>, Arc<Queue>)],
    pause: &mut Duration,
) -> Result<(), Fault> {
    let mut changes = cluster.follow().await?;
    let mut seen = Some(BTreeSet::new());
    loop {
        match changes.next().await? {
            Item::Changes { revision, changes } => {
                for change in &changes {
                    if let Some(seen) = &mut seen {
                        seen.insert(((*change.resource).clone(), Key::of(&change.object)));
                    }
                    tell(world, loops, change);
                }
                if seen.is_none() {
                    world.advance(revision);
                }
            }
            Item::Synced(revision) => {
                for gone in world.missing(&seen.take().unwrap_or_default()) {
                    tell(world, loops, &gone);
                }
                *pause = FIRST_PAUSE;
                world.advance(revision.max(1));
            }
        }
    }
}

fn tell(world: &World, loops: &[(Arc<dyn Loop>, Arc<Queue>)], change: &Change) {
    let before = world.apply(change);
    for (l, queue) in loops {
        queue.add(l.wake(world, change, &before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("", name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_waits_for_one_time_only() {
        let q = Queue::default();
        for _ in 0..3 {
            q.add(vec![key("a")]);
            let k = q.take().await;
            q.done(k, &Ok(Next::After(Duration::from_secs(10))));
        }
        assert_eq!(q.state.lock().later.len(), 1);
        let begun = Instant::now();
        let k = q.take().await;
        assert_eq!((k.name.as_str(), begun.elapsed().as_secs()), ("a", 10));
        q.done(k, &Ok(Next::Change));
        let w = q.state.lock();
        assert!(w.later.is_empty() && w.due.is_empty() && w.dirty.is_empty() && w.busy.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_waits_longer_each_time_and_starts_over_after_success() {
        let q = Queue::default();
        q.add(vec![key("a")]);
        let mut pauses = Vec::new();
        for n in 0..4 {
            let k = q.take().await;
            let outcome =
                if n == 2 { Ok(Next::After(Duration::ZERO)) } else { Err(Fault::internal("no")) };
            pauses.push(q.done(k, &outcome).map_or(0, |d| d.as_millis()));
        }
        assert_eq!(pauses, [20, 40, 0, 20]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_in_work_is_not_taken_twice() {
        let q = Queue::default();
        q.add(vec![key("a")]);
        let k = q.take().await;
        q.add(vec![key("a"), key("b")]);
        assert_eq!(q.take().await, key("b"));
        let second = tokio::time::timeout(Duration::from_secs(1), q.take()).await;
        assert!(second.is_err());
        q.done(k, &Ok(Next::Change));
        assert_eq!(q.take().await, key("a"));
    }
}
