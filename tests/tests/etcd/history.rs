//! Recorded histories of many clients, and the judgement whether some order of their operations explains them.
//!
//! Revisions name that order: every change has one, and every reply tells which revision it saw. So a history is
//! linearizable if the store's own order of changes explains each reply, and contradicts no two operations of which
//! one had ended before the other began.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use wharf_base::sync::Mutex;
use wharf_etcd::{
    Compare, KeyRange, Op, OpReply, Put, Range, Revision, Store, Txn, WatchItem, WatchRequest,
};

/// Keys that clients fight for.
const KEYS: u64 = 5;

/// What one client did. Times are ticks of a counter that all clients share.
struct Done {
    began: u64,
    ended: u64,
    what: What,
}

enum What {
    /// A write that was acknowledged.
    Wrote { key: String, value: String, revision: Revision },
    /// A read of one key.
    Read { key: String, value: Option<String>, revision: Revision },
}

/// What all clients of a run share.
#[derive(Default)]
pub(crate) struct History {
    ticks: AtomicU64,
    done: Mutex<Vec<Done>>,
    stop: AtomicBool,
    acknowledged: AtomicU64,
    unknown: AtomicU64,
}

impl History {
    /// How many writes were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// How many writes may or may not have happened.
    pub(crate) fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// Has the clients finish.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    /// Client `name`: writes, reads and swaps until it is told to stop, whatever becomes of the store.
    pub(crate) async fn client(self: Arc<History>, name: u64, store: Arc<dyn Store>) {
        let mut dice = name + 1;
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let key = format!("fought/{}", (dice >> 40) % KEYS);
            let value = format!("{name}.{n}");
            match (dice >> 20) % 4 {
                0 => self.read(&*store, key).await,
                1 => self.swap(&*store, key, value).await,
                _ => self.write(&*store, key, value, None).await,
            }
        }
    }

    async fn write(&self, store: &dyn Store, key: String, value: String, at: Option<Revision>) {
        let began = self.tick();
        let when = at.map(|at| Compare::unchanged(key.clone(), at)).into_iter().collect();
        let then = vec![Op::Put(Put::new(key.clone(), value.clone()))];
        let reply = store.txn(Txn { when, then, otherwise: Vec::new() }).await;
        let ended = self.tick();
        match reply {
            Ok(reply) if reply.succeeded => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                let what = What::Wrote { key, value, revision: reply.revision };
                self.done.lock().push(Done { began, ended, what });
            }
            Ok(_) => (),
            Err(e) => {
                assert!(e.is_ambiguous(), "{e:?}");
                self.unknown.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }

    async fn read(&self, store: &dyn Store, key: String) {
        let began = self.tick();
        let reply = store.range(Range::new(KeyRange::key(key.clone()))).await;
        let ended = self.tick();
        if let Ok(reply) = reply {
            let value = reply.kvs.first().map(|kv| text(kv.value()));
            let what = What::Read { key, value, revision: reply.revision };
            self.done.lock().push(Done { began, ended, what });
        }
    }

    /// Writes only if nobody else did since it looked.
    async fn swap(&self, store: &dyn Store, key: String, value: String) {
        if let Ok(seen) = store.range(Range::new(KeyRange::key(key.clone()))).await {
            let at = seen.kvs.first().map_or(Revision(0), |kv| kv.mod_revision());
            self.write(store, key, value, Some(at)).await;
        }
    }

    /// Judges the run by the store's own order of changes, as one watch has told it.
    pub(crate) fn judge(&self, changes: &[Change]) {
        let mut states: HashMap<&str, BTreeMap<Revision, &str>> = HashMap::new();
        let mut by_revision = BTreeMap::new();
        let mut values = HashMap::new();
        let mut last = Revision(0);
        for change in changes {
            assert!(change.revision > last, "{change:?} came after revision {last}");
            last = change.revision;
            let twice = values.insert(&*change.value, change.revision);
            assert_eq!(twice, None, "{change:?} happened twice");
            states.entry(&change.key).or_default().insert(change.revision, &change.value);
            by_revision.insert(change.revision, change);
        }
        let mut done = self.done.lock();
        for Done { what, .. } in done.iter() {
            match what {
                What::Wrote { key, value, revision } => {
                    let told = by_revision.get(revision).map(|c| (&c.key, &c.value));
                    assert_eq!(told, Some((key, value)), "acknowledged at {revision}");
                }
                What::Read { key, value, revision } => {
                    let before = states.get(&**key).and_then(|s| s.range(..=*revision).next_back());
                    let expected = before.map(|(_, value)| *value);
                    assert_eq!(value.as_deref(), expected, "{key} read at {revision}");
                }
            }
        }
        in_real_time(&mut done);
    }
}

/// Whoever began after another had ended must have seen at least what that one saw.
fn in_real_time(done: &mut [Done]) {
    let revision = |d: &Done| match d.what {
        What::Wrote { revision, .. } => (revision, true),
        What::Read { revision, .. } => (revision, false),
    };
    let mut ends: Vec<(u64, Revision)> = done.iter().map(|d| (d.ended, revision(d).0)).collect();
    ends.sort_unstable();
    done.sort_unstable_by_key(|d| d.began);
    let (mut ended, mut seen) = (ends.into_iter().peekable(), Revision(0));
    for d in done.iter() {
        while let Some((_, revision)) = ended.next_if(|(end, _)| *end < d.began) {
            seen = seen.max(revision);
        }
        let (own, writes) = revision(d);
        assert!(own > seen || (own == seen && !writes), "revision {own} after {seen} was known");
    }
}

/// A change as a watch tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    revision: Revision,
    key: String,
    value: String,
}

/// Follows every fought for key from the store's beginning through all that happens to it, until `until` says that
/// nothing more will come.
pub(crate) async fn follow(
    store: Arc<dyn Store>,
    until: Arc<Mutex<Option<Revision>>>,
) -> Vec<Change> {
    let request = WatchRequest::new(KeyRange::prefix("fought/")).from(Revision(1));
    let mut watch = store.watch(request).await.unwrap();
    let mut changes = Vec::new();
    loop {
        let item = tokio::time::timeout(std::time::Duration::from_millis(200), watch.next()).await;
        if let Ok(item) = item
            && let WatchItem::Events { events, .. } = item.unwrap()
        {
            changes.extend(events.iter().map(|e| Change {
                revision: e.kv.mod_revision(),
                key: text(e.kv.key()),
                value: text(e.kv.value()),
            }));
        }
        let last = changes.last().map_or(Revision(0), |c| c.revision);
        if until.lock().is_some_and(|until| last >= until) {
            return changes;
        }
    }
}

/// Writes a last change and gives its revision.
pub(crate) async fn close(store: &dyn Store) -> Revision {
    loop {
        let put = store.txn(Txn {
            then: vec![
                Op::Put(Put::new("fought/end", "end")),
                Op::Range(Range::new(KeyRange::key("fought/end"))),
            ],
            when: vec![Compare::absent("fought/end")],
            otherwise: vec![Op::Range(Range::new(KeyRange::key("fought/end")))],
        });
        if let Ok(reply) = put.await
            && let Some(OpReply::Range(found)) = reply.replies.last()
        {
            return found.kvs[0].mod_revision();
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
