//! A log as chunks for async code, ready to be sent to a client.

use std::io;

use bytes::Bytes;

use crate::client::{KeeperError, LogSignal};
use crate::log::{LogReader, LogRender, Progress};

/// Bytes in a chunk: enough to make the hand-over between threads cheap.
const CHUNK: usize = 256 << 10;

/// Yields a log in chunks; with a [`LogSignal`] it goes on until the log is complete.
#[derive(Debug)]
pub struct LogStream {
    /// `None` only while a thread has it, or after such a call was dropped half-way.
    reader: Option<LogReader>,
    signal: Option<LogSignal>,
    render: LogRender,
    done: bool,
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
    /// An earlier call was dropped while it was reading.
    #[error("an interrupted log stream cannot go on")]
    Interrupted,
}

impl LogStream {
    /// A stream of what `reader` finds; `signal` makes it wait for more at the end, without polling.
    pub fn new(reader: LogReader, render: LogRender, signal: Option<LogSignal>) -> LogStream {
        LogStream { reader: Some(reader), signal, render, done: false }
    }

    /// The next chunk of whole records, never empty, or `None` at the end.
    ///
    /// Not cancel-safe while it reads; drop the stream with the call.
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
        let mut reader = self.reader.take().ok_or(LogError::Interrupted)?;
        let render = self.render;
        let work = tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            let progress = reader.fill(&mut out, CHUNK, render);
            (reader, out, progress)
        });
        let (reader, out, progress) = work.await.map_err(io::Error::other)?;
        self.reader = Some(reader);
        self.done = progress? == Progress::Finished;
        Ok((!out.is_empty()).then(|| out.into()))
    }
}
