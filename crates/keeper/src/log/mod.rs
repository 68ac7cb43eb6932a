//! Container logs: what to write and where, the writer in the keeper, the reader in the daemon.

pub(crate) mod file;
mod json;
mod local;
mod names;
mod reader;
mod source;
mod stream;
mod time;
pub(crate) mod writer;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use reader::{LogEntry, LogQuery, LogReader, LogRender, Progress};
pub use stream::{LogError, LogStream};

/// Where and how a container's output is logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// The format.
    pub format: LogFormat,
    /// The file that is written; rotated ones get `.1`, `.2` … with 1 the youngest. Its directory must exist.
    pub path: PathBuf,
    /// Rotate when the file has this many bytes; 0 for never.
    pub max_size: u64,
    /// How many files there may be, the one being written among them; at least 1.
    pub max_files: u32,
    /// Compress rotated files.
    pub compress: bool,
    /// Labels and environment that each `json-file` record repeats, in this order.
    pub attrs: Vec<(String, String)>,
    /// Whether the container waits for the disk.
    pub mode: LogMode,
}

/// The formats of log files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// Docker's `json-file`: one JSON object in each line.
    JsonFile,
    /// Docker's `local`: length-framed protobuf records.
    Local,
    /// Nothing is kept.
    None,
}

/// What happens when the log cannot take a line at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogMode {
    /// The container waits.
    Blocking,
    /// Lines are buffered up to so many bytes, then lost.
    NonBlocking {
        /// Docker's `max-buffer-size`.
        buffer: u64,
    },
}

/// The stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Its number in Docker's frames.
    pub fn number(self) -> u8 {
        match self {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        }
    }

    /// Its name in log records.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;
