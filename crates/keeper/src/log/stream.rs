//! A log as chunks for async code, ready to be sent to a client.

use std::io;

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::client::{KeeperError, LogSignal};
use crate::log::{LogReader, LogRender, Progress};

/// Bytes in a chunk: enough to make the hand-over between threads cheap.
const CHUNK: usize = 256 << 10;

/// Yields a log in chunks; with a [`LogSignal`] it goes on until the log is complete.
#[derive(Debug)]
pub struct LogStream {
    reader: Reading,
    signal: Option<LogSignal>,
    render: LogRender,
    done: bool,
}

/// Where the reader is.
#[derive(Debug)]
enum Reading {
    Idle(Box<LogReader>),
    /// On a thread that may block, making the next chunk.
    Busy(JoinHandle<Filled>),
    /// That thread panicked.
    Lost,
}

/// A reader that comes back with a chunk.
#[derive(Debug)]
struct Filled {
    reader: Box<LogReader>,
    chunk: Vec<u8>,
    progress: io::Result<Progress>,
}

/// A log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file of the log failed.
    #[error("read the container's log")]
    Read(#[from] io::Error),
    /// The keeper could not be asked for news of the log.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// An earlier read did not come back.
    #[error("an interrupted log stream cannot go on")]
    Interrupted,
}

impl LogStream {
    /// A stream of what `reader` finds; `signal` makes it wait for more at the end, without polling.
    pub fn new(reader: LogReader, render: LogRender, signal: Option<LogSignal>) -> LogStream {
        LogStream { reader: Reading::Idle(Box::new(reader)), signal, render, done: false }
    }

    /// The next chunk of whole records, never empty, or `None` at the end.
    ///
    /// A client takes a chunk while the next is made, as long as there is more. Not cancel-safe while it waits for
    /// the keeper; drop the stream with the call.
    pub async fn next(&mut self) -> Result<Option<Bytes>, LogError> {
        loop {
            if self.done {
                return Ok(None);
            }
            if let Some(chunk) = self.read().await? {
                return Ok(Some(chunk));
            }
            let Some(signal) = &mut self.signal else { return Ok(None) };
            // Growth between the end of the file and the arming would go unnoticed: look again after it.
            if let Err(KeeperError::Gone) = signal.arm().await {
                self.signal = None;
                continue;
            }
            if let Some(chunk) = self.read().await? {
                return Ok(Some(chunk));
            }
            let Some(signal) = &mut self.signal else { return Ok(None) };
            if !signal.grew().await? {
                self.signal = None;
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, LogError> {
        if self.done {
            return Ok(None);
        }
        self.begin();
        let Reading::Busy(work) = &mut self.reader else { return Err(LogError::Interrupted) };
        let filled = work.await;
        self.reader = Reading::Lost;
        let Filled { reader, chunk, progress } = filled.map_err(io::Error::other)?;
        self.reader = Reading::Idle(reader);
        match progress? {
            Progress::More => self.begin(),
            Progress::Finished => self.done = true,
            Progress::Caught => {}
        }
        Ok((!chunk.is_empty()).then(|| chunk.into()))
    }

    /// Sets the reader to work, unless it is.
    fn begin(&mut self) {
        let render = self.render;
        self.reader = match std::mem::replace(&mut self.reader, Reading::Lost) {
            Reading::Idle(mut reader) => Reading::Busy(tokio::task::spawn_blocking(move || {
                // A record may cross the mark: room for it, so that the chunk is not moved as it grows.
                let mut chunk = Vec::with_capacity(CHUNK + (32 << 10));
                let progress = reader.fill(&mut chunk, CHUNK, render);
                Filled { reader, chunk, progress }
            })),
            other => other,
        };
    }
}
