//! One entry of a tree, checked: what a STAT says in the types of this host.

use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use wharf_sys::root::{Kind, Metadata, Time};

use super::TransferError;
use crate::proto::fsutil::types::Stat;

/// Go's `os.FileMode` has the permissions where unix has them and everything else elsewhere.
mod go {
    pub(super) const DIR: u32 = 1 << 31;
    pub(super) const SYMLINK: u32 = 1 << 27;
    pub(super) const DEVICE: u32 = 1 << 26;
    pub(super) const FIFO: u32 = 1 << 25;
    pub(super) const SOCKET: u32 = 1 << 24;
    pub(super) const SETUID: u32 = 1 << 23;
    pub(super) const SETGID: u32 = 1 << 22;
    pub(super) const CHAR: u32 = 1 << 21;
    pub(super) const STICKY: u32 = 1 << 20;
    pub(super) const IRREGULAR: u32 = 1 << 19;
    /// The bits that tell what an entry is. `CHAR` only refines `DEVICE`.
    pub(super) const TYPE: u32 = DIR | SYMLINK | DEVICE | FIFO | SOCKET | IRREGULAR;
}

/// An entry that may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Relative, of plain names only.
    pub path: PathBuf,
    /// `0o7777`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub node: Node,
    /// Attributes that belong to a file's content.
    pub xattrs: Vec<(String, Bytes)>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File {
        size: u64,
    },
    Dir,
    Symlink(String),
    /// Another name of a file that came before.
    HardLink(PathBuf),
    Special(Kind, (u32, u32)),
}

impl Entry {
    pub(super) fn read(stat: Stat) -> Result<Entry, TransferError> {
        let path = plain(&stat.path)?;
        let wrong = |what: &str| TransferError::Protocol(format!("{}: {what}", stat.path));
        let device = || match (u32::try_from(stat.devmajor), u32::try_from(stat.devminor)) {
            (Ok(major), Ok(minor)) => Ok((major, minor)),
            _ => Err(wrong("impossible device number")),
        };
        let node = match stat.mode & go::TYPE {
            0 if !stat.linkname.is_empty() => Node::HardLink(plain(&stat.linkname)?),
            0 => Node::File { size: u64::try_from(stat.size).map_err(|_| wrong("negative size"))? },
            go::DIR => Node::Dir,
            go::SYMLINK => Node::Symlink(stat.linkname.clone()),
            go::DEVICE if stat.mode & go::CHAR != 0 => Node::Special(Kind::CharDevice, device()?),
            go::DEVICE => Node::Special(Kind::BlockDevice, device()?),
            go::FIFO => Node::Special(Kind::Fifo, (0, 0)),
            go::SOCKET => Node::Special(Kind::Socket, (0, 0)),
            _ => return Err(wrong("unknown kind of file")),
        };
        // The others say something about the host that the file comes from.
        let own = |key: &str| key == "security.capability" || key.starts_with("user.");
        let xattrs = stat.xattrs.iter().filter(|(key, _)| own(key));
        Ok(Entry {
            path,
            mode: unix_mode(stat.mode),
            uid: stat.uid,
            gid: stat.gid,
            mtime: time(stat.mod_time),
            node,
            xattrs: xattrs.map(|(key, value)| (key.clone(), value.clone())).collect(),
        })
    }

    /// Whether a file on disk is this entry as far as one can tell without reading it.
    pub(super) fn is_like(&self, found: &Metadata) -> bool {
        let Node::File { size } = self.node else { return false };
        found.kind == Kind::File
            && found.size == size
            && found.mtime == self.mtime
            && found.mode == self.mode
            && (found.uid, found.gid) == (self.uid, self.gid)
            && self.xattrs.is_empty()
    }
}

/// What a file of this host is to the other side.
pub(crate) fn stat(path: &Path, found: &Metadata, link: Option<String>) -> Stat {
    let (major, minor) = match found.kind {
        Kind::CharDevice | Kind::BlockDevice => found.device(),
        _ => (0, 0),
    };
    Stat {
        path: path.to_string_lossy().into_owned(),
        mode: go_mode(found.kind, found.mode),
        uid: found.uid,
        gid: found.gid,
        size: if found.kind == Kind::File { found.size.try_into().unwrap_or(i64::MAX) } else { 0 },
        mod_time: found.mtime.seconds.saturating_mul(NANOS) + i64::from(found.mtime.nanos),
        linkname: link.unwrap_or_default(),
        devmajor: major.into(),
        devminor: minor.into(),
        ..Stat::default()
    }
}

