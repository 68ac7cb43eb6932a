//! The driver of the loops: one stream in, a queue of names for each loop, a few workers on each queue.

use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, HashSet};
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
        Context { world: Arc::clone(&self.world), cluster, wrote: Arc::clone(&self.wrote) }
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
    failures: HashMap<Key, u32>,
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
                let now = Instant::now();
                while let Some((at, _)) = w.later.first()
                    && *at <= now
                {
                    if let Some((_, key)) = w.later.pop_first() {
                        w.dirty.insert(key);
                    }
                }
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
        if let Some(time) = again {
            w.later.insert((Instant::now() + time, key));
        }
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
        for _ in 0..l.workers() {
            let cluster = cluster.as_user(&l.user());
            let cx = Context { world: Arc::clone(&world), cluster, wrote: Arc::default() };
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
        let outcome = l.step(&cx, &key).await;
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
