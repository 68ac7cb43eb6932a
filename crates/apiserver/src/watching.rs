//! Watches: the store's changes of one collection, as events for one client.

use crate::api::{Api, Call, fault, revision};
use crate::kinds::{Hub, Kind};
use crate::list::scope;
use crate::media::{Accept, Notation, View};
use crate::render::{self, TableOptions};
use crate::select::Selection;
use crate::stored;
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use wharf_etcd::{
    Event, EventKind, KeyRange, Kv, Range, Revision, StoreError, Watch, WatchItem, WatchRequest,
};
use wharf_kube::proto;
use wharf_kube::status::{Fault, Problem};

/// How often a client hears how far its watch is.
const BOOKMARK: Duration = Duration::from_secs(60);
/// How long a watch lasts where the client does not say: at least this, at most twice.
const LASTS: u64 = 1800;

/// One client's stream of events.
pub struct Events {
    watch: Watch,
    encoder: Encoder,
    selection: Selection,
    kind: Arc<Kind>,
    begin: Vec<Kv>,
    /// Whether the end of what was there is announced, and with which revision.
    announce: Option<Revision>,
    bookmarks: bool,
    seen: Revision,
    /// What the last bookmark said.
    told: Revision,
    deadline: tokio::time::Instant,
    next_bookmark: tokio::time::Instant,
    /// Tells when custom kinds changed.
    moments: tokio::sync::watch::Receiver<u64>,
    finished: bool,
}

/// Turns events into bytes of the negotiated form.
struct Encoder {
    /// Where objects are converted; nothing is read from its store.
    api: Api,
    kind: Arc<Kind>,
    accept: Accept,
    table: TableOptions,
}

impl Api {
    /// Opens a watch.
    pub async fn watch(&self, call: &Call<'_>, accept: Accept) -> Result<Events, Fault> {
        check(call)?;
        let selection = Selection::of(call)?;
        let wanted = revision(&call.query.resource_version)?.filter(|r| r.0 > 0);
        let keys = KeyRange::prefix(scope(call));
        let initial = call.query.initial_events == Some(true);
        if let (true, Some(wanted)) = (initial, wanted) {
            self.wait_for(wanted).await?;
        }
        let (begin, from, announce) = match wanted {
            Some(wanted) if !initial => (Vec::new(), wanted, None),
            _ if call.query.initial_events == Some(false) => {
                (Vec::new(), self.store.revision().await.map_err(|e| fault(&e))?, None)
            }
            _ => {
                let reply =
                    self.store.range(Range::new(keys.clone())).await.map_err(|e| fault(&e))?;
                (reply.kvs, reply.revision, initial.then_some(reply.revision))
            }
        };
        let request = WatchRequest::new(keys).from(from.next()).previous();
        let encoder = Encoder {
            api: self.clone(),
            kind: Arc::clone(call.kind),
            accept,
            table: TableOptions::of(call, self.now_seconds()),
        };
        let watch = match self.store.watch(request).await {
            Ok(watch) => watch,
            Err(e) => return Err(gone(&e, from)),
        };
        let now = tokio::time::Instant::now();
        let moments = self.kinds.moments();
        let lasts = call.query.timeout.unwrap_or_else(|| LASTS + jitter(LASTS));
        Ok(Events {
            watch,
            encoder,
            selection,
            kind: Arc::clone(call.kind),
            begin: begin.into_iter().rev().collect(),
            announce,
            bookmarks: call.query.bookmarks,
            seen: from,
            told: Revision(0),
            deadline: now + Duration::from_secs(lasts),
            next_bookmark: now + BOOKMARK,
            moments,
            finished: self.kinds.is_outdated(call.kind),
        })
    }
}

fn jitter(below: u64) -> u64 {
    let mut b = [0u8; 8];
    crate::random::fill(&mut b);
    u64::from_le_bytes(b) % below
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    let q = call.query;
    let mut problems = Vec::new();
    match (q.initial_events, q.resource_version_match.as_str()) {
        (None, "") | (Some(_), "NotOlderThan") => {}
        (None, _) => problems.push(Problem::forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        )),
        (Some(_), "") => problems.push(Problem::forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        )),
        (Some(_), how) => problems.push(Problem::unsupported(
            "resourceVersionMatch",
            &json!(how),
            &["NotOlderThan"],
        )),
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Fault::invalid("meta.k8s.io", "ListOptions", "", &problems))
    }
}

