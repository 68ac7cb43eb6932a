//! What every store must do, whatever it is made of.
//!
//! Each check works under a prefix of its own, so that all of them can share one store.

use std::time::Duration;

use bytes::Bytes;
use wharf_etcd::{
    Compare, Delete, Event, EventKind, KeyRange, Kv, LeaseRequest, Op, OpReply, Put, Range,
    RangeReply, Relation, Revision, Store, StoreError, Target, Txn, TxnReply, Watch, WatchItem,
    WatchRequest,
};

/// How long a store may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs every check. Compaction comes last: it takes history away from the others.
pub(crate) async fn check(store: &dyn Store) {
    writes_count_versions(store).await;
    ranges_are_cut_and_counted(store).await;
    old_revisions_can_be_read(store).await;
    transactions_take_one_branch(store).await;
    compares_look_at_everything(store).await;
    broken_transactions_do_nothing(store).await;
    parts_of_a_key_can_be_kept(store).await;
    watches_deliver_in_order(store).await;
    watches_resume_from_history(store).await;
    watches_tell_their_progress(store).await;
    leases_take_their_keys_along(store).await;
    leases_end(store).await;
    compaction_takes_history(store).await;
}

/// What [`check`] leaves behind, for stores that are opened again.
pub(crate) async fn remains(store: &dyn Store) {
    let kept = only(get(store, "keep/a").await);
    assert_eq!((kept.value(), kept.lease(), kept.version()), (&b"other"[..], None, 3));
    assert_eq!(values(&store.range(Range::new(KeyRange::prefix("lease/"))).await.unwrap()), ["2"]);
    let compared = only(get(store, "compare/a").await);
    assert_eq!(store.lease(compared.lease().unwrap(), true).await.unwrap().keys, ["compare/a"]);
    let old = Range::new(KeyRange::prefix("compact/")).at(Revision(2));
    assert!(matches!(store.range(old).await, Err(StoreError::Compacted { .. })));
}

async fn writes_count_versions(store: &dyn Store) {
    let start = store.revision().await.unwrap();
    let one = put(store, "versions/a", "1").await;
    assert!(one.revision > start);
    let two = store.put(Put::new("versions/a", "2").previous()).await.unwrap();
    let OpReply::Put(Some(before)) = &two.replies[0] else { panic!("{two:?}") };
    assert_eq!((before.value(), before.version()), (&b"1"[..], 1));
    let kv = only(get(store, "versions/a").await);
    assert_eq!((kv.key(), kv.value()), (&b"versions/a"[..], &b"2"[..]));
    assert_eq!((kv.create_revision(), kv.mod_revision()), (one.revision, two.revision));
    assert_eq!((kv.version(), kv.lease()), (2, None));

    let gone = Delete::new(KeyRange::prefix("versions/")).previous();
    let gone = store.delete(gone).await.unwrap();
    let OpReply::Delete(deleted) = &gone.replies[0] else { panic!("{gone:?}") };
    assert_eq!((deleted.count, only(deleted.previous.clone()).version()), (1, 2));
    assert_eq!(get(store, "versions/a").await, []);
    // Nothing left to delete: no revision is taken.
    let none = store.delete(Delete::new(KeyRange::prefix("versions/"))).await.unwrap();
    assert_eq!(none.revision, gone.revision);
    put(store, "versions/a", "again").await;
    assert_eq!(only(get(store, "versions/a").await).version(), 1);
}

