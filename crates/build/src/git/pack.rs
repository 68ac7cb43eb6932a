//! A pack in a file: checked, indexed, and its objects given by id (gitformat-pack(5)).
//!
//! A pack comes from a stranger: every size that it claims is checked against what comes, nothing is kept but ids and
//! offsets, and of objects a bounded number of bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use ring::digest::Context;

use super::GitError;
use super::object::{self, Format, Id, Kind, MAX_OBJECT};

/// Objects that a pack may have.
const MAX_OBJECTS: u32 = 20_000_000;
/// Deltas that one object may be made by.
const MAX_CHAIN: usize = 10_000;
/// Bytes of objects that are kept because the next may be made from them.
const KEPT: usize = 64 << 20;

/// A pack whose objects can be had.
pub(super) struct Pack {
    file: File,
    entries: Vec<Packed>,
    by_id: HashMap<Id, usize>,
    by_offset: HashMap<u64, usize>,
    kept: HashMap<usize, Arc<Object>>,
    kept_bytes: usize,
    /// The pack's own checksum.
    checksum: Id,
}

/// A whole object.
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) content: Vec<u8>,
}

/// Where an object is.
#[derive(Clone)]
struct Packed {
    offset: u64,
    /// Where its compressed content begins.
    data: u64,
    size: u64,
    form: Form,
    id: Option<Id>,
    crc: u32,
}

#[derive(Clone, Copy)]
enum Form {
    Whole(Kind),
    /// A delta on the object at that offset.
    Offset(u64),
    /// A delta on the object of that id.
    Base(Id),
}

