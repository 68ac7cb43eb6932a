//! The entries of a tar: headers with their pax and GNU extensions folded in, names made safe.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use wharf_sys::root::Time;

use super::UnpackError;
use super::feed::{Chunk, Feed};
use super::header::{self, BLOCK, Header};

/// Longest pax header or GNU long name. Real ones reach a few hundred kilobytes (ACLs, xattrs).
const EXTENSION_MAX: u64 = 4 << 20;
/// Pieces in a sparse map.
const SPARSE_MAX: usize = 1 << 20;

/// One entry. Its content follows in the feed and is to be taken before the next entry.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Relative, without `.` and `..`; empty for the root itself.
    pub(crate) path: PathBuf,
    pub(crate) kind: EntryKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Vec<(OsString, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A file with so many bytes of content.
    File {
        size: u64,
    },
    /// A file with holes: the content is the pieces one after the other.
    Sparse {
        stored: u64,
        real: u64,
        pieces: Vec<(u64, u64)>,
    },
    Dir,
    Symlink {
        target: OsString,
    },
    /// Another name of an earlier entry.
    HardLink {
        target: PathBuf,
    },
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// Reads entries one by one.
pub(crate) struct Entries<R> {
    feed: Feed<R>,
    /// Content of the current entry that was not taken yet.
    left: u64,
    padding: u64,
}

/// Extensions that apply to the next header.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    xattrs: Vec<(OsString, Vec<u8>)>,
    sparse: PaxSparse,
}

#[derive(Default)]
struct PaxSparse {
    major: Option<u64>,
    name: Option<Vec<u8>>,
    real: Option<u64>,
    pieces: Vec<(u64, u64)>,
    offset: Option<u64>,
    named: bool,
}

impl<R: Read> Entries<R> {
    pub(crate) fn new(feed: Feed<R>) -> Self {
        Self { feed, left: 0, padding: 0 }
    }

