//! Reads a container's log: all of it or its end, by time and stream, and on as it grows.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::path::PathBuf;

use crate::log::source::{Content, Source, identity, open_all};
use crate::log::time::Stamper;
use crate::log::{LogFormat, Stream, json, local};

/// Longest record that is read; what is longer is damage.
const LONGEST_RECORD: usize = 1 << 20;
/// How much is read from a file at once.
const BLOCK: usize = 128 << 10;

/// Which records to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// Those of standard output.
    pub stdout: bool,
    /// Those of standard error.
    pub stderr: bool,
    /// Those at or after this time, in nanoseconds since 1970.
    pub since: Option<i64>,
    /// Those at or before this time; the first later one ends the reading.
    pub until: Option<i64>,
    /// Only so many of the last, before the other conditions are applied; `None` for all.
    pub tail: Option<u64>,
}

impl Default for LogQuery {
    fn default() -> LogQuery {
        LogQuery { stdout: true, stderr: true, since: None, until: None, tail: None }
    }
}

/// How records are put into a chunk for a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRender {
    /// Put Docker's 8-byte frame header before each record.
    pub framed: bool,
    /// Put the time, with nine digits, before each record.
    pub timestamps: bool,
    /// Put the record's attrs before each record, sorted, as `key=value,…` with URL escapes.
    pub details: bool,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There may be more at once.
    More,
    /// The end of what is written so far.
    Caught,
    /// Nothing that is wanted can follow.
    Finished,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Where it was written.
    pub stream: Stream,
    /// When it was read from the container, in nanoseconds since 1970.
    pub at: i64,
    /// Its text, with the line end unless the line goes on in the next record of the stream.
    pub text: Vec<u8>,
    /// The labels and environment that the log repeats, as a JSON object; empty if there are none.
    pub attrs: Vec<u8>,
}

/// Reads one log. It blocks on the disk only; see [`crate::log::LogStream`] for async code.
///
/// Rotation meanwhile is followed by inode: nothing is skipped or repeated as long as rotated files are not
/// deleted faster than they are read. Records that a crash tore are passed over.
pub struct LogReader {
    path: PathBuf,
    format: LogFormat,
    query: LogQuery,
    sources: VecDeque<Source>,
    current: Option<Current>,
    buffer: Vec<u8>,
    /// The part of `buffer` that is not decoded yet.
    fresh: std::ops::Range<usize>,
    /// Only records younger than this, after a gap in the files.
    after: i64,
    last: i64,
    finished: bool,
    text: Vec<u8>,
    stamper: Stamper,
}

struct Current {
    content: Content,
    identity: (u64, u64),
    skip: u64,
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader").field("path", &self.path).field("last", &self.last).finish()
    }
}