/// A watch that begins before history does.
fn gone(e: &StoreError, from: Revision) -> Fault {
    match e {
        StoreError::Compacted { oldest } => {
            Fault::expired(format!("too old resource version: {from} ({oldest})"))
        }
        e => fault(e),
    }
}

/// What the next bytes come from.
enum Next {
    Item(Result<WatchItem, StoreError>),
    Bookmark,
    Defined,
    Deadline,
}

impl Events {
    /// The next bytes; nothing when the watch is over.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.finished {
                return None;
            }
            let bytes = self.begin_or_wait().await;
            if !bytes.is_empty() {
                return Some(bytes.into());
            }
        }
    }

    async fn begin_or_wait(&mut self) -> Vec<u8> {
        // Initial objects go out in pieces, so that a big collection is not written twice.
        let mut out = Vec::new();
        while let Some(kv) = self.begin.pop() {
            if self.encoder.api.selects(&self.selection, &self.kind, &kv).await {
                out.extend(self.encoder.stored("ADDED", &kv, kv.mod_revision()).await);
            }
            if out.len() > 64 * 1024 {
                return out;
            }
        }
        if let Some(revision) = self.announce.take() {
            self.told = revision;
            out.extend(self.encoder.bookmark(revision, true));
        }
        if !out.is_empty() {
            return out;
        }
        let next = tokio::select! {
            // Changes first: a bookmark must not overtake what it vouches for.
            biased;
            item = self.watch.next() => Next::Item(item),
            () = tokio::time::sleep_until(self.deadline) => Next::Deadline,
            Ok(()) = self.moments.changed(), if self.kind.custom.is_some() => Next::Defined,
            () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => Next::Bookmark,
        };
        self.turn(next).await
    }

    async fn turn(&mut self, next: Next) -> Vec<u8> {
        match next {
            Next::Item(Ok(WatchItem::Events { through, events })) => {
                self.seen = through;
                let mut out = Vec::new();
                for e in events.iter() {
                    out.extend(self.event(e).await);
                }
                out
            }
            Next::Item(Ok(WatchItem::Progress(revision))) => {
                self.seen = revision;
                self.bookmark()
            }
            Next::Item(Err(e)) => {
                self.finished = true;
                self.encoder.error(&gone(&e, self.seen))
            }
            Next::Bookmark => {
                self.next_bookmark = tokio::time::Instant::now() + BOOKMARK;
                self.watch.request_progress();
                Vec::new()
            }
            Next::Defined if !self.encoder.api.kinds.is_outdated(&self.kind) => Vec::new(),
            // The client comes back and is shown what the new definition says.
            Next::Defined | Next::Deadline => {
                self.finished = true;
                // The client resumes from here, unless it knows already.
                if self.told < self.seen { self.bookmark() } else { Vec::new() }
            }
        }
    }

    fn bookmark(&mut self) -> Vec<u8> {
        if !self.bookmarks {
            return Vec::new();
        }
        self.told = self.seen;
        self.encoder.bookmark(self.seen, false)
    }

    /// What an event means to a client that sees only what it selects.
    async fn event(&mut self, e: &Event) -> Vec<u8> {
        let revision = e.kv.mod_revision();
        let api = &self.encoder.api;
        let before = match &e.previous {
            Some(kv) => api.selects(&self.selection, &self.kind, kv).await.then_some(kv),
            None => None,
        };
        match e.kind {
            EventKind::Put => {
                let matches = api.selects(&self.selection, &self.kind, &e.kv).await;
                let was_there = match &e.previous {
                    Some(_) => before.is_some(),
                    // The version before is compacted; only without a selector is it known to have been seen.
                    None => e.kv.version() > 1 && self.selection.is_empty(),
                };
                match (was_there, matches) {
                    (false, true) => self.encoder.stored("ADDED", &e.kv, revision).await,
                    (true, true) => self.encoder.stored("MODIFIED", &e.kv, revision).await,
                    (true, false) => match before {
                        Some(kv) => self.encoder.stored("DELETED", kv, revision).await,
                        None => Vec::new(),
                    },
                    (false, false) => Vec::new(),
                }
            }
            EventKind::Delete => match (before, &e.previous) {
                (Some(kv), _) => self.encoder.stored("DELETED", kv, revision).await,
                (None, Some(_)) => Vec::new(),
                (None, None) => {
                    // Nobody can say any more what was deleted: the client must list again.
                    self.finished = true;
                    let text = format!("too old resource version: {} ({revision})", self.seen);
                    self.encoder.error(&Fault::expired(text))
                }
            },
        }
    }
}