impl Pack {
    /// Reads a pack from its beginning to its end. Blocks.
    pub(super) fn open(path: &Path, format: Format) -> Result<Pack, GitError> {
        let file = File::open(path).map_err(GitError::Io)?;
        let mut reader = Counting::new(file.try_clone().map_err(GitError::Io)?, format);
        let mut head = [0; 12];
        reader.read_exact(&mut head).map_err(short)?;
        let [b'P', b'A', b'C', b'K', version @ .., _, _, _, _] = head else {
            return Err(GitError::Protocol("something that is no pack".into()));
        };
        let count = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        if u32::from_be_bytes(version) != 2 || count > MAX_OBJECTS {
            return Err(GitError::Protocol("a pack of an unknown kind or size".into()));
        }
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(scan(&mut reader)?);
        }
        let sum = reader.sum();
        let checksum = reader.id()?;
        if sum != Some(checksum) {
            return Err(GitError::Protocol("a pack whose checksum is wrong".into()));
        }
        let by_offset = entries.iter().enumerate().map(|(n, e)| (e.offset, n)).collect();
        let by_id = entries.iter().enumerate().filter_map(|(n, e)| Some((e.id?, n))).collect();
        let (kept, kept_bytes) = (HashMap::new(), 0);
        let mut pack = Pack { file, entries, by_id, by_offset, kept, kept_bytes, checksum };
        pack.name_deltas()?;
        Ok(pack)
    }

    /// What names its objects.
    pub(super) fn format(&self) -> Format {
        self.checksum.format
    }

    /// Works out the ids of objects that are deltas, until no more can be.
    fn name_deltas(&mut self) -> Result<(), GitError> {
        let mut left: Vec<usize> =
            (0..self.entries.len()).filter(|n| self.entries[*n].id.is_none()).collect();
        while !left.is_empty() {
            let before = left.len();
            let mut later = Vec::new();
            for n in left {
                match self.at(n)? {
                    None => later.push(n),
                    Some(object) => {
                        let id = Id::of(self.format(), object.kind, &object.content);
                        self.entries[n].id = Some(id);
                        self.by_id.insert(id, n);
                    }
                }
            }
            left = later;
            if left.len() == before {
                return Err(GitError::Protocol("a pack that lacks the base of a delta".into()));
            }
        }
        Ok(())
    }

    /// An object by id.
    pub(super) fn object(&mut self, id: &Id) -> Result<Arc<Object>, GitError> {
        let missing = || GitError::Protocol(format!("a pack without the object {id}"));
        let at = *self.by_id.get(id).ok_or_else(missing)?;
        self.at(at)?.ok_or_else(missing)
    }

    /// The `at`-th object; `None` if it is a delta on one that has no name yet.
    fn at(&mut self, at: usize) -> Result<Option<Arc<Object>>, GitError> {
        let mut chain = Vec::new();
        let mut here = at;
        let mut object = loop {
            if let Some(found) = self.kept.get(&here) {
                break found.clone();
            }
            let entry = self.entries[here].clone();
            let next = match entry.form {
                Form::Whole(kind) => {
                    let object = Arc::new(Object { kind, content: self.inflate(&entry)? });
                    self.keep(here, &object);
                    break object;
                }
                Form::Offset(offset) => Some(
                    *self
                        .by_offset
                        .get(&offset)
                        .ok_or_else(|| GitError::Protocol("a delta on what is no object".into()))?,
                ),
                Form::Base(id) => self.by_id.get(&id).copied(),
            };
            let Some(next) = next else { return Ok(None) };
            chain.push(here);
            if chain.len() > MAX_CHAIN {
                return Err(GitError::Protocol("an endless chain of deltas".into()));
            }
            here = next;
        };
        for n in chain.into_iter().rev() {
            let delta = self.inflate(&self.entries[n].clone())?;
            let content = object::apply(&object.content, &delta)?;
            object = Arc::new(Object { kind: object.kind, content });
            self.keep(n, &object);
        }
        Ok(Some(object))
    }

    fn keep(&mut self, at: usize, object: &Arc<Object>) {
        if object.content.len() > KEPT / 4 {
            return;
        }
        if self.kept_bytes + object.content.len() > KEPT {
            self.kept.clear();
            self.kept_bytes = 0;
        }
        self.kept_bytes += object.content.len();
        self.kept.insert(at, object.clone());
    }

    fn inflate(&self, entry: &Packed) -> Result<Vec<u8>, GitError> {
        let from = At { file: &self.file, at: entry.data };
        let mut out = Vec::with_capacity(usize::try_from(entry.size).unwrap_or(0).min(1 << 20));
        flate2::read::ZlibDecoder::new(from)
            .take(entry.size + 1)
            .read_to_end(&mut out)
            .map_err(short)?;
        if out.len() as u64 == entry.size { Ok(out) } else { Err(wrong_size()) }
    }

    /// The pack's index, version 2, with which git finds its objects.
    pub(super) fn index(&self) -> Vec<u8> {
        let mut all: Vec<(Id, u32, u64)> =
            self.entries.iter().filter_map(|e| Some((e.id?, e.crc, e.offset))).collect();
        all.sort();
        let mut out = b"\xfftOc\0\0\0\x02".to_vec();
        let mut seen = 0usize;
        for first in 0..=255u8 {
            seen += all[seen..].iter().take_while(|(id, ..)| id.bytes()[0] == first).count();
            out.extend_from_slice(&u32::try_from(seen).unwrap_or(u32::MAX).to_be_bytes());
        }
        all.iter().for_each(|(id, ..)| out.extend_from_slice(id.bytes()));
        all.iter().for_each(|(_, crc, _)| out.extend_from_slice(&crc.to_be_bytes()));
        let mut large = Vec::new();
        for (_, _, offset) in &all {
            let small = u32::try_from(*offset).ok().filter(|o| o >> 31 == 0);
            let word = small.unwrap_or_else(|| {
                large.push(*offset);
                (1 << 31) | u32::try_from(large.len() - 1).unwrap_or(0)
            });
            out.extend_from_slice(&word.to_be_bytes());
        }
        large.iter().for_each(|offset| out.extend_from_slice(&offset.to_be_bytes()));
        out.extend_from_slice(self.checksum.bytes());
        out.extend_from_slice(&self.format().sum(&out));
        out
    }

    /// What names its files: `pack-<name>.pack`.
    pub(super) fn name(&self) -> String {
        self.checksum.to_string()
    }
}