async fn ranges_are_cut_and_counted(store: &dyn Store) {
    for key in ["c", "a", "b", "d"] {
        put(store, &format!("ranges/{key}"), key).await;
    }
    put(store, "ranges0", "behind the prefix").await;
    let all = Range::new(KeyRange::prefix("ranges/"));
    let reply = store.range(all.clone()).await.unwrap();
    assert_eq!(values(&reply), ["a", "b", "c", "d"]);
    assert!(!reply.more());
    let reply = store.range(all.clone().limit(3)).await.unwrap();
    assert_eq!((values(&reply).len(), reply.count, reply.more()), (3, 4, true));
    let reply = store.range(all.clone().keys_only()).await.unwrap();
    assert!(reply.kvs.iter().all(|kv| kv.value().is_empty() && kv.version() == 1));
    assert_eq!(reply.kvs[3].key(), b"ranges/d");
    let reply = store.range(all.count_only()).await.unwrap();
    assert_eq!((reply.kvs.len(), reply.count), (0, 4));
    let middle = Range::new(KeyRange::span("ranges/b", "ranges/d"));
    assert_eq!(values(&store.range(middle).await.unwrap()), ["b", "c"]);
    let empty = Range::new(KeyRange::span("ranges/d", "ranges/b"));
    assert_eq!(store.range(empty).await.unwrap().count, 0);
    let rest = store.range(Range::new(KeyRange::From("ranges/d".into()))).await.unwrap();
    assert_eq!(values(&rest)[0], "d");
    assert!(rest.count >= 2);
}

async fn old_revisions_can_be_read(store: &dyn Store) {
    let one = put(store, "old/a", "1").await.revision;
    let two = put(store, "old/a", "2").await.revision;
    let gone = store.delete(Delete::new(KeyRange::key("old/a"))).await.unwrap().revision;
    let range = Range::new(KeyRange::key("old/a"));
    for (revision, expected) in [(one, Some("1")), (two, Some("2")), (gone, None)] {
        let reply = store.range(range.clone().at(revision)).await.unwrap();
        assert_eq!(values(&reply).first().map(String::as_str), expected, "at {revision}");
        assert!(reply.revision >= gone, "a reply tells where the store is");
    }
    let future = store.range(range.at(Revision(i64::MAX / 2))).await;
    assert!(matches!(future, Err(StoreError::FutureRevision { .. })), "{future:?}");
}

async fn transactions_take_one_branch(store: &dyn Store) {
    let create = |value: &str| Txn {
        when: vec![Compare::absent("branch/a")],
        then: vec![
            Op::Put(Put::new("branch/a", value.to_owned())),
            Op::Put(Put::new("branch/b", value.to_owned())),
            Op::Range(Range::new(KeyRange::prefix("branch/"))),
        ],
        otherwise: vec![Op::Range(Range::new(KeyRange::key("branch/a")))],
    };
    let won = store.txn(create("first")).await.unwrap();
    assert!(won.succeeded);
    let OpReply::Range(seen) = &won.replies[2] else { panic!("{won:?}") };
    assert_eq!(values(seen), ["first", "first"], "a transaction sees its own writes");
    assert!(seen.kvs.iter().all(|kv| kv.mod_revision() == won.revision));
    let lost = store.txn(create("second")).await.unwrap();
    assert!(!lost.succeeded && lost.revision >= won.revision);
    let OpReply::Range(seen) = &lost.replies[0] else { panic!("{lost:?}") };
    assert_eq!(values(seen), ["first"]);

    let nested = Txn {
        when: vec![Compare::unchanged("branch/a", won.revision)],
        then: vec![
            Op::Put(Put::new("branch/a", "outer")),
            Op::Txn(Txn {
                // What the outer transaction found, not what it has just written.
                when: vec![Compare::unchanged("branch/a", won.revision)],
                then: vec![Op::Delete(Delete::new(KeyRange::key("branch/b")))],
                otherwise: vec![],
            }),
        ],
        otherwise: vec![],
    };
    let reply = store.txn(nested).await.unwrap();
    let OpReply::Txn(inner) = &reply.replies[1] else { panic!("{reply:?}") };
    assert!(reply.succeeded && inner.succeeded);
    assert_eq!(get(store, "branch/b").await, []);
}

