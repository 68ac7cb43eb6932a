//! The files of a log as a reader opens them: oldest first, compressed or not, and where the last lines begin.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::log::file::{frame_before, last_line_end};
use crate::log::names::{SUFFIXES, rotated};
use crate::log::{LogFormat, local};

/// How often to look again when files are renamed while they are being opened.
const TRIES: usize = 100;

/// One file of a log.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    packing: Packing,
    /// Device and inode: which file it is, whatever its name.
    pub(crate) identity: (u64, u64),
    modified: i64,
    /// Where reading starts, for a plain file.
    offset: u64,
    /// Records to pass over, for a compressed one.
    pub(crate) skip: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// Opens all files of the log at `path`, oldest first. The last is the one being written, if there is any.
pub(crate) fn open_all(path: &Path) -> io::Result<VecDeque<Source>> {
    for _ in 0..TRIES {
        let before = identity(path)?;
        let Some(found) = open_once(path)? else { continue };
        // A rotation meanwhile has replaced the written file.
        if identity(path)? == before {
            return Ok(found);
        }
    }
    Err(io::Error::other("the log rotates faster than its files can be opened"))
}

/// Which file has the name `path` now.
pub(crate) fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match std::fs::metadata(path) {
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// From the youngest on, so that a rotation meanwhile shows a file twice rather than hide one. `None` if it does.
fn open_once(path: &Path) -> io::Result<Option<VecDeque<Source>>> {
    let mut found = VecDeque::new();
    if let Some(source) = Source::open(path, Packing::Plain)? {
        found.push_front(source);
    }
    for n in 1.. {
        let mut this = None;
        for (suffix, packing) in
            SUFFIXES.into_iter().zip([Packing::Plain, Packing::Gzip, Packing::Zstd])
        {
            if this.is_none() {
                this = Source::open(&rotated(path, n, suffix), packing)?;
            }
        }
        let Some(this) = this else {
            // A rotation that is under way leaves one number without a file, and older files after it.
            let older = |suffix: &&str| rotated(path, n + 1, suffix).exists();
            return Ok((!SUFFIXES.iter().any(older)).then_some(found));
        };
        if found.iter().any(|s| s.identity == this.identity) {
            return Ok(None);
        }
        found.push_front(this);
    }
    Ok(Some(found))
}

impl Source {
    fn open(path: &Path, packing: Packing) -> io::Result<Option<Source>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let meta = file.metadata()?;
        let modified = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Ok(Some(Source {
            file,
            packing,
            identity: (meta.dev(), meta.ino()),
            modified: i64::try_from(modified.as_nanos()).unwrap_or(i64::MAX),
            offset: 0,
            skip: 0,
        }))
    }

    /// Whether everything in the file is older than `since`.
    pub(crate) fn ends_before(&self, since: i64) -> bool {
        // The clock of file times is coarse: it may be a tick behind that of the records.
        self.modified.saturating_add(20_000_000) < since
    }

    /// Makes reading start at the last `lines` records; returns how many of those there are.
    pub(crate) fn start_at_last(&mut self, lines: u64, format: LogFormat) -> io::Result<u64> {
        match (self.packing, format) {
            (Packing::Plain, LogFormat::Local) => self.last_frames(lines),
            (Packing::Plain, _) => self.last_lines(lines),
            _ => {
                let total = count(self.content()?, format)?;
                self.skip = total.saturating_sub(lines);
                Ok(total - self.skip)
            }
        }
    }

    /// The content from where reading starts.
    pub(crate) fn content(&self) -> io::Result<Content> {
        let plain = At { file: self.file.try_clone()?, offset: self.offset };
        Ok(match self.packing {
            Packing::Plain => Content::Plain(plain),
            Packing::Gzip => Content::Gzip(Box::new(flate2::read::MultiGzDecoder::new(plain))),
            Packing::Zstd => Content::Zstd(Box::new(zstd::stream::read::Decoder::new(plain)?)),
        })
    }

    fn last_lines(&mut self, lines: u64) -> io::Result<u64> {
        // A torn line at the end is not a record yet.
        let end = last_line_end(&self.file, self.file.metadata()?.len())?;
        let mut block = vec![0; 64 << 10];
        let (mut found, mut at) = (0, end);
        self.offset = end;
        while at > 0 && found < lines {
            let len = at.min(block.len() as u64);
            let part = &mut block[..usize::try_from(len).map_err(io::Error::other)?];
            at -= len;
            self.file.read_exact_at(part, at)?;
            // A newline starts the line behind it; the one at the very end starts none.
            for newline in memchr::memrchr_iter(b'\n', part) {
                let start = at + newline as u64 + 1;
                if start < end {
                    self.offset = start;
                    found += 1;
                }
                if found == lines {
                    return Ok(found);
                }
            }
        }
        if found < lines && end > 0 {
            self.offset = 0;
            found += 1;
        }
        Ok(found)
    }

    fn last_frames(&mut self, frames: u64) -> io::Result<u64> {
        self.offset = self.file.metadata()?.len();
        for found in 0..frames {
            match frame_before(&self.file, self.offset)? {
                Some(start) => self.offset = start,
                None => return Ok(found),
            }
        }
        Ok(frames)
    }
}

/// Reads a file from an offset of its own, so that clones of the descriptor do not disturb each other.
#[derive(Debug)]
pub(crate) struct At {
    file: File,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buffer, self.offset)?;
        self.offset += len as u64;
        Ok(len)
    }
}

/// The records of one file as bytes.
pub(crate) enum Content {
    Plain(At),
    Gzip(Box<flate2::read::MultiGzDecoder<At>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, io::BufReader<At>>>),
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Content::Plain(c) => c.read(buffer),
            Content::Gzip(c) => c.read(buffer),
            Content::Zstd(c) => c.read(buffer),
        }
    }
}

/// How many records there are.
fn count(mut content: Content, format: LogFormat) -> io::Result<u64> {
    let mut buffer = vec![0; 128 << 10];
    let (mut have, mut total) = (0, 0);
    loop {
        let got = content.read(&mut buffer[have..])?;
        have += got;
        let used = if format == LogFormat::Local {
            let mut used = 0;
            while let local::Frame::Whole(_, len) = local::frame(&buffer[used..have]) {
                (used, total) = (used + len, total + 1);
            }
            used
        } else {
            total += memchr::memchr_iter(b'\n', &buffer[..have]).count() as u64;
            have
        };
        buffer.copy_within(used..have, 0);
        have -= used;
        if got == 0 || have == buffer.len() {
            return Ok(total);
        }
    }
}