const NANOS: i64 = 1_000_000_000;

fn time(nanos: i64) -> Time {
    let rest = nanos.rem_euclid(NANOS);
    Time { seconds: nanos.div_euclid(NANOS), nanos: u32::try_from(rest).unwrap_or_default() }
}

/// A path of plain names: nothing absolute, no `.` or `..`, and written as it would be printed.
fn plain(text: &str) -> Result<PathBuf, TransferError> {
    let path = PathBuf::from(text);
    let names = path.components().all(|c| matches!(c, Component::Normal(_)));
    let canonical = path.components().collect::<PathBuf>().as_os_str() == path.as_os_str();
    if text.is_empty() || text.contains('\0') || !names || !canonical {
        return Err(TransferError::Protocol(format!("path {text:?} is not plain and relative")));
    }
    Ok(path)
}

fn unix_mode(mode: u32) -> u32 {
    let bit = |go: u32, unix: u32| if mode & go == 0 { 0 } else { unix };
    (mode & 0o777) | bit(go::SETUID, 0o4000) | bit(go::SETGID, 0o2000) | bit(go::STICKY, 0o1000)
}

fn go_mode(kind: Kind, mode: u32) -> u32 {
    let bit = |unix: u32, go: u32| if mode & unix == 0 { 0 } else { go };
    let kind = match kind {
        Kind::File => 0,
        Kind::Dir => go::DIR,
        Kind::Symlink => go::SYMLINK,
        Kind::CharDevice => go::DEVICE | go::CHAR,
        Kind::BlockDevice => go::DEVICE,
        Kind::Fifo => go::FIFO,
        Kind::Socket => go::SOCKET,
    };
    let special = bit(0o4000, go::SETUID) | bit(0o2000, go::SETGID) | bit(0o1000, go::STICKY);
    kind | (mode & 0o777) | special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str, mode: u32, link: &str) -> Result<Entry, TransferError> {
        let (path, linkname) = (path.to_owned(), link.to_owned());
        Entry::read(Stat { path, mode, linkname, size: 3, mod_time: -1, ..Stat::default() })
    }

    #[test]
    fn modes_are_translated_both_ways() {
        for (kind, mode) in [
            (Kind::File, 0o644),
            (Kind::File, 0o4755),
            (Kind::Dir, 0o1777),
            (Kind::Dir, 0o2750),
            (Kind::Symlink, 0o777),
            (Kind::Fifo, 0o600),
        ] {
            assert_eq!(unix_mode(go_mode(kind, mode)), mode, "{kind:?} {mode:o}");
        }
        // As Go prints them: d, L, p.
        assert_eq!(go_mode(Kind::Dir, 0o755), 0x8000_01ed);
        assert_eq!(go_mode(Kind::Symlink, 0o777), 0x0800_01ff);
        assert_eq!(go_mode(Kind::Fifo, 0o644), 0x0200_01a4);
    }

    #[test]
    fn kinds_are_told_apart() {
        let node = |mode, link: &str| read("a/b", mode, link).unwrap().node;
        assert_eq!(node(0o644, ""), Node::File { size: 3 });
        assert_eq!(node(0o644, "a/a"), Node::HardLink("a/a".into()));
        assert_eq!(node(go::DIR | 0o755, ""), Node::Dir);
        assert_eq!(node(go::SYMLINK | 0o777, "/etc/x"), Node::Symlink("/etc/x".into()));
        let device = Node::Special(Kind::CharDevice, (0, 0));
        assert_eq!(node(go::DEVICE | go::CHAR, ""), device);
        assert!(read("a", go::IRREGULAR, "").is_err());
        assert!(read("a", go::DIR | go::SYMLINK, "").is_err());
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds_positive() {
        let mtime = read("a", 0o644, "").unwrap().mtime;
        assert_eq!(mtime, Time { seconds: -1, nanos: 999_999_999 });
    }

    #[test]
    fn only_plain_paths_pass() {
        for path in ["a", "a/b", "..a/b..", "a b", "ä"] {
            assert!(read(path, 0o644, "").is_ok(), "{path}");
        }
        for path in ["", "/", "/a", "..", "../a", "a/../b", "./a", "a/./b", "a//b", "a/", "a\0b"] {
            assert!(read(path, 0o644, "").is_err(), "{path:?}");
            if !path.is_empty() {
                assert!(read("a", 0o644, path).is_err(), "link to {path:?}");
            }
        }
    }
}
