//! An untrusted tar unpacked into a confined tree.
//!
//! Every name is looked up by the kernel below the container's root, so `..`, absolute links and links that
//! are exchanged meanwhile lead nowhere else. Existing files are replaced, never written to.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Entry, EntryType};
use wharf_sys::root::{self, Dir, Kind, Root, Time};

use crate::error::{EngineError, Result};

/// Entries that one archive may have.
const MAX_ENTRIES: usize = 4_000_000;

/// Unpacks an archive, plain or compressed, into the directory `target` of `root`; all of `owner` if that is given.
/// Blocks.
pub fn unpack(
    root: &Root,
    target: &Path,
    owner: Option<(u32, u32)>,
    source: impl Read + Send,
) -> Result<()> {
    let owner = owner.map_or(Owner::AsArchived, |(uid, gid)| Owner::Fixed { uid, gid });
    Unpack { root, target: target.to_owned(), owner, strict: false }.run(source)
}

/// Whose the unpacked files are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner {
    /// As the archive says.
    AsArchived,
    /// All of one user.
    Fixed { uid: u32, gid: u32 },
}

/// One unpacking.
pub(crate) struct Unpack<'a> {
    pub(crate) root: &'a Root,
    /// Absolute, in the container.
    pub(crate) target: PathBuf,
    pub(crate) owner: Owner,
    /// Refuse to replace a directory by something else and the reverse.
    pub(crate) strict: bool,
}