impl LogReader {
    /// Opens the log at `path`, which need not exist yet.
    ///
    /// # Errors
    /// `Unsupported` for [`LogFormat::None`].
    pub fn open(path: PathBuf, format: LogFormat, query: LogQuery) -> io::Result<LogReader> {
        if format == LogFormat::None {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "configured logging driver does not support reading",
            ));
        }
        let mut sources = open_all(&path)?;
        if let Some(lines) = query.tail {
            keep_last(&mut sources, lines, format)?;
        }
        if let Some(since) = query.since {
            // The written file stays, so that reading can go on in it.
            while sources.len() > 1 && sources[0].ends_before(since) {
                sources.pop_front();
            }
        }
        Ok(LogReader {
            path,
            format,
            query,
            sources,
            current: None,
            buffer: Vec::new(),
            fresh: 0..0,
            after: i64::MIN,
            last: i64::MIN,
            finished: false,
            text: Vec::new(),
            stamper: Stamper::new(),
        })
    }

    /// Appends records to `out`, ready for a client, until it has `limit` bytes or there are no more.
    pub fn fill(
        &mut self,
        out: &mut Vec<u8>,
        limit: usize,
        how: LogRender,
    ) -> io::Result<Progress> {
        while out.len() < limit {
            let step = self.step(|record, stamper| render(out, record, how, stamper))?;
            if step != Progress::More {
                return Ok(step);
            }
        }
        Ok(Progress::More)
    }

    /// The next record, or `None` at the end of what is written so far.
    pub fn next_entry(&mut self) -> io::Result<Option<LogEntry>> {
        let mut found = None;
        while found.is_none() {
            let step = self.step(|record, _| {
                found = Some(LogEntry {
                    stream: record.stream,
                    at: record.at,
                    text: record.text.to_vec(),
                    attrs: record.attrs.to_vec(),
                });
            })?;
            if step != Progress::More {
                break;
            }
        }
        Ok(found)
    }

    /// Reads one record and hands it to `take` if it is wanted.
    fn step(&mut self, take: impl FnOnce(Record<'_>, &mut Stamper)) -> io::Result<Progress> {
        if self.finished {
            return Ok(Progress::Finished);
        }
        let Some(span) = self.next_span()? else { return Ok(Progress::Caught) };
        self.text.clear();
        let raw = &self.buffer[span];
        let Some(record) = decode(self.format, raw, &mut self.text) else {
            return Ok(Progress::More);
        };
        if let Some(skip) = self.current.as_mut().map(|c| &mut c.skip).filter(|s| **s > 0) {
            *skip -= 1;
            return Ok(Progress::More);
        }
        if self.query.until.is_some_and(|until| record.at > until) {
            self.finished = true;
            return Ok(Progress::Finished);
        }
        let seen = record.at <= self.after;
        self.last = self.last.max(record.at);
        if !seen && wanted(&self.query, &record) {
            take(record, &mut self.stamper);
        }
        Ok(Progress::More)
    }

    /// Where in the buffer the next record is, reading on as needed.
    fn next_span(&mut self) -> io::Result<Option<std::ops::Range<usize>>> {
        loop {
            match whole(self.format, &self.buffer[self.fresh.clone()]) {
                Whole::Record { inner, len } => {
                    let start = self.fresh.start;
                    self.fresh.start += len;
                    return Ok(Some(start + inner.start..start + inner.end));
                }
                Whole::Damaged => {
                    // Frames give no place to find the next record: give up this file.
                    self.fresh = 0..0;
                    if !self.next_source()? {
                        return Ok(None);
                    }
                }
                Whole::Partial => {
                    if !self.read_more()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Gets more bytes from this file or the next. `false` at the end of both.
    fn read_more(&mut self) -> io::Result<bool> {
        if self.current.is_none() && !self.next_source()? {
            return Ok(false);
        }
        if self.read_block()? > 0 {
            return Ok(true);
        }
        if self.sources.is_empty() && !self.find_successors()? {
            return Ok(false);
        }
        // The file may have grown between its end and its rotation.
        if self.read_block()? > 0 {
            return Ok(true);
        }
        self.fresh = 0..0; // What is left is torn: this file gets no more.
        self.next_source()
    }

    fn read_block(&mut self) -> io::Result<usize> {
        let Some(current) = &mut self.current else { return Ok(0) };
        let pending = self.fresh.len();
        if pending > LONGEST_RECORD {
            self.fresh.start = self.fresh.end;
        }
        self.buffer.copy_within(self.fresh.clone(), 0);
        self.fresh = 0..self.fresh.len();
        self.buffer.resize(self.fresh.end + BLOCK, 0);
        let got = match current.content.read(&mut self.buffer[self.fresh.end..]) {
            // A compressed file that a crash cut short ends where it ends.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => 0,
            other => other?,
        };
        self.fresh.end += got;
        Ok(got)
    }

    fn next_source(&mut self) -> io::Result<bool> {
        if self.sources.is_empty() && !self.find_successors()? {
            return Ok(false);
        }
        let Some(source) = self.sources.pop_front() else { return Ok(false) };
        self.current = Some(Current {
            content: source.content()?,
            identity: source.identity,
            skip: source.skip,
        });
        Ok(true)
    }

    /// Looks for files younger than the one that was read to its end.
    fn find_successors(&mut self) -> io::Result<bool> {
        let now = identity(&self.path)?;
        let own = self.current.as_ref().map(|c| c.identity);
        if now.is_none() || now == own {
            return Ok(false);
        }
        let mut all = open_all(&self.path)?;
        if own.is_some() {
            match all.iter().position(|s| Some(s.identity) == own) {
                Some(at) => drop(all.drain(..=at)),
                // Compressed or deleted meanwhile: what was seen is told by time.
                None => self.after = self.last,
            }
        }
        self.sources = all;
        Ok(!self.sources.is_empty())
    }
}

/// Drops what is before the last `lines` records.
fn keep_last(sources: &mut VecDeque<Source>, lines: u64, format: LogFormat) -> io::Result<()> {
    let mut missing = lines;
    for index in (0..sources.len()).rev() {
        missing -= sources[index].start_at_last(missing, format)?;
        if missing == 0 {
            sources.drain(..index);
            break;
        }
    }
    Ok(())
}

struct Record<'a> {
    stream: Stream,
    at: i64,
    text: &'a [u8],
    attrs: &'a [u8],
}

enum Whole {
    Record { inner: std::ops::Range<usize>, len: usize },
    Partial,
    Damaged,
}

fn whole(format: LogFormat, buffer: &[u8]) -> Whole {
    if format == LogFormat::Local {
        return match local::frame(buffer) {
            local::Frame::Whole(_, len) => {
                Whole::Record { inner: local::LENGTH..len - local::LENGTH, len }
            }
            local::Frame::Partial => Whole::Partial,
            local::Frame::Damaged => Whole::Damaged,
        };
    }
    match memchr::memchr(b'\n', buffer) {
        Some(end) => Whole::Record { inner: 0..end, len: end + 1 },
        None => Whole::Partial,
    }
}

fn decode<'a>(format: LogFormat, raw: &'a [u8], text: &'a mut Vec<u8>) -> Option<Record<'a>> {
    if format == LogFormat::Local {
        let entry = local::decode(raw)?;
        text.extend_from_slice(entry.text);
        if entry.ends {
            text.push(b'\n');
        }
        return Some(Record { stream: entry.stream, at: entry.at, text, attrs: b"" });
    }
    let head = json::decode(raw, text)?;
    Some(Record { stream: head.stream, at: head.at, text, attrs: head.attrs })
}

fn wanted(query: &LogQuery, record: &Record<'_>) -> bool {
    let stream = match record.stream {
        Stream::Stdout => query.stdout,
        Stream::Stderr => query.stderr,
    };
    stream && query.since.is_none_or(|since| record.at >= since)
}

fn render(out: &mut Vec<u8>, record: Record<'_>, how: LogRender, stamper: &mut Stamper) {
    let start = out.len();
    if how.framed {
        out.extend_from_slice(&[record.stream.number(), 0, 0, 0, 0, 0, 0, 0]);
    }
    if how.timestamps {
        out.extend_from_slice(stamper.long(record.at));
        out.push(b' ');
    }
    if how.details {
        render_details(out, record.attrs);
        out.push(b' ');
    }
    out.extend_from_slice(record.text);
    if how.framed {
        let len = u32::try_from(out.len() - start - 8).unwrap_or(u32::MAX);
        out[start + 4..start + 8].copy_from_slice(&len.to_be_bytes());
    }
}

/// Docker prints attrs sorted, joined by commas, with Go's query escapes.
fn render_details(out: &mut Vec<u8>, attrs: &[u8]) {
    type Attrs = std::collections::BTreeMap<String, String>;
    let attrs: Attrs = serde_json::from_slice(attrs).unwrap_or_default();
    for (i, (key, value)) in attrs.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        query_escape(out, key);
        out.push(b'=');
        query_escape(out, value);
    }
}

fn query_escape(out: &mut Vec<u8>, text: &str) {
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(b),
            b' ' => out.push(b'+'),
            _ => out.extend_from_slice(format!("%{b:02X}").as_bytes()),
        }
    }
}
