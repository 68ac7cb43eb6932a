//! Unpacks the tar of `cp` below one directory, which no entry leaves.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use wharf_sys::root::{Dir, Kind, Root, Time, set_file_mode, set_file_owner, set_file_times};

use crate::app::warn;
use crate::failure::{Failure, os_text};

/// What the kernel answers when a path that may hold no symbolic link has one.
const ELOOP: i32 = 40;

/// Where a copy out of a container ends up, and how.
pub(super) struct Place {
    /// The directory that the user named.
    pub(super) directory: PathBuf,
    /// The name that the first part of every entry becomes; empty to leave it out.
    pub(super) rename: Option<String>,
    /// Whether owners and set-id bits are kept; else whoever copies owns the files.
    pub(super) keep_owner: bool,
}

impl Place {
    /// An entry's path inside the directory; `None` when it would leave it.
    fn inside(&self, entry: &Path) -> Option<PathBuf> {
        let mut parts = Vec::new();
        let mut components = entry.components().peekable();
        // The root, and what is in a directory, come without a name of their own.
        let nameless =
            components.next_if(|c| matches!(c, Component::RootDir | Component::CurDir)).is_some();
        for part in components {
            match part {
                Component::Normal(name) => parts.push(name),
                Component::CurDir => (),
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
            }
        }
        let mut parts = parts.into_iter();
        let first = if nameless { None } else { parts.next() };
        let first = self.rename.as_deref().map(OsStr::new).or(first);
        Some(first.into_iter().filter(|f| !f.is_empty()).chain(parts).collect())
    }
}

/// Writes a tar stream below the place's directory; gives the bytes of its files. Every lookup is the
/// kernel's, confined to the directory and through no symbolic link: neither one that an entry made
/// nor one that somebody else puts there meanwhile.
pub(super) fn unpack(reader: impl Read, place: &Place) -> Result<u64, Failure> {
    let failed = |e: io::Error| Failure::new(format!("cannot unpack: {}", os_text(&e)));
    let root = Root::open(&place.directory).map_err(|e| {
        Failure::new(format!("cannot open {}: {}", place.directory.display(), os_text(&e)))
    })?;
    let mut unpacker = Unpacker { root, place, directories: Vec::new(), bytes: 0 };
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(failed)? {
        unpacker.entry(entry.map_err(failed)?)?;
    }
    unpacker.finish()?;
    Ok(unpacker.bytes)
}

/// What an entry's header says about its file.
#[derive(Clone, Copy)]
struct Attributes {
    owner: Option<(u32, u32)>,
    mode: u32,
    time: Time,
}

struct Unpacker<'a> {
    root: Root,
    place: &'a Place,
    /// Their modes and times are set last: what is written into them would change these again.
    directories: Vec<(PathBuf, Attributes)>,
    bytes: u64,
}

impl Unpacker<'_> {
    fn entry(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<(), Failure> {
        let broken = |e: io::Error| Failure::new(format!("cannot unpack: {}", os_text(&e)));
        let name = entry.path().map_err(broken)?.into_owned();
        let refused =
            |why: &str| Failure::new(format!("refusing to unpack {}: {why}", name.display()));
        let inside =
            self.place.inside(&name).ok_or_else(|| refused("it leads out of the directory"))?;
        let kind = entry.header().entry_type();
        let attributes = self.attributes(entry.header());
        let shown = self.place.directory.join(&inside);
        let failed = |e: io::Error| match e.raw_os_error() {
            Some(ELOOP) => refused("its directory is a symbolic link"),
            _ => Failure::new(format!("cannot write {}: {}", shown.display(), os_text(&e))),
        };
        let Some(file) = inside.file_name() else { return Ok(()) };
        let parent = self.parent(&inside).map_err(failed)?;
        if kind.is_dir() {
            make_dir(&parent, file).map_err(failed)?;
            self.directories.push((inside, attributes));
            return Ok(());
        }
        clear(&parent, file).map_err(failed)?;
        let link = entry.link_name().map_err(broken)?.map(|l| l.into_owned());
        match (kind, link) {
            (tar::EntryType::Symlink, Some(link)) => {
                symlink(&parent, file, &link, attributes).map_err(failed)
            }
            (tar::EntryType::Link, Some(link)) => {
                let old = self.place.inside(&link);
                let old = old.ok_or_else(|| refused("its link leads out of the directory"))?;
                self.hard_link(&parent, file, &old).map_err(failed)
            }
            (tar::EntryType::Fifo, _) => {
                parent.make_node(file, Kind::Fifo, attributes.mode & 0o777, (0, 0)).map_err(failed)
            }
            (kind, _) if kind.is_file() || kind == tar::EntryType::Continuous => {
                let size = regular(&mut entry, &parent, file, attributes).map_err(failed)?;
                self.bytes += size;
                Ok(())
            }
            // Devices mean nothing outside of their container.
            _ => {
                warn(format!("WARNING: skipping the special file {}", shown.display()));
                Ok(())
            }
        }
    }

    fn attributes(&self, header: &tar::Header) -> Attributes {
        let id = |id: io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok());
        let owner = id(header.uid()).zip(id(header.gid())).filter(|_| self.place.keep_owner);
        // Set-id bits that belonged to another owner would be rights of this one.
        let bits = if self.place.keep_owner { 0o7777 } else { 0o1777 };
        let seconds = header.mtime().ok().and_then(|s| i64::try_from(s).ok()).unwrap_or(0);
        Attributes {
            owner,
            mode: header.mode().unwrap_or(0o644) & bits,
            time: Time { seconds, nanos: 0 },
        }
    }

    /// The directory of an entry, made if no entry has made it.
    fn parent(&self, inside: &Path) -> io::Result<Dir> {
        let parent = inside.parent().unwrap_or(Path::new(""));
        match self.root.dir_without_symlinks(parent) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut dir = self.root.top()?;
                for name in parent.iter() {
                    make_dir(&dir, name)?;
                    dir = dir.dir(name)?;
                }
                Ok(dir)
            }
            found => found,
        }
    }

    fn hard_link(&self, parent: &Dir, name: &OsStr, old: &Path) -> io::Result<()> {
        let from = self.root.dir_without_symlinks(old.parent().unwrap_or(Path::new("")))?;
        let old = old.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        parent.hard_link(name, &from, old)
    }

    fn finish(&mut self) -> Result<(), Failure> {
        for (path, attributes) in self.directories.drain(..).rev() {
            let set = || {
                let dir = self.root.dir_without_symlinks(&path)?;
                let own = dir.metadata()?;
                let (uid, gid) = attributes.owner.unwrap_or((own.uid, own.gid));
                dir.set_own_attributes(uid, gid, attributes.mode, attributes.time)
            };
            set().map_err(|e| {
                let shown = self.place.directory.join(&path);
                Failure::new(format!("cannot change {}: {}", shown.display(), os_text(&e)))
            })?;
        }
        Ok(())
    }
}

