//! The Watch service: many watches over one stream.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use prost::Message as _;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::caller::Credentials;
use super::{Host, MAX_REQUEST};
use crate::auth::Access;
use crate::error::StoreError;
use crate::kv::Revision;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::watch_server::Watch;
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use crate::proto::mvccpb;
use crate::range::KeyRange;
use crate::store;
use crate::store::Store as _;
use crate::watch::{Event, EventKind, WatchItem};
use crate::wire;

/// Responses that wait for a client to read them. Behind that, each watch waits in its own inbox.
const QUEUE: usize = 64;

/// The watch that speaks for the whole stream.
const WHOLE_STREAM: i64 = -1;

type Answer = Result<WatchResponse, Status>;

#[tonic::async_trait]
impl Watch for Host {
    type WatchStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn watch(
        &self,
        r: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (send, receive) = mpsc::channel(QUEUE);
        let stream = WatchStream::new(self.clone(), Credentials::of(&r), send);
        // Ends when the client hangs up: then sending fails, or its requests end.
        drop(tokio::spawn(stream.run(r.into_inner())));
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

/// The watches of one stream.
struct WatchStream {
    host: Host,
    credentials: Credentials,
    send: mpsc::Sender<Answer>,
    watches: HashMap<i64, Handle>,
    tasks: JoinSet<i64>,
    next: i64,
    /// Watches that have to tell their progress before the stream can.
    asked: HashSet<i64>,
    progress: Revision,
    told: mpsc::UnboundedReceiver<(i64, Revision)>,
    tell: mpsc::UnboundedSender<(i64, Revision)>,
}

struct Handle {
    abort: AbortHandle,
    ask: Arc<Notify>,
}

/// The client has hung up.
struct Gone;

impl WatchStream {
    fn new(host: Host, credentials: Credentials, send: mpsc::Sender<Answer>) -> WatchStream {
        let (tell, told) = mpsc::unbounded_channel();
        WatchStream {
            host,
            credentials,
            send,
            watches: HashMap::new(),
            tasks: JoinSet::new(),
            next: 0,
            asked: HashSet::new(),
            progress: Revision(0),
            told,
            tell,
        }
    }

    async fn run(mut self, mut requests: Streaming<WatchRequest>) {
        let mut asking = true;
        loop {
            // All of them are channels or sets that lose nothing when another branch is taken.
            let done = tokio::select! {
                request = requests.message(), if asking => match request {
                    Ok(Some(request)) => self.request(request).await,
                    // Who has asked for everything may still listen, as requests in JSON do.
                    Ok(None) => {
                        asking = false;
                        Ok(())
                    }
                    Err(_) => Err(Gone),
                },
                Some((id, revision)) = self.told.recv() => self.tell_progress(id, revision).await,
                Some(ended) = self.tasks.join_next() => self.ended(ended.ok()).await,
                () = self.send.closed() => Err(Gone),
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn request(&mut self, request: WatchRequest) -> Result<(), Gone> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id).await,
            Some(RequestUnion::ProgressRequest(_)) => self.ask_progress().await,
            None => Ok(()),
        }
    }

    async fn create(&mut self, mut create: WatchCreateRequest) -> Result<(), Gone> {
        if create.key.is_empty() {
            // The least of all keys.
            create.key = Bytes::from_static(&[0]);
        }
        let keys = KeyRange::from_wire(create.key.clone(), create.range_end.clone());
        if let Err(status) = self.permit(&keys) {
            return self.refuse(status.message(), Some(status.code())).await;
        }
        if let Some(reason) = refusal(&keys, &create, &self.watches) {
            return self.refuse(reason, None).await;
        }
        let id = match create.watch_id {
            0 => self.free_id(),
            id => id,
        };
        let request = store::WatchRequest {
            keys,
            from: (create.start_revision > 0).then_some(Revision(create.start_revision)),
            previous: create.prev_kv,
        };
        // The embedded store has the watch at once: events from here on are in it.
        let header = self.host.header_now();
        let watch = match self.host.store.watch(request).await {
            Ok(watch) => watch,
            Err(e) => {
                let refused = WatchResponse { created: true, ..canceled(&self.host, id, &e) };
                return self.answer(refused).await;
            }
        };
        let created =
            WatchResponse { header, watch_id: id, created: true, ..WatchResponse::default() };
        self.answer(created).await?;
        let ask = Arc::new(Notify::new());
        let teller = Teller {
            host: self.host.clone(),
            id,
            create,
            send: self.send.clone(),
            ask: Arc::clone(&ask),
            tell: self.tell.clone(),
        };
        let abort = self.tasks.spawn(teller.run(watch));
        self.watches.insert(id, Handle { abort, ask });
        Ok(())
    }

    fn permit(&self, keys: &KeyRange) -> Result<(), Status> {
        let caller = self.host.caller(&self.credentials)?;
        self.host.store.auth().may(&caller, Access::Read, keys).map_err(wire::auth_status)
    }

    /// Says that a watch is not made; a code is told in the words of gRPC in Go, which clients match on.
    async fn refuse(&self, reason: &str, code: Option<Code>) -> Result<(), Gone> {
        let cancel_reason = match code {
            Some(code) => format!("rpc error: code = {code:?} desc = {reason}"),
            None => reason.to_owned(),
        };
        self.answer(WatchResponse {
            header: self.host.header_now(),
            watch_id: WHOLE_STREAM,
            created: true,
            canceled: true,
            cancel_reason,
            ..WatchResponse::default()
        })
        .await
    }

    async fn cancel(&mut self, id: i64) -> Result<(), Gone> {
        let Some(handle) = self.watches.remove(&id) else { return Ok(()) };
        handle.abort.abort();
        let header = self.host.header_now();
        let answer =
            WatchResponse { header, watch_id: id, canceled: true, ..WatchResponse::default() };
        self.answer(answer).await?;
        self.settle_progress(id).await
    }

    async fn ended(&mut self, id: Option<i64>) -> Result<(), Gone> {
        let Some(id) = id else { return Ok(()) };
        self.watches.remove(&id);
        self.settle_progress(id).await
    }

    /// Asks every watch how far it is; the stream's own progress is the least of it.
    async fn ask_progress(&mut self) -> Result<(), Gone> {
        self.progress = self.host.store.status().revision;
        self.asked = self.watches.keys().copied().collect();
        self.watches.values().for_each(|handle| handle.ask.notify_one());
        if self.asked.is_empty() { self.report().await } else { Ok(()) }
    }

    async fn tell_progress(&mut self, id: i64, revision: Revision) -> Result<(), Gone> {
        if self.asked.contains(&id) {
            self.progress = self.progress.min(revision);
        }
        self.settle_progress(id).await
    }

    async fn settle_progress(&mut self, id: i64) -> Result<(), Gone> {
        match self.asked.remove(&id) && self.asked.is_empty() {
            true => self.report().await,
            false => Ok(()),
        }
    }

    async fn report(&mut self) -> Result<(), Gone> {
        let header = self.host.header(self.progress);
        self.answer(WatchResponse { header, watch_id: WHOLE_STREAM, ..WatchResponse::default() })
            .await
    }

    async fn answer(&self, answer: WatchResponse) -> Result<(), Gone> {
        self.send.send(Ok(answer)).await.map_err(|_| Gone)
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next) {
            self.next += 1;
        }
        self.next += 1;
        self.next - 1
    }
}

/// Why a watch cannot be made, in etcd's words.
fn refusal(
    keys: &KeyRange,
    create: &WatchCreateRequest,
    watches: &HashMap<i64, Handle>,
) -> Option<&'static str> {
    let empty = match keys {
        KeyRange::Key(_) | KeyRange::From(_) => false,
        KeyRange::Span { start, end } => start >= end,
    };
    let taken = create.watch_id != 0 && watches.contains_key(&create.watch_id);
    match (empty, taken) {
        (true, _) => Some("mvcc: watcher range is empty"),
        (_, true) => Some("mvcc: duplicate watch ID provided on the WatchStream"),
        _ => None,
    }
}

