//! Bodies: what clients send, and what they are sent: blocks, or files piece by piece.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use tokio::sync::mpsc;

/// The body of a request.
pub type Requested = BoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// Bytes read at a time.
const PIECE: u64 = 512 << 10;
/// Pieces read ahead: with the one being sent, what a download costs in memory.
const AHEAD: usize = 1;

/// Makes any body one of a request.
pub fn requested<B>(body: B) -> Requested
where
    B: http_body::Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    body.map_err(Into::into).boxed()
}

/// The next block of a request. A client that sends nothing for so long is given up.
pub(crate) async fn next(body: &mut Requested, stall: Duration) -> Option<io::Result<Bytes>> {
    loop {
        let frame = match tokio::time::timeout(stall, body.frame()).await {
            Err(_) => {
                let text = format!("the client sent nothing for {} s", stall.as_secs());
                return Some(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
            }
            Ok(None) => return None,
            Ok(Some(Err(error))) => return Some(Err(io::Error::other(error))),
            Ok(Some(Ok(frame))) => frame,
        };
        if let Ok(bytes) = frame.into_data() {
            return Some(Ok(bytes));
        }
    }
}

/// The body of an answer.
pub enum Body {
    /// No bytes.
    Empty,
    /// All bytes at once.
    Whole(Bytes),
    /// A part of a file.
    File(Sending),
    /// Blocks as they come; how many bytes there will be is known.
    Stream(Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>, u64),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Whole(bytes) => write!(f, "Whole({bytes:?})"),
            Self::File(_) => f.write_str("File"),
            Self::Stream(..) => f.write_str("Stream"),
        }
    }
}

/// A part of a file on its way to a client: read in pieces by a thread of its own, or sent by the kernel.
pub struct Sending {
    part: Option<Part>,
    pieces: Option<mpsc::Receiver<io::Result<Bytes>>>,
    left: u64,
}

/// Bytes `from` to `to` of a file, exclusive.
pub(crate) struct Part {
    pub(crate) file: File,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Body {
    /// Bytes `from` to `to` of a file, exclusive.
    pub(crate) fn part(file: File, from: u64, to: u64) -> Self {
        let part = Some(Part { file, from, to });
        Self::File(Sending { part, pieces: None, left: to - from })
    }

    /// Takes the part of a file out of an answer, for whoever has a better way to send it.
    pub(crate) fn take_part(&mut self) -> Option<Part> {
        match self {
            Self::File(sending) => sending.part.take(),
            _ => None,
        }
    }
}

impl Sending {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if let Some(part) = self.part.take() {
            self.pieces = Some(part.pieces());
        }
        match &mut self.pieces {
            Some(pieces) => pieces.poll_recv(cx),
            None => Poll::Ready(None),
        }
    }
}

impl Part {
    fn pieces(self) -> mpsc::Receiver<io::Result<Bytes>> {
        let (sender, pieces) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            let mut at = self.from;
            while at < self.to {
                let piece = read(&self.file, at, (self.to - at).min(PIECE));
                at += piece.as_ref().map_or(self.to, |p| p.len() as u64);
                if sender.blocking_send(piece).is_err() {
                    return;
                }
            }
        });
        pieces
    }
}

fn read(file: &File, at: u64, size: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes.into())
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::File(sending) => {
                let piece = std::task::ready!(sending.poll_piece(cx));
                Poll::Ready(piece.map(|piece| {
                    let piece = piece?;
                    sending.left = sending.left.saturating_sub(piece.len() as u64);
                    Ok(Frame::data(piece))
                }))
            }
            Self::Stream(blocks, left) => {
                let block = std::task::ready!(blocks.as_mut().poll_next(cx));
                Poll::Ready(block.map(|block| {
                    let block = block?;
                    *left = left.saturating_sub(block.len() as u64);
                    Ok(Frame::data(block))
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::File(sending) => sending.left == 0,
            Self::Stream(_, left) => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Empty => 0,
            Self::Whole(bytes) => bytes.len() as u64,
            Self::File(sending) => sending.left,
            Self::Stream(_, left) => *left,
        })
    }
}