impl Unpack<'_> {
    /// Reads the archive to its end, so that a client that still sends does not see a broken connection.
    pub(crate) fn run(&self, source: impl Read + Send) -> Result<()> {
        let mut source = wharf_image::decompress(source)
            .map_err(|e| EngineError::invalid("the archive cannot be read").because(e))?;
        let mut archive = Archive::new(&mut source);
        let broken = |e| EngineError::invalid("the archive cannot be read").because(e);
        let mut times = Vec::new();
        for (n, entry) in archive.entries().map_err(broken)?.enumerate() {
            if n >= MAX_ENTRIES {
                return Err(EngineError::invalid(format!(
                    "the archive has more than {MAX_ENTRIES} entries"
                )));
            }
            self.entry(&mut entry.map_err(broken)?, &mut times)?;
        }
        // A directory's time last: what is unpacked into it changes it.
        for (path, time) in times.into_iter().rev() {
            if let Ok(Some((dir, name))) = self.root.parent(&path) {
                drop(dir.set_times(name, time));
            }
        }
        io::copy(&mut source, &mut io::sink()).map_err(broken)?;
        Ok(())
    }

    fn entry<R: Read>(
        &self,
        entry: &mut Entry<'_, R>,
        times: &mut Vec<(PathBuf, Time)>,
    ) -> Result<()> {
        let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        let at = self.place(&name)?;
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::ReadOnlyFilesystem => {
                EngineError::forbidden("container rootfs is marked read-only, or the volume is")
            }
            _ => EngineError::system(format!("unpack {} into the container", name.display()), e),
        };
        let Some((dir, last)) = self.parent(&at).map_err(failed)? else {
            // The target itself: it is there already.
            return Ok(());
        };
        let kind = entry.header().entry_type();
        self.make_room(&dir, last, kind, &name, failed)?;
        let meta = Meta::of(entry, self.owner);
        match kind {
            EntryType::Directory => times.push((at.clone(), meta.time)),
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = self.place(Path::new(OsStr::from_bytes(&target)))?;
                return self.hard_link(&dir, last, &target).map_err(failed);
            }
            _ => (),
        }
        create(entry, &dir, last, kind, &meta).map_err(failed)
    }

    /// Absolute place of an archive's name; a name that climbs is refused rather than bent.
    fn place(&self, name: &Path) -> Result<PathBuf> {
        let mut at = self.target.clone();
        for part in name.components() {
            match part {
                Component::Normal(part) => at.push(part),
                Component::CurDir | Component::RootDir => (),
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(EngineError::invalid(format!(
                        "archive entry {:?} points outside of {}",
                        name.display().to_string(),
                        self.target.display()
                    )));
                }
            }
        }
        Ok(at)
    }

    fn parent<'p>(&self, at: &'p Path) -> io::Result<Option<(Dir, &'p OsStr)>> {
        if at == self.target {
            return Ok(None);
        }
        match self.root.parent(at) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.root.make_dirs(at.parent().unwrap_or(Path::new("/")), 0o755)?;
                self.root.parent(at)
            }
            other => other,
        }
    }

    fn make_room(
        &self,
        dir: &Dir,
        name: &OsStr,
        kind: EntryType,
        shown: &Path,
        failed: impl Fn(io::Error) -> EngineError,
    ) -> Result<()> {
        let Ok(old) = dir.lstat(name) else { return Ok(()) };
        let (was, will) = (old.kind == Kind::Dir, kind == EntryType::Directory);
        if self.strict && was != will {
            let what =
                if was { ("directory", "non-directory") } else { ("non-directory", "directory") };
            return Err(EngineError::invalid(format!(
                "cannot overwrite {} {:?} with {} {:?}",
                what.0,
                shown.display().to_string(),
                what.1,
                self.target.display().to_string()
            )));
        }
        if was && will {
            return Ok(());
        }
        dir.remove_all(name).map_err(failed)
    }

    fn hard_link(&self, dir: &Dir, name: &OsStr, target: &Path) -> io::Result<()> {
        match self.root.parent(target)? {
            Some((from, old)) => dir.hard_link(name, &from, old),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

struct Meta {
    uid: u32,
    gid: u32,
    mode: u32,
    time: Time,
}

impl Meta {
    fn of<R: Read>(entry: &Entry<'_, R>, owner: Owner) -> Meta {
        let h = entry.header();
        let id = |n: io::Result<u64>| n.ok().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let (uid, gid) = match owner {
            Owner::AsArchived => (id(h.uid()), id(h.gid())),
            Owner::Fixed { uid, gid } => (uid, gid),
        };
        let seconds = i64::try_from(h.mtime().unwrap_or(0)).unwrap_or(0);
        Meta {
            uid,
            gid,
            mode: h.mode().unwrap_or(0o644) & 0o7777,
            time: Time { seconds, nanos: 0 },
        }
    }
}

fn create<R: Read>(
    entry: &mut Entry<'_, R>,
    dir: &Dir,
    name: &OsStr,
    kind: EntryType,
    meta: &Meta,
) -> io::Result<()> {
    let device = || -> io::Result<(u32, u32)> {
        let h = entry.header();
        Ok((h.device_major()?.unwrap_or(0), h.device_minor()?.unwrap_or(0)))
    };
    match kind {
        EntryType::Directory => match dir.make_dir(name, 0o700) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => (),
        },
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            return file(entry, dir, name, meta);
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().unwrap_or_default();
            dir.symlink(name, OsStr::from_bytes(&target))?;
        }
        EntryType::Char => dir.make_node(name, Kind::CharDevice, meta.mode, device()?)?,
        EntryType::Block => dir.make_node(name, Kind::BlockDevice, meta.mode, device()?)?,
        EntryType::Fifo => dir.make_node(name, Kind::Fifo, meta.mode, (0, 0))?,
        // Global headers and the like describe, they are no files.
        _ => return Ok(()),
    }
    dir.set_owner(name, meta.uid, meta.gid)?;
    if kind == EntryType::Symlink {
        return Ok(());
    }
    // After the owner, whose change takes set-id bits away.
    dir.set_mode(name, meta.mode)?;
    attributes(entry, dir, name)?;
    dir.set_times(name, meta.time)
}

/// Through its descriptor, which takes half the calls that its name would.
fn file<R: Read>(entry: &mut Entry<'_, R>, dir: &Dir, name: &OsStr, meta: &Meta) -> io::Result<()> {
    let mut file = dir.create(name, 0o600)?;
    io::copy(entry, &mut file)?;
    root::set_file_owner(&file, meta.uid, meta.gid)?;
    root::set_file_mode(&file, meta.mode)?;
    attributes(entry, dir, name)?;
    root::set_file_times(&file, meta.time)
}

