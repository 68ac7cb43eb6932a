//! One connection that speaks HTTP/2 from its first byte: as server, and as client of whoever dialled.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tower_service::Service;

/// Bytes that may be under way on one stream: a context of many small files should not wait for every answer.
const STREAM_WINDOW: u32 = 1 << 20;
/// And on all streams of a connection together.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// How often a silent peer with streams open is asked whether it is still there, and how long it may think.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// The largest message taken. BuildKit's limit.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;

/// A byte stream to the other side.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Serves `service` to the other side until it closes the connection.
pub(crate) async fn serve<S>(io: impl Io, service: S) -> hyper::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let answer = hyper::service::service_fn(move |request| service.clone().call(request));
    server::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(io), answer)
        .await
}

/// The other side as a server of requests. Clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    send: client::SendRequest<Body>,
}

impl Line {
    /// Begins to speak. The future drives the connection until it ends; nothing moves unless it is polled.
    pub(crate) async fn open(
        io: impl Io,
    ) -> hyper::Result<(Line, impl Future<Output = hyper::Result<()>>)> {
        let (send, connection) = client::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .handshake(TokioIo::new(io))
            .await?;
        Ok((Line { send }, connection))
    }

    /// The address that requests carry; nobody looks at it.
    pub(crate) fn origin() -> Uri {
        Uri::from_static("http://session")
    }
}

impl Service<Request<Body>> for Line {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, hyper::Result<Response<Incoming>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.send.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.send.send_request(request))
    }
}

/// A connection of which some bytes were read before it got here.
#[derive(Debug)]
pub struct Rewound<T> {
    early: bytes::Bytes,
    io: T,
}

impl<T> Rewound<T> {
    /// Gives `early` before what `io` gives.
    pub fn new(early: bytes::Bytes, io: T) -> Rewound<T> {
        Rewound { early, io }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let n = self.early.len().min(buffer.remaining());
        buffer.put_slice(&self.early.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
