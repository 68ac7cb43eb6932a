//! The uncompressed tar as a sequence of shared buffers: read once, hashed and written without copies.

use std::io::{self, Read};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};

/// Bytes per buffer.
const BUFFER: usize = 256 << 10;
/// Buffers per feed: 12 MiB of content may be on its way.
const BUFFERS: usize = 48;

/// A piece of a shared buffer. The buffer returns to its pool with the last piece of it.
#[derive(Clone)]
pub(crate) struct Chunk {
    buffer: Arc<Buffer>,
    start: usize,
    end: usize,
}

struct Buffer {
    bytes: Vec<u8>,
    home: Sender<Vec<u8>>,
}

/// Reads ahead of the parser, a buffer at a time.
pub(crate) struct Feed<R> {
    input: R,
    pool: Pool,
    current: Option<Chunk>,
    position: u64,
    /// Gets every buffer once, in order.
    hasher: Option<SyncSender<Chunk>>,
}

struct Pool {
    home: Sender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
    made: usize,
}

impl<R: Read> Feed<R> {
    /// A feed from `input` that gives every buffer to `hasher`.
    pub(crate) fn new(input: R, hasher: Option<SyncSender<Chunk>>) -> Self {
        let (home, returned) = channel();
        let pool = Pool { home, returned, made: 0 };
        Self { input, pool, current: None, position: 0, hasher }
    }

    /// How many bytes were taken.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes, at most `max`; `None` at the end.
    pub(crate) fn take(&mut self, max: u64) -> io::Result<Option<Chunk>> {
        if self.current.as_ref().is_none_or(|c| c.is_empty()) {
            self.current = None;
            self.current = self.fill()?;
        }
        let Some(current) = &mut self.current else { return Ok(None) };
        let n = usize::try_from(max).map_or(current.len(), |max| max.min(current.len()));
        let piece = Chunk { end: current.start + n, ..current.clone() };
        current.start += n;
        self.position += n as u64;
        Ok(Some(piece))
    }

    /// Fills `out`; false if the end came first.
    pub(crate) fn read_exact(&mut self, out: &mut [u8]) -> io::Result<bool> {
        let mut have = 0;
        while have < out.len() {
            let Some(piece) = self.take((out.len() - have) as u64)? else { return Ok(false) };
            out[have..have + piece.len()].copy_from_slice(&piece);
            have += piece.len();
        }
        Ok(true)
    }

    /// Passes over `n` bytes; false if the end came first.
    pub(crate) fn skip(&mut self, mut n: u64) -> io::Result<bool> {
        while n > 0 {
            let Some(piece) = self.take(n)? else { return Ok(false) };
            n -= piece.len() as u64;
        }
        Ok(true)
    }

    fn fill(&mut self) -> io::Result<Option<Chunk>> {
        let mut bytes = self.pool.take();
        let mut have = 0;
        while have < bytes.len() {
            match self.input.read(&mut bytes[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let buffer = Arc::new(Buffer { bytes, home: self.pool.home.clone() });
        if have == 0 {
            return Ok(None);
        }
        let chunk = Chunk { buffer, start: 0, end: have };
        if let Some(hasher) = &self.hasher {
            // The hashing thread only goes away by panicking, which its join reports.
            drop(hasher.send(chunk.clone()));
        }
        Ok(Some(chunk))
    }
}

impl Pool {
    /// A buffer; waits for one to come back when all are out. They do come back: the consumers never
    /// wait for the feed while they hold one.
    fn take(&mut self) -> Vec<u8> {
        if let Ok(buffer) = self.returned.try_recv() {
            return buffer;
        }
        if self.made < BUFFERS {
            self.made += 1;
            return vec![0; BUFFER];
        }
        // `home` keeps the channel open, so this only waits.
        self.returned.recv().unwrap_or_else(|_| vec![0; BUFFER])
    }
}

impl Chunk {
    /// Drops the first `n` bytes.
    pub(crate) fn advance(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer.bytes[self.start..self.end]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // The feed may be gone; then the buffer is simply freed.
        drop(self.home.send(std::mem::take(&mut self.bytes)));
    }
}