async fn compares_look_at_everything(store: &dyn Store) {
    let id = store.grant(LeaseRequest { id: None, ttl: 600 }).await.unwrap().id;
    let created = put(store, "compare/a", "x").await.revision;
    let modified = store.put(Put::new("compare/a", "m").lease(id)).await.unwrap().revision;
    let missing = || KeyRange::key("compare/missing");
    let a = || KeyRange::key("compare/a");
    use Relation::{Equal, Greater, Less, NotEqual};
    let cases = [
        (a(), Target::Version(2), Equal, true),
        (a(), Target::Version(2), NotEqual, false),
        (a(), Target::Version(1), Greater, true),
        (a(), Target::Created(created), Equal, true),
        (a(), Target::Modified(modified), Less, false),
        (a(), Target::Modified(modified.next()), Less, true),
        (a(), Target::Value("m".into()), Equal, true),
        (a(), Target::Value("a".into()), Greater, true),
        (a(), Target::Lease(Some(id)), Equal, true),
        (a(), Target::Lease(None), NotEqual, true),
        (missing(), Target::Version(0), Equal, true),
        (missing(), Target::Lease(None), Equal, true),
        (missing(), Target::Value(Bytes::new()), Equal, false),
        (missing(), Target::Value(Bytes::new()), NotEqual, false),
        (KeyRange::prefix("compare/"), Target::Version(0), Greater, true),
        (KeyRange::prefix("compare/none/"), Target::Version(0), Greater, false),
    ];
    for (keys, target, relation, expected) in cases {
        let compare = Compare { keys, target, relation };
        let txn = Txn { when: vec![compare.clone()], ..Txn::default() };
        assert_eq!(store.txn(txn).await.unwrap().succeeded, expected, "{compare:?}");
    }
}

async fn broken_transactions_do_nothing(store: &dyn Store) {
    let before = put(store, "broken/a", "1").await.revision;
    let a = || Op::Put(Put::new("broken/a", "2"));
    let none = wharf_etcd::LeaseId::from_wire(0x7777_0000_1111).unwrap();
    let cases = [
        (vec![a(), a()], StoreError::DuplicateKey),
        (vec![a(), Op::Delete(Delete::new(KeyRange::prefix("broken/")))], StoreError::DuplicateKey),
        (vec![a(), Op::Put(Put::new("broken/b", "2").lease(none))], StoreError::LeaseNotFound),
        (vec![a(), Op::Put(Put::new("", "2"))], StoreError::EmptyKey),
        (
            vec![a(), Op::Put(Put { keep_value: true, ..Put::new("broken/missing", "") })],
            StoreError::KeyNotFound,
        ),
        (
            vec![a(), Op::Range(Range::new(KeyRange::key("x")).at(Revision(i64::MAX / 2)))],
            StoreError::FutureRevision { current: before },
        ),
    ];
    for (then, expected) in cases {
        let error = store.txn(Txn { then, ..Txn::default() }).await.unwrap_err();
        assert_eq!(
            std::mem::discriminant(&error),
            std::mem::discriminant(&expected),
            "{error:?} is not {expected:?}"
        );
    }
    assert_eq!(only(get(store, "broken/a").await).mod_revision(), before);
}

async fn parts_of_a_key_can_be_kept(store: &dyn Store) {
    let id = store.grant(LeaseRequest { id: None, ttl: 600 }).await.unwrap().id;
    store.put(Put::new("keep/a", "value").lease(id)).await.unwrap();
    store.put(Put { keep_lease: true, ..Put::new("keep/a", "other") }).await.unwrap();
    let kv = only(get(store, "keep/a").await);
    assert_eq!((kv.value(), kv.lease()), (&b"other"[..], Some(id)));
    store.put(Put { keep_value: true, ..Put::new("keep/a", "") }).await.unwrap();
    let kv = only(get(store, "keep/a").await);
    assert_eq!((kv.value(), kv.lease(), kv.version()), (&b"other"[..], None, 3));
    assert_eq!(store.lease(id, true).await.unwrap().keys, Vec::<Bytes>::new());
}

