//! The door: TLS and HTTP around [`Server`].

use crate::respond::{Answer, Content};
use crate::server::{BODY, Incoming, Server};
use crate::user::User;
use crate::watching::Events;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use wharf_kube::status::Fault;

/// How long a client may take to say hello.
const HELLO: Duration = Duration::from_secs(10);

/// Accepts connections until `stop` is done; connections that are open then go on in their tasks.
pub async fn serve(
    server: Arc<Server>,
    listener: TcpListener,
    tls: rustls::ServerConfig,
    stop: impl Future<Output = ()>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (server, acceptor) = (Arc::clone(&server), acceptor.clone());
                tokio::spawn(connection(server, acceptor, stream));
            }
            Err(e) => {
                tracing::warn!(error = %e, "a connection could not be accepted");
                // Out of descriptors: others must end first.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(server: Arc<Server>, acceptor: TlsAcceptor, stream: TcpStream) {
    // Small answers must not wait for the next ones.
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(error = %e, "no delay option");
    }
    let peer = stream.peer_addr().ok();
    let Ok(Ok(tls)) = tokio::time::timeout(HELLO, acceptor.accept(stream)).await else { return };
    let certificate =
        tls.get_ref().1.peer_certificates().and_then(|c| crate::authn::certificate(c.first()?));
    let service = service_fn(move |request| {
        let (server, certificate) = (Arc::clone(&server), certificate.clone());
        async move { Ok::<_, Infallible>(exchange(&server, (certificate, peer), request).await) }
    });
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    http.http2().timer(TokioTimer::new()).max_concurrent_streams(250);
    if let Err(e) = http.serve_connection(TokioIo::new(tls), service).await {
        tracing::debug!(error = %e, "a connection ended early");
    }
}

async fn exchange(
    server: &Server,
    (certificate, peer): (Option<User>, Option<SocketAddr>),
    request: Request<hyper::body::Incoming>,
) -> Response<Out> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, BODY).collect().await {
        Ok(all) => all.to_bytes(),
        Err(e) if e.is::<LengthLimitError>() => {
            let f = Fault::too_large(format!("Request entity too large: limit is {BODY}"));
            return response(Answer::fault(&f, None, false));
        }
        Err(e) => {
            let f = Fault::bad_request(format!("unable to read the request's body: {e}"));
            return response(Answer::fault(&f, None, false));
        }
    };
    let incoming = Incoming {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
        certificate,
        peer,
    };
    response(server.handle(incoming).await)
}

fn response(answer: Answer) -> Response<Out> {
    let mut out = Response::new(match answer.body {
        Content::Whole(bytes) => Out::Whole(Some(bytes)),
        Content::Ended(bytes) => Out::Pieces(Some(bytes)),
        Content::Stream(events) => Out::Events(Stream::new(*events)),
        Content::Passed(body) => Out::Passed(body),
    });
    *out.status_mut() = answer.status;
    *out.headers_mut() = answer.headers;
    out
}

/// The bodies that answers have.
enum Out {
    Whole(Option<Bytes>),
    Pieces(Option<Bytes>),
    Events(Stream),
    Passed(hyper::body::Incoming),
}

/// The future that makes the next bytes, which gives the events back with them.
type Making = Pin<Box<dyn Future<Output = (Events, Option<Bytes>)> + Send>>;

struct Stream {
    making: Option<Making>,
}

impl Stream {
    fn new(events: Events) -> Stream {
        Stream { making: Some(make(events)) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(making) = &mut self.making else { return Poll::Ready(None) };
        match making.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready((events, bytes)) => {
                self.making = bytes.is_some().then(|| make(events));
                Poll::Ready(bytes)
            }
        }
    }
}

fn make(mut events: Events) -> Making {
    Box::pin(async move {
        let bytes = events.next().await;
        (events, bytes)
    })
}

impl Body for Out {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let bytes = match &mut *self {
            Out::Whole(bytes) | Out::Pieces(bytes) => bytes.take(),
            Out::Events(stream) => match stream.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(bytes) => bytes,
            },
            Out::Passed(body) => return Pin::new(body).poll_frame(cx),
        };
        Poll::Ready(bytes.map(|b| Ok(Frame::data(b))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Out::Whole(b) => b.as_ref().is_none_or(Bytes::is_empty),
            Out::Pieces(b) => b.is_none(),
            Out::Events(_) => false,
            Out::Passed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Out::Whole(b) => {
                http_body::SizeHint::with_exact(b.as_ref().map_or(0, |b| b.len() as u64))
            }
            Out::Pieces(_) | Out::Events(_) => http_body::SizeHint::default(),
            Out::Passed(body) => body.size_hint(),
        }
    }
}