impl Encoder {
    async fn stored(&mut self, event: &str, kv: &Kv, revision: Revision) -> Vec<u8> {
        let plain = self.accept.notation == Notation::Json && self.accept.view == View::Whole;
        if plain && self.kind.hub == Hub::Own {
            let mut out = format!("{{\"type\":\"{event}\",\"object\":").into_bytes();
            out.extend(stored::text(kv.value(), revision));
            out.extend_from_slice(b"}\n");
            return out;
        }
        if self.kind.hub != Hub::Custom && revision == kv.mod_revision() {
            if self.accept.notation == Notation::Protobuf && self.accept.view == View::Whole {
                let message = self.api.objects.message(&self.kind, kv);
                let sealed = proto::seal(&self.kind.api_version, self.kind.name(), &message);
                return proto::watch_frame(event, &sealed);
            }
            let object = self.api.objects.shown(&self.kind, kv);
            return self.object(event, &object);
        }
        // A deletion is the last state with a revision of its own.
        match self.api.read_stored(&self.kind, stored::decode_at(kv, revision)).await {
            Ok(object) => self.object(event, &object),
            Err(f) => self.error(&f),
        }
    }

    fn object(&mut self, event: &str, object: &Value) -> Vec<u8> {
        let viewed = match self.accept.view {
            View::Table => {
                let table = render::table(&self.kind, &[object], &json!({}), &self.table);
                self.table.headers = false;
                table
            }
            View::Metadata => render::partial(object),
            _ if self.accept.notation == Notation::Protobuf => {
                let message = proto::encode(self.kind.ty(), object);
                let sealed = proto::seal(&self.kind.api_version, self.kind.name(), &message);
                return proto::watch_frame(event, &sealed);
            }
            _ => return self.write(event, object),
        };
        self.write(event, &viewed)
    }

    fn write(&self, event: &str, object: &Value) -> Vec<u8> {
        match self.accept.notation {
            Notation::Protobuf => proto::watch_frame(event, &render::sealed(object)),
            // YAML has no streams; a watch in it was refused.
            Notation::Json | Notation::Yaml => {
                let mut out = format!("{{\"type\":\"{event}\",\"object\":{object}}}").into_bytes();
                out.push(b'\n');
                out
            }
        }
    }

    /// Everything up to `revision` was sent; `initial` ends what was there when the watch began.
    fn bookmark(&mut self, revision: Revision, initial: bool) -> Vec<u8> {
        let mut object = self.kind.zero();
        let metadata = if initial {
            json!({"resourceVersion": revision.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}})
        } else {
            json!({"resourceVersion": revision.to_string()})
        };
        let mut head = serde_json::Map::new();
        head.insert("kind".into(), self.kind.name().into());
        head.insert("apiVersion".into(), self.kind.api_version.clone().into());
        head.insert("metadata".into(), metadata);
        if let Value::Object(m) = &mut object {
            m.shift_remove("metadata");
            head.append(m);
        }
        self.object("BOOKMARK", &Value::Object(head))
    }

    fn error(&self, f: &Fault) -> Vec<u8> {
        self.write("ERROR", &f.to_value())
    }
}

/// A watch that cannot begin because history is gone still begins, and says so in its first event.
pub fn refused(api: &Api, kind: &Arc<Kind>, accept: Accept, f: &Fault) -> Option<Bytes> {
    let (api, kind) = (api.clone(), Arc::clone(kind));
    let encoder = Encoder { api, kind, accept, table: TableOptions::default() };
    (f.code == 410).then(|| encoder.error(f).into())
}
