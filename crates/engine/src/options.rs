//! What callers may ask of each operation, and the streams that they get.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::{EngineError, Result};
use crate::filters::Filters;

/// Bytes as they come.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Bytes from a client.
pub type ByteReader = Pin<Box<dyn AsyncRead + Send>>;

/// Both directions of an attached container or exec.
///
/// Dropping `input` without shutting it down leaves the process's input open; shutting it down is
/// the client's half-close. `output` ends with the process, on detach, or when the daemon stops.
pub struct Session {
    /// What the process prints: raw with a terminal, otherwise in frames of
    /// `[stream, 0, 0, 0, length as 4 bytes big endian]` and the payload.
    pub output: ByteStream,
    /// What the client types.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// Whether the process has a terminal, so that `output` is raw.
    pub tty: bool,
}

/// How a container is stopped.
#[derive(Clone, Debug, Default)]
pub struct StopOptions {
    /// Seconds to wait before SIGKILL; -1 waits for ever; `None` is the container's own, 10 by default.
    pub timeout: Option<i64>,
    /// The first signal, by name or number; `None` is the container's own, SIGTERM by default.
    pub signal: Option<String>,
}

/// What a waiter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// The container does not run (now, or some time).
    #[default]
    NotRunning,
    /// The next time that it ends.
    NextExit,
    /// It is gone.
    Removed,
}

impl WaitCondition {
    /// Reads the query parameter.
    pub fn parse(text: &str) -> Result<WaitCondition> {
        match text {
            "" | "not-running" => Ok(WaitCondition::NotRunning),
            "next-exit" => Ok(WaitCondition::NextExit),
            "removed" => Ok(WaitCondition::Removed),
            other => Err(EngineError::invalid(format!("invalid condition: {other:?}"))),
        }
    }
}

/// How a container is removed.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
    /// Remove a legacy link instead of the container.
    pub link: bool,
}

/// What a read-only bind covers unless its options say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOnly {
    /// Also what is mounted below it.
    Recursive,
    /// Itself alone, as before version 1.44 of the API.
    Top,
}

/// Which containers a list shows.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Those that do not run as well.
    pub all: bool,
    /// Only the newest so many (whatever their state); `None` or not positive is all.
    pub limit: Option<i64>,
    /// Measure their disk use.
    pub size: bool,
    /// Filters.
    pub filters: Filters,
}

/// Which part of a log, and how.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Nanoseconds since 1970; lines from then on.
    pub since: Option<i64>,
    /// Nanoseconds since 1970; lines up to then.
    pub until: Option<i64>,
    /// The last so many lines.
    pub tail: Option<u64>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Put the attributes before each line.
    pub details: bool,
    /// Go on until the container ends.
    pub follow: bool,
}

/// What of a container a client attaches to.
#[derive(Clone, Debug, Default)]
pub struct AttachOptions {
    /// Its input.
    pub stdin: bool,
    /// Its output.
    pub stdout: bool,
    /// Its error output.
    pub stderr: bool,
    /// What it printed before.
    pub logs: bool,
    /// What it prints from now on. Without it only `logs` are sent.
    pub stream: bool,
    /// Keys that detach; `None` is the daemon's default.
    pub detach_keys: Option<String>,
}

/// How an exec is started.
#[derive(Clone, Debug, Default)]
pub struct ExecStart {
    /// Do not attach.
    pub detach: bool,
    /// The client expects a terminal; must agree with the exec's own setting when attached.
    pub tty: bool,
    /// Rows and columns.
    pub console_size: Option<[u32; 2]>,
}

/// How an archive is put into a container.
#[derive(Clone, Copy, Debug, Default)]
pub struct ArchivePut {
    /// Refuse to replace a directory by a file and the reverse.
    pub no_overwrite_dir_non_dir: bool,
    /// Give the files to the container's user instead of the archive's owners.
    pub copy_uid_gid: bool,
}

/// How resource use is reported.
#[derive(Clone, Copy, Debug)]
pub struct StatsOptions {
    /// One sample per second until the client goes; otherwise one sample.
    pub stream: bool,
    /// Do not wait for a first sample to compare with.
    pub one_shot: bool,
}

/// What an image is made of a container.
#[derive(Clone, Debug)]
pub struct CommitOptions {
    /// The container.
    pub container: String,
    /// Repository; empty for an image without a name.
    pub repo: String,
    /// Tag; empty is `latest`.
    pub tag: String,
    /// Free text.
    pub comment: String,
    /// Who.
    pub author: String,
    /// Freeze the container meanwhile.
    pub pause: bool,
    /// Dockerfile instructions to apply to the config.
    pub changes: Vec<String>,
    /// Config that replaces the container's; zero values leave it.
    pub config: wharf_spec::docker::ContainerConfig,
}