async fn watches_deliver_in_order(store: &dyn Store) {
    let request = WatchRequest::new(KeyRange::prefix("watch/")).previous();
    let mut watch = store.watch(request).await.unwrap();
    let one = put(store, "watch/a", "1").await.revision;
    put(store, "unwatched", "x").await;
    let both = Txn {
        then: vec![
            Op::Put(Put::new("watch/a", "2")),
            Op::Put(Put::new("watch/b", "2")),
            Op::Put(Put::new("unwatched", "y")),
        ],
        ..Txn::default()
    };
    let two = store.txn(both).await.unwrap().revision;
    let gone = store.delete(Delete::new(KeyRange::prefix("watch/"))).await.unwrap().revision;
    let events = collect(&mut watch, 5).await;
    let seen: Vec<_> = events
        .iter()
        .map(|e| {
            let key = String::from_utf8_lossy(e.kv.key()).into_owned();
            let before = e.previous.as_ref().map(|p| String::from_utf8_lossy(p.value()).into());
            (e.kind, key, e.kv.mod_revision(), before)
        })
        .collect();
    let row = |kind, key: &str, revision, before: Option<&str>| {
        (kind, key.to_owned(), revision, before.map(str::to_owned))
    };
    use EventKind::{Delete as Gone, Put as Set};
    assert_eq!(
        seen,
        [
            row(Set, "watch/a", one, None),
            row(Set, "watch/a", two, Some("1")),
            row(Set, "watch/b", two, None),
            row(Gone, "watch/a", gone, Some("2")),
            row(Gone, "watch/b", gone, Some("2")),
        ]
    );
}

async fn watches_resume_from_history(store: &dyn Store) {
    let mut revisions = Vec::new();
    for n in 0..20 {
        revisions.push(put(store, &format!("resume/{}", n % 3), &n.to_string()).await.revision);
    }
    let keys = KeyRange::prefix("resume/");
    let request = WatchRequest::new(keys.clone()).from(revisions[5]);
    let mut past = store.watch(request).await.unwrap();
    let future = revisions[19].next().next();
    let mut ahead = store.watch(WatchRequest::new(keys).from(future)).await.unwrap();
    for n in 20..30 {
        revisions.push(put(store, &format!("resume/{}", n % 3), &n.to_string()).await.revision);
    }
    let seen = |events: Vec<Event>| -> Vec<Revision> {
        events.iter().map(|e| e.kv.mod_revision()).collect()
    };
    assert_eq!(seen(collect(&mut past, 25).await), revisions[5..]);
    let expected: Vec<_> = revisions.iter().copied().filter(|r| *r >= future).collect();
    assert_eq!(seen(collect(&mut ahead, expected.len()).await), expected);
}

async fn watches_tell_their_progress(store: &dyn Store) {
    let request = WatchRequest::new(KeyRange::prefix("progress/"));
    let mut watch = store.watch(request).await.unwrap();
    let seen = put(store, "progress/a", "1").await.revision;
    let elsewhere = put(store, "elsewhere", "1").await.revision;
    // A remote store may answer before it has delivered what it is about to; then it is asked again.
    let mut delivered = Revision(0);
    loop {
        watch.request_progress();
        match next(&mut watch).await {
            WatchItem::Events { events, .. } => {
                assert_eq!(events.len(), 1);
                delivered = events[0].kv.mod_revision();
                assert_eq!(delivered, seen);
            }
            WatchItem::Progress(through) if through >= seen => {
                assert_eq!(delivered, seen, "progress must not overtake events");
                if through >= elsewhere {
                    break;
                }
            }
            WatchItem::Progress(_) => (),
        }
    }
}

async fn leases_take_their_keys_along(store: &dyn Store) {
    let lease = store.grant(LeaseRequest { id: None, ttl: 600 }).await.unwrap();
    assert_eq!(lease.granted, 600);
    let taken = LeaseRequest { id: Some(lease.id), ttl: 600 };
    assert_eq!(store.grant(taken).await, Err(StoreError::LeaseExists));
    for key in ["lease/a", "lease/b", "lease/moved"] {
        store.put(Put::new(key, "1").lease(lease.id)).await.unwrap();
    }
    put(store, "lease/moved", "2").await;
    let found = store.lease(lease.id, true).await.unwrap();
    assert_eq!(found.keys, ["lease/a", "lease/b"]);
    assert!(found.left <= 600 && found.left > 500);
    assert!(store.leases().await.unwrap().contains(&lease.id));
    assert_eq!(store.keep_alive(lease.id).await.unwrap().granted, 600);
    let request = WatchRequest::new(KeyRange::prefix("lease/"));
    let mut watch = store.watch(request).await.unwrap();
    store.revoke(lease.id).await.unwrap();
    let events = collect(&mut watch, 2).await;
    assert!(events.iter().all(|e| e.kind == EventKind::Delete));
    assert_eq!(events[0].kv.mod_revision(), events[1].kv.mod_revision());
    let left = store.range(Range::new(KeyRange::prefix("lease/"))).await.unwrap();
    assert_eq!(values(&left), ["2"]);
    assert_eq!(store.revoke(lease.id).await, Err(StoreError::LeaseNotFound));
    assert_eq!(store.keep_alive(lease.id).await, Err(StoreError::LeaseNotFound));
    assert_eq!(store.lease(lease.id, false).await, Err(StoreError::LeaseNotFound));
}

