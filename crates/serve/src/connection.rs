//! One connection: HTTP requests one after another, until it closes or is hijacked.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;
use wharf_base::sync::Mutex;

use crate::body::Body;
use crate::hijack::Hijacked;
use crate::lenient::{Idle, Last, Lenient};
use crate::socket::Socket;

/// How long a client may take for the head of a request, and how long an idle connection is kept.
/// dockerd's value.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);
/// The most that a request's head may measure, and the most that is read ahead of a body.
const MAX_BUFFER: usize = 256 << 10;

/// How HTTP/2 begins, as far as it takes to tell it from HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// What goes on with a connection after the request that took it over.
pub(crate) type TakeOver = Box<dyn FnOnce(Hijacked) -> BoxFuture<'static, ()> + Send>;

/// What a request is answered.
pub(crate) enum Answer {
    /// A response; the connection takes further requests.
    Response(Response<Body>),
    /// The connection stops being HTTP. Nothing has been sent for this request yet.
    Hijack(TakeOver),
}

/// Whoever answers requests.
pub(crate) trait Answers: Send + Sync + 'static {
    /// Answers one. Dropped when the client goes away first.
    fn answer(self: Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Answer>;

    /// Serves a connection whose client speaks HTTP/2 from its first byte.
    fn http2(self: Arc<Self>, client: Hijacked) -> BoxFuture<'static, ()>;

    /// Takes note that a connection has ended.
    fn left(&self) {}
}

/// Serves a connection until it closes. After `shutdown` the current request is finished and no other is taken.
pub(crate) async fn serve<A: Answers>(socket: Socket, door: Arc<A>, shutdown: CancellationToken) {
    speak(socket, &door, shutdown).await;
    door.left();
}

async fn speak<A: Answers>(socket: Socket, door: &Arc<A>, shutdown: CancellationToken) {
    let client = tokio::select! {
        client = tokio::time::timeout(HEAD_TIMEOUT, first_bytes(socket)) => client,
        () = shutdown.cancelled() => return,
    };
    let Ok(Ok(client)) = client else { return };
    if PREFACE.starts_with(&client.early) && !client.early.is_empty() {
        tokio::select! {
            () = door.clone().http2(client) => (),
            () = shutdown.cancelled() => (),
        }
    } else if let Some((take_over, hijacked)) = http(client, door.clone(), shutdown.clone()).await {
        tokio::select! {
            () = take_over(hijacked) => (),
            () = shutdown.cancelled() => (),
        }
    }
}

/// Reads as much as tells the protocol: HTTP/2 begins with a method that no client of HTTP/1 uses.
async fn first_bytes(mut socket: Socket) -> std::io::Result<Hijacked> {
    let mut first = [0; PREFACE.len()];
    let mut have = 0;
    while have < first.len() && PREFACE.starts_with(&first[..have]) {
        match socket.read(&mut first[have..]).await? {
            0 => break,
            n => have += n,
        }
    }
    Ok(Hijacked { socket, early: Bytes::copy_from_slice(&first[..have]) })
}

