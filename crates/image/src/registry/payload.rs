//! Request bodies: a block of bytes, or a part of a file that is sent piece by piece.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// Bytes read at a time: large enough that reading costs little, small enough that many uploads cost little memory.
const PIECE: u64 = 256 << 10;
/// Pieces read ahead.
const AHEAD: usize = 2;

/// What is sent, as often as needed.
#[derive(Clone)]
pub(super) enum Payload {
    /// A block.
    Whole(Bytes),
    /// A part of a file.
    Part(Part),
}

/// Bytes `from` to the end `to` of a file, exclusive.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) file: Arc<File>,
    pub(super) from: u64,
    pub(super) to: u64,
    /// How much the connection has taken so far, counted from the beginning of the file.
    pub(super) sent: Arc<AtomicU64>,
}

impl Payload {
    /// A body that sends it once.
    pub(super) fn body(&self) -> PayloadBody {
        match self {
            Self::Whole(bytes) => PayloadBody::Whole(bytes.clone()),
            Self::Part(part) => {
                part.sent.store(part.from, Ordering::Relaxed);
                PayloadBody::Part(Reading { part: part.clone(), pieces: None, at: part.from })
            }
        }
    }

    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Part(part) => part.from >= part.to,
        }
    }

    /// How much has been taken; only of a part of a file.
    pub(super) fn sent(&self) -> u64 {
        match self {
            Self::Whole(_) => 0,
            Self::Part(part) => part.sent.load(Ordering::Relaxed),
        }
    }

    /// Whether it is all on its way.
    pub(super) fn is_sent(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Part(part) => self.sent() >= part.to,
        }
    }
}

/// One sending of a [`Payload`].
pub(super) enum PayloadBody {
    Whole(Bytes),
    Part(Reading),
}

/// A file on its way.
pub(super) struct Reading {
    part: Part,
    /// From the thread that reads; it starts with the first poll.
    pieces: Option<mpsc::Receiver<io::Result<Bytes>>>,
    at: u64,
}

impl Reading {
    fn start(&self) -> mpsc::Receiver<io::Result<Bytes>> {
        let (sender, pieces) = mpsc::channel(AHEAD);
        let Part { file, from, to, .. } = self.part.clone();
        tokio::task::spawn_blocking(move || {
            let mut at = from;
            while at < to {
                let piece = read(&file, at, (to - at).min(PIECE));
                at += piece.as_ref().map_or(to, |p| p.len() as u64);
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

impl Body for PayloadBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let reading = match self.get_mut() {
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
            }
            Self::Part(reading) => reading,
        };
        if reading.at >= reading.part.to {
            return Poll::Ready(None);
        }
        if reading.pieces.is_none() {
            reading.pieces = Some(reading.start());
        }
        let Some(pieces) = &mut reading.pieces else { return Poll::Ready(None) };
        let piece = std::task::ready!(pieces.poll_recv(cx));
        Poll::Ready(piece.map(|piece| {
            let piece = piece?;
            reading.at += piece.len() as u64;
            reading.part.sent.store(reading.at, Ordering::Relaxed);
            Ok(Frame::data(piece))
        }))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Part(reading) => reading.at >= reading.part.to,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Part(reading) => reading.part.to - reading.at,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_part_of_a_file_is_sent_as_often_as_asked() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..=255).cycle().take(700_000).collect();
        file.write_all(&content).unwrap();
        let part = Part { file: file.into(), from: 5, to: 700_000, sent: Arc::default() };
        let payload = Payload::Part(part);
        for _ in 0..2 {
            let body = payload.body();
            assert_eq!((body.size_hint().exact(), payload.is_sent()), (Some(699_995), false));
            assert_eq!(body.collect().await.unwrap().to_bytes(), content[5..]);
            assert!(payload.is_sent());
        }
    }

    #[tokio::test]
    async fn a_file_that_shrank_is_an_error() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let payload = Payload::Part(Part { file, from: 0, to: 10, sent: Arc::default() });
        assert!(payload.body().collect().await.is_err());
    }
}
