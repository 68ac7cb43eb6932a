//! The container's log as its keeper has it: written here, or, where the container must never wait, by a process apart.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use wharf_base::clock::Clock;
use wharf_sys::child::{self, Ended};
use wharf_sys::{channel, process, scratch};

use crate::log::writer::{LogWriter, Trouble};
use crate::log::{LogConfig, LogMode, Stream};

/// A pipe takes so much at once or nothing (`PIPE_BUF`).
const FRAME: usize = 4096;
/// Stream, whether something was lost before, length, time.
const HEAD: usize = 12;
/// How long the writer may take, after the container has ended, for what is still in its pipe.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// The most that a pipe may hold without the kernel's permission (`/proc/sys/fs/pipe-max-size`).
const PIPE_LIMIT: usize = 1 << 20;
/// What a writer tells when it has written: how many records the disk refused.
const NEWS: usize = 8;

/// One container's log.
#[derive(Debug)]
pub(super) enum Log {
    /// The container waits while the keeper writes.
    Here(Box<LogWriter>),
    /// It never waits: what the writer's pipe does not take is lost and counted.
    Apart(Apart),
}

/// A log written by another process.
#[derive(Debug)]
pub(super) struct Apart {
    /// Closed when the container has ended.
    to: Option<File>,
    from: File,
    pid: i32,
    gaps: [Gap; 2],
    own: Trouble,
    writers: u64,
}

/// What was lost of a stream just before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    Nothing,
    /// Whole lines at its end.
    Lines,
    /// The beginning of a line, whose end is lost with it.
    Beginning,
}

impl Gap {
    /// The gap that losing `bytes` leaves.
    fn after(bytes: &[u8]) -> Gap {
        if bytes.ends_with(b"\n") { Gap::Lines } else { Gap::Beginning }
    }
}

impl Log {
    /// Opens the log. The process apart, if there is one, is a child of the caller.
    pub(super) fn open(config: &LogConfig) -> io::Result<Log> {
        let writer = LogWriter::open(config)?;
        match config.mode {
            LogMode::Blocking => Ok(Log::Here(Box::new(writer))),
            LogMode::NonBlocking { buffer } => {
                drop(writer); // It was opened for its errors only.
                Apart::start(config, buffer).map(Log::Apart)
            }
        }
    }

    /// What becomes readable when the log has grown, if the caller does not know by itself.
    pub(super) fn news(&self) -> Option<&File> {
        match self {
            Log::Here(_) => None,
            Log::Apart(apart) => Some(&apart.from),
        }
    }

    /// Logs what was read from `stream` at time `now`. Whether it can be read back by now.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8], now: i64) -> bool {
        match self {
            Log::Here(writer) => {
                writer.write(stream, bytes, now);
                true
            }
            Log::Apart(apart) => {
                apart.write(stream, bytes, now);
                false
            }
        }
    }

    /// Logs what is left, once the container has ended.
    pub(super) fn finish(&mut self, now: i64) {
        match self {
            Log::Here(writer) => {
                for stream in [Stream::Stdout, Stream::Stderr] {
                    writer.finish(stream, now);
                }
            }
            Log::Apart(apart) => apart.finish(now),
        }
    }

    /// Takes in what the process apart tells. `false` when it has nothing more to tell.
    pub(super) fn hear(&mut self) -> bool {
        match self {
            Log::Here(_) => false,
            Log::Apart(apart) => apart.hear(),
        }
    }

    /// Gives memory back that only bursts need.
    pub(super) fn rest(&mut self) {
        if let Log::Here(writer) = self {
            writer.rest();
        }
    }

    /// What was lost so far.
    pub(super) fn trouble(&self) -> Trouble {
        match self {
            Log::Here(writer) => writer.trouble().clone(),
            Log::Apart(apart) => {
                Trouble { lost: apart.own.lost + apart.writers, error: apart.own.error.clone() }
            }
        }
    }

    /// Takes note that child `pid` ended. `true` if it was this log's.
    pub(super) fn child_ended(&mut self, pid: i32, well: bool) -> bool {
        match self {
            Log::Here(writer) => writer.child_ended(pid, well),
            Log::Apart(apart) => apart.pid == pid,
        }
    }
}