/// HTTP until the end (`None`) or until a request takes the connection over.
async fn http<A: Answers>(
    client: Hijacked,
    door: Arc<A>,
    shutdown: CancellationToken,
) -> Option<(TakeOver, Hijacked)> {
    let wish: Arc<Mutex<Option<TakeOver>>> = Arc::default();
    let idle = Idle::new();
    let service = {
        let (wish, idle) = (wish.clone(), idle.clone());
        service_fn(move |request| {
            idle.end();
            answer(door.clone(), wish.clone(), idle.clone(), request)
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .title_case_headers(true)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(Lenient::new(client.socket, client.early, idle)), service);
    let mut stop = pin!(shutdown.cancelled_owned());
    let mut stopping = false;
    let taken = poll_fn(|cx| {
        if !stopping && stop.as_mut().poll(cx).is_ready() {
            stopping = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        let ended = Pin::new(&mut connection).poll(cx);
        // The request that takes over never gets a response from hyper, so its wish is seen here.
        if let Some(take_over) = wish.lock().take() {
            return Poll::Ready(Some(take_over));
        }
        ended.map(|result| {
            if let Err(error) = result {
                tracing::debug!(error = %wharf_base::error::chain(&error), "connection ended");
            }
            None
        })
    });
    let take_over = taken.await?;
    let parts = connection.into_parts();
    let Lenient { socket, held, .. } = parts.io.into_inner();
    let early = match held.is_empty() {
        true => parts.read_buf,
        false => [parts.read_buf, held].concat().into(),
    };
    Some((take_over, Hijacked { socket, early }))
}

async fn answer<A: Answers>(
    door: Arc<A>,
    wish: Arc<Mutex<Option<TakeOver>>>,
    idle: Idle,
    request: Request<Incoming>,
) -> Result<Response<Last>, Infallible> {
    match door.answer(request).await {
        Answer::Response(response) => Ok(response.map(|body| idle.after(body))),
        Answer::Hijack(take_over) => {
            *wish.lock() = Some(take_over);
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// Answers `/` with a body, `/raw` with an echo of whatever follows, `/slow` never.
    struct Fake(tokio::sync::mpsc::UnboundedSender<&'static str>);

    struct Told(tokio::sync::mpsc::UnboundedSender<&'static str>);

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.send("dropped").unwrap();
        }
    }

    impl Answers for Fake {
        fn answer(self: Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Answer> {
            Box::pin(async move {
                match request.uri().path() {
                    "/raw" => Answer::Hijack(Box::new(|mut h: Hijacked| {
                        Box::pin(async move {
                            h.socket.write_all(b"SWITCHED ").await.unwrap();
                            h.socket.write_all(&h.early).await.unwrap();
                            let (mut r, mut w) = tokio::io::split(h.socket);
                            tokio::io::copy(&mut r, &mut w).await.unwrap();
                            w.shutdown().await.unwrap();
                        })
                    })),
                    "/slow" => {
                        let _told = Told(self.0.clone());
                        self.0.send("waiting").unwrap();
                        std::future::pending().await
                    }
                    _ => Answer::Response(Response::new(Body::from(Bytes::from_static(b"hi")))),
                }
            })
        }

        fn http2(self: Arc<Self>, mut client: Hijacked) -> BoxFuture<'static, ()> {
            Box::pin(async move {
                client.socket.write_all(b"TWO ").await.unwrap();
                client.socket.write_all(&client.early).await.unwrap();
            })
        }
    }

    fn connect()
    -> (DuplexStream, tokio::sync::mpsc::UnboundedReceiver<&'static str>, CancellationToken) {
        let (client, socket) = tokio::io::duplex(4096);
        let (tx, rx) = tokio::sync::mpsc::unbounded_channel();
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(Socket::Memory(socket), Arc::new(Fake(tx)), shutdown.clone()));
        (client, rx, shutdown)
    }

    async fn read_until(client: &mut DuplexStream, end: &str) -> String {
        let mut got = String::new();
        while !got.ends_with(end) {
            got.push(char::from(client.read_u8().await.unwrap()));
        }
        got
    }

    #[tokio::test]
    async fn keeps_the_connection_and_then_hands_it_over_whole() {
        let (mut client, _rx, _) = connect();
        for _ in 0..2 {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let head = read_until(&mut client, "\r\n\r\nhi").await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert!(head.contains("\r\nContent-Length: 2\r\n"), "{head}");
        }
        client.write_all(b"POST /raw HTTP/1.1\r\n\r\nearly ").await.unwrap();
        read_until(&mut client, "early ").await;
        client.write_all(b"late").await.unwrap();
        client.shutdown().await.unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "late");
    }

    #[tokio::test]
    async fn quotes_in_queries_are_taken_as_dockerd_takes_them() {
        let (mut client, _rx, _) = connect();
        for _ in 0..2 {
            client.write_all(b"GET /?f={\"a\":1} HTTP/1.1\r\n\r\n").await.unwrap();
            let head = read_until(&mut client, "\r\n\r\nhi").await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        }
        client.write_all(b"POST /raw HTTP/1.1\r\n\r\n").await.unwrap();
        read_until(&mut client, "SWITCHED ").await;
        client.write_all(b"GET /?\"x\" HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(read_until(&mut client, "\r\n\r\n").await, "GET /?\"x\" HTTP/1.1\r\n\r\n");
    }

    #[tokio::test]
    async fn a_client_that_goes_drops_its_request() {
        let (mut client, mut rx, _) = connect();
        client.write_all(b"GET /slow HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(rx.recv().await, Some("waiting"));
        drop(client);
        assert_eq!(rx.recv().await, Some("dropped"));
    }

    #[tokio::test]
    async fn shutdown_closes_an_idle_connection() {
        let (mut client, _rx, shutdown) = connect();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        read_until(&mut client, "hi").await;
        shutdown.cancel();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn http2_is_told_by_its_first_bytes() {
        let (mut client, _rx, _) = connect();
        for part in ["PR", "I * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            client.write_all(part.as_bytes()).await.unwrap();
        }
        assert_eq!(read_until(&mut client, "2.0").await, "TWO PRI * HTTP/2.0");
    }

    #[tokio::test]
    async fn a_request_line_that_comes_in_pieces_is_still_escaped() {
        let (mut client, _rx, _) = connect();
        for part in ["P", "UT /?f={\"a\":1} HTTP/1.1\r\n\r\n"] {
            client.write_all(part.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
        let head = read_until(&mut client, "\r\n\r\nhi").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    }

    #[tokio::test]
    async fn nonsense_is_answered_400() {
        let (mut client, _rx, _) = connect();
        client.write_all(b"NONSENSE\r\n\r\n").await.unwrap();
        assert!(read_until(&mut client, "\r\n").await.starts_with("HTTP/1.1 400 "));
    }
}