fn attributes<R: Read>(entry: &mut Entry<'_, R>, dir: &Dir, name: &OsStr) -> io::Result<()> {
    let Ok(Some(records)) = entry.pax_extensions() else { return Ok(()) };
    for record in records.flatten() {
        let key = record.key_bytes();
        if let Some(xattr) = key.strip_prefix(b"SCHILY.xattr.")
            // trusted.* is what overlayfs keeps its own marks in.
            && !xattr.starts_with(b"trusted.")
        {
            dir.set_xattr(name, OsStr::from_bytes(xattr), record.value_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        build(&mut tar);
        tar.into_inner().unwrap()
    }

    fn file(tar: &mut tar::Builder<Vec<u8>>, name: &str, data: &[u8]) {
        let mut h = tar::Header::new_gnu();
        // Past the checks of the builder, as an attacker would.
        h.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        h.set_mode(0o644);
        h.set_size(data.len() as u64);
        h.set_uid(0);
        h.set_gid(0);
        h.set_cksum();
        tar.append(&h, data).unwrap();
    }

    fn link(tar: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str, target: &str) {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(kind);
        h.set_mode(0o777);
        h.set_size(0);
        h.set_uid(0);
        h.set_gid(0);
        h.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        h.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
        h.set_cksum();
        tar.append(&h, io::empty()).unwrap();
    }

    /// Unpacks into `root/in` of a directory next to which `secret` must stay as it is.
    fn unpack(bytes: &[u8], strict: bool) -> (tempfile::TempDir, Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/in/there")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        let root = Root::open(&dir.path().join("root")).unwrap();
        let unpack = Unpack { root: &root, target: "/in".into(), owner: Owner::AsArchived, strict };
        let result = unpack.run(bytes);
        assert_eq!(std::fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
        (dir, result)
    }

    #[test]
    fn names_that_climb_are_refused() {
        let (_, result) = unpack(&archive(|t| file(t, "../../outside/x", b"x")), false);
        assert!(result.unwrap_err().message().contains("points outside"));
    }

    #[test]
    fn links_lead_nowhere_else() {
        let (dir, result) = unpack(
            &archive(|t| {
                link(t, EntryType::Symlink, "up", "../../../outside");
                file(t, "up/x", b"x");
                link(t, EntryType::Symlink, "abs", "/in/there");
                file(t, "abs/y", b"y");
            }),
            false,
        );
        // `up` ends at the container's root, where there is no `outside`, so it is made there or refused.
        drop(result);
        assert!(!dir.path().join("outside/x").exists());
        let (dir, result) = unpack(
            &archive(|t| {
                link(t, EntryType::Symlink, "abs", "/in/there");
                file(t, "abs/y", b"y");
            }),
            false,
        );
        result.unwrap();
        assert_eq!(std::fs::read(dir.path().join("root/in/there/y")).unwrap(), b"y");
    }

    #[test]
    fn files_replace_links_and_never_write_through_them() {
        let (dir, result) = unpack(
            &archive(|t| {
                file(t, "a", b"one");
                link(t, EntryType::Link, "b", "a");
                file(t, "a", b"two");
            }),
            false,
        );
        result.unwrap();
        assert_eq!(std::fs::read(dir.path().join("root/in/a")).unwrap(), b"two");
        assert_eq!(std::fs::read(dir.path().join("root/in/b")).unwrap(), b"one");
    }

    #[test]
    fn kinds_are_kept_when_asked() {
        let (_, result) = unpack(&archive(|t| file(t, "there", b"x")), true);
        assert!(result.unwrap_err().message().contains("cannot overwrite directory"));
        let (_, result) = unpack(&archive(|t| file(t, "there", b"x")), false);
        result.unwrap();
    }

    #[test]
    fn compressed_and_broken_archives() {
        use io::Write as _;
        let plain = archive(|t| file(t, "z", b"z"));
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&plain).unwrap();
        unpack(&gz.finish().unwrap(), false).1.unwrap();
        unpack(&zstd::encode_all(&plain[..], 1).unwrap(), false).1.unwrap();
        assert!(unpack(b"BZh9xxxxxxxx", false).1.is_err());
        assert!(unpack(&[7; 2000], false).1.is_err());
        unpack(b"", false).1.unwrap();
    }
}
