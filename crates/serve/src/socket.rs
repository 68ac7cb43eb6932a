//! One client connection, whatever carries it: unix socket, TCP or TLS.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream, unix};
use tokio_rustls::server::TlsStream;

/// How long a client may leave the head of a response unread before output follows all the same.
const HEED: Duration = Duration::from_secs(1);

/// A connected client.
pub(crate) enum Socket {
    /// Over a unix socket.
    Unix(UnixStream),
    /// Over plain TCP.
    Tcp(TcpStream),
    /// Over TLS.
    Tls(Box<TlsStream<TcpStream>>),
    /// In memory, for tests of what lies above.
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

/// Runs one expression on whichever stream is there.
macro_rules! each {
    ($self:expr, $s:ident => $body:expr) => {
        match $self {
            Socket::Unix($s) => $body,
            Socket::Tcp($s) => $body,
            Socket::Tls($s) => $body,
            #[cfg(test)]
            Socket::Memory($s) => $body,
        }
    };
}

impl Socket {
    /// The two directions, each usable while the other waits.
    pub(crate) fn split(self) -> (Reader, Writer) {
        match self {
            Socket::Unix(s) => {
                let (reader, writer) = s.into_split();
                (Reader::Unix(reader), Writer::Unix(writer))
            }
            other => {
                let (reader, writer) = tokio::io::split(other);
                (Reader::Other(reader), Writer::Other(writer))
            }
        }
    }
}

/// The direction from the client.
#[derive(Debug)]
pub(crate) enum Reader {
    /// Of a unix socket.
    Unix(unix::OwnedReadHalf),
    /// Of anything else.
    Other(ReadHalf<Socket>),
}

/// The direction to the client.
#[derive(Debug)]
pub(crate) enum Writer {
    /// Of a unix socket.
    Unix(unix::OwnedWriteHalf),
    /// Of anything else.
    Other(WriteHalf<Socket>),
}

impl Writer {
    /// Waits until the client has read what was sent so far, as far as the kernel knows.
    ///
    /// There is no event for this, so it looks again every millisecond, for at most [`HEED`].
    pub(crate) async fn heeded(&self) {
        let Writer::Unix(half) = self else { return };
        let waiting = || wharf_sys::socket::unread(half.as_ref()).is_ok_and(|left| left > 0);
        let start = tokio::time::Instant::now();
        while waiting() && start.elapsed() < HEED {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Reader {
    /// Whether the client has closed both directions, so that nothing more can reach it.
    ///
    /// Asked after its input ended, to tell a half-close from a client that is gone. TCP only learns
    /// this from a failed write.
    pub(crate) async fn peer_is_gone(&self) -> bool {
        let Reader::Unix(half) = self else { return false };
        let ready = half.as_ref().ready(Interest::WRITABLE).await;
        ready.is_ok_and(|ready| ready.is_write_closed())
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Reader::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Reader::Other(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Writer::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Writer::Other(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Writer::Unix(s) => Pin::new(s).poll_flush(cx),
            Writer::Other(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Writer::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Writer::Other(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(&mut *self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(&mut *self, s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut *self, s => Pin::new(s).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, s => s.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, s => Pin::new(s).poll_shutdown(cx))
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Socket::Unix(_) => "unix",
            Socket::Tcp(_) => "tcp",
            Socket::Tls(_) => "tls",
            #[cfg(test)]
            Socket::Memory(_) => "memory",
        })
    }
}
