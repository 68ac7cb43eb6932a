//! Bridges between async byte streams and the blocking threads that do the work.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;

/// Bytes that arrive or leave piece by piece: a request or response body.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Pieces on their way between the two worlds.
const DEPTH: usize = 16;
/// Size of a piece that is written.
const PIECE: usize = 128 << 10;
/// Bytes behind an archive that are read and dropped, and how long they may take: a client that sends more is not waited for.
const PADDING: usize = 256 << 10;
const SOON: Duration = Duration::from_secs(1);

enum Message {
    Data(Bytes),
    Failed(io::Error),
    End,
}

/// Reads, on a blocking thread, what [`feed`] sends.
pub(crate) struct BodyReader {
    messages: mpsc::Receiver<Message>,
    current: Bytes,
    ended: bool,
}

/// The async end of a [`BodyReader`].
pub(crate) struct BodySender(mpsc::Sender<Message>);

/// A reader for a blocking thread and the end to feed it by.
pub(crate) fn reader() -> (BodySender, BodyReader) {
    let (sender, messages) = mpsc::channel(DEPTH);
    (BodySender(sender), BodyReader { messages, current: Bytes::new(), ended: false })
}

/// Runs `work` on a blocking thread with a reader of `body`. `None` if it died. Dropping the future ends the reader
/// with an error.
pub async fn read_blocking<T: Send + 'static>(
    body: ByteStream,
    work: impl FnOnce(&mut (dyn Read + Send)) -> T + Send + 'static,
) -> Option<T> {
    let (sender, mut reader) = reader();
    let work = tokio::task::spawn_blocking(move || work(&mut reader));
    sender.feed(body).await;
    work.await.ok()
}

/// Reads the little that may follow the end of an archive: padding.
async fn discard(mut body: ByteStream) {
    let mut left = PADDING;
    while let Some(Ok(bytes)) = body.next().await {
        match left.checked_sub(bytes.len()) {
            Some(less) => left = less,
            None => return,
        }
    }
}

impl BodySender {
    /// Sends the whole of `body`. Stops when nobody reads any more. Dropped before its end, the reader gets
    /// an error, never an end of file.
    pub(crate) async fn feed(self, mut body: ByteStream) {
        loop {
            let message = match body.next().await {
                Some(Ok(bytes)) => Message::Data(bytes),
                Some(Err(error)) => Message::Failed(error),
                None => Message::End,
            };
            let last = !matches!(message, Message::Data(_));
            if self.0.send(message).await.is_err() && !last {
                // A request that was not read to its end costs its connection, on which the client, who has sent it
                // all, may send the next one just now.
                drop(tokio::time::timeout(SOON, discard(body)).await);
                return;
            }
            if last {
                return;
            }
        }
    }

    /// Sends one piece; false if nobody reads any more.
    pub(crate) async fn send(&self, bytes: Bytes) -> bool {
        self.0.send(Message::Data(bytes)).await.is_ok()
    }

    /// Marks the end.
    pub(crate) async fn end(self) {
        drop(self.0.send(Message::End).await);
    }
}

impl Read for BodyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.messages.blocking_recv() {
                Some(Message::Data(bytes)) => self.current = bytes,
                Some(Message::Failed(error)) => return Err(error),
                Some(Message::End) => self.ended = true,
                None => {
                    let text = "the transfer was cancelled";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, text));
                }
            }
        }
        let n = self.current.len().min(out.len());
        out[..n].copy_from_slice(&self.current[..n]);
        self.current.advance(n);
        Ok(n)
    }
}

/// Collects what is written into pieces of a stream.
pub(crate) struct BodyWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.sender.blocking_send(Ok(piece.into())).map_err(gone)
    }
}

/// A stream of what `produce` writes, on a blocking thread. An error of it ends the stream with that error;
/// dropping the stream makes its next write fail.
pub(crate) fn stream(
    produce: impl FnOnce(&mut BodyWriter) -> io::Result<()> + Send + 'static,
) -> ByteStream {
    let (sender, mut pieces) = mpsc::channel(DEPTH);
    tokio::task::spawn_blocking(move || {
        let mut writer = BodyWriter { sender, buffer: Vec::with_capacity(PIECE) };
        if let Err(error) = produce(&mut writer).and_then(|()| writer.flush()) {
            drop(writer.sender.blocking_send(Err(error)));
        }
    });
    Box::pin(futures_util::stream::poll_fn(move |cx| pieces.poll_recv(cx)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_follows_the_part_that_is_wanted_is_read_too() {
        let read = Arc::new(AtomicUsize::new(0));
        let count = read.clone();
        let body = futures_util::stream::iter(0..100).map(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Bytes::from_static(b"x"))
        });
        let one = |reader: &mut (dyn Read + Send)| reader.read(&mut [0]).unwrap();
        assert_eq!(read_blocking(body.boxed(), one).await, Some(1));
        assert_eq!(read.load(Ordering::Relaxed), 100);
    }
}
