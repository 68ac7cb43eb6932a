//! Turns the bytes that a container writes into log records.

use std::io;

use crate::log::file::LogFile;
use crate::log::local::Piece;
use crate::log::time::Stamper;
use crate::log::{LogConfig, LogFormat, Stream, json, local};

/// Longest text of one record; a longer line continues in the next.
pub(crate) const LONGEST_TEXT: usize = 16 << 10;
/// Records are written together once there are so many bytes of them.
const BATCH: usize = 128 << 10;
/// Longest labels and environment that records may repeat.
const LONGEST_ATTRS: usize = 32 << 10;

/// Writes one container's log. Single-threaded; each call leaves the file up to date.
///
/// Lines that the disk refuses are counted and dropped: a full disk must not stop a container.
#[derive(Debug)]
pub(crate) struct LogWriter {
    encoder: Encoder,
    stamper: Stamper,
    /// Whole records that are not yet in the file, and how many.
    batch: Vec<u8>,
    records: u64,
    file: Option<LogFile>,
    carries: [Carry; 2],
    /// The time of the youngest record; times never stand still, so that they order the log.
    last: i64,
    trouble: Trouble,
}

/// What a log could not do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Records lost.
    pub(crate) lost: u64,
    /// The last error.
    pub(crate) error: Option<String>,
}

#[derive(Debug)]
enum Encoder {
    Json { middles: [Vec<u8>; 2] },
    Local,
    None,
}

/// The beginning of a line whose end has not come.
#[derive(Debug, Default)]
struct Carry {
    text: Vec<u8>,
    /// Records of this line that are written.
    pieces: u32,
    /// The time of the first of them, which all get.
    since: i64,
}