async fn leases_end(store: &dyn Store) {
    let lease = store.grant(LeaseRequest { id: None, ttl: 1 }).await.unwrap();
    let request = WatchRequest::new(KeyRange::key("ending"));
    let mut watch = store.watch(request).await.unwrap();
    store.put(Put::new("ending", "soon").lease(lease.id)).await.unwrap();
    let events = collect(&mut watch, 2).await;
    assert_eq!((events[0].kind, events[1].kind), (EventKind::Put, EventKind::Delete));
    assert_eq!(store.lease(lease.id, false).await, Err(StoreError::LeaseNotFound));
}

async fn compaction_takes_history(store: &dyn Store) {
    let one = put(store, "compact/a", "1").await.revision;
    let two = put(store, "compact/a", "2").await.revision;
    let gone = store.delete(Delete::new(KeyRange::key("compact/a"))).await.unwrap().revision;
    let three = put(store, "compact/b", "3").await.revision;
    store.compact(three).await.unwrap();
    for revision in [one, two, gone] {
        let range = Range::new(KeyRange::prefix("compact/")).at(revision);
        let old = store.range(range).await;
        assert!(matches!(old, Err(StoreError::Compacted { .. })), "{old:?}");
        assert!(matches!(store.compact(revision).await, Err(StoreError::Compacted { .. })));
        let request = WatchRequest::new(KeyRange::prefix("compact/")).from(revision);
        let mut watch = store.watch(request).await.unwrap();
        let end = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
        assert_eq!(end, Err(StoreError::Compacted { oldest: three }));
    }
    let range = Range::new(KeyRange::prefix("compact/")).at(three);
    assert_eq!(values(&store.range(range).await.unwrap()), ["3"]);
    let request = WatchRequest::new(KeyRange::prefix("compact/")).from(three);
    let mut watch = store.watch(request).await.unwrap();
    assert_eq!(collect(&mut watch, 1).await[0].kv.value(), b"3");
    let ahead = store.compact(Revision(i64::MAX / 2)).await;
    assert!(matches!(ahead, Err(StoreError::FutureRevision { .. })), "{ahead:?}");
}

/// Writes one key.
async fn put(store: &dyn Store, key: &str, value: &str) -> TxnReply {
    store.put(Put::new(key.to_owned(), value.to_owned())).await.unwrap()
}

async fn get(store: &dyn Store, key: &str) -> Vec<Kv> {
    store.range(Range::new(KeyRange::key(key.to_owned()))).await.unwrap().kvs
}

fn values(reply: &RangeReply) -> Vec<String> {
    reply.kvs.iter().map(|kv| String::from_utf8_lossy(kv.value()).into_owned()).collect()
}

#[track_caller]
fn only(mut kvs: Vec<Kv>) -> Kv {
    assert_eq!(kvs.len(), 1, "{kvs:?}");
    kvs.remove(0)
}

async fn next(watch: &mut Watch) -> WatchItem {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("no event came").unwrap()
}

/// The next `n` events, and not one more in the same item.
async fn collect(watch: &mut Watch, n: usize) -> Vec<Event> {
    let mut found = Vec::new();
    while found.len() < n {
        if let WatchItem::Events { events, through } = next(watch).await {
            assert!(events.iter().all(|e| e.kv.mod_revision() <= through));
            found.extend(events.iter().cloned());
        }
    }
    assert_eq!(found.len(), n, "{found:?}");
    found
}