/// The end of a watch that the store ended.
fn canceled(host: &Host, id: i64, why: &StoreError) -> WatchResponse {
    let mut answer = WatchResponse {
        header: host.header_now(),
        watch_id: id,
        canceled: true,
        cancel_reason: why.to_string(),
        ..WatchResponse::default()
    };
    if let StoreError::Compacted { oldest } = why {
        answer.compact_revision = oldest.0;
        answer.cancel_reason = wire::status(why).message().to_owned();
    }
    answer
}

/// Sends what one watch sees.
struct Teller {
    host: Host,
    id: i64,
    create: WatchCreateRequest,
    send: mpsc::Sender<Answer>,
    ask: Arc<Notify>,
    tell: mpsc::UnboundedSender<(i64, Revision)>,
}

impl Teller {
    /// Runs until the watch ends or the client is gone; gives the watch's number.
    async fn run(self, mut watch: crate::watch::Watch) -> i64 {
        let period = self.host.member.progress;
        let mut clock = interval_at(Instant::now() + period, period);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Progress is asked for by the stream, or by the clock, or by both.
        let (mut by_stream, mut by_clock) = (false, false);
        loop {
            let done = tokio::select! {
                // Events first: progress must not overtake them, and both are in the same queue.
                biased;
                item = watch.next() => match item {
                    Ok(WatchItem::Events { through, events }) => {
                        by_clock = false;
                        clock.reset();
                        self.events(through, &events).await
                    }
                    Ok(WatchItem::Progress(revision)) => {
                        let told = match std::mem::take(&mut by_stream) {
                            true => self.tell.send((self.id, revision)).is_ok(),
                            false => true,
                        };
                        match std::mem::take(&mut by_clock) {
                            true => self.send(self.response(revision)).await,
                            false if told => Ok(()),
                            false => Err(Gone),
                        }
                    }
                    Err(e) => {
                        drop(self.send(canceled(&self.host, self.id, &e)).await);
                        Err(Gone)
                    }
                },
                () = self.ask.notified() => {
                    by_stream = true;
                    watch.request_progress();
                    Ok(())
                }
                _ = clock.tick(), if self.create.progress_notify => {
                    by_clock = true;
                    watch.request_progress();
                    Ok(())
                }
            };
            if done.is_err() {
                return self.id;
            }
        }
    }

