//! Connections: accepted, served one request after another, and let finish at shutdown.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Registry, requested};

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
    let Some(tls) = tls else { return talk(stream, registry, false, shutdown).await };
    match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => talk(stream, registry, true, shutdown).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

async fn talk<S>(stream: S, registry: Registry, secure: bool, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let registry = registry.clone();
        async move {
            registry.0.traffic.notify_one();
            Ok::<_, Infallible>(registry.answer(request.map(requested), secure).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %wharf_base::error::chain(&error), "connection ended");
    }
}