impl LogWriter {
    /// Opens the log. Refuses attrs that would dwarf the lines.
    pub(crate) fn open(config: &LogConfig) -> io::Result<LogWriter> {
        let file = match config.format {
            LogFormat::None => None,
            _ => Some(LogFile::open(config)?),
        };
        let encoder = match config.format {
            LogFormat::None => Encoder::None,
            LogFormat::Local => Encoder::Local,
            LogFormat::JsonFile => Encoder::Json {
                middles: [Stream::Stdout, Stream::Stderr].map(|s| json::middle(s, &config.attrs)),
            },
        };
        if matches!(&encoder, Encoder::Json { middles } if middles[0].len() > LONGEST_ATTRS) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "labels and environment for each log record exceed 32 KiB: select fewer",
            ));
        }
        Ok(LogWriter {
            encoder,
            stamper: Stamper::new(),
            batch: Vec::new(),
            records: 0,
            file,
            carries: [Carry::default(), Carry::default()],
            last: 0,
            trouble: Trouble::default(),
        })
    }

    /// Logs what was read from `stream` at time `now`, in nanoseconds since 1970.
    pub(crate) fn write(&mut self, stream: Stream, mut bytes: &[u8], now: i64) {
        if matches!(self.encoder, Encoder::None) {
            return;
        }
        self.batch.reserve(BATCH);
        bytes = self.finish_carry(stream, bytes, now);
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (mut line, rest) = (&bytes[..end], &bytes[end + 1..]);
            while line.len() >= LONGEST_TEXT {
                let cut = char_cut(line);
                self.record(stream, &line[..cut], false, now);
                line = &line[cut..];
            }
            self.record(stream, line, true, now);
            bytes = rest;
        }
        while bytes.len() >= LONGEST_TEXT {
            let cut = char_cut(bytes);
            self.record(stream, &bytes[..cut], false, now);
            bytes = &bytes[cut..];
        }
        self.carry(stream).text.extend_from_slice(bytes);
        self.flush();
    }

    /// Logs what is left of a line without an end, once its stream has ended.
    pub(crate) fn finish(&mut self, stream: Stream, now: i64) {
        let text = std::mem::take(&mut self.carry(stream).text);
        if !text.is_empty() {
            self.record(stream, &text, false, now);
        }
        *self.carry(stream) = Carry::default();
        self.flush();
    }

    /// Drops the beginning of a line whose end is lost: what follows is a line of its own.
    pub(crate) fn forget(&mut self, stream: Stream, now: i64) {
        self.carry(stream).text.clear();
        if self.carry(stream).pieces > 0 {
            self.record(stream, b"", true, now);
        }
        self.flush();
    }

    /// Gives memory back that only bursts need.
    pub(crate) fn rest(&mut self) {
        self.batch = Vec::new();
        for carry in &mut self.carries {
            carry.text.shrink_to_fit();
        }
    }

    /// What was lost so far.
    pub(crate) fn trouble(&self) -> &Trouble {
        &self.trouble
    }

    /// Takes note that child `pid` ended. `true` if it was this log's.
    pub(crate) fn child_ended(&mut self, pid: i32, well: bool) -> bool {
        self.file.as_mut().is_some_and(|f| f.child_ended(pid, well))
    }

    fn carry(&mut self, stream: Stream) -> &mut Carry {
        &mut self.carries[usize::from(stream == Stream::Stderr)]
    }

    /// Completes a line that began in an earlier read; returns what follows it.
    fn finish_carry<'a>(&mut self, stream: Stream, mut bytes: &'a [u8], now: i64) -> &'a [u8] {
        while !self.carry(stream).text.is_empty() {
            let mut text = std::mem::take(&mut self.carry(stream).text);
            let room = LONGEST_TEXT - text.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = memchr::memchr(b'\n', window) {
                text.extend_from_slice(&window[..end]);
                bytes = &bytes[end + 1..];
                self.record(stream, &text, true, now);
                text.clear();
            } else {
                text.extend_from_slice(window);
                bytes = &bytes[window.len()..];
                if text.len() < LONGEST_TEXT {
                    self.carry(stream).text = text;
                    return bytes;
                }
                let cut = char_cut(&text);
                self.record(stream, &text[..cut], false, now);
                text.drain(..cut);
            }
            self.carry(stream).text = text;
        }
        bytes
    }

    /// Adds one record to the batch.
    fn record(&mut self, stream: Stream, text: &[u8], ends: bool, now: i64) {
        if self.file.as_ref().is_some_and(|f| f.is_full(self.batch.len())) {
            self.flush();
            self.rotate();
        }
        let (at, piece) = self.time(stream, ends, now);
        match &self.encoder {
            Encoder::Json { middles } => {
                let middle = &middles[usize::from(stream == Stream::Stderr)];
                self.batch.reserve(json::worst(text.len(), middle.len()));
                json::encode(&mut self.batch, text, ends, middle, self.stamper.short(at));
            }
            Encoder::Local => {
                self.batch.reserve(text.len() + local::OVERHEAD);
                local::encode(&mut self.batch, stream, at, text, piece);
            }
            Encoder::None => return,
        }
        self.records += 1;
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// The record's time, and its place in a line of several records.
    fn time(&mut self, stream: Stream, ends: bool, now: i64) -> (i64, Option<Piece>) {
        let next = now.max(self.last + 1);
        let carry = self.carry(stream);
        if carry.pieces == 0 && ends {
            self.last = next;
            return (next, None);
        }
        if carry.pieces == 0 {
            carry.since = next;
        }
        carry.pieces += 1;
        let (line, number) = (carry.since, carry.pieces);
        if ends {
            carry.pieces = 0;
        }
        self.last = self.last.max(line);
        (line, Some(Piece { line, number, last: ends }))
    }

    fn flush(&mut self) {
        let Some(file) = &mut self.file else { return };
        if self.batch.is_empty() {
            return;
        }
        if let Err(e) = file.write(&self.batch) {
            self.trouble.lost += self.records;
            self.trouble.error = Some(e.to_string());
        }
        self.batch.clear();
        self.records = 0;
    }

    fn rotate(&mut self) {
        let Some(file) = &mut self.file else { return };
        if let Err(e) = file.rotate() {
            self.trouble.error = Some(format!("rotate: {e}"));
        }
    }
}

/// Where to cut a text that is too long: not inside a character, which would be unreadable in both pieces.
fn char_cut(text: &[u8]) -> usize {
    let is_inner = |b: u8| b & 0xc0 == 0x80;
    (LONGEST_TEXT - 3..=LONGEST_TEXT)
        .rev()
        .find(|&at| text.get(at).map_or_else(|| whole_before(text), |&b| !is_inner(b)))
        .unwrap_or(LONGEST_TEXT)
}

/// Whether a text ends in a whole character, or in no UTF-8 at all.
fn whole_before(text: &[u8]) -> bool {
    let tail = &text[text.len().saturating_sub(3)..];
    let lead = tail.iter().rposition(|&b| b >= 0xc0);
    lead.is_none_or(|at| {
        let need = match tail[at] {
            0xc0..0xe0 => 2,
            0xe0..0xf0 => 3,
            _ => 4,
        };
        tail.len() - at >= need
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_cut() {
        for lead in 0..6 {
            let mut text = vec![b'a'; lead];
            text.extend("üß€😀".repeat(3000).as_bytes());
            let cut = char_cut(&text);
            assert!(cut > LONGEST_TEXT - 4 && cut <= LONGEST_TEXT);
            assert!(std::str::from_utf8(&text[..cut]).is_ok(), "{lead}");
        }
        assert_eq!(char_cut(&vec![0x80; 20_000]), LONGEST_TEXT);
        assert_eq!(char_cut(&vec![0xff; 20_000]), LONGEST_TEXT);
    }
}