    /// The next entry; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        self.skip_rest()?;
        let mut extensions = Extensions::default();
        loop {
            let at = self.feed.position();
            let Some(block) = self.block()? else { return Ok(None) };
            let wrong = |what| UnpackError::Header { at, what };
            let header = Header::parse(&block).map_err(wrong)?;
            match header.kind {
                b'x' => {
                    let text = self.extension(header.size, at)?;
                    extensions.pax(&text).map_err(wrong)?;
                }
                // Global headers carry nothing that a layer needs (git writes the commit id).
                b'g' => drop(self.extension(header.size, at)?),
                b'L' => extensions.path = Some(self.long_name(header.size, at)?),
                b'K' => extensions.link = Some(self.long_name(header.size, at)?),
                // A volume label.
                b'V' => self.pass(header.size)?,
                _ => return self.entry(header, extensions, &block, at).map(Some),
            }
        }
    }

    /// The next piece of the current entry's content; `None` when it is complete.
    pub(crate) fn content(&mut self) -> Result<Option<Chunk>, UnpackError> {
        if self.left == 0 {
            return Ok(None);
        }
        match self.feed.take(self.left).map_err(UnpackError::Read)? {
            Some(piece) => {
                self.left -= piece.len() as u64;
                Ok(Some(piece))
            }
            None => Err(UnpackError::Truncated(self.feed.position())),
        }
    }

    /// Reads on to the end of the stream, so that everything is hashed.
    pub(crate) fn drain(&mut self) -> Result<(), UnpackError> {
        while self.feed.take(u64::MAX).map_err(UnpackError::Read)?.is_some() {}
        Ok(())
    }

    fn entry(
        &mut self,
        header: Header,
        mut extensions: Extensions,
        block: &[u8; BLOCK],
        at: u64,
    ) -> Result<Entry, UnpackError> {
        let wrong = |what| UnpackError::Header { at, what };
        let size = extensions.size.unwrap_or(header.size);
        let raw = extensions.sparse.name.take().or(extensions.path).unwrap_or(header.name);
        let link = extensions.link.unwrap_or(header.link);
        if raw.contains(&0) || link.contains(&0) {
            return Err(wrong("name with a NUL byte"));
        }
        let is_dir_name = raw.last() == Some(&b'/');
        let path = confine(&raw)?;
        let (major, minor) = header.device;
        let kind = match header.kind {
            b'0' | 0 | b'7' if is_dir_name => EntryKind::Dir,
            b'0' | 0 | b'7' if extensions.sparse.named => {
                self.start(size)?;
                self.pax_sparse(extensions.sparse, size, at)?
            }
            b'0' | 0 | b'7' => {
                self.start(size)?;
                EntryKind::File { size }
            }
            b'S' => self.gnu_sparse(block, size, at)?,
            b'1' => EntryKind::HardLink { target: confine(&link)? },
            b'2' => EntryKind::Symlink { target: OsString::from_vec(link) },
            b'3' => EntryKind::CharDevice(major, minor),
            b'4' => EntryKind::BlockDevice(major, minor),
            b'5' => EntryKind::Dir,
            b'6' => EntryKind::Fifo,
            other => return Err(UnpackError::Kind { path, kind: char::from(other) }),
        };
        let id = |n: u64| u32::try_from(n).map_err(|_| wrong("owner out of range"));
        Ok(Entry {
            path,
            kind,
            mode: header.mode,
            uid: id(extensions.uid.unwrap_or(header.uid))?,
            gid: id(extensions.gid.unwrap_or(header.gid))?,
            mtime: extensions.mtime.unwrap_or(Time { seconds: header.mtime, nanos: 0 }),
            xattrs: extensions.xattrs,
        })
    }

    /// Content of `size` bytes begins.
    fn start(&mut self, size: u64) -> Result<(), UnpackError> {
        let at = self.feed.position();
        let what = "size out of range";
        let padded = size.checked_next_multiple_of(BLOCK as u64);
        let padded = padded.ok_or(UnpackError::Header { at, what })?;
        (self.left, self.padding) = (size, padded - size);
        Ok(())
    }

    fn gnu_sparse(
        &mut self,
        block: &[u8; BLOCK],
        stored: u64,
        at: u64,
    ) -> Result<EntryKind, UnpackError> {
        let wrong = |what| UnpackError::Header { at, what };
        let (mut pieces, real, mut more) = header::gnu_sparse(block).map_err(wrong)?;
        while more {
            let mut next = [0; BLOCK];
            self.exactly(&mut next)?;
            let (further, again) = header::gnu_sparse_more(&next).map_err(wrong)?;
            pieces.extend(further);
            more = again;
            if pieces.len() > SPARSE_MAX {
                return Err(wrong("sparse map too long"));
            }
        }
        self.start(stored)?;
        sparse(pieces, real, stored).map_err(wrong)
    }

    /// GNU's pax formats: 0.0 and 0.1 have the map in the header, 1.0 in front of the content.
    fn pax_sparse(
        &mut self,
        map: PaxSparse,
        stored: u64,
        at: u64,
    ) -> Result<EntryKind, UnpackError> {
        let wrong = |what| UnpackError::Header { at, what };
        let real = map.real.ok_or(wrong("sparse file without a size"))?;
        if map.major != Some(1) {
            return sparse(map.pieces, real, stored).map_err(wrong);
        }
        let mut text = MapText::default();
        let count = self.map_number(&mut text, at)?;
        if count > SPARSE_MAX as u64 {
            return Err(wrong("sparse map too long"));
        }
        let mut pieces = Vec::new();
        for _ in 0..count {
            pieces.push((self.map_number(&mut text, at)?, self.map_number(&mut text, at)?));
        }
        let used = text.blocks * BLOCK as u64;
        sparse(pieces, real, stored - used).map_err(wrong)
    }

    /// The next decimal line of a sparse map at the start of the content.
    fn map_number(&mut self, text: &mut MapText, at: u64) -> Result<u64, UnpackError> {
        let wrong = UnpackError::Header { at, what: "malformed sparse map" };
        loop {
            if let Some(end) = text.bytes.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = text.bytes.drain(..=end).collect();
                return header::decimal(&line[..end]).ok_or(wrong);
            }
            if text.bytes.len() > BLOCK || self.left < BLOCK as u64 {
                return Err(wrong);
            }
            let mut block = [0; BLOCK];
            self.exactly(&mut block)?;
            self.left -= BLOCK as u64;
            text.blocks += 1;
            text.bytes.extend_from_slice(&block);
        }
    }

    /// The next header block; `None` at the end marker or at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        let at = self.feed.position();
        if !self.feed.read_exact(&mut block).map_err(UnpackError::Read)? {
            // Some writers leave the end marker out; a part of a block is a cut.
            let cut = self.feed.position() != at;
            return if cut { Err(UnpackError::Truncated(self.feed.position())) } else { Ok(None) };
        }
        if block.iter().any(|b| *b != 0) {
            return Ok(Some(block));
        }
        // One block of zeros followed by more entries would read differently elsewhere.
        if self.feed.read_exact(&mut block).map_err(UnpackError::Read)?
            && block.iter().any(|b| *b != 0)
        {
            return Err(UnpackError::Header { at, what: "a lone block of zeros" });
        }
        Ok(None)
    }

    fn long_name(&mut self, size: u64, at: u64) -> Result<Vec<u8>, UnpackError> {
        let text = self.extension(size, at)?;
        Ok(header::until_nul(&text).to_vec())
    }

    fn extension(&mut self, size: u64, at: u64) -> Result<Vec<u8>, UnpackError> {
        if size > EXTENSION_MAX {
            return Err(UnpackError::Header { at, what: "extended header too long" });
        }
        let mut text = vec![0; usize::try_from(size).unwrap_or_default()];
        self.exactly(&mut text)?;
        self.pass(size.next_multiple_of(BLOCK as u64) - size)?;
        Ok(text)
    }

    fn exactly(&mut self, out: &mut [u8]) -> Result<(), UnpackError> {
        if self.feed.read_exact(out).map_err(UnpackError::Read)? {
            return Ok(());
        }
        Err(UnpackError::Truncated(self.feed.position()))
    }

    fn pass(&mut self, n: u64) -> Result<(), UnpackError> {
        if self.feed.skip(n).map_err(UnpackError::Read)? {
            return Ok(());
        }
        Err(UnpackError::Truncated(self.feed.position()))
    }

    fn skip_rest(&mut self) -> Result<(), UnpackError> {
        let n = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        self.pass(n)
    }
}

