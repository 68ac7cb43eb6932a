//! The pull-through cache: what is missing is fetched from another registry, once, and kept.
//!
//! A tag is asked about again when its answer is older than a while; when the other registry is down or counts us out,
//! the old answer is better than none. A blob goes to its first client while it arrives, and everybody who
//! asks meanwhile follows the same download.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RANGE};
use http::{Method, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::watch;
use wharf_base::clock::Clock;
use wharf_base::sync::Mutex;
use wharf_image::{Link, Registries, RegistryError, Upstream};
use wharf_spec::digest::Digest;
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::reference::Reference;

use crate::answer::blobs::blob_unknown;
use crate::answer::{Call, Inner, empty, stamp};
use crate::body::{Body, requested};
use crate::fault::{Code, Fault};
use crate::manifest::receive;
use crate::name::{Repository, Target};
use crate::shelves::Put;
use crate::upload::Turn;

/// Bytes sent at a time to a client that follows a download.
const PIECE: u64 = 256 << 10;
/// Times that a download is taken up again without having moved.
const ATTEMPTS: u32 = 5;

/// Where a cache gets what it does not have.
#[derive(Debug, Clone)]
pub struct Cache {
    registries: Registries,
    /// `docker.io`, `ghcr.io`, `registry.example:5000`
    domain: String,
    auth: AuthConfig,
    /// How long a tag is taken to mean what it meant.
    ttl: Duration,
    clock: Clock,
    /// When each tag was last asked about.
    asked: Arc<Mutex<HashMap<(String, String), Instant>>>,
}

/// A blob that is being fetched.
#[derive(Clone)]
pub(crate) struct Flight {
    file: Arc<File>,
    size: u64,
    state: watch::Receiver<State>,
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes are in the file.
    At(u64),
    /// It is whole and verified.
    Done,
    Failed,
}

/// Downloads by what they are for.
pub(crate) type Flights = Arc<tokio::sync::Mutex<HashMap<(String, Digest), Flight>>>;

/// What became of a request for a blob that was not here.
pub(crate) enum Passed {
    /// It is here now.
    Here(Link),
    /// It is on its way.
    Answered(Response<Body>),
}

impl Cache {
    /// A cache of the registry `domain`, as that user.
    pub fn new(
        registries: Registries,
        domain: &str,
        auth: AuthConfig,
        ttl: Duration,
        clock: Clock,
    ) -> Self {
        let (domain, asked) = (domain.to_owned(), Arc::default());
        Self { registries, domain, auth, ttl, clock, asked }
    }

    /// The repository over there. The outer error is the other registry's, the inner the name's.
    async fn upstream(&self, name: &Repository) -> Result<Result<Upstream, Fault>, RegistryError> {
        let full = format!("{}/{name}", self.domain);
        match Reference::parse(&full) {
            Ok(name) => self.registries.repository(&name, &self.auth).await.map(Ok),
            Err(e) => Ok(Err(Fault::new(Code::NameInvalid, format!("{full:?}: {e}")))),
        }
    }

    /// The tags over there; `None` if it cannot say.
    pub(crate) async fn tags(&self, name: &Repository) -> Option<BTreeMap<String, ()>> {
        let tags = self.upstream(name).await.ok()?.ok()?.tags().await.ok()?;
        Some(tags.into_iter().map(|tag| (tag, ())).collect())
    }

    fn is_fresh(&self, name: &Repository, tag: &str) -> bool {
        let now = self.clock.instant();
        let asked = self.asked.lock();
        let last = asked.get(&(name.to_string(), tag.to_owned()));
        last.is_some_and(|last| now.duration_since(*last) < self.ttl)
    }

    fn remember(&self, name: &Repository, tag: &str) {
        let now = self.clock.instant();
        let mut asked = self.asked.lock();
        asked.retain(|_, last| now.duration_since(*last) < self.ttl);
        asked.insert((name.to_string(), tag.to_owned()), now);
    }
}

impl Inner {
    /// Sees to it that a manifest is here and, if it is asked for by tag, that the tag is not too old.
    pub(crate) async fn refresh(
        &self,
        cache: &Cache,
        name: &Repository,
        target: &Target,
    ) -> Result<(), Fault> {
        let found = self.shelves.find(name, target);
        let is_fresh = match target {
            Target::Tag(tag) => cache.is_fresh(name, tag),
            Target::Digest(_) => true,
        };
        if found.is_some() && is_fresh {
            return Ok(());
        }
        match self.fetch_manifest(cache, name, target).await {
            Err(error) if found.is_some() => {
                tracing::warn!(repository = name.as_str(), %target, error = %wharf_base::error::chain(&error),
                    "the other registry does not answer; what is here is served");
                Ok(())
            }
            Err(error) if error.is_absent() => Ok(()),
            Err(error) => Err(failed(&error)),
            Ok(stored) => stored,
        }
    }

    /// The outer error is the other registry's, the inner our own.
    async fn fetch_manifest(
        &self,
        cache: &Cache,
        name: &Repository,
        target: &Target,
    ) -> Result<Result<(), Fault>, RegistryError> {
        let upstream = match cache.upstream(name).await? {
            Ok(upstream) => upstream,
            Err(fault) => return Ok(Err(fault)),
        };
        let what = target.to_string();
        if let (Target::Tag(tag), Some(found)) = (target, self.shelves.find(name, target)) {
            // A question costs nothing where a download counts against a limit.
            if upstream.resolve(&what).await?.as_ref() == Some(&found.digest) {
                cache.remember(name, tag);
                return Ok(Ok(()));
            }
        }
        let fetched = upstream.manifest(&what).await?;
        let received = match receive(&fetched.bytes, &fetched.media_type, self.now()) {
            Ok(received) => received,
            Err(fault) => return Ok(Err(fault)),
        };
        let tags = match target {
            Target::Tag(tag) => vec![tag.clone()],
            Target::Digest(_) => Vec::new(),
        };
        let put = Put {
            repository: name,
            digest: &fetched.digest,
            bytes: &fetched.bytes,
            tags: &tags,
            may_move: &|_, _| Ok(()),
            whole: false,
        };
        let stored = self.shelves.put(&put, received);
        tags.iter().for_each(|tag| cache.remember(name, tag));
        Ok(stored)
    }

    /// Fetches a blob, or follows who is fetching it.
    pub(crate) async fn fetch_blob(
        self: &Arc<Self>,
        cache: &Cache,
        name: &Repository,
        digest: &Digest,
        call: &Call,
    ) -> Result<Passed, Fault> {
        let mut flight = self.flight(cache, name, digest).await?;
        // A part is cut from what is whole; nobody asks for parts of what was never pulled.
        if call.header(RANGE).is_some() {
            flight.end().await?;
        }
        if *flight.state.borrow() == State::Done
            && let Some(link) = self.shelves.content.linked(&name.owner(), digest)
        {
            return Ok(Passed::Here(link));
        }
        let mut response = empty(http::StatusCode::OK);
        stamp(response.headers_mut(), digest);
        let kind = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        let size = flight.size;
        *response.body_mut() = match call.method {
            Method::HEAD => {
                response.headers_mut().insert(http::header::CONTENT_LENGTH, size.into());
                Body::Empty
            }
            _ => Body::Stream(Box::pin(follow(flight)), size),
        };
        Ok(Passed::Answered(response))
    }

    async fn flight(
        self: &Arc<Self>,
        cache: &Cache,
        name: &Repository,
        digest: &Digest,
    ) -> Result<Flight, Fault> {
        let key = (name.to_string(), digest.clone());
        let mut flights = self.flights.lock().await;
        if let Some(flight) = flights.get(&key) {
            return Ok(flight.clone());
        }
        let upstream = cache.upstream(name).await.map_err(|e| failed(&e))??;
        let first = upstream.blob(digest, 0).await;
        let (size, blocks) = first.map_err(|e| match e.is_absent() {
            true => blob_unknown(name, digest),
            false => failed(&e),
        })?;
        let turn = self.uploads.begin(name, digest.algorithm())?;
        let file = Arc::new(File::open(&turn.upload.path)?);
        let (tell, state) = watch::channel(State::At(0));
        let flight = Flight { file, size, state };
        flights.insert(key.clone(), flight.clone());
        let (inner, name, digest) = (self.clone(), name.clone(), digest.clone());
        // Apart from the request: the others go on when this client leaves.
        tokio::spawn(async move {
            let download = Download { upstream, digest, size, tell: Arc::new(tell) };
            let done = inner.download(&name, &download, turn, blocks).await;
            if let Err(why) = &done {
                tracing::warn!(repository = name.as_str(), digest = %download.digest, why, "blob was not fetched");
            }
            download.tell.send_replace(if done.is_ok() { State::Done } else { State::Failed });
            inner.flights.lock().await.remove(&key);
        });
        Ok(flight)
    }

    async fn download(
        &self,
        name: &Repository,
        download: &Download,
        mut turn: Turn,
        blocks: wharf_image::ByteStream,
    ) -> Result<(), String> {
        let (mut blocks, mut idle) = (Some(blocks), 0);
        while turn.progress.size < download.size || blocks.is_some() {
            let before = turn.progress.size;
            let source = match blocks.take() {
                Some(blocks) => blocks,
                None => match download.upstream.blob(&download.digest, before).await {
                    Ok((_, blocks)) => blocks,
                    Err(error) => {
                        let why = wharf_base::error::chain(&error).to_string();
                        self.give_up(turn);
                        return Err(why);
                    }
                },
            };
            let room = download.size - before;
            let told = download.tell.clone();
            let tell = move |size| {
                told.send_replace(State::At(size));
            };
            let written;
            (turn, written) = turn
                .append_telling(requested(limited(source, room)), self.settings.stall, tell)
                .await;
            idle = if turn.progress.size > before { 0 } else { idle + 1 };
            if let Err(error) = written
                && (idle >= ATTEMPTS || error.raw_os_error().is_some())
            {
                self.give_up(turn);
                return Err(error.to_string());
            }
            if idle >= ATTEMPTS {
                self.give_up(turn);
                return Err("the other registry sends less than it says".into());
            }
        }
        let complete = match turn.verify(&download.digest).await {
            Ok(complete) => complete,
            Err(_) => {
                self.give_up(turn);
                return Err("the other registry sent something else".into());
            }
        };
        let content = &self.shelves.content;
        content
            .adopt(&name.owner(), &complete.path, &download.digest, complete.size)
            .map_err(|e| wharf_base::error::chain(&e).to_string())?;
        self.give_up(turn);
        self.stirred.notify_one();
        Ok(())
    }

    /// Forgets the upload; its file is a blob by now, or of no use.
    fn give_up(&self, turn: Turn) {
        if self.uploads.end(turn).is_err() {
            tracing::debug!("an upload was not forgotten");
        }
    }
}

struct Download {
    upstream: Upstream,
    digest: Digest,
    size: u64,
    tell: Arc<watch::Sender<State>>,
}

/// Not more than was announced: the client was told so.
fn limited(
    source: wharf_image::ByteStream,
    room: u64,
) -> StreamBody<impl futures_util::Stream<Item = io::Result<Frame<Bytes>>> + Send + Sync> {
    let blocks = futures_util::stream::unfold(
        (Shared(Mutex::new(source)), room),
        |(source, room)| async move {
            if room == 0 {
                return None;
            }
            let block = source.next().await?;
            let block = block.map(|bytes| {
                let n = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
                bytes.slice(..n)
            });
            let left = room - block.as_ref().map_or(0, |b| b.len() as u64);
            Some((block.map(Frame::data), (source, left)))
        },
    );
    StreamBody::new(blocks)
}

/// Bodies of requests may be shared between threads, which a stream need not allow.
struct Shared(Mutex<wharf_image::ByteStream>);

impl Shared {
    async fn next(&self) -> Option<io::Result<Bytes>> {
        std::future::poll_fn(|cx| self.0.lock().as_mut().poll_next(cx)).await
    }
}

impl Flight {
    /// Waits for its end.
    async fn end(&mut self) -> Result<(), Fault> {
        let done = self.state.wait_for(|state| !matches!(state, State::At(_))).await.map(|s| *s);
        match done {
            Ok(State::Done) => Ok(()),
            _ => Err(unavailable("the other registry did not send the blob whole")),
        }
    }
}

/// The bytes of a download as they come. The last piece waits until the whole is verified.
fn follow(flight: Flight) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send {
    futures_util::stream::unfold(Some((flight, 0)), |state| async move {
        let (mut flight, at) = state?;
        if at >= flight.size {
            return None;
        }
        let size = flight.size;
        let ready = move |state: &State| match *state {
            State::At(have) => have > at && have < size,
            State::Done | State::Failed => true,
        };
        let now = flight.state.wait_for(ready).await.map(|s| *s).unwrap_or(State::Failed);
        let to = match now {
            State::At(have) => have,
            State::Done => size,
            State::Failed => {
                let error = io::Error::other("the other registry did not send the blob whole");
                return Some((Err(error), None));
            }
        };
        let (file, length) = (flight.file.clone(), (to - at).min(PIECE));
        let work = tokio::task::spawn_blocking(move || -> io::Result<Bytes> {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut bytes, at)?;
            Ok(bytes.into())
        });
        let piece = work.await.map_err(io::Error::other).flatten();
        let next = piece.is_ok().then_some((flight, at + length));
        Some((piece, next))
    })
}

fn failed(error: &RegistryError) -> Fault {
    let why = wharf_base::error::chain(error).to_string();
    unavailable(&format!("the other registry cannot be asked: {why}"))
}

fn unavailable(text: &str) -> Fault {
    Fault::new(Code::Unknown, text).with_status(http::StatusCode::BAD_GATEWAY)
}
