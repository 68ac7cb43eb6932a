//! Connections: accepted, served one request after another, and let finish at shutdown.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::Cursor;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wharf_base::sync::Mutex;

use crate::handover::{Handover, is_last};
use crate::{Body, Registry, requested};

/// Connections served at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take for the head of a request, and how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a client may take for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The most that is read ahead of a body.
const MAX_BUFFER: usize = 512 << 10;
/// Pause after `accept` failed because of a shortage.
const SHORTAGE: Duration = Duration::from_millis(100);

/// Serves `registry` on `listener` until `shutdown`; then lets requests in progress finish for at most `grace`.
pub async fn serve(
    registry: Registry,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shutdown: CancellationToken,
    grace: Duration,
) {
    let tasks = TaskTracker::new();
    tasks.spawn(registry.clone().keep_house(shutdown.clone()));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (registry, tls, shutdown) = (registry.clone(), tls.clone(), shutdown.clone());
                tasks.spawn(async move {
                    greet(stream, registry.clone(), tls, shutdown).await;
                    registry.0.traffic.notify_one();
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(SHORTAGE).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
        tracing::info!(connections = tasks.len(), "clients cut off at shutdown");
    }
}

async fn greet(
    stream: TcpStream,
    registry: Registry,
    tls: Option<TlsAcceptor>,
    shutdown: CancellationToken,
) {
    // Answers are written in few large pieces; waiting for more would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "connection ended early");
        return;
    }
    let Some(tls) = tls else { return plain(stream, registry, shutdown).await };
    match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => drop(talk(stream, registry, true, shutdown).await),
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

/// A connection that is the client's socket itself: files leave by the kernel, and HTTP goes on behind them.
async fn plain(stream: TcpStream, registry: Registry, shutdown: CancellationToken) {
    let (mut reader, mut writer) = stream.into_split();
    let mut early = Bytes::new();
    while !shutdown.is_cancelled() {
        let io = tokio::io::join(Cursor::new(early).chain(reader), writer);
        let talked = talk(io, registry.clone(), false, shutdown.clone()).await;
        let Some((handover, io, buffer)) = talked else { return };
        let (input, output) = io.into_inner();
        let (ahead, rest) = input.into_inner();
        let unread = ahead.position().try_into().unwrap_or(usize::MAX);
        let unread = ahead.get_ref().get(unread..).unwrap_or_default();
        early = [&buffer[..], unread].concat().into();
        (reader, writer) = (rest, output);
        match handover.send(&mut writer).await {
            Ok(true) => (),
            Ok(false) => return,
            Err(error) => return tracing::debug!(%error, "connection ended"),
        }
    }
}

/// HTTP until the end (`None`), or until an answer is to be sent by other means than HTTP's: with it come the
/// connection and what was read ahead. `secure`: over TLS, where there are no other means.
async fn talk<S>(
    stream: S,
    registry: Registry,
    secure: bool,
    shutdown: CancellationToken,
) -> Option<(Handover, S, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let wish: Arc<Mutex<Option<Handover>>> = Arc::default();
    let service = {
        let wish = wish.clone();
        service_fn(move |request: Request<Incoming>| {
            answer(registry.clone(), request, secure, wish.clone())
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut stop = pin!(shutdown.cancelled_owned());
    let mut stopping = false;
    let handover = poll_fn(|cx| {
        if !stopping && stop.as_mut().poll(cx).is_ready() {
            stopping = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        let ended = Pin::new(&mut connection).poll(cx);
        // The request behind it never gets an answer from hyper, so it is seen here.
        if let Some(handover) = wish.lock().take() {
            return Poll::Ready(Some(handover));
        }
        ended.map(|result| {
            if let Err(error) = result {
                tracing::debug!(error = %wharf_base::error::chain(&error), "connection ended");
            }
            None
        })
    });
    let handover = handover.await?;
    let parts = connection.into_parts();
    Some((handover, parts.io.into_inner(), parts.read_buf))
}

async fn answer(
    registry: Registry,
    request: Request<Incoming>,
    secure: bool,
    wish: Arc<Mutex<Option<Handover>>>,
) -> Result<Response<Body>, Infallible> {
    registry.0.traffic.notify_one();
    // Behind a body that nobody has read there is no telling where the next request begins.
    let simple = !secure && request.body().is_end_stream();
    let last = is_last(&request);
    let mut response = registry.answer(request.map(requested), secure).await;
    if simple && let Some(part) = response.body_mut().take_part() {
        let date = registry.0.settings.clock.now();
        *wish.lock() = Some(Handover::new(&response, part, last, date));
        return std::future::pending().await;
    }
    Ok(response)
}