#[derive(Default)]
struct MapText {
    bytes: Vec<u8>,
    blocks: u64,
}

impl Extensions {
    fn pax(&mut self, text: &[u8]) -> Result<(), &'static str> {
        for (key, value) in header::pax_records(text)? {
            self.record(&key, value)?;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: Vec<u8>) -> Result<(), &'static str> {
        let number = || header::decimal(&value).ok_or("pax number is not decimal");
        // An empty value takes back what a global header said, and those are not used.
        if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
            return Ok(());
        }
        match key {
            b"path" => self.path = Some(value),
            b"linkpath" => self.link = Some(value),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => self.mtime = Some(time(&value).ok_or("pax time is malformed")?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((OsString::from_vec(name.to_vec()), value));
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.record(name, value)?;
                }
            }
        }
        Ok(())
    }
}

impl PaxSparse {
    fn record(&mut self, key: &[u8], value: Vec<u8>) -> Result<(), &'static str> {
        let number = |text: &[u8]| header::decimal(text).ok_or("sparse map is not decimal");
        self.named = true;
        match key {
            b"major" => self.major = Some(number(&value)?),
            b"name" => self.name = Some(value),
            b"realsize" | b"size" => self.real = Some(number(&value)?),
            b"offset" => self.offset = Some(number(&value)?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or("sparse length without an offset")?;
                self.pieces.push((offset, number(&value)?));
            }
            b"map" => {
                let numbers: Result<Vec<u64>, _> =
                    value.split(|b| *b == b',').map(number).collect();
                self.pieces = numbers?.chunks_exact(2).map(|p| (p[0], p[1])).collect();
            }
            _ => {}
        }
        Ok(())
    }
}

/// Checks a sparse map: in order, inside the file, and of just the stored length.
fn sparse(pieces: Vec<(u64, u64)>, real: u64, stored: u64) -> Result<EntryKind, &'static str> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for (offset, length) in &pieces {
        if *offset < end {
            return Err("sparse map out of order");
        }
        end = offset.checked_add(*length).ok_or("sparse map out of range")?;
        sum = sum.checked_add(*length).ok_or("sparse map out of range")?;
    }
    if end > real || sum != stored {
        return Err("sparse map does not fit the file");
    }
    Ok(EntryKind::Sparse { stored, real, pieces })
}

/// `seconds[.fraction]`, possibly negative.
fn time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits = format!("{:0<9}", &fraction[..fraction.len().min(9)]);
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some(Time { seconds: seconds.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
    }
    Some(Time { seconds, nanos })
}

/// Makes a name relative to the root: a leading slash and `.` go, `..` takes back a component, and one that
/// would take back more than there is refuses the archive.
fn confine(raw: &[u8]) -> Result<PathBuf, UnpackError> {
    let given = Path::new(std::ffi::OsStr::from_bytes(raw));
    let mut path = PathBuf::new();
    for part in given.components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                if !path.pop() {
                    return Err(UnpackError::Escape(given.to_owned()));
                }
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(path)
}