impl Apart {
    fn start(config: &LogConfig, buffer: u64) -> io::Result<Apart> {
        let (their_input, to) = scratch::pipe()?;
        let (from, their_news) = scratch::pipe()?;
        let buffer = usize::try_from(buffer).unwrap_or(usize::MAX).clamp(FRAME, 1 << 30);
        // More than a megabyte may be forbidden, and then that is what there is.
        if scratch::grow_pipe(&to, buffer)? < buffer {
            scratch::grow_pipe(&to, buffer.min(PIPE_LIMIT))?;
        }
        for end in [&to, &from, &their_news] {
            channel::set_nonblocking(end, true)?;
        }
        let keep = [their_input.as_fd(), their_news.as_fd()];
        let pid = child::detached(&keep, || {
            // A name is comfort.
            drop(child::set_name("wharf-log"));
            let input = duplicate(&their_input);
            let news = duplicate(&their_news);
            match (input, news) {
                (Ok(input), Ok(news)) => i32::from(serve(input, news, config).is_err()),
                _ => 1,
            }
        })?;
        Ok(Apart {
            to: Some(to.into()),
            from: from.into(),
            pid,
            gaps: [Gap::Nothing; 2],
            own: Trouble::default(),
            writers: 0,
        })
    }

    fn write(&mut self, stream: Stream, mut bytes: &[u8], now: i64) {
        let at = usize::from(stream == Stream::Stderr);
        if self.gaps[at] == Gap::Beginning {
            match memchr::memchr(b'\n', bytes) {
                Some(end) => bytes = &bytes[end + 1..],
                None => return,
            }
            self.gaps[at] = Gap::Lines;
        }
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(FRAME - HEAD));
            if !self.send(stream, piece, now, self.gaps[at] != Gap::Nothing) {
                let lost = memchr::memchr_iter(b'\n', bytes).count();
                self.own.lost += lost.max(1) as u64;
                self.own.error = Some("the log's buffer is full".to_owned());
                self.gaps[at] = Gap::after(bytes);
                return;
            }
            self.gaps[at] = Gap::Nothing;
            bytes = rest;
        }
    }

    /// Whether the pipe took it.
    fn send(&mut self, stream: Stream, piece: &[u8], now: i64, after_gap: bool) -> bool {
        let Some(to) = &mut self.to else { return false };
        let mut frame = Vec::with_capacity(HEAD + piece.len());
        frame.extend([stream.number(), u8::from(after_gap)]);
        frame.extend(u16::try_from(piece.len()).unwrap_or(0).to_le_bytes());
        frame.extend(now.to_le_bytes());
        frame.extend(piece);
        matches!(to.write(&frame), Ok(n) if n == frame.len())
    }

    /// Waits for the writer's end, within bounds: a reader takes the end of the container for that of its log.
    fn finish(&mut self, now: i64) {
        for (stream, gap) in [Stream::Stdout, Stream::Stderr].into_iter().zip(self.gaps) {
            if gap != Gap::Nothing {
                // Else half a line would be logged; if even this is lost, it is.
                self.send(stream, b"", now, true);
            }
        }
        self.to = None;
        let clock = Clock::system();
        let until = clock.instant() + LAST_WORDS;
        while self.hear() {
            let left = until.saturating_duration_since(clock.instant());
            let left = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            let ready = process::poll_readable(&[self.from.as_fd()], left);
            if left == 0 || ready.is_err() {
                return;
            }
        }
    }

    fn hear(&mut self) -> bool {
        loop {
            let mut news = [0; NEWS];
            match self.from.read(&mut news) {
                Ok(NEWS) => self.writers = u64::from_le_bytes(news),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Ok(_) | Err(_) => return false,
            }
        }
    }
}

/// The writer's whole life: it ends with its input.
fn serve(mut input: File, mut news: File, config: &LogConfig) -> io::Result<()> {
    let mut writer = LogWriter::open(config)?;
    let mut frame = [0; FRAME];
    let mut last = 0;
    while input.read_exact(&mut frame[..HEAD]).is_ok() {
        let stream = if frame[0] == 1 { Stream::Stdout } else { Stream::Stderr };
        let after_gap = frame[1] != 0;
        let len = usize::from(u16::from_le_bytes([frame[2], frame[3]])).min(FRAME - HEAD);
        let mut now = [0; 8];
        now.copy_from_slice(&frame[4..HEAD]);
        last = i64::from_le_bytes(now);
        input.read_exact(&mut frame[..len])?;
        if after_gap {
            writer.forget(stream, last);
        }
        writer.write(stream, &frame[..len], last);
        // A keeper that has news already needs no more.
        drop(news.write(&writer.trouble().lost.to_le_bytes()));
        while let Ok(Some((pid, how))) = child::reap() {
            writer.child_ended(pid, how == Ended::Exited(0));
        }
    }
    for stream in [Stream::Stdout, Stream::Stderr] {
        writer.finish(stream, last);
    }
    Ok(())
}

fn duplicate(fd: &OwnedFd) -> io::Result<File> {
    fd.try_clone().map(File::from)
}