/// Makes a directory that others may not enter before its mode is set; an existing one will do.
fn make_dir(parent: &Dir, name: &OsStr) -> io::Result<()> {
    match parent.make_dir(name, 0o755) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            // A symbolic link or a file is in the way, and stays.
            parent.dir(name).map(drop)
        }
        made => made,
    }
}

/// Makes room for a file: a directory stays and is an error.
fn clear(parent: &Dir, name: &OsStr) -> io::Result<()> {
    match parent.unlink(name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn symlink(parent: &Dir, name: &OsStr, link: &Path, attributes: Attributes) -> io::Result<()> {
    parent.symlink(name, link.as_os_str())?;
    if let Some((uid, gid)) = attributes.owner {
        parent.set_owner(name, uid, gid)?;
    }
    parent.set_times(name, attributes.time)
}

fn regular(
    content: &mut impl Read,
    parent: &Dir,
    name: &OsStr,
    attributes: Attributes,
) -> io::Result<u64> {
    // Nobody else opens it before it has its owner and mode.
    let mut file = parent.create(name, 0o600)?;
    let size = io::copy(content, &mut file)?;
    if let Some((uid, gid)) = attributes.owner {
        set_file_owner(&file, uid, gid)?;
    }
    set_file_mode(&file, attributes.mode)?;
    set_file_times(&file, attributes.time)?;
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn place(directory: &Path, rename: Option<&str>) -> Place {
        let rename = rename.map(str::to_owned);
        Place { directory: directory.to_owned(), rename, keep_owner: false }
    }

    fn add(tar: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, link: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4751);
        header.set_mtime(1_600_000_000);
        let content: &[u8] = if kind.is_file() { b"content" } else { b"" };
        header.set_size(content.len() as u64);
        match link {
            "" => tar.append_data(&mut header, name, content).unwrap(),
            link => tar.append_link(&mut header, name, link).unwrap(),
        }
    }

    use tar::EntryType::{Directory, Link, Regular, Symlink};

    fn run(entries: &[(&str, tar::EntryType, &str)], place: &Place) -> Result<u64, Failure> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, kind, link) in entries {
            add(&mut tar, name, *kind, link);
        }
        unpack(tar.into_inner().unwrap().as_slice(), place)
    }

    #[test]
    fn entries_are_renamed_and_stay_inside() {
        let place = place(Path::new("/x"), Some("new"));
        assert_eq!(place.inside(Path::new("old/a")), Some("new/a".into()));
        assert_eq!(place.inside(Path::new("old/../../a")), None);
        assert_eq!(place.inside(Path::new("/etc/passwd")), Some("new/etc/passwd".into()));
        assert_eq!(place.inside(Path::new("/../etc/passwd")), None);
        assert_eq!(place.inside(Path::new("./a")), Some("new/a".into()));
        assert_eq!(place.inside(Path::new("./")), Some("new".into()));
        let place = Place { rename: Some(String::new()), ..place };
        assert_eq!(place.inside(Path::new("./a/b")), Some("a/b".into()));
    }

    #[test]
    fn a_tree_arrives_with_its_modes_and_times() {
        let dir = tempfile::tempdir().unwrap();
        let entries = [("d", Directory, ""), ("d/f", Regular, ""), ("d/h", Link, "d/f")];
        assert_eq!(run(&entries, &place(dir.path(), Some("e"))).unwrap(), 7);
        let file = dir.path().join("e/f").metadata().unwrap();
        assert_eq!(file.permissions().mode() & 0o7777, 0o751, "no set-id bit for another owner");
        assert_eq!((file.mtime(), file.nlink()), (1_600_000_000, 2));
        assert_eq!(dir.path().join("e").metadata().unwrap().mtime(), 1_600_000_000);
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = outside.path().to_str().unwrap();
        let entries = [("l", Symlink, target), ("l/f", Regular, "")];
        let failure = run(&entries, &place(dir.path(), None)).unwrap_err();
        assert!(failure.text.contains("symbolic link"), "{failure}");
        let entries = [("l", Symlink, target), ("l", Directory, "")];
        assert!(run(&entries, &place(dir.path(), None)).is_err());
        assert_eq!(outside.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_file_does_not_replace_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let entries = [("d", Directory, ""), ("d", Regular, "")];
        assert!(run(&entries, &place(dir.path(), None)).is_err());
        assert!(dir.path().join("d").is_dir());
    }
}
