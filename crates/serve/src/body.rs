//! Response bodies: nothing, one block, or a stream that is flushed piece by piece.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};

/// A stream of byte blocks. An error cuts the connection, which tells the client that the body is not whole.
pub(crate) type Blocks = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// The body of a response.
pub(crate) enum Body {
    /// No bytes.
    Empty,
    /// All bytes at once; the length is announced.
    Whole(Bytes),
    /// Blocks as they come; headers are sent before the first.
    Stream(Blocks),
}

impl Body {
    /// A body that comes block by block.
    pub(crate) fn stream(
        blocks: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Body {
        Body::Stream(Box::pin(blocks))
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Body {
        Body::Whole(bytes.into())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Body::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Body::Stream(blocks) => {
                blocks.as_mut().poll_next(cx).map(|block| block.map(|b| b.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Whole(bytes) => bytes.is_empty(),
            Body::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Stream(_) => SizeHint::default(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Body::Empty => f.write_str("Empty"),
            Body::Whole(bytes) => write!(f, "Whole({} bytes)", bytes.len()),
            Body::Stream(_) => f.write_str("Stream"),
        }
    }
}