    async fn events(&self, through: Revision, events: &[Event]) -> Result<(), Gone> {
        let events: Vec<mvccpb::Event> = events
            .iter()
            .filter(|e| self.wants(e.kind))
            .map(|e| wire::event_out(e, self.create.prev_kv))
            .collect();
        if events.is_empty() {
            return Ok(());
        }
        let whole = WatchResponse { events, ..self.response(through) };
        if !self.create.fragment || whole.encoded_len() < MAX_REQUEST {
            return self.send(whole).await;
        }
        for fragment in fragments(whole) {
            self.send(fragment).await?;
        }
        Ok(())
    }

    fn wants(&self, kind: EventKind) -> bool {
        let unwanted = match kind {
            EventKind::Put => FilterType::Noput,
            EventKind::Delete => FilterType::Nodelete,
        };
        !self.create.filters.contains(&unwanted.into())
    }

    fn response(&self, revision: Revision) -> WatchResponse {
        let header = self.host.header(revision);
        WatchResponse { header, watch_id: self.id, ..WatchResponse::default() }
    }

    async fn send(&self, answer: WatchResponse) -> Result<(), Gone> {
        self.send.send(Ok(answer)).await.map_err(|_| Gone)
    }
}

/// Cuts a response that is too large for a message; all parts but the last say that more follows.
fn fragments(whole: WatchResponse) -> Vec<WatchResponse> {
    let empty = WatchResponse { events: Vec::new(), ..whole.clone() };
    let mut parts = vec![empty.clone()];
    let mut size = 0;
    for event in whole.events {
        let more = event.encoded_len();
        if size > 0 && size + more > MAX_REQUEST {
            parts.push(empty.clone());
            size = 0;
        }
        size += more;
        if let Some(part) = parts.last_mut() {
            part.events.push(event);
        }
    }
    let last = parts.len() - 1;
    parts[..last].iter_mut().for_each(|part| part.fragment = true);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn large_responses_are_cut_and_nothing_is_lost() {
        let event = |n: u8| mvccpb::Event {
            kv: Some(mvccpb::KeyValue {
                value: Bytes::from(vec![n; MAX_REQUEST / 3]),
                ..mvccpb::KeyValue::default()
            }),
            ..mvccpb::Event::default()
        };
        let events: Vec<_> = (0..7).map(event).collect();
        let parts = fragments(WatchResponse {
            watch_id: 5,
            events: events.clone(),
            ..WatchResponse::default()
        });
        assert_eq!(parts.len(), 4);
        assert!(parts.iter().all(|p| p.watch_id == 5 && p.encoded_len() < MAX_REQUEST + 100));
        let more: Vec<_> = parts.iter().map(|p| p.fragment).collect();
        assert_eq!(more, [true, true, true, false]);
        let joined: Vec<_> = parts.into_iter().flat_map(|p| p.events).collect();
        assert_eq!(joined, events);
    }
}