/// One object of the stream: where it is, and what can be said of it without others.
fn scan(reader: &mut Counting) -> Result<Packed, GitError> {
    let wrong = || GitError::Protocol("a malformed object in a pack".into());
    let offset = reader.at;
    reader.crc.reset();
    let mut byte = reader.byte()?;
    let kind = (byte >> 4) & 7;
    let (mut size, mut shift) = (u64::from(byte & 15), 4);
    while byte & 0x80 != 0 {
        byte = reader.byte()?;
        size |= u64::from(byte & 0x7f).checked_shl(shift).ok_or_else(wrong)?;
        shift += 7;
        if shift > 60 {
            return Err(wrong());
        }
    }
    if size > MAX_OBJECT {
        return Err(GitError::Protocol(format!(
            "an object of {size} bytes, more than {MAX_OBJECT}"
        )));
    }
    let form = match kind {
        1 => Form::Whole(Kind::Commit),
        2 => Form::Whole(Kind::Tree),
        3 => Form::Whole(Kind::Blob),
        4 => Form::Whole(Kind::Tag),
        6 => Form::Offset(back(reader)?.and_then(|b| offset.checked_sub(b)).ok_or_else(wrong)?),
        7 => Form::Base(reader.id()?),
        _ => return Err(wrong()),
    };
    let data = reader.at;
    let id = content(reader, size, form)?;
    Ok(Packed { offset, data, size, form, id, crc: reader.crc.sum() })
}

/// How far back the base of a delta is.
fn back(reader: &mut Counting) -> Result<Option<u64>, GitError> {
    let mut byte = reader.byte()?;
    let mut value = u64::from(byte & 0x7f);
    while byte & 0x80 != 0 {
        byte = reader.byte()?;
        let Some(next) = value.checked_add(1).and_then(|v| v.checked_mul(128)) else {
            return Ok(None);
        };
        value = next | u64::from(byte & 0x7f);
    }
    Ok(Some(value).filter(|v| *v > 0))
}

/// Passes over the content; gives the id of what is whole.
fn content(reader: &mut Counting, size: u64, form: Form) -> Result<Option<Id>, GitError> {
    let format = reader.format;
    let mut hash = format.context();
    if let Form::Whole(kind) = form {
        hash.update(format!("{} {size}\0", kind.name()).as_bytes());
    }
    let mut inflating = flate2::bufread::ZlibDecoder::new(reader);
    let (mut buffer, mut seen) = (vec![0; 64 << 10], 0);
    loop {
        let n = inflating.read(&mut buffer).map_err(short)?;
        if n == 0 {
            break;
        }
        seen += n as u64;
        if seen > size {
            return Err(wrong_size());
        }
        hash.update(&buffer[..n]);
    }
    if seen != size {
        return Err(wrong_size());
    }
    let id = || Id::from_slice(format, hash.finish().as_ref());
    Ok(matches!(form, Form::Whole(_)).then(id).flatten())
}

fn wrong_size() -> GitError {
    GitError::Protocol("an object of another size than it claims".into())
}

fn short(e: io::Error) -> GitError {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => GitError::Protocol("a pack that ends too early".into()),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            GitError::Protocol("a pack that cannot be decompressed".into())
        }
        _ => GitError::Io(e),
    }
}

/// Reads a file from its beginning and knows where it is, and the sums of what went by.
struct Counting {
    inner: BufReader<File>,
    at: u64,
    crc: flate2::Crc,
    format: Format,
    hash: Context,
}

impl Counting {
    fn new(file: File, format: Format) -> Counting {
        let (inner, crc) = (BufReader::with_capacity(128 << 10, file), flate2::Crc::new());
        Counting { inner, at: 0, crc, format, hash: format.context() }
    }

    fn byte(&mut self) -> Result<u8, GitError> {
        let mut one = [0];
        self.read_exact(&mut one).map_err(short)?;
        Ok(one[0])
    }

    fn id(&mut self) -> Result<Id, GitError> {
        let (mut bytes, format) = ([0; 32], self.format);
        let bytes = &mut bytes[..format.length()];
        self.read_exact(bytes).map_err(short)?;
        Id::from_slice(format, bytes).ok_or_else(wrong_size)
    }

