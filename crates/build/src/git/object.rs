//! Git's objects as bytes: ids, commits, tags, trees, deltas (gitformat-pack(5)). No I/O.

use std::fmt;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::GitError;

/// Largest object that is read.
pub(super) const MAX_OBJECT: u64 = 1 << 30;

/// The hash that names the objects of a repository, and checks its files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Format {
    #[default]
    Sha1,
    Sha256,
}

/// An object's name: the hash of its kind, size and content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) format: Format,
    /// With zeros behind a short one.
    all: [u8; 32],
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Commit,
    Tree,
    Blob,
    Tag,
}

/// One name in a tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) mode: Mode,
    pub(super) name: &'a [u8],
    pub(super) id: Id,
}

/// What a name in a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Directory,
    File,
    Program,
    Link,
    /// A commit of another repository.
    Module,
}

impl Format {
    /// As git calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Format::Sha1 => "sha1",
            Format::Sha256 => "sha256",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Format> {
        [Format::Sha1, Format::Sha256].into_iter().find(|f| f.name() == name)
    }

    /// Bytes of a hash.
    pub(super) fn length(self) -> usize {
        match self {
            Format::Sha1 => 20,
            Format::Sha256 => 32,
        }
    }

    pub(super) fn context(self) -> Context {
        Context::new(match self {
            Format::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
            Format::Sha256 => &SHA256,
        })
    }

    /// The hash of some bytes.
    pub(super) fn sum(self, bytes: &[u8]) -> Vec<u8> {
        let mut context = self.context();
        context.update(bytes);
        context.finish().as_ref().to_vec()
    }
}

impl Id {
    /// Reads all digits of one, which say its format.
    pub(super) fn parse(text: &str) -> Option<Id> {
        if !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return None;
        }
        let format = match text.len() {
            40 => Format::Sha1,
            64 => Format::Sha256,
            _ => return None,
        };
        let mut all = [0; 32];
        for (n, byte) in all.iter_mut().take(format.length()).enumerate() {
            *byte = u8::from_str_radix(text.get(2 * n..2 * n + 2)?, 16).ok()?;
        }
        Some(Id { format, all })
    }

    pub(super) fn of(format: Format, kind: Kind, content: &[u8]) -> Id {
        let mut hash = format.context();
        hash.update(format!("{} {}\0", kind.name(), content.len()).as_bytes());
        hash.update(content);
        Id::from_slice(format, hash.finish().as_ref()).unwrap_or(Id { format, all: [0; 32] })
    }

    pub(super) fn from_slice(format: Format, bytes: &[u8]) -> Option<Id> {
        let mut all = [0; 32];
        if bytes.len() != format.length() {
            return None;
        }
        all.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Id { format, all })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.all[..self.format.length()]
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Commit => "commit",
            Kind::Tree => "tree",
            Kind::Blob => "blob",
            Kind::Tag => "tag",
        }
    }
}

/// The tree of a commit, and when it was committed (seconds since 1970).
pub(super) fn commit(content: &[u8]) -> Result<(Id, i64), GitError> {
    let wrong = || GitError::Protocol("a malformed commit".into());
    let tree = header(content, "tree").and_then(Id::parse).ok_or_else(wrong)?;
    let committer = header(content, "committer").ok_or_else(wrong)?;
    // Name <address> SECONDS ZONE
    let seconds = committer.rsplit(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(wrong)?;
    Ok((tree, seconds))
}

/// What a tag is of.
pub(super) fn tagged(content: &[u8]) -> Result<Id, GitError> {
    let found = header(content, "object").and_then(Id::parse);
    found.ok_or_else(|| GitError::Protocol("a malformed tag".into()))
}

fn header<'a>(content: &'a [u8], key: &str) -> Option<&'a str> {
    let end = content.windows(2).position(|w| w == b"\n\n").unwrap_or(content.len());
    let lines = content.get(..end)?.split(|b| *b == b'\n');
    let mut texts = lines.filter_map(|l| std::str::from_utf8(l).ok());
    texts.find_map(|l| l.strip_prefix(key)?.strip_prefix(' '))
}

/// The entries of a tree. Names that could lead anywhere else are refused, as git's fsck does.
pub(super) fn tree(format: Format, content: &[u8]) -> Result<Vec<Entry<'_>>, GitError> {
    let length = format.length();
    let mut out: Vec<Entry<'_>> = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let wrong = || GitError::Protocol("a malformed tree".into());
        let space = rest.iter().position(|b| *b == b' ').ok_or_else(wrong)?;
        let end = rest.iter().position(|b| *b == 0).filter(|e| *e > space).ok_or_else(wrong)?;
        let name = &rest[space + 1..end];
        let id = rest.get(end + 1..end + 1 + length);
        let id = id.and_then(|b| Id::from_slice(format, b)).ok_or_else(wrong)?;
        let mode = match &rest[..space] {
            b"40000" | b"040000" => Mode::Directory,
            b"100644" | b"100664" => Mode::File,
            b"100755" => Mode::Program,
            b"120000" => Mode::Link,
            b"160000" => Mode::Module,
            _ => return Err(wrong()),
        };
        if !is_name(name) {
            let shown = String::from_utf8_lossy(name);
            return Err(GitError::Protocol(format!("a tree with the forbidden name {shown:?}")));
        }
        out.push(Entry { mode, name, id });
        rest = &rest[end + 1 + length..];
    }
    Ok(out)
}

