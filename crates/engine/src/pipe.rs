//! Bytes between a blocking thread and async code, with bounded room between them.

use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::sync::mpsc;

/// Bytes that are collected before they are handed over.
const CHUNK: usize = 64 << 10;

/// The blocking end that writes. The reader's going away is a broken pipe.
pub(crate) struct ChunkWriter {
    sink: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
}

impl ChunkWriter {
    pub(crate) fn new(sink: mpsc::Sender<io::Result<Bytes>>) -> ChunkWriter {
        ChunkWriter { sink, buffer: BytesMut::with_capacity(CHUNK) }
    }

    /// The end. A reader that is gone does not mind.
    pub(crate) fn finish(mut self) {
        drop(self.flush());
    }

    /// The end, with the reason for it being early.
    pub(crate) fn fail(mut self, e: io::Error) {
        drop(self.flush());
        drop(self.sink.blocking_send(Err(e)));
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let take = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..take]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(take)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(CHUNK)).freeze();
        self.sink.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The blocking end that reads.
pub(crate) struct ChunkReader {
    source: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl ChunkReader {
    pub(crate) fn new(source: mpsc::Receiver<io::Result<Bytes>>) -> ChunkReader {
        ChunkReader { source, rest: Bytes::new() }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.source.blocking_recv() {
                Some(chunk) => self.rest = chunk?,
                None => return Ok(0),
            }
        }
        let take = out.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut out[..take]);
        Ok(take)
    }
}
