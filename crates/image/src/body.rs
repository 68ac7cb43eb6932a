//! Bridges between async byte streams and the blocking threads that do the work.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_immediate;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use wharf_base::sync::Mutex;

/// Bytes that arrive or leave piece by piece: a request or response body.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Pieces on their way between the two worlds.
const DEPTH: usize = 16;
/// Size of a block on its way to a reader, and how many there are at a time.
const BLOCK: usize = 256 << 10;
const BLOCKS: usize = 8;
/// Size of a piece that is written.
const PIECE: usize = 128 << 10;
/// Bytes behind an archive that are read and dropped, and how long they may take: a client that sends more is not waited for.
const PADDING: usize = 256 << 10;
const SOON: Duration = Duration::from_secs(1);

enum Message {
    Data(Vec<u8>),
    Failed(io::Error),
    End,
}

/// Blocks that were read and will be filled again. What arrives is copied into them: a connection whose buffers are
/// kept waiting has to get new ones from the kernel for each piece, which costs several times as much as the copy.
type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

/// Reads, on a blocking thread, what [`BodySender::feed`] sends.
pub(crate) struct BodyReader {
    messages: mpsc::Receiver<Message>,
    current: Vec<u8>,
    /// How much of it was read.
    at: usize,
    spare: Spare,
    ended: bool,
}

/// The async end of a [`BodyReader`].
pub(crate) struct BodySender {
    messages: mpsc::Sender<Message>,
    spare: Spare,
}

/// A reader for a blocking thread and the end to feed it by.
pub(crate) fn reader() -> (BodySender, BodyReader) {
    let (sender, messages) = mpsc::channel(BLOCKS);
    let spare = Spare::default();
    let reader =
        BodyReader { messages, current: Vec::new(), at: 0, spare: spare.clone(), ended: false };
    (BodySender { messages: sender, spare }, reader)
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
        let mut block = Vec::new();
        loop {
            // What is there already travels together: each message may have to wake the reader.
            let next = match poll_immediate(body.next()).await {
                Some(next) => next,
                None if !self.flush(&mut block).await => break,
                None => body.next().await,
            };
            let last = match next {
                Some(Ok(bytes)) => {
                    if !self.add(&mut block, &bytes).await {
                        break;
                    }
                    continue;
                }
                Some(Err(error)) => Message::Failed(error),
                None => Message::End,
            };
            if self.flush(&mut block).await {
                // Whoever has read enough does not want to know.
                drop(self.messages.send(last).await);
            }
            return;
        }
        // A request that was not read to its end costs its connection, on which the client, who has sent it
        // all, may send the next one just now.
        drop(tokio::time::timeout(SOON, discard(body)).await);
    }

    /// Sends one piece; false if nobody reads any more.
    pub(crate) async fn send(&self, bytes: &[u8]) -> bool {
        let mut block = Vec::new();
        self.add(&mut block, bytes).await && self.flush(&mut block).await
    }

    /// Marks the end.
    pub(crate) async fn end(self) {
        drop(self.messages.send(Message::End).await);
    }

    /// Adds to a block, and sends it whenever it is full.
    async fn add(&self, block: &mut Vec<u8>, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if block.capacity() == 0 {
                *block = self.spare.lock().pop().unwrap_or_else(|| Vec::with_capacity(BLOCK));
            }
            let n = bytes.len().min(BLOCK - block.len());
            block.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if block.len() == BLOCK && !self.flush(block).await {
                return false;
            }
        }
        true
    }

    /// Sends what is in the block.
    async fn flush(&self, block: &mut Vec<u8>) -> bool {
        if block.is_empty() {
            return !self.messages.is_closed();
        }
        self.messages.send(Message::Data(std::mem::take(block))).await.is_ok()
    }
}

impl BodyReader {
    /// Waits until there is something to read, or the end.
    fn fill(&mut self) -> io::Result<()> {
        while self.at == self.current.len() && !self.ended {
            let mut done = std::mem::take(&mut self.current);
            self.at = 0;
            if done.capacity() > 0 {
                done.clear();
                self.spare.lock().push(done);
            }
            match self.messages.blocking_recv() {
                Some(Message::Data(block)) => self.current = block,
                Some(Message::Failed(error)) => return Err(error),
                Some(Message::End) => self.ended = true,
                None => {
                    let text = "the transfer was cancelled";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, text));
                }
            }
        }
        Ok(())
    }
}

impl Read for BodyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.fill()?;
        let n = (self.current.len() - self.at).min(out.len());
        out[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
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
    #[tokio::test]
    async fn pieces_of_any_size_arrive_in_order_and_before_what_breaks_them_off() {
        let sizes = [1, 7, BLOCK - 1, 3 * BLOCK + 5, BLOCK, 0, 2];
        let pieces: Vec<Vec<u8>> =
            sizes.iter().zip(b'a'..).map(|(size, letter)| vec![letter; *size]).collect();
        let whole = pieces.concat();
        let broken = || io::Error::other("broken");
        let pieces = pieces.into_iter().map(|p| Ok(p.into())).chain([Err(broken())]);
        // Now and then nothing is there yet.
        let body = futures_util::stream::iter(pieces).then(|piece| async {
            tokio::task::yield_now().await;
            piece
        });
        let read = |reader: &mut (dyn Read + Send)| {
            let mut all = Vec::new();
            (reader.read_to_end(&mut all).unwrap_err().to_string(), all)
        };
        let (error, all) = read_blocking(Box::pin(body), read).await.unwrap();
        assert!(all == whole && error == "broken", "{} bytes, {error}", all.len());
    }
}
