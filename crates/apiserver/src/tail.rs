//! What changed under a prefix since one looked last: a watch that is read when somebody asks.

use std::collections::VecDeque;
use wharf_etcd::{
    Event, KeyRange, Kv, Range, Revision, Store, StoreError, Watch, WatchItem, WatchRequest,
};

/// A watch of a prefix, for a picture that is made of what lies there.
pub(crate) struct Tail {
    prefix: String,
    watch: Option<Watch>,
    seen: Revision,
    /// Events that came and were not handed out: whoever asked for them has gone away.
    come: VecDeque<Event>,
}

/// What a picture is to take in. It must do so before it waits for anything: it is told once.
pub(crate) enum News {
    /// It begins anew, with this.
    All(Vec<Kv>),
    /// These changes, perhaps none.
    Changes(VecDeque<Event>),
}

impl Tail {
    pub(crate) fn new(prefix: impl Into<String>) -> Tail {
        let (seen, come) = (Revision(0), VecDeque::new());
        Tail { prefix: prefix.into(), watch: None, seen, come }
    }

    /// The revision that the picture shows once it has taken in what was handed out.
    pub(crate) fn seen(&self) -> Revision {
        self.seen
    }

    /// What happened up to `now` at least, a revision that the store has.
    pub(crate) async fn news(
        &mut self,
        store: &dyn Store,
        now: Revision,
    ) -> Result<News, StoreError> {
        if self.seen >= now && self.watch.is_some() {
            return Ok(News::Changes(std::mem::take(&mut self.come)));
        }
        match self.follow(now).await {
            Ok(true) => Ok(News::Changes(std::mem::take(&mut self.come))),
            // A watch that cannot go on, because history is gone or a store was away, is begun again.
            Ok(false) | Err(_) => self.begin(store).await.map(News::All),
        }
    }

    /// Reads the watch up to `now`; says whether there is one.
    async fn follow(&mut self, now: Revision) -> Result<bool, StoreError> {
        let Some(watch) = &mut self.watch else { return Ok(false) };
        while self.seen < now {
            watch.request_progress();
            match watch.next().await? {
                WatchItem::Events { through, events } => {
                    self.come.extend(events.iter().cloned());
                    self.seen = through;
                }
                WatchItem::Progress(through) => self.seen = through.max(self.seen),
            }
        }
        Ok(true)
    }

    async fn begin(&mut self, store: &dyn Store) -> Result<Vec<Kv>, StoreError> {
        self.watch = None;
        let keys = KeyRange::prefix(self.prefix.clone());
        let all = store.range(Range::new(keys.clone())).await?;
        let watch = store.watch(WatchRequest::new(keys).from(all.revision.next())).await?;
        (self.watch, self.seen) = (Some(watch), all.revision);
        self.come.clear();
        Ok(all.kvs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use wharf_etcd::{Delete, Embedded, EventKind, Put, Settings};

    fn take(picture: &mut BTreeMap<Vec<u8>, Vec<u8>>, news: News) {
        let pair = |kv: &Kv| (kv.key().to_vec(), kv.value().to_vec());
        match news {
            News::All(kvs) => *picture = kvs.iter().map(pair).collect(),
            News::Changes(events) => {
                for e in events {
                    match e.kind {
                        EventKind::Put => {
                            drop(picture.insert(e.kv.key().to_vec(), e.kv.value().to_vec()))
                        }
                        EventKind::Delete => drop(picture.remove(e.kv.key())),
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn a_picture_shows_the_revision_that_was_asked_for() {
        let store = Embedded::in_memory(&Settings::default()).unwrap();
        let (mut tail, mut picture) = (Tail::new("/a/"), BTreeMap::new());
        for n in 0..600 {
            let key = ["/a/x", "/b/x", "/a/y"][n % 3];
            let reply = store.put(Put::new(key, n.to_string())).await.unwrap();
            if n % 50 == 7 {
                store.delete(Delete::new(KeyRange::key("/a/x"))).await.unwrap();
            }
            // Long silences go through history, short ones do not.
            if n % 100 < 50 {
                let now = store.revision().await.unwrap();
                take(&mut picture, tail.news(&store, now).await.unwrap());
                assert!(tail.seen() >= reply.revision);
                let all = store.range(Range::new(KeyRange::prefix("/a/"))).await.unwrap();
                let expected: BTreeMap<_, _> =
                    all.kvs.iter().map(|kv| (kv.key().to_vec(), kv.value().to_vec())).collect();
                assert_eq!(picture, expected, "at {n}");
            }
        }
        // History that is gone is no obstacle.
        for n in 0..300 {
            store.put(Put::new("/a/z", n.to_string())).await.unwrap();
        }
        let now = store.revision().await.unwrap();
        store.compact(now).await.unwrap();
        take(&mut picture, tail.news(&store, now).await.unwrap());
        assert_eq!(picture[&b"/a/z"[..]], b"299");
    }
}
