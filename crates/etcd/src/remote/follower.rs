//! A watch that outlives the member it came from: it resumes at the next one, behind what it has delivered.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::is_lost;
use super::link::Links;
use crate::error::StoreError;
use crate::kv::Revision;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest as Message, WatchResponse,
};
use crate::proto::mvccpb;
use crate::store::WatchRequest;
use crate::watch::{WatchItem, WatchSource};
use crate::wire;

/// Items that wait for the reader; beyond that the member waits.
const QUEUE: usize = 64;

/// How long to wait before the next member is tried, so that a cluster without a leader is not stormed.
const PAUSE: Duration = Duration::from_millis(200);

/// How long to wait before progress is asked for again: members do not answer while a watch is catching up.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// The reader's end.
pub(super) struct Follower {
    items: mpsc::Receiver<Result<WatchItem, StoreError>>,
    ask: Arc<Notify>,
    task: AbortHandle,
}

impl Follower {
    pub(super) fn start(links: Links, watch: WatchRequest, from: Revision) -> Follower {
        let (send, items) = mpsc::channel(QUEUE);
        let ask = Arc::new(Notify::new());
        let chase = Chase { links, watch, next: from, send, ask: Arc::clone(&ask) };
        let task = tokio::spawn(chase.run()).abort_handle();
        Follower { items, ask, task }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl WatchSource for Follower {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<WatchItem, StoreError>> {
        let item = ready!(self.items.poll_recv(cx));
        let over = || StoreError::Unavailable { reason: "the watch is over".to_owned() };
        Poll::Ready(item.unwrap_or_else(|| Err(over())))
    }

    fn request_progress(&mut self) {
        self.ask.notify_one();
    }
}

/// The task behind a watch.
struct Chase {
    links: Links,
    watch: WatchRequest,
    /// The first revision that has not been delivered.
    next: Revision,
    send: mpsc::Sender<Result<WatchItem, StoreError>>,
    ask: Arc<Notify>,
}

/// Why a stream ended.
enum End {
    /// The reader is gone, or has been told the reason.
    Over,
    /// The member is gone.
    Lost(Status),
}

impl Chase {
    async fn run(mut self) {
        // Asked for before the stream broke, and not answered.
        let mut asked = false;
        loop {
            let link = self.links.link();
            let End::Lost(status) = self.follow(&link, &mut asked).await else { return };
            if status.code() == tonic::Code::Unauthenticated {
                if let Err(e) = self.links.sign_in().await
                    && !is_lost(&e)
                {
                    drop(self.send.send(Err(wire::error(&e))).await);
                    return;
                }
            } else if is_lost(&status) {
                self.links.leave(&link);
            } else {
                drop(self.send.send(Err(wire::error(&status))).await);
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Delivers from one member until it or the reader is gone.
    async fn follow(&mut self, link: &super::link::Link, asked: &mut bool) -> End {
        let (requests, receive) = mpsc::channel(4);
        let create = Message { request_union: Some(RequestUnion::CreateRequest(self.create())) };
        if requests.send(create).await.is_err() {
            return End::Lost(Status::internal("the stream has no room"));
        }
        let stream = match link.stream(ReceiverStream::new(receive)) {
            Ok(request) => link.watch().watch(request).await,
            Err(e) => return End::Lost(e),
        };
        match stream {
            Ok(stream) => self.read(stream.into_inner(), &requests, asked).await,
            Err(status) => End::Lost(status),
        }
    }

    async fn read(
        &mut self,
        mut stream: Streaming<WatchResponse>,
        requests: &mpsc::Sender<Message>,
        asked: &mut bool,
    ) -> End {
        let mut events: Vec<mvccpb::Event> = Vec::new();
        let mut again = Instant::now();
        loop {
            tokio::select! {
                // A stream, a flag and a clock: none loses anything when another is taken.
                response = stream.next() => match response {
                    Some(Ok(response)) => {
                        if let Err(end) = self.take(response, &mut events, asked).await {
                            return end;
                        }
                    }
                    Some(Err(status)) => return End::Lost(status),
                    None => return End::Lost(Status::unavailable("the member ended the stream")),
                },
                () = self.ask.notified() => {
                    *asked = true;
                    again = Instant::now();
                }
                () = sleep_until(again), if *asked => {
                    again = Instant::now() + ASK_AGAIN;
                    let ask = RequestUnion::ProgressRequest(WatchProgressRequest {});
                    // A full channel has the same question in it already.
                    drop(requests.try_send(Message { request_union: Some(ask) }));
                }
                () = self.send.closed() => return End::Over,
            }
        }
    }

    async fn take(
        &mut self,
        response: WatchResponse,
        events: &mut Vec<mvccpb::Event>,
        asked: &mut bool,
    ) -> Result<(), End> {
        let revision = wire::revision(response.header.as_ref());
        if response.canceled {
            return Err(self.canceled(&response).await);
        }
        let only_news = response.events.is_empty() && events.is_empty();
        events.extend(response.events);
        if response.created || response.fragment {
            return Ok(());
        }
        if only_news {
            // Whoever watches from the future has been told everything up to now, too.
            if std::mem::take(asked) {
                self.next = self.next.max(revision.next());
                return self.deliver(WatchItem::Progress(revision)).await;
            }
            return Ok(());
        }
        let ready: Vec<_> = events
            .drain(..)
            .map(|e| wire::event_in(&e))
            .filter(|e| e.kv.mod_revision() >= self.next)
            .collect();
        let Some(last) = ready.last() else { return Ok(()) };
        // The header may be ahead of the events; what is between comes in the next response.
        let through = last.kv.mod_revision();
        self.next = through.next();
        self.deliver(WatchItem::Events { through, events: ready.into() }).await
    }

    async fn deliver(&self, item: WatchItem) -> Result<(), End> {
        self.send.send(Ok(item)).await.map_err(|_| End::Over)
    }

    async fn canceled(&self, response: &WatchResponse) -> End {
        let error = match response.compact_revision {
            0 if response.cancel_reason.contains("no leader") => {
                return End::Lost(Status::unavailable("the member has no leader"));
            }
            0 => StoreError::Refused { reason: response.cancel_reason.clone() },
            oldest => StoreError::Compacted { oldest: Revision(oldest) },
        };
        // A reader that is gone does not want to know.
        drop(self.send.send(Err(error)).await);
        End::Over
    }

    fn create(&self) -> WatchCreateRequest {
        let (key, range_end) = self.watch.keys.to_wire();
        WatchCreateRequest {
            key,
            range_end,
            start_revision: self.next.0,
            prev_kv: self.watch.previous,
            fragment: true,
            ..WatchCreateRequest::default()
        }
    }
}