/// `.git` in any spelling would be a repository of its own (CVE-2014-9390).
fn is_name(name: &[u8]) -> bool {
    !(name.is_empty()
        || name == b"."
        || name == b".."
        || name.eq_ignore_ascii_case(b".git")
        || name.contains(&b'/')
        || name.len() > 255)
}

/// What `delta` makes of `base`.
pub(super) fn apply(base: &[u8], delta: &[u8]) -> Result<Vec<u8>, GitError> {
    let wrong = || GitError::Protocol("a malformed delta".into());
    let mut at = 0;
    let from = size(delta, &mut at).ok_or_else(wrong)?;
    let to = size(delta, &mut at).ok_or_else(wrong)?;
    if from != base.len() as u64 || to > MAX_OBJECT {
        return Err(wrong());
    }
    let expected = usize::try_from(to).map_err(|_| wrong())?;
    // What it claims is believed as far as it delivers.
    let mut out = Vec::with_capacity(expected.min(1 << 20));
    while let Some(&op) = delta.get(at) {
        at += 1;
        let part = if op & 0x80 != 0 {
            let mut number = |bits: std::ops::Range<u8>| {
                let mut value = 0usize;
                for bit in bits.clone() {
                    if op & (1 << bit) != 0 {
                        value |= usize::from(*delta.get(at)?) << (8 * (bit - bits.start));
                        at += 1;
                    }
                }
                Some(value)
            };
            let offset = number(0..4).ok_or_else(wrong)?;
            let length =
                number(4..7).map(|n| if n == 0 { 0x10000 } else { n }).ok_or_else(wrong)?;
            base.get(offset..).and_then(|b| b.get(..length)).ok_or_else(wrong)?
        } else {
            let length = usize::from(op);
            let part = delta.get(at..at + length).filter(|_| length > 0).ok_or_else(wrong)?;
            at += length;
            part
        };
        if out.len() + part.len() > expected {
            return Err(wrong());
        }
        out.extend_from_slice(part);
    }
    if out.len() == expected { Ok(out) } else { Err(wrong()) }
}

fn size(delta: &[u8], at: &mut usize) -> Option<u64> {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let byte = *delta.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
        shift += 7;
        if shift > 56 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_gits() {
        // `git hash-object -t blob /dev/null`
        let of = |format| Id::of(format, Kind::Blob, b"").to_string();
        assert_eq!(of(Format::Sha1), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        let long = "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813";
        assert_eq!(of(Format::Sha256), long);
        assert_eq!(Id::parse(long).unwrap().to_string(), long);
        assert_eq!(Format::parse("sha256"), Some(Format::Sha256));
        assert!(Id::parse("E69de29bb2d1d6434b8b29ae775ad8c2e48c5391").is_none());
        assert!(Id::parse("e69de29b").is_none());
    }

    #[test]
    fn commits_have_a_tree_and_a_time() {
        let id = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";
        let text = format!(
            "tree {id}\nauthor A <a> 1 +0000\ncommitter B C <b> 1700000000 +0100\n\ntree x\n"
        );
        assert_eq!(commit(text.as_bytes()).unwrap(), (Id::parse(id).unwrap(), 1_700_000_000));
        assert!(commit(b"author x\n\ntree e69de29bb2d1d6434b8b29ae775ad8c2e48c5391").is_err());
    }

    #[test]
    fn trees_have_names_that_stay() {
        let entry = |mode: &str, name: &str| {
            let mut out = format!("{mode} {name}\0").into_bytes();
            out.extend_from_slice(&[7; 20]);
            out
        };
        let good = [entry("100755", "run"), entry("40000", "d"), entry("120000", "l")].concat();
        fn tree(content: &[u8]) -> Result<Vec<Entry<'_>>, GitError> {
            super::tree(Format::Sha1, content)
        }
        let found = tree(&good).unwrap();
        assert_eq!(
            (found[0].mode, found[1].mode, found[2].name),
            (Mode::Program, Mode::Directory, &b"l"[..])
        );
        for bad in ["..", ".", ".GIT", "a/b", ""] {
            let bad = entry("100644", bad);
            assert!(tree(&bad).is_err(), "{bad:?}");
        }
        let odd = entry("777", "x");
        assert!(tree(&odd).is_err() && tree(&good[..good.len() - 1]).is_err());
        let long = [b"100644 x\0".as_slice(), &[7; 32]].concat();
        assert_eq!(super::tree(Format::Sha256, &long).unwrap()[0].id.bytes(), [7; 32]);
    }

    #[test]
    fn deltas_copy_and_insert_within_bounds() {
        let base = b"hello world";
        // 11 to 9 bytes: copy 5 from 0, insert " you".
        assert_eq!(apply(base, b"\x0b\x09\x90\x05\x04 you").unwrap(), b"hello you");
        for bad in [
            &b"\x0a\x09\x90\x05\x04 you"[..],
            b"\x0b\x0a\x90\x05\x04 you",
            b"\x0b\x05\x91\x0a\x05",
            b"\x0b\x01\x00",
            b"\x0b\x05\x05abc",
            b"\x0b\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"",
        ] {
            assert!(apply(base, bad).is_err(), "{bad:?}");
        }
    }
}
