//! Writing tar: ustar headers, with a pax header in front where ustar does not reach.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use wharf_sys::root::Time;

/// What is written about an entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Vec<(OsString, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind<'a> {
    /// So many bytes of content follow.
    File(u64),
    Dir,
    Symlink(&'a Path),
    HardLink(&'a Path),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

const BLOCK: usize = 512;
/// Largest value of 7 and of 11 octal digits.
const OCTAL_7: u64 = 0o7_777_777;
const OCTAL_11: u64 = 0o77_777_777_777;

/// Writes the header of an entry. Its content, if any, is to follow, and [`pad`] after it.
pub(crate) fn header(
    out: &mut impl Write,
    path: &Path,
    kind: Kind<'_>,
    meta: &Meta,
) -> io::Result<()> {
    let mut name = path.as_os_str().as_bytes().to_vec();
    let (flag, link, size, device) = match kind {
        Kind::File(size) => (b'0', None, size, (0, 0)),
        Kind::HardLink(target) => (b'1', Some(target), 0, (0, 0)),
        Kind::Symlink(target) => (b'2', Some(target), 0, (0, 0)),
        Kind::CharDevice(major, minor) => (b'3', None, 0, (major, minor)),
        Kind::BlockDevice(major, minor) => (b'4', None, 0, (major, minor)),
        Kind::Dir => (b'5', None, 0, (0, 0)),
        Kind::Fifo => (b'6', None, 0, (0, 0)),
    };
    if flag == b'5' {
        name.push(b'/');
    }
    let link = link.map(|l| l.as_os_str().as_bytes()).unwrap_or_default();
    let records = pax(&name, link, size, meta);
    if !records.is_empty() {
        let plain = Meta { mode: 0o644, ..Meta::default() };
        let length = records.len() as u64;
        out.write_all(&block(b"PaxHeaders/0", b"", b'x', length, (0, 0), &plain))?;
        out.write_all(&records)?;
        pad(out, length)?;
    }
    out.write_all(&block(&name, link, flag, size, device, meta))
}

/// Fills the last block of `size` bytes of content.
pub(crate) fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let rest = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    if rest == 0 { Ok(()) } else { out.write_all(&[0; BLOCK][rest..]) }
}

/// Writes the end marker.
pub(crate) fn end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

/// Writes a whole file.
pub(crate) fn file(
    out: &mut impl Write,
    path: &Path,
    content: &[u8],
    meta: &Meta,
) -> io::Result<()> {
    let size = content.len() as u64;
    header(out, path, Kind::File(size), meta)?;
    out.write_all(content)?;
    pad(out, size)
}

fn pax(name: &[u8], link: &[u8], size: u64, meta: &Meta) -> Vec<u8> {
    let mut records = Vec::new();
    let Time { seconds, nanos } = meta.mtime;
    if name.len() > 100 {
        record(&mut records, b"path", name);
    }
    if link.len() > 100 {
        record(&mut records, b"linkpath", link);
    }
    if size > OCTAL_11 {
        record(&mut records, b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], meta.uid), (b"gid", meta.gid)] {
        if u64::from(id) > OCTAL_7 {
            record(&mut records, key, id.to_string().as_bytes());
        }
    }
    if nanos != 0 || seconds < 0 || seconds.cast_unsigned() > OCTAL_11 {
        record(&mut records, b"mtime", decimal(meta.mtime).as_bytes());
    }
    for (key, value) in &meta.xattrs {
        record(&mut records, &[b"SCHILY.xattr.", key.as_bytes()].concat(), value);
    }
    records
}

/// `length key=value\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let bare = key.len() + value.len() + 3;
    let mut length = bare + 1;
    while bare + length.to_string().len() != length {
        length = bare + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Seconds with a fraction; before 1970 the fraction counts towards the past.
fn decimal(time: Time) -> String {
    let Time { seconds, nanos } = time;
    let text = if seconds < 0 && nanos > 0 {
        let whole = seconds + 1;
        let sign = if whole == 0 { "-" } else { "" };
        format!("{sign}{whole}.{:09}", 1_000_000_000 - nanos)
    } else {
        format!("{seconds}.{nanos:09}")
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn block(
    name: &[u8],
    link: &[u8],
    flag: u8,
    size: u64,
    device: (u32, u32),
    meta: &Meta,
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut text = |at: usize, bytes: &[u8], room: usize| {
        let n = bytes.len().min(room);
        block[at..at + n].copy_from_slice(&bytes[..n]);
    };
    let octal = |value: u64, digits: usize| format!("{value:0digits$o}");
    // What does not fit is in the pax header; here it is cut or 0.
    let fit = |value: u64, max: u64| if value > max { 0 } else { value };
    text(0, name, 100);
    text(100, octal(u64::from(meta.mode), 7).as_bytes(), 7);
    text(108, octal(fit(meta.uid.into(), OCTAL_7), 7).as_bytes(), 7);
    text(116, octal(fit(meta.gid.into(), OCTAL_7), 7).as_bytes(), 7);
    text(124, octal(fit(size, OCTAL_11), 11).as_bytes(), 11);
    let seconds = u64::try_from(meta.mtime.seconds).unwrap_or(0);
    text(136, octal(fit(seconds, OCTAL_11), 11).as_bytes(), 11);
    text(148, b"        ", 8);
    text(156, &[flag], 1);
    text(157, link, 100);
    text(257, b"ustar\x0000", 8);
    if matches!(flag, b'3' | b'4') {
        text(329, octal(device.0.into(), 7).as_bytes(), 7);
        text(337, octal(device.1.into(), 7).as_bytes(), 7);
    }
    let sum: u64 = block.iter().copied().map(u64::from).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::{Entries, EntryKind, Feed};
    use std::path::PathBuf;

    fn round_trip(path: &str, kind: Kind<'_>, meta: &Meta) -> crate::unpack::Entry {
        let mut bytes = Vec::new();
        header(&mut bytes, Path::new(path), kind, meta).unwrap();
        Entries::new(Feed::new(&bytes[..], None)).next().unwrap().unwrap()
    }

    #[test]
    fn what_is_written_reads_back() {
        let long = format!("{}/{}", "a".repeat(120), "b".repeat(120));
        for mtime in [(0, 0), (5, 7), (-1, 500_000_000), (-2, 250_000_000), (-3, 0), (1 << 40, 1)] {
            let mtime = Time { seconds: mtime.0, nanos: mtime.1 };
            let xattrs = vec![("user.k".into(), b"a\nb\0c".to_vec())];
            let meta = Meta { mode: 0o4755, uid: 3_000_000, gid: 7, mtime, xattrs };
            let entry = round_trip(&long, Kind::Symlink(Path::new(&long)), &meta);
            assert_eq!(entry.path, PathBuf::from(&long));
            assert_eq!(entry.kind, EntryKind::Symlink { target: long.clone().into() });
            assert_eq!((entry.mode, entry.uid, entry.gid), (0o4755, 3_000_000, 7));
            assert_eq!((entry.mtime, entry.xattrs), (mtime, meta.xattrs));
        }
        let big = round_trip("x", Kind::File(1 << 40), &Meta::default());
        assert_eq!(big.kind, EntryKind::File { size: 1 << 40 });
        let device = round_trip("x", Kind::BlockDevice(8, 300), &Meta::default());
        assert_eq!(device.kind, EntryKind::BlockDevice(8, 300));
    }

    #[test]
    fn record_lengths_count_themselves() {
        for n in 0..2000 {
            let mut out = Vec::new();
            record(&mut out, b"k", &vec![b'v'; n]);
            let text = String::from_utf8_lossy(&out);
            let length: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, out.len());
        }
    }
}
