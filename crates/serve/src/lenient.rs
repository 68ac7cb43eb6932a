//! Request lines as Go's server takes them: quotes and angle brackets in a query need not be escaped.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::body::Body;
use crate::socket::Socket;

/// A socket on which request lines are escaped before the HTTP parser, which is stricter than dockerd, sees them.
/// Bodies pass untouched: only what is read while no request is in progress can be a request line.
pub(crate) struct Lenient {
    pub(crate) socket: Socket,
    /// What was read before, when the protocol was still to be told.
    ahead: Bytes,
    /// What did not fit after escaping.
    pub(crate) held: Bytes,
    idle: Idle,
}

/// Whether the connection waits for a request.
#[derive(Clone)]
pub(crate) struct Idle(Arc<AtomicBool>);

impl Idle {
    /// Of a new connection.
    pub(crate) fn new() -> Idle {
        Idle(Arc::new(AtomicBool::new(true)))
    }

    /// A request has begun.
    pub(crate) fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// A body at whose end the connection waits again.
    pub(crate) fn after(&self, body: Body) -> Last {
        Last { body, idle: self.clone() }
    }
}

impl Lenient {
    /// `ahead` is what was read of the first request.
    pub(crate) fn new(socket: Socket, ahead: Bytes, idle: Idle) -> Lenient {
        Lenient { socket, ahead, held: Bytes::new(), idle }
    }
}

/// Escapes the query of a whole request line at the beginning of `read`. `None` if there is nothing to do.
fn escape(read: &[u8]) -> Option<Vec<u8>> {
    let end = read.iter().position(|b| *b == b'\r')?;
    let line = read[..end].strip_suffix(b" HTTP/1.1").or(read[..end].strip_suffix(b" HTTP/1.0"))?;
    let query = line.iter().position(|b| *b == b'?')?;
    let strange = |b: &u8| matches!(b, b'"' | b'<' | b'>');
    if !line[query..].iter().any(strange) {
        return None;
    }
    let mut out = read[..query].to_vec();
    for b in &line[query..] {
        if strange(b) {
            out.extend_from_slice(format!("%{b:02X}").as_bytes());
        } else {
            out.push(*b);
        }
    }
    out.extend_from_slice(&read[line.len()..]);
    Some(out)
}

impl AsyncRead for Lenient {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.held.is_empty() {
            let before = buffer.filled().len();
            buffer.put_slice(&me.ahead);
            // A request line is looked at whole, so its first bytes wait for the others.
            if !me.ahead.contains(&b'\r') {
                match Pin::new(&mut me.socket).poll_read(cx, buffer) {
                    Poll::Ready(read) => read?,
                    Poll::Pending => {
                        buffer.set_filled(before);
                        return Poll::Pending;
                    }
                }
            }
            me.ahead = Bytes::new();
            if !me.idle.0.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            let Some(escaped) = escape(&buffer.filled()[before..]) else {
                return Poll::Ready(Ok(()));
            };
            buffer.set_filled(before);
            me.held = escaped.into();
        }
        let n = me.held.len().min(buffer.remaining());
        buffer.put_slice(&me.held[..n]);
        me.held.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lenient {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

/// The body of the response to the request in progress.
pub(crate) struct Last {
    body: Body,
    idle: Idle,
}

impl Drop for Last {
    fn drop(&mut self) {
        self.idle.0.store(true, Ordering::Relaxed);
    }
}

impl http_body::Body for Last {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(read: &str, expected: Option<&str>) {
        let got = escape(read.as_bytes()).map(|b| String::from_utf8(b).unwrap());
        assert_eq!(got.as_deref(), expected, "{read:?}");
    }

    #[test]
    fn only_queries_of_request_lines_are_escaped() {
        check(
            "GET /x?f={\"a\":[\"<b>\"]} HTTP/1.1\r\nHost: \"h\"\r\n\r\n",
            Some("GET /x?f={%22a%22:[%22%3Cb%3E%22]} HTTP/1.1\r\nHost: \"h\"\r\n\r\n"),
        );
        check("GET /x?f=%22 HTTP/1.1\r\n\r\n", None);
        check("GET /\"x HTTP/1.1\r\n\r\n", None);
        check("a?\"b\r\n", None);
        check("GET /x?\"", None);
    }
}