    fn sum(&self) -> Option<Id> {
        Id::from_slice(self.format, self.hash.clone().finish().as_ref())
    }
}

impl Read for Counting {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(out.len());
        out[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Counting {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        let part = &self.inner.buffer()[..n];
        self.crc.update(part);
        self.hash.update(part);
        self.at += n as u64;
        self.inner.consume(n);
    }
}

/// A file from a place on.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(out, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use super::*;

    fn deflated(content: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(content).unwrap();
        out.finish().unwrap()
    }

    fn object(kind: u8, prefix: &[u8], content: &[u8]) -> Vec<u8> {
        let mut size = content.len();
        let mut out = vec![(kind << 4) | u8::try_from(size & 15).unwrap()];
        size >>= 4;
        while size > 0 {
            *out.last_mut().unwrap() |= 0x80;
            out.push(u8::try_from(size & 0x7f).unwrap());
            size >>= 7;
        }
        out.extend_from_slice(prefix);
        out.extend_from_slice(&deflated(content));
        out
    }

    /// A pack of objects: `(kind, prefix, content)`.
    pub(in crate::git) fn pack(objects: &[(u8, &[u8], &[u8])]) -> Vec<u8> {
        packed(Format::Sha1, objects)
    }

    fn packed(format: Format, objects: &[(u8, &[u8], &[u8])]) -> Vec<u8> {
        let mut out = b"PACK\0\0\0\x02".to_vec();
        out.extend_from_slice(&u32::try_from(objects.len()).unwrap().to_be_bytes());
        for (kind, prefix, content) in objects {
            out.extend_from_slice(&object(*kind, prefix, content));
        }
        out.extend_from_slice(&format.sum(&out));
        out
    }

    pub(in crate::git) fn opened(bytes: &[u8]) -> Result<Pack, GitError> {
        opened_as(Format::Sha1, bytes)
    }

    fn opened_as(format: Format, bytes: &[u8]) -> Result<Pack, GitError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Pack::open(file.path(), format)
    }

    #[test]
    fn objects_come_out_whole_and_from_deltas() {
        for format in [Format::Sha1, Format::Sha256] {
            let base = Id::of(format, Kind::Blob, b"hello world");
            let delta = b"\x0b\x09\x90\x05\x04 you";
            // The delta comes before its base, as it may where the base is named.
            let bytes = packed(format, &[(7, base.bytes(), delta), (3, b"", b"hello world")]);
            let mut pack = opened_as(format, &bytes).unwrap();
            let made = Id::of(format, Kind::Blob, b"hello you");
            assert_eq!(pack.object(&made).unwrap().content, b"hello you");
            assert_eq!(pack.object(&base).unwrap().content, b"hello world");
            assert!(pack.object(&Id::of(format, Kind::Blob, b"none")).is_err());
            let index = pack.index();
            assert_eq!(&index[..8], b"\xfftOc\0\0\0\x02");
            let length = format.length();
            assert_eq!(index.len(), 8 + 1024 + 2 * (length + 4 + 4) + 2 * length);
            let other = if length == 20 { Format::Sha256 } else { Format::Sha1 };
            assert!(opened_as(other, &bytes).is_err());
        }
    }

    #[test]
    fn lies_in_packs_are_found() {
        let good = pack(&[(3, b"", b"hello world")]);
        assert!(opened(&good).is_ok());
        for n in 0..good.len() {
            let mut bad = good.clone();
            bad[n] ^= 0x41;
            assert!(opened(&bad).is_err(), "byte {n}");
            assert!(opened(&good[..n]).is_err(), "cut at {n}");
        }
        // A delta on itself, on nothing, and on an object that is not there.
        assert!(opened(&pack(&[(6, b"\x00", b"\x00\x00")])).is_err());
        assert!(opened(&pack(&[(6, b"\x05", b"\x00\x00")])).is_err());
        assert!(opened(&pack(&[(7, &[1; 20], b"\x00\x00")])).is_err());
        let huge = [&b"PACK\0\0\0\x02\0\0\0\x01"[..], b"\xbf\xff\xff\xff\xff\xff\x01"].concat();
        assert!(opened(&huge).is_err());
    }
}
